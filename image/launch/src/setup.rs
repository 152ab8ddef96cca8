//! What must be installed, and installing it.

use crate::process::{self, Output};
use crate::scratch::Scratch;
use crate::{Context, Error, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(900);
/// Package lists older than this may name files the archive no longer has.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A program that is needed, and the Debian package it comes in.
type Need = (&'static str, &'static str);

/// Needed to run the appliance and to show it at work.
pub const RUN: &[Need] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/qemu-nbd", "qemu-utils"),
    ("/usr/bin/qemu-io", "qemu-utils"),
    // QEMU's own iSCSI driver is a module of its own.
    ("/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so", "qemu-block-extra"),
    ("/usr/bin/iscsi-ls", "libiscsi-bin"),
    ("/usr/bin/curl", "curl"),
    ("ip", "iproute2"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// Needed by the tests on top of [`RUN`].
pub const TESTS: &[Need] = &[
    ("/usr/bin/nbdkit", "nbdkit"),
    ("nbd-server", "nbd-server"),
    ("/usr/bin/nbdinfo", "libnbd-bin"),
    ("/usr/bin/nbdcopy", "libnbd-bin"),
    ("/usr/bin/iscsi-test-cu", "libiscsi-bin"),
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/socat", "socat"),
    // A guest takes it, and what it is linked with, from here.
    ("/usr/bin/fio", "fio"),
    ("iptables", "iptables"),
    ("/usr/bin/ping", "iputils-ping"),
    ("/usr/bin/dpkg-deb", "dpkg"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/systemd-analyze", "systemd"),
    ("/usr/bin/certtool", "gnutls-bin"),
    // A target that is not ours, for what attaches disks to machines.
    ("/usr/sbin/tgtd", "tgt"),
    ("/usr/bin/mandoc", "mandoc"),
    ("/usr/bin/addr2line", "binutils"),
    // UEFI firmware, and what looks at the disk that it starts from.
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/bin/sbsign", "sbsigntool"),
    ("/usr/sbin/fsck.fat", "dosfstools"),
    ("/usr/bin/mcopy", "mtools"),
    ("/usr/sbin/sfdisk", "fdisk"),
    // Makes CDs that the image is told its configuration by.
    ("/usr/bin/genisoimage", "genisoimage"),
    // The daemon and its driver, and not what makes a service of them.
    ("/usr/sbin/libvirtd", "libvirt-daemon"),
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
    ),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/unshare", "util-linux"),
];

/// Needed to sign an image.
pub const SIGN: &[Need] = &[("/usr/bin/sbsign", "sbsigntool")];

/// Needed by the benchmark on top of [`RUN`].
pub const BENCH: &[Need] = &[
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/nbdkit", "nbdkit"),
    ("/usr/include/iscsi/iscsi.h", "libiscsi-dev"),
    ("/usr/include/glib-2.0/glib.h", "libglib2.0-dev"),
    ("/usr/bin/lz4", "lz4"),
    ("/usr/bin/strip", "binutils"),
];

/// Installs what is missing of `needs`: as root with apt-get, saying so; otherwise it says what to run.
///
/// # Errors
/// When something is missing and this user may not install it, or apt-get fails.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        return Error::because(format!("these are needed, under the names Debian gives them: {list}"));
    }
    if !rustix::process::geteuid().is_root() {
        return Error::because(format!(
            "some programs are missing; install them with\n\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}\n"
        ));
    }
    install(&packages)?;
    match missing(needs).as_slice() {
        [] => Ok(()),
        still => {
            Error::because(format!("apt-get installed {list}, but {} is still not there", still.join(" ")))
        }
    }
}

/// The packages of `needs` whose program is not there, each once.
fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|(file, _)| !exists(file)).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn exists(file: &str) -> bool {
    if file.starts_with('/') {
        return Path::new(file).exists();
    }
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| Path::new(folder).join(file).exists())
}

fn install(packages: &[&str]) -> Result<()> {
    eprintln!("corbel: installing with apt-get: {}", packages.join(" "));
    if !lists_are_fresh() {
        eprintln!("corbel: apt-get update");
        process::check(apt(&["update"]), LIMIT)?;
    }
    let mut first = attempt(packages)?;
    if first.code != 0 && is_stale_list(&first) {
        eprintln!("corbel: the archive moved on; apt-get update");
        process::check(apt(&["update"]), LIMIT)?;
        first = attempt(packages)?;
    }
    if first.code == 0 {
        return Ok(());
    }
    // Packages of QEMU are tied to each other by version. Where one of them came from a newer suite than the rest,
    // apt refuses; all of them from the release itself fit together.
    let codename = codename()?;
    let pinned: Vec<String> = pinned(packages, &codename);
    eprintln!("corbel: apt-get refused; trying again with QEMU's packages from {codename}");
    let mut words = vec!["install", "-y", "--no-install-recommends", "--allow-downgrades"];
    words.extend(pinned.iter().map(String::as_str));
    let second = process::run(apt(&words), LIMIT)?;
    if second.code == 0 {
        return Ok(());
    }
    let tail = |output: &Output| process::last_lines(&output.text(), 15);
    Error::because(format!("apt-get could not install:\n{}\n\nand pinned:\n{}", tail(&first), tail(&second)))
}

fn attempt(packages: &[&str]) -> Result<Output> {
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    words.extend(packages);
    process::run(apt(&words), LIMIT)
}

fn is_stale_list(output: &Output) -> bool {
    let text = output.text();
    ["404", "Unable to locate package", "has no installation candidate"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// The packages with those of QEMU, and its installed siblings, taken from the release `codename`.
fn pinned(packages: &[&str], codename: &str) -> Vec<String> {
    let siblings =
        ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "qemu-block-extra"];
    let qemu = siblings
        .iter()
        .filter(|name| packages.contains(name) || is_installed(name) || **name != "qemu-block-extra");
    let mut words: Vec<String> = qemu.map(|name| format!("{name}/{codename}")).collect();
    words.extend(packages.iter().filter(|name| !name.starts_with("qemu-")).map(|name| (*name).to_string()));
    words
}

fn is_installed(package: &str) -> bool {
    let list = format!("/var/lib/dpkg/info/{package}.list");
    Path::new(&list).exists()
}

fn apt(words: &[&str]) -> Command {
    let mut command = process::command("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=120"]).args(words);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The package that `name`, which holds nothing itself, stands for at the moment.
///
/// # Errors
/// When apt does not know it.
pub fn provider(name: &str) -> Result<String> {
    let mut show = process::command("apt-cache");
    show.args(["depends", "--important", name]);
    let text = process::check(show, LIMIT).context("looking for a kernel; `apt-get update` may help")?;
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    package.map(str::to_string).ok_or_else(|| Error::new(format!("apt-cache knows no package behind {name}")))
}

/// The files of packages, which are fetched and unpacked under `cache`, each in a folder of its name, but not installed;
/// those that are there are not fetched again.
///
/// # Errors
/// When apt cannot get them or one cannot be unpacked.
pub fn unpacked(packages: &[&str], cache: &Path) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !cache.join(package).is_dir()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let fetch = || {
        // apt's own user may not be allowed into the folder. It takes its time to begin, so it begins once for all.
        let mut command = apt(&["-o", "APT::Sandbox::User=root", "download"]);
        command.args(&missing).current_dir(scratch.path());
        process::run(command, LIMIT)
    };
    let mut output = fetch()?;
    if output.code != 0 && is_stale_list(&output) && rustix::process::geteuid().is_root() {
        process::check(apt(&["update"]), LIMIT)?;
        output = fetch()?;
    }
    if output.code != 0 {
        return Error::because(format!("apt-get download:\n{}", process::last_lines(&output.text(), 10)));
    }
    fs::create_dir_all(cache).context(cache.display())?;
    for entry in fs::read_dir(scratch.path()).context("packages")?.flatten() {
        // A file's name is the package's, then its version and architecture.
        let file = entry.file_name();
        let package = file.to_str().and_then(|name| name.split('_').next()).unwrap_or_default();
        let to = cache.join(package);
        // Only a whole package gets the name under which it is looked for.
        let half = cache.join(format!("{package}.{}", std::process::id()));
        let mut dpkg = process::command("dpkg-deb");
        dpkg.arg("-x").arg(entry.path()).arg(&half);
        process::check(dpkg, LIMIT)?;
        fs::rename(&half, &to).context(to.display())?;
    }
    Ok(())
}

/// Whether apt has package lists, and young ones.
fn lists_are_fresh() -> bool {
    let Ok(entries) = fs::read_dir("/var/lib/apt/lists") else { return false };
    let age = |path: &Path| {
        let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
        SystemTime::now().duration_since(modified).ok()
    };
    let lists = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    // The folder's own time is that of the last update; a list's is that of its making at the archive.
    lists.count() > 0 && age(Path::new("/var/lib/apt/lists/partial")).is_some_and(|age| age < FRESH)
}

/// The release's name, as the archive spells it.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(|name| name.trim_matches('"').to_string())
        .ok_or_else(|| Error::new("/etc/os-release has no VERSION_CODENAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_asks_for_its_package_once() {
        let needs = [("/no/such/a", "one"), ("/no/such/b", "one"), ("sh", "dash"), ("/bin/sh", "dash")];
        assert_eq!(missing(&needs), ["one"]);
    }

    #[test]
    fn qemu_is_pinned_as_a_whole_and_nothing_else_is() {
        let words = pinned(&["qemu-utils", "curl"], "bookworm");
        assert!(words.contains(&"qemu-system-common/bookworm".to_string()));
        assert!(words.contains(&"qemu-utils/bookworm".to_string()));
        assert!(words.contains(&"curl".to_string()));
    }
}
