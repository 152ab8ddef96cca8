//! kernel_io: being built.
#![cfg_attr(not(test), no_std)]
