//! Why a connection is of no more use.

use crate::wire::{option, option_reply};
use core::fmt;

/// What ends a connection. The connection is to be dropped at once, without another word to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The first bytes are not those of an NBD server.
    NotNbd,
    /// The server speaks the oldstyle negotiation, which cannot name an export.
    Oldstyle,
    /// The server does not speak the fixed newstyle negotiation.
    NotFixedNewstyle,
    /// The handshake was not finished in time.
    HandshakeTimeout,
    /// A reply to an option does not begin with its magic.
    OptionReplyMagic,
    /// The server answered an option that was not the one asked.
    WrongOption {
        /// The option asked.
        asked: u32,
        /// The option answered.
        answered: u32,
    },
    /// A reply of a type that this option does not have.
    UnexpectedReply {
        /// The option asked.
        option: u32,
        /// The reply's type.
        reply: u32,
    },
    /// A reply longer or shorter than its type allows.
    ReplyLength {
        /// The option asked.
        option: u32,
        /// The reply's type.
        reply: u32,
        /// The length given.
        length: u32,
    },
    /// More replies to one option than can be meant.
    TooManyReplies {
        /// The option asked.
        option: u32,
    },
    /// The server refused an option that is needed. [`crate::Client::remark`] has its words.
    Refused {
        /// The option asked.
        option: u32,
        /// The server's reason.
        reason: Refusal,
    },
    /// TLS is required here, and the server refuses it.
    TlsRefused(Refusal),
    /// Bytes in clear behind the server's consent to TLS.
    ClearBytes,
    /// The server knows a writer of a newer generation, or another one of the same (see [`crate::Writer`]).
    Fenced,
    /// The server selected more metadata contexts than were asked for, or gave two of them this number.
    ContextTwice(u32),
    /// The server entered transmission without telling the export's size, or told it twice.
    ExportInfo,
    /// The export's transmission flags lack the bit that says that they are any.
    NoTransmissionFlags,
    /// The export's size is zero or at least 2^63.
    Size(u64),
    /// The export's size is not a multiple of the smallest block that may be accessed.
    SizeNotMultiple {
        /// Bytes in the export.
        size: u64,
        /// Bytes in the smallest block.
        minimum: u32,
    },
    /// The size constraints are not what the protocol allows.
    BlockSizes {
        /// Bytes in the smallest block that may be accessed.
        minimum: u32,
        /// Bytes in the block the server likes best.
        preferred: u32,
        /// Bytes in the largest payload.
        maximum: u32,
    },
    /// The smallest block that may be accessed is larger than the 4096 bytes a disk can show.
    MinimumBlock(u32),
    /// A reply begins with no known magic.
    ReplyMagic(u32),
    /// A reply to a request that is not in flight: never sent, already answered, or of an earlier connection.
    UnknownCookie(u64),
    /// Success was reported for a request, or consent to TLS, before all of it was sent.
    AnsweredTooEarly,
    /// A simple reply to a read although structured replies were agreed on.
    SimpleReplyToRead,
    /// A structured reply although none were agreed on.
    UnexpectedStructuredReply,
    /// A chunk of a type that the request's reply cannot have.
    ChunkType(u16),
    /// A chunk longer or shorter than its type allows.
    ChunkLength {
        /// The chunk's type.
        kind: u16,
        /// The length given.
        length: u32,
    },
    /// A chunk that repeats another offset than its request's.
    OffsetEcho {
        /// The request's offset.
        sent: u64,
        /// The chunk's.
        echoed: u64,
    },
    /// Extents of a metadata context that was not selected, or was told of before.
    ExtentContext(u32),
    /// An extent without length.
    EmptyExtent,
    /// A chunk that does not hold the number of extents it gives.
    ExtentCount {
        /// The number given.
        given: u32,
        /// The number held.
        held: u32,
    },
    /// A chunk for bytes that were not asked for.
    ChunkOutside,
    /// A chunk for bytes that had been delivered before.
    ChunkOverlap,
    /// Chunks in such disorder that keeping track of them has no more room.
    TooFragmented,
    /// A chunk that has nothing but the end to tell, and does not tell it.
    NoneNotDone,
    /// More errors for one request than can be meant.
    TooManyErrors,
    /// Nothing arrived for too long although answers are due.
    Stalled,
}

/// Why a server refused an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not know the option.
    Unsupported,
    /// Its policy forbids it.
    Policy,
    /// It takes the option as senseless.
    Invalid,
    /// Its platform cannot do it.
    Platform,
    /// Only in TLS.
    TlsRequired,
    /// It has no such export.
    UnknownExport,
    /// It is shutting down.
    ShuttingDown,
    /// It wants the size constraints to be asked for (they were).
    BlockSizeRequired,
    /// Request or reply are too big.
    TooBig,
    /// Only with extended headers.
    ExtendedHeadersRequired,
    /// An error that is not in the protocol.
    Other(u32),
}

impl Refusal {
    /// The reason that an error reply of type `reply` gives.
    pub(crate) const fn of(reply: u32) -> Self {
        match reply {
            option_reply::ERR_UNSUP => Self::Unsupported,
            option_reply::ERR_POLICY => Self::Policy,
            option_reply::ERR_INVALID => Self::Invalid,
            option_reply::ERR_PLATFORM => Self::Platform,
            option_reply::ERR_TLS_REQD => Self::TlsRequired,
            option_reply::ERR_UNKNOWN => Self::UnknownExport,
            option_reply::ERR_SHUTDOWN => Self::ShuttingDown,
            option_reply::ERR_BLOCK_SIZE_REQD => Self::BlockSizeRequired,
            option_reply::ERR_TOO_BIG => Self::TooBig,
            option_reply::ERR_EXT_HEADER_REQD => Self::ExtendedHeadersRequired,
            other => Self::Other(other),
        }
    }
}

/// How soon it makes sense to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The trouble may be over at any moment.
    Soon,
    /// Somebody has to change something first: raise an alarm and try at the slowest pace.
    Slowly,
}

impl Fatal {
    /// Whether the cause can pass by itself.
    pub const fn retry(self) -> Retry {
        match self {
            Self::HandshakeTimeout
            | Self::Stalled
            | Self::Refused { reason: Refusal::ShuttingDown, .. }
            | Self::TlsRefused(Refusal::ShuttingDown)
            | Self::UnknownCookie(_) => Retry::Soon,
            _ => Retry::Slowly,
        }
    }
}

/// The option's name in the protocol.
struct OptionName(u32);

impl fmt::Display for OptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            option::EXPORT_NAME => "EXPORT_NAME",
            option::LIST => "LIST",
            option::STARTTLS => "STARTTLS",
            option::INFO => "INFO",
            option::GO => "GO",
            option::STRUCTURED_REPLY => "STRUCTURED_REPLY",
            option::EXTENDED_HEADERS => "EXTENDED_HEADERS",
            option::SET_META_CONTEXT => "SET_META_CONTEXT",
            other => return write!(f, "{other}"),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "it is not supported",
            Self::Policy => "policy forbids it",
            Self::Invalid => "it is invalid",
            Self::Platform => "the platform cannot do it",
            Self::TlsRequired => "it is served only in TLS, which is switched off here",
            Self::UnknownExport => "there is no such export",
            Self::ShuttingDown => "the server is shutting down",
            Self::BlockSizeRequired => "the block size must be asked for",
            Self::TooBig => "request or reply are too big",
            Self::ExtendedHeadersRequired => "only with extended headers, which it does not offer",
            Self::Other(code) => return write!(f, "error {code:#x}"),
        })
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotNbd => f.write_str("this is not an NBD server"),
            Self::Oldstyle => f.write_str("the server speaks only the retired oldstyle negotiation"),
            Self::NotFixedNewstyle => f.write_str("the server does not speak fixed newstyle negotiation"),
            Self::HandshakeTimeout => f.write_str("the handshake took too long"),
            Self::OptionReplyMagic => f.write_str("a reply to an option has a wrong magic"),
            Self::WrongOption { asked, answered } => {
                write!(f, "option {} was answered for {}", OptionName(asked), OptionName(answered))
            }
            Self::UnexpectedReply { option, reply } => {
                write!(f, "option {} was answered with type {reply:#x}", OptionName(option))
            }
            Self::ReplyLength { option, reply, length } => {
                write!(f, "a reply to option {} of type {reply:#x} has {length} bytes", OptionName(option))
            }
            Self::TooManyReplies { option } => {
                write!(f, "too many replies to option {}", OptionName(option))
            }
            Self::Refused { option, reason } => {
                write!(f, "the server refused option {}: {reason}", OptionName(option))
            }
            Self::TlsRefused(reason) => {
                write!(f, "TLS is required here, and the server refuses it: {reason}")
            }
            Self::ClearBytes => f.write_str("the server went on in clear after it consented to TLS"),
            Self::Fenced => f.write_str("a newer generation writes to this export"),
            Self::ContextTwice(number) => {
                write!(f, "the metadata context of number {number} is one too many")
            }
            Self::ExportInfo => f.write_str("the server did not tell the export's size exactly once"),
            Self::NoTransmissionFlags => f.write_str("the export has no transmission flags"),
            Self::Size(size) => write!(f, "an export of {size} bytes cannot be used"),
            Self::SizeNotMultiple { size, minimum } => {
                write!(f, "the export's size of {size} bytes is no multiple of its block of {minimum}")
            }
            Self::BlockSizes { minimum, preferred, maximum } => write!(
                f,
                "block sizes of minimum {minimum}, preferred {preferred}, maximum {maximum} make no sense"
            ),
            Self::MinimumBlock(minimum) => {
                write!(f, "the export's minimum block of {minimum} bytes is larger than 4096")
            }
            Self::ReplyMagic(magic) => write!(f, "a reply begins with {magic:#010x}"),
            Self::UnknownCookie(cookie) => write!(f, "a reply to no request in flight: {cookie:#018x}"),
            Self::AnsweredTooEarly => f.write_str("a request was answered before it was sent"),
            Self::SimpleReplyToRead => f.write_str("a read got a simple reply instead of a structured one"),
            Self::UnexpectedStructuredReply => f.write_str("a structured reply was not agreed on"),
            Self::ChunkType(kind) => write!(f, "a chunk of type {kind:#x} where it cannot be"),
            Self::ChunkLength { kind, length } => {
                write!(f, "a chunk of type {kind:#x} has {length} bytes")
            }
            Self::OffsetEcho { sent, echoed } => {
                write!(f, "a chunk for a request at {sent} names the offset {echoed}")
            }
            Self::ExtentContext(number) => {
                write!(f, "extents of the metadata context {number}, which are not due")
            }
            Self::EmptyExtent => f.write_str("an extent has no length"),
            Self::ExtentCount { given, held } => {
                write!(f, "a chunk of {held} extents claims to have {given}")
            }
            Self::ChunkOutside => f.write_str("a chunk lies outside of its request"),
            Self::ChunkOverlap => f.write_str("a chunk repeats bytes of its reply"),
            Self::TooFragmented => f.write_str("the chunks of replies are in too great disorder"),
            Self::NoneNotDone => f.write_str("an empty chunk is not its reply's last"),
            Self::TooManyErrors => f.write_str("a reply has too many errors"),
            Self::Stalled => f.write_str("the server has stopped answering"),
        }
    }
}
