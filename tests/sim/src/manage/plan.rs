//! What a seed stands for in the management world: how many do what, and what goes wrong when.

use crate::plan::words::{Word, choice, line, lines};
use crate::random::Random;
use kernel_runtime::Instant;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

line! {
    /// The world before anything goes wrong in it.
    #[derive(Clone, Debug)]
    Shape {
        /// What all chance in the world comes from.
        dice: u64,
        clients: usize,
        /// Commands of each client, and instances they are for.
        commands: usize,
        instances: usize,
        /// The time over which faults are spread.
        horizon: Duration,
        /// The appliance has no state disk.
        diskless: bool,
        /// Links to the agent.
        links: usize,
    }
}

choice! {
    /// Where the agent dies: each place between two steps of a command.
    Point { Receiving, Received, Beginning, Begun, Performed, Asking, Asked, Ending, Ended }
}

choice! {
    /// Where the appliance is reset: what it has promised is on its disk and not sent, sent and not answered, or its end is on
    /// its disk and nobody was told.
    Place { Kept, Sent, Concluded }
}

lines! {
    /// What goes wrong.
    #[derive(Clone, Debug, PartialEq, Eq)]
    Fault {
        /// The appliance is reset and is back after a time. What it has sent arrives up to `lingers` later.
        Reset { down: Duration, lingers: Duration },
        /// The same when an operation comes by that place the next time.
        ResetAt { place: Place, down: Duration, lingers: Duration },
        /// The appliance stands still.
        Pause { time: Duration },
        /// The agent is killed.
        Kill { down: Duration },
        /// The agent is killed when a command comes by that point the next time.
        KillAt { point: Point, down: Duration },
        /// All connections to the agent break, in the middle of whatever is on its way.
        Break {},
        /// Nothing comes through to the host.
        Cut { time: Duration },
        /// Everything takes longer on the host-only network.
        Slow { delay: Duration, time: Duration },
        /// The state disk fails its requests.
        DiskFails { after: u32, time: Duration },
        /// The state disk does not answer.
        DiskHangs { time: Duration },
        /// A guest dies.
        Die { which: usize, orderly: bool },
        /// The hypervisor of the guest that a command is for dies when the command comes by that point the next time.
        DieAt { point: Point },
        /// A guest's monitor says nothing.
        Hang { which: usize, time: Duration },
        /// A second appliance takes over.
        TakeOver {},
    }
}

/// A world of management.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) shape: Shape,
    pub(crate) faults: Vec<(Instant, Fault)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6d61_6e61_6765);
        let horizon = Duration::from_millis(random.pick(&[500, 5000, 30_000, 60_000]));
        let shape = Shape {
            clients: random.range(1, 3) as usize,
            commands: random.range(1, 6) as usize,
            instances: random.range(1, 3) as usize,
            horizon,
            diskless: random.chance(100),
            links: random.range(1, 2) as usize,
            dice: random.next(),
        };
        let mut faults: Vec<_> = (0..random.below(7))
            .map(|_| (Instant::from_micros(random.below(horizon.as_micros() as u64)), fault(&mut random)))
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        Self { shape, faults }
    }

    /// The same without some of the faults.
    pub(crate) fn without(&self, range: std::ops::Range<usize>) -> Self {
        let mut plan = self.clone();
        plan.faults.drain(range);
        plan
    }

    fn check(&self) -> Result<(), String> {
        let Shape { clients, commands, instances, links, .. } = self.shape;
        let is_possible = [clients, instances, links].iter().all(|count| (1..=4).contains(count))
            && (1..=100).contains(&commands);
        if is_possible { Ok(()) } else { Err("no such world is possible".into()) }
    }
}

fn time(random: &mut Random) -> Duration {
    Duration::from_millis(random.pick(&[10, 300, 2000, 8000, 30_000]) * random.range(500, 1500) / 1000)
}

fn lingers(random: &mut Random) -> Duration {
    if random.chance(500) { time(random) } else { Duration::ZERO }
}

fn fault(random: &mut Random) -> Fault {
    let which = random.below(3) as usize;
    match random.below(25) {
        0..=2 => Fault::Reset { down: time(random), lingers: lingers(random) },
        4 => Fault::Pause { time: time(random) },
        5 | 6 => Fault::Kill { down: time(random) },
        7..=10 => Fault::KillAt { point: random.pick(Point::ALL), down: time(random) },
        11 => Fault::Break {},
        12 => Fault::Cut { time: time(random) },
        13 => Fault::Slow { delay: Duration::from_millis(random.pick(&[5, 200, 2500])), time: time(random) },
        14 => Fault::DiskFails { after: random.below(6) as u32, time: time(random) },
        15 => Fault::DiskHangs { time: time(random) },
        16 => Fault::Die { which, orderly: random.chance(500) },
        17 | 18 => Fault::Hang { which, time: time(random) },
        3 | 19 | 20 => {
            Fault::ResetAt { place: random.pick(Place::ALL), down: time(random), lingers: lingers(random) }
        }
        21..=23 => Fault::DieAt { point: random.pick(Point::ALL) },
        _ => Fault::TakeOver {},
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::from("manage");
        self.shape.show(&mut line);
        writeln!(f, "{line}")?;
        for (at, fault) in &self.faults {
            let mut line = format!("at {} ", at.show());
            fault.show(&mut line);
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (shape, faults) = crate::plan::parse("manage", text, Shape::parse, Fault::parse)?;
        let plan = Self { shape, faults };
        plan.check()?;
        Ok(plan)
    }
}

/// The smallest plan near `plan` in which something is wrong; `plan` itself if nothing is.
pub(crate) fn shrink(plan: &Plan, is_wrong: impl Fn(&Plan) -> bool) -> Plan {
    let simpler: [fn(&mut Plan); 5] = [
        |plan| plan.shape.clients = 1,
        |plan| plan.shape.instances = 1,
        |plan| plan.shape.links = 1,
        |plan| plan.shape.commands = plan.shape.commands.div_ceil(2),
        |plan| plan.shape.commands = plan.shape.commands.max(2) - 1,
    ];
    let mut best = plan.clone();
    loop {
        let before = best.to_string();
        for start in (0..best.faults.len()).rev() {
            let smaller = best.without(start..start + 1);
            if is_wrong(&smaller) {
                best = smaller;
            }
        }
        for simpler in simpler {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..500 {
            let text = Plan::of(seed).to_string();
            assert_eq!(text, text.parse::<Plan>().expect("our own text").to_string());
        }
    }

    #[test]
    fn every_kind_of_fault_is_chosen_by_some_seed_and_has_its_row() {
        let readme = include_str!("../../README.md");
        let points = Point::ALL.iter().map(|point| format!("{point:?}"));
        let places = Place::ALL.iter().map(|place| format!("{place:?}"));
        for name in Fault::KINDS.iter().map(|kind| kind.to_string()).chain(points).chain(places) {
            assert!(readme.contains(&format!("`{name}`")), "{name} is not told");
            let is_chosen = |seed| Plan::of(seed).to_string().contains(&name);
            assert!((0..5000).any(is_chosen), "{name} is never chosen");
        }
    }
}
