//! The steward: sees to it that the agent has the networks as they are wanted, and hears of what happens to instances by
//! themselves.
//!
//! One task, which asks one thing at a time: of the links that carry commands it holds one at most, and never for long.

use crate::Management;
use crate::ask::{AgentError, LinkState, Question, Reply};
use crate::networks::{Record, Wish};
use crate::operations::Stage;
use agent_protocol::{Event, EventKind as Change, EventPage, NetworkName, Text, Uuid};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::time::Duration;
use kernel_runtime::{Instant, earliest, with_deadline};
use management_api::{ApiEvent, EventKind};

/// How long the agent may take for one thing: a map of many interfaces is work.
const TIME: Duration = Duration::from_secs(10);
/// How often it is asked what it has of the networks.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is asked what has happened: while somebody listens, and else.
const LISTEN: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(5);
/// The same behind a page of events. What else is to be asked has its turn between two, whatever the agent has to tell.
const MORE: Duration = Duration::from_millis(50);
/// What is asked after to hear only of what happens from now on.
const FROM_NOW_ON: u64 = u64::MAX;

/// How far the agent's events are told.
#[derive(Default)]
pub(crate) struct Relay {
    /// The run that they are of.
    run: Option<Uuid>,
    /// The number of the last that was told.
    after: u64,
    /// When they were asked for last; `None` to ask at once.
    asked: Option<Instant>,
    /// The last page had some, so that there may be more of them already.
    more: bool,
}

/// What is to be asked next.
enum Errand {
    Events(Uuid, u64),
    Look,
    Put(NetworkName, Question),
    Remove(NetworkName),
}

/// Tend the networks and relay the agent's events, for ever.
pub async fn tend(management: Rc<Management>) {
    tend_for(&management).await;
}

pub(crate) async fn tend_for(management: &Management) {
    loop {
        let now = management.clock.now();
        let errand = match management.errand(now) {
            Ok(errand) => errand,
            Err(next) => {
                let stirred = management.tending.wait();
                match next {
                    Some(next) => drop(with_deadline(&management.clock, next, stirred).await),
                    None => stirred.await,
                }
                continue;
            }
        };
        let question = match &errand {
            Errand::Events(_, after) => Question::Events(*after),
            Errand::Look => Question::Networks,
            Errand::Put(_, question) => question.clone(),
            Errand::Remove(name) => Question::RemoveNetwork(name.clone()),
        };
        let reply = management.forward.ask(question, now + TIME).await;
        management.ran(errand, reply).await;
    }
}

impl Management {
    /// What is to be asked now, or when to come again.
    fn errand(&self, now: Instant) -> Result<Errand, Option<Instant>> {
        let peer = self.forward.peer.get().filter(|_| self.forward.state() == LinkState::Up);
        let Some(peer) = peer else { return Err(None) };
        let mut relay = self.relay.borrow_mut();
        if relay.run != Some(peer.boot) {
            // Of the first run only what comes from now on: what was before, no listener of this appliance has missed. Of
            // another one all; the last events of the run before are lost.
            let is_first = relay.run.is_none();
            let after = if is_first { FROM_NOW_ON } else { 0 };
            *relay = Relay { run: Some(peer.boot), after, asked: None, more: false };
            if !is_first {
                self.may_have_missed("the agent has started anew");
            }
        }
        let pause = match relay.more {
            true => MORE,
            false if self.slots.is_waited_in() => LISTEN,
            false => IDLE,
        };
        let due = relay.asked.map_or(now, |asked| asked + pause);
        if due <= now {
            (relay.asked, relay.more) = (Some(now), false);
            return Ok(Errand::Events(peer.boot, relay.after));
        }
        drop(relay);
        let mut networks = self.networks.borrow_mut();
        let run = Some((peer.boot, peer.epoch));
        if networks.run != run {
            (networks.run, networks.look) = (run, Some(now));
            networks.known.values_mut().filter(|known| known.wish != Wish::None).for_each(|known| {
                known.due = Some(now);
            });
        }
        if networks.look.is_some_and(|look| look <= now) {
            networks.look = None;
            return Ok(Errand::Look);
        }
        let next = earliest(Some(due), networks.look);
        // The one that has been due for longest: those that hang are not to keep out those behind them in the alphabet.
        let due = networks.known.iter_mut().filter(|(_, known)| known.due.is_some());
        let Some((name, known)) = due.min_by_key(|(_, known)| known.due) else { return Err(next) };
        if known.due.is_some_and(|due| due > now) {
            return Err(earliest(next, known.due));
        }
        known.due = None;
        let name = name.clone();
        drop(networks);
        Ok(match self.network_record(&name) {
            Some(Record::Map(map)) => Errand::Put(name, Question::PutNetwork(Box::new(map))),
            _ => Errand::Remove(name),
        })
    }

    /// It was asked, and this came back.
    async fn ran(&self, errand: Errand, reply: Result<Reply, AgentError>) {
        if let Errand::Events(..) = errand {
            // The pause is one behind the answer: else one that takes long would be asked for again before anything else.
            self.relay.borrow_mut().asked = Some(self.clock.now());
        }
        match (errand, reply) {
            (Errand::Events(run, after), Ok(Reply::Events(page))) => self.relay(run, after, page),
            (Errand::Events(..), _) => {}
            (Errand::Look, reply) => self.looked(reply),
            (Errand::Remove(name), Ok(Reply::NoNetwork)) => self.network_is_gone(&name).await,
            (Errand::Put(name, _), Ok(Reply::Network(state))) => {
                let now = self.clock.now();
                let mut networks = self.networks.borrow_mut();
                let Some(known) = networks.known.get_mut(&name) else { return };
                known.note(&state, now);
                if known.due.is_some() {
                    // Something else is wanted since.
                    return;
                }
                let (generation, is_settled) = (state.applied.unwrap_or(0), known.is_settled());
                let why = state.problems.first().map_or("It is not in effect yet.", Text::as_str);
                let is_news = if is_settled { known.succeeded() } else { known.failed(why, now) };
                let words = if is_settled { "in effect" } else { why };
                drop(networks);
                if is_news {
                    self.network_happened(&name, generation, words);
                }
            }
            (Errand::Put(name, _) | Errand::Remove(name), reply) => {
                let why = match reply {
                    Err(error) => error.to_string(),
                    Ok(_) => "The agent answered another question.".into(),
                };
                let now = self.clock.now();
                let mut networks = self.networks.borrow_mut();
                let is_news = networks.known.get_mut(&name).is_some_and(|known| known.failed(&why, now));
                drop(networks);
                if is_news {
                    log::warn!("network {name}: {why}");
                    self.network_happened(&name, 0, &why);
                }
            }
        }
    }

    /// What the host has of the networks.
    fn looked(&self, reply: Result<Reply, AgentError>) {
        let now = self.clock.now();
        let mut networks = self.networks.borrow_mut();
        if let Ok(Reply::Networks(list)) = reply {
            networks.known.values_mut().for_each(|known| known.seen = None);
            for state in list {
                networks.known.entry(state.network.clone()).or_default().note(&state, now);
            }
            networks.known.retain(|_, known| known.is_there() || known.is_being_kept());
            for known in networks.known.values_mut().filter(|known| !known.is_settled()) {
                known.due = known.due.or(Some(now));
            }
        }
        // Also where there are none: the next map is put when nobody looks, and others may have hands on the host.
        networks.look = Some(now + LOOK);
    }

    /// Tell what has happened to instances.
    fn relay(&self, run: Uuid, after: u64, page: EventPage) {
        let mut relay = self.relay.borrow_mut();
        if page.agent_boot != run || relay.run != Some(run) || relay.after != after {
            return;
        }
        if !is_in_order(&page, after) {
            log::warn!("the agent's events are out of order");
            return;
        }
        (relay.after, relay.more) = (page.next, !page.events.is_empty());
        drop(relay);
        // Told before the answer is there, a listener could list the instances, and what happens until the agent has answered
        // would be in neither.
        if after == FROM_NOW_ON {
            self.may_have_missed("what was before is not told");
        } else if page.missed {
            self.may_have_missed("the agent keeps them no more");
        }
        for event in page.events {
            self.retell(event);
        }
    }

    fn may_have_missed(&self, why: &str) {
        let event = self.event(EventKind::InstancesMissed, None);
        self.happened(ApiEvent { detail: Some(Text::new(why)), ..event });
    }

    fn retell(&self, event: Event) {
        let kind = match event.kind {
            // The appliance tells itself how its operations end; it learns so a bit sooner.
            Change::Operation => {
                let mut operations = self.operations.borrow_mut();
                let operation = event.op_id.as_ref().and_then(|id| operations.get_mut(id));
                if let Some(operation) = operation.filter(|operation| operation.stage == Stage::Running) {
                    operation.due = self.clock.now();
                }
                return self.forward.wake();
            }
            Change::Rebooted => EventKind::Rebooted,
            Change::DiskError => EventKind::DiskError,
            Change::Created | Change::State | Change::Shape | Change::Terminated => EventKind::Instance,
        };
        let detail = match event.kind {
            Change::Created => Some(Text::new("made")),
            Change::Shape => {
                event.detail.or_else(|| Some(Text::new("its size, disks or interfaces have changed")))
            }
            _ => event.detail,
        };
        self.happened(ApiEvent {
            generation: Some(event.generation),
            state: Some(event.state),
            operation: event.op_id,
            detail,
            ..self.event(kind, Some(event.instance))
        });
    }
}

/// Whether the events that were asked for after this number go on from there, each with a larger number, up to `next`: an
/// agent that tells the same ones for ever is not believed.
fn is_in_order(page: &EventPage, after: u64) -> bool {
    let mut last = if after == FROM_NOW_ON { 0 } else { after };
    let grow = page.events.iter().all(|event| core::mem::replace(&mut last, event.seq) < event.seq);
    grow && (page.next == last || page.events.is_empty() && (page.missed || after == FROM_NOW_ON))
}
