//! The doors: what leads from firmware that starts from a disk to the image, each built once and then laid around any image.

use crate::disk::{self, Bios, Disk};
use crate::elf;
use crate::inner::{Build, Ground, put};
use crate::pe;
use std::fs;
use std::path::Path;

/// The section of the UEFI door that holds the image; `image/efi` looks for it.
const SECTION: [u8; 8] = *b".image\0\0";
/// What the disk says where the configuration goes.
const DOCUMENT: &[u8] = include_bytes!("corbel.cfg");
/// The doors' files.
const EFI: &str = "door.efi";
const BIOS: &str = "door.bios";

/// Build the doors into `folder`, and lay them around the image `bin` that is there: `bin.efi` and `bin.img`.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn install(program: &Build<'_>, folder: &Path) -> Result<(), String> {
    let efi = Build { package: "image_efi", bin: "efi", ground: Ground::Uefi, ..*program }.run()?;
    put(&folder.join(EFI), &read(&efi)?)?;
    let bios = Build { package: "image_bios", bin: "bios", ..*program }.run()?;
    let file = read(&bios)?;
    match elf::segments(&file).map_err(|error| format!("{}: {error}", bios.display()))?.as_slice() {
        [only] => put(&folder.join(BIOS), only.bytes)?,
        several => return Err(format!("{}: {} segments", bios.display(), several.len())),
    }
    put(&folder.join(program.bin).with_extension("efi"), &with_image(folder, program.bin)?)?;
    let path = folder.join(program.bin).with_extension("img");
    around(folder, program.bin, DOCUMENT)?.write(&path).map_err(|error| said(&path, &error))
}

/// The disk with the image `bin` of `folder`, whose doors have been built, and with `document` as its configuration.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn around(folder: &Path, bin: &str, document: &[u8]) -> Result<Disk, String> {
    around_signed(folder, bin, &with_image(folder, bin)?, document)
}

/// The same with `efi` in place of the UEFI door as it was built.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn around_signed(folder: &Path, bin: &str, efi: &[u8], document: &[u8]) -> Result<Disk, String> {
    let (door, image) = (read(&folder.join(BIOS))?, read(&folder.join(bin))?);
    let bios = Bios::new(&door, &image).map_err(|error| format!("{BIOS}: {error}"))?;
    disk::disk(efi, bios, document)
}

fn with_image(folder: &Path, bin: &str) -> Result<Vec<u8>, String> {
    let (door, image) = (read(&folder.join(EFI))?, read(&folder.join(bin))?);
    pe::with_section(&door, SECTION, &image).map_err(|error| format!("{EFI}: {error}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| said(path, &error))
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
