//! A ring between a frontend and its backend, as a frontend has it (`io/ring.h`): requests of ours, responses of theirs, in one page.
//!
//! Indices only grow, and wrap at 32 bits. Theirs is held against what was asked before it is used; ours are never read back.

use crate::Error;
use core::sync::atomic::{Ordering, fence};
use kernel_io::{PAGE, Shared};

/// Entries of either ring of a NIC.
pub(super) const SIZE: u32 = 256;
const REQUESTS: usize = 0;
/// From which request on the backend wants to be told, and from which response on we do.
const REQUEST_EVENT: usize = 4;
const RESPONSES: usize = 8;
const RESPONSE_EVENT: usize = 12;
const ENTRIES: usize = 64;

/// What a backend cannot have done rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// More responses than requests, or a frame that goes on behind the last.
    Index,
    /// A length that does not fit into where it would have to be.
    Length,
    /// Additional information of no kind that there is, or a response of none.
    Kind,
    /// A response to what was not asked.
    Id,
    /// It uses a page that it has said it was done with.
    Held,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) page: Shared,
    /// Bytes of an entry.
    stride: usize,
    /// The next request, and the first that the backend has not been shown.
    produced: u32,
    announced: u32,
    /// The next response.
    consumed: u32,
}

impl Front {
    pub(super) fn new(stride: usize) -> Result<Self, Error> {
        Ok(Self { page: Shared::allocate(PAGE)?, stride, produced: 0, announced: 0, consumed: 0 })
    }

    /// As new, which it may be only as long as the backend does not use it.
    pub(super) fn reset(&mut self) {
        (0..PAGE).step_by(8).for_each(|offset| self.page.write64(offset, 0));
        // The backend wants to be told of the first; we say so when we do.
        self.page.write32(REQUEST_EVENT, 1);
        (self.produced, self.announced, self.consumed) = (0, 0, 0);
    }

    fn place(&self, index: u32) -> usize {
        ENTRIES + (index % SIZE) as usize * self.stride
    }

    /// Requests that have no response yet.
    #[inline]
    pub(super) fn under_way(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed)
    }

    /// The number of the next request.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.produced
    }

    /// The number of the next response.
    #[inline]
    pub(super) fn next_response(&self) -> u32 {
        self.consumed
    }

    /// Put a request into the ring, by its words; whoever calls knows that there is room. The backend sees it once it is announced.
    #[inline]
    pub(super) fn push(&mut self, words: &[u32]) {
        let place = self.place(self.produced);
        words.iter().enumerate().for_each(|(index, word)| self.page.write32(place + 4 * index, *word));
        self.produced = self.produced.wrapping_add(1);
    }

    /// Let the backend see the requests. Answers whether it has to be told.
    pub(super) fn announce(&mut self) -> bool {
        let (from, to) = (self.announced, self.produced);
        if from == to {
            return false;
        }
        fence(Ordering::Release);
        self.page.write32(REQUESTS, to);
        self.announced = to;
        fence(Ordering::SeqCst);
        to.wrapping_sub(self.page.read32(REQUEST_EVENT)) < to.wrapping_sub(from)
    }

    /// Whether there are responses; also when their number makes no sense.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.page.read32(RESPONSES) != self.consumed
    }

    /// How many responses there are.
    #[inline]
    pub(super) fn responses(&self) -> Result<u32, Lie> {
        let there = self.page.read32(RESPONSES).wrapping_sub(self.consumed);
        fence(Ordering::Acquire);
        if there > self.announced.wrapping_sub(self.consumed) { Err(Lie::Index) } else { Ok(there) }
    }

    /// A word of the next response, which has to be there. It is read once.
    #[inline]
    pub(super) fn response(&self, word: usize) -> u32 {
        self.page.read32(self.place(self.consumed) + 4 * word)
    }

    /// The next response is done with.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.consumed = self.consumed.wrapping_add(1);
    }

    /// Ask to be told of the next response. Answers whether there is one already.
    pub(super) fn ask(&self) -> bool {
        self.page.write32(RESPONSE_EVENT, self.consumed.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.waits()
    }
}
