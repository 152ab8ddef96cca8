//! A program that does to the kernel what must not be done to it. `image/pack/tests/boot.rs` runs it and looks at how
//! it ends.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod cases;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("selftest runs on a bare machine: `cargo test -p image_pack` builds and boots it");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
kernel::entry!(cases::run);
