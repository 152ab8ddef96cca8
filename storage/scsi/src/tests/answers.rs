//! Commands that are answered from memory.

use super::*;
use crate::opcode::COMMANDS;
use crate::testing::{Bench, geometry};
use crate::{Identity, Readiness, Traits, TransportId, code};
use storage_block::{Geometry, Pool};

fn vital(bench: &mut Bench, page: u8) -> Vec<u8> {
    let (outcome, data) = bench.run(&[0x12, 1, page, 0x10, 0, 0], &[], 4096);
    good(&outcome);
    assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])) + 4, data.len());
    assert_eq!(data[..2], [0, page]);
    data
}

#[test]
fn standard_inquiry_data_say_disk_and_which_standards() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (_, data) = bench.run(&[0x12, 0, 0, 0, 255, 0], &[], 255);
    assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x38, 0, 2]);
    assert_eq!(&data[8..36], b"CORBEL  VIRTUAL-DISK    0001");
    assert_eq!(data[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
}

#[test]
fn vital_pages_ascend_and_every_one_of_them_can_be_read() {
    let mut bench = Bench::new(geometry(1000, 512));
    let pages = vital(&mut bench, 0)[4..].to_vec();
    assert_eq!(pages, [0x00, 0x80, 0x83, 0x86, 0x87, 0x8f, 0xb0, 0xb1, 0xb2]);
    for page in pages {
        vital(&mut bench, page);
    }
    let (outcome, _) = bench.run(&[0x12, 1, 0xff, 0, 255, 0], &[], 255);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
    let (outcome, _) = bench.run(&[0x12, 0, 0x80, 0, 255, 0], &[], 255);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}

#[test]
fn identification_has_naa_first_and_all_lengths_fit() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(&vital(&mut bench, 0x80)[4..], b"11111111111111111111111111111111\0");
    let data = vital(&mut bench, 0x83);
    let mut kinds = Vec::new();
    let mut at = 4;
    while at < data.len() {
        kinds.push((data[at] & 15, data[at + 1] & 0x3f));
        at += 4 + usize::from(data[at + 3]);
    }
    assert_eq!(at, data.len());
    assert_eq!(kinds, [(1, 0x03), (2, 0x01), (1, 0x02), (3, 0x08), (1, 0x14), (1, 0x15), (3, 0x28)]);
    assert_eq!(data[8..24], Identity::new([0x11; 16]).naa());
}

#[test]
fn mode_pages_are_one_for_all_initiators() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(vital(&mut bench, 0x87)[4..], [0x3f, 0xff, 0, 0]);
}

#[test]
fn log_pages_are_listed_and_no_other_can_be_read() {
    let mut bench = Bench::new(geometry(1000, 512));
    let mut log = |control: u8, page: u8, subpage: u8| {
        bench.run(&[0x4d, 0, control << 6 | page, subpage, 0, 0, 0, 0, 64, 0], &[], 64)
    };
    assert_eq!(log(1, 0, 0).1, [0, 0, 0, 2, 0, 0x2f]);
    assert_eq!(log(0, 0, 0xff).1, [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x2f, 0]);
    assert_eq!(log(1, 0x2f, 0).1, [0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0], "no exception, no temperature");
    // Logical block provisioning, temperature; a subpage; thresholds of what has none.
    for (control, page, subpage) in
        [(1, 0x0c, 0), (1, 0x0d, 0), (1, 0, 1), (1, 0x2f, 0xff), (0, 0x2f, 0), (3, 0x2f, 0)]
    {
        let (outcome, data) = log(control, page, subpage);
        assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB), "{control} {page:02x} {subpage:02x}");
        assert!(data.is_empty());
    }
    // SP: nothing is saved.
    let (outcome, _) = bench.run(&[0x4d, 1, 0x40, 0, 0, 0, 0, 0, 64, 0], &[], 64);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}

#[test]
fn the_block_limits_follow_the_geometry() {
    let shape = Geometry { preferred_block: 65536, ..geometry(1_000_000, 512) };
    let mut bench = Bench::new(shape);
    let limits = vital(&mut bench, 0xb0);
    assert_eq!(limits.len(), 64);
    assert_eq!(limits[4..6], [0, 255], "zero blocks of WRITE SAME are all; COMPARE AND WRITE");
    assert_eq!(limits[6..8], 128_u16.to_be_bytes());
    assert_eq!(limits[8..12], 65536_u32.to_be_bytes());
    assert_eq!(limits[12..16], 2048_u32.to_be_bytes());
    assert_eq!(limits[20..24], 0x10_0000_u32.to_be_bytes());
    assert_eq!(limits[24..28], 255_u32.to_be_bytes());
    assert_eq!(limits[28..36], [0, 0, 0, 128, 0x80, 0, 0, 0]);
    assert_eq!(limits[36..44], 131_072_u64.to_be_bytes());
}

#[test]
fn provisioning_is_told_as_it_is() {
    // What is offered; then RC16 bytes 13 and 14, VPD B2 bytes 5 and 6, and whether there is UNMAP.
    let plain = Geometry { trim: false, write_zeroes: false, ..geometry(1000, 512) };
    let table = [
        (plain, [3, 0x00], [0x00, 0], false),
        (Geometry { trim: true, ..plain }, [3, 0x80], [0xe0, 2], true),
        (Geometry { write_zeroes: true, ..plain }, [3, 0xc0], [0xe4, 2], true),
        (geometry(1000, 4096), [0, 0xc0], [0xe4, 2], true),
    ];
    for (shape, capacity, provisioning, unmaps) in table {
        let mut bench = Bench::new(shape);
        let (_, data) = bench.run(&cdb16(0x9e, 0x10, 0, 32), &[], 32);
        assert_eq!(data.len(), 32);
        assert_eq!(data[13..15], capacity);
        assert_eq!(vital(&mut bench, 0xb2)[5..7], provisioning);
        let (outcome, _) = bench.run(&unmap(0), &[], 0);
        assert_eq!(outcome.status == Status::Good, unmaps);
        let (_, one) = bench.run(&cdb12(0xa3, 0x0c, 0x0142_0000, 256), &[], 256);
        assert_eq!(one[1] & 7, if unmaps { 3 } else { 1 }, "and REPORT SUPPORTED OPERATION CODES agrees");
        let (_, one) = bench.run(&cdb12(0xa3, 0x0c, 0x0193_0000, 256), &[], 256);
        assert_eq!(one[5] & 0x08 != 0, unmaps, "the UNMAP bit of WRITE SAME");
    }
}

#[test]
fn a_large_disk_sends_read_capacity_10_to_16() {
    let mut bench = Bench::new(geometry(1000, 512));
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.set_geometry(Geometry { size: 1 << 42, ..geometry(1000, 512) }).expect("a shape");
    let (outcome, _) = bench.run(&cdb10(0x25, 0, 0, 0), &[], 8);
    assert_eq!(sense(&outcome), (6, code::CAPACITY_CHANGED));
    assert_eq!(bench.run(&cdb10(0x25, 0, 0, 0), &[], 8).1, [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    let (_, data) = bench.run(&cdb16(0x9e, 0x10, 0, 12), &[], 12);
    assert_eq!(data, [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
}

#[test]
fn nobody_is_there_and_says_so() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    let mut run = |lun: [u8; 8], cdb: &[u8]| {
        let index = bench.start(nexus, lun, cdb, &[], 255);
        bench.run_all();
        let slot = bench.slots.remove(index);
        (slot.outcome.expect("an end"), slot.data_in)
    };
    let absent = [0, 9, 0, 0, 0, 0, 0, 0];
    let (outcome, data) = run(absent, &[0x12, 0, 0, 0, 255, 0]);
    good(&outcome);
    assert_eq!(data[0], 0x7f);
    assert_ne!(&data[8..16], b"        ", "some initiators look for a vendor");
    let unsupported = (5, code::LOGICAL_UNIT_NOT_SUPPORTED);
    for cdb in [&[0x12, 1, 0x83, 0, 255, 0][..], &[0; 6], &cdb10(0x28, 0, 0, 1), &[0xff; 16]] {
        assert_eq!(sense(&run(absent, cdb).0), unsupported, "{cdb:02x?}");
    }
    assert_eq!(sense(&run(absent, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]).0), unsupported);
    let (outcome, data) = run(absent, &[0x03, 0, 0, 0, 255, 0]);
    good(&outcome);
    assert_eq!((data[2], data[12]), (5, 0x25));
    let well_known = [0xc1, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(run(well_known, &[0x12, 0, 0, 0, 255, 0]).1[0], 0x1e);
    assert_eq!(run(well_known, &[0x12, 1, 0, 0, 255, 0]).1, [0x1e, 0, 0, 1, 0]);
    good(&run(well_known, &[0; 6]).0);
    assert_eq!(run(well_known, &[0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 255, 0, 0]).1[8..], well_known);
    assert_eq!(sense(&run(well_known, &cdb10(0x28, 0, 0, 1)).0), (5, code::INVALID_OPERATION_CODE));
}

#[test]
fn report_luns_lists_what_was_asked_for_in_order() {
    let mut bench = Bench::new(geometry(1000, 512));
    for number in [300, 5, 255] {
        bench.target.add_unit(number, Identity::new([number as u8; 16]), Traits::default()).expect("room");
    }
    let mut luns = |select: u8| {
        let (outcome, data) = bench.run(&[0xa0, 0, select, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
        good(&outcome);
        assert_eq!(u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize, data.len() - 8);
        data[8..].chunks(8).map(|lun| u16::from_be_bytes([lun[0], lun[1]])).collect::<Vec<_>>()
    };
    let all = [0, 5, 255, 0x4000 + 300];
    assert_eq!(luns(0), all);
    assert_eq!(luns(1), [0xc101]);
    assert_eq!(luns(2), [0, 5, 255, 0x4000 + 300, 0xc101]);
    assert_eq!(luns(0x10), []);
    assert_eq!(luns(0x11), all);
    assert_eq!(luns(0x12), []);
    let (outcome, _) = bench.run(&[0xa0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
}

#[test]
fn the_supported_commands_are_those_of_the_table_in_every_form() {
    let mut bench = Bench::new(geometry(1000, 512));
    for timeouts in [0, 0x80_u8] {
        let step = if timeouts == 0 { 8 } else { 20 };
        let (_, all) = bench.run(&cdb12(0xa3, 0x0c, u32::from(timeouts) << 24, 65535), &[], 65535);
        assert_eq!(all.len(), 4 + COMMANDS.len() * step);
        assert_eq!(u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize, all.len() - 4);
        for (bytes, row) in all[4..].chunks(step).zip(COMMANDS) {
            let (has_action, flags) = (row.action.is_some(), bytes[5]);
            assert_eq!(bytes[0], row.opcode);
            assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]), row.action.unwrap_or(0));
            assert_eq!(flags, u8::from(timeouts != 0) << 1 | u8::from(has_action));
            // By opcode; by service action; by both.
            for (option, found) in [(1, !has_action), (2, has_action), (3, true)] {
                let mut cdb = cdb12(0xa3, 0x0c, 0, 512);
                cdb[2] = timeouts | option;
                cdb[3] = row.opcode;
                cdb[5] = row.action.unwrap_or(0) as u8;
                let (outcome, one) = bench.run(&cdb, &[], 512);
                if !found {
                    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB), "{}", row.name);
                    continue;
                }
                good(&outcome);
                assert_eq!(one[1], timeouts | 3, "{}", row.name);
                assert_eq!(usize::from(one[3]), row.length());
                assert_eq!(one[4], row.opcode);
            }
        }
    }
    for option in 1..=3 {
        let (outcome, one) = bench.run(&cdb12(0xa3, 0x0c, option << 24 | 0x85 << 16, 512), &[], 512);
        good(&outcome);
        assert_eq!(one, [0, 1, 0, 0], "ATA PASS-THROUGH is not there");
    }
}

#[test]
fn task_management_functions_are_told_short_and_long() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(bench.run(&cdb12(0xa3, 0x0d, 0, 255), &[], 255).1, [0xde, 7, 0, 0]);
    assert_eq!(bench.run(&cdb12(0xa3, 0x0d, 0x8000_0000, 255), &[], 255).1.len(), 16);
}

#[test]
fn mode_pages_are_there_one_by_one_and_all_together() {
    let mut bench = Bench::new(geometry(1000, 512));
    let pages = [(0x01, 0, 12), (0x08, 0, 20), (0x0a, 0, 12), (0x0a, 1, 32), (0x1c, 0, 12)];
    for (page, subpage, length) in pages {
        let (_, data) = bench.run(&[0x1a, 8, page, subpage, 255, 0], &[], 255);
        assert_eq!(usize::from(data[0]) + 1, data.len());
        assert_eq!(data[..4], [data[0], 0, 0x10, 0]);
        assert_eq!(data.len() - 4, length);
        let (_, long) = bench.run(&[0x5a, 8, page, subpage, 0, 0, 0, 1, 0, 0], &[], 256);
        assert_eq!(usize::from(u16::from_be_bytes([long[0], long[1]])) + 2, long.len());
        assert_eq!(long[8..], data[4..]);
    }
    let lengths = |subpages: &[u8]| {
        let wanted = pages.iter().filter(|(_, subpage, _)| subpages.contains(subpage));
        wanted.map(|(_, _, length)| length).sum::<usize>()
    };
    assert_eq!(bench.run(&[0x1a, 8, 0x3f, 0, 255, 0], &[], 255).1.len(), 4 + lengths(&[0]));
    assert_eq!(bench.run(&[0x1a, 8, 0x3f, 0xff, 255, 0], &[], 255).1.len(), 4 + lengths(&[0, 1]));
    assert_eq!(bench.run(&[0x1a, 8, 0x0a, 0xff, 255, 0], &[], 255).1.len(), 4 + 12 + 32);
    // Block descriptors, short and long.
    assert_eq!(bench.run(&[0x1a, 0, 0x08, 0, 255, 0], &[], 255).1[3..12], [8, 0, 0, 3, 0xe8, 0, 0, 2, 0]);
    let (_, long) = bench.run(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 1, 0, 0], &[], 256);
    assert_eq!((long[4], long[7]), (1, 16));
    assert_eq!(long[8..24], [0, 0, 0, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0, 0, 2, 0]);
    for (page, subpage) in [(0x02, 0), (0x08, 1), (0x3f, 1), (0x00, 0)] {
        let (outcome, _) = bench.run(&[0x1a, 8, page, subpage, 255, 0], &[], 255);
        assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB), "{page:x}/{subpage:x}");
    }
    let (outcome, _) = bench.run(&[0x1a, 8, 0xc8, 0, 255, 0], &[], 255);
    assert_eq!(sense(&outcome), (5, code::SAVING_PARAMETERS_NOT_SUPPORTED));
}

#[test]
fn only_what_changes_something_is_changeable() {
    for (flush, wce) in [(true, 0x04), (false, 0)] {
        let mut bench = Bench::new(Geometry { flush, ..geometry(1000, 512) });
        let mut page =
            |control: u8, code: u8| bench.run(&[0x1a, 8, control << 6 | code, 0, 255, 0], &[], 255).1;
        assert_eq!(page(0, 8)[6], wce, "current");
        assert_eq!(page(1, 8)[4..], [8, 18, wce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page(2, 8)[6], wce, "default");
        assert_eq!(page(0, 10)[4..], [10, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(page(1, 10)[4..], [10, 10, 4, 0, 8, 0x40, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page(0, 0x1c)[4..8], [0x1c, 10, 8, 0]);
    }
}

#[test]
fn read_only_is_told_and_kept() {
    for (by_traits, by_backend) in [(true, false), (false, true)] {
        let shape = Geometry { read_only: by_backend, ..geometry(1000, 512) };
        let traits = Traits { read_only: by_traits, ..Traits::default() };
        let mut bench = Bench::with(shape, traits, &Pool::new(&[(65536, 4)]));
        assert_eq!(bench.run(&[0x1a, 8, 8, 0, 255, 0], &[], 255).1[2], 0x90);
        let block = [1; 1024];
        let writes: &[(&[u8], usize)] = &[
            (&cdb10(0x2a, 0, 0, 1), 512),
            (&cdb10(0x2e, 2, 0, 1), 512),
            (&cdb10(0x41, 0, 0, 1), 512),
            (&cdb10(0x41, 8, 0, 1), 512),
            (&cdb16(0x8b, 0, 0, 1), 512),
            (&compare_and_write(0, 0, 1), 1024),
            (&unmap(24), 24),
        ];
        for (cdb, length) in writes {
            let (outcome, _) = bench.run(cdb, &block[..*length], 0);
            assert_eq!(sense(&outcome), (7, code::WRITE_PROTECTED), "{cdb:02x?}");
        }
        good(&bench.run(&cdb10(0x28, 0, 0, 1), &[], 512).0);
    }
}

#[test]
fn lba_status_is_one_mapped_descriptor_from_the_block_asked_for() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (_, data) = bench.run(&cdb16(0x9e, 0x12, 10, 24), &[], 24);
    assert_eq!(data, [0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 3, 0xde, 0, 0, 0, 0]);
    for lba in [1000, 1001, 1 << 63, u64::MAX] {
        let (outcome, _) = bench.run(&cdb16(0x9e, 0x12, lba, 24), &[], 24);
        assert_eq!(sense(&outcome), (5, code::LBA_OUT_OF_RANGE), "{lba}");
    }
}

#[test]
fn defect_lists_are_empty_in_the_format_asked_for() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(bench.run(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 32, 0], &[], 32).1, [0, 0x1d, 0, 0]);
    assert_eq!(bench.run(&cdb12(0xb7, 0x0d, 0, 32), &[], 32).1, [0, 0x0d, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_answer_is_cut_at_the_allocation_length_and_at_the_room() {
    let mut bench = Bench::new(geometry(1000, 512));
    // CDB, where its allocation length begins, how long that is.
    let answers: &[(&[u8], usize, usize)] = &[
        (&[0x12, 0, 0, 0, 0, 0], 3, 2),
        (&[0x12, 1, 0x83, 0, 0, 0], 3, 2),
        (&[0x03, 0, 0, 0, 0, 0], 4, 1),
        (&[0x1a, 0, 0x3f, 0, 0, 0], 4, 1),
        (&[0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0, 0, 0], 7, 2),
        (&cdb10(0x37, 0, 0, 0), 7, 2),
        (&cdb10(0x5e, 0, 0, 0), 7, 2),
        (&cdb10(0x5e, 1, 0, 0), 7, 2),
        (&cdb10(0x5e, 2, 0, 0), 7, 2),
        (&cdb10(0x5e, 3, 0, 0), 7, 2),
        (&cdb16(0x9e, 0x10, 0, 0), 10, 4),
        (&cdb16(0x9e, 0x12, 0, 0), 10, 4),
        (&cdb12(0xa0, 0, 0, 0), 6, 4),
        (&cdb12(0xa3, 0x0c, 0, 0), 6, 4),
        (&cdb12(0xa3, 0x0d, 0, 0), 6, 4),
        (&cdb12(0xb7, 0, 0, 0), 6, 4),
    ];
    for &(cdb, at, size) in answers {
        let mut run = |allocation: u32, room: u32| {
            let mut cdb = cdb.to_vec();
            cdb[at..at + size].copy_from_slice(&allocation.to_be_bytes()[4 - size..]);
            let (outcome, data) = bench.run(&cdb, &[], room);
            good(&outcome);
            (outcome.wanted_in, data)
        };
        let most = if size == 1 { 255 } else { 65535 };
        let (all, whole) = run(most, most);
        assert_eq!(all, whole.len() as u64);
        for allocation in [0, 1, 2, 3, 4, 5, 15, 16, 17, 254, 255] {
            let cut = whole.len().min(allocation as usize);
            assert_eq!(run(allocation, most), (cut as u64, whole[..cut].to_vec()), "{cdb:02x?}");
            // Too little room is an overflow for the transport to tell, not another answer.
            let (wanted, data) = run(most, allocation);
            assert_eq!((wanted, &data[..]), (whole.len() as u64, &whole[..cut]), "{cdb:02x?}");
        }
    }
}

#[test]
fn a_long_answer_goes_through_small_buffers() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (_, whole) = bench.run(&cdb12(0xa3, 0x0c, 0x8000_0000, 65535), &[], 65535);
    bench.control = Pool::new(&[(64, 1)]).share(64);
    let (outcome, pieces) = bench.run(&cdb12(0xa3, 0x0c, 0x8000_0000, 65535), &[], 65535);
    good(&outcome);
    assert_eq!(pieces, whole);
}

#[test]
fn answers_do_not_wait_for_a_disk_that_hangs() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(65536, 1)]));
    let nexus = bench.nexuses[0];
    let read = bench.start(nexus, [0; 8], &cdb10(0x28, 0, 0, 8), &[], 4096);
    bench.step_all();
    let inquiry = bench.start(nexus, [0; 8], &[0x12, 0, 0, 0, 255, 0], &[], 255);
    let capacity = bench.start(nexus, [0; 8], &cdb16(0x9e, 0x10, 0, 32), &[], 32);
    bench.step_all();
    assert!(bench.slots[inquiry].outcome.is_some() && bench.slots[capacity].outcome.is_some());
    assert!(bench.slots[read].outcome.is_none());
}

#[test]
fn a_disk_on_its_way_is_held_and_one_out_of_reach_says_why() {
    let mut bench = Bench::new(geometry(1000, 512));
    let late = bench.target.add_unit(1, Identity::new([1; 16]), Traits::default()).expect("room");
    let nexus = bench.target.attach(&TransportId::iscsi("iqn.a", [0; 6]).expect("a name")).expect("known");
    let lun = [0, 1, 0, 0, 0, 0, 0, 0];
    let start = |bench: &mut Bench, cdb: &[u8]| {
        let index = bench.start(nexus, lun, cdb, &[], 4096);
        bench.step_all();
        (index, bench.slots[index].outcome)
    };
    let (_, outcome) = start(&mut bench, &[0; 6]);
    assert_eq!(sense(&outcome.expect("a unit attention")), (6, code::POWER_ON));
    assert!(start(&mut bench, &[0x12, 1, 0x83, 0x10, 0, 0]).1.is_some(), "names do not wait");
    assert!(start(&mut bench, &[0x03, 0, 0, 0, 255, 0]).1.is_some());
    let held = [
        &[0; 6][..],
        &[0x12, 1, 0xb0, 0x10, 0, 0],
        &cdb10(0x25, 0, 0, 0),
        &[0x1a, 0, 0x3f, 0, 255, 0],
        &cdb10(0x42, 0, 0, 0),
    ]
    .map(|cdb| start(&mut bench, cdb).0);
    for index in held {
        assert_eq!(bench.slots[index].waits, "blocked");
    }
    let unit = bench.target.unit_mut(late).expect("it");
    unit.set_geometry(geometry(1000, 512)).expect("a shape");
    bench.step_all();
    for index in &held {
        good(&bench.slots[*index].outcome.expect("an end"));
    }
    let table = [
        (Readiness::Ready, None),
        (Readiness::Connecting, None),
        (Readiness::BecomingReady, Some(code::BECOMING_READY)),
        (Readiness::Down, Some(code::MANUAL_INTERVENTION_REQUIRED)),
    ];
    for (readiness, expected) in table {
        bench.target.unit_mut(late).expect("it").set_readiness(readiness);
        let outcome = start(&mut bench, &[0; 6]).1.expect("an end");
        match expected {
            None => good(&outcome),
            Some(code) => assert_eq!(sense(&outcome), (2, code)),
        }
        assert!(start(&mut bench, &[0x12, 0, 0, 0, 255, 0]).1.is_some());
        good(&start(&mut bench, &[0x1a, 0, 0x3f, 0, 255, 0]).1.expect("an end"));
    }
}
