//! What the service's answers mean.

use crate::dispatch::is_durable;
use crate::driver::{Driver, Waiting};
use crate::flights::{Flight, What};
use crate::paths::End;
use crate::phase::Phase;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_block::{Completion, Error, Operation, Request};

/// The first pause before a request is tried again that the service had no room for; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Driver {
    /// Something that was under way on `path` has an outcome.
    pub(crate) fn completed(
        &mut self,
        path: usize,
        now: Instant,
        mut completion: Completion,
    ) -> Result<(), End> {
        if completion.result.is_ok()
            && self.phase != Phase::Repairing
            && let Some(cookie) = self.flights.end_read(completion.cookie)
        {
            // A read that has succeeded is nobody's concern but its own.
            self.answered(path, 1, true);
            completion.cookie = cookie;
            self.done.push_back(completion);
            return Ok(());
        }
        let Some(flight) = self.flights.remove(completion.cookie) else { return Ok(()) };
        let room = self.flights.take_room(completion.cookie);
        let result = completion.result;
        self.answered(path, 1, result.is_ok());
        match flight.what {
            What::Flush => self.flushed(now, result),
            What::Piece(index) => {
                if let Some(bytes) = completion.buffer {
                    self.journal.put_back(index, bytes);
                }
                return self.rewrote(&flight, result);
            }
            What::Request(cookie) => match (result, room) {
                (Ok(()), Some(room)) => {
                    let range = (flight.offset, flight.length);
                    self.journal.keep(now, room, flight.operation, range, completion.buffer);
                    if is_durable(flight.operation) && !flight.durable {
                        self.flushes.push(cookie);
                    } else {
                        self.done.push_back(Completion { cookie, result, buffer: None });
                    }
                }
                // What it found may be what the failed flush has dropped.
                (Ok(()), None) if flight.operation == Operation::Read && self.phase == Phase::Repairing => {
                    self.again(&flight, cookie, completion, None);
                }
                (Ok(()), None) => self.done.push_back(Completion { cookie, ..completion }),
                (Err(error), room) => {
                    if let Some(room) = room {
                        self.journal.release(room);
                    }
                    self.failed(now, cookie, &flight, error, completion);
                }
            },
        }
        self.settle_flush(now);
        Ok(())
    }

    /// Connection `path` has brought so many outcomes.
    pub(crate) fn answered(&mut self, path: usize, count: usize, is_success: bool) {
        let path = &mut self.paths[path];
        path.outstanding = path.outstanding.saturating_sub(count);
        self.stalled = None;
        if is_success {
            path.proved();
            if self.portals_fence && self.haunted & path.portal_bit() == 0 {
                // All that may still be executed is at other portals, and those are fenced by now.
                self.release();
            }
        }
    }

    /// A part of the journal was written again, or not.
    fn rewrote(&mut self, flight: &Flight, result: Result<(), Error>) -> Result<(), End> {
        let is_trim = matches!(flight.operation, Operation::Trim { .. });
        let error = match result {
            Ok(()) => return Ok(()),
            // What is given back may hold anything.
            Err(_) if is_trim => return Ok(()),
            Err(error) => error,
        };
        match self.phase {
            Phase::Repairing => {
                self.rewriting.failed.get_or_insert(error);
                Ok(())
            }
            Phase::Replaying => {
                self.begin_again();
                Err(End::Replay(error))
            }
            Phase::Away | Phase::Open => Ok(()),
        }
    }

    /// A request failed: once more, later, or that was it.
    fn failed(&mut self, now: Instant, cookie: u64, flight: &Flight, error: Error, completion: Completion) {
        let Flight { since, tries, .. } = *flight;
        if flight.durable && matches!(error, Error::Io | Error::NoSpace) {
            // A service that failed to make something durable may have dropped more than that from its cache.
            self.distrust();
            if self.phase == Phase::Open && (!self.journal.is_empty() || self.flights.changes() > 0) {
                self.repair(error);
            }
        }
        let pause = match error {
            // Errors of the moment are not rare where the medium is far away.
            Error::Io if tries == 0 => Some(Duration::ZERO),
            Error::NoMemory | Error::NoSpace if now < since + self.limits.hold => {
                Some(PAUSE.saturating_mul(1 << tries.min(8)).min(LONGEST_PAUSE))
            }
            _ => None,
        };
        let Some(pause) = pause.filter(|_| !self.closing) else {
            return self.done.push_back(Completion { cookie, ..completion });
        };
        let not_before = (!pause.is_zero()).then_some(now + pause);
        self.again(flight, cookie, completion, not_before);
    }

    /// Queue it once more.
    fn again(&mut self, flight: &Flight, cookie: u64, completion: Completion, not_before: Option<Instant>) {
        let Flight { operation, offset, length, since, tries, again, .. } = *flight;
        let request = Request { cookie, operation, offset, length, buffer: completion.buffer };
        let tries = tries.saturating_add(1);
        self.retry = [self.retry, not_before].into_iter().flatten().min();
        self.queue.push_front(Waiting { request, since, again, tries, not_before });
    }
}
