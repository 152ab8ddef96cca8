//! FAT, of 12, 16 and 32 bits, with long names: Microsoft's specification of 2004, and ECMA-107.

use super::{Fault, LABEL, MOST_ENTRIES, Reader, is_label, or_nothing};
use crate::number;

/// Bytes of a directory's entry.
const ENTRY: u64 = 32;
/// Attributes: a volume's label, a directory, and all four that say together that this is a piece of a long name.
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG: u8 = 0x0f;
/// The one piece of a name that has one piece, of thirteen characters.
const ONLY: u8 = 0x41;
const PIECE: usize = 13;
/// Where that has its characters.
const CHARACTERS: [usize; PIECE] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A labelled volume.
pub(super) struct Volume {
    bits: u8,
    /// Bytes of a cluster.
    cluster: u64,
    /// Where the table begins.
    table: u64,
    /// Where cluster 2 begins.
    data: u64,
    /// One past the last cluster.
    end: u64,
    root: Chain,
}

/// Where a file or a directory lies.
#[derive(Clone, Copy)]
enum Chain {
    /// So many bytes from there on: the root of the older kinds.
    Fixed(u64, u64),
    /// From this cluster on.
    From(u64),
}

/// A file.
pub(super) struct File {
    start: u64,
    pub(super) length: u64,
}

/// Goes along a chain of clusters, and remembers where it was.
struct Walk {
    cluster: u64,
    index: u64,
}

impl Volume {
    /// The volume, if there is one that is labelled.
    pub(super) fn open(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let volume = Self::labelled(reader);
        or_nothing(reader, volume)
    }

    fn labelled(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let head: [u8; 512] = reader.get(0)?;
        let Some(volume) = Self::parse(&head) else { return Ok(None) };
        let place = if volume.bits == 32 { 71 } else { 43 };
        let first = &head[place..place + 11];
        reader.is_labelled = is_label(first);
        // The one in the root is the one that is kept up to date; the other is for volumes that have none there.
        let mut label = None;
        volume.entries(reader, |entry, _| {
            let is_label = entry[11] & 0x3f & !0x20 == VOLUME;
            label = is_label.then(|| *entry.first_chunk::<11>().unwrap_or(&[0; 11]));
            is_label
        })?;
        reader.is_labelled = is_label(label.as_ref().map_or(first, |label| label));
        Ok(reader.is_labelled.then_some(volume))
    }

    fn parse(head: &[u8; 512]) -> Option<Self> {
        let field = |at, length| {
            let value = if length == 2 { number::<2>(head, at) } else { number::<4>(head, at) };
            value.unwrap_or_default()
        };
        let (sector, clusters) = (field(11, 2), u64::from(head[13]));
        let (reserved, tables, entries) = (field(14, 2), u64::from(head[16]), field(17, 2));
        let is_one = head[510..] == [0x55, 0xaa]
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && clusters.is_power_of_two()
            && reserved > 0
            && (1..=4).contains(&tables);
        if !is_one {
            return None;
        }
        let either = |short, long| if short == 0 { long } else { short };
        let table = either(field(22, 2), field(36, 4));
        let sectors = either(field(19, 2), field(32, 4));
        let root = (entries * ENTRY).div_ceil(sector);
        let before = reserved + tables * table + root;
        let count = sectors.checked_sub(before)? / clusters;
        let bits = match count {
            // Only the widest has its table's length there.
            _ if field(22, 2) == 0 => 32,
            0..4085 => 12,
            _ => 16,
        };
        let fixed = Chain::Fixed((reserved + tables * table) * sector, entries * ENTRY);
        Some(Self {
            bits,
            cluster: clusters * sector,
            table: reserved * sector,
            data: before * sector,
            end: count + 2,
            root: if bits == 32 { Chain::From(field(44, 4)) } else { fixed },
        })
    }

    /// The file of that name in the root.
    pub(super) fn find(&self, reader: &mut Reader<'_>, name: &[u8]) -> Result<Option<File>, Fault> {
        let mut found = None;
        self.entries(reader, |entry, long| {
            let is_file = entry[11] & (VOLUME | DIRECTORY) == 0;
            if is_file && (long.is_some_and(|long| is_name(long, name)) || is_short(&entry[..11], name)) {
                let cluster = number::<2>(entry, 20).unwrap_or(0) << 16 | number::<2>(entry, 26).unwrap_or(0);
                found = Some(File { start: cluster, length: number::<4>(entry, 28).unwrap_or(0) });
            }
            found.is_some()
        })?;
        Ok(found)
    }

    /// Fill `into` from `offset` of the file, which is not beyond its end.
    pub(super) fn copy(
        &self,
        reader: &mut Reader<'_>,
        file: &File,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Fault> {
        let mut walk = Walk { cluster: file.start, index: 0 };
        let mut from = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let place = self.place(reader, &mut walk, from)?.ok_or(Fault::Damaged)?;
            let piece = (self.cluster - from % self.cluster).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(piece as usize);
            reader.copy(place, now)?;
            from += piece;
            rest = later;
        }
        Ok(())
    }

    /// Show the root's entries until `is_last` says so, each with the long name before it, if that has one piece.
    fn entries(
        &self,
        reader: &mut Reader<'_>,
        mut is_last: impl FnMut(&[u8; 32], Option<&[u8; 32]>) -> bool,
    ) -> Result<(), Fault> {
        let mut walk = match self.root {
            Chain::From(cluster) => Walk { cluster, index: 0 },
            Chain::Fixed(..) => Walk { cluster: 0, index: 0 },
        };
        let mut before: Option<[u8; 32]> = None;
        for index in 0..u64::from(MOST_ENTRIES) {
            let offset = index * ENTRY;
            let place = match self.root {
                Chain::Fixed(start, length) => (offset < length).then_some(start + offset),
                Chain::From(_) => self.place(reader, &mut walk, offset)?,
            };
            let Some(place) = place else { return Ok(()) };
            let entry: [u8; 32] = reader.get(place)?;
            match entry[0] {
                0 => return Ok(()),
                0xe5 => before = None,
                _ if entry[11] & 0x3f == LONG => before = (entry[0] == ONLY).then_some(entry),
                _ => {
                    let sum = sum(&entry[..11]);
                    let long = before.take().filter(|long| long[13] == sum);
                    if is_last(&entry, long.as_ref()) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Where byte `offset` of a chain lies; `None` behind its end. It must not go back.
    fn place(&self, reader: &mut Reader<'_>, walk: &mut Walk, offset: u64) -> Result<Option<u64>, Fault> {
        while walk.index < offset / self.cluster {
            match self.next(reader, walk.cluster)? {
                Some(next) => walk.cluster = next,
                None => return Ok(None),
            }
            walk.index += 1;
        }
        if !(2..self.end).contains(&walk.cluster) {
            return Err(Fault::Damaged);
        }
        Ok(Some(self.data + (walk.cluster - 2) * self.cluster + offset % self.cluster))
    }

    /// The cluster behind this one.
    fn next(&self, reader: &mut Reader<'_>, cluster: u64) -> Result<Option<u64>, Fault> {
        if !(2..self.end).contains(&cluster) {
            return Err(Fault::Damaged);
        }
        let (next, last) = match self.bits {
            12 => {
                let pair = u64::from(u16::from_le_bytes(reader.get(self.table + cluster * 3 / 2)?));
                (if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }, 0xff8)
            }
            16 => (u64::from(u16::from_le_bytes(reader.get(self.table + cluster * 2)?)), 0xfff8),
            _ => {
                let entry = u32::from_le_bytes(reader.get(self.table + cluster * 4)?);
                (u64::from(entry & 0x0fff_ffff), 0x0fff_fff8)
            }
        };
        Ok((next < last).then_some(next))
    }
}

/// What a long name has of the short one behind it.
fn sum(short: &[u8]) -> u8 {
    short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Whether a long name of one piece is this one: what is behind its end is filled up.
fn is_name(long: &[u8; 32], name: &[u8]) -> bool {
    let character = |index: usize| u16::from_le_bytes([long[CHARACTERS[index]], long[CHARACTERS[index] + 1]]);
    let ends = name.len() == PIECE || name.len() < PIECE && character(name.len()) == 0;
    let is_same = |(index, byte): (usize, &u8)| {
        u8::try_from(character(index)).is_ok_and(|other| other.eq_ignore_ascii_case(byte))
    };
    ends && name.iter().enumerate().all(is_same)
}

/// Whether a short name is this one: eight characters and three, filled up with spaces.
fn is_short(short: &[u8], name: &[u8]) -> bool {
    let mut parts = name.splitn(2, |byte| *byte == b'.');
    let (stem, extension) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_filled = |field: &[u8], part: &[u8]| {
        part.len() <= field.len() && field.trim_ascii_end().eq_ignore_ascii_case(part)
    };
    is_filled(&short[..8], stem) && is_filled(&short[8..], extension)
}

/// A label has eleven characters.
const _: () = assert!(LABEL.len() <= 11);
