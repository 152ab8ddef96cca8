//! A folder of its own for every run, gone when the run is over.

use crate::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name no other run and no other part of this run has: `corbel-PID-N`.
pub(crate) fn unique() -> String {
    format!("corbel-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether `name` was made by [`unique`] in a process that is gone.
pub(crate) fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix("corbel-").and_then(|rest| rest.split_once('-'));
    pid.is_some_and(|(pid, n)| {
        pid.parse::<u32>().is_ok() && n.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
    })
}

/// A temporary folder, removed with all its content on drop. Its path is short enough for Unix sockets.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes the folder, and clears away those of runs that were killed.
    ///
    /// # Errors
    /// When the system's temporary folder cannot be written.
    pub fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        for entry in fs::read_dir(&parent).context(parent.display())?.flatten() {
            if entry.file_name().to_str().is_some_and(is_stale) {
                // Another run may be clearing the same one: not ours to complain about.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(unique());
        fs::create_dir(&path).context(path.display())?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the folder behind, to look into.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
