//! Xen, as far as a guest's drivers need it: events, memory that other domains may access, and parameters.
//!
//! Names are those of Xen's public headers (`xen/include/public`). What another domain may access is said by the grant table:
//! an entry for each page, which is memory of ours that the hypervisor reads.

use crate::backing::with_xen;
use crate::{Error, Irq, PAGE, Shared};
use core::sync::atomic::{Ordering, fence};

/// What is asked of event channels (`event_channel.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A port of ours that a domain may bind to; answers the port.
    Open(u16),
    /// Have a port no more.
    Close(u32),
    /// Tell whoever is at the other end of a port.
    Notify(u32),
}

/// A parameter of the machine (`hvm/params.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Parameter {
    /// The number of the page that is shared with xenstore.
    StorePage = 1,
    /// The port by which xenstore is told, and tells.
    StorePort = 2,
}

/// The machine as a guest of Xen's. There is one.
#[derive(Debug)]
pub struct Guest {
    irq: Irq,
}

impl Guest {
    /// Let events raise an interrupt.
    ///
    /// # Errors
    /// [`Error::NotThere`] on a machine that is no guest of Xen's; [`Error::NoVector`].
    pub fn start() -> Result<Self, Error> {
        // First, so that other machines do not lose a vector.
        with_xen(|_| ()).ok_or(Error::NotThere)?;
        let guest = Self { irq: Irq::allocate()? };
        guest.irq.start_events()?;
        Ok(guest)
    }

    /// Whether there was an event since the last call. All are cleared: whoever asks looks afterwards at all that they could stand
    /// for, for what was told of before this is there to be seen.
    pub fn acknowledge(&self) -> bool {
        let raised = self.irq.take();
        if raised {
            with_xen(|xen| xen.clear_events());
            fence(Ordering::SeqCst);
        }
        raised
    }

    /// A parameter; `None` where Xen does not have it, or it is zero, which stands for none.
    pub fn parameter(&self, parameter: Parameter) -> Option<u64> {
        with_xen(|xen| xen.parameter(parameter)).flatten().filter(|value| *value != 0)
    }

    /// Ask for something about event channels.
    ///
    /// # Errors
    /// Xen's, negative.
    pub fn event(&self, event: Event) -> Result<u32, i32> {
        const ENOSYS: i32 = -38;
        with_xen(|xen| xen.event(event)).unwrap_or(Err(ENOSYS))
    }

    /// The first `frames` pages of the grant table. The memory is never freed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], also when Xen lets the table have no such length.
    pub fn grant_table(&self, frames: usize) -> Result<Shared, Error> {
        let table = Shared::allocate(frames * PAGE)?;
        table.map_grants()?;
        Ok(table)
    }

    /// Let others run while we wait for one of them.
    pub fn rest(&self) {
        with_xen(|xen| xen.rest());
    }
}
