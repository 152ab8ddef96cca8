//! A plan in which something is wrong, made as small as it can be while it still is.

use crate::campaign::violation;
use crate::{Bug, Plan};
use kernel_runtime::Instant;
use std::time::Duration;

/// The smallest plan near `plan` in which something is wrong with `bug` planted, or without; `plan` itself if nothing is.
pub fn shrink(plan: &Plan, bug: Option<Bug>) -> Plan {
    let mut best = plan.clone();
    let is_wrong = |plan: &Plan| plan.check().is_ok() && violation(plan, bug).is_some();
    loop {
        let before = best.to_string();
        // Halves first, then quarters, and so on to single faults.
        let mut length = best.faults.len().div_ceil(2);
        while length > 0 {
            let mut start = 0;
            while start < best.faults.len() {
                let smaller = best.without(start..(start + length).min(best.faults.len()));
                if is_wrong(&smaller) { best = smaller } else { start += length }
            }
            length /= 2;
        }
        for simpler in SIMPLER {
            let mut smaller = best.clone();
            simpler(&mut smaller);
            if smaller.to_string() != best.to_string() && is_wrong(&smaller) {
                best = smaller;
            }
        }
        if best.to_string() == before {
            return best;
        }
    }
}

/// Ways to make a world simpler.
const SIMPLER: &[fn(&mut Plan)] = &[
    |plan| plan.shape.initiators = 1,
    |plan| plan.shape.units = 1,
    |plan| plan.shape.commands = plan.shape.commands.div_ceil(2),
    |plan| plan.shape.commands = (plan.shape.commands * 4 / 5).max(1),
    |plan| plan.shape.depth = plan.shape.depth.div_ceil(2),
    |plan| plan.shape.longest = plan.shape.longest.div_ceil(4),
    |plan| plan.shape.host = crate::wire::Quality::clean(),
    |plan| plan.shape.service = crate::wire::Quality::clean(),
    |plan| plan.shape.block = 512,
    |plan| plan.shape.memory = 12 << 20,
    |plan| plan.shape.max_payload = 32 << 20,
    |plan| plan.shape.structured = true,
    |plan| plan.shape.offers_fua = true,
    |plan| {
        plan.shape.horizon /= 2;
        for (at, _) in &mut plan.faults {
            *at = Instant::ZERO + Duration::from_micros(at.as_micros() / 2);
        }
    },
];
