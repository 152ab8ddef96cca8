//! Where the configuration lies, and how it is read there: a `cidata` volume ([`volume`]), the machine's SMBIOS table
//! ([`smbios`]), a metadata service ([`mmds`]).
//!
//! Whoever calls brings the bytes: a door asks its firmware for the blocks of a disk, the image its driver. Nothing here
//! allocates, for the doors have no heap, and all of it is from outside: a file system, a table or an answer that makes no
//! sense ends in a [`Fault`] or is as if it were not there.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod mmds;
pub mod smbios;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volume;

pub use volume::Fault;

/// The longest document, in bytes; the appliance says the same (`image/appliance/src/config.rs`).
pub const LONGEST: usize = 64 * 1024;

/// A little-endian number of `N` bytes, at most eight, at `offset`; `None` beyond the end.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let mut whole = [0; 8];
    whole.get_mut(..N)?.copy_from_slice(bytes.get(offset..offset.checked_add(N)?)?);
    Some(u64::from_le_bytes(whole))
}
