//! Pieces of a medium: GPT (UEFI specification, chapter 5) and the four of a master boot record.

use super::{Fault, Part, Reader, or_nothing};
use crate::number;

/// Entries that are looked at, of either kind of table.
pub(super) const MOST: u64 = 128;
/// Where the record has its entries, of sixteen bytes.
const RECORDS: u64 = 446;
const RECORD: u64 = 16;
/// The type of an entry that says that there is a GPT.
const PROTECTIVE: u8 = 0xee;

/// Entry number `index` of the medium's table, if it is one, and one that can be meant.
pub(super) fn part(reader: &mut Reader<'_>, index: u64) -> Result<Option<Part>, Fault> {
    reader.part = Part { start: 0, length: reader.size };
    let size = reader.size;
    let part = or_nothing(entry(reader, index))?;
    Ok(part.filter(|part| {
        part.start >= 512
            && part.length >= 512
            && part.start.checked_add(part.length).is_some_and(|end| end <= size)
    }))
}

fn entry(reader: &mut Reader<'_>, index: u64) -> Result<Option<Part>, Fault> {
    if reader.get(510)? != [0x55, 0xaa] {
        return Ok(None);
    }
    if reader.get::<1>(RECORDS + 4)?[0] == PROTECTIVE {
        for sector in [512, 4096] {
            let header: [u8; 92] = reader.get(sector)?;
            if header.starts_with(b"EFI PART") {
                return gpt(reader, sector, &header, index);
            }
        }
        return Ok(None);
    }
    if index >= 4 {
        return Ok(None);
    }
    let record: [u8; RECORD as usize] = reader.get(RECORDS + RECORD * index)?;
    let (start, sectors) = (number::<4>(&record, 8), number::<4>(&record, 12));
    Ok(start.zip(sectors).filter(|_| record[4] != 0).and_then(|(start, sectors)| of(512, start, sectors)))
}

fn gpt(reader: &mut Reader<'_>, sector: u64, header: &[u8], index: u64) -> Result<Option<Part>, Fault> {
    let list = number::<8>(header, 72).and_then(|list| list.checked_mul(sector));
    let (Some(list), Some(count), Some(size)) = (list, number::<4>(header, 80), number::<4>(header, 84))
    else {
        return Ok(None);
    };
    if index >= count || !(128..=4096).contains(&size) {
        return Ok(None);
    }
    let place = list.checked_add(index * size).ok_or(Fault::Damaged)?;
    let entry: [u8; 48] = reader.get(place)?;
    let (Some(first), Some(last)) = (number::<8>(&entry, 32), number::<8>(&entry, 40)) else {
        return Ok(None);
    };
    if entry[..16] == [0; 16] || last < first {
        return Ok(None);
    }
    Ok((last - first).checked_add(1).and_then(|sectors| of(sector, first, sectors)))
}

fn of(sector: u64, start: u64, sectors: u64) -> Option<Part> {
    Some(Part { start: start.checked_mul(sector)?, length: sectors.checked_mul(sector)? })
}
