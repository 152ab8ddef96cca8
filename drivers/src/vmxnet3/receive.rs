//! Received frames: which are believed, and lending them to the stack.

use super::Lie;
use super::ring::Ring;
use crate::Received;
use crate::nic::ETHERNET;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;
use kernel_io::{Buffer, Direction, Lent};
use network_nic::offload;

/// In a descriptor's second word: the generation.
const GENERATION: u32 = 31;
/// In a completion's first word: which descriptor; the last and the first part of a frame; which ring; no checksum was made.
const INDEX: u32 = 0xfff;
const LAST: u32 = 1 << 14;
const FIRST: u32 = 1 << 15;
const RING: u32 = 0x3ff << 16;
const NOT_CHECKED: u32 = 1 << 30;
/// In its third word: how many bytes; there was an error.
const LENGTH: u32 = 0x3fff;
const ERROR: u32 = 1 << 14;
/// In its last word: the checksum of TCP or UDP is right; it is TCP; it is IPv4; it is a fragment.
const RIGHT: u32 = 1 << 16;
const TCP: u32 = 1 << 18;
const IPV4: u32 = 1 << 21;
const FRAGMENT: u32 = 1 << 22;

/// Both receive rings, and the buffers, which are at the device except for one that the stack is looking at.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) descriptors: Ring,
    pub(super) completions: Ring,
    /// What the device has, by descriptor.
    lent: Box<[Option<Lent>]>,
    /// Buffers that are here.
    spare: Vec<Buffer>,
    /// How many there are in all, and the longest frame of the network.
    count: usize,
    longest: usize,
}

impl Receive {
    pub(super) fn new(spare: Vec<Buffer>) -> Result<Self, kernel_io::Error> {
        let descriptors = Ring::allocate(spare.len())?;
        let lent = iter::repeat_with(|| None).take(descriptors.size()).collect();
        let longest = spare.first().map_or(0, |buffer| buffer.len());
        let (completions, count) = (Ring::allocate(spare.len())?, spare.len());
        Ok(Self { descriptors, completions, lent, spare, count, longest })
    }

    /// Give the device all buffers that are here, as long as the next descriptors are free.
    pub(super) fn fill(&mut self) {
        while let Some(place) = self.lent.get_mut(self.descriptors.next())
            && place.is_none()
            && let Some(buffer) = self.spare.pop()
        {
            let length = buffer.len() as u32;
            let lent = buffer.lend(Direction::FromDevice);
            self.descriptors.prepare(self.descriptors.next(), lent.address(), 0);
            *place = Some(lent);
            let word = length | self.descriptors.generation() << GENERATION;
            self.descriptors.hand_over(self.descriptors.next(), word);
            self.descriptors.advance();
        }
    }

    fn give(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
        self.fill();
    }

    /// Whether something was received.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.completions.completion().is_some()
    }

    /// The next frame that is believed. Others are counted and their buffers given back at once; at most one round of the
    /// ring, so that a flood of bad frames does not hold up the rest of the machine.
    pub(super) fn next(&mut self, dropped: &mut u64) -> Result<Option<(Buffer, usize)>, Lie> {
        // A device may pass over a descriptor. One that does not come back to it keeps the next from being given.
        if self.spare.len() * 2 > self.count {
            return Err(Lie::Kept);
        }
        for _ in 0..self.completions.size() {
            let Some(completion) = self.completions.completion() else { break };
            let (buffer, length) = self.take(completion)?;
            self.completions.advance();
            match buffer.get(..length) {
                Some(frame) if self.believe(completion, frame) => return Ok(Some((buffer, length))),
                _ => {
                    *dropped += 1;
                    self.give(buffer);
                }
            }
        }
        Ok(None)
    }

    /// The buffer that a completion is about.
    fn take(&mut self, [first, _, third, _]: [u32; 4]) -> Result<(Buffer, usize), Lie> {
        let place = self.lent.get_mut((first & INDEX) as usize).ok_or(Lie::Index)?;
        let length = (third & LENGTH) as usize;
        // There is one ring with descriptors.
        if first & RING != 0 {
            return Err(Lie::Index);
        }
        if place.as_ref().ok_or(Lie::Index)?.len() < length {
            return Err(Lie::Length);
        }
        let lent = place.take().ok_or(Lie::Index)?;
        // SAFETY: the device has returned it just now, and cannot do so again: its place is empty.
        Ok((unsafe { lent.reclaim() }, length))
    }

    /// Whether the stack may have it. What the device has not found right is verified here.
    fn believe(&self, [first, _, third, last]: [u32; 4], frame: &[u8]) -> bool {
        let is_whole = first & (FIRST | LAST) == FIRST | LAST && third & ERROR == 0;
        let vouched =
            first & NOT_CHECKED == 0 && last & (RIGHT | TCP | IPV4 | FRAGMENT) == RIGHT | TCP | IPV4;
        is_whole
            && (ETHERNET..=self.longest).contains(&frame.len())
            && (vouched || offload::verify(frame).is_ok())
    }

    /// All buffers back; the rings are as new.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        for lent in self.lent.iter_mut().filter_map(Option::take) {
            // SAFETY: the caller vouches for the reset.
            self.spare.push(unsafe { lent.reclaim() });
        }
        self.descriptors.clear();
        self.completions.clear();
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
