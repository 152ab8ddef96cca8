//! Requests, their outcomes and the shape of the disk they are for.

use crate::Buffer;
use core::fmt;

/// What is to be done with a range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the request's buffer from the disk.
    Read,
    /// Write the request's buffer. With `fua` the completion says that the bytes are on stable storage.
    Write {
        /// Force unit access: durable before the completion.
        fua: bool,
    },
    /// Make durable all writes completed so far; offset and length are zero.
    Flush,
    /// The content is of no more use; what is read afterwards is undefined.
    Trim {
        /// Force unit access: durable before the completion.
        fua: bool,
    },
    /// The range reads back as zeroes afterwards.
    WriteZeroes {
        /// Force unit access: durable before the completion.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail at once with [`Error::NotSupported`] if it would take as long as writing zeroes.
        fast: bool,
    },
    /// A hint that the range will be read soon.
    Cache,
    /// Tell which parts of the range are allocated: the buffer comes back shortened to whole [`Extent`]s, at least one,
    /// which follow one another from the beginning of the range on. They may end short of its end, for want of room or
    /// because the service says no more at once, and the last may reach beyond.
    Status,
}

impl Operation {
    /// Whether the medium may be different afterwards.
    pub const fn changes_medium(self) -> bool {
        match self {
            Self::Write { .. } | Self::Trim { .. } | Self::WriteZeroes { .. } => true,
            Self::Read | Self::Flush | Self::Cache | Self::Status => false,
        }
    }

    /// Whether the bytes of the range travel with it, in a buffer of the request's length.
    pub const fn carries_data(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. })
    }
}

/// One operation on one disk.
#[derive(Debug)]
pub struct Request {
    /// The maker's name for it, returned unchanged in the [`Completion`].
    pub cookie: u64,
    /// What to do.
    pub operation: Operation,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes in the range. For [`Operation::carries_data`] it equals the buffer's length.
    pub length: u64,
    /// The data for a write, the place for a read or for extents, else `None`.
    pub buffer: Option<Buffer>,
}

/// A part of the disk that is all in one state, as [`Operation::Status`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, at least one.
    pub length: u64,
    /// Nothing is allocated for it.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

impl Extent {
    /// Bytes of one in a buffer.
    pub const SIZE: usize = 16;

    /// One as it lies in a buffer.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8] = u8::from(self.hole) | u8::from(self.zero) << 1;
        bytes
    }

    /// Those in a buffer.
    pub fn all(buffer: &[u8]) -> impl Iterator<Item = Self> {
        let (extents, _) = buffer.as_chunks::<{ Self::SIZE }>();
        extents.iter().map(|bytes| {
            let (length, flags) = bytes.split_at(8);
            let length = length.try_into().map_or(0, u64::from_le_bytes);
            Self { length, hole: flags[0] & 1 != 0, zero: flags[0] & 2 != 0 }
        })
    }
}

/// How a [`Request`] ended.
#[derive(Debug)]
pub struct Completion {
    /// The request's cookie.
    pub cookie: u64,
    /// Success, or the first error that any part of it met.
    pub result: Result<(), Error>,
    /// The request's buffer. That of a write that succeeded may be kept below, to be written again if the service
    /// forgets it.
    pub buffer: Option<Buffer>,
}

/// Why a request failed: the errors a storage service can give, and the loss of the service itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// The disk is read-only for us.
    NotPermitted,
    /// The medium or the service below failed.
    Io,
    /// The service is out of memory for now.
    NoMemory,
    /// The service found the request senseless: a bug, or the disk has shrunk.
    Invalid,
    /// No space is left behind a thin disk.
    NoSpace,
    /// The service does not offer this operation.
    NotSupported,
    /// The service is shutting down or the connection to it was lost; whether the request took effect is unknown.
    Lost,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "not permitted",
            Self::Io => "input/output error",
            Self::NoMemory => "the storage service is out of memory",
            Self::Invalid => "invalid request",
            Self::NoSpace => "no space left",
            Self::NotSupported => "operation not supported",
            Self::Lost => "connection to the storage service lost",
        })
    }
}

/// What a disk is and what its backend offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes on the disk; a multiple of `block_size`.
    pub size: u64,
    /// Bytes in the smallest range that may be read or written: 512 or 4096.
    pub block_size: u32,
    /// Bytes in the range the backend likes best, a power of two and at least `block_size`.
    pub preferred_block: u32,
    /// Bytes in the largest read or write the backend takes in one piece.
    pub max_transfer: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// [`Operation::Flush`] is offered. Without it a completed write is taken to be durable.
    pub flush: bool,
    /// `fua` is offered on writes.
    pub fua: bool,
    /// [`Operation::Trim`] is offered.
    pub trim: bool,
    /// [`Operation::WriteZeroes`] is offered.
    pub write_zeroes: bool,
    /// `fast` is offered with it.
    pub fast_zero: bool,
    /// [`Operation::Cache`] is offered.
    pub cache: bool,
    /// [`Operation::Status`] is offered.
    pub status: bool,
    /// The medium has seek times.
    pub rotational: bool,
}

impl Geometry {
    /// Number of blocks of [`Geometry::block_size`], which is a power of two.
    pub const fn blocks(&self) -> u64 {
        self.size >> self.block_size.trailing_zeros()
    }
}
