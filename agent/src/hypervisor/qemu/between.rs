//! Machines between two hosts whose monitor says what a test wants: what real ones do not come to in a short time.

use super::moving::MOVES_MAX;
use super::*;
use agent_engine::Passage;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

const WITHIN: Duration = Duration::from_secs(4);

/// What its QEMU answers, and what it was told.
#[derive(Default)]
struct Said {
    status: String,
    migrate: Value,
    /// What comes of the migration once that was asked so often.
    then: Option<(u32, Value)>,
    told: Vec<String>,
}

struct World {
    qemu: Qemu,
    machine: Machine,
    process: Arc<Process>,
    said: Arc<Mutex<Said>>,
    directory: PathBuf,
}

impl World {
    fn new(name: &str, patience_s: u32, status: &str, migrate: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("corbel-between-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let file = format!(
            r#"{{"executable":"/bin/true","images":{{"a":{{"arguments":[]}}}},
                "migration":{{"listen":"127.0.0.1","peers":{{"there":"127.0.0.1"}},"patience_s":{patience_s}}}}}"#
        );
        let qemu = Qemu::new(serde_json::from_str(&file).unwrap(), directory.clone()).unwrap();
        let machine = Machine::new("web".parse().unwrap(), Uuid(1), "a".parse().unwrap());
        private_directory(&qemu.own_directory(&machine)).unwrap();
        let listener = UnixListener::bind(qemu.socket(&machine)).unwrap();
        let migrate = json!({ "status": migrate, "socket-address": [] });
        let said = Arc::new(Mutex::new(Said { status: status.into(), migrate, ..Said::default() }));
        let monitor = said.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &monitor);
            }
        });
        let child = Command::new("sleep").arg("60").stderr(Stdio::piped()).spawn().unwrap();
        let process = Arc::new(Process::spawned(child).unwrap());
        qemu.processes().insert(machine.uuid, process.clone());
        Self { qemu, machine, process, said, directory }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.qemu.own_directory(&self.machine).join(file), text).unwrap();
    }

    fn told(&self, command: &str) -> bool {
        locked(&self.said).told.iter().any(|one| one == command)
    }

    fn runs(&self) -> bool {
        !self.process.wait(Duration::ZERO)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.kill();
        self.process.wait(WITHIN);
        self.process.reap();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn serve(mut stream: UnixStream, said: &Mutex<Said>) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"{\"QMP\":{}}\n")?;
    for line in lines {
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        let command = message["execute"].as_str().unwrap_or_default();
        let mut said = locked(said);
        said.told.push(command.to_owned());
        let answer = match command {
            "query-status" => json!({ "status": said.status }),
            "query-migrate" => {
                match said.then.take() {
                    Some((0, then)) => said.migrate = then,
                    Some((times, then)) => said.then = Some((times - 1, then)),
                    None => {}
                }
                said.migrate.clone()
            }
            "qom-list" | "query-named-block-nodes" => json!([]),
            "cont" => {
                said.status = "running".into();
                json!({})
            }
            "migrate_cancel" if said.migrate["status"] == "device" => {
                said.migrate = json!({ "status": "cancelled" });
                json!({})
            }
            _ => json!({}),
        };
        drop(said);
        stream.write_all(format!("{}\n", json!({ "return": answer, "id": message["id"] })).as_bytes())?;
    }
    Ok(())
}

fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    format!(r#"{{"since":{}}}"#, now - seconds)
}

#[test]
fn what_begins_to_come_late_has_its_time() {
    let world = World::new("late", 7200, "inmigrate", "active");
    world.write("incoming", &ago(7100));
    let seen = world.qemu.observe(&world.machine, WITHIN);
    assert_eq!((seen.state, seen.passage), (State::Pending, Some(Passage::Awaited)));
    assert!(world.runs() && !world.told("quit"));
    world.write("incoming", &ago(7200 + 3600));
    let seen = world.qemu.observe(&world.machine, WITHIN);
    assert!(seen.state == State::Failed && seen.reason.unwrap().as_str().contains("in time"));
    assert!(!world.runs());
}

#[test]
fn what_is_written_of_one_that_comes_and_cannot_be_read_does_not_make_it_wait_for_ever() {
    let world = World::new("unread", 1, "inmigrate", "none");
    world.write("incoming", "{");
    assert_eq!(world.qemu.observe(&world.machine, WITHIN).state, State::Pending);
    std::thread::sleep(Duration::from_millis(2100));
    let seen = world.qemu.observe(&world.machine, WITHIN);
    assert_eq!((seen.state, seen.passage), (State::Failed, Some(Passage::Awaited)));
}

#[test]
fn one_whose_peer_says_after_all_that_it_has_it_is_not_had_back() {
    for (name, migrate) in [("has-it", "completed"), ("has-it-soon", "device")] {
        let world = World::new(name, 600, "postmigrate", migrate);
        world.write("moving", r#"{"stage":"handed-over","peer":"there"}"#);
        locked(&world.said).then = Some((20, json!({ "status": "completed" })));
        let fault = world.qemu.perform(&world.machine, &Step::MigrateCancel, WITHIN).unwrap_err();
        assert!(fault.detail.as_str().contains("has said"), "{}", fault.detail);
        assert!(!world.told("cont"));
        assert_eq!(world.qemu.observe(&world.machine, WITHIN).passage, Some(Passage::Arrived));
    }
    // Of one whose peer says nothing only somebody who has looked knows.
    let world = World::new("silent", 600, "postmigrate", "device");
    world.write("moving", r#"{"stage":"handed-over","peer":"there"}"#);
    world.qemu.perform(&world.machine, &Step::MigrateCancel, WITHIN).unwrap();
    assert!(world.told("migrate_cancel") && world.told("cont"));
    let seen = world.qemu.observe(&world.machine, WITHIN);
    assert_eq!((seen.state, seen.passage), (State::Running, None));
}

#[test]
fn what_a_save_or_a_restore_has_left_does_not_let_one_run_that_was_handed_over() {
    for left in ["memory.loaded", "memory.new", "memory"] {
        let world = World::new(left, 600, "paused", "failed");
        world.write("moving", r#"{"stage":"handed-over","peer":"there"}"#);
        world.write(left, "");
        world.qemu.settle_memory(&world.machine, WITHIN);
        assert!(!world.told("cont") && !world.told("migrate_cancel") && world.runs(), "{left}");
    }
}

#[test]
fn one_that_is_let_go_on_by_a_look_is_seen_to_run() {
    let world = World::new("goes-on", 600, "paused", "cancelled");
    world.write("moving", r#"{"stage":"begun","peer":"there"}"#);
    assert_eq!(world.qemu.observe(&world.machine, WITHIN).state, State::Running);
}

#[test]
fn only_so_many_move_at_once_and_one_that_is_called_off_before_it_begins_is_given_up() {
    let world = World::new("many", 600, "running", "none");
    let flag = || Arc::new(AtomicBool::new(false));
    for number in 0..MOVES_MAX {
        locked(&world.qemu.moves).insert(Uuid(100 + number as u128), flag());
    }
    let step = Step::MigrateStart("there".parse().unwrap());
    let fault = world.qemu.perform(&world.machine, &step, WITHIN).unwrap_err();
    assert!(fault.detail.as_str().contains("no more"), "{}", fault.detail);
    assert!(!world.told("stop") && locked(&world.qemu.moves).len() == MOVES_MAX);

    let begins = flag();
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| world.qemu.call_off(&world.machine));
        std::thread::sleep(Duration::from_millis(50));
        locked(&world.qemu.moves).insert(world.machine.uuid, begins.clone());
        calls.join().unwrap();
    });
    assert!(begins.load(Ordering::Acquire));
}
