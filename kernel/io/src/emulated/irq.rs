//! Interrupts inside a host test.

use super::dma::Shared;
use super::with;
use crate::{Error, Message, Trigger};
use alloc::rc::Rc;
use core::cell::Cell;

/// Messages look like those of a local APIC, so that what a driver writes into a device can be recognised.
const ADDRESS: u64 = 0xfee0_0000;
const FIRST_DATA: u32 = 0x40;
/// As many vectors as a platform's word has bits.
const VECTORS: usize = 64;

/// A vector of one's own: a bit that is set when the interrupt happens.
#[derive(Debug)]
pub struct Irq {
    flag: Rc<Cell<bool>>,
    message: Message,
    /// Whether it is a line that was raised when it was tried out.
    heard: Cell<bool>,
}

impl Irq {
    /// Take a vector.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    pub fn allocate() -> Result<Self, Error> {
        with(|machine| {
            let vector = machine.vectors.len();
            if vector >= VECTORS {
                return Err(Error::NoVector);
            }
            let flag = Rc::new(Cell::new(false));
            machine.vectors.push(flag.clone());
            let message = Message { address: ADDRESS, data: FIRST_DATA + vector as u32 };
            Ok(Self { flag, message, heard: Cell::new(false) })
        })
    }

    /// Take the vector of the PCI interrupt line that firmware calls `line`. Functions that share it have the same bit.
    ///
    /// # Errors
    /// [`Error::NoVector`], [`Error::NoLine`].
    pub fn of_line(line: u8) -> Result<Self, Error> {
        let gsi = u32::from(line);
        if let Some(flag) = with(|machine| machine.lines.get(&gsi).cloned()) {
            return Ok(Self { flag, message: Message::default(), heard: Cell::new(false) });
        }
        let irq = Self { message: Message::default(), ..Self::allocate()? };
        irq.connect(gsi, Trigger::Edge)?;
        Ok(irq)
    }

    /// What stands for an interrupt of a device that can raise none that is heard; it happens with [`super::tick`].
    ///
    /// # Errors
    /// [`Error::NoVector`].
    pub fn tick() -> Result<Self, Error> {
        let irq = Self { message: Message::default(), ..Self::allocate()? };
        with(|machine| machine.ticks.push(irq.flag.clone()));
        Ok(irq)
    }

    /// What a device has to write where to raise it.
    pub fn message(&self) -> Message {
        self.message
    }

    /// Let the interrupt line `gsi` raise it.
    ///
    /// # Errors
    /// [`Error::NoLine`].
    pub fn connect(&self, gsi: u32, trigger: Trigger) -> Result<(), Error> {
        let Trigger::Edge = trigger;
        with(|machine| {
            if gsi >= machine.line_count {
                return Err(Error::NoLine);
            }
            machine.lines.insert(gsi, self.flag.clone());
            Ok(())
        })
    }

    /// Let Hyper-V's interrupt controller raise it, and use these pages.
    pub(crate) fn start_synic(&self, messages: &Shared, events: &Shared) -> Result<(), Error> {
        let hypervisor = with(|machine| machine.hypervisor.clone()).ok_or(Error::NotThere)?;
        hypervisor.start(messages.address(), events.address(), self.message);
        Ok(())
    }

    /// Let Xen's events raise it.
    pub(crate) fn start_events(&self) -> Result<(), Error> {
        super::with_xen(|xen| xen.start_events(self.message)).ok_or(Error::NotThere)
    }

    /// Whether it has happened since the last call.
    pub fn take(&self) -> bool {
        self.flag.replace(false)
    }

    /// The device has had a cause to raise its line, and that was taken.
    pub fn claim(&self) {
        with(|machine| machine.claims += 1);
    }

    /// Before anybody else on the line may raise it: see whether it is the line of the device, which `raise` lets raise it.
    pub fn try_out(&self, mut raise: impl FnMut()) {
        let before = self.flag.get();
        raise();
        self.heard.set(!before && self.flag.get());
    }

    /// Whether it is a line that was raised when it was tried out.
    pub fn is_heard(&self) -> bool {
        self.heard.get()
    }
}

/// Which vector a message raises.
pub(super) fn vector(message: Message) -> Option<usize> {
    (message.address == ADDRESS).then_some(message.data.checked_sub(FIRST_DATA)? as usize)
}
