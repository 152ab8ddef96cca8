//! The device's side of a split virtqueue.

use crate::virtio::feature::EVENT_IDX;
use crate::virtio::queue::passed;
use alloc::vec;
use alloc::vec::Vec;
use kernel_io::emulated::{read_memory, write_memory};

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A queue as the device sees it.
pub(super) struct Side {
    /// The largest size it may get.
    pub(super) most: u32,
    /// How often the driver has rung since it was asked.
    pub(super) kicks: u64,
    size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    /// The next entry of the available ring.
    next: u16,
    /// The index of the used ring, and up to where an interrupt has been considered.
    used: u16,
    considered: u16,
    /// The device has lied about this queue, so that the driver's view of it may differ with right.
    pub(super) lied: bool,
}

/// A chain of descriptors that the driver has made available.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The first descriptor.
    pub head: u16,
    /// Address, length and whether the device may write, of each part.
    pub parts: Vec<(u64, u32, bool)>,
    /// The driver may have taken it back meanwhile.
    stale: bool,
}

impl Chain {
    /// What the driver wants the device to have.
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, length, writable) in &self.parts {
            assert!(!writable, "the driver gave away a buffer for writing");
            let mut part = vec![0; *length as usize];
            let done = read_memory(*address, &mut part);
            assert!(self.stale || done.is_ok(), "a descriptor points to what was not lent");
            bytes.append(&mut part);
        }
        bytes
    }

    /// Write `bytes` into it, as many as fit; answers how many.
    pub fn write(&self, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        for (address, length, writable) in &self.parts {
            assert!(writable, "the driver gave away a buffer for reading");
            let (part, after) = rest.split_at(rest.len().min(*length as usize));
            let done = write_memory(*address, part);
            assert!(self.stale || done.is_ok(), "a descriptor points to what was not lent");
            rest = after;
        }
        (bytes.len() - rest.len()) as u32
    }

    /// Bytes in all parts.
    pub fn length(&self) -> usize {
        self.parts.iter().map(|(_, length, _)| *length as usize).sum()
    }
}

impl Side {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            kicks: 0,
            size: 0,
            descriptors: 0,
            driver: 0,
            device: 0,
            next: 0,
            used: 0,
            considered: 0,
            lied: false,
        }
    }

    pub(super) fn attach(&mut self, size: u32, [descriptors, driver, device]: [u64; 3]) {
        assert!(size.is_power_of_two() && size <= self.most, "a queue of {size}");
        assert!(descriptors.is_multiple_of(16) && driver.is_multiple_of(2) && device.is_multiple_of(4));
        (self.size, self.descriptors, self.driver, self.device) = (size as u16, descriptors, driver, device);
    }

    pub(super) fn available(&self) -> u16 {
        let waiting = half(self.driver + 2).wrapping_sub(self.next);
        let possible = waiting <= self.size;
        assert!(possible || self.lied, "the driver made {waiting} available in a queue of {}", self.size);
        if possible { waiting } else { 0 }
    }

    pub(super) fn take(&mut self) -> Option<Chain> {
        if self.available() == 0 {
            return None;
        }
        let head = half(self.driver + 4 + 2 * u64::from(self.next % self.size));
        self.next = self.next.wrapping_add(1);
        let (mut parts, mut descriptor) = (Vec::new(), head);
        loop {
            assert!(descriptor < self.size && parts.len() < usize::from(self.size), "a chain that is none");
            let at = self.descriptors + 16 * u64::from(descriptor);
            let (address, rest) = (word(at), word(at + 8));
            let (length, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            assert!(length > 0, "an empty descriptor");
            parts.push((address, length, flags & WRITE != 0));
            if flags & NEXT == 0 {
                return Some(Chain { head, parts, stale: self.lied });
            }
            descriptor = next;
        }
    }

    pub(super) fn put(&mut self, id: u32, written: u32, advance: u16) {
        let at = self.device + 4 + 8 * u64::from(self.used % self.size);
        write(at, &id.to_le_bytes());
        write(at + 4, &written.to_le_bytes());
        self.used = self.used.wrapping_add(advance);
        write(self.device + 2, &self.used.to_le_bytes());
    }

    pub(super) fn wants_interrupt(&mut self, features: u64) -> bool {
        let old = core::mem::replace(&mut self.considered, self.used);
        if features & EVENT_IDX == 0 {
            return half(self.driver) & 1 == 0;
        }
        passed(half(self.driver + 4 + 2 * u64::from(self.size)), self.used, old)
    }

    pub(super) fn want_kick(&mut self, features: u64) -> bool {
        if features & EVENT_IDX == 0 {
            write(self.device, &0_u16.to_le_bytes());
        } else {
            write(self.event(), &self.next.to_le_bytes());
        }
        self.available() != 0
    }

    pub(super) fn want_no_kick(&mut self, features: u64) {
        if features & EVENT_IDX == 0 {
            write(self.device, &1_u16.to_le_bytes());
        }
        // With an event index nothing is written: the driver has passed it and will not come by again soon.
    }

    fn event(&self) -> u64 {
        self.device + 4 + 8 * u64::from(self.size)
    }
}

fn half(address: u64) -> u16 {
    let mut bytes = [0; 2];
    read_memory(address, &mut bytes).expect("rings are shared");
    u16::from_le_bytes(bytes)
}

fn word(address: u64) -> u64 {
    let mut bytes = [0; 8];
    read_memory(address, &mut bytes).expect("rings are shared");
    u64::from_le_bytes(bytes)
}

fn write(address: u64, bytes: &[u8]) {
    write_memory(address, bytes).expect("rings are shared");
}
