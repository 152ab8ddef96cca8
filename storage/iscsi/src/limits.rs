//! Every number that bounds a connection.

use crate::wire::{self, Checksum};
use core::time::Duration;

/// Most R2Ts that can be outstanding for one task, whatever [`Limits::max_outstanding_r2t`] says.
pub const MAX_OUTSTANDING_R2T: usize = 8;
/// Bytes of sense data a response can carry; more is cut off.
pub const MAX_SENSE: usize = 128;

/// What a connection offers and what it puts up with. All memory is taken from these numbers at
/// [`crate::Connection::new`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// MaxConnections we would like.
    pub max_connections: u16,
    /// Task slots for commands in sequence: the CmdSN window.
    pub commands: u16,
    /// Further task slots for immediate commands and task management.
    pub immediate: u16,
    /// Buffers that may be with the connection at one time, for which places are prepared.
    pub buffers: u16,
    /// MaxRecvDataSegmentLength we declare, in bytes.
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength we would like, in bytes.
    pub max_burst_length: u32,
    /// FirstBurstLength we would like, in bytes.
    pub first_burst_length: u32,
    /// MaxOutstandingR2T we would like; at most [`MAX_OUTSTANDING_R2T`].
    pub max_outstanding_r2t: u16,
    /// InitialR2T we would like; the initiator may insist on it.
    pub initial_r2t: bool,
    /// ImmediateData we would like; the initiator may refuse it.
    pub immediate_data: bool,
    /// DefaultTime2Wait in seconds.
    pub default_time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub default_time2retain: u16,
    /// Bytes of text that one login or text request may have over all its PDUs, and that one answer may have;
    /// also the bytes of ping data that are echoed.
    pub text: u32,
    /// Login requests until the login must be done.
    pub login_requests: u16,
    /// Pairs of text in a whole login.
    pub login_keys: u16,
    /// Bytes received until the login must be done.
    pub login_bytes: u32,
    /// Time from the TCP connection to the end of the login.
    pub login_deadline: Duration,
    /// Silence after which we send a ping.
    pub ping_after: Duration,
    /// Silence after a ping, and in a discovery session any silence, after which the peer is taken for dead.
    pub dead_after: Duration,
    /// How long a command waits on its connection for those before it, which come by other connections of its session.
    pub gap_within: Duration,
    /// How long an initiator may keep back data that it has announced or was asked for, without sending any of a
    /// task's. A task with all its data here is nobody's to hold up, and one without holds up whoever comes behind it.
    pub data_within: Duration,
    /// The function that digests are made with.
    pub crc32c: Checksum,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4,
            commands: 128,
            immediate: 16,
            buffers: 256,
            max_recv_data_segment_length: 256 << 10,
            max_burst_length: 1 << 20,
            first_burst_length: 256 << 10,
            max_outstanding_r2t: 8,
            initial_r2t: false,
            immediate_data: true,
            default_time2wait: 2,
            default_time2retain: 0,
            text: 16 << 10,
            login_requests: 32,
            login_keys: 256,
            login_bytes: 64 << 10,
            login_deadline: Duration::from_secs(10),
            ping_after: Duration::from_secs(15),
            dead_after: Duration::from_secs(15),
            gap_within: Duration::from_secs(10),
            data_within: Duration::from_secs(30),
            crc32c: wire::crc32c,
        }
    }
}

impl Limits {
    /// The same, with every number brought into the range the standard and this engine can live with.
    #[must_use]
    pub(crate) fn checked(mut self) -> Self {
        self.max_connections = self.max_connections.max(1);
        self.commands = self.commands.clamp(1, 0x7fff);
        self.immediate = self.immediate.clamp(1, 0x7fff);
        self.max_recv_data_segment_length =
            self.max_recv_data_segment_length.clamp(512, wire::MAX_DATA_SEGMENT) & !3;
        self.max_burst_length = self.max_burst_length.clamp(512, wire::MAX_DATA_SEGMENT);
        self.first_burst_length = self.first_burst_length.clamp(512, self.max_burst_length);
        self.max_outstanding_r2t = self.max_outstanding_r2t.clamp(1, MAX_OUTSTANDING_R2T as u16);
        self.default_time2wait = self.default_time2wait.min(3600);
        self.default_time2retain = self.default_time2retain.min(3600);
        self.text = self.text.clamp(wire::LOGIN_DATA_SEGMENT, wire::MAX_DATA_SEGMENT);
        self
    }

    /// Slots for tasks of either kind.
    pub(crate) const fn slots(&self) -> usize {
        self.commands as usize + self.immediate as usize
    }
}
