//! Filling, giving back, and what is told of it.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Traits, code};
use storage_block::{Error, Extent, Geometry, Operation, Pool};

fn pools() -> [Pool; 2] {
    [Pool::new(&[(4096, 32), (65536, 8), (262_144, 8)]), Pool::new(&[(512, 2)])]
}

#[test]
fn write_same_repeats_its_block() {
    for pool in pools() {
        for write_zeroes in [true, false] {
            let shape = Geometry { write_zeroes, ..geometry(1000, 512) };
            let mut bench = Bench::with(shape, Traits::default(), &pool);
            let block = pattern(512, 7);
            let (outcome, _) = bench.run(&cdb10(0x41, 0, 3, 500), &block, 0);
            good(&outcome);
            assert_eq!(outcome.wanted_out, 512);
            assert!(bench.disk.bytes[3 * 512..503 * 512].chunks(512).all(|place| place == block));
            assert!(bench.disk.bytes[503 * 512..].iter().all(|byte| *byte == 0));
            // Zeroes: sent, not sent, and zero blocks for all that is behind.
            let zeroes: [(&[u8], &[u8], usize); 3] = [
                (&cdb16(0x93, 0, 10, 4), &[0; 512], 4),
                (&cdb16(0x93, 1, 20, 4), &[], 4),
                (&cdb10(0x41, 0, 300, 0), &[0; 512], 700),
            ];
            for (cdb, data, count) in zeroes {
                bench.disk.bytes.fill(1);
                good(&bench.run(cdb, data, 0).0);
                let zero = bench.disk.bytes.iter().filter(|byte| **byte == 0).count();
                assert_eq!(zero, count * 512, "{cdb:02x?}");
            }
            let no_hole = Operation::WriteZeroes { fua: false, no_hole: true, fast: false };
            let used = bench.disk.log.iter().any(|(operation, ..)| *operation == no_hole);
            assert_eq!(used, write_zeroes);
        }
    }
}

#[test]
fn write_same_gives_back_only_what_reads_as_zero() {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.bytes.fill(3);
    good(&bench.run(&cdb16(0x93, 8, 10, 4), &[0; 512], 0).0);
    good(&bench.run(&cdb16(0x93, 9, 20, 4), &[], 0).0);
    let hole = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
    assert_eq!(bench.disk.log, [(hole, 5120, 2048), (hole, 10240, 2048)]);
    // What is not zero is written, whatever the UNMAP bit says.
    good(&bench.run(&cdb10(0x41, 8, 10, 4), &[9; 512], 0).0);
    assert_eq!(bench.disk.bytes[5120..7168], [9; 2048]);
    let mut bench = Bench::new(Geometry { write_zeroes: false, trim: false, ..geometry(1000, 512) });
    let (outcome, _) = bench.run(&cdb16(0x93, 8, 10, 4), &[0; 512], 0);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}

#[test]
fn where_nothing_is_promised_of_what_was_given_back_write_same_gives_back_anything() {
    let mut bench = Bench::new(Geometry { write_zeroes: false, ..geometry(1000, 512) });
    good(&bench.run(&cdb10(0x41, 8, 10, 4), &[9; 512], 0).0);
    good(&bench.run(&cdb16(0x93, 8, 10, 4), &[0; 512], 0).0);
    good(&bench.run(&cdb16(0x93, 9, 10, 4), &[], 0).0);
    assert_eq!(bench.disk.log, [(Operation::Trim { fua: false }, 5120, 2048); 3]);
    // Without the UNMAP bit it is written.
    good(&bench.run(&cdb10(0x41, 0, 10, 4), &[9; 512], 0).0);
    assert_eq!(bench.disk.bytes[5120..7168], [9; 2048]);
}

#[test]
fn unmap_gives_back_just_its_ranges() {
    for write_zeroes in [true, false] {
        let mut bench = Bench::new(Geometry { write_zeroes, ..geometry(1000, 512) });
        bench.disk.bytes.fill(1);
        let list = unmap_list(&[(10, 5), (0, 1), (12, 8), (999, 1), (1000, 0), (12, 8)]);
        let (outcome, _) = bench.run(&unmap(list.len()), &list, 0);
        good(&outcome);
        assert_eq!(outcome.wanted_out, list.len() as u64);
        let gone = |block: usize| block == 0 || (10..20).contains(&block) || block == 999;
        for (block, bytes) in bench.disk.bytes.chunks(512).enumerate() {
            let expected = match (gone(block), write_zeroes) {
                (false, _) => 1,
                (true, true) => 0,
                (true, false) => 0xdd,
            };
            assert!(bytes.iter().all(|byte| *byte == expected), "block {block}");
        }
    }
    // As many descriptors as there can be.
    let mut bench = Bench::new(geometry(1000, 512));
    let list = unmap_list(&(0..255).map(|lba| (lba, 1)).collect::<Vec<_>>());
    good(&bench.run(&unmap(list.len()), &list, 0).0);
    assert_eq!(bench.disk.log.len(), 255);
    // An incomplete last one does not count.
    let mut list = unmap_list(&[(1, 1), (2, 1)]);
    list[3] -= 1;
    bench.disk.log.clear();
    good(&bench.run(&unmap(list.len()), &list, 0).0);
    assert_eq!(bench.disk.log.len(), 1);
}

#[test]
fn zeroes_that_keep_their_space_are_asked_for_if_that_is_fast_and_written_otherwise() {
    for (refused, flags) in [(false, 0), (true, 0), (true, 1)] {
        for pool in pools() {
            let shape = Geometry { fast_zero: true, ..geometry(1000, 512) };
            let mut bench = Bench::with(shape, Traits::default(), &pool);
            bench.disk.bytes.fill(1);
            let fast = Operation::WriteZeroes { fua: false, no_hole: true, fast: true };
            if refused {
                bench.disk.faults.push((fast, 1536, Error::NotSupported));
            }
            let data: &[u8] = if flags == 0 { &[0; 512] } else { &[] };
            let (outcome, _) = bench.run(&cdb16(0x93, flags, 3, 500), data, 0);
            good(&outcome);
            assert_eq!(bench.disk.bytes.iter().filter(|byte| **byte == 0).count(), 500 * 512);
            let written = bench.disk.log.iter().filter(|(operation, ..)| *operation != fast).count();
            assert_eq!(written > 0, refused);
            assert!(bench.target.unit(bench.unit).expect("it").is_dirty());
        }
    }
}

#[test]
fn zeroes_that_give_back_are_not_asked_to_be_fast() {
    let mut bench = Bench::new(Geometry { fast_zero: true, ..geometry(1000, 512) });
    good(&bench.run(&cdb16(0x93, 9, 3, 4), &[], 0).0);
    let list = unmap_list(&[(10, 5)]);
    good(&bench.run(&unmap(list.len()), &list, 0).0);
    let hole = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
    assert!(bench.disk.log.iter().all(|(operation, ..)| *operation == hole));
}

#[test]
fn what_gives_back_nothing_is_refused_so_that_it_is_done_without() {
    let mut bench = Bench::new(Geometry { write_zeroes: false, ..geometry(1000, 512) });
    bench.disk.faults.push((Operation::Trim { fua: false }, 5120, Error::NotSupported));
    let list = unmap_list(&[(10, 5)]);
    let (outcome, _) = bench.run(&unmap(list.len()), &list, 0);
    assert_eq!(sense(&outcome), (5, code::INVALID_OPERATION_CODE));
}

/// GET LBA STATUS: first block, number and status of each descriptor.
fn status(bench: &mut Bench, lba: u64, room: u32) -> Vec<(u64, u32, u8)> {
    let (outcome, data) = bench.run(&cdb16(0x9e, 0x12, lba, room), &[], room);
    good(&outcome);
    assert_eq!(outcome.wanted_in, data.len() as u64);
    let length = u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize;
    assert!(data.len() == length + 4 || data.len() == room as usize);
    let (descriptors, _) = data[8..].as_chunks::<16>();
    let told = descriptors.iter().map(|descriptor| {
        let lba = u64::from_be_bytes(descriptor[..8].try_into().expect("eight bytes"));
        let blocks = u32::from_be_bytes(descriptor[8..12].try_into().expect("four bytes"));
        assert_eq!(descriptor[13..], [0, 0, 0]);
        (lba, blocks, descriptor[12])
    });
    told.collect()
}

const DATA: Extent = Extent { length: 512, hole: false, zero: false };

fn extent(blocks: u64, hole: bool, zero: bool) -> Extent {
    Extent { length: blocks * 512, hole, zero }
}

#[test]
fn a_backend_that_knows_nothing_has_all_mapped() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(status(&mut bench, 990, 4096), [(990, 10, 0)]);
    assert!(bench.disk.log.is_empty());
    let mut bench = Bench::new(Geometry { status: true, ..geometry(1000, 512) });
    for error in [Error::Io, Error::NotSupported, Error::Invalid] {
        bench.disk.faults.push((Operation::Status, 512, error));
        assert_eq!(status(&mut bench, 1, 4096), [(1, 999, 0)], "nor does one that fails to tell");
    }
    bench.disk.faults.push((Operation::Status, 512, Error::Lost));
    assert_eq!(bench.run(&cdb16(0x9e, 0x12, 1, 64), &[], 64).0.status, Status::Busy);
    let (outcome, _) = bench.run(&cdb16(0x9e, 0x12, 1000, 64), &[], 64);
    assert_eq!(sense(&outcome), (5, code::LBA_OUT_OF_RANGE));
}

#[test]
fn a_hole_is_deallocated_where_it_reads_as_is_promised() {
    // Hole, zero, write zeroes offered (LBPRZ); what is told.
    let table = [
        (false, false, true, 0),
        (false, true, true, 0),
        (true, true, true, 1),
        (true, false, true, 0),
        (true, true, false, 1),
        (true, false, false, 1),
    ];
    for (hole, zero, write_zeroes, expected) in table {
        let mut bench = Bench::new(Geometry { status: true, write_zeroes, ..geometry(1000, 512) });
        bench.disk.extents = vec![extent(8, false, false), extent(8, hole, zero)];
        let told = status(&mut bench, 9, 4096);
        if expected == 0 {
            assert_eq!(told, [(9, 991, 0)], "{hole} {zero} {write_zeroes}");
        } else {
            assert_eq!(told, [(9, 7, 1), (16, 984, 0)], "{hole} {zero} {write_zeroes}");
        }
    }
}

#[test]
fn neighbours_in_one_state_are_one_descriptor_and_what_does_not_fit_is_cut() {
    let mut bench = Bench::new(Geometry { status: true, ..geometry(1000, 512) });
    bench.disk.extents = vec![
        extent(4, true, true),
        extent(4, true, true),
        extent(4, false, true),
        extent(4, false, false),
        extent(1, true, true),
    ];
    let all = [(0, 8, 1), (8, 8, 0), (16, 1, 1), (17, 983, 0)];
    assert_eq!(status(&mut bench, 0, 4096), all);
    assert_eq!(status(&mut bench, 0, 24), all[..1]);
    assert_eq!(status(&mut bench, 0, 60), all[..3]);
    let (outcome, data) = bench.run(&cdb16(0x9e, 0x12, 0, 0), &[], 64);
    good(&outcome);
    assert!(data.is_empty());
    let (_, data) = bench.run(&cdb16(0x9e, 0x12, 0, 8), &[], 8);
    assert_eq!(data, [0, 0, 0, 68, 0, 0, 0, 0]);
}

#[test]
fn a_block_is_given_back_only_if_all_of_it_is() {
    let mut bench = Bench::new(Geometry { status: true, ..geometry(100, 4096) });
    let hole = |length| Extent { length, hole: true, zero: true };
    bench.disk.extents = vec![hole(512), DATA, hole(3 * 4096), DATA, hole(10 * 4096 - 512)];
    assert_eq!(status(&mut bench, 0, 4096), [(0, 1, 0), (1, 2, 1), (3, 1, 0), (4, 9, 1), (13, 87, 0)]);
    // Only that has to be told which is known; but something has.
    bench.disk.extents = vec![hole(100 * 4096)];
    assert_eq!(status(&mut bench, 40, 4096), [(40, 60, 1)]);
}

#[test]
fn any_number_of_extents_is_told_piece_by_piece() {
    for pool in pools() {
        let shape = Geometry { status: true, ..geometry(1000, 512) };
        let mut bench = Bench::with(shape, Traits::default(), &pool);
        bench.disk.extents = (0..1000).map(|index| extent(1, index % 2 == 0, true)).collect();
        let mut next = 0;
        while next < 1000 {
            let told = status(&mut bench, next, 65_536);
            assert!(!told.is_empty() && told.len() <= 255);
            for (lba, blocks, status) in told {
                assert_eq!((lba, blocks, u64::from(status)), (next, 1, (next + 1) % 2));
                next += 1;
            }
        }
    }
}

#[test]
fn the_question_waits_for_nobody_and_holds_up_nobody() {
    let mut bench = Bench::new(Geometry { status: true, ..geometry(1000, 512) });
    let nexus = bench.nexuses[0];
    let write = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 0, 1), &[1; 512], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    let asks = bench.start(nexus, [0; 8], &cdb16(0x9e, 0x12, 0, 64), &[], 64);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 2);
    let other = bench.start(nexus, [0; 8], &cdb10(0x28, 0, 5, 1), &[], 512);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 3);
    bench.slots[asks].command.abort();
    bench.step_all();
    assert!(bench.slots[asks].outcome.is_none(), "it is still in flight");
    bench.run_all();
    good(&bench.slots[other].outcome.expect("an end"));
    assert_eq!(bench.data.used(), 0);
}
