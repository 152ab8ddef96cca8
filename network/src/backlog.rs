//! Slots that wait for a peer, and what peers that never come may take of them.
//!
//! A SYN takes a listening slot until its handshake ends. If its source is forged that never happens, and a handful of
//! such SYNs would keep everybody out for as long as a silent peer is borne with. So when a SYN has taken the last
//! listening slot of a port, the oldest half-open one listens again, unless it is so young that its peer may still
//! answer. Until one is old enough further SYNs are not heard: their senders ask again after a second, where a refusal
//! would have been the last word.

use crate::sockets::{Place, Sockets};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
use smoltcp::socket::tcp::State;

/// How long a half-open slot is safe. Within it the handshakes of all peers nearby end, on a busy host too.
const GRACE: Duration = Duration::from_millis(10);

/// The slots of one stack that accept peers.
#[derive(Default)]
pub(crate) struct Backlog {
    slots: Vec<Slot>,
    /// A port whose slots are taken or half open, and these young.
    full: Option<u16>,
}

struct Slot {
    place: Place,
    port: u16,
    /// When a SYN made it half open.
    since: Option<Instant>,
}

impl Backlog {
    /// The slot at `place` accepts peers on `port` from now on.
    pub(crate) fn add(&mut self, place: Place, port: u16) {
        self.remove(place);
        self.slots.push(Slot { place, port, since: None });
    }

    /// The slot at `place` accepts nobody any more.
    pub(crate) fn remove(&mut self, place: Place) {
        self.slots.retain(|slot| slot.place != place);
    }

    /// The port for which no SYN is to be heard at the moment.
    pub(crate) fn full(&self) -> Option<u16> {
        self.full
    }

    /// A SYN for `port` came in.
    pub(crate) fn opened(&mut self, port: u16, now: Instant, sockets: &mut Sockets) {
        self.full = self.make_room(port, now, sockets);
    }

    /// Time has passed, or slots have changed: see whether a port is still full.
    pub(crate) fn refresh(&mut self, now: Instant, sockets: &mut Sockets) {
        if let Some(port) = self.full {
            self.full = self.make_room(port, now, sockets);
        }
    }

    /// See to it that a slot listens on `port`; answers the port if that must wait.
    fn make_room(&mut self, port: u16, now: Instant, sockets: &mut Sockets) -> Option<u16> {
        let mut oldest: Option<(Instant, usize)> = None;
        let mut listens = false;
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.port == port) {
            match sockets.get(slot.place).state() {
                State::SynReceived => {
                    let since = *slot.since.get_or_insert(now);
                    if oldest.is_none_or(|(earliest, _)| since < earliest) {
                        oldest = Some((since, index));
                    }
                }
                state => {
                    slot.since = None;
                    listens |= state == State::Listen;
                }
            }
        }
        let (since, index) = oldest.filter(|_| !listens)?;
        if now < since + GRACE {
            return Some(port);
        }
        let slot = &mut self.slots[index];
        slot.since = None;
        let socket = sockets.get_mut(slot.place);
        socket.abort();
        // Fails only for port zero and for an open socket, and this one was just closed.
        let _ = socket.listen(port);
        sockets.changed(slot.place);
        None
    }
}
