//! How an operation gets to the agent, at most once, and how it is found out what became of it.
//!
//! A command is sent once. Whatever comes in between (a connection that is lost, a silence, a reset of the appliance),
//! the agent is then asked what it knows of it, until it says. Only when it never received it, and the deadline has not
//! passed on its own clock, is it sent again, under the same name; when the deadline has passed, or the agent has started
//! anew, a copy that is still on its way would be refused, so that nothing was done, for good.

use crate::Management;
use crate::ask::{AgentError, Question, Reply};
use crate::forward::Pending;
use crate::operations::{End, Meant, Operation, Stage};
use crate::problem::{Kind, Problem};
use crate::views::InstanceView;
use agent_protocol::{Answer, Command, OpId, Outcome, Refusal, Uuid, Verb, Welcome};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Instant, earliest};

/// How long the first wait is before the agent is asked again, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_RUNNING: Duration = Duration::from_secs(2);
const AGAIN_LOST: Duration = Duration::from_secs(5);
const AGAIN_IN_DOUBT: Duration = Duration::from_secs(30);
/// How long the agent may hold back an answer while nobody else waits for a link: most commands are over by then.
const HOLD: Duration = Duration::from_millis(50);
/// The first wait before what the agent is at is asked for again.
const AGAIN_AT_WORK: Duration = Duration::from_millis(50);
/// What is not over so soon after it came is told as running.
const PROMPT: Duration = Duration::from_secs(3);
/// So soon after it was sent the agent has not forgotten it.
const SOON: Duration = Duration::from_secs(60);
/// By how much the agent's clock may be behind what it is taken for, in milliseconds.
const DRIFT_MS: u64 = 1000;
/// How much of the agent's evidence is kept of an operation.
const EVIDENCE_MAX: usize = 8;
/// The agent remembers an operation for at least so many entries of its journal.
const REMEMBERED: u64 = 1000;

/// The run of the agent at the other end, and how its clock relates to ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) boot: Uuid,
    pub(crate) epoch: u64,
    /// The last entry of its journal.
    head: u64,
    /// Its clock said this, in milliseconds,
    clock_ms: u64,
    /// when ours said this.
    heard: Instant,
}

impl Peer {
    pub(crate) fn new(welcome: &Welcome, heard: Instant) -> Self {
        let Welcome { agent_boot: boot, epoch, journal_head: head, clock_ms, .. } = *welcome;
        Self { boot, epoch, head, clock_ms, heard }
    }

    /// What its clock says at `at`, or somewhat more.
    pub(crate) fn clock_ms(&self, at: Instant) -> u64 {
        let passed = at.since(self.heard).as_millis();
        self.clock_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// What is sent to it by `deadline`.
    pub(crate) fn meant(&self, deadline: Instant) -> Meant {
        Meant { boot: self.boot, deadline_ms: self.clock_ms(deadline), head: self.head }
    }

    /// Whether it would know of what was meant for an earlier run of it: its journal is there, and not so much longer that
    /// it may have forgotten.
    fn remembers(&self, meant: &Meant) -> bool {
        self.head > 0 && (meant.head..meant.head.saturating_add(REMEMBERED)).contains(&self.head)
    }
}

/// Whether the verb says how an instance is to be, so that a client may ask for it again without harm. What such a verb
/// asks for may be done although it cannot be remembered; what others ask for may not.
pub(crate) const fn is_repeatable(verb: Verb) -> bool {
    !matches!(verb, Verb::Reboot | Verb::Reset | Verb::Revert | Verb::MigrateStart)
}

/// What a link carries.
pub(crate) enum Work {
    /// A question on whose answer somebody waits.
    Question(Rc<Pending>),
    /// An operation.
    Operation(OpId),
}

impl Management {
    /// What a link is to carry now, or when to ask again.
    pub(crate) fn take_work(&self) -> Result<Work, Option<Instant>> {
        if let Some(pending) = self.forward.next() {
            return Ok(Work::Question(pending));
        }
        // One link is left for those who only look.
        let most = self.forward.links.get().saturating_sub(1).max(1);
        if self.forward.hands.get() >= most {
            return Err(None);
        }
        let now = self.clock.now();
        let mut next = None;
        for operation in self.operations.borrow_mut().iter_mut().filter(|operation| operation.is_for_links())
        {
            if operation.due <= now {
                operation.carried = true;
                return Ok(Work::Operation(operation.id.clone()));
            }
            next = earliest(next, Some(operation.due));
        }
        Err(next)
    }

    /// How long the agent may hold back its answer on a link: not at all while others wait for one.
    pub(crate) fn may_hold(&self) -> Duration {
        let now = self.clock.now();
        let is_due = |operation: &Operation| operation.is_for_links() && operation.due <= now;
        let others = self.forward.is_wanted() || self.operations.borrow().iter().any(is_due);
        if others { Duration::ZERO } else { HOLD }
    }

    /// The operations that the agent may have received and that are due, for a link that can do no more than ask.
    pub(crate) fn take_tried(&self) -> Vec<OpId> {
        let now = self.clock.now();
        let mut operations = self.operations.borrow_mut();
        let due = |operation: &&mut Operation| {
            operation.is_for_links() && operation.sends > 0 && operation.due <= now
        };
        operations
            .iter_mut()
            .filter(due)
            .map(|operation| {
                operation.look_again(now, AGAIN_LOST, AGAIN_IN_DOUBT);
                operation.id.clone()
            })
            .collect()
    }

    /// Whether a connection is wanted at once: somebody waits.
    pub(crate) fn wants_link(&self) -> bool {
        let is_new = |operation: &Operation| operation.is_for_links() && operation.sends == 0;
        self.forward.is_wanted() || self.operations.borrow().iter().any(is_new)
    }

    /// What a link is to ask `peer` about an operation it has taken.
    pub(crate) fn next_question(&self, id: &OpId, peer: &Peer) -> Option<Question> {
        let now = self.clock.now();
        let mut operations = self.operations.borrow_mut();
        let operation = operations.get_mut(id)?;
        if operation.tried {
            return Some(Question::Recall(id.clone()));
        }
        if operation.sends == 0 && now >= operation.deadline {
            let detail = "Its time was up before the agent could be asked.";
            operation.end_with(End::undone(Kind::DeadlinePassed, detail), now);
            self.changed.raise();
            return None;
        }
        let Some(meant) = operation.meant.filter(|meant| meant.boot == peer.boot) else {
            // The run that it was sent to may have it from a copy that came late, and have told the next one.
            if operation.sends > 0 && operation.meant.is_some() {
                operation.tried = true;
                return Some(Question::Recall(id.clone()));
            }
            operation.meant = Some(peer.meant(operation.deadline));
            operation.is_to_be_kept(now);
            self.changed.raise();
            return None;
        };
        operation.tried = true;
        operation.sends = operation.sends.saturating_add(1);
        operation.heard = now;
        operation.enter(Stage::Sent, now);
        let mut command = Command::new(id.clone(), operation.instance.clone(), operation.action.clone());
        command.precondition = operation.precondition.clone();
        // What must not be ignored by an agent that is older than these.
        command.critical = ["precondition", "deadline_ms", "epoch"].map(String::from).to_vec();
        command.epoch = Some(peer.epoch);
        command.agent_boot = Some(peer.boot);
        command.deadline_ms = Some(meant.deadline_ms);
        Some(Question::Command(Box::new(command)))
    }

    /// Write down what came of that question.
    pub(crate) fn delivered(
        &self,
        id: &OpId,
        peer: Option<&Peer>,
        was_sent: bool,
        reply: Result<Reply, AgentError>,
    ) {
        let now = self.clock.now();
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(id) else { return };
        let news = match reply {
            Ok(Reply::Answer(answer)) => self.conclude(operation, &answer, now),
            Ok(Reply::Meanwhile(answer)) => {
                operation.heard = now;
                if let Some(Outcome::Accepted { instance }) = answer.as_ref().map(|answer| &answer.outcome) {
                    operation.result =
                        answer.as_ref().map(|answer| InstanceView::new(instance, answer.clock_ms));
                }
                operation.look_again(now, AGAIN_AT_WORK, AGAIN_RUNNING);
                let is_slow = operation.accepted.is_none_or(|accepted| now.since(accepted) >= PROMPT);
                if is_slow || operation.stage == Stage::Indeterminate {
                    operation.enter(Stage::Running, now)
                } else {
                    None
                }
            }
            Ok(Reply::NeverReceived) => {
                let greeted = self.forward.peer.get().map(|peer| peer.boot);
                never_received(operation, peer, greeted, now)
            }
            Err(AgentError::Refused(what)) if was_sent && operation.sends == 1 => {
                let detail = AgentError::Refused(what).to_string();
                operation.end_with(End::undone(Kind::AgentRefused, &detail), now);
                None
            }
            Ok(_) => {
                let error = AgentError::Nonsense("the answer to another question".into());
                nonsense(operation, &error, now)
            }
            Err(error @ AgentError::Nonsense(_)) => nonsense(operation, &error, now),
            Err(_) if was_sent => {
                (operation.due, operation.carried) = (now, false);
                None
            }
            Err(_) => {
                operation.look_again(now, AGAIN_FIRST, AGAIN_LOST);
                None
            }
        };
        self.noted(news, operation);
        drop(operations);
        self.changed.raise();
        self.news.ring();
        self.forward.wake();
    }

    /// Write down the agent's answer.
    fn conclude(&self, operation: &mut Operation, answer: &Answer, now: Instant) -> Option<Stage> {
        let view = |instance| InstanceView::new(instance, answer.clock_ms);
        operation.heard = now;
        let end = match &answer.outcome {
            Outcome::Done { changed, instance, evidence } => End {
                stage: Stage::Succeeded,
                changed: Some(*changed),
                evidence: evidence.iter().take(EVIDENCE_MAX).cloned().collect(),
                problem: None,
                result: Some(view(instance)),
                remembered: true,
            },
            Outcome::Accepted { instance } => {
                operation.result = Some(view(instance));
                operation.look_again(now, AGAIN_FIRST, AGAIN_RUNNING);
                return operation.enter(Stage::Running, now);
            }
            Outcome::Refused { code: Refusal::StaleBoot, .. } if operation.accepted.is_some() => {
                // That run has never received it, and no other will take what was meant for that one.
                (operation.tried, operation.meant) = (false, None);
                (operation.due, operation.carried) = (now, false);
                return operation.enter(Stage::Accepted, now);
            }
            Outcome::Refused { code, detail, instance } => {
                if *code == Refusal::StaleEpoch {
                    self.forward.is_superseded();
                }
                let current = instance.as_ref().map(view).map(Box::new);
                let problem = Problem { current, ..Problem::new(Kind::of_refusal(*code), detail.as_str()) };
                End { stage: Stage::Refused, problem: Some(problem), ..End::undone(Kind::NotFound, "") }
            }
            Outcome::Failed { code, detail, instance } => {
                let result = instance.as_ref().map(view);
                End { result, ..End::undone(Kind::of_failure(*code), detail.as_str()) }
            }
            Outcome::Indeterminate { detail } => {
                operation.look_again(now, AGAIN_FIRST, AGAIN_IN_DOUBT);
                return operation.doubt(Kind::OutcomeUnknown, detail.as_str(), now);
            }
        };
        operation.end_with(end, now);
        None
    }

    /// No link can connect: what was never sent ends at once, in nothing.
    pub(crate) fn give_up(&self, kind: Kind, why: &str) {
        let now = self.clock.now();
        for operation in self.operations.borrow_mut().iter_mut() {
            if operation.is_for_links() && operation.sends == 0 {
                operation.end_with(End::undone(kind, why), now);
                self.changed.raise();
            }
        }
    }
}

/// The agent never received it. `peer` is `None` of one that takes no commands from this appliance any more; the run that
/// was last `greeted` is then the only one that is known.
fn never_received(
    operation: &mut Operation,
    peer: Option<&Peer>,
    greeted: Option<Uuid>,
    now: Instant,
) -> Option<Stage> {
    let doubt = "The agent does not remember what it was asked; look at the instance.";
    let end = match (peer, operation.meant) {
        _ if operation.stage == Stage::Running => {
            operation.look_again(now, AGAIN_FIRST, AGAIN_IN_DOUBT);
            return operation.doubt(Kind::OutcomeUnknown, doubt, now);
        }
        // A copy on its way would be refused. That it was forgotten since is not to be thought of so soon; that another run
        // does not know of it says nothing.
        (None, Some(meant))
            if operation.accepted.is_some()
                && greeted == Some(meant.boot)
                && now.since(operation.heard) < SOON =>
        {
            End::undone(Kind::StaleEpoch, "The command did not reach the agent; nothing was done.")
        }
        (Some(peer), Some(meant)) if meant.boot == peer.boot => {
            let clock_ms = peer.clock_ms(now);
            if clock_ms <= meant.deadline_ms.saturating_add(DRIFT_MS) {
                if clock_ms <= meant.deadline_ms {
                    operation.tried = false;
                }
                operation.look_again(now, AGAIN_FIRST, AGAIN_LOST);
                return None;
            }
            let detail = "The command was lost on its way; nothing was done.";
            End::undone(Kind::DeadlinePassed, detail)
        }
        (Some(peer), Some(meant)) if peer.remembers(&meant) => {
            let detail = "The agent started anew before the command reached it; nothing was done.";
            End::undone(Kind::AgentUnavailable, detail)
        }
        _ => {
            operation.look_again(now, AGAIN_FIRST, AGAIN_IN_DOUBT);
            return operation.doubt(Kind::OutcomeUnknown, doubt, now);
        }
    };
    operation.end_with(end, now);
    None
}

fn nonsense(operation: &mut Operation, error: &AgentError, now: Instant) -> Option<Stage> {
    operation.look_again(now, AGAIN_FIRST, AGAIN_IN_DOUBT);
    operation.doubt(Kind::AgentNonsense, &error.to_string(), now)
}
