//! What replies to BLOCK_STATUS make of the request's buffer.

use super::{Key, Requests};
use crate::Fatal;
use crate::wire::state;
use storage_block::{Extent, Operation};

impl Requests {
    pub(crate) fn is_status(&self, key: Key) -> bool {
        let request = &self.slots[key.slot].request;
        request.as_ref().is_some_and(|request| request.operation == Operation::Status)
    }

    /// The context that a BLOCK_STATUS is to be limited to, where the server can and there are others.
    pub(crate) fn only_context(&self) -> Option<u32> {
        self.allocation.filter(|_| self.can_filter)
    }

    /// Extents of the context with this number are to come. Answers whether they are those that were asked for; those of
    /// the others are a byproduct.
    pub(crate) fn begin_extents(&mut self, key: Key, number: u32) -> Result<bool, Fatal> {
        let place = self.contexts.iter().position(|context| *context == Some(number));
        let place = place.ok_or(Fatal::ExtentContext(number))?;
        let part = &mut self.slots[key.slot].parts[key.part];
        if !part.sent {
            return Err(Fatal::AnsweredTooEarly);
        }
        if part.contexts & 1 << place != 0 {
            return Err(Fatal::ExtentContext(number));
        }
        part.contexts |= 1 << place;
        Ok(self.allocation == Some(number))
    }

    /// The next extent of the range. What the buffer has no room for, and what begins behind the range, is left out.
    pub(crate) fn extent(&mut self, key: Key, length: u64, flags: u64) -> Result<(), Fatal> {
        if length == 0 {
            return Err(Fatal::EmptyExtent);
        }
        let slot = &mut self.slots[key.slot];
        let part = &mut slot.parts[key.part];
        let Some(buffer) = slot.request.as_mut().and_then(|request| request.buffer.as_mut()) else {
            return Ok(());
        };
        if part.told >= part.length || part.is_full {
            return Ok(());
        }
        part.told = part.told.saturating_add(length);
        let mut extent = Extent { length, hole: flags & state::HOLE != 0, zero: flags & state::ZERO != 0 };
        let mut at = part.extents * Extent::SIZE;
        // A server may cut an extent in two for reasons of its own.
        let last = at.checked_sub(Extent::SIZE).and_then(|start| Extent::all(&buffer[start..at]).next());
        if let Some(last) = last
            && (last.hole, last.zero) == (extent.hole, extent.zero)
        {
            extent.length = extent.length.saturating_add(last.length);
            part.extents -= 1;
            at -= Extent::SIZE;
        }
        match buffer.get_mut(at..at + Extent::SIZE) {
            Some(place) => {
                place.copy_from_slice(&extent.to_bytes());
                part.extents += 1;
            }
            None => part.is_full = true,
        }
        Ok(())
    }

    /// All that was told of a range is in its buffer: cut that to it. Answers whether there was anything.
    pub(super) fn finish_extents(&mut self, key: Key) -> bool {
        let slot = &mut self.slots[key.slot];
        let extents = slot.parts[key.part].extents;
        if let Some(buffer) = slot.request.as_mut().and_then(|request| request.buffer.as_mut())
            && extents > 0
        {
            buffer.truncate(extents * Extent::SIZE);
        }
        extents > 0
    }
}
