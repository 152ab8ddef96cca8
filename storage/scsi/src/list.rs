//! Parameter lists: a bounded piece of Data-Out that is taken in whole before the command goes on.

use crate::command::{Head, Memory, Step, Task};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use core::ops::ControlFlow::{self, Break, Continue};
use storage_block::Buffer;

/// The longest parameter list that is taken, in bytes. It is also the largest block that WRITE SAME and VERIFY can take
/// as a pattern. The control memory must have buffers of this size.
pub const MAX_LIST: u32 = 4096;

/// What is done with a list that is here. `None` stands for a list of no bytes.
pub(crate) type Act = fn(&mut Target, &Head, Option<Buffer>) -> Result<Task, Refusal>;

/// A parameter list on its way.
pub(crate) struct List {
    length: u32,
    asked: bool,
    buffer: Option<Buffer>,
    act: Act,
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
        Ok(Task::List(Self { length, asked: false, buffer: None, act }))
    }

    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    /// Whether Data-Out was asked for and is not here.
    pub(crate) fn is_receiving(&self) -> bool {
        self.asked && self.buffer.is_none()
    }

    /// Ask for it, wait for it, or go on with it.
    pub(crate) fn step(
        &mut self,
        target: &mut Target,
        head: &Head,
        memory: &Memory<'_>,
    ) -> ControlFlow<Step, Result<Task, Refusal>> {
        if self.length == 0 {
            return Continue((self.act)(target, head, None));
        }
        if let Some(buffer) = self.buffer.take() {
            return Continue((self.act)(target, head, Some(buffer)));
        }
        if self.asked {
            return Break(Step::Wait);
        }
        let Some(buffer) = memory.control.take(self.length as usize) else { return Break(Step::Starved) };
        self.asked = true;
        Break(Step::Receive { offset: 0, buffer })
    }

    pub(crate) fn received(&mut self, offset: u32, buffer: Buffer) {
        if self.is_receiving() && offset == 0 && buffer.len() == self.length as usize {
            self.buffer = Some(buffer);
        }
    }
}
