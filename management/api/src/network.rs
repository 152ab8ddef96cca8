//! Networks: how it is with the map of one. The map itself is the agent's own document, [`NetworkMap`].

use agent_protocol::{InstanceId, NetworkMap, NetworkName, Object, Text, Vni};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A network: what is wanted of it, and what the agent has made of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkView {
    /// Its name.
    pub id: NetworkName,
    /// What is wanted; absent for one that is on the host and that nobody wants, or wants no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<NetworkDesired>,
    /// What the host has of it, as the agent said last; absent when it has nothing, or was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<NetworkApplied>,
    /// In what the two differ: `generation`, `endpoints`, or `map` when only one of them is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub difference: Vec<Text>,
    /// What keeps them apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Text>,
    /// The map that is wanted, whole; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Object<NetworkMap>>,
}

/// What is wanted of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkDesired {
    /// The number of the map.
    pub generation: u64,
    /// The number of the network in the packets between hosts.
    pub vni: Vni,
    /// How long a packet of a guest may be, in bytes, from its IP header on.
    pub mtu: u16,
    /// How many interfaces it has.
    pub endpoints: u32,
    /// Whether it is kept on the state disk, so that it outlives a restart.
    pub durable: bool,
}

/// What a host has of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkApplied {
    /// The number of the map that is in effect, whole; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How many interfaces it knows.
    pub endpoints: u32,
    /// Packets that it dropped.
    pub drops: NetworkDrops,
    /// How long ago the agent said so, in milliseconds.
    pub age_ms: u64,
}

/// Packets that a host dropped, by why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkDrops {
    /// The map has nobody of that address.
    pub unknown_destination: u64,
}

/// What a host has counted of a network, asked now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkCounters {
    /// The network.
    pub id: NetworkName,
    /// Packets that were dropped since the network is there.
    pub drops: NetworkDrops,
}

/// One page of networks, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkPage {
    /// The networks, without their maps.
    pub networks: Vec<NetworkView>,
    /// What to pass as `after` for the next page, if there is one.
    #[serde(default)]
    pub next: Option<InstanceId>,
}
