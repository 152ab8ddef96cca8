//! A stack on its NIC, and the two halves of a turn.

use crate::gate::{Arrival, Single};
use crate::sockets::{Place, Segment};
use crate::stack::{Inner, timestamp};
use crate::{Settings, Stack, late};
use core::time::Duration;
use kernel_runtime::Instant;
use network_nic::{NEVER, Nic, RxToken, TxToken};
use smoltcp::iface::{Interface, SocketSet};

/// Frames taken in before the tasks and the other stack have their turn. A flood can make us busy, not deaf.
const FRAMES_PER_TURN: usize = 64;

/// From one try to send to the next by a NIC that takes no frames.
const LOOK: Duration = Duration::from_millis(10);

/// A NIC with the stack that speaks on it.
pub struct Attachment<N> {
    nic: N,
    stack: Stack,
    /// Whether the device has been given something since it was last told.
    given: bool,
}

impl<N: Nic> Attachment<N> {
    /// Put a stack on `nic`.
    pub fn new(settings: &Settings, mut nic: N, now: Instant) -> Self {
        let stack = Stack::new(settings, &mut nic, now);
        Self { nic, stack, given: true }
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
        if !self.nic.waits() {
            return false;
        }
        // Buffers go back to it with whatever is received, and answers may.
        self.given = true;
        let mut inner = self.stack.0.borrow_mut();
        let Inner { sockets, backlog, .. } = &mut *inner;
        backlog.refresh(now, sockets);
        let mut frames = 0;
        while frames < FRAMES_PER_TURN
            && self.nic.waits()
            && let Some((token, reply)) = self.nic.receive(timestamp(now))
        {
            token.consume(|frame| inner.take_in(frame, reply, now));
            frames += 1;
        }
        frames > 0
    }

    /// Send what the sockets have to send, and tell the device once. Answers whether more may wait.
    pub fn transmit(&mut self, now: Instant) -> bool {
        let mut inner = self.stack.0.borrow_mut();
        let Inner { interface, sockets, .. } = &mut *inner;
        let is_due = sockets.is_due(timestamp(now));
        let more = is_due && sockets.send(interface, &mut self.nic, timestamp(now));
        if is_due {
            inner.follow_dhcp();
        }
        if core::mem::take(&mut self.given) | is_due {
            self.nic.flush();
        }
        more
    }

    /// When [`Attachment::transmit`] is due even if nothing arrives: `None` for never. It may turn out that nothing is to
    /// be done then.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let mut at = self.stack.0.borrow().sockets.next_deadline().unwrap_or(NEVER);
        if let Some(until) = self.nic.rests_until() {
            // What waits to be sent is due all the time. Connections run out of time meanwhile too.
            at = at.max(timestamp(now + LOOK)).min(until);
        }
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        (at != NEVER).then(|| Instant::from_micros(micros).max(now))
    }

    /// Ask the NIC for a wake-up at the next frame; `true` when one is there already.
    pub fn arm(&mut self) -> bool {
        self.nic.arm()
    }

    /// Whether all that was sent has left the NIC.
    pub fn has_sent(&mut self) -> bool {
        self.nic.has_sent()
    }

    /// The NIC without its stack, which hears nothing from then on.
    pub fn into_nic(self) -> N {
        self.nic
    }

    /// The NIC itself, for a ground that waits on it.
    pub fn nic(&self) -> &N {
        &self.nic
    }
}

impl Inner {
    /// Show a frame to the socket it is for, if it may be seen at all. An answer that cannot wait goes out by `reply`.
    fn take_in(&mut self, frame: &[u8], reply: impl TxToken, now: Instant) {
        let Self { interface, sockets, rules, refused, backlog, .. } = self;
        let Some(arrival) = rules.admit(frame) else {
            *refused += 1;
            return;
        };
        match arrival {
            Arrival::Segment(segment) => {
                if segment.opens && backlog.full() == Some(segment.port) {
                    *refused += 1;
                    return;
                }
                match sockets.find(&segment) {
                    Some(place) => self.take_segment(place, &segment, frame, reply, now),
                    None => show(interface, sockets.nobody(), frame, reply, now),
                }
                if segment.opens {
                    self.backlog.opened(segment.port, now, &mut self.sockets);
                }
            }
            Arrival::DhcpAnswer => {
                show(interface, sockets.dhcp_set(), frame, reply, now);
                self.follow_dhcp();
            }
            Arrival::Neighbour => {
                show(interface, sockets.nobody(), frame, reply, now);
                // Some may have waited for its address.
                sockets.touch_all();
            }
            Arrival::Other => show(interface, sockets.nobody(), frame, reply, now),
        }
    }

    fn take_segment(
        &mut self,
        place: Place,
        segment: &Segment,
        frame: &[u8],
        reply: impl TxToken,
        now: Instant,
    ) {
        let Self { interface, sockets, .. } = self;
        let unacknowledged = sockets.get(place).send_queue();
        sockets.expects(place, segment);
        let renewed = sockets.later(place, segment).and_then(|latest| late::renewed(frame, latest));
        show(interface, sockets.set(place), renewed.as_deref().unwrap_or(frame), reply, now);
        sockets.received(place, segment, unacknowledged);
    }
}

/// Let the stack look at a frame, and at nothing but `set`.
fn show(
    interface: &mut Interface,
    set: &mut SocketSet<'static>,
    frame: &[u8],
    reply: impl TxToken,
    now: Instant,
) {
    interface.poll_ingress_single(timestamp(now), &mut Single::new(frame, reply), set);
}
