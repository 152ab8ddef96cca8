//! What a connection tells the layer above, and what it is told.

use crate::login::Status;
use crate::negotiation::PROTOCOL_LEVEL;
use crate::task::Task;
use alloc::rc::Rc;
use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use storage_block::Buffer;
use storage_chap::{Access, Nonce};

/// What happened. Events are to be drained after every input; while one waits, nothing is read.
#[derive(Debug)]
pub enum Event {
    /// Somebody wants to log in; [`crate::Connection::peer`] says who. Answer with [`crate::Connection::admit`],
    /// and not before the tasks of a session that this one replaces are dead. If the answer was
    /// [`Admission::Authenticate`] it comes again when the initiator [`crate::Connection::has_proven`] itself, for another.
    Login,
    /// The login is done and commands may come; [`crate::Connection::parameters`] says what was agreed upon.
    LoggedIn,
    /// Targets are asked for. Answer with [`crate::Connection::answer_send_targets`].
    SendTargets,
    /// A command. Its header is in, its data may not be.
    Command(Command),
    /// A buffer given with [`crate::Connection::receive`] is full. It is shorter than it was given where the
    /// initiator has no more data.
    Received {
        /// The command it was given for; stale if that was answered or aborted meanwhile.
        task: Task,
        /// The offset it was given with.
        offset: u32,
        /// The buffer.
        buffer: Buffer,
    },
    /// A task management function. Answer with [`crate::Connection::task_management_response`].
    TaskManagement(TaskManagement),
    /// A command was ended by the engine, which gives its status: forget it.
    Dropped(Task),
    /// The initiator wants to leave. End its tasks, undo what must not outlive the session, then
    /// [`crate::Connection::logout_response`].
    Logout(LogoutReason),
    /// Everything was sent that will ever be: close the TCP connection.
    Close,
}

/// A SCSI command (11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The engine's name for it.
    pub task: Task,
    /// Logical unit number, as SAM has it.
    pub lun: [u8; 8],
    /// The first 16 bytes of the command descriptor block.
    pub cdb: [u8; 16],
    /// Bytes of the command descriptor block beyond 16, which the engine does not keep; zero for all commands
    /// of a disk.
    pub extended_cdb: u16,
    /// Task attribute.
    pub attribute: Attribute,
    /// It came with the immediate bit, out of sequence.
    pub immediate: bool,
    /// The R bit.
    pub read: bool,
    /// The W bit.
    pub write: bool,
    /// Bytes the initiator has a place for (R) or has to give (W); zero without either bit.
    pub expected_data_transfer_length: u32,
    /// Bytes the initiator has a place for, if both bits are set.
    pub bidirectional_read_length: u32,
}

/// Task attribute (11.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// 0, which a target treats as simple.
    Untagged,
    /// 1.
    Simple,
    /// 2.
    Ordered,
    /// 3.
    HeadOfQueue,
    /// 4.
    Aca,
    /// 5 to 7.
    Reserved(u8),
}

impl Attribute {
    pub(crate) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            other => Self::Reserved(other),
        }
    }
}

/// A task management request (11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagement {
    /// The engine's name for the request.
    pub task: Task,
    /// What is to be done.
    pub function: Function,
    /// Logical unit number, for the functions that have one.
    pub lun: [u8; 8],
    /// The task that is meant, for the functions that mean one.
    pub referenced: Referenced,
}

/// Task management functions (11.5.1, and RFC 7144, 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// 1.
    AbortTask,
    /// 2.
    AbortTaskSet,
    /// 3.
    ClearAca,
    /// 4.
    ClearTaskSet,
    /// 5.
    LogicalUnitReset,
    /// 6.
    TargetWarmReset,
    /// 7.
    TargetColdReset,
    /// 9.
    QueryTask,
    /// 10.
    QueryTaskSet,
    /// 11.
    NexusReset,
    /// 12.
    QueryAsyncEvent,
}

impl Function {
    /// TASK REASSIGN (8) is not among them: the engine answers it. Those of RFC 7144 are there where `protocol_level` says
    /// that both ends know it.
    pub(crate) const fn from_code(code: u8, protocol_level: u32) -> Option<Self> {
        Some(match code {
            9.. if protocol_level < PROTOCOL_LEVEL => return None,
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            9 => Self::QueryTask,
            10 => Self::QueryTaskSet,
            11 => Self::NexusReset,
            12 => Self::QueryAsyncEvent,
            _ => return None,
        })
    }

    /// Whether it is about one task.
    pub(crate) const fn means_one_task(self) -> bool {
        matches!(self, Self::AbortTask | Self::QueryTask)
    }
}

/// What the Referenced Task Tag and RefCmdSN of a task management request stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Referenced {
    /// The function is not about one task.
    Nothing,
    /// A task that is with the layer above.
    Task(Task),
    /// A task that was answered; its response leaves before the one to this request.
    Answered,
    /// A task that had not arrived, or not all of whose data had: the engine has ended it. One that comes yet
    /// counts as received and is dropped (11.5.1). To be answered with
    /// [`TaskManagementResponse::FUNCTION_COMPLETE`].
    NotArrived,
    /// A task that ended long ago, if RefCmdSN is right.
    Past,
    /// Nothing we ever knew.
    Unknown,
}

/// Response of a Task Management Function Response (11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse(pub u8);

impl TaskManagementResponse {
    /// Done; of RFC 7144, also "no" to a query.
    pub const FUNCTION_COMPLETE: Self = Self(0);
    /// There is no such task.
    pub const TASK_DOES_NOT_EXIST: Self = Self(1);
    /// There is no such logical unit.
    pub const LUN_DOES_NOT_EXIST: Self = Self(2);
    /// The task is still allegiant to a connection.
    pub const TASK_STILL_ALLEGIANT: Self = Self(3);
    /// Tasks are not moved between connections here.
    pub const REASSIGNMENT_NOT_SUPPORTED: Self = Self(4);
    /// There is no such function here.
    pub const NOT_SUPPORTED: Self = Self(5);
    /// The initiator may not do this.
    pub const AUTHORIZATION_FAILED: Self = Self(6);
    /// "Yes" to a query (RFC 7144, 6.2).
    pub const FUNCTION_SUCCEEDED: Self = Self(7);
    /// No, for no reason that has a number.
    pub const REJECTED: Self = Self(255);
}

/// The answer to [`Event::Login`].
#[derive(Clone, Copy, Debug)]
pub enum Admission<'a> {
    /// Prove who you are, by CHAP (RFC 7143 section 12.1). Nothing is to be changed for the initiator before it has.
    Authenticate {
        /// Who may prove what.
        access: &'a Rc<Access>,
        /// What makes this attempt unlike all others.
        nonce: Nonce,
        /// The portal group of this connection's portal.
        portal_group_tag: u16,
    },
    /// Come in.
    Accept {
        /// The target's part of the session identifier.
        tsih: NonZeroU16,
        /// The portal group of this connection's portal.
        portal_group_tag: u16,
    },
    /// Try there.
    Redirect {
        /// The address to try.
        address: &'a Portal,
        /// For ever.
        permanently: bool,
    },
    /// No. The class of the status is 2 or 3.
    Refuse(Status),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// SCSI status; 0 is GOOD, 2 CHECK CONDITION.
    pub status: u8,
    /// Sense data, empty without CHECK CONDITION. More than [`crate::MAX_SENSE`] bytes are cut off.
    pub sense: &'a [u8],
    /// Bytes that the command transfers, or would have if the initiator had had the room or the data for them:
    /// against the Expected Data Transfer Length they make the residual. Of a bidirectional command, the bytes
    /// written.
    pub transferred: u64,
    /// Bytes that a bidirectional command reads, else zero.
    pub bidirectional_read: u64,
}

impl Outcome<'_> {
    /// GOOD, with this many bytes transferred.
    pub const fn good(transferred: u64) -> Self {
        Self { status: 0, sense: &[], transferred, bidirectional_read: 0 }
    }
}

/// A target and where it is to be had, for the answer to [`Event::SendTargets`].
#[derive(Clone, Copy, Debug)]
pub struct TargetRecord<'a> {
    /// The target's name.
    pub name: &'a str,
    /// Its portals, only those that this initiator can reach.
    pub portals: &'a [Portal],
}

/// An address and its portal group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Address and TCP port.
    pub address: SocketAddr,
    /// Portal group tag.
    pub group_tag: u16,
}

impl fmt::Display for Portal {
    /// As TargetAddress has it (13.8), with IPv6 addresses in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.address, self.group_tag)
    }
}

/// Why an initiator logs out (11.14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutReason {
    /// 0: the session ends.
    CloseSession,
    /// 1: the connection ends, and with it, if it is the only one, the session.
    CloseConnection,
    /// 1: another connection of the session ends, the one with this CID. To be answered with
    /// [`crate::Connection::logout_of_other_response`].
    CloseOther(u16),
}

/// Response of a Logout Response (11.15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutResponse {
    /// 0: all is closed.
    Closed,
    /// 3: the cleanup failed.
    CleanupFailed,
}

/// What [`crate::Connection::announce`] can say (11.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement<'a> {
    /// 0: a unit attention or another event of a logical unit, as sense data of at most [`crate::MAX_SENSE`] bytes.
    Scsi {
        /// Logical unit number.
        lun: [u8; 8],
        /// Sense data.
        sense: &'a [u8],
    },
    /// 1: log out within so many seconds.
    RequestLogout {
        /// Seconds until the connection is dropped.
        within: u16,
    },
    /// 2: the connection is dropped. That is the last that is said: nothing is read any more, and [`Event::Close`] follows.
    DropConnection,
    /// 3: the session is dropped, in the same way.
    DropSession,
}

/// Why a connection must be dropped at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// A PDU that is not legal in this state of the connection, or that no initiator may send.
    UnexpectedPdu {
        /// Its operation code.
        opcode: u8,
    },
    /// A data segment longer than MaxRecvDataSegmentLength.
    DataSegmentTooLong {
        /// Its length in bytes.
        length: u32,
    },
    /// Additional header segments that are none.
    AdditionalHeader,
    /// The header digest does not match.
    HeaderDigest,
    /// A command before this one never came.
    CommandGap {
        /// The number that was expected.
        expected: u32,
        /// The number that came.
        received: u32,
    },
    /// Login requests, bytes or pairs beyond all reason.
    LoginTooLong,
    /// The login was not done in time.
    LoginTimeout,
    /// The peer is silent and answers no ping.
    PeerSilent,
    /// Data that was announced or asked for does not come.
    DataWithheld,
    /// More bytes were said to be received than there was space for; the fault of the layer above.
    Overrun,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedPdu { opcode } => write!(f, "unexpected PDU, opcode {opcode:#04x}"),
            Self::DataSegmentTooLong { length } => write!(f, "data segment of {length} bytes"),
            Self::AdditionalHeader => f.write_str("malformed additional header"),
            Self::HeaderDigest => f.write_str("header digest error"),
            Self::CommandGap { expected, received } => {
                write!(f, "command {received:#x} came before {expected:#x}")
            }
            Self::LoginTooLong => f.write_str("login beyond all limits"),
            Self::LoginTimeout => f.write_str("login timed out"),
            Self::PeerSilent => f.write_str("peer answers no ping"),
            Self::DataWithheld => f.write_str("data that is owed does not come"),
            Self::Overrun => f.write_str("more received than there was space"),
        }
    }
}

impl core::error::Error for Fatal {}

/// What was counted on a connection since [`crate::Connection::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// PDUs received.
    pub received: u64,
    /// PDUs sent.
    pub sent: u64,
    /// SCSI commands handed up.
    pub commands: u64,
    /// Requests outside the command window, which were ignored.
    pub ignored: u64,
    /// Rejects sent.
    pub rejected: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// Data-Outs for tasks that were gone.
    pub late_data: u64,
    /// Commands ended by the engine for what was wrong with their data.
    pub dropped: u64,
    /// Requests that acknowledged a status not yet given.
    pub status_from_the_future: u64,
}
