//! The law of the management world.
//!
//! What really happened to each command is noted where it happens: when it arrives at the agent, when it is written down,
//! when a native call is made for it, and what came of that. What clients are told is held against it.

use super::hypervisor::{News, name};
use agent_engine::{Job, Step, Task};
use agent_protocol::{Action, Command, Instance, Outcome, Verb};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one command.
#[derive(Default)]
struct Fact {
    /// The command itself: which instance, what, and whether something native comes of it.
    instance: String,
    verb: Option<Verb>,
    /// Native calls that were made for it, by their kind.
    calls: BTreeMap<&'static str, u32>,
    /// The machine they were made for.
    machine: Option<u128>,
    /// Effects that it has had, by the kind of call.
    did: BTreeMap<&'static str, u32>,
    /// What ran of the machine had ended at the last call, or has since.
    over: bool,
    /// A client was told that it has failed, as this.
    failed: Option<String>,
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
}

/// The checker.
#[derive(Default)]
pub(crate) struct Check {
    facts: BTreeMap<String, Fact>,
    /// The largest epoch that was granted.
    epoch: u64,
    /// Another appliance has taken over.
    pub(crate) is_replaced: bool,
    /// Machines of which nothing runs any more since it did.
    down: BTreeSet<u128>,
    /// The targets that an appliance has promised to expose: which of the two, the generation, and the access.
    pub(crate) targets: BTreeMap<String, (usize, u64, &'static str)>,
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

/// Steps that only ask a guest for something, and what the guest then does.
const ASKS: [&str; 4] = ["ask to stop", "ask for a disk", "ask for an interface", "let go"];

/// The native calls that a command can come to, beside the end of what runs.
const fn calls_of(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Create | Verb::Start => &["start"],
        Verb::Stop => &["ask to stop"],
        Verb::ForceStop | Verb::Terminate | Verb::Describe => &[],
        Verb::Pause => &["pause"],
        Verb::Resume => &["resume"],
        Verb::Reboot => &["ask to stop", "start"],
        Verb::Reset => &["reset"],
        Verb::Save => &["save"],
        Verb::Restore => &["restore"],
        Verb::Snapshot => &["snapshot"],
        Verb::Revert => &["revert"],
        Verb::Resize => &["resize"],
        Verb::VolumeAttach => &["attach a disk"],
        Verb::VolumeDetach => &["ask for a disk"],
        Verb::VolumeResize => &["resize a disk"],
        Verb::NicAttach => &["attach an interface"],
        Verb::NicDetach => &["ask for an interface"],
        Verb::NicUpdate => &["plug"],
        Verb::MigratePrepare => &["await"],
        Verb::MigrateStart => &["move"],
        Verb::MigrateCancel => &["keep"],
    }
}

impl Fact {
    /// The effect without which it cannot have been done, if it has not had it.
    fn lacks(&self) -> Option<&'static str> {
        let verb = self.verb?;
        // It waits for what another command has asked for, or what it asks for comes about when the machine is next started,
        // or what runs of it ends by itself.
        let needs_call = match verb {
            Verb::Stop | Verb::ForceStop | Verb::Terminate | Verb::MigrateCancel | Verb::Describe => {
                return None;
            }
            Verb::Resize
            | Verb::VolumeAttach
            | Verb::VolumeDetach
            | Verb::NicAttach
            | Verb::NicDetach
            | Verb::NicUpdate => false,
            _ => true,
        };
        let step = *calls_of(verb).last()?;
        let was_called = self.calls.contains_key(step);
        let effect = if step.starts_with("ask for") { "let go" } else { step };
        let is_there = self.did.contains_key(effect) || !was_called && !needs_call;
        // Of what has ended all that it was asked for is over too.
        let has_ended = self.over && effect == "let go";
        (!is_there && !has_ended).then_some(effect)
    }
}

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
        fact.instance = command.instance.to_string();
        let is_only_written = matches!(command.action, Action::Create { start: false, .. });
        fact.verb = (!is_only_written).then_some(command.action.verb());
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
            Task::Perform(step) => Some(name(step)),
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
        (fact.machine, fact.over) = (Some(job.machine.uuid.0), self.down.contains(&job.machine.uuid.0));
        let is_strange = fact.verb.zip(kind).is_some_and(|(verb, kind)| !calls_of(verb).contains(&kind));
        if is_twice {
            self.wrong(format!("{op} was carried out twice"));
        }
        if is_strange {
            self.wrong(format!("{op}: {} is none of its steps", kind.unwrap_or_default()));
        }
        if is_undone {
            self.wrong(format!("{op} was carried out after it was told that nothing was done"));
        }
    }

    /// What has really happened at the hypervisor.
    pub(crate) fn happened(&mut self, news: Vec<News>) {
        for one in news {
            match one {
                News::Twice { machine } => {
                    self.wrong(format!("machine {machine:x} is to run, and its peer runs it"));
                }
                News::Over { machine } => {
                    let of_it = self.facts.values_mut().filter(|fact| fact.machine == Some(machine));
                    of_it.for_each(|fact| fact.over = true);
                    self.down.insert(machine);
                }
                News::Did { op, what, machine } => {
                    log::debug!("hypervisor: {what} has been done for {op:?}");
                    let begins = matches!(what, "start" | "restore");
                    if begins {
                        self.down.remove(&machine);
                    }
                    if what == "let go" {
                        self.is_let_go(&op, machine);
                    }
                    let Some(fact) = self.facts.get_mut(&op) else { continue };
                    *fact.did.entry(what).or_insert(0) += 1;
                    fact.machine = Some(machine);
                    fact.over &= !begins;
                    let told = fact.failed.clone().filter(|_| !ASKS.contains(&what));
                    if let Some(failed) = told.or_else(|| fact.undone.then(|| "not done".into())) {
                        self.wrong(format!("{op} was told as {failed}, and {what} is done after that"));
                    }
                }
            }
        }
    }

    /// A guest lets go of something once, whoever has asked for it: a command may ask again for what one that has failed had
    /// asked for before it.
    fn is_let_go(&mut self, op: &str, machine: u128) {
        let Some(verb) = self.facts.get(op).and_then(|fact| fact.verb) else { return };
        let alike =
            self.facts.values_mut().filter(|fact| fact.verb == Some(verb) && fact.machine == Some(machine));
        for fact in alike.filter(|fact| fact.end.is_none() && fact.did.keys().any(|what| ASKS.contains(what)))
        {
            fact.did.entry("let go").or_insert(0);
        }
    }

    /// Whether all is known of what the instance was commanded to.
    pub(crate) fn is_settled(&self, shown: &Instance) -> bool {
        let of_it = self.facts.values().filter(|fact| fact.received && fact.instance == shown.id.as_str());
        !of_it.into_iter().any(|fact| matches!(fact.end, None | Some("indeterminate")))
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
        if stage == "succeeded" && changed {
            wrong = wrong.or(fact.lacks().map(|what| format!("{op} is told as done, and it lacks {what}")));
        }
        let effect = fact.did.keys().find(|what| !ASKS.contains(what)).filter(|_| !fact.over);
        if let ("failed", Some(effect)) = (stage.as_str(), effect) {
            wrong = Some(format!("{op} is told as failed, {kind}, and {effect} was done"));
        }
        if stage == "failed" {
            fact.failed = Some(kind);
        }
        fact.undone |= nothing;
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

    /// A client was told that the target is wanted with that access.
    pub(crate) fn exposed(&mut self, who: usize, access: &'static str, document: &Value) {
        self.answers += 1;
        let desired = &document["desired"];
        if let (Some(name), Some(generation), true) =
            (document["id"].as_str(), desired["generation"].as_u64(), desired["durable"] == true)
        {
            self.targets.insert(name.into(), (who, generation, access));
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
