//! The smoke run, and the proof that it would report something.

use super::*;

/// Enough to meet every branch near the door, however busy the machine; long runs are for `fuzz`.
const SMOKE: (Duration, u64) = (Duration::from_millis(1500), 101);

fn smoke(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    if let Err(Find { seed, input }) = run(target, 1, SMOKE.0, SMOKE.1) {
        panic!("{name}: seed {seed}, input {}", input.escape_ascii());
    }
}

macro_rules! smoke_runs {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { smoke($name); })*
        #[test]
        fn every_target_has_a_smoke_run() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

smoke_runs! {
    an_initiator_cannot_break_the_iscsi_engine: "iscsi",
    no_text_breaks_the_text_parser: "iscsi-text",
    no_command_breaks_the_scsi_engine: "scsi",
    no_parameter_list_breaks_the_scsi_engine: "scsi-lists",
    two_sessions_hear_each_answer_once_and_in_order_whatever_they_say: "iscsi-sessions",
    a_storage_service_cannot_break_the_nbd_engine: "nbd",
    no_uri_breaks_the_uri_parser: "nbd-uri",
    a_client_cannot_break_the_http_server: "http-server",
    an_agent_cannot_break_the_http_client: "http-client",
    no_body_breaks_the_json_check: "json",
    no_body_breaks_the_agent_protocol: "agent-protocol",
    no_text_breaks_the_configuration: "configuration",
    no_medium_breaks_the_reader_of_volumes: "cidata",
    no_table_breaks_the_reader_of_oem_strings: "smbios",
    a_metadata_service_cannot_break_the_reader_of_its_answers: "metadata",
    no_frame_breaks_the_search_for_the_networks: "nic-probe",
    no_frame_breaks_the_offload_check: "frame",
    a_device_cannot_break_the_network_driver: "virtio-net",
    a_virtio_device_is_served_again_after_its_lies: "hostile-virtio-net",
    the_registers_of_a_legacy_device_stop_nothing: "hostile-virtio-legacy",
    a_vmxnet3_is_served_again_after_its_lies: "hostile-vmxnet3",
    an_intel_nic_is_served_again_after_its_lies: "hostile-intel",
    an_rtl8139_is_served_again_after_its_lies: "hostile-rtl8139",
    a_host_of_hyper_v_is_served_again_after_its_lies: "hostile-netvsc",
    a_backend_of_xen_is_served_again_after_its_lies: "hostile-netfront",
}

#[test]
fn the_examples_of_sessions_are_answered_in_every_way_there_is() {
    use storage_iscsi::wire::opcode;
    let heard: std::collections::BTreeSet<u8> =
        examples::sessions().iter().flat_map(|example| sessions::play(example)).collect();
    let all = [
        opcode::NOP_IN,
        opcode::SCSI_RESPONSE,
        opcode::TASK_MANAGEMENT_RESPONSE,
        opcode::LOGIN_RESPONSE,
        opcode::TEXT_RESPONSE,
        opcode::DATA_IN,
        opcode::LOGOUT_RESPONSE,
        opcode::READY_TO_TRANSFER,
        opcode::REJECT,
    ];
    assert_eq!(heard, all.into());
}

#[test]
fn a_target_that_breaks_is_reported_with_its_input() {
    fn lying(input: &[u8]) {
        assert!(!input.contains(&0x7f), "found");
    }
    let target = Target { name: "lying", examples: || vec![b"harmless".to_vec()], run: lying };
    let find = run(&target, 1, Duration::from_secs(20), 0).expect_err("a mutation makes that byte soon");
    assert!(find.input.contains(&0x7f));
    let again = mutate::input(&mut Random::new(find.seed), &(target.examples)());
    assert_eq!(again, find.input, "the seed gives the same input again");
}

/// What is mutated would be of little use if it were refused at once.
#[test]
fn copies_and_tokens_among_the_examples_are_carried_out() {
    let mut seen = 0;
    for example in crate::examples::lists().iter().filter(|example| example[2] == 0x83 && example[3] != 0x1c)
    {
        let mut bench = crate::lists::bench();
        let (cdb, list) = example[2..].split_first_chunk::<16>().expect("a CDB");
        let (outcome, _) = bench.run_as(bench.nexuses[0], cdb, list, 0);
        assert_eq!(outcome.status, storage_scsi::Status::Good, "{cdb:02x?}: {:02x?}", &outcome.sense[..]);
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}
