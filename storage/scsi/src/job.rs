//! A command on the medium, from its place in the task set to its last flush.
//!
//! It takes what it needs in one fixed order: its parameter list in control memory (before it is a job, see
//! [`crate::ordering`]), then its range among the commands of the unit, then data buffers. Whoever waits for a range
//! therefore holds no data buffer, or none that those before it could need (ordering.rs says why), and whoever has one
//! needs nothing that a waiting command holds: there is no circle to wait in.

use crate::attention::Attention;
use crate::command::{Ended, Head, Memory, Out, Rest, Task};
use crate::extents::Extents;
use crate::failure;
use crate::flush::Flush;
use crate::medium::Durability;
use crate::ordering::{Stage, Ticket, Touch};
use crate::ranges::Ranges;
use crate::segment::Segments;
use crate::sense::Refusal;
use crate::transfer::Transfer;
use crate::unit::LogicalUnit;
use core::ops::Range;
use storage_block::{Arrived, Buffer, Completion, Delivery};

/// What a job does between its flushes.
pub(crate) enum Work {
    /// Nothing: the flush is all.
    None,
    Transfer(Transfer),
    Ranges(Ranges),
    Extents(Extents),
}

impl Work {
    /// How it failed, if it did.
    fn failure(&self) -> Option<Refusal> {
        match self {
            Self::None => None,
            Self::Transfer(transfer) => transfer.failure(),
            Self::Ranges(ranges) => ranges.failure(),
            Self::Extents(extents) => extents.failure(),
        }
    }

    /// What it has yet to get from others than the backend.
    fn stage(&self) -> Stage {
        match self {
            Self::None => Stage::Complete,
            Self::Transfer(transfer) if !transfer.is_sated() => Stage::Wanting,
            Self::Transfer(transfer) if !transfer.has_data() => Stage::Sated,
            Self::Transfer(_) => Stage::Complete,
            Self::Ranges(ranges) if ranges.may_expand() => Stage::Wanting,
            Self::Ranges(_) => Stage::Complete,
            Self::Extents(_) => Stage::Wanting,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Entering,
    FlushingBefore,
    Working,
    FlushingAfter,
}

/// A command on the medium.
pub(crate) struct Job {
    ticket: Ticket,
    phase: Phase,
    flush: Flush,
    work: Work,
    /// What the task set was told of [`Work::stage`].
    stage: Stage,
    durability: Durability,
    /// It is a transfer that may go the short way, and needs no flush.
    is_plain: bool,
    /// The disk it is for.
    incarnation: u32,
    /// Bytes that the CDB asks to move to the medium and to the initiator.
    wanted_out: u64,
    wanted_in: u64,
}

/// How far a job has come.
pub(crate) enum Progress {
    Rest(Rest),
    /// At its end, with the Data-Out and Data-In bytes it wanted or, if it failed, moved.
    Over {
        result: Result<(), Refusal>,
        wanted_out: u64,
        wanted_in: u64,
    },
}

impl Job {
    /// A task that does `work` on `range` of the medium, and is asked to move so many bytes to the medium and to the
    /// initiator.
    pub(crate) fn begin(
        unit: &mut LogicalUnit,
        head: &Head,
        (touch, range): (Touch, Range<u64>),
        work: Work,
        durability: Durability,
        (wanted_out, wanted_in): (u64, u64),
    ) -> Result<Task, Refusal> {
        let length = range.end - range.start;
        let ticket = match head.ticket {
            Some(ticket) => {
                unit.tasks.settle(ticket, touch, range.start, length);
                ticket
            }
            None => {
                let ticket = unit.tasks.enter(head.nexus, touch, range.start, length, head.attribute);
                ticket.ok_or(Refusal::FULL)?
            }
        };
        if touch == Touch::Change {
            unit.changes(range.start, length);
        }
        let (phase, flush, stage) = (Phase::Entering, Flush::Idle, Stage::Wanting);
        let incarnation = unit.incarnation();
        let is_plain = durability == Durability::NONE
            && matches!(&work, Work::Transfer(transfer) if transfer.is_plain());
        Ok(Task::Job(Self {
            ticket,
            phase,
            flush,
            work,
            stage,
            durability,
            is_plain,
            incarnation,
            wanted_out,
            wanted_in,
        }))
    }

    /// The step of a READ or a WRITE of one segment: what [`Job::step`] does, without a look at what else a job may be.
    /// `None` if it is not that, or at its end; then the other one goes on from where this has come to.
    #[inline]
    pub(crate) fn step_plain(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<()> {
        if !self.is_plain || self.incarnation != unit.incarnation() {
            return None;
        }
        let Work::Transfer(transfer) = &mut self.work else { return None };
        match self.phase {
            Phase::Entering => {
                if !unit.tasks.may_start(self.ticket) {
                    return None;
                }
                self.phase = Phase::Working;
                if !transfer.begin_plain(segments, unit, memory, out) {
                    return None;
                }
            }
            Phase::Working => transfer.step_plain(segments, out)?,
            Phase::FlushingBefore | Phase::FlushingAfter => return None,
        }
        let stage = if transfer.has_data() { Stage::Complete } else { Stage::Sated };
        if stage > self.stage {
            self.stage = stage;
            unit.tasks.reached(self.ticket, stage);
        }
        Some(())
    }

    /// The end of such a job, once its request has come back: what is to be sent to the initiator, and the bytes that the
    /// CDB has asked to move to the medium and to the initiator. `None` if it is not at that end.
    #[inline]
    pub(crate) fn end_plain(&mut self, segments: &mut Segments, unit: &mut LogicalUnit) -> Option<Ended> {
        if !self.is_plain || self.phase != Phase::Working || self.incarnation != unit.incarnation() {
            return None;
        }
        let Work::Transfer(transfer) = &mut self.work else { return None };
        let data = transfer.end_plain(segments, unit)?;
        unit.tasks.leave(self.ticket);
        Some(Ended { data, wanted_out: self.wanted_out, wanted_in: self.wanted_in })
    }

    /// Bytes have arrived for the request at this place: see [`Transfer::deliver`]. With the last of them `send` is told
    /// how many bytes the CDB has asked to move to the initiator.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        place: u64,
        arrived: &Arrived<'_>,
        send: impl FnOnce(u32, u32, Option<u64>) -> u32,
    ) -> Delivery {
        let Work::Transfer(transfer) = &mut self.work else { return Delivery::Used(0) };
        if !self.is_plain || self.phase != Phase::Working || self.incarnation != unit.incarnation() {
            return Delivery::Used(0);
        }
        let wanted = self.wanted_in;
        let send = |offset, length, ends: bool| send(offset, length, ends.then_some(wanted));
        let delivery = transfer.deliver(segments, place, arrived, send);
        if delivery == Delivery::Ended {
            unit.tasks.leave(self.ticket);
        }
        delivery
    }

    pub(crate) fn step(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Progress {
        if self.incarnation != unit.incarnation() {
            return self.leave_disk(segments, unit);
        }
        let progress = self.go_on(segments, unit, head, memory, out);
        if self.stage != Stage::Complete && matches!(progress, Progress::Rest(_)) {
            let stage = self.work.stage();
            if stage > self.stage {
                self.stage = stage;
                unit.tasks.reached(self.ticket, stage);
            }
        }
        progress
    }

    fn go_on(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Progress {
        if self.phase < Phase::Working
            && let Some(progress) = self.start(segments, unit, head, memory, out)
        {
            return progress;
        }
        while self.phase == Phase::Working {
            let rest = match &mut self.work {
                Work::Transfer(transfer) => transfer.step(segments, unit, memory, out),
                _ => self.step_without_data(unit, memory, out),
            };
            if let Some(rest) = rest {
                return Progress::Rest(rest);
            }
            if let Some(refusal) = self.work.failure() {
                return self.over(unit, Err(refusal));
            }
            // What was durable when it was acknowledged may be so no more, if it came by way of a cache.
            if self.durability.fua && unit.cache.tell_loss(head.nexus) {
                return self.over(unit, Err(failure::write_loss()));
            }
            match self.instead() {
                Some(work) => self.work = work,
                None => self.phase = Phase::FlushingAfter,
            }
        }
        if self.durability.flush_after {
            match self.flush.step(unit, head.unit, head.nexus, out) {
                Ok(None) => {}
                Ok(Some(rest)) => return Progress::Rest(rest),
                Err(refusal) => return self.over(unit, Err(refusal)),
            }
        }
        self.over(unit, Ok(()))
    }

    /// Come as far as to the work, or tell what is before it.
    #[inline(never)]
    fn start(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Progress> {
        if self.phase == Phase::Entering {
            if !unit.tasks.may_start(self.ticket) {
                return Some(Progress::Rest(self.wait(segments, unit, memory, out)));
            }
            self.phase = Phase::FlushingBefore;
        }
        if self.is_flush_due(unit) {
            match self.flush.step(unit, head.unit, head.nexus, out) {
                Ok(None) => {}
                Ok(Some(rest)) => return Some(Progress::Rest(rest)),
                Err(refusal) => return Some(self.over(unit, Err(refusal))),
            }
        }
        self.phase = Phase::Working;
        None
    }

    /// Work that is not between the initiator and the medium. It is rare, and kept out of the way of what is not.
    #[inline(never)]
    fn step_without_data(
        &mut self,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Rest> {
        match &mut self.work {
            Work::None | Work::Transfer(_) => None,
            Work::Ranges(ranges) => ranges.step(unit, out),
            Work::Extents(extents) => {
                let rest = extents.step(unit, memory, out);
                self.wanted_in = extents.wanted();
                rest
            }
        }
    }

    /// The disk it was for is not there any more: nothing of it may reach the one that is.
    #[cold]
    fn leave_disk(&mut self, segments: &mut Segments, unit: &mut LogicalUnit) -> Progress {
        if !self.drain(segments, unit) {
            return Progress::Rest(Rest::Wait);
        }
        let refusal = unit.medium().err().unwrap_or(Attention::MediumMayHaveChanged.sense().into());
        self.over(unit, Err(refusal))
    }

    /// Others are before it: all it can do meanwhile is to take in its data.
    #[inline(never)]
    fn wait(
        &mut self,
        segments: &mut Segments,
        unit: &mut LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Rest {
        if let Work::Transfer(transfer) = &mut self.work
            && unit.tasks.may_take_ahead(self.ticket)
        {
            transfer.step_ahead(segments, unit, memory, out);
            if segments.count() > 0 {
                unit.tasks.took_ahead(self.ticket);
            }
        }
        Rest::Blocked
    }

    /// Whether the flush before it is to be made, or goes on: a read from the medium finds there what was acknowledged, if
    /// nothing of it is in the cache any more; what overlaps it and was not acknowledged has not been let past.
    fn is_flush_due(&self, unit: &LogicalUnit) -> bool {
        self.durability.flush_before && (unit.is_dirty() || !matches!(self.flush, Flush::Idle))
    }

    /// What is done where the backend has declined to do it in a better way.
    fn instead(&self) -> Option<Work> {
        match &self.work {
            Work::Ranges(ranges) => ranges.expansion().map(Work::Transfer),
            Work::None | Work::Transfer(_) | Work::Extents(_) => None,
        }
    }

    /// Give up. True when nothing is in flight and the command's place is free.
    pub(crate) fn drain(&mut self, segments: &mut Segments, unit: &mut LogicalUnit) -> bool {
        let quiet = match &mut self.work {
            Work::None => true,
            Work::Transfer(transfer) => transfer.drain(segments, unit),
            Work::Ranges(ranges) => ranges.drain(unit),
            Work::Extents(extents) => extents.drain(),
        };
        let quiet = quiet && !matches!(self.flush, Flush::InFlight(_));
        self.flush.abandon(unit);
        if quiet {
            unit.tasks.leave(self.ticket);
        } else {
            // It asks for nothing more, so those behind it may take in what their initiators send.
            self.stage = self.stage.max(Stage::Sated);
            unit.tasks.reached(self.ticket, self.stage);
        }
        quiet
    }

    pub(crate) fn received(&mut self, segments: &mut Segments, offset: u32, buffer: Buffer) {
        if let Work::Transfer(transfer) = &mut self.work {
            transfer.received(segments, offset, buffer);
        }
    }

    pub(crate) fn completed(&mut self, segments: &mut Segments, completion: Completion) {
        if self.flush.completed(&completion) {
            return;
        }
        let index = usize::try_from(completion.cookie).unwrap_or(usize::MAX);
        match &mut self.work {
            Work::Transfer(transfer) => transfer.completed(segments, index, completion),
            Work::Ranges(ranges) => ranges.completed(index, &completion),
            Work::Extents(extents) => extents.completed(completion),
            Work::None => {}
        }
    }

    fn over(&mut self, unit: &mut LogicalUnit, result: Result<(), Refusal>) -> Progress {
        unit.tasks.leave(self.ticket);
        if let (Err(refusal), Work::Transfer(transfer)) = (result, &self.work) {
            let (received, sent) = transfer.moved();
            let wanted_out = refusal.wanted_out.max(u64::from(received));
            return Progress::Over { result, wanted_out, wanted_in: u64::from(sent) };
        }
        Progress::Over { result, wanted_out: self.wanted_out, wanted_in: self.wanted_in }
    }
}
