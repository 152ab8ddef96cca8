//! What can be commanded: the bodies of commands, and the table of which verb takes which arguments.

use crate::{ClientToken, OperationView, ProblemDocument, TargetId};
use agent_protocol::{
    ImageName, InstanceId, Link, Mac, NetworkName, NicName, Object, PeerName, Precondition, Size,
    SnapshotName, Then, Uuid, Verb, VolumeName,
};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The body of `POST /v1/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// What the instance is to be called.
    pub id: InstanceId,
    /// The image that it is made of.
    pub image: ImageName,
    /// Whether it is started at once; it is, unless this says no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
    /// How large it is to be, where that is not as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Object<Size>>,
    /// The client's name for the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<ClientToken>,
    /// From its arrival to the latest moment at which it may be begun, in milliseconds: 25000 unless it says so, 60000
    /// at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
}

/// The body of `POST /v1/instances/{id}/commands`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// What to do.
    pub verb: Verb,
    /// How; which of them a verb takes stands in [`Form`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Object<Arguments>>,
    /// What must hold for the instance, or nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Object<Precondition>>,
    /// The client's name for the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<ClientToken>,
    /// From its arrival to the latest moment at which it may be begun, in milliseconds: 25000 unless it says so, 60000
    /// at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
}

/// One command of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchElement {
    /// The instance concerned.
    pub instance: InstanceId,
    /// What to do.
    pub verb: Verb,
    /// How.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Object<Arguments>>,
    /// What must hold for the instance, or nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Object<Precondition>>,
    /// The client's name for this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<ClientToken>,
    /// From its arrival to the latest moment at which it may be begun, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
}

/// The most commands of a batch.
pub const BATCH_MAX: usize = 32;

/// The body of `POST /v1/commands`: 1 to 32 commands, each of which becomes an operation of its own, or a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// The commands.
    pub commands: Vec<Object<BatchElement>>,
}

/// What became of one command of a batch: an operation or a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchResult {
    /// The instance concerned.
    pub instance: InstanceId,
    /// The operation that the command has become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationView>,
    /// Why it has not become one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemDocument>,
    /// Of a dry run: what would come of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
}

/// What became of a batch, in the order of its commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchView {
    /// One for each command.
    pub results: Vec<BatchResult>,
    /// How many have not become an operation that succeeded or goes on; of a dry run, how many would be refused.
    pub failed: u32,
}

/// What `?dry_run=true` answers: a forecast, not a promise, since the state can move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Forecast {
    /// Always `true`: nothing was done and nothing is kept.
    pub dry_run: bool,
    /// Whether it would change anything; absent when only the hypervisor could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_change: Option<bool>,
    /// The instance as it stands, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<crate::InstanceView>,
}

macro_rules! arguments {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $bit:ident $index:literal,)*) => {
        /// The arguments of a command. Each verb takes some of them; one that it does not take is an error.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct Arguments {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        /// One bit for each of the [`Arguments`].
        pub mod argument {
            $($(#[$doc])* pub const $bit: u16 = 1 << $index;)*
            /// The names, by bit.
            pub const NAMES: &[&str] = &[$(stringify!($field)),*];
        }

        impl Arguments {
            /// The bits of those that are there.
            pub fn present(&self) -> u16 {
                let mut present = 0;
                $(if self.$field.is_some() { present |= argument::$bit; })*
                present
            }
        }
    };
}

arguments! {
    /// Ask the guest to shut down rather than cutting its power: that is so unless it says no.
    graceful: bool = GRACEFUL 0,
    /// How long the guest has for it, in milliseconds: 60000 unless it says so, an hour at most.
    timeout_ms: u32 = TIMEOUT 1,
    /// What happens when the guest has not done so by then: it is left as it is, unless this says `force`.
    then: Then = THEN 2,
    /// The snapshot.
    snapshot: SnapshotName = SNAPSHOT 3,
    /// Virtual processors.
    cpus: u16 = CPUS 4,
    /// Memory in MiB.
    memory_mib: u32 = MEMORY 5,
    /// What the disk is called in the instance; for `volume.attach` the target's own name unless it says so.
    volume: VolumeName = VOLUME 6,
    /// The target of this appliance that is the disk.
    target: TargetId = TARGET 7,
    /// The guest may not write to it.
    read_only: bool = READ_ONLY 8,
    /// What the network interface is called in the instance.
    nic: NicName = NIC 9,
    /// The network that it is on.
    network: NetworkName = NETWORK 10,
    /// Its address.
    mac: Mac = MAC 11,
    /// Whether its cable is plugged in.
    link: Link = LINK 12,
    /// The host that the instance moves to.
    peer: PeerName = PEER 13,
    /// The image that the instance was made of.
    image: ImageName = IMAGE 14,
    /// Which incarnation the instance is at its source.
    uuid: Uuid = UUID 15,
}

/// Which arguments a verb takes, as bits of [`argument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// It is not carried out without these.
    pub needs: u16,
    /// It may have these as well.
    pub takes: u16,
}

/// The form of a verb, if it is one that can be commanded; `create` and `describe` have requests of their own.
pub const fn form(verb: Verb) -> Option<Form> {
    use argument as a;
    let (needs, takes) = match verb {
        Verb::Create | Verb::Describe => return None,
        Verb::Stop => (0, a::GRACEFUL | a::TIMEOUT | a::THEN),
        Verb::Reboot => (0, a::TIMEOUT | a::THEN),
        Verb::Snapshot | Verb::Revert => (a::SNAPSHOT, 0),
        Verb::Resize => (0, a::CPUS | a::MEMORY),
        Verb::VolumeAttach => (a::TARGET, a::VOLUME | a::READ_ONLY),
        Verb::VolumeDetach => (a::VOLUME, a::TIMEOUT),
        Verb::VolumeResize => (a::VOLUME, 0),
        Verb::NicAttach => (a::NIC | a::NETWORK | a::MAC, a::LINK),
        Verb::NicDetach => (a::NIC, a::TIMEOUT),
        Verb::NicUpdate => (a::NIC | a::LINK, 0),
        Verb::MigratePrepare => (a::IMAGE | a::UUID, 0),
        Verb::MigrateStart => (a::PEER, 0),
        Verb::Start
        | Verb::ForceStop
        | Verb::Reset
        | Verb::Pause
        | Verb::Resume
        | Verb::Save
        | Verb::Restore
        | Verb::MigrateCancel
        | Verb::Terminate => (0, 0),
    };
    Some(Form { needs, takes })
}
