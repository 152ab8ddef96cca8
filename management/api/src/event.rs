//! Events: what has changed, in order, so that a listener misses nothing without being told.

use agent_protocol::{InstanceId, OpId, State, Text, Uuid};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApiEvent {
    /// Its number: each event of one run of the appliance has the next one.
    pub seq: u64,
    /// When, on the appliance's clock in milliseconds.
    pub at_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The instance, target or network concerned, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<InstanceId>,
    /// The generation it has since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The state an instance is in since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The operation concerned, or that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OpId>,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
}

/// What kind of change it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EventKind {
    /// An operation is in another state.
    #[serde(rename = "operation")]
    Operation,
    /// A target was made, changed or withdrawn.
    #[serde(rename = "target")]
    Target,
    /// The agent can be reached again, or cannot any more.
    #[serde(rename = "agent")]
    Agent,
    /// The host takes no new instances, or takes them again.
    #[serde(rename = "drain")]
    Drain,
    /// The map of a network was put or taken away, or is in effect, or cannot be.
    #[serde(rename = "network")]
    Network,
    /// An instance was made, is in another state or shape, or is gone, whatever the reason.
    #[serde(rename = "instance")]
    Instance,
    /// The guest of an instance restarted itself.
    #[serde(rename = "instance-rebooted")]
    Rebooted,
    /// A disk of an instance had an error.
    #[serde(rename = "instance-disk-error")]
    DiskError,
    /// Changes of instances may have been missed: the listener has to list them anew.
    #[serde(rename = "instances-missed")]
    InstancesMissed,
}

/// Events, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventPage {
    /// The appliance's run; another one counts from somewhere else.
    pub boot: Uuid,
    /// The events after the number that was asked for.
    pub events: Vec<ApiEvent>,
    /// What to ask after next.
    pub next: u64,
    /// Events after the number that was asked for are not kept any more, or it is a number of another run: the listener
    /// has to list everything anew, and then goes on from `next`.
    #[serde(default)]
    pub missed: bool,
}
