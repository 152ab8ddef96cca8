//! vmxnet3, VMware's NIC for guests that know where they run.
//!
//! There is no public standard; names are those of VMware's driver for Linux. Driver and device share an area that says where
//! everything lies, and four rings: descriptors and completions of each direction. Who writes an entry says by a bit of it in
//! which round of the ring that was. Checksums and segmentation are left to the device. Segments that it would merge are not
//! asked for: it puts them into several buffers, which would have to be copied together.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
mod receive;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;

pub use receive::Rx;
pub use transmit::Tx;
pub(crate) use transmit::prepare_segments;

use crate::nic::{ETHERNET, USUAL_MTU, station};
use crate::pci::{DeviceFunction, Leash, Pci};
use crate::resets::{Resets, State};
use crate::virtio::feature;
use crate::virtio::net::plan::{self, Offer, Plan, plan};
use crate::{Error, Location, RxToken, TxToken};
use core::fmt;
use core::num::NonZeroUsize;
use kernel_io::{Buffer, Irq, Mmio, Shared};
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use receive::Receive;
use transmit::Transmit;

/// Its vendor and device on PCI.
pub(crate) const ID: (u16, u16) = (0x15ad, 0x07b0);
/// Bytes of each of its two sets of registers, in BAR 0 and BAR 1.
pub(crate) const REGISTERS: usize = 4096;
/// Registers of BAR 0: interrupts that are masked, 8 bytes apart; how far the driver has got.
const INTERRUPT_MASK: usize = 0;
const SEND: usize = 0x600;
const RECEIVE: usize = 0x800;
/// Registers of BAR 1: revisions of the device and of its rings, the shared area, commands, address, whether the line is its
/// own, and events that are done with.
const REVISIONS: usize = 0;
const RING_REVISIONS: usize = 0x08;
const AREA: [usize; 2] = [0x10, 0x18];
const COMMAND: usize = 0x20;
const MAC: [usize; 2] = [0x28, 0x30];
const INTERRUPT_CAUSE: usize = 0x38;
const EVENTS_DONE: usize = 0x40;
/// The revision that is used; every device has it.
const REVISION: u32 = 1;
/// More buffers each way bring nothing.
const BUFFERS: usize = 256;

/// Commands.
const ACTIVATE: u32 = 0xcafe_0000;
const QUIESCE: u32 = 0xcafe_0001;
const RESET: u32 = 0xcafe_0002;
const UPDATE_RECEIVE_MODE: u32 = 0xcafe_0003;
const GET_QUEUE_STATUS: u32 = 0xf00d_0000;
const GET_LINK: u32 = 0xf00d_0002;
const GET_INTERRUPTS: u32 = 0xf00d_0008;
/// How an interrupt is masked when it is raised, in the answer to the last of them: by the device itself.
const MASK_MODE: u32 = 3 << 2;

/// The shared area, and in the same memory the descriptions of both queues.
mod area {
    pub(super) const MAGIC: usize = 0;
    pub(super) const DRIVER: usize = 8;
    pub(super) const FEATURES: usize = 24;
    pub(super) const QUEUES: usize = 40;
    pub(super) const QUEUES_LENGTH: usize = 52;
    pub(super) const MTU: usize = 56;
    pub(super) const MOST_PIECES: usize = 60;
    pub(super) const INTERRUPTS: usize = 80;
    pub(super) const RECEIVE_MODE: usize = 120;
    pub(super) const VLANS: usize = 136;
    pub(super) const EVENTS: usize = 696;
    /// Where the descriptions begin, and what lies where in each.
    pub(super) const TRANSMIT: usize = 1024;
    pub(super) const RECEIVE: usize = TRANSMIT + 256;
    pub(super) const END: usize = RECEIVE + 256;
    pub(super) const RINGS: usize = 16;
    pub(super) const COMPLETIONS: usize = 32;
    pub(super) const RINGS_SIZE: usize = 56;
    pub(super) const COMPLETIONS_SIZE: usize = 64;
    pub(super) const INTERRUPT: usize = 72;
    pub(super) const STOPPED: usize = 80;
}
/// What says that the area is one.
const AREA_MAGIC: u32 = 0xbabe_fee1;
/// The driver: its version; a 64-bit system of no known kind; the revisions of device and rings it knows.
const DRIVER: [u64; 2] = [1 | 2 << 32, REVISION as u64 | (REVISION as u64) << 32];
/// Received checksums are verified by the device.
const RECEIVE_CHECKSUM: u64 = 1;
/// What is sent to its own address, and to all.
const UNICAST_AND_BROADCAST: u32 = 1 | 4;
/// Events: a queue has stopped; the link has changed.
const QUEUE_ERRORS: u32 = 1 | 2;
const LINK: u32 = 4;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It returned a descriptor that it does not have.
    Index,
    /// It claims to have written more than it was given.
    Length,
    /// It keeps a descriptor that it has passed over.
    Kept,
    /// It has stopped a queue.
    Stopped,
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it cannot go on"),
            lie => write!(f, "it broke its contract ({lie:?})"),
        }
    }
}

/// A device that has been found: its registers, and the interrupts it may raise.
pub(crate) struct Wires {
    pub(crate) location: Location,
    /// BAR 0 and BAR 1.
    pub(crate) passed: Mmio,
    pub(crate) device: Mmio,
    /// For received frames and events; for sent frames, where they have one of their own.
    pub(crate) interrupts: (Irq, Option<Irq>),
    /// Whether the interrupt is a line, which others may share.
    pub(crate) is_line: bool,
    pub(crate) leash: Leash,
}

impl Wires {
    fn command(&self, command: u32) -> u32 {
        self.device.write32(COMMAND, command);
        self.device.read32(COMMAND)
    }

    fn reset(&self) -> Result<(), Error> {
        self.command(QUIESCE);
        self.command(RESET);
        for register in AREA {
            self.device.write32(register, 0);
        }
        // Where there is no device any more, there is nobody who has forgotten our memory either.
        if self.device.read32(REVISIONS) == u32::MAX { Err(Error::Reset) } else { Ok(()) }
    }

    fn mask(&self, interrupt: usize, masked: bool) {
        self.passed.write32(INTERRUPT_MASK + interrupt * 8, masked.into());
    }
}

/// A vmxnet3 device.
pub struct Vmxnet3 {
    wires: Wires,
    area: Shared,
    receive: Receive,
    transmit: Transmit,
    mac: [u8; 6],
    plan: Plan,
    state: State,
    resets: Resets,
    /// It has stopped a queue.
    stopped: bool,
    link: bool,
    /// Whether it masks an interrupt when it raises it, and which are not masked now.
    masks: bool,
    armed: [bool; 2],
    counters: Counters,
}

/// Open the device at `at` and bring it up, with buffers of at most `memory` bytes.
pub(crate) fn open(pci: &mut Pci, at: DeviceFunction, memory: usize) -> Result<Vmxnet3, Error> {
    let capabilities = pci.capabilities(at)?;
    pci.disable(at);
    let passed = pci.map(at, 0, 0, REGISTERS)?;
    let device = pci.map(at, 1, 0, REGISTERS)?;
    let vectors = match pci.vectors(at, &capabilities, 2) {
        Err(Error::NoInterrupt) => None,
        vectors => Some(vectors?),
    };
    let (first, second) = match vectors {
        Some(_) => (Irq::allocate()?, Some(Irq::allocate()?)),
        None => (pci.line(at)?, None),
    };
    pci.enable_registers(at);
    let is_line = vectors.is_none();
    let mut count = 1;
    if let (Some(vectors), Some(second)) = (vectors, &second) {
        count = pci.use_vectors(at, &vectors, &[first.message(), second.message()]);
    }
    let interrupts = (first, second.filter(|_| count > 1));
    let (location, leash) = (Location::Pci(at), pci.leash(at));
    let wires = Wires { location, passed, device, interrupts, is_line, leash };
    wires.reset()?;
    if is_line {
        pci.enable_line(at);
    }
    Vmxnet3::new(wires, memory)
}

impl Vmxnet3 {
    /// Bring a device up that has been reset.
    pub(crate) fn new(wires: Wires, memory: usize) -> Result<Self, Error> {
        for register in [REVISIONS, RING_REVISIONS] {
            if wires.device.read32(register) & REVISION == 0 {
                return Err(Error::Unsupported("a vmxnet3 of another revision"));
            }
            wires.device.write32(register, REVISION);
        }
        let [low, high] = MAC.map(|register| wires.device.read32(register).to_le_bytes());
        let mac = station([low[0], low[1], low[2], low[3], high[0], high[1]])?;
        let features = feature::NET_CSUM | feature::NET_HOST_TSO4;
        let plan = plan(&Offer { features, mtu: USUAL_MTU, queues: [BUFFERS; 2] }, memory);
        let buffers = |buffers: plan::Buffers| Buffer::allocate(buffers.count, buffers.frame);
        let mut nic = Self {
            area: Shared::allocate(area::END)?,
            receive: Receive::new(buffers(plan.receive)?)?,
            transmit: Transmit::new(buffers(plan.transmit)?)?,
            wires,
            mac,
            plan,
            state: State::Up,
            resets: Resets::NONE,
            stopped: false,
            link: true,
            masks: true,
            armed: [false; 2],
            counters: Counters::default(),
        };

        if let Err(error) = nic.start() {
            let stopped = nic.stop();
            // Dropping it would do that again.
            nic.state = State::Dead;
            return Err(stopped.err().unwrap_or(error));
        }
        nic.log();
        nic.look_at_link();
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.wires.location
    }

    fn log(&self) {
        let Plan { receive, transmit, mtu, .. } = self.plan;
        let [a, b, c, d, e, f] = self.mac;
        log::info!(
            "{}: vmxnet3 {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {mtu}, receives {} x {}, sends {} x {}",
            self.location(),
            receive.count,
            receive.frame,
            transmit.count,
            transmit.frame,
        );
    }

    /// Say when the link goes or comes. Nothing else follows from it: what is sent meanwhile is lost, as on a wire.
    fn look_at_link(&mut self) {
        let link = self.wires.command(GET_LINK) & 1 != 0;
        if link != self.link {
            log::warn!("{}: the link is {}", self.location(), if link { "up" } else { "down" });
        }
        self.link = link;
    }

    /// From reset to receiving.
    fn start(&mut self) -> Result<(), Error> {
        self.describe();
        self.receive.fill();
        self.wires.leash.let_go();
        let address = self.area.address();
        for (register, half) in AREA.into_iter().zip([address as u32, (address >> 32) as u32]) {
            self.wires.device.write32(register, half);
        }
        if self.wires.command(ACTIVATE) != 0 {
            return Err(Error::Features);
        }
        self.wires.command(UPDATE_RECEIVE_MODE);
        // It has forgotten its address.
        let [a, b, c, d, e, f] = self.mac;
        for (register, half) in MAC.into_iter().zip([[a, b, c, d], [e, f, 0, 0]]) {
            self.wires.device.write32(register, u32::from_le_bytes(half));
        }
        self.wires.mask(0, true);
        self.wires.mask(1, true);
        self.announce();
        Ok(())
    }

    /// Fill in the area.
    fn describe(&mut self) {
        let area = &self.area;
        for offset in (0..area::END).step_by(16) {
            area.write_pair(offset, [0; 2]);
        }
        area.write32(area::MAGIC, AREA_MAGIC);
        for (at, word) in [area::DRIVER, area::DRIVER + 8].into_iter().zip(DRIVER) {
            area.write64(at, word);
        }
        area.write64(area::FEATURES, RECEIVE_CHECKSUM);
        area.write64(area::QUEUES, area.address() + area::TRANSMIT as u64);
        area.write32(area::QUEUES_LENGTH, (area::END - area::TRANSMIT) as u32);
        area.write32(area::MTU, self.plan.mtu as u32);
        // A received frame has one piece; there is one queue each way.
        area.write32(area::MOST_PIECES, 1 | 1 << 16 | 1 << 24);
        // Who masks them, how many there are, which is for events; none is held back.
        self.masks = self.wires.command(GET_INTERRUPTS) & MASK_MODE == 0;
        let of_transmit = u32::from(self.wires.interrupts.1.is_some());
        area.write32(area::INTERRUPTS, u32::from(self.masks) | (1 + of_transmit) << 8);
        area.write32(area::RECEIVE_MODE, UNICAST_AND_BROADCAST);
        // Frames without the tag of a VLAN.
        area.write32(area::VLANS, 1);
        let Self { receive, transmit, .. } = self;
        let queues = [
            (area::TRANSMIT, &transmit.descriptors, &transmit.completions, of_transmit),
            (area::RECEIVE, &receive.descriptors, &receive.completions, 0),
        ];
        for (at, descriptors, completions, interrupt) in queues {
            area.write64(at + area::RINGS, descriptors.address());
            area.write64(at + area::COMPLETIONS, completions.address());
            area.write32(at + area::RINGS_SIZE, descriptors.size() as u32);
            area.write32(at + area::COMPLETIONS_SIZE, completions.size() as u32);
            area.write32(at + area::INTERRUPT, interrupt);
        }
    }

    /// Say up to where there are receive buffers.
    fn announce(&self) {
        self.wires.passed.write32(RECEIVE, self.receive.descriptors.next() as u32);
    }

    /// Reset the device and take everything back from it.
    fn stop(&mut self) -> Result<(), Error> {
        let reset = self.wires.reset();
        self.wires.leash.hold();
        reset?;
        // SAFETY: the device has just been reset.
        unsafe { self.receive.recover() };
        // SAFETY: as above.
        unsafe { self.transmit.recover() };
        (self.armed, self.stopped) = ([false; 2], false);
        Ok(())
    }

    /// The device is not to be trusted as it is: reset it and, unless that happens all the time, bring it up again.
    fn fail(&mut self, lie: Lie, now: Instant) {
        self.counters.resets += 1;
        log::warn!("{}: {lie}: reset", self.location());
        let rest = self.resets.another(now);
        if let Err(error) = self.stop() {
            self.give_up(error);
        } else if let Some(until) = rest {
            self.state = State::Resting { until };
        } else {
            self.restart(now);
        }
    }

    /// Start it again. If that fails, stop what was begun, and try later.
    fn restart(&mut self, now: Instant) {
        let Err(error) = self.start() else {
            self.state = State::Up;
            return self.resets.succeeded();
        };
        log::warn!("{}: it does not start again: {error}", self.location());
        match self.stop() {
            Ok(()) => self.state = State::Resting { until: self.resets.failed(now) },
            Err(error) => self.give_up(error),
        }
    }

    fn give_up(&mut self, error: Error) {
        log::error!("{}: given up: {error}", self.location());
        self.wires.leash.hold();
        self.state = State::Dead;
    }

    /// Whether frames can go either way; brings a device back that has rested.
    fn is_up(&mut self, now: Instant) -> bool {
        if core::mem::take(&mut self.stopped) {
            self.fail(Lie::Stopped, now);
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.restart(now);
        }
        self.state == State::Up
    }

    /// Whether there is a buffer to send with.
    fn has_room(&mut self, now: Instant) -> bool {
        match self.transmit.has_room() {
            Ok(room) => room,
            Err(lie) => {
                self.fail(lie, now);
                self.state == State::Up
            }
        }
    }

    /// Take the interrupts that there were.
    fn acknowledge(&mut self) {
        let (first, second) = &self.wires.interrupts;
        let mut raised = [first.take(), second.as_ref().is_some_and(Irq::take)];
        if self.wires.is_line {
            // Who shares the line may have taken it; reading lets go of it.
            let cause = self.wires.device.read32(INTERRUPT_CAUSE);
            raised[0] = cause != 0;
            if raised[0] && cause != u32::MAX {
                first.claim();
            }
        }
        for (interrupt, _) in raised.into_iter().enumerate().filter(|(_, raised)| *raised) {
            self.armed[interrupt] = false;
            if !self.masks {
                self.wires.mask(interrupt, true);
            }
        }
    }

    /// Look what has happened besides frames.
    fn look_at_events(&mut self) {
        let events = self.area.read32(area::EVENTS);
        if events == 0 {
            return;
        }
        self.wires.device.write32(EVENTS_DONE, events);
        if events & LINK != 0 {
            self.look_at_link();
        }
        if events & QUEUE_ERRORS != 0 {
            self.wires.command(GET_QUEUE_STATUS);
            let stopped = |queue| self.area.read32(queue + area::STOPPED) & 0xff != 0;
            self.stopped = stopped(area::TRANSMIT) || stopped(area::RECEIVE);
        }
    }
}

impl network_nic::Device for Vmxnet3 {
    type RxToken<'a> = RxToken<Rx<'a>>;
    type TxToken<'a> = TxToken<Tx<'a>>;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // The stack may want to answer, so a frame is taken only when there is room for the answer.
        if !self.is_up(now) || !self.has_room(now) {
            return None;
        }
        match self.receive.next(&mut self.counters.dropped) {
            Ok(Some(frame)) => {
                self.counters.received += 1;
                let reply = Tx::new(&mut self.transmit, &mut self.counters.sent);
                Some((RxToken(Rx::new(&mut self.receive, frame)), TxToken(reply)))
            }
            Ok(None) => None,
            Err(lie) => {
                self.fail(lie, now);
                None
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let room = self.is_up(now) && self.has_room(now);
        room.then(|| TxToken(Tx::new(&mut self.transmit, &mut self.counters.sent)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.plan.mtu + ETHERNET;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation = SegmentationCapabilities::default();
        if self.plan.features & feature::NET_HOST_TSO4 != 0 {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.plan.transmit.frame);
        }
        capabilities
    }
}

impl Nic for Vmxnet3 {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked, and what had no room may have.
        self.state != State::Up || self.stopped || self.transmit.starved || self.receive.waits()
    }

    fn flush(&mut self) {
        if self.state != State::Up {
            return;
        }
        if self.transmit.untold {
            self.transmit.untold = false;
            self.wires.passed.write32(SEND, self.transmit.descriptors.next() as u32);
        }
        // It says itself whether it looks at the ring without being told.
        if self.area.read32(area::RECEIVE) & 0xff != 0 {
            self.announce();
        }
    }

    fn arm(&mut self) -> bool {
        if self.state == State::Up && !self.transmit.starved && self.receive.waits() {
            return true;
        }
        match self.state {
            State::Up => self.acknowledge(),
            State::Resting { .. } | State::Dead => return false,
        }
        self.look_at_events();
        if self.stopped {
            return true;
        }
        // Without room to answer no frame is taken, so one that waits is no reason to go on; room is.
        let starved = self.transmit.starved;
        let wanted = usize::from(starved && self.wires.interrupts.1.is_some());
        if !self.armed[wanted] {
            self.armed[wanted] = true;
            self.wires.mask(wanted, false);
        }
        if starved { self.transmit.waits() } else { self.receive.waits() }
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

impl Drop for Vmxnet3 {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.state != State::Dead && self.stop().is_err() {
            log::error!("{}: {}", self.location(), Error::Reset);
            self.wires.leash.hold();
        }
    }
}
