//! A medium that can be taken out.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Traits, code};
use storage_block::{Operation, Pool};

const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];
const TEST: [u8; 6] = [0; 6];
const PREVENT: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
const ALLOW: [u8; 6] = [0x1e, 0, 0, 0, 0, 0];

fn bench() -> Bench {
    let traits = Traits { removable: true, ..Traits::default() };
    Bench::with(geometry(1000, 512), traits, &Pool::new(&[(65536, 4)]))
}

#[test]
fn an_ejected_medium_is_not_there_for_anything_that_needs_it() {
    let mut bench = bench();
    assert_eq!(bench.run(&[0x12, 0, 0, 0, 36, 0], &[], 36).1[1], 0x80);
    good(&bench.run(&EJECT, &[], 0).0);
    good(&bench.run(&EJECT, &[], 0).0);
    let needing: &[&[u8]] = &[
        &TEST,
        &[0x08, 0, 0, 0, 1, 0],
        &cdb10(0x25, 0, 0, 0),
        &cdb16(0x9e, 0x10, 0, 32),
        &cdb16(0x9e, 0x12, 0, 24),
        &cdb10(0x28, 0, 0, 1),
        &cdb12(0xaa, 0, 0, 1),
        &cdb16(0x8e, 2, 0, 1),
        &cdb10(0x2f, 2, 0, 1),
        &cdb10(0x34, 0, 0, 1),
        &cdb16(0x91, 0, 0, 1),
        &cdb16(0x8b, 0, 0, 1),
        &compare_and_write(0, 0, 1),
        &cdb16(0x93, 0, 0, 1),
        &unmap(24),
        &cdb10(0x37, 0, 0, 32),
    ];
    for cdb in needing {
        let (outcome, _) = bench.run(cdb, &[0; 1024], 512);
        assert_eq!(sense(&outcome), (2, code::MEDIUM_NOT_PRESENT), "{cdb:02x?}");
    }
    let (_, data) = bench.run(&[0x03, 0, 0, 0, 18, 0], &[], 18);
    assert_eq!((data[2], data[12]), (2, 0x3a));
    good(&bench.run(&[0x1a, 0, 0x3f, 0, 255, 0], &[], 255).0);
    good(&bench.run(&LOAD, &[], 0).0);
    good(&bench.run(&TEST, &[], 0).0);
}

#[test]
fn who_has_not_put_the_medium_in_is_told_that_it_may_be_another() {
    let mut bench = bench();
    let [_, two] = bench.nexuses;
    good(&bench.run(&LOAD, &[], 0).0);
    good(&bench.run_as(two, &TEST, &[], 0).0);
    good(&bench.run(&EJECT, &[], 0).0);
    assert_eq!(sense(&bench.run_as(two, &TEST, &[], 0).0), (2, code::MEDIUM_NOT_PRESENT));
    good(&bench.run(&LOAD, &[], 0).0);
    good(&bench.run(&TEST, &[], 0).0);
    assert_eq!(sense(&bench.run_as(two, &TEST, &[], 0).0), (6, code::MEDIUM_MAY_HAVE_CHANGED));
    good(&bench.run_as(two, &TEST, &[], 0).0);
}

#[test]
fn stopping_without_load_eject_or_by_a_power_condition_leaves_it_in() {
    let mut bench = bench();
    for flags in [0x00, 0x01, 0x04, 0x05].into_iter().chain((1..16).map(|condition| condition << 4 | 2)) {
        for immediate in [0, 1] {
            good(&bench.run(&[0x1b, immediate, 0, 0, flags, 0], &[], 0).0);
            good(&bench.run(&TEST, &[], 0).0);
        }
    }
}

#[test]
fn stopping_flushes_unless_told_not_to() {
    for (flags, flushes) in [(0x00, 1), (0x04, 0), (0x02, 1), (0x06, 0)] {
        let mut bench = bench();
        good(&bench.run(&cdb10(0x2a, 0, 0, 1), &[1; 512], 0).0);
        good(&bench.run(&[0x1b, 0, 0, 0, flags, 0], &[], 0).0);
        let flushed = bench.disk.log.iter().filter(|(operation, ..)| *operation == Operation::Flush).count();
        assert_eq!(flushed, flushes, "{flags:02x}");
    }
}

#[test]
fn as_long_as_anybody_prevents_it_nobody_ejects() {
    let mut bench = bench();
    let [one, two] = bench.nexuses;
    let prevented = (5, code::MEDIUM_REMOVAL_PREVENTED);
    good(&bench.run(&PREVENT, &[], 0).0);
    assert_eq!(sense(&bench.run(&EJECT, &[], 0).0), prevented);
    assert_eq!(sense(&bench.run_as(two, &EJECT, &[], 0).0), prevented);
    good(&bench.run_as(two, &PREVENT, &[], 0).0);
    good(&bench.run(&ALLOW, &[], 0).0);
    assert_eq!(sense(&bench.run(&EJECT, &[], 0).0), prevented, "the other still does");
    bench.target.detach(two);
    good(&bench.run(&EJECT, &[], 0).0);
    good(&bench.run(&PREVENT, &[], 0).0);
    assert_eq!(sense(&bench.run(&LOAD, &[], 0).0), prevented);
    bench.target.target_reset();
    assert_eq!(sense(&bench.run(&TEST, &[], 0).0), (6, code::DEVICE_RESET));
    good(&bench.run_as(one, &LOAD, &[], 0).0);
}

#[test]
fn a_fixed_disk_is_loaded_and_cannot_be_ejected() {
    let mut bench = Bench::new(geometry(1000, 512));
    good(&bench.run(&LOAD, &[], 0).0);
    good(&bench.run(&[0x1b, 0, 0, 0, 1, 0], &[], 0).0);
    good(&bench.run(&[0x1b, 0, 0, 0, 0, 0], &[], 0).0);
    assert_eq!(sense(&bench.run(&EJECT, &[], 0).0), (5, code::INVALID_FIELD_IN_CDB));
    good(&bench.run(&PREVENT, &[], 0).0);
}
