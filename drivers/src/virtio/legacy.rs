//! virtio over PCI as it was before virtio 1.0 (virtio 1.2 section 4.1.4.10): registers behind ports, rings by the number of
//! their page, and their size as the device says. The only side that bhyve's devices have.

#[cfg(not(target_os = "none"))]
pub(crate) mod hostile;
#[cfg(test)]
mod tests;

use super::Device;
use super::device::Bus;
use super::pci::Interrupts;
use super::queue::Doorbell;
use crate::Error;
use crate::pci::{Capability, DeviceFunction, Pci};
use alloc::rc::Rc;
use kernel_io::Ports;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus};

/// Registers.
const DEVICE_FEATURES: u16 = 0;
const DRIVER_FEATURES: u16 = 4;
const QUEUE_ADDRESS: u16 = 8;
const QUEUE_SIZE: u16 = 12;
const QUEUE_SELECT: u16 = 14;
const QUEUE_NOTIFY: u16 = 16;
const STATUS: u16 = 18;
const ISR: u16 = 19;
/// With MSI-X there are two more, before the configuration.
const CONFIGURATION_VECTOR: u16 = 20;
const QUEUE_VECTOR: u16 = 22;
const CONFIGURATION: [u16; 2] = [20, 24];
/// Bytes of a configuration that are looked at, at most.
const LONGEST: u16 = 20;
/// All registers, without a configuration and with one.
const PORTS: (u16, u16) = (CONFIGURATION[1], CONFIGURATION[1] + LONGEST);
/// A page's number, as the register takes it.
const PAGE_BITS: u32 = 12;
/// The longest queue that is used. Its size is not ours to choose, and takes memory.
const LONGEST_QUEUE: u16 = 4096;
/// How often a configuration is read before a device that keeps changing it is given up.
const TRIES: u32 = 16;

/// The ports of a device.
pub(crate) struct Legacy {
    ports: Rc<Ports>,
    /// How many there are.
    count: u16,
    kind: DeviceType,
    /// The vectors for changes of the configuration and for queues, where it has MSI-X.
    vectors: Option<(u16, u16)>,
}

/// What a device with such an identifier is; `None` if there is no driver for it.
fn kind(id: u16) -> Option<DeviceType> {
    match id {
        0x1000 => Some(DeviceType::Network),
        0x1001 => Some(DeviceType::Block),
        0x1005 => Some(DeviceType::EntropySource),
        _ => None,
    }
}

/// Open the device at `at`, which answers at nothing now, and reset it before it reaches memory.
pub(super) fn open(pci: &mut Pci, at: DeviceFunction, capabilities: &[Capability]) -> Result<Device, Error> {
    let id = (pci.read(at, 0) >> 16) as u16;
    let kind = kind(id).ok_or(Error::Unsupported("a virtio device without virtio's capabilities"))?;
    let ports = pci.ports(at, 0, PORTS)?;
    let interrupts = Interrupts::find(pci, at, capabilities)?;
    pci.enable_registers(at);
    let vectors = interrupts.connect(pci, at);
    let mut device = interrupts.device(at, Bus::Legacy(Legacy::new(ports, kind, vectors)));
    pci.enable_ports(at);
    device.reset()?;
    pci.enable_memory(at);
    Ok(device)
}

impl Legacy {
    pub(crate) fn new((ports, count): (Ports, u16), kind: DeviceType, vectors: Option<(u16, u16)>) -> Self {
        Self { ports: Rc::new(ports), count, kind, vectors }
    }

    pub(super) fn device_type(&self) -> DeviceType {
        self.kind
    }

    pub(super) fn read_device_features(&self) -> u64 {
        self.ports.read32(DEVICE_FEATURES).into()
    }

    pub(super) fn write_driver_features(&self, features: u64) {
        self.ports.write32(DRIVER_FEATURES, features as u32);
    }

    /// Its page is always of 4096 bytes.
    pub(super) fn set_guest_page_size(&self, _: u32) {}

    pub(super) fn requires_legacy_layout(&self) -> bool {
        true
    }

    /// The size of a queue, which is as it is; zero where there is none.
    pub(super) fn max_queue_size(&self, queue: u16) -> u32 {
        self.ports.write16(QUEUE_SELECT, queue);
        self.ports.read16(QUEUE_SIZE).into()
    }

    /// The size of a queue that can be used.
    pub(super) fn queue_size(&self, queue: u16) -> Result<u16, Error> {
        let size = self.max_queue_size(queue) as u16;
        if size > LONGEST_QUEUE {
            return Err(Error::Unsupported("a queue that long"));
        }
        // A power of two (section 2.7).
        if size.is_power_of_two() && size >= 2 { Ok(size) } else { Err(Error::NoQueue(queue)) }
    }

    pub(super) fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.ports.read8(STATUS).into())
    }

    pub(super) fn set_status(&self, status: DeviceStatus) {
        self.ports.write8(STATUS, status.bits() as u8);
    }

    pub(super) fn queue_set(&self, queue: u16, _: u32, descriptors: u64, _: u64, _: u64) {
        self.ports.write16(QUEUE_SELECT, queue);
        self.ports.write32(QUEUE_ADDRESS, (descriptors >> PAGE_BITS) as u32);
    }

    /// The vectors are forgotten at each reset.
    pub(super) fn set_vectors(&self, queue: u16) -> Result<(), Error> {
        let Some((configuration, queues)) = self.vectors else { return Ok(()) };
        self.ports.write16(CONFIGURATION_VECTOR, configuration);
        self.ports.write16(QUEUE_SELECT, queue);
        self.ports.write16(QUEUE_VECTOR, queues);
        // A device that has no room for it says so.
        if self.ports.read16(QUEUE_VECTOR) == queues { Ok(()) } else { Err(Error::NoInterrupt) }
    }

    pub(super) fn doorbell(&self, queue: u16) -> Doorbell {
        Doorbell::Port(self.ports.clone(), QUEUE_NOTIFY, queue)
    }

    /// There is none: what is read twice the same is of one moment.
    pub(super) fn read_config_generation(&self) -> u32 {
        0
    }

    pub(super) fn read_config_space<T>(&self, offset: usize) -> Result<T, virtio_drivers::Error>
    where
        T: for<'a> TryFrom<&'a [u8]>,
    {
        let length = size_of::<T>();
        let bytes = &mut [0_u8; LONGEST as usize];
        let start = usize::from(CONFIGURATION[usize::from(self.vectors.is_some())]) + offset;
        let bytes = bytes.get_mut(..length).ok_or(virtio_drivers::Error::ConfigSpaceTooSmall)?;
        if start + length > self.count.into() {
            return Err(virtio_drivers::Error::ConfigSpaceTooSmall);
        }
        for _ in 0..TRIES {
            let mut same = true;
            for (port, byte) in (start as u16..).zip(bytes.iter_mut()) {
                let read = self.ports.read8(port);
                same &= core::mem::replace(byte, read) == read;
            }
            if same {
                return T::try_from(bytes).map_err(|_| virtio_drivers::Error::ConfigSpaceTooSmall);
            }
        }
        Err(virtio_drivers::Error::NotReady)
    }

    /// Which interrupts there were, where they come by the line. Reading it lets go of that.
    pub(super) fn ack_interrupt(&self) -> InterruptStatus {
        // All ones are read where there is no device any more.
        let there = self.ports.read8(ISR);
        InterruptStatus::from_bits_truncate(if there == u8::MAX { 0 } else { there.into() })
    }

    /// Whether its interrupts come by the line.
    pub(super) fn has_line(&self) -> bool {
        self.vectors.is_none()
    }
}
