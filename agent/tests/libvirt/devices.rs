//! Disks and interfaces that come and go while a machine runs.

use crate::target::Target;
use crate::world::{LONG, World};
use agent::hypervisor::{Hypervisor, Machine, Step};
use agent_protocol::{Failure, Link, Mac, NICS_MAX, Nic, State, VOLUMES_MAX, Volume};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn nic(name: &str) -> Nic {
    let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    Nic { nic: name.parse().unwrap(), network: "nat".parse().unwrap(), mac, link: Link::Up }
}

fn volume(name: &str) -> Volume {
    let iqn = "iqn.2026-11.dev.corbel.test:disk".parse().unwrap();
    Volume { volume: name.parse().unwrap(), iqn, lun: 0, read_only: false }
}

fn has_volume(world: &World, machine: &Machine, name: &str) -> bool {
    let seen = world.observe(machine).volumes.expect("it runs");
    seen.iter().any(|volume| volume.as_str() == name)
}

#[test]
fn a_disk_comes_from_its_target_grows_and_is_gone_when_the_guest_has_let_go() {
    let target = Target::new(1 << 20);
    let world = World::with_portal("disk", Some(target.address));
    let mut machine = world.running("web", "obedient");
    assert_eq!(world.observe(&machine).volumes, Some(Vec::new()));
    let data = volume("data");
    assert!(world.done(&machine, &Step::AttachVolume(data.clone())).contains("has it"));
    machine.volumes.push(data.clone());
    assert!(has_volume(&world, &machine, "data"));
    assert_eq!(target.seen.sessions.load(Ordering::SeqCst), 1);
    let initiator = machine.initiator().unwrap();
    assert_eq!(target.seen.initiators.lock().unwrap().last().unwrap(), initiator.as_str());
    assert!(world.done(&machine, &Step::AttachVolume(data.clone())).contains("already"), "twice is once");

    target.seen.bytes.store(3 << 20, Ordering::SeqCst);
    let evidence = world.done(&machine, &Step::ResizeVolume(data.volume.clone()));
    assert!(evidence.contains("had 1048576 bytes and has 3145728"), "{evidence}");
    let stats = world.backend.stats(&machine, LONG).unwrap();
    assert!(stats.disks.iter().any(|disk| disk.name.as_str() == "data"), "{stats:?}");

    world.done(&machine, &Step::DetachVolume(data.volume.clone()));
    world.await_sight(&machine, |seen| seen.volumes.as_ref().is_some_and(Vec::is_empty));
    world.await_sight(&machine, |_| target.seen.sessions.load(Ordering::SeqCst) == 0);
    let again = world.done(&machine, &Step::DetachVolume(data.volume.clone()));
    assert!(again.contains("does not have it"), "{again}");
    world.done(&machine, &Step::AttachVolume(data));
    assert!(has_volume(&world, &machine, "data"), "the name is free again");
    world.remove(&machine);
    assert_eq!(target.seen.sessions.load(Ordering::SeqCst), 0);
}

#[test]
fn a_guest_that_keeps_its_disk_has_it_and_a_second_request_changes_nothing() {
    let target = Target::new(1 << 20);
    let world = World::with_portal("keeps", Some(target.address));
    let mut machine = world.machine("web", "deaf");
    machine.volumes.push(volume("data"));
    world.done(&machine, &Step::Start);
    assert!(has_volume(&world, &machine, "data"), "it began with it");
    for _ in 0..2 {
        world.done(&machine, &Step::DetachVolume("data".parse().unwrap()));
        std::thread::sleep(Duration::from_millis(500));
        assert!(has_volume(&world, &machine, "data"), "asked is not gone");
    }
    assert_eq!(target.seen.sessions.load(Ordering::SeqCst), 1);
    world.remove(&machine);
}

#[test]
fn the_other_board_has_room_for_all_that_may_come() {
    let target = Target::new(1 << 20);
    let world = World::with_portal("q35", Some(target.address));
    let mut machine = world.machine("web", "q35");
    machine.volumes.push(volume("first"));
    world.done(&machine, &Step::Start);
    for number in 1..VOLUMES_MAX {
        world.done(&machine, &Step::AttachVolume(volume(&format!("data-{number}"))));
    }
    for number in 0..NICS_MAX {
        let mac = Mac([0x52, 0x54, 0, 0, 1, u8::try_from(number).unwrap()]);
        world.done(&machine, &Step::AttachNic(Nic { mac, ..nic(&format!("eth{number}")) }));
    }
    let seen = world.observe(&machine);
    assert_eq!(seen.volumes.map(|all| all.len()), Some(VOLUMES_MAX));
    assert_eq!(seen.nics.map(|all| all.len()), Some(NICS_MAX));
    assert_eq!(target.seen.sessions.load(Ordering::SeqCst), VOLUMES_MAX);
    world.remove(&machine);
}

#[test]
fn a_target_that_is_not_there_leaves_the_machine_as_it_was() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::with_portal("nobody", Some(nobody));
    let machine = world.running("web", "obedient");
    let fault = world.act(&machine, &Step::AttachVolume(volume("data"))).unwrap_err();
    assert_eq!(fault.code, Failure::Hypervisor, "{fault:?}");
    assert!(!has_volume(&world, &machine, "data"));
    world.done(&machine, &Step::Pause);
    world.remove(&machine);
}

#[test]
fn an_interface_is_plugged_its_cable_pulled_and_it_goes_when_the_guest_lets_go() {
    let world = World::new("nic");
    let mut machine = world.running("web", "obedient");
    let eth = nic("front");
    world.done(&machine, &Step::AttachNic(eth.clone()));
    machine.nics.push(eth.clone());
    assert_eq!(world.observe(&machine).nics, Some(vec![eth.nic.clone()]));
    world.done(&machine, &Step::UpdateNic(eth.nic.clone(), Link::Down));
    let name = format!("web-{}", machine.uuid);
    assert!(world.virsh(&["domif-getlink", &name, "52:54:00:00:00:01"]).contains("down"));
    world.done(&machine, &Step::UpdateNic(eth.nic.clone(), Link::Up));
    assert!(world.virsh(&["domif-getlink", &name, "52:54:00:00:00:01"]).contains("up"));
    // Whoever goes back to when it was plugged in has it as it was ordered since, and not with another address.
    world.done(&machine, &Step::Snapshot("wired".parse().unwrap()));
    world.done(&machine, &Step::UpdateNic(eth.nic.clone(), Link::Down));
    machine.nics[0].link = Link::Down;
    let back = Step::Revert("wired".parse().unwrap());
    world.done(&machine, &back);
    assert_eq!(world.observe(&machine).state, State::Running);
    assert!(world.virsh(&["domif-getlink", &name, "52:54:00:00:00:01"]).contains("down"));
    let mut other = machine.clone();
    other.nics[0].mac.0[5] = 9;
    assert!(world.act(&other, &back).unwrap_err().detail.as_str().contains("other disks or interfaces"));
    world.done(&machine, &Step::DetachNic(eth.nic.clone()));
    world.await_sight(&machine, |seen| seen.nics.as_ref().is_some_and(Vec::is_empty));
    world.remove(&machine);
}
