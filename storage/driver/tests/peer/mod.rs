//! A disk whose service is memory: for the test of allocations and for the benchmark.

use kernel_runtime::Instant;
use std::time::Duration;
use storage_block::{Completion, Operation, Pool, Request, Share};
use storage_driver::{Dial, Driver, Event, Limits, Rate, Settings};
use storage_nbd::testing::{self, Disk, Session, chunk_bytes, simple_reply_bytes};
use storage_nbd::wire::{self, REQUEST_HEADER, chunk, command};

/// Bytes of each request.
pub(crate) const BLOCK: usize = 4096;
/// Requests in flight together.
pub(crate) const DEPTH: usize = 32;
/// Bytes of the disk in memory.
pub(crate) const SIZE: usize = 1 << 20;
/// Acknowledged writes that are kept, with their bytes.
const ENTRIES: usize = 512;
/// What a connection's own memory holds.
const ROOM: usize = 256 << 10;

/// A driver with its journal, and memory for requests.
pub(crate) struct Side {
    pub(crate) driver: Driver,
    share: Share,
    /// Counts requests; each is for the block behind that of the one before.
    count: u64,
    blocks: u64,
}

impl Side {
    /// For the export of this name, of which so many bytes are used.
    pub(crate) fn new(export: &str, size: u64) -> Self {
        let limits = Limits {
            nbd: storage_nbd::Limits { slots: DEPTH, ..storage_nbd::Limits::DEFAULT },
            paths: 1,
            entries: ENTRIES,
            hold: Duration::from_secs(25),
            hold_off: Duration::from_secs(30),
            flush_after: Duration::from_secs(10),
        };
        let settings = Settings {
            nbd: storage_nbd::Settings::of(export),
            portals: 1,
            seed: 1,
            rate: Rate::default(),
            portals_fence: false,
            assume_durable: false,
        };
        let journal = Pool::new(&[(BLOCK, ENTRIES)]);
        let journal = journal.share(journal.capacity());
        let driver = Driver::new(Instant::ZERO, &limits, &settings, journal).expect("sound settings");
        let pool = Pool::new(&[(BLOCK, 2 * DEPTH + ENTRIES)]);
        Self { driver, share: pool.share(pool.capacity()), count: 0, blocks: size / BLOCK as u64 }
    }

    /// The next request.
    pub(crate) fn request(&mut self, operation: Operation) -> Request {
        self.count += 1;
        let offset = self.count % self.blocks * BLOCK as u64;
        let buffer = self.share.take(BLOCK);
        assert!(buffer.is_some(), "there is memory for all that are in flight");
        Request { cookie: self.count, operation, offset, length: BLOCK as u64, buffer }
    }

    /// Fetch what has ended. Answers how many there were.
    pub(crate) fn completions(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.driver.poll_event() {
            if let Event::Completed(Completion { result, .. }) = event {
                assert_eq!(result, Ok(()));
                count += 1;
            }
        }
        count
    }
}

/// A driver that is connected to a service in memory, which answers all at once and costs nothing that counts.
pub(crate) struct Memory {
    pub(crate) side: Side,
    structured: bool,
    /// What the driver sends, and what it hears.
    room: Vec<u8>,
    answers: Vec<u8>,
    answer: Vec<u8>,
}

impl Memory {
    pub(crate) fn new(structured: bool) -> Self {
        let settings = testing::Settings { structured, ..testing::Settings::default() };
        let mut side = Side::new(&settings.name, SIZE as u64);
        let mut session = Session::new(&settings, &Disk::new(SIZE));
        let mut room = vec![0; ROOM];
        assert_eq!(side.driver.dial(0, Instant::ZERO), Dial::Now(0));
        side.driver.connected(0, Instant::ZERO);
        while !side.driver.is_up() {
            let bytes = core::mem::take(&mut session.output);
            let taken = side.driver.take(0, Instant::ZERO, &bytes, &mut ()).expect("a sound service");
            assert_eq!(taken, bytes.len());
            let count = side.driver.fill(0, Instant::ZERO, &mut room).expect("a sound service");
            session.receive(&room[..count]);
        }
        side.completions();
        let offset = [0; 8];
        let payload = [&offset[..], &[7; BLOCK]].concat();
        let answer = if structured {
            chunk_bytes(chunk::FLAG_DONE, chunk::OFFSET_DATA, 0, &payload)
        } else {
            [simple_reply_bytes(0, 0), payload[8..].to_vec()].concat()
        };
        let answers = Vec::with_capacity(DEPTH * (answer.len() + REQUEST_HEADER));
        Self { side, structured, room, answers, answer }
    }

    /// A full queue of requests, and their answers. `measured` is told before and after each thing the driver does.
    pub(crate) fn round(&mut self, operation: Operation, mut measured: impl FnMut(bool)) {
        let now = Instant::ZERO;
        for _ in 0..DEPTH {
            let request = self.side.request(operation);
            measured(true);
            self.side.driver.push(now, request);
            measured(false);
        }
        let mut ended = 0;
        while ended < DEPTH {
            measured(true);
            self.side.driver.dispatch(now);
            let filled = self.side.driver.fill(0, now, &mut self.room).expect("a sound service");
            measured(false);
            self.serve(filled);
            measured(true);
            let taken = self.side.driver.take(0, now, &self.answers, &mut ()).expect("sound answers");
            ended += self.side.completions();
            measured(false);
            assert!(taken == self.answers.len() && filled > 0, "it goes on");
        }
    }

    /// Answer what was sent.
    fn serve(&mut self, filled: usize) {
        self.answers.clear();
        let mut bytes = &self.room[..filled];
        while let Some(request) = bytes.first_chunk().and_then(wire::Request::read) {
            let wire::Request { command, cookie, offset, .. } = request;
            bytes = &bytes[REQUEST_HEADER..];
            match command {
                command::READ => {
                    let at = self.answers.len();
                    self.answers.extend_from_slice(&self.answer);
                    self.answers[at + 8..at + 16].copy_from_slice(&cookie.to_be_bytes());
                    if self.structured {
                        self.answers[at + 20..at + 28].copy_from_slice(&offset.to_be_bytes());
                    }
                }
                _ => {
                    let mut reply = [0; wire::SIMPLE_REPLY_HEADER];
                    reply[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
                    reply[8..].copy_from_slice(&cookie.to_be_bytes());
                    self.answers.extend_from_slice(&reply);
                    bytes = if command == command::WRITE { &bytes[BLOCK..] } else { bytes };
                }
            }
        }
        assert!(bytes.is_empty(), "whole requests");
    }
}
