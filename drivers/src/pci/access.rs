//! Reaching configuration space: by two ports, or through memory.

use super::DeviceFunction;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use kernel_io::{Ecam, Mmio, Ports};
use virtio_drivers::transport::pci::bus::ConfigurationAccess;

/// CONFIG_ADDRESS and CONFIG_DATA (PCI 3.0 section 3.2.2.3.2).
const FIRST_PORT: u16 = 0xcf8;
const ADDRESS: u16 = 0;
const DATA: u16 = 4;
/// The bit of CONFIG_ADDRESS that makes CONFIG_DATA an access to configuration space.
const ENABLE: u32 = 1 << 31;
/// Configuration space of one bus in memory: 256 functions of 4 KiB.
const BUS_BYTES: usize = 1 << 20;
/// What is read where nobody answers.
const NOBODY: u32 = u32::MAX;

/// A way to configuration space. Clones are the same way.
#[derive(Clone)]
pub(crate) struct Access(Rc<Way>);

enum Way {
    Ports(Ports),
    Memory {
        ecam: Ecam,
        /// Mapped when first asked for; `None` for a bus that cannot be mapped.
        buses: RefCell<Vec<(u8, Option<Mmio>)>>,
    },
}

impl Access {
    /// The machine's way; `None` when it has no PCI. Memory where a table says so and a host bridge answers there; else the
    /// ports, where the machine has them.
    pub(crate) fn find() -> Option<Self> {
        let memory = kernel_io::ecam().filter(|ecam| ecam.first_bus == 0);
        let memory = memory.map(|ecam| Self(Rc::new(Way::Memory { ecam, buses: RefCell::default() })));
        let bridge = DeviceFunction { bus: 0, device: 0, function: 0 };
        if memory.as_ref().is_some_and(|memory| memory.read_word(bridge, 0) != NOBODY) {
            return memory;
        }
        if let Ok(ports) = Ports::claim(FIRST_PORT, 8) {
            ports.write32(ADDRESS, ENABLE);
            // The bus floats where there is no host bridge.
            if ports.read32(ADDRESS) == ENABLE {
                return Some(Self(Rc::new(Way::Ports(ports))));
            }
        }
        memory
    }
}

impl Access {
    /// Read a byte: some registers answer to accesses of their own width only.
    pub(crate) fn read_byte(&self, at: DeviceFunction, offset: u8) -> u8 {
        match &*self.0 {
            Way::Ports(ports) => {
                ports.write32(ADDRESS, address(at, offset));
                ports.read8(DATA + u16::from(offset & 3))
            }
            Way::Memory { ecam, buses } => bus(ecam, buses, at.bus)
                .map_or(u8::MAX, |registers| registers.read8(in_bus(at) + usize::from(offset))),
        }
    }

    /// Write a byte.
    pub(crate) fn write_byte(&mut self, at: DeviceFunction, offset: u8, data: u8) {
        match &*self.0 {
            Way::Ports(ports) => {
                ports.write32(ADDRESS, address(at, offset));
                ports.write8(DATA + u16::from(offset & 3), data);
            }
            Way::Memory { ecam, buses } => {
                if let Some(registers) = bus(ecam, buses, at.bus) {
                    registers.write8(in_bus(at) + usize::from(offset), data);
                }
            }
        }
    }

    /// Write two bytes, at an even offset.
    pub(crate) fn write_half(&self, at: DeviceFunction, offset: u8, data: u16) {
        match &*self.0 {
            Way::Ports(ports) => {
                ports.write32(ADDRESS, address(at, offset));
                ports.write16(DATA + u16::from(offset & 2), data);
            }
            Way::Memory { ecam, buses } => {
                if let Some(registers) = bus(ecam, buses, at.bus) {
                    registers.write16(in_bus(at) + usize::from(offset & 0xfe), data);
                }
            }
        }
    }
}

impl ConfigurationAccess for Access {
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        match &*self.0 {
            Way::Ports(ports) => {
                ports.write32(ADDRESS, address(at, offset));
                ports.read32(DATA)
            }
            Way::Memory { ecam, buses } => bus(ecam, buses, at.bus)
                .map_or(NOBODY, |registers| registers.read32(in_bus(at) + usize::from(offset & 0xfc))),
        }
    }

    fn write_word(&mut self, at: DeviceFunction, offset: u8, data: u32) {
        match &*self.0 {
            Way::Ports(ports) => {
                ports.write32(ADDRESS, address(at, offset));
                ports.write32(DATA, data);
            }
            Way::Memory { ecam, buses } => {
                if let Some(registers) = bus(ecam, buses, at.bus) {
                    registers.write32(in_bus(at) + usize::from(offset & 0xfc), data);
                }
            }
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

fn address(at: DeviceFunction, offset: u8) -> u32 {
    let function = u32::from(at.device & 31) << 11 | u32::from(at.function & 7) << 8;
    ENABLE | u32::from(at.bus) << 16 | function | u32::from(offset & 0xfc)
}

fn in_bus(at: DeviceFunction) -> usize {
    usize::from(at.device & 31) << 15 | usize::from(at.function & 7) << 12
}

fn bus(ecam: &Ecam, buses: &RefCell<Vec<(u8, Option<Mmio>)>>, bus: u8) -> Option<Mmio> {
    let mut buses = buses.borrow_mut();
    if let Some((_, mapped)) = buses.iter().find(|(number, _)| *number == bus) {
        return mapped.clone();
    }
    let mapped = (ecam.first_bus..=ecam.last_bus)
        .contains(&bus)
        .then(|| Mmio::map(ecam.address + (u64::from(bus) << 20), BUS_BYTES).ok())
        .flatten();
    buses.push((bus, mapped.clone()));
    mapped
}
