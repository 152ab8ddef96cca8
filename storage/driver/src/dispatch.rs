//! What goes to which connection, and when.

use crate::driver::{Driver, Rewriting, Waiting};
use crate::flights::{Flight, What};
use crate::journal::Room;
use crate::paths::{End, Path};
use crate::phase::{Phase, Trigger};
use crate::rewrite::Next;
use kernel_runtime::Instant;
use storage_block::{Completion, Error, Operation, Request};
use storage_nbd::{Export, Mismatch, Quarantine};

/// What is to be done with a request that is next in turn.
enum Verdict {
    /// Send it, durably if `fua`, with this place in the journal.
    Go { fua: bool, room: Option<Room> },
    /// It has to wait; others need not.
    Wait,
    /// It cannot be kept and is refused.
    Fail(Error),
}

impl Driver {
    /// Give to the connections what can go. Answers whether anything moved.
    pub fn dispatch(&mut self, now: Instant) -> bool {
        if self.has_nothing_to_send() {
            return false;
        }
        let mut moved = false;
        match self.phase {
            Phase::Away => {}
            // What was acknowledged is made durable before: the export may come back read-only.
            Phase::Open if self.renewing => moved |= self.dispatch_flush(now),
            Phase::Replaying => moved |= self.dispatch_rewrite(now, false),
            // A read would find what the failed flush has dropped.
            Phase::Repairing => moved |= self.dispatch_rewrite(now, true),
            Phase::Open => {
                self.alone &= self.flights.changes() > 0;
                moved |= self.dispatch_flush(now);
                if self.phase == Phase::Open {
                    moved |= self.dispatch_queue(now);
                }
            }
        }
        let renews = self.renewing
            && self.phase == Phase::Open
            && self.flights.is_empty()
            && (self.journal.is_empty() || self.failing);
        if !self.parting && (renews || self.closing && self.is_drained()) {
            self.parting = true;
            for path in self.paths.iter_mut().filter(|path| path.is_connected()) {
                path.client.disconnect();
            }
            self.wake_all();
        }
        moved
    }

    /// Whether it is plain that nothing waits to be sent, and nothing will be due by itself.
    fn has_nothing_to_send(&self) -> bool {
        let is_ordinary = self.phase == Phase::Open && !self.renewing && !self.closing && !self.alone;
        let is_due = self.retry.is_some() || self.metered.is_some() || !self.flushes.wants_nothing();
        is_ordinary && !is_due && self.queue.is_empty() && self.journal.is_empty()
    }

    /// Send a request at once if nothing stands before it and nothing holds it back: so are almost all, and need not be
    /// moved in and out of the queue. Otherwise it waits for its turn there.
    pub(crate) fn admit(&mut self, now: Instant, request: Request) {
        let (since, again, tries) = (now, false, 0);
        let goes = self.phase == Phase::Open && !self.renewing && self.queue.is_empty();
        let Request { operation, offset, length, .. } = request;
        let path = if goes { self.least_busy() } else { None };
        let waits = if let Some(path) = path
            && self.meter.blocked(now).is_none()
            && let Verdict::Go { fua, room } = self.judge(operation, (offset, length), again, now, &mut true)
        {
            self.depart(now, path, request, (since, again, tries), (fua, room)).err()
        } else {
            Some(request)
        };
        if let Some(request) = waits {
            self.queue.push_back(Waiting { request, since, again, tries, not_before: None });
        }
    }

    /// The connection with the fewest requests under way that takes one more.
    pub(crate) fn least_busy(&self) -> Option<usize> {
        if let [path] = &self.paths[..] {
            return path.has_room().then_some(0);
        }
        let paths = self.paths.iter().enumerate().filter(|(_, path)| path.has_room());
        paths.min_by_key(|(_, path)| path.outstanding).map(|(index, _)| index)
    }

    /// Give a request to the connection that its flight names.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        flight: &Flight,
        room: Option<Room>,
        mut request: Request,
    ) -> Result<(), Request> {
        let (path, cookie) = (flight.path, request.cookie);
        if self.flights.is_empty() {
            self.heard = now;
        }
        let Some(name) = self.flights.insert(flight, room) else { return Err(request) };
        request.cookie = name;
        match self.paths[path].client.submit(now, request) {
            Ok(()) => {
                self.paths[path].outstanding += 1;
                self.wakes |= 1 << path;
                Ok(())
            }
            Err(request) => {
                if let Some(room) = self.flights.take_room(name) {
                    self.journal.release(room);
                }
                self.flights.remove(name);
                Err(Request { cookie, ..request })
            }
        }
    }

    /// Send what waits, as far as nothing holds it back.
    fn dispatch_queue(&mut self, now: Instant) -> bool {
        self.metered = None;
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            for waiting in &mut self.queue {
                waiting.not_before = waiting.not_before.filter(|&at| now < at);
                self.retry = [self.retry, waiting.not_before].into_iter().flatten().min();
            }
        }
        let mut moved = false;
        let mut index = 0;
        // Once one change finds no place, the others need not look for one.
        let mut changes = true;
        while index < self.queue.len() {
            let Some(path) = self.least_busy() else { break };
            let Waiting { request, again, not_before, .. } = &self.queue[index];
            let (operation, range, again) = (request.operation, (request.offset, request.length), *again);
            if not_before.is_some() || operation.changes_medium() && !changes {
                index += 1;
                continue;
            }
            if let Some(until) = self.meter.blocked(now) {
                self.metered = Some(until);
                break;
            }
            let (fua, room) = match self.judge(operation, range, again, now, &mut changes) {
                Verdict::Go { fua, room } => (fua, room),
                Verdict::Wait => {
                    index += 1;
                    continue;
                }
                Verdict::Fail(error) => {
                    if let Some(Waiting { request: Request { cookie, buffer, .. }, .. }) =
                        self.queue.remove(index)
                    {
                        self.done.push_back(Completion { cookie, result: Err(error), buffer });
                    }
                    moved = true;
                    continue;
                }
            };
            let next = if index == 0 { self.queue.pop_front() } else { self.queue.remove(index) };
            let Some(Waiting { request, since, again, tries, .. }) = next else { break };
            moved = true;
            if let Err(request) = self.depart(now, path, request, (since, again, tries), (fua, room)) {
                self.queue.push_front(Waiting { request, since, again, tries, not_before: None });
                break;
            }
        }
        moved
    }

    /// Give a request to a connection, durably if `fua`, with this place in the journal.
    #[inline]
    fn depart(
        &mut self,
        now: Instant,
        path: usize,
        mut request: Request,
        (since, again, tries): (Instant, bool, u8),
        (fua, room): (bool, Option<Room>),
    ) -> Result<(), Request> {
        let Request { cookie, operation, offset, length, .. } = request;
        let what = What::Request(cookie);
        request.operation = with_fua(operation, fua);
        let durable = is_durable(request.operation);
        let flight = Flight { what, path, operation, offset, length, since, tries, again, durable };
        self.meter.take(if operation.carries_data() { length } else { 0 });
        let sent = self.send(now, &flight, room, request);
        sent.map_err(|request| Request { operation, ..request })
    }

    /// Whether a request may go, and how.
    fn judge(
        &mut self,
        operation: Operation,
        (offset, length): (u64, u64),
        again: bool,
        now: Instant,
        changes: &mut bool,
    ) -> Verdict {
        if !operation.changes_medium() {
            return Verdict::Go { fua: false, room: None };
        }
        let closed = |quarantine: &Quarantine| quarantine.blocked(now, offset, length).is_some();
        if !again && closed(&self.quarantine) || closed(&self.old) {
            return Verdict::Wait;
        }
        let Some(export) = self.known.as_ref().filter(|_| !self.alone) else { return Verdict::Wait };
        if !export.geometry.flush {
            // What offers FUA alone is written durably; what offers nothing was declared durable by the operator.
            return Verdict::Go { fua: export.geometry.fua, room: None };
        }
        // A service without FUA is asked for a flush behind the write; the journal sees to it that a flush which failed
        // meanwhile does not pass for one that succeeded.
        let native = export.native_fua();
        let is_durable = is_durable(operation) && native;
        let overlaps = (is_durable || self.failing) && self.journal.overlaps(offset, length);
        if is_durable && !overlaps {
            return Verdict::Go { fua: true, room: None };
        }
        // A durable write over one that is in the journal has to stand behind it there, or a replay would undo it.
        if let Some(room) = self.journal.reserve(operation, length) {
            return Verdict::Go { fua: is_durable, room: Some(room) };
        }
        if self.failing && overlaps {
            return Verdict::Fail(Error::Io);
        }
        if self.journal.is_empty() || self.failing {
            // Flushing fails, or others have all the room: only what becomes durable by itself can be acknowledged.
            let goes = native || self.flights.changes() == 0 && !self.flushes.is_under_way();
            self.alone = goes && !native;
            *changes = goes && native;
            return if goes { Verdict::Go { fua: true, room: None } } else { Verdict::Wait };
        }
        self.flushes.want();
        *changes = false;
        Verdict::Wait
    }

    /// Send more of the journal.
    fn dispatch_rewrite(&mut self, now: Instant, repairs: bool) -> bool {
        let Rewriting { started, failed } = self.rewriting;
        if self.flushes.is_under_way() || self.is_unwritable() {
            return false;
        }
        if let Some(error) = failed {
            if self.flights.pieces() > 0 {
                return false;
            }
            self.not_repaired(now, error);
            return true;
        }
        if !started {
            // What is under way is newer than the journal, and what was handed out of it has to be back.
            if self.flights.requests() > 0 || self.flights.pieces() > 0 {
                return false;
            }
            self.rewrite.start(&self.journal);
            self.rewriting.started = true;
        }
        let native = self.known.as_ref().is_some_and(Export::native_fua);
        let mut moved = false;
        while let Some(path) = self.least_busy() {
            let (index, request) = match self.rewrite.next(&mut self.journal, repairs && native) {
                Next::Piece { index, request } => (index, request),
                Next::Wait => break,
                Next::Done if self.flights.pieces() > 0 => break,
                Next::Done => {
                    self.rewritten(now, repairs, native);
                    return true;
                }
            };
            moved = true;
            let Request { operation, offset, length, .. } = request;
            let what = What::Piece(index);
            let since = now;
            let durable = is_durable(operation);
            let (tries, again) = (0, true);
            let flight = Flight { what, path, operation, offset, length, since, tries, again, durable };
            if let Err(request) = self.send(now, &flight, None, request) {
                if let Some(bytes) = request.buffer {
                    self.journal.put_back(index, bytes);
                }
                self.begin_again();
                break;
            }
        }
        moved
    }

    /// Whether there is something to be written again where nothing can be: as if it had been so when the connection came
    /// up, it is not the disk that went until that has changed.
    fn is_unwritable(&mut self) -> bool {
        let is_so =
            !self.journal.is_empty() && self.known.as_ref().is_some_and(|export| export.geometry.read_only);
        if is_so {
            self.condemn(End::Mismatch(Mismatch::ReadOnly));
        }
        is_so
    }

    /// All of the journal was written again.
    fn rewritten(&mut self, now: Instant, repairs: bool, native: bool) {
        if repairs && native {
            self.rewritten_durably();
        } else if repairs {
            // Its answer ends the repair. Without a connection to take it now, the next turn tries again.
            let _ = self.send_flush(now);
        } else {
            self.suspect = false;
            self.holder = self.known.as_ref().and_then(|export| export.incarnation);
            self.step(Trigger::Replayed);
            self.note(crate::Event::Replayed);
            self.wake_all();
        }
    }

    /// The connection whose caller is to call [`Driver::dispatch`] when something was pushed: the first that is up, or else
    /// the first.
    pub fn host(&self) -> usize {
        self.paths.iter().position(Path::is_up).unwrap_or(0)
    }

    /// Whether any connection is up.
    pub fn is_up(&self) -> bool {
        self.paths.iter().any(Path::is_up)
    }
}

/// Whether it is to be durable when it is answered.
pub(crate) const fn is_durable(operation: Operation) -> bool {
    match operation {
        Operation::Write { fua } | Operation::Trim { fua } | Operation::WriteZeroes { fua, .. } => fua,
        Operation::Read | Operation::Flush | Operation::Cache | Operation::Status => false,
    }
}

/// The operation, durable at once or not.
const fn with_fua(operation: Operation, fua: bool) -> Operation {
    match operation {
        Operation::Write { .. } => Operation::Write { fua },
        Operation::Trim { .. } => Operation::Trim { fua },
        Operation::WriteZeroes { no_hole, fast, .. } => Operation::WriteZeroes { fua, no_hole, fast },
        other => other,
    }
}
