//! What drivers get: the kernel's side of `kernel_io`.

use crate::acpi::Acpi;
use crate::cpu::port;
use crate::interrupt::{self, Line};
use crate::memory::{self, ranges::Range};
use crate::promised::Promised;
use crate::{clock, fw_cfg, hyperv, vmware, xen};
use alloc::vec::Vec;
use core::ptr::NonNull;
use kernel_io::{Ecam, Error, Interrupt, Message, MmioSlot, Platform, Trigger, Width, Xen};
use spin::Once;

struct Machine;

static ECAM: Once<Ecam> = Once::new();
static SLOTS: Once<Vec<MmioSlot>> = Once::new();

/// PCI's configuration space.
const PCI: (u16, u16) = (0xcf8, 0xcff);

/// Ports that are the kernel's, first and last: the 8259s and the timer chip, the keyboard controller and its
/// neighbour, the clock with a battery, the debug exit, the consoles, fw_cfg, VMware's door.
const OURS: [(u16, u16); 12] = [
    (0x20, 0x21),
    (0x40, 0x43),
    (0x60, 0x64),
    (0x70, 0x71),
    (0xa0, 0xa1),
    (0xe9, 0xe9),
    (0xf4, 0xf4),
    (0x3f8, 0x3ff),
    (0x402, 0x402),
    (fw_cfg::PORTS.0, fw_cfg::PORTS.1),
    (vmware::PORTS.0, vmware::PORTS.1),
    (0xb2, 0xb3),
];

fn interrupt(line: Line, shared: u64, message: Message) -> Interrupt {
    let (word, awaited) = (&interrupt::PENDING, &interrupt::AWAITED);
    Interrupt { word, awaited, bit: line.bit(), shared, message }
}

fn visible(mapped: Result<u64, memory::WindowError>) -> Result<NonNull<u8>, Error> {
    let address = mapped.map_err(|error| match error {
        memory::WindowError::OutOfMemory => Error::OutOfMemory,
        memory::WindowError::BadRange | memory::WindowError::IsRam => Error::Unmappable,
    })?;
    NonNull::new(address as *mut u8).ok_or(Error::Unmappable)
}

/// Install the machine for drivers.
pub(crate) fn init(acpi: &Acpi, promised: Promised) {
    if let Some(ecam) = acpi.ecam {
        ECAM.call_once(|| Ecam { address: ecam.base, first_bus: ecam.buses.0, last_bus: ecam.buses.1 });
    }
    if !promised.microvm {
        SLOTS.call_once(|| acpi.named.slots.clone());
    }
    kernel_io::install(&Machine);
}

// SAFETY: memory comes from the heap, which gives each block once, and is frozen; the window refuses RAM and the image; the
// handlers of the vectors given out set their bit and acknowledge, nothing else.
unsafe impl Platform for Machine {
    fn allocate(&self, length: usize) -> Option<NonNull<u8>> {
        NonNull::new(memory::allocate_stale_pages(length)? as *mut u8)
    }

    unsafe fn free(&self, memory: NonNull<u8>, length: usize) {
        // SAFETY: the caller vouches for the block's origin and that nobody uses it.
        unsafe { memory::free_pages(memory.as_ptr() as u64, length) };
    }

    fn map(&self, physical: u64, length: usize) -> Result<NonNull<u8>, Error> {
        visible(memory::map_device(Range::with_length(physical, length as u64)))
    }

    fn map_memory(&self, physical: u64, length: usize) -> Result<NonNull<u8>, Error> {
        visible(memory::map_memory(Range::with_length(physical, length as u64)))
    }

    fn allocate_interrupt(&self) -> Result<Interrupt, Error> {
        let address = interrupt::message_address().ok_or(Error::NoVector)?;
        let line = Line::take().ok_or(Error::NoVector)?;
        let message = Message { address, data: u32::from(line.vector()) };
        Ok(interrupt(line, 0, message))
    }

    fn allocate_line(&self, line: u8) -> Result<Interrupt, Error> {
        let (own, shared) = interrupt::share(line).map_err(|refused| match refused {
            interrupt::Refused::NoVector => Error::NoVector,
            interrupt::Refused::NoLine => Error::NoLine,
        })?;
        // A device on a line sends no messages.
        Ok(interrupt(own, 1 << shared.bit(), Message::default()))
    }

    fn claim_interrupt(&self, interrupt: &Interrupt) {
        if let Some(line) = Line::of_bit(interrupt.bit) {
            interrupt::claim(line);
        }
    }

    fn try_interrupt(&self, interrupt: &Interrupt, raise: &mut dyn FnMut()) {
        if let Some(line) = Line::of_bit(interrupt.bit) {
            interrupt::try_out(line, raise);
        }
    }

    fn allocate_tick(&self) -> Result<Interrupt, Error> {
        let line = Line::take_tick().ok_or(Error::NoVector)?;
        Ok(interrupt(line, 0, Message::default()))
    }

    fn abandon_interrupt(&self, interrupt: &Interrupt) {
        if let Some(line) = Line::of_bit(interrupt.bit) {
            line.abandon();
        }
    }

    fn connect(&self, interrupt: &Interrupt, gsi: u32, trigger: Trigger) -> Result<(), Error> {
        match trigger {
            Trigger::Edge => {}
        }
        let line = Line::of_bit(interrupt.bit).ok_or(Error::NoLine)?;
        if interrupt::route(gsi, line) { Ok(()) } else { Err(Error::NoLine) }
    }

    fn claim_ports(&self, first: u16, count: u16) -> Result<(), Error> {
        claim(Promised::machine(), first, count)
    }

    unsafe fn read_port(&self, port: u16, width: Width) -> u32 {
        match width {
            // SAFETY: the caller has claimed the port, so it is none of the kernel's.
            Width::Byte => u32::from(unsafe { port::read8(port) }),
            // SAFETY: as above.
            Width::Half => u32::from(unsafe { port::read16(port) }),
            // SAFETY: as above.
            Width::Word => unsafe { port::read32(port) },
        }
    }

    unsafe fn write_port(&self, port: u16, width: Width, value: u32) {
        match width {
            // SAFETY: the caller has claimed the port; narrow accesses take the low bits, as documented.
            Width::Byte => unsafe { port::write8(port, value as u8) },
            // SAFETY: as above.
            Width::Half => unsafe { port::write16(port, value as u16) },
            // SAFETY: as above.
            Width::Word => unsafe { port::write32(port, value) },
        }
    }

    fn ecam(&self) -> Option<Ecam> {
        ECAM.get().copied()
    }

    fn mmio_slots(&self) -> Option<&'static [MmioSlot]> {
        SLOTS.get().map(Vec::as_slice)
    }

    fn delay(&self, microseconds: u32) {
        clock::spin(u64::from(microseconds));
    }

    fn microseconds(&self) -> u64 {
        clock::micros()
    }

    fn has_synic(&self) -> bool {
        hyperv::synic().is_some()
    }

    unsafe fn start_synic(&self, interrupt: &Interrupt, messages: u64, events: u64) -> Result<(), Error> {
        let line = Line::of_bit(interrupt.bit).ok_or(Error::NotThere)?;
        // SAFETY: the caller vouches for the pages.
        if unsafe { hyperv::start_synic(line, messages, events) } { Ok(()) } else { Err(Error::NotThere) }
    }

    fn end_of_message(&self) {
        hyperv::end_of_message();
    }

    fn post_message(&self, connection: u32, message: &[u8]) -> Result<(), u16> {
        hyperv::post_message(connection, message)
    }

    fn signal_event(&self, connection: u32) -> Result<(), u16> {
        hyperv::signal_event(connection)
    }

    fn xen(&self) -> Option<&'static dyn Xen> {
        xen::guest().map(|guest| guest as &dyn Xen)
    }
}

/// Whether a driver may have these ports on a machine that promises this.
pub(crate) fn claim(promised: Promised, first: u16, count: u16) -> Result<(), Error> {
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(Error::OutOfRange)?;
    let touches = |&(start, end): &(u16, u16)| first <= end && start <= last;
    if OURS.iter().any(touches) {
        Err(Error::PortsTaken)
    } else if touches(&PCI) && !promised.pci_ports {
        Err(Error::NotThere)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_do_not_get_the_kernels_ports() {
        let pci = Promised { pci_ports: true, ..Promised::default() };
        assert_eq!(claim(pci, 0xcf8, 8), Ok(()));
        assert_eq!(claim(Promised::default(), 0xcf8, 8), Err(Error::NotThere));
        for promised in [pci, Promised::default()] {
            assert_eq!(claim(promised, 0xc000, 32), Ok(()));
            assert_eq!(claim(promised, 0x3f0, 9), Err(Error::PortsTaken));
            assert_eq!(claim(promised, 0x43, 1), Err(Error::PortsTaken));
            assert_eq!(claim(promised, 0xffff, 2), Err(Error::OutOfRange));
            assert_eq!(claim(promised, 0xc000, 0), Err(Error::OutOfRange));
        }
    }
}
