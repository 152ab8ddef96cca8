//! How many handshakes a core does in a second, by the kind of the server's key, with certificates on both sides:
//! `cargo run --release -p network_tls --example handshakes`.
#![allow(clippy::unwrap_used, reason = "it is run by hand")]

#[path = "../tests/pki/mod.rs"]
mod pki;

use network_tls::{Anchors, Buffers, ClientConfig, Clients, Connection, Dates, ServerConfig};
use pki::{Authority, Kind, Leaf, NOW, crypto};
use std::time::{Duration, Instant};

const ROUNDS: u32 = 200;
const BUFFERS: Buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };

/// Move what there is from one to the other, and answer how long `to` took over it.
fn carry(from: &mut Connection, to: &mut Connection) -> Duration {
    let mut took = Duration::ZERO;
    loop {
        let bytes = from.poll_transmit().to_vec();
        if bytes.is_empty() {
            return took;
        }
        from.transmitted(bytes.len());
        let began = Instant::now();
        to.space()[..bytes.len()].copy_from_slice(&bytes);
        to.received(bytes.len()).unwrap();
        took += began.elapsed();
    }
}

fn main() {
    let authority = Authority::new("authority", Kind::P256);
    let anchors = Anchors::from_der([authority.der.clone()]).unwrap();
    for (server_key, client_key) in [
        (Kind::P256, Kind::P256),
        (Kind::Ed25519, Kind::P256),
        (Kind::P256, Kind::Ed25519),
        (Kind::Ed25519, Kind::Ed25519),
        (Kind::Rsa, Kind::P256),
    ] {
        let issue = |leaf: Leaf<'_>, kind| authority.issue(&Leaf { kind, ..leaf }).identity();
        let own = issue(Leaf::client(), client_key);
        let client = ClientConfig::new(crypto(), &anchors, Some(own), Dates::MustBeChecked).unwrap();
        let own = issue(Leaf::server(&["x.example"]), server_key);
        let clients = Clients::Known(anchors.clone());
        let server = ServerConfig::new(crypto(), own, &clients, Dates::MustBeChecked).unwrap();
        let mut took = Duration::ZERO;
        for _ in 0..ROUNDS {
            let mut client = Connection::client(&client, "x.example", Some(NOW), BUFFERS).unwrap();
            let began = Instant::now();
            let mut server = Connection::server(&server, Some(NOW), BUFFERS).unwrap();
            took += began.elapsed();
            while !(client.is_established() && server.is_established()) {
                took += carry(&mut client, &mut server);
                carry(&mut server, &mut client);
            }
        }
        let each = took / ROUNDS;
        let rate = 1.0 / each.as_secs_f64();
        println!(
            "server {server_key:?}, client {client_key:?}: {each:?} of the server, {rate:.0} in a second"
        );
    }
}
