//! The way up: what replies make of commands, and commands of their requests.

use super::{Delivered, Key, Part, PartState, Requests, SlotState, Stage};
use crate::Fatal;
use crate::wire::error;
use storage_block::{Arrived, Delivery, Error, Geometry, Operation, Recipient};

/// Error chunks one reply may have; a server has one to tell, or one for each bad piece.
const MAX_ERRORS: u16 = 256;

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

    /// Where the range of a command begins, and how long it is.
    pub(crate) fn range(&self, key: Key) -> (u64, u64) {
        let Part { offset, length, .. } = self.slots[key.slot].parts[key.part];
        (offset, length)
    }

    /// Bytes `length` at the absolute `offset` are being delivered; tells where they lie in the command.
    pub(crate) fn deliver(&mut self, key: Key, offset: u64, length: u32) -> Result<u32, Fatal> {
        let part = &mut self.slots[key.slot].parts[key.part];
        let start = offset.checked_sub(part.offset).ok_or(Fatal::ChunkOutside)?;
        let end = start.checked_add(u64::from(length)).ok_or(Fatal::ChunkOutside)?;
        if end > part.length {
            return Err(Fatal::ChunkOutside);
        }
        if !part.sent {
            return Err(Fatal::AnsweredTooEarly);
        }
        match part.delivered {
            // So almost every read is answered.
            Delivered::Nothing if end - start == part.length => part.delivered = Delivered::All,
            Delivered::Nothing | Delivered::Runs => {
                part.delivered = Delivered::Runs;
                // Both fit, as neither is more than the length of a read.
                self.coverage.add(key.index(), start as u32, end as u32)?;
            }
            Delivered::All => return Err(Fatal::ChunkOverlap),
        }
        self.counters.bytes_read += u64::from(length);
        Ok(start as u32)
    }

    /// All bytes of a read are being delivered; tells how many.
    pub(crate) fn deliver_all(&mut self, key: Key) -> Result<u32, Fatal> {
        let (offset, length) = self.range(key);
        let length = length as u32;
        self.deliver(key, offset, length).map(|_| length)
    }

    /// The memory for bytes `start..end` of a read; none for the heartbeat, whose bytes nobody wants.
    pub(crate) fn target(&mut self, key: Key, start: u32, end: u32) -> Option<&mut [u8]> {
        let slot = &mut self.slots[key.slot];
        let request = slot.request.as_mut()?;
        let base = (slot.parts[key.part].offset - request.offset) as usize;
        Some(&mut request.buffer.as_mut()?[base + start as usize..base + end as usize])
    }

    /// Bytes of a read from `start` on have come, and are certain to be what the server has to say: see whether its
    /// recipient has a use for them; what it has none for goes into the buffer. Answers whether the read has ended with
    /// that.
    pub(crate) fn deliver_to(
        &mut self,
        recipient: &mut dyn Recipient,
        key: Key,
        start: u32,
        come: &[u8],
        is_last: bool,
    ) -> bool {
        let slot = &mut self.slots[key.slot];
        let Some(request) = slot.request.as_mut() else { return false };
        let Some(buffer) = request.buffer.as_deref_mut() else { return false };
        let part = &slot.parts[key.part];
        let base = (part.offset - request.offset) as usize + start as usize;
        let mut used = 0;
        // All of the request in one piece.
        let is_whole = part.delivered == Delivered::All && part.length == request.length;
        if is_whole && part.error.is_none() {
            let had = &buffer[slot.used as usize..base];
            let arrived = Arrived { offset: slot.used, had, come, is_last };
            match recipient.deliver(request.cookie, &arrived) {
                Delivery::Ended if is_last => {
                    self.vanish(key);
                    return true;
                }
                Delivery::Ended => {}
                Delivery::Used(count) => {
                    let count = count.min(arrived.length());
                    used = (count as usize).saturating_sub(had.len());
                    slot.used += count;
                }
            }
        }
        if used < come.len() {
            buffer[base + used..base + come.len()].copy_from_slice(&come[used..]);
        }
        false
    }

    /// A read was answered in one piece, and whoever made it knows.
    fn vanish(&mut self, key: Key) {
        self.due -= 1;
        self.active -= 1;
        let slot = &mut self.slots[key.slot];
        (slot.issued, slot.outstanding) = (0, 0);
        slot.parts[key.part].state = PartState::Free;
        let micros = self.now.as_micros().saturating_sub(slot.since.as_micros());
        self.latency.add(Operation::Read, micros);
        drop(self.vacate(key.slot));
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
        let range = part.offset..part.offset + part.length.max(1);
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
        let part = &mut self.slots[key.slot].parts[key.part];
        if part.delivered == Delivered::All && part.error.is_none() {
            // So almost every read is answered; nothing is delivered before all was sent.
            part.answered = true;
            self.due -= 1;
            self.end(key);
            return Ok(false);
        }
        let (is_read, is_status) = (self.is_read(key), self.is_status(key));
        let part = &mut self.slots[key.slot].parts[key.part];
        if part.error.is_none() && !part.sent {
            return Err(Fatal::AnsweredTooEarly);
        }
        let Part { length, delivered, .. } = *part;
        let failed = part.error.is_some();
        let is_covered = match delivered {
            Delivered::Nothing => !is_read,
            Delivered::Runs => self.coverage.finish(key.index(), length as u32),
            Delivered::All => true,
        };
        let complete = is_covered && (!is_status || failed || self.finish_extents(key));
        let part = &mut self.slots[key.slot].parts[key.part];
        if !complete && !failed {
            // The stream is in step, so only this request suffers; but it must not pass for a success.
            self.counters.short_reads += 1;
            part.error = Some(error::EIO);
        }
        part.answered = true;
        let shutting_down = part.error == Some(error::ESHUTDOWN);
        if part.sent {
            self.due -= 1;
            self.end(key);
        }
        Ok(shutting_down)
    }

    /// A command was sent and answered: see what is next for its range.
    pub(super) fn end(&mut self, key: Key) {
        let Geometry { block_size: block, max_transfer: max_payload, .. } = self.geometry;
        let (block, max_payload) = (u64::from(block), u64::from(max_payload));
        let slot = &mut self.slots[key.slot];
        let Some(request) = slot.request.as_ref() else { return };
        let part = &mut slot.parts[key.part];
        match part.error {
            None => {
                if matches!(request.operation, Operation::Write { .. }) {
                    self.counters.bytes_written += part.length;
                }
                part.offset += part.length;
                if request.operation == Operation::Status {
                    part.offset = part.end;
                }
            }
            Some(code)
                if part.length > block && is_too_long(code, request.operation, part.length, max_payload) =>
            {
                // Too much at once: from now on half as much.
                let half = part.length / 2;
                let half = (half - half % block).max(block);
                if request.operation.carries_data() {
                    self.payload = self.payload.min(half as u32);
                } else {
                    self.range = self.range.min(half);
                }
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
        slot.issued -= 1;
        if part.offset < part.end {
            part.state = PartState::Waiting;
        } else {
            part.state = PartState::Free;
            slot.outstanding -= 1;
        }
        self.settle(key.slot);
    }

    /// See whether a request has come to its end.
    pub(super) fn settle(&mut self, index: usize) {
        let slot = &self.slots[index];
        if slot.issued > 0 {
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
const fn is_too_long(code: u32, operation: Operation, length: u64, max_payload: u64) -> bool {
    code == error::EOVERFLOW || code == error::EINVAL && !operation.carries_data() && length > max_payload
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
