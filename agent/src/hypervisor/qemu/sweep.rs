//! Directories of machines that there are no more: one that could not be removed when its machine was terminated, because the
//! disk was full or the agent killed, is removed when the next agent starts.
//!
//! Only what is provably left over goes: a directory that is called like a machine of ours, of which the journal knows nothing
//! that lives, that holds the agent's own files and no others, and of whose machine no process runs. Saved memory, what tells
//! of a move between hosts, and what an image's arguments have put there stay, and the log says so.

use super::Qemu;
use super::process::Process;
use agent_protocol::Uuid;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The files by which the agent speaks to a process and remembers its machine. Nothing that a guest could miss is in them.
const OWN: [&str; 9] =
    ["qmp", "events", "console", "pid", "process", "process.new", "parts.json", "parts.new", "memory.new"];

/// What became of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Removed,
    /// It is left, for this reason.
    Left(String),
}

impl Qemu {
    /// Remove the directories of machines that are not among these.
    pub(super) fn remove_orphans(&self, known: &BTreeSet<Uuid>) {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => return log::warn!("{}: {error}", self.directory.display()),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let uuid = name.to_str().and_then(|name| name.parse::<Uuid>().ok());
            // The one way in which the agent itself writes it.
            let uuid = uuid.filter(|uuid| name.to_str() == Some(uuid.to_string().as_str()));
            let Some(uuid) = uuid.filter(|uuid| !known.contains(uuid)) else { continue };
            let path = entry.path();
            match remove_orphan(&path, uuid) {
                Ok(Fate::Removed) => log::info!("{}: of no machine any more; removed", path.display()),
                Ok(Fate::Left(why)) => log::warn!("{}: of no machine any more, but {why}", path.display()),
                Err(error) => log::warn!("{}: of no machine any more: {error}", path.display()),
            }
        }
    }
}

fn remove_orphan(directory: &Path, uuid: Uuid) -> io::Result<Fate> {
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Ok(Fate::Left("no directory: it is left".into()));
    }
    let mut own = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| OWN.contains(&name)) || entry.file_type()?.is_dir() {
            return Ok(Fate::Left(format!("it holds {}: it is left", name.to_string_lossy())));
        }
        own.push(entry.path());
    }
    // However it came about: a process that runs needs it, and so does whoever is to end that one.
    if let Some(process) = Process::of_machine(uuid)? {
        return Ok(Fate::Left(format!("process {} runs: it is left", process.identity.pid)));
    }
    own.iter().try_for_each(fs::remove_file)?;
    fs::remove_dir(directory)?;
    Ok(Fate::Removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_left_of_machines_that_are_no_more_goes_and_nothing_else_does() {
        let directory = std::env::temp_dir().join(format!("corbel-qemu-sweep-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let file = r#"{"executable":"/bin/true","images":{"a":{"arguments":[]}}}"#;
        let qemu = Qemu::new(serde_json::from_str(file).unwrap(), directory.clone()).unwrap();
        let uuid = |number: u128| Uuid(u128::from(std::process::id()) << 64 | number << 48 | 0x5eeb);
        let make = |name: &str, files: &[&str]| {
            let path = directory.join(name);
            fs::create_dir(&path).unwrap();
            files.iter().for_each(|file| fs::write(path.join(file), "{}").unwrap());
            path
        };
        let of = |number: u128, files: &[&str]| make(&uuid(number).to_string(), files);
        let gone = [of(1, &OWN), of(2, &[])];
        let mut command = Command::new("sh");
        command.args(["-c", "read line", "sh", "-uuid", &uuid(3).to_string(), "end"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It has its command line a moment after it has begun.
        while fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let runs = of(3, &["qmp", "pid"]);
        let stays = [
            of(4, &["parts.json", "process"]),
            of(5, &["parts.json", "memory"]),
            of(6, &["parts.json", "moving"]),
            of(7, &["incoming"]),
            of(8, &["overlay.qcow2"]),
            make("somebody's", &["qmp"]),
            make(&uuid(9).to_string().to_uppercase(), &["qmp"]),
        ];
        let elsewhere = make("elsewhere", &["qmp"]);
        let inside = elsewhere.join("qmp");
        let link = directory.join(uuid(10).to_string());
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        qemu.remove_orphans(&[uuid(4)].into());
        assert!(gone.iter().all(|path| !path.exists()));
        let all = stays.iter().chain([&runs, &link, &inside]);
        all.for_each(|path| assert!(path.exists(), "{}", path.display()));
        child.kill().unwrap();
        child.wait().unwrap();
        qemu.remove_orphans(&[uuid(4)].into());
        assert!(!runs.exists() && stays.iter().all(|path| path.exists()));
        fs::remove_dir_all(directory).unwrap();
    }
}
