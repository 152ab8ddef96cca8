//! management_http: being built.
#![cfg_attr(not(test), no_std)]
