//! One connection's part of the protocol, without its socket: bytes in, commands out; outcomes in, bytes out.
//!
//! `doc/proto.md` of the NetworkBlockDevice project: fixed newstyle, simple, structured and extended replies, and the
//! metadata contexts of README.md. Whatever a client sends, the answer is the protocol's error or the end.

use crate::claim::{self, Claim};
use storage_nbd::wire::{
    self, chunk, command, command_flag, error, handshake_flag, info, option, option_reply, state,
};
use storage_nbd::wire::{EXTENDED_HEADER, REQUEST_HEADER, TransmissionFlags};

/// Bytes of the longest option.
const MAX_OPTION: usize = 64 << 10;
/// Bytes before an option's data.
const OPTION_HEADER: usize = 16;
/// Numbers of the contexts on a connection.
const ALLOCATION: u32 = 1;
const INCARNATION: u32 = 2;
const WRITER: u32 = 3;
/// The protocol's own context.
const BASE_ALLOCATION: &str = "base:allocation";

/// What a client is told of the export.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name; the empty name means it too.
    pub name: String,
    /// For people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: TransmissionFlags,
    /// Minimum, preferred and maximum sizes.
    pub block_sizes: [u32; 3],
    /// The token of the present incarnation, if clients are told.
    pub incarnation: Option<String>,
    /// Whether writers are told apart.
    pub knows_writers: bool,
    /// The best form of replies: 0 simple, 1 structured, 2 extended.
    pub headers: u8,
}

/// A command to execute. Its range is inside the export, and it is one the export offers.
#[derive(Clone, Debug)]
pub struct Command {
    /// Of [`command`].
    pub code: u16,
    /// Of [`command_flag`].
    pub flags: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What a WRITE carries.
    pub payload: Vec<u8>,
}

impl Command {
    /// Whether it may change what the medium holds.
    #[must_use]
    pub fn changes_medium(&self) -> bool {
        matches!(self.code, command::WRITE | command::TRIM | command::WRITE_ZEROES)
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Heard {
    /// To be the writer. Nothing more is heard until [`Session::decide`].
    Claim(Claim),
    /// To have this done.
    Command(Command),
    /// To go, or it broke the protocol in this way: close the connection.
    End(Option<&'static str>),
}

/// A stretch of the export in one state of `base:allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u64,
    /// Of [`wire::state`].
    pub state: u32,
}

impl Extent {
    /// A hole that reads as zeroes, or data.
    #[must_use]
    pub fn new(length: u64, is_hole: bool) -> Self {
        Self { length, state: if is_hole { (state::HOLE | state::ZERO) as u32 } else { 0 } }
    }

    /// Whether it is a hole.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.state != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ClientFlags,
    Options,
    /// A claim waits for its decision.
    Claiming,
    Transmission,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Headers {
    Simple,
    Structured,
    Extended,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    state: State,
    input: Vec<u8>,
    /// Where the part of `input` begins that was not understood yet.
    at: usize,
    /// Bytes for the client.
    pub output: Vec<u8>,
    headers: Headers,
    no_zeroes: bool,
    /// Selected contexts, and those that a claim under way will select.
    contexts: Vec<(u32, String)>,
    asked: Vec<(u32, String)>,
    /// The size this client was told.
    size: u64,
}

type Refusal = (u32, &'static str);

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A new connection: its greeting is in `output`.
    #[must_use]
    pub fn new() -> Self {
        let mut output = wire::GREETING_MAGIC.to_be_bytes().to_vec();
        output.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        output.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
        Self {
            state: State::ClientFlags,
            input: Vec::new(),
            at: 0,
            output,
            headers: Headers::Simple,
            no_zeroes: false,
            contexts: Vec::new(),
            asked: Vec::new(),
            size: 0,
        }
    }

    /// Bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// The next thing the client wants, if it has been said to its end.
    pub fn hear(&mut self, export: &Export) -> Option<Heard> {
        loop {
            let input = &self.input[self.at..];
            match self.state {
                State::ClientFlags => {
                    let flags = u32_at(input.get(..4)?, 0);
                    let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
                    if flags & !known != 0 {
                        return self.end("client flags that nobody knows");
                    }
                    self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
                    self.at += 4;
                    self.state = State::Options;
                }
                State::Options => {
                    let header = input.get(..OPTION_HEADER)?;
                    let (code, length) = (u32_at(header, 8), u32_at(header, 12) as usize);
                    if u64_at(header, 0) != wire::OPTION_MAGIC || length > MAX_OPTION {
                        return self.end("an option without magic or measure");
                    }
                    let data = input.get(OPTION_HEADER..OPTION_HEADER + length)?.to_vec();
                    self.at += OPTION_HEADER + length;
                    if let Some(heard) = self.option(export, code, &data) {
                        return Some(heard);
                    }
                }
                State::Claiming => return None,
                State::Transmission => {
                    let (command, used) = match self.parse(export)? {
                        Ok(parsed) => parsed,
                        Err(reason) => return self.end(reason),
                    };
                    self.at += used;
                    if command.code == command::DISC {
                        self.state = State::Ended;
                        return Some(Heard::End(None));
                    }
                    match self.refusal(export, &command) {
                        Some(code) => self.failed(&command, code),
                        None => return Some(Heard::Command(command)),
                    }
                }
                State::Ended => return None,
            }
        }
    }

    fn end(&mut self, reason: &'static str) -> Option<Heard> {
        self.state = State::Ended;
        Some(Heard::End(Some(reason)))
    }

    fn option(&mut self, export: &Export, code: u32, data: &[u8]) -> Option<Heard> {
        let done = match code {
            option::STRUCTURED_REPLY if export.headers >= 1 => self.raise(Headers::Structured, data),
            option::EXTENDED_HEADERS if export.headers >= 2 => self.raise(Headers::Extended, data),
            option::SET_META_CONTEXT => match self.select(export, data) {
                Ok(Some(claim)) => {
                    self.state = State::Claiming;
                    return Some(Heard::Claim(claim));
                }
                Ok(None) => {
                    self.grant(export);
                    return None;
                }
                Err(refusal) => Err(refusal),
            },
            option::LIST_META_CONTEXT => self.list(export, data),
            option::INFO | option::GO => self.describe(export, code, data),
            option::EXPORT_NAME => {
                if !is_named(export, data) {
                    return self.end("no such export");
                }
                self.output.extend_from_slice(&export.size.to_be_bytes());
                self.output.extend_from_slice(&export.flags.0.to_be_bytes());
                self.output.resize(self.output.len() + if self.no_zeroes { 0 } else { 124 }, 0);
                self.transmit(export);
                return None;
            }
            option::LIST => {
                let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                entry.extend_from_slice(export.name.as_bytes());
                entry.extend_from_slice(export.description.as_bytes());
                self.answer(code, option_reply::SERVER, &entry);
                Ok(())
            }
            option::ABORT => {
                self.answer(code, option_reply::ACK, &[]);
                self.state = State::Ended;
                return Some(Heard::End(None));
            }
            _ => Err((option_reply::ERR_UNSUP, "not known here")),
        };
        match done {
            Ok(()) => self.answer(code, option_reply::ACK, &[]),
            Err((kind, text)) => self.answer(code, kind, text.as_bytes()),
        }
        if code == option::GO && done.is_ok() {
            self.transmit(export);
        }
        None
    }

    fn transmit(&mut self, export: &Export) {
        self.size = export.size;
        self.state = State::Transmission;
    }

    fn raise(&mut self, to: Headers, data: &[u8]) -> Result<(), Refusal> {
        if !data.is_empty() {
            return Err((option_reply::ERR_INVALID, "there is no data to this option"));
        }
        if self.headers == Headers::Extended {
            return Err((option_reply::ERR_EXT_HEADER_REQD, "headers are extended"));
        }
        self.headers = to;
        // What was selected was for another form of replies.
        self.contexts.clear();
        Ok(())
    }

    fn describe(&mut self, export: &Export, code: u32, data: &[u8]) -> Result<(), Refusal> {
        let invalid = (option_reply::ERR_INVALID, "malformed");
        let (name, rest) = string(data).ok_or(invalid)?;
        let count = usize::from(u16_at(rest.get(..2).ok_or(invalid)?, 0));
        let wanted = rest.get(2..).filter(|facts| facts.len() == 2 * count).ok_or(invalid)?;
        if !is_named(export, name) {
            return Err((option_reply::ERR_UNKNOWN, "no such export"));
        }
        let wants = |fact: u16| wanted.chunks_exact(2).any(|word| u16_at(word, 0) == fact);
        let mut facts = vec![
            (info::EXPORT, [&export.size.to_be_bytes()[..], &export.flags.0.to_be_bytes()].concat()),
            (info::BLOCK_SIZE, export.block_sizes.iter().flat_map(|size| size.to_be_bytes()).collect()),
        ];
        if wants(info::NAME) {
            facts.push((info::NAME, export.name.clone().into_bytes()));
        }
        if wants(info::DESCRIPTION) && !export.description.is_empty() {
            facts.push((info::DESCRIPTION, export.description.clone().into_bytes()));
        }
        for (fact, value) in facts {
            self.answer(code, option_reply::INFO, &[&fact.to_be_bytes()[..], &value].concat());
        }
        Ok(())
    }

    /// The contexts of an option that exist; what is not known is left out.
    fn queries<'a>(&self, export: &Export, data: &'a [u8]) -> Result<Vec<&'a str>, Refusal> {
        let invalid = (option_reply::ERR_INVALID, "malformed");
        if self.headers == Headers::Simple {
            return Err((option_reply::ERR_INVALID, "contexts need structured replies"));
        }
        let (name, mut rest) = string(data).ok_or(invalid)?;
        let count = u32_at(rest.get(..4).ok_or(invalid)?, 0);
        rest = &rest[4..];
        let mut queries = Vec::new();
        for _ in 0..count {
            let (query, behind) = string(rest).ok_or(invalid)?;
            queries.push(std::str::from_utf8(query).map_err(|_| invalid)?);
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(invalid);
        }
        if !is_named(export, name) {
            return Err((option_reply::ERR_UNKNOWN, "no such export"));
        }
        Ok(queries)
    }

    fn select(&mut self, export: &Export, data: &[u8]) -> Result<Option<Claim>, Refusal> {
        // The last call wins, also where it fails.
        self.contexts.clear();
        self.asked.clear();
        let mut claimed = None;
        for query in self.queries(export, data)? {
            let number = match query {
                BASE_ALLOCATION => ALLOCATION,
                claim::INCARNATION if export.incarnation.is_some() => INCARNATION,
                _ if query.starts_with(claim::WRITER) && export.knows_writers => {
                    let claim =
                        Claim::parse(query).ok_or((option_reply::ERR_INVALID, "a malformed claim"))?;
                    if claimed.replace(claim).is_some() {
                        return Err((option_reply::ERR_INVALID, "two claims"));
                    }
                    WRITER
                }
                _ => continue,
            };
            if self.asked.iter().all(|(known, _)| *known != number) {
                self.asked.push((number, query.to_string()));
            }
        }
        Ok(claimed)
    }

    fn list(&mut self, export: &Export, data: &[u8]) -> Result<(), Refusal> {
        let queries = self.queries(export, data)?;
        let mut known = vec![BASE_ALLOCATION.to_string()];
        known.extend(export.incarnation.iter().map(|token| format!("{}{token}", claim::INCARNATION)));
        known.extend(export.knows_writers.then(|| claim::WRITER.to_string()));
        for context in known {
            let is_wanted =
                |query: &&str| context.starts_with(query) && (query.ends_with(':') || **query == context);
            if queries.is_empty() || queries.iter().any(is_wanted) {
                self.answer(
                    option::LIST_META_CONTEXT,
                    option_reply::META_CONTEXT,
                    &[&[0; 4], context.as_bytes()].concat(),
                );
            }
        }
        Ok(())
    }

    /// Answers the claim that [`Heard::Claim`] told. `export` is as it is after the decision: a takeover may begin a new
    /// incarnation.
    pub fn decide(&mut self, export: &Export, decision: Result<(), (u32, &str)>) {
        self.state = State::Options;
        match decision {
            Ok(()) => self.grant(export),
            Err((kind, text)) => self.answer(option::SET_META_CONTEXT, kind, text.as_bytes()),
        }
    }

    fn grant(&mut self, export: &Export) {
        for (number, query) in std::mem::take(&mut self.asked) {
            let token = export.incarnation.as_deref().filter(|_| number == INCARNATION).unwrap_or_default();
            let name = format!("{query}{token}");
            let payload = [&number.to_be_bytes()[..], name.as_bytes()].concat();
            self.answer(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &payload);
            self.contexts.push((number, name));
        }
        self.answer(option::SET_META_CONTEXT, option_reply::ACK, &[]);
    }

    fn answer(&mut self, code: u32, kind: u32, payload: &[u8]) {
        self.output.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend_from_slice(&code.to_be_bytes());
        self.output.extend_from_slice(&kind.to_be_bytes());
        self.output.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        self.output.extend_from_slice(payload);
    }

    /// A whole command with its payload, and how many bytes it took.
    fn parse(&self, export: &Export) -> Option<Result<(Command, usize), &'static str>> {
        let input = &self.input[self.at..];
        let (code, flags, cookie, offset, length, header) = if self.headers == Headers::Extended {
            let bytes = input.first_chunk::<EXTENDED_HEADER>()?;
            let Some(r) = wire::ExtendedRequest::read(bytes) else {
                return Some(Err("a request without magic"));
            };
            (r.command, r.flags, r.cookie, r.offset, r.length, EXTENDED_HEADER)
        } else {
            let bytes = input.first_chunk::<REQUEST_HEADER>()?;
            let Some(r) = wire::Request::read(bytes) else { return Some(Err("a request without magic")) };
            (r.command, r.flags, r.cookie, r.offset, u64::from(r.length), REQUEST_HEADER)
        };
        let has_payload = if self.headers == Headers::Extended {
            flags & command_flag::PAYLOAD_LEN != 0
        } else {
            code == command::WRITE
        };
        if has_payload && length > u64::from(export.block_sizes[2]) {
            return Some(Err("a payload that is too long"));
        }
        let payload_length = if has_payload { length as usize } else { 0 };
        let payload = input.get(header..header + payload_length)?.to_vec();
        let flags = flags & !if self.headers == Headers::Extended { command_flag::PAYLOAD_LEN } else { 0 };
        if has_payload != (code == command::WRITE) {
            // Nothing else that is known here carries anything; the bytes are taken, the command is refused.
            return Some(Ok((
                Command { code: u16::MAX, flags, cookie, offset, length, payload },
                header + payload_length,
            )));
        }
        Some(Ok((Command { code, flags, cookie, offset, length, payload }, header + payload_length)))
    }

    /// Why the export does not do it.
    fn refusal(&self, export: &Export, command: &Command) -> Option<u32> {
        let has = |flag| export.flags.contains(flag);
        let is_offered = match command.code {
            command::READ | command::WRITE => true,
            command::FLUSH => has(TransmissionFlags::SEND_FLUSH),
            command::TRIM => has(TransmissionFlags::SEND_TRIM),
            command::CACHE => has(TransmissionFlags::SEND_CACHE),
            command::WRITE_ZEROES => has(TransmissionFlags::SEND_WRITE_ZEROES),
            command::BLOCK_STATUS => !self.contexts.is_empty(),
            _ => false,
        };
        let fua = if has(TransmissionFlags::SEND_FUA) { command_flag::FUA } else { 0 };
        let legal = match command.code {
            command::READ => command_flag::DF | fua,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO | fua,
            _ => fua,
        };
        let is_empty = command.length == 0;
        if !is_offered || command.flags & !legal != 0 || is_empty != (command.code == command::FLUSH) {
            return Some(error::EINVAL);
        }
        if command.changes_medium() && has(TransmissionFlags::READ_ONLY) {
            return Some(error::EPERM);
        }
        let size = export.size.min(self.size);
        if command.offset.checked_add(command.length).is_none_or(|end| end > size) {
            return Some(if command.changes_medium() { error::ENOSPC } else { error::EINVAL });
        }
        if command.code == command::READ && command.length > u64::from(export.block_sizes[2]) {
            return Some(error::EINVAL);
        }
        let is_odd = (command.offset | command.length) & u64::from(export.block_sizes[0] - 1) != 0;
        is_odd.then_some(error::EINVAL)
    }

    /// It is done, and there is nothing to tell.
    pub fn done(&mut self, command: &Command) {
        match self.headers {
            Headers::Extended => self.chunk(command, chunk::FLAG_DONE, chunk::NONE, &[]),
            _ => self.simple(command, 0),
        }
    }

    /// It is not done, for this reason.
    pub fn failed(&mut self, command: &Command, code: u32) {
        if self.headers == Headers::Simple {
            return self.simple(command, code);
        }
        let payload = [&code.to_be_bytes()[..], &[0, 0]].concat();
        self.chunk(command, chunk::FLAG_DONE, chunk::ERROR, &payload);
    }

    /// It is done, and this is what was read.
    pub fn data(&mut self, command: &Command, data: &[u8]) {
        if self.headers == Headers::Simple {
            self.simple(command, 0);
            self.output.extend_from_slice(data);
            return;
        }
        self.header(command, chunk::FLAG_DONE, chunk::OFFSET_DATA, 8 + data.len());
        self.output.extend_from_slice(&command.offset.to_be_bytes());
        self.output.extend_from_slice(data);
    }

    /// It is done, and this is the state of the range; of the contexts that are no states, there is nothing to tell.
    pub fn extents(&mut self, command: &Command, extents: &[Extent]) {
        let is_extended = self.headers == Headers::Extended;
        let whole = [Extent { length: extents.iter().map(|extent| extent.length).sum(), state: 0 }];
        for index in 0..self.contexts.len() {
            let number = self.contexts[index].0;
            let told = if number == ALLOCATION { extents } else { &whole };
            let mut payload = number.to_be_bytes().to_vec();
            if is_extended {
                payload.extend_from_slice(&(told.len() as u32).to_be_bytes());
            }
            for extent in told {
                if is_extended {
                    payload.extend_from_slice(&extent.length.to_be_bytes());
                    payload.extend_from_slice(&u64::from(extent.state).to_be_bytes());
                } else {
                    // The client asked for less than 4 GiB.
                    payload.extend_from_slice(&(extent.length as u32).to_be_bytes());
                    payload.extend_from_slice(&extent.state.to_be_bytes());
                }
            }
            let kind = if is_extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
            let flags = if index + 1 == self.contexts.len() { chunk::FLAG_DONE } else { 0 };
            self.chunk(command, flags, kind, &payload);
        }
    }

    fn simple(&mut self, command: &Command, code: u32) {
        self.output.extend_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
        self.output.extend_from_slice(&code.to_be_bytes());
        self.output.extend_from_slice(&command.cookie.to_be_bytes());
    }

    fn chunk(&mut self, command: &Command, flags: u16, kind: u16, payload: &[u8]) {
        self.header(command, flags, kind, payload.len());
        self.output.extend_from_slice(payload);
    }

    fn header(&mut self, command: &Command, flags: u16, kind: u16, length: usize) {
        let is_extended = self.headers == Headers::Extended;
        let magic = if is_extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC };
        self.output.extend_from_slice(&magic.to_be_bytes());
        self.output.extend_from_slice(&flags.to_be_bytes());
        self.output.extend_from_slice(&kind.to_be_bytes());
        self.output.extend_from_slice(&command.cookie.to_be_bytes());
        if is_extended {
            self.output.extend_from_slice(&command.offset.to_be_bytes());
            self.output.extend_from_slice(&(length as u64).to_be_bytes());
        } else {
            self.output.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn is_named(export: &Export, name: &[u8]) -> bool {
    name.is_empty() || name == export.name.as_bytes()
}

/// A string with its length before it, and what is behind.
fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32_at(data.get(..4)?, 0) as usize;
    data[4..].split_at_checked(length)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
