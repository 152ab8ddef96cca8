//! A hypervisor with guests that die, hang and ignore, and whose native calls are not idempotent: holding the processors
//! twice takes two calls to let them go, and a start of what runs is an error.

use crate::random::Random;
use agent_engine::{Ended, Fault, Finding, Job, Observation, Report, Step, Task};
use agent_protocol::{Failure, State, Text};
use kernel_runtime::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// A guest, or what is left of it.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// How often its processors are held.
    holds: u32,
    runs: bool,
    /// It has ended by itself, and nobody was told.
    unburied: Option<bool>,
    /// Its monitor says nothing until then.
    hung: Instant,
    /// What was asked of its monitor in that time, and happens after it.
    late: Vec<Step>,
    /// It was asked to shut down.
    asked: bool,
    /// How long it takes for that; `None` of one that ignores it.
    obeys: Option<Duration>,
}

/// All guests, by the UUID of their machine.
#[derive(Default)]
pub(crate) struct Hypervisor {
    guests: BTreeMap<u128, Guest>,
}

/// What a native call comes to.
pub(crate) struct Call {
    pub(crate) report: Report,
    /// How long it takes.
    pub(crate) takes: Duration,
    /// The guest of the machine goes down after that.
    pub(crate) goes_down: Option<Duration>,
}

fn done(text: &str) -> Finding {
    Finding::Performed(Ok(vec![Text::new(text)]))
}

fn fault(code: Failure, text: &str) -> Finding {
    Finding::Performed(Err(Fault::new(code, text)))
}

impl Hypervisor {
    /// Carry out a job.
    pub(crate) fn carry(&mut self, job: &Job, random: &mut Random, now: Instant) -> Call {
        let obeys =
            if random.chance(200) { None } else { Some(Duration::from_millis(random.range(20, 4000))) };
        let guest = self.guests.entry(job.machine.uuid.0).or_insert(Guest {
            holds: 0,
            runs: false,
            unburied: None,
            hung: Instant::ZERO,
            late: Vec::new(),
            asked: false,
            obeys,
        });
        let ended = guest.unburied.take().map(|orderly| Ended { orderly, how: Text::new("it has ended") });
        let quick = Duration::from_micros(random.range(100, 30_000));
        let within = Duration::from_millis(job.within_ms.into());
        let is_hung = guest.runs && guest.hung > now;
        let (result, takes) = match &job.task {
            Task::Adopt | Task::Look if is_hung => (
                Finding::Seen(Observation::of(State::Unknown).because("its monitor does not answer")),
                within,
            ),
            Task::Adopt | Task::Look => (Finding::Seen(Observation::of(guest.state())), quick),
            // Nothing moves here.
            Task::CallOff => (done("nothing was under way"), quick),
            Task::Stats => (Finding::Used(Err(Fault::new(Failure::Hypervisor, "no figures"))), quick),
            Task::Remove => {
                guest.end();
                (done("nothing of it is left"), quick)
            }
            // A process can be killed, whatever its monitor does.
            Task::Perform(Step::End) => {
                guest.end();
                (done("its process is gone"), quick)
            }
            Task::Perform(step) if ended.is_some() && step.needs_running() => {
                (fault(Failure::Ended, "it has ended"), quick)
            }
            Task::Perform(step) if is_hung && step.needs_running() => {
                if random.chance(500) {
                    guest.late.push(step.clone());
                }
                return Call {
                    report: Report { ended, result: fault(Failure::Timeout, "its monitor does not answer") },
                    takes: within,
                    goes_down: None,
                };
            }
            Task::Perform(step) => (guest.perform(step), quick),
        };
        let goes_down = guest.obeys.filter(|_| guest.asked && guest.runs);
        Call { report: Report { ended, result }, takes, goes_down }
    }

    /// The guest of a machine does what it was asked to.
    pub(crate) fn obey(&mut self, machine: u128, now: Instant) -> Option<Duration> {
        let guest = self.guests.get_mut(&machine)?;
        if guest.hung > now {
            return Some(guest.hung.since(now));
        }
        if core::mem::take(&mut guest.asked) && guest.runs {
            guest.end();
            guest.unburied = Some(true);
        }
        None
    }

    /// A guest dies, the how manieth of those that run.
    pub(crate) fn die(&mut self, which: usize, orderly: bool) {
        let mut running = self.guests.values_mut().filter(|guest| guest.runs);
        if let Some(guest) = running.nth(which) {
            guest.end();
            guest.unburied = Some(orderly);
        }
    }

    /// The monitor of one that runs says nothing for a while.
    pub(crate) fn hang(&mut self, which: usize, until: Instant) {
        let mut running = self.guests.values_mut().filter(|guest| guest.runs);
        if let Some(guest) = running.nth(which) {
            guest.hung = guest.hung.max(until);
        }
    }

    /// Monitors that speak again do what they were asked for meanwhile.
    pub(crate) fn catch_up(&mut self, now: Instant) {
        for guest in self.guests.values_mut().filter(|guest| guest.hung <= now) {
            for step in core::mem::take(&mut guest.late) {
                guest.perform(&step);
            }
        }
    }

    /// Whether a machine is held more than once: no command asks for that.
    pub(crate) fn is_held_twice(&self) -> bool {
        self.guests.values().any(|guest| guest.holds > 1)
    }
}

impl Guest {
    fn state(&self) -> State {
        match (self.runs, self.holds) {
            (false, _) => State::Stopped,
            (true, 0) => State::Running,
            (true, _) => State::Paused,
        }
    }

    fn end(&mut self) {
        (self.runs, self.holds) = (false, 0);
        self.asked = false;
        self.late.clear();
        self.hung = Instant::ZERO;
    }

    fn perform(&mut self, step: &Step) -> Finding {
        match step {
            Step::Start if self.runs => return fault(Failure::Hypervisor, "it runs already"),
            Step::Start => (self.runs, self.holds) = (true, 0),
            _ if !self.runs => return fault(Failure::Hypervisor, "it does not run"),
            Step::Pause => self.holds += 1,
            Step::Resume if self.holds == 0 => return fault(Failure::Hypervisor, "it is not held"),
            Step::Resume => self.holds -= 1,
            Step::AskToStop if self.holds == 0 => self.asked = true,
            Step::AskToStop | Step::Reset => {}
            _ => return fault(Failure::Hypervisor, "this hypervisor cannot do that"),
        }
        done("it was done")
    }
}
