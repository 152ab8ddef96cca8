//! A hypervisor with guests that die, hang, ignore and move away, and whose native calls are not idempotent: holding the
//! processors twice takes two calls to let them go, a start of what runs is an error, and so is a disk that is there.

use super::guest::Guest;
use crate::random::Random;
use agent_engine::{Ended, Fault, Finding, Job, Observation, Report, Step, Task};
use agent_protocol::{Failure, State, Text};
use kernel_runtime::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest that a monitor is waited for which says nothing.
const SILENCE: Duration = Duration::from_secs(15);

/// All guests, by the UUID of their machine.
pub(crate) struct Hypervisor {
    guests: BTreeMap<u128, Guest>,
    /// What has happened and was not told to the checker.
    news: Vec<News>,
    /// A planted bug: it shows a disk as gone as soon as the guest was asked for it.
    hastens: bool,
}

/// Something that has really happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A step for this command has had its effect.
    Did { op: String, what: &'static str, machine: u128 },
    /// What ran of the machine does not any more, and with it all effects on what ran.
    Over { machine: u128 },
    /// It was to run although its peer runs it.
    Twice { machine: u128 },
}

/// What a native call comes to.
pub(crate) struct Call {
    pub(crate) report: Report,
    /// How long it takes.
    pub(crate) takes: Duration,
    /// The guest of the machine goes down after that.
    pub(crate) goes_down: Option<Duration>,
}

/// What a step is called.
pub(crate) const fn name(step: &Step) -> &'static str {
    match step {
        Step::Start => "start",
        Step::Pause => "pause",
        Step::Resume => "resume",
        Step::AskToStop => "ask to stop",
        Step::End => "end",
        Step::Reset => "reset",
        Step::Save => "save",
        Step::Restore => "restore",
        Step::Snapshot(_) => "snapshot",
        Step::Revert(_) => "revert",
        Step::Resize(_) => "resize",
        Step::AttachVolume(_) => "attach a disk",
        Step::DetachVolume(_) => "ask for a disk",
        Step::ResizeVolume(_) => "resize a disk",
        Step::AttachNic(_) => "attach an interface",
        Step::DetachNic(_) => "ask for an interface",
        Step::UpdateNic(..) => "plug",
        Step::MigratePrepare => "await",
        Step::MigrateStart(_) => "move",
        Step::MigrateCancel => "keep",
    }
}

fn done(text: &str) -> Finding {
    Finding::Performed(Ok(vec![Text::new(text)]))
}

fn fault(code: Failure, text: &str) -> Finding {
    Finding::Performed(Err(Fault::new(code, text)))
}

impl Hypervisor {
    pub(crate) const fn new(hastens: bool) -> Self {
        Self { guests: BTreeMap::new(), news: Vec::new(), hastens }
    }

    /// Carry out a job, for a command or not.
    pub(crate) fn carry(&mut self, job: &Job, op: Option<&str>, random: &mut Random, now: Instant) -> Call {
        let machine = job.machine.uuid.0;
        let guest = self.guests.entry(machine).or_insert_with(|| Guest::new(random));
        let news = &mut self.news;
        // A monitor hears what it was asked for in its order.
        guest.pass(machine, now, news);
        let ended = guest.unburied.take().map(|orderly| Ended { orderly, how: Text::new("it has ended") });
        let quick = Duration::from_micros(random.range(100, 30_000));
        let silence = Duration::from_millis(job.within_ms.into()).min(SILENCE);
        let is_hung = guest.is_hung(now);
        let op = op.unwrap_or_default();
        let (result, takes) = match &job.task {
            Task::Adopt | Task::Look if is_hung => (
                Finding::Seen(Observation::of(State::Unknown).because("its monitor does not answer")),
                silence,
            ),
            Task::Adopt | Task::Look => {
                if job.task == Task::Adopt {
                    guest.stays(now);
                }
                (Finding::Seen(guest.seen(now, self.hastens)), quick)
            }
            Task::CallOff => {
                let stays = guest.stays(now);
                (done(if stays { "it stays" } else { "nothing could be called off" }), quick)
            }
            Task::Stats => (Finding::Used(Err(Fault::new(Failure::Hypervisor, "no figures"))), quick),
            Task::Remove => {
                guest.end(machine, now, news);
                guest.clear();
                (done("nothing of it is left"), quick)
            }
            // A process can be killed, whatever its monitor does.
            Task::Perform(Step::End) => {
                guest.end(machine, now, news);
                (done("its process is gone"), quick)
            }
            Task::Perform(step) if ended.is_some() && step.needs_running() => {
                (fault(Failure::Ended, "it has ended"), quick)
            }
            Task::Perform(step) if is_hung => {
                if step.needs_running() && random.chance(500) {
                    guest.late.push((op.into(), step.clone()));
                }
                (fault(Failure::Timeout, "its monitor does not answer"), silence)
            }
            Task::Perform(step) => {
                let lets_run =
                    matches!(step, Step::Start | Step::Resume | Step::Restore | Step::MigrateCancel);
                if lets_run && guest.is_at_peer() {
                    news.push(News::Twice { machine });
                }
                let takes = guest.takes(step, op, random, now).unwrap_or(quick);
                (guest.perform(step, Some(&job.machine), (op, machine), now, news), takes)
            }
        };
        let goes_down = guest.goes_down().filter(|_| !is_hung);
        Call { report: Report { ended, result }, takes, goes_down }
    }

    /// A job comes back that has taken its time: what has become of it since.
    pub(crate) fn conclude(&mut self, job: &Job, report: Report, now: Instant) -> Report {
        let (machine, Finding::Performed(Ok(_))) = (job.machine.uuid.0, &report.result) else {
            return report;
        };
        let Some(guest) = self.guests.get_mut(&machine) else { return report };
        guest.pass(machine, now, &mut self.news);
        let result = match &job.task {
            Task::Perform(Step::Save) if !guest.is_saved() => fault(Failure::Hypervisor, "it was not saved"),
            Task::Perform(Step::MigrateStart(_)) => match guest.has_left() {
                Some(true) => report.result,
                Some(false) => fault(Failure::Timeout, "its peer does not say whether it has it"),
                None => fault(Failure::Hypervisor, "it was not moved"),
            },
            _ => report.result,
        };
        Report { result, ..report }
    }

    /// The guest of a machine does what it was asked to.
    pub(crate) fn obey(&mut self, machine: u128, now: Instant) -> Option<Duration> {
        self.guests.get_mut(&machine)?.obey(machine, now, &mut self.news)
    }

    /// A guest dies, the how manieth of those of which something runs.
    pub(crate) fn die(&mut self, which: usize, orderly: bool, now: Instant) {
        let mut alive = self.guests.iter_mut().filter(|(_, guest)| guest.lives(now));
        if let Some((machine, guest)) = alive.nth(which) {
            guest.die(*machine, orderly, now, &mut self.news);
        }
    }

    /// The process that runs a machine dies, if there is one.
    pub(crate) fn fall(&mut self, machine: u128, now: Instant) {
        if let Some(guest) = self.guests.get_mut(&machine).filter(|guest| guest.lives(now)) {
            guest.die(machine, false, now, &mut self.news);
        }
    }

    /// The monitor of one that runs says nothing for a while.
    pub(crate) fn hang(&mut self, which: usize, until: Instant) {
        if let Some(guest) = self.guests.values_mut().filter(|guest| guest.runs()).nth(which) {
            guest.hang(until);
        }
    }

    /// Time has passed for all guests.
    pub(crate) fn pass(&mut self, now: Instant) {
        for (machine, guest) in &mut self.guests {
            guest.pass(*machine, now, &mut self.news);
        }
    }

    /// What has happened since this was asked.
    pub(crate) fn news(&mut self) -> Vec<News> {
        core::mem::take(&mut self.news)
    }

    /// Whether a machine is held more than once: no command asks for that.
    pub(crate) fn is_held_twice(&self) -> bool {
        self.guests.values().any(Guest::is_held_twice)
    }

    /// In what a guest that runs differs from what the agent shows of it, if in anything.
    pub(crate) fn difference(&self, shown: &agent_protocol::Instance) -> Option<String> {
        self.guests.get(&shown.uuid.0)?.difference(shown)
    }
}
