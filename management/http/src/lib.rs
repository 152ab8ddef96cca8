//! HTTP/1.1 (RFC 9112) without I/O: a [`Server`] and a [`Client`] engine, strict and bounded.
//!
//! Both work alike. The caller reads from its transport into `space`, reports by `received`, takes a complete
//! message if there is one, and writes out what `transmit` lends. Times are durations since any fixed origin.
//! A message that two parsers could understand differently is refused; what is not needed is not spoken.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod fields;
mod head;
pub mod json;
mod limits;
mod message;
mod refusal;
mod server;
mod target;

pub use client::{Client, Fatal, Reply};
pub use limits::Limits;
pub use message::{Method, Request, Response, reason};
pub use refusal::{PROBLEM_JSON, PROBLEM_NAMESPACE, Refusal};
pub use server::{Server, Stalled};
