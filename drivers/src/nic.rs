//! A NIC of any kind.

use crate::virtio::net::{Rx, Tx, VirtioNet};
use core::fmt;
use network_nic::{Counters, Device, DeviceCapabilities, Instant, Nic};

/// A NIC of any kind there is a driver for.
pub enum AnyNic {
    /// virtio-net.
    Virtio(VirtioNet),
}

impl fmt::Display for AnyNic {
    /// Where it was found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Virtio(nic) = self;
        nic.location().fmt(f)
    }
}

impl Device for AnyNic {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let Self::Virtio(nic) = self;
        nic.receive(now)
    }

    fn transmit(&mut self, now: Instant) -> Option<Tx<'_>> {
        let Self::Virtio(nic) = self;
        nic.transmit(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let Self::Virtio(nic) = self;
        nic.capabilities()
    }
}

impl Nic for AnyNic {
    fn mac(&self) -> [u8; 6] {
        let Self::Virtio(nic) = self;
        nic.mac()
    }

    fn waits(&self) -> bool {
        let Self::Virtio(nic) = self;
        nic.waits()
    }

    fn flush(&mut self) {
        let Self::Virtio(nic) = self;
        nic.flush();
    }

    fn arm(&mut self) -> bool {
        let Self::Virtio(nic) = self;
        nic.arm()
    }

    fn counters(&self) -> Counters {
        let Self::Virtio(nic) = self;
        nic.counters()
    }
}
