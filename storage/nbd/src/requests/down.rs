//! The way down: cutting requests into commands.

use super::{Key, PARTS, Part, PartState, Requests, SlotState, Stage};
use crate::wire::{ExtendedRequest, command, command_flag};
use storage_block::{Extent, Operation, Request};

impl Requests {
    /// The next command to be sent. Its flags and length are those of a compact header.
    pub(crate) fn next_command(&mut self) -> Option<(Key, ExtendedRequest)> {
        while let Some(index) = self.queue.pop_front() {
            let slot = &mut self.slots[index];
            slot.queued = false;
            if slot.state != SlotState::Active || !self.can_issue(index) {
                continue;
            }
            let issued = match self.issue_whole(index) {
                Some(issued) => Some(issued),
                None => self.issue_part(index),
            };
            if issued.is_some() {
                self.counters.commands += 1;
                return issued;
            }
        }
        None
    }

    pub(super) fn requeue(&mut self, index: usize) {
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
        slot.outstanding > slot.issued
            || match slot.stage {
                Stage::Range(_) => slot.outstanding < PARTS,
                // The writes a FLUSH is to cover must have been answered before it is sent.
                Stage::Flush => slot.outstanding == 0,
                Stage::Sent => false,
            }
    }

    /// Issue a read or write of which nothing was issued yet by one command, if it fits: so almost all go. Nothing of it is
    /// left to be queued then.
    fn issue_whole(&mut self, index: usize) -> Option<(Key, ExtendedRequest)> {
        let slot = &mut self.slots[index];
        let &Request { operation, offset, length, .. } = slot.request.as_ref()?;
        let (command, fua) = match operation {
            Operation::Read => (command::READ, false),
            Operation::Write { fua } => (command::WRITE, fua),
            _ => return None,
        };
        let is_fresh = slot.stage == Stage::Range(0) && slot.outstanding == 0;
        if !is_fresh || length > u64::from(self.payload) || fua && !self.native_fua {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        (slot.stage, slot.outstanding, slot.issued) = (Stage::Sent, 1, 1);
        let (state, sequence, end) = (PartState::Issued, self.sequence, offset + length);
        slot.parts[0] = Part { state, sequence, offset, length, end, ..Part::FREE };
        let key = Key { slot: index, part: 0 };
        let flags = if fua { command_flag::FUA } else { 0 };
        Some((key, ExtendedRequest { flags, command, cookie: self.cookie(key), offset, length }))
    }

    /// Issue the next part of any request, and see to the others.
    #[inline(never)]
    fn issue_part(&mut self, index: usize) -> Option<(Key, ExtendedRequest)> {
        let issued = self.issue(index);
        self.requeue(index);
        issued
    }

    fn issue(&mut self, index: usize) -> Option<(Key, ExtendedRequest)> {
        let operation = self.slots[index].request.as_ref()?.operation;
        let limit = if operation.carries_data() { u64::from(self.payload) } else { self.range };
        let slot = &mut self.slots[index];
        let (part, offset, end) = if slot.outstanding > slot.issued {
            let part = slot.parts.iter().position(|part| part.state == PartState::Waiting)?;
            (part, slot.parts[part].offset, slot.parts[part].end)
        } else {
            self.claim(index, limit)?
        };
        let key = Key { slot: index, part };
        self.sequence = self.sequence.wrapping_add(1);
        let slot = &mut self.slots[index];
        slot.issued += 1;
        let length = (end - offset).min(limit);
        slot.parts[part] =
            Part { state: PartState::Issued, sequence: self.sequence, offset, length, end, ..Part::FREE };
        // Nothing but a FLUSH has no length.
        let operation = if length == 0 { Operation::Flush } else { operation };
        let (command, mut flags) = encode(operation, self.native_fua);
        if operation == Operation::Status && self.has_room_for_one(index) {
            flags |= command_flag::REQ_ONE;
        }
        let cookie = self.cookie(key);
        Some((key, ExtendedRequest { flags, command, cookie, offset, length }))
    }

    fn has_room_for_one(&self, index: usize) -> bool {
        let request = self.slots[index].request.as_ref();
        let buffer = request.and_then(|request| request.buffer.as_ref());
        buffer.is_some_and(|buffer| buffer.len() < 2 * Extent::SIZE)
    }

    /// Find a free part for the next piece of a request's range, or for its FLUSH: which it is to be at once. Answers where
    /// the piece begins and ends.
    fn claim(&mut self, index: usize, limit: u64) -> Option<(usize, u64, u64)> {
        let slot = &mut self.slots[index];
        let request = slot.request.as_ref()?;
        let part = slot.parts.iter().position(|part| part.state == PartState::Free)?;
        let (offset, end) = match slot.stage {
            Stage::Range(given) => {
                let next = request.length.min(given + limit);
                // What is told of a range follows from its beginning on, so nothing can be asked beside it.
                slot.stage = if next < request.length && request.operation != Operation::Status {
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
        slot.outstanding += 1;
        Some((part, offset, end))
    }

    pub(super) fn cookie(&self, key: Key) -> u64 {
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
        } else {
            self.due += 1;
        }
    }
}

/// Whether durability takes a FLUSH behind the command.
const fn needs_flush(operation: Operation, native_fua: bool) -> bool {
    match operation {
        Operation::Write { fua } | Operation::Trim { fua } | Operation::WriteZeroes { fua, .. } => {
            fua && !native_fua
        }
        Operation::Read | Operation::Flush | Operation::Cache | Operation::Status => false,
    }
}

/// The command and its flags.
const fn encode(operation: Operation, native_fua: bool) -> (u16, u16) {
    let (command, fua, flags) = match operation {
        Operation::Read => (command::READ, false, 0),
        Operation::Write { fua } => (command::WRITE, fua, 0),
        Operation::Flush => (command::FLUSH, false, 0),
        Operation::Trim { fua } => (command::TRIM, fua, 0),
        Operation::WriteZeroes { fua, no_hole, fast } => {
            let no_hole = if no_hole { command_flag::NO_HOLE } else { 0 };
            let fast = if fast { command_flag::FAST_ZERO } else { 0 };
            (command::WRITE_ZEROES, fua, no_hole | fast)
        }
        Operation::Cache => (command::CACHE, false, 0),
        Operation::Status => (command::BLOCK_STATUS, false, 0),
    };
    (command, if fua && native_fua { flags | command_flag::FUA } else { flags })
}
