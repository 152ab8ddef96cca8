//! The sockets of a stack, each in a set of its own.
//!
//! smoltcp goes through all of a set for each frame, for each round of sending and for each look at when something is
//! due. So it is given one socket at a time: the one a frame is for, those to which something has happened, and those
//! whose time has come. What is idle costs nothing, however many there are.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use network_nic::{NEVER, Nic};
use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::socket::{AnySocket, dhcpv4};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpAddress, IpEndpoint};

/// Rounds over the sockets that have something to send, each of one frame or offloaded segment per socket.
const ROUNDS_PER_TURN: usize = 16;
/// Places to remember where flows were found last, a power of two.
const PLACES: usize = 64;
/// So many segments in one are acknowledged at once. Whoever sends waits for that when it may have no more under way, and
/// the least that the controls of congestion in use allow to be under way is no more than this.
const SEGMENTS: usize = 4;
/// How long fewer may wait for data to go along with: less than the least time after which a peer that hears nothing
/// sends again. That is four milliseconds where clocks tick in two (RFC 8985 section 7.2 as Linux has it).
const PATIENCE: Duration = Duration::from_millis(1);

/// A connection as its segments name it: the peer's address and port, and our port. Zero is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow(u64);

impl Flow {
    const NONE: Self = Self(0);

    pub(crate) fn new(peer: Ipv4Addr, peer_port: u16, port: u16) -> Self {
        Self(u64::from(u32::from(peer)) << 32 | u64::from(peer_port) << 16 | u64::from(port))
    }

    fn of(socket: &Socket<'_>) -> Self {
        if socket.state() == State::Closed {
            return Self::NONE;
        }
        match (socket.remote_endpoint(), socket.local_endpoint()) {
            (Some(IpEndpoint { addr: IpAddress::Ipv4(peer), port: peer_port }), Some(local)) => {
                Self::new(peer, peer_port, local.port)
            }
            _ => Self::NONE,
        }
    }

    /// Its place among those remembered. Peers choose their ports, so all bits take part.
    fn place(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % PLACES
    }
}

/// What has arrived at the peer, and how much more it has room for, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) number: u32,
    pub(crate) window: u16,
}

/// What a TCP segment says of where it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) flow: Flow,
    /// Our port.
    pub(crate) port: u16,
    /// It asks for a connection.
    pub(crate) opens: bool,
    /// What it acknowledges, if anything.
    pub(crate) acknowledgement: Option<Acknowledgement>,
    /// How many bytes it brings.
    pub(crate) payload: usize,
    /// Whether they are the last.
    pub(crate) ends: bool,
}

/// A socket's place; it stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

struct Slot {
    set: SocketSet<'static>,
    /// The state in which its flow was noted.
    state: State,
    /// Whether it is among the touched.
    touched: bool,
    /// When it wants to send, as far as it has been asked.
    due: Instant,
    /// The latest that took something off its send queue, and so is known to be genuine.
    acknowledged: Option<Acknowledgement>,
}

impl Slot {
    // A set of one has its socket at the first place, which is the default.
    fn tcp(&self) -> &Socket<'static> {
        self.set.get(SocketHandle::default())
    }

    fn tcp_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(SocketHandle::default())
    }

    /// Let it ask for its neighbour although it did less than a second ago. What the stack notes of that goes with the place
    /// in the set.
    fn unsilence(&mut self) {
        if let smoltcp::socket::Socket::Tcp(socket) = self.set.remove(SocketHandle::default()) {
            self.set.add(socket);
        }
    }
}

/// The sockets.
pub(crate) struct Sockets {
    slots: Vec<Slot>,
    /// The flow of each slot.
    flows: Vec<Flow>,
    /// Those to which something has happened since they were last asked what they have to send.
    touched: Vec<usize>,
    /// Nothing is due before that.
    earliest: Instant,
    /// Where flows were found last.
    recent: [u16; PLACES],
    /// Bytes in one frame that are acknowledged at once.
    prompt: usize,
    dhcp: Option<SocketSet<'static>>,
    dhcp_due: Instant,
    /// What no socket is for.
    nobody: SocketSet<'static>,
}

/// Whether it has yet to hear from its peer that it is there.
fn is_opening(state: State) -> bool {
    matches!(state, State::SynSent | State::SynReceived)
}

fn set_of<T: AnySocket<'static>>(socket: T) -> SocketSet<'static> {
    let mut set = SocketSet::new(Vec::with_capacity(1));
    set.add(socket);
    set
}

impl Sockets {
    /// No sockets, for a network that carries `segment` bytes of data in a frame.
    pub(crate) fn new(dhcp: bool, segment: usize) -> Self {
        Self {
            slots: Vec::new(),
            flows: Vec::new(),
            touched: Vec::new(),
            earliest: Instant::ZERO,
            recent: [0; PLACES],
            prompt: SEGMENTS * segment,
            dhcp: dhcp.then(|| set_of(dhcpv4::Socket::new())),
            dhcp_due: Instant::ZERO,
            nobody: SocketSet::new(Vec::new()),
        }
    }

    pub(crate) fn add(&mut self, socket: Socket<'static>) -> Place {
        let state = socket.state();
        self.slots.push(Slot { set: set_of(socket), state, touched: false, due: NEVER, acknowledged: None });
        self.flows.push(Flow::NONE);
        // Room for all, so that touching one never allocates.
        self.touched.reserve(self.slots.len() - self.touched.len());
        Place(self.slots.len() - 1)
    }

    /// A socket, to be looked at.
    pub(crate) fn get(&self, place: Place) -> &Socket<'static> {
        self.slots[place.0].tcp()
    }

    /// A socket, to be changed in a way after which it has no more to send than before.
    pub(crate) fn get_mut(&mut self, place: Place) -> &mut Socket<'static> {
        self.slots[place.0].tcp_mut()
    }

    /// Something has happened to a socket: it may have something to send.
    pub(crate) fn touch(&mut self, place: Place) {
        let slot = &mut self.slots[place.0];
        if !slot.touched {
            slot.touched = true;
            self.touched.push(place.0);
        }
    }

    /// Something has happened that may concern every socket.
    pub(crate) fn touch_all(&mut self) {
        (0..self.slots.len()).for_each(|index| self.touch(Place(index)));
        self.dhcp_due = Instant::ZERO;
        self.earliest = Instant::ZERO;
    }

    /// Let all of them end.
    pub(crate) fn close(&mut self) {
        for place in (0..self.slots.len()).map(Place) {
            self.get_mut(place).close();
            self.changed(place);
        }
    }

    /// Whether all of them have ended, and owe their peers no reset; who has only to wait for stragglers has.
    pub(crate) fn are_closed(&self) -> bool {
        self.slots.iter().all(|slot| match slot.tcp().state() {
            State::Closed => slot.tcp().remote_endpoint().is_none(),
            State::Listen | State::TimeWait => true,
            _ => false,
        })
    }

    /// The DHCP client, if there is one.
    pub(crate) fn dhcp(&mut self) -> Option<&mut dhcpv4::Socket<'static>> {
        self.dhcp.as_mut().map(|set| set.get_mut(SocketHandle::default()))
    }

    /// Whether a socket has `port` for its own.
    pub(crate) fn is_taken(&self, port: u16) -> bool {
        self.slots.iter().any(|slot| slot.tcp().local_endpoint().is_some_and(|local| local.port == port))
    }

    /// The socket a segment is for: the one of its connection, else one that waits for whoever comes.
    pub(crate) fn find(&mut self, segment: &Segment) -> Option<Place> {
        let recent = &mut self.recent[segment.flow.place()];
        if self.flows.get(usize::from(*recent)) == Some(&segment.flow) {
            return Some(Place(usize::from(*recent)));
        }
        if let Some(index) = self.flows.iter().position(|flow| *flow == segment.flow) {
            // Whatever is remembered is looked at before it is believed, so a number cut short does no harm.
            *recent = index as u16;
            return Some(Place(index));
        }
        if !segment.opens {
            return None;
        }
        let listens = |slot: &Slot| {
            let socket = slot.tcp();
            socket.state() == State::Listen && socket.listen_endpoint().port == segment.port
        };
        self.slots.iter().position(listens).map(Place)
    }

    /// A socket by itself, for the stack.
    pub(crate) fn set(&mut self, place: Place) -> &mut SocketSet<'static> {
        &mut self.slots[place.0].set
    }

    /// No socket, for the stack to look at what is for none.
    pub(crate) fn nobody(&mut self) -> &mut SocketSet<'static> {
        &mut self.nobody
    }

    /// The DHCP client by itself, for the stack to look at an answer.
    pub(crate) fn dhcp_set(&mut self) -> &mut SocketSet<'static> {
        self.dhcp_due = Instant::ZERO;
        self.earliest = Instant::ZERO;
        self.dhcp.as_mut().unwrap_or(&mut self.nobody)
    }

    /// The acknowledgement to be put in place of a segment's own, if the stack would throw its data away for that.
    pub(crate) fn later(&self, place: Place, segment: &Segment) -> Option<Acknowledgement> {
        let slot = &self.slots[place.0];
        let latest = slot.acknowledged?;
        let behind = latest.number.wrapping_sub(segment.acknowledgement?.number) as usize;
        let brings = segment.payload > 0 || segment.ends;
        (brings && behind != 0 && behind <= slot.tcp().send_capacity()).then_some(latest)
    }

    /// A socket is about to get a segment: say how soon it is to be acknowledged if nothing is sent meanwhile. The stack
    /// goes by the number of segments, but what a device has merged on the way is one to it, however long.
    pub(crate) fn expects(&mut self, place: Place, segment: &Segment) {
        let delay = if segment.payload < self.prompt { PATIENCE } else { Duration::ZERO };
        self.get_mut(place).set_ack_delay(Some(delay));
    }

    /// A socket has got a segment, before which it had `unacknowledged` bytes to send.
    pub(crate) fn received(&mut self, place: Place, segment: &Segment, unacknowledged: usize) {
        self.touch(place);
        let slot = &mut self.slots[place.0];
        let advanced = slot.tcp().send_queue() < unacknowledged;
        let number = |acknowledgement: Option<Acknowledgement>| acknowledgement.map(|known| known.number);
        if advanced || number(slot.acknowledged) == number(segment.acknowledgement) {
            slot.acknowledged = segment.acknowledgement;
        }
        self.note(place.0);
    }

    /// Keep up with a socket's beginning and ending connections.
    pub(crate) fn note(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let socket = slot.set.get::<Socket<'_>>(SocketHandle::default());
        let state = socket.state();
        if state != slot.state {
            let flow = Flow::of(socket);
            slot.state = state;
            if self.flows[index] != flow {
                self.flows[index] = flow;
                slot.acknowledged = None;
            }
        }
    }

    /// A socket was told to begin anew or to end.
    pub(crate) fn changed(&mut self, place: Place) {
        self.touch(place);
        let slot = &mut self.slots[place.0];
        slot.state = slot.tcp().state();
        let flow = Flow::of(slot.tcp());
        if self.flows[place.0] != flow {
            self.flows[place.0] = flow;
            slot.acknowledged = None;
        }
    }

    /// Whether there is anything for [`Sockets::send`] to do.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.touched.is_empty() || now >= self.earliest
    }

    /// Let the sockets send what they have. Answers whether some have more.
    pub(crate) fn send(&mut self, interface: &mut Interface, nic: &mut impl Nic, now: Instant) -> bool {
        if now >= self.earliest {
            self.wake_due(interface, nic, now);
        }
        self.put_connections_first();
        for _ in 0..ROUNDS_PER_TURN {
            let mut left = 0;
            for place in 0..self.touched.len() {
                let index = self.touched[place];
                if self.send_one(index, interface, nic, now) {
                    self.touched[left] = index;
                    left += 1;
                }
            }
            self.touched.truncate(left);
            if left == 0 {
                return false;
            }
        }
        true
    }

    /// The stack asks for one neighbour in a second. When a peer is sought who may never answer, all connections that wait
    /// for anything come before: their neighbours may be the ones that it has forgotten, and the question would be asked
    /// away each time before their own second is over.
    fn put_connections_first(&mut self) {
        if !self.touched.iter().any(|&index| is_opening(self.slots[index].state)) {
            return;
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.due != NEVER && !is_opening(slot.state) {
                slot.unsilence();
                self.touch(Place(index));
            }
        }
        let slots = &self.slots;
        self.touched.sort_unstable_by_key(|&index| is_opening(slots[index].state));
    }

    /// Let one socket send a frame. Answers whether it has another one and the NIC may take it.
    fn send_one(
        &mut self,
        index: usize,
        interface: &mut Interface,
        nic: &mut impl Nic,
        now: Instant,
    ) -> bool {
        let slot = &mut self.slots[index];
        let sent = interface.poll_egress(now, nic, &mut slot.set) != PollResult::None;
        let due = interface.poll_at(now, &slot.set).unwrap_or(NEVER);
        let again = sent && due <= now;
        slot.due = due;
        slot.touched = again;
        if !again {
            // What could not go now is due still, and tried again in the next turn.
            self.earliest = self.earliest.min(due);
        }
        self.note(index);
        again
    }

    /// Touch those whose time has come.
    fn wake_due(&mut self, interface: &mut Interface, nic: &mut impl Nic, now: Instant) {
        self.earliest = NEVER;
        if let Some(set) = &mut self.dhcp {
            if self.dhcp_due <= now {
                interface.poll_egress(now, nic, set);
                self.dhcp_due = interface.poll_at(now, set).unwrap_or(NEVER);
            }
            self.earliest = self.dhcp_due;
        }
        for index in 0..self.slots.len() {
            let due = self.slots[index].due;
            if due <= now {
                self.touch(Place(index));
            } else {
                self.earliest = self.earliest.min(due);
            }
        }
    }

    /// When [`Sockets::send`] is due; it may be that there is nothing to do yet then.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if !self.touched.is_empty() {
            return Some(Instant::ZERO);
        }
        (self.earliest != NEVER).then_some(self.earliest)
    }
}
