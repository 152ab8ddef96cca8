//! A stack on its NIC, and the two halves of a turn.

use crate::gate::Gated;
use crate::stack::{Inner, timestamp};
use crate::{Settings, Stack};
use core::cell::Cell;
use kernel_runtime::Instant;
use network_nic::Nic;
use smoltcp::iface::{PollIngressSingleResult, PollResult};

/// Frames taken in before the tasks and the other stack have their turn. A flood can make us busy, not deaf.
const FRAMES_PER_TURN: usize = 64;

/// Rounds over all sockets when sending, each of one frame or offloaded segment per socket.
const ROUNDS_PER_TURN: usize = 16;

/// A NIC with the stack that speaks on it.
pub struct Attachment<N> {
    nic: N,
    stack: Stack,
}

impl<N: Nic> Attachment<N> {
    /// Put a stack on `nic`.
    pub fn new(settings: &Settings, mut nic: N, now: Instant) -> Self {
        let stack = Stack::new(settings, &mut nic, now);
        Self { nic, stack }
    }

    /// The stack, to make streams from.
    pub fn stack(&self) -> Stack {
        self.stack.clone()
    }

    /// Counters of the NIC.
    pub fn counters(&self) -> network_nic::Counters {
        self.nic.counters()
    }

    /// Take in what has arrived, boundedly. Answers whether anything had.
    pub fn receive(&mut self, now: Instant) -> bool {
        let mut inner = self.stack.0.borrow_mut();
        let Inner { interface, sockets, rules, refused, backlog, .. } = &mut *inner;
        backlog.refresh(now, sockets);
        let full = Cell::new(backlog.full());
        let opening = Cell::new(None);
        let mut gated =
            Gated { device: &mut self.nic, rules: *rules, refused, opening: &opening, full: &full };
        interface.poll_maintenance(timestamp(now));
        let mut frames = 0;
        while frames < FRAMES_PER_TURN
            && interface.poll_ingress_single(timestamp(now), &mut gated, sockets)
                != PollIngressSingleResult::None
        {
            frames += 1;
            if let Some(port) = opening.take() {
                backlog.opened(port, now, sockets);
                full.set(backlog.full());
            }
        }
        if frames > 0 {
            inner.follow_dhcp();
        }
        frames > 0
    }

    /// Send what the sockets have to send, and tell the device once. Answers whether more may wait.
    pub fn transmit(&mut self, now: Instant) -> bool {
        let mut inner = self.stack.0.borrow_mut();
        let Inner { interface, sockets, .. } = &mut *inner;
        let now = timestamp(now);
        let mut rounds = 0;
        while rounds < ROUNDS_PER_TURN
            && interface.poll_egress(now, &mut self.nic, sockets) != PollResult::None
        {
            rounds += 1;
        }
        self.nic.flush();
        rounds == ROUNDS_PER_TURN
    }

    /// When [`Attachment::transmit`] is due even if nothing arrives: `None` for never.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let mut inner = self.stack.0.borrow_mut();
        let Inner { interface, sockets, .. } = &mut *inner;
        let at = interface.poll_at(timestamp(now), sockets)?;
        Some(Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)).max(now))
    }

    /// Ask the NIC for a wake-up at the next frame; `true` when one is there already.
    pub fn arm(&mut self) -> bool {
        self.nic.arm()
    }

    /// The NIC itself, for a ground that waits on it.
    pub fn nic(&self) -> &N {
        &self.nic
    }
}
