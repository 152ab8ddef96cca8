//! Replies: finding them in the stream, and putting their payload where it belongs.
//!
//! Where bytes are lent by the connection, headers are read where they lie, and the payload of a read is copied once, into
//! the request's buffer, if nobody has a use for it where it is. Where they are asked for piece by piece, the engine asks for exactly what the element under way
//! still lacks, so that the payload takes no other way.

use crate::requests::{Key, Requests};
use crate::settings::Headers;
use crate::wire::{self, CHUNK_HEADER, EXTENDED_HEADER, MAX_STRING, SIMPLE_REPLY_HEADER, chunk};
use crate::wire::{u16_at, u32_at, u64_at};
use crate::{Fatal, Text};
use storage_block::Recipient;

/// A chunk's header and what of fixed length follows it at most (a hole).
const LONGEST_HEADER: usize = EXTENDED_HEADER + 12;
/// Bytes of an error chunk besides its message: error, length of the message, offset.
const ERROR_FIXED: usize = 4 + 2 + 8;
/// Scratch memory that the payload of an error chunk needs.
pub(crate) const LONGEST_ERROR: usize = ERROR_FIXED + MAX_STRING;
/// Bytes of extents that are looked at together: whole ones of either kind.
const EXTENTS: usize = 4096;
const _: () = assert!(EXTENTS <= LONGEST_ERROR && EXTENTS.is_multiple_of(16));
/// Extents in one chunk at most (protocol section "Structured reply types").
const MAX_EXTENTS: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum State {
    /// Collecting a header.
    Header,
    /// Bytes `at..end` of a read are to come, and with `done` nothing after them.
    Data { key: Key, at: u32, end: u32, done: bool },
    /// The payload of an error chunk is being collected in scratch memory: `at` of `length` bytes.
    Error { key: Key, kind: u16, at: usize, length: usize, done: bool },
    /// `left` bytes of extents are to come, of which `at` are in scratch memory; they are wanted, or only passed over.
    Extents { key: Key, wanted: bool, at: usize, left: u32, done: bool },
}

/// Where in the stream of replies the connection is.
#[derive(Debug)]
pub(crate) struct Receiver {
    state: State,
    header: [u8; LONGEST_HEADER],
    have: usize,
    headers: Headers,
    remark: Text,
}

/// What a reply has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Nothing,
    /// A request has failed.
    Failed,
    /// The server is shutting down.
    ShuttingDown,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            header: [0; LONGEST_HEADER],
            have: 0,
            headers: Headers::Simple,
            remark: Text::EMPTY,
        }
    }

    /// The first reply of a connection is to come, in this form.
    pub(crate) fn start(&mut self, headers: Headers) {
        *self = Self { headers, ..Self::new() };
    }

    /// The server's words with its last error.
    pub(crate) const fn remark(&self) -> &Text {
        &self.remark
    }

    /// Where the next bytes belong. Never empty.
    pub(crate) fn space<'a>(&'a mut self, requests: &'a mut Requests, scratch: &'a mut [u8]) -> &'a mut [u8] {
        match self.state {
            State::Header => {
                let want = self.want(&self.header[..self.have]);
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
            State::Extents { at, left, .. } => &mut scratch[at..EXTENTS.min(left as usize)],
        }
    }

    /// Take of `bytes`, which follow those before: all of them, or up to the end of a reply that has led to something. What
    /// a read brings is for `recipient` first.
    pub(crate) fn take(
        &mut self,
        requests: &mut Requests,
        scratch: &mut [u8],
        bytes: &mut &[u8],
        recipient: &mut dyn Recipient,
    ) -> Result<Notice, Fatal> {
        while !bytes.is_empty() {
            let (notice, count) = match self.state {
                State::Header if self.have == 0 => match self.data_chunk(requests, bytes)? {
                    Some(count) => (Notice::Nothing, count),
                    None => match self.whole(bytes) {
                        Some(count) => (self.header(requests, &bytes[..count])?, count),
                        None => self.piece(requests, scratch, bytes)?,
                    },
                },
                State::Data { key, at, end, done } => {
                    let count = bytes.len().min((end - at) as usize);
                    let (come, is_last) = (&bytes[..count], done && at + count as u32 == end);
                    // An error may follow what is not the last chunk; and who cannot tell of one can but break off.
                    let is_certain = done && (self.headers != Headers::Simple || at == 0 && is_last);
                    if is_certain && requests.deliver_to(recipient, key, at, come, is_last) {
                        self.state = State::Header;
                        (Notice::Nothing, count)
                    } else {
                        if !is_certain && let Some(target) = requests.target(key, at, at + count as u32) {
                            target.copy_from_slice(come);
                        }
                        (self.data(requests, (key, done), at + count as u32, end)?, count)
                    }
                }
                State::Header | State::Error { .. } | State::Extents { .. } => {
                    self.piece(requests, scratch, bytes)?
                }
            };
            *bytes = &bytes[count..];
            if notice != Notice::Nothing {
                return Ok(notice);
            }
        }
        Ok(Notice::Nothing)
    }

    /// Take the header of a chunk of data, if one begins here and all of it is there: so almost every reply to a read begins.
    /// Answers how long it is.
    fn data_chunk(&mut self, requests: &mut Requests, bytes: &[u8]) -> Result<Option<usize>, Fatal> {
        const LENGTH: usize = CHUNK_HEADER + 8;
        let Some(header) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let (magic, kind, length) = (u32_at(header, 0), u16_at(header, 6), u32_at(header, 16));
        let is_data = magic == wire::STRUCTURED_REPLY_MAGIC && kind == chunk::OFFSET_DATA && length > 8;
        if !is_data || self.headers != Headers::Structured {
            return Ok(None);
        }
        let key = requests.find(u64_at(header, 8))?;
        if !requests.is_read(key) {
            // What is wrong with it is said elsewhere.
            return Ok(None);
        }
        requests.counters.chunks += 1;
        let length = length - 8;
        let at = requests.deliver(key, u64_at(header, CHUNK_HEADER), length)?;
        let done = u16_at(header, 4) & chunk::FLAG_DONE != 0;
        self.state = State::Data { key, at, end: at + length, done };
        Ok(Some(LENGTH))
    }

    /// Take as much as the element under way lacks.
    fn piece(
        &mut self,
        requests: &mut Requests,
        scratch: &mut [u8],
        bytes: &[u8],
    ) -> Result<(Notice, usize), Fatal> {
        let space = self.space(requests, scratch);
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        Ok((self.received(requests, scratch, count)?, count))
    }

    /// `count` bytes were put into the space.
    pub(crate) fn received(
        &mut self,
        requests: &mut Requests,
        scratch: &[u8],
        count: usize,
    ) -> Result<Notice, Fatal> {
        match self.state {
            State::Header => {
                let header = self.header;
                self.have = self.want(&header[..self.have]).min(self.have + count);
                self.header(requests, &header[..self.have])
            }
            State::Data { key, at, end, done } => {
                let at = at + u32::try_from(count).unwrap_or(u32::MAX).min(end - at);
                self.data(requests, (key, done), at, end)
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
            State::Extents { key, wanted, at, left, done } => {
                let end = EXTENTS.min(left as usize);
                let at = end.min(at + count);
                if at < end {
                    self.state = State::Extents { key, wanted, at, left, done };
                    return Ok(Notice::Nothing);
                }
                if wanted {
                    self.extents(requests, key, &scratch[..end])?;
                }
                let left = left - end as u32;
                if left > 0 {
                    self.state = State::Extents { key, wanted, at: 0, left, done };
                    return Ok(Notice::Nothing);
                }
                self.end_of_chunk(requests, key, done)
            }
        }
    }

    /// The payload of a read is there up to `at`.
    fn data(
        &mut self,
        requests: &mut Requests,
        (key, done): (Key, bool),
        at: u32,
        end: u32,
    ) -> Result<Notice, Fatal> {
        if at < end {
            self.state = State::Data { key, at, end, done };
            return Ok(Notice::Nothing);
        }
        self.end_of_chunk(requests, key, done)
    }

    /// How long a header is that begins like this, as far as these bytes tell.
    fn want(&self, header: &[u8]) -> usize {
        let have = header.len();
        let chunk_header = match self.headers {
            Headers::Extended => EXTENDED_HEADER,
            Headers::Simple | Headers::Structured if have < 4 => return SIMPLE_REPLY_HEADER,
            _ if u32_at(header, 0) != wire::STRUCTURED_REPLY_MAGIC => return SIMPLE_REPLY_HEADER,
            _ if have < SIMPLE_REPLY_HEADER => return SIMPLE_REPLY_HEADER,
            _ => CHUNK_HEADER,
        };
        if have < chunk_header {
            return chunk_header;
        }
        chunk_header
            + match u16_at(header, 6) {
                chunk::OFFSET_DATA | chunk::BLOCK_STATUS_EXT => 8,
                chunk::OFFSET_HOLE => 12,
                chunk::BLOCK_STATUS => 4,
                _ => 0,
            }
    }

    /// The length of the header that these bytes begin with, if all of it is there.
    fn whole(&self, bytes: &[u8]) -> Option<usize> {
        let want = self.want(&bytes[..bytes.len().min(LONGEST_HEADER)]);
        (want <= bytes.len()).then_some(want)
    }

    /// A header, or the beginning of one.
    fn header(&mut self, requests: &mut Requests, header: &[u8]) -> Result<Notice, Fatal> {
        let have = header.len();
        if have < 4 {
            return Ok(Notice::Nothing);
        }
        let magic = u32_at(header, 0);
        match (self.headers, magic) {
            (Headers::Extended, wire::EXTENDED_REPLY_MAGIC) if have >= EXTENDED_HEADER => {
                self.chunk(requests, header, EXTENDED_HEADER)
            }
            (Headers::Extended, wire::EXTENDED_REPLY_MAGIC) => Ok(Notice::Nothing),
            (Headers::Extended, _) => Err(Fatal::ReplyMagic(magic)),
            (_, wire::SIMPLE_REPLY_MAGIC) if have == SIMPLE_REPLY_HEADER => self.simple(requests, header),
            (Headers::Simple, wire::STRUCTURED_REPLY_MAGIC) => Err(Fatal::UnexpectedStructuredReply),
            (_, wire::STRUCTURED_REPLY_MAGIC) if have >= CHUNK_HEADER => {
                self.chunk(requests, header, CHUNK_HEADER)
            }
            (_, wire::SIMPLE_REPLY_MAGIC | wire::STRUCTURED_REPLY_MAGIC) => Ok(Notice::Nothing),
            (_, other) => Err(Fatal::ReplyMagic(other)),
        }
    }

    fn simple(&mut self, requests: &mut Requests, header: &[u8]) -> Result<Notice, Fatal> {
        let (code, cookie) = (u32_at(header, 4), u64_at(header, 8));
        let key = requests.find(cookie)?;
        let is_read = requests.is_read(key);
        if is_read && self.headers != Headers::Simple {
            return Err(Fatal::SimpleReplyToRead);
        }
        self.have = 0;
        if code != 0 {
            requests.fail(key, code, None)?;
        } else if is_read {
            let end = requests.deliver_all(key)?;
            self.state = State::Data { key, at: 0, end, done: true };
            return Ok(Notice::Nothing);
        }
        self.end_of_chunk(requests, key, true)
    }

    /// A chunk whose header has `fixed` bytes, perhaps without what of known length follows it.
    fn chunk(&mut self, requests: &mut Requests, header: &[u8], fixed: usize) -> Result<Notice, Fatal> {
        let done = u16_at(header, 4) & chunk::FLAG_DONE != 0;
        let kind = u16_at(header, 6);
        let key = requests.find(u64_at(header, 8))?;
        let length = match self.headers {
            // No chunk may be that long, so what more it is makes no difference.
            Headers::Extended => u32::try_from(u64_at(header, 24)).unwrap_or(u32::MAX),
            Headers::Simple | Headers::Structured => u32_at(header, 16),
        };
        if self.headers == Headers::Extended {
            let (sent, echoed) = (requests.range(key).0, u64_at(header, 16));
            if sent != echoed {
                return Err(Fatal::OffsetEcho { sent, echoed });
            }
        }
        check(kind, length, done, self.content(requests, key))?;
        if header.len() < self.want(header) {
            return Ok(Notice::Nothing);
        }
        requests.counters.chunks += 1;
        self.have = 0;
        match kind {
            chunk::OFFSET_DATA => {
                let (offset, length) = (u64_at(header, fixed), length - 8);
                let at = requests.deliver(key, offset, length)?;
                self.state = State::Data { key, at, end: at + length, done };
                Ok(Notice::Nothing)
            }
            chunk::OFFSET_HOLE => {
                let (offset, length) = (u64_at(header, fixed), u32_at(header, fixed + 8));
                if length == 0 {
                    return Err(Fatal::ChunkLength { kind, length });
                }
                let at = requests.deliver(key, offset, length)?;
                requests.zero(key, at, at + length);
                self.end_of_chunk(requests, key, done)
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let wanted = requests.begin_extents(key, u32_at(header, fixed))?;
                let left = if kind == chunk::BLOCK_STATUS { length - 4 } else { length - 8 };
                if kind == chunk::BLOCK_STATUS_EXT {
                    let (given, held) = (u32_at(header, fixed + 4), left / 16);
                    if given != held {
                        return Err(Fatal::ExtentCount { given, held });
                    }
                }
                self.state = State::Extents { key, wanted, at: 0, left, done };
                Ok(Notice::Nothing)
            }
            chunk::NONE => self.end_of_chunk(requests, key, done),
            _ => {
                self.state = State::Error { key, kind, at: 0, length: length as usize, done };
                Ok(Notice::Nothing)
            }
        }
    }

    /// What chunks besides errors a reply may have.
    fn content(&self, requests: &Requests, key: Key) -> Content {
        match self.headers {
            _ if requests.is_read(key) => Content::Data,
            Headers::Extended if requests.is_status(key) => Content::WideExtents,
            _ if requests.is_status(key) => Content::Extents,
            _ => Content::Nothing,
        }
    }

    fn extents(&self, requests: &mut Requests, key: Key, bytes: &[u8]) -> Result<(), Fatal> {
        if self.headers == Headers::Extended {
            let (extents, _) = bytes.as_chunks::<16>();
            extents.iter().try_for_each(|extent| requests.extent(key, u64_at(extent, 0), u64_at(extent, 8)))
        } else {
            let (extents, _) = bytes.as_chunks::<8>();
            extents.iter().try_for_each(|extent| {
                requests.extent(key, u32_at(extent, 0).into(), u32_at(extent, 4).into())
            })
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
        Ok(match shutting_down {
            true => Notice::ShuttingDown,
            false if done && requests.has_failed() => Notice::Failed,
            false => Notice::Nothing,
        })
    }
}

/// What the reply to a command is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    Data,
    Extents,
    /// In extended headers.
    WideExtents,
}

/// Whether a chunk of this type and length can be part of the reply to a command.
fn check(kind: u16, length: u32, done: bool, content: Content) -> Result<(), Fatal> {
    let longest = LONGEST_ERROR as u32;
    // A whole number of extents, at least one, behind so many other bytes.
    let extents = |before: u32, size: u32| {
        let rest = length.checked_sub(before)?;
        let sound = rest > 0 && rest % size == 0 && u64::from(rest / size) <= MAX_EXTENTS;
        sound.then_some(length..=length)
    };
    let lengths = match kind {
        chunk::NONE if !done => return Err(Fatal::NoneNotDone),
        chunk::NONE => Some(0..=0),
        // That it lies inside of the request is checked once the offset is known.
        chunk::OFFSET_DATA if content == Content::Data => Some(9..=u32::MAX),
        chunk::OFFSET_HOLE if content == Content::Data => Some(12..=12),
        chunk::BLOCK_STATUS if content == Content::Extents => extents(4, 8),
        chunk::BLOCK_STATUS_EXT if content == Content::WideExtents => extents(8, 16),
        chunk::ERROR_OFFSET => Some(ERROR_FIXED as u32..=longest),
        // Errors of unknown type begin like those of known type.
        error if error & chunk::ERROR_BIT != 0 => Some(6..=longest),
        _ => return Err(Fatal::ChunkType(kind)),
    };
    let fits = lengths.is_some_and(|lengths| lengths.contains(&length));
    if fits { Ok(()) } else { Err(Fatal::ChunkLength { kind, length }) }
}
