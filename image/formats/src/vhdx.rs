//! VHDX, dynamic (MS-VHDX): what Hyper-V's machines of generation 2 take.
//!
//! ```text
//!   0        what it is
//!   64 KiB   two headers, 64 KiB apart        192 KiB  two region tables
//!   1 MiB    the log, empty                   2 MiB    metadata
//!   3 MiB    which block lies where           4 MiB    the blocks that are not zero
//! ```

use crate::{MIB, Refused, check, identity};

const KIB: usize = 1 << 10;
const HEADERS: [usize; 2] = [64 * KIB, 128 * KIB];
const REGIONS: [usize; 2] = [192 * KIB, 256 * KIB];
const LOG: usize = MIB;
const METADATA: usize = 2 * MIB;
const BLOCKS: usize = 3 * MIB;
const FIRST: usize = 4 * MIB;
/// Bytes of a block.
const BLOCK: usize = MIB;
/// Blocks after which the table has an entry that only a disk with a parent uses (section 2.5): 2^23 sectors of 512 bytes.
const CHUNK: usize = (1 << 23) * 512 / BLOCK;
/// An entry's state: it is not there, and reads as zeroes; it is there.
const ZERO: u64 = 2;
const PRESENT: u64 = 6;
/// Items: of the virtual disk, and not of the file; needed by whoever reads it.
const OF_DISK: u32 = 2;
const REQUIRED: u32 = 4;

/// GUIDs as they lie in a file.
const BAT_REGION: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const METADATA_REGION: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const DISK_ID: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR: [u8; 16] = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);

/// The disk as a dynamic VHDX with sectors of 512 bytes.
///
/// # Errors
/// [`Refused::Size`], also when the disk's table would not fit (16 GiB).
pub fn vhdx(disk: &[u8]) -> Result<Vec<u8>, Refused> {
    check(disk)?;
    let blocks = disk.len() / BLOCK;
    if (blocks + blocks / CHUNK) * 8 > FIRST - BLOCKS {
        return Err(Refused::Size);
    }
    let mut file = vec![0; FIRST];
    file[..8].copy_from_slice(b"vhdxfile");
    for (place, unit) in file[8..].as_chunks_mut::<2>().0.iter_mut().zip("Corbel".encode_utf16()) {
        *place = unit.to_le_bytes();
    }
    for (number, at) in HEADERS.into_iter().enumerate() {
        file[at..at + 4 * KIB].copy_from_slice(&header(disk, number as u64));
    }
    let regions = regions();
    for at in REGIONS {
        file[at..at + regions.len()].copy_from_slice(&regions);
    }
    let metadata = metadata(disk);
    file[METADATA..METADATA + metadata.len()].copy_from_slice(&metadata);
    for (number, block) in disk.chunks(BLOCK).enumerate() {
        let entry = if block.iter().all(|byte| *byte == 0) {
            ZERO
        } else {
            let at = file.len() as u64;
            file.extend(block);
            at | PRESENT
        };
        let place = BLOCKS + (number + number / CHUNK) * 8;
        file[place..place + 8].copy_from_slice(&entry.to_le_bytes());
    }
    Ok(file)
}

/// A header (section 2.2.2); of two that are whole the one with the higher number is in force.
fn header(disk: &[u8], number: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(4 * KIB);
    header.extend(b"head\0\0\0\0");
    header.extend(number.to_le_bytes());
    header.extend(identity(disk, "vhdx file"));
    header.extend(identity(disk, "vhdx data"));
    // No log is to be replayed.
    header.extend([0; 16]);
    header.extend(0_u16.to_le_bytes());
    header.extend(1_u16.to_le_bytes());
    header.extend((MIB as u32).to_le_bytes());
    header.extend((LOG as u64).to_le_bytes());
    header.resize(4 * KIB, 0);
    summed(header)
}

/// The region table (section 2.2.3).
fn regions() -> Vec<u8> {
    let mut table = Vec::with_capacity(64 * KIB);
    table.extend(b"regi\0\0\0\0");
    table.extend(2_u32.to_le_bytes());
    table.extend(0_u32.to_le_bytes());
    for (region, at) in [(BAT_REGION, BLOCKS), (METADATA_REGION, METADATA)] {
        table.extend(region);
        table.extend((at as u64).to_le_bytes());
        table.extend((MIB as u32).to_le_bytes());
        table.extend(1_u32.to_le_bytes());
    }
    table.resize(64 * KIB, 0);
    summed(table)
}

/// Its table and the items behind it (section 2.6).
fn metadata(disk: &[u8]) -> Vec<u8> {
    let parameters = [(BLOCK as u32).to_le_bytes(), 0_u32.to_le_bytes()].concat();
    let size = (disk.len() as u64).to_le_bytes();
    let (id, logical, physical) =
        (identity(disk, "vhdx disk"), 512_u32.to_le_bytes(), 4096_u32.to_le_bytes());
    let items: [(_, &[u8], _); 5] = [
        (FILE_PARAMETERS, &parameters, REQUIRED),
        (DISK_SIZE, &size, OF_DISK | REQUIRED),
        (DISK_ID, &id, OF_DISK | REQUIRED),
        (LOGICAL_SECTOR, &logical, OF_DISK | REQUIRED),
        (PHYSICAL_SECTOR, &physical, OF_DISK | REQUIRED),
    ];
    let (mut table, mut behind) = (b"metadata\0\0".to_vec(), Vec::<u8>::new());
    table.extend((items.len() as u16).to_le_bytes());
    table.extend([0; 20]);
    for (item, value, flags) in items {
        table.extend(item);
        table.extend((64 * KIB as u32 + behind.len() as u32).to_le_bytes());
        table.extend((value.len() as u32).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend(0_u32.to_le_bytes());
        behind.extend(value);
    }
    table.resize(64 * KIB, 0);
    table.extend(behind);
    table
}

/// With its CRC-32C, which lies behind the signature and counts as zero for itself.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// A GUID as it is written, in the order in which it lies in a file: of its first three parts the low byte is first.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn blocks_that_are_zero_take_no_room() {
        let mut disk = vec![0; 5 * MIB];
        disk[3 * MIB + 5] = 1;
        let file = vhdx(&disk).unwrap();
        assert_eq!(file.len(), 5 * MIB);
        let entry = |number: usize| {
            u64::from_le_bytes(file[BLOCKS + number * 8..BLOCKS + number * 8 + 8].try_into().unwrap())
        };
        assert_eq!([0, 1, 2, 3, 4].map(entry), [2, 2, 2, 4 << 20 | 6, 2]);
        assert_eq!(file[4 * MIB + 5], 1);
    }

    #[test]
    fn a_disk_whose_table_has_no_room_is_refused() {
        // Counted, not made.
        let blocks = (FIRST - BLOCKS) / 8;
        assert!((blocks + blocks / CHUNK) * 8 > FIRST - BLOCKS);
    }
}
