//! One machine that runs the self-test program, and its services.

use crate::inner;
use crate::place::Network;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const ECHO: u16 = 7;
const DISCARD: u16 = 9;
const GENERATE: u16 = 19;
const COUNTERS: u16 = 99;
const SERVICES: [u16; 4] = [ECHO, DISCARD, GENERATE, COUNTERS];
/// How long anything may take on the most crowded host.
const LIMIT: Duration = Duration::from_secs(60);
/// The pattern of the generator: each byte is its position divided by this.
const RUN: usize = 1021;

/// A running machine; it ends with the value.
pub(crate) struct Machine {
    qemu: Child,
    said: Arc<Mutex<Vec<String>>>,
    /// Where its services are, by NIC.
    services: [Vec<(String, u16)>; 2],
}

/// What a NIC counts.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
    pub(crate) resets: u64,
}

/// What QEMU tells by its machine protocol.
pub(crate) struct Events(UnixStream, String);

impl Events {
    /// Hear of events from now on.
    pub(crate) fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("QEMU listens");
        stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").expect("QEMU reads");
        stream.set_nonblocking(true).expect("a socket");
        Self(stream, String::new())
    }

    /// How many of that name there were.
    pub(crate) fn so_far(&mut self, name: &str) -> usize {
        let mut more = Vec::new();
        // That nothing more is there is an error too.
        let _ = self.0.read_to_end(&mut more);
        self.1.push_str(&String::from_utf8_lossy(&more));
        self.1.matches(&format!("\"event\": \"{name}\"")).count()
    }
}

impl Machine {
    /// Whether QEMU ends by itself, soon.
    pub(crate) fn ends(&mut self) -> bool {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if self.qemu.try_wait().expect("our child").is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Start one and wait until it serves.
    pub(crate) fn start(
        board: &str,
        nic: &str,
        memory: u32,
        line: &str,
        arguments: &[&str],
        network: &Network,
    ) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
        ]);
        command
            .args(["-machine", board, "-m", &memory.to_string(), "-serial", "stdio", "-kernel"])
            .arg(program());
        command.args(["-append", &format!("address=10.9.0.2/24 address=10.9.1.2/24 {line}")]);
        let mut services = [Vec::new(), Vec::new()];
        for (index, services) in services.iter_mut().enumerate() {
            let (device, rom) = match board.starts_with("microvm") {
                true => ("virtio-net-device", ""),
                // Whatever does not begin with properties begins with the kind.
                false if nic.is_empty() || nic.starts_with(',') => ("virtio-net-pci", ",romfile="),
                false => ("", ",romfile="),
            };
            let nic = nic.replace("{}", &index.to_string());
            let mut forwarded = Vec::new();
            for port in SERVICES {
                if network.has_offloads() {
                    services.push((format!("10.9.{index}.2"), port));
                } else {
                    let here = free_port();
                    forwarded.push((here, port));
                    services.push(("127.0.0.1".into(), here));
                }
            }
            command.args(["-netdev", &network.arguments(index, &forwarded)]);
            command.args([
                "-device",
                &format!("{device}{nic},netdev=n{index},mac=52:54:00:00:09:0{index}{rom}"),
            ]);
        }
        // After the NICs, so that those are the first on their bus.
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut qemu = command.spawn().expect("QEMU is installed");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (output, lines) = (qemu.stdout.take().expect("piped"), said.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let machine = Self { qemu, said, services };
        machine.line("serving on 2 NICs");
        machine
    }

    /// The first line with `text`, once it comes.
    pub(crate) fn line(&self, text: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let said = self.said.lock().expect("nobody panics with it").clone();
            if let Some(line) = said.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(Instant::now() < end, "no {text:?} in\n{}", said.join("\n"));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether there was a line with `text` so far.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.said.lock().expect("nobody panics with it").iter().any(|line| line.contains(text))
    }

    fn connect(&self, nic: usize, port: u16) -> TcpStream {
        let index = SERVICES.iter().position(|service| *service == port).expect("a service");
        let (host, port) = &self.services[nic][index];
        let end = Instant::now() + LIMIT;
        // A service has one connection at a time, and takes a moment between two.
        loop {
            match TcpStream::connect((host.as_str(), *port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
                    stream.set_write_timeout(Some(LIMIT)).expect("a limit");
                    return stream;
                }
                Err(error) => assert!(Instant::now() < end, "NIC {nic}: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is sent comes back.
    pub(crate) fn echo(&self, nic: usize, length: usize) {
        let stream = self.connect(nic, ECHO);
        let mut writer = stream.try_clone().expect("a second handle");
        let bytes: Arc<[u8]> = noise(length).into();
        let sent = bytes.clone();
        let sender = thread::spawn(move || {
            writer.write_all(&sent).expect("room");
            writer.shutdown(Shutdown::Write).expect("open");
        });
        let mut back = Vec::new();
        (&stream).read_to_end(&mut back).expect("bytes");
        sender.join().expect("the sender");
        assert!(back == *bytes, "NIC {nic}: {} of {length} bytes came back, or others", back.len());
    }

    /// All that is sent is taken.
    pub(crate) fn discard(&self, nic: usize, length: usize) {
        let mut stream = self.connect(nic, DISCARD);
        stream.write_all(&vec![0x77; length]).expect("room");
        stream.shutdown(Shutdown::Write).expect("open");
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
    }

    /// What is generated comes complete and in order.
    pub(crate) fn generate(&self, nic: usize, length: usize) {
        let mut stream = self.connect(nic, GENERATE);
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("bytes");
        let wrong = bytes.iter().enumerate().find(|&(position, byte)| *byte != (position / RUN) as u8);
        assert_eq!(wrong, None, "NIC {nic}");
    }

    /// The NIC's counters.
    pub(crate) fn counters(&self, nic: usize) -> Counters {
        let mut text = String::new();
        self.connect(nic, COUNTERS).read_to_string(&mut text).expect("a line");
        let field = |name: &str| {
            let rest = text.split(&format!("{name}: ")).nth(1)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let field = |name| field(name).unwrap_or_else(|| panic!("no {name} in {text:?}"));
        Counters {
            received: field("received"),
            sent: field("sent"),
            dropped: field("dropped"),
            resets: field("resets"),
        }
    }

    /// The share of a CPU that QEMU takes over `time`.
    pub(crate) fn load(&self, time: Duration) -> f64 {
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.qemu.id())).expect("it runs");
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()
                .unwrap_or("")
                .split(' ')
                .filter_map(|field| field.parse().ok())
                .collect();
            // Behind the name and the state: user and system time are the 12th and 13th.
            fields[10] + fields[11]
        };
        let before = ticks();
        thread::sleep(time);
        (ticks() - before) as f64 / 100.0 / time.as_secs_f64()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which a test has noticed in another way.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if thread::panicking() {
            eprintln!("{}", self.said.lock().map(|said| said.join("\n")).unwrap_or_default());
        }
    }
}

/// The program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders below the root");
        // Beside the host's own, so that `core` is built once for all programs of the bare machine.
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let target = scratch.parent().expect("a target directory").join("bare");
        let (package, bin, ground) = ("drivers_selftest", "drivers_selftest", inner::Ground::Bare);
        let build = inner::Build { root, target: &target, package, bin, ground };
        build.run().and_then(|built| inner::install(&built, scratch, build.bin)).expect("it builds");
        scratch.join(build.bin).with_extension("plain")
    })
}

/// A port of this host that is free at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Bytes in which nothing repeats, the same at each run (SplitMix64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

/// What a machine that has no serial port, and no network, says in `file` by a console on a bus of that kind, when it is told to
/// panic.
pub(crate) fn panic(board: &str, bus: &str, file: &Path) -> String {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-display", "none", "-nodefaults", "-no-reboot"]);
    command.args(["-machine", board, "-m", "32", "-append", "panic", "-kernel"]).arg(program());
    command.args(["-device", bus, "-device", "virtconsole,chardev=text", "-chardev"]);
    command.arg(format!("file,id=text,path={}", file.display())).stdin(Stdio::null());
    let qemu = command.spawn().expect("QEMU is installed");
    let mut machine = Machine { qemu, said: Arc::default(), services: [const { Vec::new() }; 2] };
    assert!(machine.ends(), "{board}: a panic is the end");
    std::fs::read_to_string(file).expect("text")
}
