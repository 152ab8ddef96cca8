//! A process that was taken over by its guest, and says anything: every step ends in time, with no panic, and nothing
//! outside the machine's own directory is touched.

use super::*;
use agent_protocol::{Link as Cable, Nic, Size, Volume};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

const WITHIN: Duration = Duration::from_millis(60);

/// Numbers that are the same in every run (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Words that the code looks for, and such as it does not expect.
const WORDS: [&str; 20] = [
    "running",
    "paused",
    "completed",
    "failed",
    "active",
    "concluded",
    "corbel-snapshot",
    "corbel-disk0",
    "volume-data",
    "nic-lan",
    "one",
    "qcow2",
    "raw",
    "prelaunch",
    "inmigrate",
    "guest-panicked",
    "",
    "\u{202e}\u{0}\r\n",
    "/../../etc/passwd",
    "/machine/peripheral/volume-data/virtio-backend",
];
const KEYS: [&str; 24] = [
    "status",
    "name",
    "node-name",
    "image",
    "virtual-size",
    "snapshots",
    "actual",
    "base-memory",
    "id",
    "error",
    "props",
    "type",
    "qom-path",
    "inserted",
    "drv",
    "ro",
    "stats",
    "qdev",
    "rd_bytes",
    "error-desc",
    "running",
    "core-id",
    "device",
    "plugged-memory",
];

fn anything(numbers: &mut Numbers, depth: usize) -> Value {
    match numbers.below(if depth == 0 { 6 } else { 10 }) {
        0 => Value::Null,
        1 => json!(numbers.below(2) == 0),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1 << 20),
        5 => json!(WORDS[numbers.below(WORDS.len())]),
        6 | 7 => (0..numbers.below(6)).map(|_| anything(numbers, depth - 1)).collect(),
        _ => {
            let members = (0..numbers.below(8))
                .map(|_| (KEYS[numbers.below(KEYS.len())].to_owned(), anything(numbers, depth - 1)));
            Value::Object(members.collect())
        }
    }
}

/// What is plausible enough to lead further into the code than noise would.
fn plausible(command: &str, numbers: &mut Numbers) -> Value {
    match command {
        "query-status" => json!({ "status": WORDS[numbers.below(WORDS.len())] }),
        "query-migrate" => {
            let status = ["completed", "failed", "active", "pre-switchover", "setup", "x"][numbers.below(6)];
            json!({ "status": status, "ram": { "remaining": anything(numbers, 0), "dirty-sync-count": 2 } })
        }
        "query-jobs" => {
            json!([{ "id": "corbel-snapshot", "status": "concluded", "error": anything(numbers, 0) }])
        }
        "qom-list" => json!([{ "name": "volume-data" }, { "name": anything(numbers, 1) }]),
        "query-named-block-nodes" => {
            json!([{ "node-name": "corbel-disk0", "image": { "virtual-size": anything(numbers, 0) } }])
        }
        "query-block" => {
            json!([{ "inserted": { "drv": "qcow2", "node-name": "a", "image": { "snapshots": [{ "name": "one" }] } } }])
        }
        "query-hotpluggable-cpus" => json!([{ "type": "cpu", "props": {} }, { "qom-path": "/x" }]),
        "query-memory-size-summary" => json!({ "base-memory": anything(numbers, 0) }),
        "query-balloon" => json!({ "actual": anything(numbers, 0) }),
        _ => json!({}),
    }
}

fn serve(mut stream: UnixStream, numbers: &mut Numbers) -> std::io::Result<()> {
    stream.set_read_timeout(Some(WITHIN * 4))?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    stream.write_all(b"{\"QMP\":{}}\n")?;
    for line in lines {
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        let (id, command) = (&message["id"], message["execute"].as_str().unwrap_or_default());
        let answer = match numbers.below(if command == "qmp_capabilities" { 1 } else { 12 }) {
            0..7 => json!({ "return": plausible(command, numbers), "id": id }),
            7 | 8 => json!({ "return": anything(numbers, 4), "id": id }),
            9 => {
                json!({ "error": { "class": "GenericError", "desc": "in the process of unplug" }, "id": id })
            }
            10 => json!({ "error": anything(numbers, 2), "id": id }),
            _ => return Ok(()),
        };
        let noise = ["", "{\"event\":\"RESET\"}\n", "{\"return\":{},\"id\":0}\n"][numbers.below(3)];
        stream.write_all(format!("{noise}{answer}\n").as_bytes())?;
    }
    Ok(())
}

fn steps() -> Vec<Step> {
    let volume = Volume {
        volume: "data".parse().unwrap(),
        iqn: "iqn.2026-11.example:d".parse().unwrap(),
        lun: 0,
        read_only: false,
    };
    let nic = Nic {
        nic: "lan".parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        link: Cable::Down,
    };
    vec![
        Step::Start,
        Step::Pause,
        Step::Resume,
        Step::AskToStop,
        Step::End,
        Step::Reset,
        Step::Save,
        Step::Snapshot("one".parse().unwrap()),
        Step::Revert("one".parse().unwrap()),
        Step::Resize(Size { cpus: Some(2), memory_mib: Some(1) }),
        Step::AttachVolume(volume.clone()),
        Step::DetachVolume(volume.volume.clone()),
        Step::ResizeVolume(volume.volume),
        Step::AttachNic(nic.clone()),
        Step::DetachNic(nic.nic.clone()),
        Step::UpdateNic(nic.nic, Cable::Up),
        Step::MigrateStart("there".parse().unwrap()),
        Step::MigrateCancel,
        Step::MigratePrepare,
    ]
}

#[test]
fn every_step_withstands_a_monitor_that_says_anything() {
    let directory = std::env::temp_dir().join(format!("corbel-hostile-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    let portal = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = format!(
        r#"{{"executable":"/bin/true","portal":"{}","networks":{{"blue":"user"}},
            "migration":{{"listen":"127.0.0.1","peers":{{"there":"127.0.0.1"}}}},"images":{{"a":{{"arguments":[]}}}}}}"#,
        portal.local_addr().unwrap()
    );
    let qemu = Qemu::new(serde_json::from_str(&file).unwrap(), directory.clone()).unwrap();
    let machine = Machine::new("web".parse().unwrap(), Uuid(1), "a".parse().unwrap());
    let own = qemu.own_directory(&machine);
    private_directory(&own).unwrap();
    let listener = UnixListener::bind(qemu.socket(&machine)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return numbers.0;
                }
                let _ = serve(stream.unwrap(), &mut numbers);
            }
            0
        });
        for round in 0..4 {
            for step in steps() {
                withstand(&qemu, &machine, &step, round);
            }
        }
        over.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(own.join("qmp-held"));
        assert_ne!(served.join().unwrap(), 0x9e37_79b9_7f4a_7c15, "it was asked something");
    });
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [own], "nothing but its own directory");
    fs::remove_dir_all(directory).unwrap();
}

fn withstand(qemu: &Qemu, machine: &Machine, step: &Step, round: u32) {
    let own = qemu.own_directory(machine);
    for file in ["memory", "moving", "incoming"] {
        let _ = fs::remove_file(own.join(file));
    }
    // What ends a process removes its socket; this one is needed again.
    let (socket, held) = (qemu.socket(machine), own.join("qmp-held"));
    if !held.exists() {
        fs::hard_link(&socket, &held).unwrap();
    }
    if !socket.exists() {
        fs::hard_link(&held, &socket).unwrap();
    }
    let child = Command::new("sleep").arg("60").stderr(Stdio::piped()).spawn().unwrap();
    let process = Arc::new(Process::spawned(child).unwrap());
    qemu.processes().insert(machine.uuid, process.clone());
    let began = Instant::now();
    let _ = qemu.perform(machine, step, WITHIN);
    let _ = qemu.observe(machine, WITHIN);
    let _ = qemu.stats(machine, WITHIN);
    // Where it does end the process, that is given its own time to obey.
    assert!(began.elapsed() < Duration::from_secs(12), "{step:?} in round {round}: {:?}", began.elapsed());
    process.kill();
    process.wait(Duration::from_secs(5));
    process.reap();
    qemu.processes().remove(&machine.uuid);
}
