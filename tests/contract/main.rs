//! One contract for every hypervisor: the same script, the real agent, real hypervisors.
//!
//! A backend is one file below `backend`: how its daemon is started, and the operator's file. What the hypervisor was
//! really told, and how often, is read from its own trace ([`native`]), not from what the agent says of itself.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

#[path = "../interop/fixture.rs"]
#[allow(dead_code, reason = "the turns are of use here, the bodies of the appliance are not")]
mod fixture;

#[path = "../interop/linux/initramfs.rs"]
#[allow(dead_code, reason = "the guests with open-iscsi are of no use here")]
mod initramfs;

mod backend;
mod cells;
mod crashes;
mod cut;
mod disk;
mod facilities;
mod figures;
mod lives;
mod names;
mod native;
mod page;
mod parent;
mod promises;
mod states;
mod steps;
mod stories;
mod strangers;
mod way;

use backend::{Backend, libvirt::Libvirt, qemu::Qemu};
use crashes::Victim;
use parent::Parent;

/// The whole contract, and the page.
fn contract(backend: &'static dyn Backend) {
    let parent = Parent::new(backend);
    let capabilities = cells::capabilities(&parent);
    let began = std::time::Instant::now();
    let rows = cells::play(&parent, &capabilities);
    println!("{}: the table took {:?}", backend.name(), began.elapsed());
    let looked = facilities::play(&parent, &capabilities);
    page::settle(backend.name(), &page::section(&capabilities, &rows, &looked));
}

/// Commands that follow on each other.
fn stories(backend: &'static dyn Backend) {
    let parent = Parent::new(backend);
    let began = std::time::Instant::now();
    stories::tell(&parent);
    println!("{}: the stories took {:?}", backend.name(), began.elapsed());
}

/// Guests and machines that do not do what they should.
fn misfortune(backend: &'static dyn Backend) {
    let parent = Parent::new(backend);
    std::thread::scope(|scope| {
        scope.spawn(|| lives::ignored(&parent));
        scope.spawn(|| lives::dies(&parent));
    });
    lives::hangs(&parent);
}

/// Kills the agent or the hypervisor at every moment, and at every place of the journal.
fn crashes(backend: &'static dyn Backend, victim: Victim) {
    let parent = Parent::new(backend);
    let capabilities = crashes::capabilities(&parent);
    crashes::rounds(&parent, &capabilities, victim);
    steps::kills(&parent, &capabilities, victim);
}

/// Kills the appliance likewise.
fn promises(backend: &'static dyn Backend) {
    let mut parent = Parent::new(backend);
    let capabilities = crashes::capabilities(&parent);
    promises::kills(&mut parent, &capabilities);
}

/// A disk, there and back.
fn disk(backend: &'static dyn Backend) {
    disk::there_and_back(&Parent::with_guest(backend, Some(disk::linux())));
}

#[test]
fn qemu_with_keys_that_are_not_those_of_the_other_end() {
    strangers::are_refused(&mut Parent::new(&Qemu));
}

#[test]
fn qemu_with_a_link_that_asks_for_no_keys() {
    strangers::are_all_the_same_in_clear(&Parent::in_clear(&Qemu));
}

#[test]
fn qemu_does_in_every_state_what_the_contract_says() {
    contract(&Qemu);
}

#[test]
fn qemu_has_nothing_left_over_from_one_command_for_the_next() {
    stories(&Qemu);
}

#[test]
fn qemu_with_guests_that_ignore_machines_that_die_and_monitors_that_hang() {
    misfortune(&Qemu);
}

#[test]
fn qemu_gives_a_guest_a_disk_and_takes_it_only_when_the_guest_lets_go() {
    disk(&Qemu);
}

#[test]
fn qemu_does_nothing_twice_when_the_agent_is_killed() {
    crashes(&Qemu, Victim::Agent);
}

#[test]
fn qemu_is_never_told_of_wrongly_when_it_is_killed() {
    crashes(&Qemu, Victim::Hypervisor);
}

#[test]
fn qemu_does_nothing_twice_when_the_appliance_is_killed() {
    promises(&Qemu);
}

#[test]
fn libvirt_with_keys_that_are_not_those_of_the_other_end() {
    strangers::are_refused(&mut Parent::new(&Libvirt));
}

#[test]
fn libvirt_does_in_every_state_what_the_contract_says() {
    contract(&Libvirt);
}

#[test]
fn libvirt_has_nothing_left_over_from_one_command_for_the_next() {
    stories(&Libvirt);
}

#[test]
fn libvirt_with_guests_that_ignore_machines_that_die_and_monitors_that_hang() {
    misfortune(&Libvirt);
}

#[test]
fn libvirt_gives_a_guest_a_disk_and_takes_it_only_when_the_guest_lets_go() {
    disk(&Libvirt);
}

#[test]
fn libvirt_does_nothing_twice_when_the_agent_is_killed() {
    crashes(&Libvirt, Victim::Agent);
}

#[test]
fn libvirt_is_never_told_of_wrongly_when_it_is_killed() {
    crashes(&Libvirt, Victim::Hypervisor);
}

#[test]
fn libvirt_does_nothing_twice_when_the_appliance_is_killed() {
    promises(&Libvirt);
}
