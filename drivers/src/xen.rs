//! Xen's devices for guests: events, grants and the store (`bus.rs`, `grants.rs`, `store.rs`), rings (`ring.rs`), the NIC (`netfront.rs`),
//! and what the tools ask a guest to do (`shutdown.rs`).
//!
//! From Xen's public headers and documents, whose names are used. What comes from the store or from a backend is bounded before it is used.

mod bus;
mod grants;
pub mod netfront;
mod ring;
pub mod shutdown;
mod store;
#[cfg(test)]
mod tests;

use crate::nic::AnyNic;
use crate::shutdown::Shutdown;
use crate::{Error, Found, Location};
use alloc::rc::Rc;
use alloc::vec::Vec;
use bus::Bus;
use kernel_io::Ports;
use netfront::Netfront;
use network_nic::Nic as _;

/// NICs that are brought up, at most.
const MOST_NICS: usize = 8;

/// The port by which a machine with emulated devices lets go of them (`docs/misc/hvm-emulated-unplug`); what it reads as; its version, and
/// what it has to be told of whom from the first version on; which devices.
const UNPLUG: u16 = 0x10;
const MAGIC: u16 = 0x49d2;
const VERSION: u16 = 2;
const PRODUCT: u16 = 2;
const BUILD: u16 = 0;
const NICS: u16 = 1 << 1;
/// The number of a product that nobody has registered.
const OURSELVES: u16 = 0xffff;

/// What there is on Xen, before other buses are looked at.
pub(crate) struct Connected {
    bus: Rc<Bus>,
    nics: Vec<(u32, Result<Netfront, Error>)>,
}

/// Connect, if the machine is a guest of Xen's, and bring up its NICs; each may take so many bytes of memory. Where one works emulated NICs
/// are let go of: both are the same to whoever is behind them.
pub(crate) fn connect(found: &mut Found, nic_memory: usize) -> Option<Connected> {
    let connected = Bus::connect().and_then(|bus| {
        let Some(bus) = bus else { return Ok(None) };
        let names = bus.store.names("device/vif")?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.truncate(MOST_NICS);
        let nics =
            numbers.into_iter().map(|number| (number, Netfront::new(&bus, number, nic_memory))).collect();
        Ok(Some(Connected { bus, nics }))
    });
    let connected = connected.unwrap_or_else(|error| {
        found.refuse(Location::Vif(0), error);
        None
    })?;
    // They do not come back, so they are kept as long as they may be all there is.
    if connected.nics.iter().any(|(_, nic)| nic.as_ref().is_ok_and(Netfront::is_connected)) {
        let_go();
    }
    Some(connected)
}

/// Let go of emulated NICs, where the machine has what it takes.
fn let_go() {
    let Ok(ports) = Ports::claim(UNPLUG, 4) else { return };
    if ports.read16(0) != MAGIC {
        return;
    }
    if ports.read8(VERSION) >= 1 {
        ports.write16(PRODUCT, OURSELVES);
        ports.write32(BUILD, 1);
        // Now it may not want to.
        if ports.read16(0) != MAGIC {
            log::warn!("xen: the machine does not let go of its emulated NICs");
            return;
        }
    }
    ports.write16(0, NICS);
}

impl Connected {
    /// Add it to what was found on other buses.
    pub(crate) fn add_to(self, found: &mut Found) {
        for (number, nic) in self.nics {
            match nic {
                // One that was not let go of is the same NIC.
                Ok(nic) if found.nics.iter().any(|other| other.mac() == nic.mac()) => {
                    found.refuse(nic.location(), Error::Unsupported("a NIC beside its emulated likeness"));
                }
                Ok(nic) => found.nics.push(AnyNic::Netfront(nic)),
                Err(error) => found.refuse(Location::Vif(number), error),
            }
        }
        if found.shutdown.is_none() {
            match shutdown::Shutdown::new(&self.bus) {
                Ok(shutdown) => found.shutdown = Some(Shutdown::Xen(shutdown)),
                Err(error) => log::warn!("xen: nobody hears a request to end: {error}"),
            }
        }
    }
}
