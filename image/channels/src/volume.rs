//! A disk or CD with the configuration on it, as cloud-init's NoCloud has it: a volume labelled `cidata`, FAT or ISO 9660,
//! over all of the medium or in a partition of it.
//!
//! Read is the file `corbel.cfg`, and `user-data` where its first line is `#corbel`: on such volumes lie files for others as
//! well.

mod fat;
mod iso;
mod partitions;
#[cfg(test)]
mod tests;

use crate::LONGEST;
use core::fmt;

/// The label, in whichever case.
const LABEL: &[u8] = b"cidata";
/// Files that are read. The first is for nobody else; the other has to say that it is for us.
const NAMES: [&[u8]; 2] = [b"corbel.cfg", b"user-data"];
/// How `user-data` says so.
const MARK: &[u8] = b"#corbel";
/// Bytes that are read at once: a whole block of whatever disk there is. Many take nothing that is less.
pub const WINDOW: usize = 4096;
/// Windows that are read of one medium at most: 8 MiB. More than a label and two files can need.
const MOST_WINDOWS: u32 = 2048;
/// Entries of one directory that are looked at.
const MOST_ENTRIES: u32 = 4096;

/// Something with sectors of 512 bytes, or longer ones up to [`WINDOW`].
pub trait Medium {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fill `into` from `offset` on, a whole multiple of [`WINDOW`], of which `into` has the length unless the medium ends
    /// before; answers whether that was possible.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool;
}

/// Why what may be there cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The volume is labelled, and the medium cannot be read.
    Unreadable,
    /// The volume is labelled, and its file system makes no sense.
    Damaged,
    /// What is to be read is longer than [`LONGEST`].
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the disk cannot be read",
            Self::Damaged => "its file system makes no sense",
            Self::TooLong => "longer than 64 KiB",
        })
    }
}

impl core::error::Error for Fault {}

/// What a medium has for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No volume of that label.
    Nothing,
    /// No volume of that label where it could be read; but not everywhere could it be.
    Unreadable,
    /// One, and what is on it is for others.
    ForOthers,
    /// So many bytes of the document.
    Document(usize),
}

/// Look whether `medium` has the configuration, and put it into `into`, of which [`LONGEST`] bytes are used at most.
///
/// # Errors
/// See [`Fault`]. A medium that is not labelled and makes no sense has nothing for us, and one that cannot be read and has not
/// shown a label until then is somebody else's trouble.
pub fn read(medium: &mut dyn Medium, into: &mut [u8]) -> Result<Found, Fault> {
    let end = into.len().min(LONGEST);
    let mut document = Document { bytes: &mut into[..end], length: 0 };
    let mut reader = Reader::new(medium);
    let whole = Part { start: 0, length: reader.size };
    let mut found = search(&mut reader, whole, &mut document)?;
    if matches!(found, Found::Nothing | Found::Unreadable) {
        let mut parts = [NO_PART; partitions::MOST];
        if partitions::list(&mut reader, &mut parts) == Err(Fault::Unreadable) {
            found = Found::Unreadable;
        }
        for part in parts.into_iter().take_while(|part| part.length > 0) {
            match search(&mut reader, part, &mut document)? {
                Found::Nothing => {}
                Found::Unreadable => found = Found::Unreadable,
                ours => return Ok(ours),
            }
        }
    }
    Ok(found)
}

/// A piece of the medium that may be a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    length: u64,
}

/// None.
const NO_PART: Part = Part { start: 0, length: 0 };

fn search(reader: &mut Reader<'_>, part: Part, document: &mut Document<'_>) -> Result<Found, Fault> {
    (reader.part, reader.is_labelled) = (part, false);
    match volume(reader, document) {
        Err(Fault::Unreadable) if !reader.is_labelled => Ok(Found::Unreadable),
        other => other,
    }
}

fn volume(reader: &mut Reader<'_>, document: &mut Document<'_>) -> Result<Found, Fault> {
    let found = match fat::Volume::open(reader)? {
        Some(volume) => {
            for name in NAMES {
                if let Some(file) = volume.find(reader, name)? {
                    document
                        .take(name, file.length, |offset, bytes| volume.copy(reader, &file, offset, bytes))?;
                }
            }
            true
        }
        None => match iso::Volume::open(reader)? {
            Some(volume) => {
                for name in NAMES {
                    if let Some(file) = volume.find(reader, name)? {
                        document.take(name, file.length, |offset, bytes| {
                            reader.copy(file.start + offset, bytes)
                        })?;
                    }
                }
                true
            }
            None => false,
        },
    };
    Ok(match (found, document.length) {
        (false, _) => Found::Nothing,
        (true, 0) => Found::ForOthers,
        (true, length) => Found::Document(length),
    })
}

/// The document, as far as it is read.
struct Document<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl Document<'_> {
    /// Take a file of that name and length, which `copy` reads from an offset on, if it is for us.
    fn take(
        &mut self,
        name: &[u8],
        length: u64,
        mut copy: impl FnMut(u64, &mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if name != NAMES[0] {
            let mut start = [0; MARK.len() + 1];
            let known = usize::try_from(length).unwrap_or(usize::MAX).min(start.len());
            copy(0, &mut start[..known])?;
            let ends = start[MARK.len()];
            if !start.starts_with(MARK) || known > MARK.len() && !ends.is_ascii_whitespace() {
                return Ok(());
            }
        }
        // A line's end between two files, and behind the last.
        let room = self.bytes.len().saturating_sub(self.length + 1);
        let length = usize::try_from(length).ok().filter(|length| *length <= room).ok_or(Fault::TooLong)?;
        let (bytes, rest) = self.bytes[self.length..].split_at_mut(length);
        copy(0, bytes)?;
        rest[0] = b'\n';
        self.length += length + 1;
        Ok(())
    }
}

/// The bytes of a part, whatever pieces the medium gives them in; bounded.
struct Reader<'a> {
    medium: &'a mut dyn Medium,
    size: u64,
    part: Part,
    /// Whether the part has shown the label.
    is_labelled: bool,
    window: [u8; WINDOW],
    /// Where the window begins on the medium, and how much of it is filled.
    at: u64,
    filled: usize,
    windows: u32,
}

impl<'a> Reader<'a> {
    fn new(medium: &'a mut dyn Medium) -> Self {
        let size = medium.size() & !511;
        let part = Part { start: 0, length: size };
        Self { medium, size, part, is_labelled: false, window: [0; WINDOW], at: 0, filled: 0, windows: 0 }
    }

    /// Fill `into` from `offset` of the part.
    ///
    /// # Errors
    /// [`Fault::Damaged`] beyond its end: only a file system that makes no sense leads there.
    fn copy(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let end = offset.checked_add(into.len() as u64).ok_or(Fault::Damaged)?;
        if end > self.part.length {
            return Err(Fault::Damaged);
        }
        let mut from = self.part.start.checked_add(offset).ok_or(Fault::Damaged)?;
        let mut rest = into;
        while !rest.is_empty() {
            let inside = self.load(from)?;
            let piece = self.window[inside..self.filled].len().min(rest.len());
            let (now, later) = rest.split_at_mut(piece);
            now.copy_from_slice(&self.window[inside..inside + piece]);
            from += piece as u64;
            rest = later;
        }
        Ok(())
    }

    /// Some bytes from `offset` of the part.
    fn get<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.copy(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Have the window cover the byte at `from` of the medium; answers where in the window that is.
    fn load(&mut self, from: u64) -> Result<usize, Fault> {
        let at = from & !(WINDOW as u64 - 1);
        if self.filled == 0 || self.at != at {
            self.windows += 1;
            let length = self.size.saturating_sub(at).min(WINDOW as u64) as usize;
            if self.windows > MOST_WINDOWS || length == 0 {
                return Err(Fault::Damaged);
            }
            self.filled = 0;
            if !self.medium.read(at, &mut self.window[..length]) {
                return Err(Fault::Unreadable);
            }
            (self.at, self.filled) = (at, length);
        }
        let inside = (from - at) as usize;
        if inside < self.filled { Ok(inside) } else { Err(Fault::Damaged) }
    }
}

/// Whether a label, with what fills it up, is the one.
fn is_label(label: &[u8]) -> bool {
    label.trim_ascii_end().eq_ignore_ascii_case(LABEL)
}

/// Before the label is known whatever makes no sense is somebody else's.
fn or_nothing<T>(reader: &Reader<'_>, result: Result<Option<T>, Fault>) -> Result<Option<T>, Fault> {
    match result {
        Err(Fault::Damaged | Fault::TooLong) if !reader.is_labelled => Ok(None),
        other => other,
    }
}
