//! The engine as a whole: scripted servers, the service in memory, hostile streams, time.

mod extended;
mod extents;
mod faults;
mod fencing;
mod fuzz;
mod handshake;
mod loss;
mod probe;
mod replies;
mod simulation;
mod straight;
mod time;
mod tls;

use crate::testing::{Disk, Session, Settings, Shape};
use crate::{Client, Event, Fatal, Limits, wire};
use kernel_runtime::Instant;
use storage_block::{Completion, Error, Extent, Operation, Pool, Request, Share};

/// A seeded generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }
}

/// So many seeds, the same at each run unless `NBD_FIRST_SEED` says where others begin.
pub(crate) fn seeds(count: u64) -> core::ops::Range<u64> {
    let first = std::env::var("NBD_FIRST_SEED").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    first..first + count
}

pub(crate) fn at(micros: u64) -> Instant {
    Instant::from_micros(micros)
}

pub(crate) fn share() -> Share {
    Pool::new(&[(4096, 64), (1 << 16, 16)]).share(1 << 30)
}

/// Give `bytes` to the engine, at most `step` at a time.
pub(crate) fn feed(client: &mut Client, mut bytes: &[u8], step: usize) -> Result<(), Fatal> {
    while !bytes.is_empty() {
        let space = client.space();
        assert!(!space.is_empty(), "there is always room");
        let count = space.len().min(bytes.len()).min(step);
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        client.received(Instant::ZERO, count)?;
    }
    Ok(())
}

/// All that the engine wants to send now.
pub(crate) fn drain(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = client.poll_transmit() {
        assert!(!bytes.is_empty());
        all.extend_from_slice(bytes);
        let count = bytes.len();
        client.transmitted(Instant::ZERO, count);
    }
    all
}

/// The commands among bytes that were sent, with either header.
pub(crate) fn commands(mut bytes: &[u8]) -> Vec<wire::Request> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let (request, header) = match bytes.first_chunk().and_then(wire::Request::read) {
            Some(request) => (request, wire::REQUEST_HEADER),
            None => {
                let wide = bytes.first_chunk().and_then(wire::ExtendedRequest::read).expect("a request");
                let wire::ExtendedRequest { flags, command, cookie, offset, length } = wide;
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                (wire::Request { flags, command, cookie, offset, length }, wire::EXTENDED_HEADER)
            }
        };
        let has_payload =
            request.command == wire::command::WRITE || request.flags & wire::command_flag::PAYLOAD_LEN != 0;
        let payload = if has_payload { request.length as usize } else { 0 };
        bytes = &bytes[header + payload..];
        commands.push(request);
    }
    commands
}

/// Bytes for the extents of a request that asks for some.
pub(crate) const STATUS: usize = 8 * Extent::SIZE;

/// A client with its handshake done, and the service at the other end.
pub(crate) struct Pair {
    pub(crate) client: Client,
    pub(crate) session: Session,
    pub(crate) disk: Disk,
    pub(crate) share: Share,
}

impl Pair {
    pub(crate) fn new(settings: &Settings, size: usize) -> Self {
        Self::with_limits(settings, size, &Limits::DEFAULT)
    }

    pub(crate) fn with_limits(settings: &Settings, size: usize, limits: &Limits) -> Self {
        let client = Client::new(limits, &settings.name).expect("sound limits");
        Self::with_client(client, settings, size)
    }

    pub(crate) fn with_client(client: Client, settings: &Settings, size: usize) -> Self {
        let disk = Disk::new(size);
        let session = Session::new(settings, &disk);
        let mut pair = Self { client, session, disk, share: share() };
        pair.connect(settings);
        pair
    }

    /// Negotiate over a new connection.
    pub(crate) fn connect(&mut self, settings: &Settings) {
        self.session = Session::new(settings, &self.disk);
        self.client.connected(Instant::ZERO);
        loop {
            self.deliver().expect("a sound server");
            match self.client.poll_event() {
                Some(event) => return assert!(matches!(event, Event::Ready)),
                None => {
                    self.session.receive(&drain(&mut self.client));
                    self.session.fence(true);
                }
            }
        }
    }

    /// Move the server's bytes to the client.
    pub(crate) fn deliver(&mut self) -> Result<(), Fatal> {
        let bytes = core::mem::take(&mut self.session.output);
        feed(&mut self.client, &bytes, usize::MAX)
    }

    /// Move the client's bytes to the server; returns the commands among them.
    pub(crate) fn send(&mut self) -> Vec<wire::Request> {
        let bytes = drain(&mut self.client);
        self.session.receive(&bytes);
        commands(&bytes)
    }

    pub(crate) fn request(&self, cookie: u64, operation: Operation, offset: u64, length: u64) -> Request {
        let room = match operation {
            Operation::Read | Operation::Write { .. } => Some(length as usize),
            Operation::Status => Some(STATUS),
            _ => None,
        };
        let buffer = room.map(|room| {
            let mut buffer = self.share.take(room).expect("a buffer");
            buffer.fill(cookie as u8);
            buffer
        });
        Request { cookie, operation, offset, length, buffer }
    }

    pub(crate) fn submit(&mut self, cookie: u64, operation: Operation, offset: u64, length: u64) {
        let request = self.request(cookie, operation, offset, length);
        self.client.submit(Instant::ZERO, request).expect("a free slot");
    }

    pub(crate) fn completion(&mut self) -> Option<Completion> {
        match self.client.poll_event()? {
            Event::Completed(completion) => Some(completion),
            other => panic!("{other:?}"),
        }
    }

    /// Submit, execute as often as it takes, and tell the outcome.
    pub(crate) fn run(
        &mut self,
        operation: Operation,
        offset: u64,
        length: u64,
        shape: Shape,
    ) -> Result<(), Error> {
        self.submit(1, operation, offset, length);
        loop {
            self.send();
            while !self.session.waiting.is_empty() {
                self.session.execute(&mut self.disk, 0, shape);
            }
            self.deliver().expect("a sound server");
            if let Some(completion) = self.completion() {
                self.session.assert_obeyed();
                return completion.result;
            }
        }
    }
}
