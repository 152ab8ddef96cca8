//! Commands that are wrong, and what is wrong with them.

use super::*;
use crate::code::{
    INVALID_FIELD_IN_CDB as CDB, INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT as UNIT,
    INVALID_FIELD_IN_PARAMETER_LIST as LIST, INVALID_OPERATION_CODE as OPCODE, LBA_OUT_OF_RANGE as RANGE,
    PARAMETER_LIST_LENGTH_ERROR as LENGTH,
};
use crate::testing::{Bench, geometry};

#[test]
fn a_wrong_command_ends_with_its_sense_and_changes_nothing() {
    let some = pattern(1 << 20, 9);
    let unmap_with = |ranges: &[(u64, u32)], edit: fn(&mut Vec<u8>)| {
        let mut list = unmap_list(ranges);
        edit(&mut list);
        list
    };
    let descriptors = unmap_with(&[(0, 1)], |list| list[3] = 0xff);
    let overflow = unmap_with(&[(u64::MAX, 1)], |_| {});
    let too_many = unmap_with(&[(0, 600_000), (0, 600_000)], |_| {});
    let beyond = unmap_with(&[(0, 1), (1000, 1)], |_| {});
    let table: &[(&str, &[u8], &[u8], u16)] = &[
        ("unknown opcode", &[0x85; 16], &[], OPCODE),
        ("unknown group 3", &[0x7f; 16], &[], OPCODE),
        ("unknown group 6", &[0xc0, 0, 0, 0, 0, 0], &[], OPCODE),
        ("WRITE BUFFER", &cdb10(0x3b, 0, 0, 0), &[], OPCODE),
        ("unknown service action of EXTENDED COPY", &cdb16(0x83, 0x1e, 0, 0), &[], CDB),
        ("RECEIVE COPY DATA", &cdb16(0x84, 0x01, 0, 0), &[], CDB),
        ("FORMAT UNIT", &[0x04, 0, 0, 0, 0, 0], &[], OPCODE),
        ("unknown service action", &cdb16(0x9e, 0x11, 0, 32), &[], CDB),
        ("unknown service action of MAINTENANCE IN", &cdb12(0xa3, 0x0b, 0, 32), &[], CDB),
        ("RDPROTECT", &cdb10(0x28, 0x20, 0, 1), &[], CDB),
        ("WRPROTECT", &cdb16(0x8a, 0xe0, 0, 1), &some[..512], CDB),
        ("VRPROTECT", &cdb12(0xaf, 0x20, 0, 1), &[], CDB),
        ("ORPROTECT", &cdb16(0x8b, 0x20, 0, 1), &some[..512], CDB),
        ("RARC", &cdb10(0x28, 0x04, 0, 1), &[], CDB),
        ("reserved byte", &[0x00, 0, 0, 1, 0, 0], &[], CDB),
        ("NACA", &[0x00, 0, 0, 0, 0, 4], &[], CDB),
        ("LINK", &[0x00, 0, 0, 0, 0, 1], &[], CDB),
        ("INQUIRY with CMDDT", &[0x12, 2, 0, 0, 255, 0], &[], CDB),
        ("WRITE SAME with LBDATA", &cdb10(0x41, 2, 0, 1), &some[..512], CDB),
        ("WRITE SAME with PBDATA", &cdb10(0x41, 4, 0, 1), &some[..512], CDB),
        ("WRITE SAME with ANCHOR", &cdb16(0x93, 0x10, 0, 1), &some[..512], CDB),
        ("WRITE SAME with ANCHOR and UNMAP", &cdb16(0x93, 0x18, 0, 1), &some[..512], CDB),
        ("WRITE SAME of half a block", &cdb10(0x41, 0, 0, 1), &some[..256], UNIT),
        ("WRITE SAME of two blocks", &cdb10(0x41, 0, 0, 1), &some[..1024], UNIT),
        ("UNMAP with ANCHOR", &cdb10(0x42, 1, 0, 0), &[], CDB),
        ("UNMAP of a list too short", &unmap(7), &some[..7], LENGTH),
        ("UNMAP of a list too long", &unmap(4097), &some[..4097], LENGTH),
        ("UNMAP without its list", &unmap(24), &some[..23], UNIT),
        ("UNMAP with descriptors beyond the list", &unmap(24), &descriptors, LIST),
        ("UNMAP of an LBA that overflows", &unmap(24), &overflow, RANGE),
        ("UNMAP of too many blocks", &unmap(40), &too_many, RANGE),
        ("UNMAP whose second range is wrong", &unmap(40), &beyond, RANGE),
        ("VERIFY with BYTCHK 10b", &cdb10(0x2f, 4, 0, 1), &some[..512], CDB),
        ("WRITE AND VERIFY with BYTCHK 11b", &cdb10(0x2e, 6, 0, 1), &some[..512], CDB),
        ("COMPARE AND WRITE of too little data", &compare_and_write(0, 0, 3), &some[..2048], CDB),
        ("COMPARE AND WRITE of too much data", &compare_and_write(0, 0, 1), &some[..2048], CDB),
        ("COMPARE AND WRITE of 256 blocks", &compare_and_write(0, 0, 0), &some[..262_144], CDB),
        ("READ(16) of everything", &cdb16(0x88, 0, u64::MAX, u32::MAX), &[], RANGE),
        ("READ(16) that wraps", &cdb16(0x88, 0, u64::MAX - 1, 4), &[], RANGE),
        ("READ(16) at 2^63", &cdb16(0x88, 0, 1 << 63, 1), &[], RANGE),
        ("READ(10) over the end", &cdb10(0x28, 0, 999, 2), &[], RANGE),
        ("READ(10) of nothing beyond the end", &cdb10(0x28, 0, 1001, 0), &[], RANGE),
        ("WRITE(10) over the end", &cdb10(0x2a, 0, 999, 2), &some[..1024], RANGE),
        ("WRITE(12) over the end", &cdb12(0xaa, 0, 0, 1001), &some, RANGE),
        ("VERIFY(16) of nothing beyond the end", &cdb16(0x8f, 2, 1001, 0), &[], RANGE),
        ("SYNCHRONIZE CACHE beyond the end", &cdb10(0x35, 0, 1000, 1), &[], RANGE),
        ("PRE-FETCH beyond the end", &cdb16(0x90, 0, 1001, 0), &[], RANGE),
        ("WRITE SAME of nothing beyond the end", &cdb10(0x41, 0, 1001, 0), &some[..512], RANGE),
        ("COMPARE AND WRITE over the end", &compare_and_write(0, 1000, 1), &some[..1024], RANGE),
        ("ORWRITE over the end", &cdb16(0x8b, 0, 999, 2), &some[..1024], RANGE),
        ("START STOP UNIT that ejects a fixed disk", &[0x1b, 0, 0, 0, 2, 0], &[], CDB),
        ("PREVENT ALLOW of a reserved value", &[0x1e, 0, 0, 0, 2, 0], &[], CDB),
        ("MODE SELECT that saves", &[0x15, 0x11, 0, 0, 4, 0], &[0; 4], CDB),
        ("MODE SELECT without PF", &[0x15, 0, 0, 0, 4, 0], &[0; 4], CDB),
        ("MODE SELECT of half a header", &[0x15, 0x10, 0, 0, 3, 0], &[0; 3], LENGTH),
        ("MODE SELECT of an unknown page", &[0x15, 0x10, 0, 0, 6, 0], &[0, 0, 0, 0, 2, 0], LIST),
        ("MODE SELECT of a page of wrong length", &[0x15, 0x10, 0, 0, 6, 0], &[0, 0, 0, 0, 8, 0], LIST),
        ("MODE SELECT of half a page", &[0x15, 0x10, 0, 0, 8, 0], &[0, 0, 0, 0, 8, 18, 0, 0], LENGTH),
        (
            "MODE SELECT of another block size",
            &[0x15, 0x10, 0, 0, 12, 0],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0],
            LIST,
        ),
        (
            "MODE SELECT(10) whose descriptor is longer than it",
            &cdb10(0x55, 0x10, 0, 8),
            &[0, 0, 0, 0, 0, 0, 0xff, 0xff],
            LENGTH,
        ),
        ("PERSISTENT RESERVE OUT of no list", &cdb10(0x5f, 0, 0, 0), &[], LENGTH),
        (
            "PERSISTENT RESERVE OUT of a huge list",
            &[0x5f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
            &[],
            LENGTH,
        ),
        ("PERSISTENT RESERVE OUT of 25 bytes", &[0x5f, 6, 0, 0, 0, 0, 0, 0, 25, 0], &[0; 25], LENGTH),
        ("PERSISTENT RESERVE OUT of service action 8", &[0x5f, 8, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24], CDB),
        ("PERSISTENT RESERVE IN of service action 4", &cdb10(0x5e, 4, 0, 255), &[], CDB),
        ("READ CAPACITY(10) with an LBA", &cdb10(0x25, 0, 1, 0), &[], CDB),
        ("REPORT SUPPORTED OPERATION CODES by option 4", &cdb12(0xa3, 0x0c, 0x0400_0000, 255), &[], CDB),
    ];
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.bytes.fill(0x55);
    for (what, cdb, data, code) in table {
        let (outcome, sent) = bench.run(cdb, data, 4096);
        assert_eq!(sense(&outcome), (5, *code), "{what}");
        assert!(sent.is_empty(), "{what}");
        assert!(bench.disk.log.is_empty(), "{what}");
    }
}

/// A bench whose unit is larger than what is behind it, for commands that are refused.
fn large(blocks: u64) -> Bench {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.target.unit_mut(bench.unit).expect("it").set_geometry(geometry(blocks, 512)).expect("a shape");
    bench.run(&[0; 6], &[], 0);
    bench
}

#[test]
fn more_than_the_limits_is_refused() {
    let mut bench = large(400_000);
    let one = [7; 512];
    let table: &[(&[u8], &[u8])] = &[
        (&cdb16(0x88, 0, 0, 65537), &[]),
        (&cdb12(0xaa, 0, 0, 65537), &one),
        (&cdb16(0x8f, 0, 0, 65537), &[]),
        (&cdb16(0x93, 0, 0, 131_073), &one),
        (&cdb16(0x93, 0, 0, 0), &one),
        (&cdb16(0x90, 0, 0, 131_073), &[]),
    ];
    for (cdb, data) in table {
        let (outcome, _) = bench.run(cdb, data, 512);
        assert_eq!(sense(&outcome), (5, CDB), "{cdb:02x?}");
    }
    let list = unmap_list(&[(0, 200_000), (200_000, 200_000)]);
    let index = bench.start(bench.nexuses[0], [0; 8], &unmap(40), &list, 0);
    bench.step(index);
    bench.give(index);
    assert!(bench.slots[index].outcome.is_none(), "that much can be given back");
    let mut bench = large(2_000_000);
    let list = unmap_list(&[(0, 600_000), (600_000, 600_000)]);
    assert_eq!(sense(&bench.run(&unmap(40), &list, 0).0), (5, LIST));
}

#[test]
fn nothing_right_behind_the_last_block_is_no_error() {
    let mut bench = Bench::new(geometry(1000, 512));
    let table: &[&[u8]] = &[
        &cdb10(0x28, 0, 1000, 0),
        &cdb16(0x8a, 0, 1000, 0),
        &cdb10(0x2f, 2, 1000, 0),
        &cdb10(0x2f, 0, 1000, 0),
        &cdb10(0x2f, 6, 1000, 0),
        &cdb16(0x8e, 2, 1000, 0),
        &cdb16(0x8b, 0, 1000, 0),
        &compare_and_write(0, 1000, 0),
        &cdb16(0x90, 0, 1000, 0),
        &cdb16(0x91, 0, 1000, 0),
    ];
    for cdb in table {
        good(&bench.run(cdb, &[], 512).0);
    }
    good(&bench.run(&cdb10(0x41, 0, 1000, 0), &[1; 512], 0).0);
    good(&bench.run(&unmap(24), &unmap_list(&[(1000, 0)]), 0).0);
    good(&bench.run(&unmap(8), &unmap_list(&[]), 0).0);
    good(&bench.run(&unmap(0), &[], 0).0);
    good(&bench.run(&[0x15, 0x10, 0, 0, 0, 0], &[], 0).0);
}

#[test]
fn a_field_pointer_names_the_field() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(bench.run(&cdb10(0x28, 0x20, 0, 1), &[], 512).0.sense[15..18], [0xcf, 0, 1]);
    let (outcome, _) = bench.run(&[0x15, 0x10, 0, 0, 6, 0], &[0, 0, 0, 0, 2, 0], 0);
    assert_eq!(outcome.sense[15..18], [0x8d, 0, 4]);
}
