//! The short end of a READ or a WRITE, which a transport may take before a step.

use super::*;
use crate::Ended;
use crate::testing::{Bench, geometry};
use storage_block::{Error, Operation};

/// A command that was begun and has come to rest, its data given if it wants any.
fn begun(bench: &mut Bench, cdb: &[u8], data_out: &[u8], room: u32) -> usize {
    let slot = bench.start(bench.nexuses[0], [0; 8], cdb, data_out, room);
    bench.step_all();
    while !bench.slots[slot].receives.is_empty() {
        bench.give(slot);
        bench.step_all();
    }
    slot
}

fn end(bench: &mut Bench, slot: usize) -> Option<Ended> {
    bench.slots[slot].command.end(&mut bench.target)
}

#[test]
fn a_read_and_a_write_of_one_segment_end_when_their_request_is_back() {
    let mut bench = Bench::new(geometry(1000, 512));
    let bytes = pattern(4096, 7);
    let write = begun(&mut bench, &cdb10(0x2a, 0, 8, 8), &bytes, 0);
    assert!(end(&mut bench, write).is_none(), "it is in flight");
    bench.complete(0);
    let Some(Ended { data: None, wanted_out: 4096, wanted_in: 0 }) = end(&mut bench, write) else {
        panic!("a write ends without data");
    };
    assert!(end(&mut bench, write).is_none(), "it has ended");
    let unit = bench.target.unit(bench.unit).expect("a unit");
    assert!(unit.is_dirty(), "what is acknowledged is not durable");
    // The initiator has room for less than it asks for.
    let read = begun(&mut bench, &cdb10(0x28, 0, 8, 8), &[], 4000);
    bench.complete(0);
    let Some(Ended { data: Some(data), wanted_out: 0, wanted_in: 4096 }) = end(&mut bench, read) else {
        panic!("a read ends with its data");
    };
    assert_eq!(data[..], bytes[..4000]);
    drop(data);
    assert_eq!(bench.data.used(), 0);
    // Nobody stands in the way of the next one.
    bench.slots.clear();
    good(&bench.run(&cdb10(0x2a, 0, 8, 8), &bytes, 0).0);
}

#[test]
fn whatever_else_a_command_is_at_it_does_not_end_the_short_way() {
    let mut bench = Bench::new(geometry(2000, 512));
    let cases: [(&[u8], usize, u32); 6] = [
        // Two segments of 256 KiB; force unit access, both ways; a block of which a part is sent; no data; compared.
        (&cdb10(0x28, 0, 0, 1024), 0, 1024 * 512),
        (&cdb10(0x28, 8, 0, 1), 0, 512),
        (&cdb10(0x2a, 8, 0, 1), 512, 0),
        (&cdb10(0x2a, 0, 0, 1), 100, 0),
        (&cdb10(0x35, 0, 0, 0), 0, 0),
        (&cdb10(0x2f, 2, 0, 1), 512, 0),
    ];
    for (cdb, offered, room) in cases {
        let slot = begun(&mut bench, cdb, &vec![0; offered], room);
        while bench.slots[slot].outcome.is_none() {
            assert!(end(&mut bench, slot).is_none(), "{cdb:02x?}");
            bench.complete(0);
            assert!(end(&mut bench, slot).is_none(), "{cdb:02x?}");
            bench.step_all();
        }
        good(&bench.slots.remove(slot).outcome.expect("an end"));
    }
}

#[test]
fn what_failed_or_was_aborted_or_lost_its_unit_is_left_to_the_step() {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.faults.push((Operation::Read, 0, Error::Io));
    let slot = begun(&mut bench, &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.complete(0);
    assert!(end(&mut bench, slot).is_none());
    bench.step_all();
    assert_eq!(bench.slots.remove(slot).outcome.expect("an end").status, Status::CheckCondition);

    let slot = begun(&mut bench, &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.complete(0);
    bench.slots[slot].command.abort();
    assert!(end(&mut bench, slot).is_none());
    bench.step_all();
    assert_eq!(bench.slots.remove(slot).outcome.expect("an end").status, Status::TaskAborted);

    let slot = begun(&mut bench, &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.complete(0);
    assert!(bench.target.remove_unit(bench.unit));
    assert!(end(&mut bench, slot).is_none());
    bench.step_all();
    assert_eq!(bench.slots.remove(slot).outcome.expect("an end").status, Status::CheckCondition);
    assert_eq!(bench.data.used(), 0);
}
