//! A real machine's memory: saved, restored, kept in snapshots and gone back to; and what the backend hears of it.

use crate::host::{Host, TIME, nic, run, until, volume};
use crate::world::{runs, signal};
use agent::hypervisor::{Hypervisor, Step};
use agent_protocol::{Failure, State};
use std::time::{Duration, Instant};

#[test]
fn a_saved_guest_goes_on_where_it_was_and_once() {
    let mut host = Host::new("save");
    let mut machine = host.started("web");
    host.perform(&machine, &Step::AttachNic(nic("lan"))).unwrap();
    machine.nics.push(nic("lan"));
    host.says(&machine, "cc", "AB");
    let pid = host.pid(&machine);
    let evidence = host.perform(&machine, &Step::Save).unwrap();
    assert!(evidence[0].as_str().contains("on the disk") && !runs(pid), "{evidence:?}");
    assert_eq!(host.state(&machine), State::Saved);
    assert!(host.perform(&machine, &Step::Start).unwrap_err().detail.as_str().contains("restored"));
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Saved);

    host.perform(&machine, &Step::Restore).unwrap();
    assert_eq!(host.state(&machine), State::Running);
    assert_eq!(host.nics(&machine), ["lan"], "what was plugged in is where it was");
    assert!(!host.own(&machine, "memory").exists());
    host.says(&machine, "c", "C");
    assert!(!host.written(&machine).contains('R'), "it has not begun anew");
    assert!(host.perform(&machine, &Step::Restore).is_err(), "nobody wakes twice from one sleep");
}

#[test]
fn a_paused_guest_and_one_with_more_processors_are_saved_and_restored() {
    let mut host = Host::new("save-more");
    let machine = host.started("web");
    let size = agent_protocol::Size { cpus: Some(2), memory_mib: None };
    host.perform(&machine, &Step::Resize(size)).unwrap();
    host.says(&machine, "c", "A");
    host.perform(&machine, &Step::Pause).unwrap();
    host.perform(&machine, &Step::Save).unwrap();
    host.perform(&machine, &Step::Restore).unwrap();
    host.says(&machine, "c", "B");
    // One that was reset while it was held has not begun, and begins when it is restored.
    host.perform(&machine, &Step::Pause).unwrap();
    host.perform(&machine, &Step::Reset).unwrap();
    host.perform(&machine, &Step::Save).unwrap();
    assert_eq!(host.state(&machine), State::Saved);
    host.perform(&machine, &Step::Restore).unwrap();
    assert_eq!(host.state(&machine), State::Running);
    host.hears(&machine, "R");
    host.says(&machine, "c", "A");
}

#[test]
fn a_restore_that_was_cut_short_goes_on_once_all_is_loaded() {
    let mut host = Host::new("half-back");
    let machine = host.started("web");
    host.says(&machine, "c", "A");
    // The agent is killed when the file has lost its name and the guest has not gone on.
    host.monitor(&machine, "{\"execute\":\"stop\"}\n");
    let loaded = host.own(&machine, "memory.loaded");
    std::fs::write(&loaded, "memory").unwrap();
    // And so early that who the process is was not kept.
    std::fs::write(host.own(&machine, "process"), "").unwrap();
    std::fs::remove_file(host.own(&machine, "pid")).unwrap();
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Running);
    assert!(!loaded.exists());
    host.says(&machine, "c", "B");
    // One that is held on purpose stays so.
    host.perform(&machine, &Step::Pause).unwrap();
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Paused);
    host.perform(&machine, &Step::End).unwrap();
}

#[test]
fn a_guest_that_sleeps_is_not_saved_and_wakes_when_it_is_reset() {
    let mut host = Host::new("asleep");
    let machine = host.started("web");
    host.says(&machine, "c", "A");
    assert_eq!(host.qemu.type_in(&machine, b"s"), Some(1));
    until("it sleeps", || host.qemu.observe(&machine, TIME).reason.is_some());
    let fault = host.perform(&machine, &Step::Save).unwrap_err();
    assert!(fault.detail.as_str().contains("sleeps"), "{}", fault.detail);
    assert_eq!(host.state(&machine), State::Running);
    assert!(!host.own(&machine, "memory").exists());
    // It wakes when it is reset.
    host.perform(&machine, &Step::Reset).unwrap();
    assert_eq!(host.qemu.observe(&machine, TIME).reason, None);
    host.hears(&machine, "R");
    host.says(&machine, "c", "A");
}

#[test]
fn a_save_that_was_cut_short_is_never_restored() {
    let mut host = Host::new("half");
    let machine = host.started("web");
    host.says(&machine, "c", "A");
    // The agent is killed while it is being written out.
    std::fs::write(host.own(&machine, "memory.new"), b"half of it").unwrap();
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Running);
    assert!(!host.own(&machine, "memory.new").exists());
    host.says(&machine, "c", "B");
    assert!(host.perform(&machine, &Step::Restore).is_err());
    assert_eq!(host.state(&machine), State::Running);

    // The disk is full.
    std::os::unix::fs::symlink("/dev/full", host.own(&machine, "memory.new")).unwrap();
    assert!(host.perform(&machine, &Step::Save).is_err());
    assert_eq!(host.state(&machine), State::Running);
    host.says(&machine, "c", "C");
    assert!(!host.own(&machine, "memory").exists() && !host.own(&machine, "memory.new").is_symlink());

    // The agent is killed when all is written and the process has not ended yet.
    host.perform(&machine, &Step::Save).unwrap();
    let memory = std::fs::read(host.own(&machine, "memory")).unwrap();
    host.perform(&machine, &Step::Restore).unwrap();
    host.perform(&machine, &Step::Pause).unwrap();
    let pid = host.pid(&machine);
    std::fs::write(host.own(&machine, "memory"), &memory).unwrap();
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Saved);
    assert!(!runs(pid));

    // What lies there is damaged.
    std::fs::write(host.own(&machine, "memory"), &memory[..memory.len() / 2]).unwrap();
    let fault = host.perform(&machine, &Step::Restore).unwrap_err();
    assert!(fault.detail.as_str().contains("load of migration failed"), "{}", fault.detail);
    assert_eq!(host.state(&machine), State::Saved);
    std::fs::write(host.own(&machine, "memory"), &memory).unwrap();
    host.perform(&machine, &Step::Restore).unwrap();
    host.says(&machine, "c", "D");
}

#[test]
fn a_disk_that_hangs_while_it_is_written_to_holds_nobody_longer_than_the_time_given() {
    let mut host = Host::new("stuck");
    let machine = host.started("web");
    let path = host.own(&machine, "memory.new");
    run("mkfifo", &[path.to_str().unwrap()]);
    let stuck = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let began = Instant::now();
    let fault = host.qemu.perform(&machine, &Step::Save, Duration::from_secs(2)).unwrap_err();
    assert_eq!(fault.code, Failure::Timeout, "{}", fault.detail);
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(host.state(&machine), State::Running, "the guest goes on");
    host.says(&machine, "c", "A");
    assert!(!path.exists() && !host.own(&machine, "memory").exists());
    drop(stuck);
    host.perform(&machine, &Step::Save).unwrap();
    host.perform(&machine, &Step::Restore).unwrap();
    host.says(&machine, "c", "B");
}

#[test]
fn a_guest_whose_process_or_whose_agent_is_killed_in_the_middle_of_a_save_is_not_saved() {
    let mut host = Host::new("middle");
    let machine = host.started("web");
    // The agent: QEMU goes on writing, here to somebody who does not read.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = deaf.local_addr().unwrap().port();
    std::fs::write(host.own(&machine, "memory.new"), b"half of it").unwrap();
    let remembered = r#"{"now":{"volumes":{},"nics":{},"size":{}},"snapshots":{},"to_go_on":true}"#;
    std::fs::write(host.own(&machine, "parts.json"), remembered).unwrap();
    host.monitor(&machine, r#"{"execute":"stop"}"#);
    let migrate = format!(r#"{{"execute":"migrate","arguments":{{"uri":"tcp:127.0.0.1:{port}"}}}}"#);
    assert!(host.monitor(&machine, &migrate).contains("return"));
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Running, "as if it had never been held");
    host.says(&machine, "c", "A");

    // The process: it is killed while its disk hangs.
    let path = host.own(&machine, "memory.new");
    run("mkfifo", &[path.to_str().unwrap()]);
    let _stuck = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let pid = host.pid(&machine);
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        signal(pid, "KILL");
    });
    let fault = host.perform(&machine, &Step::Save).unwrap_err();
    killer.join().unwrap();
    assert_eq!(fault.code, Failure::Ended, "{}", fault.detail);
    assert_eq!(host.state(&machine), State::Stopped);
    assert!(!path.exists() && !host.own(&machine, "memory").exists());
}

#[test]
fn going_back_to_a_snapshot_brings_back_the_memory_it_was_made_of() {
    let mut host = Host::new("snapshot");
    let mut machine = host.started("web");
    let (snapshot, revert) = (Step::Snapshot("one".parse().unwrap()), Step::Revert("one".parse().unwrap()));
    assert!(host.perform(&machine, &revert).unwrap_err().detail.as_str().contains("no snapshot one"));
    host.says(&machine, "c", "A");
    host.perform(&machine, &snapshot).unwrap();
    assert!(host.perform(&machine, &snapshot).unwrap_err().detail.as_str().contains("already"));
    assert_eq!(host.state(&machine), State::Running);
    host.says(&machine, "cc", "BC");
    host.perform(&machine, &revert).unwrap();
    assert_eq!(host.state(&machine), State::Running);
    host.says(&machine, "c", "CB");

    host.perform(&machine, &Step::AttachNic(nic("lan"))).unwrap();
    let fault = host.perform(&machine, &revert).unwrap_err();
    assert!(fault.detail.as_str().contains("other interfaces"), "{}", fault.detail);
    host.says(&machine, "c", "C");
    machine.nics.push(nic("lan"));
    let wired = Step::Revert("wired".parse().unwrap());
    host.perform(&machine, &Step::Snapshot("wired".parse().unwrap())).unwrap();
    let mut other = machine.clone();
    other.nics[0].mac.0[5] = 9;
    let fault = host.perform(&other, &wired).unwrap_err();
    assert!(fault.detail.as_str().contains("other interfaces"), "its address is another: {}", fault.detail);
    host.perform(&machine, &wired).unwrap();
    machine.nics.clear();
    host.perform(&machine, &Step::DetachNic("lan".parse().unwrap())).unwrap();
    until("the interface is gone", || host.nics(&machine).is_empty());

    host.perform(&machine, &Step::End).unwrap();
    host.perform(&machine, &Step::Snapshot("two".parse().unwrap())).unwrap();
    host.perform(&machine, &revert).unwrap();
    assert_eq!(host.state(&machine), State::Stopped, "its disks are as they were, and it stays stopped");
    machine.volumes.push(volume("data", 1));
    let fault = host.perform(&machine, &snapshot).unwrap_err();
    assert!(fault.detail.as_str().contains("appliance"), "{}", fault.detail);

    for (image, words) in [("raw", "only qcow2"), ("none", "no qcow2")] {
        let machine = host.machine(image, image);
        host.perform(&machine, &Step::Start).unwrap();
        let fault = host.perform(&machine, &snapshot).unwrap_err();
        assert!(fault.detail.as_str().contains(words), "{}", fault.detail);
        assert_eq!(host.state(&machine), State::Running);
        host.perform(&machine, &Step::End).unwrap();
    }
}

#[test]
fn a_reset_guest_begins_anew_and_whoever_listens_hears_of_it() {
    let mut host = Host::new("reset");
    let machine = host.started("web");
    host.says(&machine, "cc", "AB");
    host.perform(&machine, &Step::Reset).unwrap();
    let mut told = Vec::new();
    until("the reset is told", || {
        told.extend(host.qemu.wait_for_ends(Duration::from_millis(50)));
        told.contains(&machine.uuid)
    });
    host.hears(&machine, "R");
    host.says(&machine, "c", "A");
    // One that is held is held on, also to another run of the agent, and begins anew when it is let go.
    host.perform(&machine, &Step::Pause).unwrap();
    host.perform(&machine, &Step::Reset).unwrap();
    assert_eq!(host.state(&machine), State::Paused);
    host.restart();
    assert_eq!(host.qemu.adopt(&machine, TIME).state, State::Paused);
    host.perform(&machine, &Step::Reset).unwrap();
    assert_eq!(host.state(&machine), State::Paused);
    host.perform(&machine, &Step::Resume).unwrap();
    assert_eq!(host.state(&machine), State::Running);
    host.hears(&machine, "R");
    host.says(&machine, "c", "A");
    let stats = host.qemu.stats(&machine, TIME).unwrap();
    assert!(stats.cpu_ms > 0 && stats.memory_kib == Some(16 * 1024), "{stats:?}");
    assert!(stats.disks.iter().any(|disk| disk.name.as_str() == "ide0-hd0" && disk.reads > 0), "{stats:?}");

    host.perform(&machine, &Step::AskToStop).unwrap();
    until("it has ended", || {
        host.qemu.wait_for_ends(Duration::from_millis(50)).contains(&machine.uuid)
            && host.state(&machine) == State::Stopped
    });
    let ended = host.qemu.bury(&machine).unwrap();
    assert!(ended.orderly && ended.how.as_str().contains("guest-shutdown"), "{}", ended.how);
    assert!(host.qemu.stats(&machine, TIME).is_err());
}

#[test]
fn a_process_that_is_killed_while_it_is_restored_leaves_what_was_saved() {
    let mut host = Host::new("killed");
    let machine = host.started("web");
    host.says(&machine, "c", "A");
    host.perform(&machine, &Step::Save).unwrap();
    let memory = host.own(&machine, "memory");
    let before = std::fs::read(&memory).unwrap();
    // As if the agent and the process were killed between loading and going on.
    host.perform(&machine, &Step::Restore).unwrap();
    std::fs::write(&memory, &before).unwrap();
    signal(host.pid(&machine), "KILL");
    until("it has ended", || host.qemu.bury(&machine).is_some());
    assert_eq!(host.state(&machine), State::Saved);
    host.perform(&machine, &Step::Restore).unwrap();
    host.says(&machine, "c", "B");
}
