//! The way of nearly all commands: a READ or a WRITE of one segment.
//!
//! It makes the moves that [`super`] makes, and leaves behind after each what that would, but it does not ask each time
//! what else there might be to do. Whatever is not as it should be (no buffer, a failure, more segments) is left as it
//! is: the way of all others goes on from there.

use super::{MAX_SEGMENT, Transfer};
use crate::command::{Memory, Out};
use crate::segment::{Move, Segments, State, operation};
use crate::unit::LogicalUnit;
use storage_block::{Buffer, Request};

impl Transfer {
    /// Whether it is a READ or a WRITE of whole blocks, in one pass.
    pub(crate) fn is_plain(&self) -> bool {
        self.passes[0].program.is_plain && self.passes[1].total == 0
    }

    /// Begin the only segment and make its first move. False if it is not the only one, or cannot be begun now; then
    /// nothing has changed.
    pub(crate) fn begin_plain(
        &mut self,
        segments: &mut Segments,
        unit: &LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        let pass = &self.passes[0];
        let (start, total) = (pass.start, pass.total);
        let is_one = total <= MAX_SEGMENT && total as usize <= memory.data.largest();
        // The disk may have shrunk since the command was checked.
        let fits = unit.geometry().is_some_and(|geometry| start + u64::from(total) <= geometry.size);
        if !is_one || !fits || self.next != 0 || segments.count() != 0 {
            return false;
        }
        let Some(buffer) = memory.data.take(total as usize) else { return false };
        let Some((place, segment)) = segments.begin(0, 0, total) else { return false };
        self.next = total;
        if pass.program.takes_data {
            segment.state = State::Receiving;
            out.receive(pass.data, buffer);
        } else {
            segment.state = State::InFlight;
            let (cookie, operation, length) =
                (place as u64, operation(Some(Move::Fetch), false), total.into());
            out.issue(Request { cookie, operation, offset: start, length, buffer: Some(buffer) });
        }
        true
    }

    /// Go on with the only segment, once it was begun, until it waits. `None` if anything is not as it should be.
    pub(crate) fn step_plain(&mut self, segments: &mut Segments, out: &mut Out<'_>) -> Option<()> {
        let pass = &self.passes[0];
        let (offset, total) = (pass.start, pass.total);
        if self.failure.is_some() {
            return None;
        }
        let place = segments.place(0);
        let segment = segments.only()?;
        if segment.length != total {
            return None;
        }
        match segment.state {
            State::Receiving | State::InFlight => Some(()),
            State::Idle if pass.program.takes_data && segment.at == 1 => {
                let buffer = Some(segment.buffer.take()?);
                segment.state = State::InFlight;
                let (cookie, operation) = (place as u64, operation(Some(Move::Store), self.fua));
                out.issue(Request { cookie, operation, offset, length: total.into(), buffer });
                Some(())
            }
            State::Idle | State::Returned(_) => None,
        }
    }

    /// End it, if all that is left to do is to send the data of its only segment, or nothing. Answers that data.
    #[inline]
    pub(crate) fn end_plain(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
    ) -> Option<Option<Buffer>> {
        let pass = &self.passes[0];
        let is_write = pass.program.takes_data;
        let total = pass.total;
        if self.failure.is_some() {
            return None;
        }
        let segment = segments.only()?;
        let is_back = matches!(segment.state, State::Returned(Ok(())));
        let is_whole = segment.length == total && segment.straight == 0;
        if !is_back || !is_whole || segment.at != u8::from(is_write) {
            return None;
        }
        let data = if is_write {
            if !self.fua {
                unit.wrote();
            }
            None
        } else {
            let mut buffer = segment.buffer.take()?;
            buffer.truncate(buffer.len().min(self.room as usize));
            self.sent = buffer.len() as u32;
            Some(buffer)
        };
        segments.end_only();
        Some(data)
    }
}
