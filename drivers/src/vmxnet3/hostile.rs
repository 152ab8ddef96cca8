//! A device that does what it likes, and its driver.

use super::*;
use crate::emulated::Random;
use crate::emulated::frames::{at, frame, receive, segment, send_cut};
use crate::emulated::hostile::clash;
use crate::emulated::vmxnet3::{Emulated, WHOLE};
use kernel_io::emulated::faults;
use network_nic::Device as _;

/// Enough for long frames, and for short ones only.
const MEMORY: [usize; 2] = if cfg!(miri) { [64 << 10; 2] } else { [64 << 10, 4 << 20] };
const NOT_CHECKED: u32 = 1 << 30;

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let device = Emulated::new();
    device.change(|manner| manner.masked_by_driver = random.below(3) == 0);
    let memory = MEMORY[random.below(2) as usize];
    let mut nic = device.driver(memory, random.below(3) as usize).expect("it behaves at first");
    let places = device.buffers();
    let happen = |nic: &mut Vmxnet3, random: &mut Random, now| {
        does_something(&device, random);
        drop(receive(nic, now));
    };
    clash(&mut nic, (random, steps), happen, |nic, random, now| {
        send_cut(nic, &segment(random.below(1400) as usize), 500, now);
    });
    let resets = nic.counters().resets;
    // Given time and honesty it works again, with all its buffers.
    let now = at(1_000_000);
    drop(receive(&mut nic, now));
    device.stop_queue();
    nic.acknowledge();
    nic.look_at_events();
    assert!(nic.receive(now).is_none());
    assert_eq!((device.is_running(), device.buffers()), (true, places));
    let honest = frame(3, 60);
    assert!(device.deliver(&honest, WHOLE | NOT_CHECKED, 0) && receive(&mut nic, now) == Some(honest));
    faults();
    resets
}

fn does_something(device: &Emulated, random: &mut Random) {
    if !device.is_running() {
        return;
    }
    let word = |random: &mut Random| random.any() as u32;
    match random.below(40) {
        0 => device.lie().complete_receive([word(random), word(random), word(random), word(random)]),
        1 => device.lie().complete_send(word(random)),
        2 => {
            device.lie().complete_receive([random.below(32) as u32 | WHOLE, 0, random.below(2000) as u32, 0]);
        }
        3 => device.lie().complete_send(random.below(32) as u32),
        4 => device.happen(word(random)),
        5 => device.stop_queue(),
        6 => drop(device.take()),
        7..14 => {
            let bytes = random.bytes(1600);
            device.deliver(&bytes, word(random) & !0x03ff_0fff, word(random));
        }
        14..26 => {
            let honest = frame(1, 60 + random.below(1400) as usize);
            device.deliver(&honest, WHOLE | NOT_CHECKED, 0);
        }
        _ => drop(device.sent()),
    }
}
