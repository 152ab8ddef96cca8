//! TCP/IP for the appliance: one [`Stack`] per NIC, and byte streams for tasks.
//!
//! Two stacks share nothing: no routes, no neighbours, no sockets, no frame buffers. A [`Stream`] belongs to the
//! stack it was made from for ever, so nothing that arrives on one network can leave on the other by mistake.
//! The [`gate`] in front of each stack drops what a strong host never answers: other protocols, fragments,
//! IP options and source addresses that have no business on that network.
//!
//! TCP itself is smoltcp's. It is driven from outside: [`Attachment::receive`], then the tasks, then
//! [`Attachment::transmit`]; nothing here waits, sleeps or knows what a NIC is beyond [`network_nic::Nic`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod attachment;
mod backlog;
pub mod gate;
mod late;
mod measured;
mod sockets;
mod stack;
mod stream;

#[cfg(test)]
mod tests;

pub use address::{Addressing, Cidr, ParseError};
pub use attachment::Attachment;
pub use gate::Side;
pub use measured::{Measured, MeasuredToken};
pub use stack::{Settings, Stack};
pub use stream::{ConnectError, Reset, Stream, TryRead};
