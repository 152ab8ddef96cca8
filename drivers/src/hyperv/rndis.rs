//! RNDIS, as a NIC of Hyper-V's speaks it: a frame and what is known about it, or a question and its answer.
//!
//! Messages are words of four bytes: the type, the length of all, and what the type says. Offsets in a message count from
//! behind the two, whatever its type.

use super::ring::Lie;
use kernel_io::Shared;

/// Types of messages. An answer has the highest bit besides.
pub(super) const PACKET: u32 = 1;
pub(super) const INITIALIZE: u32 = 2;
pub(super) const QUERY: u32 = 4;
pub(super) const SET: u32 = 5;
pub(super) const INDICATE_STATUS: u32 = 7;
pub(super) const ANSWER: u32 = 1 << 31;

/// What can be asked for and set.
pub(super) const PERMANENT_ADDRESS: u32 = 0x0101_0101;
pub(super) const PACKET_FILTER: u32 = 0x0001_010e;
pub(super) const OFFLOAD_CAPABILITIES: u32 = 0xfc01_020d;
pub(super) const OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;

/// What is received: frames for us, for all, and for groups.
pub(super) const FILTER: u32 = 1 | 4 | 8;

/// Statuses that are indicated.
pub(super) const MEDIA_CONNECT: u32 = 0x4001_000b;
pub(super) const MEDIA_DISCONNECT: u32 = 0x4001_000c;

/// Bytes of type and length, and of all that is in front of a frame and what is known about it.
pub(super) const HEADER: usize = 8;
pub(super) const PACKET_HEADER: usize = HEADER + 36;
/// Bytes of something that is known about a frame, with four of content.
pub(super) const INFO: usize = 16;
/// Where the content begins.
const INFO_HEADER: usize = 12;
/// What can be known: checksums; into which segments it is to be cut.
const CHECKSUMS: u32 = 0;
const LARGE_SEND: u32 = 2;

/// What the host says about the checksums of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksums(u32);

impl Checksums {
    pub(super) fn failed(self) -> bool {
        self.0 & 0b111 != 0
    }

    pub(super) fn tcp_is_right(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// Right, but perhaps not in the frame: what comes from the same machine has none.
    pub(super) fn udp_is_right(self) -> bool {
        self.0 & 1 << 4 != 0
    }
}

/// Bytes of a message that are looked at: all that is said in front of a frame, and any answer.
const LOOKED_AT: usize = 256;

/// A message in the memory that the host writes. What it says is copied first, and held against its bounds; the host may
/// begin it at any byte.
#[derive(Debug)]
pub(super) struct Received {
    head: [u8; LOOKED_AT],
    /// Where it lies, how long it is, and how much of it is in the copy.
    start: usize,
    length: usize,
    copied: usize,
    pub(super) kind: u32,
}

impl Received {
    /// The message in `length` bytes from `start` on, which are inside of the memory.
    pub(super) fn new(memory: &Shared, start: usize, length: usize) -> Result<Self, Lie> {
        if length < HEADER {
            return Err(Lie::Range);
        }
        let mut message =
            Self { head: [0; LOOKED_AT], start, length, copied: length.min(LOOKED_AT), kind: 0 };
        memory.read_bytes(start, &mut message.head[..message.copied]);
        (message.kind, message.length) = (message.at(0)?, message.at(4)? as usize);
        if message.length < HEADER || message.length > length {
            return Err(Lie::Length);
        }
        message.copied = message.copied.min(message.length);
        Ok(message)
    }

    /// The word at a byte.
    fn at(&self, at: usize) -> Result<u32, Lie> {
        let bytes = self.head[..self.copied].get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Lie::Length)
    }

    /// A word of it, after the first two.
    pub(super) fn word(&self, index: usize) -> Result<u32, Lie> {
        self.at(HEADER + 4 * index)
    }

    /// Where a part of it begins and ends, by offset and length as the message tells them.
    fn part(&self, offset: u32, length: u32) -> Result<(usize, usize), Lie> {
        let start = HEADER + offset as usize;
        let end = start.checked_add(length as usize).filter(|end| *end <= self.length).ok_or(Lie::Length)?;
        Ok((start, end))
    }

    /// The frame of a packet: where it lies, how long it is, and what is known of its checksums.
    pub(super) fn frame(&self) -> Result<(usize, usize, Checksums), Lie> {
        let (start, end) = self.part(self.word(0)?, self.word(1)?)?;
        Ok((self.start + start, end - start, self.checksums()?))
    }

    /// What is known of checksums. What is said further on than is looked at counts for nothing.
    fn checksums(&self) -> Result<Checksums, Lie> {
        let mut checksums = Checksums::default();
        let (mut at, end) = self.part(self.word(5)?, self.word(6)?)?;
        while at < end && end <= self.copied {
            let (size, kind, content) = (self.at(at)? as usize, self.at(at + 4)?, self.at(at + 8)? as usize);
            if size < INFO_HEADER || size > end - at {
                return Err(Lie::Length);
            }
            if kind == CHECKSUMS && content <= size - 4 {
                checksums = Checksums(self.at(at + content)?);
            }
            at += size;
        }
        Ok(checksums)
    }

    /// The answer to a question, of which the first bytes go to `out`. Answers its status, and how many bytes there are.
    pub(super) fn answer(&self, out: &mut [u8]) -> Result<(u32, usize), Lie> {
        let status = self.word(1)?;
        if self.kind != QUERY | ANSWER || status != 0 {
            return Ok((status, 0));
        }
        let (start, end) = self.part(self.word(3)?, self.word(2)?)?;
        let answer = self.head.get(start..end.min(self.copied)).unwrap_or_default();
        let length = answer.len().min(out.len());
        out[..length].copy_from_slice(&answer[..length]);
        Ok((status, length))
    }
}

/// What is to be done with a frame that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Its checksum of TCP, which begins there.
    Checksum { tcp: u16 },
    /// To be cut into segments of so many bytes.
    Cut { tcp: u16, segment: u16 },
}

impl Todo {
    fn info(self) -> (u32, u32) {
        const IPV4: u32 = 1;
        const TCP: u32 = 1 << 2;
        const VERSION_2: u32 = 1 << 30;
        match self {
            Self::Checksum { tcp } => (CHECKSUMS, IPV4 | TCP | u32::from(tcp) << 16),
            Self::Cut { tcp, segment } => (LARGE_SEND, u32::from(segment) | u32::from(tcp) << 20 | VERSION_2),
        }
    }
}

/// Put the header of a packet in front of a frame of `length` bytes that begins at `frame`. Answers where it begins.
pub(super) fn head(buffer: &mut [u8], frame: usize, length: usize, todo: Option<Todo>) -> usize {
    let info = if todo.is_some() { INFO } else { 0 };
    let start = frame - PACKET_HEADER - info;
    let front = (PACKET_HEADER - HEADER + info) as u32;
    let all = (PACKET_HEADER + info + length) as u32;
    let at = if info == 0 { 0 } else { front - INFO as u32 };
    let (kind, value) = todo.map_or((0, 0), Todo::info);
    let (info, content) = (info as u32, INFO_HEADER as u32);
    let words =
        [PACKET, all, front, length as u32, 0, 0, 0, at, info, 0, 0, INFO as u32, kind, content, value];
    for (place, word) in buffer[start..frame].as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    start
}
