//! The handles on the bare machine.

pub(crate) mod dma;
pub(crate) mod irq;
pub(crate) mod registers;

use crate::platform::{Xen, platform};
use crate::{Ecam, MmioSlot};

/// Where PCI configuration space is mapped into memory, if it is.
pub fn ecam() -> Option<Ecam> {
    platform().ecam()
}

/// The places of virtio devices with registers in memory that tables name; `None` where there are no tables, and the
/// machine may be QEMU's microvm.
pub fn mmio_slots() -> Option<&'static [MmioSlot]> {
    platform().mmio_slots()
}

/// Let so much time pass, busily.
pub fn delay(microseconds: u32) {
    platform().delay(microseconds);
}

/// The time in microseconds, since a moment that stays the same.
pub fn microseconds() -> u64 {
    platform().microseconds()
}

/// Whether there is Hyper-V's interrupt controller.
pub(crate) fn has_synic() -> bool {
    platform().has_synic()
}

/// A message has been taken out of the slot of Hyper-V's interrupt controller.
pub(crate) fn end_of_message() {
    platform().end_of_message();
}

/// Post a message to a connection of VMBus's; answers the hypervisor's status where it is not success.
pub(crate) fn post_message(connection: u32, message: &[u8]) -> Result<(), u16> {
    platform().post_message(connection, message)
}

/// Signal the event of a connection.
pub(crate) fn signal_event(connection: u32) -> Result<(), u16> {
    platform().signal_event(connection)
}

/// Xen, if the machine is a guest of it.
pub(crate) fn with_xen<R>(f: impl FnOnce(&dyn Xen) -> R) -> Option<R> {
    platform().xen().map(f)
}
