//! Where a device was found.

use crate::pci::DeviceFunction;
use core::fmt;

/// Where a device was found. The order is that of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// On PCI.
    Pci(DeviceFunction),
    /// Its registers' physical address.
    Mmio(u64),
    /// A channel of VMBus, by its number.
    Vmbus(u32),
    /// A virtual interface of Xen's, by its number.
    Vif(u32),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(at) => write!(f, "pci {at}"),
            Self::Mmio(address) => write!(f, "mmio {address:#x}"),
            Self::Vmbus(channel) => write!(f, "vmbus {channel}"),
            Self::Vif(number) => write!(f, "vif {number}"),
        }
    }
}
