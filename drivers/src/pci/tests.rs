//! PCI against an emulated configuration space, with functions that say what cannot be.

use super::*;
use crate::Error;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::RefCell;
use kernel_io::emulated::{Registers, attach_ports, attach_registers, set_ecam};
use kernel_io::{Ecam, Message};

/// A function: 256 bytes, and which bits of each BAR can be written.
#[derive(Clone)]
struct Emulated {
    words: [u32; 64],
    masks: [u32; 6],
}

#[derive(Default)]
struct Machine {
    address: u32,
    functions: BTreeMap<u32, Emulated>,
}

/// Configuration space: by ports, or (at 4 KiB a function) by memory.
struct Space(Rc<RefCell<Machine>>);

impl Machine {
    fn read(&self, address: u32) -> u32 {
        let function = self.functions.get(&(address >> 8));
        function.map_or(u32::MAX, |function| function.words[(address >> 2 & 63) as usize])
    }

    fn write(&mut self, address: u32, value: u32) {
        let Some(function) = self.functions.get_mut(&(address >> 8)) else { return };
        let word = (address >> 2 & 63) as usize;
        let mask = match word {
            1 => 0xffff,
            4..10 => function.masks[word - 4],
            _ if word >= 16 => u32::MAX,
            _ => 0,
        };
        function.words[word] = function.words[word] & !mask | value & mask;
    }
}

impl Registers for Space {
    fn read(&self, offset: u64, width: usize) -> u64 {
        assert_eq!(width, 4);
        let machine = self.0.borrow();
        match offset {
            0 => machine.address.into(),
            _ => machine.read(machine.address & 0x00ff_ffff).into(),
        }
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        assert_eq!(width, 4);
        let mut machine = self.0.borrow_mut();
        match offset {
            0 => machine.address = value as u32,
            _ => {
                let address = machine.address & 0x00ff_ffff;
                machine.write(address, value as u32);
            }
        }
    }
}

struct Mapped(Rc<RefCell<Machine>>);

impl Registers for Mapped {
    fn read(&self, offset: u64, _: usize) -> u64 {
        self.0.borrow().read((offset >> 12 << 8 | offset & 0xff) as u32).into()
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        self.0.borrow_mut().write((offset >> 12 << 8 | offset & 0xff) as u32, value as u32);
    }
}

/// Memory behind a BAR.
struct Memory(RefCell<Vec<u8>>);

impl Registers for Memory {
    fn read(&self, offset: u64, width: usize) -> u64 {
        let memory = self.0.borrow();
        (0..width).rev().fold(0, |value, byte| value << 8 | u64::from(memory[offset as usize + byte]))
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let bytes = value.to_le_bytes();
        self.0.borrow_mut()[offset as usize..offset as usize + width].copy_from_slice(&bytes[..width]);
    }
}

const fn at(bus: u8, device: u8, function: u8) -> DeviceFunction {
    DeviceFunction { bus, device, function }
}

fn key(at: DeviceFunction) -> u32 {
    u32::from(at.bus) << 8 | u32::from(at.device) << 3 | u32::from(at.function)
}

impl Emulated {
    fn new(id: u32) -> Self {
        let mut words = [0; 64];
        words[0] = id;
        Self { words, masks: [0; 6] }
    }

    fn with(mut self, offset: u8, word: u32) -> Self {
        self.words[usize::from(offset / 4)] = word;
        self
    }

    /// A 64-bit BAR of `size` bytes at `address`.
    fn bar(mut self, bar: usize, address: u64, size: u64) -> Self {
        self.words[4 + bar] = address as u32 | 4;
        self.words[5 + bar] = (address >> 32) as u32;
        let mask = !(size - 1);
        self.masks[bar] = mask as u32;
        self.masks[bar + 1] = (mask >> 32) as u32;
        self
    }

    /// Capabilities from 0x40: identifier and what stands in the words.
    fn capabilities(mut self, list: &[(u8, &[u32])]) -> Self {
        self.words[1] |= 1 << 20;
        let mut offset = 0x40;
        self.words[0x34 / 4] = offset;
        for (index, (id, words)) in list.iter().enumerate() {
            let next = offset + words.len() as u32 * 4;
            let link = if index + 1 < list.len() { next } else { 0 };
            for (word, value) in words.iter().enumerate() {
                self.words[offset as usize / 4 + word] = *value;
            }
            self.words[offset as usize / 4] |= u32::from(*id) | link << 8;
            offset = next;
        }
        self
    }
}

fn machine(functions: &[(DeviceFunction, Emulated)]) -> (Rc<RefCell<Machine>>, Pci) {
    let functions = functions.iter().map(|(at, function)| (key(*at), function.clone())).collect();
    let machine = Rc::new(RefCell::new(Machine { address: 0, functions }));
    attach_ports(0xcf8, 8, Rc::new(Space(machine.clone())));
    let pci = Pci::find().expect("the ports answer");
    (machine, pci)
}

const BRIDGE: u32 = 1 << 16;
const MULTI: u32 = 0x80 << 16;
const NIC: u32 = 0x1041_1af4;

#[test]
fn functions_are_found_in_bus_order_and_behind_bridges() {
    let bridge = |secondary: u32| Emulated::new(7).with(0x0c, BRIDGE).with(0x18, secondary << 8);
    let (_, pci) = machine(&[
        (at(0, 0, 0), Emulated::new(1)),
        (at(0, 3, 0), Emulated::new(2).with(0x0c, MULTI)),
        (at(0, 3, 5), Emulated::new(3)),
        // A device that answers for functions it does not have.
        (at(0, 4, 0), Emulated::new(4)),
        (at(0, 4, 1), Emulated::new(4)),
        (at(0, 31, 0), bridge(2)),
        (at(2, 0, 0), bridge(5)),
        (at(5, 0, 0), bridge(2)),
        (at(5, 1, 0), Emulated::new(6)),
        (at(9, 0, 0), Emulated::new(8)),
    ]);
    let found: Vec<_> = pci.functions().iter().map(|function| function.at).collect();
    let expected = [
        at(0, 0, 0),
        at(0, 3, 0),
        at(0, 3, 5),
        at(0, 4, 0),
        at(0, 31, 0),
        at(2, 0, 0),
        at(5, 0, 0),
        at(5, 1, 0),
    ];
    assert_eq!(found, expected);
}

#[test]
fn without_a_host_bridge_there_is_no_pci_and_memory_is_a_way() {
    assert!(Pci::find().is_none());
    let functions = [(key(at(1, 2, 3)), Emulated::new(NIC).with(0x0c, MULTI))].into_iter().collect();
    let machine = Rc::new(RefCell::new(Machine { address: 0, functions }));
    attach_registers(0xb000_0000, 2 << 20, Rc::new(Mapped(machine)));
    set_ecam(Some(Ecam { address: 0xb000_0000, first_bus: 0, last_bus: 1 }));
    let pci = Pci::find().expect("mapped");
    assert_eq!(pci.read(at(1, 2, 3), 0), NIC);
    assert_eq!(pci.read(at(0, 0, 0), 0), u32::MAX);
    assert_eq!(pci.read(at(2, 0, 0), 0), u32::MAX, "not a bus of it");
}

/// Configuration space in memory with one function at 0:0.0, and by ports with another there. Answers which of them is had.
fn had(in_memory: Option<u32>) -> u32 {
    let machine = |id: Option<u32>| {
        let functions = id.map(|id| (key(at(0, 0, 0)), Emulated::new(id))).into_iter().collect();
        Rc::new(RefCell::new(Machine { address: 0, functions }))
    };
    attach_registers(0xb000_0000, 1 << 20, Rc::new(Mapped(machine(in_memory))));
    attach_ports(0xcf8, 8, Rc::new(Space(machine(Some(2)))));
    set_ecam(Some(Ecam { address: 0xb000_0000, first_bus: 0, last_bus: 0 }));
    Pci::find().expect("one of them answers").read(at(0, 0, 0), 0)
}

#[test]
fn memory_comes_before_the_ports_where_a_bridge_answers_there() {
    assert_eq!(had(Some(1)), 1);
}

#[test]
fn the_ports_are_the_way_where_nobody_answers_in_memory() {
    assert_eq!(had(None), 2);
}

#[test]
fn a_list_of_capabilities_ends_even_when_it_is_a_ring() {
    let ring = Emulated::new(NIC).capabilities(&[(9, &[0, 0]), (9, &[0x40 << 8, 0])]);
    let crooked = Emulated::new(NIC).capabilities(&[(9, &[0x13 << 8])]);
    let low = Emulated::new(NIC).capabilities(&[(9, &[0x20 << 8])]);
    let (_, pci) = machine(&[(at(0, 1, 0), ring), (at(0, 2, 0), crooked), (at(0, 3, 0), low)]);
    assert!(matches!(pci.capabilities(at(0, 1, 0)), Err(Error::Layout(_))));
    assert_eq!(pci.capabilities(at(0, 2, 0)).map(|list| list.len()), Ok(1));
    assert_eq!(pci.capabilities(at(0, 3, 0)).map(|list| list.len()), Ok(1));
    assert_eq!(pci.capabilities(at(0, 9, 0)).map(|list| list.len() <= 48), Ok(true), "nobody is there");
}

#[test]
fn registers_are_mapped_wherever_they_lie() {
    let far = 0x3fff_ff80_0000;
    attach_registers(far, 0x4000, Rc::new(Memory(RefCell::new(alloc::vec![7; 0x4000]))));
    let (machine, mut pci) = machine(&[(at(0, 1, 0), Emulated::new(NIC).bar(4, far, 0x4000))]);
    let registers = pci.map(at(0, 1, 0), 4, 0x1000, 0x3000).expect("there");
    assert_eq!(registers.read8(0x2fff), 7);
    assert_eq!(machine.borrow().read(key(at(0, 1, 0)) << 8 | 0x24), (far >> 32) as u32, "left where it was");
    for (bar, offset, length) in [
        (4, 0x1000, 0x3001),
        (4, 0x4000, 1),
        (4, u32::MAX, 4),
        (4, 0, 0),
        (0, 0, 4),
        (5, 0, 4),
        (6, 0, 4),
        (255, 0, 4),
    ] {
        assert!(pci.map(at(0, 1, 0), bar, offset, length).is_err(), "{bar} {offset} {length}");
    }
}

#[test]
fn registers_without_an_address_get_one_that_nobody_has() {
    attach_registers(0xe000_0000, 0x1000_0000, Rc::new(Memory(RefCell::new(Vec::new()))));
    let (machine, mut pci) = machine(&[
        (at(0, 1, 0), Emulated::new(NIC).bar(0, 0, 0x4000).bar(2, 0, 0x1000)),
        (at(0, 2, 0), Emulated::new(1).bar(0, 0xe000_4000, 0x1000)),
        (at(3, 1, 0), Emulated::new(NIC).bar(0, 0, 0x4000)),
    ]);
    let word = |offset| machine.borrow().read(key(at(0, 1, 0)) << 8 | offset);
    assert!(pci.map(at(0, 1, 0), 0, 0, 0x4000).is_ok());
    assert!(pci.map(at(0, 1, 0), 2, 0, 0x1000).is_ok());
    assert_eq!((word(0x10), word(0x14)), (0xe000_0004, 0));
    assert_eq!((word(0x18), word(0x1c)), (0xe000_5004, 0));
    assert!(pci.map(at(0, 1, 0), 0, 0, 0x4000).is_ok() && word(0x10) == 0xe000_0004, "once");
    assert_eq!(pci.map(at(3, 1, 0), 0, 0, 4).err(), Some(Error::NoAddress), "behind a bridge");
}

#[test]
fn vectors_are_written_into_the_table_and_the_function_is_let_loose() {
    let table = Rc::new(Memory(RefCell::new(alloc::vec![0xff; 0x1000])));
    attach_registers(0xfe00_0000, 0x1000, table.clone());
    // Two vectors at offset 0x800 of BAR 0.
    let msix = Emulated::new(NIC).bar(0, 0xfe00_0000, 0x1000).capabilities(&[(0x11, &[1 << 16, 0x800, 0])]);
    let (machine, mut pci) = machine(&[(at(0, 1, 0), msix), (at(0, 2, 0), Emulated::new(NIC))]);
    let capabilities = pci.capabilities(at(0, 1, 0)).expect("a list");
    let vectors = pci.vectors(at(0, 1, 0), &capabilities, 3).expect("a table");
    pci.enable_registers(at(0, 1, 0));
    pci.enable_memory(at(0, 1, 0));
    let message = |data| Message { address: 0xfee0_1000, data };
    assert_eq!(pci.use_vectors(at(0, 1, 0), &vectors, &[message(0x41), message(0x42), message(0x43)]), 2);
    let memory = table.0.borrow();
    let word = |at: usize| u32::from_le_bytes(memory[at..at + 4].try_into().expect("four"));
    assert_eq!([0x800, 0x804, 0x808, 0x80c].map(word), [0xfee0_1000, 0, 0x41, 0]);
    assert_eq!([0x810, 0x814, 0x818, 0x81c].map(word), [0xfee0_1000, 0, 0x42, 0]);
    assert_eq!(word(0x820), u32::MAX, "the table has two");
    let function = key(at(0, 1, 0)) << 8;
    assert_eq!(machine.borrow().read(function | 0x40) >> 30, 2, "enabled, not masked");
    assert_eq!(machine.borrow().read(function | 4) & 0x406, 0x406, "memory, bus master, no line");
    assert_eq!(pci.vectors(at(0, 2, 0), &[], 2).err(), Some(Error::NoInterrupt));
}

/// virtio's capabilities as QEMU has them, with one of them changed.
fn virtio(change: impl FnOnce(&mut [[u32; 5]; 4])) -> Emulated {
    // Length and type in the first word, then BAR, offset, length and the multiplier.
    let structure = |kind: u32, offset: u32| [0x1400 << 8 | kind << 24 | 20 << 16, 4, offset, 0x1000, 4];
    let mut list = [structure(1, 0), structure(2, 0x3000), structure(3, 0x1000), structure(4, 0x2000)];
    list.iter_mut().for_each(|words| words[0] &= 0xffff_0000);
    change(&mut list);
    let [common, notify, isr, device] = &list;
    let msix: &[u32] = &[3 << 16, 0x4000 | 4, 0];
    Emulated::new(NIC).bar(4, 0x40_0000_0000, 0x8000).capabilities(&[
        (9, common),
        (9, notify),
        (9, isr),
        (9, device),
        (0x11, msix),
    ])
}

#[test]
fn a_virtio_function_that_says_what_cannot_be_is_refused_before_anybody_believes_it() {
    attach_registers(0x40_0000_0000, 0x8000, Rc::new(Memory(RefCell::new(alloc::vec![0; 0x8000]))));
    let open = |function: Emulated| {
        let (_, mut pci) = machine(&[(at(0, 1, 0), function)]);
        crate::virtio::pci::open(&mut pci, at(0, 1, 0)).err()
    };
    // In a host test an honest one gets as far as the package, which has nothing to access there.
    assert_eq!(open(virtio(|_| {})), Some(Error::Io(kernel_io::Error::Unmappable)));
    let layout = |change: fn(&mut [[u32; 5]; 4])| matches!(open(virtio(change)), Some(Error::Layout(_)));
    assert!(layout(|list| list[0][1] = 6), "a BAR that does not exist");
    assert!(layout(|list| list[1][1] = 0xff), "a BAR whose number overflows");
    assert!(layout(|list| list[2][1] = 0), "a BAR with nothing behind it");
    assert!(layout(|list| list[0][2] = u32::MAX - 3), "an end that overflows");
    assert!(layout(|list| list[0][2] = 0x7004), "an end outside");
    assert!(layout(|list| list[1][3] = u32::MAX), "an enormous structure");
    assert!(layout(|list| list[0][3] = 0x37), "a common configuration that is cut off");
    assert!(layout(|list| list[3][2] = 0x2002), "not aligned");
    // A capability of no known type, so near the end that the package would look beyond it.
    let last = |word| virtio(|_| {}).with(0x90, 0xf4 << 8 | 0x11 | 3 << 16).with(0xf4, word);
    assert!(matches!(open(last(9 << 24 | 16 << 16 | 9)), Some(Error::Layout(_))), "beyond the end");
    assert_eq!(open(last(9 << 24 | 12 << 16 | 9)), Some(Error::Io(kernel_io::Error::Unmappable)), "inside");
    let unsupported =
        |change: fn(&mut [[u32; 5]; 4])| matches!(open(virtio(change)), Some(Error::Unsupported(_)));
    assert!(unsupported(|list| list[0][0] = 0), "no common configuration");
    assert!(unsupported(|list| list[1][0] = 2 << 24 | 16 << 16), "doorbells without a multiplier");
    assert_eq!(
        open(virtio(|_| {}).with(0x40, 0)),
        Some(Error::Unsupported("a virtio device without virtio's capabilities"))
    );
}

#[test]
fn a_line_is_that_which_firmware_has_noted_and_may_be_shared() {
    let with = |line: u32| Emulated::new(NIC).with(0x3c, line);
    let functions =
        [with(0x10b), with(0x20b), with(0x10a), with(0x0b), with(0x100), with(0x1ff), with(0x1fe)];
    let functions: Vec<_> =
        functions.into_iter().zip(0..).map(|(it, number)| (at(0, number, 0), it)).collect();
    let (_, mut pci) = machine(&functions);
    let [first, second, other] = [0, 1, 2].map(|device| pci.line(at(0, device, 0)).expect("a line"));
    kernel_io::emulated::raise_line(11);
    assert!(second.take() && !first.take() && !other.take());
    kernel_io::emulated::raise_line(10);
    assert!(other.take() && !first.take());
    // No pin, the timer's, none, and one that no controller has: they are looked at all the time.
    for device in 3..7 {
        let ticking = pci.line(at(0, device, 0)).expect("what stands for it");
        (0..24).for_each(kernel_io::emulated::raise_line);
        assert!(!ticking.take(), "{device}");
        kernel_io::emulated::tick();
        assert!(ticking.take() && !ticking.take(), "{device}");
    }
    // Nobody's line keeps others' up.
    pci.silence(at(0, 3, 0));
    pci.silence(at(0, 1, 0));
    assert_eq!([3, 1].map(|device| pci.read(at(0, device, 0), 4) & 0x400), [0, 0x400]);
    pci.enable_registers(at(0, 0, 0));
    assert_eq!(pci.read(at(0, 0, 0), 4) & 0x402, 0x402);
    pci.enable_line(at(0, 0, 0));
    assert_eq!(pci.read(at(0, 0, 0), 4) & 0x402, 2);
}

#[test]
fn a_function_sends_the_one_message_that_it_is_given() {
    // Without and with addresses of 64 bits; with a mask; eight messages are wanted, and one is given.
    for (header, data, end) in [(0x30_u32, 8, 8), (0xb0, 12, 12), (0x1b0, 12, 16)] {
        let words = [header << 16, 0, 0xffff, 0xffff, 0xffff];
        let function = Emulated::new(0x10d3_8086).capabilities(&[(5, &words)]);
        let (machine, mut pci) = machine(&[(at(0, 1, 0), function)]);
        let capability = pci.capabilities(at(0, 1, 0)).expect("a list")[0];
        assert!(capability.is_msi());
        let message = Message { address: 0xfee0_1000, data: 0x41 };
        assert_eq!(pci.use_message(at(0, 1, 0), &capability, message), Ok(()));
        let words = machine.borrow().functions[&key(at(0, 1, 0))].words;
        let word = |offset: u8| words[usize::from((0x40 + offset) / 4)];
        assert_eq!((word(0) >> 16, word(4), word(data)), (header & !0x70 | 1, 0xfee0_1000, 0x41));
        assert_eq!(word(end), if end > data { 0 } else { 0x41 });
    }
    let (_, mut pci) = machine(&[(at(0, 1, 0), Emulated::new(0x10d3_8086))]);
    let capability = Capability { id: 5, offset: 0xf4, header: 0x80 };
    let message = Message { address: 0xfee0_1000, data: 0x41 };
    assert!(matches!(pci.use_message(at(0, 1, 0), &capability, message), Err(Error::Layout(_))));
}

#[test]
fn a_virtio_function_without_capabilities_is_opened_by_its_ports() {
    let device = crate::emulated::Emulated::nic(1 << 5);
    let front = crate::emulated::legacy::Front::new(&device, 64, false);
    let open = |id: u32, address: u32, size: u32, line: u32| {
        let mut function = Emulated::new(id << 16 | 0x1af4).with(0x10, address | 1).with(0x3c, line);
        function.masks[0] = !(size - 1);
        let (machine, mut pci) = machine(&[(at(0, 1, 0), function)]);
        let opened = crate::virtio::pci::open(&mut pci, at(0, 1, 0));
        let command = machine.borrow().read(key(at(0, 1, 0)) << 8 | 4) & 0x407;
        opened.map(|mut device| (device.kind() as u8, command))
    };
    let first = u32::from(front.first());
    assert_eq!(open(0x1000, 0, 64, 0x10b).err(), Some(Error::NoAddress), "the bridge is none that we know");
    assert!(matches!(open(0x1000, first, 16, 0x10b), Err(Error::Layout(_))), "too few");
    assert!(matches!(open(0x1041, first, 64, 0x10b), Err(Error::Unsupported(_))), "not of that time");
    assert_eq!(open(0x1000, first, 64, 0x10b), Ok((1, 7)), "it answers, reaches memory and raises its line");
}

#[test]
fn ports_without_an_address_are_given_one_behind_a_bridge_that_is_known() {
    // The function's BARs: memory, ports that have an address, and two that have none, of which one has only sixteen bits.
    let mut function =
        Emulated::new(0x1000_1af4).with(0x10, 1).with(0x14, 0xc041).with(0x18, 1).with(0x1c, 1);
    function.masks[..4].copy_from_slice(&[!63, !31, 0xffe0, !511]);
    let other = Emulated::new(0x1234_1234).with(0x10, 0xc001);
    for (bridge, known) in [(0x1237_8086, true), (0x29c0_8086, true), (0x7190_8086, false)] {
        let mut other = other.clone();
        other.masks[0] = !31;
        let functions =
            [(at(0, 0, 0), Emulated::new(bridge)), (at(0, 1, 0), function.clone()), (at(0, 2, 0), other)];
        let (_, mut pci) = machine(&functions);
        let mut ports = |bar| pci.ports(at(0, 1, 0), bar, (24, 44)).map(|(_, count)| count);
        if !known {
            assert_eq!([ports(0), ports(1)], [Err(Error::NoAddress), Ok(32)]);
            continue;
        }
        assert_eq!([ports(0), ports(1), ports(2)], [Ok(44), Ok(32), Ok(32)]);
        assert!(matches!(ports(3), Err(Error::Layout(_))), "no device has so many");
        // Beside the ports that others have, and each at a multiple of its size.
        let bars = [0x10, 0x14, 0x18].map(|bar| pci.read(at(0, 1, 0), bar));
        assert_eq!(bars, [0xc081, 0xc041, 0xc021]);
        assert_eq!(pci.read(at(0, 2, 0), 0x10), 0xc001);
    }
}
