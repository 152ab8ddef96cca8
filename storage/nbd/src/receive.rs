//! Replies: finding them in the stream, and putting their payload where it belongs.
//!
//! The engine asks for exactly the bytes that the element under way still lacks, so that the payload of a read goes
//! from the connection into the request's buffer without a stop on the way.

use crate::requests::{Key, Requests};
use crate::wire::{self, CHUNK_HEADER, MAX_STRING, SIMPLE_REPLY_HEADER, chunk, u16_at, u32_at, u64_at};
use crate::{Fatal, Text};

/// A chunk's header and what of fixed length follows it at most (a hole).
const LONGEST_HEADER: usize = CHUNK_HEADER + 12;
/// Bytes of an error chunk besides its message: error, length of the message, offset.
const ERROR_FIXED: usize = 4 + 2 + 8;
/// Scratch memory that the payload of an error chunk needs.
pub(crate) const LONGEST_ERROR: usize = ERROR_FIXED + MAX_STRING;

#[derive(Clone, Copy, Debug)]
enum State {
    /// Collecting a header.
    Header,
    /// Bytes `at..end` of a read are to come, and with `done` nothing after them.
    Data { key: Key, at: u32, end: u32, done: bool },
    /// The payload of an error chunk is being collected in scratch memory: `at` of `length` bytes.
    Error { key: Key, kind: u16, at: usize, length: usize, done: bool },
}

/// Where in the stream of replies the connection is.
#[derive(Debug)]
pub(crate) struct Receiver {
    state: State,
    header: [u8; LONGEST_HEADER],
    have: usize,
    structured: bool,
    remark: Text,
}

/// What a reply has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Nothing,
    /// The server is shutting down.
    ShuttingDown,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            header: [0; LONGEST_HEADER],
            have: 0,
            structured: false,
            remark: Text::EMPTY,
        }
    }

    /// The first reply of a connection is to come.
    pub(crate) fn start(&mut self, structured: bool) {
        *self = Self { structured, ..Self::new() };
    }

    /// The server's words with its last error.
    pub(crate) const fn remark(&self) -> &Text {
        &self.remark
    }

    /// Where the next bytes belong. Never empty.
    pub(crate) fn space<'a>(&'a mut self, requests: &'a mut Requests, scratch: &'a mut [u8]) -> &'a mut [u8] {
        match self.state {
            State::Header => {
                let want = self.want();
                &mut self.header[self.have..want]
            }
            State::Data { key, at, end, .. } => match requests.target(key, at, end) {
                Some(target) => target,
                None => {
                    let length = scratch.len().min((end - at) as usize);
                    &mut scratch[..length]
                }
            },
            State::Error { at, length, .. } => &mut scratch[at..length],
        }
    }

    /// `count` bytes were put there.
    pub(crate) fn received(
        &mut self,
        requests: &mut Requests,
        scratch: &[u8],
        count: usize,
    ) -> Result<Notice, Fatal> {
        match self.state {
            State::Header => {
                self.have = self.want().min(self.have + count);
                self.header(requests)
            }
            State::Data { key, at, end, done } => {
                let at = end.min(at + u32::try_from(count).unwrap_or(u32::MAX).min(end - at));
                if at < end {
                    self.state = State::Data { key, at, end, done };
                    return Ok(Notice::Nothing);
                }
                self.end_of_chunk(requests, key, done)
            }
            State::Error { key, kind, at, length, done } => {
                let at = length.min(at + count);
                if at < length {
                    self.state = State::Error { key, kind, at, length, done };
                    return Ok(Notice::Nothing);
                }
                self.error_chunk(requests, key, kind, &scratch[..length])?;
                self.end_of_chunk(requests, key, done)
            }
        }
    }

    /// Bytes of the header under way.
    fn want(&self) -> usize {
        if self.have < 4 {
            return SIMPLE_REPLY_HEADER;
        }
        if u32_at(&self.header, 0) != wire::STRUCTURED_REPLY_MAGIC || self.have < SIMPLE_REPLY_HEADER {
            return SIMPLE_REPLY_HEADER;
        }
        match u16_at(&self.header, 6) {
            _ if self.have < CHUNK_HEADER => CHUNK_HEADER,
            chunk::OFFSET_DATA => CHUNK_HEADER + 8,
            chunk::OFFSET_HOLE => CHUNK_HEADER + 12,
            _ => CHUNK_HEADER,
        }
    }

    fn header(&mut self, requests: &mut Requests) -> Result<Notice, Fatal> {
        if self.have < 4 {
            return Ok(Notice::Nothing);
        }
        match u32_at(&self.header, 0) {
            wire::SIMPLE_REPLY_MAGIC if self.have == SIMPLE_REPLY_HEADER => self.simple(requests),
            wire::STRUCTURED_REPLY_MAGIC if !self.structured => Err(Fatal::UnexpectedStructuredReply),
            wire::STRUCTURED_REPLY_MAGIC if self.have >= CHUNK_HEADER => self.chunk(requests),
            wire::SIMPLE_REPLY_MAGIC | wire::STRUCTURED_REPLY_MAGIC => Ok(Notice::Nothing),
            other => Err(Fatal::ReplyMagic(other)),
        }
    }

    fn simple(&mut self, requests: &mut Requests) -> Result<Notice, Fatal> {
        let (code, cookie) = (u32_at(&self.header, 4), u64_at(&self.header, 8));
        let key = requests.find(cookie)?;
        let is_read = requests.is_read(key);
        if is_read && self.structured {
            return Err(Fatal::SimpleReplyToRead);
        }
        self.have = 0;
        if code != 0 {
            requests.fail(key, code, None)?;
        } else if is_read {
            requests.deliver_all(key)?;
            self.state = State::Data { key, at: 0, end: requests.length(key), done: true };
            return Ok(Notice::Nothing);
        }
        self.end_of_chunk(requests, key, true)
    }

    fn chunk(&mut self, requests: &mut Requests) -> Result<Notice, Fatal> {
        let done = u16_at(&self.header, 4) & chunk::FLAG_DONE != 0;
        let kind = u16_at(&self.header, 6);
        let length = u32_at(&self.header, 16);
        let key = requests.find(u64_at(&self.header, 8))?;
        if self.have == CHUNK_HEADER {
            requests.counters.chunks += 1;
            check(kind, length, done, requests.is_read(key))?;
        }
        if self.have < self.want() {
            return Ok(Notice::Nothing);
        }
        self.have = 0;
        match kind {
            chunk::OFFSET_DATA => {
                let (offset, length) = (u64_at(&self.header, 20), length - 8);
                let at = requests.deliver(key, offset, length)?;
                self.state = State::Data { key, at, end: at + length, done };
                Ok(Notice::Nothing)
            }
            chunk::OFFSET_HOLE => {
                let (offset, length) = (u64_at(&self.header, 20), u32_at(&self.header, 28));
                if length == 0 {
                    return Err(Fatal::ChunkLength { kind, length });
                }
                let at = requests.deliver(key, offset, length)?;
                requests.zero(key, at, at + length);
                self.end_of_chunk(requests, key, done)
            }
            chunk::NONE => self.end_of_chunk(requests, key, done),
            _ => {
                self.state = State::Error { key, kind, at: 0, length: length as usize, done };
                Ok(Notice::Nothing)
            }
        }
    }

    fn error_chunk(
        &mut self,
        requests: &mut Requests,
        key: Key,
        kind: u16,
        payload: &[u8],
    ) -> Result<(), Fatal> {
        let (code, message) = (u32_at(payload, 0), usize::from(u16_at(payload, 4)));
        let tail = if kind == chunk::ERROR_OFFSET { 8 } else { 0 };
        let length = payload.len() as u32;
        if 6 + message + tail > payload.len() || message > MAX_STRING {
            return Err(Fatal::ChunkLength { kind, length });
        }
        if message > 0 {
            self.remark = Text::new(&payload[6..6 + message]);
        }
        let offset = (tail > 0).then(|| u64_at(payload, 6 + message));
        // Zero would be no error; that it came as one counts more.
        requests.fail(key, if code == 0 { wire::error::EINVAL } else { code }, offset)
    }

    fn end_of_chunk(&mut self, requests: &mut Requests, key: Key, done: bool) -> Result<Notice, Fatal> {
        self.state = State::Header;
        let shutting_down = done && requests.answered(key)?;
        Ok(if shutting_down { Notice::ShuttingDown } else { Notice::Nothing })
    }
}

/// Whether a chunk of this type and length can be part of the reply to a command.
fn check(kind: u16, length: u32, done: bool, is_read: bool) -> Result<(), Fatal> {
    let longest = LONGEST_ERROR as u32;
    let lengths = match kind {
        chunk::NONE if !done => return Err(Fatal::NoneNotDone),
        chunk::NONE => 0..=0,
        // That it lies inside of the request is checked once the offset is known.
        chunk::OFFSET_DATA if is_read => 9..=u32::MAX,
        chunk::OFFSET_HOLE if is_read => 12..=12,
        chunk::ERROR_OFFSET => ERROR_FIXED as u32..=longest,
        // Errors of unknown type begin like those of known type.
        error if error & chunk::ERROR_BIT != 0 => 6..=longest,
        _ => return Err(Fatal::ChunkType(kind)),
    };
    if lengths.contains(&length) { Ok(()) } else { Err(Fatal::ChunkLength { kind, length }) }
}
