//! The buffer for what goes out: sealed records, and behind them one that is still being filled.
//!
//! Small writes share a record: it is sealed when it is full, or when somebody asks what there is to send.

use crate::record::{DATA, HEADER, Half, LONGEST_PLAIN, LONGEST_SEALED, OVERHEAD};
use alloc::boxed::Box;
use alloc::vec;

/// Kept free behind every record with data: an alert and a change of keys must always fit.
const RESERVE: usize = 64;
/// The least size that holds any record.
pub(crate) const LEAST: usize = HEADER + LONGEST_SEALED + RESERVE;

pub(crate) struct Outgoing {
    buffer: Box<[u8]>,
    /// What the caller has sent.
    sent: usize,
    /// Where whole records end.
    sealed: usize,
    /// Bytes in the record that is being filled, whose header would be at `sealed`.
    open: usize,
}

impl Outgoing {
    pub(crate) fn new(size: usize) -> Self {
        Self { buffer: vec![0; size].into(), sent: 0, sealed: 0, open: 0 }
    }

    /// Whole records that were not sent yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..self.sealed]
    }

    /// Whether there is nothing, neither sealed nor open.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.sealed && self.open == 0
    }

    /// The caller has sent so many bytes of what is pending.
    pub(crate) fn transmitted(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.sealed);
        if self.is_empty() {
            (self.sent, self.sealed) = (0, 0);
        }
    }

    /// Where records come that somebody else makes; only while none is open.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.compact();
        &mut self.buffer[self.sealed..]
    }

    /// Somebody else has made records of so many bytes.
    pub(crate) fn made(&mut self, count: usize) {
        self.sealed = self.sealed.saturating_add(count).min(self.buffer.len());
    }

    /// Move what is pending to the front when that costs less than sending what was sent.
    fn compact(&mut self) {
        let end = self.sealed + if self.open > 0 { HEADER + self.open } else { 0 };
        if self.sent > 0 && end - self.sent <= self.sent {
            self.buffer.copy_within(self.sent..end, 0);
            (self.sent, self.sealed) = (0, self.sealed - self.sent);
        }
    }

    /// Put bytes into the open record; answers how many found room. It may be full then: [`Outgoing::is_full`].
    pub(crate) fn append(&mut self, plain: &[u8]) -> usize {
        self.compact();
        let start = self.sealed + HEADER;
        let room = self.buffer.len().saturating_sub(self.sealed + OVERHEAD + RESERVE).min(LONGEST_PLAIN);
        let count = plain.len().min(room.saturating_sub(self.open));
        self.buffer[start + self.open..start + self.open + count].copy_from_slice(&plain[..count]);
        self.open += count;
        count
    }

    /// Whether the open record can take no more.
    pub(crate) fn is_full(&self) -> bool {
        self.open == LONGEST_PLAIN
    }

    /// Bytes that wait in the open record.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Seal the open record, if there is one.
    pub(crate) fn seal(&mut self, half: &mut Half) -> Option<()> {
        if self.open == 0 {
            return Some(());
        }
        let end = self.sealed + OVERHEAD + self.open;
        half.seal(DATA, &mut self.buffer[self.sealed..end])?;
        (self.sealed, self.open) = (end, 0);
        Some(())
    }

    /// A record with an alert or a message of the handshake; only while none is open. `None` when there is no room now.
    pub(crate) fn control(&mut self, half: &mut Half, carries: u8, bytes: &[u8]) -> Option<()> {
        self.compact();
        let end = self.sealed + OVERHEAD + bytes.len();
        let record = self.buffer.get_mut(self.sealed..end).filter(|_| self.open == 0)?;
        record[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
        half.seal(carries, record)?;
        self.sealed = end;
        Some(())
    }
}
