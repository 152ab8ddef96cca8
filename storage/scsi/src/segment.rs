//! A piece of a transfer, its buffers, and the programs that pieces go through.

use storage_block::{Buffer, Error, Operation};

/// One move of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Data-Out into the buffer.
    Receive,
    /// The medium into the buffer, or into a new one where the last was kept below with what was written.
    Fetch,
    /// The medium into the other buffer.
    FetchOther,
    /// The buffer to the medium. It may not come back: until a flush has made it durable it can be wanted below.
    Store,
    /// The buffer as Data-In, in order.
    Send,
    /// A copy of the buffer into the other, to be there when the buffer is not.
    Keep,
    /// The buffer and the other must be equal.
    Compare,
    /// Every block of the buffer must equal the pattern.
    ComparePattern,
    /// The other buffer's bits are set in the buffer.
    Or,
    /// The buffer over the beginning of the other, and that instead of it: a block of which only a part was sent.
    Merge,
    /// The pattern into every block of the buffer, or zeroes where there is none.
    Expand,
}

/// What is done with each segment.
pub(crate) type Program = &'static [Move];

pub(crate) const READ: Program = &[Move::Fetch, Move::Send];
pub(crate) const WRITE: Program = &[Move::Receive, Move::Store];
pub(crate) const VERIFY: Program = &[Move::Fetch];
pub(crate) const VERIFY_DATA: Program = &[Move::Receive, Move::FetchOther, Move::Compare];
pub(crate) const VERIFY_PATTERN: Program = &[Move::Fetch, Move::ComparePattern];
pub(crate) const WRITE_AND_VERIFY: Program = &[Move::Receive, Move::Store, Move::Fetch];
pub(crate) const WRITE_AND_COMPARE: Program =
    &[Move::Receive, Move::Keep, Move::Store, Move::Fetch, Move::Compare];
/// The same three for a last block of which only a part is sent: the rest of it stays as it is.
pub(crate) const WRITE_PART: Program = &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store];
pub(crate) const WRITE_PART_AND_VERIFY: Program =
    &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store, Move::Fetch];
pub(crate) const WRITE_PART_AND_COMPARE: Program =
    &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store, Move::Fetch, Move::Compare];
pub(crate) const OR_WRITE: Program = &[Move::Receive, Move::FetchOther, Move::Or, Move::Store];
pub(crate) const WRITE_SAME: Program = &[Move::Expand, Move::Store];

/// Whether each segment needs two buffers.
pub(crate) fn needs_two(program: Program) -> bool {
    program.iter().any(|step| matches!(step, Move::FetchOther | Move::Keep))
}

/// Whether a segment may need another buffer after those it has begun with.
pub(crate) fn needs_later(program: Program) -> bool {
    program.iter().skip_while(|step| **step != Move::Store).any(|step| *step == Move::Fetch)
}

/// The request that a move is, where it is one.
pub(crate) fn operation(step: Option<Move>, fua: bool) -> Operation {
    if step == Some(Move::Store) { Operation::Write { fua } } else { Operation::Read }
}

/// A piece of a transfer.
pub(crate) struct Segment {
    /// The pass it is of.
    pub(crate) pass: u8,
    /// The move it is at.
    pub(crate) at: u8,
    /// First byte, counted from the pass's.
    pub(crate) start: u32,
    pub(crate) length: u32,
    pub(crate) state: State,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) other: Option<Buffer>,
}

/// Whom a segment waits for.
pub(crate) enum State {
    /// Nobody.
    Idle,
    Receiving,
    InFlight,
    Returned(Result<(), Error>),
}

impl Segment {
    /// A move within memory. The first byte that is not as it must be, if any.
    pub(crate) fn compute(&mut self, step: Move, pattern: Option<&[u8]>) -> Option<u32> {
        let buffer = self.buffer.as_deref_mut()?;
        let other = self.other.as_deref().unwrap_or_default();
        let differ = |(index, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(index as u32);
        match step {
            Move::Compare if *buffer == *other => None,
            // Of a block that was sent in part there is only that part to compare.
            Move::Compare => buffer.iter().zip(other).enumerate().find_map(differ),
            Move::ComparePattern => {
                let pattern = pattern?;
                buffer.iter().zip(pattern.iter().cycle()).enumerate().find_map(differ)
            }
            Move::Or => {
                for (byte, bits) in buffer.iter_mut().zip(other) {
                    *byte |= bits;
                }
                None
            }
            Move::Keep => {
                let other = self.other.as_deref_mut()?;
                other.iter_mut().zip(&*buffer).for_each(|(to, from)| *to = *from);
                None
            }
            Move::Merge => {
                let other = self.other.as_deref_mut()?;
                other.iter_mut().zip(&*buffer).for_each(|(to, from)| *to = *from);
                core::mem::swap(&mut self.buffer, &mut self.other);
                None
            }
            Move::Expand => {
                match pattern {
                    Some(pattern) => buffer.chunks_mut(pattern.len()).for_each(|block| {
                        block.copy_from_slice(&pattern[..block.len()]);
                    }),
                    None => buffer.fill(0),
                }
                None
            }
            Move::Receive | Move::Fetch | Move::FetchOther | Move::Store | Move::Send => None,
        }
    }
}
