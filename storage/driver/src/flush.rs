//! Flushes: at most one is under way, and it answers everybody who asked before it was sent.

use crate::driver::{Driver, Event};
use crate::flights::{Flight, What};
use crate::phase::{Phase, Trigger};
use alloc::collections::VecDeque;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_block::{Completion, Error, Operation, Request};

/// After a flush failed that nobody asked for, the next one is tried so much later.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Flushes {
    /// Who waits for the next one.
    waiting: VecDeque<u64>,
    /// Who is answered by the one under way, or by the repair that became of it.
    riding: VecDeque<u64>,
    /// It makes durable what is before this entry of the journal.
    flight: Option<u64>,
    /// The driver itself wants one.
    wanted: bool,
    /// Something meanwhile makes its success worth nothing.
    doubted: bool,
    /// It has succeeded, and counts once all durable changes up to this one have come back without doubt.
    behind: Option<u64>,
    /// Not before this moment for the driver's own sake.
    not_before: Option<Instant>,
}

impl Flushes {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::with_capacity(capacity),
            riding: VecDeque::with_capacity(capacity),
            flight: None,
            wanted: false,
            doubted: false,
            behind: None,
            not_before: None,
        }
    }

    /// Answer this request with the next flush.
    pub(crate) fn push(&mut self, cookie: u64) {
        self.waiting.push_back(cookie);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len() + self.riding.len()
    }

    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.riding.is_empty() && self.flight.is_none()
    }

    /// Whether nobody waits for the next one, the driver itself included.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.waiting.is_empty() && !self.wanted
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.flight.is_some()
    }

    /// When the driver's own next flush is due, if the journal asks for one at `idle`.
    pub(crate) fn poll_timeout(&self, idle: Option<Instant>) -> Option<Instant> {
        if !self.is_idle() {
            return None;
        }
        if self.wanted { self.not_before } else { idle.max(self.not_before.filter(|_| idle.is_some())) }
    }

    pub(crate) fn lose(&mut self, is_meant: impl Fn(u64) -> bool, done: &mut VecDeque<Completion>) {
        self.waiting.retain(|&cookie| {
            let meant = is_meant(cookie);
            if meant {
                done.push_back(Completion { cookie, result: Err(Error::Lost), buffer: None });
            }
            !meant
        });
    }

    /// The one under way got no answer: whoever rode on it waits again, before those that came later.
    pub(crate) fn unanswered(&mut self) {
        self.flight = None;
        self.behind = None;
        while let Some(rider) = self.riding.pop_back() {
            self.waiting.push_front(rider);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        self.not_before = self.not_before.filter(|&at| now < at);
        let wanted = self.wanted && self.not_before.is_none();
        self.flight.is_none() && (wanted || !self.waiting.is_empty())
    }

    fn board(&mut self) {
        self.wanted = false;
        self.riding.append(&mut self.waiting);
    }

    fn answer(&mut self, result: Result<(), Error>, done: &mut VecDeque<Completion>) {
        self.flight = None;
        for cookie in self.riding.drain(..) {
            done.push_back(Completion { cookie, result, buffer: None });
        }
    }
}

impl Driver {
    /// Send the next flush, if one is due. Answers whether anything moved.
    pub(crate) fn dispatch_flush(&mut self, now: Instant) -> bool {
        let is_old = self.journal.oldest().is_some_and(|since| now >= since + self.limits.flush_after);
        if is_old
            || self.journal.is_half_full()
            || (self.closing || self.renewing) && !self.journal.is_empty()
        {
            self.flushes.want();
        }
        let is_due = self.flushes.is_due(now);
        if self.alone || !is_due {
            return false;
        }
        if !self.known.as_ref().is_some_and(|export| export.geometry.flush) {
            self.flushes.board();
            self.flushes.answer(Err(Error::NotSupported), &mut self.done);
            return true;
        }
        if self.suspect && !self.journal.is_empty() {
            self.flushes.board();
            self.repair(Error::Io);
            return true;
        }
        let sent = self.send_flush(now);
        if sent {
            self.flushes.board();
        }
        sent
    }

    /// Give a FLUSH to a connection, if one has room.
    pub(crate) fn send_flush(&mut self, now: Instant) -> bool {
        let Some(path) = self.least_busy() else { return false };
        let flight = Flight {
            what: What::Flush,
            path,
            operation: Operation::Flush,
            offset: 0,
            length: 0,
            since: now,
            tries: 0,
            again: false,
            durable: true,
        };
        if self.journal.is_empty() && self.flights.changes() == 0 {
            // Nothing is left that an earlier failure could have dropped.
            self.suspect = false;
        }
        let end = self.journal.end();
        let request = Request { cookie: 0, operation: Operation::Flush, offset: 0, length: 0, buffer: None };
        let sent = self.send(now, &flight, None, request).is_ok();
        if sent {
            self.flushes.flight = Some(end);
            self.flushes.doubted = false;
        }
        sent
    }

    /// The flush under way was answered.
    pub(crate) fn flushed(&mut self, now: Instant, result: Result<(), Error>) {
        self.conclude(now, result, false);
    }

    fn conclude(&mut self, now: Instant, result: Result<(), Error>, is_settled: bool) {
        let order = self.flights.order();
        if !is_settled && result.is_ok() && self.flights.has_durable(order) && !self.flushes.doubted {
            self.flushes.behind = Some(order);
            return;
        }
        let end = self.flushes.flight.take().unwrap_or(0);
        let doubted = core::mem::take(&mut self.flushes.doubted);
        match (result, self.phase) {
            (Ok(()), _) if doubted => self.flushes.unanswered(),
            // It was sent before the repair was begun, which will tell.
            (Err(_), Phase::Repairing) if !self.rewriting.started => {}
            (Ok(()), phase) => {
                self.failing = false;
                self.journal.forget(end);
                self.flushes.answer(Ok(()), &mut self.done);
                if phase == Phase::Repairing {
                    self.repaired();
                }
            }
            (Err(error), Phase::Repairing) => self.not_repaired(now, error),
            // A service that does not do it has made nothing worse.
            (Err(error @ (Error::NotSupported | Error::NotPermitted)), _) => {
                self.failing = true;
                self.flushes.not_before = Some(now + PAUSE);
                self.flushes.answer(Err(error), &mut self.done);
            }
            (Err(_), Phase::Replaying) => {
                // It was sent before; after the journal another one is, and that one is not believed by itself.
                self.suspect = true;
                self.flushes.unanswered();
            }
            (Err(error), _) if self.journal.is_empty() => {
                self.distrust();
                self.flushes.answer(Err(error), &mut self.done);
                if self.flights.changes() > 0 {
                    // It may have dropped what is under way and will be acknowledged.
                    self.repair(error);
                }
            }
            (Err(error), _) => self.repair(error),
        }
    }

    /// Something has come back: perhaps what a flush that has succeeded waits for.
    pub(crate) fn settle_flush(&mut self, now: Instant) {
        if let Some(order) = self.flushes.behind
            && !self.flights.has_durable(order)
        {
            self.flushes.behind = None;
            self.conclude(now, Ok(()), true);
        }
    }

    /// Something that was to be durable is in doubt, and with it all that was in the service's cache.
    pub(crate) fn distrust(&mut self) {
        self.suspect = true;
        self.holder = None;
        self.flushes.doubted = self.flushes.flight.is_some();
    }

    /// A flush cannot be trusted: write all that was acknowledged again.
    pub(crate) fn repair(&mut self, error: Error) {
        self.repairs += 1;
        // Until it has succeeded, also over a lost connection.
        self.distrust();
        self.note(Event::Repairing(error, self.journal.len()));
        self.step(Trigger::FlushFailed);
    }

    /// All that was acknowledged is durable after all.
    pub(crate) fn repaired(&mut self) {
        self.suspect = false;
        self.failing = false;
        self.holder = self.known.as_ref().and_then(|export| export.incarnation);
        self.step(Trigger::Repaired);
        self.flushes.answer(Ok(()), &mut self.done);
        self.note(Event::Repaired);
        self.wake_all();
    }

    /// It is not, and those who asked must hear it. The journal keeps what it has, and is written once more before anything
    /// else: so that reads find what was acknowledged, and no later flush succeeds without it.
    pub(crate) fn not_repaired(&mut self, now: Instant, error: Error) {
        self.failing = true;
        self.holder = None;
        self.step(Trigger::NotRepaired);
        self.flushes.not_before = Some(now + PAUSE);
        self.flushes.want();
        self.flushes.answer(Err(error), &mut self.done);
        self.note(Event::NotRepaired(error));
        self.wake_all();
    }

    /// The repair has written everything with FUA: no flush is needed.
    pub(crate) fn rewritten_durably(&mut self) {
        self.journal.forget(self.journal.end());
        self.repaired();
    }
}
