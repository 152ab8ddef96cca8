//! ISO 9660 with El Torito, for UEFI firmware: it starts from the disk's ESP as if that were a disk of its own (UEFI 2.10
//! section 13.3.2.1). The whole disk lies in it as one file.
//!
//! A BIOS does not start from it: it would have to read sectors of 2 KiB, which the BIOS door does not know.

use crate::{Refused, SECTOR, check, pad};

/// Bytes of a sector.
const BLOCK: usize = 2048;
/// Where what lies, by sectors: descriptors from 16 on, what firmware looks for, both tables of folders, the one folder, and
/// the disk.
const CATALOG: u32 = 19;
const PATHS: [u32; 2] = [20, 21];
const ROOT: u32 = 22;
const DISK: u32 = 32;
/// The type of partition that is looked for, as it lies in a table.
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const FOLDER: u8 = 2;
/// Firmware's platform in a catalog: UEFI.
const UEFI: u8 = 0xef;

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
    file.extend(catalog(start));
    for bytes in [ROOT.to_le_bytes(), ROOT.to_be_bytes()] {
        // The root: its name has one byte, and it is its own parent, number 1 in the byte order of the table.
        let parent = if bytes == ROOT.to_le_bytes() { [1, 0] } else { [0, 1] };
        file.extend(sector(&[&[1, 0][..], &bytes, &parent, &[0, 0]].concat()));
    }
    let (this, above) = (record(b"\0", ROOT, BLOCK, FOLDER), record(b"\x01", ROOT, BLOCK, FOLDER));
    file.extend(sector(&[this, above, record(b"CORBEL.IMG;1", DISK, disk.len(), 0)].concat()));
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

/// What can be started (figures 2 and 3): the file system at sector `start`.
fn catalog(start: u32) -> Vec<u8> {
    let mut entry = vec![1, UEFI, 0, 0];
    entry.extend(b"Corbel");
    entry.resize(28, 0);
    entry.extend([0, 0, 0x55, 0xaa]);
    let sum =
        entry.as_chunks::<2>().0.iter().fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes(*word)));
    entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    // It can be started, is no picture of a disk, and reaches to the end of the CD.
    entry.extend([0x88, 0, 0, 0, 0, 0, 1, 0]);
    entry.extend(start.to_le_bytes());
    sector(&entry)
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
    fn a_disk_without_such_a_partition_is_refused() {
        for disk in [vec![0; MIB], disk([7; 16], 40), disk(ESP, 41), disk(ESP, u64::MAX), disk(ESP, 2048)] {
            assert_eq!(iso(&disk), Err(Refused::NoEsp));
        }
    }
}
