//! What a READ brings goes to the initiator without ever having been in a buffer.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Traits, code};
use storage_block::{Arrived, Delivery, Error, Operation, Pool};

/// Bytes of a segment.
const SEGMENT: usize = 65_536;

impl Bench {
    /// Let bytes of a pending request of the only command arrive, of which the initiator has room for so many.
    fn arrive(&mut self, request: usize, range: core::ops::Range<usize>, room: usize) -> Delivery {
        let pending = &self.disk.pending[request];
        let (cookie, at, whole) = (pending.cookie, pending.offset as usize, pending.length as usize);
        let bytes = self.disk.bytes[at + range.start..at + range.end].to_vec();
        let offset = range.start as u32;
        let arrived = Arrived { offset, had: &[], come: &bytes, is_last: range.end == whole };
        let slot = &mut self.slots[0];
        let mut is_end = false;
        let data_in = &mut slot.data_in;
        let delivery = slot.command.deliver(&mut self.target, cookie, &arrived, |offset, length, ends| {
            assert_eq!(offset as usize, data_in.len(), "in order, and no byte twice");
            assert!(length as usize <= bytes.len());
            let sent = room.min(length as usize);
            data_in.extend_from_slice(&bytes[..sent]);
            is_end = ends.is_some();
            sent as u32
        });
        assert!(is_end || delivery != Delivery::Ended);
        delivery
    }

    /// Complete a pending request with a buffer that has nothing of the disk where it was not needed.
    fn complete_behind(&mut self, request: usize, used: usize) {
        let pending = &mut self.disk.pending[request];
        let at = pending.offset as usize;
        let hidden = self.disk.bytes[at..at + used].to_vec();
        self.disk.bytes[at..at + used].fill(0xee);
        self.complete(request);
        self.disk.bytes[at..at + used].copy_from_slice(&hidden);
    }
}

/// A bench with content, and a READ of so many bytes on its way.
fn reading(length: usize, room: u32) -> (Bench, Vec<u8>) {
    let pool = Pool::new(&[(SEGMENT, 8)]);
    let mut bench = Bench::with(geometry(1024, 512), Traits::default(), &pool);
    let content = pattern(1024 * 512, 3);
    bench.disk.bytes.copy_from_slice(&content);
    let nexus = bench.nexuses[0];
    bench.start(nexus, [0; 8], &cdb10(0x28, 0, 0, (length / 512) as u16), &[], room);
    bench.step_all();
    (bench, content[..length].to_vec())
}

#[test]
fn a_read_that_went_straight_is_over_and_leaves_nothing_behind() {
    let (mut bench, content) = reading(4096, 4096);
    assert_eq!(bench.arrive(0, 0..4096, usize::MAX), Delivery::Ended);
    assert_eq!(bench.slots[0].data_in, content);
    assert!(bench.slots[0].command.is_quiet());
    bench.disk.pending.clear();
    assert_eq!(bench.data.used(), 0);
    bench.slots.clear();
    // A write over it need not wait for it.
    good(&bench.run(&cdb10(0x2a, 0, 0, 8), &pattern(4096, 4), 0).0);
}

#[test]
fn pieces_go_as_they_come_and_what_finds_no_room_goes_from_the_buffer_without_what_went() {
    let (mut bench, content) = reading(SEGMENT, SEGMENT as u32);
    assert_eq!(bench.arrive(0, 0..4000, usize::MAX), Delivery::Used(0), "too little by itself");
    assert_eq!(bench.arrive(0, 0..20_000, usize::MAX), Delivery::Used(16_384), "no block is cut in two");
    assert_eq!(bench.arrive(0, 16_384..40_000, 8192), Delivery::Used(8192));
    assert_eq!(bench.arrive(0, 24_576..SEGMENT, 8192), Delivery::Used(8192), "the status waits for all");
    assert_eq!(bench.arrive(0, 32_768..SEGMENT, 0), Delivery::Used(0));
    bench.complete_behind(0, 32_768);
    bench.run_all();
    good(&bench.slots[0].outcome.expect("an end"));
    assert_eq!(bench.slots[0].data_in, content);
}

#[test]
fn segments_go_in_order_whichever_comes_first() {
    let (mut bench, content) = reading(3 * SEGMENT, 3 * SEGMENT as u32);
    assert_eq!(bench.arrive(1, 0..SEGMENT, usize::MAX), Delivery::Used(0), "the first is missing");
    bench.complete(1);
    assert_eq!(bench.arrive(0, 0..SEGMENT, usize::MAX), Delivery::Used(SEGMENT as u32));
    assert_eq!(
        bench.arrive(1, 0..SEGMENT, usize::MAX),
        Delivery::Used(0),
        "the second has to be sent before"
    );
    bench.complete_behind(0, SEGMENT);
    bench.step_all();
    assert_eq!(bench.arrive(0, 0..SEGMENT, usize::MAX), Delivery::Ended);
    assert_eq!(bench.slots[0].data_in, content);
}

#[test]
fn a_segment_goes_on_at_once_behind_one_whose_completion_was_not_looked_at() {
    let (mut bench, content) = reading(2 * SEGMENT, 2 * SEGMENT as u32);
    assert_eq!(bench.arrive(0, 0..SEGMENT, usize::MAX), Delivery::Used(SEGMENT as u32));
    assert_eq!(bench.arrive(1, 0..SEGMENT, usize::MAX), Delivery::Used(SEGMENT as u32));
    bench.complete_behind(1, SEGMENT);
    bench.complete_behind(0, SEGMENT);
    bench.run_all();
    good(&bench.slots[0].outcome.expect("an end"));
    assert_eq!(bench.slots[0].data_in, content);
}

#[test]
fn a_request_that_is_made_anew_passes_over_what_went() {
    let (mut bench, content) = reading(SEGMENT, SEGMENT as u32);
    assert_eq!(bench.arrive(0, 0..20_480, usize::MAX), Delivery::Used(20_480));
    // Its connection is lost; the same request comes again from its beginning.
    assert_eq!(bench.arrive(0, 0..16_384, usize::MAX), Delivery::Used(16_384));
    assert_eq!(bench.arrive(0, 16_384..SEGMENT, usize::MAX), Delivery::Used(4096));
    assert_eq!(bench.arrive(0, 20_480..SEGMENT, usize::MAX), Delivery::Ended);
    assert_eq!(bench.slots[0].data_in, content);
}

#[test]
fn a_failure_behind_what_went_counts_it_as_moved() {
    let (mut bench, _) = reading(2 * SEGMENT, 2 * SEGMENT as u32);
    assert_eq!(bench.arrive(0, 0..8192, usize::MAX), Delivery::Used(8192));
    bench.disk.faults.push((Operation::Read, 0, Error::Io));
    bench.run_all();
    let outcome = bench.slots[0].outcome.expect("an end");
    assert_eq!(sense(&outcome), (3, code::UNRECOVERED_READ_ERROR));
    assert_eq!((outcome.wanted_in, bench.slots[0].data_in.len()), (8192, 8192));
}

#[test]
fn what_is_not_a_plain_read_or_not_wanted_as_a_whole_never_goes_straight() {
    // FUA, VERIFY with BYTCHK, an initiator with less room.
    for (cdb, data_out, room) in [
        (cdb10(0x28, 8, 0, 8), 0, 4096),
        (cdb10(0x2f, 0, 0, 8), 0, 4096),
        (cdb10(0x28, 0, 0, 8), 0, 4095),
        (cdb10(0x2a, 0, 0, 8), 4096, 0),
    ] {
        let mut bench = Bench::new(geometry(1024, 512));
        let nexus = bench.nexuses[0];
        good(&bench.run(&cdb10(0x2a, 0, 64, 8), &pattern(4096, 4), 0).0);
        bench.start(nexus, [0; 8], &cdb, &pattern(data_out, 5), room);
        bench.step_all();
        if data_out > 0 {
            bench.give(0);
            bench.step_all();
        }
        while bench.disk.pending[0].operation == Operation::Flush {
            bench.complete(0);
            bench.step_all();
        }
        assert_eq!(bench.arrive(0, 0..4096, usize::MAX), Delivery::Used(0), "{cdb:02x?}");
        bench.run_all();
        good(&bench.slots[0].outcome.expect("an end"));
    }
    let (mut bench, _) = reading(4096, 4096);
    bench.slots[0].command.abort();
    assert_eq!(bench.arrive(0, 0..4096, usize::MAX), Delivery::Used(0));
}
