//! Data, in whatever pieces, and what happens to keys and buffers meanwhile.

use super::pki::{Authority, Host, Kind, Leaf, NOW, crypto};
use super::{Pair, anchors, client_config, connected, friends, noise, pair, read_all};
use crate::{Buffers, ClientConfig, Clients, Connection, Crypto, Dates, Fatal, Identity, ServerConfig};

#[test]
fn data_arrives_whatever_the_pieces() {
    for piece in [1, 2, 5, 6, 100, 16_383, usize::MAX] {
        let mut pair = friends();
        pair.settle(piece);
        assert!(pair.established(), "{piece}: {:?}", pair.fatals());
        let (request, reply) = (noise(3000, 1), noise(40_000, 2));
        assert_eq!(pair.client.write(&request).unwrap(), 3000);
        assert_eq!(pair.server.write(&reply).unwrap(), 40_000);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while there.len() < request.len() || back.len() < reply.len() {
            pair.settle(piece);
            there.extend(read_all(&mut pair.server));
            back.extend(read_all(&mut pair.client));
            assert_eq!(pair.fatals(), (None, None));
        }
        assert!(there == request && back == reply, "{piece}");
    }
}

#[test]
fn the_beginning_of_a_record_is_told_from_nothing_and_from_a_whole_one() {
    let mut pair = connected();
    assert!(!pair.server.is_within_record());
    pair.client.write(b"whole").unwrap();
    let record = pair.client.poll_transmit().to_vec();
    pair.client.transmitted(record.len());
    for (at, byte) in record.iter().enumerate() {
        pair.server.space()[0] = *byte;
        pair.server.received(1).unwrap();
        assert_eq!(pair.server.is_within_record(), at + 1 < record.len(), "{at}");
    }
    assert_eq!(read_all(&mut pair.server), b"whole");
    assert!(!pair.server.is_within_record());
}

#[test]
fn every_cipher_carries_data() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let mut crypto = Crypto::with_preference(Box::new(Host), true).unwrap();
    let all = crypto.provider.cipher_suites.clone();
    assert_eq!(all.len(), 3);
    for suite in all {
        let mut provider = (*crypto.provider).clone();
        provider.cipher_suites = vec![suite];
        crypto.provider = provider.into();
        let client = ClientConfig::new(&crypto, &anchors(&authority), None, Dates::MustBeChecked).unwrap();
        let server =
            ServerConfig::new(&crypto, issued.identity(), &Clients::Anybody, Dates::MustBeChecked).unwrap();
        let mut pair = pair(&client, &server);
        pair.settle(usize::MAX);
        let data = noise(30_000, 3);
        assert_eq!(pair.client.write(&data).unwrap(), data.len());
        pair.settle(usize::MAX);
        assert!(read_all(&mut pair.server) == data, "{suite:?}: {:?}", pair.fatals());
        assert_eq!(pair.client.suite(), suite.suite().as_str());
    }
}

#[test]
fn every_key_exchange_works() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let mut crypto = Crypto::new(Box::new(Host)).unwrap();
    let groups = crypto.provider.kx_groups.clone();
    for group in &groups {
        let mut provider = (*crypto.provider).clone();
        provider.kx_groups = vec![*group];
        crypto.provider = provider.into();
        let server =
            ServerConfig::new(&crypto, issued.identity(), &Clients::Anybody, Dates::MustBeChecked).unwrap();
        // A client that offers all of them has to try again when the server wants another (HelloRetryRequest).
        for offered in [vec![*group], groups.clone()] {
            let mut provider = (*crypto.provider).clone();
            provider.kx_groups = offered;
            crypto.provider = provider.into();
            let client =
                ClientConfig::new(&crypto, &anchors(&authority), None, Dates::MustBeChecked).unwrap();
            let mut pair = pair(&client, &server);
            pair.settle(7);
            assert!(pair.established(), "{group:?}: {:?}", pair.fatals());
        }
    }
}

#[test]
fn small_writes_share_a_record() {
    let mut pair = connected();
    for _ in 0..100 {
        assert_eq!(pair.client.write(&[7; 28]).unwrap(), 28);
    }
    assert_eq!(pair.client.poll_transmit().len(), 2800 + 22);
    assert_eq!(pair.client.poll_transmit().len(), 2800 + 22);
    pair.settle(usize::MAX);
    assert_eq!(read_all(&mut pair.server).len(), 2800);
}

#[test]
fn data_can_be_looked_at_where_it_lies() {
    let mut pair = connected();
    pair.client.write(b"one record").unwrap();
    pair.settle(usize::MAX);
    assert_eq!(pair.server.readable().unwrap(), b"one record");
    pair.server.consume(4);
    assert_eq!(pair.server.readable().unwrap(), b"record");
    pair.server.consume(100);
    assert_eq!(pair.server.readable().unwrap(), b"");
    assert_eq!(pair.server.read(&mut []).unwrap(), 0);
}

#[test]
fn who_does_not_read_makes_the_other_wait_and_nothing_is_lost() {
    for buffers in [
        Buffers::default(),
        Buffers { receive: Buffers::LEAST_RECEIVE, transmit: Buffers::LEAST_TRANSMIT },
        Buffers { receive: 40_001, transmit: 33_333 },
    ] {
        let mut pair = small(buffers);
        let data = noise(1_000_000, 8);
        let (mut sent, mut got) = (0, Vec::<u8>::new());
        let mut waited = 0;
        let mut round = 0_usize;
        while got.len() < data.len() {
            sent += pair.client.write(&data[sent..]).unwrap();
            pair.settle(1 + round * 977 % 5000);
            let more = pair.client.write(&data[sent..]).unwrap();
            sent += more;
            if sent < data.len() && more == 0 {
                waited += 1;
                assert!(pair.server.space().is_empty(), "nobody waits while there is room");
            }
            let mut some = vec![0; 1 + round * 7919 % 30_000];
            let count = pair.server.read(&mut some).unwrap();
            got.extend(&some[..count]);
            round += 1;
            assert!(round < 20_000);
        }
        assert!(got == data && waited > 0);
    }
}

/// A connected pair with such buffers.
fn small(buffers: Buffers) -> Pair {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let config = ServerConfig::new(crypto(), issued.identity(), &Clients::Anybody, Dates::MustBeChecked);
    let client = client_config(&authority, None);
    let mut pair = Pair::new(
        Connection::client(&client, "storage.example", Some(NOW), buffers).unwrap(),
        Connection::server(&config.unwrap(), None, buffers).unwrap(),
    );
    pair.settle(usize::MAX);
    assert!(pair.established());
    pair
}

#[test]
fn keys_change_before_they_are_worn_out() {
    for buffers in
        [Buffers::default(), Buffers { receive: Buffers::LEAST_RECEIVE, transmit: Buffers::LEAST_TRANSMIT }]
    {
        let mut pair = small(buffers);
        pair.client.traffic().0.limit(5);
        let data = noise(400_000, 4);
        let (mut sent, mut got) = (0, Vec::<u8>::new());
        while got.len() < data.len() {
            // The limit is the key's: the next one has its own.
            pair.client.traffic().0.limit(5);
            let end = data.len().min(sent + 3000);
            sent += pair.client.write(&data[sent..end]).unwrap();
            pair.settle(usize::MAX);
            got.extend(read_all(&mut pair.server));
            assert_eq!(pair.fatals(), (None, None));
        }
        assert!(got == data);
    }
}

#[test]
fn a_key_that_is_asked_for_is_changed() {
    let mut pair = connected();
    for round in 0..100_u8 {
        let (traffic, outgoing) = pair.client.traffic();
        traffic.ask_for_update(outgoing);
        pair.client.write(&[round; 50]).unwrap();
        pair.server.write(&[round; 60]).unwrap();
        pair.settle(usize::MAX);
        assert_eq!(read_all(&mut pair.server), [round; 50]);
        assert_eq!(read_all(&mut pair.client), [round; 60]);
        let (traffic, outgoing) = pair.server.traffic();
        traffic.ask_for_update(outgoing);
    }
    assert_eq!(pair.fatals(), (None, None));
}

#[test]
fn a_farewell_comes_behind_the_data_and_tells_it_from_a_cut() {
    let mut pair = connected();
    pair.client.write(&[1; 20_000]).unwrap();
    pair.client.close();
    assert_eq!(pair.client.write(&[2; 10]).unwrap(), 0);
    pair.settle(usize::MAX);
    assert!(!pair.server.peer_closed());
    assert_eq!(read_all(&mut pair.server).len(), 20_000);
    assert!(pair.server.peer_closed());
    assert_eq!(pair.server.end_of_stream(), Ok(()));
    // The other direction is still open.
    pair.server.write(b"goodbye").unwrap();
    pair.settle(usize::MAX);
    assert_eq!(read_all(&mut pair.client), b"goodbye");
    assert_eq!(pair.client.end_of_stream(), Err(Fatal::Truncated));
    assert_eq!(pair.client.read(&mut [0; 9]), Err(Fatal::Truncated));
    assert_eq!(pair.client.write(&[0; 9]), Err(Fatal::Truncated));
    let mut pair = friends();
    assert_eq!(pair.client.end_of_stream(), Err(Fatal::Truncated));
}

#[test]
fn what_comes_after_a_farewell_is_not_data() {
    let mut pair = connected();
    pair.client.close();
    pair.settle(usize::MAX);
    let space = pair.server.space();
    space[..5].fill(0xff);
    assert_eq!(pair.server.received(5), Ok(()));
    assert_eq!(pair.server.read(&mut [0; 9]), Ok(0));
    assert!(!pair.server.space().is_empty());
}

#[test]
fn long_chains_pass_small_buffers_or_are_refused() {
    let root = Authority::new("root", Kind::P256);
    let issued = root.issue(&Leaf::server(&["storage.example"]));
    let client = client_config(&root, None);
    for (extra, good) in [(20, true), (60, false)] {
        let mut chain = vec![issued.der.clone()];
        chain.extend((0..extra).map(|_| root.issue(&Leaf::server(&[&"x".repeat(60)])).der));
        let identity = Identity::from_der(chain, issued.key.clone()).unwrap();
        let server = ServerConfig::new(crypto(), identity, &Clients::Anybody, Dates::MustBeChecked).unwrap();
        let least = Buffers { receive: Buffers::LEAST_RECEIVE, transmit: Buffers::LEAST_TRANSMIT };
        let mut pair = Pair::new(
            Connection::client(&client, "storage.example", Some(NOW), least).unwrap(),
            Connection::server(&server, None, least).unwrap(),
        );
        pair.settle(1000);
        assert_eq!(pair.established(), good, "{:?}", pair.fatals());
        if !good {
            assert_eq!(pair.client_fatal, Some(Fatal::TooLong));
        }
    }
}
