//! The numbers that bound a connection, and those that count what it did.

use core::time::Duration;

/// The numbers that bound one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests taken at once.
    pub slots: usize,
    /// Bytes in the payload of one command, if the server has no smaller limit. 32 MiB is what every server takes.
    pub max_payload: u32,
    /// Bytes in one command without payload (TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS). A server has to be able to do
    /// that much before [`Limits::slow`] has passed. Only extended headers can say more than 32 bits of it.
    pub max_range: u64,
    /// How long the handshake may take.
    pub handshake: Duration,
    /// After this long a silence, with answers due, the connection is suspect; after twice as long it is dead.
    pub suspect_after: Duration,
    /// Instead, how long a silence makes a connection dead while a FLUSH, TRIM, WRITE_ZEROES or a write with FUA is
    /// in flight: slow is not dead.
    pub slow: Duration,
    /// An idle connection is tried with a small read this often.
    pub heartbeat: Duration,
}

impl Limits {
    /// 32 slots, and the times that clients of comparable services have proved.
    pub const DEFAULT: Self = Self {
        slots: 32,
        max_payload: 32 << 20,
        max_range: 256 << 20,
        handshake: Duration::from_secs(10),
        suspect_after: Duration::from_secs(5),
        slow: Duration::from_secs(180),
        heartbeat: Duration::from_secs(5),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What has happened since the client was made, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections begun.
    pub connections: u64,
    /// Connections ended by a [`crate::Fatal`].
    pub fatal: u64,
    /// Times a connection was suspect.
    pub suspected: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Requests taken.
    pub requests: u64,
    /// Requests completed with an error.
    pub errors: u64,
    /// Commands sent; a request that is split is several.
    pub commands: u64,
    /// Chunks of structured replies received.
    pub chunks: u64,
    /// Bytes delivered to reads, holes included.
    pub bytes_read: u64,
    /// Bytes of writes that were acknowledged.
    pub bytes_written: u64,
    /// Replies to reads that lacked bytes, and to BLOCK_STATUS that lacked extents, without telling an error.
    pub short_reads: u64,
    /// Times a server found a command too long, and it was sent again in pieces.
    pub split_again: u64,
}

impl Counters {
    /// What has happened since `earlier`, of the same client.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            fatal: self.fatal - earlier.fatal,
            suspected: self.suspected - earlier.suspected,
            heartbeats: self.heartbeats - earlier.heartbeats,
            requests: self.requests - earlier.requests,
            errors: self.errors - earlier.errors,
            commands: self.commands - earlier.commands,
            chunks: self.chunks - earlier.chunks,
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_written: self.bytes_written - earlier.bytes_written,
            short_reads: self.short_reads - earlier.short_reads,
            split_again: self.split_again - earlier.split_again,
        }
    }
}
