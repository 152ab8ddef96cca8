//! The life of an instance: its states, and what each verb does in each of them.
//!
//! Hypervisors disagree about a command that is sent twice; this table is where the plane decides once for all of
//! them. Being already in the requested state is a success that changes nothing, with one exception: an instance
//! that was terminated answers every further command with a refusal of its own, because a name that no longer
//! stands for anything must not look as if it did.

use crate::{Refusal, Verb};
use alloc::format;
use core::fmt;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an instance is doing, as last observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It is being made, or has been made and its processors have not begun.
    Pending,
    /// Its processors run.
    Running,
    /// Its processors are held.
    Paused,
    /// The guest was asked to shut down and has not done so yet.
    Stopping,
    /// It exists, and nothing of it runs.
    Stopped,
    /// Its memory is being written out.
    Saving,
    /// Its memory has been written out, and nothing of it runs.
    Saved,
    /// It is being ended for good.
    ShuttingDown,
    /// It has ended for good; only the name is still known.
    Terminated,
    /// It ended by a fault; the reason says which.
    Failed,
    /// The hypervisor does not answer, so nobody knows.
    Unknown,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Saving,
        Self::Saved,
        Self::ShuttingDown,
        Self::Terminated,
        Self::Failed,
        Self::Unknown,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Saving => "saving",
            Self::Saved => "saved",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = State;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a state of an instance")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<State, E> {
                let state = State::ALL.into_iter().find(|state| state.as_str() == name);
                state.ok_or_else(|| E::custom(format!("unknown state of {} bytes", name.len())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// What a verb does to an instance in some state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is carried out; this is the state it leads to when it succeeds.
    Change(State),
    /// It is carried out, and the state is the same after it.
    Keep,
    /// What it asks for is already so: a success that changes nothing.
    Already,
    /// It is refused, and nothing is done.
    Refuse(Refusal),
}

/// What `verb` does to an instance in `state`. `Create` concerns no existing instance: a name whose bearer was terminated may
/// be used again, any other may not. `MigratePrepare` can be for one that was made and has never run, too. Whether it has, and
/// whether a disk or an interface is there already, is not a matter of the state.
pub const fn effect(state: State, verb: Verb) -> Effect {
    use Effect::{Already, Change, Keep, Refuse};
    use State as S;
    match (verb, state) {
        (Verb::Describe, _) => Already,
        (Verb::Create, S::Terminated) => Change(S::Stopped),
        (Verb::MigratePrepare, S::Terminated | S::Stopped) => Change(S::Pending),
        (Verb::Create | Verb::MigratePrepare, _) => Refuse(Refusal::AlreadyExists),
        (_, S::Terminated) => Refuse(Refusal::Terminated),
        // The forced ways out are open in every state that still has something to end.
        (Verb::Terminate, _) => Change(S::Terminated),
        (Verb::ForceStop, S::Stopped | S::Failed | S::Saved) => Already,
        (Verb::ForceStop, S::ShuttingDown) => Refuse(Refusal::WrongState),
        (Verb::ForceStop, _) => Change(S::Stopped),
        (_, S::Unknown) => Refuse(Refusal::StateUnknown),
        (Verb::Start, S::Pending | S::Stopped | S::Failed) => Change(S::Running),
        (Verb::Start | Verb::Resume | Verb::Restore, S::Running) => Already,
        // Only a guest whose processors run can hear the request.
        (Verb::Stop, S::Running) => Change(S::Stopping),
        (Verb::Stop, S::Stopping | S::Stopped | S::Failed) => Already,
        (Verb::Pause, S::Running) => Change(S::Paused),
        (Verb::Pause, S::Paused) => Already,
        (Verb::Resume, S::Paused) => Change(S::Running),
        (Verb::Save, S::Running | S::Paused) => Change(S::Saved),
        (Verb::Save, S::Saved) => Already,
        (Verb::Restore, S::Saved) => Change(S::Running),
        (Verb::MigrateStart, S::Running) => Change(S::Terminated),
        (Verb::MigrateCancel, S::Running | S::Paused | S::Stopped | S::Failed) => Keep,
        (Verb::Reboot, S::Running) => Keep,
        (Verb::Reset, S::Running | S::Paused) => Keep,
        // Nothing has the disk open that could be told of its size.
        (Verb::VolumeResize, S::Stopped | S::Failed) => Already,
        (Verb::VolumeResize, S::Running | S::Paused) => Keep,
        (
            Verb::Snapshot
            | Verb::Revert
            | Verb::Resize
            | Verb::VolumeAttach
            | Verb::VolumeDetach
            | Verb::NicAttach
            | Verb::NicDetach
            | Verb::NicUpdate,
            S::Running | S::Paused | S::Stopped | S::Failed,
        ) => Keep,
        _ => Refuse(Refusal::WrongState),
    }
}

/// The verbs that would change an instance in `state`: what a client may offer its user.
pub fn allowed(state: State) -> impl Iterator<Item = Verb> {
    let of_existing = |verb: &Verb| !matches!(verb, Verb::Create | Verb::MigratePrepare);
    let changes = move |&verb: &Verb| matches!(effect(state, verb), Effect::Change(_) | Effect::Keep);
    Verb::ALL.iter().copied().filter(of_existing).filter(changes)
}
