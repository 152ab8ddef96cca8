//! A program for the bare machine that has nothing but drivers and TCP: what they can do, without what is built on
//! them.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(target_os = "none", forbid(unsafe_op_in_unsafe_fn))]

#[cfg(target_os = "none")]
mod services;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "the drivers' self-test runs on a bare machine: `cargo test -p drivers_selftest` builds and boots it"
    );
    std::process::exit(2);
}

#[cfg(target_os = "none")]
kernel::entry!(services::run);
