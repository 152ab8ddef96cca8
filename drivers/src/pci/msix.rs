//! MSI-X: a table in the function's memory that says which interrupt a vector is (PCI 3.0 section 6.8.2).

use super::{Capability, DeviceFunction, Pci, capability};
use crate::Error;
use kernel_io::{Message, Mmio};

/// In the capability's first word: the table works, and all of it is masked.
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
/// Bytes of an entry, and what lies where in it.
const ENTRY: usize = 16;
const ADDRESS: usize = 0;
const DATA: usize = 8;
const CONTROL: usize = 12;
/// VIRTIO_MSI_NO_VECTOR (virtio 1.2 section 4.1.4.3): what virtio calls no entry of the table.
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// A function's table of vectors, mapped.
pub(crate) struct Vectors {
    capability: Capability,
    table: Mmio,
    entries: u16,
}

impl Pci {
    /// Map the function's table, as much of it as `wanted` vectors take.
    ///
    /// # Errors
    /// [`Error::NoInterrupt`] when it has no MSI-X.
    pub(crate) fn vectors(
        &mut self,
        at: DeviceFunction,
        capabilities: &[Capability],
        wanted: u16,
    ) -> Result<Vectors, Error> {
        let found = capabilities.iter().find(|capability| capability.id == capability::MSI_X);
        let capability = *found.ok_or(Error::NoInterrupt)?;
        let place = capability.word(self, at, 4).ok_or(Error::Layout("MSI-X at the end of its space"))?;
        let entries = ((capability.header & 0x7ff) + 1).min(wanted);
        let table = self.map(at, (place & 7) as u8, place & !7, usize::from(entries) * ENTRY)?;
        Ok(Vectors { capability, table, entries })
    }

    /// Let the function, whose registers must be enabled, raise `messages`: one per vector, from the first, as many as it has.
    /// Answers how many.
    pub(crate) fn use_vectors(&mut self, at: DeviceFunction, vectors: &Vectors, messages: &[Message]) -> u16 {
        let Vectors { capability, table, entries } = vectors;
        let control = self.read(at, capability.offset) & !(ENABLE | MASK_ALL);
        self.write(at, capability.offset, control | ENABLE | MASK_ALL);
        for (entry, message) in messages.iter().take(usize::from(*entries)).enumerate() {
            table.write32(entry * ENTRY + ADDRESS, message.address as u32);
            table.write32(entry * ENTRY + ADDRESS + 4, (message.address >> 32) as u32);
            table.write32(entry * ENTRY + DATA, message.data);
            table.write32(entry * ENTRY + CONTROL, 0);
        }
        self.write(at, capability.offset, control | ENABLE);
        *entries
    }
}
