//! Every form of reply, and every form it must not have.

use super::{Pair, commands, drain, feed};
use crate::testing::{Settings, Shape, chunk_bytes, simple_reply_bytes};
use crate::wire::{chunk, command, command_flag, error};
use crate::{BlockSizes, Fatal, Limits, TransmissionFlags};
use kernel_runtime::Instant;
use storage_block::{Error, Operation, Request};

const SIZE: usize = 1 << 20;
const READ: Operation = Operation::Read;
const WRITE: Operation = Operation::Write { fua: false };
const FUA: Operation = Operation::Write { fua: true };

fn structured() -> Pair {
    Pair::new(&Settings::default(), SIZE)
}

fn simple() -> Pair {
    Pair::new(&Settings { structured: false, ..Settings::default() }, SIZE)
}

/// A pair with one read of `4096` bytes at `8192` in flight, and its cookie on the wire.
fn reading(mut pair: Pair) -> (Pair, u64) {
    pair.submit(1, READ, 8192, 4096);
    let cookie = pair.send()[0].cookie;
    (pair, cookie)
}

fn data(cookie: u64, flags: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk_bytes(flags, chunk::OFFSET_DATA, cookie, &[&offset.to_be_bytes(), bytes].concat())
}

fn hole(cookie: u64, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let payload = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
    chunk_bytes(flags, chunk::OFFSET_HOLE, cookie, &payload)
}

fn error_chunk(cookie: u64, flags: u16, code: u32, words: &str, offset: Option<u64>) -> Vec<u8> {
    let mut payload =
        [&code.to_be_bytes()[..], &(words.len() as u16).to_be_bytes(), words.as_bytes()].concat();
    payload.extend(offset.iter().flat_map(|offset| offset.to_be_bytes()));
    let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
    chunk_bytes(flags, kind, cookie, &payload)
}

fn done(cookie: u64) -> Vec<u8> {
    chunk_bytes(chunk::FLAG_DONE, chunk::NONE, cookie, &[])
}

/// What this reply to the read of [`reading`] leads to; the same whole and byte by byte.
fn read_outcome(
    structured: bool,
    reply: impl Fn(u64) -> Vec<u8>,
) -> Result<Option<Result<Vec<u8>, Error>>, Fatal> {
    let outcome = |step| {
        let (mut pair, cookie) = reading(if structured { self::structured() } else { simple() });
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

fn fatal(structured: bool, reply: impl Fn(u64) -> Vec<u8>) -> Option<Fatal> {
    read_outcome(structured, reply).err()
}

fn pattern() -> Vec<u8> {
    (0..4096u32).map(|index| (index % 251) as u8).collect()
}

#[test]
fn a_simple_reply_fills_the_buffer() {
    let reply = |cookie| [simple_reply_bytes(0, cookie), pattern()].concat();
    assert_eq!(read_outcome(false, reply), Ok(Some(Ok(pattern()))));
    let error = |cookie| simple_reply_bytes(error::EIO, cookie);
    assert_eq!(read_outcome(false, error), Ok(Some(Err(Error::Io))));
    // Nothing follows an error: the next bytes are the next reply.
    let twice = |cookie| [simple_reply_bytes(error::EIO, cookie), simple_reply_bytes(0, cookie)].concat();
    assert!(matches!(fatal(false, twice), Some(Fatal::UnknownCookie(_))));
}

#[test]
fn the_payload_goes_straight_into_the_requests_buffer() {
    let (mut pair, cookie) = reading(simple());
    feed(&mut pair.client, &simple_reply_bytes(0, cookie), usize::MAX).expect("sound");
    assert_eq!(pair.client.space().len(), 4096);
    feed(&mut pair.client, &[7; 1000], usize::MAX).expect("sound");
    assert_eq!(pair.client.space().len(), 3096);
    let (mut pair, cookie) = reading(structured());
    feed(&mut pair.client, &data(cookie, 0, 8192 + 512, &[1; 1024])[..28], usize::MAX).expect("sound");
    assert_eq!(pair.client.space().len(), 1024);
}

#[test]
fn chunks_are_put_together_in_any_order() {
    let pattern = pattern();
    let piece = |cookie, flags, range: core::ops::Range<usize>| {
        data(cookie, flags, 8192 + range.start as u64, &pattern[range])
    };
    let one = |cookie| piece(cookie, chunk::FLAG_DONE, 0..4096);
    assert_eq!(read_outcome(true, one), Ok(Some(Ok(pattern.clone()))));
    let backwards = |cookie| {
        let (first, second) = (piece(cookie, 0, 1..4096), piece(cookie, 0, 0..1));
        [first, second, done(cookie)].concat()
    };
    assert_eq!(read_outcome(true, backwards), Ok(Some(Ok(pattern.clone()))));
    let holes = |cookie| {
        let (end, middle) = (hole(cookie, 0, 8192 + 1024, 3072), piece(cookie, chunk::FLAG_DONE, 512..1024));
        [end, hole(cookie, 0, 8192, 512), middle].concat()
    };
    let mut expected = vec![0; 4096];
    expected[512..1024].copy_from_slice(&pattern[512..1024]);
    assert_eq!(read_outcome(true, holes), Ok(Some(Ok(expected))), "a hole overwrites what the buffer held");
    let sparse = |cookie| hole(cookie, chunk::FLAG_DONE, 8192, 4096);
    assert_eq!(read_outcome(true, sparse), Ok(Some(Ok(vec![0; 4096]))));
}

#[test]
fn chunks_of_several_reads_may_alternate() {
    let mut pair = structured();
    pair.submit(1, READ, 0, 1024);
    pair.submit(2, READ, 4096, 1024);
    let cookies: Vec<_> = pair.send().iter().map(|request| request.cookie).collect();
    let reply = [
        data(cookies[1], 0, 4096, &[4; 512]),
        data(cookies[0], 0, 512, &[2; 512]),
        data(cookies[1], chunk::FLAG_DONE, 4608, &[5; 512]),
        data(cookies[0], chunk::FLAG_DONE, 0, &[1; 512]),
    ];
    feed(&mut pair.client, &reply.concat(), usize::MAX).expect("sound");
    let (second, first) = (pair.completion().expect("done"), pair.completion().expect("done"));
    assert_eq!((first.cookie, second.cookie), (1, 2));
    let halves = |low, high| [vec![low; 512], vec![high; 512]].concat();
    assert_eq!(first.buffer.expect("back").to_vec(), halves(1, 2));
    assert_eq!(second.buffer.expect("back").to_vec(), halves(4, 5));
}

#[test]
fn a_reply_that_lacks_bytes_is_an_error_and_never_success() {
    for reply in [
        |cookie| done(cookie),
        |cookie| data(cookie, chunk::FLAG_DONE, 8192, &[1; 4095]),
        |cookie| [data(cookie, 0, 8193, &[1; 4095]), done(cookie)].concat(),
        |cookie| [hole(cookie, 0, 8192, 2048), hole(cookie, chunk::FLAG_DONE, 8192 + 2049, 2047)].concat(),
    ] {
        assert_eq!(read_outcome(true, reply), Ok(Some(Err(Error::Io))));
    }
    let (mut pair, cookie) = reading(structured());
    feed(&mut pair.client, &done(cookie), 1).expect("in step");
    assert_eq!(pair.client.counters().short_reads, 1);
}

#[test]
fn a_reply_that_is_not_done_is_waited_for() {
    let whole = |cookie| data(cookie, 0, 8192, &[1; 4096]);
    assert_eq!(read_outcome(true, whole), Ok(None));
    let error = |cookie| error_chunk(cookie, 0, error::EIO, "", None);
    assert_eq!(read_outcome(true, error), Ok(None));
}

#[test]
fn an_error_counts_wherever_it_stands() {
    let whole = |cookie, flags| data(cookie, flags, 8192, &[1; 4096]);
    let last =
        |cookie| [whole(cookie, 0), error_chunk(cookie, 1, error::EIO, "bad sector", Some(9000))].concat();
    assert_eq!(read_outcome(true, last), Ok(Some(Err(Error::Io))));
    let first = |cookie| [error_chunk(cookie, 0, error::ENOMEM, "", None), whole(cookie, 1)].concat();
    assert_eq!(read_outcome(true, first), Ok(Some(Err(Error::NoMemory))));
    let several = |cookie| {
        let (one, two) =
            (error_chunk(cookie, 0, error::EIO, "", Some(8192)), error_chunk(cookie, 0, 1, "", Some(12287)));
        [one, two, done(cookie)].concat()
    };
    assert_eq!(read_outcome(true, several), Ok(Some(Err(Error::Io))), "the first is told");
    // An error of a type to come still is one.
    let unknown = |cookie| chunk_bytes(1, 0xffff, cookie, b"\0\0\0\x1c\0\x02no and more");
    assert_eq!(read_outcome(true, unknown), Ok(Some(Err(Error::NoSpace))));
    let zero = |cookie| error_chunk(cookie, 1, 0, "", None);
    assert_eq!(read_outcome(true, zero), Ok(Some(Err(Error::Invalid))));
}

#[test]
fn the_servers_words_are_kept_fit_to_be_shown() {
    let (mut pair, cookie) = reading(structured());
    let reply = error_chunk(cookie, 1, error::EIO, "disk \x07 on fire", None);
    feed(&mut pair.client, &reply, 1).expect("sound");
    assert_eq!(&**pair.client.remark(), "disk \u{fffd} on fire");
    let longest = |cookie| error_chunk(cookie, 1, error::EIO, &"x".repeat(4096), Some(8192));
    assert_eq!(read_outcome(true, longest), Ok(Some(Err(Error::Io))));
}

#[test]
fn error_values_keep_their_meaning() {
    let cases = [
        (error::EPERM, Error::NotPermitted),
        (error::EIO, Error::Io),
        (error::ENOMEM, Error::NoMemory),
        (error::EINVAL, Error::Invalid),
        (error::ENOSPC, Error::NoSpace),
        (error::ENOTSUP, Error::NotSupported),
        (2, Error::Invalid),
        (0xffff, Error::Invalid),
        (u32::MAX, Error::Invalid),
    ];
    for (code, meaning) in cases {
        for mut pair in [structured(), simple()] {
            for operation in [READ, WRITE, FUA, Operation::Trim { fua: false }] {
                assert_eq!(pair.run(operation, 0, 512, Shape::Error(code)), Err(meaning));
            }
            assert_eq!(pair.run(Operation::Flush, 0, 0, Shape::Error(code)), Err(meaning));
            assert_eq!(pair.run(WRITE, 0, 512, Shape::Plain), Ok(()), "the connection goes on");
            assert_eq!(pair.client.counters().errors, 5);
        }
    }
}

#[test]
fn a_failed_flush_is_reported_each_time_and_never_repeated_by_the_engine() {
    let mut pair = structured();
    assert_eq!(pair.run(Operation::Flush, 0, 0, Shape::Error(error::EIO)), Err(Error::Io));
    assert!(pair.send().is_empty());
    assert_eq!(pair.run(Operation::Flush, 0, 0, Shape::Plain), Ok(()));
    assert_eq!(pair.client.counters().commands, 2);
}

#[test]
fn replies_to_nothing_in_flight_end_the_connection() {
    let unknown = |fatal: Option<Fatal>| assert!(matches!(fatal, Some(Fatal::UnknownCookie(_))), "{fatal:?}");
    for bit in 0..64 {
        unknown(fatal(false, |cookie| simple_reply_bytes(0, cookie ^ 1 << bit)));
        unknown(fatal(true, |cookie| done(cookie ^ 1 << bit)));
    }
    unknown(fatal(false, |cookie| {
        [simple_reply_bytes(0, cookie), pattern(), simple_reply_bytes(0, cookie)].concat()
    }));
    unknown(fatal(true, |cookie| [hole(cookie, 1, 8192, 4096), done(cookie)].concat()));
    unknown(fatal(true, |cookie| [hole(cookie, 1, 8192, 4096), hole(cookie, 1, 8192, 1)].concat()));
    // A slot that is used again has another cookie.
    let (mut pair, cookie) = reading(structured());
    feed(&mut pair.client, &hole(cookie, 1, 8192, 4096), usize::MAX).expect("sound");
    assert!(pair.completion().is_some());
    pair.session.waiting.clear();
    for _ in 0..40 {
        pair.run(READ, 0, 512, Shape::Plain).expect("served");
    }
    assert_eq!(feed(&mut pair.client, &done(cookie), usize::MAX), Err(Fatal::UnknownCookie(cookie)));
    // And so has a connection.
    let (mut pair, cookie) = reading(structured());
    pair.connect(&Settings::default());
    pair.submit(2, READ, 8192, 4096);
    assert_ne!(pair.send()[0].cookie, cookie);
    assert_eq!(feed(&mut pair.client, &done(cookie), usize::MAX), Err(Fatal::UnknownCookie(cookie)));
}

#[test]
fn replies_before_the_request_was_sent_end_the_connection() {
    for (sent, payload) in [(0, 0), (27, 0), (28, 0), (28, 4095)] {
        let mut pair = structured();
        pair.submit(1, WRITE, 0, 4096);
        let cookie = commands(
            &pair.client.poll_transmit().expect("a header")[..28]
                .iter()
                .copied()
                .chain(core::iter::repeat_n(0, 4096))
                .collect::<Vec<_>>(),
        )[0]
        .cookie;
        pair.client.transmitted(Instant::ZERO, sent);
        pair.client.transmitted(Instant::ZERO, payload);
        let early = feed(&mut pair.client, &simple_reply_bytes(0, cookie), usize::MAX);
        assert_eq!(early, Err(Fatal::AnsweredTooEarly));
    }
}

#[test]
fn a_write_refused_before_it_was_sent_is_sent_to_its_end_and_then_completed() {
    let mut pair = structured();
    pair.submit(1, WRITE, 0, 4096);
    let header = pair.client.poll_transmit().expect("a header").to_vec();
    pair.client.transmitted(Instant::ZERO, 28);
    pair.client.transmitted(Instant::ZERO, 96);
    let cookie = crate::wire::u64_at(&header, 8);
    feed(&mut pair.client, &simple_reply_bytes(error::ENOSPC, cookie), usize::MAX)
        .expect("an error may be early");
    assert!(pair.completion().is_none(), "its buffer is still being sent");
    let again = feed(&mut pair.client, &simple_reply_bytes(error::ENOSPC, cookie), usize::MAX);
    assert_eq!(again, Err(Fatal::UnknownCookie(cookie)));

    let mut pair = structured();
    pair.submit(1, WRITE, 0, 4096);
    let header = pair.client.poll_transmit().expect("a header").to_vec();
    pair.client.transmitted(Instant::ZERO, 100);
    let cookie = crate::wire::u64_at(&header, 8);
    feed(&mut pair.client, &simple_reply_bytes(error::ENOSPC, cookie), usize::MAX)
        .expect("an error may be early");
    assert_eq!(drain(&mut pair.client).len(), 4096 + 28 - 100);
    assert_eq!(pair.completion().map(|completion| completion.result), Some(Err(Error::NoSpace)));
}

#[test]
fn what_was_not_agreed_on_ends_the_connection() {
    assert_eq!(fatal(true, |cookie| simple_reply_bytes(0, cookie)), Some(Fatal::SimpleReplyToRead));
    assert_eq!(fatal(true, |cookie| simple_reply_bytes(5, cookie)), Some(Fatal::SimpleReplyToRead));
    assert_eq!(fatal(false, done), Some(Fatal::UnexpectedStructuredReply));
    assert_eq!(fatal(false, |cookie| done(cookie)[..4].to_vec()), Some(Fatal::UnexpectedStructuredReply));
    for magic in [0, u32::MAX, crate::wire::REQUEST_MAGIC, 0x6e8a_278c] {
        let reply = |_| magic.to_be_bytes().to_vec();
        assert_eq!(fatal(true, reply), Some(Fatal::ReplyMagic(magic)));
        assert_eq!(fatal(false, reply), Some(Fatal::ReplyMagic(magic)));
    }
}

#[test]
fn chunks_outside_of_their_request_end_the_connection() {
    let outside = |offset: u64, length: u32| {
        let hole = fatal(true, |cookie| hole(cookie, 0, offset, length));
        if length < 100_000 {
            let bytes = vec![0; length as usize];
            // The header alone gives it away; the payload is not waited for.
            assert_eq!(fatal(true, |cookie| data(cookie, 0, offset, &bytes)[..28].to_vec()), hole);
        }
        hole
    };
    for (offset, length) in [
        (8191, 1),
        (8191, 2),
        (8192, 4097),
        (12287, 2),
        (12288, 1),
        (0, 4096),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (8192, u32::MAX),
    ] {
        assert_eq!(outside(offset, length), Some(Fatal::ChunkOutside), "{offset} {length}");
    }
    for offset in [8191, 12288, u64::MAX] {
        let error = fatal(true, |cookie| error_chunk(cookie, 1, error::EIO, "", Some(offset)));
        assert_eq!(error, Some(Fatal::ChunkOutside));
    }
}

#[test]
fn bytes_delivered_twice_end_the_connection() {
    for (first, second) in
        [((0, 4096), (0, 1)), ((0, 4096), (4095, 1)), ((512, 512), (0, 4096)), ((0, 100), (99, 2))]
    {
        let twice = |cookie| {
            let one = hole(cookie, 0, 8192 + first.0, first.1);
            [one, hole(cookie, 0, 8192 + second.0, second.1)].concat()
        };
        assert_eq!(fatal(true, twice), Some(Fatal::ChunkOverlap));
    }
}

#[test]
fn chunks_of_impossible_length_or_type_end_the_connection() {
    let header = |cookie: u64, flags: u16, kind: u16, length: u32| {
        let mut bytes = chunk_bytes(flags, kind, cookie, &[]);
        bytes[16..20].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let cases = [
        (chunk::NONE, 1),
        (chunk::NONE, u32::MAX),
        (chunk::OFFSET_DATA, 0),
        (chunk::OFFSET_DATA, 7),
        (chunk::OFFSET_DATA, 8),
        (chunk::OFFSET_HOLE, 0),
        (chunk::OFFSET_HOLE, 11),
        (chunk::OFFSET_HOLE, 13),
        (chunk::OFFSET_HOLE, u32::MAX),
        (chunk::ERROR, 0),
        (chunk::ERROR, 5),
        (chunk::ERROR, u32::MAX),
        (chunk::ERROR, 4096 + 15),
        (chunk::ERROR_OFFSET, 13),
        (chunk::ERROR_OFFSET, 4096 + 15),
        (0xffff, 5),
        (0xffff, u32::MAX),
    ];
    for (kind, length) in cases {
        let reply = |cookie| header(cookie, 1, kind, length);
        assert_eq!(fatal(true, reply), Some(Fatal::ChunkLength { kind, length }));
    }
    for kind in [3, 4, chunk::BLOCK_STATUS, 6, 0x7fff] {
        assert_eq!(fatal(true, |cookie| header(cookie, 1, kind, 12)), Some(Fatal::ChunkType(kind)));
    }
    assert_eq!(fatal(true, |cookie| header(cookie, 0, chunk::NONE, 0)), Some(Fatal::NoneNotDone));
    let empty_hole = Fatal::ChunkLength { kind: chunk::OFFSET_HOLE, length: 0 };
    assert_eq!(fatal(true, |cookie| hole(cookie, 1, 8192, 0)), Some(empty_hole));
    // A message that claims to be longer than its chunk.
    for (kind, payload) in [
        (chunk::ERROR, &b"\0\0\0\x05\0\x03ab"[..]),
        (chunk::ERROR, b"\0\0\0\x05\xff\xff"),
        (chunk::ERROR_OFFSET, b"\0\0\0\x05\0\x01\0\0\0\0\0\0\x20\0"),
        (0x8003, b"\0\0\0\x05\0\x01"),
    ] {
        let length = payload.len() as u32;
        let refused = fatal(true, |cookie| chunk_bytes(1, kind, cookie, payload));
        assert_eq!(refused, Some(Fatal::ChunkLength { kind, length }));
    }
}

#[test]
fn errors_without_end_and_disorder_without_end_end_the_connection() {
    let errors = |cookie| error_chunk(cookie, 0, error::EIO, "", Some(8192)).repeat(257);
    assert_eq!(fatal(true, errors), Some(Fatal::TooManyErrors));
    let disorder = |cookie| (0..513).flat_map(|index| hole(cookie, 0, 8192 + index * 2, 1)).collect();
    assert_eq!(fatal(true, disorder), Some(Fatal::TooFragmented));
}

#[test]
fn data_for_a_command_that_reads_nothing_ends_the_connection() {
    for operation in
        [WRITE, Operation::Flush, Operation::WriteZeroes { fua: false, no_hole: false, fast: false }]
    {
        for kind in [chunk::OFFSET_DATA, chunk::OFFSET_HOLE] {
            let mut pair = structured();
            let length = if operation == Operation::Flush { 0 } else { 512 };
            pair.submit(1, operation, 0, length);
            let cookie = pair.send()[0].cookie;
            let reply = chunk_bytes(0, kind, cookie, &[0; 12]);
            assert_eq!(feed(&mut pair.client, &reply, 1), Err(Fatal::ChunkType(kind)));
        }
    }
}

#[test]
fn commands_say_what_they_mean() {
    let mut pair = structured();
    let zeroes = |fua, no_hole| Operation::WriteZeroes { fua, no_hole, fast: false };
    let cases = [
        (READ, command::READ, 0),
        (WRITE, command::WRITE, 0),
        (FUA, command::WRITE, command_flag::FUA),
        (Operation::Flush, command::FLUSH, 0),
        (Operation::Trim { fua: false }, command::TRIM, 0),
        (Operation::Trim { fua: true }, command::TRIM, command_flag::FUA),
        (zeroes(false, false), command::WRITE_ZEROES, 0),
        (zeroes(true, false), command::WRITE_ZEROES, command_flag::FUA),
        (zeroes(false, true), command::WRITE_ZEROES, command_flag::NO_HOLE),
        (zeroes(true, true), command::WRITE_ZEROES, command_flag::FUA | command_flag::NO_HOLE),
        (Operation::Cache, command::CACHE, 0),
    ];
    for (operation, command, flags) in cases {
        let (offset, length) = if operation == Operation::Flush { (0, 0) } else { (4096, 512) };
        pair.submit(1, operation, offset, length);
        let sent = pair.send()[0];
        assert_eq!((sent.command, sent.flags, sent.offset), (command, flags, offset));
        assert_eq!(u64::from(sent.length), length);
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        pair.deliver().expect("sound");
        assert_eq!(pair.completion().map(|completion| completion.result), Some(Ok(())));
    }
    pair.session.assert_obeyed();
}

#[test]
fn what_the_export_cannot_do_is_answered_without_being_sent() {
    let flags = TransmissionFlags::HAS_FLAGS;
    let mut bare = Pair::new(&Settings { flags, ..Settings::default() }, SIZE);
    let zeroes = Operation::WriteZeroes { fua: false, no_hole: false, fast: false };
    for operation in [Operation::Flush, Operation::Trim { fua: false }, zeroes, Operation::Cache, FUA] {
        assert_eq!(bare.run(operation, 0, 512, Shape::Plain), Err(Error::NotSupported));
    }
    assert_eq!(bare.client.counters().commands, 0);
    let flags = TransmissionFlags(flags.0 | TransmissionFlags::READ_ONLY.0 | TransmissionFlags::SEND_TRIM.0);
    let mut locked = Pair::new(&Settings { flags, ..Settings::default() }, SIZE);
    for operation in [WRITE, FUA, Operation::Trim { fua: false }, zeroes] {
        assert_eq!(locked.run(operation, 0, 512, Shape::Plain), Err(Error::NotPermitted));
    }
    assert_eq!(locked.run(READ, 0, 512, Shape::Plain), Ok(()));
}

#[test]
fn senseless_ranges_are_answered_without_being_sent() {
    let mut pair = structured();
    let size = SIZE as u64;
    for (offset, length) in
        [(size, 512), (size - 512, 1024), (1, 512), (0, 511), (u64::MAX - 511, 512), (u64::MAX, 512)]
    {
        assert_eq!(pair.run(READ, offset, length, Shape::Plain), Err(Error::Invalid));
        let trim = Operation::Trim { fua: false };
        assert_eq!(pair.run(trim, offset, length, Shape::Plain), Err(Error::Invalid));
    }
    for length in [512, 1536] {
        let mut request = pair.request(5, WRITE, 0, 1024);
        request.length = length;
        pair.client.submit(Instant::ZERO, request).expect("taken");
        let completion = pair.completion().expect("at once");
        assert_eq!((completion.result, completion.cookie), (Err(Error::Invalid), 5));
        assert!(completion.buffer.is_some(), "the buffer comes back");
    }
    let request = Request { cookie: 6, operation: READ, offset: 0, length: 512, buffer: None };
    pair.client.submit(Instant::ZERO, request).expect("taken");
    assert_eq!(pair.completion().map(|completion| completion.result), Some(Err(Error::Invalid)));
    assert_eq!(pair.run(Operation::Cache, size, 0, Shape::Plain), Ok(()), "nothing to do");
    assert_eq!(pair.client.counters().commands, 0);
}

#[test]
fn long_requests_are_cut_and_become_one_completion() {
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 1536 };
    for structured in [true, false] {
        let settings = Settings { block_sizes: Some(sizes), structured, ..Settings::default() };
        let limits = Limits { max_range: 2000, ..Limits::DEFAULT };
        let mut pair = Pair::with_limits(&settings, SIZE, &limits);
        pair.submit(1, FUA, 512, 8192);
        let mut sent = pair.send();
        assert_eq!(sent.len(), 4, "so many at once");
        while sent.len() < 6 {
            // Answered in the order that is least expected.
            let last = pair.session.waiting.len() - 1;
            pair.session.execute(&mut pair.disk, last, Shape::Plain);
            pair.deliver().expect("sound");
            assert!(pair.completion().is_none());
            sent.extend(pair.send());
        }
        assert!(sent.iter().all(|request| request.flags == command_flag::FUA));
        let ranges: Vec<_> = sent.iter().map(|request| (request.offset, request.length)).collect();
        let expected = [(512, 1536), (2048, 1536), (3584, 1536), (5120, 1536), (6656, 1536), (8192, 512)];
        assert_eq!(ranges, expected);
        while !pair.session.waiting.is_empty() {
            pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        }
        pair.deliver().expect("sound");
        assert_eq!(pair.completion().map(|completion| completion.result), Some(Ok(())));
        assert!(pair.disk.durable()[512..8704].iter().all(|&byte| byte == 1));
        pair.submit(2, READ, 0, 9216);
        loop {
            pair.send();
            while !pair.session.waiting.is_empty() {
                pair.session.execute(&mut pair.disk, 0, Shape::Pieces(3));
            }
            pair.deliver().expect("sound");
            if let Some(completion) = pair.completion() {
                assert_eq!(completion.result, Ok(()));
                assert_eq!(*completion.buffer.expect("back"), pair.disk.content()[..9216]);
                break;
            }
        }
        pair.run(Operation::WriteZeroes { fua: false, no_hole: false, fast: false }, 0, 8192, Shape::Plain)
            .expect("done");
        assert!(pair.disk.content()[..8192].iter().all(|&byte| byte == 0));
        pair.session.assert_obeyed();
    }
}

#[test]
fn the_first_error_of_any_part_is_the_requests_and_no_more_parts_are_sent() {
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 512 };
    let mut pair = Pair::new(&Settings { block_sizes: Some(sizes), ..Settings::default() }, SIZE);
    pair.submit(1, WRITE, 0, 8192);
    assert_eq!(pair.send().len(), 4);
    for shape in [Shape::Plain, Shape::Error(error::ENOSPC), Shape::Error(error::EIO)] {
        pair.session.execute(&mut pair.disk, 0, shape);
    }
    pair.deliver().expect("sound");
    assert!(pair.completion().is_none(), "one is still in flight");
    assert!(pair.send().len() <= 1, "the one that was due before the error");
    while !pair.session.waiting.is_empty() {
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    }
    pair.deliver().expect("sound");
    assert_eq!(pair.completion().map(|completion| completion.result), Some(Err(Error::NoSpace)));
    assert!(pair.send().is_empty());
    assert_eq!(pair.client.free_slots(), Limits::DEFAULT.slots);
}

#[test]
fn a_long_request_lets_its_neighbours_pass() {
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 512 };
    let mut pair = Pair::new(&Settings { block_sizes: Some(sizes), ..Settings::default() }, SIZE);
    pair.submit(1, WRITE, 0, 65536);
    pair.submit(2, READ, 131_072, 512);
    let sent = pair.send();
    assert!(sent[..2].iter().any(|request| request.command == command::READ));
}

#[test]
fn too_much_at_once_is_sent_again_in_pieces() {
    let limits = Limits { max_range: 65536, ..Limits::DEFAULT };
    let mut pair = Pair::with_limits(&Settings::default(), SIZE, &limits);
    for operation in [WRITE, READ, Operation::Trim { fua: true }] {
        pair.submit(7, operation, 4096, 65536);
        let completion = loop {
            pair.send();
            while let Some(waiting) = pair.session.waiting.first() {
                let long = waiting.request.length > 10_000;
                let shape = if long { Shape::Error(error::EOVERFLOW) } else { Shape::Plain };
                pair.session.execute(&mut pair.disk, 0, shape);
            }
            pair.deliver().expect("sound");
            if let Some(completion) = pair.completion() {
                break completion;
            }
        };
        assert_eq!(completion.result, Ok(()));
        match operation {
            WRITE => assert!(pair.disk.content()[4096..69632].iter().all(|&byte| byte == 7)),
            READ => assert_eq!(*completion.buffer.expect("back"), pair.disk.content()[4096..69632]),
            _ => assert!(pair.disk.durable()[4096..69632].iter().all(|&byte| byte == 0xdd)),
        }
    }
    let again = pair.client.counters().split_again;
    assert_eq!(pair.run(WRITE, 0, 65536, Shape::Plain), Ok(()));
    assert_eq!(pair.client.counters().split_again, again, "the engine has learnt");
    assert_eq!(pair.run(WRITE, 0, 512, Shape::Error(error::EOVERFLOW)), Err(Error::Invalid));
    pair.session.assert_obeyed();
}

#[test]
fn einval_for_a_range_longer_than_any_payload_means_too_much_as_well() {
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 4096 };
    let mut pair = Pair::new(&Settings { block_sizes: Some(sizes), ..Settings::default() }, SIZE);
    pair.submit(1, Operation::WriteZeroes { fua: false, no_hole: false, fast: false }, 0, 65536);
    let completion = loop {
        pair.send();
        while let Some(waiting) = pair.session.waiting.first() {
            let long = waiting.request.length > 4096;
            pair.session.execute(
                &mut pair.disk,
                0,
                if long { Shape::Error(error::EINVAL) } else { Shape::Plain },
            );
        }
        pair.deliver().expect("sound");
        if let Some(completion) = pair.completion() {
            break completion;
        }
    };
    assert_eq!(completion.result, Ok(()));
    assert_eq!(pair.run(WRITE, 0, 4096, Shape::Error(error::EINVAL)), Err(Error::Invalid));
}

#[test]
fn without_fua_a_flush_follows_when_all_parts_are_answered() {
    let flags = TransmissionFlags(Settings::default().flags.0 & !TransmissionFlags::SEND_FUA.0);
    let sizes = BlockSizes { minimum: 512, preferred: 512, maximum: 512 };
    let settings = Settings { flags, block_sizes: Some(sizes), ..Settings::default() };
    let mut pair = Pair::new(&settings, SIZE);
    pair.submit(1, FUA, 0, 1024);
    assert_eq!(
        pair.send().iter().map(|request| (request.command, request.flags)).collect::<Vec<_>>(),
        [(1, 0); 2]
    );
    pair.session.execute(&mut pair.disk, 1, Shape::Plain);
    pair.deliver().expect("sound");
    assert!(pair.send().is_empty(), "a part is still unanswered");
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    assert!(pair.completion().is_none(), "written, but not durable");
    let flush = pair.send();
    assert_eq!((flush.len(), flush[0].command, flush[0].offset, flush[0].length), (1, command::FLUSH, 0, 0));
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    assert_eq!(pair.completion().map(|completion| completion.result), Some(Ok(())));
    assert!(pair.disk.durable()[..1024].iter().all(|&byte| byte == 1));
    assert_eq!(pair.run(Operation::Trim { fua: true }, 0, 512, Shape::Error(error::EIO)), Err(Error::Io));
    pair.session.assert_obeyed();
}

#[test]
fn success_in_the_reverse_order_completes_each_request_once() {
    let mut pair = structured();
    for cookie in 0..32 {
        pair.submit(cookie, WRITE, cookie * 4096, 4096);
    }
    assert!(pair.client.free_slots() == 0);
    let refused = pair.request(99, READ, 0, 512);
    let refused = pair.client.submit(Instant::ZERO, refused).expect_err("no slot is free");
    assert!(refused.buffer.is_some());
    pair.send();
    for index in (0..32).rev() {
        pair.session.execute(&mut pair.disk, index, Shape::Pieces(index as u64));
    }
    pair.deliver().expect("sound");
    for cookie in (0..32).rev() {
        let completion = pair.completion().expect("one for each");
        assert_eq!((completion.cookie, completion.result), (cookie, Ok(())));
    }
    assert!(pair.completion().is_none());
    assert_eq!(pair.client.free_slots(), 32);
    for cookie in 0..32 {
        assert_eq!(pair.disk.content()[cookie * 4096 + 4095], cookie as u8);
    }
}

/// What a client makes of a stream of replies: what the reads brought, or why it ended.
fn made_of(bytes: &[u8], pieces: usize, lent: bool) -> (Vec<(u64, Vec<u8>)>, Option<Fatal>) {
    let mut pair = Pair::new(&Settings::default(), 1 << 20);
    for cookie in 0..4 {
        pair.submit(cookie, Operation::Read, cookie * 4096, 4096);
    }
    pair.send();
    let mut fatal = None;
    for piece in bytes.chunks(pieces) {
        let taken = if lent {
            let mut rest = piece;
            while !rest.is_empty() && fatal.is_none() {
                match pair.client.take(Instant::ZERO, rest, &mut ()) {
                    Ok(count) => rest = &rest[count..],
                    Err(reason) => fatal = Some(reason),
                }
            }
            fatal.map_or(Ok(()), Err)
        } else {
            super::feed(&mut pair.client, piece, usize::MAX)
        };
        fatal = taken.err();
        if fatal.is_some() {
            break;
        }
    }
    let completions = core::iter::from_fn(|| pair.completion());
    let read = completions.map(|completion| {
        let buffer = completion.buffer.expect("a buffer");
        (completion.cookie, buffer.to_vec())
    });
    (read.collect(), fatal)
}

#[test]
fn bytes_that_are_lent_mean_the_same_as_bytes_that_were_asked_for() {
    let mut pair = Pair::new(&Settings::default(), 1 << 20);
    for cookie in 0..4 {
        pair.submit(cookie, Operation::Read, cookie * 4096, 4096);
    }
    pair.send();
    for shape in [Shape::Plain, Shape::Pieces(7), Shape::Error(5), Shape::Pieces(8)] {
        pair.session.execute(&mut pair.disk, 0, shape);
    }
    let sound = pair.session.output;
    let mut twice = sound.clone();
    twice.extend_from_slice(&sound[..28 + 4096]);
    let mut broken = sound.clone();
    broken[28 + 4096] ^= 1;
    for stream in [sound, twice, broken] {
        let expected = made_of(&stream, usize::MAX, false);
        assert!(!expected.0.is_empty());
        for pieces in [1, 3, 27, 28, 29, 4096, 5000, usize::MAX] {
            assert_eq!(made_of(&stream, pieces, true), expected, "in pieces of {pieces}");
        }
    }
}

#[test]
fn several_commands_are_put_into_the_room_together() {
    let mut pair = Pair::new(&Settings::default(), 1 << 20);
    for cookie in 0..8 {
        let operation = if cookie == 3 { Operation::Write { fua: false } } else { Operation::Read };
        pair.submit(cookie, operation, cookie * 4096, 4096);
    }
    let mut room = vec![0; 8 * 28 + 4096 + 100];
    // The room may end anywhere.
    let first = pair.client.fill(Instant::ZERO, &mut room[..100]);
    let second = pair.client.fill(Instant::ZERO, &mut room[100..]);
    assert_eq!((first, second), (100, 8 * 28 + 4096 - 100));
    assert_eq!(super::commands(&room[..first + second]).len(), 8);
    pair.session.receive(&room[..first + second]);
    assert_eq!(pair.session.waiting.len(), 8);
    assert!(pair.client.poll_transmit().is_none());
}
