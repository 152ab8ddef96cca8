//! Copies and the places of commands: who finds none, and whom a reset ends.

use super::copies::{start, two};
use super::copy_lists::{cdb, list_1, segment};
use super::*;
use crate::Attribute;
use crate::testing::Bench;

#[test]
fn a_copy_that_finds_no_place_begins_later_at_its_initiators_word_and_keeps_none() {
    for lun in [0, 1] {
        let (mut bench, cscds) = two(20_000, 512);
        let list = list_1(1, 0, &cscds, &[segment(0, (0, 1), 8, 0, 0)]);
        let nexus = bench.nexuses[0];
        let copy = bench.start(nexus, [0; 8], &cdb(0x83, 0, 0, list.len()), &list, 0);
        bench.step(copy);
        for _ in 0..63 + lun {
            bench.start(nexus, [0, lun, 0, 0, 0, 0, 0, 0], &cdb10(0x28, 0, 9, 1), &[], 512);
        }
        bench.give(copy);
        bench.step(copy);
        assert_eq!(bench.slots[copy].outcome.map(|outcome| outcome.status), Some(Status::TaskSetFull));
        bench.run_all();
        for unit in [bench.unit, bench.others[0].unit] {
            assert_eq!(bench.target.unit(unit).expect("it").tasks.len(), 0);
        }
        good(&super::copy_lists::copy(&mut bench, &list));
    }
}

#[test]
fn a_copy_concerns_the_units_that_it_will_come_to() {
    let (mut bench, cscds) = two(20_000, 512);
    let read = bench.start(bench.nexuses[1], [0; 8], &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.step(read);
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 0), 8, 0, 100), segment(0, (1, 0), 9_000, 0, 200)]);
    let copy = start(&mut bench, 0, &list, Attribute::Ordered);
    assert_eq!(bench.slots[copy].waits, "blocked");
    let [here, there] = [bench.unit, bench.others[0].unit];
    let concerned = |bench: &Bench| [here, there].map(|unit| bench.slots[copy].command.concerns(unit));
    assert_eq!(concerned(&bench), [true, false]);
    bench.complete(0);
    bench.step_all();
    assert_eq!(concerned(&bench), [true, false]);
    // Between two pieces, with one behind whom it has to wait.
    let write = bench.start(bench.nexuses[1], [0, 1, 0, 0, 0, 0, 0, 0], &cdb10(0x2a, 0, 0, 1), &[7; 512], 0);
    bench.step(write);
    while !bench.disk.pending.is_empty() {
        bench.complete(0);
        bench.step(copy);
    }
    assert_eq!((bench.slots[copy].waits, concerned(&bench)), ("blocked", [true, true]));
    bench.run_all();
    good(&bench.slots[copy].outcome.expect("an end"));
    // Before its first, which is that with any bytes.
    let list = list_1(1, 0, &cscds, &[segment(0, (0, 0), 0, 0, 0), segment(0, (0, 1), 8, 0, 100)]);
    let read = bench.start(bench.nexuses[1], [0; 8], &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.step(read);
    let copy = start(&mut bench, 0, &list, Attribute::Ordered);
    assert!(bench.slots[copy].waits == "blocked" && bench.slots[copy].command.concerns(there));
    bench.run_all();
}
