//! The parent partition: the agent as a process of its own, and whatever its hypervisor needs beside it.

use crate::backend::{Backend, Guest, Host};
use crate::fixture::Turn;
use crate::native::{Native, Reaper, runs, signal};
use crate::way::{self, Keys, Lost};
use agent_protocol::{
    Action, Answer, Command, Instance, InstanceId, Inventory, OpId, Outcome, State, decode, encode, path,
};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::stage::{Script, Stage};
use image_launch::{api, child, keys, wait};
use management_http::Method;
use network_tls::{ClientConfig, Pin};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest that anything here may take: the machine is slow and shared.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The agent's port on the host-only network.
const PORT: u16 = 4010;

/// A host with an agent on it, and the appliance with one disk. Dropped, everything it started is gone.
pub(crate) struct Parent {
    agent: Mutex<Option<Process>>,
    daemon: Option<Process>,
    _reaper: Reaper,
    _relay: Process,
    next: AtomicU64,
    /// By which agent and appliance know each other, and how the appliance dials; `None` where neither proves anything.
    link: Option<(Keys, ClientConfig)>,
    /// The epoch that the agent has granted to the appliance. A test commands in its name: a greeting of its own would take the
    /// agent from it.
    pub(crate) epoch: u64,
    pub(crate) native: Native,
    pub(crate) backend: &'static dyn Backend,
    pub(crate) stage: Stage,
    _turn: Turn,
}

impl Parent {
    /// A host whose guests are the two smallest there are.
    pub(crate) fn new(backend: &'static dyn Backend) -> Self {
        Self::with_guest(backend, None)
    }

    /// The same, with one more image.
    pub(crate) fn with_guest(backend: &'static dyn Backend, more: Option<Guest>) -> Self {
        Self::with(backend, more, Vec::new())
    }

    /// The same, with more in the appliance's configuration.
    pub(crate) fn with(
        backend: &'static dyn Backend,
        more: Option<Guest>,
        config: Vec<(String, String)>,
    ) -> Self {
        let keys = Keys::make();
        Self::linked(backend, more, config, Some(keys))
    }

    /// A host whose agent and appliance ask nobody for a key.
    pub(crate) fn in_clear(backend: &'static dyn Backend) -> Self {
        Self::linked(backend, None, Vec::new(), None)
    }

    fn linked(
        backend: &'static dyn Backend,
        more: Option<Guest>,
        config: Vec<(String, String)>,
        keys: Option<Keys>,
    ) -> Self {
        let turn = Turn::alone();
        let mut script = Script::new(env!("CARGO_BIN_EXE_corbel"), Kind::Hosted, 8 << 20, Server::QemuNbd);
        script.state = true;
        script.config = config;
        match &keys {
            Some(Keys { agent, appliance }) => {
                script.config.extend(keys::config(address(), agent.pin(), appliance));
            }
            None => script
                .config
                .extend([("agent".into(), address().to_string()), ("agent.insecure".into(), "yes".into())]),
        }
        let stage = Stage::start(&script).unwrap();
        if let Some(Keys { agent, .. }) = &keys {
            keys::give(&stage.scratch.file("agent"), agent).unwrap();
        }
        let mut guests = ["deaf", "obedient"].map(|name| guest(name, stage.scratch.path())).to_vec();
        child::write(&guests[0].kernel).unwrap();
        child::write_obedient(&guests[1].kernel).unwrap();
        guests.extend(more);
        let native = Native::new(&stage.scratch, Path::new(env!("CARGO_TARGET_TMPDIR")));
        let _reaper = Reaper::new();
        let (template, disks) = (stage.scratch.file("template.qcow2"), stage.scratch.file("disks"));
        let mut img = process::command("qemu-img");
        img.args(["create", "-q", "-f", "qcow2"]).arg(&template).arg("1M");
        process::check(img, LIMIT).unwrap();
        fs::create_dir(&disks).unwrap();
        let host = Host { stage: &stage, native: &native, template: &template, disks: &disks };
        let daemon = backend.daemon(&host);
        let operator = backend.operator(&host, &guests);
        fs::write(stage.scratch.file("operator.json"), operator.to_string()).unwrap();
        // This program lives outside the networks of the run.
        let mut socat = stage.net.command("socat");
        socat.arg(format!("UNIX-LISTEN:{},fork,backlog=64", stage.scratch.file("way").display()));
        socat.arg(format!("TCP:{},nodelay", address()));
        let relay = Process::start("socat", socat, &stage.scratch.file("socat.log")).unwrap();
        let next = AtomicU64::new(0);
        let (agent, _relay, _turn) = (Mutex::new(None), relay, turn);
        let link = keys.map(|keys| {
            let dialling = keys.dialling();
            (keys, dialling)
        });
        let mut parent =
            Self { agent, daemon, _reaper, _relay, next, link, epoch: 0, native, backend, stage, _turn };
        parent.start_agent(&[]);
        parent.epoch = wait::until("the appliance greeting the agent", LIMIT, || {
            let about = api::ask(&parent.stage.net, "GET", "/v1", None)?;
            Ok(about.body.pointer("/agent/epoch").and_then(serde_json::Value::as_u64))
        })
        .unwrap();
        parent
    }

    /// Starts the agent, with these variables in its environment, and waits until it answers.
    pub(crate) fn start_agent(&self, environment: &[(&str, &str)]) {
        let mut agent = self.spawn_agent(self.keys().map(|keys| keys.appliance.pin()), environment);
        wait::until("the agent answering", LIMIT, || {
            agent.must_run()?;
            Ok(self.request(Method::Get, path::INVENTORY, None).map(drop))
        })
        .unwrap();
        *self.agent.lock().unwrap() = Some(agent);
    }

    /// Starts the agent, which believes another key than the appliance's, and waits until it listens.
    pub(crate) fn start_agent_that_believes(&self, pin: Pin) {
        let mut agent = self.spawn_agent(Some(pin), &[]);
        self.stage.net.listening(&mut agent, address(), LIMIT).unwrap();
        *self.agent.lock().unwrap() = Some(agent);
    }

    fn spawn_agent(&self, believed: Option<Pin>, environment: &[(&str, &str)]) -> Process {
        let scratch = &self.stage.scratch;
        // What the test leaves in its environment reaches the program through the tools that start it in its network.
        let mut command = self.stage.net.command(env!("CARGO_BIN_EXE_corbel"));
        command.args(["agent", "--listen", &address().to_string(), "--config"]);
        command.arg(scratch.file("operator.json")).arg("--run-dir").arg(scratch.file("agent"));
        match believed {
            Some(pin) => command.args(["--pin", &pin.to_string()]),
            None => command.arg("--insecure"),
        };
        command.envs(environment.iter().copied());
        Process::start("agent", command, &scratch.file("agent.log")).unwrap()
    }

    /// The keys of agent and appliance.
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.link.as_ref().map(|(keys, _)| keys)
    }

    /// Starts an agent that does what [`Parent::order`] says.
    pub(crate) fn start_agent_that_obeys(&self) {
        let orders = self.stage.scratch.file("orders");
        self.start_agent(&[("CORBEL_AGENT_CRASH", orders.to_str().unwrap())]);
    }

    /// Has the agent killed, or with ` hold` behind it stopped, when it comes by at that place of its journal.
    pub(crate) fn order(&self, place: &str) -> Order {
        let file = self.stage.scratch.file("orders");
        let fresh = file.with_extension("new");
        fs::write(&fresh, place).unwrap();
        fs::rename(fresh, &file).unwrap();
        Order(file)
    }

    /// Waits until an agent that was told to end has.
    pub(crate) fn await_end_of_agent(&self) {
        self.agent.lock().unwrap().take().unwrap().wait(LIMIT).unwrap();
    }

    /// The agent's process.
    pub(crate) fn agent(&self) -> u32 {
        self.agent.lock().unwrap().as_ref().unwrap().pid()
    }

    /// Ends the agent at once, as by a fault.
    pub(crate) fn kill_agent(&self) {
        self.agent.lock().unwrap().take().unwrap().kill();
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.stage.scratch.file("agent.log")).unwrap_or_default()
    }

    /// One request by the appliance's key, on a connection of its own; `None` if the agent went away.
    pub(crate) fn request(&self, method: Method, path: &str, body: Option<&[u8]>) -> Option<(u16, Vec<u8>)> {
        let dialling = self.link.as_ref().map(|(_, dialling)| dialling);
        let until = Instant::now() + LIMIT;
        loop {
            match self.request_as(dialling, (method, path, body)) {
                Ok(answer) => return Some(answer),
                // Connections of an appliance that was killed are held until they have been silent for long enough.
                Err(Lost::NoRoom) if self.agent_runs() => {
                    assert!(Instant::now() < until, "the agent lets nobody in:\n{}", self.log());
                    std::thread::sleep(Duration::from_millis(300));
                }
                Err(Lost::Away | Lost::NoRoom) => return None,
                Err(Lost::Refused(why)) => panic!("{why}\n{}", self.log()),
            }
        }
    }

    fn agent_runs(&self) -> bool {
        self.agent.lock().unwrap().as_ref().is_some_and(|agent| runs(agent.pid()))
    }

    /// The same by whoever dials so.
    pub(crate) fn request_as(
        &self,
        dialling: Option<&ClientConfig>,
        request: (Method, &str, Option<&[u8]>),
    ) -> Result<(u16, Vec<u8>), Lost> {
        way::ask(&self.stage.scratch.file("way"), dialling, request)
    }

    /// A command of a name that no other has.
    pub(crate) fn command(&self, instance: &str, action: Action) -> Command {
        let scratch = &self.stage.scratch;
        let disk = scratch.file("disks").join(format!("{instance}.qcow2"));
        if matches!(action, Action::Create { .. }) && !disk.exists() {
            fs::copy(scratch.file("template.qcow2"), disk).unwrap();
        }
        let op: OpId = format!("op-{}", self.next.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
        Command { epoch: Some(self.epoch), ..Command::new(op, instance.parse().unwrap(), action) }
    }

    /// Sends a command; `None` if the agent went away before it answered.
    pub(crate) fn try_send(&self, command: &Command) -> Option<Outcome> {
        let (mut status, mut body) = self.request(Method::Post, path::COMMAND, Some(&encode(command)))?;
        // In clear the agent says so when all connections are taken.
        while status == 503 {
            std::thread::sleep(Duration::from_millis(300));
            (status, body) = self.request(Method::Post, path::COMMAND, Some(&encode(command)))?;
        }
        assert_eq!(status, 200, "{command:?}: {}", String::from_utf8_lossy(&body));
        let answer: Answer = decode(&body).unwrap();
        assert_eq!(answer.op_id, command.op_id);
        Some(answer.outcome)
    }

    /// Sends a command to an agent that stays.
    pub(crate) fn send(&self, command: &Command) -> Outcome {
        self.try_send(command).unwrap_or_else(|| panic!("the agent went away:\n{}", self.log()))
    }

    /// A new command, and what became of it in the end.
    pub(crate) fn act(&self, instance: &str, action: Action) -> Outcome {
        let command = self.command(instance, action);
        self.settled(&command)
    }

    /// Sends a command and waits for its end.
    pub(crate) fn settled(&self, command: &Command) -> Outcome {
        match self.send(command) {
            Outcome::Accepted { .. } => self.await_end(&command.op_id),
            outcome => outcome,
        }
    }

    /// What became of a command that was sent before; `None` when the agent has never heard of it.
    pub(crate) fn recall(&self, op_id: &OpId) -> Option<Outcome> {
        self.try_recall(op_id).expect("the agent is there")
    }

    /// The same of an agent that may be gone: `None` if it is.
    pub(crate) fn try_recall(&self, op_id: &OpId) -> Option<Option<Outcome>> {
        let path = format!("{}/{op_id}", path::COMMAND);
        let (status, body) = self.request(Method::Get, &path, None)?;
        match status {
            200 => Some(Some(decode::<Answer>(&body).unwrap().outcome)),
            404 => Some(None),
            _ => panic!("{op_id}: {status} {}", String::from_utf8_lossy(&body)),
        }
    }

    /// What became in the end of a command that was accepted.
    pub(crate) fn await_end(&self, op_id: &OpId) -> Outcome {
        wait::until(format!("the end of {op_id}"), LIMIT, || {
            Ok(self.recall(op_id).filter(|outcome| !matches!(outcome, Outcome::Accepted { .. })))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Every instance, as the agent lists them.
    pub(crate) fn instances(&self) -> Vec<Instance> {
        let (mut all, mut after) = (Vec::new(), None::<InstanceId>);
        loop {
            let query = after.map_or_else(String::new, |name| format!("?after={name}"));
            let path = format!("{}{query}", path::INVENTORY);
            let (status, body) = self.request(Method::Get, &path, None).expect("the agent is there");
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            let page: Inventory = decode(&body).unwrap();
            all.extend(page.instances);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// One instance as it is listed; `None` when there is none of that name.
    pub(crate) fn find(&self, instance: &str) -> Option<Instance> {
        self.instances().into_iter().find(|one| one.id.as_str() == instance)
    }

    /// Waits until a guest has said on its console that it runs.
    pub(crate) fn await_guest(&self, instance: &str) {
        let uuid = self.find(instance).unwrap().uuid.to_string();
        wait::until(format!("the guest of {instance}"), LIMIT, || {
            Ok(self.native.console(&uuid).contains(child::GREETING.trim()).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }

    /// An instance, once it is in `state`.
    pub(crate) fn await_state(&self, instance: &str, state: State) -> Instance {
        let mut seen = None;
        wait::until(format!("{instance} being {state}"), LIMIT, || {
            seen = self.find(instance);
            Ok(seen.clone().filter(|one| one.state == state))
        })
        .unwrap_or_else(|error| panic!("{error}: {seen:?}\n{}", self.log()))
    }
}

/// What an agent was told to do at a place of its journal.
pub(crate) struct Order(PathBuf);

impl Order {
    /// Whether it has not come by there yet.
    pub(crate) fn is_open(&self) -> bool {
        self.0.exists()
    }

    /// Takes it back; whether it had not been carried out.
    pub(crate) fn withdraw(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Also after a failure: no guest may be left behind. Whatever the agent would say, the processes are found.
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", process::last_lines(&self.log(), 60));
        }
        drop(self.agent.get_mut().map(Option::take));
        self.daemon = None;
        for pid in self.native.processes() {
            if runs(pid) {
                signal(pid, Signal::KILL);
            }
        }
    }
}

fn address() -> SocketAddrV4 {
    SocketAddrV4::new(Wire::Host.here(), PORT)
}

fn guest(name: &'static str, folder: &Path) -> Guest {
    let kernel: PathBuf = folder.join(format!("{name}.elf"));
    Guest { name, kernel, initrd: None, command_line: String::new(), memory: 16 }
}
