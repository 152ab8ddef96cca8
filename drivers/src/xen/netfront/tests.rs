//! The NIC against an emulated backend, honest and not.

use super::hostile::{driver, pair, settle};
use super::*;
use crate::emulated::frames::{at, frame, nothing, receive, segment, send, send_cut};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::xen::{Host, Sent, Slot};
use alloc::vec;
use kernel_io::emulated::{faults, microseconds};
use network_nic::{Device as _, TxToken as _};

/// Enough for long frames, and for short ones only.
const MUCH: usize = 4 << 20;
const LITTLE: usize = 128 << 10;
/// Enough for frames in several pages; Miri takes its time for each page.
const SOME: usize = if cfg!(miri) { 512 << 10 } else { MUCH };
/// How many of something, where Miri takes its time.
const MANY: u16 = if cfg!(miri) { 12 } else { 2000 };
const EVERY: usize = if cfg!(miri) { 6 } else { 1 };
/// Flags of what is sent: the checksum is to be made, what there is of it is right.
const BLANK: u16 = 1;
const VALIDATED: u16 = 2;
/// Flags of what is received.
const RX_VALIDATED: u16 = 1;
const RX_BLANK: u16 = 2;
/// Of both.
const MORE: u16 = 4;
const EXTRA: u16 = 8;

#[test]
fn frames_go_both_ways_unchanged() {
    for memory in [LITTLE, SOME] {
        let (host, mut nic) = pair(memory);
        assert_eq!(nic.mac(), [0, 0x16, 0x3e, 0, 0, 0]);
        for number in 0..MANY {
            let out = frame(number, 60 + usize::from(number % 1400));
            assert!(send(&mut nic, &out, at(0)));
            nic.flush();
            assert_eq!(host.sent(0), Some(Sent { frame: out, flags: 0, segment: 0 }));
            let back = frame(number, 16 + usize::from(number % 1500));
            assert!(host.deliver(0, &back, 0));
            assert_eq!(receive(&mut nic, at(0)), Some(back));
            assert_eq!(receive(&mut nic, at(0)), None);
            nic.flush();
        }
        let counters = Counters { received: MANY.into(), sent: MANY.into(), dropped: 0, resets: 0 };
        assert_eq!((nic.counters(), faults()), (counters, nothing()));
        // All pages are where they were.
        drop(nic);
        assert_eq!((host.granted(), host.state(0), faults()), (0, 6, nothing()));
    }
}

#[test]
fn pages_that_are_granted_hold_nothing_of_before() {
    let (host, _nic) = pair(MUCH);
    let pages = host.pages(0);
    assert!(pages.len() > 200 && pages.iter().all(|page| page[..] == [0; 4096]));
}

#[test]
fn long_frames_come_and_go_in_pieces() {
    let (host, mut nic) = pair(MUCH);
    assert_eq!(nic.capabilities().segmentation.tcpv4, NonZeroUsize::new(60 * 1024));
    assert_eq!(host.read("device/vif/0/feature-gso-tcpv4").as_deref(), Some("1"));
    for length in [4042, 4043, 8192, 20_000, 60 * 1024 - 54] {
        let out = segment(length);
        assert!(send_cut(&mut nic, &out, 1448, at(0)));
        nic.flush();
        let sent = host.sent(0).expect("a frame");
        let flags = sent.flags & !MORE;
        assert_eq!((flags, sent.segment, sent.frame.len()), (BLANK | VALIDATED | EXTRA, 1448, out.len()));
        // The sum over the pseudo-header stands where the checksum belongs.
        let sum: u32 = [10 << 8, 1, 10 << 8, 2, 6, out.len() as u32 - 34].into_iter().sum();
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        assert_eq!(&sent.frame[50..52], &sum.to_be_bytes());
        assert!(sent.frame[..50] == out[..50] && sent.frame[52..] == out[52..]);

        // What is said about it takes a place of its own.
        let back = segment(length);
        let mut slots: Vec<Slot> =
            back.chunks(4096).map(|piece| Slot::Data(0, piece.to_vec(), MORE)).collect();
        if let Some(Slot::Data(_, _, flags)) = slots.last_mut() {
            *flags = 0;
        }
        if let Some(Slot::Data(_, _, flags)) = slots.first_mut() {
            *flags |= RX_BLANK | RX_VALIDATED | EXTRA;
        }
        slots.insert(1, Slot::Raw([1 | 1448 << 16, 1]));
        assert!(host.give(0, &slots));
        assert!(receive(&mut nic, at(0)) == Some(back), "{length}");
        nic.flush();
    }
    assert_eq!((nic.counters().resets, nic.counters().dropped, faults()), (0, 0, nothing()));
}

#[test]
fn a_backend_without_offloads_gets_short_frames_and_makes_their_checksums() {
    let host = Host::new(1);
    host.write("/local/domain/1/backend/vif/7/0/feature-gso-tcpv4", "0");
    let mut nic = driver(SOME);
    assert_eq!(nic.capabilities().segmentation.tcpv4, None);
    assert!(send(&mut nic, &segment(100), at(0)));
    nic.flush();
    let sent = host.sent(0).expect("a frame");
    assert_eq!((sent.flags, sent.segment), (BLANK | VALIDATED, 0));
    // With few pages we take none in pieces either.
    let (host, _nic) = pair(LITTLE);
    assert_eq!(host.read("device/vif/0/feature-sg").as_deref(), Some("0"));
}

#[test]
fn answers_may_come_in_any_order_and_late() {
    let (host, mut nic) = pair(MUCH);
    for round in 0..MANY / 10 {
        let mut count = 0;
        while send_cut(&mut nic, &segment(usize::from(round) * 311 % 50_000 + 1), 1448, at(0)) {
            count += 1;
            assert!(count < 100);
        }
        nic.flush();
        while host.take_sent(0).is_some() {}
        assert!(!nic.has_sent(), "the backend may read them still");
        assert!(!send(&mut nic, &frame(0, 60), at(0)), "there is no room before the answer");
        host.answer_sent(0, round % 2 == 0);
        assert!(nic.has_sent());
    }
    assert_eq!((nic.counters().resets, faults()), (0, nothing()));
}

#[test]
fn a_batch_is_one_notification_and_none_while_the_backend_is_at_it() {
    let (host, mut nic) = pair(SOME);
    assert!(host.take_sent(0).is_none() && host.offered(0) > 0);
    for number in 0..5 {
        assert!(send(&mut nic, &frame(number, 60), at(0)));
    }
    nic.flush();
    assert_eq!(host.notified(), 1);
    // It has not slept since.
    assert!(send(&mut nic, &frame(9, 60), at(0)));
    nic.flush();
    assert_eq!(host.notified(), 0);
    (0..6).for_each(|_| assert!(host.take_sent(0).is_some()));
    assert!(host.take_sent(0).is_none(), "now it sleeps");
    assert!(send(&mut nic, &frame(9, 60), at(0)));
    nic.flush();
    nic.flush();
    assert_eq!(host.notified(), 1);
}

#[test]
fn an_armed_nic_is_woken_by_a_frame_and_by_room_if_it_has_none() {
    let (host, mut nic) = pair(SOME);
    let told = |nic: &Netfront| nic.frontend.bus.guest.acknowledge();
    assert!(!nic.arm());
    assert!(host.deliver(0, &frame(1, 60), 0));
    assert!(told(&nic));
    assert!(nic.arm(), "what was there before is seen");
    assert!(receive(&mut nic, at(0)).is_some());
    assert!(host.deliver(0, &frame(2, 60), 0));
    assert!(receive(&mut nic, at(0)).is_some());
    assert!(!told(&nic), "it works, and wants not to be told");
    assert!(!nic.arm());
    // As long as there is room nobody wants to be told of more.
    assert!(send(&mut nic, &frame(3, 60), at(0)));
    assert!(!nic.arm());
    assert!(host.sent(0).is_some() && !told(&nic));
    while send(&mut nic, &frame(3, 60), at(0)) {}
    assert!(!nic.arm());
    while host.take_sent(0).is_some() {}
    host.answer_sent(0, false);
    assert!(told(&nic), "there is room");
    assert!(send(&mut nic, &frame(4, 60), at(0)));
    // And what comes between a look and the arming is seen.
    assert!(host.deliver(0, &frame(5, 60), 0));
    assert!(nic.arm() && nic.arm());
}

#[test]
fn without_room_only_answers_go_and_the_last_buffer_never_does() {
    let (host, mut nic) = pair(LITTLE);
    let mut count = 0;
    while send(&mut nic, &frame(count, 60), at(0)) {
        count += 1;
    }
    for number in 0..8 {
        assert!(host.deliver(0, &frame(number, 60), 0));
        let (_, reply) = nic.receive(at(0)).expect("a frame");
        reply.consume(60, |bytes| bytes.copy_from_slice(&frame(count + number, 60)));
        nic.flush();
    }
    assert_eq!(nic.counters().dropped, 8 - 3);
    let mut seen = 0;
    while host.take_sent(0).is_some() {
        seen += 1;
    }
    assert_eq!(seen, count + 3);
    host.answer_sent(0, true);
    assert!(send(&mut nic, &frame(0, 60), at(0)));
    assert_eq!((nic.counters().resets, faults()), (0, nothing()));
}

#[test]
fn a_checksum_is_verified_unless_the_backend_vouches_for_it() {
    let (host, mut nic) = pair(SOME);
    let vouched = [(0, false), (RX_VALIDATED, true), (RX_BLANK, true), (RX_BLANK | RX_VALIDATED, true)];
    for (flags, taken) in vouched {
        assert!(host.deliver(0, &segment(99), flags));
        assert_eq!(receive(&mut nic, at(0)).is_some(), taken, "{flags}");
        nic.flush();
    }
    // A checksum of UDP that is still to be made is none.
    let mut udp = segment(20);
    udp[23] = 17;
    udp[40..42].copy_from_slice(&[1, 2]);
    assert!(host.deliver(0, &udp, RX_BLANK));
    assert_eq!(receive(&mut nic, at(0)).map(|frame| frame[40..42].to_vec()), Some(vec![0, 0]));
    assert_eq!((nic.counters().dropped, nic.counters().resets), (1, 0));
}

#[test]
fn frames_that_are_lost_on_the_way_or_too_short_are_dropped() {
    let (host, mut nic) = pair(SOME);
    for (id, status) in [(0_u32, -1_i16), (1, -2), (2, i16::MIN), (3, 0), (4, 13)] {
        assert!(host.give(0, &[Slot::Raw([id, u32::from(status.cast_unsigned()) << 16])]));
        assert_eq!(receive(&mut nic, at(0)), None);
        nic.flush();
    }
    // A piece of a longer one is lost.
    assert!(host.give(0, &[Slot::Data(0, vec![0; 4096], MORE), Slot::Raw([6, 0xffff << 16])]));
    assert_eq!(receive(&mut nic, at(0)), None);
    assert!(host.deliver(0, &frame(7, 60), 0));
    assert!(receive(&mut nic, at(0)).is_some());
    assert_eq!((nic.counters().dropped, nic.counters().resets, faults()), (6, 0, nothing()));
}

type Tell = fn(&Host, &mut Netfront);

/// A frame goes, and the backend has it.
fn goes(host: &Host, nic: &mut Netfront) {
    assert!(send(nic, &frame(1, 60), at(0)));
    nic.flush();
    assert!(host.take_sent(0).is_some());
}

/// What a backend cannot have done rightly about frames that are sent, and how it does that.
fn lies_about_sent() -> Vec<(Lie, Tell)> {
    vec![
        (Lie::Index, |host, _| host.lie(0, 0, &[0], 0)),
        (Lie::Index, |host, _| host.lie(0, 0, &[0], u32::MAX - 9)),
        // Numbers of nothing that there is, of nothing that was sent, of what has its answers.
        (Lie::Id, |host, nic| {
            goes(host, nic);
            host.lie(0, 0, &[0xffff], 0);
        }),
        (Lie::Id, |host, nic| {
            goes(host, nic);
            host.lie(0, 0, &[0], 0);
        }),
        (Lie::Id, |host, nic| {
            goes(host, nic);
            goes(host, nic);
            host.answer_sent(0, false);
            assert!(nic.reap(at(0)));
            goes(host, nic);
            host.lie(0, 0, &[1], 0);
        }),
        // An answer to what was not said.
        (Lie::Kind, |host, nic| {
            goes(host, nic);
            host.lie(0, 0, &[1 << 16], 0);
        }),
        (Lie::Held, |host, nic| {
            goes(host, nic);
            host.hold(0, 0);
            host.answer_sent(0, false);
        }),
    ]
}

/// The same about frames that are received.
fn lies_about_received() -> Vec<(Lie, Tell)> {
    fn gives(host: &Host, slots: &[Slot]) {
        assert!(host.give(0, slots));
    }
    fn piece(length: usize, flags: u16) -> Slot {
        Slot::Data(0, vec![1; length], flags)
    }
    vec![
        (Lie::Index, |host, _| host.lie(0, 1, &[], 1000)),
        (Lie::Index, |host, _| host.lie(0, 1, &[], u32::MAX - 9)),
        (Lie::Index, |host, _| host.scribble(0, 1, 8..12, 257)),
        (Lie::Held, |host, _| {
            host.hold(0, 1);
            gives(host, &[piece(60, 0)]);
        }),
        // The number of another page.
        (Lie::Id, |host, _| gives(host, &[Slot::Raw([9, 60 << 16])])),
        (Lie::Id, |host, _| gives(host, &[Slot::Raw([0xffff, 60 << 16])])),
        (Lie::Id, |host, _| gives(host, &[piece(60, MORE), Slot::Raw([0, 60 << 16])])),
        // Lengths beyond the page.
        (Lie::Length, |host, _| gives(host, &[Slot::Raw([0, 4097 << 16])])),
        (Lie::Length, |host, _| gives(host, &[Slot::Raw([4090 << 16, 7 << 16])])),
        (Lie::Length, |host, _| gives(host, &[Slot::Raw([0xffff_0000, 0x7fff << 16])])),
        // Frames without their end, and without end.
        (Lie::Index, |host, _| gives(host, &[piece(100, MORE)])),
        (Lie::Index, |host, _| gives(host, &[piece(100, EXTRA)])),
        (Lie::Length, |host, _| gives(host, &vec![piece(100, MORE); 19])),
        (Lie::Length, |host, _| gives(host, &vec![piece(4096, MORE); 19])),
        // Something said of no kind that there is.
        (Lie::Kind, |host, _| gives(host, &[piece(100, EXTRA), Slot::Raw([0, 0])])),
        (Lie::Kind, |host, _| gives(host, &[piece(100, EXTRA), Slot::Raw([6, 0])])),
        (Lie::Kind, |host, _| gives(host, &[piece(100, EXTRA), Slot::Raw([0x101, 0]), Slot::Raw([0, 0])])),
    ]
}

#[test]
fn a_lie_closes_the_connection_and_makes_it_again() {
    let lies = lies_about_sent().into_iter().chain(lies_about_received());
    for (index, (lie, tell)) in lies.enumerate().step_by(EVERY) {
        let (host, mut nic) = pair(SOME);
        tell(&host, &mut nic);
        assert!(nic.waits(), "{index}");
        let found = nic.transmit.reap().and_then(|()| nic.receive.next_frame(&mut 0));
        assert_eq!(found, Err(lie), "{index}");
        nic.fail(Fault::Lie(lie), at(0));
        settle(&mut nic, at(0));
        if lie == Lie::Held {
            // It does not let go, so the page is lost and the NIC with it.
            assert_eq!((nic.state, nic.waits(), nic.arm()), (State::Dead, true, false), "{index}");
            continue;
        }
        assert_eq!((nic.counters().resets, nic.state), (1, State::Up), "{index}");
        assert_eq!((host.is_connected(0), host.ports()), (true, 1));
        assert!(host.deliver(0, &frame(3, 60), 0));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(3, 60)));
        assert!(send(&mut nic, &frame(4, 60), at(0)));
        nic.flush();
        assert_eq!(host.sent(0).map(|sent| sent.frame), Some(frame(4, 60)));
        assert_eq!(faults(), nothing(), "{index}");
        drop(nic);
        assert_eq!(host.granted(), 0, "{index}");
    }
}

#[test]
fn pieces_for_who_takes_none_are_a_lie() {
    let (host, mut nic) = pair(LITTLE);
    assert!(host.deliver(0, &frame(1, 5000), 0));
    assert_eq!(nic.receive.next_frame(&mut 0), Err(Lie::Length));
}

#[test]
fn a_lie_is_found_by_whoever_asks_for_a_frame_or_for_room() {
    for asks_for_room in [false, true] {
        let (host, mut nic) = pair(SOME);
        host.lie(0, 0, &[0], 0);
        assert!(nic.waits());
        let got = if asks_for_room { nic.transmit(at(0)).is_some() } else { nic.receive(at(0)).is_some() };
        assert_eq!((got, nic.counters().resets, nic.state), (false, 1, State::Closing));
        assert_eq!(settle(&mut nic, at(0)), State::Up);
    }
}

#[test]
fn a_backend_that_only_lies_is_given_a_rest() {
    let (host, mut nic) = pair(LITTLE);
    for number in 1..=9 {
        assert!(host.is_connected(0));
        host.lie(0, 1, &[], 1000);
        assert_eq!(receive(&mut nic, at(0)), None);
        assert_eq!(nic.counters().resets, number);
        settle(&mut nic, at(0));
    }
    assert_eq!(nic.state, State::Resting { until: at(1000) });
    assert!(nic.transmit(at(999)).is_none() && !host.is_connected(0) && !nic.arm());
    assert_eq!(nic.rests_until(), Some(at(1000)), "somebody has to look when it is over");
    assert_eq!(settle(&mut nic, at(1000)), State::Up);
    assert!(send(&mut nic, &frame(1, 60), at(1000)) && host.is_connected(0));
}

#[test]
fn one_that_takes_its_time_is_waited_for_and_nobody_else_with_it() {
    let (host, mut nic) = pair(SOME);
    host.misbehave(|wrong| wrong.stuck = true);
    host.lie(0, 1, &[], 1000);
    let before = microseconds();
    assert_eq!((settle(&mut nic, at(0)), nic.arm()), (State::Closing, false));
    assert_eq!(settle(&mut nic, at(100_000)), State::Closing);
    // The store has answered, that is all.
    assert!(microseconds() - before < 1000 && host.granted() > 0);
    host.misbehave(|wrong| wrong.stuck = false);
    host.write("any/thing", "");
    assert!(!nic.arm() && nic.rests_until().is_some_and(|until| until <= at(100_020)));
    assert_eq!(settle(&mut nic, at(100_020)), State::Up);
    assert!(host.deliver(0, &frame(3, 60), 0));
    assert_eq!(receive(&mut nic, at(100_020)), Some(frame(3, 60)));
    // And at the end, for a bounded time.
    host.misbehave(|wrong| wrong.stuck = true);
    drop(nic);
    assert!(host.granted() > 0, "what it may use stays its");
    assert_eq!(faults(), nothing());
}

#[test]
fn one_that_connects_after_the_boot_is_a_nic_all_the_same() {
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.stuck = true);
    let mut nic = driver(SOME);
    assert!(!nic.is_connected() && !send(&mut nic, &frame(1, 60), at(0)));
    assert!(nic.capabilities().segmentation.tcpv4.is_some());
    host.misbehave(|wrong| wrong.stuck = false);
    host.write("any/thing", "");
    assert_eq!(settle(&mut nic, at(20)), State::Up);
    assert!(send(&mut nic, &frame(1, 60), at(20)));
    nic.flush();
    assert_eq!(host.sent(0).map(|sent| sent.frame), Some(frame(1, 60)));
    // One that refuses instead is closed.
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.stuck = true);
    let mut nic = driver(SOME);
    host.close(0);
    host.misbehave(|wrong| wrong.stuck = false);
    assert!(matches!(settle(&mut nic, at(20)), State::Gone { .. }));
    assert_eq!((host.ports(), host.granted(), host.state(0), faults()), (0, 0, 6, nothing()));
}

#[test]
fn one_that_cannot_be_connected_to_is_tried_again_less_and_less_often() {
    let (host, mut nic) = pair(SOME);
    let sg = "/local/domain/1/backend/vif/7/0/feature-sg";
    // It comes back without what was agreed.
    host.write(sg, "0");
    host.lie(0, 1, &[], 1000);
    for (now, until) in [(0, 1000), (1000, 3000), (3000, 7000)] {
        assert_eq!(settle(&mut nic, at(now)), State::Resting { until: at(until) });
        assert_eq!((host.ports(), host.granted()), (0, 0));
    }
    host.write(sg, "1");
    assert_eq!(settle(&mut nic, at(7000)), State::Up);
    // There are no ports for a while.
    host.misbehave(|wrong| wrong.no_events = true);
    host.lie(0, 1, &[], 1000);
    assert_eq!(settle(&mut nic, at(8000)), State::Resting { until: at(9000) });
    host.misbehave(|wrong| wrong.no_events = false);
    assert_eq!(settle(&mut nic, at(9000)), State::Up);
    assert_eq!((nic.counters().resets, faults()), (2, nothing()));
    // Without the store there is no other time.
    host.misbehave(|wrong| wrong.silent = true);
    host.lie(0, 1, &[], 1000);
    assert_eq!((settle(&mut nic, at(9000)), nic.arm()), (State::Dead, false));
    assert_eq!(faults(), nothing());
}

#[test]
fn a_backend_that_goes_is_let_go_and_taken_when_it_is_back() {
    for removed in [false, true] {
        let (host, mut nic) = pair(SOME);
        host.write("device/vif/0/something", "else");
        assert_eq!(settle(&mut nic, at(20)), State::Up);
        if removed {
            host.remove("/local/domain/1/backend/vif/7/0");
        } else {
            host.close(0);
        }
        assert!(nic.arm() && nic.waits());
        assert_eq!(settle(&mut nic, at(40)), State::Gone { until: at(40) });
        assert_eq!(host.read("device/vif/0/state").as_deref(), Some("6"));
        assert_eq!((host.ports(), host.granted(), nic.arm()), (0, 0, false));
        assert_eq!(nic.rests_until(), Some(NEVER));
        host.plug(0);
        assert!(!nic.arm() && nic.rests_until().is_some_and(|until| until <= at(60)));
        assert_eq!((settle(&mut nic, at(60)), nic.rests_until()), (State::Up, None));
        assert!(host.deliver(0, &frame(3, 60), 0));
        assert_eq!((receive(&mut nic, at(60)), faults()), (Some(frame(3, 60)), nothing()));
    }
}

#[test]
fn one_that_comes_and_goes_all_the_time_does_not_keep_the_machine_awake() {
    let (host, mut nic) = pair(LITTLE);
    for round in 0..9 {
        host.close(0);
        assert!(nic.arm(), "it is up, so there is something to do");
        assert!(matches!(settle(&mut nic, at(40 * round + 20)), State::Gone { .. }));
        host.plug(0);
        assert!(!nic.arm());
        settle(&mut nic, at(40 * round + 40));
    }
    // The ninth time it is let wait, though its backend is there.
    assert_eq!((nic.state, nic.arm()), (State::Gone { until: at(1000) }, false));
    assert_eq!(nic.rests_until(), Some(at(1000)));
    assert_eq!(settle(&mut nic, at(1000)), State::Up);
}

#[test]
fn a_backend_that_says_all_the_time_what_it_is_costs_little() {
    const TURNS: i64 = if cfg!(miri) { 100 } else { 1000 };
    let (host, mut nic) = pair(LITTLE);
    host.asked();
    for now in 0..TURNS {
        host.write("/local/domain/1/backend/vif/7/0/state", "4");
        nic.arm();
        assert_eq!((receive(&mut nic, at(now)), nic.state), (None, State::Up));
    }
    let asked = host.asked() as i64;
    assert!((TURNS * 9 / 100..=TURNS / 10 + 1).contains(&asked), "{asked}");
    // A store that cannot say it now is asked again.
    host.misbehave(|wrong| wrong.error = Some("EAGAIN"));
    host.close(0);
    assert_eq!((receive(&mut nic, at(2000)), nic.state, nic.arm()), (None, State::Up, true));
    host.misbehave(|wrong| wrong.error = None);
    assert!(matches!(settle(&mut nic, at(2010)), State::Gone { .. }));
}

#[test]
fn a_hostile_backend_does_no_harm_and_an_honest_one_is_served_after_it() {
    let (seeds, steps) = if cfg!(miri) { (2, 20) } else { (30, 3000) };
    play_by_chance(hostile::play, seeds, steps, 80);
}
