//! A copy on its way: piece by piece, each in stretches, each of which has its place among the commands of both units.
//!
//! # Order
//! A stretch is a read of its source and a change of its destination as those of commands are: who overlaps it waits for
//! it, or it for him, by [`crate::ordering`]. It enters the task sets of both units at once and starts only when it may in
//! both, so it never holds the one while it waits for the other, and of two copies crosswise the first to come is the
//! first to go. Between stretches a copy holds nothing, and others have their turn: one command between the units does not
//! keep everybody from the bytes that it will come to in a minute. With the ORDERED attribute it waits for all before it;
//! all after it wait for its end if it is within the unit it came to. Else they wait for what of it they overlap: to stand
//! before all of one unit and wait in another is what two of its kind could do to each other for ever.
//!
//! # Memory
//! Buffers are those of the unit that the command came to. Who has one needs no other to be done with it.
//!
//! # Overlap
//! Where what is written may be what is yet to be read, bytes move one buffer after the other and from that end on which
//! is safe: what arrives is what was there when the copy began.

use crate::command::{Head, Memory, Out, Rest, Task};
use crate::copy::aborted;
use crate::copy::list::carried;
use crate::copy::operations::{Piece, State as Fate};
use crate::failure;
use crate::flush::Flush;
use crate::medium::{self, Durability};
use crate::opcode::Access;
use crate::ordering::{Attribute, Ticket, Touch};
use crate::segment::{Segment, Segments, State};
use crate::sense::{Refusal, Sense, code};
use crate::target::{NO_UNIT, Target};
use crate::unit::{LogicalUnit, UnitId};
use core::ops::ControlFlow::{self, Break, Continue};
use core::time::Duration;
use storage_block::{Completion, Error, Operation as Request, Request as Carried};

/// The longest stretch in bytes.
const STRETCH: u64 = 4 << 20;
/// The longest one of zeroes, which are one request where the backend writes them.
const ZEROES: u64 = 64 << 20;
/// How long a copy that is to end in time goes on: who asks for it waits for four seconds.
const PATIENCE: Duration = Duration::from_millis(2500);
/// The longest piece of it that travels in one buffer.
const MAX_SEGMENT: u32 = 256 << 10;
/// For so many others that begin there is room left, where there can be.
const BEGINNERS: usize = 16;

/// What a segment is at.
const READING: u8 = 0;
const WRITING: u8 = 1;
const DONE: u8 = 2;

/// A copy under way. Its pieces are in the target's table.
pub(crate) struct Copying {
    place: u8,
    /// The command's place among those of the unit it came to, until it begins, or to its end if it is alone there.
    ticket: Option<Ticket>,
    is_alone: bool,
    /// Bytes of its parameter list.
    wanted: u32,
    stretch: Option<Stretch>,
    /// Something was written by stretches before.
    has_moved: bool,
    failure: Option<Refusal>,
    /// It is to end by this time, with what it has done, if it is to end in time.
    until: Option<Duration>,
    is_timed: bool,
}

/// A part of a piece.
struct Stretch {
    piece: Piece,
    /// Its places in the task sets of both units; none where it needs none.
    tickets: [Option<Ticket>; 2],
    has_started: bool,
    /// The disks it is for.
    incarnations: [u32; 2],
    durability: Durability,
    /// Bytes that are in a segment, and that are done.
    begun: u32,
    done: u32,
    /// It goes from the end to the beginning.
    is_backward: bool,
    /// Something of it was given to the destination.
    has_written: bool,
    /// Zeroes are written from here.
    writes_out: bool,
    flush: Flush,
}

fn unit(target: &mut Target, id: UnitId) -> Result<&mut LogicalUnit, Refusal> {
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

impl Copying {
    /// The copy at `place`, with a parameter list of `wanted` bytes. `is_here` if all of it is within the unit it came to.
    pub(crate) fn new(place: u8, head: &Head, wanted: u32, is_here: bool) -> Self {
        let is_alone = is_here && head.attribute == Attribute::Ordered;
        Self {
            place,
            ticket: head.ticket,
            is_alone,
            wanted,
            stretch: None,
            has_moved: false,
            failure: None,
            until: None,
            is_timed: false,
        }
    }

    /// It ends in time, with what it has done.
    pub(crate) fn within_time(self) -> Self {
        Self { is_timed: true, ..self }
    }

    /// The units that requests of it may be under way to.
    pub(crate) fn units(&self) -> Option<[UnitId; 2]> {
        self.stretch.as_ref().map(|stretch| [stretch.piece.source, stretch.piece.destination])
    }

    /// Whether something was written.
    pub(crate) fn is_partly_done(&self) -> bool {
        self.has_moved || self.stretch.as_ref().is_some_and(|stretch| stretch.has_written)
    }

    pub(crate) fn step(
        &mut self,
        segments: &mut Segments,
        target: &mut Target,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> ControlFlow<Rest, Task> {
        if let Some(ticket) = self.ticket
            && let Some(unit) = target.unit_mut(head.unit)
            && !unit.tasks.may_start(ticket)
        {
            return Break(Rest::Blocked);
        }
        if self.is_timed && self.until.is_none() {
            self.until = Some(out.now() + PATIENCE);
        }
        loop {
            if self.failure.is_none() && target.copies.at(self.place).is_stopped {
                self.failure = Some(self.stopped(target));
            }
            if self.stretch.is_none() {
                if self.has_moved
                    && self.failure.is_none()
                    && self.until.is_some_and(|until| out.now() >= until)
                {
                    target.copies.at(self.place).is_partial = true;
                    return Continue(self.end(target, head, Ok(())));
                }
                match self.begin(target, head) {
                    Ok(true) => {}
                    Ok(false) => return Break(Rest::Blocked),
                    Err(result) => return Continue(self.end(target, head, result)),
                }
            }
            let Some(stretch) = &mut self.stretch else { continue };
            if !stretch.has_started && self.failure.is_none() {
                stretch.has_started = stretch.start(target);
                if !stretch.has_started {
                    return Break(Rest::Blocked);
                }
                let number = target.copies.at(self.place).done;
                if let Some(token) = target.copies.at(self.place).token
                    && let Some(unit) = target.unit_mut(stretch.piece.source)
                    && let Err(code) = unit.tokens.use_at(token, out.now())
                {
                    self.failure = Some(match self.has_moved {
                        true => aborted(code, number).into(),
                        false => Sense::illegal(code).into(),
                    });
                }
            }
            if let Some(rest) = self.carry(segments, target, head, memory, out) {
                return Break(rest);
            }
            self.leave(target);
            out.released();
        }
    }

    fn stopped(&self, target: &mut Target) -> Refusal {
        let number = target.copies.at(self.place).done;
        aborted(code::NO_ADDITIONAL_SENSE, number).into()
    }

    /// Begin the next stretch. False if there is no place for it yet; the end of the copy if there is none.
    fn begin(&mut self, target: &mut Target, head: &Head) -> Result<bool, Result<(), Refusal>> {
        if let Some(refusal) = self.failure {
            return Err(Err(refusal));
        }
        let operation = target.copies.at(self.place);
        let Some(piece) = operation.next() else { return Err(Ok(())) };
        let stretch = Stretch::of(piece, operation.offset);
        let entered = stretch.enter(target, head, self.is_alone);
        let number = target.copies.at(self.place).done;
        match entered {
            Ok(Some(stretch)) => self.stretch = Some(stretch),
            Ok(None) => return Ok(false),
            Err(refusal) => return Err(Err(self.told(refusal, number))),
        }
        // It stands in the way of none but those that its stretches overlap.
        if !self.is_alone
            && let Some(ticket) = self.ticket.take()
            && let Some(unit) = target.unit_mut(head.unit)
        {
            unit.tasks.leave(ticket);
        }
        Ok(true)
    }

    /// What is told of an error. "Not now" is only told while nothing was done: who is told of it begins anew.
    fn told(&self, refusal: Refusal, number: usize) -> Refusal {
        match refusal.sense {
            None if self.is_partly_done() => aborted(code::THIRD_PARTY_DEVICE_FAILURE, number).into(),
            _ => carried(refusal, number),
        }
    }

    /// Carry the stretch until it has to wait, or `None` when it is done or has failed and is quiet.
    fn carry(
        &mut self,
        segments: &mut Segments,
        target: &mut Target,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Rest> {
        loop {
            let stretch = self.stretch.as_mut()?;
            let found = match stretch.move_segments(segments, target, self.failure.is_some(), out) {
                Err(refusal) => Err(refusal),
                Ok(()) if self.failure.is_some() || stretch.begun == stretch.length() => Ok(None),
                Ok(()) => stretch.begin_segment(segments, target, memory),
            };
            match found {
                Ok(Some(Begun::Segment)) => continue,
                Ok(Some(Begun::NoBuffer)) if segments.count() == 0 => return Some(Rest::Starved),
                Ok(Some(Begun::NoBuffer | Begun::Full)) => return Some(Rest::Wait),
                Ok(None) if segments.count() > 0 => return Some(Rest::Wait),
                Ok(None) => {}
                Err(refusal) => {
                    let number = target.copies.at(self.place).done;
                    let told = self.told(refusal, number);
                    self.failure.get_or_insert(told);
                    continue;
                }
            }
            match stretch.make_durable(target, head, self.failure.is_some(), out) {
                Ok(rest) => return rest,
                Err(refusal) => {
                    let number = target.copies.at(self.place).done;
                    self.failure = Some(self.told(refusal, number));
                }
            }
        }
    }

    /// The stretch is over: give up its places, and count what of it was done.
    fn leave(&mut self, target: &mut Target) {
        let Some(stretch) = self.stretch.take() else { return };
        self.has_moved |= stretch.has_written;
        for (id, ticket) in [stretch.piece.source, stretch.piece.destination].into_iter().zip(stretch.tickets)
        {
            if let Some((ticket, unit)) = ticket.zip(target.unit_mut(id)) {
                unit.tasks.leave(ticket);
            }
        }
        let operation = target.copies.at(self.place);
        operation.offset += u64::from(stretch.done);
        operation.moved += u64::from(stretch.done);
        // The number of pieces that are done is told.
        operation.next();
    }

    fn end(&mut self, target: &mut Target, head: &Head, result: Result<(), Refusal>) -> Task {
        let operation = target.copies.at(self.place);
        match result {
            Ok(()) if operation.is_partial => operation.state = Fate::Partial,
            Ok(()) => operation.state = Fate::Done,
            Err(_) if operation.is_stopped => operation.state = Fate::Aborted,
            Err(refusal) => operation.state = Fate::Failed(refusal.sense),
        }
        let source = operation.pieces[0].source;
        if let (Fate::Done, true, Some(token)) = (operation.state, operation.deletes_token, operation.token)
            && let Some(unit) = target.unit_mut(source)
        {
            unit.tokens.delete(token);
        }
        self.depart(target, head);
        let wanted = u64::from(self.wanted);
        match result {
            Ok(()) => Task::done().wanting(wanted, 0),
            Err(refusal) => Task::refused(Refusal { wanted_out: wanted, ..refusal }),
        }
    }

    fn depart(&mut self, target: &mut Target, head: &Head) {
        if let Some(ticket) = self.ticket.take()
            && let Some(unit) = target.unit_mut(head.unit)
        {
            unit.tasks.leave(ticket);
        }
    }

    /// Give up. True when nothing is in flight and the places among the commands are free.
    pub(crate) fn drain(&mut self, segments: &mut Segments, target: &mut Target, head: &Head) -> bool {
        if let Some(stretch) = &mut self.stretch {
            // What has come back is accounted for; what it met does not matter any more.
            stretch.settle(segments, target);
            segments.end_all(|segment| !matches!(segment.state, State::InFlight));
            if let Ok(unit) = unit(target, stretch.piece.destination) {
                stretch.flush.abandon(unit);
            }
            if segments.count() > 0 || matches!(stretch.flush, Flush::InFlight(_)) {
                return false;
            }
        }
        self.leave(target);
        target.copies.at(self.place).state = Fate::Aborted;
        self.depart(target, head);
        true
    }

    pub(crate) fn completed(&mut self, segments: &mut Segments, completion: Completion) {
        let Some(stretch) = &mut self.stretch else { return };
        if stretch.flush.completed(&completion) {
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
}

enum Begun {
    Segment,
    Full,
    NoBuffer,
}

impl Stretch {
    /// The stretch of a piece that begins when `offset` bytes of it are done.
    fn of(piece: Piece, offset: u64) -> Self {
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

    fn length(&self) -> u32 {
        self.piece.length as u32
    }

    /// Take places among the commands of both units, or none if there are not both.
    fn enter(mut self, target: &mut Target, head: &Head, is_alone: bool) -> Result<Option<Self>, Refusal> {
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
    fn start(&self, target: &mut Target) -> bool {
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
    fn settle(&mut self, segments: &mut Segments, target: &mut Target) -> Option<Refusal> {
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

    /// Move every segment as far as it goes. Once something has failed, only what is under way goes on.
    fn move_segments(
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

    fn begin_segment(
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
    fn make_durable(
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
