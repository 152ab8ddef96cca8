//! Numbers and headers of the NBD protocol (`doc/proto.md` of the NetworkBlockDevice project). All integers are
//! big-endian.

/// The TCP port assigned to NBD.
pub const PORT: u16 = 10809;

/// `NBDMAGIC`, the first eight bytes of every server.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: follows the greeting of a newstyle server, and begins every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Follows the greeting of a server that speaks the retired oldstyle negotiation.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Begins every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins every simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins every chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Begins every request with an extended header.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins every chunk with an extended header.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes in the longest string the protocol allows.
pub const MAX_STRING: usize = 4096;
/// Bytes in the greeting of a newstyle server.
pub const GREETING: usize = 18;
/// Bytes in the header of a reply to an option.
pub const OPTION_REPLY_HEADER: usize = 20;
/// Bytes in a request, payload aside.
pub const REQUEST_HEADER: usize = 28;
/// Bytes in a simple reply, payload aside.
pub const SIMPLE_REPLY_HEADER: usize = 16;
/// Bytes in the header of a chunk.
pub const CHUNK_HEADER: usize = 20;
/// Bytes in an extended header, of a request as of a chunk.
pub const EXTENDED_HEADER: usize = 32;

/// Flags of the server's greeting.
pub mod handshake_flag {
    /// The server answers options it does not know, and can report errors.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server is willing to leave out the 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the handshake.
pub mod option {
    /// Enter transmission without the possibility of an error reply.
    pub const EXPORT_NAME: u32 = 1;
    /// End the negotiation.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Go on in TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and enter transmission.
    pub const GO: u32 = 7;
    /// Answer with structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name the metadata contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options. Errors have bit 31 set.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export's name.
    pub const SERVER: u32 = 2;
    /// One fact about an export.
    pub const INFO: u32 = 3;
    /// One selected metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit all errors have.
    pub const ERROR: u32 = 1 << 31;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = ERROR + 1;
    /// The server's policy forbids it.
    pub const ERR_POLICY: u32 = ERROR + 2;
    /// The option makes no sense.
    pub const ERR_INVALID: u32 = ERROR + 3;
    /// The server's platform cannot do it.
    pub const ERR_PLATFORM: u32 = ERROR + 4;
    /// Only in TLS.
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = ERROR + 7;
    /// The client must ask for the size constraints.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR + 8;
    /// Request or reply are too big.
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
    /// The client must ask for extended headers.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR + 10;
}

/// Facts of `NBD_REP_INFO`.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// The size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands of the transmission phase.
pub mod command {
    /// Read a range.
    pub const READ: u16 = 0;
    /// Write a range.
    pub const WRITE: u16 = 1;
    /// Disconnect; there is no reply.
    pub const DISC: u16 = 2;
    /// Make durable what was answered.
    pub const FLUSH: u16 = 3;
    /// Discard a range.
    pub const TRIM: u16 = 4;
    /// Prefetch a range.
    pub const CACHE: u16 = 5;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask for the status of a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Keep the space allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Answer a read in one piece.
    pub const DF: u16 = 1 << 2;
    /// Tell one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zero at once or not at all.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload; in extended headers only.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of chunks of a structured reply. Errors have bit 15 set.
pub mod chunk {
    /// The flag of a reply's last chunk.
    pub const FLAG_DONE: u16 = 1 << 0;
    /// Nothing but the end.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one metadata context, with lengths of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit all errors have.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT + 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT + 2;
}

/// The states of an extent in `base:allocation`.
pub mod state {
    /// Nothing is allocated for it.
    pub const HOLE: u64 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u64 = 1 << 1;
}

/// Error values in replies.
pub mod error {
    /// Operation not permitted.
    pub const EPERM: u32 = 1;
    /// Input/output error.
    pub const EIO: u32 = 5;
    /// Cannot allocate memory.
    pub const ENOMEM: u32 = 12;
    /// Invalid argument.
    pub const EINVAL: u32 = 22;
    /// No space left on device.
    pub const ENOSPC: u32 = 28;
    /// Value too large.
    pub const EOVERFLOW: u32 = 75;
    /// Operation not supported.
    pub const ENOTSUP: u32 = 95;
    /// The server is shutting down.
    pub const ESHUTDOWN: u32 = 108;
}

/// What an export offers: the 16 transmission flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// Set by every server.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// `NBD_CMD_FLUSH` is offered.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// `NBD_CMD_FLAG_FUA` is offered.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// The medium has seek times.
    pub const ROTATIONAL: Self = Self(1 << 4);
    /// `NBD_CMD_TRIM` is offered.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// `NBD_CMD_WRITE_ZEROES` is offered.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// Reads can be asked for in one piece.
    pub const SEND_DF: Self = Self(1 << 7);
    /// FLUSH and FUA reach over all connections.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// `NBD_CMD_CACHE` is offered.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// Zeroing can be asked for only if it is fast.
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);
    /// `NBD_CMD_BLOCK_STATUS` can be limited to some contexts.
    pub const BLOCK_STATUS_PAYLOAD: Self = Self(1 << 12);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of `self` that `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The bits both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; REQUEST_HEADER] {
        let mut bytes = [0; REQUEST_HEADER];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Take the fields from the wire; `None` when the magic is another.
    pub fn read(bytes: &[u8; REQUEST_HEADER]) -> Option<Self> {
        (u32_at(bytes, 0) == REQUEST_MAGIC).then(|| Self {
            flags: u16_at(bytes, 4),
            command: u16_at(bytes, 6),
            cookie: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            length: u32_at(bytes, 24),
        })
    }
}

/// A request's extended header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedRequest {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes of the payload, if [`command_flag::PAYLOAD_LEN`] says so, else of the range.
    pub length: u64,
}

impl ExtendedRequest {
    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; EXTENDED_HEADER] {
        let mut bytes = [0; EXTENDED_HEADER];
        bytes[0..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Take the fields from the wire; `None` when the magic is another.
    pub fn read(bytes: &[u8; EXTENDED_HEADER]) -> Option<Self> {
        (u32_at(bytes, 0) == EXTENDED_REQUEST_MAGIC).then(|| Self {
            flags: u16_at(bytes, 4),
            command: u16_at(bytes, 6),
            cookie: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            length: u64_at(bytes, 24),
        })
    }
}

/// The `N` bytes at `at`. The callers have collected as many before they look.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes_at(bytes, at))
}
