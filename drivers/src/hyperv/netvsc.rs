//! NetVSC: the NIC of Hyper-V, by NVSP on a channel of VMBus and RNDIS in that.
//!
//! The host puts received frames into memory that it was given once, and tells in the channel's ring where; they are
//! copied out of there and the place given back at once, so that what was looked at cannot change. Frames to send lie where
//! the stack has built them until the host says that they are sent.
//!
//! A host that breaks the contract has its channel closed and opened again; what was under way is lost, as on a wire.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
mod receive;
mod start;
#[cfg(test)]
mod tests;
mod transmit;

use super::bus::{Bus, Channel, Offer, RESET_TIME};
use super::ring::Lie;
use crate::nic::{ETHERNET, USUAL_MTU, tagged};
use crate::resets::{Resets, State};
use crate::{Error, Location, RxToken, TxToken};
use alloc::boxed::Box;
use alloc::rc::Rc;
use core::fmt;
use core::num::NonZeroUsize;
use kernel_io::PAGE;
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use receive::Receive;
pub use receive::Rx;
use start::Control;
use transmit::Transmit;
pub use transmit::Tx;

/// The MTU that the host is told, and the longest frame.
const MTU: usize = USUAL_MTU;
const LONGEST: usize = tagged(MTU);
/// Pages of data in the rings. Ours has room for all that can be under way: what is sent, and a completion for each place
/// that the host has for a frame. So one that is full tells that the host has told lies. Miri takes its time to fill one.
const OUT_PAGES: usize = 16;
const IN_PAGES: usize = if cfg!(miri) { 4 } else { 16 };

/// Why a channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The host has written what cannot be.
    Lie(Lie),
    /// It has taken the channel back.
    Gone,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lie(lie) => write!(f, "the host broke the contract ({lie:?})"),
            Self::Gone => f.write_str("the host has taken it away"),
        }
    }
}

/// A network device of Hyper-V's.
pub struct NetVsc {
    channel: Channel,
    receive: Receive,
    transmit: Transmit,
    control: Box<Control>,
    mac: [u8; 6],
    state: State,
    /// Whether it is to be signalled that something comes.
    armed: bool,
    link: bool,
    resets: Resets,
    counters: Counters,
}

impl NetVsc {
    /// Bring one up, with buffers of at most `memory` bytes.
    ///
    /// # Errors
    /// See [`Error`]; what the host was given stays lost then, if it does not give it back.
    pub(super) fn new(bus: &Rc<Bus>, offer: &Offer, memory: usize) -> Result<Self, Error> {
        let mut nic = Self {
            channel: Channel::new(bus, offer, OUT_PAGES, IN_PAGES)?,
            receive: Receive::new(memory / 2)?,
            transmit: Transmit::default(),
            control: Control::new()?,
            mac: [0; 6],
            state: State::Up,
            armed: true,
            link: true,
            resets: Resets::NONE,
            counters: Counters::default(),
        };
        let begun = nic.begin(None).and_then(|mac| {
            nic.mac = mac;
            nic.transmit.allocate(memory - memory / 2)?;
            nic.listen()
        });
        if let Err(error) = begun {
            let stopped = nic.stop();
            // Dropping it would do that again.
            nic.state = State::Dead;
            return Err(stopped.err().unwrap_or(error));
        }
        let [a, b, c, d, e, f] = nic.mac;
        log::info!(
            "{}: netvsc {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {MTU}, receives in {} KiB, sends {}",
            nic.location(),
            nic.receive.memory.length() >> 10,
            nic.transmit
        );
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        Location::Vmbus(self.channel.id)
    }

    /// From a closed channel to receiving, with what was agreed the first time: the stack goes by that.
    fn start(&mut self) -> Result<(), Error> {
        let mac = self.begin(Some(self.transmit.offloads))?;
        if mac != self.mac {
            return Err(Error::Features);
        }
        self.listen()
    }

    /// Close the channel and take everything back from the host.
    fn stop(&mut self) -> Result<(), Error> {
        self.channel.close()?;
        self.receive.take_back(&self.channel)?;
        self.transmit.recover();
        Ok(())
    }

    /// The host is not to be trusted as it is: close and, unless that happens all the time, open again.
    #[cold]
    fn fail(&mut self, fault: Fault, now: Instant) {
        self.counters.resets += 1;
        log::warn!("{}: {fault}: reset", self.location());
        let rest = self.resets.another(now);
        self.channel.bus.limit(RESET_TIME);
        if fault == Fault::Gone {
            self.let_go();
        } else if let Err(error) = self.stop() {
            self.give_up(error);
        } else if let Some(until) = rest {
            self.state = State::Resting { until };
        } else {
            self.restart(now);
        }
    }

    /// Open it again. If that fails, close what was begun, and try later.
    fn restart(&mut self, now: Instant) {
        let Err(error) = self.start() else {
            self.state = State::Up;
            return self.resets.succeeded();
        };
        log::warn!("{}: it does not start again: {error}", self.location());
        if self.channel.is_gone() {
            return self.let_go();
        }
        match self.stop() {
            Ok(()) => self.state = State::Resting { until: self.resets.failed(now) },
            Err(error) => self.give_up(error),
        }
    }

    /// The host has taken it away.
    fn let_go(&mut self) {
        self.channel.abandon(self.receive.gpadl.take());
        self.give_up("it is gone");
    }

    fn give_up(&mut self, reason: impl fmt::Display) {
        log::error!("{}: given up: {reason}", self.location());
        self.state = State::Dead;
    }

    /// Whether frames can go either way; brings one back that has rested.
    fn is_up(&mut self, now: Instant) -> bool {
        if self.channel.is_gone() && self.state != State::Dead {
            self.fail(Fault::Gone, now);
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.channel.bus.limit(RESET_TIME);
            self.restart(now);
        }
        self.state == State::Up
    }
}

impl network_nic::Device for NetVsc {
    type RxToken<'a> = RxToken<Rx<'a>>;
    type TxToken<'a> = TxToken<Tx<'a>>;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        if !self.is_up(now) {
            return None;
        }
        if core::mem::take(&mut self.armed) {
            self.channel.disarm();
        }
        match self.next_frame() {
            Ok(true) => {
                self.counters.received += 1;
                let reply = Tx::new(&mut self.transmit, &mut self.channel, &mut self.counters);
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
        let room = self.is_up(now) && self.transmit.has_room();
        room.then(|| TxToken(Tx::new(&mut self.transmit, &mut self.channel, &mut self.counters)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + ETHERNET;
        // What the host has not verified is verified here.
        capabilities.checksum.tcp =
            if self.transmit.offloads.checksum { Checksum::None } else { Checksum::Tx };
        capabilities.segmentation = SegmentationCapabilities::default();
        if self.transmit.offloads.segments > 0 {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.transmit.frame);
        }
        capabilities
    }
}

impl Nic for NetVsc {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked.
        self.state != State::Up
            || self.channel.is_gone()
            || self.receive.waits()
            || self.channel.incoming.waits(&self.channel.memory)
    }

    fn flush(&mut self) {
        if self.state == State::Up {
            if self.transmit.lied.is_none() {
                self.channel.flush();
            } else {
                // Whoever asks next closes the channel.
                self.receive.lied = self.transmit.lied.take();
            }
        }
    }

    fn arm(&mut self) -> bool {
        self.channel.bus.acknowledge();
        match self.state {
            State::Up if self.waits() => true,
            State::Up => {
                self.armed = true;
                self.channel.arm()
            }
            State::Resting { .. } | State::Dead => false,
        }
    }

    fn rests_until(&self) -> Option<Instant> {
        self.state.rests_until()
    }

    fn has_sent(&mut self) -> bool {
        // Who is not up sends nothing.
        self.state != State::Up || self.transmit.is_done()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for NetVsc {
    fn drop(&mut self) {
        // What cannot be taken back stays lost; nothing of it is freed.
        self.channel.bus.limit(RESET_TIME);
        if self.state != State::Dead && self.stop().is_err() {
            log::error!("{}: {}", self.location(), Error::NoAnswer);
        }
    }
}

/// Bytes of a page, as a host counts them.
const PAGE_BYTES: u64 = PAGE as u64;
