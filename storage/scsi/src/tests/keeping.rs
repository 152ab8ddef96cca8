//! Reservations that outlive a loss of power: what happens while they are made durable, and what comes back.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Identity, Limits, NotRestored, Target, Traits, TransportId, UnitId, code};
use storage_block::Pool;

const APTPL: u8 = 1;

fn bench() -> Bench {
    let traits = Traits { keeps: true, ..Traits::default() };
    Bench::with(geometry(1000, 512), traits, &Pool::new(&[(4096, 32), (65536, 8), (262_144, 8)]))
}

fn out(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), action_key.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

/// Begin a change by one of the two initiators, as far as it goes by itself.
fn begin(bench: &mut Bench, who: usize, action: u8, kind: u8, list: &[u8]) -> usize {
    let index = bench.start(bench.nexuses[who], [0; 8], &out(action, kind), list, 0);
    bench.step_all();
    bench.give(index);
    bench.step_all();
    index
}

fn keys(bench: &mut Bench) -> Vec<u8> {
    let index = bench.start(bench.nexuses[0], [0; 8], &cdb10(0x5e, 0, 0, 4096), &[], 4096);
    bench.step_all();
    let slot = bench.slots.remove(index);
    good(&slot.outcome.expect("reading is not kept waiting"));
    slot.data_in[8..].iter().skip(7).step_by(8).copied().collect()
}

/// A target as it is after a loss of power, with places for so many ports.
fn powered(nexuses: u16) -> (Target, UnitId) {
    let mut target = Target::new("iqn.2024-01.test:disk", Limits { units: 1, nexuses, commands: 8 });
    let traits = Traits { keeps: true, ..Traits::default() };
    let unit = target.add_unit(0, Identity::new([0x11; 16]), traits).expect("room");
    (target, unit)
}

#[test]
fn nothing_of_a_change_is_seen_before_it_is_durable_and_only_other_changes_wait() {
    let mut bench = bench();
    let [one, two] = bench.nexuses;
    let register = begin(&mut bench, 0, 6, 0, &list(0, 7, APTPL));
    assert!(bench.keeping && bench.slots[register].outcome.is_none());
    let other = begin(&mut bench, 1, 6, 0, &list(0, 8, APTPL));
    assert!(bench.slots[other].outcome.is_none(), "one after the other");
    assert_eq!(keys(&mut bench), []);
    // Reads, writes and resets go on.
    let write = bench.start(two, [0; 8], &cdb10(0x2a, 0, 0, 1), &[1; 512], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    bench.complete(0);
    bench.step_all();
    good(&bench.slots[write].outcome.expect("an end"));
    // Who is about to be registered is so for those who would reserve in the old way.
    let reserve = bench.start(two, [0; 8], &[0x16, 0, 0, 0, 0, 0], &[], 0);
    bench.step_all();
    assert_eq!(bench.slots[reserve].outcome.expect("an end").status, Status::ReservationConflict);

    bench.keep(true);
    bench.step_all();
    good(&bench.slots[register].outcome.expect("it is durable"));
    assert!(bench.keeping && bench.slots[other].outcome.is_none(), "now the other is kept");
    assert_eq!(keys(&mut bench), [7]);
    bench.keep(true);
    bench.step_all();
    good(&bench.slots[other].outcome.expect("it is durable"));
    assert_eq!(bench.slots[other].outcome.expect("an end").wanted_out, 24);
    bench.slots.clear();
    // What a restart would make the same of is not kept again.
    good(&bench.run_as(one, &out(1, 3), &list(7, 0, 0), 0).0);
    let again = begin(&mut bench, 0, 1, 3, &list(7, 0, 0));
    assert!(!bench.keeping);
    good(&bench.slots[again].outcome.expect("at once"));
}

#[test]
fn what_cannot_be_kept_does_not_happen_and_is_said() {
    let mut bench = bench();
    good(&bench.run_as(bench.nexuses[0], &out(6, 0), &list(0, 7, APTPL), 0).0);
    for (action, kind, bytes) in
        [(1, 3, list(7, 0, 0)), (0, 0, list(7, 0, APTPL)), (3, 0, list(7, 0, 0)), (0, 0, list(7, 9, 0))]
    {
        let change = begin(&mut bench, 0, action, kind, &bytes);
        bench.keep(false);
        bench.step_all();
        let outcome = bench.slots.remove(change).outcome.expect("an end");
        assert_eq!(sense(&outcome), (4, code::INTERNAL_TARGET_FAILURE), "action {action}");
        assert_eq!(keys(&mut bench), [7], "action {action}");
    }
    assert_eq!(bench.run(&cdb10(0x5e, 1, 0, 255), &[], 255).1.len(), 8, "nothing is reserved");
    assert_eq!(bench.run(&cdb10(0x5e, 2, 0, 255), &[], 255).1[2..4], [0x1d, 0x81]);
}

#[test]
fn who_gives_up_waiting_leaves_the_change_to_happen() {
    for before in [true, false] {
        let mut bench = bench();
        let change = begin(&mut bench, 0, 6, 0, &list(0, 7, APTPL));
        if before {
            bench.slots[change].command.abort();
            bench.step_all();
            assert_eq!(bench.slots[change].outcome.map(|end| end.status), Some(Status::TaskAborted));
            bench.keep(true);
        } else {
            bench.keep(true);
            bench.slots[change].command.abort();
            bench.step_all();
            assert_eq!(bench.slots[change].outcome.map(|end| end.status), Some(Status::TaskAborted));
        }
        assert_eq!(keys(&mut bench), [7], "what is on the disk is what is here");
        bench.slots.clear();
        good(&bench.run_as(bench.nexuses[1], &out(6, 0), &list(0, 8, APTPL), 0).0);
        assert_eq!(keys(&mut bench), [7, 8], "nobody is in the way");
    }
}

#[test]
fn whom_a_command_that_is_no_more_has_preempted_is_named_so_that_his_commands_end() {
    const PREEMPT_AND_ABORT: u8 = 5;
    for is_awaited in [true, false] {
        let mut bench = bench();
        let two = bench.nexuses[1];
        for (who, key) in [(0, 1), (1, 2)] {
            begin(&mut bench, who, 6, 0, &list(0, key, APTPL));
            assert_eq!(bench.keep(true), []);
            bench.step_all();
        }
        let preempting = begin(&mut bench, 0, PREEMPT_AND_ABORT, 5, &list(1, 2, APTPL));
        if !is_awaited {
            bench.slots[preempting].command.abort();
            bench.step_all();
        }
        assert_eq!(bench.keep(true), if is_awaited { vec![] } else { vec![two] });
    }
}

#[test]
fn what_was_kept_is_there_before_anybody_has_logged_in() {
    let mut bench = bench();
    let [one, two] = bench.nexuses;
    good(&bench.run_as(one, &out(6, 0), &list(0, 7, APTPL), 0).0);
    good(&bench.run_as(two, &out(6, 0), &list(0, 8, APTPL), 0).0);
    good(&bench.run_as(two, &out(1, 3), &list(8, 0, 0), 0).0);
    let (mut target, unit) = powered(2);
    target.restore(unit, &bench.kept).expect("what it kept itself");
    // Both places are taken by those who were there, and wait for them.
    assert_eq!(target.attach(&TransportId::iscsi("iqn.stranger", [0; 6]).expect("a name")), None);
    (bench.target, bench.unit) = (target, unit);
    bench.target.unit_mut(unit).expect("it").set_geometry(geometry(1000, 512)).expect("a geometry");
    bench.target.unit_mut(unit).expect("it").set_readiness(crate::Readiness::Ready);
    let one = bench.target.attach(&TransportId::iscsi("iqn.a", [0; 6]).expect("a name")).expect("its place");
    assert_eq!(sense(&bench.run_as(one, &[0; 6], &[], 0).0), (6, code::POWER_ON));
    let read = bench.run_as(one, &cdb10(0x28, 0, 0, 1), &[], 512).0;
    assert_eq!(read.status, Status::ReservationConflict);
    bench.nexuses[0] = one;
    let (_, data) = bench.run(&cdb10(0x5e, 1, 0, 255), &[], 255);
    assert_eq!((&data[..4], data[15], data[21]), (&[0; 4][..], 8, 3), "PRGENERATION begins anew");
    // The last registration decides, also about what was kept.
    good(&bench.run_as(one, &out(0, 0), &list(7, 7, 0), 0).0);
    assert_eq!(bench.kept, []);
}

#[test]
fn sixty_four_registrants_of_the_longest_names_are_kept_and_one_too_many_is_refused() {
    let (mut target, unit) = powered(256);
    let mut state = vec![1, 0, 0xff, 0xff, 0, 64];
    let port = |index: u8| {
        let name = format!("{}{index:03}", "n".repeat(220));
        TransportId::iscsi(&name, [index; 6]).expect("a name")
    };
    let registrant = |index: u8| {
        let id = port(index);
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 1 + index, 0, 1];
        bytes.extend((id.as_bytes().len() as u16).to_be_bytes());
        bytes.extend(id.as_bytes());
        bytes
    };
    (0..64).for_each(|index| state.extend(registrant(index)));
    assert!(state.len() <= crate::LONGEST_KEPT);
    target.restore(unit, &state).expect("all of them");
    // So many more that what is to be kept is longer than may be.
    let more = 77;
    state[5] = 64 + more;
    (64..64 + more).for_each(|index| state.extend(registrant(index)));
    assert!(state.len() > crate::LONGEST_KEPT);
    target.restore(unit, &state).expect("they find a place");
    let mut bench = bench();
    (bench.target, bench.unit) = (target, unit);
    bench.target.unit_mut(unit).expect("it").set_geometry(geometry(1000, 512)).expect("a geometry");
    bench.target.unit_mut(unit).expect("it").set_readiness(crate::Readiness::Ready);
    let one = bench.target.attach(&port(0)).expect("its place");
    bench.nexuses[0] = one;
    let _power_on = bench.run(&[0; 6], &[], 0);
    let outcome = bench.run(&out(0, 0), &list(1, 99, APTPL), 0).0;
    assert_eq!(sense(&outcome), (5, code::INSUFFICIENT_REGISTRATION_RESOURCES));
    assert!(!bench.keeping);
}

#[test]
fn what_was_not_kept_by_us_is_not_believed() {
    let mut bench = bench();
    let [one, two] = bench.nexuses;
    good(&bench.run_as(one, &out(6, 0), &list(0, 7, APTPL), 0).0);
    good(&bench.run_as(two, &out(6, 0), &list(0, 8, APTPL), 0).0);
    good(&bench.run_as(two, &out(1, 3), &list(8, 0, 0), 0).0);
    let kept = bench.kept.clone();
    for length in 0..kept.len() {
        let (mut target, unit) = powered(4);
        assert_eq!(target.restore(unit, &kept[..length]), Err(NotRestored::Malformed), "{length} bytes");
    }
    let (mut target, unit) = powered(1);
    assert_eq!(target.restore(unit, &kept), Err(NotRestored::NoPlace));
    // Version, type, holder, number; key, port and length of the first.
    for (at, value) in [(0, 2), (1, 2), (3, 2), (5, 1), (5, 3), (13, 0), (15, 2), (17, 25)] {
        let (mut target, unit) = powered(4);
        let mut wrong = kept.clone();
        wrong[at] = value;
        assert_eq!(target.restore(unit, &wrong), Err(NotRestored::Malformed), "byte {at}");
    }
    let (mut target, unit) = powered(4);
    assert_eq!(target.restore(unit, &[&kept[..], &[0]].concat()), Err(NotRestored::Malformed));
    assert_eq!(target.restore(unit, &kept), Ok(()));
}
