//! What the virtio-drivers package asks of a machine.

use core::ptr::NonNull;
use kernel_io::Mmio;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// This machine, to the package. It maps registers for the package's transports and gives no memory: rings are ours.
pub(crate) enum Machine {}

// SAFETY: no memory is ever given, and registers are mapped for ever by the platform.
unsafe impl Hal for Machine {
    fn dma_alloc(_: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // Address zero is how the package is told that there is none.
        (0, NonNull::dangling())
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        -1
    }

    unsafe fn mmio_phys_to_virt(physical: PhysAddr, size: usize) -> NonNull<u8> {
        match Mmio::map(physical, size).ok().and_then(|registers| registers.pointer()) {
            Some(pointer) => pointer,
            // `virtio::pci` maps the same registers before it lets the package ask for them.
            None => panic!("registers at {physical:#x} are mapped before they are used"),
        }
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        // Memory is mapped where it is.
        buffer.addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
