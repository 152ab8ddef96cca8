//! Frames to send: built in pages of ours, which the backend may read from when they are sent until it says that it has.

use super::super::bus::Bus;
use super::super::grants::Access;
use super::super::ring::{Front, Lie, SIZE};
use super::LONGEST;
use crate::{Error, Room};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU16;
use kernel_io::{Buffer, Direction, Lent, PAGE, buffer_stride};
use network_nic::Counters;
use network_nic::offload::{self, NEEDS_CSUM};

/// Buffers: at least and at most. Long ones make sense from as many on as are the least.
const LEAST: usize = 16;
const MOST: usize = 64;
/// Of which so many are kept for answers to what is received; the last is never sent, so that there always is one.
const KEPT: usize = 4;
/// Lengths of frames that are cut by the backend, longest first: whole pages, of which a backend takes 18 at least.
const LENGTHS: [usize; 3] = [60 * 1024, 28 * 1024, 12 * 1024];
/// Places in the ring that a frame takes, at most: its pages, and what is said about it.
const PLACES: u32 = 16;
/// Bytes of a request.
const STRIDE: usize = 12;

/// Flags of a request: the checksum is to be made; what there is of it is right; the frame goes on; something is said about it in the
/// next request.
const BLANK: u32 = 1;
const VALIDATED: u32 = 2;
const MORE: u32 = 4;
const EXTRA: u32 = 8;
/// What is said: it is to be cut, as TCP over IPv4 is.
const KIND_GSO: u32 = 1;
const GSO_TCPV4: u32 = 1;
/// The status of a response to what was said; others are those of a page.
const NULL: i16 = 1;

/// A frame that the backend has: its buffer, the entries of the grant table, how many of its pages have no response yet.
#[derive(Debug)]
struct Sent {
    lent: Lent,
    entries: [u16; PLACES as usize],
    pages: usize,
    left: usize,
}

/// Buffers, and which of them the backend has.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) ring: Front,
    bus: Rc<Bus>,
    domain: u16,
    /// The last that came back is used next: it is most likely in a cache.
    free: Vec<Buffer>,
    sent: Vec<Option<Sent>>,
    numbers: Vec<u16>,
    /// Entries of the grant table that allow nothing.
    pub(super) entries: Vec<u16>,
    /// Places in the ring that have no response yet and are not a page's.
    said: u32,
    /// The longest frame.
    pub(super) frame: usize,
}

impl fmt::Display for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}, checksums by the backend", self.sent.len(), self.frame)
    }
}

impl Transmit {
    pub(super) fn new(bus: &Rc<Bus>, domain: u16) -> Result<Self, Error> {
        Ok(Self {
            ring: Front::new(STRIDE)?,
            bus: bus.clone(),
            domain,
            free: Vec::new(),
            sent: Vec::new(),
            numbers: Vec::new(),
            entries: Vec::new(),
            said: 0,
            frame: LONGEST,
        })
    }

    /// Take buffers, long ones if the backend cuts frames and that makes sense with so much memory.
    pub(super) fn allocate(&mut self, memory: usize, cuts: bool) -> Result<(), Error> {
        let room = |frame: usize| memory / buffer_stride(frame);
        let long = LENGTHS.into_iter().filter(|_| cuts).find(|length| room(*length) >= LEAST);
        self.frame = long.unwrap_or(LONGEST);
        // Whole pages: what lies in a page beside a frame could be read as well.
        let length = self.frame.next_multiple_of(PAGE);
        let count = room(length).clamp(LEAST, MOST);
        self.free = Buffer::allocate(count, length)?;
        // They are granted up to the end of the last page of a frame, and hold what was there before them.
        self.free.iter_mut().for_each(|buffer| buffer.fill(0));
        self.sent.extend((0..count).map(|_| None));
        self.numbers.extend(0..count as u16);
        Ok(())
    }

    /// Whether frames may be longer than the network's, to be cut by the backend.
    pub(super) fn is_long(&self) -> bool {
        self.frame > LONGEST
    }

    fn has_places(&self) -> bool {
        self.ring.under_way() + PLACES <= SIZE
    }

    /// Whether a frame that answers nothing may go.
    pub(super) fn has_room(&self) -> bool {
        self.free.len() > KEPT && self.has_places()
    }

    /// Take back what the backend is done with.
    pub(super) fn reap(&mut self) -> Result<(), Lie> {
        for _ in 0..self.ring.responses()? {
            let word = self.ring.response(0);
            self.ring.advance();
            let (number, status) = (usize::from(word as u16), (word >> 16) as i16);
            if status == NULL {
                self.said = self.said.checked_sub(1).ok_or(Lie::Kind)?;
                continue;
            }
            let Some(Some(sent)) = self.sent.get_mut(number) else { return Err(Lie::Id) };
            sent.left = sent.left.checked_sub(1).ok_or(Lie::Id)?;
            if sent.left == 0 && !self.take_back(number) {
                return Err(Lie::Held);
            }
        }
        Ok(())
    }

    /// Whether the backend is done with all of them.
    pub(super) fn is_done(&mut self) -> Result<bool, Lie> {
        self.reap()?;
        Ok(self.sent.iter().all(Option::is_none))
    }

    /// Revoke the grants of a frame. Answers whether its buffer is ours then.
    fn take_back(&mut self, number: usize) -> bool {
        let Some(sent) = self.sent.get_mut(number).and_then(Option::take) else { return true };
        let entries = &sent.entries[..sent.pages];
        if !entries.iter().all(|entry| self.bus.grants.revoke(*entry, Access::Read)) {
            // The backend reads it still.
            self.sent[number] = Some(sent);
            return false;
        }
        self.entries.extend(entries);
        // SAFETY: the grants were all by which the backend can access the pages, and none can be revoked as long as the backend has its
        // page mapped or something copies from it.
        self.free.push(unsafe { sent.lent.reclaim() });
        self.numbers.push(number as u16);
        true
    }

    /// All buffers back, after the connection was closed. Answers whether they are.
    pub(super) fn recover(&mut self) -> bool {
        self.said = 0;
        let mut is_ours = true;
        for number in 0..self.sent.len() {
            is_ours &= self.take_back(number);
        }
        is_ours
    }

    /// Hand a frame to the backend: the first `length` bytes of a buffer, for which there are places.
    fn send(&mut self, buffer: Buffer, length: usize, flags: u32, segment: u16) {
        let pages = length.div_ceil(PAGE);
        let left = self.entries.len().checked_sub(pages);
        let (Some(left), Some(number)) = (left, self.numbers.pop()) else {
            // There are as many entries as places, and as many numbers as buffers.
            return self.free.push(buffer);
        };
        let lent = buffer.lend(Direction::ToDevice);
        let mut entries = [0; PLACES as usize];
        entries[..pages].copy_from_slice(&self.entries[left..]);
        self.entries.truncate(left);
        for (page, entry) in entries[..pages].iter().enumerate() {
            let start = page * PAGE;
            self.bus.grants.allow(*entry, self.domain, lent.address() + start as u64, Access::Read);
            let more = if page + 1 < pages { MORE } else { 0 };
            // The first says the length of all of it, and the others their own.
            let (flags, size) = match page {
                0 => (flags | more, length),
                _ => (more, (length - start).min(PAGE)),
            };
            self.ring.push(&[u32::from(*entry), flags << 16, u32::from(number) | (size as u32) << 16]);
            if page == 0 && segment != 0 {
                self.ring.push(&[KIND_GSO | u32::from(segment) << 16, GSO_TCPV4, 0]);
                self.said += 1;
            }
        }
        self.sent[usize::from(number)] = Some(Sent { lent, entries, pages, left: pages });
    }
}

/// Room for one frame.
#[derive(Debug)]
pub struct Tx<'a> {
    transmit: &'a mut Transmit,
    counters: &'a mut Counters,
    segment: Option<NonZeroU16>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(transmit: &'a mut Transmit, counters: &'a mut Counters) -> Self {
        Self { transmit, counters, segment: None }
    }
}

impl Room for Tx<'_> {
    #[inline]
    fn frame(&mut self, length: usize) -> &mut [u8] {
        let Some(buffer) = self.transmit.free.last_mut() else {
            unreachable!("the last buffer is never sent")
        };
        &mut buffer[..length]
    }

    fn cut(&mut self, segment: Option<NonZeroU16>) {
        self.segment = segment;
    }

    fn send(self, length: usize) {
        let Self { transmit, counters, segment } = self;
        // An answer for which there is no buffer is lost, as it may be on a wire.
        if transmit.free.len() < 2 || !transmit.has_places() {
            counters.dropped += 1;
            return;
        }
        let Some(mut buffer) = transmit.free.pop() else { return };
        let header = offload::prepare_transmit(&mut buffer[..length], segment);
        let flags = if header.flags & NEEDS_CSUM == 0 { 0 } else { BLANK | VALIDATED };
        let extra = if header.gso_size == 0 { 0 } else { EXTRA };
        transmit.send(buffer, length, flags | extra, header.gso_size);
        counters.sent += 1;
    }
}
