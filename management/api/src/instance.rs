//! Instances as clients are shown them.

use agent_protocol::{
    AttachedNic, AttachedVolume, ImageName, Instance, InstanceId, IscsiName, Size, State, Text, Uuid, Verb,
    lifecycle,
};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstanceView {
    /// Its name.
    pub id: InstanceId,
    /// Which incarnation of that name it is.
    pub uuid: Uuid,
    /// The image it was made of.
    pub image: ImageName,
    /// The kind of hypervisor that runs it.
    pub hypervisor: Text,
    /// How large it is, where that is not as its image says.
    #[serde(default, skip_serializing_if = "Size::is_empty")]
    pub size: Size,
    /// Its disks beside those of its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachedVolume>,
    /// Its network interfaces beside those of its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<AttachedNic>,
    /// The name by which its host logs in to targets for it: a target that it is to have must admit this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<IscsiName>,
    /// What it is doing.
    pub state: State,
    /// Why it is in that state, when that is not because it was told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// Grows with each change of state.
    pub generation: u64,
    /// How long it has been in that state, in milliseconds.
    pub state_age_ms: u64,
    /// How long ago the agent last looked, in milliseconds.
    pub observed_age_ms: u64,
    /// What would change it now, so that no client has to know the life cycle.
    pub allowed_actions: Vec<Verb>,
}

impl InstanceView {
    /// `instance` as the agent told it when its clock said `clock_ms`.
    pub fn new(instance: &Instance, clock_ms: u64) -> Self {
        Self {
            id: instance.id.clone(),
            uuid: instance.uuid,
            image: instance.image.clone(),
            hypervisor: instance.hypervisor.clone(),
            size: instance.size,
            volumes: instance.volumes.clone(),
            nics: instance.nics.clone(),
            initiator: instance.initiator.clone(),
            state: instance.state,
            reason: instance.reason.clone(),
            generation: instance.generation,
            state_age_ms: clock_ms.saturating_sub(instance.since_ms),
            observed_age_ms: clock_ms.saturating_sub(instance.observed_ms),
            allowed_actions: lifecycle::allowed(instance.state).collect(),
        }
    }
}

/// One page of instances, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstancePage {
    /// The instances.
    pub instances: Vec<InstanceView>,
    /// What to pass as `after` for the next page, if there is one.
    pub next: Option<InstanceId>,
}

/// The images an instance can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageList {
    /// Their names, sorted.
    pub images: Vec<ImageName>,
}
