//! Copies and the places of commands: who finds none, and whom a reset ends.

use super::copies::two;
use super::copy_lists::{cdb, list_1, segment};
use super::*;

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
