//! One connection of a driver as whoever carries its bytes sees it, and its timer.

use super::{LEAST_SLEEP, LONGEST_SLEEP};
use crate::carrier::{Engine, Lost};
use crate::shared::Shared;
use crate::straight::Straight;
use alloc::format;
use alloc::string::ToString;
use core::future::Future;
use core::pin::Pin;
use core::task::Context;
use kernel_runtime::{Clock, Instant, Sleep};
use storage_driver::{Driver, End};

/// The time of what is due next, which almost always moves on before it comes: so a timer that waits for less is left to
/// go off in vain, some time, rather than be set anew in each turn.
pub(super) struct Alarm {
    sleep: Sleep,
    at: Instant,
}

impl Alarm {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { sleep: clock.sleep_until(Instant::ZERO), at: Instant::ZERO }
    }

    /// Whether it is time to look at what is due at `due`; otherwise the task of `cx` is woken when it is.
    pub(super) fn rings(&mut self, cx: &mut Context<'_>, now: Instant, due: Option<Instant>) -> bool {
        // What is due and cannot be done yet must not keep the machine busy.
        let due = due.unwrap_or(now + LONGEST_SLEEP).max(now + LEAST_SLEEP);
        if self.at <= now || due < self.at {
            self.at = due;
            self.sleep.reset(due);
            return Pin::new(&mut self.sleep).poll(cx).is_ready();
        }
        // The timer is set already, and has the waker of the one task that ever asks.
        false
    }
}

/// One connection of a driver, at one time.
pub(super) struct Line<'a> {
    pub(super) driver: &'a mut Driver,
    pub(super) path: usize,
    pub(super) now: Instant,
    pub(super) shared: &'a Shared,
}

impl Engine for Line<'_> {
    fn space(&mut self) -> &mut [u8] {
        self.driver.space(self.path)
    }

    fn received(&mut self, count: usize) -> Result<(), Lost> {
        let received = self.driver.received(self.path, self.now, count);
        received.map_err(|end| lost(self.driver, self.path, end))
    }

    fn may_transmit(&self) -> bool {
        self.driver.may_transmit(self.path)
    }

    fn poll_transmit(&mut self) -> Option<&[u8]> {
        self.driver.poll_transmit(self.path)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, Lost> {
        let mut straight = Straight { shared: self.shared, now: self.now };
        let taken = self.driver.take(self.path, self.now, bytes, &mut straight);
        taken.map_err(|end| lost(self.driver, self.path, end))
    }

    fn fill(&mut self, room: &mut [u8]) -> Result<usize, Lost> {
        let filled = self.driver.fill(self.path, self.now, room);
        filled.map_err(|end| lost(self.driver, self.path, end))
    }

    fn transmitted(&mut self, count: usize) -> Result<(), Lost> {
        let transmitted = self.driver.transmitted(self.path, self.now, count);
        transmitted.map_err(|end| lost(self.driver, self.path, end))
    }

    fn wants_tls(&self) -> bool {
        self.driver.wants_tls(self.path)
    }

    fn tls_established(&mut self) {
        self.driver.tls_established(self.path, self.now);
    }
}

/// Why a connection is over, with what the server had to say.
pub(super) fn lost(driver: &Driver, path: usize, end: End) -> Lost {
    let reason = match driver.remark(path) {
        "" => end.to_string(),
        remark => format!("{end} (\"{remark}\")"),
    };
    let is_another_disk = end.is_another_disk();
    // It was sent, and is not to be lost in a reset.
    let says_farewell = matches!(end, End::Farewell | End::Renewal | End::ShutDown);
    Lost { retry: end.retry(), is_another_disk, says_farewell, ..Lost::soon(reason) }
}
