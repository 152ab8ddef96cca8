//! Operations as clients are shown them: each command is one, with a state that always ends.

use crate::{ClientToken, InstanceView, ProblemDocument};
use agent_protocol::{InstanceId, OpId, Text, Verb};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// It waits for its turn.
    Accepted,
    /// The agent was asked and has not answered yet.
    Sent,
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

impl OperationState {
    /// Whether it may still change by itself.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Accepted | Self::Sent | Self::Running)
    }

    /// Whether it never changes again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Refused | Self::Failed)
    }

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Sent => "sent",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OperationView {
    /// Its name; the agent knows it by the same.
    pub id: OpId,
    /// What was asked.
    pub verb: Verb,
    /// Of which instance.
    pub instance: InstanceId,
    /// The client's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<ClientToken>,
    /// How far it has come.
    pub state: OperationState,
    /// Whether it changed anything, once it has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What the agent saw that proves it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Text>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ProblemDocument>,
    /// The instance after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<InstanceView>,
    /// Whether a reset of the appliance leaves it as it is told here.
    pub kept: bool,
    /// When it came, on the appliance's clock, which `GET /v1` tells; absent when that was before the appliance last
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<u64>,
    /// When it ended, on that clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// One page of operations, the latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OperationPage {
    /// The operations.
    pub operations: Vec<OperationView>,
    /// What to pass as `after` for the next page, if there is one.
    pub next: Option<OpId>,
}
