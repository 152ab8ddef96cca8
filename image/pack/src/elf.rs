//! ELF files: what a loader needs of one, and nothing else.

/// Offsets in the file header of ELF64.
const PROGRAM_HEADERS: usize = 32;
const SECTION_HEADERS: usize = 40;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;
const SECTION_HEADER_COUNT: usize = 60;
const SECTION_NAMES: usize = 62;
const HEADER: usize = 64;
/// Offsets in a program header.
const FILE_OFFSET: usize = 8;
const FILE_SIZE: usize = 32;

/// The file cut after its last segment, without section headers: symbols and debug information are gone.
///
/// # Errors
/// When it is not a little-endian ELF64 whose segments lie inside of it.
pub(crate) fn without_sections(file: &[u8]) -> Result<Vec<u8>, String> {
    if file.len() < HEADER || !file.starts_with(b"\x7fELF\x02\x01") {
        return Err("not a little-endian ELF64".into());
    }
    let offset = number::<8>(file, PROGRAM_HEADERS)?;
    let size = number::<2>(file, PROGRAM_HEADER_SIZE)?;
    let count = number::<2>(file, PROGRAM_HEADER_COUNT)?;
    let mut end = HEADER;
    for index in 0..count {
        let header = offset.saturating_add(index * size);
        let start = number::<8>(file, header.saturating_add(FILE_OFFSET))?;
        let length = number::<8>(file, header.saturating_add(FILE_SIZE))?;
        end = end.max(header + size).max(start.saturating_add(length));
    }
    let mut kept = file.get(..end).ok_or("a segment lies beyond the end")?.to_vec();
    kept[SECTION_HEADERS..SECTION_HEADERS + 8].fill(0);
    kept[SECTION_HEADER_COUNT..SECTION_HEADER_COUNT + 2].fill(0);
    kept[SECTION_NAMES..SECTION_NAMES + 2].fill(0);
    Ok(kept)
}

fn number<const N: usize>(file: &[u8], offset: usize) -> Result<usize, String> {
    let bytes =
        offset.checked_add(N).and_then(|end| file.get(offset..end)).ok_or("a header lies beyond the end")?;
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(whole)).map_err(|_| "an offset is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
