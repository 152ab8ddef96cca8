//! What every hypervisor must be able to do. One file a hypervisor.
//!
//! The table (`crate::table`) calls these with the lane of the instance held, so that no two run for the same machine
//! at once, and it alone decides from the life cycle whether a verb makes sense; a backend translates and proves.
//! Every call is bounded by `within`.

pub mod qemu;

use agent_protocol::{Backend, Failure, ImageName, InstanceId, State, Text, Uuid};
use std::time::Duration;

/// One instance as a backend needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub id: InstanceId,
    /// Which incarnation of the name it is.
    pub uuid: Uuid,
    /// What it is made of.
    pub image: ImageName,
}

/// What the hypervisor says about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it is doing.
    pub state: State,
    /// Why, when that is not because it was told to.
    pub reason: Option<Text>,
}

/// How a machine ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether it was an orderly end, such as a guest that powered itself off.
    pub orderly: bool,
    /// What was seen, in words.
    pub how: Text,
}

/// What was seen that proves a command's effect.
pub type Evidence = Vec<Text>;

/// Why a command has not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For programs.
    pub code: Failure,
    /// For people.
    pub detail: Text,
}

impl Fault {
    /// A fault with these words.
    pub fn new(code: Failure, detail: impl AsRef<str>) -> Self {
        Self { code, detail: Text::new(detail.as_ref()) }
    }
}

/// A hypervisor, driven.
pub trait Hypervisor: Send + Sync {
    /// What kind it is; stands in each instance it runs.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn describe(&self) -> Backend;

    /// The images it could make instances of, sorted.
    fn images(&self) -> Vec<ImageName>;

    /// Take over a machine that an earlier run of the agent may have left running.
    fn adopt(&self, machine: &Machine, within: Duration) -> Observation;

    /// Look at a machine.
    fn observe(&self, machine: &Machine, within: Duration) -> Observation;

    /// Make it run. It was stopped, or has been made and not begun.
    fn start(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault>;

    /// Hold its processors.
    fn pause(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault>;

    /// Let them go on.
    fn resume(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault>;

    /// Ask the guest to shut down; whether it will is another matter.
    fn ask_to_stop(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault>;

    /// End what runs of it, whatever its guest thinks. Success is proof that nothing of it runs any more.
    fn end(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault>;

    /// Remove every trace of a machine that has ended.
    fn forget(&self, machine: &Machine);

    /// If it has ended by itself, say how, once.
    fn bury(&self, machine: &Machine) -> Option<Ended>;

    /// Wait until some machine has ended by itself and is not buried yet; those that have.
    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid>;
}
