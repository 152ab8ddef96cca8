//! Data between the initiator and the medium, in segments.
//!
//! A transfer is cut into segments of at most one buffer. Each goes through the same short program of moves, several
//! segments at once: while one is on its way to the backend the next is being received. What all commands with data
//! have in common is here; a command is just its program.
//!
//! A segment takes all buffers its program needs when it begins, both or none, so a transfer that has begun a segment
//! can always end it, and a pool of one buffer (two, where a program compares) is enough for any length.

use crate::command::{Memory, Step};
use crate::failure;
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::unit::{LogicalUnit, UnitId};
use storage_block::{Buffer, Completion, Error, Operation, Request};

/// Segments of one command in flight together.
const WINDOW: usize = 4;
/// The longest segment in bytes.
const MAX_SEGMENT: u32 = 256 << 10;

/// One move of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Data-Out into the buffer.
    Receive,
    /// The medium into the buffer.
    Fetch,
    /// The medium into the other buffer.
    FetchOther,
    /// The buffer to the medium.
    Store,
    /// The buffer as Data-In, in order.
    Send,
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
pub(crate) const WRITE_AND_COMPARE: Program = &[Move::Receive, Move::Store, Move::FetchOther, Move::Compare];
/// The same three for a last block of which only a part is sent: the rest of it stays as it is.
pub(crate) const WRITE_PART: Program = &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store];
pub(crate) const WRITE_PART_AND_VERIFY: Program =
    &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store, Move::Fetch];
pub(crate) const WRITE_PART_AND_COMPARE: Program =
    &[Move::Receive, Move::FetchOther, Move::Merge, Move::Store, Move::Fetch, Move::Compare];
pub(crate) const OR_WRITE: Program = &[Move::Receive, Move::FetchOther, Move::Or, Move::Store];
pub(crate) const WRITE_SAME: Program = &[Move::Expand, Move::Store];

/// A program and what it runs over.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) program: Program,
    /// First byte on the medium.
    pub(crate) start: u64,
    /// Bytes on the medium.
    pub(crate) total: u32,
    /// Where in Data-Out its bytes begin.
    pub(crate) data: u32,
    /// Data-Out bytes of its only segment where that is less than a block, else zero.
    pub(crate) part: u32,
}

/// A transfer under way.
pub(crate) struct Transfer {
    pass: Pass,
    /// A second pass, once all of the first has succeeded.
    then: Option<Pass>,
    /// Data-In bytes that there is room for.
    room: u32,
    /// Writes are to be durable at once.
    fua: bool,
    pattern: Option<Buffer>,
    /// First byte that is in no segment yet.
    next: u32,
    received: u32,
    sent: u32,
    segments: [Option<Segment>; WINDOW],
    /// The failure of the first byte that failed.
    failure: Option<(u32, Refusal)>,
}

struct Segment {
    /// First byte, counted from the transfer's.
    start: u32,
    length: u32,
    /// The move it is at.
    at: usize,
    state: State,
    buffer: Option<Buffer>,
    other: Option<Buffer>,
}

enum State {
    Idle,
    Receiving,
    InFlight,
    Returned(Result<(), Error>),
}

impl Transfer {
    /// `program` for `total` bytes of the medium from `start` on; both whole blocks.
    pub(crate) fn new(program: Program, start: u64, total: u32) -> Self {
        Self::of(Pass { program, start, total, data: 0, part: 0 })
    }

    /// A pass.
    pub(crate) fn of(pass: Pass) -> Self {
        Self {
            pass,
            then: None,
            room: 0,
            fua: false,
            pattern: None,
            next: 0,
            received: 0,
            sent: 0,
            segments: [const { None }; WINDOW],
            failure: None,
        }
    }

    /// Data-In is cut at `room` bytes.
    pub(crate) fn with_room(self, room: u32) -> Self {
        Self { room, ..self }
    }

    /// Writes carry force unit access.
    pub(crate) fn with_fua(self, fua: bool) -> Self {
        Self { fua, ..self }
    }

    /// With a block to compare to or to repeat.
    pub(crate) fn with_pattern(self, pattern: Option<Buffer>) -> Self {
        Self { pattern, ..self }
    }

    /// With a second pass.
    pub(crate) fn then(self, pass: Pass) -> Self {
        Self { then: Some(pass), ..self }
    }

    /// Data-Out bytes that have come and Data-In bytes that were sent.
    pub(crate) fn moved(&self) -> (u32, u32) {
        (self.received, self.sent)
    }

    /// The next step, or `None` when all is done and quiet; then [`Transfer::failure`] says how.
    pub(crate) fn step(&mut self, unit: &mut LogicalUnit, id: UnitId, memory: &Memory<'_>) -> Option<Step> {
        loop {
            if let Some(step) = self.move_segments(unit, id) {
                return Some(step);
            }
            let idle = self.segments.iter().all(Option::is_none);
            if self.failure.is_none() && self.next < self.pass.total {
                match self.begin_segment(unit, memory) {
                    Begun::Segment => {}
                    Begun::NoBuffer if idle => return Some(Step::Starved),
                    Begun::NoBuffer | Begun::WindowFull => return Some(Step::Wait),
                    Begun::Never => self.fail(self.next, failure::internal()),
                    Begun::OutOfRange => self.fail(self.next, Sense::illegal(code::LBA_OUT_OF_RANGE).into()),
                }
                continue;
            }
            if !idle {
                return Some(Step::Wait);
            }
            self.pass = self.then.take_if(|_| self.failure.is_none())?;
            self.next = 0;
        }
    }

    /// How it failed, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.failure.map(|(_, refusal)| refusal)
    }

    /// Give everything up that is not in flight. True when nothing is.
    pub(crate) fn drain(&mut self, unit: &mut LogicalUnit) -> bool {
        for place in &mut self.segments {
            let Some(segment) = place else { continue };
            match segment.state {
                State::InFlight => continue,
                State::Returned(Ok(()))
                    if self.pass.program.get(segment.at) == Some(&Move::Store) && !self.fua =>
                {
                    unit.wrote();
                }
                State::Returned(Err(error))
                    if self.pass.program.get(segment.at) == Some(&Move::Store) && self.fua =>
                {
                    unit.durability_failed(error);
                }
                State::Returned(_) | State::Idle | State::Receiving => {}
            }
            *place = None;
        }
        self.segments.iter().all(Option::is_none)
    }

    /// Let the unit know of the writes that were acknowledged.
    pub(crate) fn settle(&mut self, unit: &mut LogicalUnit) {
        for segment in self.segments.iter_mut().flatten() {
            if matches!(segment.state, State::Returned(Ok(()))) {
                if self.pass.program.get(segment.at) == Some(&Move::Store) && !self.fua {
                    unit.wrote();
                }
                segment.at += 1;
                segment.state = State::Idle;
            }
        }
    }

    pub(crate) fn received(&mut self, offset: u32, buffer: Buffer) {
        let start = offset.wrapping_sub(self.pass.data);
        let segment = self
            .segments
            .iter_mut()
            .flatten()
            .find(|segment| segment.start == start && matches!(segment.state, State::Receiving));
        let Some(segment) = segment else { return };
        let length = if self.pass.part == 0 { segment.length } else { self.pass.part };
        self.received += length;
        if buffer.len() == length as usize {
            segment.at += 1;
            segment.state = State::Idle;
            segment.buffer = Some(buffer);
        } else {
            segment.state = State::Returned(Err(Error::Invalid));
        }
    }

    pub(crate) fn completed(&mut self, index: usize, completion: Completion) {
        let Some(segment) = self.segments.get_mut(index).and_then(Option::as_mut) else { return };
        if !matches!(segment.state, State::InFlight) {
            return;
        }
        let whole = completion.buffer.as_ref().is_some_and(|buffer| buffer.len() == segment.length as usize);
        let result = if whole { completion.result } else { completion.result.and(Err(Error::Io)) };
        if self.pass.program.get(segment.at) == Some(&Move::FetchOther) {
            segment.other = completion.buffer;
        } else {
            segment.buffer = completion.buffer;
        }
        segment.state = State::Returned(result);
    }

    fn fail(&mut self, at: u32, refusal: Refusal) {
        if self.failure.is_none_or(|(first, _)| at < first) {
            self.failure = Some((at, refusal));
        }
    }

    /// Move every segment as far as it goes, the first byte's first.
    fn move_segments(&mut self, unit: &mut LogicalUnit, id: UnitId) -> Option<Step> {
        let mut from = 0;
        loop {
            let (index, start) = self
                .segments
                .iter()
                .enumerate()
                .filter_map(|(index, segment)| segment.as_ref().map(|segment| (index, segment.start)))
                .filter(|&(_, start)| start >= from)
                .min_by_key(|&(_, start)| start)?;
            if let Some(step) = self.move_segment(index, unit, id) {
                return Some(step);
            }
            from = start + 1;
        }
    }

    fn move_segment(&mut self, index: usize, unit: &mut LogicalUnit, id: UnitId) -> Option<Step> {
        loop {
            let failed_before = self.failure.map_or(u32::MAX, |(at, _)| at);
            let segment = self.segments[index].as_mut()?;
            let step = self.pass.program.get(segment.at).copied();
            let (start, length, offset) =
                (segment.start, segment.length, self.pass.start + u64::from(segment.start));
            match segment.state {
                State::Receiving | State::InFlight => return None,
                State::Returned(Ok(())) => {
                    if step == Some(Move::Store) && !self.fua {
                        unit.wrote();
                    }
                    segment.at += 1;
                    segment.state = State::Idle;
                    continue;
                }
                State::Returned(Err(error)) => {
                    if step == Some(Move::Store) && self.fua {
                        unit.durability_failed(error);
                    }
                    let operation = operation(step, self.fua);
                    self.fail(start, failure::refusal(error, operation, offset, u64::from(length), unit));
                    self.segments[index] = None;
                    return None;
                }
                State::Idle => {}
            }
            // What lies behind a failure is of no use any more, and must not be written.
            let Some(step) = step.filter(|_| start < failed_before) else {
                self.segments[index] = None;
                return None;
            };
            match step {
                Move::Receive => {
                    segment.state = State::Receiving;
                    let mut buffer = segment.buffer.take()?;
                    if self.pass.part != 0 {
                        buffer.truncate(buffer.len().min(self.pass.part as usize));
                    }
                    return Some(Step::Receive { offset: self.pass.data + start, buffer });
                }
                Move::Fetch | Move::FetchOther | Move::Store => {
                    let other = step == Move::FetchOther;
                    let buffer = if other { segment.other.take() } else { segment.buffer.take() };
                    segment.state = State::InFlight;
                    let operation = operation(Some(step), self.fua);
                    let request =
                        Request { cookie: index as u64, operation, offset, length: length.into(), buffer };
                    return Some(Step::Issue { unit: id, request });
                }
                Move::Send => {
                    if start != self.sent {
                        return None;
                    }
                    let mut buffer = segment.buffer.take()?;
                    self.segments[index] = None;
                    buffer.truncate(buffer.len().min((self.room - start) as usize));
                    self.sent += buffer.len() as u32;
                    return Some(Step::Send { offset: start, buffer });
                }
                Move::Compare | Move::ComparePattern | Move::Or | Move::Merge | Move::Expand => {
                    segment.at += 1;
                    if let Some(at) = segment.compute(step, self.pattern.as_deref()) {
                        let sense = Sense::new(SenseKey::Miscompare, code::MISCOMPARE_DURING_VERIFY);
                        let in_data = u64::from(self.pass.data + start + at);
                        self.fail(start + at, sense.with_information(in_data).into());
                    }
                }
            }
        }
    }

    fn begin_segment(&mut self, unit: &LogicalUnit, memory: &Memory<'_>) -> Begun {
        let Some(place) = self.segments.iter().position(Option::is_none) else { return Begun::WindowFull };
        let Some(geometry) = unit.geometry() else { return Begun::Never };
        let block = geometry.block_size;
        let largest = u32::try_from(memory.data.largest()).unwrap_or(u32::MAX);
        let longest = MAX_SEGMENT.min(geometry.max_transfer).min(largest) / block * block;
        let mut length = longest.min(self.pass.total - self.next);
        if length == 0 {
            return Begun::Never;
        }
        // The disk may have shrunk since the command was checked.
        if self.pass.start + u64::from(self.next) + u64::from(length) > geometry.size {
            return Begun::OutOfRange;
        }
        let pair = self.pass.program.contains(&Move::FetchOther);
        let (buffer, other) = loop {
            let size = length as usize;
            let taken = match (pair, self.next) {
                (true, _) => memory.data.take_two(size).map(|(buffer, other)| (buffer, Some(other))),
                (false, 0) => memory.data.take(size).map(|buffer| (buffer, None)),
                // What follows must leave room for the beginnings of others: their data may stand before ours on the
                // same wire, and ours would never come.
                (false, _) => memory.data.take_further(size).map(|buffer| (buffer, None)),
            };
            match taken {
                Some(taken) => break taken,
                // Two large buffers may never be there together where two small ones are.
                None if pair && length > block => length = (length / 2).next_multiple_of(block),
                None => return Begun::NoBuffer,
            }
        };
        self.segments[place] = Some(Segment {
            start: self.next,
            length,
            at: 0,
            state: State::Idle,
            buffer: Some(buffer),
            other,
        });
        self.next += length;
        Begun::Segment
    }
}

enum Begun {
    Segment,
    WindowFull,
    NoBuffer,
    /// There will never be a buffer.
    Never,
    OutOfRange,
}

fn operation(step: Option<Move>, fua: bool) -> Operation {
    if step == Some(Move::Store) { Operation::Write { fua } } else { Operation::Read }
}

impl Segment {
    /// A move within memory. The first byte that is not as it must be, if any.
    fn compute(&mut self, step: Move, pattern: Option<&[u8]>) -> Option<u32> {
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
