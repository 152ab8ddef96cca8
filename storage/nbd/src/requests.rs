//! The requests in flight: slots taken at start, each split into the commands that carry it.
//!
//! A request occupies a slot from its acceptance until its completion is fetched. It is cut into commands of at
//! most the server's payload, of which [`PARTS`] may be in flight together; slots take turns, so a request of a
//! gigabyte delays its neighbours by one command. A command's place in the table is part of its cookie.

use crate::coverage::Coverage;
use crate::wire::{self, command, command_flag, error};
use crate::{Counters, Export, Fatal};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use storage_block::{Completion, Error, Geometry, Operation, Request};

/// Commands of one request that may be in flight together.
pub(crate) const PARTS: usize = 4;
/// Error chunks one reply may have; a server has one to tell, or one for each bad piece.
const MAX_ERRORS: u16 = 256;

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

/// One command.
#[derive(Clone, Copy, Debug)]
struct Part {
    state: PartState,
    sequence: u32,
    offset: u64,
    length: u32,
    /// Where the range ends that this part has to see to; beyond `offset + length` only after an EOVERFLOW.
    end: u64,
    /// All its bytes were handed to the connection.
    sent: bool,
    /// The final reply has come, before all its bytes were sent.
    answered: bool,
    error: Option<u32>,
    errors: u16,
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
        error: None,
        errors: 0,
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
    stage: Stage,
    /// Parts that are not free.
    outstanding: usize,
    error: Option<Error>,
    /// The server refused it because it is shutting down.
    shut: bool,
    touched: bool,
    queued: bool,
    parts: [Part; PARTS],
}

impl Slot {
    const FREE: Self = Self {
        state: SlotState::Free,
        request: None,
        order: 0,
        stage: Stage::Sent,
        outstanding: 0,
        error: None,
        shut: false,
        touched: false,
        queued: false,
        parts: [Part::FREE; PARTS],
    };

    fn failed(&self) -> bool {
        self.error.is_some() || self.shut
    }

    fn is_slow(&self) -> bool {
        self.request.as_ref().is_some_and(|request| is_slow(request.operation))
    }
}

/// Whether a server may take long for it without being dead.
const fn is_slow(operation: Operation) -> bool {
    match operation {
        Operation::Read | Operation::Cache => false,
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
    /// Bytes in one READ or WRITE.
    payload: u32,
    /// Bytes in one TRIM, WRITE_ZEROES or CACHE.
    range: u32,
    generation: u16,
    sequence: u32,
    order: u64,
    active: usize,
    slow: usize,
    /// Nothing new is sent any more.
    stopped: bool,
    pub(crate) counters: Counters,
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
                rotational: false,
            },
            native_fua: false,
            payload: 512,
            range: 512,
            generation: 0,
            sequence: 0,
            order: 0,
            active: 0,
            slow: 0,
            stopped: false,
            counters: Counters::default(),
        }
    }

    /// A connection to `export` stands. Cookies of earlier ones are void from here on.
    pub(crate) fn open(&mut self, export: &Export, max_range: u32) {
        self.generation = self.generation.wrapping_add(1);
        self.geometry = export.geometry;
        self.native_fua = export.native_fua();
        self.payload = export.geometry.max_transfer;
        let block = export.geometry.block_size;
        self.range = (max_range - max_range % block).max(block);
        self.stopped = false;
    }

    /// The connection is gone: what was not completed is unfinished.
    pub(crate) fn close(&mut self) {
        self.coverage.clear();
        self.queue.clear();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            slot.queued = false;
            slot.outstanding = 0;
            slot.parts = [Part::FREE; PARTS];
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

    /// Requests that wait for the server.
    pub(crate) fn active(&self) -> usize {
        self.active
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
            Operation::WriteZeroes { fua, .. } => (geometry.write_zeroes, fua),
            Operation::Cache => (geometry.cache, false),
        };
        let whole = buffer.as_ref().is_some_and(|buffer| buffer.len() as u64 == *length);
        let inside = offset.checked_add(*length).is_some_and(|end| end <= geometry.size);
        if operation.changes_medium() && geometry.read_only {
            Some(Err(Error::NotPermitted))
        } else if !offered || (fua && !geometry.fua) {
            Some(Err(Error::NotSupported))
        } else if !inside
            || offset % block != 0
            || length % block != 0
            || (operation.carries_data() && !whole)
        {
            Some(Err(Error::Invalid))
        } else {
            (*length == 0).then_some(Ok(()))
        }
    }

    fn enter(&mut self, index: usize, request: Request) {
        self.order += 1;
        let stage = if request.operation == Operation::Flush { Stage::Flush } else { Stage::Range(0) };
        self.active += 1;
        self.slow += usize::from(is_slow(request.operation));
        let slot = &mut self.slots[index];
        if !slot.queued {
            self.queue.push_back(index);
        }
        *slot = Slot {
            state: SlotState::Active,
            request: Some(request),
            order: self.order,
            stage,
            queued: true,
            ..Slot::FREE
        };
    }

    /// A slot ceases to be active.
    fn leave(&mut self, index: usize, state: SlotState) {
        let is_probe = index == self.slots.len() - 1;
        let slot = &mut self.slots[index];
        self.active -= 1;
        self.slow -= usize::from(slot.is_slow());
        if is_probe {
            *slot = Slot { queued: slot.queued, ..Slot::FREE };
            return;
        }
        slot.state = state;
        if state == SlotState::Done {
            self.done.push_back(index);
        }
    }

    /// Take a slot's request out and free it.
    fn vacate(&mut self, index: usize) -> Option<(Request, Slot)> {
        // A slot that is still in the queue keeps its mark until its turn, so that it is never queued twice.
        let free = Slot { queued: self.slots[index].queued, ..Slot::FREE };
        let mut slot = core::mem::replace(&mut self.slots[index], free);
        self.free.push_back(index);
        slot.request.take().map(|request| (request, slot))
    }

    /// The next completion.
    pub(crate) fn poll_completion(&mut self) -> Option<Completion> {
        let index = self.done.pop_front()?;
        let (Request { cookie, buffer, .. }, slot) = self.vacate(index)?;
        if slot.error.is_some() {
            self.counters.errors += 1;
        }
        Some(Completion { cookie, result: slot.error.map_or(Ok(()), Err), buffer })
    }

    /// The oldest unfinished request.
    pub(crate) fn take_unfinished(&mut self) -> Option<Unfinished> {
        let unfinished =
            self.slots.iter().enumerate().filter(|(_, slot)| slot.state == SlotState::Unfinished);
        let (index, _) = unfinished.min_by_key(|(_, slot)| slot.order)?;
        let (request, slot) = self.vacate(index)?;
        Some(Unfinished { request, touched: slot.touched })
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
        self.slow -= usize::from(self.slots[index].is_slow());
        self.vacate(index).map(|(request, _)| request)
    }
}

/// The way down: cutting requests into commands.
impl Requests {
    /// The next command to be sent.
    pub(crate) fn next_command(&mut self) -> Option<(Key, wire::Request)> {
        while let Some(index) = self.queue.pop_front() {
            self.slots[index].queued = false;
            if self.slots[index].state != SlotState::Active {
                continue;
            }
            let issued = self.issue(index);
            self.requeue(index);
            if issued.is_some() {
                self.counters.commands += 1;
                return issued;
            }
        }
        None
    }

    fn requeue(&mut self, index: usize) {
        if !self.slots[index].queued && self.can_issue(index) {
            self.slots[index].queued = true;
            self.queue.push_back(index);
        }
    }

    fn can_issue(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        if self.stopped || slot.failed() {
            return false;
        }
        let waiting = slot.parts.iter().any(|part| part.state == PartState::Waiting);
        waiting
            || match slot.stage {
                Stage::Range(_) => slot.outstanding < PARTS,
                // The writes a FLUSH is to cover must have been answered before it is sent.
                Stage::Flush => slot.outstanding == 0,
                Stage::Sent => false,
            }
    }

    fn issue(&mut self, index: usize) -> Option<(Key, wire::Request)> {
        if !self.can_issue(index) {
            return None;
        }
        let slot = &mut self.slots[index];
        let request = slot.request.as_ref()?;
        let limit = if request.operation.carries_data() { self.payload } else { self.range };
        let part = match slot.parts.iter().position(|part| part.state == PartState::Waiting) {
            Some(part) => part,
            None => {
                let part = slot.parts.iter().position(|part| part.state == PartState::Free)?;
                let (offset, end) = match slot.stage {
                    Stage::Range(given) => {
                        let next = request.length.min(given + u64::from(limit));
                        slot.stage = if next < request.length {
                            Stage::Range(next)
                        } else if needs_flush(request.operation, self.native_fua) {
                            Stage::Flush
                        } else {
                            Stage::Sent
                        };
                        (request.offset + given, request.offset + next)
                    }
                    Stage::Flush => {
                        slot.stage = Stage::Sent;
                        (0, 0)
                    }
                    Stage::Sent => return None,
                };
                slot.parts[part] = Part { offset, end, ..Part::FREE };
                slot.outstanding += 1;
                part
            }
        };
        self.sequence = self.sequence.wrapping_add(1);
        let key = Key { slot: index, part };
        let Part { offset, end, .. } = slot.parts[part];
        // At most the limit, which is 32 bits wide.
        let length = (end - offset).min(u64::from(limit)) as u32;
        slot.parts[part] =
            Part { state: PartState::Issued, sequence: self.sequence, offset, length, end, ..Part::FREE };
        // Nothing but a FLUSH has no length.
        let operation = if length == 0 { Operation::Flush } else { request.operation };
        let (command, flags) = encode(operation, self.native_fua);
        let cookie = self.cookie(key);
        Some((key, wire::Request { flags, command, cookie, offset, length }))
    }

    fn cookie(&self, key: Key) -> u64 {
        let sequence = self.slots[key.slot].parts[key.part].sequence;
        u64::from(self.generation) << 48 | (key.index() as u64) << 32 | u64::from(sequence)
    }

    /// The bytes that follow a command's header.
    pub(crate) fn payload(&self, key: Key) -> &[u8] {
        let slot = &self.slots[key.slot];
        let part = &slot.parts[key.part];
        let Some(Request { operation: Operation::Write { .. }, buffer: Some(buffer), offset, .. }) =
            &slot.request
        else {
            return &[];
        };
        let start = part.offset.wrapping_sub(*offset) as usize;
        // The FLUSH behind a write has no length, and no place in the buffer.
        if part.length == 0 { &[] } else { &buffer[start..start + part.length as usize] }
    }

    /// A byte of a command was sent.
    pub(crate) fn touch(&mut self, key: Key) {
        self.slots[key.slot].touched = true;
    }

    /// All bytes of a command were sent.
    pub(crate) fn sent(&mut self, key: Key) {
        let part = &mut self.slots[key.slot].parts[key.part];
        part.sent = true;
        if part.answered {
            self.end(key);
        }
    }
}

/// The way up: replies.
impl Requests {
    /// The command in flight that `cookie` names.
    pub(crate) fn find(&self, cookie: u64) -> Result<Key, Fatal> {
        let index = (cookie >> 32 & 0xffff) as usize;
        let key = Key::at(index);
        let part = self.slots.get(key.slot).map(|slot| &slot.parts[key.part]);
        let known = part.is_some_and(|part| part.state == PartState::Issued && !part.answered);
        if known && self.cookie(key) == cookie { Ok(key) } else { Err(Fatal::UnknownCookie(cookie)) }
    }

    pub(crate) fn is_read(&self, key: Key) -> bool {
        let request = &self.slots[key.slot].request;
        request.as_ref().is_some_and(|request| request.operation == Operation::Read)
    }

    pub(crate) fn length(&self, key: Key) -> u32 {
        self.slots[key.slot].parts[key.part].length
    }

    /// Bytes `length` at the absolute `offset` are being delivered; tells where they lie in the command.
    pub(crate) fn deliver(&mut self, key: Key, offset: u64, length: u32) -> Result<u32, Fatal> {
        let part = &self.slots[key.slot].parts[key.part];
        let start = offset.checked_sub(part.offset).ok_or(Fatal::ChunkOutside)?;
        let end = start.checked_add(u64::from(length)).ok_or(Fatal::ChunkOutside)?;
        if end > u64::from(part.length) {
            return Err(Fatal::ChunkOutside);
        }
        if !part.sent {
            return Err(Fatal::AnsweredTooEarly);
        }
        // Both fit, as neither is more than the part's length.
        self.coverage.add(key.index(), start as u32, end as u32)?;
        self.counters.bytes_read += u64::from(length);
        Ok(start as u32)
    }

    /// All bytes of a command are being delivered.
    pub(crate) fn deliver_all(&mut self, key: Key) -> Result<(), Fatal> {
        let Part { offset, length, .. } = self.slots[key.slot].parts[key.part];
        self.deliver(key, offset, length).map(|_| ())
    }

    /// The memory for bytes `start..end` of a read; none for the heartbeat, whose bytes nobody wants.
    pub(crate) fn target(&mut self, key: Key, start: u32, end: u32) -> Option<&mut [u8]> {
        let slot = &mut self.slots[key.slot];
        let request = slot.request.as_mut()?;
        let base = (slot.parts[key.part].offset - request.offset) as usize;
        Some(&mut request.buffer.as_mut()?[base + start as usize..base + end as usize])
    }

    /// Bytes `start..end` of a read are zeroes.
    pub(crate) fn zero(&mut self, key: Key, start: u32, end: u32) {
        if let Some(target) = self.target(key, start, end) {
            target.fill(0);
        }
    }

    /// An error was reported, at an absolute offset if one is given.
    pub(crate) fn fail(&mut self, key: Key, code: u32, offset: Option<u64>) -> Result<(), Fatal> {
        let part = &mut self.slots[key.slot].parts[key.part];
        let range = part.offset..part.offset + u64::from(part.length.max(1));
        if offset.is_some_and(|offset| !range.contains(&offset)) {
            return Err(Fatal::ChunkOutside);
        }
        part.errors += 1;
        if part.errors > MAX_ERRORS {
            return Err(Fatal::TooManyErrors);
        }
        part.error.get_or_insert(code);
        Ok(())
    }

    /// The final reply is complete. Tells whether the server is shutting down.
    pub(crate) fn answered(&mut self, key: Key) -> Result<bool, Fatal> {
        let is_read = self.is_read(key);
        let part = &mut self.slots[key.slot].parts[key.part];
        if part.error.is_none() && !part.sent {
            return Err(Fatal::AnsweredTooEarly);
        }
        let length = part.length;
        if is_read && !self.coverage.finish(key.index(), length) && part.error.is_none() {
            // The stream is in step, so only this request suffers; but it must not pass for a success.
            self.counters.short_reads += 1;
            part.error = Some(error::EIO);
        }
        part.answered = true;
        let shutting_down = part.error == Some(error::ESHUTDOWN);
        if part.sent {
            self.end(key);
        }
        Ok(shutting_down)
    }

    /// A command was sent and answered: see what is next for its range.
    fn end(&mut self, key: Key) {
        let Geometry { block_size: block, max_transfer: max_payload, .. } = self.geometry;
        let slot = &mut self.slots[key.slot];
        let Some(request) = slot.request.as_ref() else { return };
        let part = &mut slot.parts[key.part];
        match part.error {
            None => {
                if matches!(request.operation, Operation::Write { .. }) {
                    self.counters.bytes_written += u64::from(part.length);
                }
                part.offset += u64::from(part.length);
            }
            Some(code)
                if part.length > block && is_too_long(code, request.operation, part.length, max_payload) =>
            {
                // Too much at once: from now on half as much.
                let limit =
                    if request.operation.carries_data() { &mut self.payload } else { &mut self.range };
                let half = part.length / 2;
                *limit = (*limit).min((half - half % block).max(block));
                self.counters.split_again += 1;
            }
            Some(error::ESHUTDOWN) => {
                slot.shut = true;
                part.offset = part.end;
            }
            Some(code) => {
                slot.error.get_or_insert(meaning(code));
                part.offset = part.end;
            }
        }
        if part.offset < part.end {
            part.state = PartState::Waiting;
        } else {
            *part = Part::FREE;
            slot.outstanding -= 1;
        }
        self.settle(key.slot);
    }

    /// See whether a request has come to its end.
    fn settle(&mut self, index: usize) {
        let slot = &self.slots[index];
        let issued = slot.parts.iter().any(|part| part.state == PartState::Issued);
        if issued {
            self.requeue(index);
            return;
        }
        let more = slot.stage != Stage::Sent || slot.outstanding > 0;
        if slot.error.is_some() {
            self.leave(index, SlotState::Done);
        } else if slot.shut || (more && self.stopped) {
            self.leave(index, SlotState::Unfinished);
        } else if more {
            self.requeue(index);
        } else {
            self.leave(index, SlotState::Done);
        }
    }
}

/// Whether an error says that less at once would do. For commands without payload EINVAL may mean that, too
/// (protocol section "Size constraints").
const fn is_too_long(code: u32, operation: Operation, length: u32, max_payload: u32) -> bool {
    code == error::EOVERFLOW || code == error::EINVAL && !operation.carries_data() && length > max_payload
}

/// Whether durability takes a FLUSH behind the command.
const fn needs_flush(operation: Operation, native_fua: bool) -> bool {
    match operation {
        Operation::Write { fua } | Operation::Trim { fua } | Operation::WriteZeroes { fua, .. } => {
            fua && !native_fua
        }
        Operation::Read | Operation::Flush | Operation::Cache => false,
    }
}

/// The command and its flags.
const fn encode(operation: Operation, native_fua: bool) -> (u16, u16) {
    let (command, fua, no_hole) = match operation {
        Operation::Read => (command::READ, false, false),
        Operation::Write { fua } => (command::WRITE, fua, false),
        Operation::Flush => (command::FLUSH, false, false),
        Operation::Trim { fua } => (command::TRIM, fua, false),
        Operation::WriteZeroes { fua, no_hole } => (command::WRITE_ZEROES, fua, no_hole),
        Operation::Cache => (command::CACHE, false, false),
    };
    let fua = if fua && native_fua { command_flag::FUA } else { 0 };
    (command, fua | if no_hole { command_flag::NO_HOLE } else { 0 })
}

/// What an error value means to a disk. Unknown values count as EINVAL (protocol section "Error values").
const fn meaning(code: u32) -> Error {
    match code {
        error::EPERM => Error::NotPermitted,
        error::EIO => Error::Io,
        error::ENOMEM => Error::NoMemory,
        error::ENOSPC => Error::NoSpace,
        error::ENOTSUP => Error::NotSupported,
        _ => Error::Invalid,
    }
}
