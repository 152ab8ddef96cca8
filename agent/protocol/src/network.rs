//! The network map: on which host each network interface of a virtual network is.

use crate::{Mac, NetworkName, Text, Uuid};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// The most interfaces of one network.
pub const ENDPOINTS_MAX: usize = 512;
/// The most networks of one host.
pub const NETWORKS_MAX: usize = 64;
/// The smallest and the largest maximum transmission unit: that of IPv6 (RFC 8200 section 5), and what an IPv4 packet can
/// hold beside the 50 bytes of encapsulation (RFC 7348 section 5).
pub const MTU: core::ops::RangeInclusive<u16> = 1280..=65485;

/// One virtual network, whole: what is not in it is not on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkMap {
    /// What the network is called.
    pub network: NetworkName,
    /// Grows with each change; an older one than the one that is there is refused.
    pub generation: u64,
    /// The number of the network in the packets between hosts.
    pub vni: Vni,
    /// How long a packet of a guest may be, in bytes, from its IP header on.
    #[serde(deserialize_with = "mtu")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1280, max = 65485)))]
    pub mtu: u16,
    /// Its interfaces, each address once.
    #[serde(deserialize_with = "endpoints")]
    #[cfg_attr(feature = "schema", schemars(length(max = 512)))]
    pub endpoints: Vec<Endpoint>,
}

/// Where an interface of a virtual network is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The interface's address.
    pub mac: Mac,
    /// Its IPv4 address, for which the hosts answer ARP in its place.
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    pub ip: Ipv4Addr,
    /// The address of its host on the network between hosts.
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    pub underlay: Ipv4Addr,
}

/// How an address is written.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(transparent, inline, extend("format" = "ipv4"))]
#[expect(dead_code, reason = "only its schema is of interest")]
struct Address(alloc::string::String);

/// A VXLAN network identifier (RFC 7348 section 5): 1 to 2^24 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Vni(u32);

impl Vni {
    /// The identifier of this number.
    pub fn new(number: u32) -> Option<Self> {
        (1..1 << 24).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| D::Error::custom("vni: from 1 to 16777215"))
    }
}

fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let mtu = u16::deserialize(deserializer)?;
    if MTU.contains(&mtu) { Ok(mtu) } else { Err(D::Error::custom("mtu: from 1280 to 65485")) }
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let endpoints = Vec::<Endpoint>::deserialize(deserializer)?;
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(D::Error::custom("endpoints: at most 512"));
    }
    let mut sorted: Vec<&Endpoint> = endpoints.iter().collect();
    sorted.sort_unstable();
    let is_twice = |pair: &[&Endpoint]| pair[0].mac == pair[1].mac;
    let has_mac_twice = sorted.windows(2).any(is_twice);
    sorted.sort_unstable_by_key(|endpoint| endpoint.ip);
    if has_mac_twice || sorted.windows(2).any(|pair| pair[0].ip == pair[1].ip) {
        return Err(D::Error::custom("endpoints: an address stands twice"));
    }
    let is_host = |ip: Ipv4Addr| !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast());
    if !endpoints.iter().all(|endpoint| is_host(endpoint.ip) && is_host(endpoint.underlay)) {
        return Err(D::Error::custom("endpoints: an address is not that of a host"));
    }
    Ok(endpoints)
}

/// What the agent has made of a network map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// The agent's run.
    pub agent_boot: Uuid,
    /// The network.
    pub network: NetworkName,
    /// The generation that is in effect, whole; `None` if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// How many of its interfaces the encapsulating interface knows.
    pub endpoints: u32,
    /// Packets of guests that were dropped because the map has nobody of that address.
    #[serde(default)]
    pub unknown_destinations: u64,
    /// What keeps the map from being in effect, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Text>,
}

/// All networks that the agent has made of maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkList {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// The agent's run.
    pub agent_boot: Uuid,
    /// The networks, sorted by name.
    pub networks: Vec<NetworkState>,
}
