//! Devices: registers, rings, frames.
//!
//! [`find`] looks at every bus and brings up what there is a driver for. A driver is safe code on [`kernel_io`]'s handles;
//! the few `unsafe` lines say why a device cannot reach a buffer any more, or what the virtio-drivers package may rely on.
//!
//! What a device writes is hostile: it is bounded before it is used, and a device that breaks its contract is reset.
//! [`emulated`] is such a device, for tests on the developer's machine.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(not(target_os = "none"))]
pub mod emulated;
mod error;
pub mod hyperv;
pub mod intel;
mod inventory;
mod location;
mod nic;
mod pci;
mod resets;
pub mod rtl8139;
mod shutdown;
pub mod virtio;
pub mod vmxnet3;
mod watchdog;
pub mod xen;

pub use error::Error;
pub use inventory::{Found, Inventory, find, find_console};
pub use location::Location;
pub use nic::{AnyNic, AnyReceived, AnyRoom, Received, Room, RxToken, TxToken};
pub use shutdown::{Request, Shutdown};
pub use watchdog::{Asleep, LONGEST as LONGEST_WATCH, Watchdog};
