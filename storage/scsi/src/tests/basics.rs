//! What an initiator does first: finding a disk, reading and writing it.

use super::*;
use crate::testing::{Bench, geometry};

#[test]
fn an_initiator_finds_a_disk() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (outcome, data) = bench.run(&[0x12, 0, 0, 0, 255, 0], &[], 255);
    good(&outcome);
    assert_eq!((data.len(), outcome.wanted_in), (96, 96));
    let (_, data) = bench.run(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8);
    assert_eq!(data, [0, 0, 3, 0xe7, 0, 0, 2, 0]);
    let (_, data) = bench.run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
    assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_is_written_by_any_length_of_cdb_is_read_by_any_other() {
    for block_size in [512, 4096] {
        let mut bench = Bench::new(geometry(4096, block_size));
        let data = pattern(3 * block_size as usize, block_size as u8);
        let writes: [&[u8]; 4] =
            [&[0x0a, 0, 0, 7, 3, 0], &cdb10(0x2a, 0, 7, 3), &cdb12(0xaa, 0, 7, 3), &cdb16(0x8a, 0, 7, 3)];
        let reads: [&[u8]; 4] =
            [&[0x08, 0, 0, 7, 3, 0], &cdb10(0x28, 0, 7, 3), &cdb12(0xa8, 0, 7, 3), &cdb16(0x88, 0, 7, 3)];
        for write in writes {
            bench.disk.bytes.fill(0);
            let (outcome, _) = bench.run(write, &data, 0);
            good(&outcome);
            assert_eq!(outcome.wanted_out, data.len() as u64);
            for read in reads {
                let (outcome, got) = bench.run(read, &[], data.len() as u32);
                good(&outcome);
                assert_eq!(outcome.wanted_in, data.len() as u64);
                assert_eq!(got, data);
            }
        }
    }
}

#[test]
fn read_6_and_write_6_of_zero_blocks_are_of_256() {
    let mut bench = Bench::new(geometry(1000, 512));
    let data = pattern(256 * 512, 3);
    good(&bench.run(&[0x0a, 0, 0, 1, 0, 0], &data, 0).0);
    assert_eq!(bench.run(&[0x08, 0, 0, 1, 0, 0], &[], 256 * 512).1, data);
}

#[test]
fn the_sense_format_follows_d_sense() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (_, page) = bench.run(&[0x1a, 0x08, 0x0a, 0, 255, 0], &[], 255);
    let mut list = page.clone();
    list[0] = 0;
    list[4 + 2] |= 0x04;
    good(&bench.run(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list, 0).0);
    let (outcome, _) = bench.run(&cdb16(0x88, 0, u64::MAX, 1), &[], 512);
    assert_eq!(outcome.sense[..4], [0x72, 5, 0x21, 0]);
}
