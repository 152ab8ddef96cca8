//! One engine against another, in memory.

#[path = "../tests/pki/mod.rs"]
mod pki;

mod certificates;
mod hostile;
mod keys;
mod traffic;

use crate::{Anchors, Buffers, ClientConfig, Clients, Connection, Dates, Fatal, Identity, ServerConfig};
use pki::{Authority, Issued, Leaf, NOW, crypto};

/// Two ends, and what either has come to.
struct Pair {
    client: Connection,
    server: Connection,
    /// Errors, each the first of its side.
    client_fatal: Option<Fatal>,
    server_fatal: Option<Fatal>,
}

/// Move bytes from one end to the other, at most `piece` at a time; answers how many.
fn carry(from: &mut Connection, to: &mut Connection, piece: usize, fatal: &mut Option<Fatal>) -> usize {
    let mut all = 0;
    loop {
        let bytes = from.poll_transmit();
        let space = to.space();
        let count = bytes.len().min(space.len()).min(piece);
        if count == 0 {
            return all;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        from.transmitted(count);
        if let Err(error) = to.received(count) {
            fatal.get_or_insert(error);
        }
        all += count;
    }
}

impl Pair {
    fn new(client: Connection, server: Connection) -> Self {
        Self { client, server, client_fatal: None, server_fatal: None }
    }

    /// Both carry all they have, until neither has anything.
    fn settle(&mut self, piece: usize) {
        for _ in 0..1000 {
            let there = carry(&mut self.client, &mut self.server, piece, &mut self.server_fatal);
            let back = carry(&mut self.server, &mut self.client, piece, &mut self.client_fatal);
            if there + back == 0 {
                return;
            }
        }
        panic!("they never stop talking");
    }

    fn established(&self) -> bool {
        self.client.is_established() && self.server.is_established()
    }

    /// The words of both, for messages of tests that fail.
    fn fatals(&self) -> (Option<&Fatal>, Option<&Fatal>) {
        (self.client_fatal.as_ref(), self.server_fatal.as_ref())
    }
}

/// All there is to read.
fn read_all(connection: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    let mut some = [0; 1000];
    loop {
        match connection.read(&mut some) {
            Ok(0) | Err(_) => return all,
            Ok(count) => all.extend(&some[..count]),
        }
    }
}

fn anchors(authority: &Authority) -> Anchors {
    Anchors::from_der([authority.der.clone()]).unwrap()
}

fn client_config(authority: &Authority, identity: Option<Identity>) -> ClientConfig {
    ClientConfig::new(crypto(), &anchors(authority), identity, Dates::MustBeChecked).unwrap()
}

fn server_config(issued: &Issued, clients: &Clients) -> ServerConfig {
    ServerConfig::new(crypto(), issued.identity(), clients, Dates::MustBeChecked).unwrap()
}

/// A pair that will like each other: the server is `storage.example`, the client has a certificate.
fn friends() -> Pair {
    let authority = Authority::new("authority", pki::Kind::P256);
    let server = authority.issue(&Leaf::server(&["storage.example"]));
    let client = authority.issue(&Leaf::client());
    let clients = Clients::Known(anchors(&authority));
    pair(&client_config(&authority, Some(client.identity())), &server_config(&server, &clients))
}

fn pair(client: &ClientConfig, server: &ServerConfig) -> Pair {
    Pair::new(
        Connection::client(client, "storage.example", Some(NOW), Buffers::default()).unwrap(),
        Connection::server(server, Some(NOW), Buffers::default()).unwrap(),
    )
}

/// The same with the handshake done.
fn connected() -> Pair {
    let mut pair = friends();
    pair.settle(usize::MAX);
    assert!(pair.established(), "{:?}", pair.fatals());
    pair
}

/// Bytes of which no two stretches are alike.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}
