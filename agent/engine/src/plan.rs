//! What a command comes to for an instance that stands as it was just seen to.

use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{
    Action, AttachedNic, AttachedVolume, Attachment, Command, NICS_MAX, Refusal, State, Then, VOLUMES_MAX,
    Verb,
};
use alloc::format;
use alloc::string::String;

use crate::memory::is_forced;
use crate::{Passage, Record, Step};

/// The most snapshots of an instance.
const SNAPSHOTS_MAX: usize = 32;

/// How long the hypervisor may take for most things, in milliseconds.
pub(crate) const QUICK_MS: u32 = 3_000;
/// For making a machine run.
pub(crate) const START_MS: u32 = 15_000;
/// For ending one.
pub(crate) const END_MS: u32 = 5_000;
/// For devices that come and go.
const ATTACH_MS: u32 = 10_000;
/// For what logs in to a target: longer than an initiator waits for one that says nothing, so that the hypervisor's own
/// refusal comes first and nothing has to be frozen.
const TARGET_MS: u32 = 30_000;
/// For writing memory and disks out, or reading them.
const MEMORY_MS: u32 = 120_000;
/// For moving one to another host while it runs.
const MOVE_MS: u32 = 1_800_000;
/// The longest time a guest may be given.
pub(crate) const PATIENCE_MAX_MS: u32 = 3_600_000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing, for this reason.
    Refuse(Refusal, String),
    /// Nothing, because it is so already.
    Already(String),
    /// Only what is written down changes.
    Record(&'static str),
    /// A native step. `meanwhile` is the state that is shown until it has come back.
    Act { step: Step, meanwhile: Option<State>, within_ms: u32 },
    /// End what runs and remove it for good.
    Remove,
}

/// What `command` comes to for that instance.
pub(crate) fn plan(command: &Command, record: &Record) -> Plan {
    let verb = command.action.verb();
    if let Some(plan) = passing(command, record) {
        return plan;
    }
    if record.frozen.is_some()
        && !is_forced(verb)
        && verb != Verb::Describe
        && record.state != State::Terminated
    {
        let detail = "what became of an earlier command is not known: end it by force or terminate it";
        return Plan::Refuse(Refusal::Frozen, detail.into());
    }
    if let Some(refused) = unexpected(command, record) {
        return refused;
    }
    match effect(record.state, verb) {
        Effect::Refuse(Refusal::Terminated) => {
            Plan::Refuse(Refusal::Terminated, format!("{} is already terminated", record.id))
        }
        Effect::Refuse(code) => Plan::Refuse(code, format!("{verb}: {} is {}", record.id, record.state)),
        // Where the frozen state is not trusted, what is forced is carried out.
        Effect::Already if !(record.frozen.is_some() && is_forced(verb)) => {
            match parts(&command.action, record) {
                Some(Plan::Refuse(code, detail)) => Plan::Refuse(code, detail),
                _ => Plan::Already(format!("it is {} already", record.state)),
            }
        }
        Effect::Already | Effect::Change(_) | Effect::Keep => {
            parts(&command.action, record).unwrap_or_else(|| act(&command.action))
        }
    }
}

fn unexpected(command: &Command, record: &Record) -> Option<Plan> {
    let wanted = &command.precondition;
    let holds = wanted.uuid.is_none_or(|uuid| uuid == record.uuid)
        && wanted.generation.is_none_or(|generation| generation == record.generation)
        && wanted.state.is_none_or(|state| state == record.state);
    let detail = "the instance is not what the command expects";
    (!holds).then(|| Plan::Refuse(Refusal::PreconditionFailed, detail.into()))
}

/// What comes of a command for one that stands between two hosts: whatever could let it run here is refused. Only somebody
/// who has looked since it was handed over, and names how it stands, can have it back.
fn passing(command: &Command, record: &Record) -> Option<Plan> {
    let verb = command.action.verb();
    let passage = record.passage.filter(|_| record.state != State::Terminated)?;
    if is_forced(verb) || matches!(verb, Verb::Describe | Verb::Create | Verb::MigratePrepare) {
        return None;
    }
    let detail = match passage {
        Passage::HandedOver if verb == Verb::MigrateCancel && command.precondition.generation.is_some() => {
            let act = || act(&command.action);
            return Some(unexpected(command, record).unwrap_or_else(act));
        }
        Passage::HandedOver => {
            "it was handed over and may run at its peer: if it does, terminate it here; if it does not, terminate it \
             there, and then have it back by migrate.cancel with its generation as the precondition"
        }
        Passage::Arrived => "its peer has all of it: terminate it here",
        Passage::Awaited if verb == Verb::MigrateCancel => return None,
        Passage::Awaited => "it runs at another host until it has come from there: it can only be terminated",
    };
    Some(Plan::Refuse(Refusal::Frozen, detail.into()))
}

fn unknown(what: &str, name: &dyn core::fmt::Display) -> Plan {
    Plan::Refuse(Refusal::UnknownPart, format!("it has no {what} {name}"))
}

/// What depends on the disks, interfaces and snapshots it has, or on whether anything of it runs.
fn parts(action: &Action, record: &Record) -> Option<Plan> {
    let runs = matches!(record.state, State::Running | State::Paused);
    let full = |what: &str, most: usize| Plan::Refuse(Refusal::Full, format!("it has {most} {what} already"));
    let exists =
        |what: &str| Plan::Refuse(Refusal::PartExists, format!("it has another {what} of that name"));
    let resting = (!runs).then_some(Plan::Record("it does not run; it is so from the next start on"));
    match action {
        Action::VolumeAttach { volume } => match record.find_volume(&volume.volume) {
            Some(one) if one.attachment == Attachment::Detaching => {
                Some(Plan::Refuse(Refusal::WrongState, "its guest was asked to let go of that disk".into()))
            }
            Some(one) if one.volume == *volume => Some(Plan::Already("it has that disk already".into())),
            Some(_) => Some(exists("disk")),
            None if record.volumes.len() >= VOLUMES_MAX => Some(full("disks", VOLUMES_MAX)),
            None => resting,
        },
        Action::NicAttach { nic } => match record.find_nic(&nic.nic) {
            Some(one) if one.attachment == Attachment::Detaching => Some(Plan::Refuse(
                Refusal::WrongState,
                "its guest was asked to let go of that interface".into(),
            )),
            Some(one) if one.nic == *nic => Some(Plan::Already("it has that interface already".into())),
            Some(_) => Some(exists("interface")),
            None if record.nics.len() >= NICS_MAX => Some(full("interfaces", NICS_MAX)),
            None => resting,
        },
        Action::VolumeDetach { volume, .. } => match record.find_volume(volume) {
            None => Some(unknown("disk", volume)),
            Some(_) => resting,
        },
        Action::NicDetach { nic, .. } => match record.find_nic(nic) {
            None => Some(unknown("interface", nic)),
            Some(_) => resting,
        },
        Action::VolumeResize { volume } if record.find_volume(volume).is_none() => {
            Some(unknown("disk", volume))
        }
        Action::NicUpdate { nic, link } => match record.find_nic(nic) {
            None => Some(unknown("interface", nic)),
            Some(one) if one.nic.link == *link => Some(Plan::Already("its cable is so already".into())),
            Some(_) => resting,
        },
        Action::Resize { size } if record.size.changed_by(*size) == record.size => {
            Some(Plan::Already("it has that size already".into()))
        }
        Action::Resize { .. } => resting,
        Action::Snapshot { snapshot } if record.snapshots.contains(snapshot) => Some(exists("snapshot")),
        Action::Snapshot { .. } if record.snapshots.len() >= SNAPSHOTS_MAX => {
            Some(full("snapshots", SNAPSHOTS_MAX))
        }
        Action::MigrateCancel {} if record.passage.is_none() => {
            Some(Plan::Already("it does not move".into()))
        }
        Action::Revert { snapshot } if !record.snapshots.contains(snapshot) => {
            Some(unknown("snapshot", snapshot))
        }
        _ => None,
    }
}

fn act(action: &Action) -> Plan {
    let (step, meanwhile, within_ms) = match action {
        Action::Start {} => (Step::Start, Some(State::Pending), START_MS),
        Action::Stop { graceful: true, .. } | Action::Reboot { .. } => (Step::AskToStop, None, QUICK_MS),
        Action::Stop { graceful: false, .. } => (Step::End, Some(State::Stopping), END_MS),
        Action::Pause {} => (Step::Pause, None, QUICK_MS),
        Action::Resume {} => (Step::Resume, None, QUICK_MS),
        Action::Reset {} => (Step::Reset, None, QUICK_MS),
        Action::Save {} => (Step::Save, Some(State::Saving), MEMORY_MS),
        Action::Restore {} => (Step::Restore, Some(State::Pending), MEMORY_MS),
        Action::Snapshot { snapshot } => (Step::Snapshot(snapshot.clone()), None, MEMORY_MS),
        Action::Revert { snapshot } => (Step::Revert(snapshot.clone()), None, MEMORY_MS),
        Action::Resize { size } => (Step::Resize(*size), None, ATTACH_MS),
        Action::VolumeAttach { volume } => (Step::AttachVolume(volume.clone()), None, TARGET_MS),
        Action::VolumeDetach { volume, .. } => (Step::DetachVolume(volume.clone()), None, ATTACH_MS),
        Action::VolumeResize { volume } => (Step::ResizeVolume(volume.clone()), None, ATTACH_MS),
        Action::NicAttach { nic } => (Step::AttachNic(nic.clone()), None, ATTACH_MS),
        Action::NicDetach { nic, .. } => (Step::DetachNic(nic.clone()), None, ATTACH_MS),
        Action::NicUpdate { nic, link } => (Step::UpdateNic(nic.clone(), *link), None, QUICK_MS),
        Action::MigratePrepare { .. } => (Step::MigratePrepare, None, START_MS),
        Action::MigrateStart { peer } => (Step::MigrateStart(peer.clone()), None, MOVE_MS),
        Action::MigrateCancel {} => (Step::MigrateCancel, None, START_MS),
        Action::Terminate {} => return Plan::Remove,
        // An instance is made without its hypervisor, and looking is no step of a command.
        Action::Create { .. } => return Plan::Record("its record is written"),
        Action::Describe {} => return Plan::Already("it was looked at".into()),
    };
    Plan::Act { step, meanwhile, within_ms }
}

/// What a command waits for once its guest was asked, how long, and what then.
pub(crate) fn awaited(action: &Action) -> Option<(u32, Then)> {
    let (timeout_ms, then) = match action {
        Action::Stop { graceful: true, timeout_ms, then } | Action::Reboot { timeout_ms, then } => {
            (*timeout_ms, *then)
        }
        Action::VolumeDetach { timeout_ms, .. } | Action::NicDetach { timeout_ms, .. } => {
            (*timeout_ms, Then::Leave)
        }
        _ => return None,
    };
    Some((timeout_ms.min(PATIENCE_MAX_MS), then))
}

/// Write down what a command that has succeeded has changed beside the state. Whether it was anything.
pub(crate) fn apply(action: &Action, record: &mut Record) -> bool {
    match action {
        Action::Resize { size } => record.size = record.size.changed_by(*size),
        Action::VolumeAttach { volume } => {
            let attached = AttachedVolume { volume: volume.clone(), attachment: Attachment::Attached };
            record.volumes.retain(|one| one.volume.volume != volume.volume);
            record.volumes.push(attached);
        }
        Action::VolumeDetach { volume, .. } => record.volumes.retain(|one| one.volume.volume != *volume),
        Action::NicAttach { nic } => {
            record.nics.retain(|one| one.nic.nic != nic.nic);
            record.nics.push(AttachedNic { nic: nic.clone(), attachment: Attachment::Attached });
        }
        Action::NicDetach { nic, .. } => record.nics.retain(|one| one.nic.nic != *nic),
        Action::NicUpdate { nic, link } => {
            for one in record.nics.iter_mut().filter(|one| one.nic.nic == *nic) {
                one.nic.link = *link;
            }
        }
        Action::Snapshot { snapshot } => record.snapshots.push(snapshot.clone()),
        _ => return false,
    }
    true
}
