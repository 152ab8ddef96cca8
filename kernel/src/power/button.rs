//! The power button: what tells that whoever runs the machine wants it to end.
//!
//! Where tables describe one there is an interrupt as well, and it is level-triggered with all that belongs to it: something
//! has to take the cause away before it is let in again. Here it is taken as an edge: our bit is the only one that may raise
//! it, we clear that bit when we see it, and so each press is an edge. What else firmware may have left behind that line can
//! hide an edge; so the register is looked at every few seconds too, and without an interrupt every second.

use super::{ASKED, Request, ask, asked, keyboard};
use crate::acpi::{Acpi, Register, Space};
use crate::cpu::port;
use crate::memory::{self, ranges::Range};
use core::sync::atomic::Ordering;
use kernel_io::{Irq, Trigger};
use spin::Once;

/// How often a button is looked at that has an interrupt, and one that has none, in microseconds.
const SELDOM: u64 = 5_000_000;
const OFTEN: u64 = 1_000_000;
/// PWRBTN_STS and PWRBTN_EN of the PM1 event registers (ACPI 6.5, section 4.8.3.1).
const POWER_BUTTON: u16 = 1 << 8;

/// Where a button shows.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Status registers of PM1 event blocks: ports; and how far behind each the enable register is.
    Fixed([Option<u16>; 2], u16),
    /// The mapped register of an event device, its width, and the bit.
    Event(u64, u8, u32),
    /// No button, but a keyboard.
    Keyboard,
}

/// The button and the global number of its interrupt.
static BUTTON: Once<(Place, Option<u32>)> = Once::new();

/// Note where the button is.
pub(super) fn init(acpi: &Acpi) {
    let button = fixed(acpi).or_else(|| {
        let event = acpi.event?;
        let range = Range::with_length(event.address, u64::from(event.width));
        let address = memory::map_device(range).ok()?;
        Some((Place::Event(address, event.width, event.button), event.interrupt))
    });
    let button = button.or_else(|| {
        let interrupt = acpi.madt.as_ref().map(|madt| madt.global(keyboard::INTERRUPT));
        acpi.named.keyboard.then_some((Place::Keyboard, interrupt))
    });
    if let Some(button) = button {
        BUTTON.call_once(|| button);
    }
}

fn fixed(acpi: &Acpi) -> Option<(Place, Option<u32>)> {
    let button = acpi.fadt.as_ref()?.button.as_ref()?;
    let status = |register: Option<Register>| match register?.space {
        // The enable register behind it has to be a port as well.
        Space::Port => u16::try_from(register?.address).ok().filter(|port| *port <= u16::MAX - 32),
        Space::Memory => None,
    };
    let blocks = [status(button.blocks.0), status(button.blocks.1)];
    let interrupt = acpi.madt.as_ref().map(|madt| madt.global(button.interrupt));
    blocks[0].is_some().then_some((Place::Fixed(blocks, button.width), interrupt))
}

/// Hears of requests to end.
pub struct Watch {
    button: Option<Place>,
    interrupt: Option<Irq>,
    /// When the button is looked at whatever happens.
    next: u64,
}

impl Watch {
    /// Listen to the button, if the machine has one, and to whoever calls [`ask`].
    pub fn start() -> Self {
        let Some(&(place, number)) = BUTTON.get() else {
            return Self { button: None, interrupt: None, next: u64::MAX };
        };
        if let Place::Fixed(..) = place {
            super::switch_acpi_on_for_good();
        }
        let interrupt = number.and_then(|number| {
            let irq = Irq::allocate().ok()?;
            irq.connect(number, Trigger::Edge).ok().map(|()| irq)
        });
        place.arm();
        log::debug!("power button: {place:x?}, interrupt {number:?}, heard: {}", interrupt.is_some());
        Self { button: Some(place), interrupt, next: 0 }
    }

    /// What was asked for, if anything was. To be called in every turn: it looks at the button only if that has raised its
    /// interrupt, or was not looked at for long.
    pub fn asked(&mut self, now: u64) -> Option<Request> {
        if let Some(place) = self.button
            && (self.interrupt.as_ref().is_some_and(Irq::take) || now >= self.next)
        {
            self.next = now + if self.interrupt.is_some() { SELDOM } else { OFTEN };
            if place.is_pressed() && ASKED.load(Ordering::Relaxed) == 0 {
                ask(Request::Off);
            }
        }
        asked()
    }

    /// When [`Watch::asked`] is to be called at the latest; `None` where no button wants to be looked at.
    pub fn deadline(&self) -> Option<u64> {
        self.button.map(|_| self.next)
    }
}

impl Place {
    /// Let the button tell of itself, and nothing else by its interrupt. What was pressed before is of the time before.
    fn arm(self) {
        self.is_pressed();
        if let Self::Fixed(blocks, enable) = self {
            for port in blocks.into_iter().flatten() {
                // SAFETY: firmware says that this is the enable register of PM1 events; it decides what raises the SCI.
                unsafe { port::write16(port + enable, POWER_BUTTON) };
            }
        }
    }

    /// Whether it was pressed since the last time.
    fn is_pressed(self) -> bool {
        match self {
            Self::Fixed(blocks, _) => {
                let mut pressed = false;
                for port in blocks.into_iter().flatten() {
                    // SAFETY: firmware says that this is the status register of PM1 events; reading it has no effect.
                    let status = unsafe { port::read16(port) };
                    // All ones are nobody's answer.
                    if status & POWER_BUTTON != 0 && status != u16::MAX {
                        pressed = true;
                        // SAFETY: as above; a one clears its bit, and zeros leave theirs.
                        unsafe { port::write16(port, POWER_BUTTON) };
                    }
                }
                pressed
            }
            Self::Event(address, 4, button) => {
                // SAFETY: the register is mapped and aligned; reading it takes the events, and nobody else is here to want them.
                let events = unsafe { (address as *const u32).read_volatile() };
                events & button != 0 && events != u32::MAX
            }
            Self::Event(address, _, button) => {
                // SAFETY: as above.
                let events = unsafe { (address as *const u8).read_volatile() };
                u32::from(events) & button != 0 && events != u8::MAX
            }
            Self::Keyboard => keyboard::is_pressed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_button_nobody_has_to_wake_for_it() {
        assert_eq!(Watch::start().deadline(), None);
    }
}
