//! Xen's NIC, as a frontend has it (`io/netif.h`): two rings, pages that are granted for as long as a request is under way.
//!
//! A received frame is looked at when its page is granted no longer, so what was looked at cannot change. A frame in several pages is copied
//! together: the stack wants it in one piece.
//!
//! A backend that breaks the contract has the connection closed and made again; what was under way is lost, as on a wire. Nobody waits for
//! it meanwhile: each step is taken when the backend has taken its own, of which the store tells. One that has gone may come back.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use super::bus::{Bus, CLOSED, CLOSING, CONNECTED, Frontend, INITIALISING, WAITS};
use super::grants::Access;
use super::ring::{Lie, SIZE};
use crate::nic::{ETHERNET, USUAL_MTU, station, tagged};
use crate::resets::Resets;
use crate::{Error, Location, RxToken, TxToken};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use kernel_io::Patience;
use kernel_io::xen::Event;
use network_nic::{
    Checksum, Counters, DeviceCapabilities, Instant, Medium, NEVER, Nic, SegmentationCapabilities,
};
use receive::Receive;
pub use receive::Rx;
use transmit::Transmit;
pub use transmit::Tx;

/// The MTU that tools give a NIC of Xen's unless told otherwise, and the longest frame.
const MTU: usize = USUAL_MTU;
const LONGEST: usize = tagged(MTU);

/// How long both sides may take at boot until the backend waits for what we have to say, in microseconds, and to close in the end. Miri
/// takes its time for each.
const STEPS_TIME: u32 = if cfg!(miri) { 2_000 } else { 5_000_000 };
/// From one look at a backend's state that was none of interest to the next: each asks the store.
const LOOK: Duration = Duration::from_millis(10);

/// How far both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// We have said that we close, and then that we have; the backend has not.
    Closing,
    Closed,
    /// Closed, and to be connected again then.
    Resting {
        until: Instant,
    },
    /// Closed, and to be connected again when the backend waits for somebody, but not before.
    Gone {
        until: Instant,
    },
    /// We have said that we begin, and then what there is; the backend has not.
    Beginning,
    Connecting,
    /// It does not come back. What it had stays lost.
    Dead,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The backend has written what cannot be.
    Lie(Lie),
    /// It has closed its side.
    Gone,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lie(lie) => write!(f, "the backend broke the contract ({lie:?})"),
            Self::Gone => f.write_str("the backend has closed it"),
        }
    }
}

/// A network device of Xen's.
pub struct Netfront {
    number: u32,
    frontend: Frontend,
    /// How the backend is told, as long as there is a connection.
    port: Option<u32>,
    /// The entries of the grant table for the rings.
    rings: Vec<u16>,
    receive: Receive,
    transmit: Transmit,
    mac: [u8; 6],
    state: State,
    /// What comes when it is closed.
    next: State,
    resets: Resets,
    /// When the backend's state is looked at again at the earliest.
    look: Instant,
    /// Bytes for frames to be sent, as long as it is not known how long they may be.
    memory: Option<usize>,
    counters: Counters,
}

impl Netfront {
    /// Bring one up, with buffers of at most `memory` bytes. A backend that takes its time to connect may do so later.
    ///
    /// # Errors
    /// See [`Error`]; what the backend was given stays lost then, if it does not give it back.
    pub(super) fn new(bus: &Rc<Bus>, number: u32, memory: usize) -> Result<Self, Error> {
        let frontend = Frontend::new(bus, format!("device/vif/{number}"))?;
        let mac = frontend.own("mac")?.and_then(|mac| parse(&mac));
        let mac = station(mac.ok_or(Error::Layout("its address"))?)?;
        let mut receive = Receive::new(bus, frontend.domain, memory / 2)?;
        let mut transmit = Transmit::new(bus, frontend.domain)?;
        // All or none.
        let mut rings = bus.grants.take(2 + receive.needs() + SIZE as usize)?;
        transmit.entries = rings.split_off(2 + receive.needs());
        receive.entries = rings.split_off(2);
        let mut nic = Self {
            number,
            frontend,
            port: None,
            rings,
            receive,
            transmit,
            mac,
            state: State::Beginning,
            next: State::Dead,
            resets: Resets::NONE,
            look: Instant::ZERO,
            memory: Some(memory - memory / 2),
            counters: Counters::default(),
        };
        if matches!(nic.frontend.state()?, CONNECTED | CLOSING | CLOSED) {
            // Somebody was here before us, firmware for example.
            nic.close(State::Resting { until: Instant::ZERO });
        }
        if let Err(error) = nic.drive(|state| state == State::Up)
            && nic.state != State::Connecting
        {
            return Err(error);
        }
        let [a, b, c, d, e, f] = nic.mac;
        log::info!(
            "{}: netfront {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {MTU}, receives {}, sends {}{}",
            nic.location(),
            nic.receive,
            nic.transmit,
            if nic.is_connected() { "" } else { "; the backend has not connected yet" }
        );
        Ok(nic)
    }

    /// Whether the backend has connected.
    pub(super) fn is_connected(&self) -> bool {
        self.state == State::Up
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        Location::Vif(self.number)
    }

    /// Whether the backend takes frames in several pages, and cuts segments.
    fn offers(&self) -> Result<bool, Error> {
        Ok(self.frontend.has("feature-sg")? && self.frontend.has("feature-gso-tcpv4")?)
    }

    /// Say what there is to a backend that waits for it.
    fn connect(&mut self) -> Result<(), Error> {
        // What was agreed the first time stays so: the stack goes by that.
        let offers = self.offers()?;
        if let Some(memory) = self.memory.take() {
            self.transmit.allocate(memory, offers)?;
        } else if self.transmit.is_long() && !offers {
            return Err(Error::Features);
        }
        self.receive.ring.reset();
        self.transmit.ring.reset();
        let (bus, domain) = (&self.frontend.bus, self.frontend.domain);
        // First: whoever has a port may have been granted something.
        let port = bus.guest.event(Event::Open(domain)).map_err(|_| Error::Refused("an event channel"))?;
        self.port = Some(port);
        let rings = [("tx-ring-ref", &self.transmit.ring), ("rx-ring-ref", &self.receive.ring)];
        for ((key, ring), entry) in rings.into_iter().zip(&self.rings) {
            bus.grants.allow(*entry, domain, ring.page.address(), Access::Write);
            self.frontend.say(key, (*entry).into())?;
        }
        self.frontend.say("event-channel", port)?;
        self.frontend.say("request-rx-copy", 1)?;
        self.frontend.say("feature-rx-notify", 1)?;
        let pieces = u32::from(self.receive.takes_pieces());
        self.frontend.say("feature-sg", pieces)?;
        self.frontend.say("feature-gso-tcpv4", pieces)?;
        self.receive.offer();
        self.receive.ring.announce();
        self.frontend.enter(CONNECTED)
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.frontend.enter(INITIALISING)?;
        (self.state, self.look) = (State::Beginning, Instant::ZERO);
        Ok(())
    }

    /// Begin to close the connection; `next` comes then.
    fn close(&mut self, next: State) {
        // Who may not say so has no place in the store any more, or it is over with the store, which is seen then.
        let _ = self.frontend.enter(CLOSING);
        (self.state, self.next, self.look) = (State::Closing, next, Instant::ZERO);
        self.frontend.look_again();
    }

    /// Take everything back from a backend that has closed. Answers whether all of it is ours.
    fn take_back(&mut self) -> bool {
        if let Some(port) = self.port.take() {
            // There is nothing to be done about one that stays open: nobody hears it.
            let _ = self.frontend.bus.guest.event(Event::Close(port));
        }
        let grants = &self.frontend.bus.grants;
        let mut is_ours = true;
        for entry in &self.rings {
            is_ours &= grants.revoke(*entry, Access::Write);
        }
        is_ours &= self.receive.recover();
        is_ours & self.transmit.recover()
    }

    /// Take a step, if the backend has taken its own. Answers whether it was one.
    fn step(&mut self, now: Instant) -> Result<bool, Error> {
        match self.state {
            State::Dead => return Ok(false),
            State::Resting { until } | State::Gone { until } if now < until => return Ok(false),
            State::Resting { .. } => return self.begin().map(|()| true),
            _ => {}
        }
        let theirs = match self.frontend.state() {
            // A store that does not answer, or not now, says nothing of the backend.
            Err(_) if self.state == State::Up => return Ok(false),
            Err(Error::Refused(_)) => return Ok(false),
            theirs => theirs?,
        };
        match (self.state, theirs) {
            (State::Up, CONNECTED) => return Ok(false),
            (State::Up, _) | (State::Beginning, CLOSING) | (State::Connecting, CLOSING | CLOSED) => {
                self.fail(Fault::Gone, now);
            }
            // One that waits already was made anew meanwhile.
            (State::Closing, CLOSING | CLOSED | WAITS) => {
                let _ = self.frontend.enter(CLOSED);
                self.state = State::Closed;
            }
            (State::Closed, CLOSED | WAITS) if self.take_back() => self.state = self.next,
            (State::Closed, CLOSED | WAITS) => self.give_up("it does not give memory of ours back"),
            (State::Gone { .. }, WAITS) => self.begin()?,
            (State::Beginning, WAITS) => {
                self.connect()?;
                self.state = State::Connecting;
            }
            (State::Connecting, CONNECTED) => self.come_up(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn come_up(&mut self) {
        self.state = State::Up;
        self.resets.succeeded();
        if let Some(port) = self.port {
            self.frontend.bus.notify(port);
        }
        if self.counters.resets != 0 {
            log::info!("{}: connected again", self.location());
        }
    }

    /// Take steps and wait for the backend, until something has come or for a bounded time. For the beginning and the end only.
    fn drive(&mut self, has_come: impl Fn(State) -> bool) -> Result<(), Error> {
        let mut patience = Patience::new(STEPS_TIME);
        while !has_come(self.state) {
            if self.state == State::Dead || patience.is_over() {
                return Err(Error::NoAnswer);
            }
            if self.step(Instant::ZERO)? {
                continue;
            }
            // Only then is there something to ask.
            while !self.frontend.has_changed() && !patience.is_over() {
                self.frontend.bus.store.rest();
                self.frontend.bus.store.poll();
            }
        }
        Ok(())
    }

    /// Close the connection and take everything back, if it goes.
    fn stop(&mut self) -> Result<(), Error> {
        const IS_CLOSED: State = State::Gone { until: Instant::ZERO };
        if self.port.is_none() {
            // It was given nothing.
            return self.frontend.enter(CLOSED);
        }
        self.close(IS_CLOSED);
        self.drive(|state| state == IS_CLOSED)
    }

    /// The backend is not to be trusted as it is: close and connect again, after a rest if that happens all the time.
    #[cold]
    fn fail(&mut self, fault: Fault, now: Instant) {
        self.counters.resets += 1;
        log::warn!("{}: {fault}: reset", self.location());
        let until = self.resets.another(now).unwrap_or(now);
        self.close(match fault {
            Fault::Lie(_) => State::Resting { until },
            Fault::Gone => State::Gone { until },
        });
    }

    fn give_up(&mut self, reason: impl fmt::Display) {
        log::error!("{}: given up: {reason}", self.location());
        self.state = State::Dead;
    }

    /// Whether frames can go either way. Where they cannot, a step is taken.
    #[inline]
    fn is_up(&mut self, now: Instant) -> bool {
        if self.frontend.has_changed() || self.state != State::Up {
            self.advance(now);
        }
        self.state == State::Up
    }

    #[cold]
    fn advance(&mut self, now: Instant) {
        // A machine that has much to do does not sleep, and so hears of no event.
        self.frontend.bus.store.poll();
        let is_due = self.frontend.has_changed() && now >= self.look;
        if !is_due && !matches!(self.state, State::Resting { .. }) {
            return;
        }
        match self.step(now) {
            // There may be more to do.
            Ok(true) => self.frontend.look_again(),
            Ok(false) => self.look = now + LOOK.into(),
            Err(error) if self.frontend.bus.store.is_over() => self.give_up(error),
            Err(error) => {
                log::warn!("{}: not connected: {error}", self.location());
                let until = self.resets.failed(now);
                self.close(State::Resting { until });
            }
        }
    }

    /// Take back what was sent. Answers whether all is well.
    fn reap(&mut self, now: Instant) -> bool {
        match self.transmit.reap() {
            Ok(()) => true,
            Err(lie) => {
                self.fail(Fault::Lie(lie), now);
                false
            }
        }
    }
}

/// An address as it is written in the store.
fn parse(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

impl network_nic::Device for Netfront {
    type RxToken<'a> = RxToken<Rx<'a>>;
    type TxToken<'a> = TxToken<Tx<'a>>;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        if !self.is_up(now) || !self.reap(now) {
            return None;
        }
        match self.receive.next_frame(&mut self.counters.dropped) {
            Ok(true) => {
                self.counters.received += 1;
                let reply = Tx::new(&mut self.transmit, &mut self.counters);
                Some((RxToken(Rx::new(&self.receive)), TxToken(reply)))
            }
            Ok(false) => None,
            Err(lie) => {
                self.fail(Fault::Lie(lie), now);
                None
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let room = self.is_up(now) && self.reap(now) && self.transmit.has_room();
        room.then(|| TxToken(Tx::new(&mut self.transmit, &mut self.counters)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + ETHERNET;
        // What the backend has not verified is verified here; what it is given it makes checksums of, for that takes no agreement.
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation = SegmentationCapabilities::default();
        if self.transmit.is_long() {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.transmit.frame);
        }
        capabilities
    }
}

impl Nic for Netfront {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked. And only who is asked for a frame sees to what was sent.
        self.state != State::Up
            || self.frontend.has_changed()
            || self.receive.ring.waits()
            || self.transmit.ring.waits()
    }

    fn flush(&mut self) {
        if self.state != State::Up {
            return;
        }
        self.receive.offer();
        let (received, sent) = (self.receive.ring.announce(), self.transmit.ring.announce());
        if let Some(port) = self.port.filter(|_| received || sent) {
            self.frontend.bus.notify(port);
        }
    }

    fn arm(&mut self) -> bool {
        self.frontend.bus.acknowledge();
        match self.state {
            State::Up if self.frontend.has_changed() => true,
            State::Up => {
                self.flush();
                // Both, whatever the first says.
                let sent = !self.transmit.has_room() && self.transmit.ring.ask();
                self.receive.ring.ask() || sent
            }
            // See `rests_until`.
            _ => false,
        }
    }

    fn rests_until(&self) -> Option<Instant> {
        // Otherwise the store tells of what the backend does.
        let look = if self.frontend.has_changed() { self.look } else { NEVER };
        match self.state {
            State::Up => None,
            State::Resting { until } => Some(until),
            State::Gone { until } => Some(look.max(until)),
            State::Dead => Some(NEVER),
            _ => Some(look),
        }
    }

    fn has_sent(&mut self) -> bool {
        // Who is not up sends nothing, and of who lies nothing is known.
        self.state != State::Up || self.transmit.is_done().unwrap_or(true)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for Netfront {
    fn drop(&mut self) {
        if self.state == State::Dead {
            return;
        }
        // What cannot be taken back stays lost; nothing of it is freed.
        if let Err(error) = self.stop() {
            log::error!("{}: {error}", self.location());
            return;
        }
        let entries =
            self.rings.drain(..).chain(self.receive.entries.drain(..)).chain(self.transmit.entries.drain(..));
        self.frontend.bus.grants.give_back(entries);
    }
}
