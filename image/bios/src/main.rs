//! The BIOS door: `first.s` is in the first sector of the disk, `rest.s` in the partition that is kept for it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("first.s"), include_str!("rest.s"), options(att_syntax));

/// The language asks for one; nothing here can panic.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is started by a BIOS: `cargo build` puts it on a disk with the image");
}
