//! The parameter lists of EXTENDED COPY (SPC-4 sections 6.4 and 6.5), with identifiers of one byte and of four.
//!
//! Everything is checked before anything is moved: a list that cannot be carried out to its end is not begun.

use crate::command::{Head, Task};
use crate::copy::carry::Copying;
use crate::copy::operations::{MAX_SEGMENTS, Name, Piece};
use crate::copy::{aborted, aborted_at};
use crate::field::{u8_at, u16_at, u24_at, u32_at, u64_at};
use crate::list::List;
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::{LogicalUnit, UnitId};
use storage_block::Buffer;

/// CSCD descriptors of one copy, and their length.
pub(crate) const MAX_CSCDS: usize = 8;
const CSCD: usize = 32;
/// The CSCD descriptor of a designation descriptor, and the segment descriptor from block device to block device: those
/// there are.
pub(crate) const IDENTIFICATION: u8 = 0xe4;
pub(crate) const BLOCK_TO_BLOCK: u8 = 0x02;
/// The CSCD identifier of the unit that the command is for.
pub(crate) const THIS_UNIT: u16 = 0xffff;
/// The length of that segment descriptor.
const SEGMENT: usize = 28;
/// Bytes of descriptors that a list can have.
pub(crate) const MAX_DESCRIPTORS: usize = MAX_CSCDS * CSCD + MAX_SEGMENTS * SEGMENT;
/// Bytes that one segment descriptor can move.
pub(crate) const MAX_SEGMENT_LENGTH: u32 = 64 << 20;

/// The service actions.
pub(crate) const LID1: u8 = 0x00;
pub(crate) const LID4: u8 = 0x01;

/// Where a list has what.
struct Layout {
    /// Where the CSCD descriptors begin, their number, and where the segment descriptors end.
    cscds: usize,
    count: usize,
    end: usize,
    id: u32,
    usage: u8,
}

impl Layout {
    fn segments(&self) -> usize {
        self.cscds + self.count * CSCD
    }
}

fn illegal<T>(code: u16) -> Result<T, Refusal> {
    Err(Sense::illegal(code).into())
}

/// EXTENDED COPY (LID1) and (LID4).
pub(crate) fn extended_copy(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let length = u32_at(&head.cdb, 10);
    // Nothing to do is no error.
    if length == 0 {
        return Ok(Task::done());
    }
    target.copies.check_room(head.nexus)?;
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    List::task_on_medium(unit, head, length, begin)
}

fn begin(target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
    let Some(list) = list else { return Ok(Task::done()) };
    let action = head.cdb[1] & 0x1f;
    let layout = if action == LID1 { layout_1(&list)? } else { layout_4(&list)? };
    let (pieces, count) = pieces(target, head, &list, &layout)?;
    const NO_IDENTIFIER: u8 = 3;
    let id = (layout.usage != NO_IDENTIFIER).then_some(layout.id);
    let name = Name { nexus: head.nexus, unit: head.unit, id, action };
    let (place, operation) = target.copies.claim(name)?;
    (operation.pieces, operation.count) = (pieces, count);
    let first = operation.next().unwrap_or(Piece::NONE);
    let is_here =
        pieces[..count].iter().all(|piece| piece.source == head.unit && piece.destination == head.unit);
    Ok(Task::Copy(Copying::new(place, head, list.len() as u32, &first, is_here)))
}

/// The header with a list identifier of one byte.
fn layout_1(list: &[u8]) -> Result<Layout, Refusal> {
    const HEADER: usize = 16;
    if list.len() < HEADER {
        return illegal(code::PARAMETER_LIST_LENGTH_ERROR);
    }
    let lengths = (u32::from(u16_at(list, 2)), u32_at(list, 8), u32_at(list, 12));
    layout(list, HEADER, 2, lengths, u32::from(u8_at(list, 0)), (0, 1))
}

/// The header with a list identifier of four bytes.
fn layout_4(list: &[u8]) -> Result<Layout, Refusal> {
    const HEADER: usize = 48;
    const HEADER_CSCD: (u16, u8) = (0x20, 0xff);
    const IMMED: u8 = 0x01;
    if list.len() < HEADER {
        return illegal(code::PARAMETER_LIST_LENGTH_ERROR);
    }
    // The parameter list format, the length and the type of the header's own CSCD descriptor.
    let wrong = [
        (u8_at(list, 0) != 1, 0),
        (u16_at(list, 2) != HEADER_CSCD.0, 2),
        (u8_at(list, 16) != HEADER_CSCD.1, 16),
    ];
    if let Some((_, at)) = wrong.iter().find(|(wrong, _)| *wrong) {
        return Err(Sense::in_list(*at, None).into());
    }
    // An end before the copy's would be a promise that nobody may be left to keep.
    if u8_at(list, 15) & IMMED != 0 {
        return Err(Sense::in_list(15, Some(0)).into());
    }
    let length = |at| u32::from(u16_at(list, at));
    layout(list, HEADER, 42, (length(42), length(44), length(46)), u32_at(list, 20), (20, 1))
}

/// What both headers have in common. `at` is where the length of the CSCD descriptors is told, `marks` where the list
/// identifier and its usage are.
fn layout(
    list: &[u8],
    header: usize,
    at: u16,
    (cscds, segments, inline): (u32, u32, u32),
    id: u32,
    marks: (u16, u16),
) -> Result<Layout, Refusal> {
    const RESERVED: u8 = 1;
    const NONE: u8 = 3;
    if inline != 0 {
        return illegal(code::INLINE_DATA_LENGTH_EXCEEDED);
    }
    let (cscds, segments) = (cscds as usize, segments as usize);
    let total = cscds.saturating_add(segments);
    if total > MAX_DESCRIPTORS || header + total > list.len() {
        return illegal(code::PARAMETER_LIST_LENGTH_ERROR);
    }
    if !cscds.is_multiple_of(CSCD) {
        return Err(Sense::in_list(at, None).into());
    }
    let count = cscds / CSCD;
    if count > MAX_CSCDS {
        return illegal(code::TOO_MANY_TARGET_DESCRIPTORS);
    }
    // STR is of stream devices and PRIORITY an advice.
    let usage = u8_at(list, usize::from(marks.1)) >> 3 & 3;
    if usage == RESERVED {
        return Err(Sense::in_list(marks.1, Some(4)).into());
    }
    if usage == NONE && id != 0 {
        return Err(Sense::in_list(marks.0, None).into());
    }
    Ok(Layout { cscds: header, count, end: header + total, id, usage })
}

/// All pieces that a list asks for.
fn pieces(
    target: &Target,
    head: &Head,
    list: &[u8],
    layout: &Layout,
) -> Result<([Piece; MAX_SEGMENTS], usize), Refusal> {
    for at in (layout.cscds..layout.segments()).step_by(CSCD) {
        check_cscd(list, at)?;
    }
    let (mut pieces, mut count, mut at) = ([Piece::NONE; MAX_SEGMENTS], 0, layout.segments());
    // The form of all of them first: an error of that is no copy that has begun.
    while at < layout.end {
        if count == MAX_SEGMENTS {
            return illegal(code::TOO_MANY_SEGMENT_DESCRIPTORS);
        }
        if list[at] != BLOCK_TO_BLOCK {
            return illegal(code::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE);
        }
        if layout.end - at < SEGMENT {
            return illegal(code::PARAMETER_LIST_LENGTH_ERROR);
        }
        if usize::from(u16_at(list, at + 2)) != SEGMENT - 4 {
            return Err(Sense::in_list(at as u16 + 2, None).into());
        }
        (count, at) = (count + 1, at + SEGMENT);
    }
    for (number, piece) in pieces[..count].iter_mut().enumerate() {
        let at = layout.segments() + number * SEGMENT;
        *piece = self::piece(target, head, list, layout, (number, at))?;
    }
    Ok((pieces, count))
}

/// The form of a CSCD descriptor. The LU ID type and the NUL bit are ignored, as SPC-4 has it.
fn check_cscd(list: &[u8], at: usize) -> Result<(), Refusal> {
    const DEVICE_TYPE: u8 = 0x1f;
    const LONGEST: u8 = 20;
    if list[at] != IDENTIFICATION {
        return illegal(code::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE);
    }
    if list[at + 1] & DEVICE_TYPE != 0 {
        return Err(Sense::in_list(at as u16 + 1, Some(4)).into());
    }
    if list[at + 7] > LONGEST {
        return Err(Sense::in_list(at as u16 + 7, None).into());
    }
    Ok(())
}

/// What a block device segment descriptor asks for.
fn piece(
    target: &Target,
    head: &Head,
    list: &[u8],
    layout: &Layout,
    (number, at): (usize, usize),
) -> Result<Piece, Refusal> {
    const DC: u8 = 0x02;
    const BLOCKS: u16 = 10;
    let find = |field: u16| {
        let index = u16_at(list, at + usize::from(field));
        let (id, unit) =
            find_unit(target, head, list, layout, index).map_err(|code| aborted_at(code, number, field))?;
        let geometry = unit.medium().map_err(|refusal| carried(refusal, number))?;
        Ok::<_, Refusal>((id, geometry))
    };
    let ((source, read), (destination, written)) = (find(4)?, find(6)?);
    let counted = if list[at + 1] & DC != 0 { written } else { read };
    let length = u64::from(u16_at(list, at + usize::from(BLOCKS))) * u64::from(counted.block_size);
    if length > u64::from(MAX_SEGMENT_LENGTH) {
        return Err(Sense::in_list(at as u16 + BLOCKS, None).into());
    }
    let is_whole = |block: u32| length.is_multiple_of(u64::from(block));
    if !is_whole(read.block_size) || !is_whole(written.block_size) {
        return Err(aborted_at(code::UNEXPECTED_INEXACT_SEGMENT, number, BLOCKS));
    }
    let place = |field: u16, geometry: &storage_block::Geometry| {
        let block = u64::from(geometry.block_size);
        let start = u64_at(list, at + usize::from(field)).checked_mul(block);
        let is_within = |start: &u64| start.checked_add(length).is_some_and(|end| end <= geometry.size);
        start.filter(is_within).ok_or(aborted_at(code::NO_ADDITIONAL_SENSE, number, field))
    };
    Ok(Piece { source, from: place(12, read)?, destination, to: place(20, written)?, length })
}

/// The unit of a CSCD identifier, or the code of why it is not to be had.
fn find_unit<'a>(
    target: &'a Target,
    head: &Head,
    list: &[u8],
    layout: &Layout,
    index: u16,
) -> Result<(UnitId, &'a LogicalUnit), u16> {
    let unit = |id| target.unit(id).map(|unit| (id, unit));
    if index == THIS_UNIT {
        return unit(head.unit).ok_or(code::UNREACHABLE_COPY_TARGET);
    }
    if usize::from(index) >= layout.count {
        return Err(code::UNREACHABLE_COPY_TARGET);
    }
    let cscd = &list[layout.cscds + usize::from(index) * CSCD..][..CSCD];
    let length = usize::from(cscd[7]);
    let named = (cscd[4] & 0x0f, cscd[5] & 0x3f, &cscd[8..8 + length]);
    let block = u24_at(cscd, 29);
    target
        .ids()
        .filter_map(unit)
        .filter(|(_, unit)| unit.identity.is_named(named))
        // Who believes in other blocks would have other bytes copied than he means.
        .find(|(_, unit)| block == 0 || unit.geometry().is_none_or(|geometry| geometry.block_size == block))
        .ok_or(code::COPY_TARGET_DEVICE_NOT_REACHABLE)
}

/// What is told of an error that a unit has answered. "Not now" goes on to who asks, as long as nothing was done.
pub(crate) fn carried(refusal: Refusal, segment: usize) -> Refusal {
    match refusal.sense {
        None => refusal,
        Some(_) => aborted(code::THIRD_PARTY_DEVICE_FAILURE, segment).into(),
    }
}
