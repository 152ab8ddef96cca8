//! What is written down of a machine that stands between two hosts, and what of it is true when it is looked at.
//!
//! `moving` lies in the directory of one that leaves, `incoming` in that of one that is to come. Both are durable before
//! what rests on them is done, and outlive the agent and the process.

use super::moving::{finish, tidy};
use super::qmp::{Qmp, QmpError};
use super::{Qemu, observation, remove};
use crate::hypervisor::{Evidence, Fault, Machine, Observation};
use agent_engine::Passage;
use agent_protocol::{Failure, State, Text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a machine that is coming may take beyond the time that nothing came.
const COMING_TIME: Duration = Duration::from_secs(3600);
/// How long a process has to end.
pub(super) const END_TIME: Duration = Duration::from_secs(5);

/// How far one has come that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// Its memory is sent; its peer cannot run it.
    Begun,
    /// Its peer may run it from here on.
    HandedOver,
    /// Its peer has said that it has all of it.
    Arrived,
}

/// What is written down of one that leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leaving {
    pub(super) stage: Stage,
    pub(super) peer: String,
}

/// What is written down of one that is to come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Coming {
    /// Since when, in seconds of the Unix epoch.
    pub(super) since: u64,
}

/// Write a file so that it is there, whole, whatever happens next.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(parent)?.sync_all()
}

/// Remove a file so that it stays away.
pub(super) fn remove_durably(path: &Path) -> io::Result<()> {
    remove(path)?;
    let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(parent)?.sync_all()
}

/// What a file holds; nothing if there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn unseen(error: &io::Error) -> String {
    format!("whether it stands between two hosts cannot be seen: {error}")
}

/// How far a migration is, in QEMU's words (`MigrationStatus`); nothing if there was none.
pub(super) fn status(progress: &Value) -> &str {
    progress.get("status").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a process listens for what is to come.
pub(super) fn waits(progress: &Value) -> bool {
    progress.get("socket-address").is_some()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Coming {
    pub(super) fn now() -> Self {
        Self { since: unix(SystemTime::now()) }
    }
}

impl Qemu {
    /// What is written down of one that leaves. What nobody can make sense of may have been handed over.
    pub(super) fn leaving(&self, machine: &Machine) -> io::Result<Option<Leaving>> {
        let bytes = read(&self.own_directory(machine).join("moving"))?;
        let lost = || Leaving { stage: Stage::HandedOver, peer: "a peer whose name is lost".into() };
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|_| lost())))
    }

    fn coming(&self, machine: &Machine) -> io::Result<Option<Coming>> {
        let path = self.own_directory(machine).join("incoming");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        if let Ok(coming) = serde_json::from_slice(&bytes) {
            return Ok(Some(coming));
        }
        Ok(Some(Coming { since: unix(fs::metadata(&path)?.modified()?) }))
    }

    /// Where the machine stands between two hosts, if it does.
    fn passage(&self, machine: &Machine) -> io::Result<Option<Passage>> {
        if self.coming(machine)?.is_some() {
            return Ok(Some(Passage::Awaited));
        }
        Ok(self.leaving(machine)?.and_then(|leaving| match leaving.stage {
            Stage::Begun => None,
            Stage::HandedOver => Some(Passage::HandedOver),
            Stage::Arrived => Some(Passage::Arrived),
        }))
    }

    /// Why a step that could let the machine run is not taken, whatever asked for it.
    pub(super) fn must_stay(&self, machine: &Machine) -> Result<(), Fault> {
        let words = match self.passage(machine) {
            Ok(None) => return Ok(()),
            Ok(Some(Passage::Awaited)) => "it runs at another host until it has come from there",
            Ok(Some(Passage::HandedOver | Passage::Arrived)) => "it was handed over, and may run at its peer",
            Err(error) => return Err(Fault::new(Failure::Storage, unseen(&error))),
        };
        Err(Fault::new(Failure::Hypervisor, words))
    }

    /// One that has no process.
    pub(super) fn at_rest(&self, machine: &Machine) -> Observation {
        let passage = match self.passage(machine) {
            Ok(passage) => passage,
            Err(error) => return Observation::of(State::Unknown).because(unseen(&error)),
        };
        let seen = match passage {
            Some(Passage::Awaited) => {
                let why = "what was to come from another host did not, or not whole";
                Observation::of(State::Failed).because(why)
            }
            Some(Passage::HandedOver) => Observation::of(State::Failed).because(self.open_question(machine)),
            _ => self.ended(machine),
        };
        Observation { passage, ..seen }
    }

    fn open_question(&self, machine: &Machine) -> String {
        let leaving = self.leaving(machine).unwrap_or_default();
        let peer = leaving.map_or_else(String::new, |leaving| leaving.peer);
        format!("it was handed over to {peer}, and whether it runs there is not known")
    }

    /// What one that has a process of that status is, if it stands between two hosts. What is due is done: one that has
    /// come is let run, one that nothing came to is ended, one whose move nobody drives any more is called off unless it was
    /// handed over.
    pub(super) fn look_between(
        &self,
        machine: &Machine,
        qmp: &mut Qmp,
        status: &str,
    ) -> Result<Option<Observation>, QmpError> {
        let (coming, leaving) = match (self.coming(machine), self.leaving(machine)) {
            (Ok(coming), Ok(leaving)) => (coming, leaving),
            (Err(error), _) | (_, Err(error)) => {
                return Ok(Some(Observation::of(State::Unknown).because(unseen(&error))));
            }
        };
        if let Some(coming) = coming {
            return self.look_at_coming(machine, qmp, &coming).map(Some);
        }
        let Some(leaving) = leaving else { return Ok(None) };
        let file = self.own_directory(machine).join("moving");
        if leaving.stage == Stage::Begun || status == "running" {
            // Of one that was handed over only having it back makes it run.
            self.call_back(qmp)?;
            if remove_durably(&file).is_ok() {
                log::info!("{}: its move to {} was called off", machine.id, leaving.peer);
            }
            // What it was before is so no more.
            return qmp.status().map(|status| Some(observation(&status)));
        }
        let mut stage = leaving.stage;
        let mut state = State::Paused;
        if stage == Stage::HandedOver {
            match self::status(&qmp.execute("query-migrate")?) {
                "completed" => stage = self.mark_arrived(machine, &leaving),
                "pre-switchover" => {
                    // Whether the agent that ended had said so already does not matter: there is no way but forward.
                    finish(qmp)?;
                    state = State::Saving;
                }
                "device" | "active" => state = State::Saving,
                _ => {}
            }
        }
        let (passage, reason) = match stage {
            Stage::Arrived => (Passage::Arrived, format!("it has moved to {}", leaving.peer)),
            _ => (Passage::HandedOver, self.open_question(machine)),
        };
        Ok(Some(Observation { passage: Some(passage), ..Observation::of(state).because(reason) }))
    }

    fn mark_arrived(&self, machine: &Machine, leaving: &Leaving) -> Stage {
        let arrived = Leaving { stage: Stage::Arrived, ..leaving.clone() };
        match self.mark(machine, &arrived) {
            Ok(()) => Stage::Arrived,
            Err(fault) => {
                log::warn!("{}: {}", machine.id, fault.detail);
                Stage::HandedOver
            }
        }
    }

    /// Write down how far one has come that leaves.
    pub(super) fn mark(&self, machine: &Machine, leaving: &Leaving) -> Result<(), Fault> {
        let storage =
            |error: io::Error| Fault::new(Failure::Storage, format!("how far it has moved: {error}"));
        let bytes = serde_json::to_vec(leaving).map_err(|error| storage(error.into()))?;
        write_durably(&self.own_directory(machine).join("moving"), &bytes).map_err(storage)
    }

    /// All of it has come: it goes on, unless its guest was held there otherwise than for the move.
    fn let_in(&self, machine: &Machine, qmp: &mut Qmp) -> Result<Observation, QmpError> {
        // One that was just reset is called "prelaunch".
        if matches!(qmp.status()?.as_str(), "paused" | "prelaunch") {
            qmp.execute("cont")?;
        }
        let now = qmp.status()?;
        if now == "inmigrate" {
            return Err(QmpError::Malformed("all has come, and it waits for more"));
        }
        // Before it is one like any other, since nothing does it later: with that left on it could not be saved.
        tidy(qmp)?;
        if let Err(error) = remove_durably(&self.own_directory(machine).join("incoming")) {
            log::warn!("{}: {error}", machine.id);
        }
        log::info!("{}: it has come from another host and is {now}", machine.id);
        Ok(observation(&now))
    }

    fn look_at_coming(
        &self,
        machine: &Machine,
        qmp: &mut Qmp,
        coming: &Coming,
    ) -> Result<Observation, QmpError> {
        let awaited = |reason: &str| {
            let seen = Observation { passage: Some(Passage::Awaited), ..Observation::of(State::Pending) };
            if reason.is_empty() { seen } else { seen.because(reason) }
        };
        let answer = qmp.execute("query-migrate")?;
        let progress = self::status(&answer);
        // Never ended from then on: it may be the only one that there is.
        if progress == "completed" {
            return match self.let_in(machine, qmp) {
                Ok(seen) => Ok(seen),
                Err(QmpError::Refused(words)) => {
                    log::warn!("{}: it has come and cannot go on: {words}", machine.id);
                    Ok(awaited(&format!("it has come and cannot go on: {words}")))
                }
                Err(error) => Err(error),
            };
        }
        let patience = self.images.migration.as_ref().map_or(0, |migration| migration.patience_s);
        let waited = unix(SystemTime::now()).saturating_sub(coming.since);
        let late = Duration::from_secs(waited).checked_sub(Duration::from_secs(patience.into()));
        let why = match progress {
            // It does not listen, since the agent that was to have it do so has ended.
            "" if !waits(&answer) => "it was not made ready whole",
            // It may have begun at the very end.
            "active" | "postcopy-active" | "device" if late.is_some_and(|late| late >= COMING_TIME) => {
                "it did not come in time"
            }
            "active" | "postcopy-active" | "device" => return Ok(awaited("it is coming")),
            _ if late.is_some() => "nothing came from another host in time",
            _ => return Ok(awaited("")),
        };
        Ok(match self.end(machine, END_TIME) {
            Ok(evidence) => {
                log::info!("{}: {why}: {}", machine.id, joined(&evidence));
                let seen = Observation::of(State::Failed).because(why);
                Observation { passage: Some(Passage::Awaited), ..seen }
            }
            Err(fault) => awaited(fault.detail.as_str()),
        })
    }
}

fn joined(evidence: &Evidence) -> String {
    evidence.iter().map(Text::as_str).collect::<Vec<_>>().join("; ")
}
