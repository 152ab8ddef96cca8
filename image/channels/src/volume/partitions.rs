//! Pieces of a medium: GPT (UEFI specification, chapter 5) and the four of a master boot record.

use super::{Fault, Part, Reader};
use crate::number;

/// Entries that are looked at, of either kind of table.
pub(super) const MOST: usize = 128;
/// Where the record has its entries, of sixteen bytes.
const RECORDS: usize = 446;
const RECORD: usize = 16;
/// The type of an entry that says that there is a GPT.
const PROTECTIVE: u8 = 0xee;

/// Put the pieces of the medium that can be meant into `parts`, one behind the other.
///
/// # Errors
/// A table that leads nowhere, or cannot be read; what was found before is there.
pub(super) fn list(reader: &mut Reader<'_>, parts: &mut [Part; MOST]) -> Result<(), Fault> {
    let size = reader.size;
    reader.part = Part { start: 0, length: size };
    let mut slots = parts.iter_mut();
    let mut push = |part: Option<Part>| {
        let part = part.filter(|part| {
            part.start >= 512
                && part.length >= 512
                && part.start.checked_add(part.length).is_some_and(|end| end <= size)
        });
        if let Some(part) = part
            && let Some(slot) = slots.next()
        {
            *slot = part;
        }
    };
    let head: [u8; 512] = reader.get(0)?;
    if head[510..] != [0x55, 0xaa] {
        return Ok(());
    }
    let records = head[RECORDS..510].as_chunks::<RECORD>().0;
    if records[0][4] == PROTECTIVE {
        for sector in [512, 4096] {
            let header: [u8; 92] = reader.get(sector)?;
            if header.starts_with(b"EFI PART") {
                return gpt(reader, sector, &header, push);
            }
        }
        return Ok(());
    }
    for record in records.iter().filter(|record| record[4] != 0) {
        let (start, sectors) = (number::<4>(record, 8), number::<4>(record, 12));
        push(start.zip(sectors).and_then(|(start, sectors)| of(512, start, sectors)));
    }
    Ok(())
}

/// All entries that the header says there are, in their order: they lie side by side, so that a window has many of them.
fn gpt(
    reader: &mut Reader<'_>,
    sector: u64,
    header: &[u8; 92],
    mut push: impl FnMut(Option<Part>),
) -> Result<(), Fault> {
    let list = number::<8>(header, 72).and_then(|list| list.checked_mul(sector));
    let (Some(list), Some(count), Some(size)) = (list, number::<4>(header, 80), number::<4>(header, 84))
    else {
        return Ok(());
    };
    if !(128..=4096).contains(&size) {
        return Ok(());
    }
    for index in 0..count.min(MOST as u64) {
        let place = list.checked_add(index * size).ok_or(Fault::Damaged)?;
        let entry: [u8; 48] = reader.get(place)?;
        let (Some(first), Some(last)) = (number::<8>(&entry, 32), number::<8>(&entry, 40)) else { continue };
        if entry[..16] != [0; 16] && last >= first {
            push((last - first).checked_add(1).and_then(|sectors| of(sector, first, sectors)));
        }
    }
    Ok(())
}

fn of(sector: u64, start: u64, sectors: u64) -> Option<Part> {
    Some(Part { start: start.checked_mul(sector)?, length: sectors.checked_mul(sector)? })
}
