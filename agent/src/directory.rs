//! The run directory: what must outlive the agent, held by one agent at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
        let lock = File::create(path.join("lock"))?;
        take(&lock)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// A directory below it, for a backend.
    pub(crate) fn below(&self, name: &str) -> PathBuf {
        self.path.join(name)
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
