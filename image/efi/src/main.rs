//! The UEFI door: what firmware starts as `\EFI\BOOT\BOOTX64.EFI`. It puts the image that `image/pack` has laid into its
//! own file to where it belongs, makes an `hvm_start_info` of what the firmware knows, and leaves by the image's PVH entry.
#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
mod channels;
#[cfg(target_os = "uefi")]
mod firmware;
#[cfg(target_os = "uefi")]
mod handover;
#[cfg(target_os = "uefi")]
mod image;
#[cfg(target_os = "uefi")]
mod open;

/// The language asks for one. What could panic is arithmetic that cannot overflow; without a console there is no more to do.
#[cfg(target_os = "uefi")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("this is started by UEFI firmware: `cargo build` puts it on a disk with the image");
}
