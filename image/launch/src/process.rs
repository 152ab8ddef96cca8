//! Child processes that never outlive this one.
//!
//! Three things see to that: [`Process`] ends its process group when dropped; a signal (Ctrl-C, `timeout`) makes
//! every wait fail, so that the owners are dropped in order, and ends all groups itself if that takes too long;
//! and the kernel ends the children if this process is killed outright.

use crate::{Context, Error, Result, wait};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// A second signal that comes later than this after the first means: at once.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// How long the owners may take to end everything after a signal.
const ORDERLY: Duration = Duration::from_secs(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The process groups that run now, in order of their start.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

type Spawn = (Command, Sender<io::Result<Child>>);

/// The one thread that starts children. The kernel's parent-death signal is sent when the *thread* that started a
/// child ends, and a test's thread ends before the child it shares.
static KEEPER: LazyLock<Sender<Spawn>> = LazyLock::new(|| {
    watch_signals();
    let (sender, commands) = mpsc::channel::<Spawn>();
    thread::spawn(move || {
        for (mut command, answer) in commands {
            // The asker may have given up; then the child it would have got ends here.
            if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                let _ = orphan.kill();
            }
        }
    });
    sender
});

fn watch_signals() {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    thread::spawn(move || {
        let mut first = None;
        for signal in &mut signals {
            INTERRUPTED.store(true, Ordering::SeqCst);
            let first = *first.get_or_insert_with(Instant::now);
            // `timeout` signals its child and then its child's group: that is one wish, not two.
            if first.elapsed() >= IMPATIENCE {
                end_at_once(signal);
            }
            thread::spawn(move || {
                thread::sleep(ORDERLY);
                end_at_once(signal);
            });
        }
    });
}

/// The last resort, youngest first: every group is asked to end (the agent ends its guests then), those that do not
/// are killed, and so are we.
fn end_at_once(signal: i32) -> ! {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    for group in running.iter().rev() {
        let _ = kill_process_group(*group, Signal::TERM);
    }
    let end = Instant::now() + GRACE;
    let alive = |group: &Pid| test_kill_process_group(*group).is_ok();
    while running.iter().any(alive) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    for group in running.iter().rev() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
    std::process::exit(128 + signal);
}

/// Whether the user asked for the end (Ctrl-C, SIGTERM, SIGHUP). Every wait of this package looks at it.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn spawn(command: Command) -> io::Result<Child> {
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    KEEPER.send((command, answer)).map_err(|_| gone())?;
    let child = child.recv().map_err(|_| gone())??;
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }
    Ok(child)
}

/// A command whose process is killed by the kernel should this process die without ending it.
#[must_use]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A child that runs until it is stopped or dropped, in a process group of its own, its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    group: Option<Pid>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; `name` is how messages speak of it, `log` gets both its outputs.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(name: impl Into<String>, mut command: Command, log: &Path) -> Result<Self> {
        let name = name.into();
        let open = || OpenOptions::new().create(true).append(true).open(log).context(log.display());
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?).process_group(0);
        let child = spawn(command).context(format!("starting {name}"))?;
        let group = Pid::from_raw(child.id().cast_signed());
        Ok(Self { name, child, group, log: log.to_path_buf() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was called at its start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(&self.name)
    }

    /// Fails, with the last lines it wrote, if it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Error::because(format!("{} ended ({status}):\n{}", self.name, self.tail())),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(what, limit, || self.ended())
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn tail(&self) -> String {
        last_lines(&self.output(), 30)
    }

    /// Kills it, without a word before.
    pub fn kill(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
        self.stop();
    }

    /// Asks it to end, and kills it if it does not. Does nothing the second time.
    pub fn stop(&mut self) {
        let Some(group) = self.group.take() else { return };
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(group, Signal::TERM);
            let end = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(2));
            }
        }
        // Also when the leader ended: what it left behind in its group ends with it.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        forget(group);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn forget(group: Pid) {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != group);
}

/// The last `count` lines of `text`.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What a program that ran to its end said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Both outputs, for a message.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, whatever that is.
///
/// # Errors
/// When it cannot be started, or has not ended after `limit` (it is killed then).
pub fn run(mut command: Command, limit: Duration) -> Result<Output> {
    use std::os::unix::process::ExitStatusExt;
    let shown = show(&command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn(command).context(format!("starting `{shown}`"))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let ended = wait::until(format!("`{shown}`"), limit, || child.try_wait().context(&shown));
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
        forget(group);
    }
    let _ = child.wait();
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (text(out), text(err));
    match ended {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            Ok(Output { code, stdout, stderr })
        }
        Err(error) => Error::because(format!("{error}\n{}", last_lines(&(stdout + &stderr), 30))),
    }
}

/// Runs `command`, which must succeed, and returns its standard output.
///
/// # Errors
/// As [`run`], and when the exit code is not 0.
pub fn check(command: Command, limit: Duration) -> Result<String> {
    let shown = show(&command);
    let output = run(command, limit)?;
    if output.code == 0 {
        return Ok(output.stdout);
    }
    let said = last_lines(&output.text(), 30);
    Error::because(format!("`{shown}` failed with code {}:\n{said}", output.code))
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The command as one would type it, without the part that only ties it to this process.
#[must_use]
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ").replace("setpriv --pdeathsig KILL -- ", "")
}

/// Makes a file of `bytes` zero bytes that takes no room.
///
/// # Errors
/// When it cannot be made.
pub fn sparse_file(path: &Path, bytes: u64) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(bytes)).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_stopped_process_takes_its_own_children_along() {
        let scratch = Scratch::new().unwrap();
        let mut sh = command("sh");
        sh.args(["-c", "sleep 1000 & echo $!; wait"]);
        let mut process = Process::start("sh", sh, &scratch.file("log")).unwrap();
        let grandchild =
            wait::until("a pid", Duration::from_secs(5), || Ok(process.output().trim().parse::<u32>().ok()));
        let proc = PathBuf::from(format!("/proc/{}", grandchild.unwrap()));
        assert!(proc.exists());
        process.stop();
        wait::until("the end", Duration::from_secs(5), || Ok((!running(&proc)).then_some(()))).unwrap();
    }

    /// A killed orphan may stay as a zombie where pid 1 does not reap.
    fn running(proc: &Path) -> bool {
        fs::read_to_string(proc.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_and_named() {
        let mut sleep = command("sleep");
        sleep.arg("1000");
        let error = run(sleep, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.starts_with("`sleep 1000`: nothing within"), "{error}");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let mut sh = command("sh");
        sh.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = check(sh, Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("code 3") && error.contains("no such thing"), "{error}");
    }
}
