//! The parent partition: the agent as a process of its own, and whatever its hypervisor needs beside it.

use crate::backend::{Backend, Guest, Host};
use crate::fixture::Turn;
use crate::native::{Native, Reaper, runs, signal};
use agent_protocol::{
    Action, Answer, Command, Instance, InstanceId, Inventory, OpId, Outcome, State, decode, encode, path,
};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::stage::{Script, Stage};
use image_launch::{api, child, wait};
use management_http::{Client, Limits, Method};
use rustix::process::Signal;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
        let turn = Turn::alone();
        let mut script = Script::new(env!("CARGO_BIN_EXE_corbel"), Kind::Hosted, 8 << 20, Server::QemuNbd);
        script.state = true;
        script.config = config;
        script.config.push(("agent".into(), address().to_string()));
        script.config.push(("agent.insecure".into(), "yes".into()));
        let stage = Stage::start(&script).unwrap();
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
        let mut parent =
            Self { agent, daemon, _reaper, _relay, next, epoch: 0, native, backend, stage, _turn };
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
        let scratch = &self.stage.scratch;
        // What the test leaves in its environment reaches the program through the tools that start it in its network.
        let mut command = self.stage.net.command(env!("CARGO_BIN_EXE_corbel"));
        command.args(["agent", "--listen", &address().to_string(), "--insecure", "--config"]);
        command.arg(scratch.file("operator.json")).arg("--run-dir").arg(scratch.file("agent"));
        command.envs(environment.iter().copied());
        let mut agent = Process::start("agent", command, &scratch.file("agent.log")).unwrap();
        wait::until("the agent answering", LIMIT, || {
            agent.must_run()?;
            Ok(self.request(Method::Get, path::INVENTORY, None).map(drop))
        })
        .unwrap();
        *self.agent.lock().unwrap() = Some(agent);
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

    /// One request on a connection of its own; `None` if the agent went away.
    pub(crate) fn request(&self, method: Method, path: &str, body: Option<&[u8]>) -> Option<(u16, Vec<u8>)> {
        let mut client = Client::new(Limits::CLIENT, "agent");
        client.request(method, path, body);
        let mut stream = UnixStream::connect(self.stage.scratch.file("way")).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(client.transmit()).ok()?;
        let count = client.transmit().len();
        client.transmitted(count);
        loop {
            let count = match stream.read(client.space()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                outcome => outcome.unwrap(),
            };
            if count == 0 {
                return None;
            }
            client.received(count).unwrap();
            if let Some(reply) = client.reply() {
                return Some((reply.status, reply.body.to_vec()));
            }
        }
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
        // Connections of an appliance that was killed are held until they have been silent for long enough.
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
