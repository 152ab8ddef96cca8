//! image_appliance: being built.
#![cfg_attr(not(test), no_std)]
