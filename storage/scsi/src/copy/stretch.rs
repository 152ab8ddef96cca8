//! A stretch of a copy: a part of a piece that has its place among the commands of both units at a time.

use crate::command::{Head, Memory, Out, Rest};
use crate::copy::operations::Piece;
use crate::failure;
use crate::flush::Flush;
use crate::medium::{self, Durability};
use crate::opcode::Access;
use crate::ordering::{Attribute, Ticket, Touch};
use crate::segment::{Segment, Segments, State};
use crate::sense::{Refusal, Sense, code};
use crate::target::{NO_UNIT, Target};
use crate::unit::{LogicalUnit, UnitId};
use storage_block::{Completion, Error, Operation as Request, Request as Carried};

/// The longest stretch in bytes.
const STRETCH: u64 = 4 << 20;
/// The longest one of zeroes, which are one request where the backend writes them.
const ZEROES: u64 = 64 << 20;
/// The longest piece of it that travels in one buffer.
const MAX_SEGMENT: u32 = 256 << 10;
/// For so many others that begin there is room left, where there can be.
const BEGINNERS: usize = 16;

/// What a segment is at.
const READING: u8 = 0;
const WRITING: u8 = 1;
const DONE: u8 = 2;

/// A part of a piece.
pub(crate) struct Stretch {
    pub(crate) piece: Piece,
    /// Its places in the task sets of both units; none where it needs none.
    pub(crate) tickets: [Option<Ticket>; 2],
    pub(crate) has_started: bool,
    /// The disks it is for.
    pub(crate) incarnations: [u32; 2],
    pub(crate) durability: Durability,
    /// Bytes that are in a segment, and that are done.
    pub(crate) begun: u32,
    pub(crate) done: u32,
    /// It goes from the end to the beginning.
    pub(crate) is_backward: bool,
    /// Something of it was given to the destination.
    pub(crate) has_written: bool,
    /// Zeroes are written from here.
    pub(crate) writes_out: bool,
    pub(crate) flush: Flush,
}

pub(crate) fn unit(target: &mut Target, id: UnitId) -> Result<&mut LogicalUnit, Refusal> {
    target.unit_mut(id).ok_or(Sense::illegal(code::COPY_TARGET_DEVICE_NOT_REACHABLE).into())
}

/// The unit can be used by this nexus in this way; what a READ or a WRITE would be refused for.
fn check(unit: &LogicalUnit, head: &Head, access: Access) -> Result<(), Refusal> {
    unit.medium()?;
    if unit.reserved_by.is_some_and(|holder| holder != head.nexus) {
        return Err(Refusal::CONFLICT);
    }
    unit.persistent.check(head.nexus, access)?;
    if access == Access::Change { medium::check_writable(unit) } else { Ok(()) }
}

pub(crate) enum Begun {
    Segment,
    Full,
    NoBuffer,
}

impl Stretch {
    /// The stretch of a piece that begins when `offset` bytes of it are done.
    pub(crate) fn of(piece: Piece, offset: u64) -> Self {
        let longest = if piece.source == NO_UNIT { ZEROES } else { STRETCH };
        let length = longest.min(piece.length - offset);
        let is_backward = piece.overlaps() && piece.to > piece.from;
        let skipped = if is_backward { piece.length - offset - length } else { offset };
        let (from, to) = (piece.from + skipped, piece.to + skipped);
        Self {
            piece: Piece { from, to, length, ..piece },
            tickets: [None; 2],
            has_started: false,
            incarnations: [0; 2],
            durability: Durability::NONE,
            begun: 0,
            done: 0,
            is_backward,
            has_written: false,
            writes_out: false,
            flush: Flush::Idle,
        }
    }

    pub(crate) fn length(&self) -> u32 {
        self.piece.length as u32
    }

    /// Take places among the commands of both units, or none if there are not both.
    pub(crate) fn enter(
        mut self,
        target: &mut Target,
        head: &Head,
        is_alone: bool,
    ) -> Result<Option<Self>, Refusal> {
        let Piece { source, from, destination, to, length } = self.piece;
        let written = unit(target, destination)?;
        check(written, head, Access::Change)?;
        self.writes_out = !written.geometry().is_some_and(|geometry| geometry.write_zeroes);
        self.durability = medium::durability(written, head.nexus, false)?;
        self.incarnations[1] = written.incarnation();
        let has_source = source != NO_UNIT;
        if has_source {
            let read = unit(target, source)?;
            check(read, head, Access::Read)?;
            self.incarnations[0] = read.incarnation();
        }
        unit(target, destination)?.changes(to, length);
        if is_alone {
            return Ok(Some(self));
        }
        let mut enter = |id: UnitId, touch, start, length| {
            let unit = target.unit_mut(id)?;
            unit.tasks.enter(head.nexus, touch, start, length, Attribute::Simple)
        };
        if self.piece.overlaps() {
            // Two places of one command that overlap would wait for each other.
            self.tickets[1] = enter(destination, Touch::Change, from.min(to), from.abs_diff(to) + length);
            return Ok(self.tickets[1].is_some().then_some(self));
        }
        let first = if has_source { enter(source, Touch::Read, from, length) } else { None };
        let is_in = first.is_some() || !has_source;
        let second = if is_in { enter(destination, Touch::Change, to, length) } else { None };
        self.tickets = [first, second];
        if let (Some(ticket), None, Some(unit)) = (first, second, target.unit_mut(source)) {
            unit.tasks.leave(ticket);
        }
        Ok(second.is_some().then_some(self))
    }

    /// Start, if nothing stands in the way in either unit.
    pub(crate) fn start(&self, target: &mut Target) -> bool {
        let both = [self.piece.source, self.piece.destination].into_iter().zip(self.tickets);
        let mut sets = both.filter_map(|(id, ticket)| Some((id, ticket?)));
        let could = |(id, ticket)| target.unit(id).is_none_or(|unit| unit.tasks.could_start(ticket));
        if !sets.clone().all(could) {
            return false;
        }
        sets.all(|(id, ticket)| target.unit_mut(id).is_none_or(|unit| unit.tasks.may_start(ticket)))
    }

    /// Both disks are still those that it is for.
    fn check_disks(&self, target: &mut Target) -> Result<(), Refusal> {
        for (id, was) in [self.piece.source, self.piece.destination].into_iter().zip(self.incarnations) {
            if id == NO_UNIT {
                continue;
            }
            let unit = unit(target, id)?;
            unit.medium()?;
            if unit.incarnation() != was {
                return Err(failure::internal());
            }
        }
        Ok(())
    }

    /// Where a segment is, counted from the beginning of the stretch.
    fn offset(&self, segment: &Segment) -> u64 {
        let start = u64::from(segment.start);
        if self.is_backward { self.piece.length - start - u64::from(segment.length) } else { start }
    }

    /// Account for what has come back. The failure of the first segment that failed.
    pub(crate) fn settle(&mut self, segments: &mut Segments, target: &mut Target) -> Option<Refusal> {
        let mut failure = None;
        for rank in 0..segments.count() {
            let segment = segments.ranked(rank);
            let State::Returned(result) = segment.state else { continue };
            let writes = segment.at == WRITING;
            let (id, start) = if writes {
                (self.piece.destination, self.piece.to)
            } else {
                (self.piece.source, self.piece.from)
            };
            segment.state = State::Idle;
            match result {
                Ok(()) => {
                    segment.at += 1;
                    if writes
                        && !self.durability.fua
                        && let Some(unit) = target.unit_mut(id)
                    {
                        unit.wrote();
                    }
                }
                // Zeroes that the backend does not write are written from here.
                Err(Error::NotSupported) if self.piece.source == NO_UNIT && !self.writes_out => {
                    self.writes_out = true;
                    self.begun -= segment.length;
                }
                Err(error) => {
                    let (at, length) = (start + self.offset(segment), u64::from(segment.length));
                    let refusal = match target.unit(id) {
                        Some(unit) => failure::refusal(error, operation(writes, false), at, length, unit),
                        None => failure::internal(),
                    };
                    failure.get_or_insert(refusal);
                }
            }
        }
        failure
    }

    pub(crate) fn completed(&mut self, segments: &mut Segments, completion: Completion) {
        if self.flush.completed(&completion) {
            return;
        }
        let place = usize::try_from(completion.cookie).unwrap_or(usize::MAX);
        let in_flight = |segment: &&mut Segment| matches!(segment.state, State::InFlight);
        let Some(segment) = segments.at(place).filter(in_flight) else { return };
        let Completion { result, buffer, .. } = completion;
        segment.buffer = buffer.filter(|buffer| buffer.len() == segment.length as usize);
        // What was written may be kept below; what was read is of no use anywhere but here.
        let has_data = segment.at != READING || segment.buffer.is_some();
        segment.state = State::Returned(if has_data { result } else { result.and(Err(Error::Io)) });
    }

    /// Move every segment as far as it goes. Once something has failed, only what is under way goes on.
    pub(crate) fn move_segments(
        &mut self,
        segments: &mut Segments,
        target: &mut Target,
        has_failed: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Refusal> {
        if let Some(refusal) = self.settle(segments, target) {
            return Err(refusal);
        }
        if has_failed {
            segments.end_all(|segment| matches!(segment.state, State::Idle));
            return Ok(());
        }
        if self.writes_out && self.begun == self.done {
            segments.end_all(|segment| matches!(segment.state, State::Idle) && segment.at == WRITING);
        }
        // Segments end in their order, so that what is done is done from the beginning on.
        while segments.count() > 0 && segments.ranked(0).at == DONE {
            self.done += segments.ranked(0).length;
            segments.end(0);
        }
        let is_idle = |segment: &Segment| matches!(segment.state, State::Idle) && segment.at != DONE;
        if !segments.iter().any(is_idle) {
            return Ok(());
        }
        self.check_disks(target)?;
        for rank in 0..segments.count() {
            let cookie = segments.place(rank) as u64;
            let segment = segments.ranked(rank);
            if !is_idle(segment) {
                continue;
            }
            let Piece { source, from, destination, to, .. } = self.piece;
            let writes = segment.at == WRITING;
            let (id, start) = if writes { (destination, to) } else { (source, from) };
            let fua = self.durability.fua;
            let is_bare = writes && segment.buffer.is_none();
            let operation = if is_bare {
                Request::WriteZeroes { fua, no_hole: false, fast: false }
            } else {
                operation(writes, fua)
            };
            let offset = start + self.offset(segment);
            let (length, buffer) = (u64::from(segment.length), segment.buffer.take());
            segment.state = State::InFlight;
            self.has_written |= writes;
            out.issue_to(id, Carried { cookie, operation, offset, length, buffer });
        }
        Ok(())
    }

    pub(crate) fn begin_segment(
        &mut self,
        segments: &mut Segments,
        target: &mut Target,
        memory: &Memory<'_>,
    ) -> Result<Option<Begun>, Refusal> {
        if segments.is_full() || self.piece.overlaps() && segments.count() > 0 {
            return Ok(Some(Begun::Full));
        }
        let block = |id| target.unit(id).and_then(LogicalUnit::geometry).map(|geometry| geometry.block_size);
        let written = block(self.piece.destination).ok_or(failure::internal())?;
        if self.piece.source == NO_UNIT && !self.writes_out {
            return Ok(Some(self.begin_zeroes(segments)));
        }
        let read = block(self.piece.source).unwrap_or(written);
        // Blocks are powers of two.
        let block = read.max(written);
        let largest = u32::try_from(memory.data.largest()).unwrap_or(u32::MAX);
        let length = (MAX_SEGMENT.min(largest) & !(block - 1)).min(self.length() - self.begun);
        if length == 0 {
            return Err(failure::internal());
        }
        let taken = match segments.count() {
            0 => memory.data.take(length as usize),
            _ => memory.data.take_further(length as usize, BEGINNERS),
        };
        let Some(buffer) = taken else { return Ok(Some(Begun::NoBuffer)) };
        if let Some((_, segment)) = segments.begin(0, self.begun, length) {
            segment.buffer = Some(buffer);
            if self.piece.source == NO_UNIT {
                segment.at = WRITING;
                segment.buffer.iter_mut().for_each(|buffer| buffer.fill(0));
            }
            self.begun += length;
        }
        Ok(Some(Begun::Segment))
    }

    /// All the rest as one request for zeroes.
    fn begin_zeroes(&mut self, segments: &mut Segments) -> Begun {
        let length = self.length() - self.begun;
        match segments.begin(0, self.begun, length) {
            Some((_, segment)) => {
                segment.at = WRITING;
                self.begun += length;
                Begun::Segment
            }
            None => Begun::Full,
        }
    }

    /// All is written: make it durable, if it is to be.
    pub(crate) fn make_durable(
        &mut self,
        target: &mut Target,
        head: &Head,
        has_failed: bool,
        out: &mut Out<'_>,
    ) -> Result<Option<Rest>, Refusal> {
        let id = self.piece.destination;
        let Some(unit) = target.unit_mut(id) else { return Ok(None) };
        if matches!(self.flush, Flush::InFlight(_)) {
            return Ok(Some(Rest::Wait));
        }
        if has_failed {
            self.flush.abandon(unit);
            return Ok(None);
        }
        // What was durable when it was acknowledged may be so no more, if it came by way of a cache.
        if self.durability.fua && unit.cache.tell_loss(head.nexus) {
            return Err(failure::write_loss());
        }
        if self.durability.flush_after { self.flush.step(unit, id, head.nexus, out) } else { Ok(None) }
    }
}

fn operation(writes: bool, fua: bool) -> Request {
    if writes { Request::Write { fua } } else { Request::Read }
}
