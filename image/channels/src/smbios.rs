//! SMBIOS (DMTF DSP0134): where the table is, and the strings of its structures of type 11, "OEM Strings", by which a
//! hypervisor's operator can give a guest text.
//!
//! A string that begins with `corbel.config=` is a piece of the document, a line or several; one that begins with
//! `corbel.config+=` goes on where the one before it has ended, for values that are longer than the hypervisor allows.

use crate::number;

/// Where a PC's firmware leaves an entry point, at a multiple of sixteen bytes: physical addresses, from and to.
pub const PLACE: (u64, u64) = (0xf_0000, 0x10_0000);
/// The longest table that is read; hypervisors make a few KiB.
pub const LONGEST_TABLE: u32 = 256 * 1024;
/// The most of an entry point.
pub const LONGEST_ENTRY: usize = 32;

/// The kind of structure that has the strings, and the one that is the last.
const OEM_STRINGS: u8 = 11;
const END: u8 = 127;
/// Type, length, handle.
const HEADER: usize = 4;

/// Where a table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its physical address.
    pub address: u64,
    /// Its length in bytes, or the most that it can have.
    pub length: u32,
}

impl Table {
    /// What an entry point says, of 64 or of 32 bits (sections 5.2.2 and 5.2.1); `None` when this is none. A table that may be
    /// longer than [`LONGEST_TABLE`] is cut there: whether that is all of it [`is_whole`] shows.
    pub fn of(entry: &[u8]) -> Option<Self> {
        let sums = |start: usize, length: usize| {
            let bytes = entry.get(start..start.checked_add(length)?)?;
            Some(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0)
        };
        let (address, length) = if entry.starts_with(b"_SM3_") {
            let length = usize::from(*entry.get(6)?);
            if !(24..=LONGEST_ENTRY).contains(&length) || !sums(0, length)? {
                return None;
            }
            (number::<8>(entry, 16)?, number::<4>(entry, 12)?)
        } else if entry.starts_with(b"_SM_") {
            // Version 2.1 had it one too short; the second half has a sum of its own.
            let length = usize::from(*entry.get(5)?);
            let is_whole = (30..=LONGEST_ENTRY).contains(&length) && sums(0, length.max(31))?;
            if !is_whole || entry.get(16..21)? != b"_DMI_" || !sums(16, 15)? {
                return None;
            }
            (number::<4>(entry, 24)?, number::<2>(entry, 22)?)
        } else {
            return None;
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).min(LONGEST_TABLE);
        (length > 0 && address.checked_add(length.into()).is_some()).then_some(Self { address, length })
    }

    /// The table that an entry point in what lies at [`PLACE`] leads to; that of 64 bits, where there are both.
    pub fn search(place: &[u8]) -> Option<Self> {
        let find = |anchor: &[u8]| {
            let places = (0..place.len()).step_by(16).filter_map(|at| place.get(at..));
            places
                .filter(|bytes| bytes.starts_with(anchor))
                .find_map(|bytes| Self::of(&bytes[..bytes.len().min(LONGEST_ENTRY)]))
        };
        find(b"_SM3_").or_else(|| find(b"_SM_"))
    }
}

/// What a string is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line, or several.
    Line(&'a [u8]),
    /// It goes on where the one before has ended.
    More(&'a [u8]),
    /// It is meant for us, and we do not know how.
    Unknown(&'a [u8]),
}

/// The pieces of the document, in order. What is others' is left out.
pub fn pieces(table: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    strings(table).filter_map(|string| {
        let rest = string.strip_prefix(b"corbel.")?;
        Some(match (rest.strip_prefix(b"config="), rest.strip_prefix(b"config+=")) {
            (Some(line), _) => Piece::Line(line),
            (_, Some(more)) => Piece::More(more),
            _ => Piece::Unknown(string),
        })
    })
}

/// Whether the table is there from its first structure to the last, the one that says so or what its length ends with: behind
/// one that is broken or cut nobody knows what there was.
pub fn is_whole(table: &[u8]) -> bool {
    let mut rest = table;
    while let Some((kind, _, behind)) = structure(rest) {
        if kind == END {
            return true;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// The strings of all structures of type 11.
fn strings(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = table;
    core::iter::from_fn(move || {
        let (kind, strings, behind) = structure(rest)?;
        rest = behind;
        Some((kind, strings))
    })
    .take_while(|(kind, _)| *kind != END)
    .filter(|(kind, _)| *kind == OEM_STRINGS)
    .flat_map(|(_, strings)| strings.split(|byte| *byte == 0))
    .filter(|string| !string.is_empty())
}

/// The first structure: its kind, its strings with zeroes between, and what is behind it. `None` when it is not whole: then
/// nobody knows where the next begins.
fn structure(table: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, length) = (*table.first()?, usize::from(*table.get(1)?));
    let strings = table.get(length..).filter(|_| length >= HEADER)?;
    // Two zeroes end the strings, also where there are none (section 6.1.3).
    let end = strings.windows(2).position(|pair| pair == [0, 0])?;
    Some((kind, &strings[..end], &strings[end + 2..]))
}

#[cfg(test)]
mod tests;
