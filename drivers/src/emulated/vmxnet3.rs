//! The device's side of vmxnet3, inside a host test. It does what the test says, lies included, and is strict with the driver.

use crate::Error;
use crate::Location;
use crate::pci::Leash;
use crate::vmxnet3::{REGISTERS, Vmxnet3, Wires};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use kernel_io::emulated::{Registers, attach_registers, raise, raise_line, read_memory, write_memory};
use kernel_io::{Irq, Message, Mmio};

/// The whole of a received frame is here; its TCP checksum, over IPv4, has been found right.
pub(crate) const WHOLE: u32 = 3 << 14;
pub(crate) const VOUCHED: u32 = 1 << 16 | 1 << 18 | 1 << 19 | 1 << 21;

/// The line that it raises where it has no messages.
const LINE: u32 = 10;

std::thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0x50_0000_0000) };
}

/// How it is, and what it does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) mac: [u8; 6],
    pub(crate) revisions: u32,
    /// It does not want to be activated.
    pub(crate) refuses: bool,
    /// Its registers are all ones, and it does what it does.
    pub(crate) gone: bool,
    pub(crate) link: bool,
    /// It leaves masking to the driver.
    pub(crate) masked_by_driver: bool,
    /// It wants to be told of receive buffers.
    pub(crate) wants_told: bool,
}

/// An emulated device. Clones are the same device.
#[derive(Clone)]
pub(crate) struct Emulated(Rc<RefCell<Model>>);

struct Model {
    manner: Manner,
    address: u64,
    area: u64,
    command: u32,
    running: Option<Running>,
    masked: [bool; 2],
    /// It raises its line, and holds it.
    line: Option<bool>,
    pending: [bool; 2],
    messages: [Message; 2],
    told: [u64; 2],
    raised: [u64; 2],
    resets: u32,
    /// It has lied, so that what it believes to have it may not have.
    lied: bool,
    /// PCI's command register.
    bus: Rc<Cell<u16>>,
}

/// What it was told when it was activated.
#[derive(Clone, Copy)]
struct Running {
    receive: Queue,
    transmit: Queue,
}

#[derive(Clone, Copy)]
struct Queue {
    descriptors: Ring,
    completions: Ring,
    interrupt: usize,
}

#[derive(Clone, Copy)]
struct Ring {
    address: u64,
    size: u32,
    next: u32,
    generation: u32,
}

/// A frame that was sent, and what is to be done with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) frame: Vec<u8>,
    /// 0 for nothing, 2 for a checksum, 3 for segmentation.
    pub(crate) offload: u32,
    pub(crate) header: u32,
    pub(crate) segment: u32,
    /// Its last descriptor.
    pub(crate) index: u32,
    pub(crate) pieces: usize,
}

fn words<const N: usize>(address: u64) -> [u32; N] {
    let mut bytes = vec![0; N * 4];
    read_memory(address, &mut bytes).expect("the driver's");
    let (words, _) = bytes.as_chunks::<4>();
    core::array::from_fn(|index| u32::from_le_bytes(words[index]))
}

fn word(address: u64) -> u32 {
    words::<1>(address)[0]
}

fn long(address: u64) -> u64 {
    let [low, high] = words(address);
    u64::from(low) | u64::from(high) << 32
}

impl Ring {
    fn new(address: u64, size: u32) -> Self {
        assert!(address.is_multiple_of(512) && size.is_multiple_of(32) && (32..=4096).contains(&size));
        Self { address, size, next: 0, generation: 1 }
    }

    fn advance(&mut self) {
        self.next += 1;
        if self.next == self.size {
            (self.next, self.generation) = (0, self.generation ^ 1);
        }
    }

    fn place(&self) -> u64 {
        self.address + u64::from(self.next) * 16
    }

    fn write(&mut self, [first, second, third, last]: [u32; 4]) {
        let last = last & !(1 << 31) | self.generation << 31;
        let bytes: Vec<u8> = [first, second, third, last].into_iter().flat_map(u32::to_le_bytes).collect();
        write_memory(self.place(), &bytes).expect("the driver's");
        self.advance();
    }
}

impl Queue {
    fn new(at: u64) -> Self {
        let size = word(at + 56);
        assert_eq!((word(at + 60), word(at + 64)), (0, size), "one ring of descriptors, and its completions");
        Self {
            descriptors: Ring::new(long(at + 16), size),
            completions: Ring::new(long(at + 32), size),
            interrupt: (word(at + 72) & 0xff) as usize,
        }
    }
}

struct Passed(Emulated);

impl Registers for Passed {
    fn read(&self, offset: u64, _: usize) -> u64 {
        panic!("the driver reads {offset:#x}");
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        assert_eq!(width, 4);
        let mut model = self.0.0.borrow_mut();
        match offset {
            0 | 8 => model.mask(offset as usize / 8, value & 1 != 0),
            0x600 => model.told[1] += 1,
            0x800 => model.told[0] += 1,
            _ => panic!("the driver writes {offset:#x}"),
        }
    }
}

struct Device(Emulated);

impl Registers for Device {
    fn read(&self, offset: u64, width: usize) -> u64 {
        assert_eq!(width, 4);
        let mut model = self.0.0.borrow_mut();
        let [a, b, c, d, e, f] = model.manner.mac;
        let value = match offset {
            _ if model.manner.gone => u32::MAX,
            0 | 8 => model.manner.revisions,
            0x20 => model.answer(),
            0x28 => u32::from_le_bytes([a, b, c, d]),
            0x38 => u32::from(model.line.replace(false) == Some(true)),
            0x30 => u32::from_le_bytes([e, f, 0, 0]),
            _ => panic!("the driver reads {offset:#x}"),
        };
        value.into()
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        assert_eq!(width, 4);
        let mut model = self.0.0.borrow_mut();
        match offset {
            _ if model.manner.gone => {}
            0 | 8 => assert_eq!(value, 1),
            0x10 => model.area = value,
            0x18 => model.area |= value << 32,
            0x20 => model.obey(value as u32),
            0x28 | 0x30 => {}
            0x40 => model.set_events(|events| events & !(value as u32)),
            _ => panic!("the driver writes {offset:#x}"),
        }
    }
}

impl Model {
    fn obey(&mut self, command: u32) {
        self.command = command;
        match command {
            0xcafe_0000 if !self.manner.refuses => self.activate(),
            0xcafe_0001 => self.running = None,
            0xcafe_0002 => {
                (self.running, self.masked, self.pending) = (None, [true; 2], [false; 2]);
                self.resets += 1;
            }
            _ => {}
        }
    }

    fn answer(&self) -> u32 {
        match self.command {
            0xcafe_0000 => u32::from(self.running.is_none()),
            0xf00d_0002 => u32::from(self.manner.link) | 10_000 << 16,
            0xf00d_0008 => u32::from(self.manner.masked_by_driver) << 2,
            _ => 0,
        }
    }

    fn activate(&mut self) {
        let area = self.area;
        assert_eq!(word(area), 0xbabe_fee1);
        assert_eq!((word(area + 16), word(area + 20)), (1, 1), "the revisions");
        assert_eq!(long(area + 24), 1, "checksums, but no merged segments");
        assert_eq!((word(area + 52), word(area + 60)), (512, 0x0101_0001), "one queue each way");
        assert!((60..=9000).contains(&word(area + 56)));
        let queues = long(area + 40);
        assert!(queues.is_multiple_of(128));
        let (transmit, receive) = (Queue::new(queues), Queue::new(queues + 256));
        let interrupts = word(area + 80);
        assert_eq!(interrupts & 1, u32::from(!self.manner.masked_by_driver));
        assert!(transmit.interrupt.max(receive.interrupt) < (interrupts >> 8 & 0xff) as usize);
        let told = u32::from(self.manner.wants_told);
        write_memory(queues + 256, &told.to_le_bytes()).expect("the driver's");
        assert_eq!(self.bus.get() & 4, 4, "it cannot reach memory");
        (self.running, self.lied) = (Some(Running { receive, transmit }), false);
    }

    fn set_events(&self, change: impl FnOnce(u32) -> u32) {
        assert!(self.running.is_some(), "events of a device that is not active");
        let events = change(word(self.area + 696));
        write_memory(self.area + 696, &events.to_le_bytes()).expect("the driver's");
    }

    fn mask(&mut self, interrupt: usize, masked: bool) {
        self.masked[interrupt] = masked;
        if !masked && self.pending[interrupt] {
            self.interrupt(interrupt);
        }
    }

    fn interrupt(&mut self, interrupt: usize) {
        self.pending[interrupt] = self.masked[interrupt];
        if !self.masked[interrupt] {
            self.masked[interrupt] = !self.manner.masked_by_driver;
            self.raised[interrupt] += 1;
            match &mut self.line {
                Some(line) => {
                    *line = true;
                    raise_line(LINE);
                }
                None => raise(self.messages[interrupt]),
            }
        }
    }
}

impl Emulated {
    pub(crate) fn new() -> Self {
        let address = NEXT.replace(NEXT.get() + 0x1_0000);
        let manner = Manner {
            mac: [0, 0x50, 0x56, 0, 0, 1],
            revisions: 1,
            refuses: false,
            gone: false,
            link: true,
            masked_by_driver: false,
            wants_told: false,
        };
        let device = Self(Rc::new(RefCell::new(Model {
            manner,
            address,
            area: 0,
            command: 0,
            running: None,
            masked: [true; 2],
            line: None,
            pending: [false; 2],
            messages: [Message::default(); 2],
            told: [0; 2],
            raised: [0; 2],
            resets: 0,
            lied: false,
            bus: Rc::default(),
        })));
        attach_registers(address, REGISTERS as u64, Rc::new(Passed(device.clone())));
        attach_registers(address + 0x1000, REGISTERS as u64, Rc::new(Device(device.clone())));
        device
    }

    /// The driver on top, with an interrupt for sent frames or without one, or with a line.
    pub(crate) fn driver(&self, memory: usize, interrupts: usize) -> Result<Vmxnet3, Error> {
        let is_line = interrupts == 0;
        let first = if is_line { Irq::of_line(LINE as u8)? } else { Irq::allocate()? };
        let second = Irq::allocate()?;
        self.0.borrow_mut().line = is_line.then_some(false);
        let address = self.0.borrow().address;
        let leash = Leash::emulated(&self.0.borrow().bus);
        self.0.borrow_mut().messages = [first.message(), second.message()];
        Vmxnet3::new(
            Wires {
                location: Location::Mmio(address),
                passed: Mmio::map(address, REGISTERS)?,
                device: Mmio::map(address + 0x1000, REGISTERS)?,
                interrupts: (first, (interrupts > 1).then_some(second)),
                is_line,
                leash,
            },
            memory,
        )
    }

    /// Change how it is.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.0.borrow_mut().manner);
    }

    /// PCI's command register.
    pub(crate) fn bus(&self) -> u16 {
        self.0.borrow().bus.get()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.borrow().running.is_some()
    }

    pub(crate) fn resets(&self) -> u32 {
        self.0.borrow().resets
    }

    /// How often it was told of receive buffers, and of frames to send, since the last call.
    pub(crate) fn told(&self) -> [u64; 2] {
        core::mem::take(&mut self.0.borrow_mut().told)
    }

    /// How often it raised each interrupt since the last call.
    pub(crate) fn raised(&self) -> [u64; 2] {
        core::mem::take(&mut self.0.borrow_mut().raised)
    }

    /// What follows may be a lie.
    pub(crate) fn lie(&self) -> &Self {
        self.0.borrow_mut().lied = true;
        self
    }

    fn running<R>(&self, f: impl FnOnce(&mut Running) -> R) -> Option<R> {
        self.0.borrow_mut().running.as_mut().map(f)
    }

    /// Say that something happened besides frames.
    pub(crate) fn happen(&self, events: u32) {
        let mut model = self.0.borrow_mut();
        model.set_events(|before| before | events);
        model.interrupt(0);
    }

    /// Say that it has stopped its transmit queue.
    pub(crate) fn stop_queue(&self) {
        let queues = long(self.0.borrow().area + 40);
        write_memory(queues + 80, &[1, 0, 0, 0]).expect("the driver's");
        self.happen(2);
    }

    /// Receive descriptors that are the device's.
    pub(crate) fn buffers(&self) -> usize {
        let Some(mut ring) = self.running(|running| running.receive.descriptors) else { return 0 };
        let mut count = 0;
        while word(ring.place() + 8) >> 31 == ring.generation {
            ring.advance();
            count += 1;
        }
        count
    }

    /// Take the next receive descriptor: its number, and where its buffer is and how long.
    pub(crate) fn take(&self) -> Option<(u32, u64, usize)> {
        self.running(|running| {
            let ring = &mut running.receive.descriptors;
            let [low, high, bits, _] = words(ring.place());
            (bits >> 31 == ring.generation).then(|| {
                let index = ring.next;
                ring.advance();
                assert_eq!(bits >> 14 & 3, 0, "the head of a frame");
                (index, u64::from(low) | u64::from(high) << 32, (bits & 0x3fff) as usize)
            })
        })?
    }

    /// Say that something was received, whatever was.
    pub(crate) fn complete_receive(&self, completion: [u32; 4]) {
        let interrupt = self.running(|running| {
            running.receive.completions.write(completion);
            running.receive.interrupt
        });
        if let Some(interrupt) = interrupt {
            self.0.borrow_mut().interrupt(interrupt);
        }
    }

    /// Put a frame into the next buffer, and say these things of it. Answers `false` when there is no buffer.
    pub(crate) fn deliver(&self, frame: &[u8], first: u32, last: u32) -> bool {
        let Some((index, address, length)) = self.take() else { return false };
        let length = frame.len().min(length);
        let done = write_memory(address, &frame[..length]);
        assert!(done.is_ok() || self.0.borrow().lied, "a descriptor points to what was not lent");
        self.complete_receive([index | first, 0, length as u32, last]);
        true
    }

    /// Take the next frame that is to be sent.
    pub(crate) fn take_sent(&self) -> Option<Sent> {
        let lied = self.0.borrow().lied;
        self.running(|running| {
            let ring = &mut running.transmit.descriptors;
            let mut sent = Sent { frame: Vec::new(), offload: 0, header: 0, segment: 0, index: 0, pieces: 0 };
            loop {
                let [low, high, bits, last] = words(ring.place());
                if bits >> 14 & 1 != ring.generation {
                    assert!(sent.pieces == 0 || lied, "half a frame");
                    return None;
                }
                let length = (bits & 0x3fff) as usize;
                let mut piece = vec![0; if length == 0 { 1 << 14 } else { length }];
                let done = read_memory(u64::from(low) | u64::from(high) << 32, &mut piece);
                assert!(done.is_ok() || lied, "a descriptor points to what was not lent");
                if sent.pieces == 0 {
                    (sent.segment, sent.header, sent.offload) = (bits >> 18, last & 0x3ff, last >> 10 & 3);
                }
                sent.frame.append(&mut piece);
                (sent.index, sent.pieces) = (ring.next, sent.pieces + 1);
                ring.advance();
                if last >> 12 & 1 != 0 {
                    assert_eq!(last >> 13 & 1, 1, "its completion is wanted");
                    return Some(sent);
                }
            }
        })?
    }

    /// Say that a frame is sent, whichever was.
    pub(crate) fn complete_send(&self, index: u32) {
        let interrupt = self.running(|running| {
            running.transmit.completions.write([index, 0, 0, 0]);
            running.transmit.interrupt
        });
        if let Some(interrupt) = interrupt {
            self.0.borrow_mut().interrupt(interrupt);
        }
    }

    /// The next frame that was sent, which is done with.
    pub(crate) fn sent(&self) -> Option<Sent> {
        let sent = self.take_sent()?;
        self.complete_send(sent.index);
        Some(sent)
    }
}
