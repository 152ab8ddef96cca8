//! What a client is to connect to, and as whom.

use crate::wire::MAX_STRING;
use alloc::string::String;
use core::fmt;

/// Bytes in the longest name of a writer.
pub const MAX_OWNER: usize = 32;

/// Whether a connection goes on in TLS (protocol section "TLS support").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// In clear. A server that wants TLS is refused.
    #[default]
    Off,
    /// In TLS from the first option on. A server that has none is refused: there is no way back to clear bytes.
    Required,
}

/// The best form of messages to ask for. A server that has it not is asked for the next one down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headers {
    /// A reply is a header and, to a read, the bytes.
    Simple,
    /// A reply is a row of chunks. Metadata contexts need at least this.
    Structured,
    /// Requests and chunks have headers of 32 bytes and lengths of 64 bits.
    #[default]
    Extended,
}

/// Who claims to be the only writer of an export: the context `x-corbel:writer`.
///
/// A server that knows it keeps the highest generation it has seen. A lower one, or an equal one of another owner, is
/// refused with [`crate::Fatal::Fenced`]. Otherwise the server cuts the connections that are not this writer's, and
/// answers only when nothing that came by them can change the medium any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer<'a> {
    /// Counts the writers that the export has had; who has the highest is the one.
    pub generation: u64,
    /// The writer's name: 1 to 32 of `0-9`, `a-z` and `-`.
    pub owner: &'a str,
}

/// What to connect to, and as whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings<'a> {
    /// The export's name; the empty name is the server's default export.
    pub export: &'a str,
    /// Whether in TLS.
    pub tls: Tls,
    /// The claim to be the only writer, if there is one.
    pub writer: Option<Writer<'a>>,
    /// The best form of messages to ask for.
    pub headers: Headers,
}

impl<'a> Settings<'a> {
    /// The export of this name, in clear, without a claim.
    pub const fn of(export: &'a str) -> Self {
        Self { export, tls: Tls::Off, writer: None, headers: Headers::Extended }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.export.len() > MAX_STRING {
            return Err(ClientError::NameTooLong);
        }
        match self.writer {
            Some(Writer { owner, .. }) if !is_token(owner.as_bytes(), MAX_OWNER) => Err(ClientError::Owner),
            _ => Ok(()),
        }
    }
}

impl<'a> From<&'a str> for Settings<'a> {
    fn from(export: &'a str) -> Self {
        Self::of(export)
    }
}

impl<'a> From<&'a String> for Settings<'a> {
    fn from(export: &'a String) -> Self {
        Self::of(export)
    }
}

impl<'a> From<&Self> for Settings<'a> {
    fn from(settings: &Self) -> Self {
        *settings
    }
}

/// Whether `name` is 1 to `longest` of the characters that owners and incarnations are made of.
pub(crate) fn is_token(name: &[u8], longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'))
}

/// Why a client was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The export's name is longer than the 4096 bytes the protocol allows.
    NameTooLong,
    /// There must be at least one slot, and no more than a cookie has room for.
    Slots,
    /// The writer's name is not 1 to 32 of `0-9`, `a-z` and `-`.
    Owner,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTooLong => write!(f, "an export's name has at most {MAX_STRING} bytes"),
            Self::Slots => write!(f, "there must be 1 to {} slots", crate::client::MAX_SLOTS),
            Self::Owner => write!(f, "a writer's name is 1 to {MAX_OWNER} of 0-9, a-z and -"),
        }
    }
}
