//! Both rings: a descriptor is the device's as long as a bit of it says so, and each place has a buffer of its own.

use crate::nic::ETHERNET;
use crate::{Received, Room};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;
use core::num::NonZeroU16;
use core::sync::atomic::{Ordering, fence};
use kernel_io::{Buffer, Direction, Error, Lent, Shared};

/// Descriptors of a ring, at most.
pub(super) const MOST: usize = 64;
/// Bytes of a descriptor: a word of what it is, one that is not used, and an address.
const DESCRIPTOR: usize = 16;
/// It is the device's; it is the last of the ring; it is the first and the last of a frame.
const OWNED: u32 = 1 << 31;
const LAST: u32 = 1 << 30;
const WHOLE: u32 = 3 << 28;
/// A received frame is not what it was when it was sent; how long it is, with its checksum.
const ERROR: u32 = 1 << 20;
const LENGTH: u32 = (1 << 13) - 1;
/// Bytes of the checksum at the end of each received frame.
pub(super) const CHECKSUM: usize = 4;
/// The shortest frame that is sent, without it.
const SHORTEST: usize = 60;

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// It claims to have written more than it was given.
    Length,
}

/// The descriptors, and which buffers the device has.
#[derive(Debug)]
struct Ring {
    memory: Shared,
    lent: Box<[Option<Lent>]>,
}

impl Ring {
    fn allocate(count: usize) -> Result<Self, Error> {
        let lent = iter::repeat_with(|| None).take(count).collect();
        Ok(Self { memory: Shared::allocate(MOST * DESCRIPTOR)?, lent })
    }

    /// The place after `place`.
    fn after(&self, place: usize) -> usize {
        if place + 1 == self.lent.len() { 0 } else { place + 1 }
    }

    /// What the device has written at `place`, if it has a buffer there and is done with it.
    fn done(&self, place: usize) -> Option<u32> {
        let word = self.memory.read32(place * DESCRIPTOR);
        if word & OWNED != 0 || self.lent.get(place)?.is_none() {
            return None;
        }
        fence(Ordering::Acquire);
        Some(word)
    }

    /// Give the device the first `length` bytes of a buffer.
    fn give(&mut self, place: usize, buffer: Buffer, length: usize, direction: Direction) {
        let last = if place + 1 == self.lent.len() { LAST } else { 0 };
        let whole = if direction == Direction::ToDevice { WHOLE } else { 0 };
        let lent = buffer.lend(direction);
        self.memory.write64(place * DESCRIPTOR + 8, lent.address());
        self.memory.write32(place * DESCRIPTOR + 4, 0);
        fence(Ordering::Release);
        self.lent[place] = Some(lent);
        self.memory.write32(place * DESCRIPTOR, OWNED | last | whole | length as u32);
    }

    /// Take the buffer at `place` back, if the device has one there.
    ///
    /// # Safety
    /// The device must be done with it, or have been reset.
    unsafe fn take(&mut self, place: usize) -> Option<Buffer> {
        let lent = self.lent.get_mut(place)?.take()?;
        // SAFETY: the caller vouches for it.
        Some(unsafe { lent.reclaim() })
    }

    /// Whether the device has the buffer at `place`.
    fn is_lent(&self, place: usize) -> bool {
        self.lent.get(place).is_some_and(Option::is_some)
    }

    /// All buffers back, and no descriptor that is the device's.
    ///
    /// # Safety
    /// The device must have been reset.
    unsafe fn recover(&mut self, buffers: &mut Vec<Buffer>) {
        for place in 0..self.lent.len() {
            self.memory.write32(place * DESCRIPTOR, 0);
            // SAFETY: the caller vouches for the reset.
            buffers.extend(unsafe { self.take(place) });
        }
    }
}

/// The receive ring. All buffers are at the device except for one that the stack is looking at.
#[derive(Debug)]
pub(super) struct Receive {
    ring: Ring,
    /// Where the next frame will be.
    next: usize,
    /// Buffers that are here while the device is stopped.
    spare: Vec<Buffer>,
}

impl Receive {
    pub(super) fn new(spare: Vec<Buffer>) -> Result<Self, Error> {
        Ok(Self { ring: Ring::allocate(spare.len())?, next: 0, spare })
    }

    pub(super) fn address(&self) -> u64 {
        self.ring.memory.address()
    }

    /// Give the device all buffers, from the first place on.
    pub(super) fn fill(&mut self) {
        self.next = 0;
        for place in 0..self.ring.lent.len() {
            let Some(buffer) = self.spare.pop() else { return };
            self.give(place, buffer);
        }
    }

    fn give(&mut self, place: usize, buffer: Buffer) {
        let length = buffer.len();
        self.ring.give(place, buffer, length, Direction::FromDevice);
    }

    /// Whether something was received.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.ring.done(self.next).is_some()
    }

    /// The next frame that is one, with its place. Others are counted and their buffers given back at once; at most one
    /// round of the ring, so that a flood of bad frames does not hold up the rest of the machine.
    pub(super) fn next(&mut self, dropped: &mut u64) -> Result<Option<Frame>, Lie> {
        for _ in 0..self.ring.lent.len() {
            let place = self.next;
            let Some(word) = self.ring.done(place) else { break };
            // SAFETY: the device has said that it is done with it.
            let Some(buffer) = (unsafe { self.ring.take(place) }) else { break };
            self.next = self.ring.after(place);
            let end = (word & LENGTH) as usize;
            if end > buffer.len() {
                // The device is reset now, and gets all its buffers back.
                self.spare.push(buffer);
                return Err(Lie::Length);
            }
            let length = end.saturating_sub(CHECKSUM);
            if word & (WHOLE | ERROR) == WHOLE && length >= ETHERNET {
                return Ok(Some(Frame { place, buffer, length }));
            }
            *dropped += 1;
            self.give(place, buffer);
        }
        Ok(None)
    }

    /// All buffers back.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        // SAFETY: the caller vouches for the reset.
        unsafe { self.ring.recover(&mut self.spare) };
    }
}

/// A frame that was received, in its buffer, and the place of that.
#[derive(Debug)]
pub(super) struct Frame {
    place: usize,
    buffer: Buffer,
    length: usize,
}

/// A received frame. Its buffer goes back to the device when the token goes, whatever was done with it.
#[derive(Debug)]
pub struct Rx<'a> {
    receive: &'a mut Receive,
    frame: Option<Frame>,
}

impl<'a> Rx<'a> {
    pub(super) fn new(receive: &'a mut Receive, frame: Frame) -> Self {
        Self { receive, frame: Some(frame) }
    }
}

impl Received for Rx<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        self.frame.as_ref().and_then(|frame| frame.buffer.get(..frame.length)).unwrap_or_default()
    }
}

impl Drop for Rx<'_> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.receive.give(frame.place, frame.buffer);
        }
    }
}

/// The transmit ring and the buffers that are not at the device.
#[derive(Debug)]
pub(super) struct Transmit {
    ring: Ring,
    /// Where the next frame goes, and the oldest that the device has.
    next: usize,
    oldest: usize,
    /// The last that came back is used next: it is most likely in a cache.
    free: Vec<Buffer>,
    /// Whether the device has not been told of some.
    pub(super) untold: bool,
    /// Whether the stack was refused a buffer since the last time there was one.
    pub(super) starved: bool,
}

impl Transmit {
    pub(super) fn new(free: Vec<Buffer>) -> Result<Self, Error> {
        let ring = Ring::allocate(free.len())?;
        Ok(Self { ring, next: 0, oldest: 0, free, untold: false, starved: false })
    }

    pub(super) fn address(&self) -> u64 {
        self.ring.memory.address()
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
            // SAFETY: the device has said that it is done with it.
            self.free.extend(unsafe { self.ring.take(self.oldest) });
            self.oldest = self.ring.after(self.oldest);
        }
    }

    /// Whether the device is done with all it was given.
    pub(super) fn is_done(&mut self) -> bool {
        self.reap();
        !self.ring.is_lent(self.oldest)
    }

    /// Whether the device is done with something.
    pub(super) fn waits(&self) -> bool {
        self.ring.done(self.oldest).is_some()
    }

    /// All buffers back; the ring is as new.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        // SAFETY: the caller vouches for the reset.
        unsafe { self.ring.recover(&mut self.free) };
        (self.next, self.oldest, self.untold, self.starved) = (0, 0, false, false);
    }
}

/// Room for one frame.
#[derive(Debug)]
pub struct Tx<'a> {
    transmit: &'a mut Transmit,
    sent: &'a mut u64,
}

impl<'a> Tx<'a> {
    pub(super) fn new(transmit: &'a mut Transmit, sent: &'a mut u64) -> Self {
        Self { transmit, sent }
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

    /// It cuts nothing, and says so.
    fn cut(&mut self, _: Option<NonZeroU16>) {}

    fn send(self, length: usize) {
        let Self { transmit, sent } = self;
        let Some(mut buffer) = transmit.free.pop() else { return };
        // It does not lengthen a frame that is too short.
        let end = length.max(SHORTEST);
        buffer[length..end].fill(0);
        transmit.ring.give(transmit.next, buffer, end, Direction::ToDevice);
        transmit.next = transmit.ring.after(transmit.next);
        transmit.untold = true;
        *sent += 1;
    }
}
