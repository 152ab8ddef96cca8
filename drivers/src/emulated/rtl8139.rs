//! The device's side of an RTL8139C+, inside a host test. It does what the test says, lies included, and is strict with the
//! driver.

use crate::pci::Leash;
use crate::rtl8139::{REGISTERS, Rtl8139, Wires};
use crate::{Error, Location};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use kernel_io::emulated::{Registers, attach_registers, raise, read_memory, write_memory};
use kernel_io::{Irq, Message, Mmio};

/// A descriptor's bits: the device's; the last of the ring; first and last of a frame.
pub(crate) const OWNED: u32 = 1 << 31;
const LAST: u32 = 1 << 30;
pub(crate) const WHOLE: u32 = 3 << 28;

std::thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0x60_0000_0000) };
}

/// An emulated device. Clones are the same device.
#[derive(Clone)]
pub(crate) struct Emulated(Rc<RefCell<Model>>);

struct Model {
    address: u64,
    mac: [u8; 6],
    /// It does not come out of reset.
    stuck: bool,
    link_down: bool,
    command: u8,
    plus: u16,
    rings: [u64; 2],
    /// The next descriptor of each ring: receive, send.
    next: [u64; 2],
    mask: u16,
    raised: u16,
    message: Message,
    interrupts: u64,
    polls: u64,
    resets: u32,
    /// It has lied, so that what it believes to have it may not have.
    lied: bool,
    /// PCI's command register.
    bus: Rc<Cell<u16>>,
}

fn word(address: u64) -> u32 {
    let mut bytes = [0; 4];
    read_memory(address, &mut bytes).expect("the driver's");
    u32::from_le_bytes(bytes)
}

fn put(address: u64, word: u32) {
    write_memory(address, &word.to_le_bytes()).expect("the driver's");
}

struct Device(Emulated);

impl Registers for Device {
    fn read(&self, offset: u64, width: usize) -> u64 {
        let model = self.0.0.borrow();
        match (offset, width) {
            (0..6, 1) => model.mac[offset as usize].into(),
            (0x37, 1) if model.stuck => 0xff,
            (0x37, 1) => model.command.into(),
            (0x3e, 2) => model.raised.into(),
            (0x58, 1) => 0xd0 | u64::from(model.link_down) << 2,
            _ => panic!("the driver reads {width} at {offset:#x}"),
        }
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let mut model = self.0.0.borrow_mut();
        match (offset, width) {
            (0x37, 1) => model.command(value as u8),
            (0x3c, 2) => {
                model.mask = value as u16;
                model.interrupt(0);
            }
            (0x3e, 2) => model.raised &= !(value as u16),
            (0xd9, 1) => {
                assert_eq!(value, 0x40);
                model.polls += 1;
            }
            (0xe0, 2) => model.plus = value as u16,
            (0x20 | 0x24, 4) => model.ring(1, offset == 0x24, value),
            (0xe4 | 0xe8, 4) => model.ring(0, offset == 0xe8, value),
            (0x08 | 0x0c | 0x40 | 0x44, 4) => {}
            _ => panic!("the driver writes {width} at {offset:#x}"),
        }
    }
}

impl Model {
    fn command(&mut self, command: u8) {
        if command & 1 << 4 != 0 {
            assert_eq!(self.mask, 0, "it may keep its line up");
            if self.stuck {
                return;
            }
            (self.command, self.plus, self.mask, self.raised, self.lied) = (0, 0, 0, 0, false);
            self.rings = [0; 2];
            self.resets += 1;
            return;
        }
        assert_eq!(self.bus.get() & 4, 4, "it cannot reach memory");
        assert!(self.rings.iter().all(|&ring| ring != 0 && ring.is_multiple_of(256)));
        (self.command, self.next) = (command, [0; 2]);
    }

    fn ring(&mut self, ring: usize, high: bool, value: u64) {
        assert_eq!(self.plus & 0x13, 0x13, "the C+ mode comes first");
        let (keep, add) = if high { (0xffff_ffff, value << 32) } else { (!0xffff_ffff, value) };
        self.rings[ring] = self.rings[ring] & keep | add;
    }

    fn interrupt(&mut self, raised: u16) {
        self.raised |= raised;
        if self.raised & self.mask != 0 {
            self.interrupts += 1;
            raise(self.message);
        }
    }
}

impl Emulated {
    pub(crate) fn new() -> Self {
        let address = NEXT.replace(NEXT.get() + 0x1000);
        let device = Self(Rc::new(RefCell::new(Model {
            address,
            mac: [0, 0x16, 0x3e, 0, 0, 1],
            stuck: false,
            link_down: false,
            command: 0,
            plus: 0,
            rings: [0; 2],
            next: [0; 2],
            mask: 0,
            raised: 0,
            message: Message::default(),
            interrupts: 0,
            polls: 0,
            resets: 0,
            lied: false,
            bus: Rc::default(),
        })));
        attach_registers(address, REGISTERS as u64, Rc::new(Device(device.clone())));
        device
    }

    /// The driver on top.
    pub(crate) fn driver(&self, memory: usize) -> Result<Rtl8139, Error> {
        let interrupt = Irq::allocate()?;
        self.0.borrow_mut().message = interrupt.message();
        let address = self.0.borrow().address;
        let registers = Mmio::map(address, REGISTERS)?;
        let leash = Leash::emulated(&self.0.borrow().bus);
        Rtl8139::new(Wires { location: Location::Mmio(address), registers, interrupt, leash }, memory)
    }

    pub(crate) fn set_mac(&self, mac: [u8; 6]) {
        self.0.borrow_mut().mac = mac;
    }

    pub(crate) fn stick(&self) {
        self.0.borrow_mut().stuck = true;
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.0.borrow_mut().link_down = !up;
        self.happen(1 << 5);
    }

    /// Something happened, by its bit.
    pub(crate) fn happen(&self, what: u16) {
        self.0.borrow_mut().interrupt(what);
    }

    /// PCI's command register.
    pub(crate) fn bus(&self) -> u16 {
        self.0.borrow().bus.get()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.borrow().command & 0xc == 0xc
    }

    pub(crate) fn resets(&self) -> u32 {
        self.0.borrow().resets
    }

    /// How often it was told to send since the last call, and how often it interrupted.
    pub(crate) fn polls_and_interrupts(&self) -> (u64, u64) {
        let mut model = self.0.borrow_mut();
        (core::mem::take(&mut model.polls), core::mem::take(&mut model.interrupts))
    }

    /// What follows may be a lie.
    pub(crate) fn lie(&self) -> &Self {
        self.0.borrow_mut().lied = true;
        self
    }

    /// The descriptor at a place of a ring (0 receives, 1 sends): its word and its address.
    fn descriptor(&self, ring: usize, place: u64) -> (u32, u64) {
        let at = self.0.borrow().rings[ring] + place * 16;
        (word(at), u64::from(word(at + 8)) | u64::from(word(at + 12)) << 32)
    }

    /// Write the word of a descriptor, whichever that is.
    pub(crate) fn write(&self, ring: usize, place: u64, word: u32) {
        put(self.0.borrow().rings[ring] + place * 16, word);
    }

    /// Receive descriptors that are the device's.
    pub(crate) fn buffers(&self) -> usize {
        let end = (0..64).find(|&place| self.descriptor(0, place).0 & LAST != 0).expect("a last one");
        (0..=end).filter(|&place| self.descriptor(0, place).0 & OWNED != 0).count()
    }

    /// Take the next descriptor of a ring: its place, word and address.
    pub(crate) fn take(&self, ring: usize) -> Option<(u64, u32, u64)> {
        if !self.is_running() {
            return None;
        }
        let place = self.0.borrow().next[ring];
        let (word, address) = self.descriptor(ring, place);
        (word & OWNED != 0).then(|| {
            let next = if word & LAST == 0 { (place + 1) % 64 } else { 0 };
            self.0.borrow_mut().next[ring] = next;
            (place, word, address)
        })
    }

    /// Put a frame and its checksum into the next buffer, with these bits. Answers `false` when there is none.
    pub(crate) fn deliver(&self, frame: &[u8], bits: u32) -> bool {
        let Some((place, word, address)) = self.take(0) else {
            self.happen(1 << 4);
            return false;
        };
        let length = frame.len() + 4;
        assert!(length <= (word & 0x1fff) as usize || self.0.borrow().lied, "it is too long");
        let done = write_memory(address, frame);
        assert!(done.is_ok() || self.0.borrow().lied, "a descriptor points to what was not lent");
        self.write(0, place, word & LAST | bits | length as u32);
        self.happen(1);
        true
    }

    /// The next frame that was sent.
    pub(crate) fn sent(&self) -> Option<Vec<u8>> {
        let (place, word, address) = self.take(1)?;
        assert!(word & WHOLE == WHOLE || self.0.borrow().lied, "a frame in one piece");
        let mut frame = vec![0; (word & 0xffff) as usize];
        let done = read_memory(address, &mut frame);
        assert!(done.is_ok() || self.0.borrow().lied, "a descriptor points to what was not lent");
        self.write(1, place, word & !OWNED);
        self.happen(1 << 2);
        Some(frame)
    }
}
