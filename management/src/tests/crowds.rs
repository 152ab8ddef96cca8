//! More callers than slots: who gives way to others, and who does not.

use super::door::{Caller, VM, World};
use super::tasks::End;
use management_http::Method;
use std::time::Duration;

#[test]
fn when_all_slots_are_taken_the_one_that_has_been_silent_for_longest_gives_way_and_no_other() {
    let mut world = World::new(3);
    let vm = world.issue(&[VM]);
    let mut known = world.caller(Some(&vm));
    assert_eq!(known.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    let first = world.api.dial();
    world.wait(Duration::from_millis(200));
    let second = world.api.dial();
    world.wait(Duration::from_millis(200));
    let honest = world.api.dial();
    assert!(!first.is_closed() && !second.is_closed());
    world.wait(Duration::from_millis(160));
    assert!(first.is_closed() && !second.is_closed(), "half a second is everybody's");
    honest.reset();
    // Nobody waits for a place: nobody has to leave.
    world.wait(Duration::from_secs(4));
    assert!(!second.is_closed());
    assert_eq!(known.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    // Those that come all at once go one after another, and whoever proves who it is does not.
    let silent: Vec<End> = (0..8).map(|_| world.api.dial()).collect();
    for _ in 0..8 {
        world.wait(Duration::from_millis(560));
        assert_eq!(known.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    }
    let (last, others) = silent.split_last().unwrap();
    assert!(others.iter().all(End::is_closed) && !last.is_closed(), "the last keeps nobody out");
    assert_eq!(world.get(&vm, "/healthz").0, 200);
}

#[test]
fn when_all_slots_are_taken_the_caller_that_has_asked_for_nothing_for_longest_gives_way_to_a_newcomer() {
    let mut world = World::new(3);
    let vm = world.issue(&[VM]);
    let mut callers: Vec<Caller> = Vec::new();
    for _ in 0..3 {
        let mut caller = world.caller(Some(&vm));
        assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        callers.push(caller);
        world.wait(Duration::from_millis(100));
    }
    // The first asks once more, so that the second is the one that has asked for nothing for longest.
    assert_eq!(callers[0].ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    world.wait(Duration::from_millis(2780));
    assert!(callers.iter().all(|caller| !caller.end.is_closed()), "three seconds are everybody's");
    world.wait(Duration::from_millis(40));
    assert!(callers[1].end.is_closed(), "nobody else could come");
    assert!(!callers[0].end.is_closed() && !callers[2].end.is_closed());
    // A place is left: nobody else has to leave, and who comes is served at once.
    world.wait(Duration::from_secs(4));
    assert!(!callers[0].end.is_closed() && !callers[2].end.is_closed());
    let before = world.now;
    let mut newcomer = world.caller(Some(&vm));
    assert_eq!(newcomer.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    assert_eq!(world.now, before);
    // It has taken the last place, and that of the third is free at once. However many come, they are served at once, and
    // no more is remembered than there are slots.
    assert!(callers[2].end.is_closed() && !callers[0].end.is_closed());
    assert_eq!(callers[0].ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    for _ in 0..20 {
        world.wait(Duration::from_millis(3100));
        let before = world.now;
        let mut one = world.caller(Some(&vm));
        assert_eq!(one.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        assert_eq!(world.now, before);
        callers.push(one);
        assert!(world.management.slots.idle_peers() <= 3);
    }
}

#[test]
fn those_who_ask_every_second_or_two_keep_their_connections_and_who_stops_leaves_its_own_to_a_newcomer() {
    let mut world = World::new(4);
    let vm = world.issue(&[VM]);
    let mut callers: Vec<Caller> = (0..4).map(|_| world.caller(Some(&vm))).collect();
    for round in 0..10 {
        world.wait(Duration::from_millis(1000 + 1000 * (round % 2)));
        for caller in &mut callers {
            assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        }
    }
    // One of them has had enough, and its place is the next one's, who waits for it at most so long.
    let mut newcomer = world.caller(Some(&vm));
    for _ in 0..2 {
        world.wait(Duration::from_millis(1600));
        for caller in &mut callers[..3] {
            assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        }
    }
    assert!(callers[3].end.is_closed());
    assert_eq!(newcomer.carry(&mut world), None);
    assert_eq!(newcomer.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
}

#[test]
fn who_has_a_request_under_way_gives_way_to_nobody() {
    let mut world = World::new(4);
    let vm = world.issue(&[VM]);
    // One waits for something to happen, one has sent some lines of its request, one some bytes of their record, and one is
    // idle.
    let mut listener = world.caller(Some(&vm));
    let listening = b"GET /v1/events?wait=20s HTTP/1.1\r\nHost: corbel\r\n\r\n";
    listener.write(&mut world, listening).unwrap();
    let mut slow = world.caller(Some(&vm));
    let request = slow.request(Method::Get, "/healthz", None);
    let (begin, rest) = request.split_at(9);
    slow.write(&mut world, begin).unwrap();
    let mut cut = world.caller(Some(&vm));
    let record = cut.record();
    let (first, last) = record.split_at(record.len() / 2);
    cut.end.write(first);
    let mut idle = world.caller(Some(&vm));
    assert_eq!(idle.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    world.wait(Duration::from_millis(3020));
    assert!(idle.end.is_closed());
    for _ in 0..2 {
        let mut newcomer = world.caller(Some(&vm));
        assert_eq!(newcomer.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        world.wait(Duration::from_millis(3100));
        assert!(newcomer.end.is_closed(), "it has asked for nothing since, and is the only one");
    }
    assert!(!listener.end.is_closed() && !slow.end.is_closed() && !cut.end.is_closed());
    slow.write(&mut world, rest).unwrap();
    assert_eq!(slow.answer(&mut world).unwrap().0, 200);
    cut.end.write(last);
    assert_eq!(cut.answer(&mut world).unwrap().0, 200);
}

#[test]
fn a_record_that_never_ends_is_waited_for_as_long_as_the_head_of_a_request() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let mut cut = world.caller(Some(&vm));
    let record = cut.record();
    world.wait(Duration::from_millis(2900));
    for byte in &record[..5] {
        cut.end.write(&[*byte]);
        world.wait(Duration::from_millis(1980));
        assert!(!cut.end.is_closed());
    }
    world.wait(Duration::from_millis(200));
    assert!(cut.end.is_closed());
    world.wait(Duration::from_millis(5000));
    assert_eq!(world.get(&vm, "/healthz").0, 200);
}

#[test]
fn an_idle_caller_gives_way_before_one_that_shakes_hands_slowly_is_refused() {
    let mut world = World::new(4);
    let vm = world.issue(&[VM]);
    let mut callers: Vec<Caller> = (0..3).map(|_| world.caller(Some(&vm))).collect();
    for caller in &mut callers {
        assert_eq!(caller.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    }
    world.wait(Duration::from_millis(3100));
    assert!(callers.iter().all(|caller| !caller.end.is_closed()), "a place is left");
    // It sends nothing for longer than the least.
    let mut newcomer = world.slow_caller(&vm, Duration::from_millis(700));
    assert_eq!(newcomer.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    assert_eq!(callers.iter().filter(|caller| caller.end.is_closed()).count(), 1);
}

#[test]
fn a_handshake_that_goes_on_is_not_refused_for_want_of_slots_and_one_that_stops_is() {
    let mut world = World::new(2);
    let vm = world.issue(&[VM]);
    let mut listener = world.caller(Some(&vm));
    let listening = b"GET /v1/events?wait=20s HTTP/1.1\r\nHost: corbel\r\n\r\n";
    listener.write(&mut world, listening).unwrap();
    let mut newcomer = world.slow_caller(&vm, Duration::from_millis(400));
    assert_eq!(newcomer.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
    newcomer.end.reset();
    world.pump();

    let stopping = world.api.dial();
    for byte in [0x16, 3, 1] {
        stopping.write(&[byte]);
        world.wait(Duration::from_millis(400));
        assert!(!stopping.is_closed());
    }
    world.wait(Duration::from_millis(160));
    assert!(stopping.is_closed());

    // Byte by byte it has five seconds in all.
    let slow = world.api.dial();
    let mut bytes = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc].iter().chain(&[3; 3]);
    for _ in 0..12 {
        assert!(!slow.is_closed());
        slow.write(&[*bytes.next().unwrap()]);
        world.wait(Duration::from_millis(410));
    }
    world.wait(Duration::from_millis(150));
    assert!(slow.is_closed());
}

#[test]
fn a_slow_handshake_costs_five_seconds_or_one_when_no_slot_is_left_and_others_go_on_meanwhile() {
    for (slots, others, seconds) in [(3, 0, 5), (2, 10, 1)] {
        let mut world = World::new(slots);
        let vm = world.issue(&[VM]);
        let mut known = world.caller(Some(&vm));
        assert_eq!(known.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        // One byte each second.
        let slow = world.api.dial();
        let waiting: Vec<End> = (0..others).map(|_| world.api.dial()).collect();
        for byte in [0x16, 3, 1, 2, 0].into_iter().take(seconds) {
            assert!(!slow.is_closed());
            slow.write(&[byte]);
            world.wait(Duration::from_secs(1));
            assert_eq!(known.ask(&mut world, Method::Get, "/healthz", None).unwrap().0, 200);
        }
        world.wait(Duration::from_millis(100));
        assert!(slow.is_closed());
        for end in waiting {
            end.reset();
        }
        world.wait(Duration::from_secs(1));
        assert_eq!(world.get(&vm, "/healthz").0, 200);
    }
}
