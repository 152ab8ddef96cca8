//! Operations on ranges of the medium that carry no data: UNMAP, WRITE SAME of zeroes, PRE-FETCH.

use crate::command::{Out, Rest};
use crate::failure;
use crate::field::{u32_at, u64_at};
use crate::segment;
use crate::sense::{Refusal, Sense, code};
use crate::transfer::Transfer;
use crate::unit::LogicalUnit;
use storage_block::{Buffer, Completion, Error, Operation, Request};

/// Requests of one command in flight together.
const WINDOW: usize = 4;

/// Where in an UNMAP parameter list the descriptors begin, and how long one is (SBC-3 section 5.28.2).
pub(crate) const DESCRIPTORS: usize = 8;
pub(crate) const DESCRIPTOR: usize = 16;

/// Bytes of the medium.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Extent {
    fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.length && other.offset < self.offset + self.length
    }
}

/// An operation on ranges under way.
pub(crate) struct Ranges {
    operation: Operation,
    source: Source,
    /// The next range to be begun.
    next: usize,
    requests: [Option<(Extent, State)>; WINDOW],
    /// What is done if the backend declines.
    declined: Declined,
    failure: Option<Refusal>,
}

/// What is done about zeroes that the backend does not write by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Declined {
    /// The command fails, and the initiator does without.
    Fail,
    /// They are written from here.
    Expand,
    /// They are to be written from here: it has declined.
    Expanded,
}

enum Source {
    One(Extent),
    /// The descriptors of an UNMAP parameter list, checked.
    List {
        buffer: Buffer,
        count: usize,
        block_size: u64,
    },
}

#[derive(Clone, Copy)]
enum State {
    InFlight,
    Returned(Result<(), Error>),
}

impl Ranges {
    pub(crate) fn one(operation: Operation, offset: u64, length: u64) -> Self {
        Self::new(operation, Source::One(Extent { offset, length }))
    }

    /// Zeroes, which are written from here if the backend cannot do it (fast enough).
    pub(crate) fn zeroes(operation: Operation, offset: u64, length: u32) -> Self {
        let ranges = Self::new(operation, Source::One(Extent { offset, length: length.into() }));
        Self { declined: Declined::Expand, ..ranges }
    }

    /// The ranges of an UNMAP parameter list of `count` descriptors, which the caller has checked.
    pub(crate) fn list(operation: Operation, buffer: Buffer, count: usize, block_size: u32) -> Self {
        Self::new(operation, Source::List { buffer, count, block_size: u64::from(block_size) })
    }

    fn new(operation: Operation, source: Source) -> Self {
        let (declined, failure) = (Declined::Fail, None);
        Self { operation, source, next: 0, requests: [None; WINDOW], declined, failure }
    }

    fn extent(&self, index: usize) -> Option<Extent> {
        match &self.source {
            Source::One(extent) => (index == 0).then_some(*extent),
            Source::List { buffer, count, block_size } if index < *count => {
                let at = DESCRIPTORS + index * DESCRIPTOR;
                let (lba, blocks) = (u64_at(buffer, at), u64::from(u32_at(buffer, at + 8)));
                Some(Extent { offset: lba * block_size, length: blocks * block_size })
            }
            Source::List { .. } => None,
        }
    }

    /// The next step, or `None` when all is done and quiet; then [`Ranges::failure`] says how.
    pub(crate) fn step(&mut self, unit: &mut LogicalUnit, out: &mut Out<'_>) -> Option<Rest> {
        self.settle(unit);
        while self.failure.is_none() {
            let Some(extent) = self.extent(self.next) else { break };
            if extent.length == 0 {
                self.next += 1;
                continue;
            }
            // The disk may have shrunk since the command was checked.
            if unit.geometry().is_none_or(|geometry| extent.offset + extent.length > geometry.size) {
                self.failure = Some(Sense::illegal(code::LBA_OUT_OF_RANGE).into());
                break;
            }
            let Some(place) = self.requests.iter().position(Option::is_none) else { break };
            // A list may name a block twice, and overlapping changes are never in flight together.
            if self.requests.iter().flatten().any(|(other, _)| other.overlaps(&extent)) {
                break;
            }
            self.next += 1;
            self.requests[place] = Some((extent, State::InFlight));
            let Extent { offset, length } = extent;
            let request =
                Request { cookie: place as u64, operation: self.operation, offset, length, buffer: None };
            out.issue(request);
        }
        self.requests.iter().any(Option::is_some).then_some(Rest::Wait)
    }

    /// How it failed, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.failure
    }

    /// Whether it may still become a transfer.
    pub(crate) fn may_expand(&self) -> bool {
        self.declined != Declined::Fail
    }

    /// The transfer that does what the backend has declined to do.
    pub(crate) fn expansion(&self) -> Option<Transfer> {
        let extent = self.extent(0).filter(|_| self.declined == Declined::Expanded)?;
        let fua = matches!(self.operation, Operation::WriteZeroes { fua: true, .. });
        let length = u32::try_from(extent.length).ok()?;
        Some(Transfer::new(&segment::WRITE_SAME, extent.offset, length).with_fua(fua))
    }

    /// Begin nothing more. True when nothing is in flight.
    pub(crate) fn drain(&mut self, unit: &mut LogicalUnit) -> bool {
        self.settle(unit);
        self.requests.iter().all(Option::is_none)
    }

    pub(crate) fn completed(&mut self, index: usize, completion: &Completion) {
        if let Some(Some((_, state))) = self.requests.get_mut(index)
            && matches!(state, State::InFlight)
        {
            *state = State::Returned(completion.result);
        }
    }

    fn settle(&mut self, unit: &mut LogicalUnit) {
        for place in &mut self.requests {
            let Some((extent, State::Returned(result))) = *place else { continue };
            *place = None;
            match (result, self.operation) {
                // A hint that came to nothing is no error.
                (_, Operation::Cache) => {}
                (Ok(()), Operation::Trim { fua: false } | Operation::WriteZeroes { fua: false, .. }) => {
                    unit.wrote();
                }
                (Ok(()), _) => {}
                (Err(Error::NotSupported), _) if self.declined == Declined::Expand => {
                    self.declined = Declined::Expanded;
                }
                (Err(error), operation) => {
                    let refusal = failure::refusal(error, operation, extent.offset, extent.length, unit);
                    self.failure.get_or_insert(refusal);
                }
            }
        }
    }
}
