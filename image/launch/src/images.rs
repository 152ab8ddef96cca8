//! The image in every form that a hypervisor takes, in one folder, with what it is made of and checksums.

use crate::process;
use crate::scratch::Scratch;
use crate::{Context, Error, Result, sbom, setup};
use image_formats::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// What the files are called, before the dot.
const NAME: &str = "corbel";
/// Memory of the machine in the OVA, in MiB: it starts by firmware, which takes more than the image does.
const MEMORY: u32 = 128;
/// The file of checksums.
const SUMS: &str = "SHA256SUMS";

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
    let mut files = vec![
        (format!("{NAME}.elf"), elf),
        ("BOOTX64.EFI".into(), efi),
        (format!("{NAME}.vhd"), image_formats::vhd(&disk).map_err(refused)?),
        (format!("{NAME}.vhdx"), image_formats::vhdx(&disk).map_err(refused)?),
        (format!("{NAME}.vmdk"), vmdk),
        (format!("{NAME}.ova"), ova),
        (format!("{NAME}.iso"), image_formats::iso(&disk).map_err(refused)?),
        (format!("{NAME}.cdx.json"), sbom.into_bytes()),
    ];
    files.push((format!("{NAME}.qcow2"), qcow2(&disk)?));
    files.push((format!("{NAME}.raw"), disk));
    files.sort();
    let sums = files.iter().map(|(name, bytes)| format!("{}  {name}\n", image_formats::digest(bytes)));
    let sums: String = sums.collect();
    files.push((SUMS.into(), sums.into_bytes()));
    for (name, bytes) in &files {
        // A reader sees the old file or the new one.
        let (path, new) = (order.folder.join(name), order.folder.join(format!(".{name}.new")));
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).context(path.display())?;
    }
    Ok(files.into_iter().map(|(name, _)| name).collect())
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
    let scratch = Scratch::new()?;
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
    let scratch = Scratch::new()?;
    let (raw, path) = (scratch.file("raw"), scratch.file("qcow2"));
    fs::write(&raw, disk).context(raw.display())?;
    let mut convert = process::command("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&path);
    process::check(convert, LIMIT)?;
    fs::read(&path).context(path.display())
}
