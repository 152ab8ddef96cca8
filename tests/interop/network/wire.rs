//! A network at the level of frames, from this side of it: any frame goes out, every frame of the appliance comes in.

use super::frame::Route;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::scratch::Scratch;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// The sender of what is forged.
pub(crate) const NOBODY: [u8; 6] = [0x52, 0x54, 0, 0x77, 0xee, 0xee];

/// One network.
pub(crate) struct Ether {
    wire: Wire,
    mac: [u8; 6],
    datagrams: UdpSocket,
    bridge: SocketAddr,
    socat: Process,
    _scratch: Scratch,
}

impl Ether {
    /// Opens `wire`. A packet socket is not to be had without `unsafe`, so socat has it, and each datagram between us
    /// is a frame.
    pub(crate) fn open(wire: Wire) -> Self {
        let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let datagrams = local();
        let bridge = local().local_addr().unwrap();
        let here = datagrams.local_addr().unwrap().port();
        let mut socat = Command::new("socat");
        socat.args([
            "-b",
            "70000",
            &format!("UDP4-DATAGRAM:127.0.0.1:{here},bind=127.0.0.1:{}", bridge.port()),
        ]);
        socat.arg(format!("INTERFACE:{}", wire.name()));
        let scratch = Scratch::new().unwrap();
        let socat = Process::start("socat", socat, &scratch.file("socat.log")).unwrap();
        let mac = [0xff; 6];
        let mut ether = Self { wire, mac, datagrams, bridge, socat, _scratch: scratch };
        ether.mac = ether.introduce(200);
        ether
    }

    /// Which one it is.
    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// The way from address `n` of this network to the appliance.
    pub(crate) fn from(&self, n: u8) -> Route {
        let from_mac = [NOBODY[0], NOBODY[1], NOBODY[2], NOBODY[3], NOBODY[4], n];
        Route { to_mac: self.mac, from_mac, from: self.wire.address(n), to: self.wire.appliance() }
    }

    /// The way from anywhere to the appliance.
    pub(crate) fn forged(&self, from: Ipv4Addr) -> Route {
        Route { from, ..self.from(0xee) }
    }

    /// Lets the appliance know where address `n` is, and waits for its answer, which has its MAC address.
    pub(crate) fn introduce(&self, n: u8) -> [u8; 6] {
        let request = self.from(n).arp_request();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            self.send(&request);
            let speaker = self.wire.appliance().octets();
            let is_reply = |frame: &[u8]| {
                frame.get(12..14) == Some(&[8, 6])
                    && frame.get(21) == Some(&2)
                    && frame.get(28..32) == Some(&speaker)
            };
            if let Some(reply) = self.hear_any(Duration::from_millis(50), is_reply) {
                return reply[6..12].try_into().unwrap();
            }
        }
        panic!("the appliance does not answer ARP on {}", self.wire.name());
    }

    /// Puts a frame on the network. That this host cannot send a frame of some kind is not our business.
    pub(crate) fn send(&self, frame: &[u8]) {
        let _ = self.datagrams.send_to(frame, self.bridge);
    }

    /// The next frame of the appliance that is like that.
    pub(crate) fn hear(&self, limit: Duration, like: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.hear_any(limit, |frame| frame.get(6..12) == Some(&self.mac) && like(frame))
    }

    /// The next frame of anybody that is like that.
    fn hear_any(&self, limit: Duration, like: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        let mut frame = vec![0; 70_000];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.datagrams.set_read_timeout(Some(left)).unwrap();
            match self.datagrams.recv(&mut frame) {
                Ok(count) if like(&frame[..count]) => {
                    frame.truncate(count);
                    return Some(frame);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // Nobody listens at the bridge yet.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// All frames of the appliance for a while that are like that.
    pub(crate) fn listen(&self, limit: Duration, like: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + limit;
        let left = || end.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.hear(left(), &like)).collect()
    }

    /// Forgets what has come so far.
    pub(crate) fn flush(&self) {
        self.datagrams.set_nonblocking(true).unwrap();
        while self.datagrams.recv(&mut [0; 14]).is_ok() {}
        self.datagrams.set_nonblocking(false).unwrap();
    }

    /// Fails if the bridge is gone.
    pub(crate) fn must_stand(&mut self) {
        self.socat
            .must_run()
            .unwrap_or_else(|error| panic!("{error}\n{}", process::last_lines(&self.socat.output(), 5)));
    }
}
