//! What is exposed to whom: the part of storage that management drives.

use alloc::string::String;
use core::fmt;

/// One disk exposed as one logical unit of one iSCSI target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The name management knows it by.
    pub id: String,
    /// The iSCSI target's name (RFC 7143 section 4.2.7).
    pub iqn: String,
    /// The logical unit's number under that target.
    pub lun: u16,
    /// Where its bytes are: an NBD URI.
    pub volume: String,
    /// Names of the initiators that may log in; `*` stands for any.
    pub initiators: alloc::vec::Vec<String>,
    /// Refuse writes.
    pub read_only: bool,
}

/// An exposure and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// What was asked for.
    pub exposure: Exposure,
    /// The state of the way to its bytes.
    pub state: VolumeState,
    /// Bytes on the disk, once known.
    pub size: Option<u64>,
    /// Sessions logged in to its target.
    pub sessions: u32,
}

/// The state of the way to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// No connection yet, or again.
    Connecting,
    /// Requests are being served.
    Ready,
    /// The storage service cannot be used as it is; the reason is for people.
    Down(String),
}

/// Why an exposure was not made or not withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// A field does not hold what it must.
    Invalid {
        /// The field's name in [`Exposure`].
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It contradicts what is there: what, is for people.
    Conflict(String),
    /// There is no exposure of that id.
    NotFound,
    /// All slots are taken.
    Full,
    /// A session is logged in to its target.
    InUse,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, reason } => write!(f, "{field}: {reason}"),
            Self::Conflict(what) => f.write_str(what),
            Self::NotFound => f.write_str("no such target"),
            Self::Full => f.write_str("all target slots are taken"),
            Self::InUse => f.write_str("a session is logged in to the target"),
        }
    }
}
