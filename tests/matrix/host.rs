//! A host but for its appliance: two networks, a storage service with a known disk, an agent. Machines come and go on it.

use crate::qemu::Seen;
use image_launch::agent::{Agent, IMAGE};
use image_launch::api;
use image_launch::appliance::{Config, READY};
use image_launch::disk::{NBD, NbdServer, Pattern, Server};
use image_launch::initiator::{self, Unit};
use image_launch::net::{API, Net, Options};
use image_launch::process::{Process, last_lines};
use image_launch::scratch::Scratch;
use image_launch::{Error, Result, wait};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the slowest firmware on a crowded host takes.
const LIMIT: Duration = Duration::from_secs(150);
/// How long the appliance may take to end, and its monitor with it. Nobody is logged in.
pub(crate) const OFF: Duration = Duration::from_secs(15);
const SIZE: u64 = 1 << 20;
const IQN: &str = "iqn.2026-11.example.corbel:matrix";
/// What the image says where a NIC that it is told of is none that it can drive.
const NO_NICS: &str = "no NIC has the address";

pub(crate) struct Host {
    server: NbdServer,
    pattern: Pattern,
    pub(crate) net: Net,
    pub(crate) scratch: Scratch,
}

/// A machine that runs: its process, and where it writes what it says.
pub(crate) struct Machine {
    pub(crate) process: Process,
    pub(crate) console: PathBuf,
    pub(crate) begun: Instant,
}

/// What came of waiting for an appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Up,
    /// It says that it has no NICs.
    WithoutNics,
}

impl Machine {
    /// All that it has said.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    pub(crate) fn tail(&self) -> String {
        format!("{}\n{}", last_lines(&self.said(), 30), self.process.tail())
    }
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let net = Net::new(Options::default(), &scratch)?;
        let pattern = Pattern::write(scratch.file("disk.raw"), 7, SIZE)?;
        let server = NbdServer::start(&net, &scratch, &Server::QemuNbd, pattern.path(), NBD)?;
        Ok(Self { server, pattern, net, scratch })
    }

    /// The file of the disk.
    pub(crate) fn pattern(&self) -> &Path {
        self.pattern.path()
    }

    /// An agent that knows nothing of the appliances before, and asks for no key.
    pub(crate) fn agent(&self) -> Result<Agent> {
        Agent::start_in_clear(&self.net, &self.scratch, Path::new(env!("CARGO_BIN_EXE_corbel")))
    }

    /// What an appliance here is to be told.
    pub(crate) fn config(&self, agent: Option<&Agent>) -> Config {
        let mut config = Config::for_net(&self.net);
        let target = [
            ("target.0.iqn", IQN.to_string()),
            ("target.0.lun", "0".into()),
            ("target.0.volume", self.server.uri().to_string()),
            ("target.0.initiators", "*".into()),
            ("api", API.to_string()),
            ("api.insecure", "yes".into()),
        ];
        target.into_iter().for_each(|(key, value)| config.set(key, value));
        if let Some(agent) = agent {
            agent.configure(&mut config);
        }
        config
    }

    pub(crate) fn unit(&self) -> Unit {
        Unit { portal: self.net.portal(), iqn: IQN.into(), lun: 0 }
    }

    /// Waits until the appliance says that it is ready or, where it says nothing, until it answers.
    pub(crate) fn wait_for(&self, machine: &mut Machine, speaks: bool) -> Result<Came> {
        self.wait_within(LIMIT, machine, speaks)
    }

    /// The same with another limit.
    pub(crate) fn wait_within(&self, limit: Duration, machine: &mut Machine, speaks: bool) -> Result<Came> {
        let answer = wait::until("the appliance", limit, || {
            let ended = machine.process.ended()?;
            let said = machine.said();
            if said.contains(NO_NICS) {
                return Ok(Some(Came::WithoutNics));
            }
            if said.contains(READY) || !speaks && initiator::inquiry(&self.net, &self.unit()).is_ok() {
                return Ok(Some(Came::Up));
            }
            ended.map_or(Ok(None), |status| Error::because(format!("it ended ({status})")))
        });
        answer.map_err(|error| Error::new(format!("{error}\n{}", machine.tail())))
    }

    /// Reads the whole disk over iSCSI, and has the agent start an instance and end it.
    pub(crate) fn prove(&self, machine: &Machine) -> Result<()> {
        let proved = self.read().and_then(|()| self.command());
        proved.map_err(|error| Error::new(format!("{error}\n{}", machine.tail())))
    }

    /// Reads the whole disk over iSCSI.
    pub(crate) fn read(&self) -> Result<()> {
        let copy = self.scratch.file("copy.raw");
        initiator::read(&self.net, &self.unit(), &copy)?;
        self.pattern.must_equal(&copy)
    }

    fn command(&self) -> Result<()> {
        let body = json!({ "id": "one", "image": IMAGE, "start": true });
        self.ask("POST", "/v1/instances", Some(&body), |answer| [200, 201].contains(&answer.status))?;
        self.ask("GET", "/v1/instances/one", None, |answer| answer.text("/state") == "running")?;
        let body = json!({ "verb": "terminate" });
        self.ask("POST", "/v1/instances/one/commands", Some(&body), api::Answer::succeeded)
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        is_right: impl Fn(&api::Answer) -> bool,
    ) -> Result<()> {
        let answer = api::ask(&self.net, method, path, body)?;
        if is_right(&answer) { Ok(()) } else { Error::because(format!("{method} {path}: {answer:?}")) }
    }

    /// Waits for the end of the machine, whose button has been pressed. It has ended well only if it never panicked.
    pub(crate) fn end(&self, machine: &mut Machine, patience: Duration) -> Result<Seen> {
        let end = machine.process.wait(patience);
        let said = machine.said();
        if said.contains("PANIC") || said.contains("FAULT") {
            return Error::because(machine.tail());
        }
        match end {
            Ok(status) if status.success() => Ok(Seen::All),
            Ok(status) => Error::because(format!("it ended by its button with {status}\n{}", machine.tail())),
            Err(_) => Ok(Seen::Serves),
        }
    }
}
