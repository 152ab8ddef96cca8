//! What an initiator asks first, and plain reads and writes.

use crate::testing::{Bench, geometry};
use crate::{Outcome, Status, code};

pub(super) fn sense_code(outcome: &Outcome) -> (u8, u16) {
    assert_eq!(outcome.status, Status::CheckCondition, "{outcome:?}");
    (outcome.sense[2] & 15, u16::from_be_bytes([outcome.sense[12], outcome.sense[13]]))
}

pub(super) fn good(outcome: &Outcome) {
    assert_eq!(outcome.status, Status::Good, "{outcome:02x?}");
}

#[test]
fn an_initiator_finds_a_disk() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (outcome, data) = bench.run(&[0x12, 0, 0, 0, 255, 0], &[], 255);
    good(&outcome);
    assert_eq!(data.len(), 96);
    assert_eq!(outcome.wanted_in, 96);
    let (_, data) = bench.run(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8);
    assert_eq!(data, [0, 0, 3, 0xe7, 0, 0, 2, 0]);
    let (_, data) = bench.run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
    assert_eq!(data, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_is_written_is_read() {
    let mut bench = Bench::new(geometry(4096, 512));
    let data: Vec<u8> = (0..1_048_576_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let (outcome, _) = bench.run(&[0x2a, 0, 0, 0, 0, 5, 0, 8, 0, 0], &data, 0);
    good(&outcome);
    assert_eq!(outcome.wanted_out, 1 << 20);
    assert_eq!(&bench.disk.bytes[5 * 512..][..1 << 20], &data[..]);
    let (outcome, read) = bench.run(&[0x28, 0, 0, 0, 0, 5, 0, 8, 0, 0], &[], 1 << 20);
    good(&outcome);
    assert_eq!(read, data);
}

#[test]
fn beyond_the_end_is_out_of_range() {
    let mut bench = Bench::new(geometry(1000, 512));
    let (outcome, _) = bench.run(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0], &[], 1024);
    assert_eq!(sense_code(&outcome), (5, code::LBA_OUT_OF_RANGE));
}
