//! Peers that lie, and networks that change what they carry. Nothing may panic, and nothing false may be read.

use super::{connected, friends, noise, read_all};
use crate::record::{ALERT, DATA, HANDSHAKE};
use crate::{Connection, Fatal};

/// Give these bytes to a connection, as far as it takes them.
fn feed(connection: &mut Connection, mut bytes: &[u8]) -> Result<(), Fatal> {
    while !bytes.is_empty() {
        let space = connection.space();
        let count = space.len().min(bytes.len());
        if count == 0 {
            return Ok(());
        }
        space[..count].copy_from_slice(&bytes[..count]);
        connection.received(count)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

#[test]
fn a_changed_bit_ends_the_connection_and_no_byte_of_it_is_read() {
    let length = {
        let mut pair = connected();
        pair.client.write(b"pay one hundred").unwrap();
        pair.client.poll_transmit().len()
    };
    for bit in 0..length * 8 {
        let mut pair = connected();
        pair.client.write(b"pay one hundred").unwrap();
        let mut bytes = pair.client.poll_transmit().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let outcome = feed(&mut pair.server, &bytes);
        assert_eq!(read_all(&mut pair.server), b"", "{bit}");
        // A length that grew is waited for; it ends when what follows does not fit.
        let waits = (24..40).contains(&bit) && outcome.is_ok();
        assert!(waits || matches!(outcome, Err(Fatal::Forged | Fatal::Protocol(_))), "{bit}: {outcome:?}");
        if outcome.is_err() {
            let alert = pair.server.poll_transmit().to_vec();
            assert!(matches!(feed(&mut pair.client, &alert), Err(Fatal::Refused(_))), "{bit}");
        }
    }
}

#[test]
fn a_record_that_is_repeated_dropped_or_overtaken_ends_the_connection() {
    for order in [&[0, 0][..], &[1][..], &[1, 0][..]] {
        let mut pair = connected();
        let records = [b"first", b"secnd"].map(|data| {
            pair.client.write(data).unwrap();
            let bytes = pair.client.poll_transmit().to_vec();
            pair.client.transmitted(bytes.len());
            bytes
        });
        let stream: Vec<u8> = order.iter().flat_map(|index| records[*index].clone()).collect();
        let first = feed(&mut pair.server, &stream);
        let mut out = [0; 64];
        let outcome = first.and_then(|()| pair.server.read(&mut out));
        let rest = pair.server.read(&mut out);
        assert!(
            outcome == Err(Fatal::Forged) || rest == Err(Fatal::Forged),
            "{order:?} {outcome:?} {rest:?}"
        );
    }
}

#[test]
fn a_handshake_with_any_byte_changed_never_gives_a_connection_of_two() {
    // The flights of a good handshake differ each time, but not in length.
    let flight = |from_server: bool| {
        let mut pair = friends();
        if !from_server {
            return pair.client.poll_transmit().len();
        }
        let hello = pair.client.poll_transmit().to_vec();
        feed(&mut pair.server, &hello).unwrap();
        pair.server.poll_transmit().len()
    };
    let mut refused = 0;
    for from_server in [false, true] {
        let length = flight(from_server);
        for at in (0..length).step_by(3) {
            let mut pair = friends();
            let mut bytes = pair.client.poll_transmit().to_vec();
            if from_server {
                feed(&mut pair.server, &bytes).unwrap();
                bytes = pair.server.poll_transmit().to_vec();
            }
            let Some(byte) = bytes.get_mut(at) else { continue };
            *byte ^= 0x41;
            let (from, to) = if from_server {
                (&mut pair.server, &mut pair.client)
            } else {
                (&mut pair.client, &mut pair.server)
            };
            let count = from.poll_transmit().len();
            from.transmitted(count);
            refused += usize::from(feed(to, &bytes).is_err());
            pair.settle(usize::MAX);
            // The version of a record's header is not part of what both sign.
            let unsigned = pair.established();
            assert!(!unsigned || matches!(at, 0..5), "{from_server} {at}");
        }
    }
    assert!(refused > 100);
}

#[test]
fn records_of_a_peer_with_the_right_key_and_the_wrong_mind_are_refused() {
    let ticket_cut = [4, 0, 0, 9, 1, 2];
    let cases: &[(u8, &[u8])] = &[
        (20, &[1]),
        (0, &[]),
        (99, &[1, 2, 3]),
        (ALERT, &[]),
        (ALERT, &[1]),
        (ALERT, &[1, 0, 0]),
        (ALERT, &[2, 40]),
        (HANDSHAKE, &[]),
        (HANDSHAKE, &[24, 0, 0, 1, 7]),
        (HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        (HANDSHAKE, &[24, 0, 1, 0]),
        (HANDSHAKE, &[1, 0, 0, 0]),
        (HANDSHAKE, &[13, 0, 0, 0]),
        (HANDSHAKE, &[20, 0, 0, 32]),
    ];
    for (carries, bytes) in cases {
        for from_server in [false, true] {
            let mut pair = connected();
            let (from, fatal) = if from_server { (&mut pair.server, 0) } else { (&mut pair.client, 1) };
            let (traffic, outgoing) = from.traffic();
            traffic.forge(*carries, bytes, outgoing);
            pair.settle(usize::MAX);
            let fatal = if fatal == 0 { &pair.client_fatal } else { &pair.server_fatal };
            let expected = matches!(fatal, Some(Fatal::Protocol(_) | Fatal::Refused(_)));
            assert!(expected, "{carries} {bytes:?}: {fatal:?}");
        }
    }
    // Tickets are for clients, are read over, and may not be interrupted.
    let mut pair = connected();
    let (traffic, outgoing) = pair.server.traffic();
    traffic.forge(HANDSHAKE, &ticket_cut, outgoing);
    traffic.forge(HANDSHAKE, &[3, 4, 5, 6, 7, 8, 9, 4, 0, 0, 0], outgoing);
    traffic.forge(DATA, b"data", outgoing);
    pair.settle(usize::MAX);
    assert_eq!(read_all(&mut pair.client), b"data");
    let (traffic, outgoing) = pair.server.traffic();
    traffic.forge(HANDSHAKE, &ticket_cut, outgoing);
    traffic.forge(DATA, b"data", outgoing);
    pair.settle(usize::MAX);
    assert!(matches!(pair.client_fatal, Some(Fatal::Protocol(_))));
    let mut pair = connected();
    let (traffic, outgoing) = pair.client.traffic();
    traffic.forge(HANDSHAKE, &ticket_cut, outgoing);
    pair.settle(usize::MAX);
    assert!(matches!(pair.server_fatal, Some(Fatal::Protocol(_))));
}

#[test]
fn records_without_data_are_read_over() {
    let mut pair = connected();
    for _ in 0..500 {
        let (traffic, outgoing) = pair.client.traffic();
        traffic.forge(DATA, &[], outgoing);
        pair.settle(usize::MAX);
    }
    pair.client.write(b"at last").unwrap();
    pair.settle(usize::MAX);
    assert_eq!(read_all(&mut pair.server), b"at last");
}

#[test]
fn keys_that_change_without_end_are_not_followed() {
    let mut pair = connected();
    for _ in 0..32 {
        let (traffic, outgoing) = pair.client.traffic();
        traffic.ask_for_update(outgoing);
        pair.settle(usize::MAX);
        assert_eq!(pair.server_fatal, None);
    }
    let (traffic, outgoing) = pair.client.traffic();
    traffic.ask_for_update(outgoing);
    pair.settle(usize::MAX);
    assert!(matches!(pair.server_fatal, Some(Fatal::Protocol(_))));
}

#[test]
fn many_questions_for_a_new_key_get_one_answer() {
    let mut pair = connected();
    let mut stream = Vec::new();
    for _ in 0..30 {
        let (traffic, outgoing) = pair.client.traffic();
        traffic.ask_for_update(outgoing);
        let bytes = pair.client.poll_transmit().to_vec();
        pair.client.transmitted(bytes.len());
        stream.extend(bytes);
    }
    feed(&mut pair.server, &stream).unwrap();
    assert_eq!(pair.server.poll_transmit().len(), 27);
}

#[test]
fn records_in_the_clear_or_too_long_end_an_open_connection() {
    for bytes in [
        &[22, 3, 3, 0, 4, 24, 0, 0, 1][..],
        &[21, 3, 3, 0, 2, 1, 0][..],
        &[20, 3, 3, 0, 1, 1][..],
        &[23, 3, 3, 0x41, 1][..],
        &[23, 3, 3, 0xff, 0xff][..],
        &[23, 3, 3, 0, 0][..],
        &[23, 3, 3, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let mut pair = connected();
        let outcome = feed(&mut pair.server, bytes);
        assert!(matches!(outcome, Err(Fatal::Protocol(_) | Fatal::Forged)), "{bytes:?}: {outcome:?}");
        assert_eq!(pair.server.received(0), outcome);
    }
}

#[test]
fn who_does_not_speak_tls_is_told_so() {
    for words in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"NBDMAGICIHAVEOPT\0\x03", b"SSH-2.0-OpenSSH_9.2\r\n"]
    {
        let mut pair = friends();
        assert!(matches!(feed(&mut pair.client, words), Err(Fatal::Protocol(_))));
        let mut pair = friends();
        assert!(matches!(feed(&mut pair.server, words), Err(Fatal::Protocol(_))));
    }
}

#[test]
fn noise_never_gives_a_connection_and_never_panics() {
    for seed in 1..400_u64 {
        let mut stream = noise(600, seed);
        // Half of them begin as records do.
        if seed % 2 == 0 {
            stream[..5].copy_from_slice(&[22, 3, 3, 0, 200]);
            stream[5] = [1, 2, 11, 20][seed as usize / 2 % 4];
            stream[6..9].copy_from_slice(&[0, 0, 196]);
        }
        let mut pair = friends();
        let _ = feed(&mut pair.server, &stream);
        let _ = feed(&mut pair.client, &stream);
        assert!(!pair.client.is_established() && !pair.server.is_established());
        let mut pair = connected();
        assert!(feed(&mut pair.server, &stream).is_err() || read_all(&mut pair.server).is_empty());
    }
}
