//! INQUIRY (SPC-4 section 6.4): standard data and vital product data pages.

use crate::command::{Call, Head, Task};
use crate::copy::page::third_party_copy;
use crate::field::{Answer, u16_at};
use crate::medium::{MAX_COMPARE_AND_WRITE, MAX_UNMAP_DESCRIPTORS, limits};
use crate::ports::RELATIVE_PORT;
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;

/// Makes the body of a vital product data page.
type Body = fn(&Call<'_>, &LogicalUnit, &mut Answer<'_>);

/// A vital product data page.
struct Page {
    code: u8,
    body: Body,
    /// Its content is taken from the geometry: while that is on its way the page has to wait. Whoever reads it once and
    /// keeps it must not keep a page of zeroes.
    needs_geometry: bool,
}

/// In ascending order, as page 00h has to list them.
const PAGES: &[Page] = &[
    Page { code: 0x00, body: supported_pages, needs_geometry: false },
    Page { code: 0x80, body: unit_serial_number, needs_geometry: false },
    Page { code: 0x83, body: device_identification, needs_geometry: false },
    Page { code: 0x86, body: extended_inquiry, needs_geometry: false },
    Page { code: 0x87, body: mode_page_policy, needs_geometry: false },
    Page { code: 0x8f, body: third_party_copy, needs_geometry: true },
    Page { code: 0xb0, body: block_limits, needs_geometry: true },
    Page { code: 0xb1, body: block_device_characteristics, needs_geometry: true },
    Page { code: 0xb2, body: logical_block_provisioning, needs_geometry: true },
];

pub(crate) fn inquiry(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let page = PAGES.iter().find(|page| page.code == head.cdb[2]);
    let wants_geometry = head.cdb[1] & 0x01 != 0 && page.is_some_and(|page| page.needs_geometry);
    if wants_geometry && target.unit(head.unit).is_some_and(LogicalUnit::is_unknown) {
        return Ok(Task::Held);
    }
    Ok(Task::answer(answer, u32::from(u16_at(&head.cdb, 3))))
}

fn answer(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let (vital, code) = (call.cdb()[1] & 0x01 != 0, call.cdb()[2]);
    if !vital && code != 0 {
        return Err(Sense::in_cdb(2, None).into());
    }
    if call.is_report_luns() {
        return well_known(vital, code, answer);
    }
    let Ok(unit) = call.unit() else {
        // A wrong number: a type of 1Fh says that there is nothing, and a page of nothing is an error, or some
        // initiators believe in the unit all the same.
        if vital {
            return Err(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into());
        }
        standard(0x7f, false, (b"CORBEL  ", b"NO LOGICAL UNIT ", b"0001"), answer);
        return Ok(());
    };
    if !vital {
        let identity = &unit.identity;
        let texts = (&identity.vendor, &identity.product, &identity.revision);
        standard(0x00, unit.traits.removable, texts, answer);
        return Ok(());
    }
    let page = PAGES.iter().find(|page| page.code == code).ok_or(Sense::in_cdb(2, None))?;
    answer.put(&[0, code, 0, 0]);
    (page.body)(call, unit, answer);
    answer.close_u16(2);
    Ok(())
}

/// The REPORT LUNS well-known logical unit has a type, and no names but an empty list.
fn well_known(vital: bool, code: u8, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    const WELL_KNOWN: u8 = 0x1e;
    if !vital {
        standard(WELL_KNOWN, false, (b"CORBEL  ", b"REPORT LUNS     ", b"0001"), answer);
        return Ok(());
    }
    if code != 0 {
        return Err(Sense::in_cdb(2, None).into());
    }
    answer.put(&[WELL_KNOWN, 0, 0, 1, 0]);
    Ok(())
}

/// Standard INQUIRY data (SPC-4 section 6.4.2), 96 bytes.
fn standard(kind: u8, removable: bool, texts: (&[u8; 8], &[u8; 16], &[u8; 4]), answer: &mut Answer<'_>) {
    const LENGTH: usize = 96;
    // TPGS, 3PC: the access to units changes by itself and by command, and they copy by themselves.
    let copies = if kind == 0x00 { 0x38 } else { 0 };
    // SPC-4; HISUP: LUNs are told in the format of REPORT LUNS; response data format 2; CMDQUE.
    answer.put(&[kind, u8::from(removable) << 7, 0x06, 0x12, (LENGTH - 5) as u8, copies, 0, 0x02]);
    answer.put(texts.0);
    answer.put(texts.1);
    answer.put(texts.2);
    answer.pad_to(58);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
    for version in [0x00a0, 0x0960, 0x0460, 0x04c0] {
        answer.put_u16(version);
    }
    answer.pad_to(LENGTH);
}

fn supported_pages(_: &Call<'_>, _: &LogicalUnit, answer: &mut Answer<'_>) {
    for page in PAGES {
        answer.put_u8(page.code);
    }
}

fn unit_serial_number(_: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    answer.put(&unit.identity.serial());
    // Windows' conformance test wants it terminated, and nobody minds.
    answer.put_u8(0);
}

/// Device identification (SPC-4 section 7.8.6): names of the unit first, since some initiators take the first.
fn device_identification(call: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    let identity = &unit.identity;
    let naa = identity.naa();
    designator(BINARY, 0x03, &[&naa], answer);
    designator(ASCII, 0x01, &[&identity.vendor, &identity.vendor_specific()], answer);
    designator(BINARY, 0x02, &[&identity.eui()], answer);
    let mut name = [0; 36];
    name[..4].copy_from_slice(b"naa.");
    for (pair, byte) in name[4..].chunks_exact_mut(2).zip(naa) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = b"0123456789ABCDEF"[usize::from(nibble)];
        }
    }
    designator(UTF8, 0x08, &[&name], answer);
    // The port this came in by, and the group that it is.
    designator(BINARY, 0x14, &[&[0, 0], &RELATIVE_PORT.to_be_bytes()], answer);
    designator(BINARY, 0x15, &[&[0, 0], &call.target.port_group.to_be_bytes()], answer);
    // The target device's name, padded with at least one NUL.
    let target = call.target.name().as_bytes();
    let padding = (target.len() + 1).next_multiple_of(4) - target.len();
    designator(UTF8, 0x28, &[target, &[0; 4][..padding]], answer);
}

/// One designation descriptor; `kind` holds the association (bits 5 and 4) and the type.
fn designator(code_set: u8, kind: u8, parts: &[&[u8]], answer: &mut Answer<'_>) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    answer.put(&[code_set, kind, 0, length as u8]);
    for part in parts {
        answer.put(part);
    }
}

/// Extended INQUIRY data (SPC-4 section 7.8.7): simple, ordered and head of queue commands; no protection.
fn extended_inquiry(_: &Call<'_>, _: &LogicalUnit, answer: &mut Answer<'_>) {
    const SIMPSUP_ORDSUP_HEADSUP: u8 = 0x07;
    answer.put(&[0, SIMPSUP_ORDSUP_HEADSUP]);
    answer.pad_to(64);
}

/// Mode page policy (SPC-4 section 7.8.14): all pages and subpages are one for all initiators of the unit.
fn mode_page_policy(_: &Call<'_>, _: &LogicalUnit, answer: &mut Answer<'_>) {
    answer.put(&[0x3f, 0xff, 0, 0]);
}

/// Block limits (SBC-3 section 6.6.4).
fn block_limits(_: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    answer.put_u8(0);
    answer.put_u8(MAX_COMPARE_AND_WRITE);
    let Some(geometry) = unit.geometry() else {
        answer.pad_to(64);
        return;
    };
    let limits = limits(geometry);
    let granularity = geometry.preferred_block / geometry.block_size;
    answer.put_u16(u16::try_from(granularity).unwrap_or(0));
    answer.put_u32(limits.transfer);
    answer.put_u32(limits.optimal_transfer);
    answer.put_u32(limits.pre_fetch);
    if unit.is_thin() {
        answer.put_u32(limits.unmap);
        answer.put_u32(u32::from(MAX_UNMAP_DESCRIPTORS));
        answer.put_u32(granularity);
        // UGAVALID, aligned at LBA 0.
        answer.put_u32(0x8000_0000);
    } else {
        answer.pad_to(36);
    }
    answer.put_u64(u64::from(limits.write_same));
    answer.pad_to(64);
}

/// Block device characteristics (SBC-3 section 6.6.2).
fn block_device_characteristics(_: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    const NON_ROTATING: u16 = 1;
    const NOT_REPORTED: u16 = 0;
    let rotates = unit.geometry().is_some_and(|geometry| geometry.rotational);
    answer.put_u16(if rotates { NOT_REPORTED } else { NON_ROTATING });
    answer.pad_to(64);
}

/// Logical block provisioning (SBC-3 section 6.6.5).
fn logical_block_provisioning(_: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    const THIN: u8 = 2;
    let zeroes = unit.geometry().is_some_and(|geometry| geometry.write_zeroes);
    // LBPU, LBPWS, LBPWS10, LBPRZ.
    let (offers, kind) = if unit.is_thin() { (0xe0 | u8::from(zeroes) << 2, THIN) } else { (0, 0) };
    answer.put(&[0, offers, kind, 0]);
}
