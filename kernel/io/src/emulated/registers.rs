//! Registers inside a host test: an emulated device answers.

use super::{Attached, Registers, with};
use crate::Error;
use alloc::rc::Rc;
use core::fmt;
use core::ptr::NonNull;

/// Registers of a device that are mapped into memory. Clones are the same registers.
#[derive(Clone)]
pub struct Mmio {
    device: Rc<dyn Registers>,
    /// Where the handle begins, from the device's first register.
    start: u64,
    length: usize,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read the register at `offset`.
        ///
        /// # Panics
        /// When it is not inside, or not aligned: offsets are the driver's own and checked where a device names them.
        pub fn $read(&self, offset: usize) -> $type {
            let at = self.register(offset, size_of::<$type>());
            self.device.read(at, size_of::<$type>()) as $type
        }

        /// Write the register at `offset`.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        pub fn $write(&self, offset: usize, value: $type) {
            let at = self.register(offset, size_of::<$type>());
            self.device.write(at, size_of::<$type>(), u64::from(value));
        }
    };
}

impl Mmio {
    /// Map the registers at `physical`, wherever in the address space they lie.
    ///
    /// # Errors
    /// [`Error::Unmappable`] when no device is there.
    pub fn map(physical: u64, length: usize) -> Result<Self, Error> {
        if length == 0 {
            return Err(Error::Unmappable);
        }
        let found = with(|machine| find(&machine.registers, physical, length as u64));
        let (device, start) = found.ok_or(Error::Unmappable)?;
        Ok(Self { device, start, length })
    }

    /// The same for memory at `physical` that a hypervisor has as well.
    ///
    /// # Errors
    /// [`Error::Unmappable`] when there is none.
    pub fn map_memory(physical: u64, length: usize) -> Result<Self, Error> {
        Self::map(physical, length)
    }

    /// A part of them.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn part(&self, offset: usize, length: usize) -> Result<Self, Error> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Error::OutOfRange);
        }
        Ok(Self { device: self.device.clone(), start: self.start + offset as u64, length })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first register, for packages that do their own volatile accesses; `None` in a host test, where registers are
    /// not at any address.
    pub fn pointer(&self) -> Option<NonNull<u8>> {
        None
    }

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    fn register(&self, offset: usize, width: usize) -> u64 {
        let inside = offset <= self.length && width <= self.length - offset;
        assert!(inside, "register {offset:#x} is outside of {:#x} bytes", self.length);
        let at = self.start + offset as u64;
        assert!(at.is_multiple_of(width as u64), "register {offset:#x} is not aligned");
        at
    }
}

impl fmt::Debug for Mmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mmio({:#x} bytes from {:#x})", self.length, self.start)
    }
}

/// Registers of a device behind I/O ports.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    count: u16,
}

macro_rules! port {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read the port at `offset` from the first.
        ///
        /// # Panics
        /// When it is not among them.
        pub fn $read(&self, offset: u16) -> $type {
            match self.device(offset, size_of::<$type>()) {
                Some((device, at)) => device.read(at, size_of::<$type>()) as $type,
                // Where nothing answers, the bus floats.
                None => <$type>::MAX,
            }
        }

        /// Write the port at `offset` from the first.
        ///
        /// # Panics
        /// When it is not among them.
        pub fn $write(&self, offset: u16, value: $type) {
            if let Some((device, at)) = self.device(offset, size_of::<$type>()) {
                device.write(at, size_of::<$type>(), u64::from(value));
            }
        }
    };
}

impl Ports {
    /// Take `count` ports from `first`.
    ///
    /// # Errors
    /// [`Error::PortsTaken`] when somebody has one of them.
    pub fn claim(first: u16, count: u16) -> Result<Self, Error> {
        if count == 0 || first.checked_add(count - 1).is_none() {
            return Err(Error::OutOfRange);
        }
        with(|machine| {
            let overlaps = |&(start, length): &(u16, u16)| {
                u32::from(start) < u32::from(first) + u32::from(count)
                    && u32::from(first) < u32::from(start) + u32::from(length)
            };
            if machine.claimed.iter().any(overlaps) {
                return Err(Error::PortsTaken);
            }
            machine.claimed.push((first, count));
            Ok(Self { first, count })
        })
    }

    port!(read8, write8, u8);
    port!(read16, write16, u16);
    port!(read32, write32, u32);

    fn device(&self, offset: u16, width: usize) -> Option<(Rc<dyn Registers>, u64)> {
        let inside = usize::from(offset) + width <= usize::from(self.count);
        assert!(inside, "port {offset:#x} is outside of {:#x}", self.count);
        with(|machine| find(&machine.ports, u64::from(self.first + offset), width as u64))
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        with(|machine| machine.claimed.retain(|&claim| claim != (self.first, self.count)));
    }
}

/// The device that was attached last of those that answer at all of a range, and where in it the range begins. The machine is not borrowed any more
/// when the device is called, so that a device may use it.
fn find(attached: &[Attached], first: u64, length: u64) -> Option<(Rc<dyn Registers>, u64)> {
    let inside = |device: &&Attached| {
        first >= device.first
            && first - device.first <= device.length.saturating_sub(length)
            && length <= device.length
    };
    attached.iter().rev().find(inside).map(|found| (found.device.clone(), first - found.first))
}
