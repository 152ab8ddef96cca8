//! Networks: the maps that are wanted, kept on the state disk, and what the agent has made of them.
//!
//! A map is taken whole, and only with a larger generation than the one before. It counts once it is kept; from then on
//! `steward.rs` sees to it that the agent has it, after each restart of either. A network that is to be gone stays known
//! until the agent says that it is.

mod record;

pub(crate) use record::Record;

use crate::Management;
use crate::answers::unanswered;
use crate::ask::{AgentError, LinkState, Reply};
use crate::desired::{Deed, What};
use crate::documents;
use crate::problem::{Kind, Problem};
use crate::route::{IfMatch, Page};
use agent_protocol::{
    InstanceId, NETWORKS_MAX, NetworkMap, NetworkName, NetworkState, Object, Text, Uuid, Vni, encode,
};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
use management_api::{
    ApiEvent, EventKind, NetworkApplied, NetworkCounters, NetworkDesired, NetworkDrops, NetworkPage,
    NetworkView,
};
use management_http::json::Bounds;
use management_http::{Request, Response};
use state::Records;

/// What the keys of maps begin with.
const OWNER: &str = "networks/";
/// How long the first wait is before the agent is told again, and the longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_LAST: Duration = Duration::from_secs(30);

/// The share of the state disk that they may take, one in so many: the rest is for what else is to be remembered.
const SHARE: usize = 4;

/// How many bytes of records the maps may take where so many operations are remembered. An interface takes 14.
pub const fn network_bytes(operations: usize) -> usize {
    operations * 256
}

/// The networks that are wanted, or that the host has.
pub(crate) struct Networks {
    pub(crate) known: BTreeMap<NetworkName, Known>,
    /// Bytes that all records may take.
    limit: usize,
    /// The run of the agent, and the epoch, that this was last compared with.
    pub(crate) run: Option<(Uuid, u64)>,
    /// When it is to be compared again.
    pub(crate) look: Option<Instant>,
    /// The number of the last order to the agent in this run.
    order: u64,
}

/// A network.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) wish: Wish,
    /// The record, where there is no state disk that has it.
    value: Vec<u8>,
    /// What is being kept of it: nothing else is begun meanwhile.
    keeping: Option<Wish>,
    pub(crate) seen: Option<Seen>,
    /// What keeps it from being as it is wanted.
    pub(crate) problem: Option<Text>,
    /// When the agent is to be told.
    pub(crate) due: Option<Instant>,
    pause: Duration,
    /// It was in effect when that was last told.
    settled: bool,
}

/// What is wanted of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nobody has said anything; the host has it.
    #[default]
    None,
    /// This map.
    Map(NetworkDesired),
    /// None any more, since a map of this generation.
    Gone(u64),
}

/// What the host has of a network, and when the agent said so.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    generation: Option<u64>,
    endpoints: u32,
    unknown_destinations: u64,
    at: Instant,
}

impl Wish {
    fn generation(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Map(desired) => desired.generation,
            Self::Gone(generation) => *generation,
        }
    }

    fn desired(&self) -> Option<NetworkDesired> {
        if let Self::Map(desired) = self { Some(*desired) } else { None }
    }

    /// Bytes of its record.
    fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Map(desired) => record::HEAD + desired.endpoints as usize * record::ENDPOINT,
            Self::Gone(_) => record::HEAD,
        }
    }
}

impl From<(&Record, bool)> for Wish {
    fn from((record, durable): (&Record, bool)) -> Self {
        match record {
            Record::Gone(generation) => Self::Gone(*generation),
            Record::Map(NetworkMap { generation, vni, mtu, endpoints, .. }) => Self::Map(NetworkDesired {
                generation: *generation,
                vni: *vni,
                mtu: *mtu,
                endpoints: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
                durable,
            }),
        }
    }
}

impl Seen {
    pub(crate) fn new(state: &NetworkState, at: Instant) -> Self {
        let NetworkState { applied: generation, endpoints, unknown_destinations, .. } = *state;
        Self { generation, endpoints, unknown_destinations, at }
    }

    fn view(&self, now: Instant) -> NetworkApplied {
        NetworkApplied {
            generation: self.generation,
            endpoints: self.endpoints,
            drops: NetworkDrops { unknown_destination: self.unknown_destinations },
            age_ms: u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Known {
    /// Whether it is wanted, or the host has it.
    pub(crate) fn is_there(&self) -> bool {
        self.wish != Wish::None || self.seen.is_some()
    }

    /// In what the host has it otherwise than it is wanted, by name.
    fn difference(&self) -> Vec<Text> {
        let fields = match (self.wish.desired(), &self.seen) {
            (Some(desired), Some(seen)) => [
                ("generation", seen.generation == Some(desired.generation)),
                ("endpoints", seen.endpoints == desired.endpoints),
            ],
            _ => [("map", false), ("", true)],
        };
        fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| Text::new(name)).collect()
    }

    /// Whether the host has it as it is wanted.
    pub(crate) fn is_settled(&self) -> bool {
        self.wish == Wish::None || self.difference().is_empty()
    }

    fn view(&self, id: &NetworkName, now: Instant) -> NetworkView {
        NetworkView {
            id: id.clone(),
            desired: self.wish.desired(),
            applied: self.seen.as_ref().map(|seen| seen.view(now)),
            difference: self.difference(),
            problems: self.problem.clone().into_iter().collect(),
            map: None,
        }
    }

    /// What is wanted, and what is being kept in its place: until that is done either may be what counts.
    fn wishes(&self) -> impl Iterator<Item = Wish> {
        [Some(self.wish), self.keeping].into_iter().flatten()
    }

    fn has(&self, vni: Vni) -> bool {
        self.wishes().any(|wish| wish.desired().is_some_and(|desired| desired.vni == vni))
    }

    /// Bytes that its record may take.
    fn bytes(&self) -> usize {
        self.wishes().map(|wish| wish.bytes()).max().unwrap_or(0)
    }

    pub(crate) fn is_being_kept(&self) -> bool {
        self.keeping.is_some()
    }

    /// What was tried has not come about, for this reason: again in a while. Answers whether that is news.
    pub(crate) fn failed(&mut self, why: &str, now: Instant) -> bool {
        self.pause = (self.pause * 2).clamp(AGAIN, AGAIN_LAST);
        self.due = self.due.or(Some(now + self.pause));
        self.settled = false;
        let why = Some(Text::new(why));
        let is_news = self.problem != why;
        self.problem = why;
        is_news
    }

    /// The agent has said how it is.
    pub(crate) fn note(&mut self, state: &NetworkState, now: Instant) {
        self.seen = Some(Seen::new(state, now));
    }

    /// It is as it is wanted. Answers whether that is news.
    pub(crate) fn succeeded(&mut self) -> bool {
        (self.pause, self.problem) = (Duration::ZERO, None);
        !core::mem::replace(&mut self.settled, true)
    }
}

impl Networks {
    /// What was kept.
    pub(crate) fn new(records: Option<&Records>, limit: usize, now: Instant) -> Self {
        let mut known = BTreeMap::new();
        let mut limit = limit;
        if let Some(records) = records {
            limit = limit.min(records.room() / SHARE);
            records.each(OWNER.as_bytes(), |key, value| match read(key, value) {
                Some((name, record)) => {
                    let wish = Wish::from((&record, true));
                    known.insert(name, Known { wish, due: Some(now), ..Known::default() });
                }
                None => log::error!("a record of a network cannot be read; it is left as it is"),
            });
        }
        Self { known, limit, run: None, look: None, order: 0 }
    }

    /// The number of the next order to the agent: one is on its way at a time, so that each is behind those before it.
    pub(crate) fn order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Bytes that the records take.
    fn bytes(&self) -> usize {
        self.known.values().map(Known::bytes).sum()
    }

    /// Whether there is room for a map and nothing stands against it.
    fn admit(&self, map: &NetworkMap, bytes: usize) -> Result<(), Problem> {
        let others = || self.known.iter().filter(|(name, _)| **name != map.network);
        if let Some((other, _)) = others().find(|(_, known)| known.has(map.vni)) {
            return Err(Problem::new(
                Kind::VniTaken,
                format!("Network {other} has the vni {}.", map.vni.get()),
            ));
        }
        if others().filter(|(_, known)| known.wishes().any(|wish| wish != Wish::None)).count() >= NETWORKS_MAX
        {
            return Err(Problem::new(
                Kind::NoCapacity,
                format!("There are {NETWORKS_MAX} networks already."),
            ));
        }
        let taken: usize = others().map(|(_, known)| known.bytes()).sum();
        if taken + bytes > self.limit {
            let left = self.limit.saturating_sub(taken + record::HEAD) / record::ENDPOINT;
            let detail = format!("The maps of this machine have room for {left} more interfaces.");
            return Err(Problem::new(Kind::NoCapacity, detail));
        }
        Ok(())
    }
}

fn key(name: &NetworkName) -> String {
    format!("{OWNER}{name}")
}

fn read(key: &[u8], value: &[u8]) -> Option<(NetworkName, Record)> {
    let name = core::str::from_utf8(key).ok()?.strip_prefix(OWNER)?.parse().ok()?;
    let record = Record::decode(&name, value)?;
    Some((name, record))
}

fn unknown(name: &NetworkName) -> Problem {
    Problem::new(Kind::UnknownNetwork, format!("There is no network {name}."))
}

impl Management {
    /// The record of a network, as it is kept.
    pub(crate) fn network_record(&self, name: &NetworkName) -> Option<Record> {
        match &self.state {
            Some(records) => Record::decode(name, &records.get(key(name).as_bytes())?),
            None => Record::decode(name, &self.networks.borrow().known.get(name)?.value),
        }
    }

    /// `PUT /v1/networks/{id}/map`
    pub(crate) fn want_map(
        &self,
        name: NetworkName,
        dry: bool,
        if_match: IfMatch,
        request: &Request<'_>,
    ) -> Result<Result<Deed, Response>, Problem> {
        self.may_change()?;
        let map: NetworkMap = documents::parse_within(request, &Bounds::MAP)?;
        if map.network != name {
            return Err(Problem::new(Kind::InvalidField, "network: another one than the path names"));
        }
        let there = self.network_record(&name);
        let generation = map.generation;
        let record = Record::Map(map);
        let stale = match &there {
            Some(Record::Map(before)) => {
                generation < before.generation
                    || generation == before.generation && there.as_ref() != Some(&record)
            }
            Some(Record::Gone(before)) => generation <= *before,
            None => false,
        };
        let current = there.as_ref().map_or(0, |record| Wish::from((record, false)).generation());
        let is_new = !matches!(there, Some(Record::Map(_)));
        self.matches(if is_new { 0 } else { current }, if_match)?;
        if stale {
            let detail = format!("Another map of generation {current} is there, or was until now.");
            return Err(Problem::new(Kind::StaleGeneration, detail));
        }
        let value = record.encode();
        if let Record::Map(map) = &record {
            self.networks.borrow().admit(map, value.len())?;
        }
        self.keep_network(name, &record, value, is_new, dry, request.path)
    }

    /// `DELETE /v1/networks/{id}/map`
    pub(crate) fn unwant_map(
        &self,
        name: NetworkName,
        dry: bool,
        if_match: IfMatch,
        path: &str,
    ) -> Result<Result<Deed, Response>, Problem> {
        self.may_change()?;
        let known = self.networks.borrow().known.get(&name).map(|known| (known.wish, known.seen));
        let (there, seen) = known.ok_or_else(|| unknown(&name))?;
        let current = there.desired().map_or(0, |desired| desired.generation);
        self.matches(current, if_match)?;
        // What the host has may be newer than what was wanted here, and an older map can never come into effect over it.
        let has = seen.and_then(|seen| seen.generation).unwrap_or(0);
        let record = Record::Gone(there.generation().max(has));
        let value = record.encode();
        self.keep_network(name, &record, value, false, dry, path)
    }

    fn keep_network(
        &self,
        name: NetworkName,
        record: &Record,
        value: Vec<u8>,
        is_new: bool,
        dry: bool,
        path: &str,
    ) -> Result<Result<Deed, Response>, Problem> {
        let wish = Wish::from((record, self.state.is_some()));
        let mut networks = self.networks.borrow_mut();
        let there = networks.known.get(&name);
        if dry {
            let seen = there.and_then(|known| known.seen);
            let would = Known { wish, seen, ..Known::default() };
            return Ok(Err(Response::json(200, encode(&would.view(&name, self.clock.now())))));
        }
        if there.is_some_and(|known| known.keeping.is_some()) {
            return Err(Problem::new(
                Kind::TooBusy,
                "Something else of this network is being kept just now.",
            ));
        }
        networks.known.entry(name.clone()).or_default().keeping = Some(wish);
        let what = What::Network(Box::new(NetworkDeed {
            name: name.clone(),
            wish,
            value: if self.state.is_some() { Vec::new() } else { value.clone() },
            is_new,
        }));
        Ok(Ok(Deed::new(key(&name), value, what, path)))
    }

    /// It is kept: now it counts.
    pub(crate) fn network_kept(&self, deed: &NetworkDeed) -> Response {
        let NetworkDeed { name, wish, value, is_new } = deed;
        let now = self.clock.now();
        let mut networks = self.networks.borrow_mut();
        let known = networks.known.entry(name.clone()).or_default();
        let is_news = known.wish != *wish;
        (known.keeping, known.wish, known.value) = (None, *wish, value.clone());
        (known.due, known.pause, known.problem) = (Some(now), Duration::ZERO, None);
        known.settled &= !is_news;
        let body = encode(&known.view(name, now));
        drop(networks);
        let (status, words) = match wish {
            Wish::Map(_) => (if *is_new { 201 } else { 200 }, "wanted"),
            _ => (202, "not wanted any more"),
        };
        if is_news {
            self.network_happened(name, wish.generation(), words);
        }
        self.tending.raise();
        let location = (status == 201).then(|| format!("/v1/{OWNER}{name}/map"));
        Response { location, ..Response::json(status, body) }
    }

    /// It could not be kept.
    pub(crate) fn network_undone(&self, deed: &NetworkDeed) {
        let mut networks = self.networks.borrow_mut();
        if let Some(known) = networks.known.get_mut(&deed.name) {
            known.keeping = None;
            if !known.is_there() {
                networks.known.remove(&deed.name);
            }
        }
    }

    /// Something has become of a network.
    pub(crate) fn network_happened(&self, name: &NetworkName, generation: u64, words: &str) {
        let event = self.event(EventKind::Network, name.as_str().parse().ok());
        let generation = (generation > 0).then_some(generation);
        self.happened(ApiEvent { generation, detail: Some(Text::new(words)), ..event });
    }

    /// The host has no such network any more: it may be forgotten, once that is kept.
    pub(crate) async fn network_is_gone(&self, name: &NetworkName) {
        let is_to_go = {
            let mut networks = self.networks.borrow_mut();
            networks.known.get_mut(name).is_some_and(|known| {
                known.seen = None;
                let is_to_go = matches!(known.wish, Wish::Gone(_)) && known.keeping.is_none();
                if is_to_go {
                    known.keeping = Some(known.wish);
                }
                is_to_go
            })
        };
        if !is_to_go {
            return;
        }
        let kept = match &self.state {
            Some(records) => records.keep(&[state::Change::Delete(key(name).as_bytes())]).await,
            None => Ok(()),
        };
        let mut networks = self.networks.borrow_mut();
        let Some(known) = networks.known.get_mut(name) else { return };
        known.keeping = None;
        if let Err(error) = kept {
            known.failed(&format!("The state disk: {error}."), self.clock.now());
            return;
        }
        let generation = known.wish.generation();
        networks.known.remove(name);
        drop(networks);
        self.network_happened(name, generation, "gone from the host");
    }

    /// `GET /v1/networks`
    pub(crate) fn network_page(&self, page: &Page) -> Response {
        let now = self.clock.now();
        let networks = self.networks.borrow();
        let after = page.after.as_ref().map(InstanceId::as_str);
        let mut later = networks
            .known
            .iter()
            .filter(|(name, known)| known.is_there() && after.is_none_or(|after| name.as_str() > after));
        let shown: Vec<NetworkView> =
            later.by_ref().take(page.limit).map(|(name, known)| known.view(name, now)).collect();
        let last = shown.last().and_then(|view| view.id.as_str().parse().ok());
        let next = if later.next().is_some() { last } else { None };
        Response::json(200, encode(&NetworkPage { networks: shown, next }))
    }

    /// `GET /v1/networks/{id}/map`, once the agent was asked or cannot be.
    pub(crate) fn network(
        &self,
        name: &NetworkName,
        reply: Result<Reply, AgentError>,
    ) -> Result<Response, Problem> {
        let now = self.clock.now();
        let mut networks = self.networks.borrow_mut();
        let mut trouble = None;
        match reply {
            Ok(Reply::Network(state)) => networks.known.entry(name.clone()).or_default().note(&state, now),
            Ok(_) => {
                if let Some(known) = networks.known.get_mut(name) {
                    known.seen = None;
                }
            }
            // That the host has it no more is only known from the agent: one that could not be asked has not said so.
            Err(error) if !networks.known.get(name).is_some_and(Known::is_there) => {
                return Err(unanswered(&error));
            }
            Err(error) => trouble = Some(Text::new(&error.to_string())),
        }
        let known = networks.known.get(name).filter(|known| known.is_there());
        let mut view = known.ok_or_else(|| unknown(name))?.view(name, now);
        if !view.problems.iter().any(|problem| Some(problem) == trouble.as_ref()) {
            view.problems.extend(trouble);
        }
        drop(networks);
        view.map = match self.network_record(name) {
            Some(Record::Map(map)) => Some(Object(map)),
            _ => None,
        };
        Ok(Response::json(200, encode(&view)))
    }

    /// `GET /v1/networks/{id}/counters`
    pub(crate) fn network_counters(
        &self,
        name: &NetworkName,
        reply: Result<Reply, AgentError>,
    ) -> Result<Response, Problem> {
        let state = match reply {
            Ok(Reply::Network(state)) => state,
            Ok(_) => return Err(unknown(name)),
            Err(error) => return Err(unanswered(&error)),
        };
        let now = self.clock.now();
        self.networks.borrow_mut().known.entry(name.clone()).or_default().note(&state, now);
        let drops = NetworkDrops { unknown_destination: state.unknown_destinations };
        Ok(Response::json(200, encode(&NetworkCounters { id: name.clone(), drops })))
    }

    /// Whether what the agent is to carry out can be taken at all.
    pub(crate) fn may_change(&self) -> Result<(), Problem> {
        match self.forward.state() {
            LinkState::NotConfigured => Err(unanswered(&AgentError::NotConfigured)),
            LinkState::Superseded => {
                let detail = "The agent takes no commands from this appliance any more.";
                Err(Problem::new(Kind::StaleEpoch, detail))
            }
            _ => Ok(()),
        }
    }

    /// Add how it is with networks to the figures for Prometheus.
    pub(crate) fn network_figures(&self, text: &mut String) {
        let networks = self.networks.borrow();
        let wanted = || networks.known.iter().filter(|(_, known)| known.wish != Wish::None);
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let figures = [
            ("corbel_networks", count(wanted().count())),
            ("corbel_networks_not_applied", count(wanted().filter(|(_, known)| !known.is_settled()).count())),
            ("corbel_network_map_bytes", count(networks.bytes())),
            ("corbel_network_map_bytes_limit", count(networks.limit)),
        ];
        for (name, value) in figures {
            text.push_str(&format!("# TYPE {name} gauge\n{name} {value}\n"));
        }
        let seen = || networks.known.iter().filter_map(|(name, known)| Some((name, known.seen.as_ref()?)));
        text.push_str("# TYPE corbel_network_endpoints gauge\n");
        for (name, seen) in seen() {
            text.push_str(&format!("corbel_network_endpoints{{network=\"{name}\"}} {}\n", seen.endpoints));
        }
        text.push_str("# TYPE corbel_network_dropped_packets_total counter\n");
        for (name, seen) in seen() {
            text.push_str(&format!(
                "corbel_network_dropped_packets_total{{network=\"{name}\",reason=\"unknown-destination\"}} {}\n",
                seen.unknown_destinations
            ));
        }
    }
}

/// A change of what is wanted of a network.
#[derive(Debug)]
pub(crate) struct NetworkDeed {
    name: NetworkName,
    wish: Wish,
    /// The record, where there is no state disk.
    value: Vec<u8>,
    is_new: bool,
}
