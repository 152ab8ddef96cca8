//! A host that does what it likes, and the driver of its NIC.

use super::*;
use crate::Found;
use crate::emulated::Random;
use crate::emulated::frames::{at, frame, receive, send};
use crate::emulated::hyperv::{Host, Packet};
use crate::nic::AnyNic;
use alloc::vec;
use alloc::vec::Vec;
use kernel_io::emulated::faults;
use network_nic::{Device as _, RxToken as _, TxToken as _};

/// Enough for short frames only.
const MEMORY: usize = 128 << 10;

/// The driver of the only NIC there is.
pub(super) fn driver(memory: usize) -> Result<NetVsc, Error> {
    let mut found = Found::default();
    super::super::find(&mut found, memory);
    match found.nics.pop() {
        Some(AnyNic::NetVsc(nic)) => Ok(nic),
        _ => Err(found.failed[0].1),
    }
}

/// See [`crate::emulated::hostile`].
pub(crate) fn play(random: &mut Random, steps: i64) -> u64 {
    let host = Host::new(1);
    let mut nic = driver(MEMORY).expect("an honest host");
    host.signals();
    for step in 0..steps {
        if random.is_over() {
            break;
        }
        if random.below(3) == 0 {
            be_hostile(random, &host);
        }
        host.deliver(0, &[&frame(step as u16, 60)], None);
        let now = at(step * 200);
        while let Some((token, answer)) = nic.receive(now) {
            assert!(token.consume(<[u8]>::len) <= LONGEST);
            answer.consume(60, |bytes| bytes.fill(0));
        }
        send(&mut nic, &frame(step as u16, 60), now);
        nic.flush();
        nic.arm();
        host.nic(0).sent.clear();
        assert_ne!(nic.state, State::Dead, "{step}");
    }
    let resets = nic.counters().resets;
    // Its last lie may be one that is found only now.
    host.set_busy(true);
    host.put(0, &completion(u64::MAX));
    let now = at(steps * 200 + 5000);
    for _ in 0..40 {
        while receive(&mut nic, now).is_some() {}
        nic.flush();
    }
    let now = at(steps * 200 + 10_000);
    assert!(host.deliver(0, &[&frame(7, 60)], None) || receive(&mut nic, now).is_none());
    host.deliver(0, &[&frame(9, 60)], None);
    let received: Vec<_> = core::iter::from_fn(|| receive(&mut nic, now)).collect();
    assert!(received.contains(&frame(9, 60)), "{:?}", nic.counters());
    // What the host touched that was not its own is no fault of the driver's.
    faults();
    resets
}

/// What says that a transaction has ended well.
pub(super) fn completion(transaction: u64) -> Packet {
    Packet {
        kind: 11,
        wants_completion: false,
        transaction,
        header: Vec::new(),
        payload: vec![108 | 1 << 32],
    }
}

/// A number that is often one at which something ends.
fn number(random: &mut Random) -> u64 {
    let ends = [0, 1, 7, 8, 15, 16, 0xffff, 0x1_0000, 0xffff_ffff, u64::MAX, 0xcafe, 107, 4096, 65536];
    match random.below(3) {
        0 => ends[random.below(ends.len() as u64) as usize],
        1 => random.below(70_000),
        _ => random.any(),
    }
}

fn be_hostile(random: &mut Random, host: &Host) {
    match random.below(9) {
        0 => {
            let at = [0, 4, 8, 12, 64][random.below(5) as usize];
            host.set_control(0, random.below(2) == 0, at, number(random) as u32);
        }
        1 | 2 => {
            let kind = [6, 7, 9, 10, 11, number(random)][random.below(6) as usize] & 0xffff;
            let (header, length) = (2 + random.below(8), 2 + random.below(20));
            let mut words = vec![kind | header << 16 | length << 32, random.below(80)];
            words.extend((0..length).map(|_| number(random)));
            host.put_words(0, &words);
        }
        3 => {
            let header =
                vec![0xcafe | random.below(4) << 32, random.below(2000) | random.below(70_000) << 32];
            let payload = vec![107 | random.below(2) << 32, u64::MAX];
            let transaction = random.below(90);
            host.put(0, &Packet { kind: 7, wants_completion: true, transaction, header, payload });
        }
        4 | 5 => {
            let mut words: Vec<_> = [1, 120, 52, 60, 0, 0, 0, 36, 16, 0, 0, 16, 0, 12, 0].to_vec();
            words.resize(30, 0);
            for _ in 0..random.below(3) {
                let at = random.below(30) as usize;
                words[at] = number(random) as u32;
            }
            host.indicate(0, &[words.iter().flat_map(|word| word.to_le_bytes()).collect()]);
        }
        6 => drop(host.put(0, &completion(random.below(90)))),
        7 => {
            let mut words: Vec<_> = (0..random.below(60)).map(|_| number(random) as u32).collect();
            // Anything but taking the channel back, which is the end.
            if words.first().is_some_and(|kind| *kind == 2) {
                words[0] = 1;
            }
            host.say(&words);
        }
        _ => host.set_busy(random.below(2) == 0),
    }
}
