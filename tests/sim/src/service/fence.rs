//! Claims to be the only writer, and what becomes of those that came before.

use super::Service;
use crate::bug::Bug;
use crate::history::History;
use kernel_runtime::Instant;
use storage_nbd::testing::{Admission, Shape};

impl Service {
    /// Judge the claims that are due.
    pub(super) fn judge_claims(&mut self, now: Instant, history: &mut History) -> bool {
        let mut moved = false;
        for place in 0..self.live.len() {
            let live = &mut self.live[place];
            let Some(fence) = live.session.fence_request().filter(|_| live.is_connected) else { continue };
            let fence = fence.clone();
            let due = *live.claim_due.get_or_insert_with(|| {
                // A service that is stuck drains nothing.
                self.troubles.stuck_until.max(now)
            });
            if due > now {
                continue;
            }
            moved = true;
            live.claim_due = None;
            let admission = self.lease.admit(&fence);
            let id = live.id;
            log::debug!("service {}: {admission:?}: {fence:?}", self.unit);
            if admission != Admission::Refused && self.bug != Some(Bug::FenceWithoutDrain) {
                self.cut(now, id, |other| fence.cuts(admission, other), history);
            }
            if let Some(live) = self.live.iter_mut().find(|live| live.id == id) {
                live.session.fence(admission != Admission::Refused);
                self.signals[live.stream].raise();
            }
        }
        moved
    }

    /// Be done with what came by all other connections that are meant.
    fn cut(
        &mut self,
        now: Instant,
        id: u64,
        is_meant: impl Fn(Option<&storage_nbd::testing::Fence>) -> bool,
        history: &mut History,
    ) {
        for place in 0..self.live.len() {
            if self.live[place].id == id || !is_meant(self.live[place].session.claim()) {
                continue;
            }
            // What is not executed is refused.
            while !self.live[place].times.is_empty() && self.random.chance(700) {
                self.execute(now, place, 0, Shape::Plain, history);
            }
            let live = &mut self.live[place];
            live.session.cut();
            live.times.clear();
            self.signals[live.stream].raise();
        }
    }

    /// Execute what came by a connection, or throw it away.
    pub(super) fn drain(&mut self, now: Instant, place: usize, history: &mut History) {
        while !self.live[place].times.is_empty() {
            let shape = if self.random.chance(500) { Shape::Plain } else { Shape::Dropped };
            self.execute(now, place, 0, shape, history);
        }
    }
}
