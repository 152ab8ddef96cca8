//! The encapsulating interface of the host: a VXLAN device (RFC 7348) for each virtual network, and a bridge that guests'
//! interfaces are plugged into, both as the network map says and in no other way.
//!
//! Nothing is learned and nothing is flooded between hosts: where an address is comes from the map only, ARP for an address
//! of the map is answered on the guest's own host, and a packet for an address that the map does not have is dropped and
//! counted. What is in effect is read from the kernel each time, so an agent that was killed half way begins where it
//! stood, and guests go on meanwhile.
//!
//! The kernel is spoken to by `ip` and `bridge` of iproute2: what they are given is names made of numbers, and addresses.

mod kernel;
mod service;
#[cfg(test)]
mod tests;

pub(crate) use service::{answer, list, provision};

use agent_protocol::{Endpoint, Mac, NETWORKS_MAX, NetworkMap, NetworkName, Text, Uuid, Vni, encode};
use kernel::{Device, Kernel};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard};

/// The port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// The part of the operator's file that concerns the network between hosts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overlay {
    /// This host's address on the network between hosts.
    underlay: Ipv4Addr,
    /// The UDP port of the packets between hosts.
    #[serde(default = "vxlan_port")]
    port: u16,
    /// The network namespace that all devices are in, if not the agent's own.
    namespace: Option<String>,
}

const fn vxlan_port() -> u16 {
    VXLAN_PORT
}

/// The virtual networks of this host.
pub(crate) struct Networks {
    kernel: Kernel,
    underlay: Ipv4Addr,
    port: u16,
    /// One change at a time, and what the last was ordered by.
    work: Mutex<Last>,
}

/// Which change was the last: the appliance that ordered it, and its number among those of that one.
#[derive(Default)]
struct Last(Option<(Uuid, u64)>);

/// Who orders a change: the epoch that was granted to it, and, of an appliance that says so, which one it is and the number
/// of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orderer {
    pub(crate) epoch: u64,
    pub(crate) order: Option<(Uuid, u64)>,
}

/// Leave to make one change: nobody else makes one meanwhile.
pub(crate) struct Turn<'a> {
    _work: MutexGuard<'a, Last>,
}

/// What is in effect of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InEffect {
    /// The generation, if it is in effect as a whole.
    pub(crate) generation: Option<u64>,
    pub(crate) endpoints: u32,
    pub(crate) unknown_destinations: u64,
    pub(crate) problem: Option<Text>,
}

impl InEffect {
    fn new(label: Label, endpoints: usize, unknown_destinations: u64) -> Self {
        Self {
            generation: label.is_whole.then_some(label.generation),
            endpoints: u32::try_from(endpoints).unwrap_or(u32::MAX),
            unknown_destinations,
            problem: None,
        }
    }
}

/// Why a map was not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A newer one is here, of this generation.
    Stale(u64),
    /// Another one of the same generation is here.
    Differs,
    /// Another network has this identifier.
    VniTaken(NetworkName),
    /// There are as many networks as there may be.
    Full,
    /// The kernel cannot be asked.
    Kernel(Text),
    /// Another appliance commands, or this one has started anew since.
    Replaced,
    /// Something that was ordered after it was done before it.
    Late,
}

/// What stands in the alias of a network's device: whose it is, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    network: NetworkName,
    generation: u64,
    digest: u64,
    is_whole: bool,
}

impl Label {
    fn of(map: &NetworkMap, is_whole: bool) -> Self {
        Self { network: map.network.clone(), generation: map.generation, digest: digest(map), is_whole }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("corbel ")?.split(' ');
        let (network, generation, digest, state) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_whole = match (state, words.next()) {
            ("whole", None) => true,
            ("begun", None) => false,
            _ => return None,
        };
        Some(Self {
            network: network.parse().ok()?,
            generation: generation.parse().ok()?,
            digest: u64::from_str_radix(digest, 16).ok()?,
            is_whole,
        })
    }

    fn text(&self) -> String {
        let state = if self.is_whole { "whole" } else { "begun" };
        format!("corbel {} {} {:016x} {state}", self.network, self.generation, self.digest)
    }
}

/// What tells one content of a map from another (FNV-1a): a mistake is to be seen, not an enemy, whom the connection keeps
/// away.
fn digest(map: &NetworkMap) -> u64 {
    encode(map)
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn device(vni: Vni) -> String {
    format!("cbx{}", vni.get())
}

fn bridge(vni: Vni) -> String {
    format!("cbb{}", vni.get())
}

/// Whether an agent was killed before it could say whose that is.
fn is_unfinished(device: &Device) -> bool {
    let number = device.name.strip_prefix("cbx").and_then(|number| number.parse().ok());
    device.alias.is_empty() && number.and_then(Vni::new).is_some()
}

/// The address of a network's bridge, which nobody speaks to. One of its own, because a bridge without one takes that of a
/// port, and forgets what it was told when the next port comes.
fn own_mac(vni: Vni) -> Mac {
    let [_, high, middle, low] = vni.get().to_be_bytes();
    Mac([0x0a, 0xcb, 0, high, middle, low])
}

impl Networks {
    /// The networks between hosts that the operator's file speaks of.
    ///
    /// # Errors
    /// What is missing for them.
    pub(crate) fn new(overlay: &Overlay) -> Result<Self, String> {
        let kernel = Kernel::new(overlay.namespace.as_deref())?;
        Ok(Self { kernel, underlay: overlay.underlay, port: overlay.port, work: Mutex::default() })
    }

    /// Wait for the turn of a change. What was ordered before another one comes never behind it: an order may have been on its
    /// way, or in front of a kernel that hung, while the appliance gave it up and ordered something else. `rule` says which
    /// epoch counts, and whose it is.
    pub(crate) fn turn(
        &self,
        by: Orderer,
        rule: impl FnOnce() -> (u64, Option<Uuid>),
    ) -> Result<Turn<'_>, Refused> {
        let mut work = crate::locked(&self.work);
        // Asked for with the turn taken: who has lost its place while it waited has lost it.
        let (epoch, holder) = rule();
        if by.epoch != epoch || by.order.is_some_and(|(appliance, _)| Some(appliance) != holder) {
            return Err(Refused::Replaced);
        }
        if let Some((appliance, number)) = by.order {
            if work.0.is_some_and(|(before, last)| before == appliance && number <= last) {
                return Err(Refused::Late);
            }
            work.0 = Some((appliance, number));
        }
        Ok(Turn { _work: work })
    }

    /// Bring a map into effect, unless it is out of date.
    pub(crate) fn apply(&self, map: &NetworkMap, _turn: &Turn<'_>) -> Result<InEffect, Refused> {
        let ours = self.ours().map_err(Refused::Kernel)?;
        self.admit(map, &ours)?;
        let begun = self.realise(map, &ours);
        let state = self.look(map.vni);
        // What was begun has changed something, whether the kernel can be asked what or not.
        let unseen =
            |what| InEffect { generation: None, endpoints: 0, unknown_destinations: 0, problem: Some(what) };
        let mut state = state.unwrap_or_else(unseen);
        if let Err(problem) = begun {
            log::warn!("network {}: generation {}: {problem}", map.network, map.generation);
            state.problem = Some(problem);
        } else {
            log::info!(
                "network {}: generation {} with {} interfaces",
                map.network,
                map.generation,
                map.endpoints.len()
            );
        }
        Ok(state)
    }

    /// What is in effect of a network; `None` if there is nothing of it.
    pub(crate) fn state(&self, network: &NetworkName) -> Result<Option<InEffect>, Text> {
        let ours = self.ours()?;
        let mine = ours.iter().find(|(_, label)| label.network == *network);
        mine.map(|(vni, _)| self.look(*vni)).transpose()
    }

    /// What is in effect of each network, sorted by name.
    pub(crate) fn states(&self) -> Result<BTreeMap<NetworkName, InEffect>, Text> {
        let devices = self.kernel.devices()?;
        let known = self.kernel.all_answered()?;
        let state = |device: Device| {
            let vni = Vni::new(device.name.strip_prefix("cbx")?.parse().ok()?)?;
            let endpoints = known.get(&bridge(vni)).copied().unwrap_or_default();
            let label = Label::parse(&device.alias)?;
            Some((label.network.clone(), InEffect::new(label, endpoints, device.dropped)))
        };
        Ok(devices.into_iter().filter_map(state).collect())
    }

    /// Remove a network. Answers whether there was one.
    pub(crate) fn remove(&self, network: &NetworkName, _turn: &Turn<'_>) -> Result<bool, Text> {
        let ours = self.ours()?;
        let mine: Vec<Vni> =
            ours.iter().filter(|(_, label)| label.network == *network).map(|(vni, _)| *vni).collect();
        for vni in &mine {
            self.dismantle(*vni)?;
        }
        Ok(!mine.is_empty())
    }

    /// The networks that have a device, by what it says of itself.
    fn ours(&self) -> Result<BTreeMap<Vni, Label>, Text> {
        let labelled = |device: Device| {
            let vni = Vni::new(device.name.strip_prefix("cbx")?.parse().ok()?)?;
            Some((vni, Label::parse(&device.alias)?))
        };
        Ok(self.kernel.devices()?.into_iter().filter_map(labelled).collect())
    }

    fn admit(&self, map: &NetworkMap, ours: &BTreeMap<Vni, Label>) -> Result<(), Refused> {
        if let Some(other) = ours.get(&map.vni).filter(|label| label.network != map.network) {
            return Err(Refused::VniTaken(other.network.clone()));
        }
        let mut mine = ours.values().filter(|label| label.network == map.network).peekable();
        if mine.peek().is_none() && ours.len() >= NETWORKS_MAX {
            return Err(Refused::Full);
        }
        for label in mine {
            if label.generation > map.generation {
                return Err(Refused::Stale(label.generation));
            }
            if label.generation == map.generation && label.digest != digest(map) {
                return Err(Refused::Differs);
            }
        }
        Ok(())
    }

    /// Make the kernel's devices and tables as the map says: what is new first, then away with what is not in it.
    fn realise(&self, map: &NetworkMap, ours: &BTreeMap<Vni, Label>) -> Result<(), Text> {
        let (device, bridge) = (device(map.vni), bridge(map.vni));
        self.kernel.ip(&self.building_of(map, &device, &bridge)?)?;
        self.kernel.bridge(&format!(
            "link set dev {device} learning off neigh_suppress on mcast_flood off bcast_flood off\n"
        ))?;
        let remote = |endpoint: &&Endpoint| endpoint.underlay != self.underlay;
        let places: BTreeMap<Mac, Ipv4Addr> =
            map.endpoints.iter().filter(remote).map(|endpoint| (endpoint.mac, endpoint.underlay)).collect();
        let addresses: BTreeSet<(Ipv4Addr, Mac)> =
            map.endpoints.iter().map(|endpoint| (endpoint.ip, endpoint.mac)).collect();
        let known = self.kernel.places(&device)?;
        let reachable = self.kernel.forwarded(&device)?;
        let answered = self.kernel.answered(&bridge)?;

        let (mut ip, mut fdb) = (String::new(), String::new());
        for (mac, underlay) in &places {
            if known.get(mac) != Some(underlay) {
                let _ = writeln!(fdb, "fdb replace {mac} dev {device} dst {underlay} self permanent");
            }
            if !reachable.contains(mac) {
                let _ = writeln!(fdb, "fdb replace {mac} dev {device} master static");
            }
        }
        for (address, mac) in addresses.difference(&answered) {
            let _ = writeln!(ip, "neigh replace {address} lladdr {mac} dev {bridge} nud permanent");
        }
        self.kernel.bridge(&fdb)?;
        self.kernel.ip(&ip)?;

        let (mut ip, mut fdb) = (String::new(), String::new());
        for mac in known.keys().filter(|mac| !places.contains_key(mac)) {
            let _ = writeln!(fdb, "fdb del {mac} dev {device} self");
        }
        for mac in reachable.iter().filter(|mac| !places.contains_key(mac)) {
            let _ = writeln!(fdb, "fdb del {mac} dev {device} master");
        }
        let wanted: BTreeSet<Ipv4Addr> = addresses.iter().map(|(address, _)| *address).collect();
        for (address, _) in answered.iter().filter(|(address, _)| !wanted.contains(address)) {
            let _ = writeln!(ip, "neigh del {address} dev {bridge}");
        }
        self.kernel.bridge(&fdb)?;
        self.kernel.ip(&ip)?;
        // The network has another number now.
        for (vni, label) in ours {
            if label.network == map.network && *vni != map.vni {
                self.dismantle(*vni)?;
            }
        }
        self.kernel.ip(&format!("link set dev {device} alias \"{}\"\n", Label::of(map, true).text()))
    }

    /// The commands by which a network's two devices are as they are to be, whatever there is of them. The label comes
    /// first: what has none was being made when an agent was killed, and is nobody's.
    fn building_of(&self, map: &NetworkMap, device: &str, bridge: &str) -> Result<String, Text> {
        let mut lines = String::new();
        let mut is_there = false;
        for other in self.kernel.devices()? {
            let is_it = other.name == device;
            let fits = other.local == Some(self.underlay) && other.port == Some(self.port);
            if is_it && Label::parse(&other.alias).is_some() && fits {
                is_there = true;
            } else if is_it || is_unfinished(&other) {
                let _ = writeln!(lines, "link del {}", other.name);
            }
        }
        if !is_there {
            let (vni, underlay, port) = (map.vni.get(), self.underlay, self.port);
            let _ = writeln!(
                lines,
                "link add {device} type vxlan id {vni} local {underlay} dstport {port} nolearning ttl 64"
            );
        }
        let _ = writeln!(lines, "link set dev {device} alias \"{}\"", Label::of(map, false).text());
        if !self.kernel.has(bridge)? {
            let _ = writeln!(
                lines,
                "link add {bridge} address {} type bridge mcast_snooping 0",
                own_mac(map.vni)
            );
        }
        let _ = write!(
            lines,
            "link set dev {device} mtu {mtu} addrgenmode none\n\
             link set dev {bridge} mtu {mtu} addrgenmode none\n\
             link set dev {device} master {bridge}\n\
             link set dev {bridge} up\n\
             link set dev {device} up\n",
            mtu = map.mtu,
        );
        Ok(lines)
    }

    fn dismantle(&self, vni: Vni) -> Result<(), Text> {
        self.kernel.remove(&bridge(vni))?;
        // The one with the label goes last.
        self.kernel.remove(&device(vni))
    }

    fn look(&self, vni: Vni) -> Result<InEffect, Text> {
        let name = device(vni);
        let device = self.kernel.devices()?.into_iter().find(|device| device.name == name);
        let label = device.as_ref().and_then(|device| Label::parse(&device.alias));
        let whole = label.filter(|label| label.is_whole);
        let bridge = bridge(vni);
        let answered = if self.kernel.has(&bridge)? { self.kernel.answered(&bridge)?.len() } else { 0 };
        Ok(InEffect {
            generation: whole.map(|label| label.generation),
            endpoints: u32::try_from(answered).unwrap_or(u32::MAX),
            unknown_destinations: device.map_or(0, |device| device.dropped),
            problem: None,
        })
    }
}
