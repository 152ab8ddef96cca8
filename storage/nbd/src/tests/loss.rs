//! The end of a connection: by death, by farewell, by the server's shutdown. And what comes back after it.

use super::{Pair, drain, feed};
use crate::testing::{Settings, Shape};
use crate::wire::{command, error};
use crate::{BlockSizes, Change, Event, Limits, Mismatch, TransmissionFlags, validate};
use kernel_runtime::Instant;
use storage_block::{Error, Operation};

const SIZE: usize = 1 << 20;
const READ: Operation = Operation::Read;
const WRITE: Operation = Operation::Write { fua: false };

fn small() -> Settings {
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 512 };
    Settings { block_sizes: Some(sizes), ..Settings::default() }
}

#[test]
fn what_was_in_flight_comes_back_in_order_and_says_whether_it_was_sent() {
    let mut pair = Pair::new(&Settings::default(), SIZE);
    for cookie in 0..6 {
        pair.submit(cookie, if cookie % 2 == 0 { WRITE } else { READ }, cookie * 4096, 4096);
    }
    // Two whole writes and a read, and one byte of the next header.
    for _ in 0..5 {
        let count = pair.client.poll_transmit().expect("more").len();
        pair.client.transmitted(Instant::ZERO, count);
    }
    assert!(pair.client.poll_transmit().is_some());
    pair.client.transmitted(Instant::ZERO, 1);
    pair.client.disconnected(Instant::ZERO);
    assert!(!pair.client.is_ready() && pair.client.free_slots() == 0);
    assert!(pair.client.poll_event().is_none() && pair.client.poll_transmit().is_none());
    let refused = pair.request(9, READ, 0, 512);
    assert!(pair.client.submit(Instant::ZERO, refused).is_err());
    for cookie in 0..6 {
        let unfinished = pair.client.take_unfinished().expect("each comes back");
        assert_eq!(unfinished.request.cookie, cookie);
        assert_eq!(unfinished.touched, cookie < 4, "{cookie}");
        let ghost = (cookie % 2 == 0 && cookie < 4).then_some((cookie * 4096, 4096));
        assert_eq!(unfinished.ghost(), ghost);
        let lost = unfinished.into_lost();
        assert_eq!((lost.cookie, lost.result), (cookie, Err(Error::Lost)));
        assert!(lost.buffer.is_some());
    }
    assert!(pair.client.take_unfinished().is_none());
    pair.connect(&Settings::default());
    assert_eq!(pair.client.free_slots(), Limits::DEFAULT.slots);
}

#[test]
fn what_was_loaded_and_not_sent_was_not_sent() {
    let mut pair = Pair::new(&Settings::default(), SIZE);
    pair.submit(1, WRITE, 0, 512);
    assert_eq!(pair.client.poll_transmit().map(<[u8]>::len), Some(28));
    pair.client.disconnected(Instant::ZERO);
    assert_eq!(pair.client.take_unfinished().map(|unfinished| unfinished.touched), Some(false));
}

#[test]
fn completions_that_wait_survive_the_connection() {
    let mut pair = Pair::new(&Settings::default(), SIZE);
    pair.submit(1, WRITE, 0, 512);
    pair.submit(2, WRITE, 512, 512);
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    pair.client.disconnected(Instant::ZERO);
    assert_eq!(pair.client.take_unfinished().map(|unfinished| unfinished.request.cookie), Some(2));
    assert_eq!(pair.completion().map(|completion| (completion.cookie, completion.result)), Some((1, Ok(()))));
}

#[test]
fn unfinished_requests_keep_their_slots_until_they_are_fetched() {
    let mut pair = Pair::new(&Settings::default(), SIZE);
    for cookie in 0..3 {
        pair.submit(cookie, WRITE, 0, 512);
    }
    pair.connect(&Settings::default());
    assert_eq!(pair.client.free_slots(), 29);
    assert!(pair.send().is_empty(), "nothing is sent again by itself");
    for cookie in 0..3 {
        let unfinished = pair.client.take_unfinished().expect("still there");
        assert_eq!(unfinished.request.cookie, cookie);
        pair.client.submit(Instant::ZERO, unfinished.request).expect("a slot");
    }
    assert_eq!(pair.send().len(), 3);
}

#[test]
fn a_read_cut_anywhere_in_its_reply_is_unfinished_and_never_success() {
    for structured in [true, false] {
        let settings = Settings { structured, ..Settings::default() };
        let length = {
            let mut pair = Pair::new(&settings, SIZE);
            pair.submit(1, READ, 0, 1024);
            pair.send();
            pair.session.execute(&mut pair.disk, 0, Shape::Plain);
            pair.session.output.len()
        };
        for cut in 0..length {
            let mut pair = Pair::new(&settings, SIZE);
            pair.submit(1, READ, 0, 1024);
            pair.send();
            pair.session.execute(&mut pair.disk, 0, Shape::Plain);
            let reply = core::mem::take(&mut pair.session.output);
            feed(&mut pair.client, &reply[..cut], usize::MAX).expect("sound so far");
            assert!(pair.client.poll_event().is_none());
            pair.client.disconnected(Instant::ZERO);
            assert!(pair.client.take_unfinished().expect("it comes back").touched);
            // The next connection is not confused by the half of a reply.
            pair.connect(&settings);
            assert_eq!(pair.run(READ, 0, 1024, Shape::Plain), Ok(()));
        }
    }
}

#[test]
fn a_request_in_parts_comes_back_whole() {
    let mut pair = Pair::new(&small(), SIZE);
    pair.submit(1, WRITE, 0, 4096);
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    pair.client.disconnected(Instant::ZERO);
    let unfinished = pair.client.take_unfinished().expect("it comes back");
    assert_eq!((unfinished.request.offset, unfinished.request.length), (0, 4096));
    assert_eq!(unfinished.ghost(), Some((0, 4096)));
    assert!(pair.client.take_unfinished().is_none());
}

#[test]
fn a_farewell_waits_for_what_is_in_flight() {
    let mut pair = Pair::new(&small(), SIZE);
    pair.submit(1, WRITE, 0, 4096);
    pair.submit(2, READ, 8192, 512);
    pair.client.disconnect();
    let refused = pair.request(3, READ, 0, 512);
    assert!(pair.client.submit(Instant::ZERO, refused).is_err());
    let mut done = Vec::new();
    let mut sent = Vec::new();
    while done.len() < 2 {
        sent.extend(pair.send());
        assert!(!pair.session.has_ended());
        while !pair.session.waiting.is_empty() {
            pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        }
        pair.deliver().expect("sound");
        done.extend(pair.completion().map(|completion| completion.result));
    }
    assert_eq!((done, sent.len()), (vec![Ok(()), Ok(())], 9));
    assert_eq!(pair.send().last().map(|request| request.command), Some(command::DISC));
    assert!(pair.session.has_ended());
    assert!(matches!(pair.client.poll_event(), Some(Event::Closed)));
    assert!(drain(&mut pair.client).is_empty() && pair.client.poll_timeout().is_none());
    pair.session.assert_obeyed();
    pair.client.disconnected(Instant::ZERO);
    assert!(pair.client.take_unfinished().is_none());
}

#[test]
fn a_farewell_in_the_middle_of_the_handshake_is_only_the_end_of_the_connection() {
    let mut client = crate::Client::new(&Limits::DEFAULT, "disk").expect("sound limits");
    client.disconnect();
    assert!(client.poll_event().is_none());
    client.connected(Instant::ZERO);
    client.disconnect();
    assert!(matches!(client.poll_event(), Some(Event::Closed)));
    assert!(client.poll_transmit().is_none());
}

#[test]
fn a_server_that_shuts_down_is_left_softly_and_nothing_is_reported_as_failed() {
    let mut pair = Pair::new(&small(), SIZE);
    pair.submit(1, WRITE, 0, 512);
    pair.submit(2, WRITE, 512, 512);
    pair.submit(3, READ, 1024, 512);
    pair.submit(4, WRITE, 4096, 8192);
    assert!(pair.send().len() >= 7);
    pair.session.execute(&mut pair.disk, 1, Shape::Error(error::ESHUTDOWN));
    pair.session.execute(&mut pair.disk, 1, Shape::Error(error::ESHUTDOWN));
    pair.deliver().expect("sound");
    assert!(matches!(pair.client.poll_event(), Some(Event::Closing)));
    assert!(!pair.client.is_ready());
    let mut more = pair.send();
    while !pair.session.waiting.is_empty() {
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        pair.deliver().expect("sound");
        more.extend(pair.send());
    }
    assert_eq!(more.last().map(|request| request.command), Some(command::DISC));
    assert!(more.len() <= 2, "nothing new was begun");
    assert_eq!(pair.completion().map(|completion| (completion.cookie, completion.result)), Some((1, Ok(()))));
    assert!(matches!(pair.client.poll_event(), Some(Event::Closed)));
    pair.client.disconnected(Instant::ZERO);
    let cookies: Vec<_> = core::iter::from_fn(|| pair.client.take_unfinished())
        .map(|one| (one.request.cookie, one.touched))
        .collect();
    assert_eq!(cookies, [(2, true), (3, true), (4, true)]);
    pair.session.assert_obeyed();
}

#[test]
fn a_request_not_yet_sent_can_be_taken_back() {
    let mut pair = Pair::new(&Settings::default(), SIZE);
    pair.submit(1, WRITE, 0, 512);
    pair.submit(2, WRITE, 512, 512);
    pair.submit(3, WRITE, 1024, 512);
    assert!(pair.client.poll_transmit().is_some());
    assert!(pair.client.withdraw(1).is_none(), "its header is on its way");
    assert_eq!(pair.client.withdraw(2).map(|request| request.cookie), Some(2));
    assert!(pair.client.withdraw(2).is_none() && pair.client.withdraw(77).is_none());
    // Its slot is used again before its turn in the queue has come.
    for cookie in 4..33 {
        pair.submit(cookie, WRITE, cookie * 512, 512);
    }
    pair.submit(33, WRITE, 33 * 512, 512);
    assert_eq!(pair.client.free_slots(), 0);
    let offsets: Vec<_> = pair.send().iter().map(|request| request.offset / 512).collect();
    assert_eq!(offsets.len(), 32);
    while !pair.session.waiting.is_empty() {
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    }
    pair.deliver().expect("sound");
    let mut done: Vec<_> =
        core::iter::from_fn(|| pair.completion()).map(|completion| completion.cookie).collect();
    done.sort_unstable();
    assert_eq!(done, core::iter::once(1).chain(3..34).collect::<Vec<_>>());
    pair.session.assert_obeyed();
}

#[test]
fn an_export_that_comes_back_is_compared_with_the_one_that_went() {
    let base = Settings::default();
    let with =
        |settings: Settings, size: usize| *Pair::new(&settings, size).client.export().expect("an export");
    let flags = |flags: u16| Settings { flags: TransmissionFlags(flags), ..base.clone() };
    let sizes = |minimum| {
        let sizes = BlockSizes { minimum, preferred: 4096, maximum: 65536 };
        Settings { block_sizes: Some(sizes), ..base.clone() }
    };
    let (before, all) = (with(base.clone(), SIZE), base.flags.0);
    assert_eq!(validate(&before, &before), Ok(Change::default()));

    let grown = validate(&before, &with(base.clone(), SIZE + 4096)).expect("usable");
    assert_eq!(grown.grown, Some((SIZE as u64, SIZE as u64 + 4096)));
    let odd = validate(&before, &with(base.clone(), SIZE + 100)).expect("usable");
    assert_eq!(odd.grown, None, "not by a block");
    let shrunk = Mismatch::Shrunk { before: SIZE as u64, now: SIZE as u64 - 512 };
    assert_eq!(validate(&before, &with(base.clone(), SIZE - 512)), Err(shrunk));

    let other = Settings { name: "other".to_string(), ..base.clone() };
    assert_eq!(validate(&before, &with(other, SIZE)), Err(Mismatch::Name));
    assert_eq!(
        validate(&before, &with(sizes(4096), SIZE)),
        Err(Mismatch::BlockSize { before: 512, now: 4096 })
    );
    assert!(validate(&with(sizes(4096), SIZE), &before).is_ok(), "smaller blocks serve larger ones");
    // A block of 4096 bytes shows less of an export than one of 512.
    let large = with(sizes(4096), SIZE);
    assert_eq!(validate(&large, &with(sizes(512), SIZE + 512)).map(|change| change.grown), Ok(None));

    let read_only = with(flags(all | TransmissionFlags::READ_ONLY.0), SIZE);
    assert_eq!(validate(&before, &read_only), Err(Mismatch::ReadOnly));
    assert!(validate(&read_only, &before).is_ok_and(|change| change.writable));
    let no_flush = with(flags(all & !TransmissionFlags::SEND_FLUSH.0), SIZE);
    assert_eq!(validate(&before, &no_flush), Err(Mismatch::Flush));
    let no_fua = with(flags(all & !TransmissionFlags::SEND_FUA.0), SIZE);
    assert_eq!(validate(&before, &no_fua).map(|change| change.lost), Ok(TransmissionFlags::SEND_FUA));
    let neither = with(flags(no_flush.flags.0 & !TransmissionFlags::SEND_FUA.0), SIZE);
    assert_eq!(validate(&no_flush, &neither), Err(Mismatch::Fua));
    let change =
        validate(&with(flags(all & !TransmissionFlags::SEND_TRIM.0), SIZE), &before).expect("usable");
    assert_eq!((change.gained, change.lost), (TransmissionFlags::SEND_TRIM, TransmissionFlags(0)));
}
