//! A storage service in memory, for tests and simulations: the other end of the protocol, as strict as a server can
//! be, with a cache that a crash loses and requests that are executed when the test says so.
//!
//! A [`Disk`] outlives its [`Session`]s. A session parses what the client sends into commands that wait; each is
//! executed, in any order, by [`Session::execute`], even after its connection is gone: that is how a ghost write comes
//! about. What the client must not do is noted in [`Session::violations`].

use crate::export::BlockSizes;
use crate::wire::{self, chunk, command, command_flag, error, handshake_flag, info, option, option_reply};
use crate::wire::{REQUEST_HEADER, TransmissionFlags, u16_at, u32_at, u64_at};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

/// How a service presents its export.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The export's name.
    pub name: String,
    /// Transmission flags.
    pub flags: TransmissionFlags,
    /// Size constraints to advertise and enforce.
    pub block_sizes: Option<BlockSizes>,
    /// Agree to structured replies.
    pub structured: bool,
    /// Know `NBD_OPT_GO`.
    pub go: bool,
    /// Offer to leave out the zeroes after `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let flags = [
            TransmissionFlags::HAS_FLAGS,
            TransmissionFlags::SEND_FLUSH,
            TransmissionFlags::SEND_FUA,
            TransmissionFlags::SEND_TRIM,
            TransmissionFlags::SEND_WRITE_ZEROES,
            TransmissionFlags::SEND_CACHE,
        ];
        Self {
            name: "disk".to_string(),
            flags: TransmissionFlags(flags.iter().fold(0, |all, flag| all | flag.0)),
            block_sizes: None,
            structured: true,
            go: true,
            no_zeroes: true,
        }
    }
}

/// What the service stores.
#[derive(Clone, Debug)]
pub struct Disk {
    content: Vec<u8>,
    durable: Vec<u8>,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(size: usize) -> Self {
        Self { content: vec![0; size], durable: vec![0; size] }
    }

    /// What a read finds.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What a crash leaves.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Lose the cache.
    pub fn crash(&mut self) {
        self.content.copy_from_slice(&self.durable);
    }

    /// Become larger or smaller.
    pub fn resize(&mut self, size: usize) {
        self.content.resize(size, 0);
        self.durable.resize(size, 0);
    }

    fn flush(&mut self) {
        self.durable.copy_from_slice(&self.content);
    }
}

/// A command that waits for its execution.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its header.
    pub request: wire::Request,
    /// What followed the header.
    pub payload: Vec<u8>,
}

/// How a reply is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As few bytes as possible.
    Plain,
    /// If structured: in pieces of random size and order, zeroes as holes. The number is the seed.
    Pieces(u64),
    /// This error instead of an outcome.
    Error(u32),
    /// Not executed, not answered.
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ClientFlags,
    Options,
    Transmission,
    Ended,
}

/// One connection, seen from the service.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    size: u64,
    state: State,
    input: Vec<u8>,
    /// Bytes for the client.
    pub output: Vec<u8>,
    /// Commands that were received and not executed.
    pub waiting: Vec<Waiting>,
    /// What the client did that it must not.
    pub violations: Vec<String>,
    no_zeroes: bool,
    structured: bool,
}

impl Session {
    /// A new connection to `disk`.
    pub fn new(settings: &Settings, disk: &Disk) -> Self {
        let mut output = Vec::new();
        output.extend_from_slice(&wire::GREETING_MAGIC.to_be_bytes());
        output.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        let no_zeroes = if settings.no_zeroes { handshake_flag::NO_ZEROES } else { 0 };
        output.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | no_zeroes).to_be_bytes());
        Self {
            settings: settings.clone(),
            size: disk.content.len() as u64,
            state: State::ClientFlags,
            input: Vec::new(),
            output,
            waiting: Vec::new(),
            violations: Vec::new(),
            no_zeroes: false,
            structured: false,
        }
    }

    /// Whether the client has said farewell, or was thrown out.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(used) = self.step() {
            self.input.drain(..used);
        }
    }

    /// Take one element of the input in, if it is complete; tells its length.
    fn step(&mut self) -> Option<usize> {
        let have = self.input.len();
        match self.state {
            State::ClientFlags => (have >= 4).then(|| {
                let flags = u32_at(&self.input, 0);
                let offered = 1 | u32::from(self.settings.no_zeroes) << 1;
                self.require(flags & !offered == 0, "client flags that were not offered");
                self.no_zeroes = flags & 2 != 0;
                self.state = State::Options;
                4
            }),
            State::Options => {
                let total = 16 + if have >= 16 { u32_at(&self.input, 12) as usize } else { 0 };
                (have >= total).then(|| {
                    self.require(u64_at(&self.input, 0) == wire::OPTION_MAGIC, "an option without magic");
                    let data = self.input[16..total].to_vec();
                    self.option(u32_at(&self.input, 8), &data);
                    total
                })
            }
            State::Transmission => {
                let header = self.input.first_chunk::<REQUEST_HEADER>()?;
                let Some(request) = wire::Request::read(header) else {
                    self.require(false, "a request without magic");
                    self.state = State::Ended;
                    return None;
                };
                let payload = if request.command == command::WRITE { request.length as usize } else { 0 };
                let total = REQUEST_HEADER + payload;
                (have >= total).then(|| {
                    let payload = self.input[REQUEST_HEADER..total].to_vec();
                    self.command(request, payload);
                    total
                })
            }
            State::Ended => {
                self.require(have == 0, "bytes after the farewell");
                None
            }
        }
    }

    fn require(&mut self, kept: bool, rule: &str) {
        if !kept {
            self.violations.push(rule.to_string());
        }
    }

    fn option(&mut self, code: u32, data: &[u8]) {
        match code {
            option::STRUCTURED_REPLY if self.settings.structured => {
                self.structured = true;
                self.reply(code, option_reply::ACK, &[]);
            }
            option::SET_META_CONTEXT if self.structured => {
                let mut context = 7u32.to_be_bytes().to_vec();
                context.extend_from_slice(b"base:allocation");
                self.reply(code, option_reply::META_CONTEXT, &context);
                self.reply(code, option_reply::ACK, &[]);
            }
            option::GO if self.settings.go => self.go(data),
            option::EXPORT_NAME => {
                self.state = State::Ended;
                if data == self.settings.name.as_bytes() {
                    self.state = State::Transmission;
                    self.output.extend_from_slice(&self.size.to_be_bytes());
                    self.output.extend_from_slice(&self.settings.flags.0.to_be_bytes());
                    self.output.resize(self.output.len() + if self.no_zeroes { 0 } else { 124 }, 0);
                }
            }
            option::LIST => {
                let mut entry = (self.settings.name.len() as u32).to_be_bytes().to_vec();
                entry.extend_from_slice(self.settings.name.as_bytes());
                entry.extend_from_slice(b"in memory");
                self.reply(code, option_reply::SERVER, &entry);
                self.reply(code, option_reply::ACK, &[]);
            }
            option::ABORT => {
                self.reply(code, option_reply::ACK, &[]);
                self.state = State::Ended;
            }
            _ => self.reply(code, option_reply::ERR_UNSUP, b"not known here"),
        }
    }

    fn go(&mut self, data: &[u8]) {
        let name = u32_at(data, 0) as usize;
        if data[4..4 + name] != *self.settings.name.as_bytes() {
            return self.reply(option::GO, option_reply::ERR_UNKNOWN, b"no such export");
        }
        let wants_sizes = data[4 + name + 2..].chunks(2).any(|fact| u16_at(fact, 0) == info::BLOCK_SIZE);
        self.require(wants_sizes, "GO without asking for the block size");
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend_from_slice(&self.size.to_be_bytes());
        export.extend_from_slice(&self.settings.flags.0.to_be_bytes());
        self.reply(option::GO, option_reply::INFO, &export);
        if let Some(sizes) = self.settings.block_sizes {
            let mut fact = info::BLOCK_SIZE.to_be_bytes().to_vec();
            for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                fact.extend_from_slice(&size.to_be_bytes());
            }
            self.reply(option::GO, option_reply::INFO, &fact);
        }
        self.reply(option::GO, option_reply::ACK, &[]);
        self.state = State::Transmission;
    }

    fn reply(&mut self, code: u32, kind: u32, payload: &[u8]) {
        self.output.extend_from_slice(&option_reply_bytes(code, kind, payload));
    }

    fn command(&mut self, request: wire::Request, payload: Vec<u8>) {
        let wire::Request { flags, command, cookie, offset, length } = request;
        if command == command::DISC {
            self.require(self.waiting.is_empty(), "a farewell with requests in flight");
            self.state = State::Ended;
            return;
        }
        let twin = self.waiting.iter().any(|other| other.request.cookie == cookie);
        self.require(!twin, "a cookie in use");
        let sizes = self.settings.block_sizes.unwrap_or(BlockSizes { minimum: 512, ..BlockSizes::DEFAULT });
        let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= self.size);
        let aligned = (offset | u64::from(length)) & u64::from(sizes.minimum - 1) == 0;
        self.require(inside && aligned, "a range outside of the export or across blocks");
        self.require((length == 0) == (command == command::FLUSH), "an empty range");
        let has = |flag| self.settings.flags.contains(flag);
        let (offered, carries) = match command {
            command::READ => (true, true),
            command::WRITE => (!has(TransmissionFlags::READ_ONLY), true),
            command::FLUSH => (has(TransmissionFlags::SEND_FLUSH), false),
            command::TRIM => (has(TransmissionFlags::SEND_TRIM), false),
            command::CACHE => (has(TransmissionFlags::SEND_CACHE), false),
            command::WRITE_ZEROES => (has(TransmissionFlags::SEND_WRITE_ZEROES), false),
            _ => (false, false),
        };
        let may_fua = has(TransmissionFlags::SEND_FUA);
        self.require(offered, "a command that is not offered");
        self.require(!carries || length <= sizes.maximum, "a payload that is too long");
        let fua = if may_fua { command_flag::FUA } else { 0 };
        let no_hole = if command == command::WRITE_ZEROES { command_flag::NO_HOLE } else { 0 };
        self.require(flags & !(fua | no_hole) == 0, "a command flag that is not offered");
        self.waiting.push(Waiting { request, payload });
    }

    /// Execute one of the waiting commands and answer it.
    pub fn execute(&mut self, disk: &mut Disk, index: usize, shape: Shape) {
        let Waiting { request, payload } = self.waiting.remove(index);
        let range = request.offset as usize..request.offset as usize + request.length as usize;
        match (shape, request.command) {
            (Shape::Dropped, _) => return,
            (Shape::Error(code), _) => return self.answer_error(&request, code),
            _ if range.end > disk.content.len() => return self.answer_error(&request, error::EINVAL),
            (_, command::READ) => return self.answer_read(&request, &disk.content[range], shape),
            (_, command::WRITE) => disk.content[range.clone()].copy_from_slice(&payload),
            (_, command::WRITE_ZEROES) => disk.content[range.clone()].fill(0),
            // What is trimmed may read as anything; this is the least welcome of what is allowed.
            (_, command::TRIM) => disk.content[range.clone()].fill(0xdd),
            (_, command::FLUSH) => disk.flush(),
            _ => {}
        }
        if request.flags & command_flag::FUA != 0 {
            disk.durable[range.clone()].copy_from_slice(&disk.content[range]);
        }
        match shape {
            Shape::Pieces(seed) if self.structured && seed % 2 == 0 => {
                self.output.extend_from_slice(&chunk_bytes(
                    chunk::FLAG_DONE,
                    chunk::NONE,
                    request.cookie,
                    &[],
                ));
            }
            _ => self.output.extend_from_slice(&simple_reply_bytes(0, request.cookie)),
        }
    }

    fn answer_error(&mut self, request: &wire::Request, code: u32) {
        if !self.structured {
            return self.output.extend_from_slice(&simple_reply_bytes(code, request.cookie));
        }
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(&4u16.to_be_bytes());
        payload.extend_from_slice(b"test");
        self.output.extend_from_slice(&chunk_bytes(chunk::FLAG_DONE, chunk::ERROR, request.cookie, &payload));
    }

    fn answer_read(&mut self, request: &wire::Request, data: &[u8], shape: Shape) {
        let cookie = request.cookie;
        if !self.structured {
            self.output.extend_from_slice(&simple_reply_bytes(0, cookie));
            self.output.extend_from_slice(data);
            return;
        }
        let Shape::Pieces(seed) = shape else {
            let payload = [&request.offset.to_be_bytes(), data].concat();
            let reply = chunk_bytes(chunk::FLAG_DONE, chunk::OFFSET_DATA, cookie, &payload);
            return self.output.extend_from_slice(&reply);
        };
        let mut seed = seed;
        let mut random = |end: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % end.max(1)
        };
        let mut cuts: Vec<usize> = (0..random(12)).map(|_| random(data.len())).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, random(index + 1));
        }
        let separate_end = random(2) == 0;
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            let flags = if index == last && !separate_end { chunk::FLAG_DONE } else { 0 };
            let offset = (request.offset + piece.start as u64).to_be_bytes();
            let bytes = &data[piece];
            let reply = if bytes.iter().all(|&byte| byte == 0) {
                let size = (bytes.len() as u32).to_be_bytes();
                chunk_bytes(flags, chunk::OFFSET_HOLE, cookie, &[&offset[..], &size].concat())
            } else {
                chunk_bytes(flags, chunk::OFFSET_DATA, cookie, &[&offset[..], bytes].concat())
            };
            self.output.extend_from_slice(&reply);
        }
        if separate_end {
            self.output.extend_from_slice(&chunk_bytes(chunk::FLAG_DONE, chunk::NONE, cookie, &[]));
        }
    }

    /// Fail loudly if the client did what it must not.
    ///
    /// # Panics
    /// If there are violations.
    pub fn assert_obeyed(&self) {
        assert!(self.violations.is_empty(), "{}", format!("{:?}", self.violations));
    }
}

/// A reply to an option.
pub fn option_reply_bytes(code: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A simple reply without payload.
pub fn simple_reply_bytes(error: u32, cookie: u64) -> Vec<u8> {
    let mut bytes = wire::SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&error.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes
}

/// One chunk of a structured reply.
pub fn chunk_bytes(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
