//! What can be refused.

use core::fmt;

/// Why a driver does not get what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Memory is short, or not contiguous enough.
    OutOfMemory,
    /// Nothing can be mapped there: it is RAM, it is empty or too long, or the CPU cannot address it.
    Unmappable,
    /// All interrupt vectors are taken.
    NoVector,
    /// No interrupt controller has this line.
    NoLine,
    /// The ports belong to the kernel.
    PortsTaken,
    /// The range is not inside the handle it was asked from.
    OutOfRange,
    /// The machine has no such thing.
    NotThere,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "memory for devices is short",
            Self::Unmappable => "not an address of device registers",
            Self::NoVector => "no interrupt vector is left",
            Self::NoLine => "no interrupt controller has this line",
            Self::PortsTaken => "these ports are the kernel's",
            Self::OutOfRange => "outside of the device's registers",
            Self::NotThere => "the machine has no such thing",
        })
    }
}

impl core::error::Error for Error {}
