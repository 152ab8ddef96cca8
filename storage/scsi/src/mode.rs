//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 section 7.5, SBC-3 section 6.5).
//!
//! One table of pages gives current, changeable and default values; what is changeable is just what changes something.

use crate::attention::Attention;
use crate::command::{Call, Head, Task};
use crate::field::{Answer, u8_at, u16_at, u24_at, u32_at, u64_at};
use crate::list::List;
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use storage_block::Buffer;

/// The mode parameters that can be changed, in their default state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    /// D_SENSE: descriptor format sense data.
    pub(crate) descriptor_sense: bool,
    /// SWP: writes are refused.
    pub(crate) software_write_protect: bool,
    /// TAS: commands aborted by another nexus end with TASK ABORTED.
    pub(crate) task_aborted_status: bool,
    /// The opposite of WCE where the backend has a cache.
    pub(crate) write_cache_disabled: bool,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            descriptor_sense: false,
            software_write_protect: false,
            task_aborted_status: true,
            write_cache_disabled: false,
        }
    }
}

/// The PC field: which values of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

/// A mode page: its codes, its length with the header, and what makes its values.
struct Page {
    code: u8,
    subpage: u8,
    length: usize,
    fill: fn(&LogicalUnit, &Modes, Values, &mut [u8; MAX_PAGE]),
    /// Takes over what is changeable from a page of MODE SELECT.
    apply: fn(&[u8], &mut Modes),
}

const MAX_PAGE: usize = 32;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

const PAGES: &[Page] = &[
    // Read-Write Error Recovery: recovery is the backend's, nothing of it can be set.
    Page { code: 0x01, subpage: 0, length: 12, fill: |_, _, _, _| {}, apply: |_, _| {} },
    Page { code: 0x08, subpage: 0, length: 20, fill: caching, apply: apply_caching },
    Page { code: 0x0a, subpage: 0, length: 12, fill: control, apply: apply_control },
    // Control Extension: all zero, no longer sense data than by default.
    Page { code: 0x0a, subpage: 1, length: 32, fill: |_, _, _, _| {}, apply: |_, _| {} },
    Page { code: 0x1c, subpage: 0, length: 12, fill: informational_exceptions, apply: |_, _| {} },
];

fn caching(unit: &LogicalUnit, modes: &Modes, values: Values, page: &mut [u8; MAX_PAGE]) {
    const WCE: u8 = 0x04;
    let cached = unit.geometry().is_some_and(|geometry| geometry.flush);
    let on = match values {
        Values::Current => cached && !modes.write_cache_disabled,
        Values::Changeable | Values::Default => cached,
    };
    page[2] = if on { WCE } else { 0 };
}

fn apply_caching(page: &[u8], modes: &mut Modes) {
    modes.write_cache_disabled = u8_at(page, 2) & 0x04 == 0;
}

fn control(_: &LogicalUnit, modes: &Modes, values: Values, page: &mut [u8; MAX_PAGE]) {
    let modes = match values {
        Values::Current => *modes,
        Values::Default => Modes::default(),
        Values::Changeable => Modes {
            descriptor_sense: true,
            software_write_protect: true,
            task_aborted_status: true,
            ..*modes
        },
    };
    page[2] = u8::from(modes.descriptor_sense) << 2;
    page[4] = u8::from(modes.software_write_protect) << 3;
    page[5] = u8::from(modes.task_aborted_status) << 6;
    if values != Values::Changeable {
        // QUEUE ALGORITHM MODIFIER: simple commands in any order. BUSY TIMEOUT PERIOD: no limit.
        page[3] = 0x10;
        page[8..10].fill(0xff);
    }
}

fn apply_control(page: &[u8], modes: &mut Modes) {
    modes.descriptor_sense = u8_at(page, 2) & 0x04 != 0;
    modes.software_write_protect = u8_at(page, 4) & 0x08 != 0;
    modes.task_aborted_status = u8_at(page, 5) & 0x40 != 0;
}

fn informational_exceptions(_: &LogicalUnit, _: &Modes, values: Values, page: &mut [u8; MAX_PAGE]) {
    // DEXCPT: exceptions are not reported.
    page[2] = if values == Values::Changeable { 0 } else { 0x08 };
}

/// One page with its header.
fn page_bytes(page: &Page, unit: &LogicalUnit, values: Values) -> [u8; MAX_PAGE] {
    let mut bytes = [0; MAX_PAGE];
    (page.fill)(unit, &unit.modes, values, &mut bytes);
    bytes[0] = page.code;
    if page.subpage == 0 {
        bytes[1] = (page.length - 2) as u8;
    } else {
        bytes[0] |= 0x40;
        bytes[1] = page.subpage;
        bytes[2..4].copy_from_slice(&((page.length - 4) as u16).to_be_bytes());
    }
    bytes
}

fn is_long(cdb: &[u8; 16]) -> bool {
    cdb[0] & 0xe0 != 0
}

/// MODE SENSE (6) and (10), SPC-4 sections 6.11 and 6.12.
pub(crate) fn sense(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let length = if is_long(&head.cdb) { u32::from(u16_at(&head.cdb, 7)) } else { u32::from(head.cdb[4]) };
    Ok(Task::answer(answer_sense, length))
}

fn answer_sense(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let (unit, cdb) = (call.unit()?, call.cdb());
    let values = match cdb[2] >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Sense::illegal(code::SAVING_PARAMETERS_NOT_SUPPORTED).into()),
    };
    let (code, subpage) = (cdb[2] & 0x3f, cdb[3]);
    if code == ALL_PAGES && subpage != 0 && subpage != ALL_SUBPAGES {
        return Err(Sense::in_cdb(3, None).into());
    }
    let wanted = |page: &&Page| {
        (code == ALL_PAGES || page.code == code) && (subpage == ALL_SUBPAGES || page.subpage == subpage)
    };
    if !PAGES.iter().any(|page| wanted(&page)) {
        return Err(Sense::in_cdb(2, Some(5)).into());
    }
    put_header(unit, cdb, answer);
    for page in PAGES.iter().filter(wanted) {
        answer.put(&page_bytes(page, unit, values)[..page.length]);
    }
    if is_long(cdb) {
        answer.close_u16(0);
    } else {
        let rest = answer.length().saturating_sub(1).min(255) as u8;
        answer.set(0, &[rest]);
    }
    Ok(())
}

/// The mode parameter header and the block descriptor.
fn put_header(unit: &LogicalUnit, cdb: &[u8; 16], answer: &mut Answer<'_>) {
    let (no_descriptor, long_lba) = (cdb[1] & 0x08 != 0, is_long(cdb) && cdb[1] & 0x10 != 0);
    // WP, and DPOFUA: force unit access always reaches the disk here.
    let specific = u8::from(unit.is_write_protected()) << 7 | 0x10;
    let descriptor_length = match (no_descriptor, long_lba) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    if is_long(cdb) {
        answer.put(&[0, 0, 0, specific, u8::from(long_lba), 0, 0, descriptor_length]);
    } else {
        answer.put(&[0, 0, specific, descriptor_length]);
    }
    let (blocks, block_size) = unit.geometry().map_or((0, 0), |g| (g.blocks(), g.block_size));
    match descriptor_length {
        8 => {
            answer.put_u32(u32::try_from(blocks).unwrap_or(u32::MAX));
            answer.put_u32(block_size & 0xff_ffff);
        }
        16 => {
            answer.put_u64(blocks);
            answer.put_u32(0);
            answer.put_u32(block_size);
        }
        _ => {}
    }
}

/// MODE SELECT (6) and (10), SPC-4 sections 6.9 and 6.10.
pub(crate) fn select(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let cdb = &head.cdb;
    // PF must be one: there are no vendor-specific parameter lists. Without parameters it does not matter.
    let length = if is_long(cdb) { u32::from(u16_at(cdb, 7)) } else { u32::from(cdb[4]) };
    if length != 0 && cdb[1] & 0x10 == 0 {
        return Err(Sense::in_cdb(1, Some(4)).into());
    }
    List::task(head, length, apply)
}

fn apply(target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    let Some(list) = list else { return Ok(Task::done()) };
    // All is checked before anything is changed.
    let modes = parse(unit, &list, is_long(&head.cdb))?;
    if modes != unit.modes {
        unit.modes = modes;
        unit.raise_all(Attention::ModeParametersChanged, Some(head.nexus));
    }
    Ok(Task::done())
}

fn parse(unit: &LogicalUnit, list: &[u8], long: bool) -> Result<Modes, Refusal> {
    let length_error = Refusal::from(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR));
    let (header, descriptor_length, long_lba) = if long {
        (8, usize::from(u16_at(list, 6)), u8_at(list, 4) & 1 != 0)
    } else {
        (4, usize::from(u8_at(list, 3)), false)
    };
    let mut at = header + descriptor_length;
    if list.len() < at {
        return Err(length_error);
    }
    check_descriptor(unit, &list[header..at], header, long_lba)?;
    let mut modes = unit.modes;
    while at < list.len() {
        let rest = &list[at..];
        let has_subpage = rest[0] & 0x40 != 0;
        let subpage = if has_subpage { u8_at(rest, 1) } else { 0 };
        let found = PAGES.iter().find(|page| page.code == rest[0] & 0x3f && page.subpage == subpage);
        let page = found.ok_or(Sense::in_list(at as u16, Some(5)))?;
        let length =
            if has_subpage { usize::from(u16_at(rest, 2)) + 4 } else { usize::from(u8_at(rest, 1)) + 2 };
        if length != page.length {
            return Err(Sense::in_list(at as u16 + 1, None).into());
        }
        let Some(bytes) = rest.get(..length) else { return Err(length_error) };
        check_unchanged(page, unit, bytes, at)?;
        (page.apply)(bytes, &mut modes);
        // A backend without a cache leaves nothing to disable.
        if unit.geometry().is_none_or(|geometry| !geometry.flush) {
            modes.write_cache_disabled = unit.modes.write_cache_disabled;
        }
        at += length;
    }
    Ok(modes)
}

/// The block descriptor may repeat what is, or say nothing.
fn check_descriptor(unit: &LogicalUnit, bytes: &[u8], at: usize, long_lba: bool) -> Result<(), Refusal> {
    let (blocks, block_size) = unit.geometry().map_or((0, 0), |g| (g.blocks(), g.block_size));
    let (said_blocks, said_size, all) = match (bytes.len(), long_lba) {
        (0, _) => return Ok(()),
        (8, false) => (u64::from(u32_at(bytes, 0)), u24_at(bytes, 5), u64::from(u32::MAX)),
        (16, true) => (u64_at(bytes, 0), u32_at(bytes, 12), u64::MAX),
        _ => return Err(Sense::in_list(at as u16 - 1, None).into()),
    };
    if said_blocks != 0 && said_blocks != blocks && said_blocks != all {
        return Err(Sense::in_list(at as u16, None).into());
    }
    if said_size != block_size {
        return Err(Sense::in_list((at + bytes.len() - 3) as u16, None).into());
    }
    Ok(())
}

/// What is not changeable must be sent as it is.
fn check_unchanged(page: &Page, unit: &LogicalUnit, bytes: &[u8], at: usize) -> Result<(), Refusal> {
    let current = page_bytes(page, unit, Values::Current);
    let changeable = page_bytes(page, unit, Values::Changeable);
    let header = if page.subpage == 0 { 2 } else { 4 };
    for index in header..page.length {
        if (bytes[index] ^ current[index]) & !changeable[index] != 0 {
            return Err(Sense::in_list((at + index) as u16, None).into());
        }
    }
    Ok(())
}
