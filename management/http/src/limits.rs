//! How much of everything one connection may use.

use core::time::Duration;

/// The bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest first line, in bytes without its line end.
    pub first_line: usize,
    /// Most header fields.
    pub fields: usize,
    /// Most bytes of all header fields, line ends included.
    pub field_bytes: usize,
    /// Longest body, in bytes.
    pub body: usize,
    /// From the first byte of a request to the end of its head.
    pub head_time: Duration,
    /// From the first byte of a request to its last.
    pub total_time: Duration,
    /// How long a connection may be silent between two requests.
    pub idle_time: Duration,
    /// How long the peer may take to read a response.
    pub write_time: Duration,
}

impl Limits {
    /// The bounds for a server.
    pub const SERVER: Self = Self {
        first_line: 1024,
        fields: 32,
        field_bytes: 8 * 1024,
        body: 64 * 1024,
        head_time: Duration::from_secs(10),
        total_time: Duration::from_secs(30),
        idle_time: Duration::from_secs(60),
        write_time: Duration::from_secs(30),
    };

    /// The bounds for the client of a peer that is trusted to send lists, yet not to be in order.
    pub const CLIENT: Self = Self { body: 1024 * 1024, ..Self::SERVER };

    /// The most bytes of a head, with the line ends and one empty line before it.
    pub(crate) const fn head(&self) -> usize {
        self.first_line + self.field_bytes + 6
    }
}

/// The fixed room for fields while a head is tokenised; [`Limits::fields`] may be smaller.
pub(crate) const FIELDS_MAX: usize = 32;
