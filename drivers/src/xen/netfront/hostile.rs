//! A backend that does what it likes, and its frontend.

use super::*;
use crate::Found;
use crate::emulated::Random;
use crate::emulated::frames::{at, frame, receive, segment, send};
use crate::emulated::xen::{Host, Slot};
use crate::nic::AnyNic;
use alloc::vec;
use kernel_io::emulated::faults;

/// Enough for long frames, and for short ones only.
const MEMORY: [usize; 2] = if cfg!(miri) { [128 << 10; 2] } else { [128 << 10, 4 << 20] };
/// Flags of what is received.
const VALIDATED: u16 = 1;
const MORE: u16 = 4;

/// The driver of the only NIC there is.
pub(super) fn driver(memory: usize) -> Netfront {
    let mut found = Found::default();
    super::super::connect(&mut found, memory).expect("a host").add_to(&mut found);
    match found.nics.pop() {
        Some(AnyNic::Netfront(nic)) => nic,
        _ => panic!("{:?}", found.failed),
    }
}

pub(super) fn pair(memory: usize) -> (Host, Netfront) {
    let host = Host::new(1);
    let mut nic = driver(memory);
    // The last news of the backend.
    assert_eq!(receive(&mut nic, at(0)), None);
    host.notified();
    (host, nic)
}

/// As a machine does to which nothing is sent, until both sides have done what they can.
pub(super) fn settle(nic: &mut Netfront, now: Instant) -> State {
    (0..if cfg!(miri) { 8 } else { 20 }).for_each(|_| assert_eq!(receive(nic, now), None));
    nic.state
}

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let (host, mut nic) = pair(MEMORY[random.below(2) as usize]);
    let pages = host.offered(0);
    let mut now = 0;
    for _ in 0..steps {
        if random.is_over() {
            break;
        }
        now += random.below(200) as i64;
        if host.is_connected(0) {
            be_hostile(random, &host);
        }
        match random.below(4) {
            0 => drop(receive(&mut nic, at(now))),
            1 => drop(send(&mut nic, &frame(1, 60), at(now))),
            2 => nic.flush(),
            _ => drop(nic.arm()),
        }
    }
    let resets = nic.counters().resets;
    assert!(faults().is_empty());
    // From then on it is honest, after a rest.
    nic.fail(Fault::Lie(Lie::Index), at(now + 5000));
    assert_eq!(settle(&mut nic, at(now + 5000)), State::Up, "{:?}", nic.counters());
    assert_eq!(host.offered(0), pages);
    assert!(host.deliver(0, &frame(3, 60), 0));
    assert_eq!(receive(&mut nic, at(now + 5000)), Some(frame(3, 60)));
    resets
}

fn be_hostile(random: &mut Random, host: &Host) {
    let which = random.below(2) as usize;
    let words = [0; 2].map(|_| random.any() as u32 >> random.below(32));
    match random.below(12) {
        0 => host.lie(0, which, &words, 0),
        1 => host.lie(0, which, &words, 1 << random.below(32)),
        // Its own index and events, and responses; what the guest has written is not there for it to change.
        2 => {
            let offset = 4 + random.below(3) * 4;
            host.scribble(0, which, offset..offset + 4, words[0]);
        }
        3..6 => {
            let count = 1 + random.below(20) as usize;
            let slots = (0..count).map(|_| match random.below(3) {
                0 => Slot::Raw(words),
                1 => Slot::Data(random.below(2000) as u16, vec![9; random.below(2000) as usize], MORE),
                _ => Slot::Data(0, frame(3, 60 + random.below(1400) as usize), random.any() as u16 & 15),
            });
            host.give(0, &slots.collect::<Vec<_>>());
        }
        6 => host.interrupt(),
        7 => drop(host.deliver(0, &segment(random.below(30_000) as usize), VALIDATED)),
        8 => while host.take_sent(0).is_some() {},
        _ => host.answer_sent(0, random.below(2) == 0),
    }
}
