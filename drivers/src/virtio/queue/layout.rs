//! Where things lie in a split virtqueue's memory.
//!
//! The legacy layout (virtio 1.2 section 2.7.2): used ring on a page of its own. Modern devices take any layout.

use kernel_io::PAGE;

/// Offsets in the memory of one queue.
#[derive(Clone, Copy, Debug)]
pub(in crate::virtio) struct Layout {
    /// Descriptors, a power of two.
    pub(in crate::virtio) size: u16,
    /// The available ring, which begins with its flags.
    pub(in crate::virtio) available: usize,
    /// The used ring, which begins with its flags.
    pub(in crate::virtio) used: usize,
    /// Where the entries of both begin, and what of an index says which: they are asked for with each buffer.
    available_entries: usize,
    used_entries: usize,
    mask: u16,
}

/// Bytes of a descriptor, of an entry of the available and of the used ring.
const DESCRIPTOR: usize = 16;
const AVAILABLE_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
/// Flags and index, in front of the entries.
const HEAD: usize = 4;

impl Layout {
    pub(in crate::virtio) fn new(size: u16) -> Self {
        let available = usize::from(size) * DESCRIPTOR;
        let end = available + HEAD + usize::from(size) * AVAILABLE_ENTRY + 2;
        let used = end.next_multiple_of(PAGE);
        Self {
            size,
            available,
            used,
            available_entries: available + HEAD,
            used_entries: used + HEAD,
            mask: size - 1,
        }
    }

    /// Bytes in all, a multiple of eight.
    pub(in crate::virtio) fn length(&self) -> usize {
        (self.available_event() + 2).next_multiple_of(8)
    }

    pub(in crate::virtio) fn descriptor(&self, descriptor: u16) -> usize {
        usize::from(descriptor) * DESCRIPTOR
    }

    pub(in crate::virtio) fn available_index(&self) -> usize {
        self.available + 2
    }

    pub(in crate::virtio) fn available_entry(&self, index: u16) -> usize {
        self.available_entries + usize::from(index & self.mask) * AVAILABLE_ENTRY
    }

    /// Where we say at which used index we want an interrupt.
    pub(in crate::virtio) fn used_event(&self) -> usize {
        self.available + HEAD + usize::from(self.size) * AVAILABLE_ENTRY
    }

    pub(in crate::virtio) fn used_index(&self) -> usize {
        self.used + 2
    }

    pub(in crate::virtio) fn used_entry(&self, index: u16) -> usize {
        self.used_entries + usize::from(index & self.mask) * USED_ENTRY
    }

    /// Where the device says at which available index it wants to be told.
    pub(in crate::virtio) fn available_event(&self) -> usize {
        self.used + HEAD + usize::from(self.size) * USED_ENTRY
    }
}
