//! A SCSI device server: CDBs in; block requests, data and outcomes out.
//!
//! It follows SAM-5, SPC-4 and SBC-3. It has never heard of the transport above nor of the storage service below; both
//! are joined to it by whoever drives its commands:
//!
//! ```text
//!   Target::begin(Command, nexus, lun, cdb, …)
//!   Command::step ─► Carrier::receive ─(initiator)─► received
//!                 ─► Carrier::issue ──(backend)───► completed
//!                 ─► Carrier::send ───(initiator)
//!                 ─► Rest::Finish(Outcome), or what it waits for
//! ```
//!
//! A [`Command`] is a slot of fixed size that the caller keeps and uses again: nothing large is ever moved. It takes its buffers from two [`Memory`] shares and
//! allocates nothing. A refused command is an [`Outcome`] like any other; nothing that an initiator can send is an
//! error of this engine's, or a panic.
//!
//! # What GOOD promises
//! - For a write: the backend has completed all of it.
//! - For SYNCHRONIZE CACHE, and for a write with FUA or with WCE=0: the data are on stable storage. Where the backend
//!   has no force unit access a flush is issued after the write; where it has no flush its completed writes are stable.
//! - Once a flush has failed, or [`LogicalUnit::backend_lost`] has told of acknowledged writes that are gone, neither is
//!   promised any more: such commands of every nexus fail with MEDIUM ERROR, WRITE ERROR (03h/0Ch/00h), until that nexus has been
//!   given the error and then some initiator resets the unit (which tells all of them by a unit attention), or until the
//!   operator calls [`LogicalUnit::accept_loss`]. A second flush never succeeds where the first failed.
//!
//! # What waits for what
//! Overlapping commands of one unit, one of which changes the medium, run one after the other in the order in which they
//! came. A command takes its parameter list, then its range among the others, then data buffers, and buffers that it
//! needs together it takes together; so commands never wait for each other in a circle, and a pool of two buffers is
//! enough for any number of commands of any length. Only where nobody before it can need them it takes buffers while it
//! waits, so that its data does not stand in the way of theirs. No flush waits for data that an initiator keeps back.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod attention;
mod cache;
mod capacity;
mod command;
mod copy;
mod crowd;
mod extents;
mod failure;
mod field;
mod flush;
mod identity;
mod inquiry;
mod job;
mod list;
mod log;
mod lun;
mod luns;
mod maintenance;
mod management;
mod medium;
mod mode;
mod nexus;
mod opcode;
mod ordering;
mod persistent;
mod ports;
mod ranges;
mod removal;
mod reserve;
mod segment;
mod sense;
mod status;
mod target;
mod transfer;
mod unit;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;

pub use attention::Attention;
pub use command::{Carrier, Command, Ended, Memory, Rest};
pub use identity::Identity;
pub use list::MAX_LIST;
pub use lun::MAX_LUN;
pub use management::Function;
pub use nexus::{MAX_NEXUSES, Nexus, TransportId};
pub use ordering::Attribute;
pub use persistent::{LONGEST_KEPT, NotRestored};
pub use ports::AccessState;
pub use sense::{FieldPointer, Outcome, Sense, SenseData, SenseKey, Status, code};
pub use target::{AddError, Arrival, Limits, Target};
pub use unit::{GeometryError, LogicalUnit, NoSpace, Readiness, Traits, UnitId};
