//! VHD, fixed (Microsoft, Virtual Hard Disk Image Format Specification 1.0): what Hyper-V's machines of generation 1 and Azure
//! take. The disk as it is, and a sector that says what it is.

use crate::{Refused, SECTOR, check, identity};

/// The disk as a fixed VHD.
///
/// # Errors
/// [`Refused::Size`].
pub fn vhd(disk: &[u8]) -> Result<Vec<u8>, Refused> {
    check(disk)?;
    let size = disk.len() as u64;
    let mut footer = Vec::with_capacity(SECTOR);
    footer.extend(b"conectix");
    // Features: the bit that is always set. Version 1.0; no other header; made at no time. Of Hyper-V's own maker it says that
    // it is: of a disk that others made QEMU believes the geometry, which has no room for every size.
    footer.extend(2_u32.to_be_bytes());
    footer.extend(0x1_0000_u32.to_be_bytes());
    footer.extend(u64::MAX.to_be_bytes());
    footer.extend(0_u32.to_be_bytes());
    footer.extend(b"win ");
    footer.extend(0x1_0000_u32.to_be_bytes());
    footer.extend(b"Wi2k");
    footer.extend(size.to_be_bytes());
    footer.extend(size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size / SECTOR as u64);
    footer.extend(cylinders.to_be_bytes());
    footer.extend([heads, sectors]);
    // A fixed disk.
    footer.extend(2_u32.to_be_bytes());
    footer.extend(0_u32.to_be_bytes());
    footer.extend(identity(disk, "vhd"));
    footer.resize(SECTOR, 0);
    let sum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    Ok([disk, &footer].concat())
}

/// Cylinders, heads and sectors of a track, as the specification's appendix reckons them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65535 * 16 * 255);
    if total >= 65535 * 16 * 63 {
        return ((total / 255 / 16) as u16, 16, 255);
    }
    let (mut per_track, mut rows) = (17, total / 17);
    let mut heads = rows.div_ceil(1024).max(4);
    if rows >= heads * 1024 || heads > 16 {
        (per_track, heads, rows) = (31, 16, total / 31);
    }
    if rows >= heads * 1024 {
        (per_track, heads, rows) = (63, 16, total / 63);
    }
    ((rows / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    #[test]
    fn the_footer_sums_up_and_says_the_size() {
        let disk = vec![7; 3 * MIB];
        let file = vhd(&disk).unwrap();
        assert_eq!(file[..3 * MIB], disk);
        let mut footer = file[3 * MIB..].to_vec();
        assert_eq!((footer.len(), &footer[..8]), (SECTOR, &b"conectix"[..]));
        assert_eq!(footer[48..56], (3 * MIB as u64).to_be_bytes());
        let said = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        footer[64..68].fill(0);
        assert_eq!(said, !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>());
    }

    #[test]
    fn geometry_is_that_of_the_appendix() {
        assert_eq!(geometry(77824), (915, 5, 17));
        assert_eq!(geometry(u64::MAX), (65535, 16, 255));
        // 8 GiB.
        assert_eq!(geometry(1 << 24), (16644, 16, 63));
    }
}
