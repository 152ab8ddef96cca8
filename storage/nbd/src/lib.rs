//! The NBD client: a disk's requests become commands to a storage service.
//!
//! An engine without I/O: bytes and times go in, bytes and events come out. [`Client`] is one connection to one
//! export.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod contexts;
mod coverage;
mod export;
mod fatal;
mod handshake;
mod latency;
mod limits;
mod list;
mod phase;
mod probe;
mod quarantine;
mod receive;
mod reconnect;
mod requests;
mod send;
mod settings;
pub mod testing;
mod text;
mod uri;
pub mod wire;

pub use client::{Client, Event};
pub use contexts::MAX_ALIVE;
pub use export::{BlockSizes, Change, Export, Mismatch, validate};
pub use fatal::{Fatal, Refusal, Retry};
pub use latency::{BUCKETS, Histogram, Latency};
pub use limits::{Counters, Limits};
pub use list::{Entry, Listed, Listing};
pub use probe::{Facts, Probe};
pub use quarantine::Quarantine;
pub use reconnect::Reconnect;
pub use requests::Unfinished;
pub use settings::{ClientError, Headers, MAX_OWNER, Settings, Tls, Writer};
pub use text::Text;
pub use uri::{MAX_URI, Uri, UriError};
pub use wire::TransmissionFlags;

#[cfg(test)]
mod tests;
