//! Copies between units: bytes, order, what ends them, and what is told of them.

use super::copy_lists::{cdb, copy, cscd, list_1, list_4, segment};
use super::fuzz::Random;
use super::tokens::{command, populate_list, write_list};
use super::*;
use crate::testing::{Bench, geometry};
use crate::{Attribute, Traits, code};
use core::time::Duration;
use storage_block::{Error, Operation, Pool};

const READ: Operation = Operation::Read;
const WRITE: Operation = Operation::Write { fua: false };

/// A bench with two disks of the same size, the second with this block size, and the CSCD descriptors of both.
pub(super) fn two(blocks: u64, block: u32) -> (Bench, Vec<Vec<u8>>) {
    let mut bench = Bench::new(geometry(blocks, 512));
    let other = bench.add(1, geometry(blocks * 512 / u64::from(block), block));
    let unit = bench.unit;
    bench.disk.bytes = pattern((blocks * 512) as usize, 1);
    bench.others[0].disk.bytes = pattern((blocks * 512) as usize, 2);
    let cscds = vec![cscd(&bench, unit, 512), cscd(&bench, other, block)];
    (bench, cscds)
}

#[test]
fn bytes_go_from_any_unit_to_any() {
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (mut bench, cscds) = two(20_000, 512);
        let mut model = [bench.disk.bytes.clone(), bench.others[0].disk.bytes.clone()];
        // Longer than a stretch, and not by whole buffers.
        let (blocks, start, end) = (9_001, 10, 10_500);
        let moved = model[from][start * 512..][..blocks * 512].to_vec();
        model[to][end * 512..][..blocks * 512].copy_from_slice(&moved);
        let segment = segment(0, (from as u16, to as u16), blocks as u16, start as u64, end as u64);
        good(&copy(&mut bench, &list_1(1, 0, &cscds, &[segment])));
        assert!(bench.disk.bytes == model[0] && bench.others[0].disk.bytes == model[1], "{from} to {to}");
        assert_eq!(bench.data.used() + bench.control.used(), 0);
        assert_eq!(bench.target.unit(bench.unit).expect("it").tasks.len(), 0);
    }
}

#[test]
fn what_overlaps_arrives_as_it_was() {
    let pool = Pool::new(&[(4096, 8), (8192, 2)]);
    for (from, to) in
        [(100_u64, 101_u64), (101, 100), (100, 164), (164, 100), (100, 100), (0, 9000), (9000, 0)]
    {
        let mut bench = Bench::with(geometry(20_000, 512), Traits::default(), &pool);
        bench.disk.bytes = pattern(20_000 * 512, 3);
        let mut model = bench.disk.bytes.clone();
        let length = 10_000;
        model.copy_within(from as usize * 512..(from as usize + length) * 512, to as usize * 512);
        let unit = bench.unit;
        let segment = segment(0, (0, 0), length as u16, from, to);
        let list = list_1(1, 0, &[cscd(&bench, unit, 512)], &[segment]);
        good(&copy(&mut bench, &list));
        assert!(bench.disk.bytes == model, "{from} to {to}");
    }
}

#[test]
fn blocks_are_counted_where_dc_says_and_must_be_whole_in_both() {
    let (mut bench, cscds) = two(8_000, 4096);
    let mut model = bench.others[0].disk.bytes.clone();
    model[4096 * 3..4096 * 5].copy_from_slice(&bench.disk.bytes[512 * 7..512 * 23]);
    let by_source = list_1(1, 0, &cscds, &[segment(0, (0, 1), 16, 7, 3)]);
    good(&copy(&mut bench, &by_source));
    assert!(bench.others[0].disk.bytes == model);
    bench.others[0].disk.bytes.fill(0);
    let by_destination = list_1(1, 0, &cscds, &[segment(2, (0, 1), 2, 7, 3)]);
    good(&copy(&mut bench, &by_destination));
    assert!(bench.others[0].disk.bytes[4096 * 3..4096 * 5] == model[4096 * 3..4096 * 5]);
    let inexact = list_1(1, 0, &cscds, &[segment(0, (0, 1), 15, 7, 3)]);
    assert_eq!(sense(&copy(&mut bench, &inexact)), (0xa, code::UNEXPECTED_INEXACT_SEGMENT));
    let long = list_1(1, 0, &cscds, &[segment(2, (0, 1), 0xffff, 0, 0)]);
    assert_eq!(sense(&copy(&mut bench, &long)), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
}

#[test]
fn nothing_to_copy_is_no_error() {
    let (mut bench, cscds) = two(1_000, 512);
    good(&copy(&mut bench, &[]));
    good(&copy(&mut bench, &list_1(1, 0, &[], &[])));
    good(&copy(&mut bench, &list_1(1, 0, &cscds, &[])));
    let segments = [segment(0, (0, 1), 0, 1_000, 1_000), segment(2, (1, 0), 0, 0, 0)];
    good(&copy(&mut bench, &list_1(1, 0, &cscds, &segments)));
    assert!(bench.disk.log.is_empty() && bench.others[0].disk.log.is_empty());
    let (_, status) = bench.run(&cdb(0x84, 0, 1, 12), &[], 12);
    assert_eq!(status, [0, 0, 0, 8, 1, 0, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn what_became_of_a_copy_is_told_to_its_initiator_at_its_unit() {
    let (mut bench, cscds) = two(1_000, 512);
    let status = cdb(0x84, 0, 9, 12);
    let unknown = |bench: &mut Bench, nexus| {
        let (outcome, _) = bench.run_as(nexus, &status, &[], 12);
        assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
    };
    let [one, other] = bench.nexuses;
    unknown(&mut bench, one);
    let segments = [segment(0, (0, 1), 100, 0, 0), segment(0, (0, 1), 50, 0, 500)];
    good(&copy(&mut bench, &list_1(9, 0, &cscds, &segments)));
    let (_, data) = bench.run(&status, &[], 12);
    assert_eq!(data[..8], [0, 0, 0, 8, 1, 0, 2, 0]);
    assert_eq!(data[8..], (150_u32 * 512).to_be_bytes());
    let (_, details) = bench.run(&cdb(0x84, 4, 9, 255), &[], 255);
    assert_eq!(details, [0; 4], "it did not fail");
    unknown(&mut bench, other);
    bench.others[0].disk.faults.push((WRITE, 500 * 512, Error::Io));
    let outcome = copy(&mut bench, &list_1(9, 0, &cscds, &segments));
    assert_eq!(sense(&outcome), (0xa, code::THIRD_PARTY_DEVICE_FAILURE));
    assert_eq!(outcome.sense[8..12], [0, 0, 0, 1]);
    let (_, data) = bench.run(&status, &[], 12);
    assert_eq!(data[4..8], [2, 0, 1, 0]);
    assert_eq!(data[8..], (100_u32 * 512).to_be_bytes());
    let (_, details) = bench.run(&cdb(0x84, 4, 9, 255), &[], 255);
    assert_eq!((details[56], usize::from(details[59])), (2, details.len() - 60));
    assert_eq!(details[60..], outcome.sense[..]);
    bench.target.lun_reset(bench.unit);
    bench.run_as(one, &[0; 6], &[], 0);
    unknown(&mut bench, one);
}

#[test]
fn a_copy_without_identifier_is_not_asked_for_and_the_session_takes_the_others_with_it() {
    let (mut bench, cscds) = two(1_000, 512);
    let segments = [segment(0, (0, 1), 100, 0, 0)];
    good(&copy(&mut bench, &list_1(0, 3, &cscds, &segments)));
    let (outcome, _) = bench.run(&cdb(0x84, 0, 0, 12), &[], 12);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
    good(&copy(&mut bench, &list_1(0, 2, &cscds, &segments)));
    good(&bench.run(&cdb(0x84, 0, 0, 12), &[], 12).0);
    bench.target.detach(bench.nexuses[0]);
    let (outcome, _) = bench.run(&cdb(0x84, 0, 0, 12), &[], 12);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}

/// Begin a copy and give it its list.
pub(super) fn start(bench: &mut Bench, action: u8, list: &[u8], attribute: Attribute) -> usize {
    let nexus = bench.nexuses[0];
    let index = bench.start_with(nexus, [0; 8], &cdb(0x83, action, 0, list.len()), list, 0, attribute);
    bench.step(index);
    bench.give(index);
    bench.step(index);
    index
}

#[test]
fn a_running_copy_keeps_its_identifier_and_so_many_run_and_no_more() {
    let (mut bench, cscds) = two(1_000, 512);
    let list = |id: u8| list_1(id, 0, &cscds, &[segment(0, (0, 1), 8, u64::from(id) * 8, u64::from(id) * 8)]);
    for id in 1..=3 {
        start(&mut bench, 0, &list(id), Attribute::Simple);
    }
    let again = start(&mut bench, 0, &list(2), Attribute::Simple);
    assert_eq!(sense(&bench.slots[again].outcome.expect("an end")), (5, code::OPERATION_IN_PROGRESS));
    let status = bench.start(bench.nexuses[0], [0; 8], &cdb(0x84, 0, 2, 12), &[], 12);
    bench.step(status);
    assert_eq!(bench.slots[status].data_in[4..8], [0, 0, 0, 0], "in progress");
    start(&mut bench, 0, &list(4), Attribute::Simple);
    let fifth = bench.start(bench.nexuses[0], [0; 8], &cdb(0x83, 0, 0, 92), &list(5), 0);
    bench.step(fifth);
    assert_eq!(bench.slots[fifth].outcome.expect("an end").status, Status::TaskSetFull);
    bench.run_all();
    good(&copy(&mut bench, &list(5)));
}

#[test]
fn identifiers_of_four_bytes_have_their_own_answers_and_can_be_stopped() {
    let (mut bench, cscds) = two(20_000, 512);
    let list = list_4(0x0102_0304, &cscds, &[segment(0, (0xffff, 1), 20_000, 0, 0)]);
    let name = |opcode: u8, action: u8| {
        let mut cdb = cdb(opcode, action, 0, if opcode == 0x84 { 255 } else { 0 });
        cdb[2..6].copy_from_slice(&[1, 2, 3, 4]);
        cdb
    };
    let copy = start(&mut bench, 1, &list, Attribute::Simple);
    let asked = bench.start(bench.nexuses[0], [0; 8], &name(0x84, 5), &[], 255);
    bench.step(asked);
    let data = bench.slots[asked].data_in.clone();
    assert_eq!((data.len(), data[4], data[5]), (32, 1, 0x11));
    let abort = bench.start(bench.nexuses[0], [0; 8], &name(0x83, 0x1c), &[], 0);
    bench.step(abort);
    good(&bench.slots[abort].outcome.expect("an end"));
    bench.run_all();
    let written = bench.others[0].disk.log.len();
    assert!(written <= 4, "{written} writes after it was stopped");
    assert_eq!(sense(&bench.slots[copy].outcome.expect("an end")), (0xa, 0));
    let (_, data) = bench.run(&name(0x84, 5), &[], 255);
    assert_eq!((data[4], data[5]), (1, 0x60));
    let (outcome, _) = bench.run(&name(0x83, 0x1c), &[], 0);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB), "it has ended");
    good(&bench.run(&cdb(0x83, 1, 0, list.len()), &list, 0).0);
    let (_, data) = bench.run(&name(0x84, 5), &[], 255);
    assert_eq!((data[4], data[5], data[15]), (1, 0x01, 0));
    assert_eq!(data[16..24], (20_000_u64 * 512).to_be_bytes());
    assert!(bench.disk.bytes == bench.others[0].disk.bytes);
}

#[test]
fn a_copy_needs_what_a_read_of_the_one_and_a_write_of_the_other_need() {
    const WRITE_EXCLUSIVE: u8 = 1;
    const EXCLUSIVE: u8 = 3;
    let out = |action: u8, kind: u8| [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let reserve = |bench: &mut Bench, lun: u8, kind: u8| {
        let mut key = vec![0; 24];
        key[15] = 7;
        let lun = [0, lun, 0, 0, 0, 0, 0, 0];
        let holder = bench.nexuses[1];
        bench.start(holder, lun, &out(6, 0), &key, 0);
        bench.run_all();
        key.rotate_left(8);
        bench.start(holder, lun, &out(1, kind), &key, 0);
        bench.run_all();
    };
    let there = segment(0, (0, 1), 8, 0, 0);
    let back = segment(0, (1, 0), 8, 0, 0);
    for (kind, reads, writes) in [(WRITE_EXCLUSIVE, true, false), (EXCLUSIVE, false, false)] {
        let (mut bench, cscds) = two(1_000, 512);
        reserve(&mut bench, 1, kind);
        for (list, allowed) in [(&there, writes), (&back, reads)] {
            let outcome = copy(&mut bench, &list_1(1, 0, &cscds, std::slice::from_ref(list)));
            if allowed {
                good(&outcome);
            } else {
                assert_eq!(outcome.status, Status::ReservationConflict);
            }
        }
        assert_eq!(bench.others[0].disk.log.iter().filter(|(operation, ..)| *operation == WRITE).count(), 0);
    }
    let (mut bench, cscds) = two(1_000, 512);
    bench.start(bench.nexuses[1], [0, 1, 0, 0, 0, 0, 0, 0], &[0x16, 0, 0, 0, 0, 0], &[], 0);
    bench.run_all();
    for list in [&there, &back] {
        let outcome = copy(&mut bench, &list_1(1, 0, &cscds, std::slice::from_ref(list)));
        assert_eq!(outcome.status, Status::ReservationConflict);
    }
    let (mut bench, cscds) = two(1_000, 512);
    let read_only = storage_block::Geometry { read_only: true, ..geometry(1_000, 512) };
    let other = bench.others[0].unit;
    bench.target.unit_mut(other).expect("it").set_geometry(read_only).expect("it");
    let outcome = copy(&mut bench, &list_1(1, 0, &cscds, &[there]));
    assert_eq!(sense(&outcome), (0xa, code::THIRD_PARTY_DEVICE_FAILURE));
    good(&copy(&mut bench, &list_1(1, 0, &cscds, &[back])));
    assert!(bench.others[0].disk.log.iter().all(|(operation, ..)| *operation == READ));
}

#[test]
fn not_now_is_only_told_while_nothing_was_done() {
    let (mut bench, cscds) = two(20_000, 512);
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 20_000, 0, 0)]);
    // The last of those that are read together comes back first.
    bench.disk.faults.push((READ, 3 << 18, Error::Lost));
    let outcome = copy(&mut bench, &list);
    assert_eq!(outcome.status, Status::Busy);
    // One of the second stretch.
    bench.disk.faults.push((READ, 4 << 20, Error::Lost));
    let outcome = copy(&mut bench, &list);
    assert_eq!(sense(&outcome), (0xa, code::THIRD_PARTY_DEVICE_FAILURE));
    let (_, status) = bench.run(&cdb(0x84, 0, 1, 12), &[], 12);
    assert_eq!(status[8..], (4_u32 << 20).to_be_bytes());
}

#[test]
fn who_overlaps_waits_for_a_stretch_and_no_longer() {
    let (mut bench, cscds) = two(20_000, 512);
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 20_000, 0, 0)]);
    let first = bench.nexuses[1];
    let copy = start(&mut bench, 0, &list, Attribute::Simple);
    let block = vec![9; 512];
    let write_source = bench.start(first, [0; 8], &cdb10(0x2a, 0, 8_000, 1), &block, 0);
    let beside = bench.start(first, [0; 8], &cdb10(0x2a, 0, 19_000, 1), &block, 0);
    let read_there = bench.start(first, [0, 1, 0, 0, 0, 0, 0, 0], &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.step_all();
    assert_eq!((bench.slots[write_source].waits, bench.slots[read_there].waits), ("blocked", "blocked"));
    assert_ne!(bench.slots[beside].waits, "blocked");
    while bench.slots[copy].outcome.is_none() && bench.slots[read_there].outcome.is_none() {
        bench.step_all();
        match (bench.disk.pending.is_empty(), bench.others[0].disk.pending.is_empty()) {
            (_, false) => bench.complete_other(0, 0),
            (false, _) => bench.complete(0),
            _ => break,
        }
        for asking in [write_source, beside] {
            while !bench.slots[asking].receives.is_empty() {
                bench.give(asking);
            }
        }
    }
    assert!(bench.slots[copy].outcome.is_none(), "the reader has its turn before the copy has ended");
    bench.run_all();
    let copied = &bench.others[0].disk.bytes;
    assert!(
        copied[8_000 * 512..8_001 * 512] != block[..]
            && bench.disk.bytes[8_000 * 512..8_001 * 512] == block[..]
    );
}

#[test]
fn an_ordered_copy_within_a_unit_stands_before_all_that_comes_after_it() {
    let (mut bench, cscds) = two(20_000, 512);
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 0), 9_000, 0, 10_000)]);
    let copy = start(&mut bench, 0, &list, Attribute::Ordered);
    let after = bench.start(bench.nexuses[1], [0; 8], &cdb10(0x28, 0, 19_999, 1), &[], 512);
    while bench.slots[copy].outcome.is_none() {
        bench.step_all();
        assert!(bench.slots[copy].outcome.is_some() || bench.slots[after].waits == "blocked");
        if !bench.disk.pending.is_empty() {
            bench.complete(0);
        }
    }
    bench.run_all();
    good(&bench.slots[after].outcome.expect("an end"));
}

#[test]
fn an_aborted_copy_ends_when_nothing_of_it_is_under_way_and_leaves_no_place_taken() {
    for completed in 0..12 {
        let (mut bench, cscds) = two(20_000, 512);
        let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 20_000, 0, 0)]);
        let copy = start(&mut bench, 0, &list, Attribute::Simple);
        for _ in 0..completed {
            bench.step_all();
            if bench.others[0].disk.pending.is_empty() {
                bench.complete(0);
            } else {
                bench.complete_other(0, 0);
            }
        }
        bench.slots[copy].command.abort();
        let under_way = bench.disk.pending.len() + bench.others[0].disk.pending.len();
        bench.step_all();
        assert_eq!(bench.slots[copy].outcome.is_none(), under_way > 0);
        bench.run_all();
        assert_eq!(bench.slots[copy].outcome.expect("an end").status, Status::TaskAborted);
        assert_eq!(bench.data.used() + bench.control.used(), 0);
        for unit in [bench.unit, bench.others[0].unit] {
            assert_eq!(bench.target.unit(unit).expect("it").tasks.len(), 0);
        }
        bench.slots.clear();
        good(&super::copy_lists::copy(&mut bench, &list));
    }
}

#[test]
fn a_unit_that_writes_through_has_what_was_copied_on_its_medium() {
    for fua in [true, false] {
        let mut bench = Bench::new(geometry(20_000, 512));
        let other = bench.add(1, storage_block::Geometry { fua, ..geometry(20_000, 512) });
        bench.disk.bytes = pattern(20_000 * 512, 1);
        let unit = bench.target.unit_mut(other).expect("it");
        unit.modes.write_cache_disabled = true;
        let first = bench.unit;
        let cscds = [cscd(&bench, first, 512), cscd(&bench, other, 512)];
        let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 20_000, 0, 0)]);
        good(&copy(&mut bench, &list));
        assert!(bench.others[0].disk.durable == bench.disk.bytes, "FUA: {fua}");
        assert!(!bench.target.unit(other).expect("it").is_dirty());
        bench.target.unit_mut(other).expect("it").backend_lost(true);
        let outcome = copy(&mut bench, &list);
        assert_eq!(sense(&outcome), (0xa, code::THIRD_PARTY_DEVICE_FAILURE), "writes were lost");
    }
    let (mut bench, cscds) = two(1_000, 512);
    good(&copy(&mut bench, &list_1(1, 0, &cscds, &[segment(0, (0, 1), 8, 0, 0)])));
    assert!(bench.target.unit(bench.others[0].unit).expect("it").is_dirty(), "a flush is owed for it");
}

#[test]
fn a_disk_that_is_another_one_now_gets_nothing_of_the_copy() {
    let (mut bench, cscds) = two(20_000, 512);
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 20_000, 0, 0)]);
    let copy = start(&mut bench, 0, &list, Attribute::Simple);
    let other = bench.others[0].unit;
    bench.target.unit_mut(other).expect("it").replaced();
    bench.target.unit_mut(other).expect("it").accept_replacement();
    bench.target.unit_mut(other).expect("it").set_geometry(geometry(20_000, 512)).expect("a shape");
    bench.run_all();
    assert_eq!(sense(&bench.slots[copy].outcome.expect("an end")).0, 0xa);
    assert!(bench.others[0].disk.log.is_empty());
}

/// Copies across and back, of all attributes, among reads and writes of both units, with lists that are right and lists in
/// which something was changed, errors below, aborts and resets: everything comes to an end, and all places are free then.
#[test]
fn whatever_is_asked_for_comes_to_an_end() {
    for seed in 1..120 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (mut bench, cscds) = two(3_000, 512);
        if seed % 3 == 0 {
            bench.data = Pool::new(&[(512, 2), (4096, 3)]).share(usize::MAX / 2);
        }
        let attributes = [Attribute::Simple, Attribute::Simple, Attribute::Ordered, Attribute::HeadOfQueue];
        for _ in 0..80 {
            let lun = random.below(2) as u8;
            let (from, to) = (random.below(2) as u16, random.below(2) as u16);
            let blocks = random.below(900) as u16;
            let segments: Vec<_> = (0..random.below(4))
                .map(|_| segment(0, (from, to), blocks, random.below(2_100), random.below(2_100)))
                .collect();
            let is_long = random.below(2) == 0;
            let id = random.below(8);
            let mut list = if is_long {
                list_4(id as u32, &cscds, &segments)
            } else {
                list_1(id as u8, 0, &cscds, &segments)
            };
            for _ in 0..random.below(4).saturating_sub(1) {
                let at = random.below(list.len() as u64) as usize;
                list[at] = random.byte();
            }
            let mut length = list.len();
            if random.below(16) == 0 {
                length = random.below(length as u64 + 40) as usize;
            }
            let ranges: Vec<_> =
                (0..1 + random.below(4)).map(|_| (random.below(3_000), random.below(60) as u32)).collect();
            let (cdb, data) = match random.below(8) {
                6 => {
                    let list = populate_list(0, random.below(700) as u32, 0, &ranges);
                    (command(0x10, id as u32, list.len()), list)
                }
                7 => {
                    // That of zeroes, or the last that was told.
                    let told = bench.slots.iter().rev().find(|slot| slot.data_in.len() == 550);
                    let mut token = told.map_or(vec![0; 512], |slot| slot.data_in[38..].to_vec());
                    if random.below(3) == 0 {
                        token = [&[0xff, 0xff, 0, 1][..], &[0; 508]].concat();
                    }
                    let mut list = write_list(random.byte() & 2, random.below(4), &token, &ranges);
                    if random.below(4) == 0 {
                        let at = random.below(list.len() as u64) as usize;
                        list[at] = random.byte();
                    }
                    (command(0x11, id as u32, list.len()), list)
                }
                0 => (cdb16(0x88, 0, random.below(2_900), 100), vec![]),
                1 => (cdb16(0x8a, 0, random.below(2_900), 100), pattern(51_200, 5)),
                2 => (cdb16(0x91, 0, 0, 0), vec![]),
                3 if random.below(2) == 0 => (cdb(0x84, random.below(8) as u8, id as u8, 255), vec![]),
                3 => (cdb(0x83, 0x1c, 0, 0), vec![]),
                _ => (cdb(0x83, u8::from(is_long), 0, length), list),
            };
            let nexus = bench.nexuses[random.below(2) as usize];
            let attribute = attributes[random.below(4) as usize];
            let lun = [0, lun, 0, 0, 0, 0, 0, 0];
            if bench.slots.iter().filter(|slot| slot.outcome.is_none()).count() < 30 {
                bench.start_with(nexus, lun, &cdb, &data, 60_000, attribute);
            }
            let slot = random.below(bench.slots.len() as u64) as usize;
            match random.below(40) {
                0 if bench.slots[slot].outcome.is_none() => {
                    bench.slots[slot].command.abort();
                    bench.slots[slot].receives.clear();
                }
                1 => bench.disk.faults.push((READ, random.below(3_000) * 512, Error::Io)),
                6 => {
                    let zeroes = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
                    let error = if random.below(2) == 0 { Error::NotSupported } else { Error::Io };
                    bench.disk.faults.push((zeroes, random.below(3_000) * 512, error));
                }
                7 => bench.now += Duration::from_secs(2),
                2 => bench.others[0].disk.faults.push((WRITE, random.below(3_000) * 512, Error::Lost)),
                3 => bench.target.target_reset(),
                4 => bench.target.detach(nexus),
                5 if random.below(4) == 0 => {
                    let other = bench.others[0].unit;
                    bench.target.unit_mut(other).expect("it").replaced();
                    bench.target.unit_mut(other).expect("it").accept_replacement();
                    bench.target.unit_mut(other).expect("it").set_geometry(geometry(3_000, 512)).expect("it");
                }
                _ => {}
            }
            for _ in 0..random.below(6) {
                stir(&mut bench, &mut random);
            }
        }
        while stir(&mut bench, &mut random) {}
        bench.run_all();
        assert_eq!(bench.data.used() + bench.control.used(), 0, "seed {seed}");
        for unit in [bench.unit, bench.others[0].unit] {
            assert_eq!(bench.target.unit(unit).expect("it").tasks.len(), 0, "seed {seed}");
        }
        assert!(format!("{:?}", bench.target).contains("Operations(0 running)"), "seed {seed}");
    }
}

/// Do something that can be done next, chosen at random. False when there is nothing.
fn stir(bench: &mut Bench, random: &mut Random) -> bool {
    bench.step_all();
    let asking: Vec<_> = (0..bench.slots.len()).filter(|i| !bench.slots[*i].receives.is_empty()).collect();
    let (here, there) = (bench.disk.pending.len(), bench.others[0].disk.pending.len());
    let choice = random.below((asking.len() + here + there).max(1) as u64) as usize;
    if let Some(&index) = asking.get(choice) {
        bench.give(index);
    } else if here + there == 0 {
        return false;
    } else if choice - asking.len() < here {
        bench.complete(choice - asking.len());
    } else {
        bench.complete_other(0, choice - asking.len() - here);
    }
    true
}
