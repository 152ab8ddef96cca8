//! Events: what has changed, in order, so that a listener misses nothing without being told.

use crate::{InstanceId, OpId, State, Text, Uuid};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in this run of the agent: each event has the next one.
    pub seq: u64,
    /// When, on the agent's clock in milliseconds.
    pub at_ms: u64,
    /// The instance concerned.
    pub instance: InstanceId,
    /// Which incarnation of it.
    pub uuid: Uuid,
    /// The generation it has since.
    pub generation: u64,
    /// The state it is in since.
    pub state: State,
    /// What happened.
    pub kind: EventKind,
    /// The command that led to it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Text>,
}

/// What kind of change it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The instance is there.
    Created,
    /// It is in another state.
    State,
    /// Its size, its disks or its interfaces have changed.
    Shape,
    /// The guest restarted itself.
    Rebooted,
    /// A disk of it had an error.
    DiskError,
    /// A command that was accepted has come to its end.
    Operation,
    /// The instance is gone for good.
    Terminated,
}

/// Events, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// Version of the protocol, [`crate::VERSION`].
    pub proto: u16,
    /// The agent's run; another one counts from the beginning.
    pub agent_boot: Uuid,
    /// The agent's clock: milliseconds since it started.
    pub clock_ms: u64,
    /// The events after the number that was asked for.
    pub events: Vec<Event>,
    /// What to ask after next.
    pub next: u64,
    /// Events after the number that was asked for are not kept any more: the listener has to list everything anew, and
    /// then goes on from `next`.
    #[serde(default)]
    pub missed: bool,
}
