//! The requests in flight: slots taken at start, each split into the commands that carry it.
//!
//! A request occupies a slot from its acceptance until its completion is fetched. It is cut into commands of at
//! most the server's payload, of which [`PARTS`] may be in flight together; slots take turns, so a request of a
//! gigabyte delays its neighbours by one command. A command's place in the table is part of its cookie.

mod down;
mod extents;
mod up;

use crate::contexts::MAX_CONTEXTS;
use crate::coverage::Coverage;
use crate::{Counters, Export, Latency, TransmissionFlags};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use kernel_runtime::Instant;
use storage_block::{Completion, Error, Extent, Geometry, Operation, Request};

/// Commands of one request that may be in flight together.
pub(crate) const PARTS: usize = 4;

/// Where the numbers in cookies begin: just below their wrap, so that it comes in every test and soon after every boot,
/// not once in the life of a disk.
const FIRST_GENERATION: u16 = u16::MAX - 1;
const FIRST_SEQUENCE: u32 = u32::MAX - 40;

/// A request that did not finish on its connection.
#[derive(Debug)]
pub struct Unfinished {
    /// The request as it was submitted. The content of a read's buffer is undefined.
    pub request: Request,
    /// A byte of it was handed to the connection: it may have been executed, or may still be.
    pub touched: bool,
}

impl Unfinished {
    /// Give the request up: it completes as lost.
    pub fn into_lost(self) -> Completion {
        let Request { cookie, buffer, .. } = self.request;
        Completion { cookie, result: Err(Error::Lost), buffer }
    }

    /// The range, as offset and length, in which the old connection may still change the medium.
    pub fn ghost(&self) -> Option<(u64, u64)> {
        let Request { operation, offset, length, .. } = self.request;
        (self.touched && operation.changes_medium()).then_some((offset, length))
    }
}

/// Where a command is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    slot: usize,
    part: usize,
}

impl Key {
    const fn index(self) -> usize {
        self.slot * PARTS + self.part
    }

    const fn at(index: usize) -> Self {
        Self { slot: index / PARTS, part: index % PARTS }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartState {
    Free,
    /// To be sent (again) from `offset`.
    Waiting,
    /// Being sent, or sent and not answered.
    Issued,
}

/// What has come of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivered {
    Nothing,
    /// Some of it, as [`Coverage`] has it.
    Runs,
    /// All of it, in one piece.
    All,
}

/// One command.
#[derive(Clone, Copy, Debug)]
struct Part {
    state: PartState,
    sequence: u32,
    offset: u64,
    /// No more than 32 bits of a read or a write.
    length: u64,
    /// Where the range ends that this part has to see to; beyond `offset + length` only after an EOVERFLOW.
    end: u64,
    /// All its bytes were handed to the connection.
    sent: bool,
    /// The final reply has come, before all its bytes were sent.
    answered: bool,
    /// What has come of a read.
    delivered: Delivered,
    error: Option<u32>,
    errors: u16,
    /// Extents in the request's buffer, the bytes they are about, and whether there is no room for more.
    extents: usize,
    told: u64,
    is_full: bool,
    /// Contexts told of, a bit for each.
    contexts: u8,
}

impl Part {
    const FREE: Self = Self {
        state: PartState::Free,
        sequence: 0,
        offset: 0,
        length: 0,
        end: 0,
        sent: false,
        answered: false,
        delivered: Delivered::Nothing,
        error: None,
        errors: 0,
        extents: 0,
        told: 0,
        is_full: false,
        contexts: 0,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Free,
    Active,
    /// Completed, to be fetched as such.
    Done,
    /// Ended without an outcome, to be fetched as such.
    Unfinished,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its range is being worked through; this many bytes were given to parts.
    Range(u64),
    /// A FLUSH is to be sent.
    Flush,
    /// Nothing more is to be sent.
    Sent,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    request: Option<Request>,
    order: u64,
    since: Instant,
    stage: Stage,
    /// Parts that are not free. In a slot that is free, none is.
    outstanding: usize,
    /// Those of them that are issued.
    issued: usize,
    error: Option<Error>,
    /// The server refused it because it is shutting down.
    shut: bool,
    touched: bool,
    queued: bool,
    /// The server may take long for it.
    slow: bool,
    /// Bytes of a read that its recipient has used: they are not in the buffer.
    used: u32,
    parts: [Part; PARTS],
}

impl Slot {
    const FREE: Self = Self {
        state: SlotState::Free,
        request: None,
        order: 0,
        since: Instant::ZERO,
        stage: Stage::Sent,
        outstanding: 0,
        issued: 0,
        error: None,
        shut: false,
        touched: false,
        queued: false,
        slow: false,
        used: 0,
        parts: [Part::FREE; PARTS],
    };

    fn failed(&self) -> bool {
        self.error.is_some() || self.shut
    }

    /// Let no part be anything.
    fn clear(&mut self) {
        if self.outstanding > 0 {
            (self.outstanding, self.issued) = (0, 0);
            self.parts = [Part::FREE; PARTS];
        }
    }
}

/// Whether a server may take long for it without being dead.
const fn is_slow(operation: Operation) -> bool {
    match operation {
        Operation::Read | Operation::Cache | Operation::Status => false,
        Operation::Write { fua } => fua,
        Operation::Flush | Operation::Trim { .. } | Operation::WriteZeroes { .. } => true,
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The last one is the heartbeat's.
    slots: Box<[Slot]>,
    free: VecDeque<usize>,
    /// Slots with something to send, in turn.
    queue: VecDeque<usize>,
    done: VecDeque<usize>,
    coverage: Coverage,
    geometry: Geometry,
    native_fua: bool,
    allocation: Option<u32>,
    /// A BLOCK_STATUS can be limited to the one context that is wanted.
    can_filter: bool,
    contexts: [Option<u32>; MAX_CONTEXTS],
    /// Bytes in one READ or WRITE.
    payload: u32,
    /// Bytes in one TRIM, WRITE_ZEROES, CACHE or BLOCK_STATUS.
    range: u64,
    generation: u16,
    sequence: u32,
    order: u64,
    active: usize,
    slow: usize,
    /// Commands that were sent to their end and not answered.
    due: usize,
    /// The time of what is being done.
    pub(crate) now: Instant,
    /// Nothing new is sent any more.
    stopped: bool,
    pub(crate) counters: Counters,
    pub(crate) latency: Latency,
}

impl Requests {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: (0..=slots).map(|_| Slot::FREE).collect(),
            free: (0..slots).collect(),
            queue: VecDeque::with_capacity(slots + 1),
            done: VecDeque::with_capacity(slots + 1),
            coverage: Coverage::new(),
            // Replaced before the first request is taken.
            geometry: Geometry {
                size: 0,
                block_size: 512,
                preferred_block: 512,
                max_transfer: 512,
                read_only: true,
                flush: false,
                fua: false,
                trim: false,
                write_zeroes: false,
                cache: false,
                fast_zero: false,
                status: false,
                rotational: false,
            },
            native_fua: false,
            allocation: None,
            can_filter: false,
            contexts: [None; MAX_CONTEXTS],
            payload: 512,
            range: 512,
            generation: FIRST_GENERATION,
            sequence: FIRST_SEQUENCE,
            order: 0,
            active: 0,
            slow: 0,
            due: 0,
            now: Instant::ZERO,
            stopped: false,
            counters: Counters::default(),
            latency: Latency::default(),
        }
    }

    /// A connection to `export` stands. Cookies of earlier ones are void from here on.
    pub(crate) fn open(&mut self, export: &Export, max_range: u64) {
        self.generation = self.generation.wrapping_add(1);
        self.geometry = export.geometry;
        self.native_fua = export.native_fua();
        self.payload = export.geometry.max_transfer;
        self.allocation = export.allocation;
        let others = export.contexts.iter().flatten().count() > 1;
        self.can_filter =
            export.extended && others && export.flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        self.contexts = export.contexts;
        let block = u64::from(export.geometry.block_size);
        let max_range = if export.extended { max_range } else { max_range.min(u64::from(u32::MAX)) };
        self.range = (max_range - max_range % block).max(block);
        self.stopped = false;
    }

    /// The connection is gone: what was not completed is unfinished.
    pub(crate) fn close(&mut self) {
        self.coverage.clear();
        self.queue.clear();
        self.due = 0;
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            slot.queued = false;
            slot.clear();
            if slot.state == SlotState::Active {
                self.leave(index, SlotState::Unfinished);
            }
        }
    }

    /// Send nothing more than what was begun.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.queue.clear();
        for index in 0..self.slots.len() {
            self.slots[index].queued = false;
            if self.slots[index].state == SlotState::Active {
                self.settle(index);
            }
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Requests that wait for the server, the heartbeat among them.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// Requests that wait for the server.
    pub(crate) fn outstanding(&self) -> usize {
        let probe = self.slots.last().is_some_and(|slot| slot.state == SlotState::Active);
        self.active - usize::from(probe)
    }

    /// Whether a command that was sent to its end waits for its answer.
    pub(crate) fn is_answer_due(&self) -> bool {
        self.due > 0
    }

    /// Whether one of them is of a kind that may take long.
    pub(crate) fn any_slow(&self) -> bool {
        self.slow > 0
    }

    /// Take a request in.
    pub(crate) fn accept(&mut self, request: Request) -> Result<(), Request> {
        let Some(index) = self.free.pop_front() else { return Err(request) };
        self.counters.requests += 1;
        let outcome = self.judge(&request);
        self.enter(index, request);
        if let Some(result) = outcome {
            self.slots[index].error = result.err();
            self.leave(index, SlotState::Done);
        }
        Ok(())
    }

    /// Send a small read to learn whether the server lives.
    pub(crate) fn probe(&mut self) {
        let index = self.slots.len() - 1;
        if self.slots[index].state == SlotState::Free {
            self.counters.heartbeats += 1;
            let length = u64::from(self.geometry.block_size);
            self.enter(
                index,
                Request { cookie: 0, operation: Operation::Read, offset: 0, length, buffer: None },
            );
        }
    }

    /// The outcome of a request that need not be sent.
    fn judge(&self, request: &Request) -> Option<Result<(), Error>> {
        let Request { operation, offset, length, buffer, .. } = request;
        let geometry = &self.geometry;
        let block = u64::from(geometry.block_size);
        let (offered, fua) = match *operation {
            Operation::Read => (true, false),
            Operation::Write { fua } => (true, fua),
            Operation::Flush => return (!geometry.flush).then_some(Err(Error::NotSupported)),
            Operation::Trim { fua } => (geometry.trim, fua),
            Operation::WriteZeroes { fua, fast, .. } => {
                (geometry.write_zeroes && (!fast || geometry.fast_zero), fua)
            }
            Operation::Cache => (geometry.cache, false),
            Operation::Status => (geometry.status, false),
        };
        let room = buffer.as_ref().map_or(0, |buffer| buffer.len());
        let fits = match operation {
            // To tell of nothing would look like the end of the disk.
            Operation::Status => room >= Extent::SIZE && *length > 0,
            Operation::Read | Operation::Write { .. } => buffer.is_some() && room as u64 == *length,
            _ => true,
        };
        let inside = offset.checked_add(*length).is_some_and(|end| end <= geometry.size);
        if operation.changes_medium() && geometry.read_only {
            Some(Err(Error::NotPermitted))
        } else if !offered || (fua && !geometry.fua) {
            Some(Err(Error::NotSupported))
        } else if !inside || offset % block != 0 || length % block != 0 || !fits {
            Some(Err(Error::Invalid))
        } else {
            (*length == 0).then_some(Ok(()))
        }
    }

    fn enter(&mut self, index: usize, request: Request) {
        self.order += 1;
        let stage = if request.operation == Operation::Flush { Stage::Flush } else { Stage::Range(0) };
        self.active += 1;
        let slow = is_slow(request.operation);
        self.slow += usize::from(slow);
        let slot = &mut self.slots[index];
        if !core::mem::replace(&mut slot.queued, true) {
            self.queue.push_back(index);
        }
        // Its parts are free.
        slot.state = SlotState::Active;
        slot.request = Some(request);
        (slot.order, slot.since, slot.stage) = (self.order, self.now, stage);
        (slot.error, slot.shut, slot.touched, slot.slow) = (None, false, false, slow);
        slot.used = 0;
    }

    /// A slot ceases to be active.
    fn leave(&mut self, index: usize, state: SlotState) {
        let is_probe = index == self.slots.len() - 1;
        let slot = &mut self.slots[index];
        self.active -= 1;
        self.slow -= usize::from(slot.slow);
        if is_probe {
            *slot = Slot { queued: slot.queued, ..Slot::FREE };
            return;
        }
        slot.state = state;
        if state == SlotState::Done {
            if let Some(request) = &slot.request {
                let micros = self.now.as_micros().saturating_sub(slot.since.as_micros());
                self.latency.add(request.operation, micros);
            }
            self.done.push_back(index);
        }
    }

    /// Take a slot's request out and free it. One that is still in the queue keeps its mark until its turn, so that it is
    /// never queued twice.
    fn vacate(&mut self, index: usize) -> Option<Request> {
        let slot = &mut self.slots[index];
        slot.state = SlotState::Free;
        slot.clear();
        self.free.push_back(index);
        slot.request.take()
    }

    pub(crate) fn has_completion(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether the request that has ended last has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.done.back().is_some_and(|&index| self.slots[index].error.is_some())
    }

    /// Whether a slot has its turn to send something, if it still has anything.
    pub(crate) fn is_any_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next completion.
    pub(crate) fn poll_completion(&mut self) -> Option<Completion> {
        let index = self.done.pop_front()?;
        let Request { cookie, buffer, .. } = self.vacate(index)?;
        let error = self.slots[index].error;
        if error.is_some() {
            self.counters.errors += 1;
        }
        Some(Completion { cookie, result: error.map_or(Ok(()), Err), buffer })
    }

    /// The oldest unfinished request.
    pub(crate) fn take_unfinished(&mut self) -> Option<Unfinished> {
        let unfinished =
            self.slots.iter().enumerate().filter(|(_, slot)| slot.state == SlotState::Unfinished);
        let (index, _) = unfinished.min_by_key(|(_, slot)| slot.order)?;
        let request = self.vacate(index)?;
        Some(Unfinished { request, touched: self.slots[index].touched })
    }

    /// Take back a request of which nothing was sent.
    pub(crate) fn withdraw(&mut self, cookie: u64) -> Option<Request> {
        let probe = self.slots.len() - 1;
        let index = self.slots[..probe].iter().position(|slot| {
            slot.state == SlotState::Active
                && slot.outstanding == 0
                && !slot.touched
                && slot.request.as_ref().is_some_and(|request| request.cookie == cookie)
        })?;
        self.active -= 1;
        self.slow -= usize::from(self.slots[index].slow);
        self.vacate(index)
    }
}
