//! One session over several TCP connections, under load: every byte is where it belongs, whichever connection it went by,
//! and also when one of them is killed, taken over, or the whole session begins anew.
//!
//! No initiator of Linux has such sessions, so the one here is our own.

use crate::fixture::{script, stage_alone};
use crate::hostile::body;
use crate::hostile::peer::{Heard, Peer, SOON, Who, login};
use crate::hostile::session::{SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use crate::inside::play;
use image_launch::disk::Server;
use std::time::{Duration, Instant};
use storage_iscsi::wire::{LoginRequest, LoginResponse};

const SIZE: u64 = 16 << 20;
/// Bytes of each transfer, and blocks.
const LENGTH: usize = 4096;
const BLOCKS: u16 = 8;
/// Places that are worked on.
const PLACES: usize = 96;
const KEYS: &[(&str, &str)] = &[("MaxConnections", "4")];

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[("several", several)];

#[test]
fn a_session_of_three_connections_loses_nothing_whatever_happens_to_them() {
    let (mut stage, _turn) = stage_alone(&script(body(), SIZE, Server::QemuNbd));
    let said = play(&mut stage, "several");
    assert!(said.contains("transfers a second"), "{said}");
}

/// Connections whose commands are numbered together, and what is on their disk.
struct Several {
    who: Who,
    tsih: u16,
    connections: Vec<Session>,
    number: u32,
    random: u64,
    /// What each place holds, as one byte that stands for all of its bytes.
    model: Vec<u8>,
}

impl Several {
    /// A session with connections 1, 2 and 3.
    fn open(who: &Who) -> Self {
        let mut several = Self {
            who: who.clone(),
            tsih: 0,
            connections: Vec::new(),
            number: 1,
            random: 1,
            model: vec![0; PLACES],
        };
        let first = several.log_in(1);
        several.connections.push(first);
        several.number = several.connections[0].cmd_sn;
        several.connections[0].settle().unwrap();
        several.number = several.connections[0].cmd_sn;
        for cid in 2..=3 {
            let next = several.log_in(cid);
            several.connections.push(next);
        }
        several
    }

    fn log_in(&mut self, cid: u16) -> Session {
        let (session, tsih) = connect(&self.who, self.tsih, cid, self.number).unwrap();
        assert!(self.tsih == 0 || self.tsih == tsih);
        self.tsih = tsih;
        session
    }

    fn random(&mut self, below: usize) -> usize {
        // Xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap() % below
    }

    /// Begins a transfer by one of the connections; answers its tag there.
    fn begin(&mut self, connection: usize, cdb: &[u8; 16], out: &[u8]) -> u32 {
        let session = &mut self.connections[connection];
        session.cmd_sn = self.number;
        self.number = self.number.wrapping_add(1);
        session.begin(lun(0), cdb, out, u32::try_from(LENGTH).unwrap())
    }

    fn write(&mut self, connection: usize, place: usize, byte: u8) -> u32 {
        let block = u32::try_from(place).unwrap() * u32::from(BLOCKS);
        self.begin(connection, &write10(block, BLOCKS), &[byte; LENGTH])
    }

    /// Waits for the end of a transfer, which must be a good one.
    fn finish(&mut self, connection: usize, tag: u32) -> Vec<u8> {
        // Whatever comes meanwhile on the others must not hold them up.
        self.connections[connection]
            .finish(tag, SOON)
            .and_then(crate::hostile::session::Answer::good)
            .unwrap()
            .data
    }

    /// Writes new bytes to each place by any connection, all at once, and reads them back in the same way.
    fn work(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let mut begun = Vec::new();
            for place in 0..PLACES / 2 {
                let place = place * 2 + self.random(2);
                let byte = u8::try_from(self.random(256)).unwrap();
                let connection = self.random(self.connections.len());
                begun.push((connection, self.write(connection, place, byte)));
                self.model[place] = byte;
            }
            for (connection, tag) in begun.drain(..) {
                self.finish(connection, tag);
            }
            self.verify();
        }
    }

    fn verify(&mut self) {
        let mut begun = Vec::new();
        for place in 0..PLACES {
            let connection = self.random(self.connections.len());
            let block = u32::try_from(place).unwrap() * u32::from(BLOCKS);
            begun.push((place, connection, self.begin(connection, &read10(block, BLOCKS), &[])));
        }
        for (place, connection, tag) in begun {
            let read = self.finish(connection, tag);
            assert_eq!(read, [self.model[place]; LENGTH], "place {place} by connection {connection}");
        }
    }

    /// Keeps a connection's share of a load outstanding and sees to it that all of it has arrived; answers what was begun.
    fn load(&mut self, byte: u8) -> Vec<(usize, usize, u32)> {
        let mut begun = Vec::new();
        for place in 0..PLACES / 2 {
            let connection = place % self.connections.len();
            begun.push((place, connection, self.write(connection, place, byte)));
        }
        for session in &mut self.connections {
            session.cmd_sn = self.number;
            session.ping().unwrap();
        }
        begun
    }
}

/// Log in as a connection of the session with this TSIH, or as the first of a new one.
fn connect(who: &Who, tsih: u16, cid: u16, number: u32) -> Result<(Session, u16), String> {
    let mut peer = Peer::connect();
    let mut text = who.declares();
    let session_keys = [("InitialR2T", "No"), ("ImmediateData", "Yes")];
    if tsih == 0 {
        text.extend(crate::hostile::peer::text(&session_keys));
        text.extend(crate::hostile::peer::text(KEYS));
    }
    let request = LoginRequest { tsih, cid, cmd_sn: number, ..login(who) };
    peer.say(request.header(), &text);
    let Heard::Pdu(header, keys) = peer.hear(SOON) else { return Err("no login response".into()) };
    let response = LoginResponse::read(&header);
    if (response.status_class, response.transit) != (0, true) {
        return Err(format!("the login ended with {}.{}", response.status_class, response.status_detail));
    }
    let segment = crate::hostile::peer::declared_segment(&keys);
    Ok((Session::begun(peer, &response, segment), response.tsih))
}

fn several() {
    let mut several = Several::open(&Who::new("several", 0));
    let start = Instant::now();
    let rounds = 20;
    several.work(rounds);
    let transfers = rounds * PLACES * 3 / 2;
    println!(
        "{:.0} transfers a second by three connections",
        transfers as f64 / start.elapsed().as_secs_f64()
    );
    a_connection_is_killed(&mut several);
    a_connection_is_taken_over(&mut several);
    the_session_begins_anew(several);
}

/// Its tasks may be done or not; all others are, and the session goes on.
fn a_connection_is_killed(several: &mut Several) {
    let begun = several.load(0xa1);
    let killed = several.connections.remove(2);
    drop(killed);
    let mut lost = Vec::new();
    for (place, connection, tag) in begun {
        if connection == 2 {
            lost.push(place);
        } else {
            several.finish(connection, tag);
            several.model[place] = 0xa1;
        }
    }
    // Whatever has become of them, what is written now is there afterwards.
    for (index, place) in lost.into_iter().enumerate() {
        let tag = several.write(index % 2, place, 0xa2);
        several.finish(index % 2, tag);
        several.model[place] = 0xa2;
    }
    several.work(5);
    let again = several.log_in(4);
    several.connections.push(again);
    several.work(5);
}

/// A login with its CID ends it and its tasks, whose places are written by the new one at once.
fn a_connection_is_taken_over(several: &mut Several) {
    let begun = several.load(0xb1);
    let new = several.log_in(2);
    let mut old = std::mem::replace(&mut several.connections[1], new);
    for (place, connection, tag) in begun {
        several.model[place] = if connection == 1 {
            let tag = several.write(1, place, 0xb2);
            several.finish(1, tag);
            0xb2
        } else {
            several.finish(connection, tag);
            0xb1
        };
    }
    old.peer.ends(SOON).unwrap();
    several.verify();
    several.work(5);
}

/// A login without TSIH ends all of it: nothing that was written before comes over what is written then.
fn the_session_begins_anew(mut several: Several) {
    for round in 0..10_u8 {
        let begun = several.load(0xc0);
        let mut new = Several { tsih: 0, number: 1000, connections: Vec::new(), ..several };
        let first = new.log_in(1);
        new.connections.push(first);
        let tags: Vec<_> =
            begun.iter().map(|(place, ..)| (*place, new.write(0, *place, 0xd0 | round))).collect();
        for (place, tag) in tags {
            new.finish(0, tag);
            new.model[place] = 0xd0 | round;
        }
        new.begin(0, &SYNCHRONIZE_CACHE, &[]);
        std::thread::sleep(Duration::from_millis(50));
        new.verify();
        for cid in 2..=3 {
            let next = new.log_in(cid);
            new.connections.push(next);
        }
        several = new;
    }
    several.work(2);
}
