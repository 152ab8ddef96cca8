//! Answers: what became of a command, and what there is.

use crate::{AttachedNic, AttachedVolume, ImageName, InstanceId, IscsiName, OpId, Size, State, Text, Uuid};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The agent's answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// The command it answers. A sender that reads another one here has lost count and must close the connection.
    pub op_id: OpId,
    /// The agent's run; with another one its memory of commands has begun anew.
    pub agent_boot: Uuid,
    /// The agent's clock: milliseconds since it started.
    pub clock_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case", try_from = "Members")]
pub enum Outcome {
    /// It is done; `evidence` is what the agent saw that proves it.
    Done {
        /// Whether it changed anything.
        changed: bool,
        /// The instance after it.
        instance: Instance,
        /// What proves it, in words.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        evidence: Vec<Text>,
    },
    /// It has begun and will end by itself; ask again by `op_id`.
    Accepted {
        /// The instance meanwhile.
        instance: Instance,
    },
    /// Nothing was done.
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, for people.
        detail: Text,
        /// The instance as it stands, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
    },
    /// It was tried and has not come about.
    Failed {
        /// Why, for programs.
        code: Failure,
        /// Why, for people.
        detail: Text,
        /// The instance after it, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
    },
    /// Whether it was done cannot be known.
    Indeterminate {
        /// What is known, for people.
        detail: Text,
    },
}

/// The members that an [`Outcome`] has on the wire, whichever it is: read at once, they make half as much code as a tag that
/// may stand behind what depends on it.
#[derive(Deserialize)]
struct Members {
    result: Tag,
    changed: Option<bool>,
    instance: Option<Instance>,
    #[serde(default)]
    evidence: Vec<Text>,
    code: Option<String>,
    detail: Option<Text>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Tag {
    Done,
    Accepted,
    Refused,
    Failed,
    Indeterminate,
}

impl TryFrom<Members> for Outcome {
    type Error = &'static str;

    fn try_from(members: Members) -> Result<Self, &'static str> {
        let Members { result, changed, instance, evidence, code, detail } = members;
        let outcome = match (result, code) {
            (Tag::Done, _) => {
                changed.zip(instance).map(|(changed, instance)| Self::Done { changed, instance, evidence })
            }
            (Tag::Accepted, _) => instance.map(|instance| Self::Accepted { instance }),
            (Tag::Refused, Some(code)) => {
                detail.map(|detail| Self::Refused { code: Refusal::named(&code), detail, instance })
            }
            (Tag::Failed, Some(code)) => {
                detail.map(|detail| Self::Failed { code: Failure::named(&code), detail, instance })
            }
            (Tag::Indeterminate, _) => detail.map(|detail| Self::Indeterminate { detail }),
            (Tag::Refused | Tag::Failed, None) => None,
        };
        outcome.ok_or("the outcome lacks a member")
    }
}

/// An instance as the agent last saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// Which incarnation of that name it is.
    pub uuid: Uuid,
    /// The image it was made of.
    pub image: ImageName,
    /// The kind of hypervisor that runs it.
    pub hypervisor: Text,
    /// How large it is, where that is not as its image says.
    #[serde(default, skip_serializing_if = "Size::is_empty")]
    pub size: Size,
    /// Its disks beside those of its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachedVolume>,
    /// Its network interfaces beside those of its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<AttachedNic>,
    /// The name by which its host logs in to targets for it: a target it is to have must admit this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<IscsiName>,
    /// What it is doing.
    pub state: State,
    /// Why it is in that state, when that is not because it was told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// Grows with each change of state.
    pub generation: u64,
    /// Since when it has been in that state, on the agent's clock in milliseconds.
    pub since_ms: u64,
    /// When it was last looked at, on the agent's clock in milliseconds.
    pub observed_ms: u64,
}

/// All that an agent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// The agent's run.
    pub agent_boot: Uuid,
    /// The agent's clock: milliseconds since it started.
    pub clock_ms: u64,
    /// Instances it knows, sorted by name, those included that were terminated lately.
    pub instances: Vec<Instance>,
    /// The images it could make instances of, sorted by name.
    pub images: Vec<ImageName>,
    /// There are more instances: ask after this name for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<InstanceId>,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
            /// One that this version does not know; a newer agent sent it.
            Unrecognised,
        }

        impl $name {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$item),*];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                    Self::Unrecognised => "unrecognised",
                }
            }

            /// The code of that name.
            fn named(text: &str) -> Self {
                let known = Self::ALL.iter().find(|code| code.as_str() == text);
                known.copied().unwrap_or(Self::Unrecognised)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|text| Self::named(&text))
            }
        }
    };
}

codes!(
    /// Why the agent did nothing.
    Refusal {
        /// There is no instance of that name.
        UnknownInstance = "unknown-instance",
        /// There is no image of that name.
        UnknownImage = "unknown-image",
        /// The instance was terminated; the name stands for nothing any more.
        Terminated = "terminated",
        /// There is already an instance of that name.
        AlreadyExists = "already-exists",
        /// The verb makes no sense in the state the instance is in.
        WrongState = "wrong-state",
        /// The state is not known, and the verb needs it.
        StateUnknown = "state-unknown",
        /// The precondition does not hold.
        PreconditionFailed = "precondition-failed",
        /// The command came after its deadline.
        Expired = "expired",
        /// Another appliance has taken over since.
        StaleEpoch = "stale-epoch",
        /// The command was meant for an earlier run of the agent.
        StaleBoot = "stale-boot",
        /// That `op_id` names another command.
        OpIdReused = "op-id-reused",
        /// A critical field is not understood.
        UnknownCritical = "unknown-critical",
        /// The hypervisor cannot do it.
        Impossible = "impossible",
        /// The protocol version is not spoken here.
        Version = "version",
        /// There is no room for another instance, operation, disk or interface.
        Full = "full",
        /// The instance has no disk, interface or snapshot of that name.
        UnknownPart = "unknown-part",
        /// The instance has a disk, interface or snapshot of that name already, and it is another one.
        PartExists = "part-exists",
        /// There is no network of that name.
        UnknownNetwork = "unknown-network",
        /// What became of an earlier command to this instance is not known: only looking at it and ending it is allowed.
        Frozen = "frozen",
    }
);

codes!(
    /// Why a command that was tried has not come about.
    Failure {
        /// The hypervisor could not be started.
        Spawn = "spawn",
        /// The hypervisor did not answer in time.
        Timeout = "timeout",
        /// The hypervisor refused.
        Hypervisor = "hypervisor",
        /// The hypervisor ended while the command was carried out.
        Ended = "ended",
        /// The guest did not shut down when asked.
        GuestIgnored = "guest-ignored",
        /// The guest did not let go of a disk or an interface when asked.
        GuestDidNotRelease = "guest-did-not-release",
        /// The agent could not write its own records.
        Storage = "storage",
        /// The agent ended, or its hypervisor was late, and it has not come about since.
        Interrupted = "interrupted",
    }
);
