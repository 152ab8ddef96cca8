//! The appliance itself, its agent and its host.

use agent_protocol::{Backend, Object, Text, Uuid};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What the appliance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AboutView {
    /// `corbel`.
    pub name: String,
    /// Of the software.
    pub version: String,
    /// The versions of this API that it speaks.
    pub api_versions: Vec<String>,
    /// Random, made anew each time the appliance starts.
    pub boot: Uuid,
    /// Milliseconds since it started: the clock of every time in this API.
    pub clock_ms: u64,
    /// How callers are told apart: `none` or `mutual-tls`.
    pub authentication: String,
    /// The agent.
    pub agent: AgentView,
    /// Where promises are kept.
    pub state: StateView,
    /// How much of everything a request may use.
    pub limits: LimitsView,
}

/// Where promises are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StateView {
    /// How it is with the state disk.
    pub disk: StateDisk,
    /// What that means, unless all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
}

/// How it is with the state disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StateDisk {
    /// There is none: operations, client tokens, audit records and documents are forgotten when the appliance is reset.
    None,
    /// It keeps what is to be remembered.
    Kept,
    /// It does not take what is to be remembered.
    Failed,
}

/// How the agent can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// No agent is configured.
    NotConfigured,
    /// No connection has come about yet.
    Connecting,
    /// It is connected.
    Up,
    /// It is not, for a reason.
    Down,
    /// Another appliance has taken over: this one commands no longer.
    #[serde(rename = "stale-epoch")]
    Superseded,
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentView {
    /// How it can be reached.
    pub state: AgentState,
    /// Why it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// Its software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Text>,
    /// Random, made anew each time the agent starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Uuid>,
    /// Grows each time an appliance takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The hypervisors it drives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypervisors: Vec<Backend>,
}

/// How much of everything a request may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LimitsView {
    /// Bytes of its first line.
    pub request_line_bytes: u64,
    /// Header fields.
    pub header_fields: u64,
    /// Bytes of them.
    pub header_bytes: u64,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// Commands of a batch.
    pub batch_commands: u64,
}

/// Whether every part that is configured can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReadyView {
    /// It can.
    pub ready: bool,
    /// The agent.
    pub agent: AgentView,
    /// Where promises are kept.
    pub state: StateView,
    /// The certificate that callers are shown, where they are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<crate::CertificateView>,
}

/// The host that the appliance serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostView {
    /// `self`.
    pub id: String,
    /// Its agent, and the hypervisors that it drives.
    pub agent: AgentView,
    /// How much there is of what the appliance gives out.
    pub capacity: Capacity,
    /// It takes no new instances.
    pub drain: bool,
}

/// How much there is of what the appliance gives out, and how much of it is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capacity {
    /// Targets.
    pub targets: Gauge,
    /// Operations that are remembered.
    pub operations: Gauge,
}

/// How much there is of something, and how much of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gauge {
    /// So much is taken.
    pub used: u64,
    /// So much there is, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// The body of `POST /v1/hosts/self:drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Whether the host is to take no new instances; `false` lets it take some again.
    pub drain: bool,
}

/// What can be done with instances here: for each hypervisor and each verb, how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capabilities {
    /// The hypervisors, as the agent told of them when it was last greeted.
    pub hypervisors: Vec<Object<Backend>>,
}
