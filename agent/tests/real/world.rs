//! An agent with real QEMU processes, driven over real TCP.

use agent::{Agent, Config, Shutdown};
use agent_protocol::{
    Action, Answer, Command, Hello, Instance, Inventory, OpId, Outcome, Refusal, State, Then, Uuid, Welcome,
    decode, encode, path,
};
use management_http::{Client, Limits, Method};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// One agent and what it left behind, removed at the end.
pub(crate) struct World {
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
    next: AtomicU64,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        assert!(std::path::Path::new(QEMU).exists(), "these tests need {QEMU} (Debian: qemu-system-x86)");
        let directory = std::env::temp_dir().join(format!("corbel-agent-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let images = format!(
            r#"{{"qemu":{{"executable":"{QEMU}","images":{{
                "none":{{"arguments":["-machine","none","-accel","tcg"]}},
                "microvm":{{"arguments":["-machine","microvm,accel=tcg","-m","16"]}},
                "broken":{{"arguments":["-machine","no-such-machine"]}}}}}}}}"#
        );
        std::fs::write(directory.join("images.json"), images).unwrap();
        let mut world = Self {
            directory,
            address: "127.0.0.1:0".parse().unwrap(),
            shutdown: Shutdown::default(),
            thread: None,
            next: AtomicU64::new(0),
        };
        world.start_agent();
        world
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            images: self.directory.join("images.json"),
            run_directory: self.directory.join("run"),
            end_guests: false,
            pins: Vec::new(),
            key: None,
            insecure: true,
        }
    }

    pub(crate) fn start_agent(&mut self) {
        let agent = Agent::bind(&self.config()).unwrap();
        self.address = agent.address().unwrap();
        self.shutdown = Shutdown::default();
        let shutdown = self.shutdown.clone();
        self.thread = Some(std::thread::spawn(move || agent.serve(&shutdown)));
    }

    pub(crate) fn stop_agent(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// One request on a connection of its own: status and body.
    pub(crate) fn request(&self, method: Method, path: &str, body: Option<&[u8]>) -> (u16, Vec<u8>) {
        let mut client = Client::new(Limits::CLIENT, "agent");
        client.request(method, path, body);
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(client.transmit()).unwrap();
        let count = client.transmit().len();
        client.transmitted(count);
        loop {
            let count = read(&mut stream, client.space());
            assert!(count > 0, "the agent closed without an answer");
            client.received(count).unwrap();
            if let Some(reply) = client.reply() {
                return (reply.status, reply.body.to_vec());
            }
        }
    }

    pub(crate) fn op_id(&self) -> OpId {
        format!("op-{}", self.next.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
    }

    pub(crate) fn command(&self, instance: &str, action: Action) -> Command {
        Command::new(self.op_id(), instance.parse().unwrap(), action)
    }

    pub(crate) fn send(&self, command: &Command) -> Outcome {
        let (status, body) = self.request(Method::Post, path::COMMAND, Some(&encode(command)));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: Answer = decode(&body).unwrap();
        assert_eq!(answer.op_id, command.op_id);
        answer.outcome
    }

    pub(crate) fn act(&self, instance: &str, action: Action) -> Outcome {
        self.send(&self.command(instance, action))
    }

    pub(crate) fn create(&self, instance: &str, image: &str) -> Instance {
        match self.act(
            instance,
            Action::Create {
                image: image.parse().unwrap(),
                start: true,
                size: agent_protocol::Size::default(),
            },
        ) {
            Outcome::Done { changed: true, instance, .. } if instance.state == State::Running => instance,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn recall(&self, op_id: &OpId) -> (u16, Option<Outcome>) {
        let (status, body) = self.request(Method::Get, &format!("{}/{op_id}", path::COMMAND), None);
        (status, decode::<Answer>(&body).ok().map(|answer| answer.outcome))
    }

    /// What became of a command that was accepted.
    pub(crate) fn await_end(&self, op_id: &OpId) -> Outcome {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match self.recall(op_id).1 {
                Some(Outcome::Accepted { .. }) => {}
                Some(outcome) => return outcome,
                None => panic!("{op_id} is not known"),
            }
            assert!(Instant::now() < until, "{op_id} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn hello(&self, boot: u128) -> (u16, Option<Welcome>) {
        let hello = Hello { proto_min: 1, proto_max: 1, appliance_boot: Uuid(boot), epoch: None };
        let (status, body) = self.request(Method::Post, path::HELLO, Some(&encode(&hello)));
        (status, decode(&body).ok())
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let (status, body) = self.request(Method::Get, path::INVENTORY, None);
        assert_eq!(status, 200);
        decode(&body).unwrap()
    }

    pub(crate) fn state(&self, instance: &str) -> State {
        let inventory = self.inventory();
        let found = inventory.instances.iter().find(|one| one.id.as_str() == instance);
        found.unwrap_or_else(|| panic!("{instance} is not listed")).state
    }

    pub(crate) fn await_state(&self, instance: &str, state: State) -> Instance {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let inventory = self.inventory();
            let found = inventory.instances.iter().find(|one| one.id.as_str() == instance).unwrap();
            if found.state == state {
                return found.clone();
            }
            assert!(Instant::now() < until, "{instance} is {} and not {state}", found.state);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The machine's private directory.
    pub(crate) fn machine(&self, instance: &Instance) -> PathBuf {
        self.directory.join("run/qemu").join(instance.uuid.to_string())
    }

    /// The process of a running instance, as the agent recorded it.
    pub(crate) fn pid(&self, instance: &Instance) -> u32 {
        let text = std::fs::read_to_string(self.machine(instance).join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// The same, or zero when the file is gone with the process.
    pub(crate) fn pid_or_zero(&self, instance: &Instance) -> u32 {
        let text = std::fs::read_to_string(self.machine(instance).join("pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Leave it as if the process id of an instance that has ended belonged to this test program by now.
    pub(crate) fn record_recycled(&self, instance: &Instance) {
        let machine = self.machine(instance);
        let pid = std::process::id();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let identity = format!(r#"{{"pid":{pid},"start_ticks":1,"host_boot":"{}"}}"#, boot.trim());
        std::fs::write(machine.join("process"), identity).unwrap();
        std::fs::write(machine.join("pid"), format!("{pid}\n")).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.thread.is_none() {
            self.start_agent();
        }
        for instance in self.inventory().instances {
            if instance.state != State::Terminated {
                self.act(instance.id.as_str(), Action::Terminate {});
            }
        }
        self.stop_agent();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Read something, whatever signals arrive meanwhile.
pub(crate) fn read(stream: &mut TcpStream, space: &mut [u8]) -> usize {
    loop {
        match stream.read(space) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            outcome => return outcome.unwrap(),
        }
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

pub(crate) fn stop(graceful: bool, timeout_ms: u32, then: Then) -> Action {
    Action::Stop { graceful, timeout_ms, then }
}

pub(crate) fn refusal(outcome: &Outcome) -> Refusal {
    match outcome {
        Outcome::Refused { code, .. } => *code,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn changed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done { changed, .. } => *changed,
        other => panic!("not done: {other:?}"),
    }
}
