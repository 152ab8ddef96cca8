//! What became of a command that had begun when the agent ended, as far as looking at its instance tells.

use agent_protocol::{Action, State};

use crate::{Observation, Passage};

/// What looking tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as the command wanted it.
    Done,
    /// It is not, and no longer will be.
    NotDone,
    /// The hypervisor does not tell: look again.
    Silent,
    /// The guest may or may not have been asked, and may still do it.
    MayCome,
    /// The guest has shut down, and it is still to be started again.
    Again,
    /// Nothing of it runs any more, and it is still to be removed.
    Remove,
    /// Its start was cut short: something of it is there, whose processors have not begun, and nobody goes on with it.
    Half,
    /// It looks the same whether it was done or not.
    Unknowable,
}

/// What became of `action`, whose instance was in `from` before it and is seen like this now.
pub(crate) fn verdict(action: &Action, from: State, seen: &Observation) -> Verdict {
    use Verdict::{Done, MayCome, NotDone, Silent, Unknowable};
    let state = seen.state;
    match (action, seen.passage) {
        // It is on its way.
        (Action::MigrateStart { .. }, Some(Passage::HandedOver)) if state == State::Saving => return Silent,
        // What became of it no look at this host can tell.
        (Action::MigrateStart { .. }, Some(Passage::HandedOver)) => return Unknowable,
        (Action::MigrateStart { .. }, Some(Passage::Arrived)) => return Verdict::Remove,
        _ => {}
    }
    if matches!(state, State::Unknown | State::Saving) {
        return Silent;
    }
    let runs = matches!(state, State::Running | State::Paused);
    let done = |is: bool| if is { Done } else { NotDone };
    let has = |there: Option<bool>, wanted: bool| match there {
        _ if !runs => NotDone,
        None => Unknowable,
        Some(there) => done(there == wanted),
    };
    match action {
        Action::Create { start: false, .. } => Done,
        Action::Start {} | Action::Create { .. } | Action::Restore {} if state == State::Pending => {
            Verdict::Half
        }
        Action::Reboot { .. } if from == State::Stopped && state == State::Pending => Verdict::Half,
        // Its processors were held until it was whole.
        Action::Start {} | Action::Create { .. } => done(state == State::Running),
        Action::Restore {} => done(state == State::Running),
        Action::Pause {} => done(state == State::Paused),
        Action::Resume {} => done(state == State::Running),
        Action::Save {} => done(state == State::Saved),
        Action::Stop { graceful: false, .. } => {
            done(matches!(state, State::Stopped | State::Saved | State::Failed))
        }
        Action::Stop { graceful: true, .. } if state == State::Stopped => Done,
        Action::Stop { graceful: true, .. } => {
            if runs || state == State::Stopping {
                MayCome
            } else {
                NotDone
            }
        }
        // It was about to be started again.
        Action::Reboot { .. } if from == State::Stopped => done(state == State::Running),
        Action::Reboot { .. } if state == State::Stopped => Verdict::Again,
        Action::Reboot { .. } => {
            if runs || state == State::Stopping {
                MayCome
            } else {
                NotDone
            }
        }
        Action::Terminate {} if runs || state == State::Pending => NotDone,
        Action::Terminate {} => Verdict::Remove,
        Action::VolumeAttach { volume } => {
            has(seen.volumes.as_ref().map(|list| list.contains(&volume.volume)), true)
        }
        Action::NicAttach { nic } => has(seen.nics.as_ref().map(|list| list.contains(&nic.nic)), true),
        // Its guest is to find what it had when it goes on.
        Action::VolumeDetach { .. } | Action::NicDetach { .. } if state == State::Saved => NotDone,
        Action::VolumeDetach { volume, .. } => {
            gone(state, seen.volumes.as_ref().map(|list| list.contains(volume)))
        }
        Action::NicDetach { nic, .. } => gone(state, seen.nics.as_ref().map(|list| list.contains(nic))),
        Action::MigratePrepare { .. } => done(state == State::Pending || runs),
        // It was not handed over: nothing has become of it.
        Action::MigrateStart { .. } => NotDone,
        Action::MigrateCancel {} => done(seen.passage.is_none()),
        Action::Describe {} => Done,
        // What it ran and is not any more was lost with it; while nothing runs these change what is on disk.
        Action::Reset {} | Action::Resize { .. } | Action::VolumeResize { .. } | Action::NicUpdate { .. }
            if !runs =>
        {
            NotDone
        }
        Action::Reset {}
        | Action::Resize { .. }
        | Action::VolumeResize { .. }
        | Action::NicUpdate { .. }
        | Action::Snapshot { .. }
        | Action::Revert { .. } => Unknowable,
    }
}

/// What became of a disk or an interface that was to go. While a hypervisor is there, what it has counts, whatever its guest
/// does.
const fn gone(state: State, has: Option<bool>) -> Verdict {
    match has {
        Some(false) => Verdict::Done,
        Some(true) => Verdict::MayCome,
        None if matches!(state, State::Stopped | State::Failed) => Verdict::Done,
        None if matches!(state, State::Running | State::Paused) => Verdict::Unknowable,
        None => Verdict::MayCome,
    }
}
