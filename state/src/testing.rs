//! A disk in memory that loses what was not flushed, and anything it is told to, for tests.

use crate::{BLOCK, Disk, DiskFailed, Request};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Poll;
use kernel_runtime::Instant;

const SECTOR: usize = 512;

/// A disk in memory with a volatile write cache. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct RamDisk(Rc<RefCell<Model>>);

#[derive(Debug)]
struct Model {
    /// What survives, and what a read returns.
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Sectors that were written and not flushed, in order: where, and what.
    unflushed: Vec<(usize, [u8; SECTOR])>,
    /// After so many requests they fail; a write that fails may have happened, in part.
    fails_after: Option<u32>,
    /// Requests are not answered.
    hangs: bool,
    requests: u64,
    flushes: u64,
}

impl RamDisk {
    /// A blank disk of so many blocks.
    pub fn new(blocks: u64) -> Self {
        let bytes = vec![0; blocks as usize * BLOCK];
        Self(Rc::new(RefCell::new(Model {
            durable: bytes.clone(),
            current: bytes,
            unflushed: Vec::new(),
            fails_after: None,
            hangs: false,
            requests: 0,
            flushes: 0,
        })))
    }

    /// The power fails: each sector that was written since the last flush is as it was then, or as any of the writes since
    /// has left it. `random` chooses.
    pub fn power_failure(&self, mut random: impl FnMut() -> u64) {
        let model = &mut *self.0.borrow_mut();
        let unflushed = core::mem::take(&mut model.unflushed);
        for (at, _) in &unflushed {
            let writes = unflushed.iter().filter(|(other, _)| other == at);
            let choice = (random() % (writes.clone().count() as u64 + 1)) as usize;
            // The last of several decisions about one sector counts.
            match choice.checked_sub(1).and_then(|choice| writes.clone().nth(choice)) {
                Some((_, bytes)) => model.durable[*at..at + SECTOR].copy_from_slice(bytes),
                None => continue,
            }
        }
        model.current.copy_from_slice(&model.durable);
        model.fails_after = None;
    }

    /// After so many requests more all fail; `None`: none does.
    pub fn fail_after(&self, requests: Option<u32>) {
        self.0.borrow_mut().fails_after = requests;
    }

    /// Answer nothing any more, or again.
    pub fn hang(&self, hangs: bool) {
        self.0.borrow_mut().hangs = hangs;
    }

    /// How many requests it was given, and how many of them were flushes.
    pub fn requests(&self) -> (u64, u64) {
        (self.0.borrow().requests, self.0.borrow().flushes)
    }

    /// Change what is on it, now and durably.
    pub fn edit(&self, change: impl FnOnce(&mut [u8])) {
        let model = &mut *self.0.borrow_mut();
        change(&mut model.current);
        model.durable.copy_from_slice(&model.current);
        model.unflushed.clear();
    }

    /// Carry out a request now.
    ///
    /// # Errors
    /// When it was told to.
    ///
    /// # Panics
    /// When the request is none for this disk.
    pub fn carry_out(&self, request: Request<'_>) -> Result<(), DiskFailed> {
        let model = &mut *self.0.borrow_mut();
        model.requests += 1;
        let fails = model.fails_after.is_some_and(|left| left == 0);
        model.fails_after = model.fails_after.map(|left| left.saturating_sub(1));
        match request {
            Request::Flush => {
                model.flushes += 1;
                if !fails {
                    for (at, sector) in model.unflushed.drain(..) {
                        model.durable[at..at + SECTOR].copy_from_slice(&sector);
                    }
                }
            }
            Request::Read { block, into } => {
                let at = block as usize * BLOCK;
                into.copy_from_slice(&model.current[at..at + into.len()]);
            }
            Request::Write { block, bytes } => {
                assert!(!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK), "whole blocks");
                let start = block as usize * BLOCK;
                for (index, sector) in bytes.as_chunks::<SECTOR>().0.iter().enumerate() {
                    let at = start + index * SECTOR;
                    model.current[at..at + SECTOR].copy_from_slice(sector);
                    model.unflushed.push((at, *sector));
                }
            }
        }
        if fails { Err(DiskFailed) } else { Ok(()) }
    }
}

impl Disk for RamDisk {
    fn blocks(&self) -> u64 {
        (self.0.borrow().current.len() / BLOCK) as u64
    }

    fn carry(&mut self, request: Request<'_>, _: Instant) -> Poll<Result<(), DiskFailed>> {
        if self.0.borrow().hangs {
            return Poll::Pending;
        }
        Poll::Ready(self.carry_out(request))
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
