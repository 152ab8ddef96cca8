//! The operations of late: each command is one, with a state that always ends.

use crate::documents::{ClientToken, Order};
use crate::problem::{Kind, Problem};
use crate::views::InstanceView;
use agent_protocol::{Action, InstanceId, OpId, Precondition, Text, Uuid, Verb};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use kernel_runtime::Instant;
use serde::Serialize;

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// The agent has not answered yet.
    Accepted,
    /// The agent has begun and will end it by itself.
    Running,
    /// It is done.
    Succeeded,
    /// Nothing was done.
    Refused,
    /// It was tried and has not come about.
    Failed,
    /// Whether it was done is not known.
    Indeterminate,
}

impl Stage {
    /// Whether it may still change by itself.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Accepted | Self::Running)
    }
}

/// One command and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Its name; the agent knows it by the same.
    pub(crate) id: OpId,
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
    /// The run of the agent that it was sent to.
    pub(crate) agent_boot: Option<Uuid>,
    /// When it came.
    pub(crate) accepted: Instant,
    /// After this it cannot be begun any more.
    pub(crate) deadline: Instant,
    /// When it ended.
    pub(crate) ended: Option<Instant>,
}

impl Operation {
    /// Whether `order` asks for the same.
    fn is_same(&self, order: &Order) -> bool {
        self.instance == order.instance
            && self.action == order.action
            && self.precondition == order.precondition
    }

    /// Where it can be found.
    pub(crate) fn path(&self) -> alloc::string::String {
        format!("/v1/operations/{}", self.id)
    }
}

/// The operations that are remembered.
pub(crate) struct Operations {
    /// The oldest first.
    known: VecDeque<Operation>,
    /// The first part of every name: this run of the appliance.
    run: u64,
    next: u64,
}

/// How many operations are remembered.
pub(crate) const CAPACITY: usize = 256;

/// What becomes of an order.
pub(crate) enum Begin {
    /// It is a new operation.
    New(OpId),
    /// It came before under this name.
    Repeated(OpId),
}

impl Operations {
    pub(crate) fn new(boot: Uuid) -> Self {
        // The half of the UUID that holds random bits only.
        Self { known: VecDeque::with_capacity(CAPACITY), run: boot.0 as u64, next: 1 }
    }

    /// Remember an order before it is carried out.
    pub(crate) fn begin(&mut self, order: &Order, now: Instant) -> Result<Begin, Problem> {
        if let Some(token) = &order.token
            && let Some(before) = self.known.iter().find(|operation| operation.token.as_ref() == Some(token))
        {
            if before.is_same(order) {
                return Ok(Begin::Repeated(before.id.clone()));
            }
            return Err(Problem::new(Kind::TokenReused, "Choose another client_token for another command.")
                .at(&before.path()));
        }
        if self.known.len() >= CAPACITY {
            let Some(index) = self.known.iter().position(|operation| !operation.stage.is_open()) else {
                return Err(Problem::new(Kind::TooBusy, "All remembered operations are still under way."));
            };
            self.known.remove(index);
        }
        let id = self.name()?;
        self.known.push_back(Operation {
            id: id.clone(),
            action: order.action.clone(),
            instance: order.instance.clone(),
            precondition: order.precondition.clone(),
            token: order.token.clone(),
            stage: Stage::Accepted,
            changed: None,
            evidence: Vec::new(),
            problem: None,
            result: None,
            agent_boot: None,
            accepted: now,
            deadline: now + order.budget,
            ended: None,
        });
        Ok(Begin::New(id))
    }

    /// A name that no question to the agent had before, in this run of the appliance or another.
    pub(crate) fn name(&mut self) -> Result<OpId, Problem> {
        let name = format!("{:016x}-{:x}", self.run, self.next);
        self.next += 1;
        name.parse().map_err(|_| Problem::new(Kind::TooBusy, "No name is left for another operation."))
    }

    pub(crate) fn get(&self, id: &OpId) -> Option<&Operation> {
        self.known.iter().find(|operation| operation.id == *id)
    }

    pub(crate) fn get_mut(&mut self, id: &OpId) -> Option<&mut Operation> {
        self.known.iter_mut().find(|operation| operation.id == *id)
    }

    /// The latest first, those that came before `after`.
    pub(crate) fn page<'a>(&'a self, after: Option<&'a str>) -> impl Iterator<Item = &'a Operation> {
        let mut passed = after.is_none();
        self.known.iter().rev().filter(move |operation| {
            let show = passed;
            passed |= Some(operation.id.as_str()) == after;
            show
        })
    }
}

/// An operation as clients see it.
#[derive(Serialize)]
pub(crate) struct OperationView<'a> {
    id: &'a OpId,
    verb: Verb,
    instance: &'a InstanceId,
    state: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    #[serde(skip_serializing_if = "<[Text]>::is_empty")]
    evidence: &'a [Text],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a InstanceView>,
    /// On the appliance's clock, which `GET /v1` tells.
    accepted_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<u64>,
}

impl<'a> OperationView<'a> {
    pub(crate) fn new(operation: &'a Operation) -> Self {
        Self {
            id: &operation.id,
            verb: operation.action.verb(),
            instance: &operation.instance,
            state: operation.stage,
            changed: operation.changed,
            evidence: &operation.evidence,
            error: operation.problem.as_ref(),
            result: operation.result.as_ref(),
            accepted_ms: operation.accepted.as_micros() / 1000,
            ended_ms: operation.ended.map(|ended| ended.as_micros() / 1000),
        }
    }
}

/// A page of operations.
#[derive(Serialize)]
pub(crate) struct OperationPage<'a> {
    pub(crate) operations: Vec<OperationView<'a>>,
    pub(crate) next: Option<&'a OpId>,
}
