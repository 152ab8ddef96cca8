//! Why a device is not used.

use core::fmt;

/// Why a device could not be brought up. It is left reset; the others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Memory, registers or an interrupt could not be had.
    Io(kernel_io::Error),
    /// What the device says about its own layout cannot be.
    Layout(&'static str),
    /// Its registers have no address, and none could be given to them.
    NoAddress,
    /// It has no message-signalled interrupts.
    NoInterrupt,
    /// It does not come out of reset.
    Reset,
    /// It wants features we do not have, or takes back those it offered.
    Features,
    /// It has no such queue, or one too small to use.
    NoQueue(u16),
    /// It is a kind of device, or a way to reach one, that no driver is there for.
    Unsupported(&'static str),
    /// The host does not take what it is given, or does not do what it is asked for.
    Refused(&'static str),
    /// The host does not answer.
    NoAnswer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Layout(what) => write!(f, "its layout cannot be: {what}"),
            Self::NoAddress => f.write_str("its registers have no address"),
            Self::NoInterrupt => f.write_str("it has no MSI-X"),
            Self::Reset => f.write_str("it does not come out of reset"),
            Self::Features => f.write_str("no agreement on features"),
            Self::NoQueue(queue) => write!(f, "queue {queue} is missing or too small"),
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::Refused(what) => write!(f, "the host refuses {what}"),
            Self::NoAnswer => f.write_str("the host does not answer"),
        }
    }
}

impl core::error::Error for Error {}

impl From<kernel_io::Error> for Error {
    fn from(error: kernel_io::Error) -> Self {
        Self::Io(error)
    }
}
