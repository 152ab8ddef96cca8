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

/// The earlier of two moments, of which there may be none.
pub const fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) if other.0 < one.0 => Some(other),
        (Some(one), _) => Some(one),
        (None, other) => other,
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

    /// Let a slot be something else that waits for nothing.
    fn set(&self, index: usize, slot: Slot) {
        let before = core::mem::replace(&mut self.0.slots.borrow_mut()[index], slot).deadline();
        self.note(before, None);
    }

    /// Keep up with a slot that waited for `before`, and waits for `after` from now on.
    fn note(&self, before: Option<Instant>, after: Option<Instant>) {
        let earliest = self.0.earliest.get();
        if let Some(after) = after
            && earliest.is_none_or(|earliest| after <= earliest)
        {
            self.0.earliest.set(Some(after));
        } else if before.is_some() && before == earliest {
            self.0.stale.set(true);
        }
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
    /// Wait for another moment instead, from the next poll on.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
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
        let before = match &mut self.clock.0.slots.borrow_mut()[slot] {
            Slot::Waiting(at, waker) if waker.will_wake(cx.waker()) => Some(core::mem::replace(at, deadline)),
            other => {
                let before = other.deadline();
                *other = Slot::Waiting(deadline, cx.waker().clone());
                before
            }
        };
        if before != Some(deadline) {
            self.clock.note(before, Some(deadline));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    /// Whatever sleepers do, what is next due is what looking through all of them says.
    #[test]
    fn the_next_deadline_is_that_of_the_sleeper_that_wakes_first() {
        let clock = Clock::new(Profile::off());
        let mut cx = Context::from_waker(Waker::noop());
        let mut sleepers: Vec<(Sleep, Option<Instant>)> = Vec::new();
        let mut random = 7_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for _ in 0..20_000 {
            let deadline = Instant::from_micros(clock.now().as_micros() + below(50));
            let index = below(8) as usize;
            match below(6) {
                0 if sleepers.len() < 8 => sleepers.push((clock.sleep_until(deadline), None)),
                1 if index < sleepers.len() => drop(sleepers.swap_remove(index)),
                2 => {
                    clock.advance(deadline);
                    for (_, waits) in &mut sleepers {
                        *waits = waits.filter(|waits| *waits > deadline);
                    }
                }
                _ => {
                    let Some((sleep, waits)) = sleepers.get_mut(index) else { continue };
                    if below(2) == 0 {
                        sleep.reset(deadline);
                    }
                    let until = sleep.deadline;
                    if pin!(sleep).poll(&mut cx).is_pending() {
                        *waits = Some(until);
                    }
                }
            }
            assert_eq!(clock.next_deadline(), sleepers.iter().filter_map(|(_, waits)| *waits).min());
        }
    }
}
