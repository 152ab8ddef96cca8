//! Time as the tasks see it.

use crate::Profile;
use alloc::{rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::ops::{Add, Sub};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

/// A moment, in microseconds since the machine started. It never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment the machine started.
    pub const ZERO: Self = Self(0);

    /// The moment `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`, zero when that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// The time of the current poll, the timers that wait for a later one, and where the time goes. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Rc<Timers>);

struct Timers {
    now: Cell<Instant>,
    profile: Profile,
    /// One slot per sleeper, reused; few enough that a scan beats a heap and needs no allocation.
    slots: RefCell<Vec<Slot>>,
    /// No timer waits for less, so that until then nobody looks through them.
    earliest: Cell<Option<Instant>>,
    /// Whether the timer that waited for that may have gone.
    stale: Cell<bool>,
}

enum Slot {
    Free,
    /// Owned by a [`Sleep`] whose time has come, or that is about to register.
    Fired,
    Waiting(Instant, Waker),
}

impl Slot {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Waiting(deadline, _) => Some(*deadline),
            Self::Free | Self::Fired => None,
        }
    }
}

impl Clock {
    pub(crate) fn new(profile: Profile) -> Self {
        let slots = RefCell::new(Vec::with_capacity(64));
        let (earliest, stale) = (Cell::new(None), Cell::new(false));
        Self(Rc::new(Timers { now: Cell::new(Instant::ZERO), profile, slots, earliest, stale }))
    }

    /// Where the cycles go.
    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    /// The time of the current poll.
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// Wait until `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { clock: self.clone(), deadline, slot: None }
    }

    /// Wait for `duration` from now.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Move to `now`, unless that would be back, and wake who waited for it.
    pub(crate) fn advance(&self, now: Instant) {
        self.0.now.set(self.now().max(now));
        if self.0.earliest.get().is_none_or(|earliest| now < earliest) {
            return;
        }
        for slot in self.0.slots.borrow_mut().iter_mut() {
            if let Slot::Waiting(deadline, waker) = slot
                && *deadline <= now
            {
                waker.wake_by_ref();
                *slot = Slot::Fired;
            }
        }
        self.look();
    }

    /// See what waits for what.
    fn look(&self) {
        let slots = self.0.slots.borrow();
        self.0.earliest.set(slots.iter().filter_map(Slot::deadline).min());
        self.0.stale.set(false);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.0.stale.get() {
            self.look();
        }
        self.0.earliest.get()
    }

    /// Let a slot be something else.
    fn set(&self, index: usize, slot: Slot) {
        let after = slot.deadline();
        let before = core::mem::replace(&mut self.0.slots.borrow_mut()[index], slot).deadline();
        let earliest = self.0.earliest.get();
        if before.is_some() && before == earliest && after != before {
            self.0.stale.set(true);
        }
        self.0.earliest.set(earliest.into_iter().chain(after).min());
    }

    fn claim(&self) -> usize {
        let mut slots = self.0.slots.borrow_mut();
        if let Some(index) = slots.iter().position(|slot| matches!(slot, Slot::Free)) {
            slots[index] = Slot::Fired;
            return index;
        }
        slots.push(Slot::Fired);
        slots.len() - 1
    }
}

/// The future of [`Clock::sleep`].
pub struct Sleep {
    clock: Clock,
    deadline: Instant,
    slot: Option<usize>,
}

impl Sleep {
    /// Wait for another moment instead.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if let Some(slot) = self.slot {
            self.clock.set(slot, Slot::Fired);
        }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let slot = match self.slot {
            Some(slot) => slot,
            None => {
                let slot = self.clock.claim();
                self.slot = Some(slot);
                slot
            }
        };
        let deadline = self.deadline;
        let waits = matches!(&self.clock.0.slots.borrow()[slot],
            Slot::Waiting(at, waker) if *at == deadline && waker.will_wake(cx.waker()));
        if !waits {
            self.clock.set(slot, Slot::Waiting(deadline, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.clock.set(slot, Slot::Free);
        }
    }
}

/// The error of [`with_deadline`]: the time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout;

/// Run `future` until it is done or `deadline` has come, whichever is first.
pub async fn with_deadline<F: Future>(
    clock: &Clock,
    deadline: Instant,
    future: F,
) -> Result<F::Output, Timeout> {
    let mut future = core::pin::pin!(future);
    let mut sleep = core::pin::pin!(clock.sleep_until(deadline));
    core::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Timeout))
    })
    .await
}
