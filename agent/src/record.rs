//! The run directory: what must outlive the agent, in small files that are replaced atomically.

use agent_protocol::{ImageName, InstanceId, State, Text, Uuid};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is kept of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: InstanceId,
    pub(crate) uuid: Uuid,
    pub(crate) image: ImageName,
    pub(crate) hypervisor: String,
    pub(crate) generation: u64,
    /// The state when it was written; only `terminated` is believed when it is read again.
    pub(crate) state: State,
    pub(crate) reason: Option<Text>,
}

/// The directory, held by one agent at a time.
pub(crate) struct RunDirectory {
    path: PathBuf,
    /// Locked for as long as this exists.
    _lock: File,
}

impl RunDirectory {
    /// Take the directory, making it if need be.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(path)?;
        if fs::read_dir(path)?.next().is_none() {
            // Made for us by somebody with a generous umask.
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        // Whoever can write here can name the processes that the agent takes for its guests.
        let metadata = fs::metadata(path)?;
        if metadata.mode() & 0o022 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("the run directory belongs to others, or others may write to it"));
        }
        make(&path.join("instances"))?;
        let lock = File::create(path.join("lock"))?;
        take(&lock)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// A directory below it, for a backend.
    pub(crate) fn below(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn file(&self, id: &InstanceId) -> PathBuf {
        self.path.join("instances").join(format!("{id}.json"))
    }

    /// Keep a record, in place of the one that was there.
    pub(crate) fn keep(&self, record: &Record) -> io::Result<()> {
        replace(&self.file(&record.id), &serde_json::to_vec(record)?)
    }

    /// Remove the record of an instance.
    pub(crate) fn remove(&self, id: &InstanceId) {
        let _ = fs::remove_file(self.file(id));
    }

    /// All records. One that cannot be read is left where it is and told of: what it stood for may still run.
    pub(crate) fn records(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.path.join("instances"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).map(|bytes| serde_json::from_slice::<Record>(&bytes)) {
                Ok(Ok(record)) => records.push(record),
                Ok(Err(error)) => log::warn!("{}: {error}", path.display()),
                Err(error) => log::warn!("{}: {error}", path.display()),
            }
        }
        Ok(records)
    }

    /// The largest epoch that was granted.
    pub(crate) fn epoch(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("epoch")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Keep the largest epoch, before it is granted.
    pub(crate) fn keep_epoch(&self, epoch: u64) -> io::Result<()> {
        replace(&self.path.join("epoch"), format!("{epoch}\n").as_bytes())
    }
}

/// Lock the directory. An agent that has just ended may still be held by a child that it forked and that has not become
/// its hypervisor yet, so a moment is given.
fn take(lock: &File) -> io::Result<()> {
    let until = Instant::now() + Duration::from_secs(1);
    while lock.try_lock().is_err() {
        if Instant::now() >= until {
            return Err(io::Error::other("another agent is using this run directory"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Write a file so that after a crash there is the old one or the new one, whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}
