//! Each form, read back by QEMU: the same disk. A tool that is not installed is said and passed over, except where `CI=true`.
#![allow(clippy::unwrap_used, reason = "only tests come here")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A disk with something at its beginning, at its end, and across where formats have their seams.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 70 << 20];
    let mut state = 7_u32;
    for at in [0, (1 << 20) - 300, 5 << 20, 32 << 20, (32 << 20) + 65_000, (70 << 20) - 4096] {
        for byte in &mut disk[at..at + 4096] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
    disk
}

/// A folder of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("corbel-formats-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Run a program to its good end; `false`, said aloud, where it is not installed.
fn run(program: &str, folder: &Folder, words: &[&str]) -> bool {
    match Command::new(program).args(words).current_dir(&folder.0).stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&said));
            true
        }
        Err(error) => {
            println!("passed over: {program}: {error}");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{program}: {error}");
            false
        }
    }
}

/// QEMU reads `file`, of the format `format`, as this disk.
fn reads(format: &str, file: &[u8], disk: &[u8]) {
    let folder = Folder::new(format);
    fs::write(folder.0.join("file"), file).unwrap();
    if run("qemu-img", &folder, &["convert", "-f", format, "-O", "raw", "file", "disk"]) {
        assert!(fs::read(folder.0.join("disk")).unwrap() == disk, "{format}: another disk");
    }
}

#[test]
fn a_vhd_is_the_disk() {
    reads("vpc", &image_formats::vhd(&disk()).unwrap(), &disk());
}

#[test]
fn a_vhdx_is_the_disk_and_without_faults() {
    let file = image_formats::vhdx(&disk()).unwrap();
    reads("vhdx", &file, &disk());
    let folder = Folder::new("check");
    fs::write(folder.0.join("file"), &file).unwrap();
    run("qemu-img", &folder, &["check", "-f", "vhdx", "file"]);
}

#[test]
fn a_vmdk_is_the_disk_and_without_faults() {
    let file = image_formats::vmdk(&disk(), "disk.vmdk").unwrap();
    reads("vmdk", &file, &disk());
    let folder = Folder::new("check-vmdk");
    fs::write(folder.0.join("file"), &file).unwrap();
    run("qemu-img", &folder, &["check", "-f", "vmdk", "file"]);
}

#[test]
fn an_ova_is_an_archive_whose_disk_is_the_disk() {
    let machine = image_formats::Machine { name: "corbel", memory: 64 };
    let folder = Folder::new("ova");
    fs::write(folder.0.join("file"), image_formats::ova(&disk(), machine).unwrap()).unwrap();
    assert!(run("tar", &folder, &["xf", "file"]));
    // Its manifest, in the form that another program reads.
    let manifest = fs::read_to_string(folder.0.join("corbel.mf")).unwrap();
    let lines = manifest.lines().map(|line| {
        let (name, digest) = line.strip_prefix("SHA256(").unwrap().split_once(")= ").unwrap();
        format!("{digest}  {name}\n")
    });
    fs::write(folder.0.join("sums"), lines.collect::<String>()).unwrap();
    assert!(run("sha256sum", &folder, &["--check", "--strict", "sums"]));
    reads("vmdk", &fs::read(folder.0.join("corbel-disk1.vmdk")).unwrap(), &disk());
}

#[test]
fn the_same_disk_makes_the_same_files_and_another_makes_others() {
    let (one, mut other) = (disk(), disk());
    other[5 << 20] ^= 1;
    let vhd = |disk: &[u8]| image_formats::vhd(disk).unwrap().split_off(disk.len());
    assert_eq!(vhd(&one), vhd(&one));
    assert_ne!(vhd(&one), vhd(&other), "two disks of one identity");
    let head = |disk: &[u8]| image_formats::vhdx(disk).unwrap()[..4 << 20].to_vec();
    assert!(head(&one) == head(&one) && head(&one) != head(&other));
}

/// `CORBEL_DISK` is a raw disk of the image, such as `corbel.raw`: then its ISO is started by QEMU's BIOS.
#[test]
fn a_bios_starts_the_iso() {
    let Some(disk) = std::env::var_os("CORBEL_DISK") else {
        println!("not run: CORBEL_DISK names no disk");
        return;
    };
    let folder = Folder::new("iso");
    fs::write(folder.0.join("iso"), image_formats::iso(&fs::read(disk).unwrap()).unwrap()).unwrap();
    // It ends by itself, when the appliance has found that it was told nothing; if it serves, it is ended.
    let words = "20 qemu-system-x86_64 -machine pc -accel tcg -cpu max -m 256 -nodefaults -display none -no-reboot \
                 -serial file:console -drive file=iso,format=raw,if=ide,media=cdrom,readonly=on";
    let words: Vec<&str> = words.split_whitespace().collect();
    Command::new("timeout").args(words).current_dir(&folder.0).stdin(Stdio::null()).output().unwrap();
    let console = fs::read_to_string(folder.0.join("console")).unwrap();
    assert!(console.contains("kernel::start"), "{console}");
}
