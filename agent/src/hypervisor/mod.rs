//! What every hypervisor must be able to do. One file a hypervisor.
//!
//! The table (`crate::table`) calls these with the lane of the instance held, so that no two run for the same machine
//! at once, and it alone decides from the life cycle whether a verb makes sense; a backend translates and proves.
//! Every call is bounded by `within`.

pub mod qemu;

use agent_protocol::{
    Backend, Failure, ImageName, InstanceId, IscsiName, Link, Nic, NicName, PeerName, Size, SnapshotName,
    State, Stats, Text, Uuid, Volume, VolumeName,
};
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
    /// How large it is, where that is not as the image says.
    pub size: Size,
    /// The disks it has beside the image's, or is to have when it starts.
    pub volumes: Vec<Volume>,
    /// The network interfaces it has beside the image's, or is to have when it starts.
    pub nics: Vec<Nic>,
}

impl Machine {
    /// A machine that has nothing beside its image.
    pub const fn new(id: InstanceId, uuid: Uuid, image: ImageName) -> Self {
        Self {
            id,
            uuid,
            image,
            size: Size { cpus: None, memory_mib: None },
            volumes: Vec::new(),
            nics: Vec::new(),
        }
    }

    /// The name by which its host logs in to targets for it, whatever the hypervisor. It goes with the incarnation: what
    /// was opened to a machine is not open to the next one of the same name.
    pub fn initiator(&self) -> Option<IscsiName> {
        format!("iqn.2026-11.dev.corbel:instance:{}", self.uuid).parse().ok()
    }
}

/// One native step of a command, with the lane held. Whether it makes sense was decided before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make it run, with its size, disks and interfaces. It was stopped, or has been made and not begun.
    Start,
    /// Hold its processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Ask the guest to shut down; whether it will is another matter.
    AskToStop,
    /// End what runs of it, whatever its guest thinks. Success is proof that nothing of it runs any more.
    End,
    /// Restart its processors.
    Reset,
    /// Write its memory out, durably, and end what runs. Success is proof of both.
    Save,
    /// Run it from where it was saved; after that the saved memory is gone.
    Restore,
    /// Keep local disks and memory under a name.
    Snapshot(SnapshotName),
    /// Go back to a snapshot.
    Revert(SnapshotName),
    /// Change its size from `machine.size`. What cannot be changed while it runs is a fault, unless it does not run.
    Resize(Size),
    /// Give it a disk while it runs.
    AttachVolume(Volume),
    /// Ask the guest to let go of a disk. Done when [`Observation::volumes`] has it no more, by which time the backend
    /// has logged out of its target.
    DetachVolume(VolumeName),
    /// Look at a disk's size anew and tell the guest.
    ResizeVolume(VolumeName),
    /// Give it a network interface while it runs.
    AttachNic(Nic),
    /// Ask the guest to let go of an interface. Done when [`Observation::nics`] has it no more.
    DetachNic(NicName),
    /// Plug or unplug a cable.
    UpdateNic(NicName, Link),
    /// Make ready to receive it from another host.
    MigratePrepare,
    /// Move it to another host.
    MigrateStart(PeerName),
    /// Stop moving it.
    MigrateCancel,
}

/// What the hypervisor says about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it is doing.
    pub state: State,
    /// Why, when that is not because it was told to.
    pub reason: Option<Text>,
    /// While it runs: the disks of [`Machine::volumes`] that its guest has; `None` if that cannot be told.
    pub volumes: Option<Vec<VolumeName>>,
    /// While it runs: the interfaces of [`Machine::nics`] that its guest has; `None` if that cannot be told.
    pub nics: Option<Vec<NicName>>,
}

impl Observation {
    /// That it is in `state`, and nothing of its disks and interfaces.
    pub const fn of(state: State) -> Self {
        Self { state, reason: None, volumes: None, nics: None }
    }

    /// The same, with a reason.
    pub fn because(self, reason: impl AsRef<str>) -> Self {
        Self { reason: Some(Text::new(reason.as_ref())), ..self }
    }
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

    /// Carry out a step of a command. What the capabilities of [`Hypervisor::describe`] call impossible never gets here.
    fn perform(&self, machine: &Machine, step: &Step, within: Duration) -> Result<Evidence, Fault>;

    /// What a machine that runs has used.
    fn stats(&self, machine: &Machine, within: Duration) -> Result<Stats, Fault>;

    /// Remove every trace of a machine that has ended.
    fn forget(&self, machine: &Machine);

    /// If it has ended by itself, say how, once.
    fn bury(&self, machine: &Machine) -> Option<Ended>;

    /// Wait until some machine has ended by itself and is not buried yet, or has changed otherwise (a guest let go of a
    /// disk, restarted, was held); those that have.
    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid>;
}
