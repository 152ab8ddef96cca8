//! Authorities and certificates for tests and for the tour, good and bad ones: those of `network/tls`, for everybody else.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "they are the fixtures of other tests")]

#[path = "../../../network/tls/tests/pki/mod.rs"]
mod pki;

pub use pki::*;
