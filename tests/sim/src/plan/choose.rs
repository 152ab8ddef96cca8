//! The plan of a seed.

use super::{Change, DISK, Fault, Malformation, Net, Plan, Shape, Step};
use crate::random::Random;
use crate::wire::Quality;
use kernel_runtime::Instant;
use std::time::Duration;

/// Kinds of faults below, weighed by how often they are chosen: those of services first.
const OF_SERVICE: u64 = 15;
const KINDS: u64 = 27;
/// NBD errors: EPERM, EIO, ENOMEM, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN.
const ERRORS: [u32; 7] = [1, 5, 12, 22, 28, 95, 108];

impl Plan {
    /// The plan that a seed stands for.
    pub fn of(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let mut plan = Self { shape: shape(random), faults: Vec::new() };
        // One world in twelve is a sunny one: there, nothing at all may go wrong.
        if !random.chance(80) {
            plan.spoil(random);
        }
        plan
    }

    fn spoil(&mut self, random: &mut Random) {
        // In one world in eight the last unit is spared, and nothing is wrong that concerns it.
        let spares = self.shape.units > 1 && random.chance(125);
        if !spares && random.chance(150) {
            self.shape.host = weather(random, 20);
        }
        if !spares && random.chance(250) {
            self.shape.service = weather(random, 20);
        }
        // Few kinds per world, so that each meets the others and none drowns them.
        let kinds: Vec<u64> =
            (0..random.range(1, 4)).map(|_| random.below(if spares { OF_SERVICE } else { KINDS })).collect();
        let horizon = self.shape.horizon.as_micros() as u64;
        let units = self.shape.units - usize::from(spares);
        for _ in 0..random.range(1, 10) {
            let at = Instant::from_micros(random.below(horizon));
            let kind = random.pick(&kinds);
            let unit = random.below(units as u64) as usize;
            let fault =
                if kind < OF_SERVICE { of_service(random, kind, unit) } else { self.elsewhere(random, kind) };
            self.faults.push((at, fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        if self.has_forgeries() {
            self.shape.digests = true;
        }
    }

    /// What goes wrong on the wires, at the initiators and at the appliance.
    fn elsewhere(&self, random: &mut Random, kind: u64) -> Fault {
        let unit = random.below(self.shape.units as u64) as usize;
        let initiator = random.below(self.shape.initiators as u64) as usize;
        let net = random.pick(&[Net::Host, Net::Service, Net::Service]);
        match kind {
            15 | 16 => {
                let ends = random.pick(&[[true, true], [true, false], [false, true]]);
                Fault::Cut { net, ends, time: time(random) }
            }
            17 => {
                let mut quality = weather(random, 150);
                if net == Net::Host && random.chance(300) {
                    quality.forgery = random.range(1, 50) as u32;
                }
                Fault::Weather { net, quality, time: time(random) }
            }
            18 => Fault::Drop { initiator, is_silent: random.chance(400) },
            19 | 20 => Fault::Abort { initiator, step: random.pick(Step::ALL) },
            21 => Fault::Reset { initiator, unit },
            22 => Fault::Deaf { initiator, time: time(random) },
            23 => Fault::Twin { initiator, logins: random.range(1, 20) },
            24 => Fault::Crowd { connections: random.range(1, 12), time: time(random) },
            25 => Fault::Pause { time: time(random) },
            _ => Fault::Restart { down: Duration::from_micros(random.below(3_000_000)) },
        }
    }
}

/// What a storage service does.
fn of_service(random: &mut Random, kind: u64, unit: usize) -> Fault {
    match kind {
        0..=2 => Fault::Crash {
            unit,
            loses_cache: random.chance(600),
            keeps_requests: random.chance(500),
            down: time(random),
        },
        3 => Fault::Torn {
            unit,
            sectors: random.below(16),
            loses_cache: random.chance(500),
            down: time(random),
        },
        4 => Fault::Kill { unit, lingers: random.chance(700) },
        5 => Fault::KillOne { unit, which: random.below(8), lingers: random.chance(700) },
        6 => Fault::Stuck { unit, time: time(random) },
        7 => {
            let delay = Duration::from_millis(random.pick(&[20, 1000, 20_000]));
            Fault::Slow { unit, time: time(random), delay }
        }
        8 | 9 => {
            let count = random.range(1, 3) as u32;
            Fault::FlushErrors { unit, count, drops: random.chance(600), evicts: random.chance(500) }
        }
        10 => Fault::Errors {
            unit,
            after: random.below(30) as u32,
            count: random.range(1, 10) as u32,
            code: random.pick(&ERRORS),
        },
        11 | 12 => Fault::Malformed { unit, what: random.pick(Malformation::ALL) },
        13 => Fault::Gateway {
            unit,
            which: random.below(2) as usize,
            lingers: random.chance(700),
            down: time(random),
        },
        _ => Fault::Export { unit, change: random.pick(Change::ALL), time: time(random) },
    }
}

fn shape(random: &mut Random) -> Shape {
    let block = if random.chance(250) { 4096 } else { 512 };
    Shape {
        units: random.range(1, 2) as usize,
        block,
        initiators: random.range(1, 2) as usize,
        commands: random.range(20, 120) as usize,
        depth: if random.chance(50) { 40 } else { random.range(1, 16) as usize },
        longest: random.pick(&[1, 4, 16, 64]).min(DISK / block),
        horizon: Duration::from_millis(random.pick(&[20, 1000, 10_000, 60_000, 120_000])),
        memory: if random.chance(800) { 1 << 20 } else { 12 << 20 },
        max_payload: random.pick(&[4096, 16 << 10, 32 << 20]),
        structured: random.chance(700),
        extended: random.chance(300),
        offers_fua: random.chance(700),
        cacheless: random.chance(50),
        tells_extents: random.chance(500),
        tells_incarnation: random.chance(400),
        fences: random.chance(400),
        connections: random.pick(&[1, 1, 2, 3]),
        gateways: random.pick(&[1, 1, 1, 2]),
        entries: if random.chance(200) { random.range(1, 16) as usize } else { 0 },
        iops: if random.chance(50) { random.pick(&[50, 500]) } else { 0 },
        service_time: random.pick(&[50, 500, 5000]),
        digests: false,
        host: Quality::clean(),
        service: Quality::clean(),
        dice: random.next(),
    }
}

fn time(random: &mut Random) -> Duration {
    Duration::from_millis(
        random.pick(&[10, 500, 2000, 8000, 20_000, 45_000]) * random.range(500, 1500) / 1000,
    )
}

/// Bad, with up to `worst` thousandths of the frames lost.
fn weather(random: &mut Random, worst: u64) -> Quality {
    let mut share = |of: u64| if random.chance(500) { random.below(of + 1) as u32 } else { 0 };
    let (loss, duplication, corruption, reordering) = (share(worst), share(50), share(worst), share(100));
    let latency = random.pick(&[30, 200, 5000]);
    let jitter = random.below(3 * latency);
    Quality { loss, duplication, corruption, forgery: 0, reordering, latency, jitter }
}
