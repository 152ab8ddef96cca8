//! storage_scsi: being built.
#![cfg_attr(not(test), no_std)]
