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
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) moves: &'static [Move],
    /// Each segment needs two buffers.
    pub(crate) needs_two: bool,
    /// A segment may need another buffer after those it has begun with.
    pub(crate) needs_later: bool,
    /// It begins with Data-Out.
    pub(crate) takes_data: bool,
    /// It is what a READ or a WRITE does, and nothing more.
    pub(crate) is_plain: bool,
}

/// A plan, by its place.
pub(crate) type Program = &'static Plan;

impl Plan {
    const fn new(moves: &'static [Move]) -> Self {
        let (mut needs_two, mut needs_later, mut stored) = (false, false, false);
        let mut at = 0;
        while at < moves.len() {
            needs_two |= matches!(moves[at], Move::FetchOther | Move::Keep);
            needs_later |= stored && matches!(moves[at], Move::Fetch);
            stored |= matches!(moves[at], Move::Store);
            at += 1;
        }
        let takes_data = matches!(moves, [Receive, ..]);
        let is_plain = matches!(moves, [Fetch, Send] | [Receive, Store]);
        Self { moves, needs_two, needs_later, takes_data, is_plain }
    }
}

use Move::{Compare, ComparePattern, Expand, Fetch, FetchOther, Keep, Merge, Or, Receive, Send, Store};

pub(crate) static NOTHING: Plan = Plan::new(&[]);
pub(crate) static READ: Plan = Plan::new(&[Fetch, Send]);
pub(crate) static WRITE: Plan = Plan::new(&[Receive, Store]);
pub(crate) static VERIFY: Plan = Plan::new(&[Fetch]);
pub(crate) static VERIFY_DATA: Plan = Plan::new(&[Receive, FetchOther, Compare]);
pub(crate) static VERIFY_PATTERN: Plan = Plan::new(&[Fetch, ComparePattern]);
pub(crate) static WRITE_AND_VERIFY: Plan = Plan::new(&[Receive, Store, Fetch]);
pub(crate) static WRITE_AND_COMPARE: Plan = Plan::new(&[Receive, Keep, Store, Fetch, Compare]);
/// The same three for a last block of which only a part is sent: the rest of it stays as it is.
pub(crate) static WRITE_PART: Plan = Plan::new(&[Receive, FetchOther, Merge, Store]);
pub(crate) static WRITE_PART_AND_VERIFY: Plan = Plan::new(&[Receive, FetchOther, Merge, Store, Fetch]);
pub(crate) static WRITE_PART_AND_COMPARE: Plan =
    Plan::new(&[Receive, FetchOther, Merge, Store, Fetch, Compare]);
pub(crate) static OR_WRITE: Plan = Plan::new(&[Receive, FetchOther, Or, Store]);
pub(crate) static WRITE_SAME: Plan = Plan::new(&[Expand, Store]);

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
    pub(crate) state: State,
    /// First byte, counted from the pass's.
    pub(crate) start: u32,
    pub(crate) length: u32,
    /// Bytes from its first on that have gone to the initiator without having been in the buffer: see
    /// [`crate::transfer::Transfer::deliver`].
    pub(crate) straight: u32,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) other: Option<Buffer>,
}

/// Segments of one command in flight together.
pub(crate) const WINDOW: usize = 4;

/// The segments of a command. They stay where they are for as long as its slot is there, whatever command is in it: they
/// are the larger part of it, and are never moved.
pub(crate) struct Segments {
    places: [Segment; WINDOW],
    /// All places, those in use first, in the order in which they were begun, which is that of their bytes.
    order: [u8; WINDOW],
    count: u8,
}

impl Segments {
    pub(crate) const fn new() -> Self {
        const FREE: Segment = Segment {
            pass: 0,
            at: 0,
            state: State::Idle,
            start: 0,
            length: 0,
            straight: 0,
            buffer: None,
            other: None,
        };
        Self { places: [FREE; WINDOW], order: [0, 1, 2, 3], count: 0 }
    }

    pub(crate) fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() == WINDOW
    }

    /// The place of the segment with this rank, which is below [`Segments::count`].
    pub(crate) fn place(&self, rank: usize) -> usize {
        usize::from(self.order[rank]) % WINDOW
    }

    /// The segment with this rank.
    pub(crate) fn ranked(&mut self, rank: usize) -> &mut Segment {
        let place = self.place(rank);
        &mut self.places[place]
    }

    /// The segment, if there is but one.
    pub(crate) fn only(&mut self) -> Option<&mut Segment> {
        if self.count == 1 { Some(self.ranked(0)) } else { None }
    }

    /// Forget it.
    #[inline]
    pub(crate) fn end_only(&mut self) {
        if let Some(segment) = self.only() {
            segment.state = State::Idle;
            if segment.buffer.is_some() || segment.other.is_some() {
                drop((segment.buffer.take(), segment.other.take()));
            }
            self.count = 0;
        }
    }

    /// The segment at this place, if one is there.
    pub(crate) fn at(&mut self, place: usize) -> Option<&mut Segment> {
        let in_use = self.order[..self.count()].iter().any(|&used| usize::from(used) == place);
        self.places.get_mut(place).filter(|_| in_use)
    }

    /// Those that there are, by rank.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        (0..self.count()).map(|rank| &self.places[self.place(rank)])
    }

    /// Begin one behind all others, if there is room. Answers its place as well.
    pub(crate) fn begin(&mut self, pass: u8, start: u32, length: u32) -> Option<(usize, &mut Segment)> {
        if self.is_full() {
            return None;
        }
        self.count += 1;
        let place = self.place(self.count() - 1);
        let segment = &mut self.places[place];
        (segment.pass, segment.at, segment.state) = (pass, 0, State::Idle);
        (segment.start, segment.length, segment.straight) = (start, length, 0);
        Some((place, segment))
    }

    /// Forget the one with this rank, and give back its buffers.
    pub(crate) fn end(&mut self, rank: usize) {
        let segment = self.ranked(rank);
        segment.state = State::Idle;
        drop((segment.buffer.take(), segment.other.take()));
        let last = self.count() - 1;
        for rank in rank..last {
            self.order.swap(rank, rank + 1);
        }
        self.count -= 1;
    }

    /// Forget all that `is_meant`.
    pub(crate) fn end_all(&mut self, is_meant: impl Fn(&Segment) -> bool) {
        for rank in (0..self.count()).rev() {
            if is_meant(self.ranked(rank)) {
                self.end(rank);
            }
        }
    }
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
