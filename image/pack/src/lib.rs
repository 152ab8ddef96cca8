//! The image: the appliance as a file that a hypervisor boots.
//!
//! This package's build script builds it; depending on this package is having it.
#![forbid(unsafe_code)]

mod calls;
mod elf;
mod inner;
mod packed;
mod squeeze;

use std::path::{Path, PathBuf};

/// The appliance as an ELF with a PVH note, packed, as small as it gets: for `qemu-system-x86_64 -kernel` and its kin.
#[must_use]
pub fn elf() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance"))
}

/// The same as it is unpacked: twice the size, and quicker to boot by what unpacking takes.
#[must_use]
pub fn elf_unpacked() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance.plain"))
}

/// The same with symbols and line numbers, for `addr2line` and debuggers; it boots as well.
#[must_use]
pub fn elf_with_symbols() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance.debug"))
}

/// Build the kernel's self-test, a program for the bare machine that breaks the rules on purpose; tests want it, the
/// product does not, so it is built when asked for.
///
/// # Errors
/// A sentence, when it cannot be built.
pub fn selftest() -> Result<PathBuf, String> {
    let root = Path::new(env!("IMAGE_PACK_ROOT"));
    let target = Path::new(env!("IMAGE_PACK_TARGET"));
    let build = inner::Build { root, target, package: "kernel_selftest", bin: "selftest" };
    packed::install(&build, Path::new(env!("IMAGE_PACK_OUT")))
}
