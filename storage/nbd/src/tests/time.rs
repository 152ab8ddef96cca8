//! Deadlines, the watchdog and the heartbeat.

use super::{Pair, at, feed};
use crate::testing::{Session, Settings, Shape};
use crate::wire::{command, error};
use crate::{Client, Event, Fatal, Limits, Retry};
use kernel_runtime::Instant;
use storage_block::Operation;

const SECOND: u64 = 1_000_000;
const WRITE: Operation = Operation::Write { fua: false };

fn pair() -> Pair {
    Pair::new(&Settings::default(), 1 << 20)
}

/// Give bytes to the engine at this moment.
fn feed_at(pair: &mut Pair, now: Instant, bytes: &[u8]) {
    for byte in bytes {
        pair.client.space()[0] = *byte;
        pair.client.received(now, 1).expect("sound");
    }
}

#[test]
fn a_handshake_has_a_deadline_however_it_trickles() {
    let mut client = Client::new(&Limits::DEFAULT, "disk").expect("sound limits");
    client.connected(at(3 * SECOND));
    assert_eq!(client.poll_timeout(), Some(at(13 * SECOND)));
    let output = Session::new(&Settings::default(), &crate::testing::Disk::new(512)).output;
    for (second, byte) in output[..9].iter().enumerate() {
        let now = at((4 + second as u64) * SECOND);
        client.space()[0] = *byte;
        client.received(now, 1).expect("sound so far");
        assert_eq!(client.handle_timeout(now), Ok(()));
    }
    assert_eq!(client.handle_timeout(at(13 * SECOND - 1)), Ok(()));
    assert_eq!(client.handle_timeout(at(13 * SECOND)), Err(Fatal::HandshakeTimeout));
    assert_eq!(Fatal::HandshakeTimeout.retry(), Retry::Soon);
    assert_eq!(client.poll_timeout(), None);
    assert_eq!(client.received(at(14 * SECOND), 1), Err(Fatal::HandshakeTimeout));
    client.disconnected(at(14 * SECOND));
    assert!(client.take_unfinished().is_none());
}

#[test]
fn silence_with_answers_due_is_suspect_then_dead() {
    let mut pair = pair();
    assert_eq!(pair.client.poll_timeout(), Some(at(5 * SECOND)), "the heartbeat");
    let request = pair.request(1, Operation::Read, 0, 4096);
    pair.client.submit(at(2 * SECOND), request).expect("a slot");
    assert_eq!(pair.client.poll_timeout(), Some(at(7 * SECOND)));
    assert_eq!(pair.client.handle_timeout(at(7 * SECOND - 1)), Ok(()));
    assert!(pair.client.poll_event().is_none());
    assert_eq!(pair.client.handle_timeout(at(7 * SECOND)), Ok(()));
    assert!(matches!(pair.client.poll_event(), Some(Event::Suspect)));
    assert!(pair.client.poll_event().is_none(), "told once");
    assert_eq!(pair.client.poll_timeout(), Some(at(12 * SECOND)));
    assert_eq!(pair.client.handle_timeout(at(12 * SECOND)), Err(Fatal::Stalled));
    assert_eq!(pair.client.counters().suspected, 1);
    assert!(pair.client.poll_transmit().is_none(), "not another word");
    pair.client.disconnected(at(12 * SECOND));
    assert_eq!(pair.client.take_unfinished().map(|unfinished| unfinished.touched), Some(false));
}

#[test]
fn a_stall_in_the_middle_of_a_read_is_noticed_and_progress_puts_it_off() {
    let mut pair = pair();
    pair.submit(1, Operation::Read, 0, 65536);
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    let reply = core::mem::take(&mut pair.session.output);
    let half = reply.len() / 2;
    feed_at(&mut pair, at(4 * SECOND), &reply[..half]);
    assert_eq!(pair.client.poll_timeout(), Some(at(9 * SECOND)));
    pair.client.handle_timeout(at(9 * SECOND)).expect("only suspect");
    feed_at(&mut pair, at(10 * SECOND), &reply[half..half + 1]);
    assert!(pair.client.poll_event().is_none(), "it lives, so nobody need hear that it was suspect");
    assert_eq!(pair.client.handle_timeout(at(19 * SECOND)), Ok(()));
    assert_eq!(pair.client.handle_timeout(at(20 * SECOND)), Err(Fatal::Stalled));
}

#[test]
fn slow_is_not_dead() {
    let zeroes = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
    for operation in
        [Operation::Flush, zeroes, Operation::Trim { fua: false }, Operation::Write { fua: true }]
    {
        let mut pair = pair();
        pair.submit(1, operation, 0, if operation == Operation::Flush { 0 } else { 512 });
        pair.submit(2, Operation::Read, 4096, 512);
        pair.send();
        for second in 1..90 {
            assert_eq!(pair.client.handle_timeout(at(second * SECOND)), Ok(()));
        }
        assert!(pair.client.poll_event().is_none());
        assert_eq!(pair.client.poll_timeout(), Some(at(90 * SECOND)));
        pair.client.handle_timeout(at(90 * SECOND)).expect("suspect");
        assert!(matches!(pair.client.poll_event(), Some(Event::Suspect)));
        assert_eq!(pair.client.handle_timeout(at(180 * SECOND)), Err(Fatal::Stalled));
    }
    // Once the slow one is answered, the others have no more patience than before.
    let mut pair = pair();
    pair.submit(1, Operation::Flush, 0, 0);
    pair.submit(2, Operation::Read, 4096, 512);
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    let reply = core::mem::take(&mut pair.session.output);
    feed_at(&mut pair, at(60 * SECOND), &reply);
    assert_eq!(pair.client.poll_timeout(), Some(at(65 * SECOND)));
}

#[test]
fn an_idle_connection_is_tried_with_a_small_read() {
    for (shape, structured) in [(Shape::Plain, true), (Shape::Plain, false), (Shape::Pieces(5), true)] {
        let settings = Settings { structured, ..Settings::default() };
        let mut pair = Pair::new(&settings, 1 << 20);
        for round in 1..4 {
            let due = pair.client.poll_timeout().expect("a heartbeat");
            assert_eq!(due, at(round * 5 * SECOND));
            assert!(pair.send().is_empty());
            pair.client.handle_timeout(due).expect("alive");
            let sent = pair.send();
            assert_eq!(
                (sent.len(), sent[0].command, sent[0].offset, sent[0].length),
                (1, command::READ, 0, 512)
            );
            pair.session.execute(&mut pair.disk, 0, shape);
            let reply = core::mem::take(&mut pair.session.output);
            feed_at(&mut pair, due, &reply);
            assert!(pair.client.poll_event().is_none(), "nobody else hears of it");
        }
        assert_eq!((pair.client.counters().heartbeats, pair.client.counters().requests), (3, 0));
        assert_eq!(pair.client.free_slots(), Limits::DEFAULT.slots);
    }
}

#[test]
fn an_error_in_reply_to_the_heartbeat_is_a_sign_of_life_and_silence_is_not() {
    let mut pair = pair();
    pair.client.handle_timeout(at(5 * SECOND)).expect("alive");
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Error(error::EIO));
    pair.deliver().expect("an error is an answer");
    assert!(pair.client.poll_event().is_none());
    pair.client.disconnected(Instant::ZERO);
    pair.connect(&Settings::default());
    pair.client.handle_timeout(at(5 * SECOND)).expect("alive");
    pair.send();
    let sent_at = 0;
    assert_eq!(pair.client.poll_timeout(), Some(at(sent_at + 5 * SECOND)));
    pair.client.handle_timeout(at(5 * SECOND)).expect("suspect");
    assert_eq!(pair.client.handle_timeout(at(10 * SECOND)), Err(Fatal::Stalled));
    pair.client.disconnected(at(10 * SECOND));
    assert!(pair.client.take_unfinished().is_none(), "the heartbeat is nobody's request");
}

#[test]
fn a_heartbeat_and_requests_do_not_get_in_each_others_way() {
    let mut pair = pair();
    pair.client.handle_timeout(at(5 * SECOND)).expect("alive");
    for cookie in 0..32 {
        pair.submit(cookie, WRITE, cookie * 512, 512);
    }
    assert_eq!(pair.send().len(), 33);
    while !pair.session.waiting.is_empty() {
        let last = pair.session.waiting.len() - 1;
        pair.session.execute(&mut pair.disk, last, Shape::Plain);
    }
    pair.deliver().expect("sound");
    assert_eq!(core::iter::from_fn(|| pair.completion()).count(), 32);
    pair.session.assert_obeyed();
}

#[test]
fn a_server_that_does_not_take_what_is_sent_is_noticed_too() {
    let mut pair = pair();
    pair.submit(1, WRITE, 0, 65536);
    pair.client.transmitted(at(SECOND), 0);
    assert!(pair.client.poll_transmit().is_some());
    pair.client.transmitted(at(3 * SECOND), 28);
    assert_eq!(pair.client.poll_timeout(), Some(at(8 * SECOND)));
    pair.client.handle_timeout(at(8 * SECOND)).expect("suspect");
    assert_eq!(pair.client.handle_timeout(at(13 * SECOND)), Err(Fatal::Stalled));
    pair.client.disconnected(at(13 * SECOND));
    assert_eq!(pair.client.take_unfinished().map(|unfinished| unfinished.touched), Some(true));
}

#[test]
fn a_timeout_out_of_season_does_nothing() {
    let mut pair = pair();
    for _ in 0..3 {
        assert_eq!(pair.client.handle_timeout(at(SECOND)), Ok(()));
    }
    assert!(pair.send().is_empty() && pair.client.poll_event().is_none());
    pair.client.disconnected(at(SECOND));
    assert_eq!((pair.client.poll_timeout(), pair.client.handle_timeout(at(99 * SECOND))), (None, Ok(())));
    assert_eq!(feed(&mut pair.client, &[0; 100], 7), Ok(()), "bytes of nobody are of no interest");
}

#[test]
fn what_is_sent_is_no_sign_of_life_once_an_answer_is_due() {
    let mut pair = pair();
    let request = pair.request(1, Operation::Read, 0, 512);
    pair.client.submit(at(0), request).expect("a slot");
    pair.client.transmitted(at(0), 0);
    pair.send();
    // Every second something more is taken by the connection's memory, and nothing comes back.
    for second in 1..10 {
        let request = pair.request(second + 1, Operation::Read, 0, 512);
        pair.client.submit(at(second * SECOND), request).expect("a slot");
        while let Some(bytes) = pair.client.poll_transmit() {
            let count = bytes.len();
            pair.client.transmitted(at(second * SECOND), count);
        }
        assert_eq!(pair.client.handle_timeout(at(second * SECOND)), Ok(()));
    }
    assert!(matches!(pair.client.poll_event(), Some(Event::Suspect)));
    assert_eq!(pair.client.handle_timeout(at(10 * SECOND)), Err(Fatal::Stalled));
}

#[test]
fn answers_that_come_make_room_for_more_to_be_sent() {
    let mut pair = pair();
    for second in 0..40 {
        let request = pair.request(second, WRITE, 0, 512);
        pair.client.submit(at(second * SECOND), request).expect("a slot");
        pair.send();
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        let reply = core::mem::take(&mut pair.session.output);
        feed_at(&mut pair, at(second * SECOND + SECOND / 2), &reply);
        assert_eq!(pair.completion().map(|completion| completion.result), Some(Ok(())));
        assert_eq!(pair.client.handle_timeout(at(second * SECOND + SECOND / 2)), Ok(()));
    }
}

#[test]
fn how_long_requests_take_is_counted_by_kind() {
    let mut pair = pair();
    let operations = [Operation::Read, WRITE, Operation::Flush, Operation::Cache, Operation::Status];
    for (index, operation) in operations.into_iter().enumerate() {
        let length = if operation == Operation::Flush { 0 } else { 512 };
        let request = pair.request(1, operation, 0, length);
        pair.client.submit(at(1000), request).expect("a slot");
        assert_eq!(pair.client.outstanding(), 1);
        pair.send();
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        let reply = core::mem::take(&mut pair.session.output);
        feed_at(&mut pair, at(1000 + (1 << index)), &reply);
        assert!(pair.completion().is_some() && pair.client.outstanding() == 0);
    }
    let latency = pair.client.latency();
    assert_eq!((latency.read.buckets[0], latency.write.buckets[1], latency.flush.buckets[2]), (1, 1, 1));
    assert_eq!((latency.other.buckets[3], latency.other.buckets[4], latency.other.count()), (1, 1, 2));
    assert_eq!(latency.flush.quantile(1, 2), Some(core::time::Duration::from_micros(8)));
}

#[test]
fn a_connection_is_counted_by_itself_and_the_heartbeat_for_nobody() {
    let mut pair = pair();
    assert_eq!(pair.run(Operation::Read, 0, 512, Shape::Plain), Ok(()));
    pair.client.handle_timeout(at(5 * SECOND)).expect("alive");
    pair.send();
    assert_eq!(pair.client.outstanding(), 0, "the heartbeat is nobody's request");
    assert_eq!(pair.client.latency().read.count(), 1);
    pair.client.disconnected(at(6 * SECOND));
    assert_eq!(pair.client.connection_counters(), *pair.client.counters(), "of the last connection");
    pair.connect(&Settings::default());
    assert_eq!(pair.run(WRITE, 0, 512, Shape::Plain), Ok(()));
    let (now, all) = (pair.client.connection_counters(), *pair.client.counters());
    assert_eq!((now.connections, now.requests, now.bytes_read, now.bytes_written), (1, 1, 0, 512));
    assert_eq!((all.connections, all.requests, all.bytes_read, all.heartbeats), (2, 2, 512, 1));
}
