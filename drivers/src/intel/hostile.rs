//! A device that does what it likes, and its driver.

use super::*;
use crate::emulated::Random;
use crate::emulated::frames::{at, frame, receive, segment, send_cut};
use crate::emulated::hostile::clash;
use crate::emulated::intel::{DONE, END, Emulated};
use kernel_io::emulated::faults;
use network_nic::Device as _;

const MEMORY: usize = 64 << 10;
/// One with a line, and one with a message.
const KINDS: [u16; 2] = [0x100e, 0x10d3];
const WHOLE: u16 = DONE | END;

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let device = Emulated::new();
    device.change(|manner| manner.shallow = random.below(3) == 0);
    let kind = KINDS[random.below(2) as usize];
    let mut nic = device.driver(kind, MEMORY).expect("it behaves at first");
    let happen = |nic: &mut Intel, random: &mut Random, now| {
        does_something(&device, random);
        if receive(nic, now).is_some() {
            nic.flush();
        }
    };
    clash(&mut nic, (random, steps), happen, |nic, random, now| {
        send_cut(nic, &segment(100), random.below(80) as u16, now);
    });
    let resets = nic.counters().resets;
    // Given time and honesty it works again, with all its buffers.
    let now = at(1_000_000);
    nic.gone = true;
    assert!(nic.receive(now).is_none());
    assert_eq!((device.is_running(), device.buffers()), (true, 15));
    assert!(device.deliver(&frame(3, 60), WHOLE) && receive(&mut nic, now) == Some(frame(3, 60)));
    faults();
    resets
}

fn does_something(device: &Emulated, random: &mut Random) {
    if !device.is_running() {
        return;
    }
    match random.below(40) {
        0 => device.lie().write(random.below(2) as usize, random.any(), random.any()),
        1 => {
            let word = 3 << 32 | random.below(2100);
            device.lie().write(random.below(2) as usize, random.any(), word);
        }
        2 => device.happen(random.any() as u32 >> 1),
        3 => drop(device.take()),
        4..13 => {
            let bytes = random.bytes(2048);
            device.deliver(&bytes, random.any() as u16);
        }
        13..25 => drop(device.deliver(&frame(1, 60 + random.below(1400) as usize), WHOLE)),
        _ => drop(device.sent()),
    }
}
