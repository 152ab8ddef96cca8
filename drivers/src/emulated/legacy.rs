//! The ports of a virtio device that knows nothing of virtio 1.0, in front of an emulated device.

use super::{Emulated, Port, Random};
use crate::virtio::{Bus, Device, Legacy};
use crate::{Error, Location};
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use kernel_io::emulated::{Registers, attach_ports};
use kernel_io::{Irq, Ports};
use virtio_drivers::transport::{DeviceStatus, DeviceType};

std::thread_local! {
    static NEXT: Cell<u16> = const { Cell::new(0xc000) };
}

/// What else its ports do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// It has no room for vectors.
    pub(crate) no_vectors: bool,
    /// What it reads as, now and then, is anything.
    pub(crate) raving: Option<u64>,
}

/// Its ports.
pub(crate) struct Front {
    device: Emulated,
    port: Port,
    first: u16,
    count: u16,
    has_vectors: bool,
    selected: Cell<u16>,
    vectors: RefCell<[u16; 2]>,
    manner: Cell<Manner>,
    random: RefCell<Random>,
}

impl Front {
    /// Attach `count` ports. With MSI-X or by the line.
    pub(crate) fn new(device: &Emulated, count: u16, has_vectors: bool) -> Rc<Self> {
        device.describe(|description| description.legacy = true);
        let first = NEXT.replace(NEXT.get() + 0x40);
        let front = Rc::new(Self {
            device: device.clone(),
            port: Port(device.clone()),
            first,
            count,
            has_vectors,
            selected: Cell::new(0),
            vectors: RefCell::new([0xffff; 2]),
            manner: Cell::default(),
            random: RefCell::new(Random::new(0)),
        });
        attach_ports(first, count, front.clone());
        front
    }

    pub(crate) fn first(&self) -> u16 {
        self.first
    }

    pub(crate) fn change(&self, manner: Manner) {
        *self.random.borrow_mut() = Random::new(manner.raving.unwrap_or(0));
        self.manner.set(manner);
    }

    /// The driver's end, not yet reset.
    pub(crate) fn device(&self, kind: DeviceType) -> Result<Device, Error> {
        let (queues, configuration) = (Irq::allocate()?, Irq::allocate()?);
        let first = queues.message();
        let other = if self.has_vectors { configuration.message() } else { first };
        self.device.0.borrow_mut().messages = [first, other];
        let ports = (Ports::claim(self.first, self.count)?, self.count);
        let vectors = self.has_vectors.then_some((1, 0));
        let bus = Bus::Legacy(Legacy::new(ports, kind, vectors));
        let location = Location::Mmio(self.first.into());
        Ok(Device::new(bus, location, queues, self.has_vectors.then_some(configuration)))
    }

    fn answer(&self, offset: u64, width: usize) -> u64 {
        let configuration = if self.has_vectors { 24 } else { 20 };
        match (offset, width) {
            (0, 4) => self.port.read_device_features() as u32 as u64,
            (12, 2) => self.port.max_queue_size(self.selected.get()).into(),
            (18, 1) => self.port.get_status().bits() as u8 as u64,
            (19, 1) => core::mem::take(&mut self.device.0.borrow_mut().isr).into(),
            (22, 2) if self.has_vectors && !self.manner.get().no_vectors => self.vectors.borrow()[1].into(),
            (22, 2) if self.has_vectors => 0xffff,
            (_, 1) if offset >= configuration => {
                let restless = self.port.read_config_generation() & 1;
                let byte = self.port.read_config_space::<[u8; 1]>((offset - configuration) as usize);
                u64::from(byte.map_or(0xff, |[byte]| byte)) ^ u64::from(restless)
            }
            _ => panic!("the driver reads {width} at {offset}"),
        }
    }
}

impl Registers for Front {
    fn read(&self, offset: u64, width: usize) -> u64 {
        let honest = self.answer(offset, width);
        let mut random = self.random.borrow_mut();
        if self.manner.get().raving.is_some() && random.below(8) == 0 {
            return random.any() >> (64 - 8 * width);
        }
        honest
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        match (offset, width) {
            (4, 4) if self.manner.get().raving.is_some() => {
                let offered = self.port.read_device_features();
                self.port.write_driver_features(value & offered);
            }
            (4, 4) => self.port.write_driver_features(value),
            (8, 4) => {
                let size = self.port.max_queue_size(self.selected.get());
                let (start, entries) = (value << 12, u64::from(size));
                let available = start + 16 * entries;
                let used = (available + 6 + 2 * entries).next_multiple_of(4096);
                self.port.queue_set(self.selected.get(), size, start, available, used);
            }
            (14, 2) => self.selected.set(value as u16),
            (16, 2) => {
                let mut model = self.device.0.borrow_mut();
                let raves = self.manner.get().raving.is_some();
                assert!(
                    raves || model.status.contains(DeviceStatus::DRIVER_OK),
                    "a doorbell before DRIVER_OK"
                );
                model.queues[value as usize].kicks += 1;
            }
            (18, 1) if self.manner.get().raving.is_some() && value != 0 => {
                // Who has failed is not running, whatever else is said.
                let status = DeviceStatus::from_bits_truncate(value as u32);
                let failed = status.contains(DeviceStatus::FAILED);
                self.device.0.borrow_mut().status = if failed { DeviceStatus::FAILED } else { status };
            }
            (18, 1) => self.port.set_status(DeviceStatus::from_bits_truncate(value as u32)),
            (20 | 22, 2) if self.has_vectors => {
                self.vectors.borrow_mut()[usize::from(offset == 22)] = value as u16;
            }
            _ => panic!("the driver writes {width} at {offset}"),
        }
    }
}
