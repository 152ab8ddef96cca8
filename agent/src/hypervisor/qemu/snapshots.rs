//! Snapshots inside the image's own qcow2 disks, of disks and memory together, and going back to them.
//!
//! What a disk of the appliance holds is not in them, so they are refused while one is attached: a guest whose memory is
//! from yesterday and whose disk is from today destroys the disk.

use super::commands::{JOB, Setting, commands, set_link};
use super::life::Beginning;
use super::qmp::{Qmp, QmpError};
use super::{Qemu, fault};
use crate::hypervisor::{ATTACHED, Evidence, Fault, Machine, Step};
use agent_protocol::{Failure, SnapshotName, Text};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long to wait between two looks at the job.
const PACE: Duration = Duration::from_millis(20);
/// How long a process that was started for the snapshot alone has to end.
const END_TIME: Duration = Duration::from_secs(5);
/// The most disks that a snapshot is of.
const DISKS_MAX: usize = 16;

impl Qemu {
    pub(super) fn snapshot(
        &self,
        machine: &Machine,
        name: &SnapshotName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        self.with_monitor(machine, Beginning::Fresh, within, |qmp| {
            let disks = disks(qmp)?;
            if disks.iter().any(|disk| disk.has(name)) {
                return Err(Fault::new(Failure::Hypervisor, format!("there is a snapshot {name} already")));
            }
            if !self.reshape(machine, |parts| Ok(parts.remember(name, machine)))? {
                return Err(Fault::new(Failure::Hypervisor, "it has as many snapshots as can be kept"));
            }
            if let Err(fault) = self.job(machine, qmp, &Step::Snapshot(name.clone()), &disks) {
                if fault.code != Failure::Timeout {
                    self.reshape(machine, |parts| Ok(parts.snapshots.remove(name)))?;
                }
                return Err(fault);
            }
            let all = self::disks(qmp)?;
            if let Some(disk) = all.iter().find(|disk| !disk.has(name)) {
                return Err(Fault::new(Failure::Hypervisor, format!("{} has no snapshot {name}", disk.node)));
            }
            Ok(vec![Text::new(&format!("query-block shows the snapshot {name} in all {} disks", all.len()))])
        })
    }

    pub(super) fn revert(
        &self,
        machine: &Machine,
        name: &SnapshotName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let loaded = self.with_monitor(machine, Beginning::Kept(name), within, |qmp| {
            let disks = disks(qmp)?;
            if !disks.iter().all(|disk| disk.has(name)) {
                return Err(Fault::new(Failure::Hypervisor, format!("there is no snapshot {name}")));
            }
            let parts = self.parts(machine)?;
            if parts.snapshots.get(name).is_none_or(|shape| *shape != parts.now.kept(machine)) {
                let words = "it has another size or other interfaces than when the snapshot was made";
                return Err(Fault::new(Failure::Hypervisor, words));
            }
            Ok(self.load(machine, qmp, name, &disks))
        })?;
        match loaded {
            Ok(()) => Ok(vec![Text::new(&format!("snapshot-load of {name} has concluded without an error"))]),
            Err(fault) => {
                // What is in its memory now nobody knows, so nothing of it may go on.
                self.end(machine, END_TIME)?;
                Err(Fault::new(fault.code, format!("{}; its process was ended", fault.detail)))
            }
        }
    }

    /// Load it while nothing goes on. The cables are as they were then, and are put as they are to be before its guest can
    /// send anything.
    fn load(
        &self,
        machine: &Machine,
        qmp: &mut Qmp,
        name: &SnapshotName,
        disks: &[Disk],
    ) -> Result<(), Fault> {
        let ask = |error: QmpError| fault(&error);
        let runs = qmp.status().map_err(ask)? == "running";
        if runs {
            qmp.execute("stop").map_err(ask)?;
        }
        self.job(machine, qmp, &Step::Revert(name.clone()), disks)?;
        for nic in &machine.nics {
            qmp.call(set_link(&nic.nic, nic.link)).map_err(ask)?;
        }
        if runs {
            qmp.execute("cont").map_err(ask)?;
        }
        Ok(())
    }

    /// Work with the monitor of a machine that runs, or of one that is started for it with its processors held.
    fn with_monitor<T>(
        &self,
        machine: &Machine,
        beginning: Beginning<'_>,
        within: Duration,
        work: impl FnOnce(&mut Qmp) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if !machine.volumes.is_empty() {
            return Err(Fault::new(Failure::Hypervisor, ATTACHED));
        }
        let deadline = Instant::now() + within;
        let spawned = match self.running(machine) {
            Some(_) => None,
            None => Some(self.spawn(machine, beginning, deadline)?),
        };
        let outcome = self.monitor_by(machine, deadline).and_then(|mut qmp| work(&mut qmp));
        if spawned.is_some() {
            self.end(machine, END_TIME)?;
        }
        outcome
    }

    /// Carry out the job of a step until it has concluded.
    fn job(&self, machine: &Machine, qmp: &mut Qmp, step: &Step, disks: &[Disk]) -> Result<(), Fault> {
        let nodes = disks.iter().map(|disk| disk.node.clone()).collect();
        let setting = Setting { nodes, ..self.setting(machine, self.board(machine), 0) };
        for command in commands(step, &setting) {
            qmp.call(command).map_err(|error| fault(&error))?;
        }
        loop {
            let jobs = qmp.execute("query-jobs").map_err(|error| fault(&error))?;
            let is_it = |job: &&Value| job.get("id").and_then(Value::as_str) == Some(JOB);
            let job = jobs.as_array().and_then(|jobs| jobs.iter().find(is_it));
            let Some(job) = job else {
                return Err(Fault::new(Failure::Hypervisor, "the job of the snapshot is not there"));
            };
            if job.get("status").and_then(Value::as_str) == Some("concluded") {
                let error = job.get("error").and_then(Value::as_str).map(Text::new);
                qmp.ask("job-dismiss", json!({ "id": JOB })).map_err(|error| fault(&error))?;
                return error.map_or(Ok(()), |words| Err(Fault::new(Failure::Hypervisor, words.as_str())));
            }
            std::thread::sleep(PACE);
        }
    }
}

/// A disk of the image's own.
struct Disk {
    node: String,
    snapshots: Vec<String>,
}

impl Disk {
    fn has(&self, name: &SnapshotName) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot == name.as_str())
    }
}

/// The disks that a snapshot is of: all that the guest can write to, if they can all hold one.
fn disks(qmp: &mut Qmp) -> Result<Vec<Disk>, Fault> {
    let listed = qmp.execute("query-block").map_err(|error| fault(&error))?;
    let mut disks = Vec::new();
    for inserted in listed.as_array().into_iter().flatten().filter_map(|entry| entry.get("inserted")) {
        let text = |key: &str| inserted.get(key).and_then(Value::as_str).unwrap_or_default();
        let read_only = inserted.get("ro").and_then(Value::as_bool).unwrap_or(false);
        match text("drv") {
            _ if read_only => {}
            "qcow2" => disks.push(Disk {
                node: text("node-name").to_owned(),
                snapshots: names(inserted.pointer("/image/snapshots")),
            }),
            other => {
                let words = format!("a disk of its image is {other}, and only qcow2 holds snapshots");
                return Err(Fault::new(Failure::Hypervisor, words));
            }
        }
    }
    match disks.len() {
        0 => Err(Fault::new(Failure::Hypervisor, "its image has no qcow2 disk that could hold a snapshot")),
        1..=DISKS_MAX => Ok(disks),
        _ => Err(fault(&QmpError::Malformed("more disks than a machine has"))),
    }
}

fn names(snapshots: Option<&Value>) -> Vec<String> {
    let listed = snapshots.and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|snapshot| Some(snapshot.get("name")?.as_str()?.to_owned())).collect()
}
