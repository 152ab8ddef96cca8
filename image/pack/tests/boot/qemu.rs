//! One run of a program under QEMU: what it printed and when, what QEMU said of it, how it ended.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The boards the kernel must boot on, as QEMU's `-machine` has them.
pub(crate) const BOARDS: [&str; 4] = ["q35", "pc", "microvm", "microvm,acpi=off"];

/// How long a run may take on the most crowded host.
const LIMIT: Duration = Duration::from_secs(120);

/// What firmware starts from a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// UEFI: Debian's OVMF, with variables that are as new each time.
    Ovmf,
    /// The same with Secure Boot, on the board `q35,smm=on`: it believes the key that Debian ships for tests.
    Secure,
    /// A BIOS: the SeaBIOS that QEMU brings.
    SeaBios,
}

impl Firmware {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ovmf => &[
                "-drive",
                "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                "-drive",
                "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
            ],
            Self::Secure => &[
                "-global",
                "driver=cfi.pflash01,property=secure,value=on",
                "-drive",
                "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                "-drive",
                "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd",
            ],
            Self::SeaBios => &[],
        }
    }
}

/// Where a disk is: what it is called, and QEMU's arguments for one of the drive `disk`.
pub(crate) type Bus = (&'static str, &'static [&'static str]);

/// What to run.
#[derive(Clone)]
pub(crate) struct Run {
    board: &'static str,
    cpu: &'static str,
    memory: u32,
    line: String,
    product: bool,
    unpacked: bool,
    debug_exit: bool,
    serial: bool,
    arguments: Vec<String>,
    disk: Option<(Firmware, Bus)>,
    image: Option<PathBuf>,
    program: Option<PathBuf>,
}

impl Run {
    /// The self-test's case `case` on a board, with a current CPU and 32 MiB.
    pub(crate) fn case(board: &'static str, case: &str) -> Self {
        let line = format!("selftest={case}");
        Self {
            board,
            cpu: "max",
            memory: 32,
            line,
            product: false,
            unpacked: false,
            debug_exit: true,
            serial: true,
            arguments: Vec::new(),
            disk: None,
            image: None,
            program: None,
        }
    }

    /// The appliance itself, with this command line.
    pub(crate) fn product(board: &'static str, line: &str) -> Self {
        Self { line: line.to_string(), product: true, ..Self::case(board, "") }
    }

    /// With this command line.
    pub(crate) fn told(self, line: &str) -> Self {
        Self { line: line.to_string(), ..self }
    }

    pub(crate) fn cpu(self, cpu: &'static str) -> Self {
        Self { cpu, ..self }
    }

    pub(crate) fn memory(self, memory: u32) -> Self {
        Self { memory, ..self }
    }

    /// The image as it is unpacked.
    pub(crate) fn unpacked(self) -> Self {
        Self { unpacked: true, ..self }
    }

    pub(crate) fn without_debug_exit(self) -> Self {
        Self { debug_exit: false, ..self }
    }

    pub(crate) fn without_serial(self) -> Self {
        Self { serial: false, ..self }
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// From a disk by its firmware, in place of by QEMU as a kernel. What would be on the command line is in `corbel.cfg`.
    pub(crate) fn on_disk(self, firmware: Firmware, bus: Bus) -> Self {
        Self { disk: Some((firmware, bus)), ..self.memory(256) }
    }

    /// That disk is in this file.
    pub(crate) fn image(self, path: &Path) -> Self {
        Self { image: Some(path.to_path_buf()), ..self }
    }

    /// This program in place of the packed one.
    pub(crate) fn program(self, path: &Path) -> Self {
        Self { program: Some(path.to_path_buf()), ..self }
    }

    /// Start it.
    pub(crate) fn start(&self) -> Machine {
        if self.product {
            let image = if self.unpacked { image_pack::elf_unpacked() } else { image_pack::elf() };
            return Machine::start(self, image);
        }
        Machine::start(self, self.program.as_deref().unwrap_or(selftest()))
    }

    /// Start it and wait for its end.
    pub(crate) fn finish(&self) -> Outcome {
        self.start().finish()
    }
}

/// The self-test, built once.
pub(crate) fn selftest() -> &'static Path {
    static SELFTEST: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match SELFTEST.get_or_init(image_pack::selftest) {
        Ok(program) => program,
        Err(error) => panic!("{error}"),
    }
}

/// A line of the console, and when it came.
pub(crate) type Line = (Instant, String);

/// A running machine; it ends when dropped.
pub(crate) struct Machine {
    process: Child,
    monitor: UnixStream,
    socket: PathBuf,
    lines: Receiver<Line>,
    seen: Vec<Line>,
    events: Receiver<String>,
    deadline: Instant,
}

/// What a run came to.
pub(crate) struct Outcome {
    /// The exit status of QEMU.
    pub(crate) status: i32,
    /// The console.
    pub(crate) lines: Vec<Line>,
    /// Why QEMU ended, in its words: `guest-shutdown`, `guest-reset`.
    pub(crate) reason: Option<String>,
}

impl Outcome {
    /// The console as one text.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Machine {
    fn start(run: &Run, program: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("corbel-boot-{}-{number}", std::process::id()));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", run.board, "-accel", "tcg", "-cpu", run.cpu, "-m", &run.memory.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // QEMU waits for the monitor's client, so no event is missed.
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=on", socket.display()));
        qemu.args(["-serial", if run.serial { "stdio" } else { "none" }]);
        if run.debug_exit {
            qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        }
        let image = socket.with_extension("img");
        if let Some((firmware, (_, bus))) = run.disk {
            let write = if run.product { image_pack::write_disk } else { image_pack::write_selftest_disk };
            let image = run.image.as_ref().unwrap_or(&image);
            if run.image.is_none() {
                write(&run.line, image).expect("a disk");
            }
            let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}", image.display());
            qemu.args(firmware.arguments()).args(["-drive", &drive]).args(bus);
        } else {
            qemu.arg("-kernel").arg(program).args(["-append", &run.line]);
        }
        qemu.args(&run.arguments);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = qemu.spawn().unwrap_or_else(|error| {
            panic!("qemu-system-x86_64: {error}; on Debian: apt-get install qemu-system-x86")
        });
        let stdout = process.stdout.take().expect("it is piped");
        let deadline = Instant::now() + LIMIT;
        let monitor = connect(&socket, &mut process, deadline);
        let (send_line, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                if send_line.send((Instant::now(), text)).is_err() {
                    break;
                }
            }
        });
        let (send_event, events) = channel();
        let reader = BufReader::new(monitor.try_clone().expect("a second handle"));
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if send_event.send(line).is_err() {
                    break;
                }
            }
        });
        let mut machine = Self { process, monitor, socket, lines, seen: Vec::new(), events, deadline };
        machine.tell("qmp_capabilities");
        machine
    }

    /// The process id of QEMU.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Give QEMU's monitor a command without arguments.
    pub(crate) fn tell(&mut self, command: &str) {
        let line = format!("{{\"execute\":\"{command}\"}}\n");
        self.monitor.write_all(line.as_bytes()).expect("the monitor listens");
    }

    /// Give QEMU's monitor a command of the kind that people type.
    pub(crate) fn tell_human(&mut self, command: &str) {
        let arguments = format!("{{\"command-line\":\"{command}\"}}");
        let line = format!("{{\"execute\":\"human-monitor-command\",\"arguments\":{arguments}}}\n");
        self.monitor.write_all(line.as_bytes()).expect("the monitor listens");
    }

    /// Wait for a line that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> Line {
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.1.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no `{text}` on the console ({error}):\n{:#?}", self.seen),
            }
        }
    }

    /// Wait for the end.
    pub(crate) fn finish(mut self) -> Outcome {
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{:#?}", self.seen),
            }
        }
        let status = self.process.wait().expect("QEMU can be waited for").code().unwrap_or(-1);
        let reason = self.events.iter().filter(|line| line.contains("\"SHUTDOWN\"")).find_map(|line| {
            let (_, rest) = line.split_once("\"reason\": \"")?;
            Some(rest.split('"').next()?.to_string())
        });
        Outcome { status, lines: std::mem::take(&mut self.seen), reason }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(self.socket.with_extension("img"));
    }
}

fn connect(socket: &Path, process: &mut Child, deadline: Instant) -> UnixStream {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => {
                let ended = process.try_wait().expect("QEMU can be waited for");
                if ended.is_some() {
                    let mut said = String::new();
                    let stderr = process.stderr.as_mut().expect("it is piped");
                    stderr.read_to_string(&mut said).expect("it ended");
                    panic!("QEMU ended at once: {said}");
                }
                assert!(Instant::now() < deadline, "{}: {error}", socket.display());
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Tests that measure time or load run one after the other.
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
