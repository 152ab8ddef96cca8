//! The waist of the data path: what every disk looks like between SCSI above and NBD below.
//!
//! It knows bytes, offsets and outcomes; it has never heard of a CDB, a sense key or an NBD cookie.
//! The contract both neighbours hold to:
//!
//! - **Ranges** are in bytes. Who makes a [`Request`] has checked it against [`Geometry::size`] and its
//!   [`Geometry::block_size`]; who carries it splits it at the backend's own limits and never widens it.
//! - **A [`Buffer`] is moved with the request** and comes back in the [`Completion`], on success and on error; only that
//!   of a write that succeeded may be kept below until a flush has made it durable.
//!   A read that succeeded has overwritten all of `buffer[..length]`, but for what its [`Recipient`] has used and counted;
//!   nothing is ever sent from a buffer that was not, so no byte of one customer reaches another.
//! - **A [`Operation::Flush`]** makes durable every write whose completion was seen before the flush was
//!   submitted. A failed flush is an error to be reported, never to be retried into a success.
//! - Requests in flight may complete in any order. Two overlapping writes are never in flight together; the
//!   maker of the requests sees to that.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffer;
mod recipient;
mod request;
mod states;

pub use buffer::{Buffer, Lack, Pool, Share};
pub use recipient::{Arrived, Delivery, Recipient};
pub use request::{Completion, Error, Extent, Geometry, Operation, Request};
pub use states::draw;
