//! The driver's access to an emulated device: the same calls as the transports of the virtio-drivers package.

use super::Emulated;
use crate::virtio::Bus;
use crate::virtio::feature::VERSION_1;
use core::ops::BitOr;
use kernel_io::Mmio;
use virtio_drivers::transport::{DeviceStatus, DeviceType};

/// A way to an emulated device.
pub(crate) struct Port(pub(super) Emulated);

impl Port {
    pub(super) fn bus(device: Emulated, doorbell: Mmio) -> Bus {
        Bus::Emulated { transport: Self(device), doorbell }
    }

    pub(crate) fn device_type(&self) -> DeviceType {
        self.0.0.borrow().kind()
    }

    pub(crate) fn read_device_features(&self) -> u64 {
        self.0.0.borrow().description.features
    }

    pub(crate) fn write_driver_features(&self, features: u64) {
        let mut model = self.0.0.borrow_mut();
        assert!(!model.status.contains(DeviceStatus::FEATURES_OK), "features after FEATURES_OK");
        assert_eq!(features & !model.description.features, 0, "features that were not offered");
        model.accepted = features;
    }

    pub(crate) fn set_guest_page_size(&self, bytes: u32) {
        assert_eq!(bytes, 4096);
    }

    pub(crate) fn requires_legacy_layout(&self) -> bool {
        self.0.0.borrow().description.legacy
    }

    pub(crate) fn max_queue_size(&self, queue: u16) -> u32 {
        self.0.0.borrow().description.queues.get(usize::from(queue)).copied().unwrap_or(0)
    }

    pub(crate) fn get_status(&self) -> DeviceStatus {
        self.0.0.borrow().status
    }

    pub(crate) fn set_status(&self, status: DeviceStatus) {
        let mut model = self.0.0.borrow_mut();
        let misbehaviour = model.misbehaviour;
        if status.is_empty() {
            if !misbehaviour.stuck {
                model.status = status;
                model.reset();
            }
            return;
        }
        assert!(
            status.contains(model.status.difference(DeviceStatus::DEVICE_NEEDS_RESET)),
            "bits taken back"
        );
        let needs_ok = model.accepted & VERSION_1 != 0 && status.contains(DeviceStatus::DRIVER_OK);
        assert!(
            !needs_ok || model.status.contains(DeviceStatus::FEATURES_OK),
            "DRIVER_OK before FEATURES_OK"
        );
        let taken_back = if misbehaviour.refuses { DeviceStatus::FEATURES_OK } else { DeviceStatus::empty() };
        model.status = status.difference(taken_back).bitor(model.status & DeviceStatus::DEVICE_NEEDS_RESET);
    }

    pub(crate) fn queue_set(&self, queue: u16, size: u32, descriptors: u64, available: u64, used: u64) {
        let mut model = self.0.0.borrow_mut();
        assert!(!model.status.contains(DeviceStatus::DRIVER_OK), "a queue after DRIVER_OK");
        let side = &mut model.queues[usize::from(queue)];
        side.attach(size, [descriptors, available, used]);
    }

    pub(crate) fn read_config_generation(&self) -> u32 {
        let mut model = self.0.0.borrow_mut();
        if model.misbehaviour.restless {
            model.generation += 1;
        }
        model.generation
    }

    pub(crate) fn read_config_space<T>(&self, offset: usize) -> Result<T, virtio_drivers::Error>
    where
        T: for<'a> TryFrom<&'a [u8]>,
    {
        let model = self.0.0.borrow();
        let bytes = model.description.configuration.get(offset..offset + size_of::<T>());
        bytes.and_then(|bytes| T::try_from(bytes).ok()).ok_or(virtio_drivers::Error::ConfigSpaceTooSmall)
    }
}
