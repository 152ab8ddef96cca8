//! What there is on Xen, and the store, against an emulated host, honest and not.

use super::*;
use crate::Request;
use crate::emulated::Random;
use crate::emulated::frames::nothing;
use crate::emulated::xen::{Host, Misbehaviour};
use alloc::string::String;
use alloc::vec;
use kernel_io::emulated::{faults, microseconds};

const MEMORY: usize = if cfg!(miri) { 128 << 10 } else { 1 << 20 };
/// How many of something, where Miri takes its time.
const MANY: usize = if cfg!(miri) { 10 } else { 500 };

fn found() -> Found {
    let mut found = Found::default();
    if let Some(connected) = connect(&mut found, MEMORY) {
        connected.add_to(&mut found);
    }
    found
}

/// A message of the store's.
fn message(kind: u32, number: u32, body: &[u8]) -> Vec<u8> {
    let words = [kind, number, 0, body.len() as u32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(body);
    bytes
}

#[test]
fn without_xen_there_is_nothing() {
    let found = found();
    assert!(found.nics.is_empty() && found.shutdown.is_none() && found.failed.is_empty());
    assert_eq!(microseconds(), 0);
}

#[test]
fn what_the_store_names_is_brought_up_in_order_and_given_back_at_the_end() {
    let host = Host::new(3);
    // What is no number is no device of ours.
    host.write("device/vif/x/backend", "nowhere");
    let all = found();
    assert_eq!(all.nics.iter().map(AnyNic::location).collect::<Vec<_>>(), [0, 1, 2].map(Location::Vif));
    assert_eq!(all.nics.iter().map(|nic| nic.mac()[5]).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(all.failed.is_empty() && all.shutdown.is_some());
    assert!((0..3).all(|nic| host.is_connected(nic)));
    assert_eq!(host.ports(), 3);
    drop(all);
    assert!((0..3).all(|nic| !host.is_connected(nic) && host.state(nic) == 6));
    assert_eq!((host.ports(), host.granted(), faults()), (0, 0, nothing()));
}

#[test]
fn emulated_nics_are_let_go_of_where_there_are_ports_for_that_and_others_of_xens() {
    for (magic, version, nics, expected) in [
        (0x49d2, 0, 1, vec![(0, 2)]),
        (0x49d2, 1, 2, vec![(2, 0xffff), (0, 1), (0, 2)]),
        (0x49d2, 1, 0, vec![]),
        (0xffff, 0xff, 1, vec![]),
    ] {
        let host = Host::new(nics);
        host.emulates(magic, version);
        assert_eq!((found().nics.len(), host.unplugged()), (nics, expected));
    }
    // Not before one is seen to work.
    for (path, value) in [("device/vif/0/mac", ""), ("device/vif/0/backend-id", "x")] {
        let host = Host::new(1);
        host.emulates(0x49d2, 1);
        host.write(path, value);
        assert_eq!((found().nics.len(), host.unplugged()), (0, vec![]));
    }
    let host = Host::new(1);
    host.emulates(0x49d2, 1);
    host.misbehave(|wrong| wrong.stuck = true);
    assert_eq!((found().nics.len(), host.unplugged()), (1, vec![]));
}

#[test]
fn of_two_likenesses_of_one_nic_the_first_is_kept() {
    let host = Host::new(2);
    let mut all = found();
    let kept = all.nics.swap_remove(1);
    assert_eq!(kept.mac(), [0, 0x16, 0x3e, 0, 0, 1]);
    // What was not let go of is found before Xen's.
    let mut again = Found { nics: vec![kept], ..Found::default() };
    drop(all);
    connect(&mut again, MEMORY).expect("a host").add_to(&mut again);
    assert_eq!(again.nics.iter().map(|nic| nic.mac()[5]).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(again.failed, [(Location::Vif(1), Error::Unsupported("a NIC beside its emulated likeness"))]);
    assert!(host.is_connected(0));
}

#[test]
fn who_was_here_before_is_taken_over_from() {
    for (ours, theirs) in [("4", "4"), ("5", "5"), ("6", "6"), ("6", "2")] {
        let host = Host::new(1);
        host.misbehave(|wrong| wrong.stuck = true);
        host.write("device/vif/0/state", ours);
        host.write("/local/domain/1/backend/vif/7/0/state", theirs);
        host.misbehave(|wrong| wrong.stuck = false);
        assert_eq!((found().nics.len(), faults()), (1, nothing()), "{ours} {theirs}");
    }
}

#[test]
fn a_device_that_makes_no_sense_is_refused_and_others_are_not() {
    let nonsense = [
        ("device/vif/0/mac", "00:16:3e:00:00"),
        ("device/vif/0/mac", "00:16:3e:00:00:01:02"),
        ("device/vif/0/mac", "01:16:3e:00:00:01"),
        ("device/vif/0/mac", "00:00:00:00:00:00"),
        ("device/vif/0/mac", "00:16:3e:00:00:100"),
        ("device/vif/0/mac", ""),
        ("device/vif/0/backend-id", "70000"),
        ("device/vif/0/backend-id", "-1"),
    ];
    for (path, value) in nonsense.into_iter().step_by(if cfg!(miri) { 6 } else { 1 }) {
        let host = Host::new(2);
        host.write(path, value);
        let found = found();
        assert_eq!((found.nics.len(), found.failed.len()), (1, 1), "{path} {value}");
        assert!(matches!(found.failed[0], (Location::Vif(0), Error::Layout(_))), "{:?}", found.failed);
    }
    let host = Host::new(2);
    host.remove("device/vif/0/backend");
    assert_eq!(found().failed[0], (Location::Vif(0), Error::Layout("there is no backend")));
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.no_events = true);
    assert_eq!(found().failed, [(Location::Vif(0), Error::Refused("an event channel"))]);
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.frames = Some(3));
    assert!(matches!(found().failed[..], [(Location::Vif(0), Error::Io(_))]));
}

#[test]
fn there_are_grants_for_as_many_nics_as_are_brought_up() {
    let host = Host::new(if cfg!(miri) { MOST_NICS + 1 } else { 20 });
    let mut all = Found::default();
    connect(&mut all, if cfg!(miri) { MEMORY } else { 4 << 20 }).expect("a host").add_to(&mut all);
    assert_eq!((all.nics.len(), &all.failed[..]), (MOST_NICS, &[][..]));
    drop(all);
    assert_eq!((host.granted(), faults()), (0, nothing()));
}

#[test]
fn what_somebody_before_left_unread_is_nobodys() {
    let (ours, path) = (message(1, 1, b"nonsense"), message(2, 1, b"else"));
    for left in [&ours[..], &path, &ours[..5], &ours[3..], &[0xff; 20]] {
        let host = Host::new(1);
        host.say(left);
        assert_eq!((found().nics.len(), faults()), (1, nothing()), "{left:x?}");
    }
}

#[test]
fn a_backend_that_does_not_move_is_left_alone() {
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.stuck = true);
    host.write("/local/domain/1/backend/vif/7/0/state", "1");
    let before = microseconds();
    host.asked();
    let found = found();
    assert!(host.asked() < 20, "it is asked for what has changed only");
    assert_eq!(found.failed, [(Location::Vif(0), Error::NoAnswer)]);
    assert!(microseconds() - before < 5_100_000 && found.shutdown.is_some(), "that is another matter");
    assert_eq!(host.read("device/vif/0/state").as_deref(), Some("6"));
}

#[test]
fn who_is_refused_keeps_no_grants() {
    let host = Host::new(1);
    let bus = Bus::connect().expect("a host").expect("a store");
    host.misbehave(|wrong| wrong.no_events = true);
    for _ in 0..if cfg!(miri) { 2 } else { 50 } {
        assert!(Netfront::new(&bus, 0, MEMORY).is_err());
    }
    host.misbehave(|wrong| wrong.no_events = false);
    assert!(Netfront::new(&bus, 0, MEMORY).is_ok());
    assert_eq!((host.granted(), faults()), (0, nothing()));
}

#[test]
fn what_is_no_more_is_not_there_and_what_the_store_cannot_say_now_is_asked_again() {
    let host = Host::new(1);
    let bus = Bus::connect().expect("a host").expect("a store");
    for (error, is_absent) in [("ENOENT", true), ("EACCES", true), ("EAGAIN", false), ("ENOMEM", false)] {
        host.misbehave(|wrong| wrong.error = Some(error));
        let read = bus.store.read("device/vif/0/mac");
        assert_eq!(read.is_ok(), is_absent, "{error}: {read:?}");
        assert!(matches!(read, Ok(None) | Err(Error::Refused(_))));
        host.misbehave(|wrong| wrong.error = None);
        assert!(bus.store.read("device/vif/0/mac").is_ok_and(|mac| mac.is_some()));
    }
}

#[test]
fn a_store_that_lies_is_asked_no_more() {
    type Wrong = fn(&mut Misbehaviour);
    let lies: [(Wrong, Error); 7] = [
        (|wrong| wrong.silent = true, Error::NoAnswer),
        (|wrong| wrong.full = true, Error::NoAnswer),
        (|wrong| wrong.jump = Some(2000), Error::Layout("an index of the store's")),
        (|wrong| wrong.jump = Some(u32::MAX - 5000), Error::Layout("an index of the store's")),
        (|wrong| wrong.length = Some(4097), Error::Layout("a message of the store's is too long")),
        (|wrong| wrong.length = Some(4000), Error::NoAnswer),
        (|wrong| wrong.kind = Some(11), Error::Layout("an answer of another kind")),
    ];
    for (index, (wrong, error)) in lies.into_iter().enumerate() {
        let host = Host::new(1);
        host.misbehave(wrong);
        let before = microseconds();
        let found = found();
        assert_eq!(found.failed, [(Location::Vif(0), error)], "{index}");
        assert!(microseconds() - before <= 5_000_000 && found.nics.is_empty() && found.shutdown.is_none());
    }
    // It refuses what it is asked to write.
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.refuses = true);
    assert_eq!(found().failed, [(Location::Vif(0), Error::Refused("to write to the store"))]);
    // It stops in the middle.
    let host = Host::new(1);
    let mut all = found();
    host.misbehave(|wrong| wrong.silent = true);
    host.write("control/shutdown", "poweroff");
    let mut shutdown = all.shutdown.take().expect("the store");
    assert_eq!((shutdown.poll(), shutdown.poll()), (None, None));
    assert!(host.is_connected(0), "the NIC does not need it");
    assert_eq!(faults(), nothing());
}

#[test]
fn what_nobody_asked_for_is_nothing() {
    let host = Host::new(1);
    host.misbehave(|wrong| {
        wrong.before = vec![
            message(2, 777_777, b"of another request"),
            message(16, 0, b"ENOENT\0"),
            message(15, 0, b"a/path\x009999999999999999999999\0"),
            message(15, 0, b"a/path\x00700\0"),
            message(15, 0, b"a/path\0"),
            message(15, 0, &[0xff; 9]),
            message(15, 0, b""),
            message(99, 0, b""),
        ];
    });
    assert_eq!((found().nics.len(), faults()), (1, nothing()));
}

#[test]
fn messages_longer_than_the_ring_go_whole() {
    let host = Host::new(1);
    let bus = Bus::connect().expect("a host").expect("a store");
    for length in [0, 1, 1007, 1008, 1009, 1024, 2000, if cfg!(miri) { 1025 } else { 4096 }] {
        let text: String = ('a'..='z').cycle().take(length).collect();
        host.write("some/text", &text);
        assert_eq!(bus.store.read("some/text"), Ok(Some(text)), "{length}");
    }
    let long = "x".repeat(1500);
    assert_eq!(bus.store.write("other/text", &long), Ok(()));
    assert_eq!(host.read("other/text"), Some(long));
    assert_eq!((bus.store.read("no/text"), bus.store.names("no")), (Ok(None), Ok(vec![])));
    assert_eq!(bus.store.names("device/vif/0").map(|names| names.len()), Ok(4));
}

#[test]
fn a_request_to_end_is_heard_once_and_answered() {
    let host = Host::new(0);
    let mut shutdown = found().shutdown.expect("the store");
    assert_eq!((shutdown.poll(), shutdown.poll()), (None, None));
    for feature in ["poweroff", "reboot"] {
        assert_eq!(host.read(&alloc::format!("control/feature-{feature}")).as_deref(), Some("1"));
    }
    for (word, request) in [
        ("poweroff", Some(Request::Off)),
        ("halt", Some(Request::Off)),
        ("reboot", Some(Request::Restart)),
        ("suspend", None),
        ("\u{1f}\u{ffff}and whatever else there is to be said, at length", None),
        ("poweroff", Some(Request::Off)),
    ] {
        host.write("control/shutdown", word);
        assert_eq!(shutdown.poll(), request, "{word}");
        // What is not done is not said to be.
        let left = if request.is_some() { "" } else { word };
        assert_eq!(host.read("control/shutdown").as_deref(), Some(left));
        assert_eq!((shutdown.poll(), shutdown.poll()), (None, None));
    }
    host.remove("control/shutdown");
    assert_eq!((shutdown.poll(), faults()), (None, nothing()));
}

#[test]
fn a_hostile_store_does_no_harm() {
    for seed in 0..if cfg!(miri) { 2 } else { 40 } {
        let mut random = Random::new(seed);
        let host = Host::new(1);
        let mut all = found();
        let mut shutdown = all.shutdown.take().expect("the store");
        for _ in 0..MANY {
            let length = random.below(60) as usize;
            let body: Vec<u8> = (0..length).map(|_| random.any() as u8).collect();
            let kind = random.below(20) as u32;
            match random.below(6) {
                0 => host.say(&body),
                1 => host.say(&message(kind, random.any() as u32, &body)),
                2 => {
                    let token = alloc::format!("p\0{}\0", random.below(4));
                    host.say(&message(15, 0, token.as_bytes()));
                }
                3 => host.write("control/shutdown", ["", "x", "poweroff"][random.below(3) as usize]),
                4 => {
                    let jump = (random.below(8) == 0).then(|| random.any() as u32);
                    host.misbehave(|wrong| wrong.jump = jump);
                }
                _ => host.interrupt(),
            }
            let _ = shutdown.poll();
            let _ = all.nics[0].arm();
        }
        assert_eq!(faults(), nothing(), "seed {seed}");
    }
}
