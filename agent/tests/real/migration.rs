//! Machines that move from host to host: two agents, two real QEMUs, and a guest that counts.

use crate::host::{Target, free_port, nic, run, volume};
use crate::program::Program;
use crate::world::{runs, signal};
use agent_protocol::{Action, Command, Failure, Instance, Outcome, Precondition, Refusal, State, Uuid};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything here may take.
const TIME: Duration = Duration::from_secs(20);

/// How the two are to be.
struct Wish<'a> {
    name: &'a str,
    /// So slow that the guest writes faster.
    slow: bool,
    patience_s: u32,
    tls: Option<&'a str>,
}

const USUAL: Wish<'_> = Wish { name: "", slow: false, patience_s: 600, tls: None };

/// Two hosts, each with an agent, on two addresses of the loopback.
struct Pair {
    directory: PathBuf,
    here: Option<Program>,
    there: Option<Program>,
    next: std::cell::Cell<u32>,
    portal: u16,
    /// Where it waits there.
    port: std::cell::Cell<u16>,
}

impl Pair {
    fn new(wish: &Wish<'_>) -> Self {
        let directory =
            std::env::temp_dir().join(format!("corbel-move-{}-{}", std::process::id(), wish.name));
        let _ = std::fs::remove_dir_all(&directory);
        for host in ["here", "there"] {
            std::fs::create_dir_all(directory.join(host)).unwrap();
        }
        let image = directory.join("boot.img");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/ticking.S");
        let linked = ["-Wl,--oformat,binary", "-Wl,-Ttext,0x7c00", "-Wl,--build-id=none"];
        let out = ["-o", image.to_str().unwrap(), source];
        run("gcc", &[&["-m32", "-nostdlib", "-static"], linked.as_slice(), out.as_slice()].concat());
        // Ports of their own, so that tests that run at once are not in each other's way.
        let port =
            20_000 + std::process::id() % 20_000 + wish.name.bytes().map(u32::from).sum::<u32>() % 8_000;
        let portal = free_port();
        for (host, own) in [("here", "127.0.0.2"), ("there", "127.0.0.3")] {
            let tls = wish.tls.map_or(String::new(), |kind| {
                format!(r#""tls":{{"kind":"{kind}","directory":"{}"}},"#, directory.join(host).display())
            });
            let (speed, downtime) = if wish.slow { (1, 20) } else { (1024, 300) };
            let file = format!(
                r#"{{"qemu":{{"executable":"/usr/bin/qemu-system-x86_64","images":{{
                    "ticking":{{"arguments":["-machine","pc,accel=tcg","-m","16","-smp","1,maxcpus=2","-serial","file:{{directory}}/serial",
                        "-drive","file={},format=raw,if=floppy,readonly=on","-device","pvpanic","-action","panic=pause",
                        "-chardev","socket,id=own,path={{directory}}/own,server=on,wait=off","-mon","chardev=own,mode=control"]}}}},
                    "portal":"127.0.0.1:{portal}","networks":{{"blue":"user"}},
                    "migration":{{"listen":"{own}","ports":[{port},{}],{tls}
                        "peers":{{"here":"127.0.0.2","there":"127.0.0.3"}},
                        "mib_per_s":{speed},"downtime_ms":{downtime},"patience_s":{}}}}}}}"#,
                image.display(),
                port + 15,
                wish.patience_s
            );
            std::fs::write(directory.join(host).join("images.json"), file).unwrap();
        }
        let next = std::cell::Cell::new(0);
        let port = std::cell::Cell::default();
        let mut pair = Self { directory, here: None, there: None, next, portal, port };
        pair.here = Some(pair.start("here", None));
        pair.there = Some(pair.start("there", None));
        pair
    }

    fn start(&self, host: &str, crash: Option<&str>) -> Program {
        Program::with(&self.directory.join(host), &[], crash)
    }

    fn agent(&self, host: &str) -> &Program {
        let agent = if host == "here" { &self.here } else { &self.there };
        agent.as_ref().unwrap()
    }

    fn command(&self, action: Action) -> Command {
        self.next.set(self.next.get() + 1);
        Command::new(format!("op-{}", self.next.get()).parse().unwrap(), "web".parse().unwrap(), action)
    }

    /// What became of a command, once it is over.
    fn send(&self, host: &str, command: &Command) -> Outcome {
        match self.agent(host).try_act(command).expect("an answer") {
            Outcome::Accepted { .. } => self.agent(host).recall(command.op_id.as_str()).unwrap(),
            outcome => outcome,
        }
    }

    fn act(&self, host: &str, action: Action) -> Outcome {
        self.send(host, &self.command(action))
    }

    fn look(&self, host: &str) -> Instance {
        match self.act(host, Action::Describe {}) {
            Outcome::Done { instance, .. } => instance,
            other => panic!("{other:?}"),
        }
    }

    fn await_state(&self, host: &str, state: State) -> Instance {
        let until = Instant::now() + TIME;
        loop {
            let seen = self.look(host);
            if seen.state == state {
                return seen;
            }
            assert!(Instant::now() < until, "{host}: {seen:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn machine(&self, host: &str, uuid: Uuid) -> PathBuf {
        self.directory.join(host).join("run/qemu").join(uuid.to_string())
    }

    /// What its guest has said there.
    fn said(&self, host: &str, uuid: Uuid) -> String {
        std::fs::read_to_string(self.machine(host, uuid).join("serial")).unwrap_or_default()
    }

    fn pid(&self, host: &str, uuid: Uuid) -> u32 {
        let file = self.machine(host, uuid).join("pid");
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// One that runs here and has said something, and a host that waits for it.
    fn ready(&self) -> Uuid {
        let size = agent_protocol::Size::default();
        let create = Action::Create { image: "ticking".parse().unwrap(), start: true, size };
        let made = instance(&self.act("here", create));
        self.says_more("here", made.uuid);
        let outcome = self.act("there", prepare(made.uuid));
        let waits = instance(&outcome);
        assert_eq!((waits.state, waits.uuid), (State::Pending, made.uuid));
        let Outcome::Done { evidence, .. } = outcome else { panic!() };
        let (_, port) =
            evidence[0].as_str().split_once("waits at 127.0.0.3:").expect("the operator's address");
        let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
        self.port.set(port);
        let elsewhere = std::net::TcpStream::connect(("127.0.0.1", port));
        assert!(elsewhere.is_err(), "it listens on that address and on no other");
        made.uuid
    }

    /// What its QEMU answers to a command, over a monitor that the agent knows nothing of.
    fn monitor(&self, host: &str, uuid: Uuid, command: &str) -> String {
        let mut stream = UnixStream::connect(self.machine(host, uuid).join("own")).unwrap();
        stream.write_all(format!("{{\"execute\":\"qmp_capabilities\"}}\n{command}\n").as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(|line| line.unwrap());
        let mut answers = lines.filter(|line| line.contains("\"return\"") || line.contains("\"error\""));
        answers.nth(1).unwrap()
    }

    fn status(&self, host: &str, uuid: Uuid) -> String {
        let answer: serde_json::Value =
            serde_json::from_str(&self.monitor(host, uuid, r#"{"execute":"query-status"}"#)).unwrap();
        answer["return"]["status"].as_str().unwrap().to_owned()
    }

    /// Press a key of its keyboard, after which it is in that state.
    fn press(&self, host: &str, uuid: Uuid, key: &str, status: &str) {
        let keys =
            format!(r#"{{"execute":"send-key","arguments":{{"keys":[{{"type":"qcode","data":"{key}"}}]}}}}"#);
        assert!(self.monitor(host, uuid, &keys).contains("return"));
        let until = Instant::now() + TIME;
        while self.status(host, uuid) != status {
            assert!(Instant::now() < until, "it is {}", self.status(host, uuid));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn says_more(&self, host: &str, uuid: Uuid) {
        let before = self.said(host, uuid).len();
        let until = Instant::now() + TIME;
        while self.said(host, uuid).len() < before + 3 {
            assert!(Instant::now() < until, "the guest {host} says nothing more");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A move that has begun and does not come to an end; what becomes of it.
    fn moving(&self, uuid: Uuid) -> (Command, std::thread::JoinHandle<Option<Outcome>>) {
        let command = self.command(start("there"));
        let address = self.agent("here").address;
        let sent = command.clone();
        let thread = std::thread::spawn(move || crate::program::try_at(address, &sent));
        let until = Instant::now() + TIME;
        while !self.machine("here", uuid).join("moving").exists() {
            assert!(Instant::now() < until, "it does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(700));
        (command, thread)
    }

    /// A move whose last part was sent to a process that hangs, and has not answered.
    fn handed_over(&self, uuid: Uuid) -> (Command, std::thread::JoinHandle<Option<Outcome>>, u32) {
        let there = self.pid("there", uuid);
        // What comes waits in the kernel: all of it has room there.
        signal(there, "STOP");
        let (command, thread) = self.moving(uuid);
        let file = self.machine("here", uuid).join("moving");
        let until = Instant::now() + TIME;
        while !std::fs::read_to_string(&file).unwrap().contains("handed-over") {
            assert!(Instant::now() < until, "it is not handed over");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(!thread.is_finished(), "it has answered nobody");
        (command, thread, there)
    }

    /// What is told of a command that was accepted or whose sender has lost its answer.
    fn told(&self, host: &str, command: &Command) -> Outcome {
        self.agent(host).recall(command.op_id.as_str()).unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for agent in [self.here.take(), self.there.take()].into_iter().flatten() {
            let mut agent = agent;
            let _ = agent.child.kill();
            let _ = agent.child.wait();
        }
        for host in ["here", "there"] {
            let machines = std::fs::read_dir(self.directory.join(host).join("run/qemu"));
            for machine in machines.into_iter().flatten().flatten() {
                kill_recorded(&machine.path());
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn kill_recorded(machine: &Path) {
    let pid = std::fs::read_to_string(machine.join("pid")).unwrap_or_default();
    let Ok(pid) = pid.trim().parse::<u32>() else { return };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&line).contains(machine.to_str().unwrap()) {
        signal(pid, "KILL");
    }
}

fn prepare(uuid: Uuid) -> Action {
    Action::MigratePrepare { image: "ticking".parse().unwrap(), uuid }
}

fn start(peer: &str) -> Action {
    Action::MigrateStart { peer: peer.parse().unwrap() }
}

fn instance(outcome: &Outcome) -> Instance {
    match outcome {
        Outcome::Done { changed: true, instance, .. } => instance.clone(),
        other => panic!("{other:?}"),
    }
}

fn refusal(outcome: &Outcome) -> Refusal {
    match outcome {
        Outcome::Refused { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

/// That the guest has gone on where it was: no letter is missing and none was said twice.
fn goes_on(text: &str) {
    let expected: String = ('A'..='Z').cycle().take(text.len()).collect();
    assert!(text == expected, "{text}");
}

#[test]
fn a_guest_goes_on_counting_on_the_other_host_and_comes_back() {
    let pair = Pair::new(&Wish { name: "goes", ..USUAL });
    let uuid = pair.ready();
    let pid = pair.pid("here", uuid);
    assert_eq!(refusal(&pair.act("there", Action::Start {})), Refusal::Frozen, "it runs elsewhere");
    assert_eq!(refusal(&pair.act("there", prepare(uuid))), Refusal::AlreadyExists);
    let unknown = pair.act("here", start("nowhere"));
    assert!(matches!(unknown, Outcome::Failed { code: Failure::Hypervisor, .. }), "{unknown:?}");

    let command = pair.command(start("there"));
    let outcome = pair.send("here", &command);
    let Outcome::Done { changed: true, instance, evidence } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(instance.state, State::Terminated);
    assert!(evidence[0].as_str().contains("there has said over the return path"), "{evidence:?}");
    assert!(evidence.iter().any(|one| one.as_str().contains("is gone")), "{evidence:?}");
    assert!(!runs(pid));
    let left = std::fs::read_dir(pair.directory.join("here/run/qemu")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of it");
    let came = pair.await_state("there", State::Running);
    assert_eq!(came.uuid, uuid);
    pair.says_more("there", uuid);
    assert_eq!(pair.send("here", &command), outcome, "sent again, nothing is done and the same is told");
    assert_eq!(refusal(&pair.act("here", start("there"))), Refusal::Terminated);
    let cancel = pair.act("there", Action::MigrateCancel {});
    assert!(matches!(cancel, Outcome::Done { changed: false, .. }), "it does not move: {cancel:?}");

    assert_eq!(self::instance(&pair.act("here", prepare(uuid))).state, State::Pending);
    assert_eq!(self::instance(&pair.act("there", start("here"))).state, State::Terminated);
    pair.await_state("here", State::Running);
    pair.says_more("here", uuid);
    // What a move needs of QEMU is gone after it: it can be saved, which could not answer.
    assert!(matches!(pair.act("here", Action::Save {}), Outcome::Done { changed: true, .. }));
    assert!(matches!(pair.act("here", Action::Terminate {}), Outcome::Done { changed: true, .. }));
}

#[test]
fn no_letter_is_lost_and_none_is_said_twice() {
    let pair = Pair::new(&Wish { name: "letters", ..USUAL });
    let uuid = pair.ready();
    let serial = pair.machine("here", uuid).join("serial");
    let kept = pair.directory.join("serial");
    std::fs::hard_link(serial, &kept).unwrap();
    instance(&pair.act("here", start("there")));
    pair.says_more("there", uuid);
    let before = std::fs::read_to_string(kept).unwrap();
    goes_on(&format!("{before}{}", pair.said("there", uuid)));
}

#[test]
fn a_move_that_is_called_off_leaves_the_guest_where_it_is() {
    let pair = Pair::new(&Wish { name: "cancel", slow: true, ..USUAL });
    let uuid = pair.ready();
    let (moving, thread) = pair.moving(uuid);
    let cancel = pair.command(Action::MigrateCancel {});
    let began = Instant::now();
    let outcome = pair.send("here", &cancel);
    assert!(began.elapsed() < Duration::from_secs(5), "at once");
    assert_eq!(instance(&outcome).state, State::Running);
    let told = thread.join().unwrap().unwrap();
    assert!(matches!(told, Outcome::Failed { code: Failure::Hypervisor, .. }), "{told:?}");
    assert_eq!(pair.told("here", &moving), told);
    assert_eq!(pair.send("here", &cancel), outcome);
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
    pair.await_state("there", State::Failed);
    assert_eq!(refusal(&pair.act("there", Action::Start {})), Refusal::Frozen, "it runs here");
    assert!(pair.said("there", uuid).is_empty());
    assert!(matches!(pair.act("there", Action::Terminate {}), Outcome::Done { changed: true, .. }));
    assert!(matches!(pair.act("here", Action::Pause {}), Outcome::Done { changed: true, .. }));
}

/// What QEMU does not hold by a command it could let go on by itself.
#[test]
fn a_guest_that_sleeps_or_panics_on_its_way_is_not_handed_over() {
    let pair = Pair::new(&Wish { name: "asleep", slow: true, ..USUAL });
    for (key, status, state) in [("s", "suspended", State::Running), ("p", "guest-panicked", State::Paused)] {
        let uuid = pair.ready();
        let (_, thread) = pair.moving(uuid);
        pair.press("here", uuid, key, status);
        let told = thread.join().unwrap().unwrap();
        let Outcome::Failed { code: Failure::Hypervisor, detail, .. } = &told else { panic!("{told:?}") };
        assert!(detail.as_str().contains(status), "{detail}");
        let stays = pair.look("here");
        assert!(stays.state == state && stays.reason.is_some(), "{stays:?}");
        assert_eq!(pair.status("here", uuid), status, "nobody has let it go on");
        pair.await_state("there", State::Failed);
        for host in ["here", "there"] {
            assert_eq!(instance(&pair.act(host, Action::Terminate {})).state, State::Terminated);
        }
    }
}

#[test]
fn one_that_has_come_is_never_ended_however_it_was_held() {
    let pair = Pair::new(&Wish { name: "as-held", patience_s: 3, ..USUAL });
    for (held, state) in [("prelaunch", State::Running), ("guest-panicked", State::Paused)] {
        let uuid = pair.ready();
        let began = Instant::now();
        if held == "prelaunch" {
            pair.monitor("here", uuid, r#"{"execute":"stop"}"#);
            pair.monitor("here", uuid, r#"{"execute":"system_reset"}"#);
        } else {
            pair.press("here", uuid, "p", held);
        }
        let to = pair.port.get();
        let migrate = format!(r#"{{"execute":"migrate","arguments":{{"uri":"tcp:127.0.0.3:{to}"}}}}"#);
        assert!(pair.monitor("here", uuid, &migrate).contains("return"));
        pair.await_state("there", state);
        std::thread::sleep(Duration::from_millis(4200).saturating_sub(began.elapsed()));
        let came = pair.look("there");
        assert_eq!(came.state, state, "{came:?}");
        if state == State::Running {
            pair.says_more("there", uuid);
            assert!(pair.said("there", uuid).starts_with('A'), "it has begun anew");
        }
        for host in ["here", "there"] {
            assert_eq!(instance(&pair.act(host, Action::Terminate {})).state, State::Terminated);
        }
    }
}

#[test]
fn terminate_does_not_wait_for_a_move() {
    let pair = Pair::new(&Wish { name: "end", slow: true, ..USUAL });
    let uuid = pair.ready();
    let pid = pair.pid("here", uuid);
    let (_, thread) = pair.moving(uuid);
    let began = Instant::now();
    assert_eq!(instance(&pair.act("here", Action::Terminate {})).state, State::Terminated);
    assert!(began.elapsed() < Duration::from_secs(5) && !runs(pid));
    assert!(matches!(thread.join().unwrap().unwrap(), Outcome::Failed { .. }));
    pair.await_state("there", State::Failed);
}

#[test]
fn a_destination_that_is_killed_in_the_middle_changes_nothing_at_the_source() {
    let pair = Pair::new(&Wish { name: "there-dies", slow: true, ..USUAL });
    let uuid = pair.ready();
    let (_, thread) = pair.moving(uuid);
    signal(pair.pid("there", uuid), "KILL");
    let told = thread.join().unwrap().unwrap();
    let Outcome::Failed { code: Failure::Hypervisor, detail, instance: Some(instance) } = &told else {
        panic!("{told:?}")
    };
    assert!(detail.as_str().contains("before it was handed over"), "{detail}");
    assert_eq!(instance.state, State::Running);
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
    pair.await_state("there", State::Failed);
}

#[test]
fn an_agent_that_is_killed_in_the_middle_leaves_the_guest_to_the_next_which_calls_the_move_off() {
    let mut pair = Pair::new(&Wish { name: "agent-dies", slow: true, ..USUAL });
    let uuid = pair.ready();
    let (moving, thread) = pair.moving(uuid);
    assert_eq!(pair.here.take().unwrap().end("KILL"), None);
    assert_eq!(thread.join().unwrap(), None);
    pair.says_more("here", uuid);
    pair.here = Some(pair.start("here", None));
    let told = pair.told("here", &moving);
    assert!(matches!(told, Outcome::Failed { code: Failure::Interrupted, .. }), "{told:?}");
    assert_eq!(pair.look("here").state, State::Running);
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
    assert!(!pair.machine("here", uuid).join("moving").exists());
    pair.await_state("there", State::Failed);
}

#[test]
fn an_agent_that_ends_calls_its_moves_off() {
    let mut pair = Pair::new(&Wish { name: "ends", slow: true, ..USUAL });
    let uuid = pair.ready();
    let (moving, thread) = pair.moving(uuid);
    assert_eq!(pair.here.take().unwrap().end("TERM"), Some(0));
    drop(thread.join().unwrap());
    assert!(!pair.machine("here", uuid).join("moving").exists());
    assert_eq!(pair.status("here", uuid), "running");
    pair.await_state("there", State::Failed);
    pair.here = Some(pair.start("here", None));
    let told = pair.told("here", &moving);
    assert!(matches!(told, Outcome::Failed { .. }), "{told:?}");
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
}

#[test]
fn an_agent_that_is_killed_when_all_has_arrived_tells_so_afterwards() {
    let mut pair = Pair::new(&Wish { name: "arrived", ..USUAL });
    let uuid = pair.ready();
    let pid = pair.pid("here", uuid);
    assert_eq!(pair.here.take().unwrap().end("TERM"), Some(0));
    pair.here = Some(pair.start("here", Some("performed")));
    let moving = pair.command(start("there"));
    assert_eq!(pair.agent("here").try_act(&moving), None);
    pair.here.take().unwrap().child.wait().unwrap();
    pair.await_state("there", State::Running);
    pair.here = Some(pair.start("here", None));
    assert_eq!(instance(&pair.told("here", &moving)).state, State::Terminated);
    assert!(!runs(pid));
    assert_eq!(refusal(&pair.act("here", Action::Start {})), Refusal::Terminated);
    pair.says_more("there", uuid);
}

#[test]
fn a_destination_whose_agent_is_away_runs_when_the_next_one_sees_it() {
    let mut pair = Pair::new(&Wish { name: "away", ..USUAL });
    let uuid = pair.ready();
    assert_eq!(pair.there.take().unwrap().end("KILL"), None);
    assert_eq!(instance(&pair.act("here", start("there"))).state, State::Terminated);
    std::thread::sleep(Duration::from_millis(300));
    assert!(pair.said("there", uuid).is_empty(), "nobody has let it run");
    pair.there = Some(pair.start("there", None));
    pair.await_state("there", State::Running);
    pair.says_more("there", uuid);
}

#[test]
fn what_nothing_comes_to_is_ended_and_never_started() {
    let pair = Pair::new(&Wish { name: "late", patience_s: 1, ..USUAL });
    let uuid = pair.ready();
    let pid = pair.pid("there", uuid);
    std::thread::sleep(Duration::from_millis(2100));
    let failed = pair.await_state("there", State::Failed);
    assert!(failed.reason.as_ref().unwrap().as_str().contains("nothing came"), "{failed:?}");
    assert!(!runs(pid));
    assert_eq!(refusal(&pair.act("there", Action::Start {})), Refusal::Frozen);
    let told = pair.act("here", start("there"));
    assert!(matches!(told, Outcome::Failed { code: Failure::Hypervisor, .. }), "{told:?}");
    pair.says_more("here", uuid);
    assert_eq!(instance(&pair.act("there", Action::Terminate {})).state, State::Terminated);
}

#[test]
fn a_stream_does_not_get_into_a_process_that_waits_for_another() {
    let pair = Pair::new(&Wish { name: "other", ..USUAL });
    let uuid = pair.ready();
    assert!(matches!(pair.act("there", Action::Terminate {}), Outcome::Done { .. }));
    assert_eq!(instance(&pair.act("there", prepare(Uuid(uuid.0 ^ 1)))).state, State::Pending);
    let told = pair.act("here", start("there"));
    assert!(matches!(told, Outcome::Failed { code: Failure::Hypervisor, .. }), "{told:?}");
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
}

#[test]
fn with_a_shared_key_the_stream_is_encrypted_and_another_key_gets_nothing() {
    let pair = Pair::new(&Wish { name: "tls", tls: Some("psk"), ..USUAL });
    let key = |host: &str, digits: &str| {
        let keys = pair.directory.join(host).join("keys.psk");
        std::fs::write(keys, format!("qemu:{}\n", digits.repeat(32))).unwrap();
    };
    key("there", "a1");
    let uuid = pair.ready();
    key("here", "b2");
    let told = pair.act("here", start("there"));
    assert!(matches!(told, Outcome::Failed { code: Failure::Hypervisor, .. }), "{told:?}");
    pair.says_more("here", uuid);
    key("here", "a1");
    // A stranger that does not get in does not spoil it for the one that does, or else it is made ready anew.
    assert!(matches!(pair.act("there", Action::Terminate {}), Outcome::Done { .. }));
    assert_eq!(instance(&pair.act("there", prepare(uuid))).state, State::Pending);
    assert_eq!(instance(&pair.act("here", start("there"))).state, State::Terminated);
    pair.await_state("there", State::Running);
    pair.says_more("there", uuid);
}

/// The destination is killed between the last part and its answer: whether it runs there nobody here can know.
#[test]
fn what_was_handed_over_stays_held_until_somebody_says_that_it_does_not_run_there() {
    let mut pair = Pair::new(&Wish { name: "open", ..USUAL });
    let uuid = pair.ready();
    let (command, thread, there) = pair.handed_over(uuid);
    signal(there, "KILL");
    let told = thread.join().unwrap().unwrap();
    assert!(matches!(&told, Outcome::Indeterminate { .. }), "{told:?}");
    let said = pair.said("here", uuid).len();
    for round in 0..2 {
        for action in [Action::Resume {}, Action::Reset {}, Action::MigrateCancel {}, start("there")] {
            assert_eq!(refusal(&pair.act("here", action)), Refusal::Frozen);
        }
        let held = pair.look("here");
        assert_eq!(held.state, State::Paused, "{held:?}");
        assert_eq!(pair.said("here", uuid).len(), said, "it stands still");
        if round == 0 {
            assert_eq!(pair.here.take().unwrap().end("KILL"), None);
            pair.here = Some(pair.start("here", None));
            assert_eq!(pair.told("here", &command), told);
        }
    }
    assert!(matches!(pair.act("there", Action::Terminate {}), Outcome::Done { .. }));
    let generation = Some(pair.look("here").generation);
    let precondition = Precondition { generation, ..Precondition::default() };
    let back = Command { precondition, ..pair.command(Action::MigrateCancel {}) };
    assert_eq!(instance(&pair.send("here", &back)).state, State::Running);
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
    assert!(matches!(pair.act("here", Action::Pause {}), Outcome::Done { changed: true, .. }));
}

#[test]
fn an_agent_that_is_killed_after_it_was_handed_over_leaves_the_next_one_no_way_but_forward() {
    let mut pair = Pair::new(&Wish { name: "forward", ..USUAL });
    let uuid = pair.ready();
    let kept = pair.directory.join("serial");
    std::fs::hard_link(pair.machine("here", uuid).join("serial"), &kept).unwrap();
    let (command, thread, there) = pair.handed_over(uuid);
    assert_eq!(pair.here.take().unwrap().end("KILL"), None);
    assert_eq!(thread.join().unwrap(), None);
    pair.here = Some(pair.start("here", None));
    let held = pair.look("here");
    assert_eq!(held.state, State::Saving, "{held:?}");
    signal(there, "CONT");
    assert_eq!(instance(&pair.told("here", &command)).state, State::Terminated);
    pair.await_state("there", State::Running);
    pair.says_more("there", uuid);
    goes_on(&format!("{}{}", std::fs::read_to_string(kept).unwrap(), pair.said("there", uuid)));
}

#[test]
fn a_source_whose_process_dies_after_it_was_handed_over_is_not_started_again() {
    let pair = Pair::new(&Wish { name: "here-dies", ..USUAL });
    let uuid = pair.ready();
    let (_, thread, there) = pair.handed_over(uuid);
    signal(pair.pid("here", uuid), "KILL");
    let told = thread.join().unwrap().unwrap();
    assert!(matches!(told, Outcome::Indeterminate { .. }), "{told:?}");
    signal(there, "CONT");
    // Whether all of it was on its way by then is not known here, and not decided here.
    let until = Instant::now() + TIME;
    while !matches!(pair.look("there").state, State::Running | State::Failed) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(refusal(&pair.act("here", Action::Start {})), Refusal::Frozen);
    let cut = Action::Stop { graceful: false, timeout_ms: 0, then: agent_protocol::Then::Leave };
    assert!(matches!(pair.act("here", cut), Outcome::Done { .. }));
    assert_eq!(refusal(&pair.act("here", Action::Start {})), Refusal::Frozen);
    assert_eq!(instance(&pair.act("here", Action::Terminate {})).state, State::Terminated);
}

#[test]
fn disks_and_interfaces_move_with_it_and_are_let_go_of_by_the_source() {
    let pair = Pair::new(&Wish { name: "disk", ..USUAL });
    let target = Target::start(&pair.directory, pair.portal);
    let (image, size) = ("ticking".parse().unwrap(), agent_protocol::Size::default());
    let made = instance(&pair.act("here", Action::Create { image, start: true, size }));
    pair.says_more("here", made.uuid);
    // A disk after an interface, which is not how a process begins.
    let parts = || {
        let disk = |name, lun| Action::VolumeAttach { volume: volume(name, lun) };
        [disk("data", 1), Action::NicAttach { nic: nic("lan") }, disk("more", 2)]
    };
    parts().into_iter().for_each(|part| drop(instance(&pair.act("here", part))));
    assert_eq!(target.sessions().len(), 2);

    let image = "ticking".parse().unwrap();
    let waits = instance(&pair.act("there", Action::Create { image, start: false, size }));
    parts().into_iter().for_each(|part| drop(instance(&pair.act("there", part))));
    let waiting = instance(&pair.act("there", prepare(made.uuid)));
    assert_eq!((waiting.uuid, waiting.volumes.len(), waiting.nics.len()), (made.uuid, 2, 1));
    assert!(
        waits.uuid != made.uuid && waiting.initiator == made.initiator,
        "it logs in by the name that it had"
    );

    assert_eq!(instance(&pair.act("here", start("there"))).state, State::Terminated);
    let came = pair.await_state("there", State::Running);
    assert_eq!((came.volumes.len(), came.nics.len()), (2, 1));
    assert_eq!(target.sessions().len(), 2, "the source has logged out");
    pair.says_more("there", made.uuid);
    // It is one like any other: its guest lets go of nothing, and is told so.
    let detach = Action::VolumeDetach { volume: "data".parse().unwrap(), timeout_ms: 100 };
    let told = pair.act("there", detach);
    assert!(matches!(told, Outcome::Failed { code: Failure::GuestDidNotRelease, .. }), "{told:?}");
}

/// QEMU would find out only after it was handed over.
#[test]
fn one_with_more_processors_than_a_process_has_that_is_begun_anew_stays() {
    let pair = Pair::new(&Wish { name: "more", ..USUAL });
    let uuid = pair.ready();
    let size = agent_protocol::Size { cpus: Some(2), memory_mib: None };
    instance(&pair.act("here", Action::Resize { size }));
    let told = pair.act("here", start("there"));
    let Outcome::Failed { code: Failure::Hypervisor, detail, .. } = &told else { panic!("{told:?}") };
    assert!(detail.as_str().contains("processors were plugged in"), "{detail}");
    pair.says_more("here", uuid);
    goes_on(&pair.said("here", uuid));
    assert_eq!(pair.look("there").state, State::Pending, "nothing has come there");
}

/// What makes a host's keys, out of one authority.
const CERTIFICATES: &str = r#"
set -e
cd "$1"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$2" -keyout ca-key.pem -out ca-cert.pem
for end in server client; do
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$end" -keyout $end-key.pem -out $end.csr
    printf 'subjectAltName=IP:127.0.0.2,IP:127.0.0.3' >$end.ext
    openssl x509 -req -in $end.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile $end.ext -out $end-cert.pem
done
"#;

#[test]
fn with_certificates_only_a_host_of_the_same_authority_is_sent_to_and_received_from() {
    let pair = Pair::new(&Wish { name: "x509", tls: Some("x509"), ..USUAL });
    let make = |host: &str, name: &str| {
        let directory = pair.directory.join(host);
        let output = std::process::Command::new("sh")
            .args(["-c", CERTIFICATES, "sh", directory.to_str().unwrap(), name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    make("there", "the one");
    let uuid = pair.ready();
    make("here", "another");
    let told = pair.act("here", start("there"));
    let Outcome::Failed { code: Failure::Hypervisor, detail, .. } = &told else { panic!("{told:?}") };
    assert!(detail.as_str().to_lowercase().contains("certificate"), "{detail}");
    pair.says_more("here", uuid);
    for file in std::fs::read_dir(pair.directory.join("there")).unwrap().flatten() {
        if file.file_name().to_str().is_some_and(|name| name.ends_with(".pem")) {
            std::fs::copy(file.path(), pair.directory.join("here").join(file.file_name())).unwrap();
        }
    }
    assert!(matches!(pair.act("there", Action::Terminate {}), Outcome::Done { .. }));
    assert_eq!(instance(&pair.act("there", prepare(uuid))).state, State::Pending);
    assert_eq!(instance(&pair.act("here", start("there"))).state, State::Terminated);
    pair.await_state("there", State::Running);
    pair.says_more("there", uuid);
}
