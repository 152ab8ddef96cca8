//! Target port groups and their states.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{AccessState, Traits, code};
use storage_block::Pool;

const REPORT: u8 = 0x0a;

fn bench(access: AccessState) -> Bench {
    let traits = Traits { access, ..Traits::default() };
    Bench::with(geometry(1000, 512), traits, &Pool::new(&[(65536, 4)]))
}

fn report(bench: &mut Bench) -> Vec<u8> {
    let (outcome, data) = bench.run(&cdb12(0xa3, REPORT, 0, 64), &[], 64);
    good(&outcome);
    data
}

/// SET TARGET PORT GROUPS: states and groups.
fn set(bench: &mut Bench, descriptors: &[(u8, u16)]) -> Outcome {
    let mut list = vec![0; 4];
    for (state, group) in descriptors {
        list.extend([*state, 0]);
        list.extend(group.to_be_bytes());
    }
    bench.run(&cdb12(0xa4, REPORT, 0, list.len() as u32), &list, 0).0
}

#[test]
fn one_group_of_one_port_is_told_with_both_headers_and_in_inquiry() {
    let mut bench = bench(AccessState::Optimized);
    assert_eq!(report(&mut bench), [0, 0, 0, 12, 0, 7, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    bench.target.set_port_group(0x0203);
    let (outcome, data) = bench.run(&cdb12(0xa3, 0x20 | REPORT, 0, 64), &[], 64);
    good(&outcome);
    assert_eq!(data, [0, 0, 0, 16, 0x10, 0, 0, 0, 0, 7, 2, 3, 0, 0, 0, 1, 0, 0, 0, 1]);
    let (outcome, _) = bench.run(&cdb12(0xa3, 0x40 | REPORT, 0, 64), &[], 64);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_CDB));
    let (_, data) = bench.run(&[0x12, 0, 0, 0, 36, 0], &[], 36);
    assert_eq!(data[5] & 0x30, 0x30, "by itself and by command");
    let (_, data) = bench.run(&[0x12, 1, 0x83, 0, 255, 0], &[], 255);
    assert!(data.windows(8).any(|bytes| bytes == [1, 0x15, 0, 4, 0, 0, 2, 3]));
}

#[test]
fn a_standby_port_tells_all_and_moves_nothing() {
    let mut bench = bench(AccessState::Standby);
    let standby = (2, code::TARGET_PORT_IN_STANDBY_STATE);
    let refused: &[&[u8]] = &[
        &[0; 6],
        &cdb10(0x28, 0, 0, 1),
        &cdb16(0x8a, 0, 0, 1),
        &cdb10(0x35, 0, 0, 0),
        &cdb10(0x2f, 0, 0, 1),
        &compare_and_write(0, 0, 1),
        &unmap(24),
    ];
    for cdb in refused {
        assert_eq!(sense(&bench.run(cdb, &[0; 1024], 512).0), standby, "{cdb:02x?}");
    }
    assert!(bench.disk.log.is_empty());
    let (_, data) = bench.run(&[0x03, 0, 0, 0, 18, 0], &[], 18);
    assert_eq!((data[2], data[12], data[13]), (2, 0x04, 0x0b));
    let told: &[&[u8]] = &[
        &[0x12, 0, 0, 0, 36, 0],
        &cdb10(0x25, 0, 0, 0),
        &cdb16(0x9e, 0x10, 0, 32),
        &[0x1a, 0, 0x3f, 0, 255, 0],
        &[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0],
        &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0],
        &cdb12(0xa0, 0, 0, 255),
        &cdb12(0xa3, 0x0c, 0, 4096),
    ];
    for cdb in told {
        good(&bench.run(cdb, &[], 4096).0);
    }
    assert_eq!(report(&mut bench)[4], AccessState::Standby as u8);
}

#[test]
fn what_runs_the_appliance_changes_the_state_and_every_nexus_is_told_once() {
    let mut bench = bench(AccessState::Standby);
    let unit = bench.unit;
    for _ in 0..2 {
        bench.target.unit_mut(unit).expect("it").set_access(AccessState::NonOptimized);
    }
    for nexus in bench.nexuses {
        let changed = (6, code::ASYMMETRIC_ACCESS_STATE_CHANGED);
        assert_eq!(sense(&bench.run_as(nexus, &[0; 6], &[], 0).0), changed);
        good(&bench.run_as(nexus, &[0; 6], &[], 0).0);
    }
    let told = report(&mut bench);
    assert_eq!((told[4], told[9]), (1, 2), "non-optimized, and not by command");
    good(&bench.run(&cdb10(0x28, 0, 0, 1), &[], 512).0);
}

#[test]
fn an_initiator_may_prefer_one_port_and_never_take_a_disk_over() {
    let mut bench = bench(AccessState::Optimized);
    let [one, two] = bench.nexuses;
    good(&set(&mut bench, &[(1, 1)]));
    good(&bench.run_as(one, &[0; 6], &[], 0).0);
    assert_eq!(sense(&bench.run_as(two, &[0; 6], &[], 0).0), (6, code::ASYMMETRIC_ACCESS_STATE_CHANGED));
    let told = report(&mut bench);
    assert_eq!((told[4], told[9]), (1, 1), "non-optimized, by command");
    good(&set(&mut bench, &[]));
    good(&bench.run(&cdb12(0xa4, REPORT, 0, 0), &[], 0).0);
    assert_eq!(report(&mut bench)[4], 1);

    let failed = (4, code::SET_TARGET_PORT_GROUPS_FAILED);
    assert_eq!(sense(&set(&mut bench, &[(2, 1)])), failed, "nor lock all others out of it");
    let unit = bench.unit;
    bench.target.unit_mut(unit).expect("it").set_access(AccessState::Standby);
    good(&bench.run_as(one, &[0x03, 0, 0, 0, 18, 0], &[], 18).0);
    assert_eq!(sense(&set(&mut bench, &[(0, 1)])), failed);
    good(&set(&mut bench, &[(2, 1)]));
}

#[test]
fn a_list_that_says_something_else_changes_nothing() {
    let mut bench = bench(AccessState::Optimized);
    let invalid = (5, code::INVALID_FIELD_IN_PARAMETER_LIST);
    for descriptors in [&[(3, 1)][..], &[(15, 1)], &[(1, 2)], &[(1, 1), (1, 0)], &[(1, 1), (14, 1)]] {
        assert_eq!(sense(&set(&mut bench, descriptors)), invalid, "{descriptors:?}");
    }
    for length in [1, 3, 5, 7, 9] {
        let (outcome, _) = bench.run(&cdb12(0xa4, REPORT, 0, length), &vec![0; length as usize], 0);
        assert_eq!(sense(&outcome), (5, code::PARAMETER_LIST_LENGTH_ERROR), "{length}");
    }
    let (outcome, _) = bench.run(&cdb12(0xa4, REPORT, 0, 8), &[0; 4], 0);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT));
    assert_eq!(report(&mut bench)[4], 0);
}
