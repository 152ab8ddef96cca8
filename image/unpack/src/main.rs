//! What runs first in a packed image: `unpack.s`, which is all there is.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("unpack.s"), options(att_syntax));

/// The language asks for one; nothing here can panic.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the beginning of a packed image, and runs on a bare machine");
}
