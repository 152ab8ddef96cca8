//! Frames to send: built in the device's memory, described in pieces, and their buffers taken back when there is need.

use super::Lie;
use super::ring::Ring;
use crate::Room;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use kernel_io::{Buffer, Direction, Lent};
use network_nic::offload::{self, Header};

/// Bytes that a descriptor describes at most; none in its field means so many.
const PIECE: usize = 1 << 14;
/// In a descriptor's third word: the generation; the segment's payload, or where a checksum goes.
const GENERATION: u32 = 14;
const SEGMENT: u32 = 18;
/// In its last word: what is offloaded (nothing, a checksum, segmentation); the last piece of a frame; its completion is
/// wanted. The low bits say how long the headers are, or where a checksum starts.
const CHECKSUM: u32 = 2 << 10;
const CUT: u32 = 3 << 10;
const LAST: u32 = 1 << 12;
const COMPLETE: u32 = 1 << 13;
/// In a completion's first word: which descriptor.
const INDEX: u32 = 0xfff;
/// Where IPv4's checksum is in a frame.
const IP_CHECKSUM: usize = 24;

/// Both transmit rings and the buffers.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) descriptors: Ring,
    pub(super) completions: Ring,
    /// What the device has, in its order, and the last descriptor of each.
    lent: VecDeque<(Lent, usize)>,
    /// The last that came back is used next: it is most likely in a cache.
    free: Vec<Buffer>,
    /// Whether the device has not been told of some.
    pub(super) untold: bool,
    /// Whether the stack was refused a buffer since the last time there was one.
    pub(super) starved: bool,
}

impl Transmit {
    pub(super) fn new(free: Vec<Buffer>) -> Result<Self, kernel_io::Error> {
        let pieces = free.iter().map(|buffer| buffer.len().div_ceil(PIECE)).sum();
        Ok(Self {
            descriptors: Ring::allocate(pieces)?,
            completions: Ring::allocate(pieces)?,
            lent: VecDeque::with_capacity(free.len()),
            free,
            untold: false,
            starved: false,
        })
    }

    /// Whether there is a buffer for a frame. Looks what the device is done with only when there is none: until then
    /// nobody needs to know.
    pub(super) fn has_room(&mut self) -> Result<bool, Lie> {
        if self.free.is_empty() {
            self.reap()?;
        }
        self.starved = self.free.is_empty();
        Ok(!self.starved)
    }

    fn reap(&mut self) -> Result<(), Lie> {
        while let Some([first, ..]) = self.completions.completion() {
            match self.lent.pop_front() {
                Some((lent, last)) if last == (first & INDEX) as usize => {
                    // SAFETY: the device has said just now that it is done with it, and cannot do so again.
                    self.free.push(unsafe { lent.reclaim() });
                }
                // It stays the device's until that has been reset.
                Some(other) => {
                    self.lent.push_front(other);
                    return Err(Lie::Index);
                }
                None => return Err(Lie::Index),
            }
            self.completions.advance();
        }
        Ok(())
    }

    /// Whether the device is done with all it was given.
    pub(super) fn is_done(&mut self) -> Result<bool, Lie> {
        self.reap()?;
        Ok(self.lent.is_empty())
    }

    /// Whether the device is done with something.
    pub(super) fn waits(&self) -> bool {
        self.completions.completion().is_some()
    }

    /// Describe the first `length` bytes of a buffer. The device may begin once its first piece is handed over, which is
    /// the last that is done.
    fn push(&mut self, buffer: Buffer, length: usize, header: &Header) {
        let (segment, offload) = match (header.flags, header.gso_size) {
            (0, _) => (0, 0),
            (_, 0) => (header.csum_start + header.csum_offset, CHECKSUM | u32::from(header.csum_start)),
            (_, size) => (size, CUT | u32::from(header.hdr_len)),
        };
        let lent = buffer.lend(Direction::ToDevice);
        let (mut begin, mut first, mut at) = (0, None, 0);
        while begin < length {
            let piece = (length - begin).min(PIECE);
            at = self.descriptors.next();
            let mut last = if begin + piece == length { LAST | COMPLETE } else { 0 };
            let mut word = (piece % PIECE) as u32 | self.descriptors.generation() << GENERATION;
            if begin == 0 {
                word |= u32::from(segment) << SEGMENT;
                last |= offload;
                first = Some((at, word));
            }
            self.descriptors.prepare(at, lent.address() + begin as u64, last);
            if begin > 0 {
                self.descriptors.hand_over(at, word);
            }
            begin += piece;
            self.descriptors.advance();
        }
        self.lent.push_back((lent, at));
        if let Some((at, word)) = first {
            self.descriptors.hand_over(at, word);
        }
        self.untold = true;
    }

    /// All buffers back; the rings are as new.
    ///
    /// # Safety
    /// The device must have been reset.
    pub(super) unsafe fn recover(&mut self) {
        for (lent, _) in self.lent.drain(..) {
            // SAFETY: the caller vouches for the reset.
            self.free.push(unsafe { lent.reclaim() });
        }
        self.descriptors.clear();
        self.completions.clear();
        (self.untold, self.starved) = (false, false);
    }
}

/// Make a frame with a virtio header for what this device wants: for segments the sum of the pseudo-header is without the
/// length, which is different in each, and there is no checksum of IP.
pub(crate) fn prepare_segments(frame: &mut [u8], header: &Header) {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let length = (frame.len() - start) as u16;
    let sum = u32::from(u16::from_be_bytes([frame[at], frame[at + 1]])) + u32::from(!length);
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame[IP_CHECKSUM..IP_CHECKSUM + 2].fill(0);
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
            prepare_segments(frame, &header);
        }
        self.transmit.push(buffer, length, &header);
        *self.sent += 1;
    }
}
