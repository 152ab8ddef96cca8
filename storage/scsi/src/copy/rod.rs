//! Copies by token (SBC-3 sections 5.17 and 5.49): POPULATE TOKEN gives a name to what stands in some ranges, and WRITE
//! USING TOKEN writes that, or zeroes, to others. A host that offloads its copies so waits four seconds for a command:
//! one that would take longer ends with what it has done, which is told, and the host asks for the rest.

use crate::command::{Head, Task};
use crate::copy::carry::Copying;
use crate::copy::operations::{MAX_SEGMENTS, Name, Operation, Piece, State};
use crate::copy::report::{answer, find, put_status};
use crate::copy::tokens::{
    DEFAULT_TIMEOUT, Extent, LENGTH, MAX_RANGES, MAX_TIMEOUT, POINT_IN_TIME, Ranges, TokenId, ZEROES,
    find as find_token, write as write_token,
};
use crate::field::{u8_at, u16_at, u32_at, u64_at};
use crate::job::{Job, Work};
use crate::list::List;
use crate::medium::{self, Durability};
use crate::ordering::Touch;
use crate::sense::{Refusal, Sense, code};
use crate::target::{NO_UNIT, Target};
use crate::unit::{LogicalUnit, UnitId};
use core::time::Duration;
use storage_block::{Buffer, Geometry};

/// The service actions.
pub(crate) const POPULATE: u8 = 0x10;
pub(crate) const WRITE: u8 = 0x11;
/// Bytes that a token can name, and that are a good choice.
pub(crate) const MAX_BYTES: u64 = 1 << 30;
pub(crate) const OPTIMAL_BYTES: u64 = 64 << 20;
/// Where the range descriptors begin, and the length of one.
const POPULATE_RANGES: usize = 16;
const WRITE_RANGES: usize = 536;
const RANGE: usize = 16;
/// The transfer count is in logical blocks.
const BLOCKS: u8 = 0xf1;

fn illegal<T>(code: u16) -> Result<T, Refusal> {
    Err(Sense::illegal(code).into())
}

fn in_list<T>(byte: usize) -> Result<T, Refusal> {
    Err(Sense::in_list(byte as u16, None).into())
}

fn unit_of<'a>(target: &'a mut Target, head: &Head) -> Result<&'a mut LogicalUnit, Refusal> {
    target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into())
}

fn begin(target: &mut Target, head: &Head, least: usize, act: crate::list::Act) -> Result<Task, Refusal> {
    let length = u32_at(&head.cdb, 10);
    if length == 0 {
        return Ok(Task::done());
    }
    if (length as usize) < least {
        return illegal(code::PARAMETER_LIST_LENGTH_ERROR);
    }
    target.copies.check_room(head.nexus)?;
    List::task_on_medium(unit_of(target, head)?, head, length, act)
}

/// What both lists have in common: the data length, IMMED, and the ranges, whose descriptors begin at `at`. Ranges that
/// follow each other are one.
fn ranges(list: &[u8], at: usize, geometry: &Geometry) -> Result<Ranges, Refusal> {
    const IMMED: u8 = 0x01;
    let bytes = usize::from(u16_at(list, at - 2));
    let told = usize::from(u16_at(list, 0)) + 2;
    if told > list.len() || told < at + bytes {
        return in_list(0);
    }
    // An end before the copy's would be a promise that nobody may be left to keep.
    if u8_at(list, 2) & IMMED != 0 {
        return Err(Sense::in_list(2, Some(0)).into());
    }
    if bytes == 0 || !bytes.is_multiple_of(RANGE) {
        return in_list(at - 2);
    }
    if bytes / RANGE > MAX_RANGES {
        return illegal(code::TOO_MANY_SEGMENT_DESCRIPTORS);
    }
    let mut ranges = Ranges { extents: [Extent::NONE; MAX_RANGES], count: 0 };
    for at in (at..at + bytes).step_by(RANGE) {
        let (first, count) = (u64_at(list, at), u64::from(u32_at(list, at + 8)));
        if first.checked_add(count).is_none_or(|end| end > geometry.blocks()) {
            return illegal(code::LBA_OUT_OF_RANGE);
        }
        let block = u64::from(geometry.block_size);
        let extent = Extent { start: first * block, length: count * block };
        if extent.length == 0 {
            continue;
        }
        if ranges.all().iter().any(|other| other.overlaps(&extent)) {
            return in_list(at);
        }
        match ranges.extents[..ranges.count].last_mut().filter(|last| last.end() == extent.start) {
            Some(last) => last.length += extent.length,
            None => {
                ranges.extents[ranges.count] = extent;
                ranges.count += 1;
            }
        }
    }
    if ranges.bytes() > MAX_BYTES {
        return in_list(at - 2);
    }
    Ok(ranges)
}

fn name(head: &Head) -> Name {
    Name { nexus: head.nexus, unit: head.unit, id: Some(u32_at(&head.cdb, 6)), action: head.cdb[1] & 0x1f }
}

/// POPULATE TOKEN.
pub(crate) fn populate(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    begin(target, head, POPULATE_RANGES, |target, head, list| match list {
        Some(list) => make(target, head, &list),
        None => Ok(Task::done()),
    })
}

fn make(target: &mut Target, head: &Head, list: &[u8]) -> Result<Task, Refusal> {
    const RTV: u8 = 0x02;
    // The default of its kind, this one, and any.
    const TYPES: [u32; 3] = [0x0080_0000, POINT_IN_TIME, 0x0080_ffff];
    let now = target.now;
    let geometry = *unit_of(target, head)?.medium()?;
    let ranges = ranges(list, POPULATE_RANGES, &geometry)?;
    let timeout = match u32_at(list, 4) {
        0 => DEFAULT_TIMEOUT,
        seconds if seconds > MAX_TIMEOUT => return in_list(4),
        seconds => seconds,
    };
    if u8_at(list, 2) & RTV != 0 && !TYPES.contains(&u32_at(list, 8)) {
        return in_list(8);
    }
    if ranges.count == 0 {
        return in_list(POPULATE_RANGES - 2);
    }
    let Some(secret) = target.secret.take() else {
        return illegal(code::INSUFFICIENT_RESOURCES_TO_CREATE_ROD_TOKEN);
    };
    let (place, operation) = target.copies.claim(name(head))?;
    (operation.moved, operation.state) = (ranges.bytes(), State::Done);
    let unit = unit_of(target, head)?;
    // What enters the task set from here on revokes it, and what changes these ranges already or stands before is waited
    // for: so it is what stands there when the command ends.
    let token = unit.tokens.make(secret, ranges, Duration::from_secs(timeout.into()), now);
    target.copies.at(place).token = Some(token);
    let unit = unit_of(target, head)?;
    let start = ranges.all().iter().map(|extent| extent.start).min().unwrap_or(0);
    let end = ranges.all().iter().map(Extent::end).max().unwrap_or(0);
    // What came while the list was on its way, and has yet to begin, will find it made.
    let will_change = |extent: &Extent| {
        head.ticket.is_some_and(|ticket| unit.tasks.will_change(ticket, extent.start, extent.end()))
    };
    if ranges.all().iter().any(will_change) {
        unit.tokens.revoke(token);
    }
    let wanted = list.len() as u64;
    Job::begin(unit, head, (Touch::Read, start..end), Work::None, Durability::NONE, (wanted, 0))
}

/// WRITE USING TOKEN.
pub(crate) fn write(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    medium::check_writable(unit_of(target, head)?)?;
    begin(target, head, WRITE_RANGES, write_by)
}

fn write_by(target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
    const DELETE: u8 = 0x02;
    let Some(list) = list else { return Ok(Task::done()) };
    let geometry = *unit_of(target, head)?.medium()?;
    let to = ranges(&list, WRITE_RANGES, &geometry)?;
    let block = u64::from(geometry.block_size);
    let offset = u64_at(&list, 8).checked_mul(block).ok_or(Sense::in_list(8, None))?;
    let source = source(target, &list[16..16 + LENGTH], geometry.block_size)?;
    let (pieces, count, is_whole) =
        pieces(head, source.as_ref().map(|(id, _, from)| (*id, from)), offset, &to)?;
    let (place, operation) = target.copies.claim(name(head))?;
    (operation.pieces, operation.count, operation.is_partial) = (pieces, count, !is_whole);
    operation.token = source.map(|(_, token, _)| token);
    operation.deletes_token = u8_at(&list, 2) & DELETE != 0;
    let first = operation.next().unwrap_or(Piece::NONE);
    let is_here = |piece: &Piece| piece.source == head.unit || piece.source == NO_UNIT;
    let is_here = pieces[..count].iter().all(is_here);
    Ok(Task::Copy(Copying::new(place, head, list.len() as u32, &first, is_here).within_time()))
}

/// The unit of a token, the token, and what it names; none for that of zeroes.
fn source(
    target: &mut Target,
    token: &[u8],
    block_size: u32,
) -> Result<Option<(UnitId, TokenId, Ranges)>, Refusal> {
    match u32_at(token, 0) {
        ZEROES => return Ok(None),
        POINT_IN_TIME => {}
        _ => return illegal(code::UNSUPPORTED_TOKEN_TYPE),
    }
    let found = target.ids().find_map(|id| Some((id, find_token(target.name(), target.unit(id)?, token)?)));
    let Some((id, token)) = found else { return illegal(code::TOKEN_UNKNOWN) };
    let now = target.now;
    let unit = target.unit_mut(id).ok_or(Sense::illegal(code::TOKEN_UNKNOWN))?;
    if unit.medium()?.block_size != block_size {
        return illegal(code::INVALID_TOKEN_OPERATION);
    }
    let ranges = unit.tokens.use_at(token, now).map_err(Sense::illegal)?;
    Ok(Some((id, token, ranges)))
}

/// The pieces that `to` comes to, from the `offset`th byte of the source on, or of zeroes; and whether they are all of it.
fn pieces(
    head: &Head,
    source: Option<(UnitId, &Ranges)>,
    offset: u64,
    to: &Ranges,
) -> Result<([Piece; MAX_SEGMENTS], usize, bool), Refusal> {
    let total = source.map_or(u64::MAX, |(_, from)| from.bytes());
    if source.is_none() && offset != 0 || offset >= total {
        return in_list(8);
    }
    let (mut pieces, mut count, mut done) = ([Piece::NONE; MAX_SEGMENTS], 0, 0);
    while let Some((to, room)) = to.locate(done) {
        let (source, from, length) = match source {
            None => (NO_UNIT, 0, room),
            Some((id, from)) => match from.locate(offset + done) {
                Some((from, there)) => (id, from, there.min(room)),
                None => break,
            },
        };
        if count == MAX_SEGMENTS {
            break;
        }
        pieces[count] = Piece { source, from, destination: head.unit, to, length };
        (count, done) = (count + 1, done + length);
    }
    Ok((pieces, count, done == to.bytes()))
}

/// RECEIVE ROD TOKEN INFORMATION.
pub(crate) fn information(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    answer(head, |call, answer| {
        let operation = find(call, true, |action| matches!(action, POPULATE | WRITE))?;
        let unit = call.unit()?;
        let block = unit.geometry().map_or(512, |geometry| u64::from(geometry.block_size));
        put_status(operation, (BLOCKS, operation.moved / block), answer);
        let at = answer.length();
        answer.put_u32(0);
        if let Operation { name: Name { action: POPULATE, .. }, token: Some(token), .. } = operation {
            answer.put_u16(0);
            if write_token(call.target.name(), unit, *token, answer) {
                answer.close_u32(at);
            }
        }
        answer.close_u32(0);
        Ok(())
    })
}
