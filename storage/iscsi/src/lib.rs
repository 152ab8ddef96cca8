//! The iSCSI target engine of RFC 7143: bytes of one TCP connection in, SCSI commands out, and back.
//!
//! It does no I/O, has no clock and starts no task. It knows sequence numbers, text keys, PDUs and digests; a
//! CDB, a status and sense data are opaque bytes to it, and a disk it has never heard of.
//!
//! [`Connection`] is one TCP connection. Its owner feeds it and drains it:
//!
//! 1. [`Connection::take`] takes what it can of bytes as they lie in the transport's buffer: many small PDUs at once, and
//!    data into the place where it belongs, which for Data-Out is the block buffer itself. Or the other way about:
//!    [`Connection::space`] lends the place where the next bytes belong, and [`Connection::received`] says how many came.
//!    An empty place means that nothing may be read now.
//! 2. [`Connection::poll_event`] until there is none; the answers go back in by [`Connection::receive`],
//!    [`Connection::send`], [`Connection::finish`] and their neighbours.
//! 3. [`Connection::fill`] puts what there is to send into the transport's buffer, many PDUs at once. Or
//!    [`Connection::poll_transmit`] and [`Connection::transmitted`], piece by piece, until there is nothing more.
//! 4. [`Connection::poll_timeout`] says when to call [`Connection::handle_timeout`].
//!
//! A [`Fatal`] ends the connection. A refused command, login or request is an answer of the protocol and never
//! an error. All memory is taken by [`Connection::new`]; nothing from outside makes it grow.
//!
//! Error recovery level 0 is what is negotiated, and as many connections per session as [`Limits::max_connections`] says.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod event;
mod limits;
mod login;
mod name;
mod negotiation;
mod session;
mod state;
mod tags;
mod task;
pub mod wire;

pub use connection::{Connection, Passage};
pub use event::{
    Admission, Announcement, Attribute, Command, Counters, Event, Fatal, Function, LogoutReason,
    LogoutResponse, Outcome, Portal, Referenced, TargetRecord, TaskManagement, TaskManagementResponse,
};
pub use limits::{Limits, MAX_OUTSTANDING_R2T, MAX_SENSE};
pub use login::{Join, Peer, SessionType, Status};
pub use name::{MAX_NAME, Name, NotAName};
pub use negotiation::Parameters;
pub use session::Session;
pub use state::{SessionState, SessionTrigger, State};
pub use storage_chap as chap;
pub use task::Task;
