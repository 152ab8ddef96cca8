//! The engine: what is read, written and flushed next, and what has come of it.

use crate::entries::{self, Change, Entries};
use crate::format::{BLOCK, HEADER, Head, Label, MAX_REQUEST, RECORD_BLOCKS, seal_record};
use crate::mount::Mount;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// What the store wants of its disk. There is one at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Fill `into` from this block on. What was written before, flushed or not, is read.
    Read {
        /// The first block.
        block: u64,
        /// Whole blocks.
        into: &'a mut [u8],
    },
    /// Write from this block on. Until a flush has succeeded each sector may or may not have been written.
    Write {
        /// The first block.
        block: u64,
        /// Whole blocks.
        bytes: &'a [u8],
    },
    /// Make durable whatever has been written.
    Flush,
}

/// The disk has not done what it was asked to, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFailed;

/// Why the records cannot be had, or a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The disk is smaller than [`crate::LEAST_BLOCKS`], or than it says of itself.
    TooSmall,
    /// Something else is on the disk. It is left as it is: only a disk of zeroes is taken.
    Foreign,
    /// The disk is of another version.
    Version(u32),
    /// What was acknowledged is not there any more.
    Corrupt,
    /// There is no room for it, on the disk or in the memory that was granted; or, of a disk that was filled on a larger
    /// machine, for what is on it.
    Full,
    /// A key, a value or a set of changes is longer than it may be.
    TooLong,
    /// Something else has not ended yet.
    Busy,
    /// The disk has failed. Of a change: nobody knows whether it would be there after a restart. It is not there now, and
    /// will not be once the next change has been made, or [`Store::heal`] has succeeded.
    Disk,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "it is too small",
            Self::Foreign => "something else is on it; only a disk of zeroes is taken",
            Self::Version(_) => "it is of another version",
            Self::Corrupt => "what was kept on it is damaged",
            Self::Full => "there is no room for more",
            Self::TooLong => "a record is too long",
            Self::Busy => "it is busy",
            Self::Disk => "it has failed",
        })
    }
}

impl core::error::Error for Error {}

/// The half in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) index: u32,
    pub(crate) nonce: u64,
    /// Where the next record goes, in blocks from the half's beginning, and the how manieth it is.
    pub(crate) end: u32,
    pub(crate) place: u32,
}

#[derive(Debug)]
enum Step {
    /// There is nothing to do.
    Idle,
    /// The disk could not be read: nothing can be done.
    Dead,
    Mounting(Mount),
    /// A snapshot is being made, of entries from this one on.
    Erasing,
    FlushingErased,
    Copying {
        from: usize,
    },
    FlushingCopy,
    Heading,
    FlushingHead,
    /// A change is being made.
    Appending,
    FlushingAppended,
}

/// Records on a disk. See the crate and the folder's README.
#[derive(Debug)]
pub struct Store {
    blocks: u64,
    /// Bytes that the records may take in memory.
    limit: usize,
    /// Makes a nonce for each snapshot.
    seed: u64,
    pub(crate) label: Label,
    pub(crate) entries: Entries,
    step: Step,
    pub(crate) half: Option<Half>,
    /// The highest epoch that the disk may have.
    pub(crate) epoch: u64,
    /// The snapshot that is being made.
    next: Half,
    /// What is on the disk behind the half's end is not known: the next change begins with a snapshot.
    in_doubt: bool,
    /// The changes that are being made, as bytes.
    pending: Vec<u8>,
    buffer: Vec<u8>,
    /// What of the buffer is being written.
    length: usize,
}

impl Store {
    /// A store on a disk of so many blocks, whose records may take `limit` bytes of memory. `identity` becomes that of a
    /// blank disk; it and `seed` are random and differ at each start. What it wants first is to read the disk:
    /// [`Store::done`] tells when that has ended.
    pub fn new(blocks: u64, limit: usize, identity: [u8; 16], seed: u64) -> Self {
        let label = Label::new(blocks, identity).unwrap_or(Label { half: 0, identity });
        let none = Half { index: 0, nonce: 0, end: 1, place: 0 };
        Self {
            blocks,
            limit,
            seed,
            label,
            entries: Entries::default(),
            step: Step::Mounting(Mount::new()),
            half: None,
            epoch: 0,
            next: none,
            in_doubt: false,
            pending: Vec::new(),
            buffer: vec![0; MAX_REQUEST],
            length: 0,
        }
    }

    /// What is to be done now, the same until [`Store::done`] is called; `None` when there is nothing.
    pub fn request(&mut self) -> Option<Request<'_>> {
        let start = |half: u32| 1 + u64::from(half) * u64::from(self.label.half);
        let next = start(self.next.index);
        let block = match &self.step {
            Step::Idle | Step::Dead => return None,
            Step::Mounting(mount) => return Some(mount.request(&self.label, &mut self.buffer)),
            Step::FlushingErased | Step::FlushingCopy | Step::FlushingHead | Step::FlushingAppended => {
                return Some(Request::Flush);
            }
            Step::Erasing | Step::Heading => next,
            Step::Copying { .. } => next + u64::from(self.next.end),
            Step::Appending => self.half.map_or(0, |half| start(half.index) + u64::from(half.end)),
        };
        Some(Request::Write { block, bytes: &self.buffer[..self.length] })
    }

    /// What came of the request. Answers what came of the whole, if this was its end: of reading the disk, of
    /// [`Store::begin`], of [`Store::heal`].
    pub fn done(&mut self, result: Result<(), DiskFailed>) -> Option<Result<(), Error>> {
        if result.is_err() {
            return Some(Err(self.failed()));
        }
        match core::mem::replace(&mut self.step, Step::Idle) {
            Step::Idle => return None,
            Step::Dead => self.step = Step::Dead,
            Step::Mounting(mount) => return self.mounting(mount),
            Step::Erasing => self.step = Step::FlushingErased,
            Step::FlushingErased => self.copy(0),
            Step::Copying { from } => {
                self.next.end += self.blocks_written();
                self.next.place += 1;
                self.copy(from);
            }
            Step::FlushingCopy => self.head(),
            Step::Heading => self.step = Step::FlushingHead,
            Step::FlushingHead => {
                self.half = Some(self.next);
                self.in_doubt = false;
                return self.append();
            }
            Step::Appending => self.step = Step::FlushingAppended,
            Step::FlushingAppended => {
                let blocks = self.blocks_written();
                if let Some(half) = &mut self.half {
                    half.end += blocks;
                    half.place += 1;
                }
                let pending = core::mem::take(&mut self.pending);
                self.apply(&pending);
                return Some(Ok(()));
            }
        }
        None
    }

    fn failed(&mut self) -> Error {
        // Before the disk was read there is nothing that could be healed.
        let was_read = !matches!(self.step, Step::Mounting(_) | Step::Dead);
        self.in_doubt = was_read;
        self.step = if was_read { Step::Idle } else { Step::Dead };
        self.pending = Vec::new();
        Error::Disk
    }

    fn mounting(&mut self, mount: Mount) -> Option<Result<(), Error>> {
        let (blocks, mut buffer) = (self.blocks, core::mem::take(&mut self.buffer));
        let next = mount.next(self, blocks, &mut buffer);
        self.buffer = buffer;
        match next {
            Ok(Some(mount)) => {
                self.step = Step::Mounting(mount);
                None
            }
            Ok(None) => Some(Ok(())),
            Err(error) => {
                self.step = Step::Dead;
                Some(Err(error))
            }
        }
    }

    /// The changes in `bytes` are made. False when they take more memory than was granted.
    pub(crate) fn apply(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(change) = entries::decode(&mut bytes) {
            self.entries.apply(&change);
        }
        self.entries.bytes() <= self.limit
    }

    /// Make these changes, all or none. When [`Store::done`] answers that it has ended they are durable, and there.
    ///
    /// # Errors
    /// Nothing was begun then.
    pub fn begin(&mut self, changes: &[Change<'_>]) -> Result<(), Error> {
        match self.step {
            Step::Idle => {}
            Step::Dead => return Err(Error::Disk),
            _ => return Err(Error::Busy),
        }
        changes.iter().try_for_each(Change::check)?;
        if HEADER + changes.iter().map(entries::length).sum::<usize>() > MAX_REQUEST {
            return Err(Error::TooLong);
        }
        let (blocks, bytes) = self.entries.after(changes);
        // There is always room for one more record behind a snapshot: that which gives some back.
        if bytes > self.limit || 1 + blocks + RECORD_BLOCKS > self.label.half as usize {
            return Err(Error::Full);
        }
        self.pending.clear();
        changes.iter().for_each(|change| entries::encode(change, &mut self.pending));
        let needed = (HEADER + self.pending.len()).div_ceil(BLOCK) as u32;
        match self.half {
            Some(half) if !self.in_doubt && half.end + needed <= self.label.half => {
                self.append();
            }
            _ => self.snapshot(),
        }
        Ok(())
    }

    /// Whether a request has failed, so that what is on the disk may be more than what is here.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether there is a [`Store::request`].
    pub fn is_busy(&self) -> bool {
        !matches!(self.step, Step::Idle | Step::Dead)
    }

    /// Settle a doubt, if there is one and nothing else goes on: all records are written anew.
    pub fn heal(&mut self) {
        if self.in_doubt && !self.is_busy() {
            self.snapshot();
        }
    }

    /// Begin a snapshot in the half that is not in use. Its head is taken away first: it must not speak for what is
    /// written over.
    fn snapshot(&mut self) {
        self.epoch += 1;
        let index = self.half.map_or(0, |half| 1 - half.index);
        // Never the same for two snapshots of one start, and as good as never for two of different ones.
        let nonce = self.seed.wrapping_add(self.epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.next = Half { index, nonce, end: 1, place: 0 };
        self.length = BLOCK;
        self.buffer[..BLOCK].fill(0);
        self.step = Step::Erasing;
    }

    /// Write the entries from the `from`th on, as many as fit into a record.
    fn copy(&mut self, from: usize) {
        let mut bytes = vec![0; HEADER];
        let mut next = from;
        for entry in self.entries.from(from) {
            if bytes.len() + entries::length(&entry) > MAX_REQUEST {
                break;
            }
            entries::encode(&entry, &mut bytes);
            next += 1;
        }
        if next == from {
            self.step = Step::FlushingCopy;
            return;
        }
        self.write(&bytes, self.next);
        self.step = Step::Copying { from: next };
    }

    fn head(&mut self) {
        self.length = BLOCK;
        let head = Head { epoch: self.epoch, nonce: self.next.nonce, blocks: self.next.end };
        head.encode(&self.label.identity, &mut self.buffer[..BLOCK]);
        self.step = Step::Heading;
    }

    /// Append what is pending; without it all is done.
    fn append(&mut self) -> Option<Result<(), Error>> {
        let Some(half) = self.half.filter(|_| !self.pending.is_empty()) else { return Some(Ok(())) };
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&self.pending);
        self.write(&bytes, half);
        self.step = Step::Appending;
        None
    }

    /// Have a record written at a half's end.
    fn write(&mut self, record: &[u8], half: Half) {
        self.length = record.len().next_multiple_of(BLOCK);
        let buffer = &mut self.buffer[..self.length];
        buffer[..record.len()].copy_from_slice(record);
        seal_record(buffer, record.len(), half.nonce, half.place);
    }

    fn blocks_written(&self) -> u32 {
        (self.length / BLOCK) as u32
    }

    /// How many bytes of records there can be at most, on the disk and in memory.
    pub fn room(&self) -> usize {
        (self.label.half as usize * BLOCK).min(self.limit)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key)
    }

    /// All records whose keys begin with `prefix`, ascending by key.
    pub fn with_prefix<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.entries.from(0).filter_map(move |entry| match entry {
            Change::Put(key, value) if key.starts_with(prefix) => Some((key, value)),
            _ => None,
        })
    }

    /// What the disk is called, since it was blank.
    pub fn identity(&self) -> [u8; 16] {
        self.label.identity
    }
}
