//! One contract for every hypervisor: the same script, the real agent, real hypervisors.
//!
//! A backend is one file below `backend`: how its daemon is started, and the operator's file. What the hypervisor was
//! really told, and how often, is read from its own trace ([`native`]), not from what the agent says of itself.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

#[path = "../interop/fixture.rs"]
#[allow(dead_code, reason = "the turns are of use here, the bodies of the appliance are not")]
mod fixture;

mod backend;
mod cells;
mod lives;
mod native;
mod page;
mod parent;
mod states;

use backend::{Backend, qemu::Qemu};
use parent::Parent;

/// The whole contract, and the page.
fn contract(backend: &'static dyn Backend) {
    let parent = Parent::new(backend);
    let capabilities = cells::capabilities(&parent);
    let rows = cells::play(&parent, &capabilities);
    page::settle(backend.name(), &page::section(&capabilities, &rows));
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

#[test]
fn qemu_does_in_every_state_what_the_contract_says() {
    contract(&Qemu);
}

#[test]
fn qemu_with_guests_that_ignore_machines_that_die_and_monitors_that_hang() {
    misfortune(&Qemu);
}
