//! Real initiators and real NBD servers against the appliance, in every body it has.
//!
//! Each test makes a host of its own ([`image_launch::stage`]). `CORBEL_TARGET=hosted` (or `tgtd`, a peer) runs those that do
//! not name a board against that body instead, to tell a fault of ours from one of a tool or of the emulation.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

mod cells;
mod ctl;
mod fixture;
mod hostile;
mod inside;
mod kills;
mod libiscsi;
mod linux;
mod network;
mod offloads;
mod power;
mod proof;
mod recovery;
mod reservations;
mod service;
mod several;
mod suite;
mod tls;
mod traces;
