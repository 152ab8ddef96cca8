//! CHAP (RFC 1994) as iSCSI has it (RFC 7143 sections 9.2.1 and 12.1.3): who may prove what, and the target's end of one
//! attempt.
//!
//! It knows nothing of PDUs: the values of the five keys come in as text, and go out as an [`Answer`]. Randomness comes
//! from outside, secrets go nowhere.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod attempt;
mod binary;
mod hash;

pub use access::{Access, Account, Credentials, MAX_ACCOUNTS, MAX_USER, NotSafe};
pub use attempt::{Answer, Attempt, Failure, Key, Nonce, RANDOM, Said};
pub use binary::Hex;
pub use hash::{Algorithms, MAX_SECRET, MIN_SECRET, NotASecret, Secret};
