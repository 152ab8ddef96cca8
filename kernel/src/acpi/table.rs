//! One table: a header that says its length, and a sum over all of it that is zero.

use crate::memory::{self, ranges::Range};
use alloc::vec::Vec;

/// Bytes of the header that all tables share.
const HEADER: usize = 36;
/// The longest table that is read; definition blocks of large servers have some hundred KiB.
const LONGEST: u64 = 1 << 20;

/// A copy of a table.
pub(super) struct Table {
    pub(super) bytes: Vec<u8>,
}

impl Table {
    /// Copy the table at physical `address`; `None` when it cannot be one.
    pub(super) fn read(address: u64) -> Option<Self> {
        let header = memory::copy_physical(Range::with_length(address, HEADER as u64))?;
        let length = number::<4>(&header, 4)?;
        if length < HEADER as u64 || length > LONGEST {
            return None;
        }
        Self::parse(memory::copy_physical(Range::with_length(address, length))?)
    }

    /// Take `bytes` for a table, if they are one.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let length = number::<4>(&bytes, 4)?;
        (bytes.len() >= HEADER && bytes.len() as u64 == length && sum(&bytes) == 0).then_some(Self { bytes })
    }

    /// Whether it is of this kind.
    pub(super) fn is(&self, signature: &[u8; 4]) -> bool {
        self.bytes.starts_with(signature)
    }

    /// What follows the header.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// A little-endian number of `N` bytes at `offset`; `None` beyond the end, which older revisions reach sooner.
    pub(super) fn number<const N: usize>(&self, offset: usize) -> Option<u64> {
        number::<N>(&self.bytes, offset)
    }
}

/// The signature of the table at physical `address`.
pub(super) fn signature(address: u64) -> Option<[u8; 4]> {
    memory::copy_physical(Range::with_length(address, 4))?.try_into().ok()
}

/// A little-endian number of `N` bytes, at most eight.
pub(super) fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(N)?)?;
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(field);
    Some(u64::from_le_bytes(whole))
}

/// The sum of the bytes, modulo 256.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
