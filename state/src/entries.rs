//! The records in memory, and changes of them as bytes.

use crate::format::{BLOCK, HEADER, MAX_KEY, MAX_REQUEST, MAX_VALUE};
use crate::store::Error;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A change of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The key has this value from now on.
    Put(&'a [u8], &'a [u8]),
    /// There is no record of this key any more; that there is none already is no error.
    Delete(&'a [u8]),
}

/// Bytes in front of the key: its length, and that of the value.
const PREFIX: usize = 3;
/// The length of a value that says that there is none.
const DELETED: u16 = u16::MAX;

/// The bytes of a change.
pub(crate) fn length(change: &Change<'_>) -> usize {
    match change {
        Change::Put(key, value) => PREFIX + key.len() + value.len(),
        Change::Delete(key) => PREFIX + key.len(),
    }
}

/// Append a change.
pub(crate) fn encode(change: &Change<'_>, out: &mut Vec<u8>) {
    let (key, value) = match *change {
        Change::Put(key, value) => (key, Some(value)),
        Change::Delete(key) => (key, None),
    };
    let length = value.map_or(DELETED, |value| value.len() as u16);
    out.push(key.len() as u8);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value.unwrap_or_default());
}

/// Take a change from the front of `bytes`; `None` at their end, or where there is no change.
pub(crate) fn decode<'a>(bytes: &mut &'a [u8]) -> Option<Change<'a>> {
    let (&[key_length, low, high], rest) = bytes.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(key_length.into())?;
    let length = u16::from_le_bytes([low, high]);
    if length == DELETED {
        *bytes = rest;
        return Some(Change::Delete(key));
    }
    let (value, rest) = rest.split_at_checked(length.into())?;
    *bytes = rest;
    Some(Change::Put(key, value))
}

/// A key and its value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// All records, by key.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    list: Vec<Entry>,
    /// What they take as bytes of changes.
    bytes: usize,
}

impl Entries {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let place = self.place(key).ok()?;
        Some(&self.list[place].1)
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.list.binary_search_by(|(there, _)| (**there).cmp(key))
    }

    /// All of them from the `from`th on, ascending by key.
    pub(crate) fn from(&self, from: usize) -> impl Iterator<Item = Change<'_>> {
        self.list.iter().skip(from).map(|(key, value)| Change::Put(key, value))
    }

    /// Bytes that they take in memory and, as changes, on the disk.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn apply(&mut self, change: &Change<'_>) {
        match (*change, self.place(change.key())) {
            (Change::Put(_, value), Ok(place)) => {
                self.bytes = self.bytes - self.list[place].1.len() + value.len();
                self.list[place].1 = value.into();
            }
            (Change::Put(key, value), Err(place)) => {
                self.bytes += length(change);
                self.list.insert(place, (key.into(), value.into()));
            }
            (Change::Delete(_), Ok(place)) => {
                let (key, value) = self.list.remove(place);
                self.bytes -= length(&Change::Put(&key, &value));
            }
            (Change::Delete(_), Err(_)) => {}
        }
    }

    /// How many blocks of a snapshot all records take that will be there after `changes`, at worst, and how many bytes.
    pub(crate) fn after(&self, changes: &[Change<'_>]) -> (usize, usize) {
        let (mut bytes, mut longest) = (0, 0);
        let mut add = |change: &Change<'_>| {
            bytes += length(change);
            longest = longest.max(length(change));
        };
        let is_changed = |entry: &Change<'_>| changes.iter().any(|change| change.key() == entry.key());
        self.from(0).filter(|entry| !is_changed(entry)).for_each(|entry| add(&entry));
        for (index, change) in changes.iter().enumerate() {
            // The last change of a key is the one that counts.
            let is_last = !changes[index + 1..].iter().any(|later| later.key() == change.key());
            if is_last && matches!(change, Change::Put(..)) {
                add(change);
            }
        }
        // A record on the disk is ended by an entry that does not fit, so each but the last holds more than this; and each
        // has a header, and a block that is not full.
        let least = MAX_REQUEST - HEADER - longest.min(MAX_REQUEST - HEADER - 1);
        let records = bytes / least + 1;
        (bytes / BLOCK + 2 * records, bytes)
    }
}

impl<'a> Change<'a> {
    /// The key.
    pub fn key(&self) -> &'a [u8] {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }

    /// Whether it can be made at all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let value = match self {
            Change::Put(_, value) => value.len(),
            Change::Delete(_) => 0,
        };
        let fits = (1..=MAX_KEY).contains(&self.key().len()) && value <= MAX_VALUE;
        if fits { Ok(()) } else { Err(Error::TooLong) }
    }
}
