//! Distributed engines behind the appliance, by the recipes of `storage/nbd/ENGINES.md`.
//!
//! The scripts here *are* the recipes: the document names their parts, and these tests run them. Each test makes a host
//! ([`image_launch::stage`]), puts an engine of several daemons on its service network, lets an initiator write through
//! the appliance while a gateway and a storage daemon are killed, and looks at every block afterwards: through the
//! appliance, and past it.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

mod ceph;
mod engine;
#[path = "../fixture.rs"]
mod fixture;
mod gluster;
mod load;
