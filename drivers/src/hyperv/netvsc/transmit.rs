//! Frames to send: built in memory of ours, shown to the host where they lie, and taken back when it says so.

use super::super::bus::Channel;
use super::super::ring::{self, Lie};
use super::super::rndis::{self, INFO, PACKET_HEADER, Todo};
use super::start::{Offloads, rndis_data};
use super::{LONGEST, PAGE_BYTES};
use crate::{Error, Room};
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU16;
use kernel_io::{Buffer, Direction, Lent, buffer_stride};
use network_nic::Counters;
use network_nic::offload;

/// Where a frame begins in its buffer: behind all that may be said about it.
const FRAME: usize = (PACKET_HEADER + INFO).next_multiple_of(16);
/// Buffers: at least and at most. Long ones make sense from as many on as are the least.
const LEAST: usize = 16;
const MOST: usize = 64;
/// Of which so many are kept for answers to what is received; the last is never sent, so that there always is one.
const KEPT: usize = 4;
/// Lengths of frames that are cut by the host, longest first.
const LENGTHS: [usize; 3] = [62 * 1024, 32 * 1024 - FRAME, 16 * 1024 - FRAME];
/// Pages that a buffer can touch.
const PAGES: usize = 17;

/// Buffers, and which of them the host has.
#[derive(Debug, Default)]
pub(super) struct Transmit {
    /// The last that came back is used next: it is most likely in a cache.
    free: Vec<Buffer>,
    /// By the transaction, from one.
    lent: Vec<Option<Lent>>,
    numbers: Vec<u16>,
    pub(super) offloads: Offloads,
    /// The longest frame.
    pub(super) frame: usize,
    /// The ring had no room, or was not right.
    pub(super) lied: Option<Lie>,
}

impl fmt::Display for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checksums = if self.offloads.checksum { ", checksums by the host" } else { "" };
        write!(f, "{} x {}{checksums}", self.lent.len(), self.frame)
    }
}

impl Transmit {
    /// Take buffers, as long as what was agreed makes sense with so much memory.
    pub(super) fn allocate(&mut self, memory: usize) -> Result<(), Error> {
        let room = |frame: usize| memory / buffer_stride(FRAME + frame);
        let most = self.offloads.segments;
        let long = LENGTHS.into_iter().map(|length| length.min(most));
        let long = long.filter(|length| *length > LONGEST).find(|length| room(*length) >= LEAST);
        if long.is_none() {
            self.offloads.segments = 0;
        }
        self.frame = long.unwrap_or(LONGEST);
        let count = room(self.frame).clamp(LEAST, MOST);
        self.free = Buffer::allocate(count, FRAME + self.frame)?;
        self.lent.extend((0..count).map(|_| None));
        self.numbers.extend(0..count as u16);
        Ok(())
    }

    /// Whether a frame that answers nothing may go.
    pub(super) fn has_room(&self) -> bool {
        self.free.len() > KEPT
    }

    /// Whether the host has a buffer of that number.
    pub(super) fn is_under_way(&self, transaction: u64) -> bool {
        let number = transaction.wrapping_sub(1);
        usize::try_from(number).is_ok_and(|number| self.lent.get(number).is_some_and(Option::is_some))
    }

    /// Whether the host is done with all of them, as far as it was asked.
    pub(super) fn is_done(&self) -> bool {
        self.lent.iter().all(Option::is_none)
    }

    /// The host is done with one that [is under way](Self::is_under_way): it has said so, its channel was closed, or it was
    /// never told.
    pub(super) fn completed(&mut self, transaction: u64) {
        let number = transaction.wrapping_sub(1) as u16;
        if let Some(lent) = self.lent.get_mut(usize::from(number)).and_then(Option::take) {
            // SAFETY: the host is done with it: whoever calls has just seen that.
            self.free.push(unsafe { lent.reclaim() });
            self.numbers.push(number);
        }
    }

    /// All buffers back, after the channel was closed.
    pub(super) fn recover(&mut self) {
        for number in 1..=self.lent.len() as u64 {
            self.completed(number);
        }
        self.lied = None;
    }

    /// Hand a buffer to the host, from `start` on. Answers whether the host will see it.
    fn send(&mut self, channel: &mut Channel, buffer: Buffer, start: usize, length: usize) -> bool {
        // There are as many numbers as buffers.
        let Some(number) = self.numbers.pop() else {
            self.free.push(buffer);
            return false;
        };
        let lent = buffer.lend(Direction::ToDevice);
        let pages = Pages::new(lent.address() + start as u64, length);
        let transaction = u64::from(number) + 1;
        self.lent[usize::from(number)] = Some(lent);
        let head = (ring::GPA_DIRECT, ring::WANTS_COMPLETION, transaction);
        let pushed = channel.push(head, pages.words(), &rndis_data());
        if let Err(lie) = pushed {
            // It was not told of it.
            self.completed(transaction);
            self.lied = Some(lie);
        }
        pushed.is_ok()
    }
}

/// Memory of ours, as a packet's header names it: how many ranges, the range, and its pages.
pub(super) struct Pages {
    words: [u64; 2 + PAGES],
    count: usize,
}

impl Pages {
    /// So many bytes at an address; at most as many as a buffer for a frame has.
    pub(super) fn new(address: u64, length: usize) -> Self {
        let (first, offset) = (address / PAGE_BYTES, address % PAGE_BYTES);
        let pages = ((offset + length as u64).div_ceil(PAGE_BYTES) as usize).min(PAGES);
        let mut words = [0; 2 + PAGES];
        words[..2].copy_from_slice(&[1 << 32, length as u64 | offset << 32]);
        words[2..2 + pages].iter_mut().zip(first..).for_each(|(word, page)| *word = page);
        Self { words, count: 2 + pages }
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words[..self.count]
    }
}

/// Room for one frame.
#[derive(Debug)]
pub struct Tx<'a> {
    transmit: &'a mut Transmit,
    channel: &'a mut Channel,
    counters: &'a mut Counters,
    segment: Option<NonZeroU16>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(
        transmit: &'a mut Transmit,
        channel: &'a mut Channel,
        counters: &'a mut Counters,
    ) -> Self {
        Self { transmit, channel, counters, segment: None }
    }
}

impl Room for Tx<'_> {
    #[inline]
    fn frame(&mut self, length: usize) -> &mut [u8] {
        let Some(buffer) = self.transmit.free.last_mut() else {
            unreachable!("the last buffer is never sent")
        };
        &mut buffer[FRAME..FRAME + length]
    }

    fn cut(&mut self, segment: Option<NonZeroU16>) {
        self.segment = segment;
    }

    fn send(self, length: usize) {
        let Self { transmit, channel, counters, segment } = self;
        // An answer for which there is no buffer is lost, as it may be on a wire.
        if transmit.free.len() < 2 {
            counters.dropped += 1;
            return;
        }
        let Some(mut buffer) = transmit.free.pop() else { return };
        let todo = if transmit.offloads.checksum {
            prepare(&mut buffer[FRAME..FRAME + length], segment)
        } else {
            None
        };
        let start = rndis::head(&mut buffer, FRAME, length, todo);
        if transmit.send(channel, buffer, start, FRAME + length - start) {
            counters.sent += 1;
        } else {
            counters.dropped += 1;
        }
    }
}

/// Leave to the host what it can do with a frame of TCP, and have the frame as it wants it for that.
fn prepare(frame: &mut [u8], segment: Option<NonZeroU16>) -> Option<Todo> {
    let header = offload::prepare_transmit(frame, segment);
    let tcp = header.csum_start;
    if header.flags & offload::NEEDS_CSUM == 0 {
        return None;
    }
    if header.gso_size == 0 {
        return Some(Todo::Checksum { tcp });
    }
    // A frame that is cut has neither its length nor what follows from that: not in the header of IP, nor in the sum that
    // stands in for the checksum of TCP.
    let place = usize::from(tcp + header.csum_offset);
    let sum = u16::from_be_bytes([frame[place], frame[place + 1]]);
    let length = (frame.len() - usize::from(tcp)) as u16;
    let (less, borrow) = sum.overflowing_sub(length);
    let less = less.wrapping_sub(u16::from(borrow));
    frame[place..place + 2].copy_from_slice(&less.to_be_bytes());
    frame[16..18].fill(0);
    frame[24..26].fill(0);
    Some(Todo::Cut { tcp, segment: header.gso_size })
}
