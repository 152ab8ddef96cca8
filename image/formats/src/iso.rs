//! ISO 9660 with El Torito. The whole disk lies in it as one file. UEFI firmware starts from the disk's ESP as if that were a
//! disk of its own (UEFI 2.10 section 13.3.2.1). A BIOS reads the BIOS door, all of which lies in one piece once more before
//! the disk, to 0x7c00, and enters it there; it goes on with the disk inside the file.

use crate::{Refused, SECTOR, check, pad};

/// Bytes of a sector.
const BLOCK: usize = 2048;
/// Where what lies, by sectors: descriptors from 16 on, what firmware looks for, both tables of folders, the one folder, and
/// the disk.
const CATALOG: u32 = 19;
const PATHS: [u32; 2] = [20, 21];
const ROOT: u32 = 22;
const DOOR: u32 = 23;
const DISK: u32 = 32;
/// Where the first sector of the BIOS door says how many sectors its rest has and where they begin on the disk; and what stands
/// at the third byte of that rest (image/bios). On a CD it says that there is nothing to be read, and where the disk begins.
const REST_SECTORS: usize = 426;
const REST: usize = 432;
const REST_MARK: [u8; 2] = [0x43, 0x42];
/// The type of partition that is looked for, as it lies in a table.
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const FOLDER: u8 = 2;
/// Firmware's platform in a catalog: UEFI.
const UEFI: u8 = 0xef;
const BIOS: u8 = 0;

/// The disk as a CD.
///
/// # Errors
/// [`Refused::Size`], [`Refused::NoEsp`] also when that begins in the middle of a sector of 2 KiB.
pub fn iso(disk: &[u8]) -> Result<Vec<u8>, Refused> {
    check(disk)?;
    let first =
        esp(disk).filter(|first| (*first as usize * SECTOR).is_multiple_of(BLOCK)).ok_or(Refused::NoEsp)?;
    let start = DISK + (first as usize * SECTOR / BLOCK) as u32;
    let size = DISK + (disk.len() / BLOCK) as u32;
    let mut file = vec![0; 16 * BLOCK];
    file.extend(primary(size));
    file.extend(boot());
    file.extend(sector(b"\xffCD001\x01"));
    let door = door(disk);
    file.extend(catalog(start, door.as_ref().map(|door| (door.len() / SECTOR) as u16)));
    for bytes in [ROOT.to_le_bytes(), ROOT.to_be_bytes()] {
        // The root: its name has one byte, and it is its own parent, number 1 in the byte order of the table.
        let parent = if bytes == ROOT.to_le_bytes() { [1, 0] } else { [0, 1] };
        file.extend(sector(&[&[1, 0][..], &bytes, &parent, &[0, 0]].concat()));
    }
    let (this, above) = (record(b"\0", ROOT, BLOCK, FOLDER), record(b"\x01", ROOT, BLOCK, FOLDER));
    file.extend(sector(&[this, above, record(b"CORBEL.IMG;1", DISK, disk.len(), 0)].concat()));
    file.extend(door.unwrap_or_default());
    file.resize(DISK as usize * BLOCK, 0);
    file.extend(disk);
    Ok(file)
}

/// The first sector of the partition that firmware starts from, by the disk's table.
fn esp(disk: &[u8]) -> Option<u64> {
    let entries = disk.get(2 * SECTOR..34 * SECTOR)?.chunks(128);
    let entry = entries.into_iter().find(|entry| entry.starts_with(&ESP))?;
    Some(u64::from_le_bytes(entry.get(32..40)?.try_into().ok()?))
        .filter(|first| *first < (disk.len() / SECTOR) as u64)
}

/// The BIOS door in one piece, if the disk has one.
fn door(disk: &[u8]) -> Option<Vec<u8>> {
    let count = usize::from(u16::from_le_bytes(disk.get(REST_SECTORS..)?.first_chunk().copied()?));
    let first = usize::try_from(u64::from_le_bytes(disk.get(REST..)?.first_chunk().copied()?)).ok()?;
    let rest = disk.get(first.checked_mul(SECTOR)?..)?.get(..count * SECTOR)?;
    let room = (DISK - DOOR) as usize * BLOCK;
    if rest.get(2..4) != Some(&REST_MARK) || SECTOR + rest.len() > room {
        return None;
    }
    let mut door = [disk.get(..SECTOR)?, rest].concat();
    door[REST_SECTORS..REST_SECTORS + 2].fill(0);
    door[REST..REST + 8].copy_from_slice(&u64::from(DISK).to_le_bytes());
    Some(door)
}

fn sector(bytes: &[u8]) -> Vec<u8> {
    let mut sector = bytes.to_vec();
    pad(&mut sector, BLOCK);
    sector
}

/// A number in both byte orders.
fn both(number: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// What a folder says of a file (ECMA-119 section 9.1).
fn record(name: &[u8], place: u32, length: usize, flags: u8) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(place));
    record.extend(both(length as u32));
    // The first day that it can say: 1 January 1900.
    record.extend([0, 1, 1, 0, 0, 0, 0]);
    record.extend([flags, 0, 0, 1, 0, 0, 1, name.len() as u8]);
    record.extend(name);
    pad(&mut record, 2);
    record[0] = record.len() as u8;
    record
}

/// The descriptor of the volume (section 8.4), of `size` sectors.
fn primary(size: u32) -> Vec<u8> {
    let mut descriptor = b"\x01CD001\x01\0".to_vec();
    descriptor.extend([b' '; 32]);
    descriptor.extend(b"CORBEL                          ");
    descriptor.extend([0; 8]);
    descriptor.extend(both(size));
    descriptor.extend([0; 32]);
    // One volume of one, of sectors of 2 KiB.
    descriptor.extend([1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0]);
    descriptor.extend(both(10));
    descriptor.extend(PATHS[0].to_le_bytes());
    descriptor.extend([0; 4]);
    descriptor.extend(PATHS[1].to_be_bytes());
    descriptor.extend([0; 4]);
    descriptor.extend(record(b"\0", ROOT, BLOCK, FOLDER));
    // Names of sets and people, and of files, which there are not.
    descriptor.extend([b' '; 128 * 4 + 37 * 3]);
    // Four times at which nothing happened.
    for _ in 0..4 {
        descriptor.extend([b'0'; 16]);
        descriptor.push(0);
    }
    descriptor.push(1);
    sector(&descriptor)
}

/// The descriptor that says where the catalog is (El Torito 1.0, figure 7).
fn boot() -> Vec<u8> {
    let mut descriptor = b"\0CD001\x01EL TORITO SPECIFICATION".to_vec();
    descriptor.resize(0x47, 0);
    descriptor.extend(CATALOG.to_le_bytes());
    sector(&descriptor)
}

/// What can be started (figures 2 to 5): the file system at sector `start`, by UEFI firmware, and if there is a door of `door`
/// sectors of 512 bytes that, by a BIOS. The first has to be the BIOS's, because many look at no other.
fn catalog(start: u32, door: Option<u16>) -> Vec<u8> {
    let mut validation = vec![1, if door.is_some() { BIOS } else { UEFI }, 0, 0];
    validation.extend(b"Corbel");
    validation.resize(28, 0);
    validation.extend([0, 0, 0x55, 0xaa]);
    let words = validation.as_chunks::<2>().0.iter();
    let sum = words.fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes(*word)));
    validation[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    let mut catalog = validation;
    if let Some(sectors) = door {
        catalog.extend(bootable(sectors, DOOR));
        // A last section, of one entry.
        catalog.extend([0x91, UEFI, 1, 0]);
        catalog.resize(96, 0);
    }
    // To the end of the CD: one or none mean that (UEFI 2.10, 13.3.2.1).
    catalog.extend(bootable(1, start));
    sector(&catalog)
}

/// An entry: it can be started, and is no picture of a disk; what of it is read, and where it lies.
fn bootable(sectors: u16, place: u32) -> Vec<u8> {
    let mut entry = vec![0x88, 0, 0, 0, 0, 0];
    entry.extend(sectors.to_le_bytes());
    entry.extend(place.to_le_bytes());
    entry.resize(32, 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    /// A disk with an entry of its table.
    fn disk(kind: [u8; 16], first: u64) -> Vec<u8> {
        let mut disk = vec![0; MIB];
        disk[2 * SECTOR + 128..][..16].copy_from_slice(&kind);
        disk[2 * SECTOR + 128 + 32..][..8].copy_from_slice(&first.to_le_bytes());
        disk
    }

    #[test]
    fn firmware_is_sent_to_the_partition_inside_the_disk() {
        let file = iso(&disk(ESP, 40)).unwrap();
        assert_eq!(file[0x47 + 17 * BLOCK..][..4], CATALOG.to_le_bytes());
        let catalog = &file[CATALOG as usize * BLOCK..];
        assert_eq!(catalog[32 + 8..32 + 12], (DISK + 10).to_le_bytes());
        let sum = catalog[..32]
            .as_chunks::<2>()
            .0
            .iter()
            .fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes(*word)));
        assert_eq!(sum, 0);
        assert_eq!(file[DISK as usize * BLOCK..], disk(ESP, 40));
    }

    #[test]
    fn a_bios_is_sent_to_its_door_which_knows_where_the_disk_is() {
        let mut disk = disk(ESP, 40);
        disk[REST_SECTORS..][..2].copy_from_slice(&3_u16.to_le_bytes());
        disk[REST..][..8].copy_from_slice(&100_u64.to_le_bytes());
        disk[..2].copy_from_slice(b"xy");
        disk[100 * SECTOR..103 * SECTOR].fill(7);
        let catalog = |disk: &[u8]| iso(disk).unwrap()[CATALOG as usize * BLOCK..][..BLOCK].to_vec();
        assert_eq!(catalog(&disk)[1], UEFI, "what has no mark is no door");
        disk[100 * SECTOR + 2..][..2].copy_from_slice(&REST_MARK);
        let (file, catalog) = (iso(&disk).unwrap(), catalog(&disk));
        assert_eq!(
            (catalog[1], catalog[32], catalog[64], catalog[65], catalog[96]),
            (BIOS, 0x88, 0x91, UEFI, 0x88)
        );
        assert_eq!(catalog[38..44], [4, 0, 23, 0, 0, 0]);
        assert_eq!(catalog[104..108], (DISK + 10).to_le_bytes());
        let door = &file[DOOR as usize * BLOCK..][..4 * SECTOR];
        assert_eq!((&door[..2], door[REST_SECTORS], door[REST]), (&b"xy"[..], 0, 32));
        assert!(door[SECTOR + 4..].iter().all(|byte| *byte == 7));
        assert_eq!(file[DISK as usize * BLOCK..], disk);
        // One that says it lies beyond the disk, or has no end, is none.
        for (at, byte) in [(REST + 6, 1), (REST_SECTORS + 1, 255)] {
            let mut disk = disk.clone();
            disk[at] = byte;
            assert_eq!(door_of(&disk), None);
        }
    }

    fn door_of(disk: &[u8]) -> Option<Vec<u8>> {
        super::door(disk)
    }

    #[test]
    fn a_disk_without_such_a_partition_is_refused() {
        for disk in [vec![0; MIB], disk([7; 16], 40), disk(ESP, 41), disk(ESP, u64::MAX), disk(ESP, 2048)] {
            assert_eq!(iso(&disk), Err(Refused::NoEsp));
        }
    }
}
