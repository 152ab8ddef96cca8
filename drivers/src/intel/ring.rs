//! Both rings: the driver moves a tail, the device says in each descriptor that it is done.

use crate::nic::ETHERNET;
use crate::{Received, Room};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::iter;
use core::num::NonZeroU16;
use core::sync::atomic::{Ordering, fence};
use kernel_io::{Buffer, Direction, Error, Lent, Shared};
use network_nic::offload::{self, Header};

/// Bytes of a receive buffer, and the most of a frame that is described in one piece.
pub(super) const BUFFER: usize = 2048;
const PIECE: usize = 8192;
/// Bytes of a descriptor: an address, and a word of what it is.
const DESCRIPTOR: usize = 16;
/// Rings have a multiple of so many descriptors.
const LEAST: usize = 8;
/// Where IPv4's checksum is in a frame.
const IP_CHECKSUM: usize = 24;
/// The device is done with it: in both words.
const DONE: u64 = 1 << 32;
/// Received: the end of a frame; no checksum was verified; that of TCP or UDP was. Errors: any of the frame; of checksums.
const END: u64 = 1 << 33;
const NOT_VERIFIED: u64 = 1 << 34;
const VERIFIED: u64 = 1 << 37;
const BAD: u64 = 0x97 << 40;
const WRONG: u64 = 0x60 << 40;
/// To send: the last piece; the frame's checksum is added; its segments are cut; the device says when it is done; a
/// descriptor of the newer form, and one with data.
const LAST: u64 = 1 << 24;
const ADD_CHECKSUM: u64 = 1 << 25;
const CUT: u64 = 1 << 26;
const REPORT: u64 = 1 << 27;
const NEWER: u64 = 1 << 29;
const DATA: u64 = 1 << 20;
/// What is offloaded: the checksum of IPv4; that of TCP.
const IP_SUM: u64 = 1 << 40;
const TCP_SUM: u64 = 1 << 41;
/// A context is about IPv4 and TCP.
const IS_TCP: u64 = 1 << 24;
const IS_IP: u64 = 1 << 25;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// It claims to have written more than it was given.
    Length,
}

/// Descriptors, and the place that the driver fills next.
#[derive(Debug)]
struct Ring {
    memory: Shared,
    size: usize,
    tail: usize,
    /// The tail that the device knows.
    told: usize,
}

impl Ring {
    /// A ring that can hold so many descriptors. One place stays empty: a ring whose tail is its head has none.
    fn allocate(count: usize) -> Result<Self, Error> {
        let size = (count + 1).next_power_of_two().max(LEAST);
        Ok(Self { memory: Shared::allocate(size * DESCRIPTOR)?, size, tail: 0, told: 0 })
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.size - 1)
    }

    /// What the device says of `place`, if it is done with it.
    #[inline]
    fn done(&self, place: usize) -> Option<u64> {
        let word = self.memory.read64(place * DESCRIPTOR + 8);
        if word & DONE == 0 {
            return None;
        }
        fence(Ordering::Acquire);
        Some(word)
    }

    /// Fill the next place. The device has it once it is told of the tail. Answers which place that was.
    fn put(&mut self, first: u64, second: u64) -> usize {
        let place = self.tail;
        self.memory.write_pair(place * DESCRIPTOR, [first, second]);
        self.tail = self.after(place);
        place
    }

    /// The tail, if the device does not know it. It sees what was written before.
    fn untold(&mut self) -> Option<u32> {
        if self.told == self.tail {
            return None;
        }
        self.told = self.tail;
        fence(Ordering::SeqCst);
        Some(self.tail as u32)
    }

    fn clear(&mut self) {
        for place in 0..self.size {
            self.memory.write_pair(place * DESCRIPTOR, [0; 2]);
        }
        (self.tail, self.told) = (0, 0);
    }
}

/// The receive ring. All buffers are at the device except for one that the stack is looking at.
#[derive(Debug)]
pub(super) struct Receive {
    ring: Ring,
    /// What the device has, by place.
    lent: Box<[Option<Lent>]>,
    /// Where the next frame will be.
    next: usize,
    /// Buffers that are here while the device is stopped.
    spare: Vec<Buffer>,
    /// The longest frame of the network.
    longest: usize,
    /// A frame goes on that has begun in a buffer before: none of it is used.
    goes_on: bool,
}

impl Receive {
    pub(super) fn new(spare: Vec<Buffer>, longest: usize) -> Result<Self, Error> {
        let ring = Ring::allocate(spare.len())?;
        let lent = iter::repeat_with(|| None).take(ring.size).collect();
        Ok(Self { ring, lent, next: 0, spare, longest, goes_on: false })
    }

    pub(super) fn address(&self) -> u64 {
        self.ring.memory.address()
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.size * DESCRIPTOR
    }

    /// The tail, if the device does not know it.
    pub(super) fn untold(&mut self) -> Option<u32> {
        self.ring.untold()
    }

    /// Give the device all buffers.
    pub(super) fn fill(&mut self) {
        while let Some(buffer) = self.spare.pop() {
            self.give(buffer);
        }
    }

    fn give(&mut self, buffer: Buffer) {
        let lent = buffer.lend(Direction::FromDevice);
        let place = self.ring.put(lent.address(), 0);
        self.lent[place] = Some(lent);
    }

    /// Whether something was received.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.word().is_some()
    }

    /// What the device says of the next buffer, if it is done with that.
    #[inline]
    fn word(&self) -> Option<u64> {
        self.lent.get(self.next)?.as_ref()?;
        self.ring.done(self.next)
    }

    /// The next frame that is believed. Others are counted and their buffers given back at once; at most one round of the
    /// ring, so that a flood of bad frames does not hold up the rest of the machine.
    pub(super) fn next(&mut self, dropped: &mut u64) -> Result<Option<(Buffer, usize)>, Lie> {
        for _ in 0..self.ring.size {
            let Some(word) = self.word() else { break };
            let length = (word & 0xffff) as usize;
            if length > BUFFER {
                return Err(Lie::Length);
            }
            let Some(lent) = self.lent.get_mut(self.next).and_then(Option::take) else { break };
            // SAFETY: the device has said that it is done with it, and cannot do so again: its place is empty.
            let buffer = unsafe { lent.reclaim() };
            self.next = self.ring.after(self.next);
            let begins = !core::mem::replace(&mut self.goes_on, word & END == 0);
            match buffer.get(..length) {
                Some(frame) if begins && self.believe(word, frame) => return Ok(Some((buffer, length))),
                _ => {
                    *dropped += 1;
                    self.give(buffer);
                }
            }
        }
        Ok(None)
    }

    /// Whether the stack may have it. What the device has not found right is verified here.
    fn believe(&self, word: u64, frame: &[u8]) -> bool {
        let vouched = word & (NOT_VERIFIED | VERIFIED | WRONG) == VERIFIED;
        word & (END | BAD) == END
            && (ETHERNET..=self.longest).contains(&frame.len())
            && (vouched || offload::verify(frame).is_ok())
    }

    /// All buffers back; the ring is as new.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        for lent in self.lent.iter_mut().filter_map(Option::take) {
            // SAFETY: the caller vouches for the reset.
            self.spare.push(unsafe { lent.reclaim() });
        }
        self.ring.clear();
        (self.next, self.goes_on) = (0, false);
    }
}

/// A received frame. Its buffer goes back to the device when the token goes, whatever was done with it.
#[derive(Debug)]
pub struct Rx<'a> {
    receive: &'a mut Receive,
    buffer: Option<Buffer>,
    length: usize,
}

impl<'a> Rx<'a> {
    pub(super) fn new(receive: &'a mut Receive, (buffer, length): (Buffer, usize)) -> Self {
        Self { receive, buffer: Some(buffer), length }
    }
}

impl Received for Rx<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        self.buffer.as_deref().and_then(|buffer| buffer.get(..self.length)).unwrap_or_default()
    }
}

impl Drop for Rx<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.receive.give(buffer);
        }
    }
}

/// The transmit ring and the buffers that are not at the device.
#[derive(Debug)]
pub(super) struct Transmit {
    ring: Ring,
    /// What the device has, in its order, and the last descriptor of each.
    lent: VecDeque<(Lent, usize)>,
    /// The last that came back is used next: it is most likely in a cache.
    free: Vec<Buffer>,
    /// Whether the stack was refused a buffer since the last time there was one.
    pub(super) starved: bool,
}

impl Transmit {
    pub(super) fn new(free: Vec<Buffer>) -> Result<Self, Error> {
        // Each frame has a context as well.
        let pieces = free.iter().map(|buffer| buffer.len().div_ceil(PIECE) + 1).sum();
        Ok(Self {
            ring: Ring::allocate(pieces)?,
            lent: VecDeque::with_capacity(free.len()),
            free,
            starved: false,
        })
    }

    pub(super) fn address(&self) -> u64 {
        self.ring.memory.address()
    }

    pub(super) fn bytes(&self) -> usize {
        self.ring.size * DESCRIPTOR
    }

    /// The tail, if the device does not know it.
    pub(super) fn untold(&mut self) -> Option<u32> {
        self.ring.untold()
    }

    /// Whether there is a buffer for a frame. Looks what the device is done with only when there is none: until then
    /// nobody needs to know.
    pub(super) fn has_room(&mut self) -> bool {
        if self.free.is_empty() {
            self.reap();
        }
        self.starved = self.free.is_empty();
        !self.starved
    }

    fn reap(&mut self) {
        while self.waits() {
            let Some((lent, _)) = self.lent.pop_front() else { break };
            // SAFETY: the device has said that it is done with it.
            self.free.push(unsafe { lent.reclaim() });
        }
    }

    /// Whether the device is done with all it was given.
    pub(super) fn is_done(&mut self) -> bool {
        self.reap();
        self.lent.is_empty()
    }

    /// Whether the device is done with something.
    pub(super) fn waits(&self) -> bool {
        self.lent.front().is_some_and(|(_, last)| self.ring.done(*last).is_some())
    }

    /// Describe the first `length` bytes of a buffer, after a context where something is offloaded.
    fn push(&mut self, buffer: Buffer, length: usize, header: &Header) {
        let (mut sums, mut command) = (0, DATA | NEWER | ADD_CHECKSUM);
        if header.flags != 0 {
            let [first, second] = context(header, length);
            self.ring.put(first, second);
            sums = TCP_SUM;
        }
        if header.gso_size > 0 {
            (sums, command) = (TCP_SUM | IP_SUM, command | CUT);
        }
        let lent = buffer.lend(Direction::ToDevice);
        let (mut begin, mut last) = (0, 0);
        while begin < length {
            let piece = (length - begin).min(PIECE);
            let end = if begin + piece == length { LAST | REPORT } else { 0 };
            last = self.ring.put(lent.address() + begin as u64, piece as u64 | command | end | sums);
            begin += piece;
        }
        self.lent.push_back((lent, last));
    }

    /// All buffers back; the ring is as new.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        for (lent, _) in self.lent.drain(..) {
            // SAFETY: the caller vouches for the reset.
            self.free.push(unsafe { lent.reclaim() });
        }
        self.ring.clear();
        self.starved = false;
    }
}

/// The descriptor that says where checksums are and how long segments (8254x manual section 3.3.6).
fn context(header: &Header, length: usize) -> [u64; 2] {
    let (start, headers) = (u64::from(header.csum_start), u64::from(header.hdr_len));
    let ip = ETHERNET as u64 | (IP_CHECKSUM as u64) << 8 | (start - 1) << 16;
    // A range that ends at zero ends with the frame.
    let tcp = start << 32 | (start + u64::from(header.csum_offset)) << 40;
    let mut what = NEWER | IS_TCP | IS_IP;
    if header.gso_size > 0 {
        what |= CUT | (length as u64 - headers) | headers << 40 | u64::from(header.gso_size) << 48;
    }
    [ip | tcp, what]
}

/// Room for one frame.
#[derive(Debug)]
pub struct Tx<'a> {
    transmit: &'a mut Transmit,
    sent: &'a mut u64,
    segment: Option<NonZeroU16>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(transmit: &'a mut Transmit, sent: &'a mut u64) -> Self {
        Self { transmit, sent, segment: None }
    }
}

impl Room for Tx<'_> {
    #[inline]
    fn frame(&mut self, length: usize) -> &mut [u8] {
        let Some(buffer) = self.transmit.free.last_mut() else {
            unreachable!("there is a token only with a buffer")
        };
        &mut buffer[..length]
    }

    fn cut(&mut self, segment: Option<NonZeroU16>) {
        self.segment = segment;
    }

    fn send(self, length: usize) {
        let Some(mut buffer) = self.transmit.free.pop() else { return };
        let frame = &mut buffer[..length];
        let header = offload::prepare_transmit(frame, self.segment);
        if header.gso_size > 0 {
            crate::vmxnet3::prepare_segments(frame, &header);
        }
        self.transmit.push(buffer, length, &header);
        *self.sent += 1;
    }
}
