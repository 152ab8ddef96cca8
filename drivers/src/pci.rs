//! PCI: which functions there are, their capabilities and where their registers lie.
//!
//! Configuration space is reached through memory (ECAM) where ACPI has it, else by the ports 0xcf8 and 0xcfc where the
//! machine says that it has PCI.
//! Whatever a function says about itself is bounded here before anybody uses it.

mod access;
mod bars;
mod capability;
mod msi;
mod msix;

#[cfg(test)]
mod tests;

pub(crate) use access::Access;
pub(crate) use capability::Capability;
pub(crate) use msix::{NO_VECTOR, Vectors};

use crate::Error;
use alloc::vec;
use alloc::vec::Vec;
use bars::Allocator;
use kernel_io::Irq;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, HeaderType, PciRoot};

pub(crate) use virtio_drivers::transport::pci::bus::{DeviceFunction, DeviceFunctionInfo};

/// Register of the header type, whose top bit says that there are more functions than 0.
const HEADER_TYPE: u8 = 0x0c;
const MULTI_FUNCTION: u32 = 1 << 23;
/// Registers of a bridge: primary, secondary and subordinate bus.
const BRIDGE_BUSES: u8 = 0x18;
/// Register of the interrupt line and pin.
const INTERRUPT_LINE: u8 = 0x3c;
/// Buses that are looked at, whatever bridges say.
const MOST_BUSES: usize = 32;

/// The PCI buses.
pub(crate) struct Pci {
    /// For packages that want it in this form.
    pub(crate) root: PciRoot<Access>,
    access: Access,
    /// Of addresses and of ports, where firmware gave none.
    allocators: Option<[Allocator; 2]>,
}

/// A function found on a bus.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) at: DeviceFunction,
    pub(crate) info: DeviceFunctionInfo,
}

/// Command: the function reaches memory, and sends messages; it raises no line (PCI 3.0 section 6.2.2).
const COMMAND: u8 = 4;
const REACHES_MEMORY: u16 = 1 << 2;
const RAISES_NO_LINE: u16 = 1 << 10;

/// What a driver keeps of its function's configuration space: by it the bus keeps a function from memory that has been taken
/// back, whatever it makes of its reset.
pub(crate) struct Leash(Kept);

enum Kept {
    Function(Access, DeviceFunction),
    /// The command register of a function inside a host test.
    #[cfg(not(target_os = "none"))]
    Emulated(alloc::rc::Rc<core::cell::Cell<u16>>),
}

impl Leash {
    #[cfg(not(target_os = "none"))]
    pub(crate) fn emulated(command: &alloc::rc::Rc<core::cell::Cell<u16>>) -> Self {
        Self(Kept::Emulated(command.clone()))
    }

    /// Let the function reach memory, send messages, and raise its line.
    pub(crate) fn let_go(&self) {
        self.change(RAISES_NO_LINE, REACHES_MEMORY);
    }

    /// Keep it from all of that: nobody takes its interrupts from here, and others may share its line.
    pub(crate) fn hold(&self) {
        self.change(REACHES_MEMORY, RAISES_NO_LINE);
    }

    fn change(&self, less: u16, more: u16) {
        match &self.0 {
            Kept::Function(access, at) => {
                let command = access.read_word(*at, COMMAND) as u16;
                access.write_half(*at, COMMAND, command & !less | more);
                // What it has written until then comes before the answer.
                access.read_word(*at, COMMAND);
            }
            #[cfg(not(target_os = "none"))]
            Kept::Emulated(command) => command.set(command.get() & !less | more),
        }
    }
}

impl Pci {
    /// What the driver of a function keeps.
    pub(crate) fn leash(&self, at: DeviceFunction) -> Leash {
        Leash(Kept::Function(self.access.clone(), at))
    }

    /// The machine's PCI; `None` when it has none.
    pub(crate) fn find() -> Option<Self> {
        let access = Access::find()?;
        Some(Self { root: PciRoot::new(access.clone()), access, allocators: None })
    }

    /// All functions, by bus, device and function; behind a bridge comes right after the bus of the bridge.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let (mut buses, mut next, mut functions) = (vec![0_u8], 0, Vec::new());
        while let Some(&bus) = buses.get(next) {
            next += 1;
            let mut single = None;
            for (at, info) in self.root.enumerate_bus(bus) {
                // A device of one function may answer for all eight.
                if single == Some(at.device) {
                    continue;
                }
                if at.function == 0 && self.read(at, HEADER_TYPE) & MULTI_FUNCTION == 0 {
                    single = Some(at.device);
                }
                if info.header_type == HeaderType::PciPciBridge {
                    let secondary = (self.read(at, BRIDGE_BUSES) >> 8) as u8;
                    if secondary != 0 && !buses.contains(&secondary) && buses.len() < MOST_BUSES {
                        buses.push(secondary);
                    }
                }
                functions.push(Function { at, info });
            }
        }
        functions
    }

    /// Read 32 bits of configuration space.
    pub(crate) fn read(&self, at: DeviceFunction, offset: u8) -> u32 {
        self.access.read_word(at, offset)
    }

    fn write(&mut self, at: DeviceFunction, offset: u8, value: u32) {
        self.access.write_word(at, offset, value);
    }

    /// Read 8 bits of configuration space.
    pub(crate) fn read_byte(&self, at: DeviceFunction, offset: u8) -> u8 {
        self.access.read_byte(at, offset)
    }

    /// Write 8 bits of configuration space.
    pub(crate) fn write_byte(&mut self, at: DeviceFunction, offset: u8, value: u8) {
        self.access.write_byte(at, offset, value);
    }

    /// Write 16 bits of configuration space.
    pub(crate) fn write_half(&mut self, at: DeviceFunction, offset: u8, value: u16) {
        self.access.write_half(at, offset, value);
    }

    /// Let a function answer at no address and reach no memory: firmware may have left it at work in what is ours now.
    pub(crate) fn disable(&mut self, at: DeviceFunction) {
        let (_, command) = self.root.get_status_command(at);
        let working = Command::MEMORY_SPACE | Command::IO_SPACE | Command::BUS_MASTER;
        self.root.set_command(at, command - working);
    }

    /// Let a function answer at its addresses.
    pub(crate) fn enable_registers(&mut self, at: DeviceFunction) {
        self.enable(at, Command::MEMORY_SPACE | Command::INTERRUPT_DISABLE);
    }

    /// Let a function answer at its ports.
    pub(crate) fn enable_ports(&mut self, at: DeviceFunction) {
        self.enable(at, Command::IO_SPACE);
    }

    fn enable(&mut self, at: DeviceFunction, what: Command) {
        let (_, command) = self.root.get_status_command(at);
        self.root.set_command(at, command | what);
    }

    /// The vector of a function's interrupt line, which firmware has noted (PCI 3.0 section 6.2.4). Where it has not, or no
    /// controller has that line, the function is looked at each millisecond instead.
    pub(crate) fn line(&self, at: DeviceFunction) -> Result<Irq, Error> {
        let [line, pin, ..] = self.read(at, INTERRUPT_LINE).to_le_bytes();
        // Zero is the timer's, and all ones no line.
        let is_one = pin != 0 && line != 0 && line != u8::MAX;
        match if is_one { Irq::of_line(line) } else { Err(kernel_io::Error::NoLine) } {
            Err(kernel_io::Error::NoLine) => {
                log::warn!("pci {at}: no interrupt line that is heard: looked at each millisecond");
                Ok(Irq::tick()?)
            }
            other => Ok(other?),
        }
    }

    /// Keep a function from raising its line, which may be shared with one that is used: nobody would take it from here.
    pub(crate) fn silence(&mut self, at: DeviceFunction) {
        if self.read(at, INTERRUPT_LINE).to_le_bytes()[1] != 0 {
            self.enable(at, Command::INTERRUPT_DISABLE);
        }
    }

    /// Let a function that is at rest raise its line.
    pub(crate) fn enable_line(&mut self, at: DeviceFunction) {
        let (_, command) = self.root.get_status_command(at);
        self.root.set_command(at, command - Command::INTERRUPT_DISABLE);
    }

    /// Let a function that has been reset reach memory, and send messages.
    pub(crate) fn enable_memory(&mut self, at: DeviceFunction) {
        let (_, command) = self.root.get_status_command(at);
        self.root.set_command(at, command | Command::BUS_MASTER);
    }
}
