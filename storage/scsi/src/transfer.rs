//! Data between the initiator and the medium, in segments.
//!
//! A transfer is cut into segments of at most one buffer. Each goes through the same short program of moves, several
//! segments at once: while one is on its way to the backend the next is being received. What all commands with data
//! have in common is here; a command is just its program.
//!
//! # Memory
//! A segment takes all buffers its program needs when it begins, both or none, so a transfer that has begun a segment
//! can always end it, and a pool of one buffer (two, where a program compares) is enough for any length. The one
//! exception is what is read back after a write: the buffer that was written may be kept below, so another is taken, and
//! whoever waits for that one has given one back.
//!
//! Buffers may be taken, and Data-Out received, *ahead* of its turn, where there are buffers anyway: of a second pass
//! while the first still runs, and of a command that waits for its range. Nothing but receiving happens ahead. It is for
//! data that stands on the initiator's connection already, before data that others wait for: with data digests a place
//! comes back only when a whole PDU is in, which may reach into the second pass. A read takes its buffers ahead so that
//! what waits for it may. Nobody waits for memory to do it.

mod plain;
mod straight;

use crate::command::{Memory, Out, Rest};
use crate::failure;
use crate::segment::{Move, NOTHING, Program, Segment, Segments, State, operation};
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::unit::LogicalUnit;
use storage_block::{Buffer, Completion, Error, Request};

/// The longest segment in bytes.
const MAX_SEGMENT: u32 = 256 << 10;

/// Commands that initiators have under way together, mostly: the first data of so many comes unasked, one behind the
/// other and before any that is asked for.
const BEGINNERS: usize = 16;

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

impl Pass {
    const NONE: Self = Self { program: &NOTHING, start: 0, total: 0, data: 0, part: 0 };

    /// Bytes of Data-Out.
    fn data_out(&self) -> u32 {
        match (self.program.takes_data, self.part) {
            (false, _) => 0,
            (true, 0) => self.total,
            (true, part) => part,
        }
    }

    fn step(&self, segment: &Segment) -> Option<Move> {
        self.program.moves.get(usize::from(segment.at)).copied()
    }
}

/// A transfer under way. Its [`Segments`] are with the command.
pub(crate) struct Transfer {
    passes: [Pass; 2],
    /// The pass whose moves are made. The second one's begin when all of the first has succeeded.
    running: u8,
    /// The pass whose segments are begun, and its first byte that is in none yet.
    beginning: u8,
    next: u32,
    /// Data-In bytes that there is room for.
    room: u32,
    /// Writes are to be durable at once.
    fua: bool,
    /// A segment could not go on for want of a buffer.
    starved: bool,
    pattern: Option<Buffer>,
    received: u32,
    sent: u32,
    /// Bytes of Data-Out that it asks for in all.
    data_out: u32,
    /// A segment may need another buffer after those it has begun with.
    needs_later: bool,
    /// The failure of the first byte that failed.
    failure: Option<(u32, Refusal)>,
}

impl Transfer {
    /// `program` for `total` bytes of the medium from `start` on; both whole blocks.
    pub(crate) fn new(program: Program, start: u64, total: u32) -> Self {
        Self::of(Pass { program, start, total, data: 0, part: 0 })
    }

    /// A pass.
    pub(crate) fn of(pass: Pass) -> Self {
        Self {
            passes: [pass, Pass::NONE],
            running: 0,
            beginning: 0,
            next: 0,
            room: 0,
            fua: false,
            starved: false,
            pattern: None,
            received: 0,
            sent: 0,
            data_out: pass.data_out(),
            needs_later: pass.program.needs_later,
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
        let data_out = self.data_out + pass.data_out();
        let needs_later = self.needs_later || pass.program.needs_later;
        Self { passes: [self.passes[0], pass], data_out, needs_later, ..self }
    }

    /// Data-Out bytes that have come and Data-In bytes that were sent.
    pub(crate) fn moved(&self) -> (u32, u32) {
        (self.received, self.sent)
    }

    /// Go on until it has to wait, or `None` when all is done and quiet; then [`Transfer::failure`] says how.
    pub(crate) fn step(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Rest> {
        loop {
            self.starved = false;
            self.move_segments(segments, unit, memory, out);
            let is_idle = segments.count() == 0;
            if self.failure.is_none() && self.beginning == self.running && self.has_more() {
                match self.begin_segment(segments, unit, memory, false) {
                    Begun::Segment => continue,
                    Begun::NoBuffer if is_idle => return Some(Rest::Starved),
                    Begun::NoBuffer | Begun::WindowFull => {}
                    Begun::Never => self.fail(self.next, failure::internal()),
                    Begun::OutOfRange => self.fail(self.next, Sense::illegal(code::LBA_OUT_OF_RANGE).into()),
                }
                if self.failure.is_some() {
                    continue;
                }
            } else if self.failure.is_none() {
                if self.running == 0 && segments.iter().all(|segment| segment.pass != 0) {
                    if self.passes[1].total == 0 {
                        return None;
                    }
                    self.running = 1;
                    self.begin_second_pass();
                    continue;
                }
                if self.begin_ahead(segments, unit, memory) {
                    continue;
                }
            }
            if is_idle {
                return None;
            }
            return Some(if self.starved { Rest::Starved } else { Rest::Wait });
        }
    }

    /// Take buffers, as far as there are any, and Data-Out, and do nothing more: the command waits for its range.
    pub(crate) fn step_ahead(
        &mut self,
        segments: &mut Segments,
        unit: &LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) {
        loop {
            self.ask_ahead(segments, out);
            if !self.begin_ahead(segments, unit, memory) {
                return;
            }
        }
    }

    /// How it failed, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.failure.map(|(_, refusal)| refusal)
    }

    /// Whether it has all the buffers it will ever need.
    pub(crate) fn is_sated(&self) -> bool {
        let begun =
            self.failure.is_some() || !self.has_more() && (self.beginning == 1 || self.passes[1].total == 0);
        begun && !self.needs_later
    }

    /// Whether all Data-Out it asks for has come.
    pub(crate) fn has_data(&self) -> bool {
        self.received == self.data_out
    }

    /// Give everything up that is not in flight. True when nothing is.
    pub(crate) fn drain(&mut self, segments: &mut Segments, unit: &mut LogicalUnit) -> bool {
        for rank in 0..segments.count() {
            let segment = segments.ranked(rank);
            if matches!(segment.state, State::Returned(Ok(()))) {
                self.acknowledge(segment, unit);
            }
        }
        segments.end_all(|segment| !matches!(segment.state, State::InFlight));
        segments.count() == 0
    }

    /// A move has succeeded: let the unit know if it was a write, and go on to the next.
    #[inline(never)]
    fn acknowledge(&self, segment: &mut Segment, unit: &mut LogicalUnit) {
        let step = self.passes[usize::from(segment.pass)].step(segment);
        if step == Some(Move::Store) && !self.fua {
            unit.wrote();
        }
        segment.at += 1;
        segment.state = State::Idle;
    }

    pub(crate) fn received(&mut self, segments: &mut Segments, offset: u32, buffer: Buffer) {
        let is_meant = |segment: &Segment| {
            let place = self.passes[usize::from(segment.pass)].data + segment.start;
            place == offset && matches!(segment.state, State::Receiving)
        };
        let Some(rank) = segments.iter().position(is_meant) else { return };
        let segment = segments.ranked(rank);
        let part = self.passes[usize::from(segment.pass)].part;
        let length = if part == 0 { segment.length } else { part };
        self.received += length;
        if buffer.len() == length as usize {
            segment.at += 1;
            segment.state = State::Idle;
            segment.buffer = Some(buffer);
        } else {
            segment.state = State::Returned(Err(Error::Invalid));
        }
    }

    pub(crate) fn completed(&mut self, segments: &mut Segments, place: usize, completion: Completion) {
        let in_flight = |segment: &&mut Segment| matches!(segment.state, State::InFlight);
        let Some(segment) = segments.at(place).filter(in_flight) else { return };
        let Completion { result, buffer, .. } = completion;
        let buffer = buffer.filter(|buffer| buffer.len() == segment.length as usize);
        let step = self.passes[usize::from(segment.pass)].step(segment);
        // What was written may be kept below; what was read is of no use anywhere but here.
        let result =
            if step == Some(Move::Store) || buffer.is_some() { result } else { result.and(Err(Error::Io)) };
        if step == Some(Move::FetchOther) {
            segment.other = buffer;
        } else {
            segment.buffer = buffer;
        }
        segment.state = State::Returned(result);
    }

    /// The pass whose segments are begun.
    fn pass(&self) -> &Pass {
        &self.passes[usize::from(self.beginning)]
    }

    /// Whether that pass has bytes that are in no segment yet.
    fn has_more(&self) -> bool {
        self.next < self.pass().total
    }

    fn begin_second_pass(&mut self) {
        if self.beginning == 0 {
            self.beginning = 1;
            self.next = 0;
        }
    }

    #[cold]
    fn fail(&mut self, at: u32, refusal: Refusal) {
        if self.failure.is_none_or(|(first, _)| at < first) {
            self.failure = Some((at, refusal));
        }
    }

    /// Move every segment as far as it goes, the first byte's first.
    fn move_segments(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) {
        let mut rank = 0;
        while rank < segments.count() {
            if self.move_segment(segments, rank, unit, memory, out) {
                rank += 1;
            } else {
                segments.end(rank);
            }
        }
    }

    /// Move a segment as far as it goes. Answers whether there is anything left of it.
    #[inline(never)]
    fn move_segment(
        &mut self,
        segments: &mut Segments,
        rank: usize,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        let place = segments.place(rank);
        let segment = segments.ranked(rank);
        loop {
            let pass = &self.passes[usize::from(segment.pass)];
            let (start, length) = (segment.start, segment.length);
            let offset = pass.start + u64::from(start);
            match segment.state {
                State::Receiving | State::InFlight => return true,
                State::Returned(Ok(())) => {
                    self.acknowledge(segment, unit);
                    continue;
                }
                State::Returned(Err(error)) => {
                    let operation = operation(pass.step(segment), self.fua);
                    self.fail(start, failure::refusal(error, operation, offset, u64::from(length), unit));
                    self.give_up(segment);
                    return false;
                }
                State::Idle => {}
            }
            let is_ahead = segment.pass != self.running;
            // What lies behind a failure is of no use any more, and must not be written.
            let goes_on = self.failure.is_none_or(|(at, _)| start < at && !is_ahead);
            let Some(step) = pass.step(segment).filter(|_| goes_on) else {
                self.give_up(segment);
                return false;
            };
            if is_ahead && step != Move::Receive {
                return true;
            }
            match step {
                Move::Receive => {
                    ask(segment, pass, out);
                    return true;
                }
                Move::Fetch | Move::FetchOther | Move::Store => {
                    if step == Move::Fetch && segment.buffer.is_none() {
                        segment.buffer = memory.data.take(length as usize);
                        if segment.buffer.is_none() {
                            self.starved = true;
                            return true;
                        }
                    }
                    let other = step == Move::FetchOther;
                    let buffer = if other { segment.other.take() } else { segment.buffer.take() };
                    segment.state = State::InFlight;
                    let (cookie, operation) = (place as u64, operation(Some(step), self.fua));
                    let request = Request { cookie, operation, offset, length: length.into(), buffer };
                    out.issue(request);
                    return true;
                }
                Move::Send => {
                    if start != self.sent {
                        return true;
                    }
                    let Some(mut buffer) = segment.buffer.take() else { return true };
                    buffer.truncate(buffer.len().min((self.room - start) as usize));
                    self.sent += buffer.len() as u32;
                    let gone = segment.straight;
                    if gone > 0 {
                        // Where that would be there is nothing of this disk's.
                        buffer.narrow(buffer.len().min(gone as usize)..buffer.len());
                    }
                    if !buffer.is_empty() {
                        out.send(start + gone, buffer);
                    }
                    return false;
                }
                Move::Keep | Move::Compare | Move::ComparePattern | Move::Or | Move::Merge | Move::Expand => {
                    self.compute(segment, step);
                }
            }
        }
    }

    /// A segment ends without having been sent, but for what of it went straight.
    #[cold]
    fn give_up(&mut self, segment: &Segment) {
        if segment.start == self.sent {
            self.sent += segment.straight;
        }
    }

    /// Make a move within memory.
    #[inline(never)]
    fn compute(&mut self, segment: &mut Segment, step: Move) {
        segment.at += 1;
        if let Some(at) = segment.compute(step, self.pattern.as_deref()) {
            let at = segment.start + at;
            let sense = Sense::new(SenseKey::Miscompare, code::MISCOMPARE_DURING_VERIFY);
            let in_data = u64::from(self.passes[usize::from(segment.pass)].data + at);
            self.fail(at, sense.with_information(in_data).into());
        }
    }

    /// Ask for the data of all segments that wait to do so.
    fn ask_ahead(&self, segments: &mut Segments, out: &mut Out<'_>) {
        for rank in 0..segments.count() {
            let segment = segments.ranked(rank);
            let pass = &self.passes[usize::from(segment.pass)];
            if matches!(segment.state, State::Idle) && pass.step(segment) == Some(Move::Receive) {
                ask(segment, pass, out);
            }
        }
    }

    /// Begin a segment ahead of its turn, if there are buffers.
    fn begin_ahead(&mut self, segments: &mut Segments, unit: &LogicalUnit, memory: &Memory<'_>) -> bool {
        if !self.has_more() && self.passes[1].total > 0 {
            self.begin_second_pass();
        }
        self.has_more() && matches!(self.begin_segment(segments, unit, memory, true), Begun::Segment)
    }

    fn begin_segment(
        &mut self,
        segments: &mut Segments,
        unit: &LogicalUnit,
        memory: &Memory<'_>,
        is_ahead: bool,
    ) -> Begun {
        if segments.is_full() {
            return Begun::WindowFull;
        }
        let Some(geometry) = unit.geometry() else { return Begun::Never };
        let pass = self.pass();
        let block = geometry.block_size;
        let largest = u32::try_from(memory.data.largest()).unwrap_or(u32::MAX);
        // Not by what the backend takes at once, at which it is cut below: a data segment of the transport may have to be
        // in its place as a whole before any of it can be used, and a few segments here must have room for it. A block is
        // a power of two.
        let longest = MAX_SEGMENT.min(largest) & !(block - 1);
        let mut length = longest.min(pass.total - self.next);
        if length == 0 {
            return Begun::Never;
        }
        // The disk may have shrunk since the command was checked.
        if pass.start + u64::from(self.next) + u64::from(length) > geometry.size {
            return Begun::OutOfRange;
        }
        let (buffer, other) = if pass.program.needs_two {
            let pair = loop {
                match memory.data.take_two(length as usize) {
                    Some(pair) => break pair,
                    // Two large buffers may never be there together where two small ones are.
                    None if length > block && !is_ahead => length = (length / 2).next_multiple_of(block),
                    None => return Begun::NoBuffer,
                }
            };
            (pair.0, Some(pair.1))
        } else {
            let first = !is_ahead && self.next == 0;
            // What follows must leave room for the beginnings of others: their data may stand before ours on the same
            // wire, and ours would never come.
            let length = length as usize;
            let beginners = if pass.program.takes_data { BEGINNERS } else { 0 };
            let buffer =
                if first { memory.data.take(length) } else { memory.data.take_further(length, beginners) };
            let Some(buffer) = buffer else { return Begun::NoBuffer };
            (buffer, None)
        };
        let Some((_, segment)) = segments.begin(self.beginning, self.next, length) else {
            return Begun::WindowFull;
        };
        (segment.buffer, segment.other) = (Some(buffer), other);
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

/// Ask for a segment's data.
fn ask(segment: &mut Segment, pass: &Pass, out: &mut Out<'_>) {
    segment.state = State::Receiving;
    if let Some(mut buffer) = segment.buffer.take() {
        if pass.part != 0 {
            buffer.truncate(buffer.len().min(pass.part as usize));
        }
        out.receive(pass.data + segment.start, buffer);
    }
}
