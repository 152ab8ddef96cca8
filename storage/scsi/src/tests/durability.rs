//! What a GOOD says about power failures.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{LogicalUnit, NoSpace, Traits, TransportId, code};
use storage_block::{Error, Geometry, Operation, Pool};

const SYNC: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn unit(bench: &mut Bench) -> &mut LogicalUnit {
    bench.target.unit_mut(bench.unit).expect("it")
}

fn kinds(bench: &Bench) -> Vec<Operation> {
    bench.disk.log.iter().map(|(operation, ..)| *operation).collect()
}

#[test]
fn force_unit_access_reaches_the_disk_one_way_or_the_other() {
    let block = pattern(512, 1);
    let write = |fua| Operation::Write { fua };
    // What the backend offers; what a write with FUA becomes.
    let table = [
        ((true, true), vec![write(true)]),
        ((true, false), vec![write(false), Operation::Flush]),
        ((false, true), vec![write(true)]),
        ((false, false), vec![write(false)]),
    ];
    for ((flush, fua), expected) in table {
        for cdb in [&cdb10(0x2a, 8, 3, 1)[..], &cdb12(0xaa, 0x18, 3, 1), &cdb16(0x8a, 0x0a, 3, 1)] {
            let mut bench = Bench::new(Geometry { flush, fua, ..geometry(1000, 512) });
            good(&bench.run(cdb, &block, 0).0);
            assert_eq!(kinds(&bench), expected);
            if flush || fua {
                assert_eq!(bench.disk.durable[1536..2048], block);
            }
        }
    }
}

#[test]
fn a_write_without_it_is_left_in_the_cache() {
    let mut bench = Bench::new(geometry(1000, 512));
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    assert_eq!(kinds(&bench), [Operation::Write { fua: false }]);
    assert!(unit(&mut bench).is_dirty());
    good(&bench.run(&SYNC, &[], 0).0);
    assert!(!unit(&mut bench).is_dirty());
    assert_eq!(bench.disk.durable, bench.disk.bytes);
}

#[test]
fn a_backend_without_a_cache_is_never_dirty() {
    let mut bench = Bench::new(Geometry { flush: false, ..geometry(1000, 512) });
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    assert!(!unit(&mut bench).is_dirty());
    good(&bench.run(&SYNC, &[], 0).0);
    assert_eq!(kinds(&bench), [Operation::Write { fua: false }]);
}

#[test]
fn a_read_with_force_unit_access_flushes_first_what_is_in_the_cache() {
    let mut bench = Bench::new(geometry(1000, 512));
    good(&bench.run(&cdb10(0x28, 8, 3, 1), &[], 512).0);
    assert_eq!(kinds(&bench), [Operation::Read], "there is nothing");
    bench.disk.log.clear();
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    good(&bench.run(&cdb10(0x28, 8, 3, 1), &[], 512).0);
    good(&bench.run(&cdb10(0x28, 8, 3, 1), &[], 512).0);
    let write = Operation::Write { fua: false };
    assert_eq!(kinds(&bench), [write, Operation::Flush, Operation::Read, Operation::Read]);
}

#[test]
fn a_read_from_the_medium_flushes_what_it_waited_for() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 3, 1), &[1; 512], 0);
    bench.step_all();
    // When it comes nothing is dirty yet.
    let read = bench.start(nexus, [0; 8], &cdb10(0x28, 8, 3, 1), &[], 512);
    bench.run_all();
    good(&bench.slots[read].outcome.expect("an end"));
    assert_eq!(kinds(&bench)[1..], [Operation::Flush, Operation::Read]);
}

#[test]
fn without_write_cache_every_change_is_durable() {
    for fua in [true, false] {
        let mut bench = Bench::new(Geometry { fua, ..geometry(1000, 512) });
        bench.disk.bytes.fill(5);
        bench.disk.durable.fill(5);
        let mut list = vec![0, 0, 0, 0, 0x08, 18];
        list.extend([0; 18]);
        good(&bench.run(&[0x15, 0x10, 0, 0, 24, 0], &list, 0).0);
        assert_eq!(bench.run(&[0x1a, 8, 8, 0, 255, 0], &[], 255).1[6], 0, "WCE");
        let block = pattern(512, 2);
        good(&bench.run(&cdb10(0x2a, 0, 3, 1), &block, 0).0);
        good(&bench.run(&cdb10(0x41, 0, 4, 5), &block, 0).0);
        good(&bench.run(&cdb10(0x41, 0, 10, 5), &[0; 512], 0).0);
        good(&bench.run(&cdb16(0x8b, 0, 20, 1), &block, 0).0);
        good(&bench.run(&unmap(24), &unmap_list(&[(30, 4)]), 0).0);
        good(&bench.run(&compare_and_write(0, 40, 1), &[[5; 512], [6; 512]].concat(), 0).0);
        assert_eq!(bench.disk.durable, bench.disk.bytes);
        assert!(!unit(&mut bench).is_dirty() || !fua);
    }
}

#[test]
fn a_flush_waits_for_the_writes_before_it_that_are_with_the_backend() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    let write = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 3, 1), &[1; 512], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    let sync = bench.start(nexus, [0; 8], &SYNC, &[], 0);
    let later = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 5, 1), &[1; 512], 0);
    bench.step_all();
    assert_eq!(bench.slots[sync].waits, "blocked");
    assert_eq!(bench.slots[later].receives.len(), 1, "those behind it go on");
    bench.run_all();
    good(&bench.slots[sync].outcome.expect("an end"));
    assert_eq!(bench.disk.durable[1536..2048], [1; 512]);
}

#[test]
fn a_failed_flush_stays_failed_until_a_reset_after_the_error() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    bench.disk.faults.push((Operation::Flush, 0, Error::Io));
    let failed = (3, code::WRITE_ERROR);
    assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), failed);
    assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), failed, "the next flush would succeed, and is not tried");
    assert_eq!(sense(&bench.run(&cdb10(0x2a, 8, 3, 1), &[1; 512], 0).0), failed);
    assert_eq!(sense(&bench.run(&cdb10(0x28, 8, 3, 1), &[], 512).0), failed);
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    good(&bench.run(&cdb10(0x28, 0, 3, 1), &[], 512).0);
    assert!(bench.target.lun_reset(bench.unit));
    assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), (6, code::DEVICE_RESET));
    good(&bench.run(&SYNC, &[], 0).0);
    // The other initiator was not told before the reset.
    assert_eq!(sense(&bench.run_as(two, &SYNC, &[], 0).0), (6, code::DEVICE_RESET));
    assert_eq!(sense(&bench.run_as(two, &SYNC, &[], 0).0), failed);
    assert!(unit(&mut bench).has_loss());
    unit(&mut bench).accept_loss();
    good(&bench.run_as(two, &SYNC, &[], 0).0);
    good(&bench.run_as(one, &SYNC, &[], 0).0);
}

#[test]
fn a_cache_that_is_gone_with_the_service_is_a_failed_flush() {
    let mut bench = Bench::new(geometry(1000, 512));
    unit(&mut bench).backend_lost(false);
    good(&bench.run(&SYNC, &[], 0).0);
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    let dirty = unit(&mut bench).is_dirty();
    unit(&mut bench).backend_lost(dirty);
    assert!(!unit(&mut bench).is_dirty());
    // A reset that Linux sends for a mere time-out, before anybody was told, clears nothing.
    bench.target.lun_reset(bench.unit);
    bench.run(&[0; 6], &[], 0);
    assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), (3, code::WRITE_ERROR));
}

#[test]
fn an_initiator_that_is_owed_an_error_is_not_forgotten_for_a_stranger() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    unit(&mut bench).backend_lost(true);
    // The one has been told, the other has not; both are gone.
    assert_eq!(sense(&bench.run_as(one, &SYNC, &[], 0).0), (3, code::WRITE_ERROR));
    bench.target.detach(two);
    bench.target.detach(one);
    for index in 0..3 {
        let stranger = TransportId::iscsi("iqn.stranger", [index; 6]).expect("a name");
        assert_ne!(bench.target.attach(&stranger), Some(two));
    }
    let back = bench.target.attach(&TransportId::iscsi("iqn.b", [0; 6]).expect("a name"));
    assert_eq!(back, Some(two));
    assert_eq!(sense(&bench.run_as(two, &SYNC, &[], 0).0), (3, code::WRITE_ERROR));
}

#[test]
fn a_flush_lost_on_its_way_is_tried_again_unless_something_was_lost_with_it() {
    for lost in [false, true] {
        let mut bench = Bench::new(geometry(1000, 512));
        let nexus = bench.nexuses[0];
        bench.disk.faults.push((Operation::Flush, 0, Error::Lost));
        let sync = bench.start(nexus, [0; 8], &SYNC, &[], 0);
        bench.step_all();
        unit(&mut bench).backend_lost(lost);
        bench.run_all();
        let outcome = bench.slots[sync].outcome.expect("an end");
        if lost {
            assert_eq!(sense(&outcome), (3, code::WRITE_ERROR));
        } else {
            assert_eq!(outcome.status, Status::Busy);
        }
    }
}

#[test]
fn a_flush_under_way_while_another_fails_does_not_succeed() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    bench.disk.faults.push((Operation::Flush, 0, Error::NoSpace));
    let first = bench.start(one, [0; 8], &SYNC, &[], 0);
    let second = bench.start(two, [0; 8], &SYNC, &[], 0);
    bench.step_all();
    bench.complete(0);
    bench.step_all();
    bench.run_all();
    assert_eq!(sense(&bench.slots[first].outcome.expect("an end")), (3, code::WRITE_ERROR));
    assert_eq!(sense(&bench.slots[second].outcome.expect("an end")), (3, code::WRITE_ERROR));
}

#[test]
fn a_failed_write_with_force_unit_access_is_its_own_failure_only() {
    let mut bench = Bench::new(geometry(1000, 512));
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    bench.disk.faults.push((Operation::Write { fua: true }, 8 * 512, Error::Io));
    let (outcome, _) = bench.run(&cdb10(0x2a, 8, 8, 1), &[2; 512], 0);
    assert_eq!(sense(&outcome), (3, code::WRITE_ERROR));
    assert!(!unit(&mut bench).has_loss(), "what was acknowledged before is kept below until it is durable");
    good(&bench.run(&SYNC, &[], 0).0);
}

#[test]
fn a_flush_that_finds_no_space_stays_failed_and_says_so_at_once() {
    for (no_space, expected) in
        [(NoSpace::Temporary, (3, code::WRITE_ERROR)), (NoSpace::Final, (7, code::SPACE_ALLOCATION_FAILED))]
    {
        let traits = Traits { no_space, ..Traits::default() };
        let mut bench = Bench::with(geometry(1000, 512), traits, &Pool::new(&[(512, 4)]));
        good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
        bench.disk.faults.push((Operation::Flush, 0, Error::NoSpace));
        assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), expected);
        assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), (3, code::WRITE_ERROR));
    }
}

#[test]
fn a_failed_flush_of_an_aborted_command_stays_failed() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    good(&bench.run(&cdb10(0x2a, 0, 3, 1), &[1; 512], 0).0);
    bench.disk.faults.push((Operation::Flush, 0, Error::Io));
    let sync = bench.start(nexus, [0; 8], &SYNC, &[], 0);
    bench.step_all();
    bench.slots[sync].command.abort();
    bench.run_all();
    assert_eq!(sense(&bench.run(&SYNC, &[], 0).0), (3, code::WRITE_ERROR));
}
