//! A libvirtd of its own: in a mount namespace in which nothing of the host's libvirt can be seen or harmed.

use crate::guest;
use agent::hypervisor::libvirt::{Libvirt, Section};
use agent::hypervisor::{Ended, Evidence, Fault, Hypervisor, Machine, Observation, Step};
use agent_protocol::{State, Uuid};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a step may take: the machine is slow and shared.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// As root alone a libvirtd runs domains. Its folders are empty ones of its own, but for what it has learnt about QEMU; the
/// user its driver insists on exists in here only.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
for folder in /etc/libvirt /var/lib/libvirt /run/libvirt /var/log/libvirt; do
    mkdir -p $folder
    mount -t tmpfs none $folder
done
mkdir -p /var/cache/libvirt
mount --bind "$2" /var/cache/libvirt
for table in passwd group; do
    grep -v -e '^libvirt-qemu:' -e '^kvm:' /etc/$table >"$1/$table"
done
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>"$1/passwd"
printf 'libvirt-qemu:x:64055:\nkvm:x:64056:\n' >>"$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
cat >/etc/libvirt/qemu.conf <<END
security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
stdio_handler = "file"
remember_owner = 0
END
cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$1"
auth_unix_rw = "none"
log_outputs = "3:file:$1/log"
END
touch "$1/ready"
exec sleep 3600
"#;

/// A libvirtd, the backend that is tried on it, and its machines. Dropped, nothing is left.
pub(crate) struct World {
    pub(crate) directory: PathBuf,
    pub(crate) backend: Libvirt,
    daemon: Child,
    /// Keeps the namespace.
    keeper: Child,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_portal(name, None)
    }

    pub(crate) fn with_portal(name: &str, portal: Option<SocketAddr>) -> Self {
        for program in ["/usr/sbin/libvirtd", "/usr/bin/virsh", "/usr/bin/qemu-system-x86_64"] {
            assert!(Path::new(program).exists(), "these tests need {program}");
        }
        let directory = std::env::temp_dir().join(format!("corbel-libvirt-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("disks")).unwrap();
        guest::write(&directory.join("obedient"), true);
        guest::write(&directory.join("deaf"), false);
        let keeper = namespace(&directory);
        let daemon = daemon(&keeper, &directory);
        let backend = Libvirt::new(section(&directory, portal)).unwrap();
        Self { directory, backend, daemon, keeper }
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.id()
    }

    /// End libvirtd as a crash would, or an update.
    pub(crate) fn stop_daemon(&mut self) {
        let _ = self.daemon.kill();
        self.daemon.wait().unwrap();
    }

    pub(crate) fn start_daemon(&mut self) {
        let _ = std::fs::remove_file(self.directory.join("libvirt-sock"));
        self.daemon = daemon(&self.keeper, &self.directory);
    }

    /// Somebody else at the same libvirtd.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        let socket = self.directory.join("libvirt-sock");
        let output = Command::new("/usr/bin/virsh")
            .args(["-q", "-c", &format!("qemu+unix:///system?socket={}", socket.display())])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn machine(&self, name: &str, image: &str) -> Machine {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let bits = u128::from(std::process::id()) << 64 | u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
        Machine::new(name.parse().unwrap(), Uuid::from_random(bits), image.parse().unwrap())
    }

    pub(crate) fn act(&self, machine: &Machine, step: &Step) -> Result<Evidence, Fault> {
        self.backend.perform(machine, step, LONG)
    }

    pub(crate) fn done(&self, machine: &Machine, step: &Step) -> String {
        match self.act(machine, step) {
            Ok(evidence) => evidence.iter().map(|text| text.as_str()).collect::<Vec<_>>().join("; "),
            Err(fault) => panic!("{step:?}: {fault:?}\n{}", self.log()),
        }
    }

    /// A machine that runs.
    pub(crate) fn running(&self, name: &str, image: &str) -> Machine {
        let machine = self.machine(name, image);
        self.done(&machine, &Step::Start);
        assert_eq!(self.observe(&machine).state, State::Running);
        machine
    }

    pub(crate) fn observe(&self, machine: &Machine) -> Observation {
        self.backend.observe(machine, LONG)
    }

    /// How it ended, once it has ended by itself and the backend has told so unasked.
    pub(crate) fn await_end(&self, machine: &Machine) -> Ended {
        let until = Instant::now() + LONG;
        loop {
            let told = self.backend.wait_for_ends(Duration::from_millis(200)).contains(&machine.uuid);
            if told && let Some(ended) = self.backend.bury(machine) {
                return ended;
            }
            if Instant::now() > until {
                let name = format!("{}-{}", machine.id, machine.uuid);
                let (state, control) = (self.virsh(&["domstate", &name]), self.virsh(&["domcontrol", &name]));
                panic!("nothing was told; it is {state}, {control}: {}", self.log());
            }
        }
    }

    /// Wait until a machine looks so.
    pub(crate) fn await_sight(&self, machine: &Machine, so: impl Fn(&Observation) -> bool) {
        let until = Instant::now() + LONG;
        loop {
            let seen = self.observe(machine);
            if so(&seen) {
                return;
            }
            assert!(Instant::now() < until, "{seen:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn remove(&self, machine: &Machine) {
        self.done(machine, &Step::End);
        self.backend.forget(machine);
        assert!(!self.virsh(&["list", "--all", "--uuid"]).contains(&machine.uuid.to_string()));
        assert!(processes(&machine.uuid.to_string()).is_empty());
    }

    pub(crate) fn pid(&self, machine: &Machine) -> u32 {
        match processes(&machine.uuid.to_string())[..] {
            [pid] => pid,
            ref other => panic!("{other:?}"),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

/// The namespace, and what keeps it.
fn namespace(directory: &Path) -> Child {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-cache");
    std::fs::create_dir_all(&cache).unwrap();
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["--mount", "/bin/sh", "-c", SCRIPT, "sh"]).arg(directory).arg(cache);
    let keeper = command.stdin(Stdio::null()).spawn().unwrap();
    await_file(&directory.join("ready"), directory);
    keeper
}

/// A libvirtd in it that listens.
fn daemon(keeper: &Child, directory: &Path) -> Child {
    let mut command = Command::new("/usr/bin/nsenter");
    command.args(["--mount", "--target", &keeper.id().to_string(), "/usr/sbin/libvirtd"]);
    command.args(["-f", "/etc/libvirt/libvirtd.conf", "-p"]).arg(directory.join("pid"));
    let daemon = command.stdin(Stdio::null()).spawn().unwrap();
    await_file(&directory.join("libvirt-sock"), directory);
    daemon
}

fn await_file(file: &Path, directory: &Path) {
    let until = Instant::now() + LONG;
    while !file.exists() {
        let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "{} does not come; does root run this?\n{log}", file.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn section(directory: &Path, portal: Option<SocketAddr>) -> Section {
    let file = |name: &str| directory.join(name).display().to_string();
    let image = |disk: &str, private: bool| {
        serde_json::json!({
            "type": "qemu", "machine": "pc", "memory_mib": 32, "cpus_max": 2,
            "disks": [{ "file": file(disk), "format": "raw", "private": private, "read_only": !private }],
        })
    };
    serde_json::from_value(serde_json::json!({
        "socket": file("libvirt-sock"),
        "disks": file("disks"),
        "portal": portal,
        "networks": { "nat": "user" },
        "images": {
            "obedient": image("obedient", true),
            "deaf": image("deaf", true),
            "broken": image("nowhere", false),
            "q35": {
                "type": "qemu", "machine": "q35", "cpu": "maximum", "memory_mib": 32, "memory_max_mib": 64,
                "disks": [{ "file": file("deaf"), "format": "raw", "private": true, "bus": "board" }],
            },
        },
    }))
    .unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for pid in processes(&self.directory.display().to_string()) {
            signal(pid, "KILL");
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The QEMU processes with this on their command line.
pub(crate) fn processes(part: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with("/usr/bin/qemu-system-x86_64") && line.contains(part)
    })
    .collect()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("/bin/kill").args([&format!("-{name}"), &pid.to_string()]).status();
}
