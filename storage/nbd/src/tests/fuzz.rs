//! Hostile streams from seeds: whatever arrives, the engine neither panics nor hangs nor loses a request.

use super::{Pair, Random, drain};
use crate::testing::{Encryption, Settings, Shape, extended_chunk_bytes};
use crate::{Client, Event, Limits, Listing, Probe, Tls, TransmissionFlags, Writer, wire};
use core::time::Duration;
use kernel_runtime::Instant;
use storage_block::Operation;

const SIZE: usize = 1 << 16;

fn limits() -> Limits {
    Limits { slots: 8, ..Limits::DEFAULT }
}

/// A service in one of its many forms.
fn random_settings(random: &mut Random) -> Settings {
    let further = [TransmissionFlags::SEND_FAST_ZERO, TransmissionFlags::BLOCK_STATUS_PAYLOAD];
    let flags = Settings::default().flags.0 | further[0].0 | further[random.below(2)].0;
    Settings {
        structured: random.below(4) != 0,
        extended: random.below(2) == 0,
        fencing: random.below(2) == 0,
        incarnation: (random.below(2) == 0).then(|| "1".to_string()),
        refuses_unknown_contexts: random.below(4) == 0,
        fast_zero: random.below(2) == 0,
        flags: TransmissionFlags(flags),
        ..Settings::default()
    }
}

fn random_client(random: &mut Random, tls: Tls) -> Client {
    let writer = (random.below(2) == 0).then_some(Writer { generation: 1, owner: "a" });
    let settings = crate::Settings { tls, writer, ..crate::Settings::of("disk") };
    Client::new(&limits(), settings).expect("sound limits")
}

fn random_operation(random: &mut Random) -> Operation {
    let fua = random.below(4) == 0;
    match random.below(10) {
        0 => Operation::Flush,
        1 => Operation::Trim { fua },
        2 => Operation::WriteZeroes { fua, no_hole: fua, fast: random.below(2) == 0 },
        3 => Operation::Cache,
        8 | 9 => Operation::Status,
        4 | 5 => Operation::Write { fua },
        _ => Operation::Read,
    }
}

fn submit_some(pair: &mut Pair, random: &mut Random, cookie: &mut u64) {
    for _ in 0..random.below(6) {
        let operation = random_operation(random);
        let (offset, length) = (random.below(SIZE / 512 + 1) * 512, random.below(20) * 512);
        let request = pair.request(*cookie, operation, offset as u64, length as u64);
        if pair.client.submit(Instant::ZERO, request).is_ok() {
            *cookie += 1;
        }
    }
}

/// Feed bytes until they end or the engine gives up; every completion is counted.
fn feed_hostile(client: &mut Client, bytes: &[u8], random: &mut Random, ended: &mut u64) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        if random.below(2) == 0 {
            let count = rest.len().min(1 + random.below(300));
            match client.take(Instant::ZERO, &rest[..count], &mut ()) {
                // Where TLS is to be set up it ends early.
                Ok(taken) => rest = &rest[if client.wants_tls() { count } else { taken }..],
                Err(_) => return false,
            }
        } else {
            let space = client.space();
            assert!(!space.is_empty());
            let count = space.len().min(rest.len()).min(1 + random.below(64));
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if client.received(Instant::ZERO, count).is_err() {
                return false;
            }
        }
        while let Some(event) = client.poll_event() {
            *ended += u64::from(matches!(event, Event::Completed(_)));
        }
    }
    true
}

/// Change some bytes, or repeat, drop or insert some.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => {
                let end = bytes.len().min(at + random.below(40));
                bytes.drain(at..end);
            }
            3 => {
                let end = bytes.len().min(at + random.below(40));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill(0xff);
            }
            _ => bytes.truncate(at),
        }
    }
}

#[test]
fn noise_in_place_of_a_handshake_is_refused() {
    for seed in super::seeds(3000) {
        let mut random = Random::new(seed);
        let mut client = random_client(&mut random, [Tls::Off, Tls::Required][seed as usize % 2]);
        client.connected(Instant::ZERO);
        // A right beginning takes the noise further in.
        let mut bytes = wire::GREETING_MAGIC.to_be_bytes().to_vec();
        bytes.extend(wire::OPTION_MAGIC.to_be_bytes());
        bytes.extend([0, 3]);
        bytes.truncate([0, 8, 16, 18, 18, 18][random.below(6)]);
        if bytes.len() == 18 && random.below(2) == 0 {
            bytes.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
            bytes.extend(wire::option::EXTENDED_HEADERS.to_be_bytes());
        }
        bytes.extend((0..random.below(300)).map(|_| random.next() as u8));
        feed_hostile(&mut client, &bytes, &mut random, &mut 0);
        assert!(!client.is_ready());
        drain(&mut client);
    }
}

#[test]
fn a_mutated_handshake_leads_to_an_export_that_makes_sense_or_to_none() {
    let mut ready = 0;
    for seed in super::seeds(6000) {
        let mut random = Random::new(seed);
        let tls = random.below(4) == 0;
        let settings = Settings {
            go: random.below(4) != 0,
            no_zeroes: random.below(2) == 0,
            tls: if tls { Encryption::Required } else { Encryption::Off },
            ..random_settings(&mut random)
        };
        let disk = crate::testing::Disk::new(SIZE);
        let mut session = crate::testing::Session::new(&settings, &disk);
        let mut client = random_client(&mut random, if tls { Tls::Required } else { Tls::Off });
        client.connected(Instant::ZERO);
        for _ in 0..12 {
            let mut bytes = core::mem::take(&mut session.output);
            if random.below(3) == 0 {
                mutate(&mut bytes, &mut random);
            }
            if !feed_hostile(&mut client, &bytes, &mut random, &mut 0) || client.is_ready() {
                break;
            }
            if client.wants_tls() {
                client.tls_established(Instant::ZERO);
                session.tls_established();
            }
            session.receive(&drain(&mut client));
            session.fence(random.below(8) != 0);
        }
        if client.is_ready() {
            assert_eq!(client.export().expect("an export").tls, tls, "seed {seed}");
            ready += 1;
            let geometry = client.export().expect("an export").geometry;
            assert!(geometry.size > 0 && geometry.size < 1 << 63);
            assert!(geometry.size.is_multiple_of(u64::from(geometry.block_size)));
            assert!(geometry.block_size == 512 || geometry.block_size == 4096);
            assert!(geometry.max_transfer >= geometry.block_size && geometry.max_transfer <= 32 << 20);
        }
    }
    assert!(ready > 500, "{ready}");
}

#[test]
fn mutated_replies_never_lose_a_request_and_never_answer_one_twice() {
    for seed in super::seeds(4000) {
        let mut random = Random::new(seed);
        let settings = random_settings(&mut random);
        let mut pair = Pair::with_client(random_client(&mut random, Tls::Off), &settings, SIZE);
        let (mut submitted, mut ended) = (0, 0);
        for _ in 0..10 {
            submit_some(&mut pair, &mut random, &mut submitted);
            pair.send();
            while !pair.session.waiting.is_empty() {
                let index = random.below(pair.session.waiting.len());
                let shape = match random.below(6) {
                    0 => Shape::Error([1, 5, 12, 22, 28, 75, 95, 108, 4711][random.below(9)]),
                    1 => Shape::Plain,
                    2 => Shape::Dropped,
                    _ => Shape::Pieces(random.next()),
                };
                pair.session.execute(&mut pair.disk, index, shape);
            }
            let mut bytes = core::mem::take(&mut pair.session.output);
            if random.below(3) == 0 {
                mutate(&mut bytes, &mut random);
            }
            if !feed_hostile(&mut pair.client, &bytes, &mut random, &mut ended) {
                break;
            }
        }
        pair.client.disconnected(Instant::ZERO);
        while let Some(Event::Completed(_)) = pair.client.poll_event() {
            ended += 1;
        }
        while pair.client.take_unfinished().is_some() {
            ended += 1;
        }
        assert_eq!(submitted, ended, "seed {seed}");
        pair.connect(&settings);
        assert_eq!(pair.client.free_slots(), 8, "seed {seed}");
        assert_eq!(pair.run(Operation::Read, 0, 512, Shape::Plain), Ok(()));
    }
}

#[test]
fn noise_with_a_right_magic_and_cookie_is_survived() {
    for seed in super::seeds(4000) {
        let mut random = Random::new(seed);
        let settings = random_settings(&mut random);
        let mut pair = Pair::with_client(random_client(&mut random, Tls::Off), &settings, SIZE);
        let (mut submitted, mut ended) = (0, 0);
        submit_some(&mut pair, &mut random, &mut submitted);
        let sent = pair.send();
        let mut bytes = Vec::new();
        for _ in 0..random.below(12) {
            let Some(request) = sent.get(random.below(sent.len().max(1))) else { break };
            if random.below(3) == 0 {
                bytes.extend(crate::testing::simple_reply_bytes(random.below(3) as u32, request.cookie));
                continue;
            }
            let kind = [0, 1, 2, 5, 6, 0x8001, 0x8002, random.next() as u16][random.below(8)];
            let mut payload: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
            if random.below(2) == 0 && payload.len() >= 8 {
                payload[..8].copy_from_slice(&(request.offset + random.below(3) as u64 * 512).to_be_bytes());
            }
            if random.below(2) == 0 && payload.len() >= 8 {
                // A context's number, and a count that may be right.
                payload[..4].copy_from_slice(&(7 + random.below(4) as u32).to_be_bytes());
                payload[4..8].copy_from_slice(&(random.below(3) as u32).to_be_bytes());
                payload.truncate(4 + random.below(5) * 8);
            }
            let flags = random.below(2) as u16;
            if pair.session.is_extended() && random.below(16) != 0 {
                let offset = request.offset + random.below(16) as u64 / 15 * 512;
                bytes.extend(extended_chunk_bytes(flags, kind, request.cookie, offset, &payload));
            } else {
                bytes.extend(crate::testing::chunk_bytes(flags, kind, request.cookie, &payload));
            }
        }
        feed_hostile(&mut pair.client, &bytes, &mut random, &mut ended);
        pair.client.disconnected(Instant::ZERO);
        while let Some(Event::Completed(_)) = pair.client.poll_event() {
            ended += 1;
        }
        ended += core::iter::from_fn(|| pair.client.take_unfinished()).count() as u64;
        assert_eq!(submitted, ended, "seed {seed}");
    }
}

#[test]
fn a_listing_survives_noise() {
    for seed in super::seeds(2000) {
        let mut random = Random::new(seed);
        let settings = Settings::default();
        let mut session = crate::testing::Session::new(&settings, &crate::testing::Disk::new(512));
        let mut listing = Listing::new(Instant::ZERO, 4, Duration::from_secs(1));
        'over: for _ in 0..4 {
            let mut bytes = core::mem::take(&mut session.output);
            mutate(&mut bytes, &mut random);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let space = listing.space();
                if space.is_empty() {
                    break 'over;
                }
                let count = space.len().min(rest.len());
                space[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                if listing.received(count).is_err() {
                    break 'over;
                }
            }
            while let Some(bytes) = listing.poll_transmit() {
                session.receive(bytes);
                let count = bytes.len();
                listing.transmitted(count);
            }
        }
    }
}

#[test]
fn a_probe_survives_noise() {
    let mut told = 0;
    for seed in super::seeds(2000) {
        let mut random = Random::new(seed);
        let mut session = crate::testing::Session::new(&Settings::default(), &crate::testing::Disk::new(512));
        let mut probe = Probe::new(Instant::ZERO, "disk", Duration::from_secs(1)).expect("sound");
        'over: for _ in 0..4 {
            let mut bytes = core::mem::take(&mut session.output);
            mutate(&mut bytes, &mut random);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let space = probe.space();
                let count = space.len().min(rest.len());
                space[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                match probe.received(count) {
                    Ok(None) => {}
                    Ok(Some(_)) => {
                        told += 1;
                        break 'over;
                    }
                    Err(_) => break 'over,
                }
            }
            while let Some(said) = probe.poll_transmit() {
                let count = said.len();
                session.receive(said);
                probe.transmitted(count);
            }
        }
    }
    assert!(told > 100, "{told}");
}

#[test]
fn the_other_end_survives_noise_as_well() {
    for seed in super::seeds(3000) {
        let mut random = Random::new(seed);
        let settings = random_settings(&mut random);
        let mut pair = Pair::with_client(random_client(&mut random, Tls::Off), &settings, SIZE);
        let mut handshake = crate::testing::Session::new(&settings, &pair.disk);
        for _ in 0..6 {
            submit_some(&mut pair, &mut random, &mut 0);
            let mut said = drain(&mut pair.client);
            mutate(&mut said, &mut random);
            pair.session.receive(&said);
            while !pair.session.waiting.is_empty() {
                pair.session.execute(&mut pair.disk, 0, Shape::Pieces(random.next()));
            }
            let mut said = 3u32.to_be_bytes().to_vec();
            for _ in 0..random.below(4) {
                let code = random.below(13) as u32;
                let mut data: Vec<u8> = (0..random.below(60)).map(|_| random.below(20) as u8).collect();
                if random.below(2) == 0 {
                    data = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x16x-corbel:writer:1:a:1:1".to_vec();
                    mutate(&mut data, &mut random);
                }
                said.extend(wire::OPTION_MAGIC.to_be_bytes());
                said.extend([code.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat());
                said.extend(data);
            }
            handshake.receive(&said);
            handshake.fence(random.below(2) == 0);
        }
    }
}
