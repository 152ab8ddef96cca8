//! The storage service of `tests/service` as a process on the service network: this test program, started again there.

use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::stage::{IQN, Script, Stage};
use image_launch::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tests_service::{Options, READY};

/// Gives the program inside its command line, a word a line.
const SERVICE: &str = "CORBEL_SERVICE";
const LIMIT: Duration = Duration::from_secs(20);
/// The port of the first service of a test; others follow.
pub(crate) const PORT: u16 = 10_900;

/// Names the folder of the run to a program inside the networks.
pub(crate) const FOLDER: &str = "CORBEL_FOLDER";

/// From where a service is started.
pub(crate) trait Place {
    /// This program, to be started in the networks.
    fn command(&self) -> Command;
    /// A file of the run.
    fn file(&self, name: &str) -> PathBuf;
}

impl Place for Stage {
    fn command(&self) -> Command {
        self.net.command(env::current_exe().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }
}

/// This program, where it was started inside the networks.
pub(crate) struct Inside;

impl Place for Inside {
    fn command(&self) -> Command {
        process::command(env::current_exe().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(env::var_os(FOLDER).unwrap()).join(name)
    }
}

/// One that runs, or was killed and can be started again.
pub(crate) struct Service {
    /// As it is started.
    pub(crate) options: Options,
    name: String,
    log: PathBuf,
    process: Option<Process>,
}

impl Service {
    /// Starts number `n` for a new disk of `bytes`, unless `change` wants it another way.
    pub(crate) fn start(place: &impl Place, n: u16, bytes: u64, change: impl FnOnce(&mut Options)) -> Self {
        let file = |name: &str| place.file(&format!("service{n}.{name}"));
        let listen = SocketAddr::from((Wire::Service.here(), PORT + n));
        let mut options = Options::new(listen, file("disk"));
        options.size = Some(bytes);
        options.control = Some(file("control"));
        change(&mut options);
        let mut service = Self { options, name: format!("service {n}"), log: file("log"), process: None };
        service.restart(place);
        service
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn restart(&mut self, place: &impl Place) {
        // Its output before tells nothing about whether it listens now.
        let _ = std::fs::remove_file(&self.log);
        let mut command = place.command();
        command.args(["service::service", "--exact", "--ignored", "--nocapture"]);
        command.env(SERVICE, self.options.words().join("\n"));
        let mut process = Process::start(&self.name, command, &self.log).unwrap();
        wait::until(&self.name, LIMIT, || {
            process.must_run()?;
            Ok(process.output().contains(READY).then_some(()))
        })
        .unwrap();
        self.process = Some(process);
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        kill(self.process.as_mut().expect("it runs"));
        self.process = None;
    }

    /// Whether it runs; it may have been ordered to die.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.must_run().is_ok())
    }

    /// Gives an order, which must be obeyed.
    pub(crate) fn order(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.options.control.as_ref().unwrap()).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{line}: {answer}")).trim().to_string()
    }

    /// One of its figures.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let stats = self.order("stats");
        let mut words = stats.split(' ');
        let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {name} in {stats}"))
    }
}

/// Ends a process at once.
pub(crate) fn kill(process: &mut Process) {
    let pid = Pid::from_raw(process.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    process.wait(LIMIT).unwrap();
}

/// Adds a target whose disk is service number `n`, by more keys if these are given.
pub(crate) fn expose(script: &mut Script, n: u16, keys: &[(&str, &str)]) {
    let mut set = |key: &str, value: String| script.config.push((format!("target.{n}.{key}"), value));
    set("iqn", format!("{IQN}:disk{n}"));
    set("lun", "0".into());
    set("volume", format!("nbd://{}:{}/", Wire::Service.here(), PORT + n));
    set("initiators", "*".into());
    for (key, value) in keys {
        set(key, (*value).to_string());
    }
}

#[test]
#[ignore = "other tests start it inside the networks that they made"]
fn service() {
    // Asked for by hand, there is nothing to serve.
    let Ok(words) = env::var(SERVICE) else { return };
    tests_service::run(words.lines().map(str::to_string)).unwrap();
}
