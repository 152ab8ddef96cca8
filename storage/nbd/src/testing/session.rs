//! One connection, seen from the service: its state, and the bytes on their way in.

use super::{Encryption, Fence, Medium, Settings, Waiting};
use crate::settings::Headers;
use crate::wire::{self, EXTENDED_HEADER, ExtendedRequest, REQUEST_HEADER, command, command_flag};
use crate::wire::{handshake_flag, u32_at, u64_at};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

/// Bytes of the longest option that is listened to.
const MAX_OPTION: usize = 1 << 16;
/// Bytes of the longest payload that is listened to.
const MAX_PAYLOAD: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    ClientFlags,
    Options,
    Tls,
    Transmission,
    Ended,
}

/// Which contexts are selected, and of which export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) export: usize,
    pub(super) allocation: bool,
    pub(super) incarnation: bool,
    pub(super) writer: bool,
}

/// One connection, seen from the service.
#[derive(Clone, Debug)]
pub struct Session {
    /// Each with its size. What is not about one export is as the first has it.
    pub(super) exports: Vec<(Settings, u64)>,
    /// The export that was entered, or is being asked about.
    pub(super) at: usize,
    pub(super) state: State,
    input: Vec<u8>,
    /// Bytes for the client.
    pub output: Vec<u8>,
    /// Commands that were received and not executed.
    pub waiting: Vec<Waiting>,
    /// What the client did that it must not.
    pub violations: Vec<String>,
    pub(super) no_zeroes: bool,
    pub(super) headers: Headers,
    pub(super) selected: Selected,
    /// A claim that waits for its judgement, with what was selected beside it.
    pub(super) fence: Option<(Fence, Selected)>,
    pub(super) claim: Option<Fence>,
    pub(super) in_tls: bool,
    is_cut: bool,
}

impl Session {
    /// A new connection to a service whose only export is `disk`.
    pub fn new(settings: &Settings, disk: &impl Medium) -> Self {
        Self::serving(vec![(settings.clone(), disk.size())])
    }

    /// A new connection to a service of these exports, at least one, each with its size in bytes. What is agreed on
    /// before an export is named is as the first of them has it.
    ///
    /// # Panics
    /// Without an export.
    pub fn serving(exports: Vec<(Settings, u64)>) -> Self {
        let mut output = Vec::new();
        output.extend_from_slice(&wire::GREETING_MAGIC.to_be_bytes());
        output.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        let no_zeroes = if exports[0].0.no_zeroes { handshake_flag::NO_ZEROES } else { 0 };
        output.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | no_zeroes).to_be_bytes());
        Self {
            exports,
            at: 0,
            state: State::ClientFlags,
            input: Vec::new(),
            output,
            waiting: Vec::new(),
            violations: Vec::new(),
            no_zeroes: false,
            headers: Headers::Simple,
            selected: Selected::default(),
            fence: None,
            claim: None,
            in_tls: false,
            is_cut: false,
        }
    }

    /// Whether the client has said farewell, or was thrown out.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Which export was entered, in the order of the session's.
    pub fn export(&self) -> Option<usize> {
        (self.state == State::Transmission).then_some(self.at)
    }

    /// Whether extended headers were agreed on.
    pub fn is_extended(&self) -> bool {
        self.headers == Headers::Extended
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.exports[self.at].0
    }

    /// Fail loudly if the client did what it must not.
    ///
    /// # Panics
    /// If there are violations.
    pub fn assert_obeyed(&self) {
        assert!(self.violations.is_empty(), "{}", format!("{:?}", self.violations));
    }

    pub(super) fn require(&mut self, kept: bool, rule: &str) {
        if !kept {
            self.violations.push(rule.to_string());
        }
    }
}

/// TLS and fencing.
impl Session {
    /// Whether the client was told to go on in TLS: once [`Session::output`] is sent, the handshake is to be made, and then
    /// [`Session::tls_established`] called.
    pub fn wants_tls(&self) -> bool {
        self.state == State::Tls
    }

    /// TLS stands: from here on all bytes, in and out, are those inside of it.
    pub fn tls_established(&mut self) {
        if self.state == State::Tls {
            self.in_tls = true;
            self.state = State::Options;
        }
    }

    /// A claim that waits for its judgement. Until then nothing else is heard.
    pub fn fence_request(&self) -> Option<&Fence> {
        self.fence.as_ref().map(|(fence, _)| fence)
    }

    /// Grant the claim that waits, when what it cuts is over, or refuse it.
    pub fn fence(&mut self, granted: bool) {
        let Some((fence, selected)) = self.fence.take() else { return };
        if granted {
            self.grant(fence, selected);
        } else {
            self.refuse_claim();
        }
        self.receive(&[]);
    }

    /// The claim that was granted.
    pub fn claim(&self) -> Option<&Fence> {
        self.claim.as_ref()
    }

    /// Nothing that came by this connection is executed any more, and nothing that comes: a claim has cut it. What waits is
    /// answered as by a server that shuts down, and so is what follows.
    pub fn cut(&mut self) {
        self.is_cut = true;
        self.fence = None;
        if self.state == State::Transmission {
            for waiting in core::mem::take(&mut self.waiting) {
                self.answer_error(&waiting, wire::error::ESHUTDOWN);
            }
        } else {
            self.state = State::Ended;
        }
    }

    /// Whether [`Session::cut`] was called.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// Bytes.
impl Session {
    /// Bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut input = core::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut used = 0;
        while self.fence.is_none()
            && let Some(count) = self.step(&input[used..])
        {
            used += count;
        }
        input.drain(..used);
        self.input = input;
    }

    /// Take one element of the input in, if it is complete; tells its length.
    fn step(&mut self, input: &[u8]) -> Option<usize> {
        match self.state {
            State::ClientFlags => {
                let flags = u32_at(input.get(..4)?, 0);
                let no_zeroes = self.exports[0].0.no_zeroes;
                let offered = 1 | u32::from(no_zeroes) << 1;
                self.require(flags & !offered == 0, "client flags that were not offered");
                self.no_zeroes = flags & 2 != 0;
                self.state = State::Options;
                Some(4)
            }
            State::Options => {
                let header = input.get(..16)?;
                let (magic, code) = (u64_at(header, 0), u32_at(header, 8));
                let length = u32_at(header, 12) as usize;
                if magic != wire::OPTION_MAGIC || length > MAX_OPTION {
                    return self.throw_out("an option without magic, or without end");
                }
                let total = 16 + length;
                let data = input.get(16..total)?;
                self.option(code, data);
                let clear_behind = self.state == State::Tls && input.len() > total;
                if clear_behind { self.throw_out("bytes in clear behind STARTTLS") } else { Some(total) }
            }
            State::Tls if input.is_empty() => None,
            State::Tls => self.throw_out("bytes in clear behind STARTTLS"),
            State::Transmission if self.headers == Headers::Extended => {
                let Some(request) = ExtendedRequest::read(input.first_chunk::<EXTENDED_HEADER>()?) else {
                    return self.throw_out("a request without magic");
                };
                let has_payload = request.flags & command_flag::PAYLOAD_LEN != 0;
                self.element(input, EXTENDED_HEADER, request, has_payload)
            }
            State::Transmission => {
                let Some(request) = wire::Request::read(input.first_chunk::<REQUEST_HEADER>()?) else {
                    return self.throw_out("a request without magic");
                };
                let wire::Request { flags, command, cookie, offset, length } = request;
                let request = ExtendedRequest { flags, command, cookie, offset, length: length.into() };
                self.element(input, REQUEST_HEADER, request, command == command::WRITE)
            }
            State::Ended => {
                self.require(input.is_empty(), "bytes after the farewell");
                (!input.is_empty()).then_some(input.len())
            }
        }
    }

    fn element(
        &mut self,
        input: &[u8],
        header: usize,
        request: ExtendedRequest,
        has_payload: bool,
    ) -> Option<usize> {
        let payload = if has_payload { request.length } else { 0 };
        if payload > MAX_PAYLOAD {
            return self.throw_out("a payload beyond all measure");
        }
        let total = header + payload as usize;
        let payload = input.get(header..total)?.to_vec();
        self.command(request, payload);
        Some(total)
    }

    fn throw_out(&mut self, reason: &str) -> Option<usize> {
        self.require(false, reason);
        self.state = State::Ended;
        None
    }

    pub(super) fn needs_tls(&self) -> bool {
        self.exports[0].0.tls == Encryption::Required && !self.in_tls
    }
}
