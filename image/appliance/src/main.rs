//! The program: on the bare machine the image, on Linux the same appliance over two TAP devices.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod beside;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod machine;
#[cfg(any(target_os = "none", test))]
mod nics;
#[cfg(target_os = "none")]
mod told;

#[cfg(target_os = "none")]
kernel::entry!(machine::run);

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    image_appliance::hosted::main(std::env::args().skip(1))
}

#[cfg(not(any(target_os = "none", target_os = "linux")))]
fn main() -> std::process::ExitCode {
    eprintln!("the appliance runs on a bare machine (`cargo run` boots it) or as a Linux process");
    std::process::ExitCode::from(2)
}
