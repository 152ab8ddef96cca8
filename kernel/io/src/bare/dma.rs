//! Memory that a device reaches, on the bare machine.

use crate::platform::platform;
use crate::{Direction, Error, PAGE, buffer_stride, per_piece};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::arch::asm;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

/// One allocation. Memory goes back when the last part of it does.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    fn allocate(length: usize) -> Result<Self, Error> {
        let length = length.max(1).checked_next_multiple_of(PAGE).ok_or(Error::OutOfMemory)?;
        let start = platform().allocate(length).ok_or(Error::OutOfMemory)?;
        Ok(Self { start, length })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it is the allocation's own start and length. No part is left: parts hold the region, and those that a
        // device may still use are never dropped.
        unsafe { platform().free(self.start, self.length) };
    }
}

/// Memory that driver and device use at the same time, zeroed at first.
///
/// Dropping it does not free it, because the device may go on using it; see [`Shared::free`].
#[derive(Debug)]
pub struct Shared {
    region: ManuallyDrop<Region>,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read at `offset`, once.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            let place = self.place(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: inside the region and aligned. The device may write it meanwhile; a volatile access of a machine
            // word sees the old or the new value.
            unsafe { place.read_volatile() }
        }

        /// Write at `offset`, once.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            let place = self.place(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: inside the region and aligned; nobody holds a reference into it.
            unsafe { place.write_volatile(value) };
        }
    };
}

impl Shared {
    /// Take `length` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(length: usize) -> Result<Self, Error> {
        let region = Region::allocate(length)?;
        // SAFETY: the region is ours, and nobody has been told where it is.
        unsafe { region.start.write_bytes(0, region.length) };
        Ok(Self { region: ManuallyDrop::new(region) })
    }

    /// Its address as the device has to be told; a multiple of [`PAGE`].
    pub fn address(&self) -> u64 {
        // Exposed, for who is told the address accesses the memory by it.
        self.region.start.expose_provenance().get() as u64
    }

    /// Give it back.
    ///
    /// # Safety
    /// The device must have been reset, or never have been told the address.
    pub unsafe fn free(mut self) {
        // SAFETY: `self` is consumed, so the region is not used again.
        unsafe { ManuallyDrop::drop(&mut self.region) };
    }

    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    /// Read two words that follow one another, each once.
    ///
    /// # Panics
    /// When they are not inside, or not aligned.
    #[inline]
    pub fn read_pair(&self, offset: usize) -> [u32; 2] {
        [self.read32(offset), self.read32(offset + size_of::<u32>())]
    }

    /// Write two words, the first at a multiple of both their lengths, each once.
    ///
    /// # Panics
    /// When they are not inside, or not aligned.
    #[inline]
    pub fn write_pair(&self, offset: usize, pair: [u64; 2]) {
        let first = self.place(offset, size_of::<[u64; 2]>()).cast::<u64>();
        // SAFETY: there is room for both at this place.
        let second = unsafe { first.add(1) };
        // SAFETY: it is inside the region and aligned; nobody holds a reference into it.
        unsafe { first.write_volatile(pair[0]) };
        // SAFETY: as the first is.
        unsafe { second.write_volatile(pair[1]) };
    }

    /// Copy `bytes.len()` bytes from `offset` on. The device may write them meanwhile; then some are old and some new.
    ///
    /// # Panics
    /// When they are not inside.
    #[inline]
    pub fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.bytes(offset, bytes.len());
        // SAFETY: there are as many bytes at both places. The instruction copies what it finds; to the language only
        // `bytes` changes, and no reference into the region is made.
        unsafe {
            asm!("rep movsb", inout("rsi") from.as_ptr() => _, inout("rdi") bytes.as_mut_ptr() => _,
                 inout("rcx") bytes.len() => _, options(nostack, preserves_flags));
        };
    }

    /// Copy `bytes` to `offset` and on.
    ///
    /// # Panics
    /// When they do not fit.
    #[inline]
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let to = self.bytes(offset, bytes.len());
        // SAFETY: as in `read_bytes`, the other way round.
        unsafe {
            asm!("rep movsb", inout("rsi") bytes.as_ptr() => _, inout("rdi") to.as_ptr() => _,
                 inout("rcx") bytes.len() => _, options(nostack, preserves_flags));
        };
    }

    /// Let the value at `offset` be `new` if it is `old`, at once: the device, which may write it too, does so before or after. Answers
    /// whether it was.
    ///
    /// # Panics
    /// When it is not inside, or not aligned.
    #[inline]
    pub fn replace16(&self, offset: usize, old: u16, new: u16) -> bool {
        let place = self.place(offset, size_of::<u16>()).cast::<u16>();
        // SAFETY: inside the region and aligned; whoever else accesses it meanwhile is no part of this program.
        let place = unsafe { AtomicU16::from_ptr(place.as_ptr()) };
        place.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Let it be the first pages of Xen's grant table.
    pub(crate) fn map_grants(&self) -> Result<(), Error> {
        let xen = platform().xen().ok_or(Error::NotThere)?;
        // SAFETY: the pages are the region's alone. It is never freed, for that takes a promise that nobody makes of a table that the
        // hypervisor reads; its users access it word by word, whatever is there.
        unsafe { xen.map_grants(self.address(), self.region.length / PAGE) }
    }

    /// Bytes that it has: a number of pages.
    pub fn length(&self) -> usize {
        self.region.length
    }

    /// Where so many bytes are.
    #[inline]
    fn bytes(&self, offset: usize, length: usize) -> NonNull<u8> {
        let inside = offset <= self.region.length && length <= self.region.length - offset;
        assert!(inside, "{length} bytes at {offset:#x} are not in {:#x}", self.region.length);
        // SAFETY: the offset is inside the region, or one past its end where no byte is asked for.
        unsafe { self.region.start.add(offset) }
    }

    /// Read an index that the device moves: what it wrote before is seen by reads after this.
    #[inline]
    pub fn read_index(&self, offset: usize) -> u16 {
        let index = self.read16(offset);
        fence(Ordering::Acquire);
        index
    }

    /// Write an index that the device follows: what was written before is seen by a device that sees the index.
    #[inline]
    pub fn write_index(&self, offset: usize, index: u16) {
        fence(Ordering::Release);
        self.write16(offset, index);
    }

    /// Where `width` bytes are, which is a power of two up to that of a pair.
    #[inline]
    fn place(&self, offset: usize, width: usize) -> NonNull<u8> {
        const { assert!(PAGE.is_multiple_of(size_of::<[u64; 2]>())) };
        assert!(
            offset < self.region.length && offset.is_multiple_of(width),
            "offset {offset:#x} is outside of {:#x} bytes",
            self.region.length
        );
        // SAFETY: the offset is inside the region, and so is all of the width: it divides the offset and, as it divides a
        // page, the region's length too, so that between the two there is room for it.
        unsafe { self.region.start.add(offset) }
    }
}

/// Bytes that are the driver's, and that a device can reach once they are lent to it.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the memory.
    region: Rc<Region>,
}

/// A [`Buffer`] that is the device's. Dropping it loses the memory, because the device may go on using it.
#[derive(Debug)]
pub struct Lent(ManuallyDrop<Buffer>);

impl Buffer {
    /// Take `count` buffers of `length` bytes each, with whatever is in them: they are written before they are read, by
    /// the driver or by the device, and a machine that boots does not wait for megabytes of zeros that nobody looks at.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; then none is taken.
    pub fn allocate(count: usize, length: usize) -> Result<Vec<Self>, Error> {
        let (stride, mut buffers) = (buffer_stride(length), Vec::new());
        buffers.try_reserve_exact(count).map_err(|_| Error::OutOfMemory)?;
        while buffers.len() < count {
            let here = (count - buffers.len()).min(per_piece(stride));
            let region = Rc::new(Region::allocate(here.checked_mul(stride).ok_or(Error::OutOfMemory)?)?);
            for index in 0..here {
                // SAFETY: the region has `here` strides, and a stride is at least `length`.
                let start = unsafe { region.start.add(index * stride) };
                buffers.push(Self { start, length, region: region.clone() });
            }
        }
        Ok(buffers)
    }

    /// Hand it to a device.
    pub fn lend(self, _: Direction) -> Lent {
        Lent(ManuallyDrop::new(self))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        debug_assert!(self.start >= self.region.start);
        // SAFETY: the part of the region is this buffer's alone, and initialised, as the platform promises. A device that
        // was told the address has given it back: that is what who called `reclaim` vouched for.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the buffer is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Lent {
    /// Its address as the device has to be told.
    pub fn address(&self) -> u64 {
        self.0.start.expose_provenance().get() as u64
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Let `f` look at it where it lies; it stays lent, and may be given to the device again as it is.
    ///
    /// # Safety
    /// As for [`Lent::reclaim`], until `f` has returned.
    #[inline]
    pub unsafe fn visit<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        fence(Ordering::Acquire);
        f(&mut self.0)
    }

    /// Take it back.
    ///
    /// # Safety
    /// The device must be done with it: it has said so, or it has been reset, or it was never told the address.
    pub unsafe fn reclaim(self) -> Buffer {
        fence(Ordering::Acquire);
        ManuallyDrop::into_inner(self.0)
    }
}
