//! Lives of machines, and of libvirtd.

use crate::world::{LONG, World, processes, signal};
use agent::hypervisor::{Hypervisor, Step};
use agent_protocol::{Facility, Failure, Size, State, Support, Verb};
use std::time::{Duration, Instant};

#[test]
fn a_machine_is_started_held_reset_and_powered_off_by_its_guest() {
    let world = World::new("life");
    let machine = world.machine("web", "obedient");
    assert_eq!(world.observe(&machine).state, State::Stopped);
    assert!(world.done(&machine, &Step::Start).contains("it runs"));
    assert_eq!(world.virsh(&["list", "--name"]).trim(), format!("web-{}", machine.uuid));
    assert!(world.done(&machine, &Step::Start).contains("already"), "twice is as good as once");
    world.done(&machine, &Step::Pause);
    assert_eq!(world.observe(&machine).state, State::Paused);
    world.done(&machine, &Step::Pause);
    world.done(&machine, &Step::Resume);
    world.done(&machine, &Step::Resume);
    world.done(&machine, &Step::Reset);
    let pid = world.pid(&machine);
    // Its guest listens once it has booted again.
    let until = Instant::now() + LONG;
    while world.observe(&machine).state != State::Stopped {
        assert!(Instant::now() < until);
        let _ = world.act(&machine, &Step::AskToStop);
        std::thread::sleep(Duration::from_millis(300));
    }
    world.done(&machine, &Step::Start);
    assert_ne!(world.pid(&machine), pid);
    std::thread::sleep(Duration::from_secs(2));
    world.done(&machine, &Step::AskToStop);
    let ended = world.await_end(&machine);
    assert!(ended.orderly, "{ended:?}");
    assert_eq!(world.backend.bury(&machine), None, "once");
    world.remove(&machine);
    assert_eq!(world.observe(&machine).state, State::Stopped);
    let disks = std::fs::read_dir(world.directory.join("disks")).unwrap().count();
    assert_eq!(disks, 0, "its disk is gone with it");
}

#[test]
fn one_that_dies_is_told_and_one_that_is_gone_is_not_mourned_twice() {
    let world = World::new("dies");
    let (victim, other) = (world.running("victim", "deaf"), world.running("other", "deaf"));
    signal(world.pid(&victim), "KILL");
    let ended = world.await_end(&victim);
    assert!(!ended.orderly, "{ended:?}");
    assert_eq!(world.observe(&other).state, State::Running);
    world.done(&victim, &Step::Start);
    world.done(&victim, &Step::End);
    assert_eq!(world.backend.bury(&victim), None, "that end was ours");
    assert!(world.done(&victim, &Step::End).contains("did not run"));
    world.remove(&victim);
    world.remove(&other);
}

#[test]
fn a_hung_hypervisor_is_not_known_to_run_holds_up_no_other_and_can_be_ended() {
    let world = World::new("hung");
    let (hung, other) = (world.running("hung", "deaf"), world.running("other", "deaf"));
    let pid = world.pid(&hung);
    signal(pid, "STOP");
    let paused = world.backend.perform(&hung, &Step::Pause, Duration::from_millis(1000));
    assert_eq!(paused.unwrap_err().code, Failure::Timeout);
    let seen = world.observe(&hung);
    assert_eq!(seen.state, State::Unknown, "{seen:?}");
    // However often it is asked, one call of libvirtd's waits for it and no more: the next ones were not sent.
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(world.backend.perform(&hung, &Step::Pause, LONG).unwrap_err().code, Failure::Hypervisor);
        assert!(began.elapsed() < LONG / 2);
    }
    let began = Instant::now();
    world.done(&other, &Step::Pause);
    world.done(&other, &Step::Resume);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let evidence = world.backend.perform(&hung, &Step::End, Duration::from_secs(5)).unwrap();
    assert!(evidence[0].as_str().contains("SIGKILL"), "{evidence:?}");
    world.remove(&hung);
    world.remove(&other);
}

#[test]
fn one_that_hangs_unasked_is_found_out_by_a_look_and_one_that_comes_back_too() {
    let world = World::new("look");
    let machine = world.running("hung", "deaf");
    signal(world.pid(&machine), "STOP");
    let began = Instant::now();
    let seen = world.backend.observe(&machine, Duration::from_secs(3));
    assert_eq!(seen.state, State::Unknown, "{seen:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
    signal(world.pid(&machine), "CONT");
    world.await_sight(&machine, |seen| seen.state == State::Running);
    world.remove(&machine);
}

#[test]
fn memory_is_saved_and_goes_on_from_there() {
    let world = World::new("save");
    let machine = world.running("web", "obedient");
    let restore = world.act(&machine, &Step::Restore);
    assert!(restore.is_ok(), "it runs already");
    world.done(&machine, &Step::Pause);
    world.done(&machine, &Step::Save);
    assert_eq!(world.observe(&machine).state, State::Saved);
    assert_eq!(world.backend.bury(&machine), None);
    assert!(processes(&machine.uuid.to_string()).is_empty());
    let started = world.act(&machine, &Step::Start).unwrap_err();
    assert!(started.detail.as_str().contains("saved memory"), "{started:?}");
    assert_eq!(world.observe(&machine).state, State::Saved, "that has not lost it");
    world.done(&machine, &Step::Restore);
    assert_eq!(world.observe(&machine).state, State::Running, "whatever held it before");
    world.done(&machine, &Step::End);
    let restored = world.act(&machine, &Step::Restore).unwrap_err();
    assert!(restored.detail.as_str().contains("no saved memory"), "it did not boot instead: {restored:?}");
    assert_eq!(world.observe(&machine).state, State::Stopped);
    world.done(&machine, &Step::Start);
    world.done(&machine, &Step::Save);
    world.remove(&machine);
    // What was saved belonged to that incarnation.
    let next = world.running("web", "obedient");
    world.remove(&next);
}

#[test]
fn a_snapshot_is_gone_back_to_and_only_with_the_disks_of_then() {
    let world = World::new("snapshot");
    let machine = world.running("web", "obedient");
    let name = || "before".parse().unwrap();
    world.done(&machine, &Step::Snapshot(name()));
    assert!(world.act(&machine, &Step::Snapshot(name())).is_err(), "there is one of that name");
    assert!(world.act(&machine, &Step::Revert("none".parse().unwrap())).is_err());
    world.done(&machine, &Step::Revert(name()));
    assert_eq!(world.observe(&machine).state, State::Running);
    world.done(&machine, &Step::Pause);
    world.done(&machine, &Step::Revert(name()));
    assert_eq!(world.observe(&machine).state, State::Paused, "a snapshot does not change whether it is held");
    let nic = agent_protocol::Nic {
        nic: "front".parse().unwrap(),
        network: "nat".parse().unwrap(),
        mac: agent_protocol::Mac([0x52, 0x54, 0, 0, 0, 1]),
        link: agent_protocol::Link::Up,
    };
    let mut other = machine.clone();
    other.nics.push(nic);
    let fault = world.act(&other, &Step::Revert(name())).unwrap_err();
    assert!(fault.detail.as_str().contains("other disks or interfaces"), "{fault:?}");
    world.done(&machine, &Step::End);
    world.done(&machine, &Step::Revert(name()));
    assert_eq!(world.observe(&machine).state, State::Stopped, "only its disks went back");
    world.done(&machine, &Step::Snapshot("cold".parse().unwrap()));
    world.done(&machine, &Step::Revert("cold".parse().unwrap()));
    assert_eq!(world.observe(&machine).state, State::Stopped);
    world.remove(&machine);
}

#[test]
fn one_that_was_never_started_has_snapshots_too() {
    let world = World::new("unstarted");
    let machine = world.machine("web", "obedient");
    let name = || "first".parse().unwrap();
    world.done(&machine, &Step::Snapshot(name()));
    assert_eq!(world.observe(&machine).state, State::Stopped);
    world.done(&machine, &Step::Revert(name()));
    assert_eq!(world.observe(&machine).state, State::Stopped);
    world.done(&machine, &Step::Start);
    assert!(world.act(&machine, &Step::Snapshot(name())).is_err(), "it is kept over the start");
    world.done(&machine, &Step::Revert(name()));
    assert_eq!(world.observe(&machine).state, State::Running);
    world.remove(&machine);
    let disks = std::fs::read_dir(world.directory.join("disks")).unwrap().count();
    assert_eq!(disks, 0, "they are gone with it");
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let world = World::new("broken");
    let machine = world.machine("web", "broken");
    let fault = world.act(&machine, &Step::Start).unwrap_err();
    assert_eq!(fault.code, Failure::Spawn);
    assert!(fault.detail.as_str().contains("nowhere"), "{fault:?}");
    assert_eq!(world.observe(&machine).state, State::Stopped);
    world.remove(&machine);
}

#[test]
fn guests_outlive_libvirtd_and_are_not_called_gone_while_it_is() {
    let mut world = World::new("restart");
    let machine = world.running("web", "deaf");
    let pid = world.pid(&machine);
    world.stop_daemon();
    let seen = world.observe(&machine);
    assert_eq!(seen.state, State::Unknown, "{seen:?}");
    assert_eq!(world.backend.bury(&machine), None);
    let paused = world.act(&machine, &Step::Pause).unwrap_err();
    assert_eq!(paused.code, Failure::Hypervisor, "nothing was sent, so nothing is in doubt: {paused:?}");
    assert!(world.backend.wait_for_ends(Duration::from_millis(50)).is_empty());
    world.start_daemon();
    world.await_sight(&machine, |seen| seen.state == State::Running);
    assert_eq!(world.pid(&machine), pid);
    // It is told again, and of what may have been missed.
    let until = Instant::now() + LONG;
    while world.backend.wait_for_ends(Duration::from_millis(100)).is_empty() {
        assert!(Instant::now() < until);
    }
    assert_eq!(world.backend.bury(&machine), None);
    signal(pid, "KILL");
    assert!(!world.await_end(&machine).orderly);
    // And another agent's run finds what the first one left.
    world.done(&machine, &Step::Start);
    assert_eq!(world.backend.adopt(&machine, LONG).state, State::Running);
    // What could not be removed while libvirtd was away is removed when it is back.
    world.done(&machine, &Step::End);
    world.stop_daemon();
    world.backend.forget(&machine);
    world.start_daemon();
    let until = Instant::now() + LONG;
    while world.virsh(&["list", "--all", "--uuid"]).contains(&machine.uuid.to_string()) {
        assert!(Instant::now() < until);
        world.backend.wait_for_ends(Duration::from_millis(100));
    }
    let gone = world.backend.adopt(&machine, LONG);
    assert_eq!((gone.state, gone.reason.is_some()), (State::Stopped, true));
}

#[test]
fn a_libvirtd_that_dies_in_the_middle_of_a_call_leaves_it_in_doubt() {
    let mut world = World::new("doubt");
    let machine = world.running("web", "deaf");
    let pid = world.pid(&machine);
    signal(pid, "STOP");
    let (daemon, world_now) = (world.daemon_pid(), &world);
    let fault = std::thread::scope(|scope| {
        let paused = scope.spawn(|| world_now.act(&machine, &Step::Pause).unwrap_err());
        std::thread::sleep(Duration::from_secs(1));
        signal(daemon, "KILL");
        paused.join().unwrap()
    });
    assert_eq!(fault.code, Failure::Timeout, "{fault:?}");
    signal(pid, "CONT");
    world.stop_daemon();
    world.start_daemon();
    world.await_sight(&machine, |seen| matches!(seen.state, State::Running | State::Paused));
    world.remove(&machine);
}

#[test]
fn a_domain_of_somebody_else_is_left_alone_though_it_has_the_uuid() {
    let world = World::new("foreign");
    let machine = world.machine("web", "deaf");
    let xml = format!(
        "<domain type='qemu'><name>theirs</name><uuid>{}</uuid><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>",
        machine.uuid
    );
    let file = world.directory.join("theirs.xml");
    std::fs::write(&file, xml).unwrap();
    world.virsh(&["create", file.to_str().unwrap()]);
    assert_eq!(world.observe(&machine).state, State::Unknown);
    for step in [Step::Start, Step::Pause, Step::End, Step::Save, Step::Reset] {
        let fault = world.act(&machine, &step).unwrap_err();
        assert!(fault.detail.as_str().contains("not this agent's"), "{fault:?}");
    }
    world.backend.forget(&machine);
    assert_eq!(world.virsh(&["list", "--name", "--state-running"]).trim(), "theirs");
    world.virsh(&["destroy", "theirs"]);
}

#[test]
fn size_is_what_it_was_started_with_and_a_guest_that_keeps_its_memory_is_told_of() {
    let world = World::new("size");
    let mut machine = world.machine("web", "deaf");
    machine.size = Size { cpus: Some(2), memory_mib: Some(48) };
    let grow = Step::Resize(Size { cpus: None, memory_mib: Some(64) });
    assert!(world.done(&machine, &grow).contains("anew"), "it does not exist yet");
    world.done(&machine, &Step::Start);
    let stats = world.backend.stats(&machine, LONG).unwrap();
    assert_eq!(stats.memory_kib, Some(48 << 10));
    assert_eq!(stats.disks.len(), 1, "{stats:?}");
    assert!(world.virsh(&["vcpucount", "--live", "--active", machine_name(&machine).as_str()]).contains('2'));
    let shrink = Step::Resize(Size { cpus: None, memory_mib: Some(16) });
    let fault = world.backend.perform(&machine, &shrink, Duration::from_secs(2)).unwrap_err();
    assert_eq!(fault.code, Failure::GuestIgnored, "{fault:?}");
    assert!(world.act(&machine, &Step::Resize(Size { cpus: Some(8), memory_mib: None })).is_err());
    world.remove(&machine);
    let smaller = world.running("small", "deaf");
    world.done(&smaller, &Step::Snapshot("small".parse().unwrap()));
    world.done(&smaller, &Step::Resize(Size { cpus: Some(2), memory_mib: None }));
    let processors = || world.virsh(&["vcpucount", "--live", "--active", machine_name(&smaller).as_str()]);
    assert!(processors().contains('2'));
    let back = world.act(&smaller, &Step::Revert("small".parse().unwrap())).unwrap_err();
    assert!(back.detail.as_str().contains("another size"), "{back:?}");
    let large = world.act(&smaller, &Step::Snapshot("large".parse().unwrap())).unwrap_err();
    assert!(large.detail.as_str().contains("plugged"), "{large:?}");
    assert!(processors().contains('2'), "it was left as it is");
    world.remove(&smaller);
}

fn machine_name(machine: &agent::hypervisor::Machine) -> String {
    format!("{}-{}", machine.id, machine.uuid)
}

#[test]
fn every_verb_is_answered_for() {
    let world = World::new("describe");
    let backend = world.backend.describe();
    assert!(backend.version.as_str().starts_with("libvirt 9."), "{}", backend.version);
    assert!(backend.version.as_str().contains("QEMU 7."), "{}", backend.version);
    for verb in Verb::ALL {
        let of: Vec<_> = backend.capabilities.iter().filter(|one| one.verb == *verb).collect();
        assert_eq!(of.len(), 1, "{verb}");
        // This world has a network and no portal.
        let cannot = verb.as_str().starts_with("migrate.") || verb.as_str().starts_with("volume.");
        assert_eq!(of[0].support == Support::Impossible, cannot, "{verb}");
    }
    for facility in Facility::ALL.iter().filter(|one| **one != Facility::NetworkApply) {
        let of: Vec<_> = backend.facilities.iter().filter(|one| one.facility == *facility).collect();
        assert_eq!(of.len(), 1, "{facility}");
        assert_eq!(of[0].support == Support::Impossible, *facility == Facility::Console, "{facility}");
    }
}
