//! The connections of the API are few: who waits, and who does not say who it is, must not take them all.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

/// So many connections are left for those who do not wait, where there are more.
const LEFT: usize = 2;

/// How many connections there may be at once, and what they are taken by.
#[derive(Default)]
pub(crate) struct Slots {
    there: Cell<usize>,
    taken: Cell<usize>,
    waiting: Cell<usize>,
    /// Peers that have not shown yet who they are, by number, the one that has been there for longest first; and the last
    /// number.
    unproved: RefCell<VecDeque<u64>>,
    last: Cell<u64>,
}

impl Slots {
    /// There is one more.
    pub(crate) fn add(&self) {
        self.there.set(self.there.get() + 1);
    }

    /// A peer has one, until this is dropped.
    pub(crate) fn take(&self) -> Taken<'_> {
        Taken::new(&self.taken)
    }

    /// A peer has still to show who it is, until this is dropped.
    pub(crate) fn unproved(&self) -> Unproved<'_> {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.unproved.borrow_mut().push_back(number);
        Unproved { slots: self, number }
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
}

impl Unproved<'_> {
    /// Whether it is to make room: nobody else could come, and no other like it has been there for longer.
    pub(crate) fn is_in_the_way(&self) -> bool {
        self.slots.are_full() && self.slots.unproved.borrow().front() == Some(&self.number)
    }
}

impl Drop for Unproved<'_> {
    fn drop(&mut self) {
        self.slots.unproved.borrow_mut().retain(|number| *number != self.number);
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
