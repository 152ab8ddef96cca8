//! Commands: what is allowed, and how they are executed.

use super::session::State;
use super::{Medium, Session};
use crate::export::BlockSizes;
use crate::settings::Headers;
use crate::wire::{self, ExtendedRequest, TransmissionFlags, command, command_flag, error, u32_at, u64_at};
use alloc::vec;
use alloc::vec::Vec;

/// A command that waits for its execution.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its header, as if it were a compact one: the length is at most what 32 bits can say.
    pub request: wire::Request,
    /// Bytes of its range.
    pub length: u64,
    /// What followed the header.
    pub payload: Vec<u8>,
    /// The error it is answered with, because it must not be.
    pub refusal: Option<u32>,
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

impl Session {
    /// A command has come.
    pub(super) fn command(&mut self, request: ExtendedRequest, payload: Vec<u8>) {
        if request.command == command::DISC {
            self.require(self.waiting.is_empty(), "a farewell with requests in flight");
            self.state = State::Ended;
            return;
        }
        let twin = self.waiting.iter().any(|other| other.request.cookie == request.cookie);
        self.require(!twin, "a cookie in use");
        let mut length = request.length;
        let is_filter = request.command == command::BLOCK_STATUS && !payload.is_empty();
        if is_filter {
            length = payload.first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_be_bytes(*bytes));
        }
        let refusal = self.judge(&request, length, &payload);
        let compact = wire::Request {
            flags: request.flags & !command_flag::PAYLOAD_LEN,
            command: request.command,
            cookie: request.cookie,
            offset: request.offset,
            length: u32::try_from(length).unwrap_or(u32::MAX),
        };
        let waiting = Waiting { request: compact, length, payload, refusal };
        if self.is_cut() {
            self.answer_error(&waiting, error::ESHUTDOWN);
        } else {
            self.waiting.push(waiting);
        }
    }

    /// Note what of a command is not allowed, and tell the error for it.
    fn judge(&mut self, request: &ExtendedRequest, length: u64, payload: &[u8]) -> Option<u32> {
        let ExtendedRequest { flags, command, offset, .. } = *request;
        let (settings, size) = &self.exports[self.at];
        let size = *size;
        let sizes = settings.block_sizes.unwrap_or(BlockSizes { minimum: 512, ..BlockSizes::DEFAULT });
        let offered_flags = settings.flags;
        let has = |flag| offered_flags.contains(flag);
        let selected = self.selected;
        let has_context = selected.allocation || selected.incarnation || selected.writer;
        let offered = match command {
            command::READ | command::WRITE => true,
            command::FLUSH => has(TransmissionFlags::SEND_FLUSH),
            command::TRIM => has(TransmissionFlags::SEND_TRIM),
            command::CACHE => has(TransmissionFlags::SEND_CACHE),
            command::WRITE_ZEROES => has(TransmissionFlags::SEND_WRITE_ZEROES),
            command::BLOCK_STATUS => has_context,
            _ => false,
        };
        let writes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        let may_write = !has(TransmissionFlags::READ_ONLY) || !writes;
        let inside = offset.checked_add(length).is_some_and(|end| end <= size);
        let aligned = (offset | length) & u64::from(sizes.minimum - 1) == 0;
        let carries = matches!(command, command::READ | command::WRITE);
        let is_extended = self.headers == Headers::Extended;
        let payload_due = match command {
            command::WRITE => is_extended,
            command::BLOCK_STATUS => !payload.is_empty() && has(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
            _ => false,
        };
        let filter_is_sound = command != command::BLOCK_STATUS
            || payload.is_empty()
            || (payload.len() >= 12 && payload.len().is_multiple_of(4));
        let rules = [
            (may_write, error::EPERM, "a write to an export that is read-only"),
            (offered, error::EINVAL, "a command that is not offered"),
            (
                inside && aligned,
                if command == command::WRITE { error::ENOSPC } else { error::EINVAL },
                "a range outside of the export or across blocks",
            ),
            ((length == 0) == (command == command::FLUSH), error::EINVAL, "an empty range"),
            (!carries || length <= u64::from(sizes.maximum), error::EOVERFLOW, "a payload that is too long"),
            (
                flags & !allowed_flags(command, offered_flags, payload_due) == 0,
                error::EINVAL,
                "a command flag that is not offered",
            ),
            (
                !payload_due || flags & command_flag::PAYLOAD_LEN != 0,
                error::EINVAL,
                "a write without the flag that says that it has a payload",
            ),
            (filter_is_sound, error::EINVAL, "a list of contexts that is not well formed"),
        ];
        let mut refusal = None;
        for (kept, code, rule) in rules {
            self.require(kept, rule);
            if !kept {
                refusal = refusal.or(Some(code));
            }
        }
        refusal
    }

    /// Execute one of the waiting commands and answer it.
    pub fn execute(&mut self, disk: &mut impl Medium, index: usize, shape: Shape) {
        let waiting = self.waiting.remove(index);
        let wire::Request { flags, command, offset, .. } = waiting.request;
        let length = waiting.length;
        match shape {
            Shape::Dropped => return,
            Shape::Error(code) => return self.answer_error(&waiting, code),
            Shape::Plain | Shape::Pieces(_) => {}
        }
        let inside = offset.checked_add(length).is_some_and(|end| end <= disk.size());
        let beyond = if command == command::WRITE { error::ENOSPC } else { error::EINVAL };
        if let Some(code) = waiting.refusal.or((!inside).then_some(beyond)) {
            return self.answer_error(&waiting, code);
        }
        let (fua, no_hole) = (flags & command_flag::FUA != 0, flags & command_flag::NO_HOLE != 0);
        let outcome = match command {
            command::READ => {
                let mut data = vec![0; length as usize];
                match disk.read(offset, &mut data) {
                    Ok(()) => return self.answer_read(&waiting, &data, shape),
                    Err(code) => Err(code),
                }
            }
            command::BLOCK_STATUS => {
                let mut extents = Vec::new();
                match disk.status(offset, length, &mut extents) {
                    Ok(()) => return self.answer_status(&waiting, &extents, shape),
                    Err(code) => Err(code),
                }
            }
            command::WRITE => disk.write(offset, &waiting.payload, fua),
            command::WRITE_ZEROES if flags & command_flag::FAST_ZERO != 0 && !self.settings().fast_zero => {
                Err(error::ENOTSUP)
            }
            command::WRITE_ZEROES => disk.zero(offset, length, no_hole, fua),
            command::TRIM => disk.trim(offset, length, fua),
            command::FLUSH => disk.flush(),
            command::CACHE => disk.cache(offset, length),
            _ => Err(error::EINVAL),
        };
        match outcome {
            Ok(()) => self.answer_success(&waiting, shape),
            Err(code) => self.answer_error(&waiting, code),
        }
    }
}

/// The flags a command may have.
fn allowed_flags(command: u16, offered: TransmissionFlags, payload: bool) -> u16 {
    let when = |offered: bool, flag: u16| if offered { flag } else { 0 };
    let own = match command {
        command::READ => when(offered.contains(TransmissionFlags::SEND_DF), command_flag::DF),
        command::WRITE_ZEROES => {
            let fast = offered.contains(TransmissionFlags::SEND_FAST_ZERO);
            command_flag::NO_HOLE | when(fast, command_flag::FAST_ZERO)
        }
        command::BLOCK_STATUS => command_flag::REQ_ONE,
        _ => 0,
    };
    own | when(offered.contains(TransmissionFlags::SEND_FUA), command_flag::FUA)
        | when(payload, command_flag::PAYLOAD_LEN)
}

/// The contexts that a BLOCK_STATUS asks for, if it names some.
pub(super) fn filter(waiting: &Waiting) -> Option<Vec<u32>> {
    let ids = waiting.payload.get(8..).filter(|ids| !ids.is_empty())?;
    debug_assert_eq!(u64_at(&waiting.payload, 0), waiting.length);
    Some(ids.chunks_exact(4).map(|id| u32_at(id, 0)).collect())
}
