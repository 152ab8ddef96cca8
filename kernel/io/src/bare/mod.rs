//! The handles on the bare machine.

pub(crate) mod dma;
pub(crate) mod irq;
pub(crate) mod registers;

use crate::Ecam;
use crate::platform::platform;

/// Where PCI configuration space is mapped into memory, if it is.
pub fn ecam() -> Option<Ecam> {
    platform().ecam()
}

/// Let so much time pass, busily.
pub fn delay(microseconds: u32) {
    platform().delay(microseconds);
}
