//! Hyper-V's synthetic interrupt controller (TLFS chapter "Virtual Interrupt Controller"), as far as VMBus needs it.
//!
//! What the hypervisor has to say comes as a message in a slot, one at a time, or as a flag that is set; for both an
//! interrupt is raised. What it is told is a message that is posted, or an event that is signalled.

use crate::backing::{end_of_message, has_synic, post_message, signal_event};
use crate::{Error, Irq, PAGE, Shared};
use core::sync::atomic::{Ordering, fence};

/// The most bytes of a message.
pub const MESSAGE: usize = 240;

/// The source of interrupts that VMBus has: the third slot of each page.
const SOURCE: usize = 2;
/// Bytes of a slot, for a message as for flags.
const SLOT: usize = 256;
/// The header of a message: type, length, flags, and who sent it.
const TYPE: usize = SOURCE * SLOT;
const LENGTH: usize = TYPE + 4;
const PAYLOAD: usize = TYPE + 16;
/// In the half word of length and flags: another message waits for the slot.
const PENDING: u16 = 1 << 8;
/// The type of VMBus's messages.
const VMBUS: u32 = 1;

/// The controller of the machine. There is one.
#[derive(Debug)]
pub struct Synic {
    messages: Shared,
    events: Shared,
    irq: Irq,
}

impl Synic {
    /// Whether the machine has one that we may use.
    pub fn is_there() -> bool {
        has_synic()
    }

    /// Start it.
    ///
    /// # Errors
    /// [`Error::NotThere`] on a machine that has none; [`Error::OutOfMemory`], [`Error::NoVector`].
    pub fn start() -> Result<Self, Error> {
        // First, so that other machines lose neither memory nor a vector.
        if !Self::is_there() {
            return Err(Error::NotThere);
        }
        let synic = Self {
            messages: Shared::allocate(PAGE)?,
            events: Shared::allocate(PAGE)?,
            irq: Irq::allocate()?,
        };
        synic.irq.start_synic(&synic.messages, &synic.events)?;
        Ok(synic)
    }

    /// Whether there was an interrupt since the last call. All flags are cleared: whoever asks looks afterwards at all
    /// that they could stand for, for what was flagged before this is there to be seen.
    pub fn acknowledge(&self) -> bool {
        let raised = self.irq.take();
        if raised {
            for word in 0..SLOT / 8 {
                self.events.write64(SOURCE * SLOT + 8 * word, 0);
            }
            fence(Ordering::SeqCst);
        }
        raised
    }

    /// Take the message that waits; answers its length. What is not VMBus's is thrown away.
    pub fn receive(&self, message: &mut [u8; MESSAGE]) -> Option<usize> {
        let kind = self.messages.read32(TYPE);
        if kind == 0 {
            return None;
        }
        fence(Ordering::Acquire);
        let length = usize::from(self.messages.read16(LENGTH) as u8).min(MESSAGE);
        self.messages.read_bytes(PAYLOAD, &mut message[..length]);
        // The slot is free first, and only then is asked whether somebody waited for it: the hypervisor does it the other
        // way round.
        fence(Ordering::Release);
        self.messages.write32(TYPE, 0);
        fence(Ordering::SeqCst);
        if self.messages.read16(LENGTH) & PENDING != 0 {
            end_of_message();
        }
        Some(if kind == VMBUS { length } else { 0 })
    }

    /// Post a message to a connection.
    ///
    /// # Errors
    /// The hypervisor's status.
    pub fn post(&self, connection: u32, message: &[u8]) -> Result<(), u16> {
        post_message(connection, message)
    }

    /// Signal the event of a connection.
    ///
    /// # Errors
    /// The hypervisor's status.
    pub fn signal(&self, connection: u32) -> Result<(), u16> {
        signal_event(connection)
    }
}
