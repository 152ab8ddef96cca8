//! The bytes of RFC 7143: headers, text and digests, for both ends.
//!
//! Every protocol data unit is a struct with a `read` and a `header`, so that a test initiator, the simulator
//! and the fuzzers use the types the target itself uses. Reading a header never fails: each bit pattern has a
//! value, and whether it is legal now is the business of the connection.

mod crc32c;
mod frame;
mod header;
mod initiator;
mod serial;
mod target;
pub mod text;

pub use crc32c::{Checksum, crc32c};
pub use frame::{Damaged, Digests, Pdu};
pub use header::{Header, padding};
pub use initiator::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, SnackRequest, TaskManagementRequest,
    TextRequest,
};
pub use serial::SerialNumber;
pub use target::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, ReadyToTransfer, Reject, ScsiResponse,
    TaskManagementResponse, TextResponse,
};

/// Bytes in the basic header segment.
pub const BASIC_HEADER: usize = 48;
/// Bytes in a header or data digest.
pub const DIGEST: usize = 4;
/// Most bytes that additional header segments can have: TotalAHSLength counts words in one byte.
pub const MAX_ADDITIONAL_HEADERS: usize = 255 * 4;
/// The task or transfer tag that names nothing.
pub const RESERVED_TAG: u32 = 0xffff_ffff;
/// Largest DataSegmentLength that 24 bits can say.
pub const MAX_DATA_SEGMENT: u32 = 0x00ff_ffff;
/// MaxRecvDataSegmentLength before anything was declared, and for all login requests and responses.
pub const LOGIN_DATA_SEGMENT: u32 = 8192;

/// Operation codes (11.2.1.2), as they stand in the low six bits of the first byte.
pub mod opcode {
    /// NOP-Out.
    pub const NOP_OUT: u8 = 0x00;
    /// SCSI Command.
    pub const SCSI_COMMAND: u8 = 0x01;
    /// Task Management Function Request.
    pub const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    /// Login Request.
    pub const LOGIN_REQUEST: u8 = 0x03;
    /// Text Request.
    pub const TEXT_REQUEST: u8 = 0x04;
    /// SCSI Data-Out.
    pub const DATA_OUT: u8 = 0x05;
    /// Logout Request.
    pub const LOGOUT_REQUEST: u8 = 0x06;
    /// SNACK Request.
    pub const SNACK_REQUEST: u8 = 0x10;
    /// NOP-In.
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response.
    pub const SCSI_RESPONSE: u8 = 0x21;
    /// Task Management Function Response.
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    /// Login Response.
    pub const LOGIN_RESPONSE: u8 = 0x23;
    /// Text Response.
    pub const TEXT_RESPONSE: u8 = 0x24;
    /// SCSI Data-In.
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response.
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    /// Ready To Transfer.
    pub const READY_TO_TRANSFER: u8 = 0x31;
    /// Asynchronous Message.
    pub const ASYNC_MESSAGE: u8 = 0x32;
    /// Reject.
    pub const REJECT: u8 = 0x3f;
}

/// Reasons of a Reject (11.17.1).
pub mod reject {
    /// The data digest does not match.
    pub const DATA_DIGEST_ERROR: u8 = 0x02;
    /// SNACK is not to be had.
    pub const SNACK_REJECT: u8 = 0x03;
    /// The peer did what the protocol forbids.
    pub const PROTOCOL_ERROR: u8 = 0x04;
    /// No such command here.
    pub const COMMAND_NOT_SUPPORTED: u8 = 0x05;
    /// Too many immediate commands at once.
    pub const IMMEDIATE_COMMAND: u8 = 0x06;
    /// The task tag is in use.
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    /// A field has a value it must not have.
    pub const INVALID_PDU_FIELD: u8 = 0x09;
    /// Out of resources for a long text exchange.
    pub const LONG_OPERATION: u8 = 0x0a;
    /// Nothing but a logout is expected.
    pub const WAITING_FOR_LOGOUT: u8 = 0x0c;
}

#[cfg(test)]
mod identities;
#[cfg(test)]
mod tests;
