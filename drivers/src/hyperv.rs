//! Hyper-V's devices: VMBus (`bus.rs`, `ring.rs`), the NIC (`netvsc.rs`), and what a host asks a guest to do (`shutdown.rs`).
//!
//! From the public TLFS and the definitions of OpenVMM. All of it is tested against a host of our own
//! ([`crate::emulated::hyperv`]), and has not yet been run on Hyper-V.

mod bus;
pub mod netvsc;
mod ring;
mod rndis;
pub mod shutdown;
#[cfg(test)]
mod tests;

use crate::nic::AnyNic;
use crate::shutdown::Shutdown;
use crate::{Error, Found, Location};
use bus::Bus;
use netvsc::NetVsc;

/// What speaks on a channel, as it is in a message: f8615163-df3e-46c5-913f-f2d2f965ed0e is a NIC, and
/// 0e0b6031-5213-4934-818b-38d90ced39db the component for shutting down.
const NIC: [u32; 4] = [0xf861_5163, 0x46c5_df3e, 0xd2f2_3f91, 0x0eed_65f9];
const SHUTDOWN: [u32; 4] = [0x0e0b_6031, 0x4934_5213, 0xd938_8b81, 0xdb39_ed0c];
const INTERFACES: [[u32; 4]; 2] = [NIC, SHUTDOWN];

/// Connect to the host, if it is Hyper-V, and bring up what it offers. Each NIC may take so many bytes of memory.
pub(crate) fn find(found: &mut Found, nic_memory: usize) {
    let (bus, offers) = match Bus::connect() {
        Ok(Some(connected)) => connected,
        Ok(None) => return,
        Err(error) => return failed(found, 0, error),
    };
    for offer in &offers {
        let error = if offer.interface == NIC {
            NetVsc::new(&bus, offer, nic_memory).map(|nic| found.nics.push(AnyNic::NetVsc(nic)))
        } else if found.shutdown.is_none() {
            let opened = shutdown::Shutdown::new(&bus, offer);
            opened.map(|shutdown| found.shutdown = Some(Shutdown::HyperV(shutdown)))
        } else {
            Ok(())
        };
        if let Err(error) = error {
            failed(found, offer.channel, error);
        }
    }
}

fn failed(found: &mut Found, channel: u32, error: Error) {
    let location = Location::Vmbus(channel);
    log::warn!("{location}: not used: {error}");
    found.failed.push((location, error));
}
