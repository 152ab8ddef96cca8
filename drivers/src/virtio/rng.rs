//! virtio-rng (virtio 1.2 section 5.4): randomness from the hypervisor.

#[cfg(test)]
mod tests;

use super::queue::{Lie, Queue};
use super::{Device, feature};
use crate::Error;
use crate::Location;
use alloc::vec::Vec;
use core::fmt;
use kernel_io::{Buffer, Direction};

/// The queue.
const REQUESTS: u16 = 0;
/// Bytes asked for at once.
const REQUEST: usize = 64;
/// How long the hypervisor may think about it, in microseconds.
const PATIENCE: u32 = 1_000_000;

/// A source of randomness.
pub struct Rng {
    device: Device,
    queue: Queue,
    /// `None` when it is lost to a device that does not come out of reset.
    buffer: Option<Buffer>,
}

/// Why there is no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RngError {
    /// It did not answer in time. It has been reset; a later attempt may go better.
    Silent,
    /// It answered with nothing.
    Empty,
    /// It broke its contract, and has been reset.
    Lie(Lie),
    /// It could not be brought up again.
    Device(Error),
}

impl fmt::Display for RngError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("virtio-rng does not answer"),
            Self::Empty => f.write_str("virtio-rng has nothing"),
            Self::Lie(lie) => write!(f, "virtio-rng broke its contract: {lie:?}"),
            Self::Device(error) => write!(f, "virtio-rng: {error}"),
        }
    }
}

impl core::error::Error for RngError {}

impl Rng {
    /// Bring up an entropy device.
    pub(crate) fn new(mut device: Device) -> Result<Self, Error> {
        device.negotiate(feature::ANY_LAYOUT)?;
        let size = device.queue_size(REQUESTS, 2)?;
        let size = device.ring_size(REQUESTS, size)?;
        let queue = Queue::allocate(size, 1, false, Direction::FromDevice)?;
        let buffer = Buffer::allocate(1, REQUEST)?.pop();
        let mut rng = Self { device, queue, buffer };
        rng.start()?;
        log::info!("{}: virtio-rng", rng.device.location());
        Ok(rng)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.device.location()
    }

    /// Fill `bytes`, waiting busily: this is for the start, when nothing else can go on anyway.
    ///
    /// # Errors
    /// See [`RngError`]. What was written by then is not to be used.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let buffer = self.buffer.take().ok_or(RngError::Device(Error::Reset))?;
            let (buffer, length) = self.request(buffer)?;
            let count = length.min(bytes.len() - filled);
            bytes[filled..filled + count].copy_from_slice(&buffer[..count]);
            filled += count;
            self.buffer = Some(buffer);
            if length == 0 {
                return Err(RngError::Empty);
            }
        }
        Ok(())
    }

    fn request(&mut self, mut buffer: Buffer) -> Result<(Buffer, usize), RngError> {
        // What a device claims to have written and has not must not look random.
        buffer.fill(0);
        if let Err(buffer) = self.queue.push(buffer, REQUEST, 0) {
            // It has one buffer only, which is here.
            self.buffer = Some(buffer);
            return Err(RngError::Silent);
        }
        self.queue.notify();
        kernel_io::wait(PATIENCE, || self.queue.has_used());
        match self.queue.pop() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.restart().err().map_or(RngError::Silent, RngError::Device)),
            Err(lie) => Err(self.restart().err().map_or(RngError::Lie(lie), RngError::Device)),
        }
    }

    fn start(&mut self) -> Result<(), Error> {
        self.device.attach(REQUESTS, &mut self.queue)?;
        self.device.start();
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.device.reset()?;
        // SAFETY: the device has just been reset.
        let returned: Vec<Buffer> = unsafe { self.queue.recover() };
        self.buffer = returned.into_iter().next();
        self.device.negotiate(feature::ANY_LAYOUT)?;
        self.start()
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.device.reset().is_ok() {
            // SAFETY: the device has just been reset; what it had is dropped here.
            drop(unsafe { self.queue.recover() });
        }
    }
}
