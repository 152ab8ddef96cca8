//! A device that does what it likes, and its driver.

use super::*;
use crate::emulated::frames::{at, frame, receive, send};
use crate::emulated::hostile::clash;
use crate::emulated::{Emulated, Random};
use alloc::vec::Vec;
use kernel_io::emulated::faults;
use network_nic::Device as _;

/// Enough for long frames, and for short ones only.
const MEMORY: [usize; 2] = if cfg!(miri) { [64 << 10; 2] } else { [64 << 10, 4 << 20] };
const MODERN: u64 = feature::VERSION_1 | feature::EVENT_IDX | feature::NET_MAC | feature::NET_MTU;
const OFFLOADS: u64 =
    feature::NET_CSUM | feature::NET_GUEST_CSUM | feature::NET_HOST_TSO4 | feature::NET_GUEST_TSO4;

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let device = Emulated::nic(MODERN | random.any() & OFFLOADS);
    let mut nic = device.driver(MEMORY[random.below(2) as usize]).expect("it behaves at first");
    let places = device.available(0);
    let happen = |nic: &mut VirtioNet, random: &mut Random, now| {
        does_something(&device, random);
        drop(receive(nic, now));
    };
    clash(&mut nic, (random, steps), happen, |nic, _, now| {
        send(nic, &frame(2, 60), now);
    });
    let resets = nic.counters().resets;
    // Given time and honesty it works again, with all its buffers.
    device.need_reset();
    nic.arm();
    let now = at(100_000);
    assert!(nic.receive(now).is_none());
    assert_eq!((device.is_running(), device.available(0)), (true, places));
    assert!(device.deliver(&bare(&frame(3, 60))) && receive(&mut nic, now) == Some(frame(3, 60)));
    faults();
    resets
}

/// A frame behind a header that says nothing.
fn bare(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], frame].concat()
}

/// Mostly it is honest.
fn does_something(device: &Emulated, random: &mut Random) {
    if !device.is_running() {
        return;
    }
    match random.below(40) {
        0 => device.need_reset(),
        1 => device.lie(
            random.below(2) as usize,
            random.any() as u32,
            random.any() as u32,
            random.any() as u16,
        ),
        // A well-formed entry for something that it may or may not have.
        2 => device.lie(random.below(2) as usize, random.below(32) as u32, random.below(2000) as u32, 1),
        3..8 => drop(device.deliver(&random.bytes(1600))),
        8..20 => drop(device.deliver(&bare(&frame(1, 60 + random.below(1400) as usize)))),
        20..30 => drop(device.sent()),
        30..32 => device.work(1),
        _ => drop(device.sleep(random.below(2) as usize)),
    }
}
