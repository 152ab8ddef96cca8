//! A raw disk in the forms that hypervisors take: VHD, VHDX, stream-optimized VMDK, OVA and ISO.
//!
//! Each is a function from bytes to bytes: the same disk makes the same file, whenever and wherever that is. Where a format
//! wants an identity, it is made of the contents; where it wants a time, there is none. (QCOW2 holds neither, so that
//! `qemu-img` makes it.)
#![forbid(unsafe_code)]

mod iso;
mod ova;
mod vhd;
mod vhdx;
mod vmdk;

pub use iso::iso;
pub use ova::{Machine, ova};
pub use vhd::vhd;
pub use vhdx::vhdx;
pub use vmdk::vmdk;

use sha2::{Digest, Sha256};

/// Bytes of a sector of a disk.
const SECTOR: usize = 512;
/// A mebibyte: disks have whole ones.
const MIB: usize = 1 << 20;

/// Why there is no such file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The disk is empty, has no whole number of mebibytes, or more than two tebibytes.
    Size,
    /// A name is too long, or has characters that the format has not.
    Name,
    /// There is no partition that UEFI firmware starts from.
    NoEsp,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Size => "a disk has a whole number of mebibytes",
            Self::Name => "a name that the format has no room for",
            Self::NoEsp => "there is no partition that UEFI firmware starts from",
        })
    }
}

impl std::error::Error for Refused {}

/// What every format wants of a disk.
fn check(disk: &[u8]) -> Result<(), Refused> {
    let whole = !disk.is_empty() && disk.len().is_multiple_of(MIB) && disk.len() <= 2 << 40;
    if whole { Ok(()) } else { Err(Refused::Size) }
}

/// An identity, a UUID of version 8 (RFC 9562), for what `purpose` names of a disk.
fn identity(disk: &[u8], purpose: &str) -> [u8; 16] {
    let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(disk).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// The SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Append zeroes until there is a whole number of `unit` bytes.
fn pad(bytes: &mut Vec<u8>, unit: usize) {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_no_whole_size_is_refused_by_every_format() {
        for disk in [&[][..], &[0; 512], &vec![0; MIB + 512]] {
            assert_eq!(vhd(disk), Err(Refused::Size));
            assert_eq!(vhdx(disk), Err(Refused::Size));
            assert_eq!(vmdk(disk, "a"), Err(Refused::Size));
            assert_eq!(iso(disk), Err(Refused::Size));
        }
    }

    #[test]
    fn an_identity_is_of_the_contents_and_of_what_it_is_for() {
        let (one, other) = (vec![0; 100], vec![1; 100]);
        assert_eq!(identity(&one, "disk"), identity(&one, "disk"));
        assert_ne!(identity(&one, "disk"), identity(&other, "disk"));
        assert_ne!(identity(&one, "disk"), identity(&one, "file"));
        let id = identity(&one, "disk");
        assert_eq!((id[6] >> 4, id[8] >> 6), (8, 2));
    }
}
