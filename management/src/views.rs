//! What clients are shown, as JSON.

use crate::documents::PolicyDocument;
use agent_protocol::{ImageName, Instance, InstanceId, State, Text, Uuid, Verb, lifecycle};
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;
use storage::{AccessState, Exposed, VolumeState};

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceView {
    id: InstanceId,
    uuid: Uuid,
    image: ImageName,
    hypervisor: Text,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Text>,
    generation: u64,
    /// How long it has been in that state, in milliseconds.
    state_age_ms: u64,
    /// How long ago the agent last looked, in milliseconds.
    observed_age_ms: u64,
    /// What would change it now, so that no client has to know the life cycle.
    allowed_actions: Vec<Verb>,
}

impl InstanceView {
    /// `instance` as the agent told it when its clock said `clock_ms`.
    pub fn new(instance: &Instance, clock_ms: u64) -> Self {
        Self {
            id: instance.id.clone(),
            uuid: instance.uuid,
            image: instance.image.clone(),
            hypervisor: instance.hypervisor.clone(),
            state: instance.state,
            reason: instance.reason.clone(),
            generation: instance.generation,
            state_age_ms: clock_ms.saturating_sub(instance.since_ms),
            observed_age_ms: clock_ms.saturating_sub(instance.observed_ms),
            allowed_actions: lifecycle::allowed(instance.state).collect(),
        }
    }
}

/// One page of instances.
#[derive(Serialize)]
pub(crate) struct InstancePage {
    pub(crate) instances: Vec<InstanceView>,
    /// What to pass as `after` for the next page, if there is one.
    pub(crate) next: Option<InstanceId>,
}

/// The images an instance can be made of.
#[derive(Serialize)]
pub(crate) struct ImageList {
    pub(crate) images: Vec<ImageName>,
}

/// A target.
#[derive(Serialize)]
pub(crate) struct TargetView<'a> {
    id: &'a str,
    iqn: &'a str,
    lun: u16,
    volume: &'a str,
    initiators: &'a [String],
    /// Initiators have to prove who they are.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    chap: bool,
    read_only: bool,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    removable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyDocument>,
    /// Of the way to the volume: `connecting`, `ready` or `down`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    size_bytes: Option<u64>,
    sessions: u32,
}

impl<'a> TargetView<'a> {
    pub(crate) fn new(exposed: &'a Exposed) -> Self {
        let exposure = &exposed.exposure;
        let (state, reason) = match &exposed.state {
            VolumeState::Connecting => ("connecting", None),
            VolumeState::Ready => ("ready", None),
            VolumeState::Down(reason) => ("down", Some(reason.as_str())),
        };
        Self {
            id: &exposure.id,
            iqn: &exposure.iqn,
            lun: exposure.lun,
            volume: &exposure.volume,
            initiators: &exposure.initiators,
            chap: exposure.chap.is_some(),
            read_only: exposure.read_only,
            removable: exposure.removable,
            access: Some(exposure.access)
                .filter(|access| *access != AccessState::default())
                .map(AccessState::name),
            policy: Some(PolicyDocument::new(&exposure.policy))
                .filter(|policy| *policy != PolicyDocument::default()),
            state,
            reason,
            size_bytes: exposed.size,
            sessions: exposed.sessions,
        }
    }
}

/// All targets.
#[derive(Serialize)]
pub(crate) struct TargetList<'a> {
    pub(crate) targets: Vec<TargetView<'a>>,
}
