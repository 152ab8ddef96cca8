//! The appliance: the program that ships, on bare metal and as a Linux process.
//!
//! Start with [`assemble`]: two stacks, storage and management, on one page. `machine.rs` and [`hosted`] are the two
//! grounds it stands on; they differ in what a NIC is and in how to be idle, and in nothing else.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod assemble;
pub mod config;
mod door;
mod ending;
#[cfg(target_os = "linux")]
pub mod hosted;
pub mod limits;
pub mod neighbours;
