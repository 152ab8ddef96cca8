//! Commands on the medium (SBC-3 section 5): what each checks, and which program or ranges it comes down to.

use crate::command::{Call, Head, Task};
use crate::extents::{Extents, Question};
use crate::failure;
use crate::field::{Answer, u16_at, u24_at, u32_at, u64_at};
use crate::job::{Job, Work};
use crate::list::{List, MAX_LIST};
use crate::nexus::Nexus;
use crate::ordering::Touch;
use crate::ranges::{DESCRIPTOR, DESCRIPTORS, Ranges};
use crate::segment::{self, Program};
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::target::Target;
use crate::transfer::{Pass, Transfer};
use crate::unit::LogicalUnit;
use storage_block::{Buffer, Geometry, Operation};

/// Blocks that COMPARE AND WRITE can take: all that its one-byte field can say.
pub(crate) const MAX_COMPARE_AND_WRITE: u8 = 255;
/// Descriptors that an UNMAP parameter list can hold.
pub(crate) const MAX_UNMAP_DESCRIPTORS: u16 = ((MAX_LIST as usize - DESCRIPTORS) / DESCRIPTOR) as u16;

/// Bytes that one command can read, write or compare. A command of any length is cut into pieces anyway; the limit
/// keeps one from holding its range for longer than others can wait.
const MAX_TRANSFER: u32 = 32 << 20;
/// Bytes per command that are a good choice: enough for several pieces in flight.
const OPTIMAL_TRANSFER: u32 = 1 << 20;
/// Bytes that one WRITE SAME can fill: it is one command to us but may be many writes to the backend.
const MAX_WRITE_SAME: u32 = 64 << 20;
/// Bytes that one PRE-FETCH can name.
const MAX_PRE_FETCH: u32 = 64 << 20;
/// Blocks that one UNMAP can name.
const MAX_UNMAP: u32 = 1 << 20;

/// What one command may ask for, in blocks.
pub(crate) struct Limits {
    pub(crate) transfer: u32,
    pub(crate) optimal_transfer: u32,
    pub(crate) write_same: u32,
    pub(crate) pre_fetch: u32,
    pub(crate) unmap: u32,
}

/// The limits of a disk of this shape, as the block limits page tells them and as they are enforced.
pub(crate) fn limits(geometry: &Geometry) -> Limits {
    let block = geometry.block_size;
    Limits {
        transfer: MAX_TRANSFER / block,
        optimal_transfer: OPTIMAL_TRANSFER / block,
        write_same: MAX_WRITE_SAME / block,
        pre_fetch: MAX_PRE_FETCH / block,
        unmap: MAX_UNMAP,
    }
}

/// When a command's data become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Durability {
    /// Each write is durable when it completes.
    pub(crate) fua: bool,
    pub(crate) flush_before: bool,
    pub(crate) flush_after: bool,
}

impl Durability {
    pub(crate) const NONE: Self = Self { fua: false, flush_before: false, flush_after: false };
    pub(crate) const FLUSH: Self = Self { flush_after: true, ..Self::NONE };
}

const DPO_FUA_FUA: u8 = 0x08;

/// How a command that changes the medium makes it durable, if it must: by force unit access where the backend has it,
/// else by a flush before GOOD, else, without a cache below, by itself.
pub(crate) fn durability(unit: &mut LogicalUnit, nexus: Nexus, wanted: bool) -> Result<Durability, Refusal> {
    if !wanted && !unit.writes_through() {
        return Ok(Durability::NONE);
    }
    check_loss(unit, nexus)?;
    let (fua, flush) = unit.geometry().map_or((false, false), |geometry| (geometry.fua, geometry.flush));
    Ok(Durability { fua, flush_before: false, flush_after: flush && !fua })
}

/// A command that says "durable" cannot end well while writes before it may be lost.
pub(crate) fn check_loss(unit: &mut LogicalUnit, nexus: Nexus) -> Result<(), Refusal> {
    if unit.cache.tell_loss(nexus) { Err(failure::write_loss()) } else { Ok(()) }
}

/// A range of blocks that was checked against the disk.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    first: u64,
    count: u64,
    block_size: u32,
    /// Blocks of the disk from the first on.
    rest: u64,
}

impl Blocks {
    fn start(&self) -> u64 {
        self.first * u64::from(self.block_size)
    }

    fn bytes(&self) -> u64 {
        self.count * u64::from(self.block_size)
    }

    fn range(&self) -> core::ops::Range<u64> {
        self.start()..self.start() + self.bytes()
    }
}

fn find_unit<'a>(target: &'a mut Target, head: &Head) -> Result<&'a mut LogicalUnit, Refusal> {
    target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into())
}

/// The LBA and the number of blocks where CDBs of each length have them.
fn fields(cdb: &[u8; 16]) -> (u64, u64) {
    match cdb[0] >> 5 {
        0 => {
            let count = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
            (u64::from(u24_at(cdb, 1) & 0x1f_ffff), count)
        }
        1 | 2 => (u64::from(u32_at(cdb, 2)), u64::from(u16_at(cdb, 7))),
        5 => (u64::from(u32_at(cdb, 2)), u64::from(u32_at(cdb, 6))),
        _ => (u64_at(cdb, 2), u64::from(u32_at(cdb, 10))),
    }
}

/// `count` blocks from `first` on, if the disk has them. No blocks right behind the last are within the disk.
fn check(geometry: &Geometry, first: u64, count: u64) -> Result<Blocks, Refusal> {
    let rest = geometry.blocks().checked_sub(first).filter(|rest| count <= *rest);
    let rest = rest.ok_or(Sense::illegal(code::LBA_OUT_OF_RANGE))?;
    Ok(Blocks { first, count, block_size: geometry.block_size, rest })
}

/// The blocks of a command that moves each of them through here.
fn transfer_blocks(unit: &LogicalUnit, head: &Head) -> Result<Blocks, Refusal> {
    let geometry = unit.medium()?;
    let (first, count) = fields(&head.cdb);
    let blocks = check(geometry, first, count)?;
    if blocks.bytes() > u64::from(MAX_TRANSFER) {
        return Err(length_field(&head.cdb).into());
    }
    Ok(blocks)
}

/// INVALID FIELD IN CDB for the number of blocks.
fn length_field(cdb: &[u8; 16]) -> Sense {
    Sense::in_cdb([4, 7, 7, 0, 10, 6, 0, 0][usize::from(cdb[0] >> 5)], None)
}

pub(crate) fn check_writable(unit: &LogicalUnit) -> Result<(), Refusal> {
    if unit.is_write_protected() {
        return Err(Sense::new(SenseKey::DataProtect, code::WRITE_PROTECTED).into());
    }
    Ok(())
}

/// Less Data-Out than the command needs: refused whole (FCP-4 section 9.4.2 leaves the choice).
fn check_data_out(head: &Head, wanted: u64) -> Result<(), Refusal> {
    if u64::from(head.data_out) < wanted { Err(Refusal::short_of_data(wanted)) } else { Ok(()) }
}

/// A job that takes as much Data-Out as it covers on the medium.
fn data_out_job(
    unit: &mut LogicalUnit,
    head: &Head,
    touch: Touch,
    blocks: Blocks,
    program: Program,
    durability: Durability,
) -> Result<Task, Refusal> {
    let wanted = blocks.bytes();
    check_data_out(head, wanted)?;
    if wanted == 0 {
        return Ok(Task::done());
    }
    let transfer = Transfer::new(program, blocks.start(), wanted as u32).with_fua(durability.fua);
    let work = Work::Transfer(transfer);
    Job::begin(unit, head, (touch, blocks.range()), work, durability, (wanted, 0))
}

/// READ (6), (10), (12), (16).
pub(crate) fn read(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    let blocks = transfer_blocks(unit, head)?;
    let fua = head.cdb[0] >> 5 != 0 && head.cdb[1] & DPO_FUA_FUA != 0;
    let mut durability = Durability::NONE;
    // Force unit access on a read: from the medium, so what is in the cache has to be there first. Whether anything is
    // shows when the command starts.
    if fua && unit.geometry().is_some_and(|geometry| geometry.flush) {
        check_loss(unit, head.nexus)?;
        durability.flush_before = true;
    }
    let wanted = blocks.bytes();
    // What the initiator cannot take is not read.
    let room = wanted.min(u64::from(head.data_in)) as u32;
    let block = u64::from(blocks.block_size);
    // A block is a power of two.
    let total = (u64::from(room) + (block - 1)) & !(block - 1);
    if total == 0 {
        return Ok(Task::done().wanting(0, wanted));
    }
    let transfer = Transfer::new(&segment::READ, blocks.start(), total as u32).with_room(room);
    let work = Work::Transfer(transfer);
    Job::begin(unit, head, (Touch::Read, blocks.range()), work, durability, (0, wanted))
}

/// WRITE (6), (10), (12), (16).
pub(crate) fn write(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let blocks = transfer_blocks(unit, head)?;
    let fua = head.cdb[0] >> 5 != 0 && head.cdb[1] & DPO_FUA_FUA != 0;
    let durability = durability(unit, head.nexus, fua)?;
    write_job(unit, head, blocks, (&segment::WRITE, &segment::WRITE_PART), durability)
}

/// A job that writes as much as the initiator offers, and no more than the CDB says. Where it offers less the rest is
/// left as it is, and the transport tells the difference (FCP-4 section 9.4.2; some suites allow nothing else). The
/// second program is for a last block of which only a part is offered.
fn write_job(
    unit: &mut LogicalUnit,
    head: &Head,
    blocks: Blocks,
    (program, partial): (Program, Program),
    durability: Durability,
) -> Result<Task, Refusal> {
    let given = blocks.bytes().min(u64::from(head.data_out)) as u32;
    let part = given & (blocks.block_size - 1);
    let whole = given - part;
    let first = Pass { program, start: blocks.start(), total: whole, data: 0, part: 0 };
    let start = blocks.start() + u64::from(whole);
    let last = Pass { program: partial, start, total: blocks.block_size, data: whole, part };
    let transfer = match (whole, part) {
        (0, 0) => return Ok(Task::done().wanting(blocks.bytes(), 0)),
        (0, _) => Transfer::of(last),
        (_, 0) => Transfer::of(first),
        (_, _) => Transfer::of(first).then(last),
    };
    let work = Work::Transfer(transfer.with_fua(durability.fua));
    Job::begin(unit, head, (Touch::Change, blocks.range()), work, durability, (blocks.bytes(), 0))
}

/// The BYTCHK field.
fn byte_check(cdb: &[u8; 16]) -> u8 {
    cdb[1] >> 1 & 0x03
}

/// WRITE AND VERIFY (10), (12), (16): durable, and read back; with BYTCHK compared to what was sent.
pub(crate) fn write_and_verify(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let blocks = transfer_blocks(unit, head)?;
    let programs = match byte_check(&head.cdb) {
        0 => (&segment::WRITE_AND_VERIFY, &segment::WRITE_PART_AND_VERIFY),
        1 => (&segment::WRITE_AND_COMPARE, &segment::WRITE_PART_AND_COMPARE),
        _ => return Err(Sense::in_cdb(1, Some(2)).into()),
    };
    let durability = durability(unit, head.nexus, true)?;
    write_job(unit, head, blocks, programs, durability)
}

/// VERIFY (10), (12), (16): the medium can be read; with BYTCHK 01b equals what is sent; with 11b each block equals the
/// one block that is sent.
pub(crate) fn verify(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    let blocks = transfer_blocks(unit, head)?;
    match byte_check(&head.cdb) {
        0 if blocks.count == 0 => Ok(Task::done()),
        0 => verify_job(unit, head, blocks, &segment::VERIFY, None),
        1 => data_out_job(unit, head, Touch::Read, blocks, &segment::VERIFY_DATA, Durability::NONE),
        3 if blocks.count == 0 => Ok(Task::done()),
        3 => List::task_on_medium(unit, head, blocks.block_size, |target, head, pattern| {
            let unit = find_unit(target, head)?;
            let blocks = transfer_blocks(unit, head)?;
            verify_job(unit, head, blocks, &segment::VERIFY_PATTERN, pattern)
        }),
        _ => Err(Sense::in_cdb(1, Some(2)).into()),
    }
}

fn verify_job(
    unit: &mut LogicalUnit,
    head: &Head,
    blocks: Blocks,
    program: Program,
    pattern: Option<Buffer>,
) -> Result<Task, Refusal> {
    let wanted = pattern.as_ref().map_or(0, |pattern| pattern.len() as u64);
    let transfer = Transfer::new(program, blocks.start(), blocks.bytes() as u32).with_pattern(pattern);
    let work = Work::Transfer(transfer);
    Job::begin(unit, head, (Touch::Read, blocks.range()), work, Durability::NONE, (wanted, 0))
}

/// ORWRITE (16): the bits sent are set on the medium.
pub(crate) fn or_write(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let blocks = transfer_blocks(unit, head)?;
    let durability = durability(unit, head.nexus, head.cdb[1] & DPO_FUA_FUA != 0)?;
    data_out_job(unit, head, Touch::Change, blocks, &segment::OR_WRITE, durability)
}

/// COMPARE AND WRITE: the second half of Data-Out, if the medium equals the first. One for all other commands of the
/// unit, because its range is its own until it ends.
pub(crate) fn compare_and_write(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let blocks = check(unit.medium()?, u64_at(&head.cdb, 2), u64::from(head.cdb[13]))?;
    let wanted = 2 * blocks.bytes();
    // The number of blocks says where the second half begins, so anything but the right amount is a wrong number.
    if u64::from(head.data_out) != wanted {
        return Err(Sense::in_cdb(13, None).into());
    }
    if wanted == 0 {
        return Ok(Task::done());
    }
    let durability = durability(unit, head.nexus, head.cdb[1] & DPO_FUA_FUA != 0)?;
    let (start, total) = (blocks.start(), blocks.bytes() as u32);
    let write = Pass { program: &segment::WRITE, start, total, data: total, part: 0 };
    let transfer = Transfer::new(&segment::VERIFY_DATA, start, total).with_fua(durability.fua).then(write);
    let work = Work::Transfer(transfer);
    Job::begin(unit, head, (Touch::Change, blocks.range()), work, durability, (wanted, 0))
}

/// SYNCHRONIZE CACHE (10), (16): the whole cache, whatever the range. IMMED is allowed to be answered late, and a GOOD
/// before the flush has succeeded would be a promise nobody can keep.
pub(crate) fn synchronize_cache(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    let (first, count) = fields(&head.cdb);
    check(unit.medium()?, first, count)?;
    check_loss(unit, head.nexus)?;
    // Without a cache it waits for the writes before it all the same.
    let flush = unit.geometry().is_some_and(|geometry| geometry.flush);
    let durability = if flush { Durability::FLUSH } else { Durability::NONE };
    Job::begin(unit, head, (Touch::Flush, 0..0), Work::None, durability, (0, 0))
}

/// PRE-FETCH (10), (16): a hint to the backend, if it takes hints.
pub(crate) fn pre_fetch(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    const IMMED: u8 = 0x02;
    let unit = find_unit(target, head)?;
    let geometry = *unit.medium()?;
    let (first, count) = fields(&head.cdb);
    let mut blocks = check(&geometry, first, count)?;
    let limit = u64::from(limits(&geometry).pre_fetch);
    if count > limit {
        return Err(length_field(&head.cdb).into());
    }
    if count == 0 {
        blocks.count = blocks.rest.min(limit);
    }
    // GOOD says that not all of it may be in the cache, which is always true.
    if !geometry.cache || blocks.count == 0 || head.cdb[1] & IMMED != 0 {
        return Ok(Task::done());
    }
    let work = Work::Ranges(Ranges::one(Operation::Cache, blocks.start(), blocks.bytes()));
    Job::begin(unit, head, (Touch::Read, blocks.range()), work, Durability::NONE, (0, 0))
}

/// The flags of WRITE SAME: UNMAP, NDOB.
fn same_flags(cdb: &[u8; 16]) -> (bool, bool) {
    (cdb[1] & 0x08 != 0, cdb[0] == 0x93 && cdb[1] & 0x01 != 0)
}

/// WRITE SAME (10), (16). Where zeroes are promised of what was given back (LBPRZ=1), only they are given back: what is
/// read afterwards is what was sent. Anything else is written, whatever the UNMAP bit says.
pub(crate) fn write_same(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let blocks = same_blocks(unit, head)?;
    let (unmap, no_data) = same_flags(&head.cdb);
    if unmap && !unit.is_thin() {
        return Err(Sense::in_cdb(1, Some(3)).into());
    }
    if no_data {
        return same_job(target, head, None);
    }
    // One block and nothing else: more is as wrong as less.
    if head.data_out != blocks.block_size {
        return Err(Refusal::short_of_data(u64::from(blocks.block_size)));
    }
    List::task_on_medium(unit, head, blocks.block_size, same_job)
}

fn same_blocks(unit: &LogicalUnit, head: &Head) -> Result<Blocks, Refusal> {
    let geometry = unit.medium()?;
    let (first, count) = fields(&head.cdb);
    let mut blocks = check(geometry, first, count)?;
    if count == 0 {
        blocks.count = blocks.rest;
    }
    if blocks.count > u64::from(limits(geometry).write_same) {
        return Err(length_field(&head.cdb).into());
    }
    Ok(blocks)
}

fn same_job(target: &mut Target, head: &Head, pattern: Option<Buffer>) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    let blocks = same_blocks(unit, head)?;
    if blocks.count == 0 {
        return Ok(Task::done());
    }
    let durability = durability(unit, head.nexus, false)?;
    let wanted = pattern.as_ref().map_or(0, |pattern| pattern.len() as u64);
    let zero = pattern.as_ref().is_none_or(|pattern| pattern.iter().all(|&byte| byte == 0));
    let (fua, start, length) = (durability.fua, blocks.start(), blocks.bytes() as u32);
    let no_hole = !same_flags(&head.cdb).0;
    let work = match unit.geometry() {
        // Nothing is promised of how blocks read that were given back (LBPRZ=0), so that any may be.
        Some(geometry) if !no_hole && !geometry.write_zeroes => {
            Work::Ranges(Ranges::one(Operation::Trim { fua }, start, length.into()))
        }
        Some(geometry) if zero && geometry.write_zeroes => {
            // Zeroes that keep their space may be as slow as any write, in one request of any length. A backend that can
            // say so is asked; then they are written from here, piece by piece, like everything else.
            let fast = no_hole && geometry.fast_zero;
            Work::Ranges(Ranges::zeroes(Operation::WriteZeroes { fua, no_hole, fast }, start, length))
        }
        _ => {
            let transfer = Transfer::new(&segment::WRITE_SAME, start, length);
            Work::Transfer(transfer.with_fua(fua).with_pattern(pattern))
        }
    };
    Job::begin(unit, head, (Touch::Change, blocks.range()), work, durability, (wanted, 0))
}

/// GET LBA STATUS.
pub(crate) fn get_lba_status(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    let geometry = unit.medium()?;
    let first = u64_at(&head.cdb, 2);
    if first >= geometry.blocks() {
        return Err(Sense::illegal(code::LBA_OUT_OF_RANGE).into());
    }
    let allocation = u32_at(&head.cdb, 10);
    if !geometry.status || allocation == 0 {
        return Ok(Task::answer(answer_all_mapped, allocation));
    }
    let work = Work::Extents(Extents::new(Question::new(geometry, first), allocation, head.data_in));
    Job::begin(unit, head, (Touch::Read, 0..0), work, Durability::NONE, (0, 0))
}

fn answer_all_mapped(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    Question::new(call.unit()?.medium()?, u64_at(call.cdb(), 2)).answer_mapped(answer);
    Ok(())
}

/// UNMAP.
pub(crate) fn unmap(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = find_unit(target, head)?;
    check_writable(unit)?;
    let length = u32::from(u16_at(&head.cdb, 7));
    if length != 0 && (length as usize) < DESCRIPTORS {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    List::task_on_medium(unit, head, length, |target, head, list| match list {
        Some(list) => unmap_job(find_unit(target, head)?, head, list),
        None => Ok(Task::done()),
    })
}

fn unmap_job(unit: &mut LogicalUnit, head: &Head, list: Buffer) -> Result<Task, Refusal> {
    let geometry = *unit.medium()?;
    let bytes = usize::from(u16_at(&list, 2));
    if bytes > list.len() - DESCRIPTORS {
        return Err(Sense::in_list(2, None).into());
    }
    // An incomplete last descriptor is ignored (SBC-3 section 5.28.2).
    let count = bytes / DESCRIPTOR;
    let (mut total, mut first, mut end) = (0, u64::MAX, 0);
    for at in (0..count).map(|index| DESCRIPTORS + index * DESCRIPTOR) {
        let blocks = check(&geometry, u64_at(&list, at), u64::from(u32_at(&list, at + 8)))?;
        total += blocks.count;
        if blocks.count != 0 {
            first = first.min(blocks.start());
            end = end.max(blocks.range().end);
        }
    }
    if total > u64::from(limits(&geometry).unmap) {
        return Err(Sense::in_list(DESCRIPTORS as u16, None).into());
    }
    let wanted = list.len() as u64;
    if total == 0 {
        return Ok(Task::done().wanting(wanted, 0));
    }
    let durability = durability(unit, head.nexus, false)?;
    let fua = durability.fua;
    // With zeroes what was given back reads as zero, which is promised then (LBPRZ).
    let operation = if geometry.write_zeroes {
        Operation::WriteZeroes { fua, no_hole: false, fast: false }
    } else {
        Operation::Trim { fua }
    };
    let work = Work::Ranges(Ranges::list(operation, list, count, geometry.block_size));
    // The ranges of a list lie close together: one place in the task set holds them all.
    Job::begin(unit, head, (Touch::Change, first..end), work, durability, (wanted, 0))
}
