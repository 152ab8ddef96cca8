//! QEMU: one process per running instance, driven through its monitor.
//!
//! An instance that is stopped has no process. Each machine has a private directory with its monitor's socket, its
//! pid file and the identity of its process, so that another run of the agent finds it again.

#[cfg(test)]
mod between;
mod board;
mod capabilities;
mod commands;
mod console;
mod devices;
#[cfg(test)]
mod hostile;
mod images;
mod life;
mod link;
mod memory;
mod moving;
mod parts;
mod passage;
mod process;
mod qmp;
mod size;
mod snapshots;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;

pub use board::Board;
pub use commands::{Part, Setting, arguments, commands};
pub use console::ConsolePage;
pub use images::{Images, Network};

use super::{Ended, Evidence, Fault, Hypervisor, Incident, Machine, Observation, Step};
use crate::locked;
use agent_protocol::{Backend, Failure, ImageName, State, Stats, Text, Uuid};
use images::Image;
use link::Link;
use parts::Parts;
use process::{Identity, Process};
use qmp::{Qmp, QmpError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest path of a unix socket (`sun_path` less its NUL).
const SOCKET_PATH_LIMIT: usize = 107;

/// How long a process that has closed its monitor has to be seen to end.
const ENDING_TIME: Duration = Duration::from_millis(500);

/// The QEMU backend.
pub struct Qemu {
    images: Images,
    version: Text,
    /// One private directory per machine below this one.
    directory: PathBuf,
    /// The processes that run, or ended and are not buried.
    processes: Mutex<BTreeMap<Uuid, Arc<Process>>>,
    /// The standing connections to them.
    links: Mutex<BTreeMap<Uuid, Arc<Link>>>,
    /// What is remembered of the machines, as it lies in their directories.
    parts: Mutex<BTreeMap<Uuid, Parts>>,
    /// Those of which it could not be seen whether an earlier run of the agent left them running.
    unread: Mutex<BTreeSet<Uuid>>,
    moves: moving::Moves,
}

impl Qemu {
    /// A backend for these images, with `directory` for its own files.
    ///
    /// # Errors
    /// What is wrong with the table, the program or the directory.
    pub fn new(images: Images, directory: PathBuf) -> Result<Self, String> {
        images.check()?;
        let longest = directory.join(Uuid(0).to_string()).join("console");
        if longest.as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(format!("the run directory's path is too long for a socket: {}", longest.display()));
        }
        private_directory(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let version = version(&images.executable)?;
        allow_descriptors();
        Ok(Self {
            images,
            version,
            directory,
            processes: Mutex::default(),
            links: Mutex::default(),
            parts: Mutex::default(),
            unread: Mutex::default(),
            moves: moving::Moves::default(),
        })
    }

    /// What the guest wrote to its console after the first `after` bytes, at most `most` of it, and no more than the
    /// latest 16 KiB. `None` if it has no console or does not run.
    pub fn console(&self, machine: &Machine, after: u64, most: usize) -> Option<ConsolePage> {
        self.link(machine)?.page(after, most)
    }

    /// Let the guest read this from its console; how much of it there was room for. `None` if it has no console or does
    /// not run.
    pub fn type_in(&self, machine: &Machine, bytes: &[u8]) -> Option<usize> {
        self.link(machine)?.type_in(bytes)
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, machine: &Machine) -> Option<Arc<Link>> {
        self.links().get(&machine.uuid).cloned()
    }

    /// Take over what an earlier run of the agent left of a machine; whether anything of it runs.
    fn take_over(&self, machine: &Machine, within: Duration) -> Result<bool, Fault> {
        let left = self.left(machine).map_err(|error| {
            // Nothing follows from that: it is tried again before anything else is done.
            locked(&self.unread).insert(machine.uuid);
            Fault::new(Failure::Storage, format!("whether it runs cannot be seen: {error}"))
        })?;
        locked(&self.unread).remove(&machine.uuid);
        let Some(process) = left else { return Ok(false) };
        let identity = process.identity.clone();
        let directory = self.own_directory(machine);
        self.processes().insert(machine.uuid, Arc::new(process));
        self.links().insert(machine.uuid, Arc::new(Link::open(&directory)));
        let _ = keep(&directory.join("process"), &identity);
        self.settle_memory(machine, within);
        Ok(true)
    }

    /// A machine of which nothing runs.
    fn ended(&self, machine: &Machine) -> Observation {
        match self.is_saved(machine) {
            Ok(true) => Observation::of(State::Saved),
            Ok(false) => Observation::of(State::Stopped),
            Err(error) => Observation::of(State::Unknown)
                .because(format!("whether it is saved cannot be seen: {error}")),
        }
    }

    /// The process of a machine, if it runs.
    fn running(&self, machine: &Machine) -> Option<Arc<Process>> {
        let process = self.processes().get(&machine.uuid).cloned()?;
        if process.wait(Duration::ZERO) { None } else { Some(process) }
    }

    fn image(&self, machine: &Machine) -> Result<&Image, Fault> {
        self.images.images.get(&machine.image).ok_or_else(|| {
            Fault::new(Failure::Spawn, format!("the image {} is in the table no more", machine.image))
        })
    }

    /// The machine's board. An image that has been taken out of the table meanwhile does not tell it.
    fn board(&self, machine: &Machine) -> Board {
        self.image(machine).map_or(Board::Other, Image::board)
    }

    /// The machine's board, if devices can come and go on it while it runs.
    fn pluggable(&self, machine: &Machine) -> Result<Board, Fault> {
        let board = self.image(machine)?.board();
        match board.fixed() {
            None => Ok(board),
            Some(why) => Err(Fault::new(Failure::Hypervisor, why)),
        }
    }

    fn own_directory(&self, machine: &Machine) -> PathBuf {
        self.directory.join(machine.uuid.to_string())
    }

    fn socket(&self, machine: &Machine) -> PathBuf {
        self.own_directory(machine).join("qmp")
    }

    fn initiator(&self, machine: &Machine) -> Text {
        Text::new(machine.initiator().as_ref().map_or("nobody", |name| name.as_str()))
    }

    /// Where a step on this machine takes place.
    fn setting(&self, machine: &Machine, board: Board, slot: u8) -> Setting {
        Setting {
            board,
            slot,
            portal: self.images.portal,
            initiator: machine.initiator(),
            network: None,
            uuid: machine.uuid,
            nodes: Vec::new(),
            length: 0,
        }
    }

    /// What is remembered of the machine.
    fn parts(&self, machine: &Machine) -> Result<Parts, Fault> {
        let known = locked(&self.parts).get(&machine.uuid).cloned();
        if let Some(parts) = known {
            return Ok(parts);
        }
        // Without the lock: a disk that hangs holds up this machine and no other.
        let parts = Parts::read(&self.own_directory(machine)).map_err(|error| {
            Fault::new(Failure::Storage, format!("which disks and interfaces it has cannot be read: {error}"))
        })?;
        Ok(locked(&self.parts).entry(machine.uuid).or_insert(parts).clone())
    }

    /// Of a machine that does not run: its slots can be given anew if what was kept of them is damaged.
    fn mend_parts(&self, machine: &Machine) {
        let damaged = |error: std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
        if Parts::read(&self.own_directory(machine)).is_err_and(damaged) {
            log::error!("{}: what was kept of its slots and snapshots is damaged and begun anew", machine.id);
            locked(&self.parts).insert(machine.uuid, Parts::default());
        }
    }

    /// Change what is remembered of the machine, durably.
    fn reshape<T>(
        &self,
        machine: &Machine,
        change: impl FnOnce(&mut Parts) -> Result<T, &'static str>,
    ) -> Result<T, Fault> {
        let mut parts = self.parts(machine)?;
        let before = parts.clone();
        let outcome = change(&mut parts).map_err(|words| Fault::new(Failure::Hypervisor, words))?;
        if parts != before {
            let kept = parts.keep(&self.own_directory(machine));
            kept.map_err(|error| Fault::new(Failure::Storage, format!("its slots: {error}")))?;
            locked(&self.parts).insert(machine.uuid, parts);
        }
        Ok(outcome)
    }

    fn monitor(&self, machine: &Machine, within: Duration) -> Result<Qmp, Fault> {
        self.monitor_by(machine, Instant::now() + within)
    }

    /// A connection to the machine's monitor on which all must be over by `deadline`.
    fn monitor_by(&self, machine: &Machine, deadline: Instant) -> Result<Qmp, Fault> {
        if self.running(machine).is_none() {
            return Err(Fault::new(Failure::Ended, "its process has ended"));
        }
        Qmp::connect(&self.socket(machine), deadline).map_err(|error| fault(&error))
    }

    /// Send the commands of a step and check the state they lead to.
    fn drive(
        &self,
        machine: &Machine,
        within: Duration,
        step: &Step,
        expected: &str,
    ) -> Result<Evidence, Fault> {
        let mut qmp = self.monitor(machine, within)?;
        let mut sent = String::new();
        for command in commands(step, &self.setting(machine, Board::Other, 0)) {
            sent = command["execute"].as_str().unwrap_or_default().to_owned();
            qmp.call(command).map_err(|error| fault(&error))?;
        }
        match qmp.status().map_err(|error| fault(&error))? {
            status if status == expected => {
                Ok(vec![Text::new(&format!("{sent}; query-status says {status}"))])
            }
            status => Err(Fault::new(
                Failure::Hypervisor,
                format!("after {sent} its state is {status} and not {expected}"),
            )),
        }
    }

    /// Send the commands of a step whose effect is another matter.
    fn tell(&self, machine: &Machine, within: Duration, step: &Step) -> Result<Evidence, Fault> {
        let mut qmp = self.monitor(machine, within)?;
        let mut evidence = Vec::new();
        for command in commands(step, &self.setting(machine, Board::Other, 0)) {
            let name = command["execute"].as_str().unwrap_or_default().to_owned();
            qmp.call(command).map_err(|error| fault(&error))?;
            evidence.push(Text::new(&format!("{name} was accepted")));
        }
        Ok(evidence)
    }

    /// Ask the monitor what the machine is doing and what it has.
    fn look(&self, machine: &Machine, within: Duration, parts: &Parts) -> Result<Observation, QmpError> {
        let mut qmp = Qmp::connect(&self.socket(machine), Instant::now() + within)?;
        let mut status = qmp.status()?;
        if let Some(between) = self.look_between(machine, &mut qmp, &status)? {
            if between.passage.is_some() || between.state == State::Unknown {
                return Ok(between);
            }
            status = qmp.status()?;
        }
        let mut seen = observation(&status);
        if status == "prelaunch" && parts.held_anew {
            seen = Observation::of(State::Paused);
        }
        if status == "io-error"
            && let Some(error) = self.link(machine).and_then(|link| link.last("BLOCK_IO_ERROR"))
        {
            let slots = &parts.now.volumes;
            let is_it = |slot: u8| commands::node(slot) == error.about.as_str();
            let volume = slots.iter().find(|(_, slot)| is_it(**slot));
            let disk = volume.map_or(error.about.as_str(), |(name, _)| name.as_str());
            seen = seen.because(format!("held because of an error of its disk {disk}"));
        }
        if !matches!(status.as_str(), "inmigrate" | "finish-migrate" | "save-vm" | "restore-vm") {
            let (volumes, nics) = self.settle_parts(machine, &parts.now, &mut qmp)?;
            (seen.volumes, seen.nics) = (Some(volumes), Some(nics));
        }
        Ok(seen)
    }
}

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn describe(&self) -> Backend {
        Backend {
            name: Text::new(self.name()),
            version: self.version.clone(),
            capabilities: capabilities::all(&self.images),
            facilities: capabilities::facilities(),
        }
    }

    fn images(&self) -> Vec<ImageName> {
        self.images.images.keys().cloned().collect()
    }

    fn adopt(&self, machine: &Machine, within: Duration) -> Observation {
        match self.take_over(machine, within) {
            Ok(true) => self.observe(machine, within),
            Ok(false) => match self.at_rest(machine) {
                seen if seen.state == State::Stopped => seen.because("it ended while no agent was watching"),
                seen => seen,
            },
            Err(fault) => Observation::of(State::Unknown).because(fault.detail.as_str()),
        }
    }

    fn observe(&self, machine: &Machine, within: Duration) -> Observation {
        if locked(&self.unread).contains(&machine.uuid) {
            return self.adopt(machine, within);
        }
        let Some(process) = self.running(machine) else { return self.at_rest(machine) };
        let parts = match self.parts(machine) {
            Ok(parts) => parts,
            Err(fault) => return Observation::of(State::Unknown).because(fault.detail.as_str()),
        };
        match self.look(machine, within, &parts) {
            Ok(seen) => seen,
            Err(QmpError::Closed | QmpError::Unreachable(_)) if process.wait(ENDING_TIME.min(within)) => {
                self.at_rest(machine)
            }
            Err(error) => Observation::of(State::Unknown).because(error.to_string()),
        }
    }

    fn perform(&self, machine: &Machine, step: &Step, within: Duration) -> Result<Evidence, Fault> {
        if locked(&self.unread).contains(&machine.uuid) {
            self.take_over(machine, within)?;
        }
        if !matches!(step, Step::End | Step::MigratePrepare | Step::MigrateCancel) {
            self.must_stay(machine)?;
        }
        match step {
            Step::Start => self.start(machine, within),
            Step::Pause => self.drive(machine, within, step, "paused"),
            Step::Resume => self.drive(machine, within, step, "running"),
            Step::AskToStop => self.tell(machine, within, step),
            Step::Reset => self.reset(machine, within),
            Step::End => self.end(machine, within),
            Step::Save => self.save(machine, within),
            Step::Restore => self.restore(machine, within),
            Step::Snapshot(name) => self.snapshot(machine, name, within),
            Step::Revert(name) => self.revert(machine, name, within),
            Step::Resize(size) => self.resize(machine, *size, within),
            Step::AttachVolume(volume) => self.attach_volume(machine, volume, within),
            Step::DetachVolume(volume) => self.detach_volume(machine, volume, within),
            Step::ResizeVolume(volume) => self.resize_volume(machine, volume, within),
            Step::AttachNic(nic) => self.attach_nic(machine, nic, within),
            Step::DetachNic(nic) => self.detach_nic(machine, nic, within),
            Step::UpdateNic(..) => self.update_nic(machine, step, within),
            Step::MigratePrepare => self.await_arrival(machine, within),
            Step::MigrateStart(peer) => self.move_to(machine, peer, within),
            Step::MigrateCancel => self.have_back(machine, within),
        }
    }

    fn call_off(&self, machine: &Machine) {
        self.give_up(machine);
    }

    fn call_all_off(&self) {
        locked(&self.moves)
            .values()
            .for_each(|move_| move_.store(true, std::sync::atomic::Ordering::Release));
    }

    fn stats(&self, machine: &Machine, within: Duration) -> Result<Stats, Fault> {
        self.tell_stats(machine, within)
    }

    fn console(&self, machine: &Machine, after: u64, most: usize) -> Option<ConsolePage> {
        Self::console(self, machine, after, most)
    }

    fn forget(&self, machine: &Machine) {
        match fs::remove_dir_all(self.own_directory(machine)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("{}: its directory is left until the agent starts again: {error}", machine.id);
            }
            _ => {}
        }
        locked(&self.parts).remove(&machine.uuid);
    }

    fn sweep(&self, known: &BTreeSet<Uuid>) {
        self.remove_orphans(known);
    }

    fn bury(&self, machine: &Machine) -> Option<Ended> {
        let process = self.processes().get(&machine.uuid).cloned()?;
        if !process.wait(Duration::ZERO) {
            return None;
        }
        let status = process.reap();
        let shutdown = self.link(machine).and_then(|link| {
            // The last that it said may still be unread.
            while link.listen() {}
            link.last("SHUTDOWN")
        });
        self.remove_process(machine, &process);
        let words = process.last_words();
        let mut how = format!("process {} {}", process.identity.pid, process::describe(status));
        let panicked = shutdown.as_ref().is_some_and(|shutdown| shutdown.about.as_str() == "guest-panic");
        let orderly = status.is_none_or(|status| status.success()) && !panicked;
        if let Some(shutdown) = shutdown {
            how = format!("{}: {how}", shutdown.about);
        } else if !(words.is_empty() || orderly) {
            how = format!("{how}: {words}");
        }
        Some(Ended { orderly, how: Text::new(&how) })
    }

    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid> {
        let processes: Vec<_> = self.processes().iter().map(|(uuid, one)| (*uuid, one.clone())).collect();
        let links: Vec<_> = self.links().iter().map(|(uuid, one)| (*uuid, one.clone())).collect();
        let mut handles: Vec<_> = processes.iter().map(|(_, process)| process.handle()).collect();
        let mut sources = Vec::new();
        for (at, (_, link)) in links.iter().enumerate() {
            for (is_event, handle) in [(true, link.events()), (false, link.console())] {
                if let Some(handle) = handle {
                    sources.push((at, is_event));
                    handles.push(handle);
                }
            }
        }
        let mut changed = Vec::new();
        for ready in process::poll(&handles, within) {
            match ready.checked_sub(processes.len()).map(|index| sources[index]) {
                None => changed.push(processes[ready].0),
                Some((at, true)) if links[at].1.listen() => changed.push(links[at].0),
                Some((_, true)) => {}
                Some((at, false)) => links[at].1.relay(),
            }
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn incidents(&self) -> Vec<Incident> {
        let links: Vec<_> = self.links().iter().map(|(uuid, one)| (*uuid, one.clone())).collect();
        let of_one = |(uuid, link): (Uuid, Arc<Link>)| {
            link.incidents().into_iter().map(move |(kind, detail)| Incident { uuid, kind, detail })
        };
        links.into_iter().flat_map(of_one).collect()
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
        "postmigrate" => (State::Paused, Some("it was being saved, and its memory was not kept")),
        "save-vm" | "finish-migrate" | "colo" => (State::Saving, None),
        // Whatever became of its guest: the process is there, and logged in to its targets.
        "restore-vm" => (State::Paused, Some("it was not brought back to a snapshot whole")),
        "guest-panicked" => (State::Paused, Some("held because the guest's kernel panicked")),
        "internal-error" => (State::Paused, Some("held because the hypervisor could not go on")),
        "shutdown" => (State::Stopping, Some("the guest has powered off and its process still exists")),
        _ => (State::Unknown, Some("the hypervisor names a state that this agent does not know")),
    };
    Observation { reason: reason.map(Text::new), ..Observation::of(state) }
}

fn fault(error: &QmpError) -> Fault {
    let code = match error {
        QmpError::Timeout => Failure::Timeout,
        QmpError::Unreachable(_) | QmpError::Closed => Failure::Ended,
        QmpError::Malformed(_) | QmpError::Refused(_) | QmpError::NotFound(_) => Failure::Hypervisor,
    };
    Fault::new(code, error.to_string())
}

/// Have as many descriptors as this process may have: each machine takes four (its process, its last words, its events,
/// its console), and the usual limit is 1,024.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
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
