//! Slots that wait for a peer, and what peers that never come may take of them.
//!
//! A SYN takes a listening slot until its handshake ends. If its source is forged that never happens, and a handful of
//! such SYNs would keep everybody out for as long as a silent peer is borne with. So a port is never left without a
//! listening slot while some are half open: the oldest of these listens again. A peer that is there ends its
//! handshake within a round trip, long before its slot has become the oldest one of a flood it can withstand.

use alloc::vec::Vec;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};

/// The slots of one stack that accept peers.
#[derive(Default)]
pub(crate) struct Backlog {
    slots: Vec<Slot>,
    /// Counts the SYNs, to tell older from younger.
    arrivals: u64,
}

struct Slot {
    handle: SocketHandle,
    port: u16,
    /// Which SYN made it half open.
    arrival: Option<u64>,
}

impl Backlog {
    /// The slot of `handle` accepts peers on `port` from now on.
    pub(crate) fn add(&mut self, handle: SocketHandle, port: u16) {
        self.remove(handle);
        self.slots.push(Slot { handle, port, arrival: None });
    }

    /// The slot of `handle` accepts nobody any more.
    pub(crate) fn remove(&mut self, handle: SocketHandle) {
        self.slots.retain(|slot| slot.handle != handle);
    }

    /// A SYN for `port` came in. If it took the last slot that listened there, the oldest half-open one is given up.
    pub(crate) fn opened(&mut self, port: u16, sockets: &mut SocketSet<'_>) {
        self.arrivals += 1;
        let mut oldest: Option<(u64, SocketHandle)> = None;
        for slot in self.slots.iter_mut().filter(|slot| slot.port == port) {
            match sockets.get::<Socket<'_>>(slot.handle).state() {
                State::Listen => return,
                State::SynReceived => {
                    let arrival = *slot.arrival.get_or_insert(self.arrivals);
                    // Not the one that this very SYN has opened.
                    let is_older = oldest.is_none_or(|(earliest, _)| arrival < earliest);
                    if is_older && arrival != self.arrivals {
                        oldest = Some((arrival, slot.handle));
                    }
                }
                _ => slot.arrival = None,
            }
        }
        let Some((_, handle)) = oldest else { return };
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        socket.abort();
        // Fails only for port zero and for an open socket, and this one was just closed.
        let _ = socket.listen(port);
        for slot in self.slots.iter_mut().filter(|slot| slot.handle == handle) {
            slot.arrival = None;
        }
    }
}
