//! A copy on its way: piece by piece, each in stretches, each of which has its place among the commands of both units.
//!
//! # Order
//! A stretch is a read of its source and a change of its destination as those of commands are: who overlaps it waits for
//! it, or it for him, by [`crate::ordering`]. It enters the task sets of both units at once and starts only when it may in
//! both, so it never holds the one while it waits for the other, and of two copies crosswise the first to come is the
//! first to go. Between stretches a copy holds nothing, and others have their turn: one command between the units does not
//! keep everybody from the bytes that it will come to in a minute. With the ORDERED attribute it waits for all before it;
//! all after it wait for its end if it is within the unit it came to. Else they wait until it begins, and then they are
//! before it: its first stretch enters behind them, as that of any copy does. To stand before others in one unit and behind
//! others in another is what two of its kind could do to each other for ever.
//!
//! A copy that finds no place for its first stretch ends with TASK SET FULL. Later it waits for one, with none that anybody
//! could wait for.
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
use crate::copy::stretch::{Begun, Stretch, unit};
use crate::flush::Flush;
use crate::ordering::{Attribute, Ticket};
use crate::segment::{Segments, State};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::UnitId;
use core::ops::ControlFlow::{self, Break, Continue};
use core::time::Duration;
use storage_block::Completion;

/// How long a copy that is to end in time goes on: who asks for it waits for four seconds.
const PATIENCE: Duration = Duration::from_millis(2500);

/// A copy under way. Its pieces are in the target's table.
pub(crate) struct Copying {
    place: u8,
    /// The command's place among those of the unit it came to, until it begins, or to its end if it is alone there.
    ticket: Option<Ticket>,
    is_alone: bool,
    /// Bytes of its parameter list.
    wanted: u32,
    stretch: Option<Stretch>,
    /// The units of the stretch, or of the next one.
    units: [UnitId; 2],
    /// Something was written by stretches before.
    has_moved: bool,
    failure: Option<Refusal>,
    /// It is to end by this time, with what it has done, if it is to end in time.
    until: Option<Duration>,
    is_timed: bool,
}

impl Copying {
    /// The copy at `place`, the first piece of which with any bytes is `first`, with a parameter list of `wanted`
    /// bytes. `is_here` if all of it is within the unit it came to.
    pub(crate) fn new(place: u8, head: &Head, wanted: u32, first: &Piece, is_here: bool) -> Self {
        let is_alone = is_here && head.attribute == Attribute::Ordered;
        Self {
            place,
            ticket: head.ticket,
            is_alone,
            wanted,
            stretch: None,
            units: [first.source, first.destination],
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

    /// The units that requests of it are under way to, or will be next.
    pub(crate) fn units(&self) -> [UnitId; 2] {
        self.units
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
                    && target.copies.at(self.place).next().is_some()
                {
                    target.copies.at(self.place).is_partial = true;
                    return Continue(self.end(target, head, Ok(())));
                }
                match self.begin(target, head, out) {
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
    fn begin(
        &mut self,
        target: &mut Target,
        head: &Head,
        out: &mut Out<'_>,
    ) -> Result<bool, Result<(), Refusal>> {
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
            // All others may wait for the place that it has, and so for it.
            Ok(None) if self.ticket.is_some() => return Err(Err(Refusal::FULL)),
            Ok(None) => return Ok(false),
            Err(refusal) => return Err(Err(self.told(refusal, number))),
        }
        // It stands in the way of none but those that its stretches overlap.
        if !self.is_alone
            && let Some(ticket) = self.ticket.take()
            && let Some(unit) = target.unit_mut(head.unit)
        {
            unit.tasks.leave(ticket);
            // Who stood behind that place may be who this stretch stands behind.
            out.released();
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
        if let Some(piece) = operation.next() {
            self.units = [piece.source, piece.destination];
        }
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
        if let Some(stretch) = &mut self.stretch {
            stretch.completed(segments, completion);
        }
    }
}
