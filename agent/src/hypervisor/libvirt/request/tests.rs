//! Well-formed whatever it is called.

use super::*;
use agent_protocol::{Link, Mac, Size, State, Uuid, Volume};

fn section(path: &str) -> Section {
    let text = serde_json::json!({
        "portal": "10.77.0.2:3260", "disks": path, "executable": path,
        "networks": { "front": { "bridge": "br0" }, "nat": "user" },
        "images": { "a": { "memory_mib": 64, "kernel": path, "initrd": path, "command_line": path, "disks": [
            { "file": path, "format": "qcow2" }, { "file": path, "format": "raw", "private": true, "bus": "board" }
        ] } },
    });
    serde_json::from_value(text).unwrap()
}

fn machine() -> Machine {
    let mut machine = Machine::new("web".parse().unwrap(), Uuid(1), "a".parse().unwrap());
    machine.size = Size { cpus: Some(2), memory_mib: Some(128) };
    machine.volumes = vec![volume("data")];
    machine.nics = vec![nic("eth0", "front"), nic("eth1", "nat")];
    machine
}

fn volume(name: &str) -> Volume {
    let iqn = "iqn.2026-11.example:disk".parse().unwrap();
    Volume { volume: name.parse().unwrap(), iqn, lun: 3, read_only: true }
}

fn nic(name: &str, network: &str) -> Nic {
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    Nic { nic: name.parse().unwrap(), network: network.parse().unwrap(), mac, link: Link::Down }
}

fn text(request: &Request) -> Option<&str> {
    match request {
        Request::Define(text)
        | Request::Snapshot(text)
        | Request::Attach(text)
        | Request::Update(text)
        | Request::Detach(text) => Some(text),
        _ => None,
    }
}

#[test]
fn every_step_becomes_well_formed_calls_whatever_the_operator_wrote() {
    let domain = Domain { name: "web".into(), uuid: [1; 16], id: 1 };
    let name = || "x".repeat(63);
    let steps = [
        Step::Start,
        Step::Snapshot(name().parse().unwrap()),
        Step::AttachVolume(volume(&name())),
        Step::AttachNic(nic(&name(), "front")),
        Step::UpdateNic("eth1".parse().unwrap(), Link::Up),
        Step::Revert(name().parse().unwrap()),
        Step::Resize(Size { cpus: Some(u16::MAX), memory_mib: Some(u32::MAX) }),
    ];
    for evil in ["/a", "/'\"<>&]]>", "/\n\t\r", "/\u{1}\u{0}\u{ffff}", "/\u{1f600}é", "/]]>--><!--"] {
        for step in &steps {
            let requests = requests(&machine(), step, &section(evil), &Described::default()).unwrap();
            for request in requests {
                assert_eq!(request.arguments(&domain).len() % 4, 0);
                if let Some(text) = text(&request) {
                    roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                }
            }
        }
    }
}

#[test]
fn any_bytes_as_a_name_are_refused_or_stay_that_name() {
    // A simple generator with a fixed seed: the same names in every run.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut taken = 0;
    for _ in 0..20_000 {
        let length = next() % 66;
        let odd = next() % 4 == 0;
        let bytes: Vec<u8> = (0..length)
            .map(|_| if odd { next().to_be_bytes()[0] } else { b"abz019-.:<'\"&\0/"[next() as usize % 15] })
            .collect();
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let Ok(name) = text.parse() else { continue };
        taken += 1;
        let volume = Volume { volume: name, ..volume("data") };
        let step = Step::AttachVolume(volume.clone());
        let requests = requests(&machine(), &step, &section("/a"), &Described::default()).unwrap();
        let [Request::Attach(xml)] = &requests[..] else { panic!("{requests:?}") };
        let described = Described::read(&format!("<domain><devices>{xml}</devices></domain>")).unwrap();
        assert!(described.volumes.contains_key(&volume.volume), "{xml}");
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn a_disk_is_what_libvirt_wants_of_one() {
    let step = Step::AttachVolume(volume("data"));
    let now = Described { targets: vec!["vda".into(), "vdc".into()], ..Described::default() };
    let requests = requests(&machine(), &step, &section("/a"), &now).unwrap();
    let expected = "<disk type='network' device='disk'>\
        <driver name='qemu' type='raw' cache='none' discard='unmap'/>\
        <source protocol='iscsi' name='iqn.2026-11.example:disk/3'><host name='10.77.0.2' port='3260'/>\
        <initiator><iqn name='iqn.2026-11.dev.corbel:instance:00000000-0000-0000-0000-000000000001'/></initiator>\
        </source><target dev='vdb' bus='virtio'/><readonly/><serial>data</serial>\
        <alias name='ua-volume-data'/></disk>";
    assert_eq!(requests, [Request::Attach(expected.into())]);
    let mut arguments = Writer::default();
    arguments.string("web").fixed(&[1; 16]).i32(7).string(expected).u32(LIVE);
    let domain = Domain { name: "web".into(), uuid: [1; 16], id: 7 };
    assert_eq!(requests[0].arguments(&domain), arguments.bytes());
    assert_eq!(requests[0].procedure(), 160);
}

#[test]
fn a_machine_has_its_own_size_and_copies_of_disks_and_its_mark() {
    let requests = requests(&machine(), &Step::Start, &section("/a"), &Described::default()).unwrap();
    let [Request::Define(xml), Request::Create] = &requests[..] else { panic!("{requests:?}") };
    let described = Described::read(xml).unwrap();
    assert_eq!(described.instance.as_deref(), Some("web"));
    assert_eq!(described.targets, ["vda", "sdb", "vdc"]);
    assert_eq!(described.nics.len(), 2);
    for part in [
        "<name>web-00000000-0000-0000-0000-000000000001</name>",
        "<memory unit='MiB'>128</memory>",
        "<vcpu current='2'>2</vcpu>",
        "<source file='/a/00000000-0000-0000-0000-000000000001-1.qcow2'/>",
        "<source bridge='br0'/>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}

#[test]
fn what_the_operators_file_lacks_is_a_fault_and_not_a_guess() {
    let mut bare = section("/a");
    bare.portal = None;
    bare.networks.clear();
    let ask = |step: &Step| requests(&machine(), step, &bare, &Described::default());
    for step in [
        Step::Start,
        Step::AttachVolume(volume("data")),
        Step::AttachNic(nic("a", "front")),
        Step::UpdateNic("eth0".parse().unwrap(), Link::Up),
        Step::UpdateNic("none".parse().unwrap(), Link::Up),
        Step::MigratePrepare,
    ] {
        assert!(ask(&step).is_err(), "{step:?}");
    }
    assert!(ask(&Step::Pause).is_ok());
    assert_eq!(super::super::observation(1, 1).state, State::Running);
}

#[test]
fn no_state_of_a_domain_that_is_there_reads_as_if_nothing_of_it_ran() {
    use crate::hypervisor::libvirt::SHUT_OFF;
    for (state, why) in (0..=9).flat_map(|state| (0..=16).map(move |why| (state, why))) {
        let seen = super::super::observation(state, why).state;
        let over = matches!(seen, State::Stopped | State::Saved | State::Failed);
        assert_eq!(over, state == SHUT_OFF, "{state}, {why} is {seen}");
    }
}
