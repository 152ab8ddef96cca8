//! Intel's gigabit NICs, as hypervisors emulate them: 82540EM, 82543GC, 82544GC, 82545EM, and 82574L (Intel's software
//! developer's manuals for the 8254x and the 82574).
//!
//! The legacy receive descriptors, which all of them have, and for sending those with a context: the device makes TCP's checksum and
//! cuts segments. What the device has not found right of what it received is verified here. An 82574L interrupts by a
//! message, the others by PCI's line.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
mod ring;
#[cfg(test)]
mod tests;

pub use ring::{Rx, Tx};

use crate::nic::{ETHERNET, USUAL_MTU, station};
use crate::pci::{DeviceFunction, Leash, Pci};
use crate::resets::{Resets, State};
use crate::virtio::feature;
use crate::virtio::net::plan::{Offer, Plan, plan};
use crate::{Error, Location, RxToken, TxToken};
use core::num::NonZeroUsize;
use kernel_io::{Buffer, Irq, Mmio};
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use ring::{BUFFER, Lie, Receive, Transmit};

/// Their vendor on PCI.
const VENDOR: u16 = 0x8086;
/// Bytes of the registers that are used, in BAR 0.
pub(crate) const REGISTERS: usize = 0x6000;
/// More buffers each way bring nothing.
const BUFFERS: usize = 256;

/// Registers (8254x manual section 13.4).
const CONTROL: usize = 0;
const STATUS: usize = 0x08;
const EEPROM_READ: usize = 0x14;
const CAUSES: usize = 0xc0;
const THROTTLE: usize = 0xc4;
const CAUSE: usize = 0xc8;
const MASK_SET: usize = 0xd0;
const MASK_CLEAR: usize = 0xd8;
const RECEIVE_CONTROL: usize = 0x100;
const SEND_CONTROL: usize = 0x400;
const SEND_GAP: usize = 0x410;
const RECEIVE_RING: usize = 0x2800;
const RECEIVE_DELAYS: [usize; 2] = [0x2820, 0x282c];
const SEND_RING: usize = 0x3800;
const SEND_DELAYS: [usize; 2] = [0x3820, 0x382c];
const RECEIVE_CHECKSUM: usize = 0x5000;
const MULTICAST: usize = 0x5200;
const MULTICAST_WORDS: usize = 128;
const ADDRESS: [usize; 2] = [0x5400, 0x5404];
/// From where a ring's registers begin: its address, its bytes, its head, its tail.
const RING: [usize; 2] = [0, 4];
const RING_BYTES: usize = 0x08;
const HEAD: usize = 0x10;
const TAIL: usize = 0x18;

/// Controls: full duplex; find the speed out; set the link up; reset.
const RUN: u32 = 1 | 1 << 5 | 1 << 6;
const RESET: u32 = 1 << 26;
/// Of the new ones: begin nothing more on the bus; in the status that something may still be under way.
const LEAVE_BUS: u32 = 1 << 2;
const ON_BUS: u32 = 1 << 19;
/// How long that may take, and after its reset until a register may be read, in microseconds.
const LEAVE_TIME: u32 = 10_000;
const NEW_RESTS: u32 = 1_000;
const OLD_RESTS: u32 = 10;
/// How long a reset may take, and after it reading the address, in microseconds.
const RESET_TIME: u32 = 20_000;
/// Status: the link is up.
const LINK_UP: u32 = 1 << 1;
/// Receiving: on; what is for all; without the frame's checksum. Buffers of 2048 bytes, and no longer frames.
const RECEIVE: u32 = 1 << 1 | 1 << 15 | 1 << 26;
/// Sending: on; short frames are lengthened; collisions as in full duplex.
const SEND: u32 = 1 << 1 | 1 << 3 | 0xf << 4 | 0x40 << 12;
/// The gaps between frames that the manual wants for copper.
const GAP: u32 = 10 | 8 << 10 | 6 << 20;
/// Checksums of IPv4, TCP and UDP are verified.
const VERIFY: u32 = 1 << 8 | 1 << 9;
/// An address is valid.
const VALID: u32 = 1 << 31;
/// Causes of interrupts: sent; the link; few receive descriptors are left; none is; received.
const SENT: u32 = 1;
const LINK: u32 = 1 << 2;
const RECEIVED: u32 = 1 << 4 | 1 << 6 | 1 << 7;
/// What is read where there is no device any more.
const GONE: u32 = u32::MAX;

/// What is different from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    name: &'static str,
    /// It can cut segments.
    cuts: bool,
    /// It has registers of the 82571 and after.
    new: bool,
}

/// Which one that is; `None` if it is none of them.
pub(crate) fn kind(vendor: u16, device: u16) -> Option<Kind> {
    let kind = |name, cuts, new| Some(Kind { name, cuts, new });
    match (vendor, device) {
        (VENDOR, 0x1004) => kind("82543GC", false, false),
        (VENDOR, 0x100c) => kind("82544GC", true, false),
        (VENDOR, 0x100e) => kind("82540EM", true, false),
        (VENDOR, 0x100f) => kind("82545EM", true, false),
        (VENDOR, 0x10d3) => kind("82574L", true, true),
        _ => None,
    }
}

/// A device that has been found: its registers, and its interrupt.
pub(crate) struct Wires {
    pub(crate) location: Location,
    pub(crate) kind: Kind,
    pub(crate) registers: Mmio,
    pub(crate) interrupt: Irq,
    /// Whether the interrupt is a message, and its own.
    pub(crate) is_message: bool,
    pub(crate) leash: Leash,
}

impl Wires {
    fn read(&self, register: usize) -> u32 {
        self.registers.read32(register)
    }

    fn write(&self, register: usize, value: u32) {
        self.registers.write32(register, value);
    }

    /// Let it forget everything. What some emulate of a reset is no more than that its bit is cleared, so both directions are
    /// stopped before that.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        self.write(MASK_CLEAR, u32::MAX);
        self.write(RECEIVE_CONTROL, 0);
        self.write(SEND_CONTROL, 0);
        let mut control = self.read(CONTROL);
        if self.kind.new {
            control |= LEAVE_BUS;
            self.write(CONTROL, control);
            // What does not come to an end is ended by the reset, and by the bus.
            kernel_io::wait(LEAVE_TIME, || self.read(STATUS) & ON_BUS == 0);
        }
        self.write(CONTROL, control | RESET);
        kernel_io::delay(if self.kind.new { NEW_RESTS } else { OLD_RESTS });
        if !kernel_io::wait(RESET_TIME, || self.read(CONTROL) & RESET == 0) {
            return Err(Error::Reset);
        }
        self.write(MASK_CLEAR, u32::MAX);
        let still = (self.read(RECEIVE_CONTROL) | self.read(SEND_CONTROL)) & 2 != 0;
        // Reading clears them.
        self.read(CAUSES);
        if still || self.read(STATUS) == GONE { Err(Error::Reset) } else { Ok(()) }
    }

    /// Its address: the one that it has taken from its EEPROM, or what is in there.
    fn address(&self) -> Result<[u8; 6], Error> {
        let has_taken = kernel_io::wait(RESET_TIME, || self.read(ADDRESS[1]) & VALID != 0);
        let [low, high] = ADDRESS.map(|register| self.read(register).to_le_bytes());
        let taken = station([low[0], low[1], low[2], low[3], high[0], high[1]]);
        if has_taken && taken.is_ok() {
            return taken;
        }
        let mut mac = [0; 6];
        for (word, bytes) in mac.chunks_mut(2).enumerate() {
            bytes.copy_from_slice(&self.eeprom(word as u32)?.to_le_bytes());
        }
        station(mac)
    }

    fn eeprom(&self, word: u32) -> Result<u16, Error> {
        let (address, done) = if self.kind.new { (2, 1 << 1) } else { (8, 1 << 4) };
        self.write(EEPROM_READ, word << address | 1);
        let mut read = 0;
        let is_done = kernel_io::wait(1000, || {
            read = self.read(EEPROM_READ);
            read & done != 0 && read != GONE
        });
        if is_done { Ok((read >> 16) as u16) } else { Err(Error::Layout("it has no address")) }
    }

    /// See whether its line is the one that firmware has noted: raise it once.
    fn try_out(&self) {
        self.interrupt.try_out(|| {
            self.write(MASK_SET, LINK);
            self.write(CAUSE, LINK);
        });
        self.write(MASK_CLEAR, u32::MAX);
        self.read(CAUSES);
    }

    /// Tell it where a ring is. It is empty.
    fn attach(&self, ring: usize, address: u64, bytes: usize) {
        for (register, half) in RING.into_iter().zip([address as u32, (address >> 32) as u32]) {
            self.write(ring + register, half);
        }
        self.write(ring + RING_BYTES, bytes as u32);
        self.write(ring + HEAD, 0);
        self.write(ring + TAIL, 0);
    }
}

/// One of Intel's NICs.
pub struct Intel {
    wires: Wires,
    receive: Receive,
    transmit: Transmit,
    mac: [u8; 6],
    plan: Plan,
    state: State,
    resets: Resets,
    /// Its registers are all ones.
    gone: bool,
    link: bool,
    /// The interrupts that it may raise.
    wanted: u32,
    counters: Counters,
}

/// Open the device at `at` and bring it up, with buffers of at most `memory` bytes.
pub(crate) fn open(pci: &mut Pci, at: DeviceFunction, kind: Kind, memory: usize) -> Result<Intel, Error> {
    let capabilities = pci.capabilities(at)?;
    pci.disable(at);
    let registers = pci.map(at, 0, 0, REGISTERS)?;
    let message = capabilities.iter().find(|it| kind.new && it.is_msi());
    let interrupt = if message.is_some() { Irq::allocate()? } else { pci.line(at)? };
    let (location, leash, is_message) = (Location::Pci(at), pci.leash(at), message.is_some());
    let wires = Wires { location, kind, registers, interrupt, is_message, leash };
    pci.enable_registers(at);
    wires.reset()?;
    match message {
        Some(capability) => pci.use_message(at, capability, wires.interrupt.message())?,
        None => pci.enable_line(at),
    }
    Intel::new(wires, memory)
}

impl Intel {
    /// Bring a device up that has been reset.
    pub(crate) fn new(wires: Wires, memory: usize) -> Result<Self, Error> {
        let mac = wires.address()?;
        if !wires.is_message {
            wires.try_out();
        }
        let features = if wires.kind.cuts { feature::NET_HOST_TSO4 } else { 0 } | feature::NET_CSUM;
        let mut plan = plan(&Offer { features, mtu: USUAL_MTU, queues: [BUFFERS; 2] }, memory);
        // It is given buffers of 2048 bytes, which costs a third more than was planned for each.
        plan.receive.count = (plan.receive.count * 3 / 4).max(1);
        let (receive, transmit) = (plan.receive, plan.transmit);
        let mut nic = Self {
            receive: Receive::new(Buffer::allocate(receive.count, BUFFER)?, receive.frame)?,
            transmit: Transmit::new(Buffer::allocate(transmit.count, transmit.frame)?)?,
            wires,
            mac,
            plan,
            state: State::Up,
            resets: Resets::NONE,
            gone: false,
            link: true,
            wanted: 0,
            counters: Counters::default(),
        };
        nic.start();
        let [a, b, c, d, e, f] = nic.mac;
        log::info!(
            "{}: {} {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {}, receives {} x {}, sends {} x {}, by {}",
            nic.location(),
            nic.wires.kind.name,
            plan.mtu,
            receive.count,
            receive.frame,
            transmit.count,
            transmit.frame,
            if nic.wires.is_message { "message" } else { "line" },
        );
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.wires.location
    }

    /// Say when the link goes or comes. Nothing else follows from it: what is sent meanwhile is lost, as on a wire.
    fn look_at_link(&mut self) {
        let link = self.wires.read(STATUS) & LINK_UP != 0;
        if link != self.link {
            log::warn!("{}: the link is {}", self.location(), if link { "up" } else { "down" });
        }
        self.link = link;
    }

    /// From reset to receiving.
    fn start(&mut self) {
        let Self { wires, receive, transmit, .. } = self;
        wires.leash.let_go();
        wires.write(CONTROL, RUN);
        let [a, b, c, d, e, f] = self.mac;
        wires.write(ADDRESS[0], u32::from_le_bytes([a, b, c, d]));
        wires.write(ADDRESS[1], u32::from_le_bytes([e, f, 0, 0]) | VALID);
        (0..MULTICAST_WORDS).for_each(|word| wires.write(MULTICAST + 4 * word, 0));
        // Interrupts are held back by nothing: they are asked for only before the machine idles.
        wires.write(THROTTLE, 0);
        for register in RECEIVE_DELAYS.into_iter().chain(SEND_DELAYS) {
            wires.write(register, 0);
        }
        wires.write(RECEIVE_CHECKSUM, VERIFY);
        wires.attach(RECEIVE_RING, receive.address(), receive.bytes());
        wires.attach(SEND_RING, transmit.address(), transmit.bytes());
        wires.write(SEND_GAP, GAP);
        wires.write(SEND_CONTROL, SEND);
        wires.write(RECEIVE_CONTROL, RECEIVE);
        receive.fill();
        self.wanted = 0;
        self.announce();
    }

    /// Say up to where there are receive buffers.
    fn announce(&mut self) {
        if let Some(tail) = self.receive.untold() {
            self.wires.write(RECEIVE_RING + TAIL, tail);
        }
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
        self.gone = false;
        Ok(())
    }

    /// The device is not to be trusted as it is: reset it and, unless that happens all the time, bring it up again.
    fn fail(&mut self, why: Option<Lie>, now: Instant) {
        self.counters.resets += 1;
        match why {
            Some(lie) => log::warn!("{}: it broke its contract ({lie:?}): reset", self.location()),
            None => log::warn!("{}: it does not answer: reset", self.location()),
        }
        let rest = self.resets.another(now);
        if let Err(error) = self.stop() {
            log::error!("{}: given up: {error}", self.location());
            self.wires.leash.hold();
            self.state = State::Dead;
        } else if let Some(until) = rest {
            self.state = State::Resting { until };
        } else {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.state = State::Up;
        self.start();
    }

    /// Whether frames can go either way; brings a device back that has rested.
    fn is_up(&mut self, now: Instant) -> bool {
        if core::mem::take(&mut self.gone) {
            self.fail(None, now);
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.restart();
        }
        self.state == State::Up
    }

    /// Let it raise these interrupts only.
    fn want(&mut self, causes: u32) {
        if self.wanted != causes {
            self.wires.write(MASK_CLEAR, !causes);
            self.wires.write(MASK_SET, causes);
            self.wanted = causes;
        }
    }

    /// Take its interrupt. Reading the causes clears them, and lets go of the line. A line may be others' as well, so that it
    /// may have been taken by one of them; a message is ours alone.
    fn acknowledge(&mut self) {
        let raised = self.wires.interrupt.take();
        if self.wires.is_message && !raised {
            return;
        }
        let causes = self.wires.read(CAUSES);
        self.gone = causes == GONE;
        if self.gone {
            return;
        }
        if !self.wires.is_message && causes & self.wanted != 0 {
            self.wires.interrupt.claim();
        }
        if causes & LINK != 0 {
            self.look_at_link();
        }
    }
}

impl network_nic::Device for Intel {
    type RxToken<'a> = RxToken<Rx<'a>>;
    type TxToken<'a> = TxToken<Tx<'a>>;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // The stack may want to answer, so a frame is taken only when there is room for the answer.
        if !self.is_up(now) || !self.transmit.has_room() {
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
                self.fail(Some(lie), now);
                None
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let room = self.is_up(now) && self.transmit.has_room();
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

impl Nic for Intel {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked, and what had no room may have.
        self.state != State::Up || self.gone || self.transmit.starved || self.receive.waits()
    }

    fn flush(&mut self) {
        if self.state != State::Up {
            return;
        }
        if let Some(tail) = self.transmit.untold() {
            self.wires.write(SEND_RING + TAIL, tail);
        }
        self.announce();
    }

    fn arm(&mut self) -> bool {
        if self.state == State::Up && !self.transmit.starved && self.receive.waits() {
            return true;
        }
        match self.state {
            State::Up => self.acknowledge(),
            State::Resting { .. } | State::Dead => return false,
        }
        if self.gone {
            return true;
        }
        // Without room to answer no frame is taken, so one that waits is no reason to go on; room is.
        if self.transmit.starved {
            self.want(SENT | LINK);
            self.transmit.waits()
        } else {
            self.want(RECEIVED | LINK);
            self.receive.waits()
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

impl Drop for Intel {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.state != State::Dead && self.stop().is_err() {
            log::error!("{}: {}", self.location(), Error::Reset);
            self.wires.leash.hold();
        }
    }
}
