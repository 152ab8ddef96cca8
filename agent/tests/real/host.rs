//! The QEMU backend by itself, with a guest that listens and an iSCSI target that is not ours.

use agent::hypervisor::qemu::{Images, Qemu};
use agent::hypervisor::{Evidence, Fault, Hypervisor, Machine, Step};
use agent_protocol::{Link, Nic, State, Uuid, Volume};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take.
pub(crate) const TIME: Duration = Duration::from_secs(10);

/// One backend and all it left behind, removed at the end.
pub(crate) struct Host {
    pub(crate) qemu: Qemu,
    pub(crate) directory: PathBuf,
    portal: u16,
    networks: String,
    made: Vec<Machine>,
}

impl Host {
    pub(crate) fn new(name: &str) -> Self {
        Self::on(name, r#"{"blue":"user"}"#)
    }

    /// One whose networks are these.
    pub(crate) fn on(name: &str, networks: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("corbel-qemu-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        build_guest(&directory);
        let portal = free_port();
        let qemu = backend(&directory, portal, networks);
        Self { qemu, directory, portal, networks: networks.to_owned(), made: Vec::new() }
    }

    /// A machine of an image, with a disk of its own, not started.
    pub(crate) fn machine(&mut self, id: &str, image: &str) -> Machine {
        let number = self.made.len() as u128 + 1;
        let uuid = Uuid::from_random(u128::from(std::process::id()) << 96 | number << 80 | number);
        let machine = Machine::new(id.parse().unwrap(), uuid, image.parse().unwrap());
        let disk = self.directory.join(format!("{id}.qcow2"));
        let boot = self.directory.join("boot.img");
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&boot), text(&disk)]);
        self.made.push(machine.clone());
        machine
    }

    /// One that runs and whose guest has said that it does.
    pub(crate) fn started(&mut self, id: &str) -> Machine {
        let machine = self.machine(id, "tiny");
        self.perform(&machine, &Step::Start).unwrap();
        self.hears(&machine, "R");
        machine
    }

    pub(crate) fn perform(&self, machine: &Machine, step: &Step) -> Result<Evidence, Fault> {
        let began = Instant::now();
        let outcome = self.qemu.perform(machine, step, TIME);
        assert!(began.elapsed() < TIME + Duration::from_secs(8), "{step:?} took {:?}", began.elapsed());
        outcome
    }

    pub(crate) fn state(&self, machine: &Machine) -> State {
        self.qemu.observe(machine, TIME).state
    }

    /// The disks that the guest has.
    pub(crate) fn disks(&self, machine: &Machine) -> Vec<String> {
        let seen = self.qemu.observe(machine, TIME);
        seen.volumes
            .unwrap_or_else(|| panic!("{:?} {:?}", seen.state, seen.reason))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    pub(crate) fn nics(&self, machine: &Machine) -> Vec<String> {
        let seen = self.qemu.observe(machine, TIME);
        seen.nics
            .unwrap_or_else(|| panic!("{:?} {:?}", seen.state, seen.reason))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// All that the guest has written.
    pub(crate) fn written(&self, machine: &Machine) -> String {
        self.qemu.wait_for_ends(Duration::from_millis(10));
        let page = self.qemu.console(machine, 0, usize::MAX).expect("a console");
        String::from_utf8_lossy(&page.bytes).into_owned()
    }

    /// Wait until the guest has written this last.
    pub(crate) fn hears(&self, machine: &Machine, end: &str) {
        until(&format!("the guest says {end}"), || self.written(machine).ends_with(end));
    }

    /// Let the guest read this, and wait for its answer.
    pub(crate) fn says(&self, machine: &Machine, bytes: &str, answer: &str) {
        assert_eq!(self.qemu.type_in(machine, bytes.as_bytes()), Some(bytes.len()));
        self.hears(machine, answer);
    }

    /// Another run of the agent takes over; this one ends without a word.
    pub(crate) fn restart(&mut self) {
        self.qemu = backend(&self.directory, self.portal, &self.networks);
    }

    pub(crate) fn own(&self, machine: &Machine, file: &str) -> PathBuf {
        self.directory.join("run").join(machine.uuid.to_string()).join(file)
    }

    pub(crate) fn pid(&self, machine: &Machine) -> u32 {
        std::fs::read_to_string(self.own(machine, "pid")).unwrap().trim().parse().unwrap()
    }

    /// Tell a machine's monitor something behind the backend's back; what it answers.
    pub(crate) fn monitor(&self, machine: &Machine, command: &str) -> String {
        let mut stream = UnixStream::connect(self.own(machine, "qmp")).unwrap();
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
        let mut answers =
            lines.by_ref().filter(|line| line.contains("\"return\"") || line.contains("\"error\""));
        answers.nth(1).unwrap()
    }

    pub(crate) fn target(&self) -> Target {
        Target::start(&self.directory, self.portal)
    }

    /// Where nobody serves disks until a test does.
    pub(crate) fn portal(&self) -> u16 {
        self.portal
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for machine in &self.made {
            let _ = self.qemu.perform(machine, &Step::End, TIME);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn backend(directory: &Path, portal: u16, networks: &str) -> Qemu {
    let path = directory.display();
    let drive = format!("file={path}/{{id}}.qcow2,format=qcow2,if=ide");
    let pc = format!(
        r#""-machine","pc,accel=tcg","-m","16","-smp","1,maxcpus=3","-device","virtio-balloon-pci","-drive","{drive}""#
    );
    let text = format!(
        r#"{{"executable":"/usr/bin/qemu-system-x86_64","portal":"127.0.0.1:{portal}",
            "networks":{networks},
            "images":{{
                "tiny":{{"arguments":[{pc}]}},
                "raw":{{"arguments":[{pc},"-drive","file={path}/boot.img,format=raw,if=ide"]}},
                "q35":{{"arguments":["-machine","q35,accel=tcg","-m","64"]}},
                "microvm":{{"arguments":["-machine","microvm,accel=tcg","-m","16"]}},
                "none":{{"arguments":["-machine","none","-accel","tcg"]}}}}}}"#
    );
    let images: Images = serde_json::from_str(&text).unwrap();
    Qemu::new(images, directory.join("run")).unwrap()
}

pub(crate) fn build_guest(directory: &Path) {
    let image = directory.join("boot.img");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/guest.S");
    let linked = ["-Wl,--oformat,binary", "-Wl,-Ttext,0x7c00", "-Wl,--build-id=none"];
    run(
        "gcc",
        &[&["-m32", "-nostdlib", "-static"], linked.as_slice(), &["-o", text(&image), source]].concat(),
    );
    assert_eq!(std::fs::metadata(image).unwrap().len(), 512);
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIME;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn volume(name: &str, lun: u16) -> Volume {
    Volume { volume: name.parse().unwrap(), iqn: IQN.parse().unwrap(), lun, read_only: false }
}

pub(crate) fn nic(name: &str) -> Nic {
    Nic {
        nic: name.parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: "52:54:00:12:34:56".parse().unwrap(),
        link: Link::Up,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) const IQN: &str = "iqn.2026-11.example:disks";

/// tgtd with one target on the loopback, whose logical units 1 and 2 have 1 MiB each.
pub(crate) struct Target {
    child: Child,
    socket: PathBuf,
    directory: PathBuf,
}

impl Target {
    pub(crate) fn start(directory: &Path, port: u16) -> Self {
        let program = "/usr/sbin/tgtd";
        assert!(Path::new(program).exists(), "these tests need {program} (Debian: tgt)");
        let socket = directory.join("tgtd");
        let child = Command::new(program)
            .args(["-f", "--iscsi", &format!("portal=127.0.0.1:{port}")])
            .env("TGT_IPC_SOCKET", &socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = Self { child, socket, directory: directory.to_owned() };
        until("tgtd listens", || target.try_admin(&["--op", "show", "--mode", "sys"]).is_some());
        target.admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN]);
        target.unit(1, 1 << 20);
        target.unit(2, 1 << 20);
        target.admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]);
        target
    }

    /// A new logical unit of that size.
    fn unit(&self, lun: u16, bytes: u64) {
        let file = self.directory.join(format!("unit{lun}-{bytes}"));
        std::fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        let (lun, file) = (lun.to_string(), text(&file).to_owned());
        self.admin(&["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", &lun, "-b", &file]);
    }

    /// Another size for a logical unit that is there, with the sessions that use it.
    pub(crate) fn replace(&self, lun: u16, bytes: u64) {
        self.admin(&["--op", "delete", "--mode", "logicalunit", "--tid", "1", "--lun", &lun.to_string()]);
        self.unit(lun, bytes);
    }

    /// Who is logged in.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let shown = self.admin(&["--op", "show", "--mode", "conn", "--tid", "1"]);
        shown
            .lines()
            .filter_map(|line| Some(line.trim().strip_prefix("Initiator: ")?.trim().to_owned()))
            .collect()
    }

    fn admin(&self, words: &[&str]) -> String {
        self.try_admin(words).unwrap_or_else(|| panic!("tgtadm {words:?}"))
    }

    fn try_admin(&self, words: &[&str]) -> Option<String> {
        let mut command = Command::new("/usr/sbin/tgtadm");
        command.args(["--lld", "iscsi"]).args(words).env("TGT_IPC_SOCKET", &self.socket);
        let output = command.output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It does not end at SIGTERM while it has targets.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
