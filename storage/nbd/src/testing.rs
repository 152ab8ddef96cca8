//! A storage service, for tests, simulations and as the reference of what this client expects: the other end of the
//! protocol, as strict as a server can be, with commands that are executed when the test says so.
//!
//! A [`Medium`] stores; [`Disk`] is one in memory, with a cache that a crash loses. It outlives its [`Session`]s. A
//! session parses what the client sends into commands that wait; each is executed, in any order, by
//! [`Session::execute`], even after its connection is gone: that is how a ghost write comes about. What the client must
//! not do is noted in [`Session::violations`], and refused where the protocol has an error for it.
//!
//! An owner of sessions answers what is between them: [`Session::fence_request`] by [`Lease::admit`],
//! [`Session::cut`] and [`Session::fence`]; and what is below them: [`Session::wants_tls`] by a TLS handshake.

mod answers;
mod commands;
mod fence;
mod medium;
mod options;
mod session;

pub use answers::{chunk_bytes, extended_chunk_bytes, option_reply_bytes, simple_reply_bytes};
pub use commands::{Shape, Waiting};
pub use fence::{Admission, Fence, Lease};
pub use medium::{Disk, Medium};
pub use session::Session;

use crate::export::BlockSizes;
use crate::wire::TransmissionFlags;
use alloc::string::{String, ToString};

/// Whether a service has TLS (protocol section "TLS support").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// It has none.
    #[default]
    Off,
    /// Whoever wants it may have it.
    Offered,
    /// Nothing is said in clear.
    Required,
}

/// How a service presents its export.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The export's name.
    pub name: String,
    /// What the export is, for people.
    pub description: String,
    /// Transmission flags. Those that need what was not agreed on are left out.
    pub flags: TransmissionFlags,
    /// Size constraints to advertise and enforce.
    pub block_sizes: Option<BlockSizes>,
    /// Agree to structured replies.
    pub structured: bool,
    /// Agree to extended headers.
    pub extended: bool,
    /// Know `NBD_OPT_GO` and `NBD_OPT_INFO`.
    pub go: bool,
    /// Offer to leave out the zeroes after `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
    /// Answer `NBD_OPT_LIST`; otherwise policy forbids it.
    pub list: bool,
    /// Tell the size in reply to `NBD_OPT_INFO`; otherwise it is zero there, as `nbd-server` has it.
    pub info_size: bool,
    /// Have TLS.
    pub tls: Encryption,
    /// Have the context `base:allocation`.
    pub allocation: bool,
    /// Have the context `x-corbel:incarnation`, with this token.
    pub incarnation: Option<String>,
    /// Have the context `x-corbel:writer`: claims wait for [`Session::fence`].
    pub fencing: bool,
    /// Who makes no claim is served read-only.
    pub claimed_only: bool,
    /// Take a context of a namespace that is not known for an error, as some servers do.
    pub refuses_unknown_contexts: bool,
    /// Zero at once when that is asked for; otherwise that is an error, as zeroing takes as long as writing.
    pub fast_zero: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let flags = [
            TransmissionFlags::HAS_FLAGS,
            TransmissionFlags::SEND_FLUSH,
            TransmissionFlags::SEND_FUA,
            TransmissionFlags::SEND_TRIM,
            TransmissionFlags::SEND_WRITE_ZEROES,
            TransmissionFlags::SEND_CACHE,
        ];
        Self {
            name: "disk".to_string(),
            description: "in memory".to_string(),
            flags: TransmissionFlags(flags.iter().fold(0, |all, flag| all | flag.0)),
            block_sizes: None,
            structured: true,
            extended: false,
            go: true,
            no_zeroes: true,
            list: true,
            info_size: true,
            tls: Encryption::Off,
            allocation: true,
            incarnation: None,
            fencing: false,
            claimed_only: false,
            refuses_unknown_contexts: false,
            fast_zero: true,
        }
    }
}
