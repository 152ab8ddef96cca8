//! Parameter lists: a bounded piece of Data-Out that is taken in whole before the command goes on.

use crate::command::{Head, Memory, Out, Rest, Task};
use crate::ordering::Ticket;
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use core::ops::ControlFlow::{self, Break, Continue};
use storage_block::Buffer;

/// The longest parameter list that is taken, in bytes. It is also the largest block that WRITE SAME and VERIFY can take
/// as a pattern. The memory for lists and for answers must have buffers of this size.
pub const MAX_LIST: u32 = 4096;

/// What is done with a list that is here. `None` stands for a list of no bytes.
pub(crate) type Act = fn(&mut Target, &Head, Option<Buffer>) -> Result<Task, Refusal>;

/// A parameter list on its way.
pub(crate) struct List {
    length: u32,
    asked: bool,
    buffer: Option<Buffer>,
    act: Act,
    /// The command's place among those on the medium, which it keeps when it becomes a job.
    ticket: Option<Ticket>,
}

impl List {
    /// A task that takes a list of `length` bytes and then does `act`.
    pub(crate) fn task(head: &Head, length: u32, act: Act) -> Result<Task, Refusal> {
        if length > MAX_LIST {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        if length > head.data_out {
            return Err(Refusal::short_of_data(u64::from(length)));
        }
        Ok(Task::List(Self { length, asked: false, buffer: None, act, ticket: None }))
    }

    /// The same for a command on the medium: it has its place among the others while it waits.
    pub(crate) fn task_on_medium(
        unit: &mut LogicalUnit,
        head: &Head,
        length: u32,
        act: Act,
    ) -> Result<Task, Refusal> {
        let mut task = Self::task(head, length, act)?;
        if let Task::List(list) = &mut task {
            list.ticket = Some(unit.tasks.enter_unsettled(head.nexus, head.attribute).ok_or(Refusal::FULL)?);
        }
        Ok(task)
    }

    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    /// Ask for it, wait for it, or go on with it.
    pub(crate) fn step(
        &mut self,
        target: &mut Target,
        head: &Head,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> ControlFlow<Rest, Result<Task, Refusal>> {
        if let Some(buffer) = self.buffer.take() {
            target.now = out.now();
            if target.secret.is_none() {
                target.secret = out.random();
            }
            return Continue(self.go_on(target, head, Some(buffer)));
        }
        if self.asked {
            return Break(Rest::Wait);
        }
        let may_ask = |unit: &LogicalUnit| self.ticket.is_none_or(|ticket| unit.tasks.may_ask(ticket));
        if !target.unit(head.unit).is_none_or(may_ask) {
            return Break(Rest::Blocked);
        }
        if self.length == 0 {
            return Continue(self.go_on(target, head, None));
        }
        let length = self.length as usize;
        // What waits for a disk must not hold what those need that do not.
        let buffer = match self.ticket {
            Some(_) => memory.data.take_aside(length).or_else(|| memory.lists.take(length)),
            None => memory.control.take(length),
        };
        let Some(buffer) = buffer else { return Break(Rest::Starved) };
        self.asked = true;
        out.receive(0, buffer);
        Break(Rest::Wait)
    }

    fn go_on(&self, target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
        let result = (self.act)(target, &Head { ticket: self.ticket, ..*head }, list);
        if !matches!(result, Ok(Task::Job(_) | Task::Copy(_)))
            && let Some(unit) = target.unit_mut(head.unit)
        {
            self.drain(unit);
        }
        result
    }

    /// Give the place up.
    pub(crate) fn drain(&self, unit: &mut LogicalUnit) {
        if let Some(ticket) = self.ticket {
            unit.tasks.leave(ticket);
        }
    }

    pub(crate) fn received(&mut self, offset: u32, buffer: Buffer) {
        if self.asked && self.buffer.is_none() && offset == 0 && buffer.len() == self.length as usize {
            self.buffer = Some(buffer);
        }
    }
}
