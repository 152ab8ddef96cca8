//! The events of late.

use agent_protocol::{Event, EventKind, OpId, State, Text, Uuid};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::{Engine, Record};

/// How long after an incident another of its kind is not told of the same machine, in milliseconds.
const INCIDENT_PAUSE: u64 = 1000;

/// The events of this run of the agent, as many as are kept, each with the entry of the journal that has to be durable
/// before it is told.
pub(crate) struct Ring {
    kept: VecDeque<(u64, Event)>,
    limit: usize,
    /// The number of the last one.
    last: u64,
}

impl Ring {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), limit, last: 0 }
    }

    pub(crate) fn add(
        &mut self,
        after: u64,
        at_ms: u64,
        record: &Record,
        kind: EventKind,
        op_id: Option<OpId>,
        detail: Option<Text>,
    ) {
        self.last += 1;
        if self.kept.len() >= self.limit {
            self.kept.pop_front();
        }
        let event = Event {
            seq: self.last,
            at_ms,
            instance: record.id.clone(),
            uuid: record.uuid,
            generation: record.generation,
            state: record.state,
            kind,
            op_id,
            detail,
        };
        self.kept.push_back((after, event));
    }

    /// Whether there was one of this kind and machine within so many milliseconds before that time.
    pub(crate) fn has_lately(&self, now_ms: u64, pause: u64, uuid: Uuid, kind: EventKind) -> bool {
        let latest = self.kept.iter().rev().map(|(_, event)| event);
        let mut latest = latest.take_while(|event| event.at_ms.saturating_add(pause) > now_ms);
        latest.any(|event| event.uuid == uuid && event.kind == kind)
    }

    /// Up to `limit` events after that number which may be told; what to ask after next; whether some were missed.
    pub(crate) fn after(&self, seq: u64, durable: u64, limit: usize) -> (Vec<Event>, u64, bool) {
        let told = self.kept.iter().take_while(|(after, _)| *after <= durable).count();
        let first = self.kept.front().map_or(self.last + 1, |(_, event)| event.seq);
        let end = first + told as u64;
        // A number that was never given is of an earlier run.
        if seq.saturating_add(1) < first || seq > self.last {
            return (Vec::new(), end - 1, true);
        }
        let skipped = usize::try_from(seq + 1 - first).unwrap_or(usize::MAX).min(told);
        let events: Vec<_> =
            self.kept.range(skipped..told).take(limit).map(|(_, event)| event.clone()).collect();
        let next = events.last().map_or(seq, |event| event.seq);
        (events, next, false)
    }
}

impl Engine {
    /// Something has happened to that machine that no look at it would show, such as a restart by its guest.
    pub fn happened(&mut self, uuid: Uuid, kind: EventKind, detail: Text, now_ms: u64) {
        self.now_ms = now_ms;
        let mut records = self.lanes.values().map(|lane| &lane.record);
        let found = records.find(|record| record.uuid == uuid && record.state != State::Terminated);
        // A guest may do so without end, and is not to drive out what is kept of the others.
        let is_news = |_: &&Record| !self.events.has_lately(now_ms, INCIDENT_PAUSE, uuid, kind);
        if let Some(record) = found.filter(is_news) {
            self.events.add(self.head, now_ms, record, kind, None, Some(detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    fn filled(count: u64) -> Ring {
        let mut ring = Ring::new(4);
        for after in 1..=count {
            ring.add(after, 0, &record("a"), EventKind::State, None, None);
        }
        ring
    }

    fn numbers(ring: &Ring, seq: u64, durable: u64) -> (Vec<u64>, u64, bool) {
        let (events, next, missed) = ring.after(seq, durable, 3);
        (events.iter().map(|event| event.seq).collect(), next, missed)
    }

    #[test]
    fn a_listener_gets_each_event_once_or_is_told_that_it_missed_some() {
        let ring = filled(6);
        assert_eq!(numbers(&ring, 2, 9), (vec![3, 4, 5], 5, false));
        assert_eq!(numbers(&ring, 5, 9), (vec![6], 6, false));
        assert_eq!(numbers(&ring, 6, 9), (vec![], 6, false));
        assert_eq!(numbers(&ring, 1, 9), (vec![], 6, true), "2 is not kept any more");
        assert_eq!(numbers(&ring, 7, 9), (vec![], 6, true), "7 is of another run");
        assert_eq!(numbers(&ring, u64::MAX, 9), (vec![], 6, true));
        assert_eq!(numbers(&Ring::new(4), 0, 0), (vec![], 0, false));
    }

    #[test]
    fn what_could_be_lost_in_a_crash_is_not_told_yet() {
        let ring = filled(3);
        assert_eq!(numbers(&ring, 0, 2), (vec![1, 2], 2, false));
        assert_eq!(numbers(&ring, 2, 2), (vec![], 2, false));
        assert_eq!(numbers(&ring, 9, 2), (vec![], 2, true));
    }
}
