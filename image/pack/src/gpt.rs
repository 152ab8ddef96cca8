//! A partition table: GPT with its protective MBR (UEFI 2.10, 5), the same bytes each time.

use crate::fat::SECTOR;

/// Entries of the table, and bytes of one; sectors that they take.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const TABLE: usize = ENTRIES * ENTRY / SECTOR;
/// Bytes of a header that are summed up.
const HEADER: usize = 92;
/// Bytes of the first sector that are a program's.
pub(crate) const PROGRAM: usize = 440;

/// GUIDs as they lie on a disk. Of the kind of partition that firmware starts from:
pub(crate) const ESP: [u8; 16] = guid(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b_00a0_c93e_c93b);
/// and of what a program in the first sector goes on with, which no firmware looks at.
pub(crate) const BIOS_BOOT: [u8; 16] = guid(0x2168_6148, 0x6449, 0x6e6f, 0x744e_6565_6445_4649);
/// The disk's own, and of its partitions the first two numbers.
const DISK: [u8; 16] = guid(0x636f_7262, 0x656c, 0x4d69, 0x8d61_7070_6c69_616e);

/// A partition.
pub(crate) struct Partition {
    /// What it is for.
    pub(crate) kind: [u8; 16],
    /// Its first sector.
    pub(crate) first: u32,
    /// How many there are.
    pub(crate) sectors: u32,
    /// Its name.
    pub(crate) name: &'static str,
}

/// The first sectors of a disk of `sectors` sectors, with `program` in the first of them, and the last ones.
///
/// # Errors
/// A sentence, when the program is too long.
pub(crate) fn table(
    sectors: u32,
    partitions: &[Partition],
    program: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut entries = vec![0; ENTRIES * ENTRY];
    for (index, partition) in partitions.iter().enumerate() {
        let entry = &mut entries[index * ENTRY..][..ENTRY];
        entry[..16].copy_from_slice(&partition.kind);
        entry[16..32].copy_from_slice(&DISK);
        entry[16] ^= index as u8 + 1;
        let last = u64::from(partition.first) + u64::from(partition.sectors) - 1;
        entry[32..40].copy_from_slice(&u64::from(partition.first).to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (place, unit) in entry[56..].as_chunks_mut::<2>().0.iter_mut().zip(partition.name.encode_utf16())
        {
            *place = unit.to_le_bytes();
        }
    }
    let mut first = protective(sectors, program)?;
    let last = u64::from(sectors) - 1;
    first.extend(header(1, last, 2, sectors, &entries));
    first.extend(&entries);
    let mut end = entries.clone();
    end.extend(header(last, 1, last - TABLE as u64, sectors, &entries));
    Ok((first, end))
}

/// The first sector: one partition that is all of the disk, so that who knows no GPT leaves it alone. It is marked as the
/// one to start from, without which some BIOSes do not start a disk.
fn protective(sectors: u32, program: &[u8]) -> Result<Vec<u8>, String> {
    if program.len() > PROGRAM {
        return Err(format!("the program of the first sector has {} bytes", program.len()));
    }
    let mut sector = vec![0; SECTOR];
    sector[..program.len()].copy_from_slice(program);
    sector[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    sector[458..462].copy_from_slice(&(sectors - 1).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

fn header(here: u64, other: u64, table: u64, sectors: u32, entries: &[u8]) -> [u8; SECTOR] {
    let mut header = [0; SECTOR];
    let mut set = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"EFI PART");
    set(8, &0x1_0000_u32.to_le_bytes());
    set(12, &(HEADER as u32).to_le_bytes());
    set(24, &here.to_le_bytes());
    set(32, &other.to_le_bytes());
    set(40, &(2 + TABLE as u64).to_le_bytes());
    set(48, &(u64::from(sectors) - 2 - TABLE as u64).to_le_bytes());
    set(56, &DISK);
    set(72, &table.to_le_bytes());
    set(80, &(ENTRIES as u32).to_le_bytes());
    set(84, &(ENTRY as u32).to_le_bytes());
    set(88, &crc32(entries).to_le_bytes());
    let sum = crc32(&header[..HEADER]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

/// The sum that GPT is secured by: CRC-32 of Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// A GUID: the first three numbers lie with their lowest byte first, the rest as it is read.
const fn guid(one: u32, two: u16, three: u16, rest: u64) -> [u8; 16] {
    let (one, two, three, rest) =
        (one.to_le_bytes(), two.to_le_bytes(), three.to_le_bytes(), rest.to_be_bytes());
    [
        one[0], one[1], one[2], one[3], two[0], two[1], three[0], three[1], rest[0], rest[1], rest[2],
        rest[3], rest[4], rest[5], rest[6], rest[7],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_and_a_sum_are_what_the_standards_say() {
        // UEFI 2.10, 5.3.3 and appendix A.
        assert_eq!(ESP[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(&BIOS_BOOT, b"Hah!IdontNeedEFI");
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
