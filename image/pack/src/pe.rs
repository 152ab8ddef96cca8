//! PE files: one more section for one that is there (Microsoft, PE Format: COFF file header, optional header PE32+,
//! section table).

/// Where the file says where its signature is.
const SIGNATURE: usize = 0x3c;
/// Offsets from the signature: of the number of sections, the size of the optional header, and that header.
const SECTIONS: usize = 6;
const OPTIONAL_SIZE: usize = 20;
const OPTIONAL: usize = 24;
/// Offsets in the optional header.
const INITIALIZED: usize = 8;
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const IMAGE_SIZE: usize = 56;
const HEADERS_SIZE: usize = 60;
/// Bytes of a row of the section table, and offsets in it.
const ROW: usize = 40;
const VIRTUAL_SIZE: usize = 8;
const ADDRESS: usize = 12;
const RAW_SIZE: usize = 16;
const RAW: usize = 20;
const KIND: usize = 36;
/// Initialised data that can be read.
const DATA: u32 = 0x4000_0040;

/// `file`, a PE32+, with `contents` as one more section `name`, behind all others.
///
/// # Errors
/// A sentence, when it is not a PE32+ or has no room for the section's row.
pub(crate) fn with_section(file: &[u8], name: [u8; 8], contents: &[u8]) -> Result<Vec<u8>, String> {
    let signature = get(file, SIGNATURE)?;
    let optional = signature.saturating_add(OPTIONAL);
    if file.get(signature..signature.saturating_add(4)) != Some(b"PE\0\0") || half(file, optional)? != 0x20b {
        return Err("not a PE32+".into());
    }
    let count = half(file, signature + SECTIONS)?;
    let table = optional + half(file, signature + OPTIONAL_SIZE)?;
    let row = table + count * ROW;
    let room = get(file, optional + HEADERS_SIZE)?;
    if row + ROW > room || file.get(row..row + ROW).is_none_or(|row| row.iter().any(|byte| *byte != 0)) {
        return Err("there is no room for another section".into());
    }
    let (section, alignment) =
        (get(file, optional + SECTION_ALIGNMENT)?, get(file, optional + FILE_ALIGNMENT)?);
    if !section.is_power_of_two() || !alignment.is_power_of_two() {
        return Err("sections are aligned to nothing".into());
    }
    let address = get(file, optional + IMAGE_SIZE)?.next_multiple_of(section);
    let raw = file.len().next_multiple_of(alignment);
    let raw_size = contents.len().next_multiple_of(alignment);

    let mut whole = file.to_vec();
    whole.resize(raw, 0);
    whole.extend(contents);
    whole.resize(raw + raw_size, 0);
    whole[row..row + name.len()].copy_from_slice(&name);
    let size = address + contents.len().next_multiple_of(section);
    let initialized = get(file, optional + INITIALIZED)? + raw_size;
    for (at, value) in [
        (row + VIRTUAL_SIZE, contents.len()),
        (row + ADDRESS, address),
        (row + RAW_SIZE, raw_size),
        (row + RAW, raw),
        (row + KIND, DATA as usize),
        (optional + INITIALIZED, initialized),
        (optional + IMAGE_SIZE, size),
    ] {
        let value = u32::try_from(value).map_err(|_| "the file would be longer than 4 GiB")?;
        whole[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    whole[signature + SECTIONS..][..2].copy_from_slice(&(count as u16 + 1).to_le_bytes());
    Ok(whole)
}

fn get(file: &[u8], at: usize) -> Result<usize, String> {
    let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or("a header lies beyond the end")?;
    Ok(u32::from_le_bytes(*bytes) as usize)
}

fn half(file: &[u8], at: usize) -> Result<usize, String> {
    let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or("a header lies beyond the end")?;
    Ok(u16::from_le_bytes(*bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE of one section, with room for others.
    fn file() -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[SIGNATURE] = 0x78;
        file[0x78..0x7c].copy_from_slice(b"PE\0\0");
        let optional = 0x78 + OPTIONAL;
        file[0x78 + SECTIONS] = 1;
        file[0x78 + OPTIONAL_SIZE] = 240;
        file[optional..optional + 2].copy_from_slice(&[0x0b, 2]);
        for (at, value) in [
            (SECTION_ALIGNMENT, 0x1000_u32),
            (FILE_ALIGNMENT, 512),
            (IMAGE_SIZE, 0x2000),
            (HEADERS_SIZE, 512),
        ] {
            file[optional + at..optional + at + 4].copy_from_slice(&value.to_le_bytes());
        }
        file[optional + 240] = b'.';
        file
    }

    #[test]
    fn a_section_is_added_behind_the_others() {
        let whole = with_section(&file(), *b".image\0\0", &[7; 5000]).unwrap();
        assert_eq!(whole.len(), 1024 + 5120);
        assert_eq!(whole[1024..6024], [7; 5000]);
        let row = 0x78 + OPTIONAL + 240 + ROW;
        assert_eq!(whole[row..row + 6], *b".image");
        let numbers = [VIRTUAL_SIZE, ADDRESS, RAW_SIZE, RAW].map(|at| get(&whole, row + at).unwrap());
        assert_eq!(numbers, [5000, 0x2000, 5120, 1024]);
        assert_eq!(get(&whole, 0x78 + OPTIONAL + IMAGE_SIZE), Ok(0x4000));
        assert_eq!(half(&whole, 0x78 + SECTIONS), Ok(2));
    }

    #[test]
    fn what_has_no_room_or_is_no_pe_is_refused() {
        let mut full = file();
        full[0x78 + SECTIONS] = 4;
        assert!(with_section(&full, *b".image\0\0", &[7]).unwrap_err().contains("no room"));
        assert!(with_section(&[0x7f; 2000], *b".image\0\0", &[7]).is_err());
        for length in 0..0x78 + OPTIONAL + 240 + 2 * ROW {
            assert!(with_section(&file()[..length], *b".image\0\0", &[7]).is_err(), "{length}");
        }
    }
}
