//! The process of a machine: how it begins, how it ends, and how it is found again.

use super::commands::{self, Part, Setting};
use super::images::{Image, Network};
use super::link::Link;
use super::process::{self, Process, there};
use super::qmp::{Qmp, QmpError};
use super::{Qemu, fault, keep, private_directory, remove};
use crate::hypervisor::{Evidence, Fault, Machine, Step};
use crate::privilege::lend;
use agent_protocol::{Failure, Link as Cable, Nic, SnapshotName, Text};
use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a process has to end after `quit`, before it is killed.
const QUIT_TIME: Duration = Duration::from_secs(2);
/// How long the monitor has to accept `quit`.
const QUIT_ANSWER_TIME: Duration = Duration::from_millis(500);
/// How long the appliance has to accept a connection.
const PORTAL_TIME: Duration = Duration::from_secs(2);
/// How long the kernel has to put a device on a bridge.
const BRIDGE_TIME: Duration = Duration::from_secs(2);

/// What a taken-over QEMU must not do: old system calls, gaining privileges, starting programs, changing its limits.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What its processors do when a process has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    /// They are held before their first instruction.
    Fresh,
    /// The same, of a machine as large as it was when a snapshot was made.
    Kept(&'a SnapshotName),
    /// They wait for the memory that was saved.
    Restored,
    /// They wait for the machine that comes from another host.
    Arriving,
}

impl Qemu {
    pub(super) fn start(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let process = match self.beginning(machine, deadline)? {
            Some(process) => process,
            None => self.spawn(machine, Beginning::Fresh, deadline)?,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut evidence =
            vec![Text::new(&format!("process {} answers on its monitor", process.identity.pid))];
        evidence.extend(self.drive(machine, left, &Step::Start, "running")?);
        Ok(evidence)
    }

    /// The process of a machine that is about to run, or runs. One whose guest is beyond going on is ended.
    fn beginning(&self, machine: &Machine, deadline: Instant) -> Result<Option<Arc<Process>>, Fault> {
        let Some(process) = self.running(machine) else { return Ok(None) };
        let status = self.monitor_by(machine, deadline)?.status().map_err(|error| fault(&error))?;
        if matches!(status.as_str(), "prelaunch" | "paused" | "running") {
            return Ok(Some(process));
        }
        self.end(machine, QUIT_TIME)?;
        Ok(None)
    }

    /// Spawn the process with its processors held, wait for its monitor, and have its interfaces as they are to be.
    pub(super) fn spawn(
        &self,
        machine: &Machine,
        beginning: Beginning<'_>,
        deadline: Instant,
    ) -> Result<Arc<Process>, Fault> {
        let directory = self.own_directory(machine);
        let storage = |error: std::io::Error| Fault::new(Failure::Storage, format!("its directory: {error}"));
        private_directory(&directory).map_err(storage)?;
        if beginning != Beginning::Arriving {
            self.must_stay(machine)?;
        }
        if beginning != Beginning::Restored {
            if self.is_saved(machine).map_err(storage)? {
                return Err(Fault::new(Failure::Hypervisor, "its memory is saved; it can only be restored"));
            }
            self.mend_parts(machine);
        }
        let arguments = self.arguments(machine, beginning, &directory)?;
        if !machine.volumes.is_empty() {
            self.reach_portal(deadline)?;
        }
        for stale in ["qmp", "events", "console", "pid", "process", "memory.new", "memory.loaded"] {
            remove(&directory.join(stale)).map_err(storage)?;
        }
        let mut command = Command::new(&self.images.executable);
        command.args(arguments);
        // A group of its own: what interrupts the agent in its terminal must not reach the guests.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // From here on there may be a process that another run of the agent has to look for.
        fs::write(directory.join("process"), "").map_err(storage)?;
        // With a bridge in the operator's file a machine may be given a TAP device at any time, which its QEMU opens.
        let tapped = self.images.networks.values().any(|network| matches!(network, Network::Bridge(_)));
        let child = lend(tapped, || command.spawn());
        let child = child.map_err(|error| Fault::new(Failure::Spawn, error.to_string()))?;
        let process =
            Process::spawned(child).map_err(|error| Fault::new(Failure::Spawn, error.to_string()))?;
        let process = Arc::new(process);
        self.processes().insert(machine.uuid, process.clone());
        let kept = keep(&directory.join("process"), &process.identity).map_err(storage);
        let ready =
            kept.and_then(|()| self.await_monitor(machine, &process, deadline)).and_then(|mut qmp| {
                self.links().insert(machine.uuid, Arc::new(Link::open(&directory)));
                machine.nics.iter().try_for_each(|nic| self.cable(machine, nic, &mut qmp))
            });
        match ready {
            Ok(()) => Ok(process),
            Err(fault) => {
                process.kill();
                process.wait(QUIT_TIME);
                self.remove_process(machine, &process);
                Err(fault)
            }
        }
    }

    /// All arguments of a process; its disks and interfaces have their slots after this.
    fn arguments(
        &self,
        machine: &Machine,
        beginning: Beginning<'_>,
        directory: &Path,
    ) -> Result<Vec<String>, Fault> {
        let image = self.image(machine)?;
        let board = image.board();
        if !(machine.volumes.is_empty() && machine.nics.is_empty()) && board == super::Board::Other {
            return Err(Fault::new(Failure::Spawn, board.fixed().unwrap_or_default()));
        }
        if let Some(nic) = machine.nics.iter().find(|nic| !self.images.networks.contains_key(&nic.network)) {
            return Err(unknown_network(nic));
        }
        let shape = self.reshape(machine, |parts| {
            match beginning {
                // As its source sees it before it sends anything.
                Beginning::Arriving => parts.now = super::parts::Shape::default(),
                Beginning::Fresh if parts.snapshots.is_empty() => parts.now.shuffle(),
                _ => {}
            }
            parts.now.fit(machine)?;
            let kept = match beginning {
                Beginning::Kept(name) => parts.snapshots.get(name),
                _ => None,
            };
            if let Some(kept) = kept {
                (parts.now.size, parts.now.plugged) = (kept.size, kept.plugged.clone());
                parts.now.balloon = kept.balloon;
            } else if beginning != Beginning::Restored {
                parts.now.begin(machine.size);
                parts.held_anew = false;
            }
            Ok(parts.now.clone())
        })?;
        let mut arguments = own_arguments(machine, image, directory);
        if matches!(beginning, Beginning::Restored | Beginning::Arriving) {
            arguments.extend(["-incoming".to_owned(), "defer".to_owned()]);
        }
        arguments.extend(image.arguments(machine, directory));
        // What stands last counts; an image may still say how many processors there can be at most.
        if let Some(cpus) = shape.size.cpus {
            arguments.extend(["-smp".to_owned(), format!("cpus={cpus}")]);
        }
        if let Some(mib) = shape.size.memory_mib {
            arguments.extend(["-m".to_owned(), format!("size={mib}M")]);
        }
        for processor in shape.plugged {
            arguments.extend(["-device".to_owned(), Value::Object(processor).to_string()]);
        }
        arguments.extend(board.slots());
        arguments.extend(commands::arguments(machine, |part| match part {
            Part::Volume(volume) => {
                self.setting(machine, board, shape.volumes.get(&volume.volume).copied().unwrap_or_default())
            }
            Part::Nic(nic) => Setting {
                network: self.images.networks.get(&nic.network).cloned(),
                ..self.setting(machine, board, shape.nics.get(&nic.nic).copied().unwrap_or_default())
            },
        }));
        Ok(arguments)
    }

    /// Find out whether the appliance is there. QEMU would find out as well, but its guest would stand still meanwhile.
    pub(super) fn reach_portal(&self, deadline: Instant) -> Result<(), Fault> {
        let Some(portal) = self.images.portal else {
            return Err(Fault::new(Failure::Hypervisor, "the operator's file names no portal for disks"));
        };
        let left = deadline.saturating_duration_since(Instant::now()).min(PORTAL_TIME);
        let reached = TcpStream::connect_timeout(&portal, left.max(Duration::from_millis(1)));
        let lost = |error: std::io::Error| format!("the portal for disks cannot be reached: {error}");
        reached.map(|_| ()).map_err(|error| Fault::new(Failure::Hypervisor, lost(error)))
    }

    /// Have the cable of an interface as it is to be: its TAP device on its bridge, and unplugged if so desired.
    fn cable(&self, machine: &Machine, nic: &Nic, qmp: &mut Qmp) -> Result<(), Fault> {
        self.join_bridge(machine, nic)?;
        if nic.link == Cable::Down {
            qmp.call(commands::set_link(&nic.nic, Cable::Down)).map_err(|error| fault(&error))?;
        }
        Ok(())
    }

    /// Put the interface's TAP device on its bridge, if it has one.
    pub(super) fn join_bridge(&self, machine: &Machine, nic: &Nic) -> Result<(), Fault> {
        let Some(Network::Bridge(bridge)) = self.images.networks.get(&nic.network) else { return Ok(()) };
        let slot = self.parts(machine)?.now.nics.get(&nic.nic).copied().unwrap_or_default();
        let tap = commands::tap(machine.uuid, slot);
        let failed =
            |what: String| Fault::new(Failure::Hypervisor, format!("{tap} cannot join {bridge}: {what}"));
        let mut command = Command::new("ip");
        command.args(["link", "set", "dev", &tap, "master", bridge, "up"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = lend(true, || command.spawn()).map_err(|error| failed(error.to_string()))?;
        let process = Process::spawned(child).map_err(|error| failed(error.to_string()))?;
        if !process.wait(BRIDGE_TIME) {
            process.kill();
            process.wait(BRIDGE_TIME);
            process.reap();
            return Err(failed("it takes too long".into()));
        }
        match process.reap() {
            Some(status) if status.success() => Ok(()),
            status => Err(failed(format!("ip {}: {}", process::describe(status), process.last_words()))),
        }
    }

    /// Restart its processors. One that is held is held on, before its first instruction; one that sleeps wakes.
    pub(super) fn reset(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let mut qmp = self.monitor(machine, within)?;
        let ask = |error: QmpError| fault(&error);
        let before = qmp.status().map_err(ask)?;
        let runs = matches!(before.as_str(), "running" | "suspended");
        if !runs {
            // Kept first: how it looks afterwards does not tell.
            self.reshape(machine, |parts| {
                parts.held_anew = true;
                Ok(())
            })?;
        }
        for command in commands::commands(&Step::Reset, &self.setting(machine, self.board(machine), 0)) {
            qmp.call(command).map_err(ask)?;
        }
        loop {
            match qmp.status().map_err(ask)?.as_str() {
                "prelaunch" if runs => drop(qmp.execute("cont").map_err(ask)?),
                // It is about to be done.
                status if status == before && !matches!(status, "running" | "prelaunch") => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                status => return Ok(vec![Text::new(&format!("system_reset; query-status says {status}"))]),
            }
        }
    }

    fn await_monitor(&self, machine: &Machine, process: &Process, deadline: Instant) -> Result<Qmp, Fault> {
        loop {
            if process.wait(Duration::from_millis(5)) {
                let how = process::describe(process.reap());
                return Err(Fault::new(Failure::Spawn, format!("it {how}: {}", process.last_words())));
            }
            match Qmp::connect(&self.socket(machine), deadline) {
                Ok(qmp) => return Ok(qmp),
                // Not there yet, or it has ended and is about to be seen to.
                Err(QmpError::Unreachable(_) | QmpError::Closed) if Instant::now() < deadline => {}
                Err(error) => return Err(fault(&error)),
            }
        }
    }

    pub(super) fn end(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let Some(process) = self.processes().get(&machine.uuid).cloned() else {
            return Ok(vec![Text::new("it had no process")]);
        };
        let pid = process.identity.pid;
        let asked_until = Instant::now() + QUIT_ANSWER_TIME.min(within);
        let quit = Qmp::connect(&self.socket(machine), asked_until).and_then(|mut qmp| qmp.execute("quit"));
        // The answer may be lost in the end of the process; what counts is the end.
        let patience = if matches!(quit, Ok(_) | Err(QmpError::Closed)) {
            QUIT_TIME.min(within)
        } else {
            Duration::ZERO
        };
        let quiet = process.wait(patience);
        if !quiet {
            process.kill();
            if !process.wait(within) {
                return Err(Fault::new(Failure::Timeout, format!("process {pid} does not end, even killed")));
            }
        }
        let how = process::describe(process.reap());
        self.remove_process(machine, &process);
        let by = if quiet { "after quit" } else { "after SIGKILL" };
        Ok(vec![Text::new(&format!("{by} process {pid} {how} and is gone"))])
    }

    /// Forget the process, which has ended or is about to.
    pub(super) fn remove_process(&self, machine: &Machine, process: &Process) {
        process.reap();
        self.links().remove(&machine.uuid);
        self.processes().remove(&machine.uuid);
        let directory = self.own_directory(machine);
        for file in ["process", "pid", "qmp", "events", "console"] {
            let _ = fs::remove_file(directory.join(file));
        }
    }

    /// The process that an earlier run of the agent left for a machine, if it still runs.
    pub(super) fn left(&self, machine: &Machine) -> std::io::Result<Option<Process>> {
        let directory = self.own_directory(machine);
        let kept = there(fs::read(directory.join("process")))?;
        let identity = kept.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let left = identity.as_ref().map(Process::adopt).transpose()?.flatten();
        if left.is_some() || kept.is_none() && !directory.join("pid").try_exists()? {
            return Ok(left);
        }
        // It was interrupted between the spawn and its record, or that is damaged.
        Process::of_machine(machine.uuid)
    }
}

pub(super) fn unknown_network(nic: &Nic) -> Fault {
    Fault::new(Failure::Hypervisor, format!("there is no network {} in the operator's file", nic.network))
}

/// What the agent says itself.
fn own_arguments(machine: &Machine, image: &Image, directory: &Path) -> Vec<String> {
    // QEMU reads a comma in an option's value as its end, unless it is doubled.
    let path = |name: &str| directory.join(name).to_string_lossy().replace(',', ",,");
    let socket = |name: &str| format!("unix:{},server=on,wait=off", path(name));
    let uuid = machine.uuid.to_string();
    let (monitor, events) = (socket("qmp"), socket("events"));
    let pid_file = directory.join("pid").to_string_lossy().into_owned();
    let mut pairs = vec![
        ("-name", machine.id.as_str()),
        ("-uuid", &uuid),
        ("-display", "none"),
        ("-qmp", &monitor),
        ("-qmp", &events),
        ("-pidfile", &pid_file),
    ];
    let console = format!("socket,id=corbel-console,path={},server=on,wait=off", path("console"));
    if image.board() != super::Board::Other && !image.has_serial() {
        pairs.extend([("-chardev", console.as_str()), ("-serial", "chardev:corbel-console")]);
    }
    if image.sandbox {
        pairs.push(("-sandbox", SANDBOX));
    }
    let switches = ["-S", "-nodefaults", "-no-user-config"];
    let flat = pairs.iter().flat_map(|(option, value)| [*option, *value]);
    flat.chain(switches).map(str::to_owned).collect()
}
