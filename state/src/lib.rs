//! What outlives a restart: small records on a disk of the appliance's own.
//!
//! [`Store`] is the engine: it keeps records under keys, changes several of them at once or none, and says which blocks
//! it wants read, written and flushed; it does no I/O. [`Records`] joins it to a [`Disk`] and lets tasks wait for their
//! changes to be durable. The folder's README has the format, and what is promised when.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod checksum;
mod entries;
mod format;
mod mount;
mod records;
mod store;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;

pub use entries::Change;
pub use format::{BLOCK, LEAST_BLOCKS, MAX_KEY, MAX_REQUEST, MAX_VALUE};
pub use records::{Disk, Records};
pub use store::{DiskFailed, Error, Request, Store};
