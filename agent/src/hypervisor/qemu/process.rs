//! A process that is never mistaken for another, watched and signalled through a pidfd.

use agent_protocol::Uuid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of what a process last wrote to its standard error is kept.
const TAIL: usize = 1024;
/// How long its last words are waited for: they come through a pipe and may be a moment behind its end.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// What tells one process from all others on this host, past and present: an id alone is reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the host booted (field 22 of `/proc/[pid]/stat`).
    start_ticks: u64,
    /// Which boot of the host that was.
    host_boot: String,
}

impl Identity {
    /// The process that has this id now, if there is one.
    ///
    /// # Errors
    /// It cannot be seen, which does not say that there is none.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some((_, start_ticks)) = stat(pid)? else { return Ok(None) };
        Ok(Some(Self { pid, start_ticks, host_boot: host_boot()? }))
    }
}

/// State letter and start time of a process, if there is one.
fn stat(pid: i32) -> io::Result<Option<(char, u64)>> {
    let Some(text) = there(fs::read_to_string(format!("/proc/{pid}/stat")))? else { return Ok(None) };
    // The second field is the program's name in parentheses and may itself hold both spaces and parentheses.
    let parse = |text: &str| {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    };
    parse(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn host_boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What was found, where only that there is no such file or process says that there is none.
pub(crate) fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A running process, or one that ran.
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pidfd: OwnedFd,
    /// `None` when an earlier agent started it: then it is not ours to reap.
    child: Mutex<Option<Child>>,
    status: Mutex<Option<ExitStatus>>,
    words: Arc<Words>,
}

/// What a process wrote to its standard error.
#[derive(Default)]
struct Words {
    tail: Mutex<Tail>,
    ended: Condvar,
}

#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    /// More may come.
    open: bool,
}

impl Process {
    /// A child that was just spawned.
    pub(crate) fn spawned(mut child: Child) -> io::Result<Self> {
        let words = Arc::new(Words::default());
        if let Some(stderr) = child.stderr.take() {
            keep_tail(stderr, words.clone());
        }
        // Until it is waited for, nobody else can have its id: this cannot be another process.
        let pid = i32::try_from(child.id()).unwrap_or(-1);
        let (identity, pidfd) = match (Identity::of(pid), pidfd(pid)) {
            (Ok(Some(identity)), Ok(Some(pidfd))) => (identity, pidfd),
            (identity, pidfd) => {
                let _ = child.kill();
                let _ = child.wait();
                let why = identity.err().or(pidfd.err()).map(|error| error.to_string()).unwrap_or_default();
                return Err(io::Error::other(format!("the new process cannot be watched: {why}")));
            }
        };
        Ok(Self { identity, pidfd, child: Mutex::new(Some(child)), status: Mutex::new(None), words })
    }

    /// The process of this identity, if it still runs.
    ///
    /// # Errors
    /// It cannot be seen, which does not say that it does not run.
    pub(crate) fn adopt(identity: &Identity) -> io::Result<Option<Self>> {
        if host_boot()? != identity.host_boot {
            return Ok(None);
        }
        // First the handle, then the question: what the handle refers to cannot change any more, and if the id still
        // belongs to the process of that start time, it did so when the handle was made.
        let Some(pidfd) = pidfd(identity.pid)? else { return Ok(None) };
        let Some((state, start_ticks)) = stat(identity.pid)? else { return Ok(None) };
        if start_ticks != identity.start_ticks || state == 'Z' {
            return Ok(None);
        }
        Ok(Some(Self {
            identity: identity.clone(),
            pidfd,
            child: Mutex::new(None),
            status: Mutex::new(None),
            words: Arc::default(),
        }))
    }

    /// The process that carries this UUID on its command line, if there is one.
    ///
    /// # Errors
    /// Some process cannot be seen, and it may be that.
    pub(crate) fn of_machine(uuid: Uuid) -> io::Result<Option<Self>> {
        let expected = format!("\0-uuid\0{uuid}\0");
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let identity = match Identity::of(pid) {
                Ok(Some(identity)) => identity,
                // It is somebody else's.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Ok(None) => continue,
                Err(error) => return Err(error),
            };
            let Some(line) = there(fs::read(format!("/proc/{pid}/cmdline")))? else { continue };
            if line.windows(expected.len()).any(|window| window == expected.as_bytes()) {
                // If its id went to another since it was read, that is not it.
                return Self::adopt(&identity);
            }
        }
        Ok(None)
    }

    /// Wait until it has exited; whether it has.
    pub(crate) fn wait(&self, within: Duration) -> bool {
        !poll(&[self.pidfd.as_fd()], within).is_empty()
    }

    /// Something to wait on until it exits.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// End it at once.
    pub(crate) fn kill(&self) {
        // The only error is that it is gone already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// After it has exited: release its id, and say how it ended. `None` when it was not our child.
    pub(crate) fn reap(&self) -> Option<ExitStatus> {
        let mut status = locked(&self.status);
        if status.is_none()
            && let Some(mut child) = locked(&self.child).take()
        {
            *status = child.wait().ok();
        }
        *status
    }

    /// The last words it wrote to its standard error, after it has ended.
    pub(crate) fn last_words(&self) -> String {
        let tail = locked(&self.words.tail);
        let waited = self.words.ended.wait_timeout_while(tail, LAST_WORDS_TIME, |tail| tail.open);
        let (tail, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.bytes.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// Those of `handles` whose process has exited, as indices; waits for the first.
pub(crate) fn poll(handles: &[BorrowedFd<'_>], within: Duration) -> Vec<usize> {
    let mut entries: Vec<_> = handles.iter().map(|handle| PollFd::new(handle, PollFlags::IN)).collect();
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut entries, Some(&timeout)) {
            // Somebody would be killed for not having ended in time that was not given.
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
    let exited = entries.iter().enumerate().filter(|(_, entry)| !entry.revents().is_empty());
    exited.map(|(index, _)| index).collect()
}

/// How an exit status reads.
pub(crate) fn describe(status: Option<ExitStatus>) -> String {
    match status {
        None => "ended, and its exit status went to another process".to_owned(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
    }
}

fn pidfd(pid: i32) -> io::Result<Option<OwnedFd>> {
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    there(rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))
}

/// Read what the process writes until it ends, and keep the end of it: a guest can make its hypervisor write without
/// end, so it is neither kept whole nor left to fill the pipe.
fn keep_tail(mut stderr: ChildStderr, words: Arc<Words>) {
    locked(&words.tail).open = true;
    let (kept, failed) = (words.clone(), words);
    let listen = move || {
        let mut piece = [0; 512];
        while let Ok(count @ 1..) = stderr.read(&mut piece) {
            let mut tail = locked(&kept.tail);
            tail.bytes.extend(&piece[..count]);
            let excess = tail.bytes.len().saturating_sub(TAIL);
            tail.bytes.drain(..excess);
        }
        locked(&kept.tail).open = false;
        kept.ended.notify_all();
    };
    // Without a thread there are no last words, and the pipe is closed: QEMU ignores that.
    if std::thread::Builder::new().name("last words".into()).spawn(listen).is_err() {
        locked(&failed.tail).open = false;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_recycled_id_is_not_the_same_process() {
        let process = Process::spawned(sleeper()).unwrap();
        let identity = process.identity.clone();
        let adopt = |identity: &Identity| Process::adopt(identity).unwrap();
        assert!(adopt(&identity).is_some());
        let later = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert!(adopt(&later).is_none());
        let other_boot = Identity { host_boot: "another".into(), ..identity.clone() };
        assert!(adopt(&other_boot).is_none());
        process.kill();
        assert!(process.wait(Duration::from_secs(5)));
        assert!(adopt(&identity).is_none(), "a zombie does not run");
        assert_eq!(describe(process.reap()), "was killed by signal 9");
        assert_eq!(describe(process.reap()), "was killed by signal 9", "asking twice does no harm");
        assert!(adopt(&identity).is_none());
    }

    #[test]
    fn an_adopted_process_is_seen_to_end() {
        let mut child = sleeper();
        let identity = Identity::of(child.id().try_into().unwrap()).unwrap().unwrap();
        let adopted = Process::adopt(&identity).unwrap().unwrap();
        assert!(!adopted.wait(Duration::from_millis(20)));
        adopted.kill();
        assert!(adopted.wait(Duration::from_secs(5)));
        assert_eq!(adopted.reap(), None);
        child.wait().unwrap();
    }

    #[test]
    fn only_the_last_words_are_kept() {
        let script = "yes aaaaaaaaa | head -c 100000 >&2; printf end >&2; exit 3";
        let child = Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
        let process = Process::spawned(child).unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        assert_eq!(describe(process.reap()), "exited with status 3");
        let words = process.last_words();
        assert!(words.ends_with("end") && words.len() <= TAIL, "{}", words.len());
    }

    #[test]
    fn last_words_that_are_behind_the_end_are_waited_for_but_not_for_ever() {
        let child = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
            let process = Process::spawned(child).unwrap();
            assert!(process.wait(Duration::from_secs(10)));
            process
        };
        // Something else holds the pipe when it has ended.
        assert_eq!(child("{ sleep 0.1; printf late >&2; } & exit 1").last_words(), "late");
        let began = Instant::now();
        assert_eq!(child("printf soon >&2; sleep 5 >/dev/null & exit 1").last_words(), "soon");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
