//! The law of the management world.
//!
//! What really happened to each command is noted where it happens: when it arrives at the agent, when it is written down,
//! when a native call is made for it, and what came of that. What clients are told is held against it.

use agent_engine::{Job, Step, Task};
use agent_protocol::{Command, Outcome};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is known of one command.
#[derive(Default)]
struct Fact {
    /// Native calls that were made for it, by their kind.
    calls: BTreeMap<&'static str, u32>,
    /// It was written down as received.
    received: bool,
    /// What the agent wrote down as its end.
    end: Option<&'static str>,
    /// The last stage that a client was told, and whether the appliance promised to remember that.
    told: Option<(String, bool)>,
    /// It has promised to remember the operation.
    promised: bool,
    /// A client was told that nothing was done.
    undone: bool,
    /// A client was told that it is done and has changed something.
    done: bool,
}

/// The checker.
#[derive(Default)]
pub(crate) struct Check {
    facts: BTreeMap<String, Fact>,
    /// The largest epoch that was granted.
    epoch: u64,
    /// Another appliance has taken over.
    pub(crate) is_replaced: bool,
    /// The maps that an appliance has promised to keep: which of the two, and the generation.
    pub(crate) maps: BTreeMap<String, (usize, u64)>,
    /// What is wrong, if anything.
    pub(crate) violation: Option<String>,
    /// Answers about operations that were held against the facts.
    pub(crate) answers: u64,
    /// Native calls that were made for commands.
    pub(crate) calls: u64,
}

/// Problems that say that nothing was done, for good.
const UNDONE: [&str; 8] = [
    "agent-unavailable",
    "deadline-passed",
    "no-state",
    "stale-epoch",
    "agent-refused",
    "agent-storage",
    "wrong-state",
    "too-busy",
];

impl Check {
    pub(crate) fn wrong(&mut self, what: String) {
        log::debug!("WRONG: {what}");
        self.violation.get_or_insert(what);
    }

    /// The command has arrived at the agent.
    pub(crate) fn arrived(&mut self, command: &Command, now_ms: u64) {
        let late = command.deadline_ms.is_some_and(|deadline| now_ms > deadline);
        log::debug!(
            "agent: {} {} arrives{}",
            command.op_id,
            command.action.verb(),
            if late { " late" } else { "" }
        );
        let fact = self.facts.entry(command.op_id.to_string()).or_default();
        // That it may not be carried out any more is only of interest if it is.
        if !fact.received {
            fact.calls.insert("late", u32::from(late));
            fact.calls.insert("stale", u32::from(command.epoch.is_some_and(|epoch| epoch < self.epoch)));
        }
    }

    /// The agent has granted this epoch.
    pub(crate) fn granted(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The agent has written it down.
    pub(crate) fn received(&mut self, command: &Command) {
        let fact = self.facts.entry(command.op_id.to_string()).or_default();
        fact.received = true;
        let [late, stale] =
            ["late", "stale"].map(|what| fact.calls.get(what).is_some_and(|count| *count > 0));
        if late {
            self.wrong(format!("{} was taken after its deadline", command.op_id));
        }
        if stale {
            self.wrong(format!("{} was taken of an appliance that was replaced", command.op_id));
        }
    }

    /// A native call is made, for a command or not.
    pub(crate) fn performs(&mut self, op: Option<&str>, job: &Job) {
        let kind = match &job.task {
            // To end what has ended does nothing, and here nothing moves that could be called off.
            Task::Adopt
            | Task::Look
            | Task::Stats
            | Task::CallOff
            | Task::Remove
            | Task::Perform(Step::End) => None,
            Task::Perform(Step::Start) => Some("start"),
            Task::Perform(Step::Pause) => Some("pause"),
            Task::Perform(Step::Resume) => Some("resume"),
            Task::Perform(Step::AskToStop) => Some("ask to stop"),
            Task::Perform(_) => Some("another"),
        };
        let ends = matches!(job.task, Task::Remove | Task::Perform(Step::End));
        let Some(op) = op.filter(|_| kind.is_some() || ends) else {
            if kind.is_some() || ends {
                self.wrong(format!("{} is changed although nobody asked for it", job.machine.id));
            }
            return;
        };
        self.calls += 1;
        log::debug!("hypervisor: {:?} for {op}", job.task);
        let fact = self.facts.entry(op.into()).or_default();
        let count = fact.calls.entry(kind.unwrap_or("end")).or_insert(0);
        *count += 1;
        let (is_twice, is_undone) = (*count > 1 && kind.is_some(), fact.undone);
        if is_twice {
            self.wrong(format!("{op} was carried out twice"));
        }
        if is_undone {
            self.wrong(format!("{op} was carried out after it was told that nothing was done"));
        }
    }

    /// The agent has written down what became of it.
    pub(crate) fn concluded(&mut self, op: &str, outcome: &Outcome) {
        log::debug!("agent: {op} ends: {outcome:?}");
        self.facts.entry(op.into()).or_default().end = Some(match outcome {
            Outcome::Done { .. } => "done",
            Outcome::Accepted { .. } => "accepted",
            Outcome::Refused { .. } => "refused",
            Outcome::Failed { .. } => "failed",
            Outcome::Indeterminate { .. } => "indeterminate",
        });
    }

    /// A client was told this of an operation. Answers whether that is its end.
    pub(crate) fn told(&mut self, op: &str, document: &Value) -> bool {
        self.answers += 1;
        let stage = document["state"].as_str().unwrap_or_default().to_owned();
        let kept = document["kept"].as_bool().unwrap_or_default();
        let kind = document["error"]["type"].as_str().unwrap_or_default();
        let kind = kind.strip_prefix("urn:corbel:problem:").unwrap_or_default().to_owned();
        let is_final = matches!(stage.as_str(), "succeeded" | "failed" | "refused");
        let fact = self.facts.entry(op.into()).or_default();
        let calls: u32 =
            fact.calls.iter().filter(|(what, _)| !matches!(**what, "late" | "stale")).map(|(_, n)| n).sum();
        let mut wrong = None;
        if let Some((before, true)) = &fact.told
            && *before != stage
            && matches!(before.as_str(), "succeeded" | "failed" | "refused")
        {
            wrong = Some(format!("{op} was {before} and is {stage} now"));
        }
        let changed = document["changed"] == true;
        let nothing = stage == "refused" || stage == "failed" && UNDONE.contains(&kind.as_str());
        if nothing && calls > 0 {
            wrong = Some(format!("{op} was carried out and is told as {stage}: {kind}"));
        }
        if stage == "succeeded" && fact.end != Some("done") {
            wrong = Some(format!("{op} is told as done and is {:?}", fact.end));
        }
        if stage == "failed" && fact.end == Some("done") {
            wrong = Some(format!("{op} is done and is told as failed: {kind}"));
        }
        fact.undone |= nothing;
        fact.done |= stage == "succeeded" && changed;
        fact.promised |= kept;
        fact.told = Some((stage, kept));
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
        is_final
    }

    /// A client was told that the map is wanted.
    pub(crate) fn promised(&mut self, who: usize, document: &Value) {
        self.answers += 1;
        let desired = &document["desired"];
        if let (Some(name), Some(generation), true) =
            (document["id"].as_str(), desired["generation"].as_u64(), desired["durable"] == true)
        {
            self.maps.insert(name.into(), (who, generation));
        }
    }

    /// The appliance does not know the operation that it told a client of.
    pub(crate) fn forgotten(&mut self, op: &str) {
        if self.facts.get(op).is_some_and(|fact| fact.promised) {
            self.wrong(format!("{op} was promised to be remembered and is forgotten"));
        }
    }

    /// The client's token stood for one operation and stands for another.
    pub(crate) fn renamed(&mut self, before: &str, now: &str) {
        if self.facts.get(before).is_some_and(|fact| fact.promised) {
            self.wrong(format!("the token of {before} stands for {now} now"));
        }
    }

    /// Whether it may be that nobody ever knows: the agent itself does not.
    pub(crate) fn may_be_unknown(&self, op: &str) -> bool {
        self.facts.get(op).is_some_and(|fact| fact.end == Some("indeterminate"))
    }
}
