//! Extended headers: requests and chunks of 32 bytes, and what they must not be.

use super::{Pair, drain, feed};
use crate::testing::{Settings, Shape, chunk_bytes, extended_chunk_bytes, simple_reply_bytes};
use crate::wire::{EXTENDED_HEADER, ExtendedRequest, chunk, command, command_flag};
use crate::{Fatal, Limits, TransmissionFlags};
use storage_block::{Error, Operation};

const SIZE: usize = 1 << 20;

fn settings() -> Settings {
    Settings { extended: true, ..Settings::default() }
}

fn pair() -> Pair {
    Pair::new(&settings(), SIZE)
}

/// What this reply to a read of 4096 bytes at 8192 leads to.
fn read_outcome(reply: impl Fn(u64) -> Vec<u8>) -> Result<Option<Result<Vec<u8>, Error>>, Fatal> {
    let outcome = |step| {
        let mut pair = pair();
        pair.submit(1, Operation::Read, 8192, 4096);
        let cookie = pair.send()[0].cookie;
        feed(&mut pair.client, &reply(cookie), step)?;
        Ok(pair.completion().map(|completion| {
            let buffer = completion.buffer.expect("it comes back");
            completion.result.map(|()| buffer.to_vec())
        }))
    };
    let whole = outcome(usize::MAX);
    for step in [1, 7] {
        assert_eq!(whole, outcome(step), "the outcome depends on how the bytes came");
    }
    whole
}

fn data(cookie: u64, flags: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let payload = [&offset.to_be_bytes(), bytes].concat();
    extended_chunk_bytes(flags, chunk::OFFSET_DATA, cookie, 8192, &payload)
}

#[test]
fn every_operation_goes_through() {
    let mut pair = pair();
    assert!(pair.client.export().is_some_and(|export| export.extended && export.structured));
    let (fua, no_hole, fast) = (true, true, false);
    for seed in 0..8 {
        for (operation, length) in [
            (Operation::Write { fua }, 65536),
            (Operation::Read, 65536),
            (Operation::Flush, 0),
            (Operation::Trim { fua }, 4096),
            (Operation::WriteZeroes { fua, no_hole, fast }, 4096),
            (Operation::Cache, 4096),
            (Operation::Status, 4096),
        ] {
            assert_eq!(pair.run(operation, 0, length, Shape::Pieces(seed)), Ok(()), "{operation:?}");
        }
        let refused = pair.run(Operation::Read, 0, 512, Shape::Error(28));
        assert_eq!(refused, Err(Error::NoSpace));
    }
}

#[test]
fn a_request_says_whether_its_length_is_that_of_a_payload() {
    let mut pair = pair();
    pair.submit(1, Operation::Write { fua: true }, 512, 1024);
    pair.submit(2, Operation::Read, 8192, 1024);
    let said = drain(&mut pair.client);
    assert_eq!(said.len(), 2 * EXTENDED_HEADER + 1024);
    let write = said.first_chunk().and_then(ExtendedRequest::read).expect("a request");
    assert_eq!((write.command, write.offset, write.length), (command::WRITE, 512, 1024));
    assert_eq!(write.flags, command_flag::FUA | command_flag::PAYLOAD_LEN);
    let read = said[EXTENDED_HEADER + 1024..].first_chunk().and_then(ExtendedRequest::read);
    assert_eq!(read.map(|read| (read.command, read.flags)), Some((command::READ, 0)));
    pair.client.disconnect();
    pair.session.receive(&said);
    for _ in 0..2 {
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    }
    pair.deliver().expect("sound");
    let farewell = drain(&mut pair.client);
    let farewell = farewell.first_chunk().and_then(ExtendedRequest::read).expect("a farewell");
    assert_eq!((farewell.command, farewell.flags, farewell.length), (command::DISC, 0, 0));
    pair.session.assert_obeyed();
}

#[test]
fn a_range_of_more_than_32_bits_is_one_command_where_the_headers_can_say_so() {
    let limits = Limits { max_range: 1 << 40, ..Limits::DEFAULT };
    let size = 1u64 << 41;
    for extended in [true, false] {
        let settings = Settings { extended, ..Settings::default() };
        let mut client = crate::Client::new(&limits, "disk").expect("sound");
        let mut session = crate::testing::Session::serving(vec![(settings, size)]);
        client.connected(super::at(0));
        while !client.is_ready() {
            feed(&mut client, &core::mem::take(&mut session.output), usize::MAX).expect("sound");
            drop(client.poll_event());
            session.receive(&drain(&mut client));
        }
        let trim = Operation::Trim { fua: false };
        let request =
            |length| storage_block::Request { cookie: 1, operation: trim, offset: 0, length, buffer: None };
        client.submit(super::at(0), request((1 << 40) + 512)).expect("a slot");
        session.receive(&drain(&mut client));
        session.assert_obeyed();
        let lengths: Vec<_> = session.waiting.iter().map(|waiting| waiting.length).collect();
        if extended {
            assert_eq!(lengths, [1 << 40, 512]);
        } else {
            assert_eq!(lengths, [(1 << 32) - 512; 4], "more of it follows");
        }
    }
}

#[test]
fn chunks_are_checked_against_their_request_twice() {
    let good = |cookie| data(cookie, chunk::FLAG_DONE, 8192, &[3; 4096]);
    assert_eq!(read_outcome(good), Ok(Some(Ok(vec![3; 4096]))));
    let halves = |cookie| {
        [data(cookie, 0, 8192 + 2048, &[2; 2048]), data(cookie, chunk::FLAG_DONE, 8192, &[1; 2048])].concat()
    };
    assert_eq!(read_outcome(halves), Ok(Some(Ok([[1; 2048], [2; 2048]].concat()))));
    let echo = |cookie| extended_chunk_bytes(chunk::FLAG_DONE, chunk::NONE, cookie, 8704, &[]);
    assert_eq!(read_outcome(echo), Err(Fatal::OffsetEcho { sent: 8192, echoed: 8704 }));
    let outside = |cookie| data(cookie, 0, 4096, &[0; 512]);
    assert_eq!(read_outcome(outside), Err(Fatal::ChunkOutside));
    let stranger = |cookie: u64| data(cookie ^ 1, 0, 8192, &[0; 512]);
    assert!(matches!(read_outcome(stranger), Err(Fatal::UnknownCookie(_))));
    let short = |cookie| data(cookie, chunk::FLAG_DONE, 8192, &[0; 512]);
    assert_eq!(read_outcome(short), Ok(Some(Err(Error::Io))));
}

#[test]
fn a_chunk_of_an_absurd_length_is_refused_by_its_header_alone() {
    for length in [1u64 << 32, u64::MAX, u64::from(u32::MAX)] {
        for kind in [chunk::NONE, chunk::OFFSET_HOLE, chunk::ERROR, chunk::BLOCK_STATUS_EXT] {
            let reply = |cookie| {
                let mut bytes = extended_chunk_bytes(chunk::FLAG_DONE, kind, cookie, 8192, &[]);
                bytes[24..32].copy_from_slice(&length.to_be_bytes());
                bytes
            };
            assert!(matches!(read_outcome(reply), Err(Fatal::ChunkLength { .. } | Fatal::ChunkType(_))));
        }
        let data = |cookie| {
            let mut bytes = data(cookie, 0, 8192, &[0; 4096]);
            bytes[24..32].copy_from_slice(&length.to_be_bytes());
            bytes
        };
        assert_eq!(read_outcome(data), Err(Fatal::ChunkOutside));
    }
}

#[test]
fn compact_forms_are_no_longer_understood() {
    let magic = |reply: Vec<u8>| Err(Fatal::ReplyMagic(crate::wire::u32_at(&reply, 0)));
    let simple = |cookie| simple_reply_bytes(5, cookie);
    assert_eq!(read_outcome(simple), magic(simple(0)));
    let structured = |cookie| chunk_bytes(1, chunk::NONE, cookie, &[]);
    assert_eq!(read_outcome(structured), magic(structured(0)));
    // Nor is the other form where it was not agreed on.
    for structured in [true, false] {
        let mut pair = Pair::new(&Settings { structured, ..Settings::default() }, SIZE);
        pair.submit(1, Operation::Read, 0, 512);
        let cookie = pair.send()[0].cookie;
        let reply = extended_chunk_bytes(chunk::FLAG_DONE, chunk::NONE, cookie, 0, &[]);
        assert_eq!(
            feed(&mut pair.client, &reply, usize::MAX),
            Err(Fatal::ReplyMagic(crate::wire::EXTENDED_REPLY_MAGIC))
        );
    }
}

#[test]
fn fast_zeroes_are_asked_for_only_where_they_are_offered() {
    let fast = Operation::WriteZeroes { fua: false, no_hole: false, fast: true };
    for extended in [true, false] {
        let with = |flag: u16, fast_zero| {
            let flags = TransmissionFlags(Settings::default().flags.0 | flag);
            Pair::new(&Settings { extended, flags, fast_zero, ..Settings::default() }, SIZE)
        };
        let offered = TransmissionFlags::SEND_FAST_ZERO.0;
        let mut none = with(0, true);
        assert!(!none.client.export().expect("an export").geometry.fast_zero);
        assert_eq!(none.run(fast, 0, 4096, Shape::Plain), Err(Error::NotSupported));
        assert_eq!(none.client.counters().commands, 0);
        let mut slow = with(offered, false);
        assert!(slow.client.export().expect("an export").geometry.fast_zero);
        assert_eq!(slow.run(fast, 0, 4096, Shape::Plain), Err(Error::NotSupported));
        assert_eq!(slow.client.counters().commands, 1);
        let mut quick = with(offered, true);
        quick.submit(1, fast, 0, 4096);
        assert_eq!(quick.send()[0].flags, command_flag::FAST_ZERO);
        assert_eq!(quick.run(fast, 8192, 4096, Shape::Plain), Ok(()));
    }
}
