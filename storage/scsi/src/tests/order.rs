//! Which commands run together, and which wait.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Attribute, Traits};
use storage_block::Pool;

fn start(bench: &mut Bench, cdb: &[u8], data: &[u8], attribute: Attribute) -> usize {
    let nexus = bench.nexuses[0];
    let index = bench.start_with(nexus, [0; 8], cdb, data, 65536, attribute);
    bench.step_all();
    index
}

#[test]
fn overlapping_writes_reach_the_disk_in_the_order_in_which_they_came() {
    let mut bench = Bench::new(geometry(1000, 512));
    let first = start(&mut bench, &cdb10(0x2a, 0, 0, 4), &[1; 2048], Attribute::Simple);
    let second = start(&mut bench, &cdb10(0x2a, 0, 2, 4), &[2; 2048], Attribute::Simple);
    let aside = start(&mut bench, &cdb10(0x2a, 0, 10, 1), &[3; 512], Attribute::Simple);
    assert_eq!(bench.slots[second].waits, "blocked");
    assert_eq!(bench.slots[aside].receives.len(), 1);
    bench.run_all();
    for index in [first, second, aside] {
        good(&bench.slots[index].outcome.expect("an end"));
    }
    assert_eq!(bench.disk.bytes[..3072], [vec![1; 1024], vec![2; 2048]].concat());
}

#[test]
fn a_write_that_waits_takes_its_data_but_is_not_written() {
    let mut bench = Bench::new(geometry(1000, 512));
    let first = start(&mut bench, &cdb10(0x2a, 0, 0, 4), &[1; 2048], Attribute::Simple);
    let second = start(&mut bench, &cdb10(0x2a, 0, 2, 4), &[2; 2048], Attribute::Simple);
    // Its immediate data stands on the wire before the data that the first has asked for.
    assert_eq!(bench.slots[second].receives.len(), 1);
    bench.give(second);
    bench.step_all();
    assert!(bench.disk.pending.is_empty() && bench.slots[second].waits == "blocked");
    bench.give(first);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 1);
    bench.complete(0);
    bench.step_all();
    assert_eq!((bench.disk.pending.len(), bench.disk.pending[0].offset), (1, 1024));
    bench.run_all();
    for index in [first, second] {
        good(&bench.slots[index].outcome.expect("an end"));
    }
    assert_eq!(bench.disk.bytes[..3072], [vec![1; 1024], vec![2; 2048]].concat());
}

#[test]
fn a_write_takes_its_data_behind_a_read_that_waits() {
    let mut bench = Bench::new(geometry(1000, 512));
    let first = start(&mut bench, &cdb10(0x2a, 0, 0, 4), &[1; 2048], Attribute::Simple);
    let read = start(&mut bench, &cdb10(0x28, 0, 2, 4), &[], Attribute::Simple);
    let last = start(&mut bench, &cdb10(0x2a, 0, 5, 2), &[2; 1024], Attribute::Simple);
    assert_eq!(bench.slots[last].receives.len(), 1);
    bench.give(last);
    bench.give(first);
    bench.run_all();
    assert_eq!(bench.slots[read].data_in, [[1; 1024], [0; 1024]].concat());
    assert_eq!(bench.disk.bytes[2560..3584], [2; 1024]);
}

#[test]
fn data_ahead_leaves_the_buffers_that_those_before_it_need() {
    // The first needs more than the pool has, so those that wait for it must not have any of it.
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 4)]));
    let first = start(&mut bench, &cdb10(0x2a, 0, 0, 20), &[1; 10240], Attribute::Simple);
    let second = start(&mut bench, &cdb10(0x2a, 0, 2, 4), &[2; 2048], Attribute::Simple);
    assert!(bench.slots[second].receives.is_empty(), "it takes none");
    bench.run_all();
    for index in [first, second] {
        good(&bench.slots[index].outcome.expect("an end"));
    }
    assert_eq!(bench.disk.bytes[1024..3072], [2; 2048]);
}

#[test]
fn data_is_taken_ahead_behind_an_aborted_command_that_is_still_below() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 8)]));
    let long = start(&mut bench, &cdb10(0x2a, 0, 0, 20), &[1; 10240], Attribute::Simple);
    bench.give(long);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 1);
    // It was told to try again, and what the service makes of its request is not known yet.
    bench.slots[long].command.abort();
    bench.slots[long].receives.clear();
    bench.step_all();
    let again = start(&mut bench, &cdb10(0x2a, 0, 0, 2), &[2; 1024], Attribute::Simple);
    assert_eq!(bench.slots[again].waits, "blocked");
    assert_eq!(bench.slots[again].receives.len(), 2);
    bench.run_all();
    good(&bench.slots[again].outcome.expect("an end"));
    assert_eq!(bench.disk.bytes[..1024], [2; 1024]);
}

#[test]
fn an_aborted_command_gives_back_what_it_took_ahead() {
    let mut bench = Bench::new(geometry(1000, 512));
    start(&mut bench, &cdb10(0x2a, 0, 0, 4), &[1; 2048], Attribute::Simple);
    let second = start(&mut bench, &cdb10(0x2a, 0, 2, 4), &[2; 2048], Attribute::Simple);
    bench.give(second);
    bench.step_all();
    bench.slots[second].command.abort();
    bench.step_all();
    assert!(bench.slots[second].outcome.is_some());
    bench.run_all();
    assert_eq!(bench.data.used(), 0);
    assert_eq!(bench.disk.bytes[..3072], [vec![1; 2048], vec![0; 1024]].concat());
}

#[test]
fn compare_and_write_takes_both_halves_before_it_compares() {
    // With data digests a place comes back when its PDU is whole, and one PDU may bring both.
    for blocks in [1, 255] {
        let mut bench = Bench::new(geometry(1000, 512));
        let length = usize::from(blocks) * 512;
        let data = [vec![0; length], vec![1; length]].concat();
        let swap = start(&mut bench, &compare_and_write(0, 0, blocks), &data, Attribute::Simple);
        let asked: usize = bench.slots[swap].receives.iter().map(|(_, buffer)| buffer.len()).sum();
        assert_eq!(asked, data.len());
        bench.give(swap);
        bench.give(swap);
        bench.step_all();
        assert_eq!(bench.disk.pending.len(), 1, "it reads");
        bench.complete(0);
        bench.run_all();
        good(&bench.slots[swap].outcome.expect("an end"));
        assert_eq!(bench.disk.bytes[..length], vec![1; length]);
        // The compare fails: what came with it is thrown away.
        let swap = start(&mut bench, &compare_and_write(0, 0, blocks), &data, Attribute::Simple);
        bench.run_all();
        assert_eq!(sense(&bench.slots[swap].outcome.expect("an end")).0, 14);
        assert_eq!((bench.disk.bytes[0], bench.data.used()), (1, 0));
    }
}

#[test]
fn the_part_of_a_last_block_is_taken_with_the_rest() {
    let mut bench = Bench::new(geometry(1000, 512));
    let write = start(&mut bench, &cdb10(0x2a, 0, 0, 2), &[1; 700], Attribute::Simple);
    assert_eq!(bench.slots[write].receives.iter().map(|(_, buffer)| buffer.len()).sum::<usize>(), 700);
    bench.run_all();
    assert_eq!(bench.disk.bytes[..1024], [vec![1; 700], vec![0; 324]].concat());
}

#[test]
fn data_that_one_initiator_withholds_keeps_no_other_from_flushing() {
    let mut bench = Bench::new(geometry(1000, 512));
    let [one, two] = bench.nexuses;
    let run = |bench: &mut Bench, nexus, cdb: &[u8], data: &[u8]| {
        let index = bench.start(nexus, [0; 8], cdb, data, 0);
        bench.step_all();
        index
    };
    let withheld = run(&mut bench, one, &cdb10(0x2a, 0, 0, 1), &[1; 512]);
    // It overlaps, so it has to wait; its flush has not.
    let behind = run(&mut bench, two, &cdb10(0x2a, 0, 0, 1), &[2; 512]);
    bench.give(behind);
    bench.step_all();
    let flush = run(&mut bench, two, &cdb10(0x35, 0, 0, 0), &[]);
    bench.complete(0);
    bench.step_all();
    good(&bench.slots[flush].outcome.expect("an end"));
    assert!(bench.slots[withheld].outcome.is_none() && bench.slots[behind].outcome.is_none());
    bench.run_all();
}

#[test]
fn a_read_after_an_overlapping_write_waits_for_it() {
    let mut bench = Bench::new(geometry(1000, 512));
    start(&mut bench, &cdb10(0x2a, 0, 0, 4), &[1; 2048], Attribute::Simple);
    let read = start(&mut bench, &cdb10(0x28, 0, 3, 1), &[], Attribute::Simple);
    assert_eq!(bench.slots[read].waits, "blocked");
    bench.run_all();
    assert_eq!(bench.slots[read].data_in, [1; 512]);
}

#[test]
fn compare_and_write_lets_nothing_in_between() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 4)]));
    let lock = [vec![0; 512], vec![1; 512]].concat();
    let cdb = compare_and_write(0, 7, 1);
    let commands: Vec<_> = (0..8).map(|_| start(&mut bench, &cdb, &lock, Attribute::Simple)).collect();
    bench.run_all();
    let won = commands
        .iter()
        .filter(|index| bench.slots[**index].outcome.is_some_and(|outcome| outcome.status == Status::Good));
    assert_eq!(won.count(), 1, "of eight that try to take a lock, one gets it");
}

#[test]
fn ordered_commands_stand_between_the_others() {
    let mut bench = Bench::new(geometry(1000, 512));
    let before = start(&mut bench, &cdb10(0x2a, 0, 0, 1), &[1; 512], Attribute::Simple);
    let ordered = start(&mut bench, &cdb10(0x2a, 0, 10, 1), &[1; 512], Attribute::Ordered);
    let after = start(&mut bench, &cdb10(0x28, 0, 20, 1), &[], Attribute::Simple);
    let head = start(&mut bench, &cdb10(0x28, 0, 30, 1), &[], Attribute::HeadOfQueue);
    let running = |bench: &Bench| [ordered, after, head].map(|index| bench.slots[index].waits != "blocked");
    assert_eq!(running(&bench), [false, false, true]);
    bench.give(before);
    bench.step_all();
    while bench.slots[before].outcome.is_none() {
        bench.complete(0);
        bench.step_all();
    }
    bench.run_all();
    let writes: Vec<_> = bench.disk.log.iter().map(|(_, offset, _)| *offset / 512).collect();
    let place = |lba| writes.iter().position(|at| *at == lba);
    assert!(place(0) < place(10) && place(10) < place(20), "{writes:?}");
}

#[test]
fn a_parameter_list_is_not_asked_for_behind_an_ordered_command() {
    let mut bench = Bench::new(geometry(1000, 512));
    let ordered = start(&mut bench, &cdb10(0x28, 0, 10, 1), &[], Attribute::Ordered);
    let fill = start(&mut bench, &cdb10(0x41, 0, 500, 1), &[7; 512], Attribute::Simple);
    assert_eq!(bench.slots[fill].waits, "blocked");
    assert_eq!(bench.control.used(), 0);
    bench.run_all();
    for index in [ordered, fill] {
        good(&bench.slots[index].outcome.expect("an end"));
    }
    assert_eq!(bench.disk.bytes[500 * 512..501 * 512], [7; 512]);
}

#[test]
fn an_aborted_command_that_waits_for_its_list_leaves_its_place() {
    let mut bench = Bench::new(geometry(1000, 512));
    let fill = start(&mut bench, &cdb10(0x41, 0, 500, 1), &[7; 512], Attribute::Simple);
    let ordered = start(&mut bench, &cdb10(0x28, 0, 10, 1), &[], Attribute::Ordered);
    assert_eq!(bench.slots[ordered].waits, "blocked");
    bench.slots[fill].command.abort();
    bench.slots[fill].receives.clear();
    bench.run_all();
    good(&bench.slots[ordered].outcome.expect("an end"));
}

#[test]
fn more_commands_than_there_are_places_are_answered_task_set_full() {
    let mut bench = Bench::new(geometry(1000, 512));
    let all: Vec<_> =
        (0..70).map(|lba| start(&mut bench, &cdb10(0x28, 0, lba, 1), &[], Attribute::Simple)).collect();
    let full = all.iter().filter(|index| {
        bench.slots[**index].outcome.is_some_and(|outcome| outcome.status == Status::TaskSetFull)
    });
    assert_eq!(full.count(), 6);
    bench.run_all();
}

#[test]
fn commands_that_need_two_buffers_do_not_wait_in_a_circle() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(2048, 3)]));
    let data = vec![0; 16 * 512];
    for lba in 0..20 {
        start(&mut bench, &cdb10(0x2f, 2, lba * 20, 16), &data, Attribute::Simple);
        start(&mut bench, &cdb16(0x8b, 0, u64::from(lba) * 20, 16), &data, Attribute::Simple);
    }
    // The first few of the pool only: the others are starved and say so.
    assert!(bench.slots.iter().any(|slot| slot.waits == "starved"));
    bench.run_all();
    assert!(
        bench.slots.iter().all(|slot| slot.outcome.is_some_and(|outcome| outcome.status == Status::Good))
    );
}

#[test]
fn a_parameter_list_in_hand_does_not_stop_those_it_waits_for() {
    // One buffer for lists, one for data: the UNMAP holds the one and waits for the write that needs the other.
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 1)]));
    bench.lists = Pool::new(&[(4096, 1)]).share(4096);
    let write = start(&mut bench, &cdb10(0x2a, 0, 0, 8), &[1; 4096], Attribute::Simple);
    let list = unmap_list(&[(0, 4)]);
    let discard = start(&mut bench, &unmap(24), &list, Attribute::Simple);
    bench.give(discard);
    bench.step_all();
    assert_eq!(bench.slots[discard].waits, "blocked");
    bench.run_all();
    good(&bench.slots[write].outcome.expect("an end"));
    assert_eq!(bench.disk.bytes[..4096], [vec![0; 2048], vec![1; 2048]].concat());
}

#[test]
fn lists_that_wait_for_a_disk_hold_nothing_that_an_answer_needs() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(4096, 8)]));
    bench.control = Pool::new(&[(4096, 1)]).share(4096);
    bench.lists = Pool::new(&[(4096, 1)]).share(4096);
    let list = unmap_list(&[(0, 4)]);
    for _ in 0..8 {
        let discard = start(&mut bench, &unmap(24), &list, Attribute::Simple);
        bench.step_all();
        if bench.slots[discard].waits != "starved" {
            bench.give(discard);
        }
        bench.step_all();
    }
    assert!(bench.slots.iter().all(|slot| slot.outcome.is_none()), "the disk has answered none");
    assert!(bench.lists.used() == 4096 && bench.data.used() > 0, "their lists are somewhere");
    assert_eq!(bench.control.used(), 0);
    let capacity = start(&mut bench, &cdb10(0x25, 0, 0, 0), &[], Attribute::Simple);
    bench.step_all();
    good(&bench.slots[capacity].outcome.expect("an answer"));
    bench.run_all();
    assert!(bench.slots.iter().all(|slot| slot.outcome.is_some()), "all come to an end");
}
