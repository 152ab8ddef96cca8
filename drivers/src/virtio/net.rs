//! virtio-net (virtio 1.2 section 5.1), with what makes it fast: checksums and segmentation by the device.
//!
//! The stack reads received frames and writes frames to send where the device put them and takes them from: there is no
//! copy here, and no allocation after start. A device that breaks its contract is reset and brought up again with the
//! same features; what was under way is lost, as on a wire.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
pub(crate) mod plan;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use receive::Rx;
pub use transmit::Tx;

use super::queue::{Lie, Queue};
use super::{Device, feature};
use crate::nic::{ETHERNET, USUAL_MTU};
use crate::resets::{Resets, State};
use crate::{Error, RxToken, TxToken};
use core::fmt;
use core::num::NonZeroUsize;
use kernel_io::{Buffer, Direction};
use network_nic::offload::{HEADER_LEN, LEGACY_HEADER_LEN};
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use plan::{Offer, Plan, plan};
use receive::{Checks, Receive};
use transmit::Transmit;

/// All we have a use for; each is used where it is offered and makes sense.
const WANTED: u64 = feature::NET_MAC
    | feature::NET_MTU
    | feature::NET_STATUS
    | feature::NET_CSUM
    | feature::NET_GUEST_CSUM
    | feature::NET_HOST_TSO4
    | feature::NET_GUEST_TSO4
    | feature::ANY_LAYOUT
    | feature::EVENT_IDX;
/// The queues (section 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// The configuration: address, status, MTU (section 5.1.4).
const MAC: usize = 0;
const STATUS: usize = 6;
const MTU: usize = 10;
const LINK_UP: u8 = 1;
/// The largest queue that is of use: more buffers than that are not planned.
const LARGEST_QUEUE: u16 = 512;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It has written what cannot be.
    Lie(Lie),
    /// It says so itself.
    NeedsReset,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lie(lie) => write!(f, "it broke its contract ({lie:?})"),
            Self::NeedsReset => f.write_str("it cannot go on"),
        }
    }
}

/// A virtio network device.
pub struct VirtioNet {
    device: Device,
    receive: Receive,
    transmit: Transmit,
    mac: [u8; 6],
    plan: Plan,
    /// What was agreed, in all.
    features: u64,
    state: State,
    /// It asked for a reset.
    asked: bool,
    /// Whether its link is up; always, where it does not say.
    link: bool,
    resets: Resets,
    counters: Counters,
}

impl VirtioNet {
    /// Bring up a network device, with buffers of at most `memory` bytes.
    ///
    /// # Errors
    /// See [`Error`]; the device is left reset then.
    pub(crate) fn new(mut device: Device, memory: usize) -> Result<Self, Error> {
        let offered = device.negotiate(WANTED)?;
        let mac = address(&mut device, offered)?;
        let mtu = mtu(&mut device, offered)?;
        let legacy = offered & feature::VERSION_1 == 0;
        // A legacy device that does not say otherwise wants the header in a descriptor of its own.
        let parts = if legacy && offered & feature::ANY_LAYOUT == 0 { 2 } else { 1 };
        let sizes = [device.queue_size(RECEIVE, LARGEST_QUEUE)?, device.queue_size(TRANSMIT, LARGEST_QUEUE)?];
        let queues = sizes.map(|size| usize::from(size / parts));
        let plan = plan(&Offer { features: offered, mtu, queues }, memory);
        let header = if legacy { LEGACY_HEADER_LEN } else { HEADER_LEN };
        let queue = |index, buffers: usize, direction| {
            let size = (buffers * usize::from(parts)).next_power_of_two().max(2) as u16;
            let size = device.ring_size(index, size)?;
            Ok::<_, Error>(Queue::allocate(size, parts, offered & feature::EVENT_IDX != 0, direction)?)
        };
        let receive = Receive {
            queue: queue(RECEIVE, plan.receive.count, Direction::FromDevice)?,
            spare: Buffer::allocate(plan.receive.count, plan.receive.length())?,
            held: None,
            checks: Checks::new(&plan, header),
        };
        let transmit = Transmit {
            queue: queue(TRANSMIT, plan.transmit.count, Direction::ToDevice)?,
            free: Buffer::allocate(plan.transmit.count, plan.transmit.length())?,
            header,
            checksum: plan.features & feature::NET_CSUM != 0,
            starved: false,
        };
        let mut nic = Self {
            device,
            receive,
            transmit,
            mac,
            plan,
            features: plan.features,
            state: State::Up,
            asked: false,
            link: true,
            resets: Resets::NONE,
            counters: Counters::default(),
        };

        if let Err(error) = nic.start() {
            nic.stop()?;
            return Err(error);
        }
        nic.log();
        nic.look_at_link();
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> crate::Location {
        self.device.location()
    }

    /// The features in use, by virtio's numbers.
    pub fn features(&self) -> u64 {
        self.features
    }

    fn log(&self) {
        let Plan { receive, transmit, mtu, .. } = self.plan;
        let [a, b, c, d, e, f] = self.mac;
        log::info!(
            "{}: virtio-net {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {mtu} features {:#x}, \
             receives {} x {}, sends {} x {}",
            self.device.location(),
            self.features,
            receive.count,
            receive.frame,
            transmit.count,
            transmit.frame,
        );
    }

    /// Say when the link goes or comes. Nothing else follows from it: what is sent meanwhile is lost, as on a wire.
    fn look_at_link(&mut self) {
        if self.features & feature::NET_STATUS == 0 {
            return;
        }
        if let Ok([low, _]) = self.device.configuration(STATUS) {
            let link = low & LINK_UP != 0;
            if link != self.link {
                log::warn!("{}: the link is {}", self.device.location(), if link { "up" } else { "down" });
            }
            self.link = link;
        }
    }

    /// Agree, attach, go: from reset to receiving.
    fn start(&mut self) -> Result<(), Error> {
        // Nothing else is asked for than the first time: the stack goes by what it was told then.
        if self.device.negotiate(self.features)? != self.features {
            return Err(Error::Features);
        }
        self.device.attach(RECEIVE, &mut self.receive.queue)?;
        self.device.attach(TRANSMIT, &mut self.transmit.queue)?;
        self.receive.fill();
        self.device.start();
        self.receive.queue.notify();
        Ok(())
    }

    /// Reset the device and take everything back from it.
    fn stop(&mut self) -> Result<(), Error> {
        self.device.reset()?;
        // SAFETY: the device has just been reset.
        let received = unsafe { self.receive.queue.recover() };
        self.receive.spare.extend(received);
        self.receive.spare.extend(self.receive.held.take().map(|frame| frame.buffer));
        // SAFETY: as above.
        let sent = unsafe { self.transmit.queue.recover() };
        self.transmit.free.extend(sent);
        self.transmit.starved = false;
        Ok(())
    }

    /// The device is not to be trusted as it is: reset it and, unless that happens all the time, bring it up again.
    fn fail(&mut self, fault: Fault, now: Instant) {
        self.counters.resets += 1;
        self.asked = false;
        log::warn!("{}: {fault}: reset", self.device.location());
        let rest = self.resets.another(now);
        if let Err(error) = self.stop() {
            self.give_up(error);
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

    fn give_up(&mut self, error: Error) {
        log::error!("{}: given up: {error}", self.device.location());
        self.device.fail();
        self.state = State::Dead;
    }

    /// Whether frames can go either way; brings a device back that has rested.
    fn is_up(&mut self, now: Instant) -> bool {
        if self.asked {
            self.fail(Fault::NeedsReset, now);
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.restart();
        }
        self.state == State::Up
    }

    /// Whether there is a buffer to send with.
    fn has_room(&mut self, now: Instant) -> bool {
        match self.transmit.has_room() {
            Ok(room) => room,
            Err(lie) => {
                self.fail(Fault::Lie(lie), now);
                self.state == State::Up
            }
        }
    }
}

/// Its address, which must be one that a single station can have.
fn address(device: &mut Device, features: u64) -> Result<[u8; 6], Error> {
    if features & feature::NET_MAC == 0 {
        return Err(Error::Unsupported("a NIC without an address"));
    }
    crate::nic::station(device.configuration(MAC)?)
}

fn mtu(device: &mut Device, features: u64) -> Result<usize, Error> {
    if features & feature::NET_MTU == 0 {
        return Ok(USUAL_MTU);
    }
    let mtu = usize::from(u16::from_le_bytes(device.configuration(MTU)?));
    if mtu < plan::LEAST_MTU { Err(Error::Layout("its MTU is below 576")) } else { Ok(mtu) }
}

impl network_nic::Device for VirtioNet {
    type RxToken<'a> = RxToken<Rx<'a>>;
    type TxToken<'a> = TxToken<Tx<'a>>;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // The stack may want to answer, so a frame is taken only when there is room for the answer.
        if !self.is_up(now) || !self.has_room(now) {
            return None;
        }
        self.receive.queue.disarm();
        match self.receive.next(&mut self.counters.dropped) {
            Ok(Some(frame)) => {
                self.counters.received += 1;
                let reply = Tx::new(&mut self.transmit, &mut self.counters.sent);
                Some((RxToken(Rx::new(&mut self.receive, frame)), TxToken(reply)))
            }
            Ok(None) => None,
            Err(lie) => {
                self.fail(Fault::Lie(lie), now);
                None
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let room = self.is_up(now) && self.has_room(now);
        room.then(|| TxToken(Tx::new(&mut self.transmit, &mut self.counters.sent)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let has = |wanted| self.plan.features & wanted != 0;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.plan.mtu + ETHERNET;
        capabilities.checksum.tcp = match (has(feature::NET_CSUM), has(feature::NET_GUEST_CSUM)) {
            (true, true) => Checksum::None,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (false, false) => Checksum::Both,
        };
        capabilities.segmentation = SegmentationCapabilities::default();
        if has(feature::NET_HOST_TSO4) {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.plan.transmit.frame);
        }
        capabilities
    }
}

impl Nic for VirtioNet {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked, and what had no room may have.
        self.state != State::Up || self.asked || self.transmit.starved || self.receive.waits()
    }

    fn flush(&mut self) {
        if self.state == State::Up {
            self.receive.queue.notify();
            self.transmit.queue.notify();
        }
    }

    fn arm(&mut self) -> bool {
        // As long as there is work no interrupt is asked for, and none is looked at.
        if self.state == State::Up && !self.transmit.starved && self.receive.waits() {
            return true;
        }
        // Whatever the state: an interrupt that nobody takes keeps the machine awake.
        let raised = self.device.acknowledge();
        match self.state {
            State::Up => {}
            State::Resting { .. } | State::Dead => return false,
        }
        if raised.configuration {
            if self.device.needs_reset() {
                self.asked = true;
                return true;
            }
            self.look_at_link();
        }
        let frames = self.receive.arm();
        // Without room to answer no frame is taken, so one that waits is no reason to go on; room is.
        if self.transmit.starved { self.transmit.arm() } else { frames }
    }

    fn rests_until(&self) -> Option<Instant> {
        self.state.rests_until()
    }

    fn has_sent(&mut self) -> bool {
        // Who is not up sends nothing, and of who lies nothing is known.
        self.state != State::Up || self.transmit.is_done().unwrap_or(true)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for VirtioNet {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.state != State::Dead && self.stop().is_err() {
            log::error!("{}: {}", self.device.location(), Error::Reset);
        }
    }
}
