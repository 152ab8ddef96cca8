//! Reservations, old and persistent.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Nexus, TransportId, code};

const TEST: [u8; 6] = [0; 6];
const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE: [u8; 6] = [0x17, 0, 0, 0, 0, 0];

fn out(action: u8, kind: u8, length: usize) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, (length >> 8) as u8, length as u8, 0]
}

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), action_key.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

/// PERSISTENT RESERVE OUT with a basic list.
fn change(bench: &mut Bench, nexus: Nexus, action: u8, kind: u8, key: u64, action_key: u64) -> Outcome {
    bench.run_as(nexus, &out(action, kind, 24), &list(key, action_key, 0), 0).0
}

fn keys(bench: &mut Bench) -> Vec<u64> {
    let data = bench.run(&cdb10(0x5e, 0, 0, 4096), &[], 4096).1;
    data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("eight"))).collect()
}

/// Key and type of the reservation.
fn held(bench: &mut Bench) -> Option<(u64, u8)> {
    let data = bench.run(&cdb10(0x5e, 1, 0, 4096), &[], 4096).1;
    let held = data.get(8..)?;
    (!held.is_empty()).then(|| (u64::from_be_bytes(held[..8].try_into().expect("eight")), held[13]))
}

fn generation(bench: &mut Bench) -> u32 {
    let data = bench.run(&cdb10(0x5e, 0, 0, 8), &[], 8).1;
    u32::from_be_bytes(data[..4].try_into().expect("four"))
}

fn told(bench: &mut Bench, nexus: Nexus) -> Option<u16> {
    let outcome = bench.run_as(nexus, &TEST, &[], 0).0;
    (outcome.status == Status::CheckCondition).then(|| sense(&outcome).1)
}

#[test]
fn reserve_keeps_the_others_out_until_it_is_released() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    for (reserve, release) in [(&RESERVE[..], &RELEASE[..]), (&cdb10(0x56, 0, 0, 0), &cdb10(0x57, 0, 0, 0))] {
        good(&bench.run_as(one, reserve, &[], 0).0);
        good(&bench.run_as(one, reserve, &[], 0).0);
        let shut: &[&[u8]] = &[
            reserve,
            &TEST,
            &[0x1a, 0, 0x3f, 0, 255, 0],
            &cdb10(0x28, 0, 0, 1),
            &cdb10(0x25, 0, 0, 0),
            &cdb10(0x5e, 0, 0, 255),
            &[0x1e, 0, 0, 0, 1, 0],
        ];
        for cdb in shut {
            assert_eq!(bench.run_as(two, cdb, &[], 512).0.status, Status::ReservationConflict, "{cdb:02x?}");
        }
        let open: &[&[u8]] = &[
            release,
            &[0x12, 0, 0, 0, 36, 0],
            &[0x03, 0, 0, 0, 18, 0],
            &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
        ];
        for cdb in open {
            good(&bench.run_as(two, cdb, &[], 512).0);
        }
        assert_eq!(bench.run_as(two, &TEST, &[], 0).0.status, Status::ReservationConflict);
        good(&bench.run_as(one, release, &[], 0).0);
        good(&bench.run_as(two, reserve, &[], 0).0);
        good(&bench.run_as(two, release, &[], 0).0);
    }
}

#[test]
fn reserve_falls_with_its_nexus() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&bench.run_as(one, &RESERVE, &[], 0).0);
    bench.target.detach(one);
    good(&bench.run_as(two, &RESERVE, &[], 0).0);
}

#[test]
fn registering_takes_the_right_key() {
    let mut bench = Bench::new(geometry(1000, 512));
    let one = bench.nexuses[0];
    assert_eq!(change(&mut bench, one, 0, 0, 5, 7).status, Status::ReservationConflict, "it has no key");
    good(&change(&mut bench, one, 0, 0, 0, 0));
    assert_eq!(keys(&mut bench), [], "a key of zero registers nothing");
    good(&change(&mut bench, one, 0, 0, 0, 7));
    assert_eq!((keys(&mut bench), generation(&mut bench)), (vec![7], 1));
    assert_eq!(change(&mut bench, one, 0, 0, 8, 9).status, Status::ReservationConflict);
    good(&change(&mut bench, one, 0, 0, 7, 9));
    good(&change(&mut bench, one, 6, 0, 12345, 10));
    assert_eq!((keys(&mut bench), generation(&mut bench)), (vec![10], 3));
    good(&change(&mut bench, one, 0, 0, 10, 0));
    assert_eq!((keys(&mut bench), generation(&mut bench)), (vec![], 4));
    let (outcome, _) = bench.run(&out(6, 0, 24), &list(0, 5, 1), 0);
    assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_PARAMETER_LIST), "APTPL cannot be promised");
    assert_eq!(keys(&mut bench), []);
}

#[test]
fn capabilities_are_those_there_are() {
    let mut bench = Bench::new(geometry(1000, 512));
    assert_eq!(bench.run(&cdb10(0x5e, 2, 0, 255), &[], 255).1, [0, 8, 0x1c, 0x80, 0xea, 0x01, 0, 0]);
}

#[test]
fn every_type_is_reserved_shown_kept_and_released() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let shared = kind >= 7;
        let mut bench = Bench::new(geometry(1000, 512));
        let [one, two] = bench.nexuses;
        assert_eq!(
            change(&mut bench, one, 1, kind, 7, 0).status,
            Status::ReservationConflict,
            "unregistered"
        );
        good(&change(&mut bench, one, 6, 0, 0, 7));
        good(&change(&mut bench, two, 6, 0, 0, 8));
        good(&change(&mut bench, one, 1, kind, 7, 0));
        good(&change(&mut bench, one, 1, kind, 7, 0));
        assert_eq!(held(&mut bench), Some((if shared { 0 } else { 7 }, kind)));
        let other = if kind == 1 { 3 } else { 1 };
        assert_eq!(change(&mut bench, one, 1, other, 7, 0).status, Status::ReservationConflict);
        let second = change(&mut bench, two, 1, kind, 8, 0);
        assert_eq!(second.status, if shared { Status::Good } else { Status::ReservationConflict });
        // Who is registered and does not hold it.
        let write = bench.run_as(two, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0.status;
        let read = bench.run_as(two, &cdb10(0x28, 0, 0, 1), &[], 512).0.status;
        assert_eq!(write == Status::Good, kind >= 5);
        assert_eq!(read == Status::Good, kind != 3);
        good(&bench.run_as(two, &TEST, &[], 0).0);
        // A release of another type, by somebody else, and the right one.
        let (_, wrong) = sense(&change(&mut bench, one, 2, other, 7, 0));
        assert_eq!(wrong, code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION);
        if !shared {
            good(&change(&mut bench, two, 2, kind, 8, 0));
            assert!(held(&mut bench).is_some());
        }
        good(&change(&mut bench, one, 2, kind, 7, 0));
        assert_eq!(held(&mut bench), None);
        assert_eq!(told(&mut bench, two), (kind >= 5).then_some(code::RESERVATIONS_RELEASED));
        assert_eq!(told(&mut bench, one), None);
    }
}

#[test]
fn strangers_are_kept_out_of_what_changes_and_let_in_to_what_tells() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, one, 1, 1, 7, 0));
    let shut: &[&[u8]] = &[
        &cdb10(0x2a, 0, 0, 1),
        &cdb10(0x35, 0, 0, 0),
        &[0x1a, 0, 0x3f, 0, 255, 0],
        &unmap(0),
        &compare_and_write(0, 0, 1),
        &[0x1b, 0, 0, 0, 0, 0],
        &[0x1e, 0, 0, 0, 1, 0],
        &RESERVE,
        &RELEASE,
    ];
    for cdb in shut {
        assert_eq!(
            bench.run_as(two, cdb, &[0; 1024], 512).0.status,
            Status::ReservationConflict,
            "{cdb:02x?}"
        );
    }
    let open: &[&[u8]] = &[
        &TEST,
        &cdb10(0x28, 0, 0, 1),
        &cdb10(0x2f, 0, 0, 1),
        &cdb10(0x25, 0, 0, 0),
        &cdb12(0xa3, 0x0c, 0, 255),
        &cdb10(0x5e, 0, 0, 255),
        &[0x1b, 0, 0, 0, 1, 0],
        &[0x1e, 0, 0, 0, 0, 0],
    ];
    for cdb in open {
        good(&bench.run_as(two, cdb, &[], 512).0);
    }
    good(&bench.run_as(one, &RESERVE, &[], 0).0);
    good(&bench.run_as(one, &RELEASE, &[], 0).0);
}

#[test]
fn what_is_held_goes_when_its_holder_unregisters() {
    // Type; whether it stays when one of two registrants goes; what the other is told.
    let table = [
        (1, false, None),
        (3, false, None),
        (5, false, Some(code::RESERVATIONS_RELEASED)),
        (6, false, Some(code::RESERVATIONS_RELEASED)),
        (7, true, None),
        (8, true, None),
    ];
    for (kind, stays, expected) in table {
        let mut bench = Bench::new(geometry(1000, 512));
        let [one, two] = bench.nexuses;
        good(&change(&mut bench, one, 6, 0, 0, 7));
        good(&change(&mut bench, two, 6, 0, 0, 8));
        good(&change(&mut bench, one, 1, kind, 7, 0));
        good(&change(&mut bench, one, 0, 0, 7, 0));
        assert_eq!(held(&mut bench).is_some(), stays, "the one that went is told nothing");
        assert_eq!(told(&mut bench, two), expected);
        good(&change(&mut bench, two, 0, 0, 8, 0));
        assert_eq!(held(&mut bench), None);
    }
}

#[test]
fn clear_leaves_nothing() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, two, 6, 0, 0, 8));
    good(&change(&mut bench, one, 1, 3, 7, 0));
    let before = generation(&mut bench);
    good(&change(&mut bench, two, 3, 0, 8, 0));
    assert_eq!(told(&mut bench, one), Some(code::RESERVATIONS_PREEMPTED));
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![], None));
    assert_eq!(generation(&mut bench), before + 1);
}

#[test]
fn preempt_removes_and_takes_over() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, two, 6, 0, 0, 8));
    let before = generation(&mut bench);
    // Nothing is reserved: registrations only.
    assert_eq!(sense(&change(&mut bench, two, 4, 3, 8, 0)), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
    assert_eq!(change(&mut bench, two, 4, 3, 8, 99).status, Status::ReservationConflict);
    good(&change(&mut bench, two, 4, 3, 8, 7));
    assert_eq!(told(&mut bench, one), Some(code::REGISTRATIONS_PREEMPTED));
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![8], None));
    assert_eq!(generation(&mut bench), before + 1);
    // The holder's key: its reservation too, and with another type.
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, one, 1, 5, 7, 0));
    good(&change(&mut bench, two, 4, 6, 8, 7));
    assert_eq!(told(&mut bench, one), Some(code::REGISTRATIONS_PREEMPTED));
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![8], Some((8, 6))));
    // All registrants: zero means everybody.
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, two, 4, 7, 8, 8));
    assert_eq!(told(&mut bench, one), Some(code::RESERVATIONS_RELEASED), "the type has changed");
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![7, 8], Some((0, 7))));
    good(&change(&mut bench, one, 4, 1, 7, 0));
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![7], Some((7, 1))));
    assert_eq!(told(&mut bench, two), Some(code::REGISTRATIONS_PREEMPTED));
}

#[test]
fn preempt_and_abort_answers_when_the_others_are_quiet() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, two, 6, 0, 0, 8));
    let write = bench.start(one, [0; 8], &cdb10(0x2a, 0, 0, 1), &[1; 512], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    // More is offered than there is use for.
    let offered = [list(8, 7, 0), vec![0; 8]].concat();
    let preempt = bench.start(two, [0; 8], &out(5, 3, 24), &offered, 0);
    bench.step_all();
    bench.give(preempt);
    bench.step_all();
    assert!(bench.slots[preempt].outcome.is_none(), "a write of the other is still below");
    bench.run_all();
    assert_eq!(bench.slots[write].outcome.map(|outcome| outcome.status), Some(Status::TaskAborted));
    let outcome = bench.slots[preempt].outcome.expect("an end");
    good(&outcome);
    assert_eq!(outcome.wanted_out, 24);
}

#[test]
fn full_status_names_the_ports() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, two, 6, 0, 0, 8));
    good(&change(&mut bench, two, 1, 5, 8, 0));
    let data = bench.run(&cdb10(0x5e, 3, 0, 4096), &[], 4096).1;
    let port = TransportId::iscsi("iqn.a", [0; 6]).expect("a name");
    let length = port.as_bytes().len();
    assert_eq!(data.len(), 8 + 2 * (24 + length));
    assert_eq!(data[8..16], 7_u64.to_be_bytes());
    assert_eq!(data[20..32], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, length as u8]);
    assert_eq!(&data[32..32 + length], port.as_bytes());
    assert_eq!(data[32 + length + 12..][..2], [1, 5], "the second is the holder");
}

#[test]
fn registrations_outlive_the_session_and_nobody_takes_their_place() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    good(&change(&mut bench, one, 6, 0, 0, 7));
    good(&change(&mut bench, one, 1, 3, 7, 0));
    bench.target.detach(one);
    for index in 0..20_u8 {
        let stranger = TransportId::iscsi("iqn.stranger", [index; 6]).expect("a name");
        let nexus = bench.target.attach(&stranger).expect("room");
        assert_ne!(nexus, one);
        bench.target.detach(nexus);
    }
    let again = bench.target.attach(&TransportId::iscsi("iqn.a", [0; 6]).expect("a name"));
    assert_eq!(again, Some(one));
    good(&bench.run_as(one, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0);
    assert_eq!(bench.run_as(two, &cdb10(0x28, 0, 0, 1), &[], 512).0.status, Status::ReservationConflict);
    bench.target.lun_reset(bench.unit);
    assert_eq!(told(&mut bench, two), Some(code::DEVICE_RESET));
    assert_eq!(bench.run_as(two, &cdb10(0x28, 0, 0, 1), &[], 512).0.status, Status::ReservationConflict);
}

#[test]
fn others_are_registered_by_name_all_or_none() {
    let mut bench = Bench::new(geometry(1000, 512));
    let one = bench.nexuses[0];
    let ports = ["iqn.b", "iqn.later"].map(|name| TransportId::iscsi(name, [0; 6]).expect("a name"));
    let specified = |ports: &[&[u8]]| {
        let mut bytes = list(0, 7, 0x08);
        bytes.extend((ports.concat().len() as u32).to_be_bytes());
        bytes.extend(ports.concat());
        bytes
    };
    let mut run = |bytes: &[u8]| bench.run(&out(0, 0, bytes.len()), bytes, 0).0;
    let both = [ports[0].as_bytes(), ports[1].as_bytes()];
    let wrong: &[Vec<u8>] = &[
        specified(&[both[0], &both[1][..20]]),
        specified(&[both[0], both[0]]),
        specified(&[TransportId::iscsi("iqn.a", [0; 6]).expect("a name").as_bytes()]),
        specified(&[&[0x45, 0, 0xff, 0xff]]),
    ];
    for bytes in wrong {
        assert_eq!(sense(&run(bytes)), (5, code::INVALID_FIELD_IN_PARAMETER_LIST));
    }
    // Four places, three of them registered on this target already or about to be: the fifth port finds none.
    let many: Vec<_> =
        (0..5).map(|index| TransportId::iscsi("iqn.many", [index; 6]).expect("a name")).collect();
    let many: Vec<_> = many.iter().map(|id| id.as_bytes()).collect();
    assert_eq!(sense(&run(&specified(&many))), (5, code::INSUFFICIENT_REGISTRATION_RESOURCES));
    good(&run(&specified(&both)));
    assert_eq!(keys(&mut bench), [7, 7, 7]);
    let later = bench.target.attach(&ports[1]).expect("its place waits for it");
    assert_eq!(told(&mut bench, later), Some(code::POWER_ON));
    good(&change(&mut bench, later, 1, 1, 7, 0));
    let mut again = specified(&[both[0]]);
    again[7] = 7;
    assert_eq!(sense(&bench.run(&out(0, 0, again.len()), &again, 0).0).0, 5, "a registrant registers nobody");
    assert_eq!(bench.run_as(one, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0.status, Status::ReservationConflict);
}

#[test]
fn a_reservation_moves_to_another_port() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    let port = TransportId::iscsi("iqn.b", [0; 6]).expect("a name");
    let mut bytes = [7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
    bytes.extend([0, 2, 0, 1]);
    bytes.extend((port.as_bytes().len() as u32).to_be_bytes());
    bytes.extend(port.as_bytes());
    let cdb = out(7, 0, bytes.len());
    assert_eq!(bench.run(&cdb, &bytes, 0).0.status, Status::ReservationConflict);
    good(&change(&mut bench, one, 6, 0, 0, 7));
    assert_eq!(bench.run(&cdb, &bytes, 0).0.status, Status::ReservationConflict);
    good(&change(&mut bench, one, 1, 3, 7, 0));
    for (at, value) in [(17, 1), (19, 2), (23, 0), (15, 0)] {
        let mut wrong = bytes.clone();
        wrong[at] = value;
        let outcome = bench.run(&cdb, &wrong, 0).0;
        assert_eq!(sense(&outcome).0, 5, "byte {at}");
    }
    good(&bench.run(&cdb, &bytes, 0).0);
    // The one that moved it is no registrant any more (UNREG).
    assert_eq!((keys(&mut bench), held(&mut bench)), (vec![9], Some((9, 3))));
    good(&bench.run_as(two, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).0);
    assert_eq!(bench.run_as(one, &cdb10(0x28, 0, 0, 1), &[], 512).0.status, Status::ReservationConflict);
}
