//! Registers on the bare machine: mapped into memory, or behind ports.

use crate::platform::platform;
use crate::{Error, Width};
use core::ptr::NonNull;

/// Registers of a device that are mapped into memory. Clones are the same registers.
#[derive(Clone, Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    length: usize,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read the register at `offset`.
        ///
        /// # Panics
        /// When it is not inside, or not aligned: offsets are the driver's own and checked where a device names them.
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            let register = self.register(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: the platform has mapped the registers for ever, and the access is inside and aligned.
            unsafe { register.read_volatile() }
        }

        /// Write the register at `offset`.
        ///
        /// # Panics
        /// When it is not inside, or not aligned.
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            let register = self.register(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: the platform has mapped the registers for ever, they are not RAM, and the access is inside and
            // aligned.
            unsafe { register.write_volatile(value) };
        }
    };
}

impl Mmio {
    /// Map the registers at `physical`, wherever in the address space they lie.
    ///
    /// # Errors
    /// [`Error::Unmappable`], [`Error::OutOfMemory`].
    pub fn map(physical: u64, length: usize) -> Result<Self, Error> {
        Ok(Self { base: platform().map(physical, length)?, length })
    }

    /// The same for memory at `physical` that is none of the machine's own but that a hypervisor has as well.
    ///
    /// # Errors
    /// [`Error::Unmappable`], [`Error::OutOfMemory`].
    pub fn map_memory(physical: u64, length: usize) -> Result<Self, Error> {
        Ok(Self { base: platform().map_memory(physical, length)?, length })
    }

    /// A part of them.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn part(&self, offset: usize, length: usize) -> Result<Self, Error> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Error::OutOfRange);
        }
        // SAFETY: the offset is inside of what is mapped.
        Ok(Self { base: unsafe { self.base.add(offset) }, length })
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
        Some(self.base)
    }

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    #[inline]
    fn register(&self, offset: usize, width: usize) -> NonNull<u8> {
        let inside = offset <= self.length && width <= self.length - offset;
        assert!(inside, "register {offset:#x} is outside of {:#x} bytes", self.length);
        // SAFETY: the offset is inside of what is mapped.
        let register = unsafe { self.base.add(offset) };
        assert!((register.addr().get()).is_multiple_of(width), "register {offset:#x} is not aligned");
        register
    }
}

/// Registers of a device behind I/O ports.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    count: u16,
}

macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $width:expr) => {
        /// Read the port at `offset` from the first.
        ///
        /// # Panics
        /// When it is not among them.
        pub fn $read(&self, offset: u16) -> $type {
            let port = self.port(offset, size_of::<$type>());
            // SAFETY: the ports were claimed when the handle was made.
            (unsafe { platform().read_port(port, $width) }) as $type
        }

        /// Write the port at `offset` from the first.
        ///
        /// # Panics
        /// When it is not among them.
        pub fn $write(&self, offset: u16, value: $type) {
            let port = self.port(offset, size_of::<$type>());
            // SAFETY: the ports were claimed when the handle was made.
            unsafe { platform().write_port(port, $width, value.into()) };
        }
    };
}

impl Ports {
    /// Take `count` ports from `first`.
    ///
    /// # Errors
    /// [`Error::PortsTaken`].
    pub fn claim(first: u16, count: u16) -> Result<Self, Error> {
        if count == 0 || first.checked_add(count - 1).is_none() {
            return Err(Error::OutOfRange);
        }
        platform().claim_ports(first, count)?;
        Ok(Self { first, count })
    }

    port!(read8, write8, u8, Width::Byte);
    port!(read16, write16, u16, Width::Half);
    port!(read32, write32, u32, Width::Word);

    fn port(&self, offset: u16, width: usize) -> u16 {
        let inside = usize::from(offset) + width <= usize::from(self.count);
        assert!(inside, "port {offset:#x} is outside of {:#x}", self.count);
        self.first + offset
    }
}
