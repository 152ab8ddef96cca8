//! The buffer for what comes in: filled at its end, taken record by record from its front.

use crate::record::{HEADER, LONGEST_SEALED};
use alloc::boxed::Box;
use alloc::vec;

/// The least size that holds any record.
pub(crate) const LEAST: usize = HEADER + LONGEST_SEALED;

pub(crate) struct Incoming {
    buffer: Box<[u8]>,
    head: usize,
    tail: usize,
}

/// What lies at some place of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A record of so many bytes, header and all.
    Whole(usize),
    /// The beginning of one.
    Part,
    /// A header that no record has: of an unknown type, or announcing more than there may be.
    Bad,
}

impl Incoming {
    pub(crate) fn new(size: usize) -> Self {
        Self { buffer: vec![0; size].into(), head: 0, tail: 0 }
    }

    /// Where the next bytes belong. Bytes are moved to the front when that at least doubles the room, so that moving
    /// costs less than receiving; or when there is no room at all.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let held = self.tail - self.head;
        if self.head > 0 && (held <= self.head || self.tail == self.buffer.len()) {
            self.buffer.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, held);
        }
        &mut self.buffer[self.tail..]
    }

    pub(crate) fn received(&mut self, count: usize) {
        self.tail = self.tail.saturating_add(count).min(self.buffer.len());
    }

    /// The bytes that are there.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[self.head..self.tail]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.head = self.head.saturating_add(count).min(self.tail);
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether nothing more can come before something is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.tail - self.head == self.buffer.len()
    }

    /// What lies `offset` bytes from the front.
    pub(crate) fn record(&mut self, offset: usize) -> Record {
        let bytes = self.bytes().get(offset..).unwrap_or_default();
        // The types from change_cipher_spec to application_data, and the version all versions have pretended to be.
        let fits = |index: usize, good: core::ops::RangeInclusive<u8>| {
            bytes.get(index).is_none_or(|byte| good.contains(byte))
        };
        if !fits(0, 20..=23) || !fits(1, 3..=3) {
            return Record::Bad;
        }
        let Some([_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Record::Part };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > LONGEST_SEALED {
            return Record::Bad;
        }
        if bytes.len() < HEADER + length { Record::Part } else { Record::Whole(HEADER + length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(incoming: &mut Incoming, bytes: &[u8]) {
        incoming.space()[..bytes.len()].copy_from_slice(bytes);
        incoming.received(bytes.len());
    }

    #[test]
    fn records_are_found_wherever_they_lie_and_in_whatever_pieces_they_come() {
        let mut incoming = Incoming::new(16);
        assert_eq!(incoming.record(0), Record::Part);
        fill(&mut incoming, &[23, 3, 3, 0]);
        assert_eq!(incoming.record(0), Record::Part);
        fill(&mut incoming, &[2, 7]);
        assert_eq!(incoming.record(0), Record::Part);
        fill(&mut incoming, &[8, 23, 3, 3, 0x41, 1, 9]);
        assert_eq!(incoming.record(0), Record::Whole(7));
        assert_eq!(incoming.record(7), Record::Bad);
        assert_eq!(incoming.record(70), Record::Part);
        incoming.consume(7);
        assert_eq!(incoming.bytes(), [23, 3, 3, 0x41, 1, 9]);
        assert_eq!(incoming.space().len(), 10);
        assert_eq!(incoming.bytes(), [23, 3, 3, 0x41, 1, 9]);
        incoming.consume(6);
        assert_eq!(incoming.space().len(), 16);
    }

    #[test]
    fn a_full_buffer_has_no_room_until_something_is_taken() {
        let mut incoming = Incoming::new(8);
        fill(&mut incoming, &[1; 8]);
        assert!(incoming.is_full() && incoming.space().is_empty());
        incoming.received(5);
        incoming.consume(1);
        assert!(!incoming.is_full());
        assert_eq!(incoming.space().len(), 1);
        assert_eq!(incoming.bytes(), [1; 7]);
    }
}
