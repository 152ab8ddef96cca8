//! Hostile devices: one of each kind that does what it likes for a while, and is honest after it, unless it is one of those
//! whose registers rave. Its driver must neither stop nor panic, and must serve the honest one with all its buffers.

use super::Random;
use super::frames::at;
use network_nic::{Instant, Nic};
use std::thread;

/// One of a kind that does what is told.
pub type Play = fn(&mut Random, i64) -> u64;

/// All kinds, by the name of the driver. A play takes so many steps at most, and answers how often the driver has reset the
/// device until then; it panics where the driver stops, loses a buffer, or does to the device what may not be done.
pub const KINDS: [(&str, Play); 7] = [
    ("virtio-net", crate::virtio::net::hostile::play),
    ("virtio-legacy", crate::virtio::hostile::play),
    ("vmxnet3", crate::vmxnet3::hostile::play),
    ("intel", crate::intel::hostile::play),
    ("rtl8139", crate::rtl8139::hostile::play),
    ("netvsc", crate::hyperv::netvsc::hostile::play),
    ("netfront", crate::xen::netfront::hostile::play),
];

/// Plays on a machine of its own: what devices take of one, vectors and addresses, does not come back.
///
/// # Errors
/// What it panicked with.
pub fn alone(play: Play, mut random: Random, steps: i64) -> thread::Result<u64> {
    thread::spawn(move || play(&mut random, steps)).join()
}

/// Plays so often with chance. On the average there are so many resets.
#[cfg(test)]
pub(crate) fn play_by_chance(play: Play, seeds: u64, steps: i64, average: u64) {
    let mut resets = 0;
    for seed in 0..seeds {
        resets += alone(play, Random::new(seed), steps).unwrap_or_else(|_| panic!("seed {seed}"));
    }
    // Few steps prove less.
    assert!(resets >= seeds * average || cfg!(miri), "{resets} resets: it hardly lies");
}

/// Has, in each step, something happen and be received by `happen`, and now and then has the driver send by `send`, tell its
/// device of it, and ask to be woken.
pub(crate) fn clash<N: Nic>(
    nic: &mut N,
    (random, steps): (&mut Random, i64),
    happen: impl Fn(&mut N, &mut Random, Instant),
    send: impl Fn(&mut N, &mut Random, Instant),
) {
    for step in 0..steps {
        if random.is_over() {
            break;
        }
        let now = at(step * 7);
        happen(nic, random, now);
        if random.below(3) == 0 {
            send(nic, random, now);
        }
        if random.below(4) == 0 {
            nic.flush();
            nic.arm();
        }
    }
}
