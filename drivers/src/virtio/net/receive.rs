//! Received frames: which are believed, and lending them to the stack.

use super::super::feature;
use super::super::queue::{Lie, Queue};
use super::plan::Plan;
use crate::Received;
use crate::nic::{ETHERNET, tagged};
use alloc::vec::Vec;
use kernel_io::Buffer;
use network_nic::offload::{self, Header};
use network_nic::train::{Plain, Train};

/// What the driver holds a received frame against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// Bytes of the header in front of each frame.
    pub(super) header: usize,
    /// The longest frame of the network.
    longest: usize,
    /// Whether frames may be segments merged by the device, and as long as the buffer.
    merged: bool,
    /// Whether the device vouches for checksums, so that the stack does not look at them.
    vouched: bool,
}

impl Checks {
    pub(super) fn new(plan: &Plan, header: usize) -> Self {
        Self {
            header,
            longest: tagged(plan.mtu),
            merged: plan.features & feature::NET_GUEST_TSO4 != 0,
            vouched: plan.features & feature::NET_GUEST_CSUM != 0,
        }
    }

    /// The frame in what the device has written, header and all, if it is one for the stack; it is made ready for it.
    #[expect(clippy::inline_always, reason = "for each frame, from one place: what it answers is large")]
    #[inline(always)]
    fn admit(&self, mut buffer: Buffer, length: usize) -> Result<Frame, Buffer> {
        let mut plain = None;
        match buffer.get_mut(..length).is_some_and(|bytes| self.believe(bytes, &mut plain)) {
            true => Ok(Frame { buffer, length, plain }),
            false => Err(buffer),
        }
    }

    #[expect(clippy::inline_always, reason = "for each frame, from one place: it hands on what it finds")]
    #[inline(always)]
    fn believe(&self, bytes: &mut [u8], plain: &mut Option<Plain>) -> bool {
        let Some((header, frame)) = bytes.split_at_mut_checked(self.header) else { return false };
        let Some(header) = Header::parse(header) else { return false };
        if frame.len() < ETHERNET {
            return false;
        }
        let merged = header.gso_type != 0;
        if merged && !self.merged || !merged && frame.len() > self.longest {
            return false;
        }
        // Without the feature a device may not leave work to us. Should it vouch, that counts for nothing: the stack
        // verifies everything itself.
        if !self.vouched {
            return header.flags & offload::NEEDS_CSUM == 0;
        }
        *plain = Plain::parse(frame);
        match plain {
            Some(_) => offload::check_plain(&header, frame).is_ok(),
            None => offload::check_received(&header, frame).is_ok(),
        }
    }
}

/// A frame that is believed, in its buffer.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) buffer: Buffer,
    /// Where it ends there; it begins after virtio's header.
    length: usize,
    /// What it is, where the device vouches for checksums: only then are frames coupled, for what several become has the
    /// checksum of the first.
    plain: Option<Plain>,
}

/// What becomes of a frame that comes after another.
enum Fate {
    /// It goes with the one before, and its buffer back to the device.
    Appended,
    /// It is not believed.
    Dropped,
    /// It is one by itself.
    Held,
}

/// The receive queue and its buffers, all of which are at the device except one that the stack is looking at.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) queue: Queue,
    /// Buffers that are here while the device is stopped.
    pub(super) spare: Vec<Buffer>,
    /// A frame that was looked at, and did not belong to the one before it.
    pub(super) held: Option<Frame>,
    pub(super) checks: Checks,
}

impl Receive {
    /// Give the device all buffers.
    pub(super) fn fill(&mut self) {
        while let Some(buffer) = self.spare.pop() {
            self.give(buffer);
        }
    }

    fn give(&mut self, buffer: Buffer) {
        let length = buffer.len();
        if let Err(buffer) = self.queue.push(buffer, length, self.checks.header) {
            self.spare.push(buffer);
        }
    }

    /// The next frame, together with what follows it, as far as that is here already.
    pub(super) fn next(&mut self, dropped: &mut u64) -> Result<Option<Frame>, Lie> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.believed(dropped)?,
        };
        let Some(mut frame) = first else { return Ok(None) };
        if let Some(plain) = frame.plain
            && self.queue.has_used()
            && let Err(lie) = self.couple(&mut frame, plain, dropped)
        {
            // The device is reset now, and gets all its buffers back.
            self.spare.push(frame.buffer);
            return Err(lie);
        }
        Ok(Some(frame))
    }

    /// Append what follows the frame.
    fn couple(&mut self, frame: &mut Frame, plain: Plain, dropped: &mut u64) -> Result<(), Lie> {
        let header = self.checks.header;
        let Some(mut train) = Train::begin(&plain, &frame.buffer[header..frame.length]) else {
            return Ok(());
        };
        let mut longer = false;
        // At most one round of the ring, so that a flood of bad frames does not hold up the rest of the machine.
        for _ in 0..self.queue.capacity() {
            let Some(mut used) = self.queue.next_used()? else { break };
            let mut plain = None;
            let fate = used.visit(|bytes| match self.checks.believe(bytes, &mut plain) {
                false => Fate::Dropped,
                true if plain.is_some_and(|plain| {
                    train.append(&mut frame.buffer[header..], &bytes[header..], &plain)
                }) =>
                {
                    Fate::Appended
                }
                true => Fate::Held,
            });
            match fate {
                Fate::Appended => longer = true,
                Fate::Dropped => *dropped += 1,
                Fate::Held => {
                    let length = used.len();
                    self.held = Some(Frame { buffer: used.take(), length, plain });
                    break;
                }
            }
            used.again();
        }
        if longer {
            frame.length = header + train.finish(&mut frame.buffer[header..]);
        }
        Ok(())
    }

    /// Whether frames wait.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.held.is_some() || self.queue.has_used()
    }

    /// Whether frames wait. If not, there will be an interrupt when one comes.
    pub(super) fn arm(&mut self) -> bool {
        self.queue.arm(1) || self.held.is_some()
    }

    /// The next frame that is believed. Others are counted and their buffers given back at once; at most
    /// one round of the ring, so that a flood of bad frames does not hold up the rest of the machine.
    #[expect(clippy::inline_always, reason = "for each frame: what it answers is large")]
    #[inline(always)]
    fn believed(&mut self, dropped: &mut u64) -> Result<Option<Frame>, Lie> {
        for _ in 0..self.queue.capacity() {
            let Some((buffer, length)) = self.queue.pop()? else { return Ok(None) };
            match self.checks.admit(buffer, length) {
                Ok(frame) => return Ok(Some(frame)),
                Err(buffer) => {
                    *dropped += 1;
                    self.give(buffer);
                }
            }
        }
        Ok(None)
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
    pub(super) fn new(receive: &'a mut Receive, frame: Frame) -> Self {
        Self { receive, buffer: Some(frame.buffer), length: frame.length }
    }
}

impl Received for Rx<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        let header = self.receive.checks.header;
        let frame = self.buffer.as_deref().and_then(|buffer| buffer.get(header..self.length));
        frame.unwrap_or_default()
    }
}

impl Drop for Rx<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.receive.give(buffer);
        }
    }
}
