//! The storage driver: one disk over one or several connections to a storage service, which loses nothing.
//!
//! An engine without I/O, clock or tasks, between the requests of a disk ([`storage_block`]) and the NBD connections that
//! carry them ([`storage_nbd::Client`]). NBD alone promises little across a lost connection: a write that was answered
//! and not flushed may be gone, a write that was not answered may still be done, later than a newer one. [`Driver`] makes
//! a disk of that on which an acknowledged write is never lost and never undone, as long as this process lives:
//!
//! - **Journal.** The bytes of every acknowledged write are kept until a flush that was sent after its reply has
//!   succeeded. When the service comes back and cannot prove that it is the one that went, they are written again before
//!   anything else, of each byte only the newest.
//! - **Epochs.** A flush covers what was acknowledged when it was sent, and no more; one that got no answer is sent again
//!   after the journal. A flush that failed is never repeated in the hope of a better answer: all that the journal holds
//!   is written again, durably, and only then is it told how it went.
//! - **Ghosts.** The range of a write that was without an answer when its connection died is closed to newer writes, until
//!   the service says that it has fenced the old connections, or the time has passed that a request can live there. The
//!   same write may be sent again at once.
//! - **Identity.** What comes back must be the disk that went: not smaller, not read-only, of the same name.
//! - **Bounds.** All memory is taken when the driver is made. A full journal is flushed, and as long as it is full new
//!   writes wait, or go durably.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dispatch;
mod driver;
mod flights;
mod flush;
mod journal;
mod outcome;
mod paths;
mod phase;
mod rate;
mod rewrite;

pub use driver::{Driver, Event, Limits, Settings, Status};
pub use paths::{Dial, End};
pub use rate::Rate;

#[cfg(test)]
mod tests;
