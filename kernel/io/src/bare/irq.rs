//! Interrupts on the bare machine.

use super::dma::Shared;
use crate::platform::platform;
use crate::{Error, Interrupt, Message, Trigger};
use core::sync::atomic::Ordering;

/// A vector of one's own: a bit that is set when the interrupt happens.
#[derive(Debug)]
pub struct Irq(Interrupt);

impl Irq {
    /// Take a vector.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    pub fn allocate() -> Result<Self, Error> {
        platform().allocate_interrupt().map(Self)
    }

    /// Take the vector of the PCI interrupt line that firmware calls `line` (PCI 3.0 section 6.2.4). Functions that share it
    /// each have the same bit, and who takes it takes it from all: each asks its device whether it was that, and says so
    /// ([`Irq::claim`]). The device must have let go of the line before the machine idles.
    ///
    /// # Errors
    /// [`Error::NoVector`], [`Error::NoLine`].
    pub fn of_line(line: u8) -> Result<Self, Error> {
        platform().allocate_line(line).map(Self)
    }

    /// What stands for an interrupt of a device that can raise none that is heard: it happens when the machine has idled,
    /// which it then does for a millisecond at most, if it was taken since the last time.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    pub fn tick() -> Result<Self, Error> {
        platform().allocate_tick().map(Self)
    }

    /// What a device has to write where to raise it.
    pub fn message(&self) -> Message {
        self.0.message
    }

    /// Let the interrupt line `gsi` raise it.
    ///
    /// # Errors
    /// [`Error::NoLine`].
    pub fn connect(&self, gsi: u32, trigger: Trigger) -> Result<(), Error> {
        platform().connect(&self.0, gsi, trigger)
    }

    /// Let Hyper-V's interrupt controller raise it, and use these pages.
    pub(crate) fn start_synic(&self, messages: &Shared, events: &Shared) -> Result<(), Error> {
        // SAFETY: memory of a `Shared` is never freed without a promise that no device uses it, and whoever holds these
        // two never makes it.
        unsafe { platform().start_synic(&self.0, messages.address(), events.address()) }
    }

    /// Let Xen's events raise it.
    pub(crate) fn start_events(&self) -> Result<(), Error> {
        platform().xen().ok_or(Error::NotThere)?.start_events(&self.0)
    }

    /// Whether it has happened since the last call.
    pub fn take(&self) -> bool {
        let mask = 1 << self.0.bit | self.0.shared;
        // A load is cheaper than a locked write, and mostly nothing happened.
        if self.0.awaited.load(Ordering::Relaxed) & mask != mask {
            self.0.awaited.fetch_or(mask, Ordering::Relaxed);
        }
        self.0.word.load(Ordering::Relaxed) & mask != 0
            && self.0.word.fetch_and(!mask, Ordering::AcqRel) & mask != 0
    }

    /// The device has had a cause to raise its line, and that was taken. By this it becomes known whether the line that
    /// firmware has noted is the device's, and whether somebody else keeps it up.
    pub fn claim(&self) {
        platform().claim_interrupt(&self.0);
    }

    /// Before anybody else on the line may raise it: see whether it is the line of the device, which `raise` lets raise it.
    pub fn try_out(&self, mut raise: impl FnMut()) {
        platform().try_interrupt(&self.0, &mut raise);
    }
}

impl Drop for Irq {
    fn drop(&mut self) {
        platform().abandon_interrupt(&self.0);
    }
}
