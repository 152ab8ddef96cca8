//! What a seed stands for: the shape of the world, the load, and what goes wrong when.

use crate::random::Random;
use crate::wire::Quality;
use kernel_runtime::Instant;
use std::time::Duration;

/// Bytes on each disk. Small, so that everything meets everything.
const DISK: usize = 64 << 10;

/// The two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Host,
    Service,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process of a storage service dies and is back after a time.
    Crash { unit: usize, loses_cache: bool, keeps_requests: bool, down: Duration },
    /// The connections to a service are reset; what they brought is still executed, and may be so late.
    Kill { unit: usize, lingers: bool },
    /// A service executes nothing for a time.
    Stuck { unit: usize, time: Duration },
    /// A service takes up to `delay` for each request for a time.
    Slow { unit: usize, time: Duration, delay: Duration },
    /// The next flushes fail; with `drops` what they should have made durable is gone, as after a failed fsync.
    FlushErrors { unit: usize, count: u32, drops: bool },
    /// The next requests fail.
    Errors { unit: usize, count: u32, code: u32 },
    /// One direction or both of a wire are cut for a time.
    Cut { net: Net, ends: [bool; 2], time: Duration },
    /// A wire is bad for a time.
    Weather { net: Net, quality: Quality, time: Duration },
    /// An initiator loses its connection, with a reset or without a word, and logs in again.
    Drop { initiator: usize, is_silent: bool },
    /// An initiator aborts some of its commands.
    Abort { initiator: usize },
    /// An initiator resets a unit.
    Reset { initiator: usize, unit: usize },
    /// The appliance restarts.
    Restart,
}

/// All that is decided before the world begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) units: usize,
    pub(crate) block: usize,
    pub(crate) blocks: usize,
    pub(crate) initiators: usize,
    /// Commands of each initiator, how many at once, and how many blocks at most.
    pub(crate) commands: usize,
    pub(crate) depth: usize,
    pub(crate) longest: usize,
    /// The time over which commands and faults are spread.
    pub(crate) horizon: Duration,
    /// Bytes the appliance is sized for.
    pub(crate) memory: usize,
    /// The most bytes a service takes in one command.
    pub(crate) max_payload: u32,
    pub(crate) structured: bool,
    pub(crate) offers_fua: bool,
    /// The ordinary time of a request at a service, in microseconds.
    pub(crate) service_time: u64,
    pub(crate) host: Quality,
    pub(crate) service: Quality,
    pub(crate) faults: Vec<(Instant, Fault)>,
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        let block = if random.chance(250) { 4096 } else { 512 };
        let mut plan = Self {
            units: random.range(1, 2) as usize,
            block,
            blocks: DISK / block,
            initiators: random.range(1, 2) as usize,
            commands: random.range(20, 120) as usize,
            depth: random.range(1, 16) as usize,
            longest: random.pick(&[1, 4, 16, 64]).min(DISK / block),
            horizon: Duration::from_millis(random.pick(&[20, 1000, 10_000, 60_000, 120_000])),
            memory: if random.chance(800) { 1 << 20 } else { 12 << 20 },
            max_payload: random.pick(&[4096, 16 << 10, 32 << 20]),
            structured: random.chance(700),
            offers_fua: random.chance(700),
            service_time: random.pick(&[50, 500, 5000]),
            host: Quality::clean(),
            service: Quality::clean(),
            faults: Vec::new(),
        };
        // One world in eight is a sunny one: there, nothing at all may go wrong.
        if !random.chance(125) {
            plan.spoil(random);
        }
        plan
    }

    /// Whether nothing goes wrong.
    pub(crate) fn is_sunny(&self) -> bool {
        self.faults.is_empty() && self.is_host_clean()
    }

    /// Whether frames on the host-only network are neither lost nor late, so that times can be held to account.
    pub(crate) fn is_host_clean(&self) -> bool {
        let is_spoiled = self.faults.iter().any(|(_, fault)| {
            matches!(fault, Fault::Cut { net: Net::Host, .. } | Fault::Weather { net: Net::Host, .. })
        });
        !is_spoiled && self.host.loss + self.host.corruption == 0 && self.host.latency < 1000
    }

    /// Whether a service reports errors of its own.
    pub(crate) fn has_errors(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Errors { .. } | Fault::FlushErrors { .. }))
    }

    fn spoil(&mut self, random: &mut Random) {
        if random.chance(150) {
            self.host = weather(random, 20);
        }
        if random.chance(250) {
            self.service = weather(random, 20);
        }
        // Few kinds per world, so that each meets the others and none drowns them.
        let kinds: Vec<u64> = (0..random.range(1, 4)).map(|_| random.below(12)).collect();
        let horizon = self.horizon.as_micros() as u64;
        for _ in 0..random.range(1, 10) {
            let at = Instant::from_micros(random.below(horizon));
            let kind = random.pick(&kinds);
            let fault = self.fault(random, kind);
            self.faults.push((at, fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn fault(&self, random: &mut Random, kind: u64) -> Fault {
        let unit = random.below(self.units as u64) as usize;
        let initiator = random.below(self.initiators as u64) as usize;
        let time = |random: &mut Random| {
            Duration::from_millis(
                random.pick(&[10, 500, 2000, 8000, 20_000, 45_000]) * random.range(500, 1500) / 1000,
            )
        };
        let net = random.pick(&[Net::Host, Net::Service, Net::Service]);
        match kind {
            0 | 1 => Fault::Crash {
                unit,
                loses_cache: random.chance(500),
                keeps_requests: random.chance(500),
                down: time(random),
            },
            2 => Fault::Kill { unit, lingers: random.chance(700) },
            3 => Fault::Stuck { unit, time: time(random) },
            4 => {
                let delay = Duration::from_millis(random.pick(&[20, 1000, 20_000]));
                Fault::Slow { unit, time: time(random), delay }
            }
            5 => Fault::FlushErrors { unit, count: random.range(1, 3) as u32, drops: random.chance(500) },
            6 => {
                // EIO, ENOSPC, ENOMEM.
                Fault::Errors { unit, count: random.range(1, 10) as u32, code: random.pick(&[5, 28, 12]) }
            }
            7 => {
                let ends = random.pick(&[[true, true], [true, false], [false, true]]);
                Fault::Cut { net, ends, time: time(random) }
            }
            8 => Fault::Weather { net, quality: weather(random, 150), time: time(random) },
            9 => Fault::Drop { initiator, is_silent: random.chance(400) },
            10 if random.chance(700) => Fault::Abort { initiator },
            10 => Fault::Reset { initiator, unit },
            _ => Fault::Restart,
        }
    }
}

/// Bad, with up to `worst` thousandths of the frames lost.
fn weather(random: &mut Random, worst: u64) -> Quality {
    let mut share = |of: u64| if random.chance(500) { random.below(of + 1) as u32 } else { 0 };
    let (loss, duplication, corruption, reordering) = (share(worst), share(50), share(worst), share(100));
    let latency = random.pick(&[30, 200, 5000]);
    Quality { loss, duplication, corruption, reordering, latency, jitter: random.below(3 * latency) }
}
