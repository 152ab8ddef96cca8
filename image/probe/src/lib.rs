//! Which NIC is on which network, found out by asking on each who is there.
//!
//! Of a network with an address of its own somebody is known: the router, the storage services, the agent. On each NIC is
//! asked for all of them, by ARP probes, which claim no address of ours on a network that may be the other one (RFC 5227
//! section 2.1.1); of a network that gives us our address, by DHCP (RFC 2131), which server there is. Whoever speaks up from
//! inside a network's prefix, asked or not, shows where that network is. Each network has to be heard, unless its NIC is named
//! or the other's is: that one was heard on a NIC says nothing about the other NIC, for a host may answer on any of its networks
//! for its address on another (Linux does), and anybody on the provider's network for the host. Where the answers contradict
//! each other the boot stops; where there are none it waits. Nothing is guessed.
//!
//! Frames and a time go in, frames and a verdict come out.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod frames;
pub mod metadata;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::Ipv4Addr;
use core::time::Duration;
use kernel_runtime::Instant;
use network::Cidr;
use network_nic::{Nic, RxToken, TxToken};

/// Neighbours of one network that are asked for.
const MOST_ASKED: usize = 8;
/// NICs that are looked at; who has more leaves the others away.
pub const MOST_NICS: usize = 16;
/// Between the first rounds of questions, and how many these are; between all others.
const SOON: Duration = Duration::from_millis(250);
const ROUNDS: u32 = 8;
const LATER: Duration = Duration::from_secs(2);
/// How long something that contradicts may take to come: a neighbour answers at once, or when it is asked for the second time;
/// a DHCP server likes to look first whether an address is free.
const NEIGHBOUR: Duration = Duration::from_millis(300);
const SERVER: Duration = Duration::from_secs(2);
/// When it is said for the first time that nobody answers, and how often from then on.
const PATIENCE: Duration = Duration::from_secs(3);
const REMINDER: Duration = Duration::from_secs(30);
/// Frames taken from one NIC before the others have their turn.
const FRAMES: usize = 64;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The two networks.
const HOST: usize = 0;
const SERVICE: usize = 1;
const NAMES: [&str; 2] = ["host-only", "service"];

/// What is known of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Our own address there; `None` for one that DHCP gives.
    own: Option<Cidr>,
    /// Neighbours that may be there.
    neighbours: Vec<Ipv4Addr>,
    /// The NIC that the configuration names.
    named: Option<usize>,
}

/// One NIC, and what was heard there.
struct Place {
    mac: Mac,
    /// Somebody from inside the prefix of each network.
    heard: [bool; 2],
    /// An offer of an address that is in neither's prefix.
    offered: bool,
}

/// What is known so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough; something may have to be asked at that time.
    Waiting(Instant),
    /// The places of the NIC of the host-only and of the service network.
    Decided(usize, usize),
    /// It makes no sense: a sentence that names the keys that end it.
    Contradiction(String),
}

/// The asking.
pub struct Probe {
    networks: [Network; 2],
    places: Vec<Place>,
    /// Which DHCP answers are for us.
    transaction: u32,
    rounds: u32,
    next: Instant,
    /// What it comes to if nothing contradicts until then.
    settling: Option<((usize, usize), Instant)>,
    complains: Instant,
}

impl Probe {
    /// Find out on which of the NICs with these addresses the host-only and the service network are. The number is one of
    /// this boot, at random.
    ///
    /// # Errors
    /// A sentence, where nothing that is answered could tell.
    pub fn new(networks: [Network; 2], macs: &[Mac], transaction: u32, now: Instant) -> Result<Self, String> {
        let place = |mac: &Mac| Place { mac: *mac, heard: [false; 2], offered: false };
        let probe = Self {
            networks,
            places: macs.iter().take(MOST_NICS).map(place).collect(),
            transaction,
            rounds: 0,
            next: now,
            settling: None,
            complains: now + PATIENCE,
        };
        if probe.networks.iter().all(|network| network.own.is_none() && network.named.is_none()) {
            let reason =
                "both networks have their address by DHCP, so nobody's answer could tell one from the other";
            return Err(probe.contradiction(reason));
        }
        Ok(probe)
    }

    /// The questions that are due, each with the place of the NIC that it goes to.
    pub fn ask(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        let mut questions = Vec::new();
        if now < self.next {
            return questions;
        }
        self.rounds = self.rounds.saturating_add(1);
        self.next = now + if self.rounds < ROUNDS { SOON } else { LATER };
        for (index, place) in self.places.iter().enumerate() {
            for network in &self.networks {
                match network.own {
                    _ if network.named.is_some() => {}
                    Some(_) => {
                        let frames =
                            network.neighbours.iter().map(|address| frames::arp(place.mac, *address));
                        questions.extend(frames.map(|frame| (index, frame)));
                    }
                    None => questions.push((index, frames::discover(place.mac, self.transaction))),
                }
            }
        }
        if now >= self.complains {
            self.complains = now + REMINDER;
            log::warn!("{}", self.contradiction(&format!("nobody has answered yet: {}", self.asked())));
        }
        questions
    }

    /// A frame that has come by the NIC at `place`.
    pub fn heard(&mut self, place: usize, frame: &[u8]) {
        let macs: [Mac; MOST_NICS] =
            core::array::from_fn(|index| self.places.get(index).map_or([0; 6], |place| place.mac));
        let Some(place) = self.places.get_mut(place) else { return };
        let inside = |network: &Network, address: Ipv4Addr| {
            network
                .own
                .is_some_and(|own| own.contains(address) && own.address != address && is_host(own, address))
        };
        if let Some((mac, address)) = frames::speaker(frame) {
            // One of ours that hears the other is no neighbour.
            if macs.contains(&mac) {
                return;
            }
            for (heard, network) in place.heard.iter_mut().zip(&self.networks) {
                *heard |= inside(network, address);
            }
        } else if let Some(address) = frames::offer(frame, place.mac, self.transaction) {
            let mut is_known = false;
            for (heard, network) in place.heard.iter_mut().zip(&self.networks) {
                let is_there = network.own.is_some_and(|own| own.contains(address));
                *heard |= is_there;
                is_known |= is_there;
            }
            place.offered |= !is_known;
        }
    }

    /// What is known at that time.
    pub fn verdict(&mut self, now: Instant) -> Verdict {
        let found = [HOST, SERVICE].map(|network| self.find(network));
        let [host, service] = match found {
            [Ok(host), Ok(service)] => [host, service],
            [Err(reason), _] | [_, Err(reason)] => {
                return Verdict::Contradiction(self.contradiction(&reason));
            }
        };
        let other = |network: usize, one: usize| {
            (self.places.len() == 2 && self.networks[network].named.is_some()).then(|| 1 - one)
        };
        let pair = match (host, service) {
            (Some(host), Some(service)) if host == service => {
                let reason = format!("both networks answer by the NIC {}", Shown(&self.places[host].mac));
                return Verdict::Contradiction(self.contradiction(&reason));
            }
            (Some(host), Some(service)) => Some((host, service)),
            (Some(host), None) => other(HOST, host).map(|service| (host, service)),
            (None, Some(service)) => other(SERVICE, service).map(|host| (host, service)),
            (None, None) => None,
        };
        let Some(pair) = pair else {
            self.settling = None;
            return Verdict::Waiting(self.next);
        };
        let settling = match self.settling {
            Some((before, until)) if before == pair => until,
            _ => {
                let is_neighbour = self.places[pair.0].heard[HOST] || self.places[pair.1].heard[SERVICE];
                now + if is_neighbour { NEIGHBOUR } else { SERVER }
            }
        };
        self.settling = Some((pair, settling));
        if now >= settling {
            Verdict::Decided(pair.0, pair.1)
        } else {
            Verdict::Waiting(settling.min(self.next))
        }
    }

    /// The one NIC that a network was heard on, if any.
    fn find(&self, network: usize) -> Result<Option<usize>, String> {
        let [this, other] = [&self.networks[network], &self.networks[1 - network]];
        if this.named.is_some() {
            return Ok(this.named);
        }
        let mut found = None;
        for (index, place) in self.places.iter().enumerate().filter(|(index, _)| other.named != Some(*index))
        {
            let is_here = match this.own {
                Some(_) => place.heard[network],
                // Whose neighbours are here has no say about the other.
                None => place.offered && !place.heard[1 - network],
            };
            if !is_here {
                continue;
            }
            if let Some(before) = found.replace(index) {
                let [one, two] = [before, index].map(|index| Shown(&self.places[index].mac));
                return Err(format!("the {} network answers by two NICs, {one} and {two}", NAMES[network]));
            }
        }
        Ok(found)
    }

    /// A sentence with what to do about it.
    fn contradiction(&self, reason: &str) -> String {
        let macs: Vec<Mac> = self.places.iter().map(|place| place.mac).collect();
        format!(
            "configuration: host.mac and service.mac say which NIC is on which network ({}); {reason}",
            list(&macs)
        )
    }

    /// Who is being asked for and was not heard.
    fn asked(&self) -> String {
        let mut text = String::new();
        for (number, (name, network)) in NAMES.iter().zip(&self.networks).enumerate() {
            if self.find(number) != Ok(None) {
                continue;
            }
            let who = match network.own {
                None => "a DHCP server".to_string(),
                Some(_) => {
                    let all: Vec<String> = network.neighbours.iter().map(ToString::to_string).collect();
                    all.join(" and ")
                }
            };
            let and = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{and}{who} of the {name} network");
        }
        text
    }
}

impl Network {
    /// The network on which we have the address `own`, or else one by DHCP, with neighbours that are known, of which those
    /// elsewhere are left out; `named` is the place of its NIC, if that is known.
    pub fn new(own: Option<Cidr>, named: Option<usize>, known: &mut dyn Iterator<Item = Ipv4Addr>) -> Self {
        let mut neighbours = Vec::new();
        if let Some(own) = own {
            // Whoever made the network has its first address more often than not.
            let bits = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
            let first = Ipv4Addr::from_bits((own.address.to_bits() & bits).wrapping_add(1));
            for address in known.chain([first]) {
                let is_new =
                    own.contains(address) && address != own.address && !neighbours.contains(&address);
                if is_new && is_host(own, address) && neighbours.len() < MOST_ASKED {
                    neighbours.push(address);
                }
            }
        }
        Self { own, neighbours, named }
    }
}

/// Whether a host of that network can have the address.
fn is_host(network: Cidr, address: Ipv4Addr) -> bool {
    Cidr { address, prefix: network.prefix }.is_host()
}

/// Ask on all NICs until it is known which is on which network. Answers the places of the host-only and of the service
/// network's. `rest` is called once in each turn, however much there is to hear: it sees to what is beside this, and if there
/// is nothing to do until some time sleeps until then, or until a NIC wakes it.
///
/// # Errors
/// What [`Verdict::Contradiction`] says.
pub fn find<N: Nic>(
    nics: &mut [N],
    probe: &mut Probe,
    now: &dyn Fn() -> Instant,
    rest: &mut dyn FnMut(Option<Instant>),
) -> Result<(usize, usize), String> {
    loop {
        let time = now();
        let stamp = network_nic::Instant::from_micros(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
        for (place, frame) in probe.ask(time) {
            // What a NIC has no room for is asked again.
            if let Some(token) = nics.get_mut(place).and_then(|nic| nic.transmit(stamp)) {
                token.consume(frame.len(), |room| room.copy_from_slice(&frame));
            }
        }
        let mut is_quiet = true;
        for (place, nic) in nics.iter_mut().enumerate() {
            for _ in 0..FRAMES {
                let Some((frame, _)) = nic.receive(stamp) else { break };
                frame.consume(|frame| probe.heard(place, frame));
                is_quiet = false;
            }
            nic.flush();
        }
        match probe.verdict(time) {
            Verdict::Decided(host, service) => return Ok((host, service)),
            Verdict::Contradiction(reason) => return Err(reason),
            Verdict::Waiting(until) => {
                let is_idle = is_quiet && !nics.iter_mut().fold(false, |waits, nic| nic.arm() | waits);
                let rests = nics.iter().filter_map(Nic::rests_until);
                let rests = rests.map(|at| Instant::from_micros(at.total_micros().max(0) as u64));
                rest(is_idle.then(|| rests.fold(until, Instant::min).max(time)));
            }
        }
    }
}

/// An Ethernet address, as people write it.
pub struct Shown<'a>(pub &'a Mac);

impl core::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What NICs there are.
pub fn list(macs: &[Mac]) -> String {
    if macs.is_empty() {
        return "none".into();
    }
    let mut text = String::from("there are");
    for (index, mac) in macs.iter().enumerate() {
        let separator = if index == 0 { " " } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{}", Shown(mac));
    }
    text
}
