//! Writes that were acknowledged and are not known to be durable, in the order of their acknowledgement.

use alloc::collections::VecDeque;
use kernel_runtime::Instant;
use storage_block::{Buffer, Operation, Share};

/// What an entry would do again.
#[derive(Debug)]
pub(crate) enum Content {
    /// Write these bytes; `None` while they are on their way.
    Bytes(Option<Buffer>),
    /// Write zeroes.
    Zeroes {
        /// As in [`Operation::WriteZeroes`].
        no_hole: bool,
    },
    /// Give the range back.
    Trim,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) content: Content,
    since: Instant,
}

impl Entry {
    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// A place in the journal, taken before a write is sent, so that there is one when it is acknowledged.
#[derive(Debug)]
pub(crate) struct Room(Option<Buffer>);

/// The journal of one disk.
#[derive(Debug)]
pub(crate) struct Journal {
    entries: VecDeque<Entry>,
    /// The number of the first entry; they are numbered without a gap.
    first: u64,
    capacity: usize,
    /// Places promised to writes that are not acknowledged yet.
    promised: usize,
    share: Share,
}

impl Journal {
    /// A journal of at most `capacity` entries, whose bytes are kept in memory of `share`.
    pub(crate) fn new(capacity: usize, share: Share) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), first: 0, capacity, promised: 0, share }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory that entries and promises hold.
    pub(crate) fn used(&self) -> usize {
        self.share.used()
    }

    /// The number that the next entry will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// When the oldest entry was made.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.since)
    }

    /// Whether it is time to make room.
    pub(crate) fn is_half_full(&self) -> bool {
        !self.is_empty()
            && (2 * (self.entries.len() + self.promised) >= self.capacity
                || 2 * self.share.used() >= self.share.left())
    }

    /// A place for a change of `length` bytes, or `None` when there is none now.
    pub(crate) fn reserve(&mut self, operation: Operation, length: u64) -> Option<Room> {
        if self.entries.len() + self.promised >= self.capacity {
            return None;
        }
        let room = match operation {
            Operation::Write { .. } => Room(Some(self.share.take_fairly(usize::try_from(length).ok()?)?)),
            _ => Room(None),
        };
        self.promised += 1;
        Some(room)
    }

    /// The place is not needed.
    pub(crate) fn release(&mut self, room: Room) {
        drop(room);
        self.promised -= 1;
    }

    /// The change was acknowledged: remember it. The bytes stay where they are if memory of their size was promised.
    pub(crate) fn keep(
        &mut self,
        now: Instant,
        room: Room,
        operation: Operation,
        (offset, length): (u64, u64),
        bytes: Option<Buffer>,
    ) {
        self.promised -= 1;
        let content = match (operation, room.0, bytes) {
            (Operation::Write { .. }, Some(mut place), Some(mut bytes)) => {
                if !place.exchange(&mut bytes) {
                    place.copy_from_slice(&bytes);
                }
                Content::Bytes(Some(place))
            }
            (Operation::WriteZeroes { no_hole, .. }, ..) => Content::Zeroes { no_hole },
            _ => Content::Trim,
        };
        self.entries.push_back(Entry { offset, length, content, since: now });
    }

    /// Everything before the entry of number `end` is durable.
    pub(crate) fn forget(&mut self, end: u64) {
        while self.first < end && self.entries.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether an entry has a byte of this range.
    pub(crate) fn overlaps(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        self.entries.iter().any(|entry| entry.offset < end && offset < entry.end())
    }

    pub(crate) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The bytes `from..to` of the disk, which are part of an entry; [`Journal::put_back`] returns them.
    pub(crate) fn take_bytes(&mut self, index: usize, from: u64, to: u64) -> Option<Buffer> {
        let entry = self.entries.get_mut(index)?;
        let Content::Bytes(bytes) = &mut entry.content else { return None };
        let mut bytes = bytes.take()?;
        bytes.narrow((from - entry.offset) as usize..(to - entry.offset) as usize);
        Some(bytes)
    }

    /// An entry's bytes are back from their way.
    pub(crate) fn put_back(&mut self, index: usize, mut bytes: Buffer) {
        if let Some(entry) = self.entries.get_mut(index) {
            bytes.show(entry.length as usize);
            entry.content = Content::Bytes(Some(bytes));
        }
    }
}
