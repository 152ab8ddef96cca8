//! A running command: a state machine of fixed size, driven by whoever carries bytes and requests.

use crate::copy::carry::Copying;
use crate::copy::operations::Name;
use crate::failure;
use crate::field::{Answer, u32_at};
use crate::job::{Job, Progress};
use crate::list::List;
use crate::nexus::{Nexus, NexusSet};
use crate::opcode;
use crate::ordering::{Attribute, Ticket};
use crate::persistent::Pending;
use crate::segment::Segments;
use crate::sense::{Outcome, Refusal, Sense, SenseData, Status, code};
use crate::target::{NO_UNIT, Target};
use crate::unit::{LogicalUnit, UnitId};
use core::ops::ControlFlow::{self, Break, Continue};
use core::time::Duration;
use storage_block::{Arrived, Buffer, Completion, Delivery, Request, Share};

/// Where a command takes buffers from.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// For what is read and written: the share of the command's disk. For any progress it must be able to lend one
    /// buffer of one block; two, for commands that compare.
    pub data: &'a Share,
    /// For parameter lists of commands on the medium, which keep them as long as the disk takes, where `data` has no room: a
    /// share of the command's disk that nothing else takes from, with buffers of [`crate::MAX_LIST`] bytes.
    pub lists: &'a Share,
    /// For answers, and parameter lists that are looked at when they are here: a share that no disk can exhaust, with
    /// buffers of [`crate::MAX_LIST`] bytes.
    pub control: &'a Share,
}

/// Carries what a command moves, between the initiator and the unit's backend.
pub trait Carrier {
    /// Ask the initiator for Data-Out from `offset` on, as many bytes as the buffer has, and call [`Command::received`]
    /// with it. Offsets ascend; several may be outstanding.
    fn receive(&mut self, offset: u32, buffer: Buffer);

    /// Carry this request to the backend of this unit, which is that of the command except where one copies between
    /// units, and call [`Command::completed`] with what becomes of it, though not
    /// from within. Its cookie means something to this command only.
    fn issue(&mut self, unit: UnitId, request: Request);

    /// Send Data-In. Offsets ascend without gaps.
    fn send(&mut self, offset: u32, buffer: Buffer);

    /// The command has given up places among those of units, although it has not ended: who is blocked may go on.
    fn released(&mut self) {}

    /// Make durable what [`Target::to_keep`] answers of the unit, and call [`Target::kept`] then, though not from within.
    /// Only of units with [`crate::Traits::keeps`], whether or not the command is still there.
    fn keep(&mut self, unit: UnitId);

    /// The time since some beginning that is the same for all commands of a target. It never goes back.
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    /// Random bytes that nobody can guess, for the name of what stands in some ranges; none if there are none, and then
    /// nothing can have such a name.
    fn random(&mut self) -> Option<[u8; 32]> {
        None
    }
}

/// Where a command has come to rest.
#[derive(Debug)]
pub enum Rest {
    /// Another initiator's commands are to end (PREEMPT AND ABORT): [`Command::abort`] every command of this nexus for
    /// this unit and step it, then step this one again.
    Abort {
        /// The unit.
        unit: UnitId,
        /// Whose commands.
        nexus: Nexus,
    },
    /// The command has ended, and nothing of it is anywhere any more: its slot is free.
    Finish(Outcome),
    /// There is no buffer: step again when one has come back to the pool.
    Starved,
    /// Another command of the unit stands before it, the unit is not yet known, or something of it is being kept: step
    /// again when a command of the unit has finished, the unit's readiness or geometry has changed, or after
    /// [`Target::kept`].
    Blocked,
    /// Step again after [`Command::received`] or [`Command::completed`].
    Wait,
}

/// A command that has ended with GOOD, see [`Command::end`].
#[derive(Debug)]
pub struct Ended {
    /// Data-In, all there is of it.
    pub data: Option<Buffer>,
    /// Bytes of Data-Out that the CDB asked for.
    pub wanted_out: u64,
    /// Bytes of Data-In that the CDB asked for.
    pub wanted_in: u64,
}

/// The carrier, as the command sees it.
pub(crate) struct Out<'a> {
    carrier: &'a mut dyn Carrier,
    unit: UnitId,
    issued: u8,
}

impl Out<'_> {
    pub(crate) fn receive(&mut self, offset: u32, buffer: Buffer) {
        self.carrier.receive(offset, buffer);
    }

    pub(crate) fn issue(&mut self, request: Request) {
        self.issue_to(self.unit, request);
    }

    /// Carry a request to the backend of any unit.
    pub(crate) fn issue_to(&mut self, unit: UnitId, request: Request) {
        self.issued += 1;
        self.carrier.issue(unit, request);
    }

    pub(crate) fn released(&mut self) {
        self.carrier.released();
    }

    pub(crate) fn now(&self) -> Duration {
        self.carrier.now()
    }

    pub(crate) fn random(&mut self) -> Option<[u8; 32]> {
        self.carrier.random()
    }

    pub(crate) fn send(&mut self, offset: u32, buffer: Buffer) {
        self.carrier.send(offset, buffer);
    }

    pub(crate) fn keep(&mut self) {
        self.carrier.keep(self.unit);
    }
}

/// What is known of a command from the start.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) nexus: Nexus,
    /// The unit it is for; an id that no unit has where there is none.
    pub(crate) unit: UnitId,
    /// It is for the REPORT LUNS well-known logical unit.
    pub(crate) report_luns: bool,
    pub(crate) cdb: [u8; 16],
    pub(crate) data_out: u32,
    pub(crate) data_in: u32,
    pub(crate) attribute: Attribute,
    /// Its place in the unit's task set, if it took one before its parameter list.
    pub(crate) ticket: Option<Ticket>,
}

/// A command and the target it is for, for those who make an answer.
pub(crate) struct Call<'a> {
    pub(crate) target: &'a Target,
    head: &'a Head,
}

impl Call<'_> {
    pub(crate) fn cdb(&self) -> &[u8; 16] {
        &self.head.cdb
    }

    pub(crate) fn unit(&self) -> Result<&LogicalUnit, Refusal> {
        let none = Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED);
        self.target.unit(self.head.unit).ok_or(none.into())
    }

    /// By what a copy of the nexus and the unit is known that has this list identifier.
    pub(crate) fn name(&self, id: Option<u32>) -> Name {
        Name { nexus: self.head.nexus, unit: self.head.unit, id, action: 0 }
    }

    pub(crate) fn is_report_luns(&self) -> bool {
        self.head.report_luns
    }
}

/// Makes an answer; see [`Answer`] for why it may be called more than once.
pub(crate) type Make = fn(&Call<'_>, &mut Answer<'_>) -> Result<(), Refusal>;

/// What a command is doing.
pub(crate) enum Task {
    /// Waiting for the unit's geometry; it is begun when that is there.
    Held,
    /// Ended, but for telling so.
    Over(Over),
    /// Sending an answer.
    Answer(Reply),
    /// Taking in a parameter list.
    List(List),
    /// Working on the medium.
    Job(Job),
    /// Copying between units.
    Copy(Copying),
    /// Changing persistent reservations.
    Change(Pending),
    /// Ending the commands of others.
    Abort(Abort),
}

/// The commands of some nexuses on their way to their end.
pub(crate) struct Abort {
    victims: NexusSet,
    /// Those the carrier has not been told of.
    untold: NexusSet,
}

/// How it ended.
pub(crate) struct Over {
    result: Result<(), Refusal>,
    wanted_out: u64,
    wanted_in: u64,
}

/// An answer on its way.
pub(crate) struct Reply {
    source: Source,
    /// Bytes that the initiator wants at most.
    allocation: u32,
    sent: u32,
}

enum Source {
    Make(Make),
    Bytes(SenseData),
}

impl Task {
    /// Done, with GOOD.
    pub(crate) fn done() -> Self {
        Self::Over(Over { result: Ok(()), wanted_out: 0, wanted_in: 0 })
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Over(Over { result: Err(refusal), wanted_out: refusal.wanted_out, wanted_in: 0 })
    }

    /// The answer that `make` makes, cut at `allocation` bytes.
    pub(crate) fn answer(make: Make, allocation: u32) -> Self {
        Self::Answer(Reply { source: Source::Make(make), allocation, sent: 0 })
    }

    /// Done, when all commands of `victims` on this unit have ended.
    pub(crate) fn abort(victims: NexusSet) -> Self {
        Self::Abort(Abort { victims, untold: victims })
    }

    /// Sense data as an answer.
    pub(crate) fn sense(sense: SenseData, allocation: u32) -> Self {
        Self::Answer(Reply { source: Source::Bytes(sense), allocation, sent: 0 })
    }

    /// With the bytes that the CDB asks to move, if it is done.
    pub(crate) fn wanting(self, wanted_out: u64, wanted_in: u64) -> Self {
        match self {
            Self::Over(Over { result, .. }) => Self::Over(Over { result, wanted_out, wanted_in }),
            other => other,
        }
    }
}

/// A slot for commands, and the running one that is in it.
///
/// [`Target::begin`] puts a command into it, which is stepped until [`Rest::Finish`]; then it is free for the next one. It
/// must not be dropped or used again before: the command's place among those of its unit would stay taken. To be rid of a
/// command, [`Command::abort`] it and go on stepping, or [`Command::clear`] it where its target is no more.
pub struct Command {
    head: Head,
    task: Task,
    segments: Segments,
    in_flight: u8,
    aborted: bool,
}

impl Default for Command {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Command {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let task = match self.task {
            Task::Held => "held",
            Task::Over(_) => "over",
            Task::Answer(_) => "answering",
            Task::List(_) => "taking parameters",
            Task::Job(_) => "working",
            Task::Copy(_) => "copying",
            Task::Change(_) => "changing reservations",
            Task::Abort(_) => "aborting others",
        };
        let (name, in_flight) = (self.name(), self.in_flight);
        write!(f, "Command({name}, {task}, {in_flight} in flight, aborted: {})", self.aborted)
    }
}

impl Command {
    /// A free slot.
    pub const fn new() -> Self {
        let head = Head {
            nexus: Nexus(0),
            unit: NO_UNIT,
            report_luns: false,
            cdb: [0; 16],
            data_out: 0,
            data_in: 0,
            attribute: Attribute::Simple,
            ticket: None,
        };
        let task = Task::Over(Over { result: Ok(()), wanted_out: 0, wanted_in: 0 });
        Self { head, task, segments: Segments::new(), in_flight: 0, aborted: false }
    }

    /// Put in a command that has arrived; what it is to do is not decided yet.
    pub(crate) fn arrive(&mut self, head: Head) -> (&Head, &mut Task) {
        self.clear();
        self.head = head;
        (&self.head, &mut self.task)
    }

    /// Forget what is in the slot and give back all buffers: for a command of a target that is no more.
    pub fn clear(&mut self) {
        if !matches!(self.task, Task::Over(_)) {
            self.task = Task::done();
        }
        self.segments.end_all(|_| true);
        (self.in_flight, self.aborted) = (0, false);
    }

    /// Its name in the standards, for people.
    pub fn name(&self) -> &'static str {
        opcode::find(&self.head.cdb).map_or("unknown", |command| command.name)
    }

    /// The nexus it came by.
    pub fn nexus(&self) -> Nexus {
        self.head.nexus
    }

    /// The unit it is for, or an id without a unit.
    pub fn unit(&self) -> UnitId {
        self.head.unit
    }

    /// End it without doing anything more. What is in flight below is waited for and dropped: only then does
    /// [`Command::step`] finish it, with TASK ABORTED, and only then may a task management function be answered. Data-Out
    /// that was asked for is not waited for.
    pub fn abort(&mut self) {
        self.aborted = true;
    }

    /// Whether [`Command::abort`] was called.
    pub fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// The units that its requests may be under way to: that of the command, or those between which it copies, now or
    /// next, or ids without a unit.
    pub fn units(&self) -> [UnitId; 2] {
        match &self.task {
            Task::Copy(copying) => copying.units(),
            _ => [self.head.unit, NO_UNIT],
        }
    }

    /// Whether it is for this unit, or requests of it may be under way to it, or will be next.
    pub fn concerns(&self, unit: UnitId) -> bool {
        self.head.unit == unit || self.units().contains(&unit)
    }

    /// Whether it has done a part of what it is to do that is not to be done again: what was copied may have been written
    /// over what was to be copied.
    pub fn is_partly_done(&self) -> bool {
        matches!(&self.task, Task::Copy(copying) if copying.is_partly_done())
    }

    /// Whether it copies between units, so that it may stand before commands of any, or they before it.
    pub fn is_copy(&self) -> bool {
        matches!(self.task, Task::Copy(_))
    }

    /// Whether no request of it is in flight below: it cannot change the medium unless it is stepped.
    pub fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// Data-Out that [`Carrier::receive`] asked for is in its buffer.
    pub fn received(&mut self, offset: u32, buffer: Buffer) {
        if self.aborted {
            return;
        }
        match &mut self.task {
            Task::List(list) => list.received(offset, buffer),
            Task::Job(job) => job.received(&mut self.segments, offset, buffer),
            Task::Held
            | Task::Over(_)
            | Task::Answer(_)
            | Task::Copy(_)
            | Task::Change(_)
            | Task::Abort(_) => {}
        }
    }

    /// A request of [`Carrier::issue`] has ended.
    pub fn completed(&mut self, completion: Completion) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match &mut self.task {
            Task::Job(job) => job.completed(&mut self.segments, completion),
            Task::Copy(copying) => copying.completed(&mut self.segments, completion),
            _ => {}
        }
    }

    /// Go on, as far as it goes. Called again whenever it may go on.
    pub fn step(&mut self, target: &mut Target, memory: &Memory<'_>, carrier: &mut dyn Carrier) -> Rest {
        let mut out = Out { carrier, unit: self.head.unit, issued: 0 };
        if let Some(rest) = self.step_plain(target, memory, &mut out) {
            return rest;
        }
        loop {
            if self.aborted {
                return self.step_aborted(target);
            }
            let rest = self.step_task(target, memory, &mut out);
            self.in_flight += core::mem::take(&mut out.issued);
            if let Some(rest) = rest {
                return rest;
            }
        }
    }

    /// The step of nearly all commands. `None` if there is more to this one; then the way of all others goes on.
    #[inline]
    fn step_plain(&mut self, target: &mut Target, memory: &Memory<'_>, out: &mut Out<'_>) -> Option<Rest> {
        let Task::Job(job) = &mut self.task else { return None };
        if self.aborted {
            return None;
        }
        let unit = target.unit_mut(self.head.unit)?;
        job.step_plain(&mut self.segments, unit, memory, out)?;
        self.in_flight += core::mem::take(&mut out.issued);
        Some(Rest::Wait)
    }

    /// End the command with GOOD, if it is a READ or a WRITE of which nothing is left but to send what was read: what
    /// [`Command::step`] does at its end, for those who need no more for it. Its slot is free then.
    #[inline]
    pub fn end(&mut self, target: &mut Target) -> Option<Ended> {
        let Task::Job(job) = &mut self.task else { return None };
        if self.aborted {
            return None;
        }
        let ended = job.end_plain(&mut self.segments, target.unit_mut(self.head.unit)?)?;
        let Ended { wanted_out, wanted_in, .. } = ended;
        self.task = Task::Over(Over { result: Ok(()), wanted_out, wanted_in });
        Some(ended)
    }

    /// Bytes have arrived that a read of [`Carrier::issue`] with this cookie brings. Those which the initiator may have at
    /// once are for `send`: it is told where in Data-In they begin, how many they are at most and, where the command can
    /// end with them, how many bytes the CDB has asked to move to the initiator, and answers how many it has sent. If it
    /// has sent all of them then, the command has ended with GOOD, there is no completion, and its slot is free.
    #[inline]
    pub fn deliver(
        &mut self,
        target: &mut Target,
        cookie: u64,
        arrived: &Arrived<'_>,
        send: impl FnOnce(u32, u32, Option<u64>) -> u32,
    ) -> Delivery {
        let Task::Job(job) = &mut self.task else { return Delivery::Used(0) };
        let Some(unit) = target.unit_mut(self.head.unit).filter(|_| !self.aborted) else {
            return Delivery::Used(0);
        };
        let delivery = job.deliver(&mut self.segments, unit, cookie, arrived, send);
        if delivery == Delivery::Ended {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.task = Task::done();
        }
        delivery
    }

    /// Let the task come to rest, or put the next one in its place.
    fn step_task(&mut self, target: &mut Target, memory: &Memory<'_>, out: &mut Out<'_>) -> Option<Rest> {
        let Self { head, task, segments, in_flight, .. } = self;
        let over = match task {
            Task::Job(job) => match target.unit_mut(head.unit) {
                Some(unit) => match job.step(segments, unit, head, memory, out) {
                    Progress::Rest(rest) => return Some(rest),
                    Progress::Over { result, wanted_out, wanted_in } => {
                        Over { result, wanted_out, wanted_in }
                    }
                },
                // The unit was withdrawn. What is in flight is still to come back.
                None if *in_flight > 0 => return Some(Rest::Wait),
                None => {
                    let refusal = Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into();
                    Over { result: Err(refusal), wanted_out: 0, wanted_in: 0 }
                }
            },
            Task::Over(over) => return Some(Rest::Finish(finish(target, head, over))),
            _ => return self.step_without_medium(target, memory, out),
        };
        // What was with a segment when it ended is of no use any more.
        segments.end_all(|_| true);
        let end = finish(target, head, &over);
        *task = Task::Over(over);
        Some(Rest::Finish(end))
    }

    /// A step of a task that does nothing on the medium, or not yet.
    #[inline(never)]
    fn step_without_medium(
        &mut self,
        target: &mut Target,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Rest> {
        let Self { head, task, segments, .. } = self;
        let next = match task {
            Task::Job(_) | Task::Over(_) => return None,
            Task::Copy(copying) => copying.step(segments, target, head, memory, out),
            Task::Held => {
                if target.unit(head.unit).is_some_and(LogicalUnit::is_unknown) {
                    return Some(Rest::Blocked);
                }
                target.dispatch(head, task);
                return None;
            }
            Task::Answer(reply) => reply.step(target, head, memory, out),
            Task::Change(change) => change.step(target, head, out),
            Task::Abort(abort) => abort.step(target, head),
            Task::List(list) => {
                let length = u64::from(list.length());
                match list.step(target, head, memory, out) {
                    Break(rest) => Break(rest),
                    Continue(Ok(Task::Over(over))) => Continue(Task::Over(over).wanting(length, 0)),
                    Continue(Ok(task)) => Continue(task),
                    Continue(Err(refusal)) => {
                        Continue(Task::refused(Refusal { wanted_out: length, ..refusal }))
                    }
                }
            }
        };
        match next {
            Break(rest) => Some(rest),
            Continue(next) => {
                *task = next;
                None
            }
        }
    }

    #[inline(never)]
    fn step_aborted(&mut self, target: &mut Target) -> Rest {
        if let Task::Copy(copying) = &mut self.task {
            if !copying.drain(&mut self.segments, target, &self.head) {
                return Rest::Wait;
            }
            self.task = Task::done();
        }
        let quiet = match (&mut self.task, target.unit_mut(self.head.unit)) {
            (Task::Job(job), Some(unit)) => job.drain(&mut self.segments, unit),
            (Task::List(list), Some(unit)) => {
                list.drain(unit);
                true
            }
            (Task::Change(change), Some(unit)) => {
                change.disown(unit);
                true
            }
            _ => self.in_flight == 0,
        };
        if !quiet {
            return Rest::Wait;
        }
        self.segments.end_all(|_| true);
        self.task = Task::refused(Refusal::ABORTED);
        let Task::Over(over) = &self.task else { return Rest::Wait };
        Rest::Finish(finish(target, &self.head, over))
    }
}

/// Put the end of a command into the form its nexus has asked for.
fn finish(target: &Target, head: &Head, over: &Over) -> Outcome {
    let Over { result, wanted_out, wanted_in } = *over;
    let Err(refusal) = result else {
        return Outcome { status: Status::Good, sense: SenseData::default(), wanted_in, wanted_out };
    };
    let descriptor = target.unit(head.unit).is_some_and(|unit| unit.modes.descriptor_sense);
    let sense = refusal.sense.map_or(SenseData::default(), |sense| sense.encode(descriptor));
    let status = refusal.status;
    Outcome { status, sense, wanted_in, wanted_out }
}

impl Abort {
    fn step(&mut self, target: &Target, head: &Head) -> ControlFlow<Rest, Task> {
        if let Some(nexus) = self.untold.iter().next() {
            self.untold.remove(nexus);
            return Break(Rest::Abort { unit: head.unit, nexus });
        }
        if target.unit(head.unit).is_some_and(|unit| unit.tasks.has_any_of(&self.victims)) {
            return Break(Rest::Blocked);
        }
        // PERSISTENT RESERVE OUT tells the length of its list there.
        Continue(Task::done().wanting(u64::from(u32_at(&head.cdb, 5)), 0))
    }
}

impl Reply {
    fn step(
        &mut self,
        target: &Target,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> ControlFlow<Rest, Task> {
        loop {
            let call = Call { target, head };
            let mut whole = Answer::new(&mut [], 0);
            if let Err(refusal) = self.write(&call, &mut whole) {
                return Continue(Task::refused(refusal));
            }
            let wanted = u32::try_from(whole.length()).unwrap_or(u32::MAX).min(self.allocation);
            let rest = wanted.min(head.data_in).saturating_sub(self.sent);
            if rest == 0 {
                return Continue(Task::done().wanting(0, u64::from(wanted)));
            }
            let length = (rest as usize).min(memory.control.largest());
            if length == 0 {
                return Continue(Task::refused(failure::internal()));
            }
            let Some(mut buffer) = memory.control.take(length) else { return Break(Rest::Starved) };
            if let Err(refusal) = self.write(&call, &mut Answer::new(&mut buffer, self.sent as usize)) {
                return Continue(Task::refused(refusal));
            }
            out.send(self.sent, buffer);
            self.sent += length as u32;
        }
    }

    fn write(&self, call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
        match &self.source {
            Source::Make(make) => make(call, answer),
            Source::Bytes(bytes) => {
                answer.put(bytes);
                Ok(())
            }
        }
    }
}
