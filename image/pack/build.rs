//! Builds the appliance for the bare machine, so that whoever depends on this package has an image to boot.

#[path = "src/calls.rs"]
mod calls;
#[path = "src/disk.rs"]
mod disk;
#[path = "src/doors.rs"]
mod doors;
#[path = "src/elf.rs"]
mod elf;
#[path = "src/fat.rs"]
mod fat;
#[path = "src/gpt.rs"]
mod gpt;
#[path = "src/inner.rs"]
mod inner;
#[path = "src/moves.rs"]
mod moves;
#[path = "src/packed.rs"]
mod packed;
#[path = "src/pe.rs"]
mod pe;
#[path = "src/squeeze.rs"]
mod squeeze;

use std::env;
use std::path::{Path, PathBuf};

/// What goes into the image or decides how it is built, by path from the root of the repository.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "x86_64-target.json",
    "agent/protocol",
    "drivers",
    "image/appliance",
    "image/bios",
    "image/channels",
    "image/efi",
    "image/probe",
    "image/unpack",
    "kernel",
    "management",
    "network",
    "state",
    "storage",
    "image/pack/build.rs",
    "image/pack/src",
];

fn main() {
    let manifest = variable("CARGO_MANIFEST_DIR");
    let root = manifest.ancestors().nth(2).expect("the package lies two folders below the root");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let out = variable("OUT_DIR");
    let target = target_directory(&out);
    println!("cargo::rustc-env=IMAGE_PACK_ROOT={}", root.display());
    println!("cargo::rustc-env=IMAGE_PACK_TARGET={}", target.display());
    println!("cargo::rustc-env=IMAGE_PACK_OUT={}", out.display());
    // A lint run looks at this package's own code and runs nothing; the image would only cost time.
    if env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy")) {
        return;
    }
    let ground = inner::Ground::Bare;
    let program =
        inner::Build { root, target: &target, package: "image_appliance", bin: "appliance", ground };
    let built = packed::install(&program, &out).and_then(|_| doors::install(&program, &out));
    if let Err(error) = built {
        panic!("the image could not be built: {error}");
    }
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")).into()
}

/// A target directory of the inner build's own, beside the outer one's profiles: shared by check, build and test, so
/// that `core` is built once. Cargo marks the outer directory by a tag file.
fn target_directory(out: &Path) -> PathBuf {
    let outer = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    outer.unwrap_or(out).join("bare")
}
