//! BLOCK_STATUS: what its replies make of the request's buffer, in either form, and what they must not be.

use super::{Pair, STATUS, drain, feed};
use crate::testing::{Medium, Settings, Shape, chunk_bytes, extended_chunk_bytes};
use crate::wire::{EXTENDED_HEADER, ExtendedRequest, chunk, command, command_flag, error};
use crate::{Fatal, Limits, TransmissionFlags};
use storage_block::{Error, Extent, Operation, Request};

const SIZE: usize = 1 << 20;
const OFFSET: u64 = 8192;
const LENGTH: u64 = 65536;
/// The number that the other end gives to `base:allocation`.
const NUMBER: u32 = 7;

fn pair(extended: bool) -> Pair {
    Pair::new(&Settings { extended, ..Settings::default() }, SIZE)
}

/// A pair that asks for the extents of `OFFSET..OFFSET + LENGTH`, and the cookie on the wire.
fn asking(extended: bool) -> (Pair, u64) {
    let mut pair = pair(extended);
    pair.submit(1, Operation::Status, OFFSET, LENGTH);
    let sent = pair.send();
    assert_eq!((sent[0].command, sent[0].flags), (command::BLOCK_STATUS, 0));
    (pair, sent[0].cookie)
}

fn extent(length: u64, state: u64) -> Extent {
    Extent { length, hole: state & 1 != 0, zero: state & 2 != 0 }
}

/// A chunk of extents of the context with this number.
fn extents(extended: bool, cookie: u64, flags: u16, number: u32, extents: &[(u64, u64)]) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    if extended {
        payload.extend((extents.len() as u32).to_be_bytes());
    }
    for &(length, state) in extents {
        if extended {
            payload.extend([length.to_be_bytes(), state.to_be_bytes()].concat());
        } else {
            payload.extend([(length as u32).to_be_bytes(), (state as u32).to_be_bytes()].concat());
        }
    }
    raw(extended, cookie, flags, &payload)
}

fn raw(extended: bool, cookie: u64, flags: u16, payload: &[u8]) -> Vec<u8> {
    if extended {
        extended_chunk_bytes(flags, chunk::BLOCK_STATUS_EXT, cookie, OFFSET, payload)
    } else {
        chunk_bytes(flags, chunk::BLOCK_STATUS, cookie, payload)
    }
}

type Outcome = Result<Option<Result<Vec<Extent>, Error>>, Fatal>;

/// What a reply leads to; the same whole and in pieces.
fn outcome(extended: bool, reply: impl Fn(u64) -> Vec<u8>) -> Outcome {
    let outcome = |step| {
        let (mut pair, cookie) = asking(extended);
        feed(&mut pair.client, &reply(cookie), step)?;
        Ok(pair.completion().map(|completion| {
            let buffer = completion.buffer.expect("it comes back");
            completion.result.map(|()| Extent::all(&buffer).collect())
        }))
    };
    let whole = outcome(usize::MAX);
    for step in [1, 7] {
        assert_eq!(whole, outcome(step), "the outcome depends on how the bytes came");
    }
    whole
}

/// What extents of the right context, all in one chunk, lead to.
fn told(extended: bool, list: &[(u64, u64)]) -> Outcome {
    outcome(extended, |cookie| extents(extended, cookie, chunk::FLAG_DONE, NUMBER, list))
}

#[test]
fn extents_come_in_the_requests_buffer() {
    for extended in [false, true] {
        let list = [(4096, 0), (8192, 3), (4096, 1), (49152, 2)];
        let expected = list.map(|(length, state)| extent(length, state)).to_vec();
        assert_eq!(told(extended, &list), Ok(Some(Ok(expected))));
        // They may end short, and the last may reach beyond.
        assert_eq!(told(extended, &[(512, 0)]), Ok(Some(Ok(vec![extent(512, 0)]))));
        assert_eq!(told(extended, &[(1 << 31, 3)]), Ok(Some(Ok(vec![extent(1 << 31, 3)]))));
        // Flags of the future are of no interest.
        assert_eq!(told(extended, &[(512, 0xfffe)]), Ok(Some(Ok(vec![extent(512, 2)]))));
    }
    assert_eq!(told(true, &[(1 << 40, 3)]), Ok(Some(Ok(vec![extent(1 << 40, 3)]))), "more than 32 bits");
}

#[test]
fn equal_neighbours_are_one_and_what_does_not_fit_is_left_out() {
    for extended in [false, true] {
        let halves = [(512, 0), (512, 0), (512, 3), (512, 3), (512, 3)];
        assert_eq!(told(extended, &halves), Ok(Some(Ok(vec![extent(1024, 0), extent(1536, 3)]))));
        let many: Vec<_> = (0..100).map(|index| (512, index % 2)).collect();
        let first: Vec<_> = (0..8).map(|index| extent(512, index % 2)).collect();
        assert_eq!(first.len() * Extent::SIZE, STATUS);
        assert_eq!(told(extended, &many), Ok(Some(Ok(first))));
        // What begins behind the range was not asked for.
        assert_eq!(told(extended, &[(LENGTH, 0), (512, 3)]), Ok(Some(Ok(vec![extent(LENGTH, 0)]))));
        // More than is looked at together.
        let alternating: Vec<_> = (0..5000).map(|index| (4, index % 2)).collect();
        assert!(matches!(told(extended, &alternating), Ok(Some(Ok(list))) if list.len() == 8));
    }
    let huge = [(u64::MAX, 0), (u64::MAX, 0)];
    assert_eq!(told(true, &huge), Ok(Some(Ok(vec![extent(u64::MAX, 0)]))));
    let together = [(LENGTH - 1, 0), (u64::MAX, 0)];
    assert_eq!(told(true, &together), Ok(Some(Ok(vec![extent(u64::MAX, 0)]))), "a sum beyond all bounds");
}

#[test]
fn extents_that_cannot_be_end_the_connection() {
    for extended in [false, true] {
        assert_eq!(told(extended, &[(512, 0), (0, 3)]), Err(Fatal::EmptyExtent));
        let wrong = |cookie| extents(extended, cookie, 0, 8, &[(512, 0)]);
        assert_eq!(outcome(extended, wrong), Err(Fatal::ExtentContext(8)));
        let twice = |cookie| extents(extended, cookie, 0, NUMBER, &[(512, 0)]).repeat(2);
        assert_eq!(outcome(extended, twice), Err(Fatal::ExtentContext(NUMBER)));
        let kind = if extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
        let lengths: &[u32] =
            if extended { &[0, 4, 7, 8, 16, 23, 25, 32] } else { &[0, 3, 4, 8, 11, 13, 19] };
        for &length in lengths {
            let reply = |cookie| raw(extended, cookie, 0, &vec![0; length as usize]);
            assert_eq!(outcome(extended, reply), Err(Fatal::ChunkLength { kind, length }));
        }
        // More than a server may send, refused by its header alone.
        let (mut pair, cookie) = asking(extended);
        let (at, length) =
            if extended { (28, 8 + 16 * ((1 << 20) + 1)) } else { (16, 4 + 8 * ((1 << 20) + 1)) };
        let mut reply = raw(extended, cookie, 0, &[]);
        reply[at..at + 4].copy_from_slice(&u32::to_be_bytes(length));
        let refused = feed(&mut pair.client, &reply, usize::MAX);
        assert_eq!(refused, Err(Fatal::ChunkLength { kind, length }));
    }
    let miscounted = |cookie| {
        let payload = [&NUMBER.to_be_bytes()[..], &2u32.to_be_bytes(), &[0, 0, 0, 0, 0, 0, 2, 0], &[0; 8]];
        raw(true, cookie, 0, &payload.concat())
    };
    assert_eq!(outcome(true, miscounted), Err(Fatal::ExtentCount { given: 2, held: 1 }));
}

#[test]
fn extents_are_only_for_who_asked_and_in_the_form_agreed_on() {
    let narrow = |cookie| extended_chunk_bytes(0, chunk::BLOCK_STATUS, cookie, OFFSET, &[0; 12]);
    assert_eq!(outcome(true, narrow), Err(Fatal::ChunkType(chunk::BLOCK_STATUS)));
    let wide = |cookie| chunk_bytes(0, chunk::BLOCK_STATUS_EXT, cookie, &[0; 24]);
    assert_eq!(outcome(false, wide), Err(Fatal::ChunkType(chunk::BLOCK_STATUS_EXT)));
    let data = |cookie| chunk_bytes(0, chunk::OFFSET_DATA, cookie, &[0; 24]);
    assert_eq!(outcome(false, data), Err(Fatal::ChunkType(chunk::OFFSET_DATA)));
    let mut pair = pair(false);
    pair.submit(1, Operation::Read, 0, 512);
    let cookie = pair.send()[0].cookie;
    let reply = extents(false, cookie, 0, NUMBER, &[(512, 0)]);
    assert_eq!(feed(&mut pair.client, &reply, usize::MAX), Err(Fatal::ChunkType(chunk::BLOCK_STATUS)));
}

#[test]
fn a_success_without_extents_is_none() {
    let none = |cookie| chunk_bytes(chunk::FLAG_DONE, chunk::NONE, cookie, &[]);
    assert_eq!(outcome(false, none), Ok(Some(Err(Error::Io))));
    let simple = |cookie| crate::testing::simple_reply_bytes(0, cookie);
    assert_eq!(outcome(false, simple), Ok(Some(Err(Error::Io))));
    let refused = |cookie| crate::testing::simple_reply_bytes(error::EPERM, cookie);
    assert_eq!(outcome(false, refused), Ok(Some(Err(Error::NotPermitted))));
    // An error after extents makes them worth nothing.
    let late = |cookie| {
        let error = chunk_bytes(chunk::FLAG_DONE, chunk::ERROR, cookie, &[0, 0, 0, 5, 0, 0]);
        [extents(false, cookie, 0, NUMBER, &[(512, 0)]), error].concat()
    };
    assert_eq!(outcome(false, late), Ok(Some(Err(Error::Io))));
}

#[test]
fn other_contexts_are_told_of_beside_it_in_any_order() {
    let settings = |extended| Settings {
        extended,
        incarnation: Some("1".to_string()),
        fencing: true,
        ..Settings::default()
    };
    let writer = crate::Writer { generation: 1, owner: "a" };
    let known = crate::Settings { writer: Some(writer), ..crate::Settings::of("disk") };
    for extended in [false, true] {
        let client = crate::Client::new(&Limits::DEFAULT, known).expect("sound");
        let mut pair = Pair::with_client(client, &settings(extended), SIZE);
        assert!(pair.client.export().is_some_and(|export| export.fenced));
        for seed in 0..40 {
            assert_eq!(pair.run(Operation::Status, 0, LENGTH, Shape::Pieces(seed)), Ok(()), "{seed}");
        }
    }
}

#[test]
fn only_the_wanted_context_is_asked_about_where_the_server_can() {
    let flags = TransmissionFlags(Settings::default().flags.0 | TransmissionFlags::BLOCK_STATUS_PAYLOAD.0);
    let incarnation = Some("1".to_string());
    let settings = Settings { extended: true, incarnation, flags, ..Settings::default() };
    let mut pair = Pair::new(&settings, SIZE);
    for seed in 0..8 {
        pair.submit(1, Operation::Status, OFFSET, LENGTH);
        let said = drain(&mut pair.client);
        assert_eq!(said.len(), EXTENDED_HEADER + 12);
        let header = said.first_chunk().and_then(ExtendedRequest::read).expect("a request");
        assert_eq!((header.flags, header.offset, header.length), (command_flag::PAYLOAD_LEN, OFFSET, 12));
        assert_eq!(said[EXTENDED_HEADER..], [&LENGTH.to_be_bytes()[..], &NUMBER.to_be_bytes()].concat());
        // In pieces as well: what was begun is sent to its end.
        for byte in said {
            pair.session.receive(&[byte]);
        }
        pair.session.execute(&mut pair.disk, 0, Shape::Pieces(seed));
        pair.deliver().expect("sound");
        assert_eq!(pair.completion().map(|completion| completion.result), Some(Ok(())));
        pair.session.assert_obeyed();
    }
    // With one context there is nothing to choose, and without extended headers no way to say so.
    for (extended, incarnation) in [(true, None), (false, Some("1".to_string()))] {
        let mut pair = Pair::new(&Settings { extended, incarnation, ..settings.clone() }, SIZE);
        pair.submit(1, Operation::Status, OFFSET, LENGTH);
        assert_eq!(pair.send()[0].flags, 0);
    }
}

#[test]
fn what_the_disk_has_allocated_is_told_as_it_is() {
    for extended in [false, true] {
        let mut pair = pair(extended);
        let (fua, no_hole) = (false, true);
        assert_eq!(pair.run(Operation::Write { fua }, 4096, 8192, Shape::Plain), Ok(()));
        let zeroes = Operation::WriteZeroes { fua, no_hole, fast: false };
        assert_eq!(pair.run(zeroes, 12288, 4096, Shape::Plain), Ok(()));
        let mut expected = Vec::new();
        pair.disk.status(0, SIZE as u64, &mut expected).expect("inside");
        assert_eq!(expected.len(), 4);
        // Whatever pieces it is told in, asking on from where it ended tells all of it.
        for seed in 0..20 {
            let mut all: Vec<Extent> = Vec::new();
            let mut at = 0;
            while at < SIZE as u64 {
                pair.submit(1, Operation::Status, at, SIZE as u64 - at);
                pair.send();
                pair.session.execute(&mut pair.disk, 0, Shape::Pieces(seed));
                pair.deliver().expect("sound");
                let buffer = pair.completion().expect("done").buffer.expect("it comes back");
                assert!(!buffer.is_empty() && buffer.len().is_multiple_of(Extent::SIZE));
                for extent in Extent::all(&buffer) {
                    at += extent.length;
                    match all.last_mut() {
                        Some(last) if (last.hole, last.zero) == (extent.hole, extent.zero) => {
                            last.length += extent.length;
                        }
                        _ => all.push(extent),
                    }
                }
            }
            assert_eq!(all, expected);
        }
        pair.session.assert_obeyed();
    }
}

#[test]
fn with_room_for_one_extent_only_one_is_asked_for() {
    let mut pair = pair(false);
    let one = |room: usize| {
        let buffer = super::share().take(room);
        Request { cookie: 1, operation: Operation::Status, offset: 0, length: 4096, buffer }
    };
    pair.client.submit(super::at(0), one(2 * Extent::SIZE - 1)).expect("a slot");
    let sent = pair.send();
    assert_eq!(sent[0].flags, command_flag::REQ_ONE);
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    let buffer = pair.completion().expect("done").buffer.expect("it comes back");
    assert_eq!(Extent::all(&buffer).collect::<Vec<_>>(), [extent(4096, 3)]);
    pair.session.assert_obeyed();
    let outcome = |request: Request| {
        let mut pair = self::pair(false);
        pair.client.submit(super::at(0), request).expect("a slot");
        pair.completion().map(|completion| completion.result)
    };
    assert_eq!(outcome(one(Extent::SIZE - 1)), Some(Err(Error::Invalid)));
    assert_eq!(outcome(Request { buffer: None, ..one(64) }), Some(Err(Error::Invalid)));
    assert_eq!(outcome(Request { length: 0, ..one(64) }), Some(Err(Error::Invalid)));
    assert_eq!(outcome(Request { offset: SIZE as u64, ..one(64) }), Some(Err(Error::Invalid)));
}

#[test]
fn without_the_context_nothing_is_asked() {
    for settings in [
        Settings { allocation: false, ..Settings::default() },
        Settings { structured: false, ..Settings::default() },
    ] {
        let mut pair = Pair::new(&settings, SIZE);
        assert!(!pair.client.export().expect("an export").geometry.status);
        assert_eq!(pair.run(Operation::Status, 0, 512, Shape::Plain), Err(Error::NotSupported));
    }
}

#[test]
fn a_range_too_long_is_asked_about_in_part_and_one_refused_by_half() {
    let limits = Limits { max_range: 4096, ..Limits::DEFAULT };
    let mut pair = Pair::with_limits(&Settings::default(), SIZE, &limits);
    pair.submit(1, Operation::Status, 0, LENGTH);
    assert_eq!(pair.send()[0].length, 4096);
    pair.session.execute(&mut pair.disk, 0, Shape::Error(error::EOVERFLOW));
    pair.deliver().expect("sound");
    assert_eq!(pair.send()[0].length, 2048);
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    pair.deliver().expect("sound");
    let buffer = pair.completion().expect("the first part is all that is told").buffer;
    assert_eq!(Extent::all(&buffer.expect("it comes back")).collect::<Vec<_>>(), [extent(2048, 3)]);
    pair.session.assert_obeyed();
}
