//! Xen's NIC, as a frontend has it (`io/netif.h`): two rings, pages that are granted for as long as a request is under way.
//!
//! A received frame is looked at when its page is granted no longer, so what was looked at cannot change. A frame in several pages is copied
//! together: the stack wants it in one piece.
//!
//! A backend that breaks the contract has the connection closed and made again; what was under way is lost, as on a wire.

mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use super::bus::{Bus, CONNECTED, Frontend, INITIALISING, WAITS};
use super::grants::Access;
use super::ring::Lie;
use crate::nic::station;
use crate::resets::{Resets, State};
use crate::{Error, Location, RxToken, TxToken};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroUsize;
use kernel_io::xen::Event;
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use receive::Receive;
pub use receive::Rx;
use transmit::Transmit;
pub use transmit::Tx;

/// A frame's header; the MTU that tools give a NIC of Xen's unless told otherwise; with the tag of a VLAN the longest frame.
const ETHERNET: usize = 14;
const MTU: usize = 1500;
const LONGEST: usize = MTU + ETHERNET + 4;

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
    resets: Resets,
    counters: Counters,
}

impl Netfront {
    /// Bring one up, with buffers of at most `memory` bytes.
    ///
    /// # Errors
    /// See [`Error`]; what the backend was given stays lost then, if it does not give it back.
    pub(super) fn new(bus: &Rc<Bus>, number: u32, memory: usize) -> Result<Self, Error> {
        let frontend = Frontend::new(bus, format!("device/vif/{number}"))?;
        let mac = frontend.own("mac")?.and_then(|mac| parse(&mac));
        let mac = station(mac.ok_or(Error::Layout("its address"))?)?;
        frontend.begin()?;
        let domain = frontend.domain;
        let mut nic = Self {
            number,
            port: None,
            rings: bus.grants.take(2)?,
            receive: Receive::new(bus, domain, memory / 2)?,
            transmit: Transmit::new(bus, domain)?,
            frontend,
            mac,
            state: State::Up,
            resets: Resets::NONE,
            counters: Counters::default(),
        };
        let offers = nic.offers()?;
        nic.transmit.allocate(memory - memory / 2, offers)?;
        if let Err(error) = nic.connect() {
            nic.stop()?;
            return Err(error);
        }
        let [a, b, c, d, e, f] = nic.mac;
        log::info!(
            "{}: netfront {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {MTU}, receives {}, sends {}",
            nic.location(),
            nic.receive,
            nic.transmit
        );
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        Location::Vif(self.number)
    }

    /// Whether the backend takes frames in several pages, and cuts segments.
    fn offers(&self) -> Result<bool, Error> {
        Ok(self.frontend.has("feature-sg")? && self.frontend.has("feature-gso-tcpv4")?)
    }

    /// From a backend that waits to one that is connected.
    fn connect(&mut self) -> Result<(), Error> {
        self.receive.ring.reset();
        self.transmit.ring.reset();
        let (bus, domain) = (&self.frontend.bus, self.frontend.domain);
        let rings = [("tx-ring-ref", &self.transmit.ring), ("rx-ring-ref", &self.receive.ring)];
        for ((key, ring), entry) in rings.into_iter().zip(&self.rings) {
            bus.grants.allow(*entry, domain, ring.page.address(), Access::Write);
            self.frontend.say(key, (*entry).into())?;
        }
        let port = bus.guest.event(Event::Open(domain)).map_err(|_| Error::Refused("an event channel"))?;
        self.port = Some(port);
        self.frontend.say("event-channel", port)?;
        self.frontend.say("request-rx-copy", 1)?;
        self.frontend.say("feature-rx-notify", 1)?;
        let pieces = u32::from(self.receive.takes_pieces());
        self.frontend.say("feature-sg", pieces)?;
        self.frontend.say("feature-gso-tcpv4", pieces)?;
        self.receive.offer();
        self.receive.ring.announce();
        self.frontend.enter(CONNECTED)?;
        self.frontend.wait(&[CONNECTED])?;
        bus.notify(port);
        Ok(())
    }

    /// The same after it was closed, with what was agreed the first time: the stack goes by that.
    fn start(&mut self) -> Result<(), Error> {
        self.frontend.enter(INITIALISING)?;
        self.frontend.wait(&[WAITS])?;
        if self.transmit.is_long() && !self.offers()? {
            return Err(Error::Features);
        }
        self.connect()
    }

    /// Close the connection and take everything back from the backend.
    fn stop(&mut self) -> Result<(), Error> {
        self.frontend.close()?;
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
        is_ours &= self.transmit.recover();
        if is_ours { Ok(()) } else { Err(Error::Refused("memory of ours back")) }
    }

    /// The backend is not to be trusted as it is: close and, unless that happens all the time, connect again.
    #[cold]
    fn fail(&mut self, fault: Fault, now: Instant) {
        self.counters.resets += 1;
        log::warn!("{}: {fault}: reset", self.location());
        let rest = self.resets.another(now);
        let stopped = self.stop();
        if let Err(error) = stopped {
            self.give_up(error);
        } else if fault == Fault::Gone {
            self.give_up("it is gone");
        } else if let Some(until) = rest {
            self.state = State::Resting { until };
        } else {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.state = State::Up;
        if let Err(error) = self.start() {
            self.give_up(error);
        }
    }

    fn give_up(&mut self, reason: impl fmt::Display) {
        log::error!("{}: given up: {reason}", self.location());
        self.state = State::Dead;
    }

    /// Whether frames can go either way; brings one back that has rested.
    #[inline]
    fn is_up(&mut self, now: Instant) -> bool {
        if self.frontend.has_changed() && self.state == State::Up {
            self.look_at_backend(now);
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.restart();
        }
        self.state == State::Up
    }

    #[cold]
    fn look_at_backend(&mut self, now: Instant) {
        // A store that does not answer says nothing of the backend.
        if self.frontend.state().is_ok_and(|state| state != CONNECTED) {
            self.fail(Fault::Gone, now);
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
            // Nobody wakes us when the rest is over.
            State::Resting { .. } => true,
            State::Dead => false,
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
        let entries = self.rings.drain(..).chain(self.receive.entries()).chain(self.transmit.entries());
        self.frontend.bus.grants.give_back(entries);
    }
}
