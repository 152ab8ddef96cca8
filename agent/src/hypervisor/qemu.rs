//! QEMU: one process per running instance, driven through its monitor.
//!
//! An instance that is stopped has no process. Each machine has a private directory with its monitor's socket, its
//! pid file and the identity of its process, so that another run of the agent finds it again.

mod images;
mod process;
mod qmp;

pub use images::Images;

use super::{Ended, Evidence, Fault, Hypervisor, Machine, Observation, Step};
use agent_protocol::{Backend, Capability, Failure, ImageName, State, Stats, Support, Text, Uuid, Verb};
use process::{Identity, Process};
use qmp::{Qmp, QmpError};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process has to end after `quit`, before it is killed.
const QUIT_TIME: Duration = Duration::from_secs(2);
/// How long the monitor has to accept `quit`.
const QUIT_ANSWER_TIME: Duration = Duration::from_millis(500);
/// The longest path of a unix socket (`sun_path` less its NUL).
const SOCKET_PATH_LIMIT: usize = 107;

/// The QEMU backend.
pub struct Qemu {
    images: Images,
    version: Text,
    /// One private directory per machine below this one.
    directory: PathBuf,
    /// The processes that run, or ended and are not buried.
    processes: Mutex<BTreeMap<Uuid, Arc<Process>>>,
}

impl Qemu {
    /// A backend for these images, with `directory` for its own files.
    ///
    /// # Errors
    /// What is wrong with the table, the program or the directory.
    pub fn new(images: Images, directory: PathBuf) -> Result<Self, String> {
        images.check()?;
        let longest = directory.join(Uuid(0).to_string()).join("qmp");
        if longest.as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(format!("the run directory's path is too long for a socket: {}", longest.display()));
        }
        private_directory(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let version = version(&images.executable)?;
        Ok(Self { images, version, directory, processes: Mutex::default() })
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of a machine, if it runs.
    fn running(&self, machine: &Machine) -> Option<Arc<Process>> {
        let process = self.processes().get(&machine.uuid).cloned()?;
        if process.wait(Duration::ZERO) { None } else { Some(process) }
    }

    fn own_directory(&self, machine: &Machine) -> PathBuf {
        self.directory.join(machine.uuid.to_string())
    }

    fn socket(&self, machine: &Machine) -> PathBuf {
        self.own_directory(machine).join("qmp")
    }

    /// Send one monitor command and check the state it leads to.
    fn drive(
        &self,
        machine: &Machine,
        within: Duration,
        command: &'static str,
        expected: &str,
    ) -> Result<Evidence, Fault> {
        if self.running(machine).is_none() {
            return Err(Fault::new(Failure::Ended, "its process has ended"));
        }
        let act = || {
            let mut qmp = Qmp::connect(&self.socket(machine), Instant::now() + within)?;
            qmp.execute(command)?;
            qmp.status()
        };
        match act() {
            Ok(status) if status == expected => {
                Ok(vec![Text::new(&format!("{command}; query-status says {status}"))])
            }
            Ok(status) => Err(Fault::new(
                Failure::Hypervisor,
                format!("after {command} its state is {status} and not {expected}"),
            )),
            Err(error) => Err(fault(&error)),
        }
    }

    /// Spawn the process with its processors held, and wait for its monitor.
    fn spawn(&self, machine: &Machine, deadline: Instant) -> Result<Arc<Process>, Fault> {
        let image = self.images.images.get(&machine.image);
        let image = image.ok_or_else(|| {
            Fault::new(Failure::Spawn, format!("the image {} is in the table no more", machine.image))
        })?;
        let directory = self.own_directory(machine);
        let storage = |error: std::io::Error| Fault::new(Failure::Storage, format!("its directory: {error}"));
        private_directory(&directory).map_err(storage)?;
        for stale in ["qmp", "pid", "process"] {
            remove(&directory.join(stale)).map_err(storage)?;
        }
        let mut command = Command::new(&self.images.executable);
        command.args(self.own_arguments(machine, &directory));
        if image.sandbox {
            command.args(["-sandbox", SANDBOX]);
        }
        command.args(image.arguments(machine, &directory));
        // A group of its own: what interrupts the agent in its terminal must not reach the guests.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| Fault::new(Failure::Spawn, error.to_string()))?;
        let process =
            Process::spawned(child).map_err(|error| Fault::new(Failure::Spawn, error.to_string()))?;
        let process = Arc::new(process);
        self.processes().insert(machine.uuid, process.clone());
        let kept = keep(&directory.join("process"), &process.identity).map_err(storage);
        match kept.and_then(|()| self.await_monitor(machine, &process, deadline)) {
            Ok(()) => Ok(process),
            Err(fault) => {
                process.kill();
                process.wait(QUIT_TIME);
                self.remove_process(machine, &process);
                Err(fault)
            }
        }
    }

    fn own_arguments(&self, machine: &Machine, directory: &Path) -> Vec<String> {
        // QEMU reads a comma in an option's value as its end, unless it is doubled.
        let path = |name: &str| directory.join(name).to_string_lossy().replace(',', ",,");
        let uuid = machine.uuid.to_string();
        let monitor = format!("unix:{},server=on,wait=off", path("qmp"));
        let pid_file = directory.join("pid").to_string_lossy().into_owned();
        let pairs = [
            ("-name", machine.id.as_str()),
            ("-uuid", &uuid),
            ("-display", "none"),
            ("-qmp", &monitor),
            ("-pidfile", &pid_file),
        ];
        let switches = ["-S", "-nodefaults", "-no-user-config"];
        let flat = pairs.iter().flat_map(|(option, value)| [*option, *value]);
        flat.chain(switches).map(str::to_owned).collect()
    }

    fn await_monitor(&self, machine: &Machine, process: &Process, deadline: Instant) -> Result<(), Fault> {
        loop {
            if process.wait(Duration::from_millis(5)) {
                let how = process::describe(process.reap());
                // What it complains of comes through a pipe and may be a moment behind its end.
                std::thread::sleep(Duration::from_millis(20));
                return Err(Fault::new(Failure::Spawn, format!("it {how}: {}", process.last_words())));
            }
            match Qmp::connect(&self.socket(machine), deadline) {
                Ok(_) => return Ok(()),
                // Not there yet.
                Err(QmpError::Unreachable(_)) if Instant::now() < deadline => {}
                Err(error) => return Err(fault(&error)),
            }
        }
    }

    /// Forget the process, which has ended or is about to.
    fn remove_process(&self, machine: &Machine, process: &Process) {
        process.reap();
        self.processes().remove(&machine.uuid);
        let directory = self.own_directory(machine);
        for file in ["process", "pid", "qmp"] {
            let _ = fs::remove_file(directory.join(file));
        }
    }

    /// Which process an earlier run of the agent left for a machine.
    fn recorded(&self, machine: &Machine) -> Option<Identity> {
        let directory = self.own_directory(machine);
        let kept = fs::read(directory.join("process")).ok();
        if let Some(identity) = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Some(identity);
        }
        // It was interrupted between the spawn and its record. The pid file is QEMU's own, and may be stale: only a
        // process that carries the machine's UUID on its command line is the one.
        let pid = fs::read_to_string(directory.join("pid")).ok()?.trim().parse().ok()?;
        let identity = Identity::of(pid)?;
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let expected = format!("\0-uuid\0{}\0", machine.uuid);
        let found = command_line.windows(expected.len()).any(|window| window == expected.as_bytes());
        found.then_some(identity)
    }

    fn start(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let process = match self.running(machine) {
            Some(process) => process,
            None => self.spawn(machine, deadline)?,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut evidence =
            vec![Text::new(&format!("process {} answers on its monitor", process.identity.pid))];
        evidence.extend(self.drive(machine, left, "cont", "running")?);
        Ok(evidence)
    }

    fn ask_to_stop(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let ask =
            || Qmp::connect(&self.socket(machine), Instant::now() + within)?.execute("system_powerdown");
        match ask() {
            Ok(_) => Ok(vec![Text::new("system_powerdown was accepted")]),
            Err(error) => Err(fault(&error)),
        }
    }

    fn end(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
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
}

/// What a taken-over QEMU must not do: old system calls, gaining privileges, starting programs, changing its limits.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Verbs of the vocabulary that this backend refuses.
const NOT_YET: [Verb; 16] = [
    Verb::Reboot,
    Verb::Reset,
    Verb::Save,
    Verb::Restore,
    Verb::Snapshot,
    Verb::Revert,
    Verb::Resize,
    Verb::VolumeAttach,
    Verb::VolumeDetach,
    Verb::VolumeResize,
    Verb::NicAttach,
    Verb::NicDetach,
    Verb::NicUpdate,
    Verb::MigratePrepare,
    Verb::MigrateStart,
    Verb::MigrateCancel,
];

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn describe(&self) -> Backend {
        let capability = |verb, support, by| Capability { verb, support, by: Text::new(by) };
        Backend {
            name: Text::new(self.name()),
            version: self.version.clone(),
            capabilities: [
                capability(
                    Verb::Create,
                    Support::Emulated,
                    "kept by the agent; a process exists only while it runs",
                ),
                capability(Verb::Start, Support::Native, "a new process with -S, then QMP cont"),
                capability(Verb::Stop, Support::Native, "QMP system_powerdown, then the process is awaited"),
                capability(Verb::ForceStop, Support::Native, "QMP quit, after 2 s SIGKILL"),
                capability(Verb::Pause, Support::Native, "QMP stop"),
                capability(Verb::Resume, Support::Native, "QMP cont"),
                capability(Verb::Terminate, Support::Native, "QMP quit, after 2 s SIGKILL"),
                capability(Verb::Describe, Support::Native, "QMP query-status"),
            ]
            .into_iter()
            .chain(
                NOT_YET
                    .iter()
                    .map(|&verb| capability(verb, Support::Impossible, "this backend has not learned it")),
            )
            .collect(),
        }
    }

    fn images(&self) -> Vec<ImageName> {
        self.images.images.keys().cloned().collect()
    }

    fn adopt(&self, machine: &Machine, within: Duration) -> Observation {
        if let Some(process) = self.recorded(machine).as_ref().and_then(Process::adopt) {
            let identity = process.identity.clone();
            self.processes().insert(machine.uuid, Arc::new(process));
            let _ = keep(&self.own_directory(machine).join("process"), &identity);
            return self.observe(machine, within);
        }
        Observation::of(State::Stopped).because("it ended while no agent was watching")
    }

    fn observe(&self, machine: &Machine, within: Duration) -> Observation {
        if self.running(machine).is_none() {
            return Observation::of(State::Stopped);
        }
        let asked =
            Qmp::connect(&self.socket(machine), Instant::now() + within).and_then(|mut qmp| qmp.status());
        match asked {
            Ok(status) => observation(&status),
            Err(error) => Observation::of(State::Unknown).because(error.to_string()),
        }
    }

    fn perform(&self, machine: &Machine, step: &Step, within: Duration) -> Result<Evidence, Fault> {
        match step {
            Step::Start => self.start(machine, within),
            Step::Pause => self.drive(machine, within, "stop", "paused"),
            Step::Resume => self.drive(machine, within, "cont", "running"),
            Step::AskToStop => self.ask_to_stop(machine, within),
            Step::End => self.end(machine, within),
            _ => Err(Fault::new(Failure::Hypervisor, "this backend cannot do it yet")),
        }
    }

    fn stats(&self, _machine: &Machine, _within: Duration) -> Result<Stats, Fault> {
        Err(Fault::new(Failure::Hypervisor, "this backend cannot tell yet"))
    }

    fn forget(&self, machine: &Machine) {
        let _ = fs::remove_dir_all(self.own_directory(machine));
    }

    fn bury(&self, machine: &Machine) -> Option<Ended> {
        let process = self.processes().get(&machine.uuid).cloned()?;
        if !process.wait(Duration::ZERO) {
            return None;
        }
        let status = process.reap();
        self.remove_process(machine, &process);
        let words = process.last_words();
        let how = format!("process {} {}", process.identity.pid, process::describe(status));
        let orderly = status.is_none_or(|status| status.success());
        let how = if words.is_empty() || orderly { how } else { format!("{how}: {words}") };
        Some(Ended { orderly, how: Text::new(&how) })
    }

    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid> {
        let watched: Vec<(Uuid, Arc<Process>)> =
            self.processes().iter().map(|(uuid, process)| (*uuid, process.clone())).collect();
        let handles: Vec<_> = watched.iter().map(|(_, process)| process.handle()).collect();
        process::poll(&handles, within).into_iter().map(|index| watched[index].0).collect()
    }
}

/// What a run state of QEMU (`RunState` in its schema) is to us.
fn observation(status: &str) -> Observation {
    let (state, reason) = match status {
        "running" => (State::Running, None),
        "paused" => (State::Paused, None),
        "prelaunch" | "preconfig" | "inmigrate" => (State::Pending, None),
        "suspended" => (State::Running, Some("the guest sleeps")),
        "io-error" => (State::Paused, Some("held because of an error of its disk")),
        "watchdog" => (State::Paused, Some("held by its watchdog")),
        "save-vm" | "restore-vm" | "finish-migrate" | "postmigrate" | "colo" => (State::Saving, None),
        "guest-panicked" => (State::Failed, Some("the guest's kernel panicked")),
        "internal-error" => (State::Failed, Some("the hypervisor could not go on")),
        "shutdown" => (State::Stopping, Some("the guest has powered off and its process still exists")),
        _ => (State::Unknown, Some("the hypervisor names a state that this agent does not know")),
    };
    Observation { reason: reason.map(Text::new), ..Observation::of(state) }
}

fn fault(error: &QmpError) -> Fault {
    let code = match error {
        QmpError::Timeout => Failure::Timeout,
        QmpError::Unreachable(_) | QmpError::Closed => Failure::Ended,
        QmpError::Malformed(_) | QmpError::Refused(_) => Failure::Hypervisor,
    };
    Fault::new(code, error.to_string())
}

fn version(executable: &Path) -> Result<Text, String> {
    let failed = |what: String| format!("{} --version: {what}", executable.display());
    let output = Command::new(executable).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Text::new(text.lines().next().unwrap_or_default()))
}

/// Make a directory that nobody else can enter, unless it is there.
fn private_directory(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Write who the process is, all of it or nothing.
fn keep(path: &Path, identity: &Identity) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(identity)?)?;
    fs::rename(fresh, path)
}
