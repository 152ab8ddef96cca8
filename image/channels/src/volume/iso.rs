//! ISO 9660 (ECMA-119), with the names of Joliet or of Rock Ridge (IEEE P1282) where a disk has those.

use super::{Fault, MOST_ENTRIES, Reader, is_label, or_nothing};
use crate::number;

/// Bytes of a block, the only length there is on disks for exchange.
const BLOCK: u64 = 2048;
/// Where the descriptors begin, and how many are looked at.
const DESCRIPTORS: u64 = 16;
const MOST_DESCRIPTORS: u64 = 16;
/// Kinds of descriptor (ECMA-119, 8.1.1).
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const LAST: u8 = 255;
/// The least of a directory's record: all but its name.
const RECORD: usize = 33;
/// Flags of one: it is a directory; the file goes on in another.
const DIRECTORY: u8 = 0x02;
const GOES_ON: u8 = 0x80;

/// A labelled volume: its root, or both where names of one kind are in one and of another in the other.
pub(super) struct Volume {
    /// By Joliet's descriptor.
    joliet: Option<File>,
    plain: Option<File>,
}

/// Where a file lies, in bytes.
#[derive(Clone, Copy)]
pub(super) struct File {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Volume {
    /// The volume, if there is one that is labelled.
    pub(super) fn open(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let volume = Self::labelled(reader);
        or_nothing(reader, volume)
    }

    fn labelled(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let mut volume = Self { joliet: None, plain: None };
        for index in 0..MOST_DESCRIPTORS {
            let descriptor: [u8; 192] = reader.get((DESCRIPTORS + index) * BLOCK)?;
            if descriptor[1..6] != *b"CD001" {
                return Ok(None);
            }
            let label = &descriptor[40..72];
            match descriptor[0] {
                LAST => break,
                _ if number::<2>(&descriptor, 128) != Some(BLOCK) => {}
                PRIMARY => {
                    volume.plain = File::of(&descriptor[156..]);
                    reader.is_labelled |= is_label(label);
                }
                SUPPLEMENTARY if is_joliet(&descriptor[88..91]) => {
                    volume.joliet = File::of(&descriptor[156..]);
                    let mut narrow = [0; 16];
                    for (byte, wide) in narrow.iter_mut().zip(label.as_chunks::<2>().0) {
                        *byte = u8::try_from(u16::from_be_bytes(*wide)).unwrap_or(b'?');
                    }
                    reader.is_labelled |= is_label(&narrow);
                }
                _ => {}
            }
        }
        let has_root = volume.plain.is_some() || volume.joliet.is_some();
        Ok((reader.is_labelled && has_root).then_some(volume))
    }

    /// The file of that name in the root.
    pub(super) fn find(&self, reader: &mut Reader<'_>, name: &[u8]) -> Result<Option<File>, Fault> {
        for (root, wide) in [(self.joliet, true), (self.plain, false)] {
            if let Some(root) = root
                && let Some(file) = find(reader, root, wide, name)?
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

impl File {
    /// What a directory's record says; `None` for what is interleaved, or cannot be.
    fn of(record: &[u8]) -> Option<Self> {
        let attributes = u64::from(*record.get(1)?);
        let (block, length) = (number::<4>(record, 2)?, number::<4>(record, 10)?);
        let is_whole = record.get(25)? & GOES_ON == 0 && record.get(26..28)? == [0, 0];
        is_whole.then_some(Self { start: (block + attributes) * BLOCK, length })
    }
}

fn find(reader: &mut Reader<'_>, root: File, wide: bool, name: &[u8]) -> Result<Option<File>, Fault> {
    let mut offset = 0;
    for _ in 0..MOST_ENTRIES {
        if offset + RECORD as u64 > root.length {
            return Ok(None);
        }
        let length = u64::from(reader.get::<1>(root.start + offset)?[0]);
        // A record lies in one block; what is left of that is zero.
        if length == 0 {
            offset = (offset / BLOCK + 1) * BLOCK;
            continue;
        }
        let mut bytes = [0; 255];
        let record = &mut bytes[..length as usize];
        reader.copy(root.start + offset, record)?;
        if record.len() < RECORD {
            return Err(Fault::Damaged);
        }
        if record[25] & DIRECTORY == 0 && is_name(record, wide, name) {
            return File::of(record).map(Some).ok_or(Fault::Damaged);
        }
        offset += length;
    }
    Ok(None)
}

/// Whether a record's name is this one, by whichever way it is told.
fn is_name(record: &[u8], wide: bool, name: &[u8]) -> bool {
    let length = usize::from(record[32]);
    let Some(own) = record.get(RECORD..RECORD + length) else { return false };
    if wide {
        let character = |(index, byte): (usize, &u8)| {
            own.get(2 * index..2 * index + 2)
                .is_some_and(|wide| wide[0] == 0 && wide[1].eq_ignore_ascii_case(byte))
        };
        let rest = own.get(2 * name.len()..).unwrap_or_default();
        return name.iter().enumerate().all(character) && (rest.is_empty() || rest.starts_with(&[0, b';']));
    }
    let own = own.split(|byte| *byte == b';').next().unwrap_or_default();
    let own = own.strip_suffix(b".").unwrap_or(own);
    // The name is filled up to an even end; behind that is what the system has to say of the file.
    let system = record.get(RECORD + length + usize::from(length.is_multiple_of(2))..).unwrap_or_default();
    own.eq_ignore_ascii_case(name) || is_rock_ridge(system, name)
}

/// Whether one of the fields is a name, whole and this one (SUSP 1.12, section 4; RRIP 1.12, section 4.1.4).
fn is_rock_ridge(fields: &[u8], name: &[u8]) -> bool {
    let mut rest = fields;
    while let Some((field, behind)) =
        rest.get(2).and_then(|length| rest.split_at_checked(usize::from(*length)))
    {
        if field.len() < 4 {
            return false;
        }
        if field.starts_with(b"NM") {
            return field.get(4) == Some(&0) && field[5..].eq_ignore_ascii_case(name);
        }
        rest = behind;
    }
    false
}

/// Escape sequences of UCS-2 at levels 1 to 3.
fn is_joliet(escape: &[u8]) -> bool {
    matches!(escape, b"%/@" | b"%/C" | b"%/E")
}
