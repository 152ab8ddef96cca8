//! Copies by token: POPULATE TOKEN, WRITE USING TOKEN and what is told of them.

use super::copy_lists::cdb;
use super::*;
use crate::testing::{Bench, geometry};
use crate::{Attribute, Traits, code};
use core::time::Duration;
use storage_block::{Error, Operation, Pool};

const POPULATE: u8 = 0x10;
const WRITE: u8 = 0x11;

/// A bench of two disks with something on them.
fn two() -> Bench {
    let mut bench = Bench::new(geometry(20_000, 512));
    bench.add(1, geometry(20_000, 512));
    bench.disk.bytes = pattern(20_000 * 512, 1);
    bench.others[0].disk.bytes = pattern(20_000 * 512, 2);
    bench
}

fn descriptors(ranges: &[(u64, u32)]) -> Vec<u8> {
    ranges
        .iter()
        .flat_map(|(lba, count)| [&lba.to_be_bytes()[..], &count.to_be_bytes(), &[0; 4]].concat())
        .collect()
}

pub(super) fn populate_list(flags: u8, timeout: u32, kind: u32, ranges: &[(u64, u32)]) -> Vec<u8> {
    let ranges = descriptors(ranges);
    let mut list = ((14 + ranges.len()) as u16).to_be_bytes().to_vec();
    list.extend([flags, 0]);
    list.extend(timeout.to_be_bytes());
    list.extend(kind.to_be_bytes());
    list.extend([0, 0]);
    list.extend((ranges.len() as u16).to_be_bytes());
    [list, ranges].concat()
}

pub(super) fn write_list(flags: u8, offset: u64, token: &[u8], ranges: &[(u64, u32)]) -> Vec<u8> {
    let ranges = descriptors(ranges);
    let mut list = ((534 + ranges.len()) as u16).to_be_bytes().to_vec();
    list.extend([flags, 0, 0, 0, 0, 0]);
    list.extend(offset.to_be_bytes());
    list.extend(token);
    list.extend([0; 6]);
    list.extend((ranges.len() as u16).to_be_bytes());
    [list, ranges].concat()
}

pub(super) fn command(action: u8, id: u32, length: usize) -> [u8; 16] {
    let mut cdb = cdb(0x83, action, 0, length);
    cdb[6..10].copy_from_slice(&id.to_be_bytes());
    cdb
}

fn run(bench: &mut Bench, lun: u8, cdb: &[u8], list: &[u8]) -> (Outcome, Vec<u8>) {
    let index = bench.start(bench.nexuses[0], [0, lun, 0, 0, 0, 0, 0, 0], cdb, list, 1024);
    bench.run_all();
    let slot = bench.slots.remove(index);
    (slot.outcome.expect("an end"), slot.data_in)
}

fn information(bench: &mut Bench, lun: u8, id: u32) -> Vec<u8> {
    let mut cdb = cdb(0x84, 7, 0, 1024);
    cdb[2..6].copy_from_slice(&id.to_be_bytes());
    let (outcome, data) = run(bench, lun, &cdb, &[]);
    good(&outcome);
    assert_eq!(usize::try_from(u32::from_be_bytes(data[..4].try_into().unwrap())).unwrap(), data.len() - 4);
    assert_eq!((data[15], &data[24..26]), (0xf1, &[0, 0][..]), "in blocks, and of no segments");
    data
}

/// The status and the blocks that are told.
fn told(data: &[u8]) -> (u8, u64) {
    (data[5], u64::from_be_bytes(data[16..24].try_into().unwrap()))
}

/// A token of these ranges of the first disk.
fn token(bench: &mut Bench, ranges: &[(u64, u32)]) -> Vec<u8> {
    let list = populate_list(0, 0, 0, ranges);
    good(&run(bench, 0, &command(POPULATE, 1, list.len()), &list).0);
    let data = information(bench, 0, 1);
    let blocks = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
    assert_eq!((data[4], told(&data)), (POPULATE, (1, blocks)));
    assert_eq!(data[8..12], [0; 4], "there is nothing to wait for");
    assert_eq!(data[32..38], [0, 0, 2, 2, 0, 0]);
    assert_eq!(data.len(), 38 + 512);
    data[38..].to_vec()
}

fn write(bench: &mut Bench, lun: u8, list: &[u8]) -> Outcome {
    run(bench, lun, &command(WRITE, 2, list.len()), list).0
}

#[test]
fn what_a_token_names_arrives_in_whatever_ranges_from_whatever_offset() {
    let mut bench = two();
    let token = token(&mut bench, &[(100, 50), (150, 50), (9_000, 6_000), (5, 1)]);
    assert_eq!(token[..8], [0x00, 0x80, 0x00, 0x01, 0, 0, 0x01, 0xf8]);
    let bytes = |lba: usize, count: usize| pattern(20_000 * 512, 1)[lba * 512..(lba + count) * 512].to_vec();
    let named = [bytes(100, 100), bytes(9_000, 6_000), bytes(5, 1)].concat();
    let mut model = [bench.disk.bytes.clone(), bench.others[0].disk.bytes.clone()];
    for (lun, offset, ranges) in [
        (1, 0, &[(3, 6_101)][..]),
        (1, 90, &[(7_000, 20), (19_990, 10), (10_000, 4_000)]),
        (0, 6_100, &[(0, 1)]),
    ] {
        let list = write_list(0, offset, &token, ranges);
        good(&write(&mut bench, lun, &list));
        let mut from = offset as usize * 512;
        for &(lba, count) in ranges {
            let (to, length) = (lba as usize * 512, count as usize * 512);
            model[usize::from(lun)][to..to + length].copy_from_slice(&named[from..from + length]);
            from += length;
        }
        let data = information(&mut bench, lun, 2);
        assert_eq!(told(&data), (1, ranges.iter().map(|(_, count)| u64::from(*count)).sum()));
        assert_eq!((data.len(), data[4]), (36, WRITE), "no token");
    }
    assert!(bench.disk.bytes == model[0] && bench.others[0].disk.bytes == model[1]);
    assert_eq!(bench.data.used() + bench.control.used(), 0);
}

#[test]
fn a_token_is_good_until_somebody_asks_for_a_change_of_what_it_names() {
    let mut bench = two();
    let first = token(&mut bench, &[(100, 50), (200, 50)]);
    let list = write_list(0, 0, &first, &[(0, 100)]);
    for cdb in [cdb10(0x2a, 0, 99, 1), cdb10(0x2a, 0, 150, 1), cdb10(0x28, 0, 100, 1)] {
        run(&mut bench, 0, &cdb, &[0; 512]);
        good(&write(&mut bench, 1, &list));
    }
    // Even if the change fails.
    bench.disk.faults.push((Operation::Write { fua: false }, 249 * 512, Error::Io));
    run(&mut bench, 0, &cdb10(0x2a, 0, 249, 1), &[0; 512]);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_REVOKED));
    let whole = cdb16(0x93, 0x01, 100, 1);
    let changes: [(&[u8], Vec<u8>); 4] = [
        (&whole, vec![]),
        (&unmap(24), unmap_list(&[(100, 1)])),
        (&compare_and_write(0, 100, 1), vec![7; 1024]),
        (&cdb16(0x8b, 0, 100, 1), vec![0; 512]),
    ];
    for (cdb, data) in changes {
        let token = token(&mut bench, &[(100, 1)]);
        run(&mut bench, 0, cdb, &data);
        let list = write_list(0, 0, &token, &[(0, 1)]);
        assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_REVOKED), "{cdb:02x?}");
    }
    // A copy over it, and itself over it.
    let token = token(&mut bench, &[(100, 1)]);
    let list = write_list(0, 0, &token, &[(100, 1)]);
    assert_eq!(sense(&write(&mut bench, 0, &list)), (5, code::TOKEN_REVOKED));
    bench.target.unit_mut(bench.unit).expect("it").replaced();
    bench.target.unit_mut(bench.unit).expect("it").accept_replacement();
    bench.target.unit_mut(bench.unit).expect("it").set_geometry(geometry(20_000, 512)).expect("a shape");
    assert!(!bench.target.unit(bench.unit).expect("it").tokens.any());
}

#[test]
fn a_token_waits_for_writes_before_it_and_is_revoked_by_those_behind() {
    let mut bench = two();
    let one = bench.nexuses[0];
    let before = bench.start(one, [0; 8], &cdb10(0x2a, 0, 100, 1), &[1; 512], 0);
    bench.step(before);
    let list = populate_list(0, 0, 0, &[(100, 1)]);
    let populate = bench.start(one, [0; 8], &command(POPULATE, 1, list.len()), &list, 0);
    bench.step(populate);
    bench.give(populate);
    bench.step(populate);
    assert_eq!(bench.slots[populate].waits, "blocked");
    bench.run_all();
    let data = information(&mut bench, 0, 1);
    let list = write_list(0, 0, &data[38..], &[(7, 1)]);
    good(&write(&mut bench, 1, &list));
    assert!(bench.others[0].disk.bytes[7 * 512..8 * 512] == [1; 512]);
    let behind = bench.start(one, [0; 8], &cdb10(0x2a, 0, 100, 1), &[2; 512], 0);
    bench.step(behind);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_REVOKED));
}

#[test]
fn a_token_is_not_of_what_a_change_behind_its_making_leaves_there() {
    for (attribute, lba, is_good) in [
        (Attribute::Ordered, 100, false),
        (Attribute::Ordered, 149, false),
        (Attribute::Ordered, 150, true),
        (Attribute::Ordered, 299, true),
        (Attribute::Ordered, 300, false),
        (Attribute::Simple, 100, false),
    ] {
        let mut bench = two();
        let nexus = bench.nexuses[0];
        let list = populate_list(0, 0, 0, &[(100, 50), (300, 1)]);
        let populate = bench.start(nexus, [0; 8], &command(POPULATE, 1, list.len()), &list, 0);
        bench.step(populate);
        let write_10 = cdb10(0x2a, 0, lba, 1);
        let change = bench.start_with(nexus, [0; 8], &write_10, &[2; 512], 0, attribute);
        if attribute == Attribute::Ordered {
            bench.step(change);
            assert_eq!(bench.slots[change].waits, "blocked");
        }
        bench.give(populate);
        bench.step(populate);
        good(&bench.slots[populate].outcome.expect("an end"));
        bench.run_all();
        let data = information(&mut bench, 0, 1);
        let list = write_list(0, 0, &data[38..], &[(7, 50)]);
        let outcome = write(&mut bench, 1, &list);
        if is_good {
            good(&outcome);
        } else {
            assert_eq!(sense(&outcome), (5, code::TOKEN_REVOKED), "{attribute:?}");
        }
    }
}

#[test]
fn a_token_does_not_outlive_the_loss_of_what_was_in_the_cache() {
    let mut bench = two();
    run(&mut bench, 0, &cdb10(0x2a, 0, 100, 1), &[2; 512]);
    let token = token(&mut bench, &[(100, 1)]);
    bench.disk.faults.push((Operation::Flush, 0, Error::Io));
    let (outcome, _) = run(&mut bench, 0, &cdb10(0x35, 0, 0, 0), &[]);
    assert_eq!(outcome.status, Status::CheckCondition);
    let list = write_list(0, 0, &token, &[(7, 1)]);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_REVOKED));
}

#[test]
fn who_has_done_all_has_not_done_a_part_however_long_it_took() {
    let mut bench = two();
    let token = token(&mut bench, &[(0, 8192)]);
    let list = write_list(0, 0, &token, &[(0, 8192)]);
    let cdb = command(WRITE, 2, list.len());
    let index = bench.start(bench.nexuses[0], [0, 1, 0, 0, 0, 0, 0, 0], &cdb, &list, 0);
    bench.step(index);
    bench.give(index);
    bench.step(index);
    bench.now += Duration::from_secs(3);
    bench.run_all();
    good(&bench.slots[index].outcome.expect("an end"));
    assert_eq!(told(&information(&mut bench, 1, 2)), (1, 8192));
}

#[test]
fn a_wrong_token_is_told_what_is_wrong_with_it() {
    let mut bench = two();
    let good_one = token(&mut bench, &[(100, 50)]);
    let one = &[(0, 50)][..];
    for at in [7, 8, 20, 50, 60, 140, 500, 511] {
        let mut token = good_one.clone();
        token[at] ^= 1;
        let list = write_list(0, 0, &token, one);
        assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_UNKNOWN), "byte {at}");
    }
    let mut token = good_one.clone();
    token[1] = 0x81;
    let list = write_list(0, 0, &token, one);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::UNSUPPORTED_TOKEN_TYPE));
    let list = write_list(0, 50, &good_one, one);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
    let list = write_list(0, 0, &good_one, one);
    bench.now += Duration::from_secs(60);
    good(&write(&mut bench, 1, &list));
    bench.now += Duration::from_secs(60);
    good(&write(&mut bench, 1, &list));
    bench.now += Duration::from_secs(61);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_EXPIRED));
    let token = self::token(&mut bench, &[(100, 50)]);
    good(&write(&mut bench, 1, &write_list(2, 0, &token, one)));
    let list = write_list(0, 0, &token, one);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_UNKNOWN), "deleted");
    bench.random = None;
    bench.target.secret = None;
    let list = populate_list(0, 0, 0, one);
    let (outcome, _) = run(&mut bench, 0, &command(POPULATE, 1, list.len()), &list);
    assert_eq!(sense(&outcome), (5, code::INSUFFICIENT_RESOURCES_TO_CREATE_ROD_TOKEN));
}

#[test]
fn of_many_tokens_the_longest_unused_goes() {
    let mut bench = two();
    let first = token(&mut bench, &[(0, 1)]);
    let second = token(&mut bench, &[(0, 1)]);
    for _ in 0..7 {
        bench.now += Duration::from_secs(1);
        good(&write(&mut bench, 1, &write_list(0, 0, &first, &[(0, 1)])));
        token(&mut bench, &[(0, 1)]);
    }
    good(&write(&mut bench, 1, &write_list(0, 0, &first, &[(0, 1)])));
    let list = write_list(0, 0, &second, &[(0, 1)]);
    assert_eq!(sense(&write(&mut bench, 1, &list)), (5, code::TOKEN_UNKNOWN));
}

#[test]
fn the_token_of_zeroes_clears_with_and_without_help_from_below() {
    let mut zeroes = vec![0; 512];
    zeroes[..8].copy_from_slice(&[0xff, 0xff, 0x00, 0x01, 0, 0, 0x01, 0xf8]);
    for (helps, declines) in [(true, false), (true, true), (false, false)] {
        let shape = storage_block::Geometry { write_zeroes: helps, ..geometry(20_000, 512) };
        let mut bench = Bench::with(shape, Traits::default(), &Pool::new(&[(4096, 32), (65536, 8)]));
        bench.disk.bytes = pattern(20_000 * 512, 1);
        let mut model = bench.disk.bytes.clone();
        if declines {
            let operation = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
            bench.disk.faults.push((operation, 5 * 512, Error::NotSupported));
        }
        let list = write_list(0, 0, &zeroes, &[(5, 10_000), (19_000, 1_000)]);
        good(&write(&mut bench, 0, &list));
        model[5 * 512..10_005 * 512].fill(0);
        model[19_000 * 512..].fill(0);
        assert!(bench.disk.bytes == model, "{helps} {declines}");
        assert_eq!(told(&information(&mut bench, 0, 2)), (1, 11_000));
        assert_eq!(bench.data.used() + bench.control.used(), 0);
    }
}

#[test]
fn who_takes_too_long_ends_with_what_he_has_done() {
    let mut bench = two();
    let token = token(&mut bench, &[(0, 20_000)]);
    let list = write_list(0, 0, &token, &[(0, 20_000)]);
    let cdb = command(WRITE, 2, list.len());
    let index = bench.start(bench.nexuses[0], [0, 1, 0, 0, 0, 0, 0, 0], &cdb, &list, 0);
    bench.step(index);
    bench.give(index);
    bench.step(index);
    bench.now += Duration::from_secs(3);
    bench.run_all();
    good(&bench.slots[index].outcome.expect("an end"));
    assert_eq!(told(&information(&mut bench, 1, 2)), (3, 8192), "one stretch");
    let list = write_list(0, 8192, &token, &[(8192, 20_000 - 8192)]);
    good(&write(&mut bench, 1, &list));
    assert!(bench.disk.bytes == bench.others[0].disk.bytes);
    // More than there is.
    let short = self::token(&mut bench, &[(0, 10)]);
    good(&write(&mut bench, 1, &write_list(0, 5, &short, &[(100, 10)])));
    assert_eq!(told(&information(&mut bench, 1, 2)), (3, 5));
}

#[test]
fn a_wrong_list_is_refused_with_its_field() {
    let mut bench = two();
    let right = populate_list(0, 0, 0, &[(0, 8), (100, 8)]);
    let with = |at: usize, value: u8| {
        let mut list = right.clone();
        list[at] = value;
        list
    };
    let field = code::INVALID_FIELD_IN_PARAMETER_LIST;
    let table = [
        ("a short list", right[..15].to_vec(), code::PARAMETER_LIST_LENGTH_ERROR, None),
        ("more ranges than bytes", right[..40].to_vec(), field, Some(0)),
        ("a data length that does not reach them", with(1, 30), field, Some(0)),
        ("IMMED", with(2, 1), field, Some(2)),
        ("a long time-out", with(6, 0x10), field, Some(4)),
        ("a type there is not", populate_list(2, 0, 0x0001_0000, &[(0, 8)]), field, Some(8)),
        ("half a range", with(15, 24), field, Some(14)),
        ("no range", populate_list(0, 0, 0, &[]), field, Some(14)),
        ("17 ranges", populate_list(0, 0, 0, &[(0, 1); 17]), code::TOO_MANY_SEGMENT_DESCRIPTORS, None),
        ("ranges of nothing", populate_list(0, 0, 0, &[(0, 0)]), field, Some(14)),
        ("the same twice", populate_list(0, 0, 0, &[(0, 8), (7, 8)]), field, Some(32)),
        ("behind the end", populate_list(0, 0, 0, &[(19_999, 2)]), code::LBA_OUT_OF_RANGE, None),
        ("far behind the end", populate_list(0, 0, 0, &[(u64::MAX, 2)]), code::LBA_OUT_OF_RANGE, None),
    ];
    for (what, list, code, at) in table {
        let (outcome, _) = run(&mut bench, 0, &command(POPULATE, 1, list.len()), &list);
        assert_eq!(sense(&outcome), (5, code), "{what}");
        let pointer = (outcome.sense[15] & 0xc0 == 0x80).then(|| outcome.sense[17]);
        assert_eq!(pointer, at, "{what}");
    }
    good(&run(&mut bench, 0, &command(POPULATE, 1, 0), &[]).0);
    let list = populate_list(2, 600, 0x0080_ffff, &[(0, 8)]);
    good(&run(&mut bench, 0, &command(POPULATE, 1, list.len()), &list).0);
    let list = write_list(0, 0, &[0; 512], &[(0, 8)]);
    assert_eq!(sense(&write(&mut bench, 0, &list[..535])), (5, code::PARAMETER_LIST_LENGTH_ERROR));
    let (outcome, _) = run(&mut bench, 0, &cdb(0x84, 7, 9, 255), &[]);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}
