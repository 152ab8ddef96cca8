//! What the server tells about an export, and what that makes of it as a disk.

use crate::contexts::{Granted, MAX_CONTEXTS};
use crate::wire::{MAX_STRING, TransmissionFlags};
use crate::{Fatal, Text};
use core::fmt;
use storage_block::Geometry;

/// What an export is taken for unless it says otherwise: 32 MiB is the payload every server is to take.
const DEFAULT_PREFERRED: u32 = 4096;
const DEFAULT_MAXIMUM: u32 = 32 << 20;
/// The blocks a SCSI disk is commonly made of.
const SMALL_BLOCK: u32 = 512;
const LARGE_BLOCK: u32 = 4096;
/// The largest minimum block the protocol allows.
const MAX_MINIMUM: u32 = 1 << 16;

const _: () = assert!(MAX_STRING <= u16::MAX as usize);

/// Size constraints (protocol section "Size constraints"), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// The smallest range that may be accessed.
    pub minimum: u32,
    /// The range that is accessed most efficiently.
    pub preferred: u32,
    /// The largest payload of one request.
    pub maximum: u32,
}

impl BlockSizes {
    /// What holds for an export that does not advertise any.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: DEFAULT_PREFERRED, maximum: DEFAULT_MAXIMUM };

    fn check(self) -> Result<Self, Fatal> {
        let Self { minimum, preferred, maximum } = self;
        let sound = minimum.is_power_of_two()
            && minimum <= MAX_MINIMUM
            && preferred.is_power_of_two()
            && preferred >= minimum.max(SMALL_BLOCK)
            && maximum >= preferred;
        if sound { Ok(self) } else { Err(Fatal::BlockSizes { minimum, preferred, maximum }) }
    }
}

/// What the handshake found out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) tls: bool,
    pub(crate) structured: bool,
    pub(crate) extended: bool,
    pub(crate) contexts: Granted,
    pub(crate) size_and_flags: Option<(u64, TransmissionFlags)>,
    pub(crate) block_sizes: Option<BlockSizes>,
    pub(crate) name: Text,
    pub(crate) description: Text,
}

impl Facts {
    pub(crate) const NONE: Self = Self {
        tls: false,
        structured: false,
        extended: false,
        contexts: Granted::NONE,
        size_and_flags: None,
        block_sizes: None,
        name: Text::EMPTY,
        description: Text::EMPTY,
    };
}

/// One export, as agreed on in a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Its canonical name, else the name asked for.
    pub name: Text,
    /// The server's description of it, for people.
    pub description: Text,
    /// Bytes, before rounding down to a block.
    pub size: u64,
    /// What it offers.
    pub flags: TransmissionFlags,
    /// Its size constraints, or the defaults.
    pub block_sizes: BlockSizes,
    /// The connection is in TLS.
    pub tls: bool,
    /// Reads are answered in chunks.
    pub structured: bool,
    /// Requests and chunks have extended headers.
    pub extended: bool,
    /// The number of the metadata context `base:allocation`, when the server has it.
    pub allocation: Option<u32>,
    /// What the server's memory of unflushed writes is bound to, as `x-corbel:incarnation` tells it: another one than
    /// before, or none, says that writes which were acknowledged and not flushed may be forgotten.
    pub incarnation: Option<Text>,
    /// The server took the claim of [`crate::Settings::writer`]: nothing that came by a connection of somebody else, or
    /// by an earlier one of this session that was not told to be alive, can change the medium any more.
    pub fenced: bool,
    /// Requests may be spread over several connections: what FLUSH and FUA make durable is so for all of them. Never
    /// without FLUSH, whatever the server's flags say, unless the export is read-only.
    pub multi_conn: bool,
    /// The numbers of all contexts.
    pub(crate) contexts: [Option<u32>; MAX_CONTEXTS],
    /// What it is as a disk. `fua` is also offered when the server has FLUSH but not FUA: the engine then sends
    /// a FLUSH behind the write and completes after it.
    pub geometry: Geometry,
}

impl Export {
    pub(crate) fn new(facts: &Facts, max_payload: u32) -> Result<Self, Fatal> {
        let (size, flags) = facts.size_and_flags.ok_or(Fatal::ExportInfo)?;
        if !flags.contains(TransmissionFlags::HAS_FLAGS) {
            return Err(Fatal::NoTransmissionFlags);
        }
        let block_sizes = facts.block_sizes.unwrap_or(BlockSizes::DEFAULT).check()?;
        if block_sizes.minimum > LARGE_BLOCK {
            return Err(Fatal::MinimumBlock(block_sizes.minimum));
        }
        if size >= 1 << 63 {
            return Err(Fatal::Size(size));
        }
        if !size.is_multiple_of(u64::from(block_sizes.minimum)) {
            return Err(Fatal::SizeNotMultiple { size, minimum: block_sizes.minimum });
        }
        let block_size = if block_sizes.minimum <= SMALL_BLOCK { SMALL_BLOCK } else { LARGE_BLOCK };
        let usable = size - size % u64::from(block_size);
        if usable == 0 {
            return Err(Fatal::Size(size));
        }
        let has = |flag| flags.contains(flag);
        let flush = has(TransmissionFlags::SEND_FLUSH);
        // At least one block; the constraints are such that the server's own figure has room for one.
        let max_transfer = block_sizes.maximum.min(max_payload);
        let max_transfer = (max_transfer - max_transfer % block_size).max(block_size);
        if max_transfer > block_sizes.maximum {
            let BlockSizes { minimum, preferred, maximum } = block_sizes;
            return Err(Fatal::BlockSizes { minimum, preferred, maximum });
        }
        let geometry = Geometry {
            size: usable,
            block_size,
            preferred_block: block_sizes.preferred.max(block_size),
            max_transfer,
            read_only: has(TransmissionFlags::READ_ONLY),
            flush,
            fua: flush || has(TransmissionFlags::SEND_FUA),
            trim: has(TransmissionFlags::SEND_TRIM),
            write_zeroes: has(TransmissionFlags::SEND_WRITE_ZEROES),
            fast_zero: has(TransmissionFlags::SEND_WRITE_ZEROES) && has(TransmissionFlags::SEND_FAST_ZERO),
            cache: has(TransmissionFlags::SEND_CACHE),
            status: facts.contexts.allocation.is_some(),
            rotational: has(TransmissionFlags::ROTATIONAL),
        };
        Ok(Self {
            name: facts.name,
            description: facts.description,
            size,
            flags,
            block_sizes,
            tls: facts.tls,
            structured: facts.structured,
            extended: facts.extended,
            allocation: facts.contexts.allocation,
            incarnation: facts.contexts.incarnation,
            fenced: facts.contexts.fenced,
            multi_conn: has(TransmissionFlags::CAN_MULTI_CONN) && (flush || geometry.read_only),
            contexts: facts.contexts.numbers,
            geometry,
        })
    }

    /// Whether a request can ask the server for durability by itself.
    pub const fn native_fua(&self) -> bool {
        self.flags.contains(TransmissionFlags::SEND_FUA)
    }
}

/// How an export that came back differs, without being unusable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It has grown: the disk's bytes before and now.
    pub grown: Option<(u64, u64)>,
    /// It was read-only and is no longer.
    pub writable: bool,
    /// Flags that are no more; see [`validate`] for those that may not go.
    pub lost: TransmissionFlags,
    /// Flags that are new.
    pub gained: TransmissionFlags,
}

/// Why an export that came back is not the one that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It has another canonical name.
    Name,
    /// It has shrunk.
    Shrunk {
        /// The disk's bytes before.
        before: u64,
        /// The disk's bytes now.
        now: u64,
    },
    /// Its smallest block has become larger than a block of the disk.
    BlockSize {
        /// Bytes in a block of the disk.
        before: u32,
        /// Bytes in the smallest block now.
        now: u32,
    },
    /// It has become read-only.
    ReadOnly,
    /// It no longer offers FLUSH.
    Flush,
    /// It no longer offers FUA, nor FLUSH in its stead.
    Fua,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("the export has another name than before"),
            Self::Shrunk { before, now } => write!(f, "the export has shrunk from {before} to {now} bytes"),
            Self::BlockSize { before, now } => {
                write!(f, "the export's smallest block is {now} bytes, the disk's is {before}")
            }
            Self::ReadOnly => f.write_str("the export has become read-only"),
            Self::Flush => f.write_str("the export no longer offers FLUSH"),
            Self::Fua => f.write_str("the export no longer offers FUA"),
        }
    }
}

/// Whether the export `now`, found after a reconnection, may stand in for `before` under a live session.
///
/// `now` keeps serving a disk whose geometry is that of `before`: the caller keeps showing the old block size, and
/// shows a new size only together with a unit attention.
///
/// # Errors
/// What makes it another disk, or one that cannot keep what was promised of it.
pub fn validate(before: &Export, now: &Export) -> Result<Change, Mismatch> {
    let (old, new) = (&before.geometry, &now.geometry);
    let size = now.size - now.size % u64::from(old.block_size);
    if before.name != now.name {
        return Err(Mismatch::Name);
    }
    if size < old.size {
        return Err(Mismatch::Shrunk { before: old.size, now: size });
    }
    if now.block_sizes.minimum > old.block_size {
        return Err(Mismatch::BlockSize { before: old.block_size, now: now.block_sizes.minimum });
    }
    if new.read_only && !old.read_only {
        return Err(Mismatch::ReadOnly);
    }
    if old.flush && !new.flush {
        return Err(Mismatch::Flush);
    }
    if old.fua && !new.fua {
        return Err(Mismatch::Fua);
    }
    Ok(Change {
        grown: (size > old.size).then_some((old.size, size)),
        writable: old.read_only && !new.read_only,
        lost: before.flags.without(now.flags),
        gained: now.flags.without(before.flags),
    })
}
