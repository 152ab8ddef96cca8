//! ELF files: what a loader needs of one, and nothing else.

/// Offsets in the file header of ELF64.
const ENTRY: usize = 24;
const PROGRAM_HEADERS: usize = 32;
const SECTION_HEADERS: usize = 40;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;
const SECTION_HEADER_COUNT: usize = 60;
const SECTION_NAMES: usize = 62;
const HEADER: usize = 64;
/// Offsets in a program header, and its size.
const FILE_OFFSET: usize = 8;
const PHYSICAL: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;
const PROGRAM_HEADER: usize = 56;
/// The file header of what is written here, up to where its numbers begin: a little-endian ELF64 that is executed as it
/// lies, for x86-64.
const EXECUTABLE: [u8; 24] =
    [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];

/// Kinds of segments: one that is loaded, and notes.
pub(crate) const LOAD: u32 = 1;
pub(crate) const NOTE: u32 = 4;
/// What may be done with a segment.
pub(crate) const EXECUTE: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const READ: u32 = 4;

/// A part of a file that goes into memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// What it is.
    pub(crate) kind: u32,
    /// What may be done with it.
    pub(crate) flags: u32,
    /// Where it lies in physical memory.
    pub(crate) address: usize,
    /// Bytes that it takes there; what the file does not have is zero.
    pub(crate) memory: usize,
    /// Its bytes in the file.
    pub(crate) bytes: &'a [u8],
}

/// Where a program begins.
///
/// # Errors
/// When it is not a little-endian ELF64.
pub(crate) fn entry(file: &[u8]) -> Result<usize, String> {
    identify(file)?;
    number::<8>(file, ENTRY)
}

/// The segments of a file.
///
/// # Errors
/// When it is not a little-endian ELF64 whose segments lie inside of it.
pub(crate) fn segments(file: &[u8]) -> Result<Vec<Segment<'_>>, String> {
    headers(file)?
        .into_iter()
        .map(|header| {
            let start = number::<8>(file, header.saturating_add(FILE_OFFSET))?;
            let length = number::<8>(file, header.saturating_add(FILE_SIZE))?;
            let end = start.saturating_add(length);
            Ok(Segment {
                kind: number::<4>(file, header)? as u32,
                flags: number::<4>(file, header.saturating_add(4))? as u32,
                address: number::<8>(file, header.saturating_add(PHYSICAL))?,
                memory: number::<8>(file, header.saturating_add(MEMORY_SIZE))?.max(length),
                bytes: file.get(start..end).ok_or("a segment lies beyond the end")?,
            })
        })
        .collect()
}

/// The file cut after its last segment, without section headers: symbols and debug information are gone.
///
/// # Errors
/// As [`segments`].
pub(crate) fn without_sections(file: &[u8]) -> Result<Vec<u8>, String> {
    let mut end = HEADER;
    for header in headers(file)? {
        let start = number::<8>(file, header.saturating_add(FILE_OFFSET))?;
        let length = number::<8>(file, header.saturating_add(FILE_SIZE))?;
        end = end.max(header.saturating_add(PROGRAM_HEADER)).max(start.saturating_add(length));
    }
    let mut kept = file.get(..end).ok_or("a segment lies beyond the end")?.to_vec();
    kept[SECTION_HEADERS..SECTION_HEADERS + 8].fill(0);
    kept[SECTION_HEADER_COUNT..SECTION_HEADER_COUNT + 2].fill(0);
    kept[SECTION_NAMES..SECTION_NAMES + 2].fill(0);
    Ok(kept)
}

/// A program that begins at `entry`, of these segments. The bytes of one that lies inside of another are there once.
pub(crate) fn write(entry: usize, segments: &[Segment<'_>]) -> Vec<u8> {
    let mut file = EXECUTABLE.to_vec();
    let first = HEADER + segments.len() * PROGRAM_HEADER;
    for word in [entry, HEADER, 0] {
        file.extend((word as u64).to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [HEADER, PROGRAM_HEADER, segments.len(), 0, 0, 0] {
        file.extend((half as u16).to_le_bytes());
    }
    let (mut at, mut placed) = (first, Vec::<(&Segment<'_>, usize)>::new());
    for segment in segments {
        let around = placed.iter().find(|(other, _)| {
            let last = segment.address + segment.bytes.len();
            other.address <= segment.address && last <= other.address + other.bytes.len()
        });
        let offset = around.map_or(at, |(other, offset)| offset + segment.address - other.address);
        if around.is_none() {
            at += segment.bytes.len();
        }
        placed.push((segment, offset));
        file.extend(segment.kind.to_le_bytes());
        file.extend(segment.flags.to_le_bytes());
        let numbers = [offset, segment.address, segment.address, segment.bytes.len(), segment.memory, 1];
        numbers.iter().for_each(|number| file.extend((*number as u64).to_le_bytes()));
    }
    for (segment, offset) in placed {
        if offset == file.len() {
            file.extend(segment.bytes);
        }
    }
    file
}

/// See that it is a file of the only kind that is known here.
fn identify(file: &[u8]) -> Result<(), String> {
    let known = file.len() >= HEADER && file.starts_with(b"\x7fELF\x02\x01");
    if known { Ok(()) } else { Err("not a little-endian ELF64".into()) }
}

/// Where the program headers lie.
fn headers(file: &[u8]) -> Result<Vec<usize>, String> {
    identify(file)?;
    let offset = number::<8>(file, PROGRAM_HEADERS)?;
    let size = number::<2>(file, PROGRAM_HEADER_SIZE)?;
    let count = number::<2>(file, PROGRAM_HEADER_COUNT)?;
    Ok((0..count).map(|index| offset.saturating_add(index * size)).collect())
}

/// A number of `N` bytes at `offset`.
pub(crate) fn number<const N: usize>(file: &[u8], offset: usize) -> Result<usize, String> {
    let bytes =
        offset.checked_add(N).and_then(|end| file.get(offset..end)).ok_or("a header lies beyond the end")?;
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(whole)).map_err(|_| "an offset is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let all: Vec<u8> = (0..100).collect();
        let written = [
            Segment { kind: LOAD, flags: READ | WRITE, address: 0x10_0000, memory: 0x1000, bytes: &[] },
            Segment { kind: LOAD, flags: READ | EXECUTE, address: 0x10_1000, memory: 0x2000, bytes: &all },
            Segment { kind: NOTE, flags: READ, address: 0x10_1000 + 90, memory: 10, bytes: &all[90..] },
        ];
        let file = write(0x10_1020, &written);
        assert_eq!(file.len(), HEADER + 3 * PROGRAM_HEADER + 100);
        assert_eq!(entry(&file), Ok(0x10_1020));
        let shown = |segments: &[Segment<'_>]| format!("{segments:?}");
        assert_eq!(shown(&segments(&file).unwrap()), shown(&written));
        assert_eq!(without_sections(&file).unwrap(), file);
        for length in 0..file.len() {
            assert!(segments(&file[..length]).is_err(), "{length}");
        }
    }

    fn elf(segments: &[(u64, u64)], trailing: usize) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[PROGRAM_HEADERS] = HEADER as u8;
        file[SECTION_HEADERS] = 200;
        file[PROGRAM_HEADER_SIZE] = 56;
        file[PROGRAM_HEADER_COUNT] = segments.len() as u8;
        file[SECTION_HEADER_COUNT] = 9;
        for &(start, length) in segments {
            let mut header = [0; 56];
            header[FILE_OFFSET..FILE_OFFSET + 8].copy_from_slice(&start.to_le_bytes());
            header[FILE_SIZE..FILE_SIZE + 8].copy_from_slice(&length.to_le_bytes());
            file.extend(header);
        }
        file.resize(file.len() + trailing, 7);
        file
    }

    #[test]
    fn all_after_the_last_segment_is_cut() {
        let file = elf(&[(300, 20), (250, 10)], 1000);
        let kept = without_sections(&file).unwrap();
        assert_eq!(kept.len(), 320);
        assert_eq!(kept[300..], file[300..320]);
        assert_eq!(kept[SECTION_HEADERS], 0);
        assert_eq!(kept[SECTION_HEADER_COUNT], 0);
    }

    #[test]
    fn what_is_no_elf_or_lies_about_its_segments_is_refused() {
        assert!(without_sections(b"#!/bin/sh").is_err());
        assert!(without_sections(&elf(&[(300, 20)], 10)).is_err());
        assert!(without_sections(&elf(&[(u64::MAX, 20)], 10)).is_err());
        let file = elf(&[(64, 8)], 10);
        for length in 0..file.len() - 10 {
            assert!(without_sections(&file[..length]).is_err(), "{length}");
        }
    }
}
