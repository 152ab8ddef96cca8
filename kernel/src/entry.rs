//! The first instructions, and what only a linked image has: their assembly, and the linker's symbols.

use crate::memory::Image;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    include_str!("entry.s"),
    stacks = sym crate::memory::stack::STACKS,
    stack_top = const crate::memory::stack::TOP,
    start = sym crate::start::start,
    options(att_syntax)
);

/// The sections of the image as it was linked.
#[cfg(target_os = "none")]
pub(crate) fn image() -> Image {
    unsafe extern "C" {
        static __image_start: u8;
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __image_end: u8;
    }
    // A symbol's address is all there is to it; no reference to its contents is made. The compiler must not reckon with it:
    // what it made of a distance to a fixed address would be fixed, and the image is moved.
    let address = |symbol: *const u8| core::hint::black_box(symbol) as u64;
    Image {
        start: address(&raw const __image_start),
        text: address(&raw const __text_start)..address(&raw const __text_end),
        rodata: address(&raw const __rodata_start)..address(&raw const __rodata_end),
        data: address(&raw const __data_start)..address(&raw const __image_end),
    }
}

/// On the developer's machine there is no image.
#[cfg(not(target_os = "none"))]
pub(crate) fn image() -> Image {
    Image { start: u64::MAX, text: 0..0, rodata: 0..0, data: 0..0 }
}

/// The program that [`crate::entry!`] names.
#[cfg(target_os = "none")]
pub(crate) fn program(machine: crate::Machine) -> ! {
    unsafe extern "Rust" {
        safe fn kernel_program(machine: crate::Machine) -> !;
    }
    kernel_program(machine)
}

/// On the developer's machine nothing boots.
#[cfg(not(target_os = "none"))]
pub(crate) fn program(_: crate::Machine) -> ! {
    unreachable!("the kernel starts on a bare machine only")
}
