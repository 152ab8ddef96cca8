//! The image as a machine: boards, configuration, its two networks, its management of other machines.
//!
//! Each test makes a host of its own ([`image_launch::stage`]). `CORBEL_TARGET=hosted` runs those that do not name a board
//! against the hosted appliance instead.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end, and its sentence is printed")]

#[path = "../contract/cut.rs"]
mod cut;
#[path = "../interop/fixture.rs"]
mod fixture;

mod button;
mod configuration;
mod console;
mod idle;
mod images;
mod isolation;
mod link;
mod management;
mod memory;
mod networks;
mod package;
mod tour;
