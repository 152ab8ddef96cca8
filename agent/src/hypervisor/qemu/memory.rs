//! A machine's memory, saved into a file of its private directory and restored from there.
//!
//! QEMU is handed the open file over its monitor and never learns a path. While it is written it has another name
//! (`memory.new`); it gets the one that is restored from (`memory`) when all of it is durable. Whether it is whole could
//! not be told from the file: QEMU takes one that lacks its end. While `memory` is there its guest has executed nothing
//! since: it loses its name before the processors go on, so that no guest ever wakes twice from one sleep.

use super::commands::commands;
use super::life::Beginning;
use super::process;
use super::qmp::{Qmp, QmpError};
use super::{Qemu, fault, observation, remove};
use crate::hypervisor::{ASLEEP, Evidence, Fault, Machine, Step};
use agent_protocol::{Failure, State, Text};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the memory is called from when all of it is loaded until its guest has gone on.
const LOADED: &str = "memory.loaded";
/// How long to wait between two looks at how far it is.
const PACE: Duration = Duration::from_millis(20);
/// How much of the time is kept back for giving up in order.
const RESERVE: Duration = Duration::from_secs(2);
/// What the slowest disk reads in a second, in bytes.
const SLOWEST_DISK: u64 = 32 << 20;
/// How long the process has to end once its memory is safe.
const END_TIME: Duration = Duration::from_secs(5);

impl Qemu {
    /// Whether its memory lies there, whole.
    pub(super) fn is_saved(&self, machine: &Machine) -> io::Result<bool> {
        self.own_directory(machine).join("memory").try_exists()
    }

    pub(super) fn save(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let mut qmp = self.monitor_by(machine, deadline)?;
        let was = qmp.status().map_err(|error| fault(&error))?;
        if was == "suspended" {
            // QEMU restores such a guest so that nothing can wake it.
            return Err(Fault::new(Failure::Hypervisor, ASLEEP));
        }
        let directory = self.own_directory(machine);
        let given_up = deadline.checked_sub(RESERVE.min(within / 4)).unwrap_or(deadline);
        self.reshape(machine, |parts| {
            parts.to_go_on = was == "running";
            Ok(())
        })?;
        let written = self.write_out(machine, &mut qmp, &directory, given_up);
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(fault) => {
                // In a time of its own: what was asked for may have taken all there was.
                drop(qmp);
                if let Ok(mut qmp) = self.monitor(machine, RESERVE) {
                    go_on(&mut qmp, was == "running");
                }
                let _ = remove(&directory.join("memory.new"));
                return Err(fault);
            }
        };
        drop(qmp);
        let mut evidence = vec![Text::new(&format!("{bytes} bytes of memory and devices are on the disk"))];
        evidence.extend(self.end(machine, END_TIME)?);
        Ok(evidence)
    }

    /// Have it all written and named; how much it is.
    fn write_out(
        &self,
        machine: &Machine,
        qmp: &mut Qmp,
        directory: &Path,
        until: Instant,
    ) -> Result<u64, Fault> {
        let storage = |error: io::Error| Fault::new(Failure::Storage, format!("its saved memory: {error}"));
        let fresh = directory.join("memory.new");
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(storage)?;
        let setting = self.setting(machine, self.board(machine), 0);
        send(qmp, &Step::Save, &setting, &file).map_err(|error| fault(&error))?;
        await_migration(qmp, until).map_err(|how| how.fault("saved"))?;
        file.sync_all().map_err(storage)?;
        fs::rename(&fresh, directory.join("memory")).map_err(storage)?;
        let settled = File::open(directory).and_then(|directory| directory.sync_all());
        if let Err(error) = settled {
            // Nobody may take it for safe, and the guest is about to go on.
            let _ = fs::remove_file(directory.join("memory"));
            return Err(storage(error));
        }
        Ok(file.metadata().map(|metadata| metadata.len()).unwrap_or_default())
    }

    pub(super) fn restore(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let storage = |error: io::Error| Fault::new(Failure::Storage, format!("its saved memory: {error}"));
        let directory = self.own_directory(machine);
        let path = directory.join("memory");
        let file = File::open(&path).map_err(storage)?;
        let deadline = Instant::now() + patience(within, file.metadata().map_err(storage)?.len());
        let process = self.spawn(machine, Beginning::Restored, deadline)?;
        let load = || -> Result<(), Fault> {
            let mut qmp = self.monitor_by(machine, deadline)?;
            let setting = self.setting(machine, self.board(machine), 0);
            send(&mut qmp, &Step::Restore, &setting, &file).map_err(|error| fault(&error))?;
            await_migration(&mut qmp, deadline).map_err(|how| how.fault("restored"))?;
            let status = qmp.status().map_err(|error| fault(&error))?;
            // It is held as it was when it was saved: because of an error of its disk, say, or reset and not begun.
            if !matches!(observation(&status).state, State::Paused | State::Pending) || status == "inmigrate"
            {
                return Err(Fault::new(Failure::Hypervisor, format!("after it was restored it is {status}")));
            }
            Ok(())
        };
        if let Err(fault) = load() {
            process.kill();
            process.wait(END_TIME);
            let how = process::describe(process.reap());
            let words = process.last_words();
            self.remove_process(machine, &process);
            return Err(Fault::new(fault.code, format!("{}; its process {how}; {words}", fault.detail)));
        }
        let loaded = directory.join(LOADED);
        let forgotten = fs::rename(&path, &loaded).and_then(|()| File::open(&directory)?.sync_all());
        if let Err(error) = forgotten {
            // It must not run while the file may still be there.
            self.end(machine, END_TIME)?;
            return Err(storage(error));
        }
        let mut evidence = vec![Text::new(&format!("process {} has its memory back", process.identity.pid))];
        let left = deadline.saturating_duration_since(Instant::now()).max(PACE);
        let runs = self.drive(machine, left, &Step::Resume, "running");
        let _ = remove(&loaded);
        evidence.extend(runs?);
        Ok(evidence)
    }

    /// Of a machine that was taken over: bring a save or a restore that was cut short to one of its two ends. Either it is
    /// saved, or its guest goes on as if it had never been held.
    pub(super) fn settle_memory(&self, machine: &Machine, within: Duration) {
        if self.must_stay(machine).is_err() {
            // What a save or a restore has left says nothing of one that stands between two hosts, and must not let it run.
            return;
        }
        let Ok(saved) = self.is_saved(machine) else { return };
        if saved {
            // Saved and not ended yet, or loaded and not let go on.
            let _ = self.end(machine, within);
            return;
        }
        let directory = self.own_directory(machine);
        let loaded = directory.join(LOADED);
        if loaded.exists() {
            // Its guest has all of its memory and was to go on, if it has not.
            let status =
                self.monitor(machine, within).and_then(|mut qmp| qmp.status().map_err(|e| fault(&e)));
            if status.is_ok_and(|status| matches!(status.as_str(), "paused" | "prelaunch")) {
                let _ = self.drive(machine, within, &Step::Resume, "running");
            }
            let _ = remove(&loaded);
        }
        let unfinished = directory.join("memory.new");
        if unfinished.exists() {
            if let Ok(mut qmp) = Qmp::connect(&self.socket(machine), Instant::now() + within) {
                go_on(&mut qmp, self.parts(machine).is_ok_and(|parts| parts.to_go_on));
            }
            let _ = remove(&unfinished);
        }
    }
}

/// How long a restore of so many bytes may take. They were written into the host's memory as fast as that is, and may have
/// to be read from a slow disk: what could be saved can be restored.
const fn patience(within: Duration, bytes: u64) -> Duration {
    within.saturating_add(Duration::from_secs(bytes / SLOWEST_DISK))
}

/// Send the commands of a step, the file with the one that takes it.
fn send(qmp: &mut Qmp, step: &Step, setting: &super::commands::Setting, file: &File) -> Result<(), QmpError> {
    for command in commands(step, setting) {
        if command["execute"] == "getfd" {
            qmp.hand(command, file.as_fd())?;
        } else {
            qmp.call(command)?;
        }
    }
    Ok(())
}

/// Why memory was not moved.
enum Unmoved {
    Failed(String),
    Late,
    Monitor(QmpError),
}

impl Unmoved {
    fn fault(self, what: &str) -> Fault {
        match self {
            Self::Failed(words) => {
                Fault::new(Failure::Hypervisor, format!("it could not be {what}: {words}"))
            }
            Self::Late => Fault::new(Failure::Timeout, format!("it could not be {what} in time")),
            Self::Monitor(error) => fault(&error),
        }
    }
}

/// Wait until all of it is at the other end.
fn await_migration(qmp: &mut Qmp, until: Instant) -> Result<(), Unmoved> {
    loop {
        let progress = qmp.execute("query-migrate").map_err(Unmoved::Monitor)?;
        match progress.get("status").and_then(|status| status.as_str()) {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let words = progress.get("error-desc").and_then(|words| words.as_str());
                return Err(Unmoved::Failed(
                    words.unwrap_or("QEMU does not say why").chars().take(200).collect(),
                ));
            }
            _ if Instant::now() >= until => return Err(Unmoved::Late),
            _ => std::thread::sleep(PACE),
        }
    }
}

/// Stop writing out, and let the guest go on if it did.
fn go_on(qmp: &mut Qmp, ran: bool) {
    let _ = qmp.execute("migrate_cancel");
    // What is left of the time must do for the answer to the last command.
    while Instant::now() + PACE * 10 < qmp.deadline() {
        let progress = qmp.execute("query-migrate").unwrap_or_default();
        let status = progress.get("status").and_then(|status| status.as_str());
        if matches!(status, Some("setup" | "active" | "device" | "cancelling")) {
            std::thread::sleep(PACE);
            continue;
        }
        break;
    }
    if ran {
        let _ = qmp.execute("cont");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_saved_in_time_can_be_restored_from_a_slow_disk() {
        let within = Duration::from_secs(120);
        assert_eq!(patience(within, 4096), within);
        // 32 GiB at 200 MB/s.
        assert!(patience(within, 32 << 30) > Duration::from_secs((32 << 30) / 200_000_000));
        let _ = patience(within, u64::MAX);
    }
}
