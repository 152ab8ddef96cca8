//! The first exchange of a connection: who is there, and what can be asked of whom.

use crate::named::named;
use crate::{Text, Uuid, Verb};
use alloc::vec::Vec;
use serde::de::value::{self, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// The appliance presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The smallest version of the protocol it speaks.
    pub proto_min: u16,
    /// The largest version of the protocol it speaks.
    pub proto_max: u16,
    /// Random, made anew each time the appliance starts.
    pub appliance_boot: Uuid,
    /// The epoch it was granted before, if it holds one. When the agent has granted a larger one since, another appliance
    /// has taken over, and this one is refused ([`crate::Refusal::StaleEpoch`]). Without one it takes over itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// The agent presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak from here on.
    pub proto: u16,
    /// The agent's software, for people.
    pub version: Text,
    /// Random, made anew each time the agent starts.
    pub agent_boot: Uuid,
    /// The agent's clock: milliseconds since it started.
    pub clock_ms: u64,
    /// To be sent with each command. It grows each time an appliance takes over.
    pub epoch: u64,
    /// The number of the last entry of the agent's journal; one that is smaller than before tells of a lost journal.
    #[serde(default)]
    pub journal_head: u64,
    /// Changes whenever the instances do: with another one than before, what was known of them is out of date.
    #[serde(default)]
    pub inventory_digest: u64,
    /// The hypervisors it drives.
    pub backends: Vec<Backend>,
}

/// One hypervisor that an agent drives, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Backend {
    /// What kind of hypervisor it is.
    pub name: Text,
    /// Its own version, as it tells it.
    pub version: Text,
    /// How it carries out each verb. One that this version does not know is left out.
    #[serde(deserialize_with = "verbs")]
    pub capabilities: Vec<Capability>,
    /// The same of what is no command to an instance. None from an agent that is older than they; one that this version does
    /// not know is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "facilities")]
    pub facilities: Vec<Provision>,
}

/// How a hypervisor carries out one verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capability {
    /// The verb.
    pub verb: Verb,
    /// How well it can.
    pub support: Support,
    /// The native command, the steps of the emulation, or the reason why it is impossible.
    pub by: Text,
}

/// How a hypervisor, or the agent for it, provides one facility.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Provision {
    /// The facility.
    pub facility: Facility,
    /// How well it can.
    pub support: Support,
    /// The native command, what the agent does instead, or the reason why it is impossible.
    pub by: Text,
}

named! {
    /// What can be asked that is no command to an instance, and so has no [`Verb`].
    pub enum Facility {
        /// List instances.
        List = "list",
        /// Tell what becomes of instances by themselves.
        Events = "events",
        /// See what an instance has used.
        Stats = "stats",
        /// Read what a guest wrote to its console.
        Console = "console",
        /// Have the host carry virtual networks, as their maps say.
        NetworkApply = "network.apply",
    }
}

/// One line of a document of an agent of any version.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "facility")]
    verb: Text,
    support: Support,
    by: Text,
}

impl Line {
    /// What it is about, if this version knows it.
    fn about<T: DeserializeOwned>(&self) -> Option<T> {
        let name: StrDeserializer<'_, value::Error> = self.verb.as_str().into_deserializer();
        T::deserialize(name).ok()
    }
}

fn verbs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Capability>, D::Error> {
    let lines = Vec::<Line>::deserialize(deserializer)?.into_iter();
    let known = |line: Line| Some(Capability { verb: line.about()?, support: line.support, by: line.by });
    Ok(lines.filter_map(known).collect())
}

fn facilities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Provision>, D::Error> {
    let lines = Vec::<Line>::deserialize(deserializer)?.into_iter();
    let known = |line: Line| Some(Provision { facility: line.about()?, support: line.support, by: line.by });
    Ok(lines.filter_map(known).collect())
}

/// How well a hypervisor carries out a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// It has a command for it.
    Native,
    /// The agent makes it out of other steps.
    Emulated,
    /// It cannot be done.
    Impossible,
}
