//! What a service says: replies in every form.

use super::commands::filter;
use super::options::{ALLOCATION_NUMBER, INCARNATION_NUMBER, WRITER_NUMBER};
use super::{Session, Shape, Waiting};
use crate::settings::Headers;
use crate::wire::{self, chunk, command_flag, error, state};
use alloc::vec::Vec;
use storage_block::Extent;

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

/// One chunk of a reply with extended headers, to a request at `offset`.
pub fn extended_chunk_bytes(flags: u16, kind: u16, cookie: u64, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = wire::EXTENDED_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Numbers from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

impl Session {
    /// One chunk of the reply to a command, in the form that was agreed on.
    fn chunk(&mut self, waiting: &Waiting, flags: u16, kind: u16, payload: &[u8]) {
        let wire::Request { cookie, offset, .. } = waiting.request;
        let bytes = if self.headers == Headers::Extended {
            extended_chunk_bytes(flags, kind, cookie, offset, payload)
        } else {
            chunk_bytes(flags, kind, cookie, payload)
        };
        self.output.extend_from_slice(&bytes);
    }

    pub(super) fn answer_success(&mut self, waiting: &Waiting, shape: Shape) {
        let in_chunks = match self.headers {
            Headers::Simple => false,
            Headers::Structured => matches!(shape, Shape::Pieces(seed) if seed % 2 == 0),
            Headers::Extended => true,
        };
        if in_chunks {
            self.chunk(waiting, chunk::FLAG_DONE, chunk::NONE, &[]);
        } else {
            self.output.extend_from_slice(&simple_reply_bytes(0, waiting.request.cookie));
        }
    }

    pub(super) fn answer_error(&mut self, waiting: &Waiting, code: u32) {
        if self.headers == Headers::Simple {
            self.output.extend_from_slice(&simple_reply_bytes(code, waiting.request.cookie));
            return;
        }
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(&4u16.to_be_bytes());
        payload.extend_from_slice(b"test");
        self.chunk(waiting, chunk::FLAG_DONE, chunk::ERROR, &payload);
    }

    pub(super) fn answer_read(&mut self, waiting: &Waiting, data: &[u8], shape: Shape) {
        let wire::Request { cookie, offset, flags, .. } = waiting.request;
        if self.headers == Headers::Simple {
            self.output.extend_from_slice(&simple_reply_bytes(0, cookie));
            self.output.extend_from_slice(data);
            return;
        }
        let (Shape::Pieces(seed), true) = (shape, flags & command_flag::DF == 0) else {
            let payload = [&offset.to_be_bytes(), data].concat();
            return self.chunk(waiting, chunk::FLAG_DONE, chunk::OFFSET_DATA, &payload);
        };
        let mut chance = Chance(seed);
        let mut cuts: Vec<usize> = (0..chance.below(12)).map(|_| chance.below(data.len())).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, chance.below(index + 1));
        }
        let separate_end = chance.below(2) == 0;
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            let flags = if index == last && !separate_end { chunk::FLAG_DONE } else { 0 };
            let offset = (offset + piece.start as u64).to_be_bytes();
            let bytes = &data[piece];
            if bytes.iter().all(|&byte| byte == 0) {
                let size = (bytes.len() as u32).to_be_bytes();
                self.chunk(waiting, flags, chunk::OFFSET_HOLE, &[&offset[..], &size].concat());
            } else {
                self.chunk(waiting, flags, chunk::OFFSET_DATA, &[&offset[..], bytes].concat());
            }
        }
        if separate_end {
            self.chunk(waiting, chunk::FLAG_DONE, chunk::NONE, &[]);
        }
    }

    /// Extents for each context that was selected, or that the command names.
    pub(super) fn answer_status(&mut self, waiting: &Waiting, extents: &[Extent], shape: Shape) {
        let selected = [
            (self.selected.allocation, ALLOCATION_NUMBER),
            (self.selected.incarnation, INCARNATION_NUMBER),
            (self.selected.writer, WRITER_NUMBER),
        ];
        let mut numbers: Vec<_> =
            selected.into_iter().filter(|(selected, _)| *selected).map(|(_, number)| number).collect();
        if let Some(named) = filter(waiting) {
            let twice = (1..named.len()).any(|index| named[..index].contains(&named[index]));
            if twice || named.iter().any(|number| !numbers.contains(number)) {
                self.require(false, "a context that was not selected, or one twice");
                return self.answer_error(waiting, error::EINVAL);
            }
            numbers = named;
        }
        let mut chance = Chance(if let Shape::Pieces(seed) = shape { seed } else { 0 });
        let unknown = [Extent { length: waiting.length, hole: false, zero: false }];
        let mut extents = if extents.is_empty() { unknown.to_vec() } else { extents.to_vec() };
        if shape != Shape::Plain {
            rearrange(&mut extents, &mut chance);
            for index in (1..numbers.len()).rev() {
                numbers.swap(index, chance.below(index + 1));
            }
        }
        if waiting.request.flags & command_flag::REQ_ONE != 0 {
            extents.truncate(1);
            extents[0].length = extents[0].length.min(waiting.length);
        }
        let separate_end = shape != Shape::Plain && chance.below(2) == 0;
        let last = numbers.len() - 1;
        for (index, number) in numbers.into_iter().enumerate() {
            let flags = if index == last && !separate_end { chunk::FLAG_DONE } else { 0 };
            let extents = if number == ALLOCATION_NUMBER { &extents[..] } else { &unknown };
            self.extents(waiting, flags, number, extents);
        }
        if separate_end {
            self.chunk(waiting, chunk::FLAG_DONE, chunk::NONE, &[]);
        }
    }

    fn extents(&mut self, waiting: &Waiting, flags: u16, number: u32, extents: &[Extent]) {
        let mut payload = number.to_be_bytes().to_vec();
        let states = |extent: &Extent| {
            let hole = if extent.hole { state::HOLE } else { 0 };
            hole | if extent.zero { state::ZERO } else { 0 }
        };
        if self.headers == Headers::Extended {
            payload.extend_from_slice(&(extents.len() as u32).to_be_bytes());
            for extent in extents {
                payload.extend_from_slice(&extent.length.to_be_bytes());
                payload.extend_from_slice(&states(extent).to_be_bytes());
            }
            self.chunk(waiting, flags, chunk::BLOCK_STATUS_EXT, &payload);
        } else {
            for extent in extents {
                // Longer ones are told in part, and nothing behind them.
                let length = u32::try_from(extent.length).unwrap_or(u32::MAX - 511);
                payload.extend_from_slice(&length.to_be_bytes());
                payload.extend_from_slice(&(states(extent) as u32).to_be_bytes());
                if u64::from(length) < extent.length {
                    break;
                }
            }
            self.chunk(waiting, flags, chunk::BLOCK_STATUS, &payload);
        }
    }
}

/// Cut some extents in two, and leave some out at the end: a server may.
fn rearrange(extents: &mut Vec<Extent>, chance: &mut Chance) {
    if chance.below(3) == 0 {
        extents.truncate(1 + chance.below(extents.len()));
    }
    let mut index = 0;
    while index < extents.len() {
        let extent = extents[index];
        if extent.length > 512 && chance.below(3) == 0 {
            extents[index].length = 512;
            extents.insert(index + 1, Extent { length: extent.length - 512, ..extent });
        }
        index += 1;
    }
}
