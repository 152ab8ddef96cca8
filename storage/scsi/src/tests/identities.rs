//! Lengths that agree with what they count, answers that are prefixes of themselves, and parameters that can be sent back
//! as they came.

use super::*;
use crate::Traits;
use crate::testing::{Bench, geometry};
use storage_block::Pool;

/// Disks of many shapes.
fn benches() -> Vec<Bench> {
    let mut benches = Vec::new();
    for block_size in [512, 4096] {
        for thin in [false, true] {
            for cache in [false, true] {
                let mut shape = geometry(5000, block_size);
                (shape.trim, shape.write_zeroes) = (thin, thin);
                (shape.flush, shape.fua) = (cache, cache);
                shape.preferred_block = if thin { 65_536 } else { block_size };
                benches.push(Bench::with(shape, Traits::default(), &Pool::new(&[(4096, 16), (65536, 8)])));
            }
        }
    }
    benches
}

/// A command that answers: a CDB for a room of 16 bits, and how many bytes its answer has by what it says itself.
type Answering = (&'static str, fn(u16) -> Vec<u8>, fn(&[u8]) -> usize);

fn u16_of(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_of(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes([0, 1, 2, 3].map(|n| bytes[at + n])) as usize
}

/// The byte at `at` of a CDB of that length whose room is in the two bytes at `room`.
fn with_room(cdb: &[u8], at: usize, room: u16) -> Vec<u8> {
    let mut cdb = cdb.to_vec();
    cdb[at..at + 2].copy_from_slice(&room.to_be_bytes());
    cdb
}

const ANSWERING: &[Answering] = &[
    ("INQUIRY", |room| with_room(&[0x12, 0, 0, 0, 0, 0], 3, room), |a| usize::from(a[4]) + 5),
    (
        "MODE SENSE (10)",
        |room| with_room(&[0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0, 0, 0], 7, room),
        |a| u16_of(a, 0) + 2,
    ),
    (
        "MODE SENSE (10), long LBAs",
        |room| with_room(&[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 0, 0], 7, room),
        |a| u16_of(a, 0) + 2,
    ),
    ("READ KEYS", |room| with_room(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 0, 0], 7, room), |a| u32_of(a, 4) + 8),
    ("READ RESERVATION", |room| with_room(&[0x5e, 1, 0, 0, 0, 0, 0, 0, 0, 0], 7, room), |a| u32_of(a, 4) + 8),
    ("REPORT CAPABILITIES", |room| with_room(&[0x5e, 2, 0, 0, 0, 0, 0, 0, 0, 0], 7, room), |a| u16_of(a, 0)),
    ("READ FULL STATUS", |room| with_room(&[0x5e, 3, 0, 0, 0, 0, 0, 0, 0, 0], 7, room), |a| u32_of(a, 4) + 8),
    (
        "READ CAPACITY (16)",
        |room| with_room(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 12, room),
        |_| 32,
    ),
    (
        "GET LBA STATUS",
        |room| with_room(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 12, room),
        |a| u32_of(a, 0) + 4,
    ),
    (
        "REPORT LUNS",
        |room| with_room(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, room),
        |a| u32_of(a, 0) + 8,
    ),
    (
        "REPORT SUPPORTED OPERATION CODES",
        |room| with_room(&[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, room),
        |a| u32_of(a, 0) + 4,
    ),
];

#[test]
fn every_answer_is_as_long_as_it_says_and_a_shorter_one_is_its_beginning() {
    for bench in &mut benches() {
        // Somebody is registered and reserves, so that there is something to tell.
        let mut list = [0; 24];
        list[15] = 9;
        good(&bench.run(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0).0);
        list.rotate_left(8);
        good(&bench.run(&[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], &list, 0).0);
        for (name, cdb, length) in ANSWERING {
            let (outcome, whole) = bench.run(&cdb(0x4000), &[], 0x4000);
            good(&outcome);
            assert_eq!((whole.len(), outcome.wanted_in), (length(&whole), whole.len() as u64), "{name}");
            for room in (0..64).chain([whole.len() - 1, whole.len(), whole.len() + 1]) {
                let (outcome, some) = bench.run(&cdb(room as u16), &[], 0x4000);
                // Some have a shortest answer that may be asked for; none says more than it was asked.
                if outcome.status == crate::Status::Good {
                    assert_eq!(some, whole[..room.min(whole.len())], "{name}, {room} bytes");
                }
            }
        }
    }
}

#[test]
fn every_vital_page_names_itself_and_its_length() {
    for bench in &mut benches() {
        let (_, list) = bench.run(&[0x12, 1, 0, 0xff, 0xff, 0], &[], 0xffff);
        assert!(list.len() > 4);
        for code in &list[4..] {
            let (outcome, page) = bench.run(&[0x12, 1, *code, 0xff, 0xff, 0], &[], 0xffff);
            good(&outcome);
            assert_eq!((page[0], page[1], page.len()), (0, *code, u16_of(&page, 2) + 4), "{code:#x}");
        }
        // Descriptors of page 83h fill it.
        let (_, page) = bench.run(&[0x12, 1, 0x83, 0xff, 0xff, 0], &[], 0xffff);
        let mut rest = &page[4..];
        while !rest.is_empty() {
            rest = &rest[4 + usize::from(rest[3])..];
        }
    }
}

/// The pages of MODE SENSE data behind its header and descriptor, each with its own length.
fn pages(data: &[u8]) -> Vec<&[u8]> {
    let mut rest = &data[8 + u16_of(data, 6)..];
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let length = if rest[0] & 0x40 != 0 { u16_of(rest, 2) + 4 } else { usize::from(rest[1]) + 2 };
        let (page, behind) = rest.split_at(length);
        pages.push(page);
        rest = behind;
    }
    pages
}

#[test]
fn mode_pages_fill_what_they_are_told_in_and_can_be_sent_back_as_they_came() {
    for bench in &mut benches() {
        let sense = |bench: &mut Bench, control: u8| {
            let cdb = [0x5a, 0, control << 6 | 0x3f, 0xff, 0, 0, 0, 0xff, 0xff, 0];
            let (outcome, data) = bench.run(&cdb, &[], 0xffff);
            good(&outcome);
            data
        };
        let current = sense(bench, 0);
        let [changeable, default] = [1, 2].map(|control| sense(bench, control));
        let names =
            |data: &[u8]| pages(data).iter().map(|page| (page[0], page[1], page.len())).collect::<Vec<_>>();
        assert_eq!(names(&current), names(&changeable));
        assert_eq!(names(&current), names(&default));
        // Ascending, and no page twice.
        let order = |page: &&[u8]| (page[0] & 0x3f, if page[0] & 0x40 != 0 { page[1] } else { 0 });
        assert!(pages(&current).iter().map(order).is_sorted_by(|a, b| a < b));
        let select = |bench: &mut Bench, page: &[u8]| {
            let list = [&[0; 8][..], page].concat();
            let [high, low] = (list.len() as u16).to_be_bytes();
            bench.run(&[0x55, 0x10, 0, 0, 0, 0, 0, high, low, 0], &list, 0).0
        };
        for (page, changes) in pages(&current).into_iter().zip(pages(&changeable)) {
            // PS is of MODE SENSE only.
            let mut page = page.to_vec();
            page[0] &= 0x7f;
            good(&select(bench, &page));
            assert_eq!(sense(bench, 0), current, "nothing has changed");
            // Every bit that can be changed, alone, there and back; every other one is refused where it is.
            let header = if page[0] & 0x40 != 0 { 4 } else { 2 };
            for bit in header * 8..page.len() * 8 {
                let (at, mask) = (bit / 8, 0x80_u8 >> (bit % 8));
                let mut other = page.clone();
                other[at] ^= mask;
                let outcome = select(bench, &other);
                if changes[at] & mask == 0 {
                    assert_eq!(sense_of(&outcome), (5, 0x2600), "page {:#x}, byte {at}", page[0]);
                    assert_eq!(sense(bench, 0), current, "nothing has changed");
                } else {
                    good(&outcome);
                    let changed = sense(bench, 0);
                    assert!(
                        pages(&changed)
                            .iter()
                            .any(|found| found[1..] == other[1..] && found[0] & 0x7f == other[0])
                    );
                    good(&select(bench, &page));
                    assert_eq!(sense(bench, 0), current, "and back");
                }
            }
        }
    }
}

fn sense_of(outcome: &crate::Outcome) -> (u8, u16) {
    // Fixed or descriptor format, as D_SENSE has it at the moment.
    match outcome.sense[0] & 0x7f {
        0x72 => (outcome.sense[1], u16::from_be_bytes([outcome.sense[2], outcome.sense[3]])),
        _ => sense(outcome),
    }
}
