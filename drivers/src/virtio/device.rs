//! A virtio device that has been found: reaching it, agreeing on features, attaching queues.

use super::feature;
use super::legacy::Legacy;
use super::queue::{Doorbell, Queue};
use crate::{Error, Location};
use core::mem::ManuallyDrop;
use kernel_io::{Irq, Mmio};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

/// How long a device may take to come out of reset, in microseconds.
const RESET_TIME: u32 = 1_000_000;
/// How often the configuration is read before a device that keeps changing it is given up.
const CONFIGURATION_TRIES: u32 = 16;
/// The largest split virtqueue (virtio 1.2 section 2.7).
const LARGEST_QUEUE: u32 = 32768;

/// The ways to a device. The package's are never dropped: it waits for a device's reset without end, and we do it with one.
pub(crate) enum Bus {
    /// PCI with virtio's capabilities: a modern or a transitional device.
    Pci { transport: ManuallyDrop<PciTransport>, registers: PciRegisters },
    /// virtio-mmio, legacy or version 2.
    Mmio { transport: ManuallyDrop<MmioTransport<'static>>, registers: Mmio },
    /// PCI without virtio's capabilities.
    Legacy(Legacy),
    /// A device inside a host test.
    #[cfg(not(target_os = "none"))]
    Emulated { transport: crate::emulated::Port, doorbell: Mmio },
}

/// What the package's PCI transport keeps to itself.
pub(crate) struct PciRegisters {
    /// The common configuration structure (virtio 1.2 section 4.1.4.3).
    pub(crate) common: Mmio,
    /// All doorbells, and how far apart they are per notify offset (section 4.1.4.4).
    pub(crate) doorbells: Mmio,
    pub(crate) multiplier: u32,
    /// The configuration (section 4.1.4.6), where it has one.
    pub(crate) device: Option<Mmio>,
    /// The vectors for changes of the configuration and for queues; `None` where its interrupts come by the line.
    pub(crate) vectors: Option<(u16, u16)>,
}

/// Offsets in the common configuration structure.
const MSIX_CONFIG: usize = 0x10;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_MSIX_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
const QUEUE_DESC: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;
/// QueueNotify of virtio-mmio (section 4.2.2).
const MMIO_QUEUE_NOTIFY: usize = 0x50;
/// Where its configuration begins.
const MMIO_CONFIG: usize = 0x100;

/// A virtio device.
pub struct Device {
    bus: Bus,
    location: Location,
    queue_irq: Irq,
    /// For changes of the configuration, where they have an interrupt of their own.
    configuration_irq: Option<Irq>,
}

/// Which interrupts there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    /// Some queue has something.
    pub(crate) queues: bool,
    /// The configuration or the device's state may have changed.
    pub(crate) configuration: bool,
}

macro_rules! on {
    ($device:expr, $transport:ident => $call:expr) => {
        match &mut $device.bus {
            Bus::Pci { transport: $transport, .. } => $call,
            Bus::Mmio { transport: $transport, .. } => $call,
            Bus::Legacy($transport) => $call,
            #[cfg(not(target_os = "none"))]
            Bus::Emulated { transport: $transport, .. } => $call,
        }
    };
}

impl Device {
    pub(crate) fn new(bus: Bus, location: Location, queue_irq: Irq, configuration_irq: Option<Irq>) -> Self {
        Self { bus, location, queue_irq, configuration_irq }
    }

    /// What it is.
    pub(crate) fn kind(&mut self) -> DeviceType {
        on!(self, transport => transport.device_type())
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.location
    }

    /// Let it forget everything. Afterwards it touches no memory.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.set_status(DeviceStatus::empty());
        let done = kernel_io::wait(RESET_TIME, || self.status() == DeviceStatus::empty());
        if done { Ok(()) } else { Err(Error::Reset) }
    }

    /// Reset it and agree on features (virtio 1.2 section 3.1.1, steps 1 to 6). Answers those of `wanted` that it has.
    pub(crate) fn negotiate(&mut self, wanted: u64) -> Result<u64, Error> {
        self.reset()?;
        let mut status = DeviceStatus::ACKNOWLEDGE;
        self.set_status(status);
        status |= DeviceStatus::DRIVER;
        self.set_status(status);
        let offered = on!(self, transport => transport.read_device_features());
        let features = offered & (wanted | feature::VERSION_1 | feature::ACCESS_PLATFORM);
        on!(self, transport => transport.write_driver_features(features));
        on!(self, transport => transport.set_guest_page_size(kernel_io::PAGE as u32));
        if features & feature::VERSION_1 != 0 {
            status |= DeviceStatus::FEATURES_OK;
            self.set_status(status);
            if !self.status().contains(DeviceStatus::FEATURES_OK) {
                return Err(Error::Features);
            }
        } else if !on!(self, transport => transport.requires_legacy_layout()) {
            return Err(Error::Features);
        }
        Ok(features)
    }

    /// Say that everything is set up (step 8).
    pub(crate) fn start(&mut self) {
        let status = self.status() | DeviceStatus::DRIVER_OK;
        self.set_status(status);
    }

    /// Say that we have given up on it.
    pub(crate) fn fail(&mut self) {
        let status = self.status() | DeviceStatus::FAILED;
        self.set_status(status);
    }

    /// The largest power of two that queue `index` may have as size, up to `limit`.
    pub(crate) fn queue_size(&mut self, index: u16, limit: u16) -> Result<u16, Error> {
        let most = on!(self, transport => transport.max_queue_size(index));
        let most = most.min(LARGEST_QUEUE).min(limit.into()) as u16;
        if most < 2 { Err(Error::NoQueue(index)) } else { Ok(1 << most.ilog2()) }
    }

    /// How many descriptors the rings of queue `index` have of which `wanted`, a power of two, are used: so many, but where
    /// that is not ours to choose.
    pub(crate) fn ring_size(&self, index: u16, wanted: u16) -> Result<u16, Error> {
        match &self.bus {
            Bus::Legacy(legacy) => legacy
                .queue_size(index)
                .and_then(|size| if size < wanted { Err(Error::NoQueue(index)) } else { Ok(size) }),
            _ => Ok(wanted),
        }
    }

    /// Tell it where `queue` lies and which interrupt to raise for it.
    pub(crate) fn attach(&mut self, index: u16, queue: &mut Queue) -> Result<(), Error> {
        let doorbell = self.attach_rings(index, queue.size(), queue.addresses())?;
        queue.set_doorbell(doorbell);
        Ok(())
    }

    /// Tell it where descriptor table, available ring and used ring of a queue lie. Answers where it is told that there is
    /// something.
    pub(crate) fn attach_rings(
        &mut self,
        index: u16,
        size: u16,
        addresses: [u64; 3],
    ) -> Result<Doorbell, Error> {
        if self.queue_size(index, size)? < size || self.ring_size(index, size)? != size {
            return Err(Error::NoQueue(index));
        }
        // A legacy device takes a page number of 32 bits.
        let legacy = on!(self, transport => transport.requires_legacy_layout());
        if legacy && addresses[0] >> 44 != 0 {
            return Err(Error::Io(kernel_io::Error::OutOfMemory));
        }
        let doorbell = self.doorbell(index)?;
        match &self.bus {
            Bus::Pci { registers, .. } => {
                registers.set_vectors(index)?;
                registers.set_rings(index, size, addresses);
                return Ok(doorbell);
            }
            Bus::Legacy(legacy) => legacy.set_vectors(index)?,
            _ => {}
        }
        let [descriptors, available, used] = addresses;
        on!(self, transport => transport.queue_set(index, size.into(), descriptors, available, used));
        Ok(doorbell)
    }

    fn doorbell(&self, index: u16) -> Result<Doorbell, Error> {
        match &self.bus {
            Bus::Pci { registers, .. } => registers.doorbell(index),
            Bus::Mmio { registers, .. } => Ok(Doorbell::Word(registers.part(MMIO_QUEUE_NOTIFY, 4)?, index)),
            Bus::Legacy(legacy) => Ok(legacy.doorbell(index)),
            #[cfg(not(target_os = "none"))]
            Bus::Emulated { doorbell, .. } => Ok(Doorbell::Half(doorbell.clone(), index)),
        }
    }

    /// Bytes of its configuration, all of the same moment.
    pub(crate) fn configuration<const N: usize>(&mut self, offset: usize) -> Result<[u8; N], Error> {
        for _ in 0..CONFIGURATION_TRIES {
            let before = on!(self, transport => transport.read_config_generation());
            let bytes = on!(self, transport => transport.read_config_space::<[u8; N]>(offset))
                .map_err(|_| Error::Layout("its configuration is too short"))?;
            if before == on!(self, transport => transport.read_config_generation()) {
                return Ok(bytes);
            }
        }
        Err(Error::Layout("its configuration never holds still"))
    }

    /// A word of its configuration as a register of its own, where it is one that is mapped.
    pub(crate) fn register(&self, offset: usize) -> Option<Mmio> {
        match &self.bus {
            Bus::Pci { registers, .. } => registers.device.as_ref()?.part(offset, 4).ok(),
            Bus::Mmio { registers, .. } => registers.part(MMIO_CONFIG + offset, 4).ok(),
            _ => None,
        }
    }

    /// Acknowledge its interrupts. Answers which there were since the last call.
    pub(crate) fn acknowledge(&mut self) -> Raised {
        let queues = self.queue_irq.take();
        let configuration = match &mut self.bus {
            // Its line stays up until it is told, and only a rising line is an interrupt.
            Bus::Mmio { transport, .. } => {
                queues && transport.ack_interrupt().contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
            }
            Bus::Legacy(legacy) if legacy.has_line() => {
                return by_line(&self.queue_irq, queues, legacy.ack_interrupt());
            }
            Bus::Pci { transport, registers } if registers.vectors.is_none() => {
                // All ones are read where there is no device any more.
                let status = transport.ack_interrupt();
                let gone = status.bits() >= u8::MAX.into();
                let status = if gone { InterruptStatus::empty() } else { status };
                return by_line(&self.queue_irq, queues, status);
            }
            _ => self.configuration_irq.as_ref().is_some_and(Irq::take),
        };
        Raised { queues, configuration }
    }

    /// Whether it has given up on itself.
    pub(crate) fn needs_reset(&mut self) -> bool {
        self.status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }

    fn status(&mut self) -> DeviceStatus {
        on!(self, transport => transport.get_status())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        on!(self, transport => transport.set_status(status));
    }
}

/// What has happened where the line may be others' as well, so that it may have been taken by one of them. It stays up until the
/// device's status is read.
fn by_line(line: &Irq, taken: bool, status: InterruptStatus) -> Raised {
    if !status.is_empty() {
        line.claim();
    }
    let configuration = status.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT);
    Raised { queues: taken || !status.is_empty(), configuration }
}

impl Drop for Device {
    /// A device nobody drives does nothing. Who has given it memory has waited for the reset before this.
    fn drop(&mut self) {
        self.set_status(DeviceStatus::empty());
    }
}

impl PciRegisters {
    /// The vectors are forgotten at each reset.
    fn set_vectors(&self, queue: u16) -> Result<(), Error> {
        let Some((configuration, queues)) = self.vectors else { return Ok(()) };
        self.common.write16(MSIX_CONFIG, configuration);
        self.common.write16(QUEUE_SELECT, queue);
        self.common.write16(QUEUE_MSIX_VECTOR, queues);
        // A device that has no room for it says so (section 4.1.5.1.2).
        if self.common.read16(QUEUE_MSIX_VECTOR) == queues { Ok(()) } else { Err(Error::NoInterrupt) }
    }

    /// Say where the rings lie, and that the queue is to be used. Addresses are written by halves, which every device takes
    /// (section 4.1.3.1); of whole ones, which the package writes, Firecracker takes none.
    fn set_rings(&self, queue: u16, size: u16, addresses: [u64; 3]) {
        self.common.write16(QUEUE_SELECT, queue);
        self.common.write16(QUEUE_SIZE, size);
        for (register, address) in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE].into_iter().zip(addresses) {
            self.common.write32(register, address as u32);
            self.common.write32(register + 4, (address >> 32) as u32);
        }
        self.common.write16(QUEUE_ENABLE, 1);
    }

    fn doorbell(&self, queue: u16) -> Result<Doorbell, Error> {
        self.common.write16(QUEUE_SELECT, queue);
        let offset = usize::from(self.common.read16(QUEUE_NOTIFY_OFF));
        let at = offset.checked_mul(self.multiplier as usize).filter(|at| at.is_multiple_of(2));
        let at = at.ok_or(Error::Layout("a doorbell at no address"))?;
        let register = self.doorbells.part(at, 2).map_err(|_| Error::Layout("a doorbell out of range"))?;
        Ok(Doorbell::Half(register, queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use kernel_io::emulated::{Registers, attach_registers};

    /// Keeps what is written: where, how wide, what.
    #[derive(Default)]
    struct Written(RefCell<Vec<(u64, usize, u64)>>);

    impl Registers for Written {
        fn read(&self, _at: u64, _width: usize) -> u64 {
            0
        }

        fn write(&self, at: u64, width: usize, value: u64) {
            self.0.borrow_mut().push((at, width, value));
        }
    }

    #[test]
    fn where_rings_lie_is_said_by_halves_and_before_the_queue_is_used() {
        let device = Rc::new(Written::default());
        attach_registers(0x1000, 0x1000, device.clone());
        let map = || Mmio::map(0x1000, 0x40).unwrap();
        let (common, doorbells) = (map(), map());
        let registers =
            PciRegisters { common, doorbells, device: None, multiplier: 0, vectors: Some((1, 0)) };
        registers.set_rings(2, 256, [0x1_2345_6000, 0x2_0000_1000, 0x7fff_0000]);
        let expected = [
            (0x16, 2, 2),
            (0x18, 2, 256),
            (0x20, 4, 0x2345_6000),
            (0x24, 4, 1),
            (0x28, 4, 0x1000),
            (0x2c, 4, 2),
            (0x30, 4, 0x7fff_0000),
            (0x34, 4, 0),
            (0x1c, 2, 1),
        ];
        assert_eq!(*device.0.borrow(), expected);
    }

    #[test]
    fn who_is_dropped_holds_nothing_of_the_way_to_the_device() {
        let emulated = crate::emulated::Emulated::nic(feature::VERSION_1);
        let holders = emulated.holders();
        let device = emulated.device().expect("vectors");
        assert!(emulated.holders() > holders);
        drop(device);
        assert_eq!(emulated.holders(), holders);
    }
}
