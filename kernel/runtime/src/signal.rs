//! A flag that one task raises and another waits for.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

/// A flag with one waiter. Raising it twice before the waiter looks is the same as raising it once.
#[derive(Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// A lowered flag.
    pub const fn new() -> Self {
        Self { raised: Cell::new(false), waiter: RefCell::new(None) }
    }

    /// Raise the flag and wake its waiter.
    pub fn raise(&self) {
        self.raised.set(true);
        if let Some(waiter) = self.waiter.borrow_mut().take() {
            waiter.wake();
        }
    }

    /// Lower the flag; ready when it was up. Otherwise the task of `cx` is woken when it is raised.
    pub fn poll_lower(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        if !waiter.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiter = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wait until the flag is up, and lower it.
    pub async fn wait(&self) {
        poll_fn(|cx| self.poll_lower(cx)).await;
    }
}
