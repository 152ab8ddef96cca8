//! Frames to send: built in the device's memory, handed over, and their buffers taken back when there is need.

use super::super::queue::{Lie, Queue};
use crate::Room;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use kernel_io::Buffer;
use network_nic::offload::{self, Header};

/// The transmit queue and the buffers that are not at the device.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) queue: Queue,
    /// The last that came back is used next: it is most likely in a cache.
    pub(super) free: Vec<Buffer>,
    /// Bytes of the header in front of each frame.
    pub(super) header: usize,
    /// Whether the device makes TCP's checksums.
    pub(super) checksum: bool,
    /// Whether the stack was refused a buffer since the last time there was one.
    pub(super) starved: bool,
}

impl Transmit {
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
        while let Some((buffer, _)) = self.queue.pop()? {
            self.free.push(buffer);
        }
        Ok(())
    }

    /// Whether the device is done with all it was given.
    pub(super) fn is_done(&mut self) -> Result<bool, Lie> {
        self.reap()?;
        Ok(self.queue.outstanding() == 0)
    }

    /// Ask for an interrupt when half of what the device has is sent. Answers `true` when something is already.
    pub(super) fn arm(&mut self) -> bool {
        let half = self.queue.outstanding() / 2;
        self.queue.arm(half as u16)
    }
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
        &mut buffer[self.transmit.header..self.transmit.header + length]
    }

    fn cut(&mut self, segment: Option<NonZeroU16>) {
        self.segment = segment;
    }

    fn send(self, length: usize) {
        let Self { transmit, sent, segment } = self;
        let Some(mut buffer) = transmit.free.pop() else { return };
        let end = transmit.header + length;
        let header = if transmit.checksum {
            offload::prepare_transmit(&mut buffer[transmit.header..end], segment)
        } else {
            Header { num_buffers: 0, ..Header::default() }
        };
        buffer[..transmit.header].copy_from_slice(&header.emit()[..transmit.header]);
        match transmit.queue.push(buffer, end, transmit.header) {
            Ok(()) => *sent += 1,
            // There are no more buffers than places; but a frame that does not go is better than a stop.
            Err(buffer) => transmit.free.push(buffer),
        }
    }
}
