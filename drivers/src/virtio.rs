//! virtio devices (OASIS virtio 1.2): how they are reached, their rings, and the drivers on top.
//!
//! Reaching them and agreeing on features goes through the virtio-drivers package. The rings are ours ([`queue`]):
//! the package has no segmentation and checksum offload, no MSI-X, and an event index that fails when it wraps.

pub mod blk;
pub mod console;
mod device;
pub(crate) mod feature;
mod hal;
mod legacy;
pub(crate) mod mmio;
pub mod net;
pub(crate) mod pci;
pub mod queue;
pub mod rng;

#[cfg(not(target_os = "none"))]
pub(crate) use device::Bus;
pub use device::Device;
#[cfg(not(target_os = "none"))]
pub(crate) use legacy::{Legacy, hostile};
