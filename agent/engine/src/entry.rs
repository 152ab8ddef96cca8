//! What is written down so that it outlives the agent.

use agent_protocol::{
    AttachedNic, AttachedVolume, Command, ImageName, Instance, InstanceId, OpId, Outcome, Size, SnapshotName,
    State, Text, Uuid,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::{Machine, Passage};

/// An entry of the journal. Those that [`crate::Engine::take`] gives at once belong together: after a crash either all of
/// them are there or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    /// An epoch, before it is granted.
    Epoch {
        /// It.
        epoch: u64,
        /// The appliance it is granted to.
        holder: Uuid,
        /// The key by which that one has proved who it is, if it had to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Text>,
    },
    /// Whose keys are those of appliances that were replaced, from here on.
    Replaced {
        /// Their names.
        keys: Vec<Text>,
    },
    /// An instance, as it is from here on.
    Instance {
        /// It.
        record: Box<Record>,
    },
    /// A terminated instance is not remembered any more.
    Forgotten {
        /// Its name.
        id: InstanceId,
        /// Which incarnation of it.
        uuid: Uuid,
    },
    /// A command, before anything is done about it.
    Received {
        /// It.
        command: Box<Command>,
    },
    /// The native call of a command is about to be made. For a reboot, the second time: it is about to be started again.
    Begun {
        /// The command.
        op_id: OpId,
        /// The state the instance was in before it.
        from: State,
    },
    /// The guest was asked to shut down or to let go of something; the rest is to wait for it.
    Asked {
        /// The command.
        op_id: OpId,
    },
    /// What became of a command.
    Done {
        /// The command.
        op_id: OpId,
        /// It.
        outcome: Box<Outcome>,
    },
    /// A command that has ended, as it is kept when the journal is written anew.
    Kept {
        /// The command.
        op_id: OpId,
        /// What tells it from others of that name.
        digest: Uuid,
        /// The instance concerned.
        instance: InstanceId,
        /// What became of it.
        outcome: Box<Outcome>,
    },
}

/// What is kept of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: InstanceId,
    /// Which incarnation of the name it is.
    pub uuid: Uuid,
    /// What it is made of.
    pub image: ImageName,
    /// The kind of hypervisor that runs it.
    pub hypervisor: Text,
    /// How large it is, where that is not as the image says.
    #[serde(default, skip_serializing_if = "Size::is_empty")]
    pub size: Size,
    /// Its disks beside the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachedVolume>,
    /// Its network interfaces beside the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<AttachedNic>,
    /// Its snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotName>,
    /// Grows with each change.
    pub generation: u64,
    /// The state when it was written; of one that lives it is not believed when it is read again.
    pub state: State,
    /// Why it was in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// What became of a command to it is not known: why nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Text>,
    /// Where it stands between two hosts, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage: Option<Passage>,
    /// It was made and nothing of it has run yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fresh: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Record {
    /// It as a backend needs to know it.
    pub fn machine(&self) -> Machine {
        Machine {
            id: self.id.clone(),
            uuid: self.uuid,
            image: self.image.clone(),
            size: self.size,
            volumes: self.volumes.iter().map(|one| one.volume.clone()).collect(),
            nics: self.nics.iter().map(|one| one.nic.clone()).collect(),
        }
    }

    /// It as the wire shows it, with when its state began and when it was looked at.
    pub fn instance(&self, since_ms: u64, observed_ms: u64) -> Instance {
        Instance {
            id: self.id.clone(),
            uuid: self.uuid,
            image: self.image.clone(),
            hypervisor: self.hypervisor.clone(),
            size: self.size,
            volumes: self.volumes.clone(),
            nics: self.nics.clone(),
            initiator: Machine::new(self.id.clone(), self.uuid, self.image.clone()).initiator(),
            state: self.state,
            reason: self.frozen.clone().or_else(|| self.reason.clone()),
            generation: self.generation,
            since_ms,
            observed_ms,
        }
    }
}

macro_rules! crash_points {
    ($($(#[$doc:meta])* $item:ident = $text:literal,)*) => {
        /// A place between two steps of a command at which the agent can end. Whoever drives the engine can have itself
        /// killed there, to prove that what comes after is right.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum CrashPoint {
            $($(#[$doc])* $item,)*
        }

        impl CrashPoint {
            /// Every one, in the order a command passes them.
            pub const ALL: &'static [Self] = &[$(Self::$item),*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                }
            }
        }
    };
}

crash_points!(
    /// The command is about to be written down.
    Receiving = "receiving",
    /// It is written down, durably, and nothing was done.
    Received = "received",
    /// That it begins is about to be written down.
    Beginning = "beginning",
    /// That is written down, durably, and the native call was not made.
    Begun = "begun",
    /// The native call has come back, and nothing is written down of that.
    Performed = "performed",
    /// That the guest was asked is about to be written down.
    Asking = "asking",
    /// That is written down, durably.
    Asked = "asked",
    /// What became of it is about to be written down.
    Ending = "ending",
    /// That is written down, durably, and nobody was told.
    Ended = "ended",
);

impl CrashPoint {
    /// The one before (`durable` is false) or after an entry is written down durably, if commands pass one there.
    pub const fn of(entry: &Entry, durable: bool) -> Option<Self> {
        Some(match (entry, durable) {
            (Entry::Received { .. }, false) => Self::Receiving,
            (Entry::Received { .. }, true) => Self::Received,
            (Entry::Begun { .. }, false) => Self::Beginning,
            (Entry::Begun { .. }, true) => Self::Begun,
            (Entry::Asked { .. }, false) => Self::Asking,
            (Entry::Asked { .. }, true) => Self::Asked,
            (Entry::Done { .. }, false) => Self::Ending,
            (Entry::Done { .. }, true) => Self::Ended,
            _ => return None,
        })
    }
}
