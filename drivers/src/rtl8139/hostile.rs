//! A device that does what it likes, and its driver.

use super::*;
use crate::emulated::Random;
use crate::emulated::frames::{at, frame, receive, send};
use crate::emulated::hostile::clash;
use crate::emulated::rtl8139::{Emulated, OWNED, WHOLE};
use kernel_io::emulated::faults;
use network_nic::Device as _;

const MEMORY: usize = 64 << 10;

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("it behaves at first");
    let happen = |nic: &mut Rtl8139, random: &mut Random, now| {
        does_something(&device, random);
        drop(receive(nic, now));
    };
    clash(&mut nic, (random, steps), happen, |nic, _, now| {
        send(nic, &frame(2, 60), now);
    });
    let resets = nic.counters().resets;
    // Given time and honesty it works again, with all its buffers.
    let now = at(1_000_000);
    drop(receive(&mut nic, now));
    nic.failed = true;
    assert!(nic.receive(now).is_none());
    assert_eq!((device.is_running(), device.buffers()), (true, 21));
    assert!(device.deliver(&frame(3, 60), WHOLE) && receive(&mut nic, now) == Some(frame(3, 60)));
    faults();
    resets
}

fn does_something(device: &Emulated, random: &mut Random) {
    if !device.is_running() {
        return;
    }
    match random.below(40) {
        0 => device.lie().write(random.below(2) as usize, random.below(21), random.any() as u32),
        1 => {
            let word = WHOLE | random.below(2000) as u32;
            device.lie().write(random.below(2) as usize, random.below(21), word);
        }
        2 => device.lie().write(random.below(2) as usize, random.below(64), OWNED | random.any() as u32),
        3 => device.happen(random.any() as u16),
        4 => drop(device.take(random.below(2) as usize)),
        5..13 => {
            let bytes = random.bytes(1500);
            device.deliver(&bytes, random.any() as u32 & 0x3fff_0000);
        }
        13..25 => drop(device.deliver(&frame(1, 60 + random.below(1400) as usize), WHOLE)),
        _ => drop(device.sent()),
    }
}
