//! TLS 1.3 as an engine without I/O.
//!
//! rustls does the handshake, its certificates and its keys; the record layer is ours, so that data is sealed and
//! opened where it lies, without an allocation. [`Connection`] is where to start; [`ClientConfig`] says whom it
//! believes and who it is.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
// What makes certificates for tests is used from inside and from outside.
#[cfg(test)]
extern crate self as network_tls;

mod config;
mod connection;
mod dates;
mod der;
mod fatal;
mod handshake;
mod incoming;
mod key;
mod leaf;
mod outgoing;
mod pinned;
mod provider;
mod record;
mod signature;
mod token;
mod traffic;

pub use config::{Anchors, ClientConfig, Clients, Identity, ServerConfig, SetupError};
pub use connection::{Buffers, Connection};
pub use dates::Dates;
pub use der::der;
pub use fatal::{Distrust, Fatal};
pub use key::{Algorithm, Name, PrivateKey, pem};
pub use leaf::{Leaf, NoPin, Pin};
pub use provider::{Crypto, NoEntropy, Random};
pub use signature::{PublicKey, Signer};
pub use token::Token;

#[cfg(test)]
mod tests;
