//! Disks and interfaces of a real machine, and its size, while it runs and across its starts.

use crate::host::{Host, IQN, TIME, nic, run, until, volume};
use crate::world::signal;
use agent::hypervisor::{Hypervisor, Step};
use agent_protocol::{Failure, Link, Size, State};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn a_disk_is_detached_only_when_the_guest_has_let_go_and_qemu_has_logged_out() {
    let mut host = Host::new("detach");
    let target = host.target();
    let machine = host.started("web");
    let initiator = machine.initiator().unwrap().to_string();
    let evidence = host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    assert!(evidence.iter().any(|text| text.as_str().contains("1048576 bytes")), "{evidence:?}");
    assert_eq!(host.disks(&machine), ["data"]);
    assert_eq!(target.sessions(), [initiator.as_str()], "each machine has a name of its own");
    host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    assert_eq!(target.sessions().len(), 1, "sent twice, attached once");
    host.perform(&machine, &Step::AttachVolume(volume("more", 2))).unwrap();
    assert_eq!(host.disks(&machine), ["data", "more"]);

    host.says(&machine, "i", "i");
    let detach = Step::DetachVolume("data".parse().unwrap());
    host.perform(&machine, &detach).unwrap();
    host.perform(&machine, &detach).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(host.disks(&machine), ["data", "more"], "the guest has not let go");
    assert_eq!(target.sessions().len(), 2);

    host.says(&machine, "o", "E");
    until("the disk is gone", || host.disks(&machine) == ["more"]);
    assert_eq!(target.sessions().len(), 1, "and QEMU has logged out of it");
    let evidence = host.perform(&machine, &detach).unwrap();
    assert!(evidence[0].as_str().contains("no device"), "{evidence:?}");
    host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    assert_eq!(host.disks(&machine), ["data", "more"], "its slot is free again");
}

#[test]
fn what_was_attached_is_there_again_after_a_start_and_known_to_another_run_of_the_agent() {
    let mut host = Host::new("again");
    let target = host.target();
    let mut machine = host.started("web");
    host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    host.perform(&machine, &Step::AttachNic(nic("lan"))).unwrap();
    machine.volumes.push(volume("data", 1));
    machine.nics.push(nic("lan"));
    host.restart();
    let seen = host.qemu.adopt(&machine, TIME);
    assert_eq!(seen.state, State::Running);
    assert_eq!((seen.volumes.unwrap().len(), seen.nics.unwrap().len()), (1, 1));

    host.perform(&machine, &Step::End).unwrap();
    until("the sessions are gone", || target.sessions().is_empty());
    machine.volumes.push(volume("more", 2));
    host.perform(&machine, &Step::Start).unwrap();
    host.hears(&machine, "R");
    assert_eq!(
        (host.disks(&machine), host.nics(&machine)),
        (vec!["data".into(), "more".into()], vec!["lan".into()])
    );
    assert_eq!(target.sessions().len(), 2);
    host.perform(&machine, &Step::DetachNic("lan".parse().unwrap())).unwrap();
    until("the interface is gone", || host.nics(&machine).is_empty());
}

#[test]
fn an_attachment_that_was_cut_short_half_way_is_undone_by_looking() {
    let mut host = Host::new("short");
    let target = host.target();
    let machine = host.started("web");
    host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    // The agent is killed between the block node and the device.
    let slots = r#"{"now":{"volumes":{"data":0,"more":1},"nics":{},"size":{}},"snapshots":{}}"#;
    std::fs::write(host.own(&machine, "parts.json"), slots).unwrap();
    let node = format!(
        r#"{{"execute":"blockdev-add","arguments":{{"driver":"iscsi","node-name":"corbel-disk1","transport":"tcp",
        "portal":"127.0.0.1:{}","target":"{IQN}","lun":2,"initiator-name":"iqn.2026-11.example:x"}}}}"#,
        host.portal()
    );
    let answer = host.monitor(&machine, &node.replace('\n', ""));
    assert!(answer.contains("return") && target.sessions().len() == 2, "{answer}");
    host.restart();
    let seen = host.qemu.adopt(&machine, TIME);
    assert_eq!(seen.volumes.unwrap().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["data"]);
    assert_eq!(target.sessions().len(), 1, "QEMU has logged out of the other");
    host.perform(&machine, &Step::AttachVolume(volume("more", 2))).unwrap();
    assert_eq!(host.disks(&machine), ["data", "more"]);
}

#[test]
fn every_board_starts_with_its_disks_and_one_that_cannot_be_given_more_says_why() {
    let mut host = Host::new("boards");
    let target = host.target();
    for board in ["q35", "microvm"] {
        let mut machine = host.machine(board, board);
        machine.volumes.push(volume("data", 1));
        machine.nics.push(nic("lan"));
        host.perform(&machine, &Step::Start).unwrap();
        assert_eq!(
            (host.disks(&machine), host.nics(&machine)),
            (vec!["data".into()], vec!["lan".into()]),
            "{board}"
        );
        assert_eq!(target.sessions().len(), 1, "{board}");
        let more = host.perform(&machine, &Step::AttachVolume(volume("more", 2)));
        if board == "q35" {
            more.unwrap();
            assert_eq!(host.disks(&machine).len(), 2);
        } else {
            let fault = more.unwrap_err();
            assert!(fault.detail.as_str().contains("microvm"), "{}", fault.detail);
        }
        host.perform(&machine, &Step::End).unwrap();
        until("the sessions are gone", || target.sessions().is_empty());
    }
    let mut machine = host.machine("bare", "none");
    machine.volumes.push(volume("data", 1));
    assert!(host.perform(&machine, &Step::Start).unwrap_err().detail.as_str().contains("board"));
}

#[test]
fn a_disk_grows_with_its_target() {
    let mut host = Host::new("grow");
    let target = host.target();
    let machine = host.started("web");
    host.perform(&machine, &Step::AttachVolume(volume("data", 1))).unwrap();
    let resize = Step::ResizeVolume("data".parse().unwrap());
    let evidence = host.perform(&machine, &resize).unwrap();
    assert!(evidence[0].as_str().contains("1048576 bytes, and said 1048576"), "{evidence:?}");
    target.replace(1, 3 << 20);
    let evidence = host.perform(&machine, &resize).unwrap();
    assert!(evidence[0].as_str().contains("3145728 bytes, and said 1048576"), "{evidence:?}");
    assert!(host.perform(&machine, &Step::ResizeVolume("other".parse().unwrap())).is_err());
}

#[test]
fn a_target_that_is_not_there_or_says_nothing_is_a_fault_and_leaves_nothing_behind() {
    let mut host = Host::new("absent");
    let machine = host.started("web");
    let attach = Step::AttachVolume(volume("data", 1));
    let fault = host.perform(&machine, &attach).unwrap_err();
    assert!(fault.detail.as_str().contains("cannot be reached"), "{}", fault.detail);

    let silent = TcpListener::bind(("127.0.0.1", host.portal())).unwrap();
    let began = Instant::now();
    let fault = host.qemu.perform(&machine, &attach, Duration::from_secs(1)).unwrap_err();
    assert_eq!(fault.code, Failure::Timeout, "{}", fault.detail);
    assert!(began.elapsed() < Duration::from_secs(2), "whoever asks is not held up as long as QEMU is");
    drop(silent);
    until("QEMU has given up", || host.state(&machine) == State::Running);
    assert!(host.disks(&machine).is_empty());

    let target = host.target();
    let fault = host.perform(&machine, &Step::AttachVolume(volume("data", 9))).unwrap_err();
    assert!(fault.detail.as_str().contains("LUN"), "{}", fault.detail);
    assert!(host.disks(&machine).is_empty() && target.sessions().is_empty());
    host.perform(&machine, &attach).unwrap();
    assert_eq!(host.disks(&machine), ["data"]);

    let mut cold = host.machine("cold", "tiny");
    cold.volumes.push(volume("data", 9));
    let fault = host.perform(&cold, &Step::Start).unwrap_err();
    assert!(fault.code == Failure::Spawn && fault.detail.as_str().contains("LUN"), "{}", fault.detail);
    assert_eq!(host.state(&cold), State::Stopped);
}

#[test]
fn an_interface_comes_is_unplugged_and_goes() {
    let mut host = Host::new("nic");
    let mut machine = host.started("web");
    host.perform(&machine, &Step::AttachNic(nic("lan"))).unwrap();
    assert_eq!(host.nics(&machine), ["lan"]);
    for link in [Link::Down, Link::Down, Link::Up] {
        host.perform(&machine, &Step::UpdateNic("lan".parse().unwrap(), link)).unwrap();
    }
    assert!(host.perform(&machine, &Step::UpdateNic("wan".parse().unwrap(), Link::Up)).is_err());
    let mut red = nic("wan");
    red.network = "red".parse().unwrap();
    let fault = host.perform(&machine, &Step::AttachNic(red)).unwrap_err();
    assert!(fault.detail.as_str().contains("no network red"), "{}", fault.detail);
    host.perform(&machine, &Step::DetachNic("lan".parse().unwrap())).unwrap();
    until("the interface is gone", || host.nics(&machine).is_empty());

    host.perform(&machine, &Step::End).unwrap();
    machine.nics.push(agent_protocol::Nic { link: Link::Down, ..nic("lan") });
    host.perform(&machine, &Step::Start).unwrap();
    assert_eq!(host.nics(&machine), ["lan"]);
}

/// Run the test of this name again, by itself and as the last argument of that command; whether this is the run inside.
fn inside(name: &str, command: &[&str]) -> bool {
    let marker = "CORBEL_TEST_INSIDE";
    if std::env::var_os(marker).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let mut outer = std::process::Command::new(command[0]);
    outer.args(&command[1..]).arg(program).args(["--exact", &format!("devices::{name}")]).env(marker, "1");
    let output = outer.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[test]
fn machines_may_take_more_descriptors_than_a_process_has_at_first() {
    let name = "machines_may_take_more_descriptors_than_a_process_has_at_first";
    if !inside(name, &["sh", "-c", "ulimit -Sn 40; exec \"$@\"", "sh"]) {
        return;
    }
    let mut host = Host::new("many");
    let machines: Vec<_> = (0..15).map(|number| host.machine(&format!("m{number}"), "none")).collect();
    for machine in &machines {
        host.perform(machine, &Step::Start).unwrap();
    }
    assert!(machines.iter().all(|machine| host.state(machine) == State::Running));
}

#[test]
fn an_interface_on_a_bridge_has_a_tap_device_there_that_is_gone_with_it() {
    let name = "an_interface_on_a_bridge_has_a_tap_device_there_that_is_gone_with_it";
    // In a network namespace of its own, which ends with the run inside.
    if !inside(
        name,
        &["unshare", "--net", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && exec \"$@\"", "sh"],
    ) {
        return;
    }
    run("ip", &["link", "add", "br-blue", "type", "bridge"]);
    let ports = || std::fs::read_dir("/sys/class/net/br-blue/brif").unwrap().count();
    let mut host = Host::on("bridge", r#"{"blue":{"bridge":"br-blue"},"lost":{"bridge":"br-lost"}}"#);
    let mut machine = host.started("web");
    host.perform(&machine, &Step::AttachNic(nic("lan"))).unwrap();
    assert_eq!((host.nics(&machine), ports()), (vec!["lan".into()], 1));
    let mut lost = nic("wan");
    lost.network = "lost".parse().unwrap();
    let fault = host.perform(&machine, &Step::AttachNic(lost)).unwrap_err();
    assert!(fault.detail.as_str().contains("cannot join br-lost"), "{}", fault.detail);
    assert_eq!(host.nics(&machine), ["lan"]);
    assert_eq!(run("ip", &["-o", "tuntap"]).lines().count(), 1, "nothing is left of it");
    machine.nics.push(nic("lan"));
    let stats = host.qemu.stats(&machine, TIME).unwrap();
    assert_eq!(stats.nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(), ["lan"]);

    host.perform(&machine, &Step::End).unwrap();
    until("the device is gone", || ports() == 0);
    host.perform(&machine, &Step::Start).unwrap();
    assert_eq!((host.nics(&machine), ports()), (vec!["lan".into()], 1));
    host.perform(&machine, &Step::Save).unwrap();
    host.perform(&machine, &Step::Restore).unwrap();
    assert_eq!((host.nics(&machine), ports()), (vec!["lan".into()], 1));
    host.hears(&machine, "");
    host.perform(&machine, &Step::DetachNic("lan".parse().unwrap())).unwrap();
    until("the interface is gone", || host.nics(&machine).is_empty());
    assert_eq!(ports(), 0);
}

#[test]
fn a_machine_grows_as_far_as_its_board_and_its_guest_let_it_and_the_rest_waits_for_the_next_start() {
    let mut host = Host::new("size");
    let mut machine = host.started("web");
    let resize = |cpus, memory_mib| Step::Resize(Size { cpus, memory_mib });
    let evidence = host.perform(&machine, &resize(Some(3), None)).unwrap();
    assert!(evidence[0].as_str().contains("3 processors"), "{evidence:?}");
    host.perform(&machine, &resize(Some(3), None)).unwrap();
    for (step, words) in [
        (resize(Some(4), None), "room for 3 processors"),
        (resize(Some(1), None), "cannot be taken"),
        (resize(None, Some(64)), "started with 16 MiB"),
        (resize(Some(4), Some(8)), "room for 3 processors"),
    ] {
        let fault = host.perform(&machine, &step).unwrap_err();
        assert!(fault.detail.as_str().contains(words), "{}", fault.detail);
    }
    let fault = host.qemu.perform(&machine, &resize(None, Some(8)), Duration::from_secs(1)).unwrap_err();
    assert_eq!(fault.code, Failure::GuestIgnored, "this guest has no driver: {}", fault.detail);

    host.perform(&machine, &Step::End).unwrap();
    let evidence = host.perform(&machine, &resize(Some(2), Some(24))).unwrap();
    assert!(evidence[0].as_str().contains("when it starts"), "{evidence:?}");
    machine.size = Size { cpus: Some(2), memory_mib: Some(24) };
    host.perform(&machine, &Step::Start).unwrap();
    assert_eq!(host.qemu.stats(&machine, TIME).unwrap().memory_kib, Some(24 * 1024));
    let fault = host.perform(&machine, &resize(Some(1), None)).unwrap_err();
    assert!(fault.detail.as_str().contains("cannot be taken"), "it was started with two: {}", fault.detail);
}

#[test]
fn a_hung_monitor_takes_no_longer_than_it_is_given() {
    let mut host = Host::new("hung");
    let machine = host.started("web");
    let other = host.started("other");
    signal(host.pid(&machine), "STOP");
    let steps = [
        Step::Pause,
        Step::Reset,
        Step::Save,
        Step::Snapshot("a".parse().unwrap()),
        Step::Resize(Size { cpus: Some(2), memory_mib: None }),
        Step::DetachVolume("data".parse().unwrap()),
        Step::AttachNic(nic("lan")),
        Step::UpdateNic("lan".parse().unwrap(), Link::Up),
    ];
    for step in steps {
        let began = Instant::now();
        let fault = host.qemu.perform(&machine, &step, Duration::from_millis(200)).unwrap_err();
        assert_eq!(fault.code, Failure::Timeout, "{step:?}: {}", fault.detail);
        assert!(began.elapsed() < Duration::from_secs(1), "{step:?}");
    }
    let began = Instant::now();
    assert_eq!(host.qemu.observe(&machine, Duration::from_millis(200)).state, State::Unknown);
    host.says(&other, "x", "x");
    assert!(began.elapsed() < Duration::from_secs(2), "another machine's console goes on");
    host.perform(&machine, &Step::End).unwrap();
    assert_eq!(host.state(&machine), State::Stopped);
}
