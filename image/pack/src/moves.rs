//! Where in an image addresses of its own lie: so that it can be moved, as a whole, when it is unpacked.
//!
//! The linker has left its relocations in the file (`--emit-relocs`; System V ABI, AMD64 supplement, 4.4). Those to addresses at
//! the top of the address space, where the image runs, move with it; distances stay, and physical addresses, which are of 32
//! bits without a sign.

use crate::elf;

/// From here on up addresses are those at which the image runs; they lie in a GiB.
const BASE: u64 = 0xffff_ffff_8000_0000;
const WINDOW: usize = 1 << 30;
/// Bytes that the stub looks at at once, for the last of an address, which is 0x80.
const STRIDE: usize = 16;
/// So near the end nothing is looked for, so that nothing has to be compared with the end but that.
pub(crate) const TAIL: usize = STRIDE + 4;

/// Offsets in the file header, in a section's, and in one of a segment; and sizes.
const SECTION_HEADERS: usize = 40;
const SECTION_COUNT: usize = 60;
const SECTION: usize = 64;
const KIND: usize = 4;
const FLAGS: usize = 8;
const OFFSET: usize = 24;
const SIZE: usize = 32;
const INFO: usize = 44;
const RELOCATIONS: usize = 4;
const IN_MEMORY: usize = 2;
const RELOCATION: usize = 24;

/// Physical addresses of all that moves, sorted.
///
/// # Errors
/// A sentence, when it is no ELF whose relocations are there and of kinds that are known here.
pub(crate) fn places(file: &[u8]) -> Result<Vec<usize>, String> {
    let segments = elf::segments(file)?;
    let headers = elf::number::<8>(file, SECTION_HEADERS)?;
    let section = |index: usize| headers.saturating_add(index.saturating_mul(SECTION));
    let mut places = Vec::new();
    let mut seen = false;
    for index in 0..elf::number::<2>(file, SECTION_COUNT)? {
        let target = section(elf::number::<4>(file, section(index).saturating_add(INFO))?);
        if elf::number::<4>(file, section(index).saturating_add(KIND))? != RELOCATIONS
            || elf::number::<8>(file, target.saturating_add(FLAGS))? & IN_MEMORY == 0
        {
            continue;
        }
        seen = true;
        let start = elf::number::<8>(file, section(index).saturating_add(OFFSET))?;
        let size = elf::number::<8>(file, section(index).saturating_add(SIZE))?;
        for at in (start..start.saturating_add(size)).step_by(RELOCATION) {
            let address = elf::number::<8>(file, at)? as u64;
            let kind = elf::number::<4>(file, at.saturating_add(8))?;
            let place = address.checked_sub(BASE).ok_or("a relocation lies outside of the image")? as usize;
            if moves(&segments, place, kind)? {
                places.push(place);
            }
        }
    }
    if !seen {
        return Err("the linker has left no relocations".into());
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// Whether what a relocation of that kind has put to a physical address moves.
fn moves(segments: &[elf::Segment<'_>], place: usize, kind: usize) -> Result<bool, String> {
    let loaded = segments.iter().filter(|segment| segment.kind == elf::LOAD);
    let bytes = loaded.filter_map(|segment| segment.bytes.get(place.checked_sub(segment.address)?..)).next();
    let bytes = bytes.ok_or("a relocation lies outside of what is loaded")?;
    let address = match kind {
        // None; distances: PC32, PLT32, PC64; physical addresses.
        0 | 2 | 4 | 24 | 10 => return Ok(false),
        // 64 bits; 32 with a sign.
        1 => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        11 => bytes.first_chunk().map(|bytes| i64::from(i32::from_le_bytes(*bytes)) as u64),
        other => return Err(format!("a relocation of kind {other} at {place:#x}, which is not known here")),
    };
    // What was reckoned with an address before the image was moved cannot be put right any more.
    match address {
        Some(address) if (BASE..BASE + WINDOW as u64).contains(&address) => Ok(true),
        _ => Err(format!("what a relocation has put to {place:#x} is no address of the image: {address:x?}")),
    }
}

/// What tells the stub which addresses in `bytes`, an image that begins at physical address `start` and takes memory up to
/// `end`, it has to move: those at `places`. It looks for what looks like one, and takes all but those listed here: each number,
/// of two bytes, says how many there are to take before the next that is none.
///
/// # Errors
/// A sentence, when a place does not look like an address of the image, or the image is too large to be moved.
pub(crate) fn list(start: usize, bytes: &[u8], end: usize, places: &[usize]) -> Result<Vec<u8>, String> {
    if end > WINDOW {
        return Err("the image is too large to be moved".into());
    }
    let (mut list, mut taken, mut left) =
        (Vec::new(), 0_u16, places.iter().map(|place| place - start).peekable());
    for at in candidates(start, bytes, end, |at| places.binary_search(&(start + at)).is_ok()) {
        if left.next_if_eq(&at).is_some() {
            taken = taken.checked_add(1).filter(|taken| *taken < u16::MAX).ok_or("too much moves")?;
        } else {
            list.extend(taken.to_le_bytes());
            taken = 0;
        }
    }
    match left.next() {
        Some(at) => Err(format!("what moves at {:#x} does not look like it", start + at)),
        None => {
            list.extend(u16::MAX.to_le_bytes());
            Ok(list)
        }
    }
}

/// Where the stub sees what looks like an address of the image. Behind one that moves it goes on; otherwise one byte further.
fn candidates(start: usize, bytes: &[u8], end: usize, moves: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + TAIL <= bytes.len() {
        let Some(last) = bytes[at + 3..at + 3 + STRIDE].iter().position(|byte| *byte == 0x80) else {
            at += STRIDE;
            continue;
        };
        at += last;
        let value = bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let inside = value.wrapping_sub(BASE as u32).wrapping_sub(start as u32) as usize <= end - start;
        if inside {
            found.push(at);
        }
        at += if inside && moves(at) { 4 } else { 1 };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: usize = 0x10_0000;
    const END: usize = 0x20_0000;

    /// An image with these words at these places.
    fn image(words: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0x77; 200];
        words.iter().for_each(|(at, word)| bytes[*at..at + 4].copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_list_says_what_looks_like_an_address_and_is_none() {
        let words =
            [(3, 0x8010_0000), (20, 0x8012_3456), (30, 0x8020_0000), (60, 0x800f_ffff), (90, 0x8020_0001)];
        let list = |places: &[usize]| {
            let places: Vec<_> = places.iter().map(|at| START + at).collect();
            list(START, &image(&words), END, &places)
        };
        assert_eq!(list(&[3, 20, 30]).unwrap(), [255, 255]);
        assert_eq!(list(&[3, 30]).unwrap(), [1, 0, 255, 255]);
        assert_eq!(list(&[]).unwrap(), [0, 0, 0, 0, 0, 0, 255, 255]);
        assert!(list(&[60]).is_err() && list(&[90]).is_err() && list(&[100]).is_err());
    }

    #[test]
    fn one_that_begins_inside_of_another_is_told_apart() {
        // 0x80101080 at 10, and at 11 0x80801010, which is none; at 40 one whose second half begins another.
        let bytes = image(&[(10, 0x8010_1080), (40, 0x8018_0000), (42, 0x8010_8018)]);
        assert_eq!(list(START, &bytes, END, &[START + 10, START + 42]).unwrap(), [1, 0, 255, 255]);
    }

    #[test]
    fn what_moves_is_what_lies_at_the_top_of_the_address_space() {
        let mut bytes = vec![0; 16];
        bytes[..8].copy_from_slice(&(BASE + 0x10_0000).to_le_bytes());
        bytes[8..12].copy_from_slice(&0x10_0000_u32.to_le_bytes());
        let segment =
            elf::Segment { kind: elf::LOAD, flags: elf::READ, address: START, memory: 16, bytes: &bytes };
        let moves = |at: usize, kind| moves(&[segment], START + at, kind);
        assert_eq!(moves(0, 1), Ok(true));
        assert_eq!(moves(0, 11), Ok(true));
        assert_eq!(moves(8, 10), Ok(false));
        assert_eq!(moves(0, 2), Ok(false));
        assert!(moves(8, 11).is_err() && moves(8, 1).is_err());
        assert!(moves(0, 42).is_err() && moves(16, 1).is_err() && moves(12, 1).is_err());
    }
}
