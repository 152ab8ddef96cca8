//! A server that goes at any byte: of the handshake, of a reply, and of what is sent to it. Whatever was under way is
//! unfinished, whatever was answered is done, and the next connection serves the rest.

use super::{Pair, drain, feed};
use crate::testing::{Disk, Encryption, Session, Settings, Shape};
use crate::{Client, Event, Limits, Tls, Writer};
use kernel_runtime::Instant;
use storage_block::Operation;

const SIZE: usize = 1 << 16;

/// Every form a handshake can take.
fn forms() -> Vec<(Settings, Tls)> {
    let plain = Settings::default();
    let full = Settings {
        extended: true,
        fencing: true,
        incarnation: Some("1".to_string()),
        tls: Encryption::Required,
        ..plain.clone()
    };
    vec![
        (Settings { structured: false, go: false, no_zeroes: false, ..plain.clone() }, Tls::Off),
        (Settings { structured: false, ..plain.clone() }, Tls::Off),
        (Settings { refuses_unknown_contexts: true, ..plain.clone() }, Tls::Off),
        (plain, Tls::Off),
        (Settings { tls: Encryption::Off, ..full.clone() }, Tls::Off),
        (full, Tls::Required),
    ]
}

fn client(tls: Tls) -> Client {
    let writer = Some(Writer { generation: 1, owner: "a" });
    let settings = crate::Settings { tls, writer, ..crate::Settings::of("disk") };
    Client::new(&Limits { slots: 4, ..Limits::DEFAULT }, settings).expect("sound")
}

/// Negotiate until the server has said `limit` bytes; tells how many it said, and whether requests are taken.
fn negotiate(client: &mut Client, session: &mut Session, limit: usize) -> (usize, bool) {
    client.connected(Instant::ZERO);
    let mut said = 0;
    loop {
        let mut output = core::mem::take(&mut session.output);
        output.truncate(limit - said);
        said += output.len();
        feed(client, &output, usize::MAX).expect("sound so far");
        if let Some(Event::Ready) = client.poll_event() {
            return (said, true);
        }
        if said == limit {
            return (said, false);
        }
        if client.wants_tls() {
            client.tls_established(Instant::ZERO);
            session.tls_established();
        }
        session.receive(&drain(client));
        session.fence(true);
    }
}

#[test]
fn a_server_that_goes_at_any_byte_of_the_handshake_is_connected_to_again() {
    for (settings, tls) in forms() {
        let disk = Disk::new(SIZE);
        let mut client = client(tls);
        let (whole, ready) = negotiate(&mut client, &mut Session::new(&settings, &disk), usize::MAX);
        assert!(ready);
        for cut in 0..whole {
            client.disconnected(Instant::ZERO);
            let (said, ready) = negotiate(&mut client, &mut Session::new(&settings, &disk), cut);
            assert_eq!((said, ready), (cut, false));
            assert!(client.free_slots() == 0 && client.take_unfinished().is_none());
        }
        client.disconnected(Instant::ZERO);
        let mut session = Session::new(&settings, &disk);
        assert!(negotiate(&mut client, &mut session, usize::MAX).1);
        session.assert_obeyed();
    }
}

const OPERATIONS: [(Operation, u64); 7] = [
    (Operation::Read, 1024),
    (Operation::Write { fua: true }, 1024),
    (Operation::Flush, 0),
    (Operation::Trim { fua: false }, 1024),
    (Operation::WriteZeroes { fua: false, no_hole: true, fast: false }, 1024),
    (Operation::Cache, 1024),
    (Operation::Status, 4096),
];

#[test]
fn a_server_that_goes_at_any_byte_of_a_reply_leaves_the_request_unfinished() {
    for (settings, tls) in forms() {
        let mut pair = Pair::new(&Settings::default(), SIZE);
        pair.client = client(tls);
        for (operation, length) in OPERATIONS {
            for seed in [None, Some(2), Some(3)] {
                let shape = seed.map_or(Shape::Plain, Shape::Pieces);
                let mut cut = 0;
                // Until the whole reply gets through.
                loop {
                    pair.session = Session::new(&settings, &pair.disk);
                    negotiate(&mut pair.client, &mut pair.session, usize::MAX);
                    pair.submit(cut as u64, operation, 0, length);
                    if pair.send().is_empty() {
                        assert!(pair.completion().is_some_and(|completion| completion.result.is_err()));
                        break;
                    }
                    pair.session.execute(&mut pair.disk, 0, shape);
                    let reply = core::mem::take(&mut pair.session.output);
                    feed(&mut pair.client, &reply[..cut], usize::MAX).expect("sound so far");
                    if cut == reply.len() {
                        assert_eq!(pair.completion().expect("done").result, Ok(()));
                        break;
                    }
                    assert!(pair.completion().is_none());
                    pair.client.disconnected(Instant::ZERO);
                    let unfinished = pair.client.take_unfinished().expect("it had no outcome");
                    assert!(unfinished.touched && unfinished.request.cookie == cut as u64);
                    assert_eq!(unfinished.ghost().is_some(), operation.changes_medium());
                    let room = unfinished.request.buffer.map(|buffer| buffer.len());
                    assert!(room.is_none_or(|room| room as u64 == length || room == super::STATUS));
                    cut += 1;
                }
                pair.client.disconnected(Instant::ZERO);
            }
        }
        pair.session.assert_obeyed();
    }
}

#[test]
fn a_server_that_goes_at_any_byte_of_a_request_leaves_it_unfinished() {
    for (settings, tls) in forms() {
        let mut pair = Pair::new(&Settings::default(), SIZE);
        pair.client = client(tls);
        for cut in 0..600 {
            pair.session = Session::new(&settings, &pair.disk);
            negotiate(&mut pair.client, &mut pair.session, usize::MAX);
            pair.submit(1, Operation::Write { fua: false }, 0, 512);
            pair.submit(2, Operation::Read, 4096, 512);
            let mut left = cut;
            while let Some(bytes) = pair.client.poll_transmit() {
                let count = bytes.len().min(left);
                if count == 0 {
                    break;
                }
                left -= count;
                pair.client.transmitted(Instant::ZERO, count);
            }
            pair.client.disconnected(Instant::ZERO);
            let first = pair.client.take_unfinished().expect("the write");
            let second = pair.client.take_unfinished().expect("the read");
            assert_eq!((first.request.cookie, second.request.cookie), (1, 2));
            let header = if settings.extended { 32 } else { 28 };
            assert_eq!((first.touched, second.touched), (cut > 0, cut > header + 512));
            assert!(pair.client.take_unfinished().is_none());
        }
    }
}
