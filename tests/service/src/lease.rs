//! Who may change the medium: what is kept beside the disk so that one gateway can fence another.
//!
//! Two files stand beside `DISK`. `DISK.state` is durable: the highest writer generation ever admitted, its owner, the
//! gateway that serves it, and the incarnation. `DISK.lock` is locked with `flock`, and holds the epoch: a number that
//! rises whenever another gateway takes over.
//!
//! *Taking over* is done under the exclusive lock: read the state, compare, write the new state durably, raise the epoch.
//! *Changing the medium* is done under the shared lock, which is held from before the epoch is compared until after the
//! last system call of the change has returned. So a takeover waits for changes under way, and every change that begins
//! after it sees the new epoch and is refused: there is no moment at which both gateways may change the medium.
//!
//! That holds because both gateways are processes of one kernel. `flock` is released when the process is gone, and a
//! system call of a process that is killed ends before its descriptors are closed; a `pwrite` that has returned is seen
//! by everybody through the one page cache. Two *hosts* on shared storage have neither: a host can lose its lock (its
//! lease at the lock server expires, it is paused between comparing and writing) while a request of it is already on the
//! way to the storage. There the comparison must be made by the storage itself (a persistent reservation by key, a
//! blocklist, an epoch in each request), or the new gateway must wait out the old one's longest request.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a takeover waits for a change under way in another gateway before it gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A driver that wants to write, as its context names it (README.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Highest wins.
    pub generation: u64,
    /// Who has this generation.
    pub owner: String,
}

/// What is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    epoch: u64,
    gateway: String,
    writer: Option<(u64, String)>,
    incarnation: String,
    boot: String,
}

/// Why a claim was not admitted.
#[derive(Debug)]
pub enum Refused {
    /// A higher generation, or another owner of this one, was there before.
    Policy(String),
    /// The files could not be read or written, or a change of another gateway does not end.
    Failed(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// One gateway's part in it.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    lock: Arc<File>,
    gateway: String,
    /// The epoch in which this gateway serves; `None` until it first does.
    epoch: Option<u64>,
    incarnation: String,
    /// Each new process, and each loss, is a new incarnation.
    is_volatile: bool,
}

/// The shared lock; the medium may be changed while it is held.
#[derive(Debug)]
pub struct Hold(Arc<File>);

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing the file does the same; there is nothing else to do about a failure.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Lease {
    /// The lease of a disk whose unflushed writes die with this process, or with the host only.
    ///
    /// # Errors
    /// Those of the files.
    pub fn open(disk: &Path, is_volatile: bool) -> io::Result<Self> {
        let beside = |ending: &str| {
            let mut name = disk.file_name().unwrap_or_default().to_os_string();
            name.push(ending);
            disk.with_file_name(name)
        };
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(beside(".lock"))?;
        let gateway = random()?;
        let mut lease = Self {
            path: beside(".state"),
            lock: Arc::new(lock),
            gateway,
            epoch: None,
            incarnation: String::new(),
            is_volatile,
        };
        let hold = lease.exclusive()?;
        let mut state = lease.read()?;
        let boot = boot()?;
        let incarnation = if is_volatile {
            random()?
        } else {
            if state.incarnation.is_empty() || state.boot != boot {
                state.incarnation = random()?;
                state.boot = boot;
                lease.write(&state)?;
            }
            state.incarnation.clone()
        };
        drop(hold);
        lease.incarnation = incarnation;
        Ok(lease)
    }

    /// The token of the present incarnation: it is another one whenever acknowledged writes may have been forgotten.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Acknowledged writes were, or may have been, forgotten.
    ///
    /// # Errors
    /// Those of the files.
    pub fn forget(&mut self) -> io::Result<()> {
        self.incarnation = random()?;
        if !self.is_volatile {
            let incarnation = self.incarnation.clone();
            let _hold = self.exclusive()?;
            let state = State { incarnation, ..self.read()? };
            self.write(&state)?;
        }
        Ok(())
    }

    /// The highest generation ever admitted, and its owner.
    ///
    /// # Errors
    /// Those of the files.
    pub fn writer(&self) -> io::Result<Option<(u64, String)>> {
        Ok(self.read()?.writer)
    }

    /// Admits a writer, here and from now on here only. When this returns, no other gateway is changing the medium nor
    /// will, until it admits a writer itself. Answers whether this gateway did not serve before: then its cache is of
    /// another time, and is to be forgotten.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn admit(&mut self, claim: &Claim) -> Result<bool, Refused> {
        let hold = self.exclusive()?;
        let state = self.read()?;
        if let Some((generation, owner)) = &state.writer {
            if claim.generation < *generation {
                return Err(Refused::Policy(format!("generation {generation:x} was here")));
            }
            if claim.generation == *generation && claim.owner != *owner {
                return Err(Refused::Policy(format!("generation {generation:x} belongs to {owner}")));
            }
        }
        let is_ours = self.epoch == Some(state.epoch) && state.gateway == self.gateway;
        let epoch = if is_ours { state.epoch } else { state.epoch + 1 };
        let new = State {
            epoch,
            gateway: self.gateway.clone(),
            writer: Some((claim.generation, claim.owner.clone())),
            ..state.clone()
        };
        if new != state {
            self.write(&new)?;
        }
        if !is_ours {
            // Last: until here, the other gateway's epoch holds, and nothing of ours was admitted.
            self.lock.write_all_at(&epoch.to_be_bytes(), 0)?;
        }
        drop(hold);
        if !self.is_volatile {
            // Another gateway on this host may have lost something meanwhile.
            self.incarnation = state.incarnation;
        }
        let was_ours = self.epoch.replace(epoch).is_some();
        Ok(was_ours && !is_ours)
    }

    /// The right to touch the medium, while it is held; `None` if another gateway has taken over. Before any writer has
    /// come, everybody may.
    ///
    /// # Errors
    /// Those of the files.
    pub fn hold(&self) -> io::Result<Option<Hold>> {
        flock(&self.lock, FlockOperation::LockShared)?;
        let hold = Hold(Arc::clone(&self.lock));
        let mut epoch = [0; 8];
        let now = match self.lock.read_exact_at(&mut epoch, 0) {
            Ok(()) => Some(u64::from_be_bytes(epoch)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok((now == self.epoch).then_some(hold))
    }

    fn exclusive(&self) -> io::Result<Hold> {
        let end = Instant::now() + PATIENCE;
        loop {
            match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Hold(Arc::clone(&self.lock))),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&self) -> io::Result<State> {
        match fs::read_to_string(&self.path) {
            Ok(text) => State::parse(&text)
                .ok_or_else(|| io::Error::other(format!("{}: not understood", self.path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(error),
        }
    }

    /// The old state or the new one is there after a power cut, never a half of each.
    fn write(&self, state: &State) -> io::Result<()> {
        let fresh = self.path.with_extension("state-new");
        let mut file = File::create(&fresh)?;
        file.write_all(state.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl State {
    fn text(&self) -> String {
        let (generation, owner) = self
            .writer
            .clone()
            .map_or(("-".into(), "-".into()), |(generation, owner)| (format!("{generation:x}"), owner));
        let word = |word: &str| if word.is_empty() { "-".to_string() } else { word.to_string() };
        format!(
            "epoch {:x}\ngateway {}\ngeneration {generation}\nowner {owner}\nincarnation {}\nboot {}\n",
            self.epoch,
            word(&self.gateway),
            word(&self.incarnation),
            word(&self.boot)
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut values = text.lines().map(|line| line.split_once(' '));
        let mut value = |key: &str| {
            let (found, value) = values.next()??;
            (found == key).then(|| if value == "-" { String::new() } else { value.to_string() })
        };
        let epoch = u64::from_str_radix(&value("epoch")?, 16).ok()?;
        let gateway = value("gateway")?;
        let (generation, owner) = (value("generation")?, value("owner")?);
        let writer = if generation.is_empty() {
            None
        } else {
            Some((u64::from_str_radix(&generation, 16).ok()?, owner))
        };
        Some(Self { epoch, gateway, writer, incarnation: value("incarnation")?, boot: value("boot")? })
    }
}

/// A name that nobody had before.
fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Another one after each start of the host, whose page cache is what a service without a cache of its own relies on.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn claim(generation: u64, owner: &str) -> Claim {
        Claim { generation, owner: owner.into() }
    }

    fn policy(outcome: Result<bool, Refused>) -> bool {
        matches!(outcome, Err(Refused::Policy(_)))
    }

    #[test]
    fn a_generation_that_was_passed_never_comes_back_not_even_after_a_restart() {
        let folder = Folder::new();
        let disk = folder.file("disk");
        let mut lease = Lease::open(&disk, true).unwrap();
        lease.admit(&claim(3, "a")).unwrap();
        lease.admit(&claim(7, "b")).unwrap();
        assert!(policy(lease.admit(&claim(6, "b"))));
        drop(lease);
        let mut lease = Lease::open(&disk, true).unwrap();
        assert!(policy(lease.admit(&claim(3, "a"))));
        assert!(policy(lease.admit(&claim(7, "a"))));
        lease.admit(&claim(7, "b")).unwrap();
        assert_eq!(lease.writer().unwrap(), Some((7, "b".into())));
    }

    #[test]
    fn a_gateway_that_was_taken_over_may_not_touch_the_medium_until_it_takes_over_again() {
        let folder = Folder::new();
        let disk = folder.file("disk");
        let (mut a, mut b) = (Lease::open(&disk, true).unwrap(), Lease::open(&disk, true).unwrap());
        assert!(a.hold().unwrap().is_some() && b.hold().unwrap().is_some());
        assert!(!a.admit(&claim(0, "x")).unwrap());
        assert!(a.hold().unwrap().is_some());
        assert!(b.hold().unwrap().is_none());
        assert!(!b.admit(&claim(0, "x")).unwrap());
        assert!(a.hold().unwrap().is_none());
        assert!(b.hold().unwrap().is_some());
        // What it has in its cache is older than what the other has written meanwhile.
        assert!(a.admit(&claim(0, "x")).unwrap());
        assert!(b.hold().unwrap().is_none());
    }

    #[test]
    fn a_takeover_waits_for_a_change_under_way() {
        let folder = Folder::new();
        let disk = folder.file("disk");
        let mut a = Lease::open(&disk, true).unwrap();
        a.admit(&claim(1, "x")).unwrap();
        let hold = a.hold().unwrap().unwrap();
        let other = {
            let disk = disk.clone();
            std::thread::spawn(move || {
                Lease::open(&disk, false).unwrap().admit(&claim(1, "x")).unwrap();
                Instant::now()
            })
        };
        std::thread::sleep(Duration::from_millis(50));
        let released = Instant::now();
        drop(hold);
        assert!(other.join().unwrap() > released);
    }

    #[test]
    fn an_incarnation_is_as_old_as_the_youngest_memory_of_unflushed_writes() {
        let folder = Folder::new();
        let token =
            |is_volatile| Lease::open(&folder.file("disk"), is_volatile).unwrap().incarnation().to_string();
        assert_ne!(token(true), token(true));
        assert_eq!(token(false), token(false));
        let before = token(false);
        let mut lease = Lease::open(&folder.file("disk"), false).unwrap();
        lease.forget().unwrap();
        assert_ne!(lease.incarnation(), before);
        assert_eq!(token(false), lease.incarnation());
        // The host was started anew.
        let state = folder.file("disk.state");
        let text = fs::read_to_string(&state).unwrap().replace(&boot().unwrap(), "before");
        fs::write(&state, text).unwrap();
        assert_ne!(token(false), lease.incarnation());
    }
}
