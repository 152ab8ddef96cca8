//! virtio-console (virtio 1.2 section 5.3), as a place for text to go to: port 0, and nothing comes in.
//!
//! Nothing ever waits for it: text goes where there is a buffer for it, and otherwise stays where it is.

#[cfg(test)]
mod tests;

use super::queue::{Lie, Queue};
use super::{Device, feature};
use crate::Error;
use alloc::vec::Vec;
use kernel_io::{Buffer, Direction, Mmio};

/// The queues of port 0. Some monitors start a console only with both.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// What is wanted of it, if it has it; and where in its configuration a character is written that is not to wait.
const WANTED: u64 = feature::ANY_LAYOUT | feature::CONSOLE_EMERG_WRITE;
const EMERGENCY: usize = 8;
/// Buffers, and the bytes of each.
const BUFFERS: u16 = 8;
const LENGTH: usize = 512;
/// Lies after which it is left alone for good.
const PATIENCE: u8 = 8;

/// A console.
pub struct Console {
    device: Device,
    receive: Queue,
    transmit: Queue,
    /// Buffers that are here.
    free: Vec<Buffer>,
    /// Takes a character at any time, without a buffer and whatever state the driver is in.
    emergency: Option<Mmio>,
    /// How often it may still lie. With none left it is not used.
    patience: u8,
}

impl Console {
    /// Bring up a console.
    pub(crate) fn new(mut device: Device) -> Result<Self, Error> {
        let features = device.negotiate(WANTED)?;
        let emergency = device.register(EMERGENCY).filter(|_| features & feature::CONSOLE_EMERG_WRITE != 0);
        let size = device.queue_size(RECEIVE, 2)?;
        let receive = Queue::allocate(size, 1, false, Direction::FromDevice)?;
        let size = device.queue_size(TRANSMIT, BUFFERS)?;
        let transmit = Queue::allocate(size, 1, false, Direction::ToDevice)?;
        let free = Buffer::allocate(transmit.capacity(), LENGTH)?;
        let mut console = Self { device, receive, transmit, free, emergency, patience: PATIENCE };
        console.start()?;
        log::info!("{}: virtio-console", console.device.location());
        Ok(console)
    }

    /// The register by which it takes a character at any time, if it has one: for whoever cannot go on.
    pub fn emergency(&self) -> Option<&Mmio> {
        self.emergency.as_ref()
    }

    /// Let `fill` put text into the buffers that are here, as much as there is; it answers how much it was, and is asked again
    /// while there is some. Answers whether everything was said, as far as can be known.
    pub fn carry(&mut self, mut fill: impl FnMut(&mut [u8]) -> usize) -> bool {
        if self.patience == 0 {
            return true;
        }
        // It may have interrupted although it was asked not to, and a bit that nobody takes lets nobody sleep.
        self.device.acknowledge();
        loop {
            match self.transmit.pop() {
                Ok(Some((buffer, _))) => self.free.push(buffer),
                Ok(None) => break,
                Err(lie) => {
                    self.lied(lie);
                    return true;
                }
            }
        }
        while let Some(mut buffer) = self.free.pop() {
            let length = fill(&mut buffer).min(buffer.len());
            if length == 0 {
                self.free.push(buffer);
                break;
            }
            if let Err(buffer) = self.transmit.push(buffer, length, 0) {
                // There are no more buffers than places for them.
                self.free.push(buffer);
                break;
            }
        }
        self.transmit.notify();
        self.transmit.outstanding() == 0
    }

    fn lied(&mut self, lie: Lie) {
        self.patience -= 1;
        let restarted = self.device.reset().is_ok() && {
            // SAFETY: the device has just been reset.
            self.free.extend(unsafe { self.transmit.recover() });
            // SAFETY: as above; it was never given anything.
            drop(unsafe { self.receive.recover() });
            self.device.negotiate(WANTED).and_then(|_| self.start()).is_ok()
        };
        if !restarted {
            self.patience = 0;
        }
        log::warn!("virtio-console broke its contract: {lie:?}");
    }

    fn start(&mut self) -> Result<(), Error> {
        self.device.attach(RECEIVE, &mut self.receive)?;
        self.device.attach(TRANSMIT, &mut self.transmit)?;
        self.device.start();
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // A device that cannot be stopped keeps what it has; nothing of it is freed.
        if self.device.reset().is_ok() {
            // SAFETY: the device has just been reset; what it had is dropped here.
            drop(unsafe { self.transmit.recover() });
        }
    }
}
