//! The image: the appliance as a file that a hypervisor boots.
//!
//! This package's build script builds it; depending on this package is having it.
#![forbid(unsafe_code)]

mod calls;
mod disk;
mod doors;
mod elf;
mod fat;
mod gpt;
mod inner;
mod moves;
mod packed;
mod pe;
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

/// The same as what UEFI firmware starts, `\\EFI\\BOOT\\BOOTX64.EFI`: the UEFI door with the packed image in it.
#[must_use]
pub fn efi() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance.efi"))
}

/// The same as a disk to start from, raw: GPT, and a file system with [`efi`] and `corbel.cfg`, where the configuration
/// goes.
#[must_use]
pub fn disk() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance.img"))
}

/// What [`elf`] is made of, as cargo writes it (JSON, cargo's `-Zsbom`): packages, features, and which needs which.
#[must_use]
pub fn parts() -> &'static Path {
    Path::new(concat!(env!("IMAGE_PACK_OUT"), "/appliance.parts"))
}

/// What that disk says in its `corbel.cfg`: where the configuration goes.
pub const DOCUMENT: &str = include_str!("corbel.cfg");

/// Write that disk to `path`, with `document` as its `corbel.cfg`.
///
/// # Errors
/// A sentence, when it does not fit or cannot be written.
pub fn write_disk(document: &str, path: &Path) -> Result<(), String> {
    write("appliance", document, path)
}

/// The same with `efi`, [`efi()`] signed for Secure Boot, in its place. The signature covers the door and the image; the
/// document is covered by nothing.
///
/// # Errors
/// As [`write_disk`].
pub fn write_signed_disk(efi: &[u8], document: &str, path: &Path) -> Result<(), String> {
    let disk =
        doors::around_signed(Path::new(env!("IMAGE_PACK_OUT")), "appliance", efi, document.as_bytes())?;
    disk.write(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The same with the kernel's self-test, which [`selftest`] has built.
///
/// # Errors
/// As [`write_disk`].
pub fn write_selftest_disk(document: &str, path: &Path) -> Result<(), String> {
    write("selftest", document, path)
}

fn write(bin: &str, document: &str, path: &Path) -> Result<(), String> {
    let disk = doors::around(Path::new(env!("IMAGE_PACK_OUT")), bin, document.as_bytes())?;
    disk.write(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Build the appliance without vector registers, as it is unpacked: for hypervisors that carry out a kernel's instructions
/// one by one and know none of those. Tests want it, the product does not, so it is built when asked for.
///
/// # Errors
/// A sentence, when it cannot be built.
pub fn elf_soft() -> Result<PathBuf, String> {
    let build = inner::Build {
        root: Path::new(env!("IMAGE_PACK_ROOT")),
        target: Path::new(env!("IMAGE_PACK_TARGET")),
        package: "image_appliance",
        bin: "appliance",
        ground: inner::Ground::Soft,
    };
    let folder = Path::new(env!("IMAGE_PACK_OUT"));
    inner::install(&build.run()?, folder, "soft").map(|_| folder.join("soft.plain"))
}

/// Build the kernel's self-test, a program for the bare machine that breaks the rules on purpose; tests want it, the
/// product does not, so it is built when asked for.
///
/// # Errors
/// A sentence, when it cannot be built.
pub fn selftest() -> Result<PathBuf, String> {
    let root = Path::new(env!("IMAGE_PACK_ROOT"));
    let target = Path::new(env!("IMAGE_PACK_TARGET"));
    let build = inner::Build {
        root,
        target,
        package: "kernel_selftest",
        bin: "selftest",
        ground: inner::Ground::Bare,
    };
    let folder = Path::new(env!("IMAGE_PACK_OUT"));
    let image = packed::install(&build, folder)?;
    doors::install(&build, folder).map(|()| image)
}
