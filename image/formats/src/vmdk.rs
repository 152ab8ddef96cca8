//! VMDK, stream-optimized (VMware, Virtual Disk Format 5.0): what OVA files hold, and what VMware's tools upload.
//!
//! Grains of 64 KiB, each a zlib stream behind a marker; then their tables, the table of those, and a second header that says
//! where it is. The image is packed already, so that its grains are stored as they are (RFC 1951 section 3.2.4).

use crate::{Refused, SECTOR, check, identity, pad};

/// Sectors of a grain, and grains of a table.
const GRAIN: usize = 128;
const TABLE: usize = 512;
/// Sectors before the first grain, and those of the descriptor, which is the second of them.
const OVERHEAD: u64 = 128;
const DESCRIPTOR: u64 = 20;
/// Markers.
const GRAIN_TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
const END: u32 = 0;
/// The directory is where the footer says.
const AT_END: u64 = u64::MAX;

/// The disk as a stream-optimized VMDK in a file called `name`.
///
/// # Errors
/// [`Refused::Size`], [`Refused::Name`].
pub fn vmdk(disk: &[u8], name: &str) -> Result<Vec<u8>, Refused> {
    check(disk)?;
    let descriptor = descriptor(disk, name)?;
    let capacity = (disk.len() / SECTOR) as u64;
    let mut file = header(capacity, AT_END);
    file.extend(descriptor);
    file.resize(OVERHEAD as usize * SECTOR, 0);

    let mut directory = Vec::new();
    for (table, grains) in disk.chunks(TABLE * GRAIN * SECTOR).enumerate() {
        let mut entries = Vec::new();
        for (number, grain) in grains.chunks(GRAIN * SECTOR).enumerate() {
            if grain.iter().all(|byte| *byte == 0) {
                entries.push(0);
                continue;
            }
            entries.push(here(&file));
            let stored = stored(grain);
            file.extend((((table * TABLE + number) * GRAIN) as u64).to_le_bytes());
            file.extend((stored.len() as u32).to_le_bytes());
            file.extend(stored);
            pad(&mut file, SECTOR);
        }
        entries.resize(TABLE, 0);
        if entries.iter().all(|entry| *entry == 0) {
            directory.push(0);
            continue;
        }
        marker(&mut file, (TABLE * 4 / SECTOR) as u64, GRAIN_TABLE);
        directory.push(here(&file));
        file.extend(entries.into_iter().flat_map(u32::to_le_bytes));
    }
    let sectors = (directory.len() * 4).div_ceil(SECTOR) as u64;
    marker(&mut file, sectors, DIRECTORY);
    let at = u64::from(here(&file));
    file.extend(directory.into_iter().flat_map(u32::to_le_bytes));
    pad(&mut file, SECTOR);
    marker(&mut file, 1, FOOTER);
    file.extend(header(capacity, at));
    marker(&mut file, 0, END);
    Ok(file)
}

/// The sector that comes next.
fn here(file: &[u8]) -> u32 {
    (file.len() / SECTOR) as u32
}

/// Say what the next `sectors` are.
fn marker(file: &mut Vec<u8>, sectors: u64, kind: u32) {
    file.extend(sectors.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    file.extend(kind.to_le_bytes());
    pad(file, SECTOR);
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    header.extend(3_u32.to_le_bytes());
    // Line ends can be checked; grains are compressed and have markers.
    header.extend(0x3_0001_u32.to_le_bytes());
    for number in [capacity, GRAIN as u64, 1, DESCRIPTOR] {
        header.extend(number.to_le_bytes());
    }
    header.extend((TABLE as u32).to_le_bytes());
    for number in [0, directory, OVERHEAD] {
        header.extend(number.to_le_bytes());
    }
    header.extend(b"\0\n \r\n");
    // Deflate.
    header.extend(1_u16.to_le_bytes());
    header.resize(SECTOR, 0);
    header
}

fn descriptor(disk: &[u8], name: &str) -> Result<Vec<u8>, Refused> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || name.len() > 200 || !name.bytes().all(plain) {
        return Err(Refused::Name);
    }
    let sectors = disk.len() / SECTOR;
    let id = identity(disk, "vmdk");
    let content = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRDONLY {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"8\"\n",
        (sectors / 255 / 63).max(1)
    );
    let mut descriptor = text.into_bytes();
    descriptor.resize(DESCRIPTOR as usize * SECTOR, 0);
    Ok(descriptor)
}

/// A zlib stream (RFC 1950) of stored blocks, which hold 65,535 bytes at most.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_stream_is_adlers() {
        let stream = stored(b"Wikipedia");
        assert_eq!(stream[..3], [0x78, 1, 1]);
        assert_eq!(stream[stream.len() - 4..], 0x11e6_0398_u32.to_be_bytes());
    }

    #[test]
    fn a_name_that_would_end_its_line_is_refused() {
        let disk = vec![0; crate::MIB];
        for name in ["", "a\"b", "a\nb", "a b", &"a".repeat(300)] {
            assert_eq!(vmdk(&disk, name), Err(Refused::Name), "{name:?}");
        }
    }
}
