//! A virtual machine under QEMU: which board, how fast, how it is watched.

use crate::net::Net;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::{Context, Error, Result, wait};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

/// The boards the image boots on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Board {
    /// PCI Express, the usual choice.
    #[default]
    Q35,
    /// The 1996 board (i440FX), PCI.
    Pc,
    /// No PCI, no ACPI, virtio over memory-mapped registers: the quickest to boot.
    Microvm,
}

impl Board {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Q35, Self::Pc, Self::Microvm];

    /// Its name in QEMU.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm",
        }
    }

    /// QEMU's `-machine`. Without ACPI a microvm names its devices on the kernel command line.
    #[must_use]
    pub fn machine(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm,acpi=off,isa-serial=on",
        }
    }

    /// A virtio device of the kind `kind` (`net`, `rng`) for this board, with `properties`.
    #[must_use]
    pub fn device(self, kind: &str, properties: &str) -> String {
        let separator = if properties.is_empty() { "" } else { "," };
        match self {
            Self::Microvm => format!("virtio-{kind}-device{separator}{properties}"),
            // Without the network boot ROM the firmware is through sooner.
            _ if kind == "net" => format!("virtio-net-pci,romfile={separator}{properties}"),
            _ => format!("virtio-{kind}-pci{separator}{properties}"),
        }
    }
}

/// The firmware that does no more than a kernel on QEMU's command line needs, and so takes half the time of the usual
/// one: that looks for disks, keyboards and option ROMs first. A microvm has it anyway.
const FIRMWARE: &str = "qboot.rom";

/// QEMU's `-bios` for `board`: the quick firmware where QEMU has it, otherwise nothing, and QEMU takes the usual one.
#[must_use]
pub fn firmware(board: Board) -> &'static [&'static str] {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        let folders = Command::new("qemu-system-x86_64").args(["-L", "help"]).output();
        let folders = folders.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        folders.is_ok_and(|folders| folders.lines().any(|folder| Path::new(folder).join(FIRMWARE).exists()))
    });
    match board {
        Board::Q35 | Board::Pc if *FOUND => &["-bios", FIRMWARE],
        _ => &[],
    }
}

impl FromStr for Board {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let board = Self::ALL.into_iter().find(|board| board.name() == text);
        board.ok_or_else(|| Error::new(format!("no machine `{text}`: there are q35, pc and microvm")))
    }
}

/// QEMU's `-accel`: the environment's `ACCEL`, or KVM where this machine really has it, or else translation.
#[must_use]
pub fn accelerator() -> String {
    if let Ok(accel) = std::env::var("ACCEL")
        && !accel.is_empty()
    {
        return accel;
    }
    let open = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // The device node may exist in a machine whose CPU cannot virtualise.
    if cpu.split_whitespace().any(|flag| flag == "svm" || flag == "vmx") && open() {
        return "kvm".into();
    }
    "tcg,thread=multi".into()
}

/// QEMU's `-cpu`: the environment's `CORBEL_CPU`, or all that the accelerator can do. A KVM that emulates what a kernel does
/// wants `qemu64`.
#[must_use]
pub fn processor() -> String {
    std::env::var("CORBEL_CPU").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "max".into())
}

/// What to run, and on what.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How messages and files speak of it.
    pub name: String,
    /// The board.
    pub board: Board,
    /// Memory, in MiB.
    pub memory: u32,
    /// The kernel: an ELF with a PVH note, or a Linux image.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// Whatever else QEMU is to be told.
    pub arguments: Vec<String>,
}

/// A running virtual machine; it ends when dropped.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    socket: PathBuf,
    console: PathBuf,
    read: usize,
}

const LIMIT: Duration = Duration::from_secs(20);

impl Machine {
    /// Starts it in `net`.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(net: &Net, scratch: &Scratch, spec: &Spec) -> Result<Self> {
        let console = scratch.file(&format!("{}.console", spec.name));
        let socket = scratch.file(&format!("{}.qmp", spec.name));
        let _ = fs::remove_file(&console);
        let mut qemu = net.command("qemu-system-x86_64");
        qemu.args(["-name", &spec.name, "-machine", spec.board.machine()]);
        qemu.args([
            "-accel",
            &accelerator(),
            "-cpu",
            &processor(),
            "-smp",
            "1",
            "-m",
            &spec.memory.to_string(),
        ]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]).args(firmware(spec.board));
        qemu.arg("-kernel").arg(&spec.kernel);
        if !spec.command_line.is_empty() {
            qemu.args(["-append", &spec.command_line]);
        }
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        qemu.args(&spec.arguments);
        let log = scratch.file(&format!("{}.log", spec.name));
        let process = Process::start(&spec.name, qemu, &log)?;
        Ok(Self { process, socket, console, read: 0 })
    }

    /// The QEMU process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All it has printed on its serial console.
    #[must_use]
    pub fn console(&self) -> String {
        read(&self.console)
    }

    /// Waits for a line of the console that contains `text`, after those an earlier call has found, and returns it.
    ///
    /// # Errors
    /// When the machine ended or printed no such line within `limit`; the sentence ends with the last lines.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("`{text}` on the console of {}", self.process.name());
        let answer = wait::until(what, limit, || {
            // Looked at before the console: what was printed before the end is there then.
            let ended = self.process.ended()?;
            let console = self.console();
            let mut at = self.read.min(console.len());
            for line in console[at..].split_inclusive('\n') {
                at += line.len();
                if line.ends_with('\n') && line.contains(text) {
                    self.read = at;
                    return Ok(Some(line.trim_end().to_string()));
                }
            }
            match ended {
                None => Ok(None),
                Some(status) => Error::because(format!("{} ended ({status})", self.process.name())),
            }
        });
        answer.map_err(|error| Error::new(format!("{error}\n{}", self.tail())))
    }

    /// The last lines of the console and of QEMU's own messages.
    #[must_use]
    pub fn tail(&self) -> String {
        format!("{}\n{}", crate::process::last_lines(&self.console(), 40), self.process.tail())
    }

    /// Talks to QEMU.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.socket, LIMIT).context(self.process.name())
    }

    /// Presses the reset button. What the console shows from then on counts as new.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn reset(&mut self) -> Result<()> {
        let mut qmp = self.qmp()?;
        qmp.execute("stop", &json!({}))?;
        self.read = self.console().len();
        qmp.execute("system_reset", &json!({}))?;
        qmp.execute("cont", &json!({})).map(drop)
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// A console may carry any bytes.
fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_has_the_name_qemu_gives_it() {
        for board in Board::ALL {
            assert_eq!(board.name().parse::<Board>().unwrap(), board);
        }
        assert!("q36".parse::<Board>().unwrap_err().to_string().contains("q35, pc and microvm"));
    }

    #[test]
    fn a_microvm_gets_its_devices_without_pci() {
        assert_eq!(Board::Microvm.device("net", "netdev=a"), "virtio-net-device,netdev=a");
        assert_eq!(Board::Q35.device("net", "netdev=a"), "virtio-net-pci,romfile=,netdev=a");
        assert_eq!(Board::Pc.device("rng", ""), "virtio-rng-pci");
    }
}
