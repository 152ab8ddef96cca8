//! Commands: what the appliance asks the agent to do to one instance.

use crate::named::named;
use crate::{
    ImageName, InstanceId, Link, Nic, NicName, OpId, PeerName, Size, SnapshotName, State, Uuid, Volume,
    VolumeName,
};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One command and the conditions under which it may be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// Names this command; sent again, it names the same command and is not carried out twice.
    pub op_id: OpId,
    /// The epoch that [`crate::Welcome`] granted to the sender. One that is not the one in force is refused, also when it is
    /// the command's turn. Whoever names none is not held against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The agent's run for which the deadline was computed; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_boot: Option<Uuid>,
    /// Milliseconds on the agent's clock after which the command must not be begun any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What must hold for the instance, or nothing is done.
    #[serde(
        default,
        skip_serializing_if = "Precondition::is_empty",
        deserialize_with = "crate::wire::object"
    )]
    pub precondition: Precondition,
    /// Names of fields of this object that the agent must understand; one it does not know is refused
    /// (the rule of RFC 7515 section 4.1.11).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical: Vec<String>,
    /// The instance concerned.
    pub instance: InstanceId,
    /// What to do to it.
    #[serde(deserialize_with = "crate::wire::object")]
    pub action: Action,
}

impl Command {
    /// The fields this version understands.
    pub const FIELDS: [&'static str; 9] = [
        "proto",
        "op_id",
        "epoch",
        "agent_boot",
        "deadline_ms",
        "precondition",
        "critical",
        "instance",
        "action",
    ];

    /// A command without conditions.
    pub fn new(op_id: OpId, instance: InstanceId, action: Action) -> Self {
        Self {
            proto: crate::VERSION,
            op_id,
            epoch: None,
            agent_boot: None,
            deadline_ms: None,
            precondition: Precondition::default(),
            critical: Vec::new(),
            instance,
            action,
        }
    }

    /// The first critical field that this version does not understand.
    pub fn unknown_critical(&self) -> Option<&str> {
        let unknown = self.critical.iter().find(|name| !Self::FIELDS.contains(&name.as_str()));
        unknown.map(String::as_str)
    }

    /// Whether `other` asks for the same: all that decides the effect is equal. The conditions of delivery may
    /// differ, since a command that is sent again has a new deadline.
    pub fn same_request(&self, other: &Self) -> bool {
        self.instance == other.instance
            && self.action == other.action
            && self.precondition == other.precondition
    }
}

/// What must hold for an instance before a command touches it. An absent field demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// It is this incarnation of its name, so that a late command cannot hit a successor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Its generation is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Its state is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

impl Precondition {
    /// Whether it demands nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A verb with its arguments. All of them are critical: an unknown one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Make an instance of an image.
    Create {
        /// The image, by its name in the agent's table.
        image: ImageName,
        /// Start it at once.
        #[serde(default)]
        start: bool,
        /// How large it is to be, where that is not as the image says.
        #[serde(default, skip_serializing_if = "Size::is_empty")]
        size: Size,
    },
    /// Begin to run it.
    Start {},
    /// Stop it; it can be started again.
    Stop {
        /// Ask the guest to shut down rather than cutting its power.
        graceful: bool,
        /// How long the guest has for it, in milliseconds. Without meaning when not graceful.
        #[serde(default)]
        timeout_ms: u32,
        /// What happens when the guest has not shut down by then. Without meaning when not graceful.
        #[serde(default)]
        then: Then,
    },
    /// Hold its processors.
    Pause {},
    /// Let its processors go on.
    Resume {},
    /// Have the guest shut down, then run it again.
    Reboot {
        /// How long the guest has to shut down, in milliseconds.
        timeout_ms: u32,
        /// What happens when the guest has not shut down by then.
        #[serde(default)]
        then: Then,
    },
    /// Restart its processors without asking the guest.
    Reset {},
    /// Write its memory out and run nothing of it any more.
    Save {},
    /// Let it go on from where it was saved.
    Restore {},
    /// Keep its local disks, and its memory if it runs, as they are now under a name.
    Snapshot {
        /// The name.
        snapshot: SnapshotName,
    },
    /// Go back to how it was when that snapshot was made.
    Revert {
        /// The snapshot.
        snapshot: SnapshotName,
    },
    /// Change its size.
    Resize {
        /// What changes.
        size: Size,
    },
    /// Give it a disk.
    #[serde(rename = "volume.attach")]
    VolumeAttach {
        /// The disk.
        volume: Volume,
    },
    /// Take a disk from it. Done when the guest has let go of it.
    #[serde(rename = "volume.detach")]
    VolumeDetach {
        /// The disk.
        volume: VolumeName,
        /// How long the guest has to let go, in milliseconds.
        timeout_ms: u32,
    },
    /// Look at a disk's size anew and tell the guest.
    #[serde(rename = "volume.resize")]
    VolumeResize {
        /// The disk.
        volume: VolumeName,
    },
    /// Give it a network interface.
    #[serde(rename = "nic.attach")]
    NicAttach {
        /// The interface.
        nic: Nic,
    },
    /// Take a network interface from it. Done when the guest has let go of it.
    #[serde(rename = "nic.detach")]
    NicDetach {
        /// The interface.
        nic: NicName,
        /// How long the guest has to let go, in milliseconds.
        timeout_ms: u32,
    },
    /// Plug or unplug the cable of a network interface.
    #[serde(rename = "nic.update")]
    NicUpdate {
        /// The interface.
        nic: NicName,
        /// Whether the cable is to be plugged in.
        link: Link,
    },
    /// Make ready to receive it from another host: a new instance, or one that was made and has never run, with its disks
    /// and interfaces.
    #[serde(rename = "migrate.prepare")]
    MigratePrepare {
        /// The image it was made of.
        image: ImageName,
        /// Which incarnation it is at its source. It stays that.
        uuid: Uuid,
    },
    /// Move it to another host while it runs. When that is done it is terminated here.
    #[serde(rename = "migrate.start")]
    MigrateStart {
        /// The host.
        peer: PeerName,
    },
    /// Stop moving it: it goes on here. Of one that was handed over, where nobody knows whether it has arrived, it is done
    /// only if the precondition names the generation: it is the word of somebody who knows that it does not run there.
    #[serde(rename = "migrate.cancel")]
    MigrateCancel {},
    /// End it for good, without asking the guest.
    Terminate {},
    /// Look at it, and change nothing.
    Describe {},
}

/// What happens when a guest ignores a request to shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It is left running and the command has failed.
    #[default]
    Leave,
    /// Its power is cut.
    Force,
}

impl Action {
    /// The verb, with the two ways of stopping told apart.
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Start {} => Verb::Start,
            Self::Stop { graceful: true, .. } => Verb::Stop,
            Self::Stop { graceful: false, .. } => Verb::ForceStop,
            Self::Pause {} => Verb::Pause,
            Self::Resume {} => Verb::Resume,
            Self::Reboot { .. } => Verb::Reboot,
            Self::Reset {} => Verb::Reset,
            Self::Save {} => Verb::Save,
            Self::Restore {} => Verb::Restore,
            Self::Snapshot { .. } => Verb::Snapshot,
            Self::Revert { .. } => Verb::Revert,
            Self::Resize { .. } => Verb::Resize,
            Self::VolumeAttach { .. } => Verb::VolumeAttach,
            Self::VolumeDetach { .. } => Verb::VolumeDetach,
            Self::VolumeResize { .. } => Verb::VolumeResize,
            Self::NicAttach { .. } => Verb::NicAttach,
            Self::NicDetach { .. } => Verb::NicDetach,
            Self::NicUpdate { .. } => Verb::NicUpdate,
            Self::MigratePrepare { .. } => Verb::MigratePrepare,
            Self::MigrateStart { .. } => Verb::MigrateStart,
            Self::MigrateCancel {} => Verb::MigrateCancel,
            Self::Terminate {} => Verb::Terminate,
            Self::Describe {} => Verb::Describe,
        }
    }
}

named! {
    /// A verb without its arguments.
    pub enum Verb {
        /// Make an instance.
        Create = "create",
        /// Run it.
        Start = "start",
        /// Ask the guest to shut down.
        Stop = "stop",
        /// Cut its power.
        ForceStop = "force-stop",
        /// Have the guest shut down, then run it again.
        Reboot = "reboot",
        /// Restart its processors.
        Reset = "reset",
        /// Hold its processors.
        Pause = "pause",
        /// Let them go on.
        Resume = "resume",
        /// Write its memory out.
        Save = "save",
        /// Go on from there.
        Restore = "restore",
        /// Keep it as it is under a name.
        Snapshot = "snapshot",
        /// Go back to that.
        Revert = "revert",
        /// Change its size.
        Resize = "resize",
        /// Give it a disk.
        VolumeAttach = "volume.attach",
        /// Take a disk from it.
        VolumeDetach = "volume.detach",
        /// Look at a disk's size anew.
        VolumeResize = "volume.resize",
        /// Give it a network interface.
        NicAttach = "nic.attach",
        /// Take a network interface from it.
        NicDetach = "nic.detach",
        /// Plug or unplug a cable.
        NicUpdate = "nic.update",
        /// Make ready to receive it.
        MigratePrepare = "migrate.prepare",
        /// Move it to another host.
        MigrateStart = "migrate.start",
        /// Stop moving it.
        MigrateCancel = "migrate.cancel",
        /// End it for good.
        Terminate = "terminate",
        /// Look at it.
        Describe = "describe",
    }
}
