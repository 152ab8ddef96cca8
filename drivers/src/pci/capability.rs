//! The list of capabilities (PCI 3.0 section 6.7), which a function may have made into a ring.

use super::{DeviceFunction, Pci};
use crate::Error;
use alloc::vec::Vec;
use virtio_drivers::transport::pci::bus::Status;

/// MSI (PCI 3.0 section 6.8.1).
pub(crate) const MSI: u8 = 0x05;
/// MSI-X (PCI 3.0 section 6.8.2).
pub(crate) const MSI_X: u8 = 0x11;
/// Where the list begins.
const POINTER: u8 = 0x34;
/// Capabilities lie behind the header.
const FIRST: u8 = 0x40;
/// What fits between the header and the end when each takes its least, four bytes.
const MOST: usize = (256 - FIRST as usize) / 4;

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    /// PCI's number for it.
    pub(crate) id: u8,
    /// Where in configuration space it begins; a multiple of four.
    pub(crate) offset: u8,
    /// Its third and fourth byte.
    pub(crate) header: u16,
}

impl Pci {
    /// The capabilities of a function, in order.
    ///
    /// # Errors
    /// When the list does not end.
    pub(crate) fn capabilities(&self, at: DeviceFunction) -> Result<Vec<Capability>, Error> {
        let mut list = Vec::new();
        let (status, _) = self.root.get_status_command(at);
        if !status.contains(Status::CAPABILITIES_LIST) {
            return Ok(list);
        }
        let mut offset = self.read(at, POINTER) as u8 & 0xfc;
        while offset >= FIRST {
            if list.len() == MOST {
                return Err(Error::Layout("its list of capabilities has no end"));
            }
            let word = self.read(at, offset);
            list.push(Capability { id: word as u8, offset, header: (word >> 16) as u16 });
            let next = (word >> 8) as u8;
            // The low bits are reserved; whoever sets them does not mean a capability.
            offset = if next & 3 == 0 { next } else { 0 };
        }
        Ok(list)
    }
}

impl Capability {
    /// The capability's word at `offset` from its beginning; `None` when that is beyond configuration space.
    pub(crate) fn word(&self, pci: &Pci, at: DeviceFunction, offset: u8) -> Option<u32> {
        Some(pci.read(at, self.offset.checked_add(offset)?))
    }
}
