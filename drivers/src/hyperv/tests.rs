//! The bus and the component for shutting down against an emulated host, honest and not.

use super::*;
use crate::emulated::frames::nothing;
use crate::emulated::hyperv::{Host, Packet};
use crate::shutdown::Request;
use alloc::vec;
use alloc::vec::Vec;
use kernel_io::emulated::{faults, microseconds};

const MEMORY: usize = 1 << 20;

fn found() -> Found {
    let mut found = Found::default();
    find(&mut found, MEMORY);
    found
}

#[test]
fn without_hyper_v_there_is_nothing() {
    let found = found();
    assert!(found.nics.is_empty() && found.shutdown.is_none() && found.failed.is_empty());
    assert_eq!(microseconds(), 0);
}

#[test]
fn what_is_offered_is_brought_up_once_and_given_back_at_the_end() {
    let host = Host::new(2);
    let all = found();
    assert_eq!((all.nics.len(), all.failed.len(), host.version()), (2, 0, Some(4 << 16)));
    assert!(all.shutdown.is_some() && (0..3).all(|channel| host.is_open(channel)));
    assert_eq!(all.nics.iter().map(AnyNic::location).collect::<Vec<_>>(), [0, 1].map(Location::Vmbus));
    drop(all);
    assert_eq!((host.version(), host.unloads(), host.shown()), (None, 1, 0));
    assert!((0..3).all(|channel| !host.is_open(channel)));
    assert_eq!(faults(), nothing());
}

#[test]
fn an_older_host_is_spoken_to_in_its_version() {
    for version in [3 << 16, 2 << 16 | 4] {
        let host = Host::new(1);
        host.set_versions(&[version]);
        let found = found();
        assert_eq!((found.nics.len(), host.version()), (1, Some(version)));
    }
    let host = Host::new(1);
    host.set_versions(&[13, 1 << 16 | 1]);
    assert_eq!(found().failed, [(Location::Vmbus(0), Error::Unsupported("its version of VMBus"))]);
}

#[test]
fn a_hypervisor_without_the_bus_is_no_failure_and_one_that_is_short_is_tried_again() {
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.status = Some((0x12, u32::MAX)));
    assert!(found().failed.is_empty());
    assert!(microseconds() < 100, "{}", microseconds());
    for status in [0x0b, 0x13, 0x33] {
        host.misbehave(|wrong| wrong.status = Some((status, if cfg!(miri) { 20 } else { 100 })));
        assert_eq!(found().nics.len(), 1);
    }
}

#[test]
fn a_host_that_does_not_answer_is_left_alone() {
    for (kind, nics) in [(14, 0), (3, 0), (8, 1), (5, 1)] {
        let host = Host::new(1);
        host.misbehave(|wrong| wrong.silent = vec![kind, 9]);
        let found = found();
        assert!(found.nics.is_empty() && found.shutdown.is_none(), "{kind}");
        assert!(found.failed.iter().all(|(_, error)| *error == Error::NoAnswer), "{:?}", found.failed);
        assert_eq!(found.failed.len(), 1 + nics, "{kind}");
    }
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.refuses = true);
    assert_eq!(found().failed[0].1, Error::Refused("memory of ours"));
    let host = Host::new(1);
    host.misbehave(|wrong| wrong.shares_interrupts = true);
    assert!(found().nics.is_empty());
}

#[test]
fn what_is_said_out_of_turn_is_nothing() {
    let host = Host::new(1);
    let all = found();
    for kind in 0..40 {
        for word in [0, 1, 7, u32::MAX].into_iter().skip(if cfg!(miri) { 3 } else { 0 }) {
            host.say(&[kind, word]);
            host.say(&vec![word; 60]);
            host.say(&[]);
        }
    }
    let mut nics = all.nics;
    // The last of them come after an interrupt of their own.
    for _ in 0..if cfg!(miri) { 5 } else { 100 } {
        network_nic::Nic::arm(&mut nics[0]);
    }
    assert!(host.is_open(0));
    assert_eq!(faults(), nothing());
}

/// A message of the component: the headers of pipe and message, and what follows.
fn message(kind: u16, body: &[u8]) -> Packet {
    let size = body.len() as u16;
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend((20 + u32::from(size)).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(kind.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(size.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend([9, 3, 0, 0]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let payload = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Packet { kind: 6, wants_completion: false, transaction: 77, header: Vec::new(), payload }
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    packet.payload.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of a request to shut down: why, by when, how, and a text.
fn shut_down(flags: u32) -> Vec<u8> {
    let mut body = vec![0; 12 + 2048];
    body[8..12].copy_from_slice(&flags.to_le_bytes());
    body
}

#[test]
fn a_request_to_shut_down_is_answered_and_told() {
    let host = Host::new(0);
    let mut shutdown = found().shutdown.expect("the component");
    assert_eq!(shutdown.poll(), None);
    // Two versions of the frame and three of the requests, some of which are not ours.
    let versions = [[1, 0], [3, 0], [1, 0], [3, 2], [9, 9]];
    let mut body = vec![2, 0, 3, 0, 0, 0, 0, 0];
    body.extend(versions.iter().flat_map(|[major, minor]| [*major, 0, *minor, 0]));
    assert!(host.put(0, &message(0, &body)));
    assert_eq!(shutdown.poll(), None);
    let answer = host.take(0).expect("an answer");
    let bytes = bytes_of(&answer);
    assert_eq!((answer.kind, answer.transaction, bytes[4]), (6, 77, 36));
    assert_eq!(
        (&bytes[18..26], &bytes[28..44]),
        (&[16, 0, 0, 0, 0, 0, 9, 5][..], &[1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 2, 0][..])
    );
    for (flags, request, status) in [
        (0, Some(Request::Off), 0),
        (1, Some(Request::Off), 0),
        (2, Some(Request::Restart), 0),
        (3, Some(Request::Restart), 0),
        (4, None, 0x8000_4005_u32),
    ] {
        assert!(host.put(0, &message(3, &shut_down(flags))));
        assert_eq!(shutdown.poll(), request);
        let bytes = bytes_of(&host.take(0).expect("an answer"));
        assert_eq!((&bytes[20..24], bytes[25], bytes.len()), (&status.to_le_bytes()[..], 5, 2088));
        assert_eq!(shutdown.poll(), None, "once");
    }
    // What is not known is answered as well.
    assert!(host.put(0, &message(5, &[0; 4])));
    assert_eq!(shutdown.poll(), None);
    assert!(host.take(0).is_some());
    assert_eq!(faults(), nothing());
}

/// The host signals for the first of them and for no other.
#[test]
fn a_request_behind_many_others_is_heard_at_once() {
    for before in [7, 8, 9, if cfg!(miri) { 18 } else { 50 }] {
        let host = Host::new(0);
        let mut shutdown = found().shutdown.expect("the component");
        (0..before).for_each(|_| assert!(host.put(0, &message(5, &[0; 4]))));
        assert!(host.put(0, &message(3, &shut_down(0))));
        assert_eq!((shutdown.poll(), host.waiting(0)), (Some(Request::Off), 0), "{before}");
        assert_eq!((shutdown.poll(), faults()), (None, nothing()));
    }
}

#[test]
fn a_component_that_lies_or_goes_is_heard_no_more() {
    let too_many = [255, 255, 255, 255, 0, 0, 0, 0];
    let short = Packet { payload: vec![0; 2], ..message(3, &[]) };
    for packet in [message(0, &too_many), message(0, &[]), message(3, &[0; 4]), short] {
        let host = Host::new(0);
        let mut shutdown = found().shutdown.expect("the component");
        assert!(host.put(0, &packet));
        let polled = shutdown.poll();
        assert!(polled.is_none() || packet.payload.len() > 5, "{packet:?}");
        let _ = host.take(0);
        assert_eq!((shutdown.poll(), faults()), (None, nothing()));
    }
    let host = Host::new(0);
    let mut shutdown = found().shutdown.expect("the component");
    host.rescind(0);
    assert_eq!(shutdown.poll(), None);
    assert!(host.is_released(0) && !host.is_open(0));
    assert_eq!((shutdown.poll(), faults()), (None, nothing()));
}
