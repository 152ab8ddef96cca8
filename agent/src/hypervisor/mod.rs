//! What every hypervisor must be able to do. One file a hypervisor.
//!
//! The lanes (`crate::lanes`) call these, one call at a time for each machine, with what the engine (`agent_engine`) has
//! decided: it alone knows from the life cycle whether a verb makes sense; a backend translates and proves. Every call is
//! bounded by `within`.

pub mod libvirt;
mod migration;
mod operator;
pub mod qemu;

pub use agent_engine::{Ended, Evidence, Fault, Machine, Observation, Step};

use agent_protocol::{Backend, EventKind, ImageName, Stats, Text, Uuid};
use std::collections::BTreeSet;
use std::time::Duration;

/// Why there is no snapshot: a guest whose memory is from yesterday and whose disk is from today destroys the disk.
const ATTACHED: &str =
    "disks of the appliance are attached, and they are not part of a snapshot of the hypervisor";

/// Something that has happened to a machine by itself and is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The machine.
    pub uuid: Uuid,
    /// What kind of thing.
    pub kind: EventKind,
    /// More about it, for people.
    pub detail: Text,
}

/// Why memory is not written out.
const ASLEEP: &str = "its guest sleeps, and cannot be saved before it wakes";

/// A hypervisor, driven.
pub trait Hypervisor: Send + Sync {
    /// What kind it is; stands in each instance it runs.
    fn name(&self) -> &'static str;

    /// What it can do: each verb, and each facility that is not the host's.
    fn describe(&self) -> Backend;

    /// The images it could make instances of, sorted.
    fn images(&self) -> Vec<ImageName>;

    /// Take over a machine that an earlier run of the agent may have left running.
    fn adopt(&self, machine: &Machine, within: Duration) -> Observation;

    /// Look at a machine.
    fn observe(&self, machine: &Machine, within: Duration) -> Observation;

    /// Carry out a step of a command. What the capabilities of [`Hypervisor::describe`] call impossible never gets here.
    fn perform(&self, machine: &Machine, step: &Step, within: Duration) -> Result<Evidence, Fault>;

    /// Have the move of a machine that is under way in another thread give up, unless it was handed over.
    fn call_off(&self, _machine: &Machine) {}

    /// Have every move that is under way give up, since nobody will be there to go on with it.
    fn call_all_off(&self) {}

    /// What a machine that runs has used.
    fn stats(&self, machine: &Machine, within: Duration) -> Result<Stats, Fault>;

    /// What the guest wrote to its console after the first `after` bytes, at most `most` of it, of what is kept. `None` of a
    /// machine that has no console, or one that the agent does not listen to.
    fn console(&self, _machine: &Machine, _after: u64, _most: usize) -> Option<qemu::ConsolePage> {
        None
    }

    /// Remove every trace of a machine that has ended.
    fn forget(&self, machine: &Machine);

    /// Remove what is left of machines that there are no more, when the agent starts and before anything is done; `known` are
    /// all that there are.
    fn sweep(&self, _known: &BTreeSet<Uuid>) {}

    /// If it has ended by itself, say how, once.
    fn bury(&self, machine: &Machine) -> Option<Ended>;

    /// Wait until some machine has ended by itself and is not buried yet, or has changed otherwise (a guest let go of a
    /// disk, restarted, was held); those that have.
    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid>;

    /// What has happened to machines since this was last asked that no observation shows.
    fn incidents(&self) -> Vec<Incident>;
}
