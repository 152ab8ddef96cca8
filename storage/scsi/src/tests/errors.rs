//! What an initiator hears of an error below.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{NoSpace, Readiness, Traits, code};
use storage_block::{Error, Operation, Pool};

#[test]
fn each_error_below_has_its_sense_above() {
    let read = Operation::Read;
    let write = Operation::Write { fua: false };
    let durable = Operation::Write { fua: true };
    let table = [
        (read, Error::Io, Some((3, code::UNRECOVERED_READ_ERROR))),
        (write, Error::Io, Some((3, code::WRITE_ERROR))),
        (durable, Error::Io, Some((3, code::WRITE_ERROR))),
        (read, Error::NotPermitted, Some((7, code::WRITE_PROTECTED))),
        (write, Error::NotPermitted, Some((7, code::WRITE_PROTECTED))),
        (write, Error::NoSpace, Some((2, code::SPACE_ALLOCATION_IN_PROGRESS))),
        (durable, Error::NoSpace, Some((2, code::SPACE_ALLOCATION_IN_PROGRESS))),
        (write, Error::Invalid, Some((4, code::INTERNAL_TARGET_FAILURE))),
        (read, Error::NotSupported, Some((4, code::INTERNAL_TARGET_FAILURE))),
        (write, Error::NoMemory, None),
        (read, Error::Lost, None),
        (write, Error::Lost, None),
    ];
    for (operation, error, expected) in table {
        let mut bench = Bench::new(geometry(1000, 512));
        bench.disk.faults.push((operation, 0, error));
        let opcode = if operation == read { 0x28 } else { 0x2a };
        let fua = if operation == durable { 8 } else { 0 };
        let (outcome, _) = bench.run(&cdb10(opcode, fua, 0, 1), &[0; 512], 512);
        match expected {
            Some(expected) => assert_eq!(sense(&outcome), expected, "{operation:?} {error:?}"),
            None => assert_eq!(outcome.status, Status::Busy, "{operation:?} {error:?}"),
        }
        good(&bench.run(&cdb10(opcode, fua, 0, 1), &[0; 512], 512).0);
    }
}

#[test]
fn no_space_is_write_protection_only_where_none_will_come() {
    let traits = Traits { no_space: NoSpace::Final, ..Traits::default() };
    let mut bench = Bench::with(geometry(1000, 512), traits, &Pool::new(&[(512, 4)]));
    bench.disk.faults.push((Operation::Write { fua: false }, 0, Error::NoSpace));
    let (outcome, _) = bench.run(&cdb10(0x2a, 0, 0, 1), &[0; 512], 0);
    assert_eq!(sense(&outcome), (7, code::SPACE_ALLOCATION_FAILED));
}

#[test]
fn no_memory_is_task_set_full_if_there_are_other_tasks() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    bench.disk.faults.push((Operation::Read, 0, Error::NoMemory));
    let read = bench.start(nexus, [0; 8], &cdb10(0x28, 0, 0, 1), &[], 512);
    bench.start(nexus, [0; 8], &cdb10(0x28, 0, 9, 1), &[], 512);
    bench.step_all();
    bench.complete(0);
    bench.step_all();
    assert_eq!(bench.slots[read].outcome.expect("an end").status, Status::TaskSetFull);
    bench.run_all();
}

#[test]
fn a_lost_request_says_what_new_commands_hear() {
    let table = [
        (Readiness::Ready, None),
        (Readiness::Connecting, None),
        (Readiness::BecomingReady, Some((2, code::BECOMING_READY))),
        (Readiness::Down, Some((2, code::MANUAL_INTERVENTION_REQUIRED))),
    ];
    for (readiness, expected) in table {
        for cdb in [cdb10(0x28, 0, 0, 1), cdb10(0x35, 0, 0, 0)] {
            let mut bench = Bench::new(geometry(1000, 512));
            let nexus = bench.nexuses[0];
            let command = bench.start(nexus, [0; 8], &cdb, &[], 512);
            bench.step_all();
            bench.disk.faults.push((bench.disk.pending[0].operation, 0, Error::Lost));
            bench.target.unit_mut(bench.unit).expect("it").set_readiness(readiness);
            bench.run_all();
            let outcome = bench.slots[command].outcome.expect("an end");
            match expected {
                Some(expected) => assert_eq!(sense(&outcome), expected, "{readiness:?}"),
                None => assert_eq!(outcome.status, Status::Busy, "{readiness:?}"),
            }
        }
    }
}

#[test]
fn what_is_invalid_within_the_disk_is_an_internal_error() {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.faults.push((Operation::Read, 990 * 512, Error::Invalid));
    let (outcome, _) = bench.run(&cdb10(0x28, 0, 990, 1), &[], 512);
    assert_eq!(sense(&outcome), (4, code::INTERNAL_TARGET_FAILURE));
}
