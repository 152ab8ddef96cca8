//! What has changed of late, for those who listen: numbered, so that nobody misses anything without being told.

use crate::Management;
use crate::operations::Operation;
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
}

/// Somebody who waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    page: SeqPage,
    until: Instant,
}

impl Events {
    /// The numbers of a run begin at a random place, so that one of another run is seen to be that.
    pub(crate) fn new(boot: Uuid, capacity: usize) -> Self {
        // 20 bits above 32: a number stays one that any reader of JSON can hold.
        let base = (boot.0 as u64 & 0xf_ffff) << 32;
        Self { boot, ring: VecDeque::new(), capacity, last: base, base }
    }

    fn push(&mut self, event: ApiEvent) {
        if self.ring.len() >= self.capacity {
            self.ring.pop_front();
        }
        self.last += 1;
        self.ring.push_back(ApiEvent { seq: self.last, ..event });
    }

    /// How many there were in this run.
    pub(crate) fn count(&self) -> u64 {
        self.last - self.base
    }

    /// The events after a number; without one those that are kept.
    fn page(&self, page: &SeqPage) -> EventPage {
        let first = self.ring.front().map_or(self.last, |event| event.seq - 1);
        let after = page.after.unwrap_or(first);
        let is_ours = (self.base..=self.last).contains(&after);
        if !is_ours || after < first {
            return EventPage { boot: self.boot, events: Default::default(), next: self.last, missed: true };
        }
        let later = self.ring.iter().filter(|event| event.seq > after);
        let events: alloc::vec::Vec<_> = later.take(page.limit).cloned().collect();
        let next = events.last().map_or(after, |event| event.seq);
        EventPage { boot: self.boot, events, next, missed: false }
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
    pub(crate) fn listener(&self, page: SeqPage, patience: Duration) -> Listen {
        Listen { page, until: self.clock.now() + patience }
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
        let response = Response::json(200, encode(&self.events.borrow().page(&listen.page)));
        self.metrics.response(response.status);
        response
    }

    fn has_news(&self, listen: &Listen) -> bool {
        let page = self.events.borrow().page(&SeqPage { limit: 1, ..listen.page });
        page.missed || !page.events.is_empty()
    }
}
