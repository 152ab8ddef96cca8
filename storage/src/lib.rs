//! The data path: iSCSI in, NBD out.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod control;

pub use control::{ControlError, Exposed, Exposure, VolumeState};
