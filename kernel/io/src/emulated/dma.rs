//! Memory that a device reaches, inside a host test.

use super::{Memory, with};
use crate::{Direction, Error, PAGE, buffer_stride, per_piece};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::{Deref, DerefMut};

/// What a buffer holds that is new or was lent for receiving, until somebody writes it.
const POISON: u8 = 0xa5;

/// Memory that driver and device use at the same time, zeroed at first.
///
/// Dropping it does not free it, because the device may go on using it; see [`Shared::free`].
#[derive(Debug)]
pub struct Shared {
    bytes: Rc<RefCell<Box<[u8]>>>,
    address: u64,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read at `offset`, once.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        pub fn $read(&self, offset: usize) -> $type {
            assert!(offset.is_multiple_of(size_of::<$type>()), "offset {offset:#x} is not aligned");
            <$type>::from_le_bytes(*self.bytes.borrow()[offset..].first_chunk().expect("inside"))
        }

        /// Write at `offset`, once.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        pub fn $write(&self, offset: usize, value: $type) {
            assert!(offset.is_multiple_of(size_of::<$type>()), "offset {offset:#x} is not aligned");
            *self.bytes.borrow_mut()[offset..].first_chunk_mut().expect("inside") = value.to_le_bytes();
        }
    };
}

impl Shared {
    /// Take `length` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(length: usize) -> Result<Self, Error> {
        let length = length.max(1).checked_next_multiple_of(PAGE).ok_or(Error::OutOfMemory)?;
        let address = take(length)?;
        let bytes = Rc::new(RefCell::new(vec![0; length].into_boxed_slice()));
        with(|machine| machine.memory.insert(address, Memory::Shared(bytes.clone())));
        Ok(Self { bytes, address })
    }

    /// Its address as the device has to be told; a multiple of [`PAGE`].
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Give it back.
    ///
    /// # Safety
    /// The device must have been reset, or never have been told the address.
    pub unsafe fn free(self) {
        with(|machine| {
            machine.left = machine.left.saturating_add(self.bytes.borrow().len());
            machine.memory.remove(&self.address);
        });
    }

    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    /// Read two words that follow one another, each once.
    ///
    /// # Panics
    /// When they are not inside, or not aligned.
    pub fn read_pair(&self, offset: usize) -> [u32; 2] {
        [self.read32(offset), self.read32(offset + size_of::<u32>())]
    }

    /// Write two words, the first at a multiple of both their lengths, each once.
    ///
    /// # Panics
    /// When they are not inside, or not aligned.
    pub fn write_pair(&self, offset: usize, pair: [u64; 2]) {
        assert!(offset.is_multiple_of(size_of::<[u64; 2]>()), "offset {offset:#x} is not aligned");
        self.write64(offset, pair[0]);
        self.write64(offset + size_of::<u64>(), pair[1]);
    }

    /// Copy `bytes.len()` bytes from `offset` on. The device may write them meanwhile; then some are old and some new.
    ///
    /// # Panics
    /// When they are not inside.
    pub fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes.borrow()[offset..offset + bytes.len()]);
    }

    /// Copy `bytes` to `offset` and on.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Let the value at `offset` be `new` if it is `old`, at once. Answers whether it was.
    ///
    /// # Panics
    /// When it is not inside, or not aligned.
    pub fn replace16(&self, offset: usize, old: u16, new: u16) -> bool {
        let is_old = self.read16(offset) == old;
        if is_old {
            self.write16(offset, new);
        }
        is_old
    }

    /// Let it be the first pages of Xen's grant table.
    pub(crate) fn map_grants(&self) -> Result<(), Error> {
        let mapped = super::with_xen(|xen| xen.map_grants(self.address, self.length() / PAGE));
        if mapped.ok_or(Error::NotThere)? { Ok(()) } else { Err(Error::OutOfMemory) }
    }

    /// Bytes that it has: a number of pages.
    pub fn length(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// Read an index that the device moves: what it wrote before is seen by reads after this.
    pub fn read_index(&self, offset: usize) -> u16 {
        self.read16(offset)
    }

    /// Write an index that the device follows: what was written before is seen by a device that sees the index.
    pub fn write_index(&self, offset: usize, index: u16) {
        self.write16(offset, index);
    }
}

/// Bytes that are the driver's, and that a device can reach once they are lent to it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    address: u64,
}

/// A [`Buffer`] that is the device's. Dropping it loses the memory, because the device may go on using it.
#[derive(Debug)]
pub struct Lent {
    address: u64,
    length: usize,
}

impl Buffer {
    /// Take `count` buffers of `length` bytes each. They hold what nobody should mistake for anything.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; then none is taken.
    pub fn allocate(count: usize, length: usize) -> Result<Vec<Self>, Error> {
        let (stride, mut buffers) = (buffer_stride(length), Vec::new());
        while buffers.len() < count {
            let here = (count - buffers.len()).min(per_piece(stride));
            let start = take(here.checked_mul(stride).ok_or(Error::OutOfMemory)?)?;
            for index in 0..here {
                let address = start + (index * stride) as u64;
                buffers.push(Self { bytes: vec![POISON; length].into(), address });
            }
        }
        Ok(buffers)
    }

    /// Hand it to a device. The device gets a copy, so nobody can go on using the driver's bytes; what is lent for
    /// receiving is poisoned, so nobody can take old contents for received ones.
    pub fn lend(self, direction: Direction) -> Lent {
        let (address, length) = (self.address, self.bytes.len());
        let (bytes, held) = match direction {
            Direction::ToDevice => (self.bytes, Box::default()),
            Direction::FromDevice => (vec![POISON; length].into(), self.bytes),
        };
        with(|machine| {
            if machine.memory.insert(address, Memory::Lent { bytes, direction, held }).is_some() {
                machine.faults.push(std::format!("the buffer at {address:#x} was lent twice"));
            }
        });
        Lent { address, length }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Lent {
    /// Its address as the device has to be told.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Let `f` look at it where it lies; it stays lent, and may be given to the device again as it is.
    ///
    /// # Safety
    /// As for [`Lent::reclaim`], until `f` has returned.
    pub unsafe fn visit<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        // Meanwhile the device finds nothing there.
        let mut visited = with(|machine| match machine.memory.get_mut(&self.address) {
            Some(Memory::Lent { bytes, .. }) => core::mem::take(bytes),
            _ => panic!("{:#x} is lent as long as there is a `Lent`", self.address),
        });
        let result = f(&mut visited);
        with(|machine| {
            if let Some(Memory::Lent { bytes, .. }) = machine.memory.get_mut(&self.address) {
                *bytes = visited;
            }
        });
        result
    }

    /// Take it back.
    ///
    /// # Safety
    /// The device must be done with it: it has said so, or it has been reset, or it was never told the address.
    pub unsafe fn reclaim(self) -> Buffer {
        with(|machine| match machine.memory.remove(&self.address) {
            Some(Memory::Lent { bytes, .. }) => Buffer { bytes, address: self.address },
            _ => panic!("{:#x} is lent as long as there is a `Lent`", self.address),
        })
    }
}

/// Addresses for so many bytes, with a page that nobody owns behind them.
fn take(length: usize) -> Result<u64, Error> {
    with(|machine| {
        machine.left = machine.left.checked_sub(length).ok_or(Error::OutOfMemory)?;
        let address = machine.next_address;
        machine.next_address += (length.next_multiple_of(PAGE) + PAGE) as u64;
        Ok(address)
    })
}
