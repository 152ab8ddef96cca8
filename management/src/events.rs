//! What has changed of late, for those who listen: numbered, so that nobody misses anything without being told.

use crate::Management;
use crate::operations::Operation;
use crate::policy::{Policy, Principal, Right};
use crate::route::SeqPage;
use agent_protocol::{InstanceId, Text, Uuid, encode};
use alloc::collections::VecDeque;
use core::time::Duration;
use kernel_runtime::{Instant, with_deadline};
use management_api::{ApiEvent, EventKind, EventPage};
use management_http::Response;

/// The events of late.
pub(crate) struct Events {
    boot: Uuid,
    ring: VecDeque<ApiEvent>,
    capacity: usize,
    /// The number of the last one.
    last: u64,
    /// The number before the first one of this run.
    base: u64,
    /// Of each right in [`RIGHTS`] the number of the last event for those who have it that is not kept any more.
    dropped: [u64; RIGHTS.len()],
}

/// What a listener has to have a right to, beside that of listening, to be told of some of the events.
const RIGHTS: [Right; 4] = [Right::About, Right::Read, Right::ReadTargets, Right::ReadNetworks];

/// Which of [`RIGHTS`] it takes to be told of an event.
const fn needed(kind: EventKind) -> usize {
    match kind {
        EventKind::Agent | EventKind::Drain => 0,
        EventKind::Operation
        | EventKind::Instance
        | EventKind::Rebooted
        | EventKind::DiskError
        | EventKind::InstancesMissed => 1,
        EventKind::Target => 2,
        EventKind::Network => 3,
    }
}

/// Which events a principal is told of: for each of [`RIGHTS`] whether it has it.
fn seen_by(policy: &Policy, principal: Principal) -> [bool; RIGHTS.len()] {
    RIGHTS.map(|right| policy.decide(principal, right).is_ok())
}

/// Somebody who waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    page: SeqPage,
    until: Instant,
    /// What of [`RIGHTS`] it has.
    sees: [bool; RIGHTS.len()],
}

impl Events {
    /// The numbers of a run begin at a random place, so that one of another run is seen to be that.
    pub(crate) fn new(boot: Uuid, capacity: usize) -> Self {
        // 20 bits above 32: a number stays one that any reader of JSON can hold.
        let base = (boot.0 as u64 & 0xf_ffff) << 32;
        Self { boot, ring: VecDeque::new(), capacity, last: base, base, dropped: [base; RIGHTS.len()] }
    }

    fn push(&mut self, event: ApiEvent) {
        if self.ring.len() >= self.capacity
            && let Some(oldest) = self.ring.pop_front()
        {
            self.dropped[needed(oldest.kind)] = oldest.seq;
        }
        self.last += 1;
        self.ring.push_back(ApiEvent { seq: self.last, ..event });
    }

    /// How many there were in this run.
    pub(crate) fn count(&self) -> u64 {
        self.last - self.base
    }

    /// The events after a number that are for those who see so much; without a number those that are kept. Events for others
    /// are neither told nor missed.
    fn page(&self, page: &SeqPage, sees: &[bool; RIGHTS.len()]) -> EventPage {
        let first = self.ring.front().map_or(self.last, |event| event.seq - 1);
        let after = page.after.unwrap_or(first);
        let is_ours = (self.base..=self.last).contains(&after);
        let missed = |(dropped, sees): (&u64, &bool)| *sees && page.after.is_some() && after < *dropped;
        if !is_ours || self.dropped.iter().zip(sees).any(missed) {
            return EventPage { boot: self.boot, events: Default::default(), next: self.last, missed: true };
        }
        let mut later = self.ring.iter().filter(|event| event.seq > after && sees[needed(event.kind)]);
        let events: alloc::vec::Vec<_> = later.by_ref().take(page.limit).cloned().collect();
        // Behind the last there may be some for others, which need not be looked through again.
        let next = if later.next().is_some() { events.last().map(|event| event.seq) } else { None };
        EventPage { boot: self.boot, events, next: next.unwrap_or(self.last), missed: false }
    }
}

impl Management {
    /// Something has changed.
    pub(crate) fn happened(&self, event: ApiEvent) {
        self.events.borrow_mut().push(event);
        self.news.ring();
    }

    /// An event of this kind, now.
    pub(crate) fn event(&self, kind: EventKind, object: Option<InstanceId>) -> ApiEvent {
        let at_ms = self.clock.now().as_micros() / 1000;
        ApiEvent { seq: 0, at_ms, kind, object, generation: None, state: None, operation: None, detail: None }
    }

    /// An operation is in another stage.
    pub(crate) fn moved_on(&self, operation: &Operation) {
        let event = self.event(EventKind::Operation, Some(operation.instance.clone()));
        self.happened(ApiEvent {
            generation: operation.result.as_ref().map(|instance| instance.generation),
            state: operation.result.as_ref().map(|instance| instance.state),
            operation: Some(operation.id.clone()),
            detail: Some(Text::new(operation.stage.as_str())),
            ..event
        });
    }

    /// The link to the agent may be in another state.
    pub(crate) fn link_changed(&self) {
        let state = self.forward.state();
        if self.link_was.replace(state.as_str()) != state.as_str() {
            let event = self.event(EventKind::Agent, None);
            self.happened(ApiEvent { detail: Some(Text::new(state.as_str())), ..event });
            self.tending.raise();
        }
    }

    /// Somebody wants to hear of events.
    pub(crate) fn listener(&self, page: SeqPage, patience: Duration, principal: Principal) -> Listen {
        let sees = seen_by(&self.configuration.policy, principal);
        Listen { page, until: self.clock.now() + patience, sees }
    }

    /// Wait until there is an event, as long as that may be, and answer; at once when too many wait.
    pub async fn listen(&self, listen: Listen) -> Response {
        if let Some(_waiting) = self.slots.wait() {
            // The agent is asked oftener while somebody listens.
            self.tending.raise();
            while !self.has_news(&listen) {
                if with_deadline(&self.clock, listen.until, self.news.heard()).await.is_err() {
                    break;
                }
            }
        }
        let response = Response::json(200, encode(&self.events.borrow().page(&listen.page, &listen.sees)));
        self.metrics.response(response.status);
        response
    }

    fn has_news(&self, listen: &Listen) -> bool {
        let page = self.events.borrow().page(&SeqPage { limit: 1, ..listen.page }, &listen.sees);
        page.missed || !page.events.is_empty()
    }
}
