//! A packed image: the stub of `image/unpack`, and the image as one squeezed block that unpacks in place.
//!
//! ```text
//!   1 MiB                                     end of the data                    end of the image
//!   | code, constants, data ................. | zeroed data and stacks ........ |
//!   | reserved .............. | block ............... | stub | note | list      |
//! ```
//!
//! The stub moves all addresses of the image's own in it by one random distance; the list (`moves.rs`) says what only looks
//! like one.
//!
//! The block ends a little behind the end of what becomes of it, so that what is written never catches up with what is
//! read; stub and note lie in what the image itself clears once it runs. So it needs no memory that the image does not.

use crate::calls;
use crate::elf::{self, Segment};
use crate::inner::{self, Build};
use crate::moves;
use crate::squeeze;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the stub wants to be told what, as offsets of four bytes: the block, where it goes, the end of that, the entry, the
/// list of what looks like an address and is none, and the end of all that the image takes.
const OPERANDS: [usize; 6] = [1, 6, 11, 16, 21, 26];
/// The first bytes of the instructions that are filled in.
const OPCODES: [u8; 6] = [0xbe, 0xbf, 0xbd, 0xbc, 0xba, 0xb9];
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where a loader that knows PVH enters. Its contents are filled in.
const NOTE: [u8; 24] = [4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Where the block, and the stub, may begin.
const GRAIN: usize = 16;

/// Build a program and what unpacks it, and put it into `folder`: packed as `bin`, and both ways that are not. Answers
/// where the packed one lies.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn install(program: &Build<'_>, folder: &Path) -> Result<PathBuf, String> {
    let said = |path: &Path, error: String| format!("{}: {error}", path.display());
    let (built, stub) = (program.run()?, Build { package: "image_unpack", bin: "unpack", ..*program }.run()?);
    let bare = inner::install(&built, folder, program.bin)?;
    let stub = fs::read(&stub).map_err(|error| said(&stub, error.to_string()))?;
    let whole = fs::read(&built).map_err(|error| said(&built, error.to_string()))?;
    let packed = moves::places(&whole)
        .and_then(|moves| packed(&bare, &stub, &moves))
        .map_err(|error| said(&built, error))?;
    let path = folder.join(program.bin);
    fs::write(&path, packed).map_err(|error| said(&path, error.to_string()))?;
    Ok(path)
}

/// `image`, an ELF with a PVH note, packed behind `stub`, an ELF that holds nothing but it; what lies at `moves` moves.
///
/// # Errors
/// A sentence, when one of them is not that.
pub(crate) fn packed(image: &[u8], stub: &[u8], moves: &[usize]) -> Result<Vec<u8>, String> {
    let stub = match elf::segments(stub)?.as_slice() {
        [only] => only.bytes.to_vec(),
        several => return Err(format!("the stub has {} segments", several.len())),
    };
    if OPERANDS.iter().zip(OPCODES).any(|(at, opcode)| stub.get(at - 1) != Some(&opcode)) {
        return Err("the stub does not begin with what is to be filled in".into());
    }
    let segments = elf::segments(image)?;
    let (start, mut whole) = flat(&segments)?;
    // What is zeroed data anyway, so that nothing that moves lies where it is not looked for.
    whole.resize(whole.len() + moves::TAIL, 0);
    let ends = segments.iter().map(|segment| segment.address.saturating_add(segment.memory));
    let end = ends.max().unwrap_or(start);
    let entry = elf::entry(image)?;

    let mut uniform = whole.clone();
    calls::by_place(&mut uniform);
    let block = squeeze::squeeze(&uniform);
    let behind = start + whole.len() + squeeze::room(block.len());
    let code = behind.next_multiple_of(GRAIN);
    let from = code - block.len();
    if from <= start {
        return Err("the image is too small to be worth packing".into());
    }
    let mut memory = vec![0; code - start + GRAIN];
    memory[from - start..code - start].copy_from_slice(&block);
    squeeze::unpack(&mut memory, from - start, whole.len())?;
    calls::by_distance(&mut memory[..whole.len()]);
    if memory[..whole.len()] != whole {
        return Err("what was packed does not come out again".into());
    }
    let mut contents = block;
    contents.extend(&stub);
    contents.resize(contents.len().next_multiple_of(4), 0);
    let note = from + contents.len();
    contents.extend(NOTE);
    let place = contents.len() - 8;
    contents[place..].copy_from_slice(&(code as u64).to_le_bytes());
    let list = from + contents.len();
    contents.extend(moves::list(start, &whole, end, moves)?);
    let operands = [from, start, start + whole.len(), entry, list, end];
    for (at, value) in OPERANDS.into_iter().zip(operands) {
        let value = u32::try_from(value).map_err(|_| "the image lies beyond 4 GiB")?;
        let at = code - from + at;
        contents[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    if from + contents.len() > end {
        return Err("the image has too little zeroed data to be unpacked in place".into());
    }
    Ok(elf::write(
        code,
        &[
            Segment {
                kind: elf::LOAD,
                flags: elf::READ | elf::WRITE,
                address: start,
                memory: from - start,
                bytes: &[],
            },
            Segment {
                kind: elf::LOAD,
                flags: elf::READ | elf::EXECUTE,
                address: from,
                memory: end - from,
                bytes: &contents,
            },
            Segment {
                kind: elf::NOTE,
                flags: elf::READ,
                address: note,
                memory: NOTE.len(),
                bytes: &contents[note - from..][..NOTE.len()],
            },
        ],
    ))
}

/// What a loader would put into memory, without the zeros at its end, and where.
fn flat(segments: &[Segment<'_>]) -> Result<(usize, Vec<u8>), String> {
    const MOST: usize = 64 << 20;
    let loaded = || segments.iter().filter(|segment| segment.kind == elf::LOAD);
    let start = loaded().map(|segment| segment.address).min().ok_or("there is nothing to load")?;
    let mut whole = Vec::new();
    for segment in loaded() {
        let at = segment.address - start;
        let end = at.saturating_add(segment.bytes.len());
        if end > MOST {
            return Err("the image is not in one piece".into());
        }
        if whole.len() < end {
            whole.resize(end, 0);
        }
        whole[at..end].copy_from_slice(segment.bytes);
    }
    Ok((start, whole))
}
