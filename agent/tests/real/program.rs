//! The agent as the program it is: its command line, its signals, and what a kill leaves behind.

use crate::world::{read, runs, signal};
use agent_protocol::{Action, Answer, Command, Outcome, State, decode, encode, path};
use management_http::{Client, Limits, Method};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agent");

pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Program {
    pub(crate) fn start(directory: &Path, more: &[&str]) -> Self {
        Self::with(directory, more, None)
    }

    pub(crate) fn with(directory: &Path, more: &[&str], crash: Option<&str>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = std::process::Command::new(PROGRAM)
            .args(["--listen", &free.to_string(), "--config"])
            .arg(directory.join("images.json"))
            .arg("--run-dir")
            .arg(directory.join("run"))
            .arg("--insecure")
            .args(more)
            .envs(crash.map(|place| ("CORBEL_AGENT_CRASH", place)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { child, address: free };
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < until, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        program
    }

    pub(crate) fn act(&self, op: &str, instance: &str, action: Action) -> Outcome {
        let command = Command::new(op.parse().unwrap(), instance.parse().unwrap(), action);
        let mut client = Client::new(Limits::CLIENT, "agent");
        client.request(Method::Post, path::COMMAND, Some(&encode(&command)));
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(client.transmit()).unwrap();
        while client.reply().is_none() {
            let count = read(&mut stream, client.space());
            client.received(count).unwrap();
        }
        decode::<Answer>(client.reply().unwrap().body).unwrap().outcome
    }

    pub(crate) fn end(mut self, name: &str) -> Option<i32> {
        signal(self.child.id(), name);
        self.child.wait().unwrap().code()
    }
}

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("corbel-program-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let images = r#"{"qemu":{"executable":"/usr/bin/qemu-system-x86_64","images":{
        "none":{"arguments":["-machine","none","-accel","tcg"]}}}}"#;
    std::fs::write(directory.join("images.json"), images).unwrap();
    directory
}

fn pid(directory: &Path, outcome: &Outcome) -> u32 {
    let Outcome::Done { instance, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(instance.state, State::Running);
    let file = directory.join("run/qemu").join(instance.uuid.to_string()).join("pid");
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

#[test]
fn a_killed_agent_leaves_its_guests_to_the_next_one_which_can_end_them() {
    let directory = directory("killed");
    let create =
        Action::Create { image: "none".parse().unwrap(), start: true, size: agent_protocol::Size::default() };
    let first = Program::start(&directory, &[]);
    let pid = pid(&directory, &first.act("op-1", "a", create));
    assert_eq!(first.end("KILL"), None);
    assert!(runs(pid), "guests outlive their management");

    let second = Program::start(&directory, &["--end-guests"]);
    let Outcome::Done { instance, .. } = second.act("op-2", "a", Action::Describe {}) else { panic!() };
    assert_eq!(instance.state, State::Running);
    assert_eq!(second.end("TERM"), Some(0));
    assert!(!runs(pid), "this one was told to end them");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn interrupting_the_agent_ends_it_in_order_and_leaves_its_guests() {
    let directory = directory("interrupted");
    let create =
        Action::Create { image: "none".parse().unwrap(), start: true, size: agent_protocol::Size::default() };
    let program = Program::start(&directory, &[]);
    let pid = pid(&directory, &program.act("op-1", "a", create));
    assert_eq!(program.end("INT"), Some(0));
    assert!(runs(pid));
    let program = Program::start(&directory, &[]);
    assert!(matches!(program.act("op-2", "a", Action::Terminate {}), Outcome::Done { changed: true, .. }));
    assert_eq!(program.end("TERM"), Some(0));
    assert!(!runs(pid));
    std::fs::remove_dir_all(directory).unwrap();
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(PROGRAM).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_wrong_at_the_start_is_said_and_ends_the_program() {
    let directory = directory("wrong");
    let images = directory.join("images.json");
    let images = images.to_str().unwrap();
    let place = directory.join("run");
    let place = place.to_str().unwrap();
    let (code, said) = run(&["--listen", "0.0.0.0:1", "--config", images, "--run-dir", place, "--insecure"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("never on all of them") && said.contains("Usage:"), "{said}");
    let (code, said) =
        run(&["--listen", "127.0.0.1:0", "--config", "/nowhere", "--run-dir", place, "--insecure"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere"), "{said}");
    std::fs::write(images, r#"{"qemu":{"executable":"/bin/true","images":{},"colour":"red"}}"#).unwrap();
    let (code, said) =
        run(&["--listen", "127.0.0.1:0", "--config", images, "--run-dir", place, "--insecure"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("colour"), "{said}");
    assert_eq!(run(&["--help"]).0, Some(0));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn without_the_appliances_key_it_tells_its_own_and_does_not_serve() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = directory("pin");
    let (images, run_directory) = (directory.join("images.json"), directory.join("run"));
    let arguments = |more: &[&'static str]| -> (Option<i32>, String) {
        let mut all = vec!["--listen", "127.0.0.1:0", "--config", images.to_str().unwrap()];
        all.extend(["--run-dir", run_directory.to_str().unwrap()]);
        all.extend(more);
        run(&all)
    };
    let (code, said) = arguments(&[]);
    assert_eq!(code, Some(1), "{said}");
    let (_, pin) = said.split_once("--pin is missing").unwrap().1.split_once("agent.pin=").expect("its own");
    assert_eq!(pin.trim().len(), 64, "{said}");
    let key = run_directory.join("key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(arguments(&[]).1.contains(pin.trim()), "the key is made once");
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n").unwrap();
    let (code, said) = arguments(&[]);
    assert!(code == Some(1) && said.contains("key.pem: the private key"), "{said}");
    std::fs::remove_dir_all(&directory).unwrap();
}

/// How a program that was told to be killed is started.
fn doomed(directory: &Path, place: &str) -> Program {
    Program::with(directory, &[], Some(place))
}

/// The same to whoever listens there.
pub(crate) fn try_at(address: SocketAddr, command: &Command) -> Option<Outcome> {
    let mut client = Client::new(Limits::CLIENT, "agent");
    client.request(Method::Post, path::COMMAND, Some(&encode(command)));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(client.transmit()).ok()?;
    while client.reply().is_none() {
        let count = std::io::Read::read(&mut stream, client.space()).ok().filter(|count| *count > 0)?;
        client.received(count).ok()?;
    }
    Some(decode::<Answer>(client.reply()?.body).ok()?.outcome)
}

impl Program {
    /// Send a command to an agent that may be killed meanwhile; its answer, if there is one.
    pub(crate) fn try_act(&self, command: &Command) -> Option<Outcome> {
        try_at(self.address, command)
    }

    /// What is known of a command once it is over; `None` if it never came.
    pub(crate) fn recall(&self, op_id: &str) -> Option<Outcome> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut client = Client::new(Limits::CLIENT, "agent");
            client.request(Method::Get, &format!("{}/{op_id}", path::COMMAND), None);
            let mut stream = TcpStream::connect(self.address).unwrap();
            stream.write_all(client.transmit()).unwrap();
            while client.reply().is_none() {
                let count = read(&mut stream, client.space());
                client.received(count).unwrap();
            }
            let reply = client.reply().unwrap();
            if reply.status == 404 {
                return None;
            }
            match decode::<Answer>(reply.body).unwrap().outcome {
                Outcome::Accepted { .. } if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return Some(outcome),
            }
        }
    }
}

/// The agent is killed at each place of the journal while it carries out a command on a real QEMU. The next one says what
/// became of it, which is what QEMU shows; sent again it is carried out if it never was, and never a second time.
#[test]
fn an_agent_killed_at_any_step_carries_nothing_out_twice_and_tells_nothing_wrong() {
    let places = ["receiving", "received", "beginning", "begun", "performed", "ending", "ended"];
    std::thread::scope(|scope| {
        for place in places {
            scope.spawn(move || {
                killed_while_pausing(place);
                killed_while_ending(place);
            });
        }
    });
}

fn command(op: &str, action: Action) -> Command {
    Command::new(op.parse().unwrap(), "a".parse().unwrap(), action)
}

fn create() -> Action {
    Action::Create { image: "none".parse().unwrap(), start: true, size: agent_protocol::Size::default() }
}

fn state(program: &Program, op: &str) -> State {
    let Outcome::Done { instance, .. } = program.act(op, "a", Action::Describe {}) else { panic!() };
    instance.state
}

fn killed_while_pausing(place: &str) {
    let directory = directory(&format!("pausing-{place}"));
    let program = Program::start(&directory, &[]);
    let pid = pid(&directory, &program.act("op-1", "a", create()));
    assert_eq!(program.end("TERM"), Some(0));

    let mut program = doomed(&directory, place);
    let pause = command("op-2", Action::Pause {});
    assert_eq!(program.try_act(&pause), None, "{place}: nobody was told");
    assert_eq!(program.child.wait().unwrap().code(), None, "{place}: it was killed");
    assert!(runs(pid), "{place}: guests outlive their management");

    let program = Program::start(&directory, &[]);
    let paused = state(&program, "look-1") == State::Paused;
    let told = program.recall("op-2");
    match &told {
        // Where the journal was slower than the look, it is written down as received and begun in one batch.
        None => assert!(matches!(place, "receiving" | "beginning") && !paused, "{place}: never received"),
        Some(Outcome::Done { changed: true, .. }) => assert!(paused, "{place}: told as done"),
        Some(Outcome::Failed { code: agent_protocol::Failure::Interrupted, .. }) => {
            assert!(!paused, "{place}: told as not done");
        }
        other => panic!("{place}: {other:?}"),
    }
    assert_eq!(paused, matches!(place, "performed" | "ending" | "ended"), "{place}");
    // Whatever it was, it is over: resumed, it is not paused again by the same command.
    program.act("op-3", "a", Action::Resume {});
    let again = program.try_act(&pause).unwrap();
    match told {
        None => assert!(matches!(again, Outcome::Done { changed: true, .. }), "it never came before"),
        Some(told) => {
            assert_eq!(again, told, "{place}: the same answer");
            assert_eq!(state(&program, "look-2"), State::Running, "{place}: it is not done a second time");
        }
    }
    assert!(matches!(program.act("op-4", "a", Action::Terminate {}), Outcome::Done { changed: true, .. }));
    assert_eq!(program.end("TERM"), Some(0));
    std::fs::remove_dir_all(directory).unwrap();
}

fn killed_while_ending(place: &str) {
    let directory = directory(&format!("ending-{place}"));
    let program = Program::start(&directory, &[]);
    let pid = pid(&directory, &program.act("op-1", "a", create()));
    assert_eq!(program.end("TERM"), Some(0));

    let mut program = doomed(&directory, place);
    assert_eq!(program.try_act(&command("op-2", Action::Terminate {})), None, "{place}");
    assert_eq!(program.child.wait().unwrap().code(), None, "{place}: it was killed");

    let program = Program::start(&directory, &[]);
    match program.recall("op-2") {
        // What needs no look is written down as received and begun in one batch.
        None => assert!(matches!(place, "receiving" | "beginning") && runs(pid), "{place}: never received"),
        Some(Outcome::Done { changed: true, instance, .. }) => {
            assert!(!runs(pid) && instance.state == State::Terminated, "{place}: told as done");
        }
        Some(Outcome::Failed { code: agent_protocol::Failure::Interrupted, .. }) => {
            assert!(runs(pid), "{place}: told as not done");
        }
        other => panic!("{place}: {other:?}"),
    }
    let left = runs(pid);
    let ended = program.act("op-3", "a", Action::Terminate {});
    assert_eq!(matches!(ended, Outcome::Done { changed: true, .. }), left, "{place}: {ended:?}");
    assert!(!runs(pid), "{place}: the way out is always open");
    assert_eq!(program.end("TERM"), Some(0));
    std::fs::remove_dir_all(directory).unwrap();
}
