//! The RTL8139C+, the NIC that Xen gives a machine of which it knows nothing (RTL8139C(L)+ datasheet, revision 1.6).
//!
//! Its C+ mode only: rings of up to 64 descriptors each way, where the mode of its ancestors copies everything through one
//! ring of bytes. Nothing is offloaded: what hypervisors emulate verifies no checksums, and cuts segments by its own idea
//! of their size.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
mod ring;
#[cfg(test)]
mod tests;

pub use ring::{Rx, Tx};

use crate::nic::{ETHERNET, USUAL_MTU, station};
use crate::pci::{DeviceFunction, Leash, Pci};
use crate::resets::{Resets, State};
use crate::virtio::net::plan::{Offer, Plan, plan};
use crate::{Error, Location, RxToken, TxToken};
use kernel_io::{Buffer, Irq, Mmio};
use network_nic::{Checksum, Counters, DeviceCapabilities, Instant, Medium, Nic, SegmentationCapabilities};
use ring::{CHECKSUM, Lie, MOST, Receive, Transmit};

/// Its vendor and device on PCI, and the first revision that is a C+.
pub(crate) const ID: (u16, u16) = (0x10ec, 0x8139);
const FIRST_PLUS: u8 = 0x20;
/// Bytes of its registers, in BAR 1.
pub(crate) const REGISTERS: usize = 256;

/// Registers (section 6).
const MULTICAST: [usize; 2] = [0x08, 0x0c];
const SEND_RING: [usize; 2] = [0x20, 0x24];
const COMMAND: usize = 0x37;
const INTERRUPT_MASK: usize = 0x3c;
const INTERRUPTS: usize = 0x3e;
const SEND_CONFIGURATION: usize = 0x40;
const RECEIVE_CONFIGURATION: usize = 0x44;
const MEDIA: usize = 0x58;
const POLL: usize = 0xd9;
const PLUS: usize = 0xe0;
const RECEIVE_RING: [usize; 2] = [0xe4, 0xe8];

/// Commands: reset; receive and send.
const RESET: u8 = 1 << 4;
const RUN: u8 = 1 << 3 | 1 << 2;
/// How long a reset may take, in microseconds.
const RESET_TIME: u32 = 100_000;
/// The C+ mode both ways, with read lines and addresses of 64 bits.
const PLUS_MODE: u16 = 1 | 1 << 1 | 1 << 3 | 1 << 4;
/// Sending as the standard wants it: the usual gap between frames, bursts of a kilobyte.
const SEND_AS_USUAL: u32 = 3 << 24 | 6 << 8;
/// Receiving: what is for its address and for all, as it comes, in bursts of any length.
const RECEIVE_AS_USUAL: u32 = 1 << 1 | 1 << 3 | 7 << 8 | 7 << 13;
/// There is something to send.
const POLL_SEND: u8 = 1 << 6;
/// The link is down.
const LINK_DOWN: u8 = 1 << 2;
/// Interrupts: received, well or not, or no descriptor to receive to; sent, well or not; the link has changed; PCI has
/// failed it.
const RECEIVED: u16 = 1 | 1 << 1 | 1 << 4 | 1 << 6;
const SENT: u16 = 1 << 2 | 1 << 3;
const LINK: u16 = 1 << 5;
const FAILED: u16 = 1 << 15;

/// A device that has been found: its registers, and its interrupt.
pub(crate) struct Wires {
    pub(crate) location: Location,
    pub(crate) registers: Mmio,
    pub(crate) interrupt: Irq,
    pub(crate) leash: Leash,
}

impl Wires {
    /// Let it forget everything.
    fn reset(&self) -> Result<(), Error> {
        // One that does not come out of it keeps no line up.
        self.registers.write16(INTERRUPT_MASK, 0);
        self.registers.write8(COMMAND, RESET);
        let done = || self.registers.read8(COMMAND) & RESET == 0;
        if kernel_io::wait(RESET_TIME, done) { Ok(()) } else { Err(Error::Reset) }
    }

    /// A register's high half first: it is looked at when the low half is written.
    fn write_address(&self, [low, high]: [usize; 2], address: u64) {
        self.registers.write32(high, (address >> 32) as u32);
        self.registers.write32(low, address as u32);
    }
}

/// An RTL8139C+.
pub struct Rtl8139 {
    wires: Wires,
    receive: Receive,
    transmit: Transmit,
    mac: [u8; 6],
    plan: Plan,
    state: State,
    resets: Resets,
    /// PCI has failed it.
    failed: bool,
    link: bool,
    /// The interrupts that it may raise.
    wanted: u16,
    counters: Counters,
}

/// Open the device at `at` and bring it up, with buffers of at most `memory` bytes.
pub(crate) fn open(pci: &mut Pci, at: DeviceFunction, revision: u8, memory: usize) -> Result<Rtl8139, Error> {
    if revision < FIRST_PLUS {
        return Err(Error::Unsupported("an RTL8139 without its C+ mode"));
    }
    pci.disable(at);
    let registers = pci.map(at, 1, 0, REGISTERS)?;
    let interrupt = pci.line(at)?;
    let wires = Wires { location: Location::Pci(at), registers, interrupt, leash: pci.leash(at) };
    pci.enable_registers(at);
    wires.reset()?;
    pci.enable_line(at);
    Rtl8139::new(wires, memory)
}

impl Rtl8139 {
    /// Bring a device up that has been reset.
    pub(crate) fn new(wires: Wires, memory: usize) -> Result<Self, Error> {
        let mac = station(core::array::from_fn(|byte| wires.registers.read8(byte)))?;
        let plan = plan(&Offer { features: 0, mtu: USUAL_MTU, queues: [MOST; 2] }, memory);
        let (receive, transmit) = (plan.receive, plan.transmit);
        let mut nic = Self {
            receive: Receive::new(Buffer::allocate(receive.count, receive.frame + CHECKSUM)?)?,
            transmit: Transmit::new(Buffer::allocate(transmit.count, transmit.frame)?)?,
            wires,
            mac,
            plan,
            state: State::Up,
            resets: Resets::NONE,
            failed: false,
            link: true,
            wanted: 0,
            counters: Counters::default(),
        };
        nic.start();
        let [a, b, c, d, e, f] = nic.mac;
        log::info!(
            "{}: RTL8139C+ {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {}, receives {} x {}, sends {} x {}",
            nic.location(),
            plan.mtu,
            receive.count,
            receive.frame,
            transmit.count,
            transmit.frame,
        );
        nic.look_at_link();
        Ok(nic)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.wires.location
    }

    /// Say when the link goes or comes. Nothing else follows from it: what is sent meanwhile is lost, as on a wire.
    fn look_at_link(&mut self) {
        let link = self.wires.registers.read8(MEDIA) & LINK_DOWN == 0;
        if link != self.link {
            log::warn!("{}: the link is {}", self.location(), if link { "up" } else { "down" });
        }
        self.link = link;
    }

    /// From reset to receiving. The rings are told once the mode is on: that makes it forget them (section 6.33).
    fn start(&mut self) {
        self.receive.fill();
        self.wires.leash.let_go();
        let registers = &self.wires.registers;
        registers.write16(PLUS, PLUS_MODE);
        self.wires.write_address(RECEIVE_RING, self.receive.address());
        self.wires.write_address(SEND_RING, self.transmit.address());
        registers.write8(COMMAND, RUN);
        for register in MULTICAST {
            registers.write32(register, 0);
        }
        registers.write32(SEND_CONFIGURATION, SEND_AS_USUAL);
        registers.write32(RECEIVE_CONFIGURATION, RECEIVE_AS_USUAL);
        registers.write16(INTERRUPT_MASK, 0);
        self.wanted = 0;
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
        self.failed = false;
        Ok(())
    }

    /// The device is not to be trusted as it is: reset it and, unless that happens all the time, bring it up again.
    fn fail(&mut self, why: Option<Lie>, now: Instant) {
        self.counters.resets += 1;
        match why {
            Some(lie) => log::warn!("{}: it broke its contract ({lie:?}): reset", self.location()),
            None => log::warn!("{}: PCI has failed it: reset", self.location()),
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
        if core::mem::take(&mut self.failed) {
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
    fn want(&mut self, interrupts: u16) {
        if self.wanted != interrupts {
            self.wires.registers.write16(INTERRUPT_MASK, interrupts);
            self.wanted = interrupts;
        }
    }

    /// Take its interrupt, after which its line is down until something happens again. The line may be others' as well, so
    /// that it may have been taken by one of them.
    fn acknowledge(&mut self) {
        self.wires.interrupt.take();
        let raised = self.wires.registers.read16(INTERRUPTS);
        self.wires.registers.write16(INTERRUPTS, raised);
        if raised & self.wanted != 0 {
            self.wires.interrupt.claim();
        }
        self.failed = raised & FAILED != 0;
        if raised & LINK != 0 {
            self.look_at_link();
        }
    }
}

impl network_nic::Device for Rtl8139 {
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
        capabilities.checksum.tcp = Checksum::Both;
        capabilities.segmentation = SegmentationCapabilities::default();
        capabilities
    }
}

impl Nic for Rtl8139 {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    #[inline]
    fn waits(&self) -> bool {
        // What is not up may come back when it is asked, and what had no room may have.
        self.state != State::Up || self.failed || self.transmit.starved || self.receive.waits()
    }

    fn flush(&mut self) {
        if self.state == State::Up && core::mem::take(&mut self.transmit.untold) {
            self.wires.registers.write8(POLL, POLL_SEND);
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
        if self.failed {
            return true;
        }
        // Without room to answer no frame is taken, so one that waits is no reason to go on; room is.
        if self.transmit.starved {
            self.want(SENT | LINK | FAILED);
            self.transmit.waits()
        } else {
            self.want(RECEIVED | LINK | FAILED);
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

impl Drop for Rtl8139 {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.state != State::Dead && self.stop().is_err() {
            log::error!("{}: {}", self.location(), Error::Reset);
            self.wires.leash.hold();
        }
    }
}
