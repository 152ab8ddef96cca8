//! The machine: from the first instruction to a program that has memory, time, interrupts, randomness and a console.
//!
//! It runs one program on one CPU, without processes and without user mode, and it knows no driver and no protocol.
//! `start.rs` is the boot on one page; [`Machine`] is what the program gets. A program is
//!
//! ```text
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! #[cfg(target_os = "none")]
//! kernel::entry!(run);
//! fn run(machine: kernel::Machine) -> ! { … }
//! ```
//!
//! Interrupts are off except while the machine idles ([`Machine::idle`]), so nothing here ever runs in the middle of
//! something else. Faults and panics print what they know and end the machine ([`power::Exit`] has the codes).
//!
//! The package also compiles for the developer's machine, where its pure parts are tested; only the entry, the panic
//! handler, the allocator and the linker's symbols are left out there.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_op_in_unsafe_fn)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "what only the entry calls has no caller on the developer's machine")
)]

extern crate alloc;

mod acpi;
mod clock;
mod console;
mod cpu;
pub mod crc32c;
pub mod entropy;
mod entry;
mod features;
pub mod figures;
pub mod fw_cfg;
mod hyperv;
mod hypervisor;
mod interrupt;
mod logger;
mod machine;
pub mod memory;
mod panic;
mod platform;
pub mod power;
mod promised;
mod pvh;
mod start;
pub mod vmware;
mod xen;

pub use clock::day;
pub use machine::{Machine, Module};

/// Names the function that the kernel calls when the machine is ready: `fn(kernel::Machine) -> !`.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        // SAFETY: the kernel declares this symbol with exactly this signature, and no other name clashes with it.
        #[unsafe(no_mangle)]
        fn kernel_program(machine: $crate::Machine) -> ! {
            let run: fn($crate::Machine) -> ! = $run;
            run(machine)
        }
    };
}
