//! Random requests against a real export, and a copy in memory of what it must hold.

use super::Driver;
use std::ops::Range;
use std::time::Duration;
use storage_block::{Completion, Error, Operation, Pool, Request, Share};
use storage_nbd::{Event, Quarantine};

/// A small generator: the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

/// Buffers as the appliance has them.
pub(crate) fn share() -> Share {
    Pool::new(&[(4096, 64), (1 << 20, 64)]).share(1 << 30)
}

struct Pending {
    cookie: u64,
    operation: Operation,
    range: Range<usize>,
    /// What the range holds after a write.
    content: Option<Vec<u8>>,
}

/// The disk as it must be. A trimmed block may hold anything until it is written again.
pub(crate) struct Model {
    content: Vec<u8>,
    unknown: Vec<bool>,
    block: usize,
    share: Share,
    pending: Vec<Pending>,
    next_cookie: u64,
    pub(crate) random: Random,
    /// Where a dead connection may still write.
    pub(crate) quarantine: Quarantine,
    /// The longest request, in bytes.
    pub(crate) longest: usize,
}

impl Model {
    /// The model of an export that holds zeroes.
    pub(crate) fn new(driver: &Driver, seed: u64) -> Self {
        let geometry = driver.client.export().expect("an export").geometry;
        let size = usize::try_from(geometry.size).expect("a small disk");
        let block = geometry.block_size as usize;
        Self {
            content: vec![0; size],
            unknown: vec![false; size / block],
            block,
            share: share(),
            pending: Vec::new(),
            next_cookie: 1,
            random: Random::new(seed),
            quarantine: Quarantine::new(64, Duration::from_millis(500)),
            longest: 1 << 20,
        }
    }

    /// Keep requests in flight until `count` have completed; all must succeed.
    pub(crate) fn exercise(&mut self, driver: &mut Driver, count: usize) {
        let mut done = 0;
        while done < count {
            while self.pending.len() < 16 && driver.client.free_slots() > 0 {
                let Some(request) = self.request(driver) else { break };
                driver.client.submit(driver.now(), request).expect("a slot is free");
            }
            match driver.next().expect("the connection lives") {
                Event::Completed(completion) => {
                    assert_eq!(completion.result, Ok(()), "{:?}", driver.client.remark());
                    self.completed(completion);
                    done += 1;
                }
                Event::Suspect => {}
                other => panic!("{other:?}"),
            }
        }
        self.settle(driver);
    }

    /// Wait for what is in flight.
    pub(crate) fn settle(&mut self, driver: &mut Driver) {
        while !self.pending.is_empty() {
            match driver.next().expect("the connection lives") {
                Event::Completed(completion) => {
                    assert_eq!(completion.result, Ok(()), "{:?}", driver.client.remark());
                    self.completed(completion);
                }
                Event::Suspect => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Submit without waiting, as many as there is room for.
    pub(crate) fn fill(&mut self, driver: &mut Driver) {
        while driver.client.free_slots() > 0 {
            let Some(request) = self.request(driver) else { break };
            driver.client.submit(driver.now(), request).expect("a slot is free");
        }
    }

    /// Read the whole disk.
    pub(crate) fn verify(&mut self, driver: &mut Driver) {
        let step = self.longest.min(1 << 20);
        for start in (0..self.content.len()).step_by(step) {
            let range = start..self.content.len().min(start + step);
            let request = self.make(Operation::Read, range);
            driver.client.submit(driver.now(), request).expect("nothing else is in flight");
            self.settle(driver);
        }
    }

    /// A random request that overlaps no write in flight.
    fn request(&mut self, driver: &Driver) -> Option<Request> {
        let geometry = driver.client.export().expect("an export").geometry;
        let fua = geometry.fua && self.random.below(8) == 0;
        let operation = match self.random.below(16) {
            0 if geometry.flush => Operation::Flush,
            1 if geometry.trim => Operation::Trim { fua },
            2 | 3 if geometry.write_zeroes => {
                Operation::WriteZeroes { fua, no_hole: self.random.below(2) == 0, fast: false }
            }
            4 if geometry.cache => Operation::Cache,
            5..9 => Operation::Write { fua },
            _ => Operation::Read,
        };
        if operation == Operation::Flush {
            return Some(self.make(operation, 0..0));
        }
        let blocks = self.unknown.len() as u64;
        for _ in 0..32 {
            let longest = self.longest / self.block;
            let length = (1 << self.random.below(12)).min(longest as u64).min(blocks);
            let length = 1 + self.random.below(length);
            let start = self.random.below(blocks - length + 1);
            let range = start as usize * self.block..(start + length) as usize * self.block;
            let clash = self.pending.iter().any(|other| {
                let both = range.start < other.range.end && other.range.start < range.end;
                both && (operation.changes_medium() || other.operation.changes_medium())
            });
            let (offset, bytes) = (range.start as u64, range.len() as u64);
            let held = self.quarantine.blocked(driver.now(), offset, bytes).is_some();
            if !clash && !(held && operation.changes_medium()) {
                return Some(self.make(operation, range));
            }
        }
        None
    }

    fn make(&mut self, operation: Operation, range: Range<usize>) -> Request {
        let length = range.len();
        let mut buffer = operation.carries_data().then(|| self.share.take(length).expect("a buffer"));
        let mut content = None;
        if let Operation::Write { .. } = operation {
            let bytes = buffer.as_mut().expect("a write has one");
            for piece in bytes.chunks_mut(8) {
                let value = self.random.next().to_le_bytes();
                piece.copy_from_slice(&value[..piece.len()]);
            }
            content = Some(bytes.to_vec());
        } else if let Some(bytes) = &mut buffer {
            // What is not overwritten must be found.
            bytes.fill(0xa5);
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let offset = range.start as u64;
        self.pending.push(Pending { cookie, operation, range, content });
        Request { cookie, operation, offset, length: length as u64, buffer }
    }

    /// Take a completion in, and compare what was read.
    pub(crate) fn completed(&mut self, completion: Completion) {
        let at = self.pending.iter().position(|pending| pending.cookie == completion.cookie);
        let pending = self.pending.swap_remove(at.expect("each cookie completes once"));
        let blocks = pending.range.start / self.block..pending.range.end / self.block;
        match (pending.operation, completion.result) {
            (Operation::Read, Ok(())) => {
                let read = completion.buffer.expect("it comes back");
                for (index, block) in read.chunks(self.block).enumerate() {
                    let number = blocks.start + index;
                    let expected = &self.content[number * self.block..][..block.len()];
                    assert!(self.unknown[number] || block == expected, "block {number} holds something else");
                }
            }
            (Operation::Write { .. }, Ok(())) => {
                assert_eq!(completion.buffer.map(|buffer| buffer.to_vec()), pending.content);
                self.content[pending.range].copy_from_slice(&pending.content.expect("it was a write"));
                self.unknown[blocks].fill(false);
            }
            (Operation::WriteZeroes { .. }, Ok(())) => {
                self.content[pending.range].fill(0);
                self.unknown[blocks].fill(false);
            }
            // A write that was lost may have happened or not.
            (operation, Err(Error::Lost)) if operation.changes_medium() => self.unknown[blocks].fill(true),
            (Operation::Trim { .. }, _) => self.unknown[blocks].fill(true),
            (Operation::Flush | Operation::Cache, Ok(())) | (_, Err(Error::Lost)) => {}
            (Operation::Status, Ok(())) => unreachable!("never asked for"),
            (operation, Err(error)) => panic!("{operation:?} failed: {error}"),
        }
    }
}
