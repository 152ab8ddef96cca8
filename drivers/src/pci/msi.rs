//! MSI: one message in configuration space (PCI 3.0 section 6.8.1).

use super::{Capability, DeviceFunction, Pci, capability};
use crate::Error;
use kernel_io::Message;

/// In the capability's header: messages are on; how many; addresses have 64 bits; messages can be masked.
const ENABLE: u32 = 1;
const COUNT: u32 = 7 << 4;
const WIDE: u32 = 1 << 7;
const MASKABLE: u32 = 1 << 8;

impl Capability {
    /// Whether it is MSI's.
    pub(crate) fn is_msi(&self) -> bool {
        self.id == capability::MSI
    }
}

impl Pci {
    /// Let the function raise `message`, and no other.
    ///
    /// # Errors
    /// When the capability goes beyond configuration space.
    pub(crate) fn use_message(
        &mut self,
        at: DeviceFunction,
        capability: &Capability,
        message: Message,
    ) -> Result<(), Error> {
        let header = u32::from(capability.header);
        let wide = header & WIDE != 0;
        let data: u8 = if wide { 12 } else { 8 };
        let last = data + if header & MASKABLE != 0 { 4 } else { 0 };
        let place = |offset: u8| capability.offset.checked_add(offset).filter(|place| *place <= 252);
        let beyond = Error::Layout("MSI at the end of its space");
        let (Some(data), Some(last)) = (place(data), place(last)) else { return Err(beyond) };
        self.write(at, capability.offset + 4, message.address as u32);
        if wide {
            self.write(at, capability.offset + 8, (message.address >> 32) as u32);
        }
        self.write(at, data, message.data);
        if last > data {
            self.write(at, last, 0);
        }
        self.write(at, capability.offset, (header & !COUNT | ENABLE) << 16);
        Ok(())
    }
}
