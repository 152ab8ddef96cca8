//! What clients are shown of storage.

use crate::documents::policy_document;
use agent_protocol::{Object, Text};
pub use management_api::InstanceView;
use management_api::{Access, PolicyDocument, TargetDocument, TargetView, VolumeState};
pub(crate) use management_api::{ImageList, InstancePage};
use storage::{AccessState, Exposed};

/// A target as storage has it.
pub(crate) fn target(exposed: &Exposed) -> TargetView {
    let exposure = &exposed.exposure;
    let (state, reason) = match &exposed.state {
        storage::VolumeState::Connecting => (VolumeState::Connecting, None),
        storage::VolumeState::Ready => (VolumeState::Ready, None),
        storage::VolumeState::Down(reason) => (VolumeState::Down, Some(Text::new(reason))),
    };
    TargetView {
        id: exposure.id.clone(),
        iqn: exposure.iqn.clone(),
        lun: exposure.lun,
        volume: exposure.volume.clone(),
        initiators: exposure.initiators.clone(),
        chap: exposure.chap.is_some(),
        read_only: exposure.read_only,
        removable: exposure.removable,
        access: access(exposure.access),
        policy: Some(policy_document(&exposure.policy)).filter(|policy| *policy != PolicyDocument::default()),
        state,
        reason,
        size_bytes: exposed.size,
        sessions: exposed.sessions,
        desired: None,
    }
}

/// A target that is wanted, and that storage does not have.
pub(crate) fn absent(id: &str, document: &TargetDocument) -> TargetView {
    TargetView {
        id: id.into(),
        iqn: document.iqn.clone(),
        lun: document.lun,
        volume: document.volume.clone(),
        initiators: document.initiators.clone(),
        chap: document.chap.is_some(),
        read_only: document.read_only,
        removable: document.removable,
        access: document.access,
        policy: document.policy.clone().map(|Object(policy)| policy),
        state: VolumeState::Absent,
        reason: None,
        size_bytes: None,
        sessions: 0,
        desired: None,
    }
}

/// How initiators should use a way to a disk, unless that is at best.
pub(crate) fn access(state: AccessState) -> Option<Access> {
    match state {
        AccessState::Optimized => None,
        AccessState::NonOptimized => Some(Access::NonOptimized),
        AccessState::Standby => Some(Access::Standby),
    }
}
