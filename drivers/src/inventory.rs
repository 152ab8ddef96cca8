//! Finding devices, and bringing up those there is a driver for.

use crate::hyperv;
use crate::nic::AnyNic;
use crate::pci::Pci;
use crate::shutdown::Shutdown;
use crate::virtio::blk::Block;
use crate::virtio::console::Console;
use crate::virtio::net::VirtioNet;
use crate::virtio::rng::Rng;
use crate::virtio::{Device, mmio, pci};
use crate::watchdog;
use crate::{Error, Location, intel, rtl8139, vmxnet3, xen};
use alloc::vec::Vec;
use core::fmt;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::virtio_device_type;

/// What is known about the machine before anybody looks.
#[derive(Clone, Copy, Debug)]
pub struct Inventory<'a> {
    /// The kernel command line: some monitors name their devices there.
    pub command_line: &'a str,
    /// Bytes of memory that each NIC may take for its buffers, at most. From 704 KiB on, received and sent frames are as
    /// long as segmentation offload makes them; 2.5 MiB is as fast as any more; 64 KiB is the least that makes sense.
    pub nic_memory: usize,
    /// The most bytes of a request to a disk. Without it no disk is brought up.
    pub disk_request: Option<usize>,
}

/// What was found and works.
#[derive(Default)]
pub struct Found {
    /// NICs in bus order: PCI by bus, device and function; then memory-mapped devices in the order in which the command
    /// line names them, or as tables do, from the highest address down; then Hyper-V's, as it offers them, or Xen's, by their numbers.
    pub nics: Vec<AnyNic>,
    /// A source of randomness.
    pub rng: Option<Rng>,
    /// Disks, sixteen at most.
    pub disks: Vec<Block>,
    /// A watchdog, which is as it was.
    pub watchdog: Option<watchdog::Asleep>,
    /// Hyper-V's or Xen's way to ask for a shutdown.
    pub shutdown: Option<Shutdown>,
    /// Devices there is a driver for that could not be brought up, and why. They are logged as well.
    pub failed: Vec<(Location, Error)>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rng = self.rng.as_ref().map(Rng::location);
        write!(
            f,
            "{} NICs, {} disks, randomness {rng:?}, failed {:?}",
            self.nics.len(),
            self.disks.len(),
            self.failed
        )
    }
}

/// Disks that are brought up: each has memory for a request.
const MOST_DISKS: usize = 16;

/// The kinds of virtio device there is a driver for; disks last.
const KINDS: [DeviceType; 3] = [DeviceType::Network, DeviceType::EntropySource, DeviceType::Block];

/// Look at all buses and bring up every device there is a driver for.
pub fn find(inventory: &Inventory<'_>) -> Found {
    let mut found = Found::default();
    // It may let go of some that the others would find.
    let on_xen = xen::connect(&mut found, inventory.nic_memory);
    let kinds = &KINDS[..KINDS.len() - usize::from(inventory.disk_request.is_none())];
    let mut slots = mmio::on_command_line(inventory.command_line);

    let pci = Pci::find();
    if slots.is_empty() {
        slots = mmio::of_machine(pci.is_none());
    }
    if let Some(mut buses) = pci {
        let functions = buses.functions();
        functions.iter().for_each(|function| buses.silence(function.at));
        for function in functions {
            if watchdog::is_one(&function.info) {
                found.watchdog.get_or_insert(watchdog::Asleep::new(function.at));
            }
            if virtio_device_type(&function.info).is_some_and(|kind| kinds.contains(&kind)) {
                let opened = pci::open(&mut buses, function.at);
                found.take(Location::Pci(function.at), opened, inventory);
            }
            let (at, memory) = (function.at, inventory.nic_memory);
            if let Some(kind) = intel::kind(function.info.vendor_id, function.info.device_id) {
                let opened = intel::open(&mut buses, at, kind, memory).map(AnyNic::Intel);
                found.take_nic(Location::Pci(at), opened);
            }
            let opened = match (function.info.vendor_id, function.info.device_id) {
                vmxnet3::ID => vmxnet3::open(&mut buses, at, memory).map(AnyNic::Vmxnet3),
                rtl8139::ID => {
                    let revision = function.info.revision;
                    rtl8139::open(&mut buses, at, revision, memory).map(AnyNic::Rtl8139)
                }
                _ => continue,
            };
            found.take_nic(Location::Pci(at), opened);
        }
    }
    for slot in &slots {
        if let Some(opened) = mmio::open(slot, kinds) {
            found.take(Location::Mmio(slot.address), opened, inventory);
        }
    }
    hyperv::find(&mut found, inventory.nic_memory);
    if let Some(connected) = on_xen {
        connected.add_to(&mut found);
    }
    found
}

/// A console for text, where the machine has one of virtio's; nothing else is touched. For machines without a serial port, before
/// [`find`].
pub fn find_console(command_line: &str) -> Option<Console> {
    let kinds = [DeviceType::Console];
    let pci = Pci::find();
    let named = mmio::on_command_line(command_line);
    let slots = if named.is_empty() { mmio::of_machine(pci.is_none()) } else { named };
    let up = |location: Location, opened: Result<Device, Error>| {
        let console = opened.and_then(Console::new);
        console.inspect_err(|error| log::warn!("{location}: not used: {error}")).ok()
    };
    if let Some(mut buses) = pci {
        for function in buses.functions() {
            if virtio_device_type(&function.info) == Some(DeviceType::Console) {
                return up(Location::Pci(function.at), pci::open(&mut buses, function.at));
            }
        }
    }
    slots.iter().find_map(|slot| up(Location::Mmio(slot.address), mmio::open(slot, &kinds)?))
}

impl Found {
    fn take_nic(&mut self, location: Location, opened: Result<AnyNic, Error>) {
        match opened {
            Ok(nic) => self.nics.push(nic),
            Err(error) => self.refuse(location, error),
        }
    }

    pub(crate) fn refuse(&mut self, location: Location, error: Error) {
        log::warn!("{location}: not used: {error}");
        self.failed.push((location, error));
    }

    fn take(&mut self, location: Location, opened: Result<Device, Error>, inventory: &Inventory<'_>) {
        if let Err(error) = opened.and_then(|device| self.bring_up(device, inventory)) {
            self.refuse(location, error);
        }
    }

    fn bring_up(&mut self, mut device: Device, inventory: &Inventory<'_>) -> Result<(), Error> {
        match device.kind() {
            DeviceType::Network => {
                let nic = VirtioNet::new(device, inventory.nic_memory)?;
                self.nics.push(AnyNic::Virtio(nic));
            }
            DeviceType::EntropySource if self.rng.is_none() => self.rng = Some(Rng::new(device)?),
            DeviceType::Block => {
                if let Some(longest) = inventory.disk_request {
                    if self.disks.len() >= MOST_DISKS {
                        return Err(Error::Unsupported("more disks than are looked at"));
                    }
                    self.disks.push(Block::new(device, longest)?);
                }
            }
            // A second source adds nothing.
            _ => {}
        }
        Ok(())
    }
}
