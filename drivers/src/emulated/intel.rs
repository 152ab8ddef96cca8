//! The device's side of Intel's NICs, inside a host test. It does what the test says, lies included, and is strict with the
//! driver.

use crate::intel::{Intel, Kind, REGISTERS, Wires};
use crate::pci::Leash;
use crate::{Error, Location};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use kernel_io::emulated::{Registers, attach_registers, raise, read_memory, write_memory};
use kernel_io::{Irq, Message, Mmio};

/// Of a receive descriptor's status and errors: it is done, the end of a frame; nothing was verified; TCP's checksum was.
pub(crate) const DONE: u16 = 1;
pub(crate) const END: u16 = 1 << 1;
pub(crate) const IGNORE: u16 = 1 << 2;
pub(crate) const VERIFIED: u16 = 1 << 5;

std::thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0x70_0000_0000) };
}

/// How it is, and what it does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) mac: [u8; 6],
    /// Its address is in its EEPROM only; in none.
    pub(crate) only_eeprom: bool,
    pub(crate) no_eeprom: bool,
    /// A reset is no more than a bit that is cleared.
    pub(crate) shallow: bool,
    /// It does not come out of reset; it goes on receiving; its registers are all ones.
    pub(crate) stuck: bool,
    pub(crate) unstoppable: bool,
    pub(crate) gone: bool,
    pub(crate) link: bool,
}

/// An emulated device. Clones are the same device.
#[derive(Clone)]
pub(crate) struct Emulated(Rc<RefCell<Model>>);

struct Model {
    manner: Manner,
    new: bool,
    address: u64,
    registers: Vec<u32>,
    causes: u32,
    mask: u32,
    message: Message,
    interrupts: u64,
    /// How often each tail was written: receive, send.
    told: [u64; 2],
    resets: u32,
    /// It has lied, so that what it believes to have it may not have.
    lied: bool,
    /// PCI's command register.
    command: Rc<Cell<u16>>,
}

/// A frame that was sent, and what is to be done with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) frame: Vec<u8>,
    /// Where TCP begins, and where its checksum is; how long the headers and the segments are.
    pub(crate) checksum: Option<(u8, u8)>,
    pub(crate) cut: Option<(u8, u16)>,
    pub(crate) pieces: usize,
}

const RING: [usize; 2] = [0x2800, 0x3800];

fn pair(address: u64) -> [u64; 2] {
    let mut bytes = [0; 16];
    read_memory(address, &mut bytes).expect("the driver's");
    let (words, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

struct Device(Emulated);

impl Registers for Device {
    fn read(&self, offset: u64, width: usize) -> u64 {
        assert_eq!(width, 4);
        let mut model = self.0.0.borrow_mut();
        let value = match offset {
            _ if model.manner.gone => u32::MAX,
            0x08 => {
                let on_bus = model.new && model.registers[0] & 4 == 0;
                0x8000_0081 | u32::from(model.manner.link) << 1 | u32::from(on_bus) << 19
            }
            0xc0 => core::mem::take(&mut model.causes),
            0 | 0x14 | 0x100 | 0x400 | 0x5400 | 0x5404 => model.registers[offset as usize / 4],
            _ => panic!("the driver reads {offset:#x}"),
        };
        value.into()
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        assert_eq!(width, 4);
        let mut model = self.0.0.borrow_mut();
        if model.manner.gone {
            return;
        }
        match offset {
            0xc8 => model.causes |= value as u32,
            0xd0 => model.mask |= value as u32,
            0xd8 => model.mask &= !(value as u32),
            _ => model.write(offset as usize, value as u32),
        }
        model.interrupt(0);
    }
}

impl Model {
    fn write(&mut self, offset: usize, value: u32) {
        match offset {
            0 if value & 1 << 26 != 0 => {
                assert!(!self.new || self.registers[0] & 4 != 0, "it leaves the bus before its reset");
                return self.reset();
            }
            0x14 => return self.read_eeprom(value),
            0x100 if self.manner.unstoppable && value == 0 => return,
            0x100 | 0x400 if value & 2 != 0 => {
                let ring = RING[usize::from(offset == 0x400)];
                assert!(self.ring(ring).is_multiple_of(4096), "its ring comes first");
                assert!(self.registers[ring / 4 + 2].is_multiple_of(128));
                assert_eq!(self.registers[ring / 4 + 4], self.registers[ring / 4 + 6], "it is empty");
                assert_eq!(self.command.get() & 4, 4, "it cannot reach memory");
                self.lied = false;
            }
            0x2818 | 0x3818 => {
                let ring = usize::from(offset == 0x3818);
                assert!(value < self.registers[RING[ring] / 4 + 2] / 16, "a tail within the ring");
                self.told[ring] += 1;
            }
            0 | 0x100 | 0x400 | 0xc4 | 0x410 | 0x2820 | 0x282c | 0x3820 | 0x382c | 0x5000..0x5408 => {}
            0x2800..0x2814 | 0x3800..0x3814 => {
                let control = if offset < 0x3000 { 0x100 } else { 0x400 };
                assert_eq!(self.registers[control / 4] & 2, 0, "a ring is moved while it is in use");
            }
            _ => panic!("the driver writes {offset:#x}"),
        }
        self.registers[offset / 4] = value;
    }

    fn reset(&mut self) {
        if self.manner.stuck {
            self.registers[0] |= 1 << 26;
            return;
        }
        self.resets += 1;
        if !self.manner.shallow {
            self.registers.fill(0);
            self.mask = 0;
        }
        self.registers[0] &= !(1 << 26 | 1 << 2);
        if self.manner.unstoppable {
            self.registers[0x100 / 4] = 2;
        }
        let [a, b, c, d, e, f] = self.manner.mac;
        if !self.manner.only_eeprom {
            self.registers[0x5400 / 4] = u32::from_le_bytes([a, b, c, d]);
            self.registers[0x5404 / 4] = u32::from_le_bytes([e, f, 0, 0x80]);
        }
    }

    fn read_eeprom(&mut self, value: u32) {
        let (shift, done) = if self.new { (2, 2) } else { (8, 0x10) };
        let word = (value >> shift) as usize & 0xff;
        assert_eq!(value & 1, 1);
        let bytes = &self.manner.mac[word * 2..word * 2 + 2];
        let data = u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16;
        self.registers[0x14 / 4] = if self.manner.no_eeprom { 0 } else { data | done };
    }

    fn ring(&self, ring: usize) -> u64 {
        u64::from(self.registers[ring / 4]) | u64::from(self.registers[ring / 4 + 1]) << 32
    }

    fn interrupt(&mut self, causes: u32) {
        let fresh = causes & !self.causes;
        self.causes |= causes;
        // A message is sent for what is new; a line is up for as long as there is something.
        if self.causes & self.mask != 0 && (!self.new || fresh & self.mask != 0) {
            self.interrupts += u64::from(causes != 0);
            raise(self.message);
        }
    }

    /// The next descriptor of a ring that the driver has given: its place in memory.
    fn take(&mut self, ring: usize) -> Option<u64> {
        let control = [0x100, 0x400][ring];
        let base = RING[ring] / 4;
        let (head, tail) = (self.registers[base + 4], self.registers[base + 6]);
        if self.registers[control / 4] & 2 == 0 || head == tail {
            return None;
        }
        self.registers[base + 4] = (head + 1) % (self.registers[base + 2] / 16);
        Some(self.ring(RING[ring]) + u64::from(head) * 16)
    }
}

impl Emulated {
    pub(crate) fn new() -> Self {
        let address = NEXT.replace(NEXT.get() + 0x1_0000);
        let manner = Manner {
            mac: [0, 0x50, 0x56, 0, 0, 2],
            only_eeprom: false,
            no_eeprom: false,
            shallow: false,
            stuck: false,
            unstoppable: false,
            gone: false,
            link: true,
        };
        let device = Self(Rc::new(RefCell::new(Model {
            manner,
            new: false,
            address,
            registers: vec![0; REGISTERS / 4],
            causes: 0,
            mask: 0,
            message: Message::default(),
            interrupts: 0,
            told: [0; 2],
            resets: 0,
            lied: false,
            command: Rc::default(),
        })));
        attach_registers(address, REGISTERS as u64, Rc::new(Device(device.clone())));
        device
    }

    /// The driver on top, for the kind of that number on PCI: an 82574L sends a message.
    pub(crate) fn driver(&self, device: u16, memory: usize) -> Result<Intel, Error> {
        let kind: Kind = crate::intel::kind(0x8086, device).expect("one of them");
        let is_message = device == 0x10d3;
        let interrupt = Irq::allocate()?;
        let address = self.0.borrow().address;
        {
            let mut model = self.0.borrow_mut();
            (model.message, model.new) = (interrupt.message(), is_message);
        }
        let registers = Mmio::map(address, REGISTERS)?;
        let leash = Leash::emulated(&self.0.borrow().command);
        let location = Location::Mmio(address);
        let wires = Wires { location, kind, registers, interrupt, is_message, leash };
        wires.reset()?;
        self.0.borrow_mut().resets = 0;
        Intel::new(wires, memory)
    }

    /// Change how it is.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.0.borrow_mut().manner);
    }

    /// Something happens by which an interrupt is caused.
    pub(crate) fn happen(&self, causes: u32) {
        self.0.borrow_mut().interrupt(causes);
    }

    /// PCI's command register.
    pub(crate) fn command(&self) -> u16 {
        self.0.borrow().command.get()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.borrow().registers[0x100 / 4] & 2 != 0
    }

    pub(crate) fn resets(&self) -> u32 {
        self.0.borrow().resets
    }

    /// How often it was told of each tail since the last call, and how often it interrupted.
    pub(crate) fn told_and_interrupts(&self) -> ([u64; 2], u64) {
        let mut model = self.0.borrow_mut();
        (core::mem::take(&mut model.told), core::mem::take(&mut model.interrupts))
    }

    /// What follows may be a lie.
    pub(crate) fn lie(&self) -> &Self {
        self.0.borrow_mut().lied = true;
        self
    }

    /// Write the second word of a descriptor, whichever that is.
    pub(crate) fn write(&self, ring: usize, place: u64, word: u64) {
        let model = self.0.borrow();
        let size = u64::from(model.registers[RING[ring] / 4 + 2] / 16);
        write_memory(model.ring(RING[ring]) + place % size * 16 + 8, &word.to_le_bytes())
            .expect("the driver's");
    }

    /// Receive descriptors that the driver has told of.
    pub(crate) fn buffers(&self) -> usize {
        let model = self.0.borrow();
        let base = RING[0] / 4;
        let (size, head, tail) =
            (model.registers[base + 2] / 16, model.registers[base + 4], model.registers[base + 6]);
        ((tail + size - head) % size) as usize
    }

    /// Take the next receive descriptor: its place in memory, and the address of its buffer.
    pub(crate) fn take(&self) -> Option<(u64, u64)> {
        let at = self.0.borrow_mut().take(0)?;
        Some((at, pair(at)[0]))
    }

    /// Return a receive descriptor that says so, with the errors in the upper byte.
    pub(crate) fn complete(&self, at: u64, length: u16, status: u16) {
        let word = u64::from(length) | u64::from(status) << 32;
        write_memory(at + 8, &word.to_le_bytes()).expect("the driver's");
        self.happen(1 << 7);
    }

    /// Put a frame into the next buffer. Answers `false` when there is none.
    pub(crate) fn deliver(&self, frame: &[u8], status: u16) -> bool {
        let Some((at, address)) = self.take() else {
            self.happen(1 << 6);
            return false;
        };
        let done = write_memory(address, &frame[..frame.len().min(2048)]);
        assert!(done.is_ok() || self.0.borrow().lied, "a descriptor points to what was not lent");
        self.complete(at, frame.len() as u16, status);
        true
    }

    /// The next frame that was sent.
    pub(crate) fn sent(&self) -> Option<Sent> {
        let lied = self.0.borrow().lied;
        let (mut context, mut begun) = ([0; 2], false);
        let mut sent = Sent { frame: Vec::new(), checksum: None, cut: None, pieces: 0 };
        loop {
            let Some(at) = self.0.borrow_mut().take(1) else {
                assert!(!begun || lied, "half a frame");
                return None;
            };
            begun = true;
            let [first, second] = pair(at);
            assert!(second >> 29 & 1 == 1 || lied, "of the newer form");
            if second >> 20 & 15 == 0 {
                assert!(sent.pieces == 0 || lied, "a context comes before the frame");
                context = [first, second];
                continue;
            }
            let mut piece = vec![0; (second & 0xf_ffff) as usize];
            let done = read_memory(first, &mut piece);
            assert!(done.is_ok() && !piece.is_empty() || lied, "a descriptor points to what was not lent");
            sent.frame.append(&mut piece);
            sent.pieces += 1;
            if second >> 41 & 1 != 0 {
                sent.checksum = Some(((context[0] >> 32) as u8, (context[0] >> 40) as u8));
            }
            if second >> 26 & 1 != 0 {
                assert!(context[1] >> 26 & 1 == 1 || lied);
                sent.cut = Some(((context[1] >> 40) as u8, (context[1] >> 48) as u16));
            }
            if second >> 24 & 1 != 0 {
                assert!(second >> 27 & 1 == 1 || lied, "it is to be reported");
                if let Some((headers, _)) = sent.cut {
                    let payload = sent.frame.len().checked_sub(headers.into());
                    assert!(payload == Some((context[1] & 0xf_ffff) as usize) || lied);
                }
                write_memory(at + 8, &(second | 1 << 32).to_le_bytes()).expect("the driver's");
                self.happen(1);
                return Some(sent);
            }
        }
    }
}
