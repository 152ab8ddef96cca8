//! The connections of the API are few: who waits, who does not say who it is, and who asks for nothing, must not take them all.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use kernel_runtime::Instant;

/// So many connections are left for those who do not wait, where there are more.
const LEFT: usize = 2;

/// How many connections there may be at once, and what they are taken by.
#[derive(Default)]
pub(crate) struct Slots {
    there: Cell<usize>,
    taken: Cell<usize>,
    waiting: Cell<usize>,
    /// Peers that have not shown yet who they are, by number, the one that has been silent for longest first; and the last
    /// number.
    unproved: RefCell<VecDeque<u64>>,
    last: Cell<u64>,
    /// Peers that are let in and have no request under way, by number, the one that has asked for nothing for longest first;
    /// with whom to wake when it may be in the way. No more than there are connections.
    idle: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

impl Slots {
    /// There is one more.
    pub(crate) fn add(&self) {
        self.there.set(self.there.get() + 1);
    }

    /// A peer has one, until this is dropped.
    pub(crate) fn take(&self) -> Taken<'_> {
        let taken = Taken::new(&self.taken);
        self.stir();
        taken
    }

    /// A peer has still to show who it is, until this is dropped.
    pub(crate) fn unproved(&self, now: Instant) -> Unproved<'_> {
        let number = self.number();
        self.unproved.borrow_mut().push_back(number);
        Unproved { slots: self, number, silent_since: Cell::new(now) }
    }

    /// A peer that was let in has no request under way, until this is dropped.
    pub(crate) fn idle(&self) -> Idle<'_> {
        let number = self.number();
        self.idle.borrow_mut().push_back((number, None));
        Idle { slots: self, number }
    }

    /// How many peers are idle.
    #[cfg(test)]
    pub(crate) fn idle_peers(&self) -> usize {
        self.idle.borrow().len()
    }

    fn number(&self) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        number
    }

    /// Whether the idle peer of this number is to make room: nobody else could come, and no other has been idle for longer. It
    /// goes before one that has still to show who it is: it loses nothing but a handshake, and that one may never get as far.
    fn is_in_the_way(&self, number: u64) -> bool {
        let longest = self.idle.borrow().front().map(|(number, _)| *number);
        self.are_full() && longest == Some(number)
    }

    /// Have the peer that has been idle for longest see whether it is in the way now.
    fn stir(&self) {
        if let Some(waker) = self.idle.borrow_mut().front_mut().and_then(|(_, waker)| waker.take()) {
            waker.wake();
        }
    }

    /// Whether no peer more could come now.
    pub(crate) fn are_full(&self) -> bool {
        self.taken.get() >= self.there.get()
    }

    /// Whether a peer waits for something to happen.
    pub(crate) fn is_waited_in(&self) -> bool {
        self.waiting.get() > 0
    }

    /// A peer may wait for something to happen until this is dropped; `None` when so many wait that it is to be answered
    /// at once.
    pub(crate) fn wait(&self) -> Option<Taken<'_>> {
        let most = self.there.get().saturating_sub(LEFT).max(1);
        (self.waiting.get() < most).then(|| Taken::new(&self.waiting))
    }
}

/// One of them, while it is taken.
pub(crate) struct Taken<'a>(&'a Cell<usize>);

impl<'a> Taken<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A peer that has not shown yet who it is.
pub(crate) struct Unproved<'a> {
    slots: &'a Slots,
    number: u64,
    silent_since: Cell<Instant>,
}

impl Unproved<'_> {
    /// It has said something.
    pub(crate) fn heard(&self, now: Instant) {
        self.silent_since.set(now);
        let mut unproved = self.slots.unproved.borrow_mut();
        unproved.retain(|number| *number != self.number);
        unproved.push_back(self.number);
    }

    /// When it said something last, or came.
    pub(crate) fn silent_since(&self) -> Instant {
        self.silent_since.get()
    }

    /// Whether it is to make room: it has said nothing for `least`, nobody else could come, and no other like it has been silent
    /// for longer.
    pub(crate) fn is_in_the_way(&self, now: Instant, least: Duration) -> bool {
        now >= self.silent_since.get() + least
            && self.slots.are_full()
            && self.slots.unproved.borrow().front() == Some(&self.number)
    }
}

impl Drop for Unproved<'_> {
    fn drop(&mut self) {
        self.slots.unproved.borrow_mut().retain(|number| *number != self.number);
    }
}

/// A peer that was let in and has no request under way.
pub(crate) struct Idle<'a> {
    slots: &'a Slots,
    number: u64,
}

impl Idle<'_> {
    /// Wait until it is to make room for others.
    pub(crate) async fn in_the_way(&self) {
        poll_fn(|cx| {
            if self.slots.is_in_the_way(self.number) {
                return Poll::Ready(());
            }
            let mut idle = self.slots.idle.borrow_mut();
            if let Some((_, waker)) = idle.iter_mut().find(|(number, _)| *number == self.number) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.slots.idle.borrow_mut().retain(|(number, _)| *number != self.number);
        self.slots.stir();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_leave_two_connections_for_others_and_one_may_always_wait() {
        for (there, most) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 6)] {
            let slots = Slots::default();
            (0..there).for_each(|_| slots.add());
            let mut waiting: Vec<_> = (0..most).map(|_| slots.wait().unwrap()).collect();
            assert!(slots.wait().is_none(), "{there}");
            waiting.pop();
            assert!(slots.wait().is_some(), "{there}");
        }
    }
}
