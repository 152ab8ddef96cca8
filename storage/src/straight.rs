//! One step: what a storage service sends for a READ goes from the memory of its connection to that of the initiator's.
//!
//! The task of a disk's connection finds the data in its socket, and the engines on the way, from NBD's to iSCSI's, say
//! whether it may go on at once; then it is copied from the one socket to the other, behind a header, and the command has
//! ended with its last byte. Nobody has to be woken for that. Whatever stands against it (no room, something else to be
//! said first, digests, a session whose task is at work, a command that was aborted) leaves all as it was: the data goes
//! into the request's buffer, and from there by the way of all others.

use crate::mailbox::CommandIndex;
use crate::portal::Serving;
use crate::shared::{Shared, State};
use alloc::boxed::Box;
use core::cell::Cell;
use kernel_runtime::Instant;
use storage_block::{Arrived, Delivery, Recipient};
use storage_iscsi::Task;

/// The session of a connection, for whoever has something for it while its task is not at work.
#[derive(Default)]
pub(crate) struct Seat(Cell<Option<Box<Serving>>>);

impl Seat {
    /// Do something with who sits there.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Serving) -> T) -> Option<T> {
        let mut serving = self.0.take()?;
        let result = f(&mut serving);
        self.0.set(Some(serving));
        Some(result)
    }

    /// Let a session sit there.
    pub(crate) fn fill(&self, serving: Box<Serving>) {
        self.0.set(Some(serving));
    }

    /// Let who sits there go.
    pub(crate) fn vacate(&self) -> Option<Box<Serving>> {
        self.0.take()
    }
}

/// Whoever reads of a disk are for.
pub(crate) struct Straight<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) now: Instant,
}

impl Recipient for Straight<'_> {
    fn deliver(&mut self, cookie: u64, arrived: &Arrived<'_>) -> Delivery {
        const NONE: Delivery = Delivery::Used(0);
        let index = (cookie >> 32) as CommandIndex;
        let state = &mut *self.shared.state.borrow_mut();
        let Some(owner) = state.commands.get(index).and_then(|running| running.owner) else { return NONE };
        let part = cookie & u64::from(u32::MAX);
        let deliver =
            |serving: &mut Serving| serving.deliver(state, (index, owner.task, part), arrived, self.now);
        self.shared.seats[owner.connection].with(deliver).unwrap_or(NONE)
    }
}

impl Serving {
    /// Bytes of a request of a command of this session have arrived.
    fn deliver(
        &mut self,
        state: &mut State,
        (index, task, part): (CommandIndex, Task, u64),
        arrived: &Arrived<'_>,
        now: Instant,
    ) -> Delivery {
        let State { registry, commands, .. } = &mut *state;
        let Some(running) = commands.get_mut(index) else { return Delivery::Used(0) };
        let (target, unit) = (running.target, running.command.unit());
        let Some(device) = registry.device_mut(target) else { return Delivery::Used(0) };
        let Self { connection, stream, .. } = self;
        let send = |offset, length, ends| {
            let Some(passage) = connection.pass(task, offset, length, stream.room(), ends) else { return 0 };
            let length = passage.length as usize;
            let had = &arrived.had[..arrived.had.len().min(length)];
            let come = &arrived.come[..length - had.len()];
            let written = stream.try_write_all([&passage.header, had, come, &[0; 3][..passage.padding]]);
            // There is room; and that the connection is gone its task will find by itself.
            debug_assert!(written != Ok(false), "there was room a moment ago");
            passage.length
        };
        let delivery = running.command.deliver(device, part, arrived, send);
        if delivery == Delivery::Used(0) {
            return delivery;
        }
        self.shared.turns.happens();
        if let Some(stalled) = &mut self.stalled {
            stalled.quiet = now;
        }
        if delivery == Delivery::Ended {
            self.path.set_now(now);
            self.path.ended(state, (index, task), (target, unit));
            if self.is_blocked {
                self.shared.mailboxes[self.path.index()].nudge();
            }
        }
        delivery
    }
}
