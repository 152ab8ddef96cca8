//! The operations of late: each command is one, with a state that always ends.
//!
//! An operation is accepted, and kept on the state disk, before the agent hears of it; links deliver it
//! (`delivery.rs`), and what became of it is kept before it is told. `clerk.rs` does the keeping, `stored.rs` has its form.

use crate::documents::{ClientToken, Order};
use crate::problem::{Kind, Problem};
use crate::views::InstanceView;
use agent_protocol::{Action, InstanceId, OpId, Precondition, Text, Uuid, Verb, Volume};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
pub(crate) use management_api::OperationState as Stage;
use management_api::OperationView;

/// How long an operation that has ended and its client token are remembered at least: longer than any deadline, so that
/// whoever asks again within it gets the same answer.
const REMEMBERED: Duration = Duration::from_secs(120);
/// So many operations of late show the instance as it was after them.
const RESULTS: usize = 64;
/// The share of the table, one in so many, that is there for what ends an instance only.
const RESERVE: usize = 8;

/// The run of the agent that a command is meant for, and the last moment on that run's clock, in milliseconds, at which
/// it may be begun. Another run would refuse the command, and so does this one after that moment: then a copy that is
/// still on its way is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) boot: Uuid,
    pub(crate) deadline_ms: u64,
    /// The end of the agent's journal before it was sent.
    pub(crate) head: u64,
}

/// Whether the state disk has an operation as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Not yet; nothing is done or told until it has.
    Waiting,
    /// It has.
    Yes,
    /// There is no disk, or it has failed.
    No,
}

/// How an operation has ended, before that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) stage: Stage,
    pub(crate) changed: Option<bool>,
    pub(crate) evidence: Vec<Text>,
    pub(crate) problem: Option<Problem>,
    pub(crate) result: Option<InstanceView>,
    /// The agent remembers it, so that it would be found out again.
    pub(crate) remembered: bool,
}

impl End {
    /// An end in which nothing was done, for this reason.
    pub(crate) fn undone(kind: Kind, detail: &str) -> Self {
        Self {
            stage: Stage::Failed,
            changed: None,
            evidence: Vec::new(),
            problem: Some(Problem::new(kind, detail)),
            result: None,
            remembered: false,
        }
    }
}

/// One command and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Its name; the agent knows it by the same.
    pub(crate) id: OpId,
    /// Its place among all that there ever were.
    pub(crate) number: u64,
    /// Who asked.
    pub(crate) caller: Text,
    /// What was asked.
    pub(crate) action: Action,
    /// Of which instance.
    pub(crate) instance: InstanceId,
    /// Under which condition.
    pub(crate) precondition: Precondition,
    /// The client's name for it.
    pub(crate) token: Option<ClientToken>,
    /// How far it has come.
    pub(crate) stage: Stage,
    /// Whether it changed anything, once it has succeeded.
    pub(crate) changed: Option<bool>,
    /// What the agent saw that proves it.
    pub(crate) evidence: Vec<Text>,
    /// Why it did not succeed.
    pub(crate) problem: Option<Problem>,
    /// The instance after it.
    pub(crate) result: Option<InstanceView>,
    /// When it came; `None` when that was before the appliance started.
    pub(crate) accepted: Option<Instant>,
    /// After this it cannot be begun any more, and when nothing is heard for a while longer nobody knows.
    pub(crate) deadline: Instant,
    /// When it ended.
    pub(crate) ended: Option<Instant>,
    /// Whom it may have been sent to.
    pub(crate) meant: Option<Meant>,
    /// Whether the disk has it like this.
    pub(crate) kept: Kept,
    /// It was accepted for good, so that it may be told of.
    pub(crate) told: bool,
    /// The disk has it in some form, so that a reset leaves it known.
    pub(crate) durable: bool,
    /// How it ends as soon as that is kept.
    pub(crate) end: Option<End>,
    /// It may have reached the agent, and what became of it is to be asked for.
    pub(crate) tried: bool,
    /// How often it may have been sent.
    pub(crate) sends: u32,
    /// A link has it in its hands.
    pub(crate) carried: bool,
    /// Not to be looked at before.
    pub(crate) due: Instant,
    /// How long the last wait for that was.
    pub(crate) pause: Duration,
    /// When the agent was last heard of it.
    pub(crate) heard: Instant,
}

impl Operation {
    /// Whether `order` asks for the same.
    fn is_same(&self, order: &Order) -> bool {
        self.instance == order.instance
            && self.action == order.action
            && self.precondition == order.precondition
    }

    /// Where it can be found.
    pub(crate) fn path(&self) -> String {
        format!("/v1/operations/{}", self.id)
    }

    /// Whether a link is to take it, now or when it is due.
    pub(crate) fn is_for_links(&self) -> bool {
        !self.carried && self.end.is_none() && self.kept != Kept::Waiting && !self.stage.is_final()
    }

    /// Look at it again, in a while that grows up to `most`.
    pub(crate) fn look_again(&mut self, now: Instant, least: Duration, most: Duration) {
        self.pause = (self.pause * 2).clamp(least, most);
        self.due = now + self.pause;
        self.carried = false;
    }

    /// Let it end like this as soon as that is kept.
    pub(crate) fn end_with(&mut self, end: End, now: Instant) {
        self.end = Some(end);
        self.is_to_be_kept(now);
    }

    /// The disk is to have it as it is now.
    pub(crate) fn is_to_be_kept(&mut self, now: Instant) {
        self.kept = Kept::Waiting;
        self.carried = false;
        self.due = now;
    }

    /// It is not known what became of it, for this reason.
    pub(crate) fn doubt(&mut self, kind: Kind, detail: &str, now: Instant) -> Option<Stage> {
        self.problem = Some(Problem::new(kind, detail).at(&self.path()));
        self.enter(Stage::Indeterminate, now)
    }

    /// It ends, with what it was to end with. Answers how, if that is news.
    pub(crate) fn finish(&mut self, now: Instant) -> Option<Stage> {
        let end = self.end.take()?;
        let path = self.path();
        (self.changed, self.evidence, self.result) = (end.changed, end.evidence, end.result);
        self.problem = end.problem.map(|problem| problem.at(&path));
        self.enter(end.stage, now)
    }

    /// It is in `stage` now. Answers it, if that is news.
    pub(crate) fn enter(&mut self, stage: Stage, now: Instant) -> Option<Stage> {
        if self.stage == stage {
            return None;
        }
        self.stage = stage;
        if stage.is_open() {
            self.ended = None;
            self.problem = None;
        } else {
            self.ended = Some(now);
            log::info!("operation {}: {stage:?}", self.id);
        }
        Some(stage)
    }
}

/// The operations that are remembered.
pub(crate) struct Operations {
    /// The oldest first.
    known: VecDeque<Operation>,
    capacity: usize,
    /// The first part of every name: this run of the appliance.
    run: u64,
    next: u64,
    /// The numbers of those whose records may go.
    forgotten: Vec<u64>,
}

/// What becomes of an order.
pub(crate) enum Begin {
    /// It is a new operation.
    New(OpId),
    /// It came before under this name.
    Repeated(OpId),
}

impl Operations {
    pub(crate) fn new(boot: Uuid, capacity: usize) -> Self {
        // The half of the UUID that holds random bits only.
        let known = VecDeque::with_capacity(capacity.min(64));
        Self { known, capacity, run: boot.0 as u64, next: 1, forgotten: Vec::new() }
    }

    /// Remember one that an earlier run has kept. They come in the order of their numbers.
    pub(crate) fn restore(&mut self, operation: Operation) {
        self.leave_out(operation.number);
        self.known.push_back(operation);
    }

    /// No other operation is to have this number.
    pub(crate) fn leave_out(&mut self, number: u64) {
        self.next = self.next.max(number.saturating_add(1));
    }

    /// Remember an order before it is carried out.
    pub(crate) fn begin(
        &mut self,
        order: &Order,
        caller: Text,
        meant: Option<Meant>,
        now: Instant,
    ) -> Result<Begin, Problem> {
        if let Some(token) = &order.token
            && let Some(before) = self.named(token, &caller)
        {
            if before.is_same(order) {
                return Ok(Begin::Repeated(before.id.clone()));
            }
            return Err(Problem::new(Kind::TokenReused, "Choose another client_token for another command.")
                .at(&before.path()));
        }
        self.make_room(order.action.verb(), now)?;
        if let Some(index) = self.known.len().checked_sub(RESULTS) {
            self.known[index].result = None;
        }
        let (number, id) = (self.next, self.name()?);
        self.known.push_back(Operation {
            id: id.clone(),
            number,
            caller,
            action: order.action.clone(),
            instance: order.instance.clone(),
            precondition: order.precondition.clone(),
            token: order.token.clone(),
            stage: Stage::Accepted,
            changed: None,
            evidence: Vec::new(),
            problem: None,
            result: None,
            accepted: Some(now),
            deadline: now + order.budget,
            ended: None,
            meant,
            kept: Kept::Waiting,
            told: false,
            durable: false,
            end: None,
            tried: false,
            sends: 0,
            carried: false,
            due: now,
            pause: Duration::ZERO,
            heard: now,
        });
        Ok(Begin::New(id))
    }

    /// The one that this caller has given this name.
    fn named(&self, token: &ClientToken, caller: &Text) -> Option<&Operation> {
        self.known.iter().find(|known| known.token.as_ref() == Some(token) && known.caller == *caller)
    }

    /// The disk that it attaches, if it is of that kind.
    pub(crate) fn attached(&self, token: &ClientToken, caller: &Text) -> Option<Volume> {
        match &self.named(token, caller)?.action {
            Action::VolumeAttach { volume } => Some(volume.clone()),
            _ => None,
        }
    }

    /// Forget the oldest that nobody can ask for again, if there is no room otherwise.
    fn make_room(&mut self, verb: Verb, now: Instant) -> Result<(), Problem> {
        let ends = matches!(verb, Verb::Terminate | Verb::ForceStop);
        let room = if ends { self.capacity } else { self.capacity - self.capacity / RESERVE };
        while self.known.len() >= room {
            let is_past = |operation: &Operation| {
                !operation.stage.is_open()
                    && operation.kept != Kept::Waiting
                    && operation
                        .ended
                        .is_none_or(|ended| operation.token.is_none() || now.since(ended) >= REMEMBERED)
            };
            let Some(index) = self.known.iter().position(is_past) else {
                let detail = "All operations that can be remembered are under way or have ended just now.";
                return Err(Problem::new(Kind::TooBusy, detail));
            };
            if let Some(past) = self.known.remove(index) {
                self.forgotten.push(past.number);
            }
        }
        Ok(())
    }

    /// A name that no question to the agent had before, in this run of the appliance or another.
    pub(crate) fn name(&mut self) -> Result<OpId, Problem> {
        let none = || Problem::new(Kind::TooBusy, "No name is left for another operation.");
        let name = format!("{:016x}-{:x}", self.run, self.next);
        // The last number is not given away: it might be that of a record.
        self.next = self.next.checked_add(1).ok_or_else(none)?;
        name.parse().map_err(|_| none())
    }

    pub(crate) fn get(&self, id: &OpId) -> Option<&Operation> {
        self.known.iter().rev().find(|operation| operation.id == *id)
    }

    pub(crate) fn get_mut(&mut self, id: &OpId) -> Option<&mut Operation> {
        self.known.iter_mut().rev().find(|operation| operation.id == *id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.known.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Operation> {
        self.known.iter_mut()
    }

    /// The numbers of operations that were forgotten, once.
    pub(crate) fn take_forgotten(&mut self) -> Vec<u64> {
        core::mem::take(&mut self.forgotten)
    }

    /// Their records are still there.
    pub(crate) fn put_back(&mut self, forgotten: Vec<u64>) {
        self.forgotten.extend(forgotten);
    }

    /// The latest first, those that came before `after`.
    pub(crate) fn page<'a>(&'a self, after: Option<&'a str>) -> impl Iterator<Item = &'a Operation> {
        let mut passed = after.is_none();
        self.known.iter().rev().filter(|operation| operation.told).filter(move |operation| {
            let show = passed;
            passed |= Some(operation.id.as_str()) == after;
            show
        })
    }
}

/// An operation as clients see it.
pub(crate) fn view(operation: &Operation) -> OperationView {
    let millis = |at: Instant| at.as_micros() / 1000;
    OperationView {
        id: operation.id.clone(),
        verb: operation.action.verb(),
        instance: operation.instance.clone(),
        client_token: operation.token.clone(),
        state: operation.stage,
        changed: operation.changed,
        evidence: operation.evidence.clone(),
        error: operation.problem.as_ref().map(Problem::document),
        result: operation.result.clone(),
        kept: operation.durable && operation.kept != Kept::No,
        accepted_ms: operation.accepted.map(millis),
        ended_ms: operation.ended.map(millis),
    }
}
