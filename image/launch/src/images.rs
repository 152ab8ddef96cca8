//! The image in every form that a hypervisor takes, in one folder, with what hypervisors are told, what it is made of and
//! checksums.

use crate::process;
use crate::scratch::Scratch;
use crate::{Context, Error, Result, sbom, setup};
use image_formats::Machine;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// What the files are called, before the dot.
const NAME: &str = "corbel";
/// Memory of the machine in the OVA, in MiB: it starts by firmware, which takes more than the image does.
const MEMORY: u32 = 128;
/// The file of checksums.
const SUMS: &str = "SHA256SUMS";
/// Whose a file is, before the umask: of everybody, to be run by everybody, or of the operator alone, whose secrets may be in
/// it.
const PUBLIC: u32 = 0o666;
const PROGRAM: u32 = 0o777;
const PRIVATE: u32 = 0o600;
/// The same for a folder.
const PRIVATE_FOLDER: u32 = 0o700;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where to; it is made if it is not there.
    pub folder: PathBuf,
    /// The configuration that is put on the disks; without one they say where it goes.
    pub config: Option<PathBuf>,
    /// A private key and its certificate, both in PEM, for Secure Boot.
    pub signer: Option<(PathBuf, PathBuf)>,
}

/// Writes it all; answers the names of the files.
///
/// # Errors
/// A sentence that says which file.
pub fn write(order: &Order) -> Result<Vec<String>> {
    fs::create_dir_all(&order.folder).context(order.folder.display())?;
    let efi = match &order.signer {
        None => fs::read(image_pack::efi()).context("the UEFI door")?,
        Some((key, certificate)) => signed(key, certificate)?,
    };
    let disk = disk(order, &efi)?;
    let elf = fs::read(image_pack::elf()).context("the image")?;
    let sbom = sbom::document(&image_formats::digest(&elf))?;
    let refused = |error: image_formats::Refused| Error::new(error.to_string());
    let vmdk = image_formats::vmdk(&disk, &format!("{NAME}.vmdk")).map_err(refused)?;
    let ova = image_formats::ova(&disk, Machine { name: NAME, memory: MEMORY }).map_err(refused)?;
    // On each of these is the operator's document, if there is one.
    let of_disk = if order.config.is_some() { PRIVATE } else { PUBLIC };
    let mut files = vec![
        (format!("{NAME}.elf"), elf, PUBLIC),
        ("BOOTX64.EFI".into(), efi, PUBLIC),
        (format!("{NAME}.vhd"), image_formats::vhd(&disk).map_err(refused)?, of_disk),
        (format!("{NAME}.vhdx"), image_formats::vhdx(&disk).map_err(refused)?, of_disk),
        (format!("{NAME}.vmdk"), vmdk, of_disk),
        (format!("{NAME}.ova"), ova, of_disk),
        (format!("{NAME}.iso"), image_formats::iso(&disk).map_err(refused)?, of_disk),
        (format!("{NAME}.cdx.json"), sbom.into_bytes(), PUBLIC),
    ];
    files.push((format!("{NAME}.qcow2"), qcow2(&disk)?, of_disk));
    files.push((format!("{NAME}.raw"), disk, of_disk));
    files.extend(image_hosts::FILES.map(|(name, text)| {
        (name.to_string(), text.as_bytes().to_vec(), if name.ends_with(".sh") { PROGRAM } else { PUBLIC })
    }));
    files.sort();
    let sums = files.iter().map(|(name, bytes, _)| format!("{}  {name}\n", image_formats::digest(bytes)));
    let sums: String = sums.collect();
    files.push((SUMS.into(), sums.into_bytes(), PUBLIC));
    for (name, bytes, mode) in &files {
        put(&order.folder, name, bytes, *mode)?;
    }
    Ok(files.into_iter().map(|(name, ..)| name).collect())
}

/// Write a file of that mode, less the umask. A reader sees the old one or the new one, and nothing is left of one that could not
/// be written.
fn put(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let (path, new) = (folder.join(name), folder.join(format!(".{name}.new")));
    // One that was cut short may be open to others.
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let written = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.context(path.display())
}

/// A folder that nobody else looks into.
fn private() -> Result<Scratch> {
    let scratch = Scratch::new()?;
    let mode = Permissions::from_mode(PRIVATE_FOLDER);
    fs::set_permissions(scratch.path(), mode).context(scratch.path().display())?;
    Ok(scratch)
}

/// The raw disk.
fn disk(order: &Order, efi: &[u8]) -> Result<Vec<u8>> {
    let Some(config) = &order.config else {
        return from_pack(|path| match order.signer {
            None => fs::copy(image_pack::disk(), path).map(drop).map_err(|error| error.to_string()),
            Some(_) => image_pack::write_signed_disk(efi, image_pack::DOCUMENT, path),
        });
    };
    let document = fs::read_to_string(config).context(config.display())?;
    from_pack(|path| image_pack::write_signed_disk(efi, &document, path))
}

fn from_pack(write: impl Fn(&Path) -> std::result::Result<(), String>) -> Result<Vec<u8>> {
    let scratch = private()?;
    let path = scratch.file("disk");
    write(&path).map_err(Error::new)?;
    fs::read(&path).context(path.display())
}

/// The UEFI door with the image in it, signed.
fn signed(key: &Path, certificate: &Path) -> Result<Vec<u8>> {
    setup::ensure(setup::SIGN)?;
    let scratch = Scratch::new()?;
    let path = scratch.file("signed");
    let mut sbsign = process::command("/usr/bin/sbsign");
    sbsign.arg("--key").arg(key).arg("--cert").arg(certificate).arg("--output").arg(&path);
    sbsign.arg(image_pack::efi());
    process::check(sbsign, LIMIT).context("signing the image")?;
    fs::read(&path).context("what sbsign has made")
}

/// The disk as QEMU's own format has it: it names no time and no identity.
fn qcow2(disk: &[u8]) -> Result<Vec<u8>> {
    let scratch = private()?;
    let (raw, path) = (scratch.file("raw"), scratch.file("qcow2"));
    fs::write(&raw, disk).context(raw.display())?;
    let mut convert = process::command("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&path);
    process::check(convert, LIMIT)?;
    fs::read(&path).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let scratch = Scratch::new().expect("a folder");
        // In its place is something that it cannot replace.
        fs::create_dir_all(scratch.file("disk").join("sub")).expect("folders");
        assert!(put(scratch.path(), "disk", b"x", PUBLIC).is_err());
        let left = || fs::read_dir(scratch.path()).expect("it is there").count();
        assert_eq!(left(), 1, "the folder alone");
        put(scratch.path(), "other", b"x", PRIVATE).expect("written");
        assert_eq!((left(), fs::read(scratch.file("other")).expect("it is there")), (2, b"x".to_vec()));
    }

    #[test]
    fn what_another_has_left_open_is_not_written_to() {
        let scratch = Scratch::new().expect("a folder");
        let (left, path) = (scratch.file(".disk.new"), scratch.file("disk"));
        for path in [&left, &path] {
            fs::write(path, "old").expect("written");
            fs::set_permissions(path, Permissions::from_mode(0o666)).expect("it is ours");
        }
        put(scratch.path(), "disk", b"secret", PRIVATE).expect("written");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!((mode & 0o777, left.exists()), (0o600, false));
    }
}
