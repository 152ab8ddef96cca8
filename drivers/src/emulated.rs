//! The device's side of virtio, inside a host test. It does what the test says, lies included.
//!
//! It is strict with the driver: a descriptor, an index or an access that the standard forbids ends the test with a
//! panic here or with a fault of [`kernel_io::emulated`].

/// Says that a part is for the drivers' tests, of which hostile devices use some only.
macro_rules! for_tests {
    ($($part:ident,)*) => {
        $(#[cfg_attr(not(test), allow(dead_code, reason = "the tests of the driver use the rest"))]
        pub(crate) mod $part;)*
    };
}

for_tests! { frames, intel, legacy, rtl8139, vmxnet3, xen, }
pub mod hostile;
pub mod hyperv;
mod port;
mod queue;
mod random;

pub(crate) use port::Port;
pub use queue::Chain;
pub use random::Random;

use crate::Error;
use crate::Location;
use crate::virtio::Device;
use crate::virtio::net::VirtioNet;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use kernel_io::emulated::{Registers, attach_registers, raise};
use kernel_io::{Irq, Message, Mmio};
use queue::Side;
use virtio_drivers::transport::{DeviceStatus, DeviceType};

/// Where doorbells lie: far above 4 GiB, as 64-bit BARs do.
const FIRST_DOORBELL: u64 = 0x40_0000_0000;

std::thread_local! {
    static DOORBELLS: Cell<u64> = const { Cell::new(FIRST_DOORBELL) };
}

/// How a device is to be at start.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its kind, by virtio's number: 1 is a NIC, 4 a source of entropy.
    pub kind: u8,
    /// The features it offers.
    pub features: u64,
    /// Its configuration space.
    pub configuration: Vec<u8>,
    /// The largest size of each queue.
    pub queues: Vec<u32>,
    /// Whether it behaves as a legacy virtio-mmio device.
    pub legacy: bool,
}

/// What a device may do wrong outside of its rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misbehaviour {
    /// It never comes out of reset.
    pub stuck: bool,
    /// It takes FEATURES_OK back.
    pub refuses: bool,
    /// Its configuration changes with every read.
    pub restless: bool,
}

/// An emulated virtio device. Clones are the same device.
#[derive(Clone)]
pub struct Emulated(Rc<RefCell<Model>>);

struct Model {
    description: Description,
    misbehaviour: Misbehaviour,
    status: DeviceStatus,
    accepted: u64,
    generation: u32,
    resets: u32,
    queues: Vec<Side>,
    messages: [Message; 2],
    /// Which interrupts there were, for who asks a register.
    isr: u8,
    doorbell: u64,
}

struct DoorbellRegister(Emulated);

impl Registers for DoorbellRegister {
    fn read(&self, _: u64, _: usize) -> u64 {
        panic!("doorbells are not read");
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        assert_eq!((offset, width), (0, 2));
        let mut model = self.0.0.borrow_mut();
        assert!(model.status.contains(DeviceStatus::DRIVER_OK), "a doorbell before DRIVER_OK");
        model.queues[value as usize].kicks += 1;
    }
}

impl Emulated {
    /// Make a device and let it answer in this thread's machine.
    pub fn new(description: Description) -> Self {
        let doorbell = DOORBELLS.replace(DOORBELLS.get() + 0x1000);
        let queues = description.queues.iter().map(|&most| Side::new(most)).collect();
        let device = Self(Rc::new(RefCell::new(Model {
            description,
            misbehaviour: Misbehaviour::default(),
            status: DeviceStatus::empty(),
            accepted: 0,
            generation: 0,
            resets: 0,
            queues,
            messages: [Message::default(); 2],
            isr: 0,
            doorbell,
        })));
        attach_registers(doorbell, 2, Rc::new(DoorbellRegister(device.clone())));
        device
    }

    /// A NIC with these features; its address is 52:54:00:00:00:01 and its MTU 1500.
    pub fn nic(features: u64) -> Self {
        let mut configuration = vec![0x52, 0x54, 0, 0, 0, 1, 1, 0, 0, 0];
        configuration.extend(1500_u16.to_le_bytes());
        let queues = vec![256, 256];
        Self::new(Description { kind: 1, features, configuration, queues, legacy: false })
    }

    /// The driver's network device on top of this one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn driver(&self, memory: usize) -> Result<VirtioNet, Error> {
        VirtioNet::new(self.device()?, memory)
    }

    /// The driver's end, not yet reset.
    pub(crate) fn device(&self) -> Result<Device, Error> {
        let (queues, configuration) = (Irq::allocate()?, Irq::allocate()?);
        let mut model = self.0.borrow_mut();
        model.messages = [queues.message(), configuration.message()];
        let doorbell = Mmio::map(model.doorbell, 2)?;
        let location = Location::Mmio(model.doorbell);
        let bus = Port::bus(self.clone(), doorbell);
        Ok(Device::new(bus, location, queues, Some(configuration)))
    }

    /// How many hold it.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Rc::strong_count(&self.0)
    }

    /// Change what it is.
    pub fn describe(&self, change: impl FnOnce(&mut Description)) {
        change(&mut self.0.borrow_mut().description);
    }

    /// Let its queues be as long as it is described now.
    pub(crate) fn grow(&self) {
        let mut model = self.0.borrow_mut();
        model.queues = model.description.queues.iter().map(|&most| Side::new(most)).collect();
    }

    /// Change how it behaves.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        self.0.borrow_mut().misbehaviour = misbehaviour;
    }

    /// The features that the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.0.borrow().accepted
    }

    /// How often it was reset.
    pub fn resets(&self) -> u32 {
        self.0.borrow().resets
    }

    /// Whether it may use its queues.
    pub fn is_running(&self) -> bool {
        self.0.borrow().status.contains(DeviceStatus::DRIVER_OK)
    }

    /// Say that it cannot go on (DEVICE_NEEDS_RESET), and raise the interrupt for that.
    pub fn need_reset(&self) {
        let mut model = self.0.borrow_mut();
        model.status |= DeviceStatus::DEVICE_NEEDS_RESET;
        model.isr |= 2;
        raise(model.messages[1]);
    }

    /// The next chain of descriptors in a queue's available ring; `None` when there is none.
    pub fn take(&self, queue: usize) -> Option<Chain> {
        self.running(queue, |side, _| side.take())
    }

    /// How many chains wait in the available ring.
    pub fn available(&self, queue: usize) -> usize {
        self.running(queue, |side, _| side.available().into())
    }

    /// Return a chain, having written `written` bytes, and interrupt the driver if it wants that.
    pub fn put(&self, queue: usize, chain: &Chain, written: u32) {
        self.enter(queue, u32::from(chain.head), written, 1);
    }

    /// Write an entry into the used ring that is not true, and move the index by `advance`.
    pub fn lie(&self, queue: usize, id: u32, written: u32, advance: u16) {
        self.running(queue, |side, _| side.lied = true);
        self.enter(queue, id, written, advance);
    }

    fn enter(&self, queue: usize, id: u32, written: u32, advance: u16) {
        let message = self.0.borrow().messages[0];
        let wanted = self.running(queue, |side, features| {
            side.put(id, written, advance);
            side.wants_interrupt(features)
        });
        if wanted {
            self.0.borrow_mut().isr |= 1;
            raise(message);
        }
    }

    /// Ask to be told when something is available, as a device does before it sleeps. Answers whether something is.
    pub fn sleep(&self, queue: usize) -> bool {
        self.running(queue, |side, features| side.want_kick(features))
    }

    /// Ask not to be told, as a device does while it works.
    pub fn work(&self, queue: usize) {
        self.running(queue, |side, features| side.want_no_kick(features));
    }

    /// How often the driver has told the queue since the last call.
    pub fn kicks(&self, queue: usize) -> u64 {
        core::mem::take(&mut self.0.borrow_mut().queues[queue].kicks)
    }

    /// Put a frame, header and all, into the next receive buffer. Answers `false` when there is none.
    pub fn deliver(&self, bytes: &[u8]) -> bool {
        let Some(chain) = self.take(0) else { return false };
        let written = chain.write(bytes);
        self.put(0, &chain, written);
        true
    }

    /// The next frame that the driver sent, header and all; its buffer is returned.
    pub fn sent(&self) -> Option<Vec<u8>> {
        let chain = self.take(1)?;
        let bytes = chain.read();
        self.put(1, &chain, 0);
        Some(bytes)
    }

    fn running<R>(&self, queue: usize, f: impl FnOnce(&mut Side, u64) -> R) -> R {
        let mut model = self.0.borrow_mut();
        assert!(model.status.contains(DeviceStatus::DRIVER_OK), "the queue is used before DRIVER_OK");
        let features = model.accepted;
        f(&mut model.queues[queue], features)
    }
}

impl Model {
    fn reset(&mut self) {
        self.resets += 1;
        self.accepted = 0;
        for side in &mut self.queues {
            *side = Side::new(side.most);
        }
    }

    fn kind(&self) -> DeviceType {
        DeviceType::try_from(self.description.kind).unwrap_or(DeviceType::Network)
    }
}
