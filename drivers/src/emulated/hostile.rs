//! Hostile devices: one of each kind that does what it likes for a while, and is honest after it, unless it is one of those
//! whose registers rave. Its driver must neither stop nor panic, and must serve the honest one with all its buffers.

use super::Random;

/// One of a kind that does what is told.
pub type Play = fn(&mut Random, i64) -> u64;

/// All kinds, by the name of the driver. A play takes so many steps at most, and answers how often the driver has
/// reset the device until then; it panics where the driver stops, loses a buffer, or does to the device what may not be done. It is to be played in a thread of its own: each device
/// takes vectors and addresses of the thread's machine.
pub const KINDS: [(&str, Play); 7] = [
    ("virtio-net", crate::virtio::net::hostile::play),
    ("virtio-legacy", crate::virtio::hostile::play),
    ("vmxnet3", crate::vmxnet3::hostile::play),
    ("intel", crate::intel::hostile::play),
    ("rtl8139", crate::rtl8139::hostile::play),
    ("netvsc", crate::hyperv::netvsc::hostile::play),
    ("netfront", crate::xen::netfront::hostile::play),
];

/// Plays so often with chance, each time on a machine of its own. On the average there are so many resets.
#[cfg(test)]
pub(crate) fn play_by_chance(play: Play, seeds: u64, steps: i64, average: u64) {
    let mut resets = 0;
    for seed in 0..seeds {
        let played = std::thread::spawn(move || play(&mut Random::new(seed), steps)).join();
        resets += played.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    // Few steps prove less.
    assert!(resets >= seeds * average || cfg!(miri), "{resets} resets: it hardly lies");
}
