//! What is made of what an earlier run of the agent left, and of what a monitor says.

use super::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Child;

/// A backend with a machine whose process is a program that waits.
struct World {
    qemu: Qemu,
    machine: Machine,
    child: Child,
}

impl World {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("corbel-qemu-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let file = r#"{"executable":"/bin/true","images":{"a":{"arguments":[]}}}"#;
        let qemu = Qemu::new(serde_json::from_str(file).unwrap(), directory).unwrap();
        // Its own UUID, so that worlds of other tests are not found in its place.
        let uuid = Uuid(u128::from(std::process::id()) << 64 | name.len() as u128);
        let machine = Machine::new("web".parse().unwrap(), uuid, "a".parse().unwrap());
        private_directory(&qemu.own_directory(&machine)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "read line", "sh", "-uuid", &uuid.to_string(), "end"]);
        let child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It has its command line a moment after it has begun.
        while fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        Self { qemu, machine, child }
    }

    fn identity(&self) -> Vec<u8> {
        let pid = self.child.id().try_into().unwrap();
        serde_json::to_vec(&Identity::of(pid).unwrap().unwrap()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.qemu.own_directory(&self.machine).join(name)
    }

    /// Have somebody answer at its monitor until the world ends.
    fn answer(&self, answer: impl Fn(&str) -> Value + Send + 'static) {
        let listener = UnixListener::bind(self.file("qmp")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let _ = stream.write_all(b"{\"QMP\":{}}\n");
                for line in lines.map_while(Result::ok) {
                    let message: Value = serde_json::from_str(&line).unwrap();
                    let value = answer(message["execute"].as_str().unwrap());
                    let _ = writeln!(stream, "{}", json!({ "return": value, "id": message["id"] }));
                }
            }
        });
    }

    fn adopt(&self) -> State {
        self.qemu.adopt(&self.machine, Duration::from_secs(2)).state
    }

    fn observe(&self) -> Observation {
        self.qemu.observe(&self.machine, Duration::from_secs(2))
    }

    fn end(&self) -> Result<Evidence, Fault> {
        self.qemu.perform(&self.machine, &Step::End, Duration::from_secs(2))
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.qemu.directory);
    }
}

/// What a machine that runs and has the disk `d` answers.
fn plain(command: &str) -> Value {
    match command {
        "query-status" => json!({ "status": "running" }),
        "qom-list" => json!([{ "name": "volume-d" }]),
        "query-named-block-nodes" => json!([]),
        _ => json!({}),
    }
}

#[test]
fn a_record_that_cannot_be_read_is_not_taken_for_a_machine_that_has_ended() {
    let mut world = World::new("unread");
    fs::create_dir(world.file("process")).unwrap();
    assert_eq!(world.adopt(), State::Unknown);
    assert_eq!(world.observe().state, State::Unknown, "it stays so");
    assert!(world.end().is_err(), "nothing shows that there is nothing to end");
    assert!(!world.has_ended());
    fs::remove_dir(world.file("process")).unwrap();
    fs::write(world.file("process"), world.identity()).unwrap();
    world.answer(plain);
    assert_eq!(world.observe().state, State::Running, "it is read as soon as that goes");
    world.end().unwrap();
    assert!(world.has_ended());
}

#[test]
fn a_record_that_is_damaged_does_not_hide_its_process() {
    for damage in [|text: String| text.replace("\"start_ticks\":", "\"start_ticks\":1"), |_| "{".into()] {
        let mut world = World::new("damaged");
        fs::write(world.file("process"), damage(String::from_utf8(world.identity()).unwrap())).unwrap();
        world.answer(plain);
        assert_eq!(world.adopt(), State::Running);
        world.end().unwrap();
        assert!(world.has_ended());
        assert_eq!(world.adopt(), State::Stopped);
    }
}

#[test]
fn a_memory_that_cannot_be_seen_is_not_taken_for_none() {
    let world = World::new("memory");
    let own = world.qemu.own_directory(&world.machine);
    fs::remove_dir(&own).unwrap();
    fs::write(&own, "").unwrap();
    assert_eq!(world.observe().state, State::Unknown);
    fs::remove_file(own).unwrap();
    assert_eq!(world.observe().state, State::Stopped);
}

#[test]
fn a_disk_is_not_told_detached_because_nobody_remembers_it() {
    let world = World::new("parts");
    fs::write(world.file("process"), world.identity()).unwrap();
    fs::write(world.file("parts.json"), "{").unwrap();
    world.answer(plain);
    assert_eq!(world.adopt(), State::Unknown);
    fs::remove_file(world.file("parts.json")).unwrap();
    let seen = world.observe();
    assert_eq!(seen.volumes, Some(vec!["d".parse().unwrap()]), "{seen:?}");
}

#[test]
fn no_state_of_a_process_that_is_there_reads_as_if_nothing_of_it_ran() {
    let states = [
        "colo",
        "debug",
        "finish-migrate",
        "guest-panicked",
        "inmigrate",
        "internal-error",
        "io-error",
        "paused",
        "postmigrate",
        "prelaunch",
        "restore-vm",
        "running",
        "save-vm",
        "shutdown",
        "suspended",
        "watchdog",
        "something-new",
    ];
    for status in states {
        let seen = observation(status).state;
        assert!(!matches!(seen, State::Stopped | State::Saved | State::Failed), "{status} is {seen}");
    }
}
