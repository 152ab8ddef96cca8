//! What an initiator is told without having asked.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Attention, GeometryError, Identity, Nexus, Readiness, Traits, TransportId, code};
use storage_block::{Error, Geometry, Operation};

const TEST: [u8; 6] = [0; 6];

/// All unit attentions of a nexus, in the order in which it is told.
fn told(bench: &mut Bench, nexus: Nexus) -> Vec<u16> {
    let mut codes = Vec::new();
    loop {
        let (outcome, _) = bench.run_as(nexus, &TEST, &[], 0);
        if outcome.status == Status::Good {
            return codes;
        }
        let (key, code) = sense(&outcome);
        assert_eq!(key, 6);
        codes.push(code);
    }
}

fn port(name: &str) -> TransportId {
    TransportId::iscsi(name, [0; 6]).expect("a name")
}

#[test]
fn a_new_initiator_is_told_of_the_power_on_once_in_its_life() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.target.attach(&port("iqn.new")).expect("room");
    // These neither tell it nor hide it.
    let (outcome, _) = bench.run_as(nexus, &[0x12, 0, 0, 0, 36, 0], &[], 36);
    good(&outcome);
    good(&bench.run_as(nexus, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16).0);
    assert_eq!(told(&mut bench, nexus), [code::POWER_ON]);
    bench.target.detach(nexus);
    let again = bench.target.attach(&port("iqn.new")).expect("room");
    assert_eq!(again, nexus);
    assert_eq!(told(&mut bench, again), [], "a session that recovers is told of nothing that did not happen");
}

#[test]
fn request_sense_tells_and_clears_one_condition() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.raise(nexus, Attention::CommandsCleared);
    for (descriptor, expected) in [(0, &[0x70, 0, 6][..]), (1, &[0x72, 0, 0, 0])] {
        let (outcome, data) = bench.run(&[0x03, descriptor, 0, 0, 252, 0], &[], 252);
        good(&outcome);
        assert_eq!(&data[..expected.len()], expected);
    }
    assert_eq!(told(&mut bench, nexus), []);
}

#[test]
fn a_changed_disk_is_told_to_all() {
    let plain = geometry(1000, 512);
    let table = [
        (Geometry { size: 1_024_000, ..plain }, vec![code::CAPACITY_CHANGED]),
        (Geometry { read_only: true, ..plain }, vec![code::MODE_PARAMETERS_CHANGED]),
        (Geometry { trim: false, write_zeroes: false, ..plain }, vec![code::INQUIRY_DATA_CHANGED]),
        (plain, vec![]),
    ];
    for (changed, expected) in table {
        let mut bench = Bench::new(plain);
        bench.target.unit_mut(bench.unit).expect("it").set_geometry(changed).expect("a shape");
        for nexus in bench.nexuses {
            assert_eq!(told(&mut bench, nexus), expected);
        }
    }
}

#[test]
fn a_shape_no_disk_can_have_is_refused_and_the_old_one_stays() {
    let plain = geometry(1000, 512);
    let mut bench = Bench::new(plain);
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    let wrong = [
        Geometry { block_size: 0, ..plain },
        Geometry { block_size: 520, ..plain },
        Geometry { block_size: 1 << 20, ..plain },
        Geometry { size: 511, ..plain },
        Geometry { size: u64::MAX, ..plain },
        Geometry { preferred_block: 0, ..plain },
        Geometry { preferred_block: 256, ..plain },
        Geometry { max_transfer: 511, ..plain },
    ];
    let smaller = [
        (Geometry { size: plain.size - 512, ..plain }, GeometryError::Shrunk),
        (Geometry { block_size: 1024, ..plain }, GeometryError::OtherBlockSize),
    ];
    for (shape, error) in smaller {
        assert_eq!(unit.set_geometry(shape), Err(error));
        assert_eq!(unit.geometry(), Some(&plain));
    }
    for shape in wrong {
        assert!(unit.set_geometry(shape).is_err(), "{shape:?}");
        assert_eq!(unit.geometry(), Some(&plain));
    }
}

#[test]
fn a_disk_that_becomes_read_only_is_told_and_then_refuses_writes() {
    let plain = geometry(1000, 512);
    let mut bench = Bench::new(plain);
    let nexus = bench.nexuses[0];
    let under_way = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 9, 1), &[1; 512], 0);
    bench.step_all();
    bench.give(under_way);
    bench.step_all();
    bench.disk.faults.push((Operation::Write { fua: false }, 9 * 512, Error::NotPermitted));
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.set_geometry(Geometry { read_only: true, ..plain }).expect("a shape");
    bench.run_all();
    let protected = (7, code::WRITE_PROTECTED);
    assert_eq!(sense(&bench.slots[under_way].outcome.expect("an end")), protected);
    assert_eq!(told(&mut bench, nexus), [code::MODE_PARAMETERS_CHANGED]);
    let (_, modes) = bench.run(&[0x1a, 8, 0x3f, 0, 255, 0], &[], 255);
    assert_eq!(modes[2] & 0x80, 0x80, "WP");
    for cdb in [&cdb10(0x2a, 0, 0, 1)[..], &cdb10(0x41, 0, 0, 1), &cdb12(0xae, 2, 0, 1)] {
        assert_eq!(sense(&bench.run(cdb, &[0; 512], 0).0), protected);
    }
    good(&bench.run(&cdb10(0x28, 0, 0, 1), &[], 512).0);
}

#[test]
fn another_disk_behind_the_same_name_serves_nobody_until_it_is_accepted() {
    let plain = geometry(1000, 512);
    let mut bench = Bench::new(plain);
    let [one, two] = bench.nexuses;
    good(&bench.run(&cdb10(0x2a, 0, 9, 1), &[1; 512], 0).0);
    // One in the middle of its data, one with a request below, one that waits behind it.
    let asks = bench.start(one, [0; 8], &cdb10(0x2a, 0, 0, 1), &[1; 512], 0);
    let reads = bench.start(one, [0; 8], &cdb10(0x28, 0, 20, 1), &[], 512);
    let waits = bench.start(two, [0; 8], &cdb10(0x2a, 0, 20, 1), &[2; 512], 0);
    bench.step_all();
    let log = bench.disk.log.len();
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.replaced();
    assert!(unit.is_replaced() && unit.has_loss());
    bench.step_all();
    let down = (2, code::MANUAL_INTERVENTION_REQUIRED);
    assert_eq!(sense(&bench.slots[asks].outcome.expect("an end")), down);
    assert_eq!(sense(&bench.slots[waits].outcome.expect("an end")), down);
    assert!(bench.slots[reads].outcome.is_none(), "its request is still below");
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.set_readiness(Readiness::Ready);
    bench.slots[asks].receives.clear();
    bench.slots[waits].receives.clear();
    for cdb in [&TEST[..], &cdb10(0x28, 0, 0, 1), &cdb10(0x35, 0, 0, 0), &cdb10(0x25, 0, 0, 0)] {
        let index = bench.start(two, [0; 8], cdb, &[], 512);
        bench.step_all();
        assert_eq!(sense(&bench.slots[index].outcome.expect("an end")), down);
    }
    // It is accepted before the last request of its predecessor is back: that stays nobody's.
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.accept_replacement();
    let held = bench.start(one, [0; 8], &[0x12, 1, 0xb0, 0, 64, 0], &[], 64);
    bench.step_all();
    assert!(bench.slots[held].outcome.is_none(), "its shape is not known yet");
    let unit = bench.target.unit_mut(bench.unit).expect("it");
    unit.set_geometry(geometry(500, 512)).expect("it may be smaller");
    bench.run_all();
    assert_eq!(sense(&bench.slots[reads].outcome.expect("an end")), (6, code::MEDIUM_MAY_HAVE_CHANGED));
    assert_eq!(bench.disk.log.len(), log + 1, "nothing was begun but the read");
    let expected = [code::MEDIUM_MAY_HAVE_CHANGED, code::CAPACITY_CHANGED];
    for nexus in bench.nexuses {
        assert_eq!(told(&mut bench, nexus), expected);
    }
    assert_eq!(
        sense(&bench.run(&cdb10(0x35, 0, 0, 0), &[], 0).0),
        (3, code::WRITE_ERROR),
        "what was lost is"
    );
}

#[test]
fn mode_changes_are_told_to_the_others() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    let mut list = bench.run(&[0x5a, 8, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[], 255).1;
    list[..2].fill(0);
    let select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    good(&bench.run_as(one, &select, &list, 0).0);
    assert_eq!(told(&mut bench, two), [], "nothing was changed");
    list[8 + 4] |= 8;
    good(&bench.run_as(one, &select, &list, 0).0);
    assert_eq!(told(&mut bench, one), []);
    assert_eq!(told(&mut bench, two), [code::MODE_PARAMETERS_CHANGED]);
    let (outcome, _) = bench.run_as(two, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0);
    assert_eq!(sense(&outcome), (7, code::WRITE_PROTECTED), "SWP");
    // A wrong page behind a right one: neither is taken over.
    list[8 + 4] &= !8;
    list.extend([0x1c, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    assert_eq!(sense(&bench.run(&select, &list, 0).0), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
    assert_eq!(sense(&bench.run(&cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0), (7, code::WRITE_PROTECTED));
}

#[test]
fn other_units_are_told_of_and_report_luns_settles_it() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    let added = bench.target.add_unit(1, Identity::new([1; 16]), Traits::default()).expect("room");
    assert_eq!(told(&mut bench, one), [code::REPORTED_LUNS_CHANGED]);
    good(&bench.run_as(two, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16).0);
    assert_eq!(told(&mut bench, two), []);
    assert!(bench.target.remove_unit(added));
    assert_eq!(told(&mut bench, one), [code::REPORTED_LUNS_CHANGED]);
    assert!(bench.target.unit(added).is_none());
    let other = bench.target.add_unit(1, Identity::new([2; 16]), Traits::default()).expect("room");
    assert_ne!(other, added, "an id is never given twice");
}

#[test]
fn a_lost_nexus_is_told_only_if_it_lost_something() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&bench.run_as(one, &[0x16, 0, 0, 0, 0, 0], &[], 0).0);
    for (nexus, name, expected) in [(one, "iqn.a", vec![code::NEXUS_LOSS]), (two, "iqn.b", vec![])] {
        bench.target.detach(nexus);
        assert_eq!(bench.target.attach(&port(name)), Some(nexus));
        assert_eq!(told(&mut bench, nexus), expected);
    }
}

#[test]
fn a_session_that_is_taken_over_loses_what_the_old_one_held() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&bench.run_as(one, &[0x16, 0, 0, 0, 0, 0], &[], 0).0);
    assert_eq!(bench.run_as(two, &TEST, &[], 0).0.status, Status::ReservationConflict);
    assert_eq!(bench.target.attach(&port("iqn.a")), Some(one));
    good(&bench.run_as(two, &TEST, &[], 0).0);
}

#[test]
fn resets_are_told_to_all_and_put_everything_back() {
    for whole_target in [false, true] {
        let mut bench = Bench::new(geometry(1000, 512));
        let [one, two] = bench.nexuses;
        good(&bench.run_as(one, &[0x16, 0, 0, 0, 0, 0], &[], 0).0);
        let mut list = bench.run(&[0x1a, 8, 0x0a, 0, 255, 0], &[], 255).1;
        list[0] = 0;
        list[4 + 4] |= 8;
        good(&bench.run(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list, 0).0);
        if whole_target {
            bench.target.target_reset();
        } else {
            assert!(bench.target.lun_reset(bench.target.find([0; 8]).expect("LUN 0")));
        }
        for nexus in [one, two] {
            assert_eq!(told(&mut bench, nexus), [code::DEVICE_RESET]);
            good(&bench.run_as(nexus, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0);
        }
    }
}
