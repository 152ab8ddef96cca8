//! A NIC whose registers say what they like, and its driver.

use super::*;
use crate::emulated::frames::{at, frame, receive, send};
use crate::emulated::legacy::{Front, Manner};
use crate::emulated::{Emulated, Random};
use crate::virtio::feature;
use crate::virtio::net::VirtioNet;
use alloc::vec;
use kernel_io::emulated::faults;
use network_nic::Nic as _;

const MEMORY: usize = 64 << 10;
const HEADER: usize = 10;
/// Registers, and a NIC's configuration.
const COUNT: u16 = 36;

/// A NIC as bhyve has it, with queues of a thousand.
pub(super) fn nic(has_vectors: bool) -> (Emulated, Rc<Front>) {
    let device = Emulated::nic(feature::NET_MAC | feature::NET_STATUS);
    device.describe(|description| description.queues = vec![1024, 1024]);
    device.grow();
    let front = Front::new(&device, COUNT, has_vectors);
    (device, front)
}

pub(super) fn driver(front: &Front) -> Result<VirtioNet, Error> {
    VirtioNet::new(front.device(DeviceType::Network)?, MEMORY)
}

/// See [`crate::emulated::hostile`]. One whose registers say anything can be of no use, and is no more than borne.
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let (device, front) = nic(random.below(2) == 0);
    let raves = Manner { no_vectors: false, raving: Some(random.any()) };
    if random.below(3) == 0 {
        front.change(raves);
    }
    let Ok(mut nic) = driver(&front) else { return 0 };
    front.change(raves);
    for step in 0..steps {
        if random.is_over() {
            break;
        }
        let now = at(step * 7);
        if device.is_running() {
            match random.below(20) {
                0 => device.lie(random.below(2) as usize, random.any() as u32, 60, 1),
                1 => device.need_reset(),
                2..10 => drop(device.deliver(&[&[0; HEADER][..], &frame(1, 60)].concat())),
                _ => drop(device.sent()),
            }
        }
        drop(receive(&mut nic, now));
        send(&mut nic, &frame(2, 60), now);
        nic.flush();
        nic.arm();
    }
    faults();
    nic.counters().resets
}
