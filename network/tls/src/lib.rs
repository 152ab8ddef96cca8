//! TLS 1.3.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod provider;

pub use provider::{Crypto, NoEntropy, Random};
