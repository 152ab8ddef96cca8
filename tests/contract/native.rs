//! What the hypervisor was really told: every QEMU here is started through a script that has it trace the commands that it
//! carries out and the states that it goes through, into one file a process. So starts are counted as files, and
//! commands as lines, whoever sent them.

use image_launch::scratch::Scratch;
use rustix::process::WaitOptions;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reads the machine's UUID from the arguments; without one QEMU is only asked about itself.
const SCRIPT: &str = "#!/bin/sh
uuid= last=
for word; do
  [ \"$last\" = -uuid ] && uuid=$word
  last=$word
done
[ -n \"$uuid\" ] || exec /usr/bin/qemu-system-x86_64 \"$@\"
read -r traces < \"$0.traces\"
exec /usr/bin/qemu-system-x86_64 -serial file:$traces/$uuid.$$.console \"$@\" -msg timestamp=on \\
  -trace 'qmp_enter_*' -trace -qmp_enter_qom_get -trace handle_qmp_command -trace runstate_set -trace 'qemu_system_*' -D $traces/$uuid.$$
";

/// Commands of the monitor that change nothing.
const HARMLESS: &[&str] = &[
    "qmp_capabilities",
    "device_list_properties",
    "qom_get",
    "qom_list",
    "qom_list_types",
    "qom_list_properties",
    "migrate_set_capabilities",
    "migrate_set_parameters",
    "getfd",
    "closefd",
];

/// The folder of the traces, and the script.
pub(crate) struct Native {
    folder: PathBuf,
    script: PathBuf,
}

/// One process that was started for a machine.
pub(crate) struct Started {
    pub(crate) pid: u32,
    trace: String,
}

impl Native {
    /// The script lies where it did in earlier runs, unchanged, and reads where this run's traces go: libvirtd learns
    /// what a program of a new date can do, and takes seconds for it.
    pub(crate) fn new(scratch: &Scratch, kept: &Path) -> Self {
        let folder = scratch.file("traces");
        fs::create_dir(&folder).unwrap();
        let script = kept.join("hypervisor");
        fs::write(script.with_extension("traces"), format!("{}\n", folder.display())).unwrap();
        if fs::read_to_string(&script).unwrap_or_default() != SCRIPT {
            fs::write(&script, SCRIPT).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder, script }
    }

    /// What stands in the place of QEMU.
    pub(crate) fn program(&self) -> &Path {
        &self.script
    }

    /// The processes that were started for a machine, the earliest first.
    pub(crate) fn started(&self, uuid: &str) -> Vec<Started> {
        let mut found: Vec<_> = fs::read_dir(&self.folder)
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let pid = name.strip_prefix(uuid)?.strip_prefix('.')?.parse().ok()?;
                let made = entry.metadata().ok()?.created().ok()?;
                let trace = fs::read_to_string(entry.path()).ok()?;
                Some((made, Started { pid, trace }))
            })
            .collect();
        found.sort_by_key(|(made, started)| (*made, started.pid));
        found.into_iter().map(|(_, started)| started).collect()
    }

    /// Every process that was ever started; its number may be another's by now, but for a moment.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.folder).unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.path().extension()?.to_str()?.parse().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&self.folder.display().to_string())
        })
        .collect()
    }

    /// All processes that run for a machine.
    pub(crate) fn running(&self, uuid: &str) -> Vec<u32> {
        self.started(uuid).iter().map(|started| started.pid).filter(|pid| runs(*pid)).collect()
    }

    /// The process that runs for a machine of that name, if one does.
    pub(crate) fn pid_of(&self, id: &str) -> Option<u32> {
        self.processes().into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            runs(*pid) && String::from_utf8_lossy(&line).contains(id)
        })
    }

    /// The process that runs for a machine, if one does.
    pub(crate) fn pid(&self, uuid: &str) -> Option<u32> {
        self.started(uuid).last().map(|started| started.pid).filter(|pid| runs(*pid))
    }

    /// What the guest of a machine has said since its last start.
    pub(crate) fn console(&self, uuid: &str) -> String {
        let Some(last) = self.started(uuid).pop() else { return String::new() };
        let bytes = fs::read(self.folder.join(format!("{uuid}.{}.console", last.pid))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How often one command was carried out for a machine, over all its processes.
    pub(crate) fn calls(&self, uuid: &str, command: &str) -> usize {
        self.effects(uuid).iter().filter(|effect| *effect == command).count()
    }

    /// When each of some commands was carried out, in order, in microseconds since the epoch.
    pub(crate) fn times(&self, uuid: &str, commands: &[&str]) -> Vec<u64> {
        let started = self.started(uuid);
        let lines = started.iter().flat_map(|started| started.trace.lines());
        let time = |line: &str| {
            let (stamp, event) = line.split_once('@')?.1.split_once(':')?;
            let name = event.strip_prefix("qmp_enter_")?.split(' ').next()?;
            let (seconds, micros) = stamp.split_once('.')?;
            let at = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
            commands.contains(&name).then_some(at)
        };
        lines.filter_map(time).collect()
    }

    /// Everything that was done to a machine and could have changed it, in order; `start` for each process.
    pub(crate) fn effects(&self, uuid: &str) -> Vec<String> {
        let mut effects = Vec::new();
        for started in self.started(uuid) {
            effects.push("start".to_string());
            effects.extend(started.commands().filter(|name| !is_harmless(name)).map(str::to_string));
        }
        effects
    }

    /// The state that the running process of a machine is in, in QEMU's words; `None` when none runs.
    pub(crate) fn state(&self, uuid: &str) -> Option<String> {
        let last = self.started(uuid).pop().filter(|started| runs(started.pid))?;
        let lines = last.trace.lines().rev();
        let state = lines.filter(|line| line.contains(":runstate_set ")).find_map(|line| {
            let (_, new) = line.split_once("new_state ")?;
            Some(new.split_once('(')?.1.trim_end_matches(')').to_string())
        });
        Some(state.unwrap_or_else(|| "prelaunch".into()))
    }
}

impl Started {
    fn commands(&self) -> impl Iterator<Item = &str> {
        self.trace.lines().filter_map(command)
    }
}

/// The command that a line of a trace tells of. QEMU tells when it begins each, but for the one that gives a guest a device:
/// of that only that it has arrived.
fn command(line: &str) -> Option<&str> {
    if line.contains(":handle_qmp_command ") {
        return line.contains(r#""execute": "device_add""#).then_some("device_add");
    }
    line.split_once(":qmp_enter_")?.1.split(' ').next()
}

fn is_harmless(name: &str) -> bool {
    name.starts_with("query_") || HARMLESS.contains(&name)
}

/// Takes over the processes that are orphaned, and lets the kernel forget those that a QEMU was, as a system's first process
/// does at once. libvirtd looks five times a second whether one has gone, and for two seconds where nobody does; for those
/// of which it learns what they can do it waits fifteen.
pub(crate) struct Reaper {
    ended: Arc<AtomicBool>,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for pid in ended_orphans() {
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { ended }
    }
}

/// Processes of a QEMU that have ended and were given to this process: to its first thread, which has begun none itself.
fn ended_orphans() -> Vec<rustix::process::Pid> {
    let own = std::process::id();
    let listed = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    let pids = listed.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("qemu-system") && state(*pid) == Some('Z')
    };
    pids.filter(is_one).filter_map(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).collect()
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a process was stopped and not let go on.
pub(crate) fn is_held(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// What the kernel says of a process (`proc_pid_stat(5)`).
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
