//! GET LBA STATUS (SBC-3 section 5.6) from what the backend knows of its allocation.
//!
//! The backend speaks of bytes, the answer of whole blocks: a block is given back only if all of it is, and *mapped* is
//! what is true of any block in doubt, for it says no more than that it reads as what was written. Where the backend
//! knows nothing, or fails to tell, one descriptor says so for all that is behind the block asked for.
//!
//! Nothing is held up by the question: it takes no range, and what is written meanwhile is mapped or not.

use crate::command::{Memory, Out, Rest};
use crate::failure;
use crate::field::Answer;
use crate::sense::Refusal;
use crate::unit::LogicalUnit;
use storage_block::{Buffer, Completion, Error, Extent, Geometry, Operation, Request};

/// Bytes of the parameter data header and of a descriptor.
const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;
/// Descriptors of one answer at most; who wants to know more asks again, from the end of the last on.
const MOST: usize = 255;

/// The provisioning status of a descriptor.
const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;

/// The blocks whose status is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) first: u64,
    /// Blocks to the end of the disk, as far as one descriptor can tell.
    pub(crate) count: u32,
    pub(crate) block_size: u32,
    /// What is not written reads as zeroes (LBPRZ).
    pub(crate) reads_zero: bool,
}

impl Question {
    /// From the block `first` on, which the disk has.
    pub(crate) fn new(geometry: &Geometry, first: u64) -> Self {
        let count = u32::try_from(geometry.blocks().saturating_sub(first)).unwrap_or(u32::MAX);
        let (block_size, reads_zero) = (geometry.block_size, geometry.write_zeroes);
        Self { first, count, block_size, reads_zero }
    }

    /// Whether what the backend says of a part means that its blocks were given back. Zeroes are promised of such, so
    /// that a hole which may read as anything is none to tell of.
    fn is_deallocated(&self, extent: &Extent) -> bool {
        extent.hole && (extent.zero || !self.reads_zero)
    }

    /// Write the answer that says "mapped" of all.
    pub(crate) fn answer_mapped(&self, answer: &mut Answer<'_>) {
        self.answer(&[], answer);
    }

    /// Write the answer for these extents, which begin with the first block.
    fn answer(&self, extents: &[u8], answer: &mut Answer<'_>) {
        answer.put_u32(0);
        answer.put_u32(0);
        let whole = u64::from(self.count) * u64::from(self.block_size);
        let (mut told, mut at) = (0, 0_u64);
        let mut hole: Option<u64> = None;
        for extent in Extent::all(extents) {
            if self.is_deallocated(&extent) {
                hole.get_or_insert(at);
            } else if let Some(begin) = hole.take() {
                self.put_hole(begin, at, &mut told, answer);
            }
            at = at.saturating_add(extent.length).min(whole);
        }
        if let Some(begin) = hole {
            self.put_hole(begin, at, &mut told, answer);
        }
        // A block that is not all told of is in doubt; if that is the very first there has to be an answer all the same.
        let end = match extents {
            [] => self.count,
            _ => ((at / u64::from(self.block_size)) as u32).max(1),
        };
        self.put(told, end, MAPPED, answer);
        let length = (answer.length() - 4) as u32;
        answer.set(0, &length.to_be_bytes());
    }

    /// The blocks that lie in a hole, and before them those that do not.
    fn put_hole(&self, begin: u64, end: u64, told: &mut u32, answer: &mut Answer<'_>) {
        let block = u64::from(self.block_size);
        let (begin, end) = (begin.div_ceil(block) as u32, (end / block) as u32);
        if begin < end {
            self.put(*told, begin, MAPPED, answer);
            self.put(begin, end, DEALLOCATED, answer);
            *told = end;
        }
    }

    fn put(&self, begin: u32, end: u32, status: u8, answer: &mut Answer<'_>) {
        if begin < end {
            answer.put_u64(self.first + u64::from(begin));
            answer.put_u32(end - begin);
            answer.put(&[status, 0, 0, 0]);
        }
    }
}

/// A question under way.
pub(crate) struct Extents {
    question: Question,
    /// The ALLOCATION LENGTH, and what the initiator has room for.
    allocation: u32,
    room: u32,
    state: State,
    /// For the answer.
    answer: Option<Buffer>,
    wanted: u64,
    failure: Option<Refusal>,
}

enum State {
    Idle,
    InFlight,
    Returned(Result<(), Error>, Option<Buffer>),
    Over,
}

impl Extents {
    pub(crate) fn new(question: Question, allocation: u32, room: u32) -> Self {
        Self { question, allocation, room, state: State::Idle, answer: None, wanted: 0, failure: None }
    }

    /// The next step, or `None` when all is done.
    pub(crate) fn step(
        &mut self,
        unit: &LogicalUnit,
        memory: &Memory<'_>,
        out: &mut Out<'_>,
    ) -> Option<Rest> {
        match core::mem::replace(&mut self.state, State::Over) {
            State::Idle => {
                // Not from the control memory: who waits for that must not have it to wait for from a job.
                let size = (HEADER + MOST * DESCRIPTOR).min(memory.data.largest());
                let Some((mut buffer, answer)) = memory.data.take_two(size) else {
                    self.state = State::Idle;
                    return Some(Rest::Starved);
                };
                // Blocks that begin in one extent and end in another may make one descriptor more than there are extents.
                let most = (size.saturating_sub(HEADER) / DESCRIPTOR).saturating_sub(1).max(1);
                buffer.truncate((most * Extent::SIZE).min(size));
                self.answer = Some(answer);
                self.state = State::InFlight;
                let block_size = u64::from(self.question.block_size);
                let request = Request {
                    cookie: 0,
                    operation: Operation::Status,
                    offset: self.question.first * block_size,
                    length: u64::from(self.question.count) * block_size,
                    buffer: Some(buffer),
                };
                out.issue(request);
                Some(Rest::Wait)
            }
            State::InFlight => {
                self.state = State::InFlight;
                Some(Rest::Wait)
            }
            State::Returned(result, extents) => {
                self.conclude(result, extents.as_deref(), unit, out);
                None
            }
            State::Over => None,
        }
    }

    fn conclude(
        &mut self,
        result: Result<(), Error>,
        extents: Option<&[u8]>,
        unit: &LogicalUnit,
        out: &mut Out<'_>,
    ) {
        let Some(mut buffer) = self.answer.take() else { return };
        let known = match (result, extents) {
            (Ok(()), Some(extents)) => extents,
            // Later it may be known.
            (Err(error @ (Error::Lost | Error::NoMemory)), _) => {
                self.failure = Some(failure::refusal(error, Operation::Status, 0, 0, unit));
                return;
            }
            _ => &[],
        };
        let mut answer = Answer::new(&mut buffer, 0);
        self.question.answer(known, &mut answer);
        let length = answer.length().min(buffer.len());
        self.wanted = (length as u64).min(u64::from(self.allocation));
        buffer.truncate(length.min(self.allocation as usize).min(self.room as usize));
        if !buffer.is_empty() {
            out.send(0, buffer);
        }
    }

    /// Bytes that the answer has, cut at the allocation length.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// How it failed, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.failure
    }

    /// Give everything up that is not in flight. True when nothing is.
    pub(crate) fn drain(&mut self) -> bool {
        if !matches!(self.state, State::InFlight) {
            self.state = State::Over;
        }
        self.answer = None;
        matches!(self.state, State::Over)
    }

    pub(crate) fn completed(&mut self, completion: Completion) {
        if matches!(self.state, State::InFlight) {
            self.state = State::Returned(completion.result, completion.buffer);
        }
    }
}
