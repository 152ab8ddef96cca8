//! What a READ brings goes to the initiator straight from where it has come to, as far as the initiator can take it: then
//! it never lies in the segment's buffer. It goes in order, without a gap, and each byte once; a request that is made anew
//! after its connection was lost brings bytes that have gone already, which are passed over.

use super::Transfer;
use crate::segment::{Segments, State};
use storage_block::{Arrived, Delivery};

/// Bytes that are worth a data segment of their own where more are to come.
const LEAST: u32 = 8 << 10;

impl Transfer {
    /// Bytes of the request of the segment at `place` have arrived. If they are next, `send` gives the initiator as many
    /// as it answers, of at most so many, from this place in Data-In on; whether nothing is left to do but to end the
    /// command with GOOD is told, and it has ended if all of them went then. To be asked of a READ in one pass.
    pub(crate) fn deliver(
        &mut self,
        segments: &mut Segments,
        place: u64,
        arrived: &Arrived<'_>,
        send: impl FnOnce(u32, u32, bool) -> u32,
    ) -> Delivery {
        const NONE: Delivery = Delivery::Used(0);
        let pass = &self.passes[0];
        if pass.program.takes_data || self.room < pass.total || self.failure.is_some() {
            return NONE;
        }
        let (count, mut next, mut rank) = (segments.count(), self.sent, 0);
        let segment = loop {
            if rank == count {
                return NONE;
            }
            let is_meant = segments.place(rank) as u64 == place;
            let segment = segments.ranked(rank);
            if segment.start != next {
                return NONE;
            }
            if is_meant {
                break segments.ranked(rank);
            }
            if segment.straight != segment.length {
                return NONE;
            }
            next += segment.length;
            rank += 1;
        };
        let (offset, length, gone) = (arrived.offset, arrived.length(), segment.straight);
        if offset < gone {
            return Delivery::Used(length.min(gone - offset));
        }
        let worth = if arrived.is_last { length } else { length - length % Arrived::GRAIN };
        let fits = offset == gone && length <= segment.length - gone && segment.at == 0;
        if !fits || !matches!(segment.state, State::InFlight) || !arrived.is_last && worth < LEAST {
            return NONE;
        }
        let ends = arrived.is_last && count == 1 && segment.start + segment.length == pass.total;
        let sent = send(segment.start + gone, worth, ends).min(worth);
        if ends && sent == worth {
            self.sent = pass.total;
            segments.end_only();
            return Delivery::Ended;
        }
        segment.straight += sent;
        Delivery::Used(sent)
    }
}
