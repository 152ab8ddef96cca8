//! What clients are shown of storage.

use crate::documents::policy_document;
use agent_protocol::Text;
pub use management_api::InstanceView;
use management_api::{Access, PolicyDocument, TargetView, VolumeState};
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

/// How initiators should use a way to a disk, unless that is at best.
fn access(state: AccessState) -> Option<Access> {
    match state {
        AccessState::Optimized => None,
        AccessState::NonOptimized => Some(Access::NonOptimized),
        AccessState::Standby => Some(Access::Standby),
    }
}
