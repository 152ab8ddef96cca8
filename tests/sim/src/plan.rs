//! What a seed stands for: the shape of the world, the load, and what goes wrong when.

mod choose;
mod fault;
pub(crate) mod words;

pub(crate) use fault::{Change, Fault, Malformation, Net, Step};

use crate::wire::Quality;
use kernel_runtime::Instant;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use words::{Word, Words, line};

/// Bytes on each disk. Small, so that everything meets everything.
pub(crate) const DISK: usize = 64 << 10;

line! {
    /// The world before anything goes wrong in it.
    #[derive(Clone, Debug)]
    Shape {
        /// What all chance in the world comes from.
        dice: u64,
        units: usize,
        block: usize,
        initiators: usize,
        /// Commands of each initiator, how many at once, and how many blocks at most.
        commands: usize,
        depth: usize,
        longest: usize,
        /// The time over which commands and faults are spread.
        horizon: Duration,
        /// Bytes the appliance is sized for.
        memory: usize,
        /// The most bytes a service takes in one command.
        max_payload: u32,
        structured: bool,
        extended: bool,
        offers_fua: bool,
        /// The service has no cache, and neither FLUSH nor FUA.
        cacheless: bool,
        /// It has the contexts of extents, of its incarnation, and of claims to be the only writer.
        tells_extents: bool,
        tells_incarnation: bool,
        fences: bool,
        /// Connections that the appliance may have to it, and the gateways that lead to it.
        connections: usize,
        gateways: usize,
        /// Entries of the appliance's journal; zero for as many as its memory allows.
        entries: usize,
        /// What each disk may do in a second, if it is limited.
        iops: u32,
        /// The ordinary time of a request at a service, in microseconds.
        service_time: u64,
        /// The initiators insist on both digests.
        digests: bool,
        host: Quality,
        service: Quality,
    }
}

/// All that is decided before the world begins.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) shape: Shape,
    pub(crate) faults: Vec<(Instant, Fault)>,
}

impl Plan {
    /// Blocks on each disk.
    pub(crate) const fn blocks(&self) -> usize {
        DISK / self.shape.block
    }

    fn has(&self, is_meant: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| is_meant(fault))
    }

    /// Whether nothing goes wrong.
    pub(crate) fn is_sunny(&self) -> bool {
        self.faults.is_empty() && self.is_host_clean()
    }

    /// Whether frames on the host-only network are neither lost nor late, so that times can be held to account.
    pub(crate) fn is_host_clean(&self) -> bool {
        is_fine(&self.shape.host) && !self.has_bad_air(Net::Host)
    }

    /// Whether frames on the service network are neither lost nor late.
    pub(crate) fn is_service_clean(&self) -> bool {
        is_fine(&self.shape.service)
            && !self.has_bad_air(Net::Service)
            && !self.has(|fault| matches!(fault, Fault::Pause { .. }))
    }

    fn has_bad_air(&self, of: Net) -> bool {
        self.has(|fault| match fault {
            Fault::Cut { net, .. } | Fault::Weather { net, .. } => *net == of,
            _ => false,
        })
    }

    /// Whether nothing that goes wrong concerns this unit, so that it has to answer in its ordinary time.
    pub(crate) fn is_spared(&self, unit: usize) -> bool {
        self.is_host_clean()
            && is_fine(&self.shape.service)
            && self.faults.iter().all(|(_, fault)| fault.unit().is_some_and(|of| of != unit))
    }

    /// Whether a service reports errors of its own.
    pub(crate) fn has_errors(&self) -> bool {
        self.has_strange_errors()
            || self.has(|fault| matches!(fault, Fault::Errors { .. } | Fault::FlushErrors { .. }))
    }

    /// Whether a service reports this error.
    pub(crate) fn has_error(&self, wanted: u32) -> bool {
        self.has(|fault| matches!(fault, Fault::Errors { code, .. } if *code == wanted))
    }

    /// Whether a service reports an error that no standard knows, which is as good as EINVAL.
    pub(crate) fn has_strange_errors(&self) -> bool {
        self.has(|fault| matches!(fault, Fault::Malformed { what: Malformation::StrangeError, .. }))
    }

    /// Whether an export becomes another.
    pub(crate) fn has_changes(&self) -> bool {
        self.has(|fault| matches!(fault, Fault::Export { .. }))
    }

    /// Whether frames arrive whose damage only a digest can show.
    pub(crate) fn has_forgeries(&self) -> bool {
        let forges = |quality: &Quality| quality.forgery > 0;
        forges(&self.shape.host)
            || self.has(|fault| matches!(fault, Fault::Weather { quality, .. } if forges(quality)))
    }

    /// Whether writes of dead connections may come late, at a service that fences or at one that does not.
    pub(crate) fn has_ghosts(&self, fenced: bool) -> bool {
        let fences = self.shape.fences && self.shape.structured;
        fences == fenced
            && self.has(|fault| match fault {
                Fault::Kill { lingers, .. }
                | Fault::KillOne { lingers, .. }
                | Fault::Gateway { lingers, .. } => *lingers,
                Fault::Slow { .. } | Fault::Crash { keeps_requests: true, loses_cache: false, .. } => true,
                _ => false,
            })
    }

    /// Whether a service loses its cache and says what it is.
    pub(crate) fn has_lineage(&self) -> bool {
        self.shape.tells_incarnation
            && self.shape.structured
            && self.has(|fault| matches!(fault, Fault::Crash { loses_cache: true, .. }))
    }

    /// The same plan without some of its faults.
    pub(crate) fn without(&self, range: std::ops::Range<usize>) -> Self {
        let mut plan = self.clone();
        plan.faults.drain(range);
        plan
    }
}

const fn is_fine(quality: &Quality) -> bool {
    quality.loss + quality.corruption + quality.forgery + quality.reordering == 0 && quality.latency < 1000
}

/// As a text that [`Plan::from_str`] reads.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = "world".to_string();
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
        let (shape, faults) = parse("world", text, Shape::parse, Fault::parse)?;
        let plan = Self { shape, faults };
        plan.check()?;
        Ok(plan)
    }
}

/// The shape of a world, in a line that begins with `word`, and its faults, each with when.
pub(crate) fn parse<S, F>(
    word: &str,
    text: &str,
    shape_of: impl Fn(&mut Words<'_>) -> Option<S>,
    fault_of: impl Fn(&str, &mut Words<'_>) -> Option<F>,
) -> Result<(S, Vec<(Instant, F)>), String> {
    let (mut shape, mut faults) = (None, Vec::new());
    let fault = |text: &str| {
        let mut parts = text.splitn(3, ' ');
        let at = Instant::parse(parts.next()?)?;
        let kind = parts.next()?;
        let mut words = Words::new(parts.next().unwrap_or_default())?;
        let fault = fault_of(kind, &mut words)?;
        words.are_used_up().then_some((at, fault))
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let understood = if first == word {
            Words::new(rest).and_then(|mut words| {
                shape = Some(shape_of(&mut words)?);
                words.are_used_up().then_some(())
            })
        } else if first == "at" {
            fault(rest).map(|fault| faults.push(fault))
        } else {
            None
        };
        understood.ok_or_else(|| format!("not understood: {line}"))?;
    }
    Ok((shape.ok_or("no world")?, faults))
}

impl Plan {
    /// Whether there can be such a world.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Shape { units, block, initiators, longest, commands, depth, connections, gateways, .. } =
            self.shape;
        let is_possible = (1..=4).contains(&units)
            && (1..=4).contains(&initiators)
            && (block == 512 || block == 4096)
            && (1..=self.blocks()).contains(&longest)
            && (1..=4).contains(&connections)
            && (1..=crate::service::GATEWAYS).contains(&gateways)
            && commands > 0
            && depth > 0;
        let is_inside = self.faults.iter().all(|(_, fault)| {
            let initiator = match fault {
                Fault::Drop { initiator, .. }
                | Fault::Abort { initiator, .. }
                | Fault::Reset { initiator, .. }
                | Fault::Deaf { initiator, .. }
                | Fault::Twin { initiator, .. } => *initiator,
                _ => 0,
            };
            let unit = if let Fault::Reset { unit, .. } = fault { Some(*unit) } else { fault.unit() };
            initiator < initiators && unit.is_none_or(|unit| unit < units)
        });
        if is_possible && is_inside { Ok(()) } else { Err("no such world is possible".to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..500 {
            let plan = Plan::of(seed);
            let text = plan.to_string();
            let again: Plan = text.parse().expect("our own text");
            assert_eq!(text, again.to_string());
            assert_eq!(format!("{plan:?}"), format!("{again:?}"));
        }
    }

    #[test]
    fn a_text_that_means_nothing_is_refused() {
        for text in ["", "world", "world units=1 nonsense=2", "at 5 Crash", "hello"] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_of_fault_is_chosen_by_some_seed() {
        let mut kinds: Vec<&str> = Fault::KINDS.to_vec();
        for seed in 0..5000 {
            for (_, fault) in Plan::of(seed).faults {
                kinds.retain(|kind| *kind != fault.kind());
            }
        }
        assert!(kinds.is_empty(), "never chosen: {kinds:?}");
    }

    #[test]
    fn every_kind_of_fault_has_its_row() {
        let readme = include_str!("../README.md");
        let steps = Step::ALL.iter().map(|step| format!("{step:?}"));
        let changes = Change::ALL.iter().map(|change| format!("{change:?}"));
        let malformations = Malformation::ALL.iter().map(|what| format!("{what:?}"));
        let kinds = Fault::KINDS.iter().map(|kind| kind.to_string());
        for name in kinds.chain(steps).chain(changes).chain(malformations) {
            assert!(readme.contains(&format!("`{name}`")), "{name} is not told");
        }
    }
}
