//! More SYNs than anybody can mean, from sources that are not there.

use super::frame::{SYN, Tcp};
use super::wire::Ether;
use crate::hostile::{Steady, good_login, healthy};
use image_launch::net::{API, ISCSI, Wire};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long each flood lasts.
const LASTS: Duration = Duration::from_secs(3);
/// And how many SYNs it has at most.
const MOST: u32 = 60_000;
/// How soon afterwards a login is possible.
const AFTER: Duration = Duration::from_secs(2);
/// The longest that a session may stand still meanwhile.
const PAUSE: Duration = Duration::from_secs(2);

/// Floods the portal, then the API. A session goes on meanwhile, and both serve right afterwards.
pub(crate) fn flood() {
    let steady = Steady::start(0);
    let before = steady.rounds();
    let (sent, meanwhile) = pour(Wire::Host, ISCSI, || good_login("meanwhile", 1, Duration::from_secs(1)));
    let start = Instant::now();
    good_login("afterwards", 1, AFTER).unwrap();
    println!("portal: {sent} SYNs in {LASTS:?}, {} rounds of the steady session", steady.rounds() - before);
    println!("portal: logins meanwhile {meanwhile:?}; the first afterwards took {:?}", start.elapsed());
    assert!(steady.rounds() > before + 10, "the steady session stood still");
    steady.finish(PAUSE);

    let (sent, meanwhile) = pour(Wire::Service, API, || healthy(Duration::from_secs(1)));
    let start = Instant::now();
    healthy(AFTER).unwrap();
    println!("API: {sent} SYNs in {LASTS:?}");
    println!("API: requests meanwhile {meanwhile:?}; the first afterwards took {:?}", start.elapsed());
}

/// How often something worked, and how often it did not.
#[derive(Debug, Default)]
struct Tries {
    worked: u32,
    failed: u32,
}

/// SYNs from all addresses of the network but ours, while somebody honest tries to get in.
fn pour(wire: Wire, port: u16, attempt: impl Fn() -> Result<Duration, String>) -> (u32, Tries) {
    let mut ether = Ether::open(wire);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = thread::spawn(move || {
        let (end, mut sent) = (Instant::now() + LASTS, 0_u32);
        while Instant::now() < end && sent < MOST {
            let route = ether.from(3 + (sent % 250) as u8);
            let from = 1024 + (sent.wrapping_mul(7919) % 60_000) as u16;
            let tcp =
                Tcp { from, to: port, seq: sent.wrapping_mul(0x9e37_79b9), ack: 0, flags: SYN, window: 1024 };
            ether.send(&route.tcp(&tcp, &[2, 4, 5, 0xb4], &[]));
            sent += 1;
            if sent % 64 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        stopped.store(true, Ordering::Relaxed);
        ether.must_stand();
        sent
    });
    let mut tries = Tries::default();
    while !stop.load(Ordering::Relaxed) {
        match attempt() {
            Ok(_) => tries.worked += 1,
            Err(_) => tries.failed += 1,
        }
        thread::sleep(Duration::from_millis(20));
    }
    (flood.join().unwrap(), tries)
}
