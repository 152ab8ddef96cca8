//! What a hypervisor is told and what it says, in the words that every backend understands.

use agent_protocol::{
    Failure, ImageName, InstanceId, IscsiName, Link, Nic, NicName, PeerName, Size, SnapshotName, State,
    Stats, Text, Uuid, Volume, VolumeName,
};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

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
    /// Have a process that waits for it to come from another host, and lets it run when all of it has ([`Passage`]).
    MigratePrepare,
    /// Move it to another host. Success is proof that its peer has all of it and that nothing of it runs here any more.
    MigrateStart(PeerName),
    /// Let one that was handed over go on here: whoever orders that knows that it does not run at its peer.
    MigrateCancel,
}

/// What the hypervisor says about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What it is doing. Stopped, saved and failed say that nothing of it runs any more: whatever its guest has come to,
    /// one whose hypervisor still has its disks is in none of them.
    pub state: State,
    /// Why, when that is not because it was told to.
    pub reason: Option<Text>,
    /// While it runs: the disks of [`Machine::volumes`] that its guest has; `None` if that cannot be told.
    pub volumes: Option<Vec<VolumeName>>,
    /// While it runs: the interfaces of [`Machine::nics`] that its guest has; `None` if that cannot be told.
    pub nics: Option<Vec<NicName>>,
    /// Where it stands between two hosts, if it does.
    pub passage: Option<Passage>,
}

/// Where a machine stands between two hosts. While it does it is not to run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passage {
    /// It is to come from another host, and has not.
    Awaited,
    /// It was handed over, and may run at its peer.
    HandedOver,
    /// Its peer has said that it has all of it.
    Arrived,
}

impl Observation {
    /// That it is in `state`, and nothing of its disks and interfaces.
    pub const fn of(state: State) -> Self {
        Self { state, reason: None, volumes: None, nics: None, passage: None }
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

/// Something to be done for one machine, by a thread that may have to wait for its hypervisor. The engine hands out no
/// second one for the same machine before [`crate::Engine::report`] has had the first, but for [`Task::CallOff`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Names it in [`crate::Engine::report`].
    pub id: u64,
    /// Which of the hypervisors, by its place in the list that the engine was given.
    pub backend: usize,
    /// The machine.
    pub machine: Machine,
    /// What to do.
    pub task: Task,
    /// How long the hypervisor may take, in milliseconds.
    pub within_ms: u32,
}

/// What a [`Job`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Take over what an earlier run of the agent may have left.
    Adopt,
    /// See whether it has ended by itself, and look at it. Harmless.
    Look,
    /// See what it has used. Harmless.
    Stats,
    /// See whether it has ended by itself; if it has not, or the step needs nothing that runs, carry it out.
    Perform(Step),
    /// End what runs of it and remove every trace.
    Remove,
    /// Have the move that is under way give up, unless it was handed over. The one job that is handed out while another is
    /// out for its machine, which is that move; what comes of it is told by that.
    CallOff,
}

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// It had ended by itself.
    pub ended: Option<Ended>,
    /// What came of the task.
    pub result: Finding,
}

/// What came of a [`Task`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Of [`Task::Adopt`] and [`Task::Look`].
    Seen(Observation),
    /// Of [`Task::Stats`].
    Used(Result<Stats, Fault>),
    /// Of [`Task::Perform`], [`Task::Remove`] and [`Task::CallOff`].
    Performed(Result<Evidence, Fault>),
}

impl Step {
    /// Whether it is for a machine that runs, and in vain for one that has just ended.
    pub const fn needs_running(&self) -> bool {
        !matches!(
            self,
            Self::Start
                | Self::End
                | Self::Restore
                | Self::Snapshot(_)
                | Self::Revert(_)
                | Self::MigratePrepare
                | Self::MigrateCancel
        )
    }
}
