//! The rings of a channel: packets of eight-byte words, one ring for each direction, each with a page of control in front.
//!
//! The other side's index is held against the ring before it is used, and so is all that a packet says about its own
//! length. Our own index is never read back.

use core::sync::atomic::{Ordering, fence};
use kernel_io::{PAGE, Shared};

/// The control page: both indices, whether the reader wants no signals, and how much room a writer waits for.
const WRITE: usize = 0;
const READ: usize = 4;
const MASK: usize = 8;
const WAITED_FOR: usize = 12;
/// What both can do: signal a writer that asks for it by the word before.
const FEATURES: usize = 64;
const SIGNALS_ROOM: u32 = 1;

/// Bytes of a word, of a packet's header and of what stands behind it.
pub(super) const WORD: u32 = 8;
const HEADER: u32 = 16;
const FOOTER: u32 = 8;

/// Types of packets.
pub(super) const IN_BAND: u16 = 6;
pub(super) const TRANSFER_PAGES: u16 = 7;
pub(super) const GPA_DIRECT: u16 = 9;
pub(super) const COMPLETION: u16 = 11;
/// The flag of a packet: its completion is to be told.
pub(super) const WANTS_COMPLETION: u16 = 1;

/// What a host cannot have done rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// An index outside of its ring, or not at a word.
    Index,
    /// A packet that is longer than what is there, or shorter than its header.
    Length,
    /// A packet of no kind that it may send.
    Kind,
    /// The completion of something that is not under way.
    Transaction,
    /// A place outside of the memory that it was given.
    Range,
    /// It leaves more unread than can be under way.
    Full,
}

/// Where a ring lies in the channel's memory.
#[derive(Clone, Copy, Debug)]
struct Place {
    control: usize,
    /// Bytes of data.
    length: u32,
}

impl Place {
    fn word(self, at: u32) -> usize {
        self.control + PAGE + at as usize
    }

    fn after(self, at: u32, bytes: u32) -> u32 {
        let next = at + bytes;
        if next >= self.length { next - self.length } else { next }
    }

    /// Bytes from one index to the other.
    fn distance(self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.length - from }
    }

    /// The index that the other side moves.
    fn theirs(self, memory: &Shared, index: usize) -> Result<u32, Lie> {
        let value = memory.read32(self.control + index);
        fence(Ordering::Acquire);
        if value < self.length && value.is_multiple_of(WORD) { Ok(value) } else { Err(Lie::Index) }
    }

    fn clear(self, memory: &Shared) {
        (0..PAGE).step_by(8).for_each(|offset| memory.write64(self.control + offset, 0));
        memory.write32(self.control + FEATURES, SIGNALS_ROOM);
    }
}

/// The ring that we write.
#[derive(Debug)]
pub(super) struct Outgoing {
    place: Place,
    next: u32,
    announced: u32,
}

/// The ring that the host writes.
#[derive(Debug)]
pub(super) struct Incoming {
    place: Place,
    next: u32,
    released: u32,
}

/// Both rings, for `pages` of data each, and how much memory they take, in bytes.
pub(super) fn rings(out: usize, incoming: usize) -> (Outgoing, Incoming, usize) {
    let place = |control, pages| Place { control, length: (pages * PAGE) as u32 };
    let second = (1 + out) * PAGE;
    (
        Outgoing { place: place(0, out), next: 0, announced: 0 },
        Incoming { place: place(second, incoming), next: 0, released: 0 },
        second + (1 + incoming) * PAGE,
    )
}

impl Outgoing {
    /// As new, which it may be only as long as the host does not use it.
    pub(super) fn reset(&mut self, memory: &Shared) {
        self.place.clear(memory);
        (self.next, self.announced) = (0, 0);
    }

    /// Pages up to the other ring.
    pub(super) fn pages(&self) -> u32 {
        self.place.length / PAGE as u32 + 1
    }

    /// Put a packet into the ring: more of its header, and what it carries. The host sees it once it is announced.
    pub(super) fn push(
        &mut self,
        memory: &Shared,
        (kind, flags, transaction): (u16, u16, u64),
        header: &[u64],
        payload: &[u64],
    ) -> Result<(), Lie> {
        let (place, start) = (self.place, self.next);
        let header_length = HEADER + WORD * header.len() as u32;
        let length = header_length + WORD * payload.len() as u32;
        let read = place.theirs(memory, READ)?;
        let free = match place.distance(start, read) {
            0 => place.length,
            free => free,
        };
        // A ring that is full would look empty.
        if free <= length + FOOTER {
            return Err(Lie::Full);
        }
        let lengths = u64::from(header_length / WORD) << 16 | u64::from(length / WORD) << 32;
        let first = u64::from(kind) | lengths | u64::from(flags) << 48;
        let mut put = |word| {
            memory.write64(place.word(self.next), word);
            self.next = place.after(self.next, WORD);
        };
        put(first);
        put(transaction);
        header.iter().chain(payload).for_each(|word| put(*word));
        put(u64::from(start) << 32);
        Ok(())
    }

    /// Let the host see what was put into the ring. Answers whether it has to be signalled.
    pub(super) fn announce(&mut self, memory: &Shared) -> bool {
        if self.next == self.announced {
            return false;
        }
        let control = self.place.control;
        fence(Ordering::Release);
        memory.write32(control + WRITE, self.next);
        fence(Ordering::SeqCst);
        // One that still had something to read comes by here, and one that does not want to be signalled says so.
        let had_all = memory.read32(control + READ) == self.announced;
        self.announced = self.next;
        had_all && memory.read32(control + MASK) == 0
    }
}

/// A packet in the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) kind: u16,
    pub(super) transaction: u64,
    at: u32,
    /// In words: where what it carries begins, and where it ends.
    payload: u32,
    end: u32,
}

impl Packet {
    /// Words that it carries.
    pub(super) fn length(&self) -> usize {
        (self.end - self.payload) as usize
    }
}

impl Incoming {
    /// As new, which it may be only as long as the host does not use it.
    pub(super) fn reset(&mut self, memory: &Shared) {
        self.place.clear(memory);
        (self.next, self.released) = (0, 0);
    }

    /// Whether there is something to read; also when what there is makes no sense.
    #[inline]
    pub(super) fn waits(&self, memory: &Shared) -> bool {
        memory.read32(self.place.control + WRITE) != self.next
    }

    /// The next packet. It stays where it is.
    pub(super) fn peek(&self, memory: &Shared) -> Result<Option<Packet>, Lie> {
        let (place, at) = (self.place, self.next);
        let there = place.distance(at, place.theirs(memory, WRITE)?);
        if there == 0 {
            return Ok(None);
        }
        if there < HEADER + FOOTER {
            return Err(Lie::Length);
        }
        let first = memory.read64(place.word(at));
        let transaction = memory.read64(place.word(place.after(at, WORD)));
        let [kind, payload, end] = [0, 16, 32].map(|bits| (first >> bits) as u16);
        let (payload, end) = (u32::from(payload), u32::from(end));
        if payload * WORD < HEADER || payload > end || end * WORD + FOOTER > there {
            return Err(Lie::Length);
        }
        Ok(Some(Packet { kind, transaction, at, payload, end }))
    }

    /// A word of a packet's header, after the first two.
    pub(super) fn header(&self, memory: &Shared, packet: &Packet, index: u32) -> Result<u64, Lie> {
        self.word(memory, packet, HEADER / WORD, packet.payload, index)
    }

    /// A word of what a packet carries.
    pub(super) fn payload(&self, memory: &Shared, packet: &Packet, index: u32) -> Result<u64, Lie> {
        self.word(memory, packet, packet.payload, packet.end, index)
    }

    fn word(&self, memory: &Shared, packet: &Packet, from: u32, to: u32, index: u32) -> Result<u64, Lie> {
        let word = from.checked_add(index).filter(|word| *word < to).ok_or(Lie::Length)?;
        Ok(memory.read64(self.place.word(self.place.after(packet.at, word * WORD))))
    }

    /// A packet is done with. The host may use its place once that is released.
    pub(super) fn advance(&mut self, packet: &Packet) {
        self.next = self.place.after(packet.at, packet.end * WORD + FOOTER);
    }

    /// Let the host use what was read. Answers whether it has to be signalled, because it waits for room.
    pub(super) fn release(&mut self, memory: &Shared) -> bool {
        if self.next == self.released {
            return false;
        }
        let (place, before) = (self.place, self.released);
        fence(Ordering::Release);
        memory.write32(place.control + READ, self.next);
        self.released = self.next;
        fence(Ordering::SeqCst);
        let wanted = memory.read32(place.control + WAITED_FOR) & !(WORD - 1);
        let Ok(write) = place.theirs(memory, WRITE) else { return false };
        let room = |read| place.length - place.distance(read, write);
        // A ring is never filled to its last word, so as much room as it wants is not enough yet.
        wanted != 0 && room(before) <= wanted && room(self.next) > wanted
    }

    /// Whether the host is to signal that there is something.
    pub(super) fn ask_for_signals(&self, memory: &Shared, wanted: bool) {
        memory.write32(self.place.control + MASK, u32::from(!wanted));
        fence(Ordering::SeqCst);
    }
}
