//! Parameter lists of EXTENDED COPY, and what is refused of them.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{SenseKey, code};
use std::slice::from_ref;

/// A CSCD descriptor that names the bench's unit of this identity, in blocks of this size.
pub(super) fn cscd(bench: &Bench, unit: crate::UnitId, block: u32) -> Vec<u8> {
    let identity = bench.target.unit(unit).expect("it").identity();
    let mut descriptor = vec![0xe4, 0, 0, 0, 1, 0x03, 0, 16];
    descriptor.extend(identity.naa());
    descriptor.resize(28, 0);
    descriptor.extend(block.to_be_bytes());
    descriptor
}

/// A segment descriptor from block device to block device.
pub(super) fn segment(
    flags: u8,
    (source, destination): (u16, u16),
    blocks: u16,
    from: u64,
    to: u64,
) -> Vec<u8> {
    let mut descriptor = vec![0x02, flags, 0, 0x18];
    descriptor.extend(source.to_be_bytes());
    descriptor.extend(destination.to_be_bytes());
    descriptor.extend([0, 0]);
    descriptor.extend(blocks.to_be_bytes());
    descriptor.extend(from.to_be_bytes());
    descriptor.extend(to.to_be_bytes());
    descriptor
}

/// A parameter list with an identifier of one byte.
pub(super) fn list_1(id: u8, usage: u8, cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![id, usage << 3];
    list.extend((cscds.len() as u16).to_be_bytes());
    list.extend([0; 4]);
    list.extend((segments.len() as u32).to_be_bytes());
    list.extend([0; 4]);
    [list, cscds, segments].concat()
}

/// A parameter list with an identifier of four bytes.
pub(super) fn list_4(id: u32, cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![0; 48];
    (list[0], list[3], list[16]) = (1, 0x20, 0xff);
    list[20..24].copy_from_slice(&id.to_be_bytes());
    list[42..44].copy_from_slice(&(cscds.len() as u16).to_be_bytes());
    list[44..46].copy_from_slice(&(segments.len() as u16).to_be_bytes());
    [list, cscds, segments].concat()
}

/// EXTENDED COPY or RECEIVE COPY RESULTS.
pub(super) fn cdb(opcode: u8, action: u8, id: u8, length: usize) -> [u8; 16] {
    let mut cdb = cdb16(opcode, action, 0, length as u32);
    cdb[2] = id;
    cdb
}

pub(super) fn copy(bench: &mut Bench, list: &[u8]) -> Outcome {
    bench.run(&cdb(0x83, 0, 0, list.len()), list, 0).0
}

/// A field of a parameter list as the sense-key specific bytes point at it.
fn pointer(outcome: &Outcome) -> Option<u16> {
    (outcome.sense[15] & 0xc0 == 0x80).then(|| u16::from_be_bytes([outcome.sense[16], outcome.sense[17]]))
}

#[test]
fn a_wrong_list_is_refused_for_what_is_wrong_with_it_and_nothing_moves() {
    let mut bench = Bench::new(geometry(1000, 512));
    let unit = bench.unit;
    let one = cscd(&bench, unit, 512);
    let right = segment(0, (0, 0), 8, 0, 100);
    let with = |at: usize, value: u8| {
        let mut list = list_1(1, 0, from_ref(&one), from_ref(&right));
        list[at] = value;
        list
    };
    const ILLEGAL: u8 = SenseKey::IllegalRequest as u8;
    const ABORTED: u8 = SenseKey::CopyAborted as u8;
    const FIELD: u16 = code::INVALID_FIELD_IN_PARAMETER_LIST;
    const LENGTH: u16 = code::PARAMETER_LIST_LENGTH_ERROR;
    let whole = with(0, 1);
    let many = |cscds: usize, segments: usize| {
        list_1(1, 0, &vec![one.clone(); cscds], &vec![right.clone(); segments])
    };
    let only = |segment: Vec<u8>| list_1(1, 0, from_ref(&one), &[segment]);
    /// What is wrong, the list, the sense key and code, and the field that is pointed at.
    type Case = (&'static str, Vec<u8>, u8, u16, Option<u16>);
    let table: Vec<Case> = vec![
        ("half a header", whole[..15].to_vec(), ILLEGAL, LENGTH, None),
        ("a truncated CSCD descriptor", whole[..40].to_vec(), ILLEGAL, LENGTH, None),
        ("a truncated segment descriptor", whole[..75].to_vec(), ILLEGAL, LENGTH, None),
        ("half a CSCD descriptor more", with(3, 48), ILLEGAL, LENGTH, None),
        ("half a CSCD descriptor less", with(3, 16), ILLEGAL, FIELD, Some(2)),
        ("a short segment list", with(11, 27), ILLEGAL, LENGTH, None),
        ("lists that add up to more than 32 bits", with(8, 0xff), ILLEGAL, LENGTH, None),
        ("inline data", with(15, 4), ILLEGAL, code::INLINE_DATA_LENGTH_EXCEEDED, None),
        ("a reserved list identifier usage", with(1, 0x08), ILLEGAL, FIELD, Some(1)),
        ("an identifier where there is none", with(1, 0x18), ILLEGAL, FIELD, Some(0)),
        ("a Fibre Channel name", with(16, 0xe0), ILLEGAL, code::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE, None),
        ("a tape", with(17, 0x01), ILLEGAL, FIELD, Some(17)),
        ("a long designator", with(23, 21), ILLEGAL, FIELD, Some(23)),
        ("stream to stream", with(48, 0x03), ILLEGAL, code::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE, None),
        ("a segment of another length", with(51, 0x14), ILLEGAL, FIELD, Some(50)),
        ("9 CSCD descriptors", many(9, 1), ILLEGAL, code::TOO_MANY_TARGET_DESCRIPTORS, None),
        ("17 segment descriptors", many(1, 17), ILLEGAL, code::TOO_MANY_SEGMENT_DESCRIPTORS, None),
        ("both", many(9, 17), ILLEGAL, LENGTH, None),
        ("a name that nobody has", with(30, 0xff), ABORTED, code::COPY_TARGET_DEVICE_NOT_REACHABLE, Some(4)),
        ("a type that it is not", with(21, 0x01), ABORTED, code::COPY_TARGET_DEVICE_NOT_REACHABLE, Some(4)),
        ("blocks that it has not", with(46, 0x10), ABORTED, code::COPY_TARGET_DEVICE_NOT_REACHABLE, Some(4)),
        ("no such source", with(53, 1), ABORTED, code::UNREACHABLE_COPY_TARGET, Some(4)),
        ("no such destination", with(54, 8), ABORTED, code::UNREACHABLE_COPY_TARGET, Some(6)),
        ("behind the end", only(segment(0, (0, 0), 8, 993, 0)), ABORTED, 0, Some(12)),
        ("to behind the end", only(segment(0, (0, 0), 8, 0, 993)), ABORTED, 0, Some(20)),
        ("far behind the end", only(segment(0, (0, 0), 8, u64::MAX, 0)), ABORTED, 0, Some(12)),
        ("to far behind the end", only(segment(0, (0, 0), 8, 0, 1 << 55)), ABORTED, 0, Some(20)),
    ];
    for (what, list, key, code, at) in table {
        let outcome = copy(&mut bench, &list);
        assert_eq!(sense(&outcome), (key, code), "{what}");
        assert_eq!(pointer(&outcome), at, "{what}");
        if key == ABORTED {
            assert_eq!(outcome.sense[15], 0xa0, "{what}: counted within the segment descriptor");
        }
    }
    assert!(bench.disk.log.is_empty());
    good(&copy(&mut bench, &whole));
    assert!(!bench.disk.log.is_empty());
}

#[test]
fn a_wrong_list_with_a_long_identifier_is_refused_as_well() {
    let mut bench = Bench::new(geometry(1000, 512));
    let unit = bench.unit;
    let one = cscd(&bench, unit, 0);
    let list = list_4(7, &[one], &[segment(0, (0, 0xffff), 8, 0, 100)]);
    for (at, value, field) in [(0, 0, Some(0)), (3, 0x1f, Some(2)), (16, 0xfe, Some(16)), (15, 1, Some(15))] {
        let mut list = list.clone();
        list[at] = value;
        let (outcome, _) = bench.run(&cdb(0x83, 1, 0, list.len()), &list, 0);
        assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
        assert_eq!(pointer(&outcome), field);
    }
    let (outcome, _) = bench.run(&cdb(0x83, 1, 0, 47), &list[..47], 0);
    assert_eq!(sense(&outcome), (5, code::PARAMETER_LIST_LENGTH_ERROR));
    assert!(bench.disk.log.is_empty());
    good(&bench.run(&cdb(0x83, 1, 0, list.len()), &list, 0).0);
}

#[test]
fn the_number_of_the_segment_at_fault_is_told() {
    let mut bench = Bench::new(geometry(1000, 512));
    let unit = bench.unit;
    let one = cscd(&bench, unit, 512);
    let right = segment(0, (0, 0), 8, 0, 100);
    let wrong = segment(0, (0, 0), 8, 0, 999);
    let outcome = copy(&mut bench, &list_1(1, 0, &[one], &[right.clone(), right, wrong]));
    assert_eq!(sense(&outcome), (0xa, 0));
    assert_eq!(outcome.sense[8..12], [0, 0, 0, 2]);
    assert!(bench.disk.log.is_empty(), "a list that cannot be done is not begun");
}

#[test]
fn operating_parameters_page_and_opcodes_say_the_same() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (outcome, parameters) = bench.run(&cdb(0x84, 3, 0, 1024), &[], 1024);
    good(&outcome);
    assert_eq!(parameters.len(), 46);
    assert_eq!(parameters[..4], 42_u32.to_be_bytes());
    assert_eq!(parameters[4], 1, "SNLID");
    assert_eq!(parameters[8..12], [0, 8, 0, 16]);
    assert_eq!(parameters[12..16], 704_u32.to_be_bytes());
    assert_eq!(parameters[16..20], (64_u32 << 20).to_be_bytes());
    assert_eq!(parameters[20..34], [0; 14]);
    assert_eq!(parameters[34..40], [0, 6, 4, 9, 0, 0]);
    assert_eq!(parameters[43..], [2, 0x02, 0xe4]);
    let (_, page) = bench.run(&[0x12, 1, 0x8f, 4, 0, 0], &[], 1024);
    assert_eq!(page[..2], [0, 0x8f]);
    assert_eq!(usize::from(u16::from_be_bytes([page[2], page[3]])), page.len() - 4);
    let (mut at, mut kinds) = (4, Vec::new());
    while at < page.len() {
        let kind = u16::from_be_bytes([page[at], page[at + 1]]);
        let length = usize::from(u16::from_be_bytes([page[at + 2], page[at + 3]]));
        let body = &page[at + 4..at + 4 + length];
        assert!(length.is_multiple_of(4));
        match kind {
            0x0000 => {
                assert_eq!(body.len(), 32);
                assert_eq!(body[6..16], [0, 16, 0, 0, 2, 0x58, 0, 0, 0, 60]);
                assert_eq!(body[16..24], (2_u64 << 20).to_be_bytes());
                assert_eq!(body[24..], (128_u64 << 10).to_be_bytes());
            }
            0x0001 => assert_eq!(commands(body), offered(&mut bench)),
            0x0004 => assert_eq!(body[4..12], parameters[8..16]),
            0x0008 => assert_eq!(body[..3], parameters[43..]),
            0x000c => assert_eq!(body[..4], [0, 2, 0xff, 0xff]),
            0x8001 => assert_eq!(body[..13], [0, 0, 0, 6, 0, 0, 0, 4, 4, 0, 0, 0, 9]),
            _ => {}
        }
        kinds.push(kind);
        at += 4 + length;
    }
    assert_eq!(at, page.len());
    assert!(kinds.is_sorted());
    for mandatory in [0x0000, 0x0001, 0x0004, 0x0008, 0x000c, 0x8001] {
        assert!(kinds.contains(&mandatory), "{mandatory:04x}");
    }
}

/// The commands of the supported commands descriptor.
fn commands(body: &[u8]) -> Vec<(u8, u8)> {
    let list = &body[1..1 + usize::from(body[0])];
    let (mut at, mut found) = (0, Vec::new());
    while at < list.len() {
        let count = usize::from(list[at + 1]);
        found.extend(list[at + 2..at + 2 + count].iter().map(|&action| (list[at], action)));
        at += 2 + count;
    }
    found
}

/// The same of REPORT SUPPORTED OPERATION CODES.
fn offered(bench: &mut Bench) -> Vec<(u8, u8)> {
    let (_, data) = bench.run(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0], &[], 0x2000);
    let rows = data[4..].chunks(8).filter(|row| matches!(row[0], 0x83 | 0x84));
    rows.map(|row| (row[0], row[3])).collect()
}
