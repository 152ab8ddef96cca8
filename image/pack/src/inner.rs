//! The inner cargo: how a program for the bare machine is built while host programs are.
//!
//! `build-std` in the workspace's own configuration would break host tests, and cargo cannot build an artifact
//! dependency for a JSON target; so a second cargo gets the flags, and a target directory of its own.

use crate::elf;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

/// The target of what firmware starts.
const UEFI: &str = "x86_64-unknown-uefi";

/// What crates with code for vector registers are told where there are none: to leave it out.
const SOFT: &str = "--cfg aes_backend=\"soft\" --cfg chacha20_backend=\"soft\" --cfg polyval_backend=\"soft\" \
     --cfg poly1305_backend=\"soft\" --cfg sha1_backend=\"soft\" --cfg sha2_backend=\"soft\" \
     --cfg curve25519_dalek_backend=\"serial\"";

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// The bare machine.
    Bare,
    #[allow(dead_code, reason = "the build script of this package builds none")]
    /// The bare machine, by a hypervisor that knows no vector registers in a kernel.
    Soft,
    /// UEFI firmware.
    Uefi,
}

impl Ground {
    /// What rustc calls it; for the bare machine the file that describes it, without its ending.
    fn target(self) -> &'static str {
        match self {
            Self::Bare => "x86_64-target",
            Self::Soft => "x86_64-soft",
            Self::Uefi => UEFI,
        }
    }
}

/// What to build, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build<'a> {
    /// The root of the repository.
    pub(crate) root: &'a Path,
    /// The inner target directory.
    pub(crate) target: &'a Path,
    /// The package.
    pub(crate) package: &'a str,
    /// Its program.
    pub(crate) bin: &'a str,
    /// What that runs on.
    pub(crate) ground: Ground,
}

impl Build<'_> {
    /// Build it; answers where the program lies, with its symbols.
    ///
    /// # Errors
    /// A sentence, when cargo fails; what cargo said went to standard error.
    pub(crate) fn run(&self) -> Result<PathBuf, String> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.current_dir(self.root);
        for (name, _) in env::vars_os() {
            if belongs_to_outer_build(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command.args(["build", "--package", self.package, "--bin", self.bin, "--profile", "release"]);
        // Sorting and printing numbers need not be quick.
        command.arg("-Zbuild-std-features=compiler-builtins-mem,optimize_for_size");
        match self.ground {
            Ground::Bare | Ground::Soft => {
                let json = format!("{}.json", self.ground.target());
                command.arg("--target").arg(self.root.join(json)).arg("-Zjson-target-spec");
                command.arg("-Zbuild-std=core,alloc,compiler_builtins");
            }
            Ground::Uefi => {
                command.args(["--target", UEFI, "-Zbuild-std=core,compiler_builtins"]);
                // Otherwise the file names one of its debug information.
                command.args(["--config", "profile.release.strip=\"symbols\""]);
            }
        }
        // What of them is hot is copied into who uses it; the rest is messages and their numbers.
        let packages = if self.ground == Ground::Uefi { &["core"] } else { ["core", "alloc"].as_slice() };
        for package in packages {
            command.args(["--config", &format!("profile.release.package.{package}.opt-level=\"z\"")]);
        }
        // No path of this machine gets into the image: not into messages, not into debug information.
        command.args(["-Ztrim-paths", "--config", "profile.release.trim-paths=\"all\""]);
        // Beside the program cargo writes what it is made of.
        command.arg("-Zsbom").env("CARGO_BUILD_SBOM", "true");
        command.arg("--target-dir").arg(self.target);
        if self.ground == Ground::Soft {
            command.env("RUSTFLAGS", SOFT);
        }
        let what = || format!("cargo build -p {} for {}", self.package, self.ground.target());
        let status = command.status().map_err(|error| format!("{}: {error}", what()))?;
        if !status.success() {
            return Err(format!("{}: {status}", what()));
        }
        Ok(self.built())
    }

    /// Where cargo puts it.
    fn built(&self) -> PathBuf {
        let program = self.target.join(self.ground.target()).join("release").join(self.bin);
        if self.ground == Ground::Uefi { program.with_extension("efi") } else { program }
    }
}

/// What of cargo's variables is the same for both builds: where packages are kept, and how the network is reached.
const SHARED: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];

/// Whether a variable tells the outer build's programs about the outer build.
fn belongs_to_outer_build(name: &str) -> bool {
    let cargo = name.starts_with("CARGO") && !SHARED.iter().any(|shared| name.starts_with(shared));
    cargo
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS"
        || name == "CLIPPY_ARGS"
}

/// Put a built program into `folder`: without symbols as `name.plain`, with them as `name.debug`, and what it is made of
/// (packages with versions and features, and which needs which) as `name.parts`. Answers what it is without symbols.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn install(built: &Path, folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let whole = fs::read(built).map_err(|error| format!("{}: {error}", built.display()))?;
    let bare = elf::without_sections(&whole).map_err(|error| format!("{}: {error}", built.display()))?;
    let mut parts = built.as_os_str().to_owned();
    parts.push(".cargo-sbom.json");
    let parts = fs::read(&parts).map_err(|error| format!("{}: {error}", Path::new(&parts).display()))?;
    for (suffix, contents) in [("debug", &whole), ("plain", &bare), ("parts", &parts)] {
        put(&folder.join(name).with_extension(suffix), contents)?;
    }
    Ok(bare)
}

/// Have a file hold these bytes. Others may read it meanwhile, or put the same there: it holds all of what it held, or all of
/// these.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let said = |error: io::Error| format!("{}: {error}", path.display());
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", process::id()));
    fs::write(&new, bytes).and_then(|()| fs::rename(&new, path)).map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_file_that_is_put_again_reads_all_of_it() {
        let folder = env::temp_dir().join(format!("corbel-put-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, size) = (folder.join("file"), 4 << 20);
        put(&path, &vec![0; size]).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..50).for_each(|number| put(&path, &vec![number; size]).unwrap()));
            while !writer.is_finished() {
                let bytes = fs::read(&path).unwrap();
                assert!(bytes.len() == size && bytes[0] == bytes[size - 1]);
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left behind");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_ground_has_a_folder_of_its_own() {
        let (root, target) = (Path::new("/root"), Path::new("/target"));
        let build = |ground| Build { root, target, package: "a", bin: "b", ground }.built();
        assert_eq!(build(Ground::Bare), Path::new("/target/x86_64-target/release/b"));
        assert_eq!(build(Ground::Soft), Path::new("/target/x86_64-soft/release/b"));
        assert_eq!(build(Ground::Uefi), Path::new("/target/x86_64-unknown-uefi/release/b.efi"));
    }

    #[test]
    fn the_inner_build_hears_of_the_network_and_of_nothing_else() {
        let kept =
            ["PATH", "CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_OURS_INDEX"];
        for name in kept {
            assert!(!belongs_to_outer_build(name), "{name}");
        }
        let outer = [
            "CARGO",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MAKEFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
        ];
        for name in outer {
            assert!(belongs_to_outer_build(name), "{name}");
        }
    }
}
