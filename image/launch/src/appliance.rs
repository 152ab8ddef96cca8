//! The appliance, in any of its bodies, and a peer that can take its place in a test.

use crate::machine::{Board, Machine, Spec};
use crate::net::{ISCSI, Net, Wire};
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{Context, Error, Result, wait};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// The line that says that every portal and the API listen.
pub const READY: &str = "corbel: ready";
/// The line that says that the configuration was refused, and why.
pub const REFUSED: &str = "configuration: ";

/// What stands in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The image, under QEMU on this board.
    Image(Board),
    /// The same appliance as a process of this system.
    Hosted,
    /// Debian's tgtd, which knows nothing of NBD or management: to tell our faults from a tool's.
    Tgtd,
}

impl Default for Kind {
    fn default() -> Self {
        Self::Image(Board::Q35)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hosted" => Ok(Self::Hosted),
            "tgtd" => Ok(Self::Tgtd),
            board => board.parse().map(Self::Image),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(board) => board.name(),
            Self::Hosted => "hosted",
            Self::Tgtd => "tgtd",
        })
    }
}

/// The appliance's configuration: `key=value` items, in the order they were set.
#[derive(Debug, Clone, Default)]
pub struct Config(Vec<(String, String)>);

impl Config {
    /// The configuration for the addresses of `net`.
    #[must_use]
    pub fn for_net(net: &Net) -> Self {
        let mut config = Self::default();
        for wire in WIRES {
            config.set(format!("{}.address", wire.name()), format!("{}/24", wire.appliance()));
            config.set(format!("{}.mac", wire.name()), wire.mac());
        }
        if net.is_user_mode() {
            config.set("iscsi.portal", net.portal().to_string());
        }
        config
    }

    /// Sets `key`, in the place of what was set before.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// Its items, as they go into a file (`\n`) or on a command line (a space).
    #[must_use]
    pub fn text(&self, separator: &str) -> String {
        let items: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        items.join(separator)
    }
}

/// How the image is told its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// QEMU's fw_cfg file `opt/corbel/config`.
    #[default]
    FwCfg,
    /// The kernel command line.
    CommandLine,
    /// A PVH module.
    Module,
    /// A string of SMBIOS, on boards that have it.
    Smbios,
    /// A CD labelled `cidata` in a virtio disk: the file `user-data`, as NoCloud has it.
    CidataCd,
    /// A FAT of that label: the file `corbel.cfg`.
    CidataFat,
    /// A metadata service, which the command line says is there; whoever tests has the document, in the file `appliance.conf`.
    Metadata,
}

/// How the two NICs are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nics {
    /// By their addresses.
    #[default]
    Named,
    /// By who answers on them. The host-only network's is the first, or else the last.
    Found {
        /// Which comes first in bus order.
        host_first: bool,
    },
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In which body.
    pub kind: Kind,
    /// Memory of the virtual machine, in MiB.
    pub memory: u32,
    /// The way of the configuration into the image.
    pub channel: Channel,
    /// How the image tells its NICs apart.
    pub nics: Nics,
    /// The image, as an ELF with a PVH note.
    pub image: PathBuf,
    /// This program, for the hosted body.
    pub corbel: PathBuf,
    /// More arguments for QEMU.
    pub arguments: Vec<String>,
}

enum Body {
    Machine(Machine),
    Process(Process),
}

/// A started appliance; it ends when dropped.
pub struct Appliance {
    body: Body,
    kind: Kind,
}

impl Appliance {
    /// Starts it with `config`; `disks` are what tgtd would serve, in the order of the targets. See [`Self::ready`].
    ///
    /// # Errors
    /// When its program cannot be started.
    pub fn start(net: &Net, scratch: &Scratch, plan: &Plan, config: &Config, disks: &[Disk]) -> Result<Self> {
        let kind = plan.kind;
        let body = match kind {
            Kind::Image(board) => Body::Machine(machine(net, scratch, plan, board, config)?),
            Kind::Hosted => Body::Process(hosted(net, scratch, plan, config)?),
            Kind::Tgtd => Body::Process(tgtd(net, scratch, disks)?),
        };
        Ok(Self { body, kind })
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it ended or did not come up; the sentence ends with what it printed last.
    pub fn ready(&mut self) -> Result<()> {
        match self.kind {
            Kind::Tgtd => Ok(()),
            _ => self.wait_for(READY, LIMIT).map(drop),
        }
    }

    /// Waits for a line of its console.
    ///
    /// # Errors
    /// When it ended first or printed no such line within `limit`.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        match &mut self.body {
            Body::Machine(machine) => machine.wait_for(text, limit),
            Body::Process(process) => {
                let what = format!("`{text}` from {}", process.name());
                let answer = wait::until(what, limit, || {
                    let ended = process.ended()?;
                    let line = process.output().lines().find(|line| line.contains(text)).map(str::to_string);
                    match (line, ended) {
                        (None, Some(status)) => Error::because(format!("it ended ({status})")),
                        (line, _) => Ok(line),
                    }
                });
                answer.map_err(|error| Error::new(format!("{error}\n{}", process.tail())))
            }
        }
    }

    /// All it has printed.
    #[must_use]
    pub fn console(&self) -> String {
        match &self.body {
            Body::Machine(machine) => machine.console(),
            Body::Process(process) => process.output(),
        }
    }

    /// Whether it has ever panicked: the image starts anew then, and serves as if nothing had been.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        let console = self.console();
        // The image's own word, and that of a process.
        console.contains("PANIC") || console.contains("panicked")
    }

    /// The virtual machine, unless it is a process.
    pub fn machine(&mut self) -> Option<&mut Machine> {
        match &mut self.body {
            Body::Machine(machine) => Some(machine),
            Body::Process(_) => None,
        }
    }

    /// The process of QEMU, or its own.
    pub fn process(&mut self) -> &mut Process {
        match &mut self.body {
            Body::Machine(machine) => machine.process(),
            Body::Process(process) => process,
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// A file that is to be a logical unit.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file.
    pub file: PathBuf,
    /// The target's iSCSI name.
    pub iqn: String,
    /// The logical unit's number, as the appliance has it.
    pub lun: u16,
}

/// The two networks in their usual order.
const WIRES: [Wire; 2] = [Wire::Host, Wire::Service];

/// The QEMU arguments that give the image its two NICs, in that order, and its source of entropy.
#[must_use]
pub fn devices(net: &Net, board: Board, wires: [Wire; 2]) -> Vec<String> {
    let mut words = Vec::new();
    for wire in wires {
        let mtu = if net.mtu() == 1500 { String::new() } else { format!(",host_mtu={}", net.mtu()) };
        let properties = format!("netdev={},mac={}{mtu}", wire.name(), wire.mac());
        words.extend([
            "-netdev".into(),
            net.netdev(wire),
            "-device".into(),
            board.device("net", &properties),
        ]);
    }
    words.extend(["-device".into(), board.device("rng", "")]);
    words
}

/// The QEMU arguments that give the image a disk of this serial number.
#[must_use]
pub fn state_disk(board: Board, file: &Path, serial: &str) -> Vec<String> {
    let drive = format!("if=none,id={serial},format=raw,file={}", file.display());
    let device = board.device("blk", &format!("drive={serial},serial={serial}"));
    vec!["-drive".into(), drive, "-device".into(), device]
}

fn machine(net: &Net, scratch: &Scratch, plan: &Plan, board: Board, config: &Config) -> Result<Machine> {
    let wires = match plan.nics {
        Nics::Named | Nics::Found { host_first: true } => WIRES,
        Nics::Found { host_first: false } => [Wire::Service, Wire::Host],
    };
    let mut arguments = devices(net, board, wires);
    let mut command_line = String::new();
    let file = scratch.file("appliance.conf");
    fs::write(&file, config.text("\n") + "\n").context(file.display())?;
    match plan.channel {
        Channel::CommandLine => command_line = config.text(" "),
        Channel::Metadata => command_line = "config.mmds=yes".into(),
        Channel::FwCfg => {
            arguments.extend(["-fw_cfg".into(), format!("name=opt/corbel/config,file={}", file.display())]);
        }
        Channel::Module => arguments.extend(["-initrd".into(), file.display().to_string()]),
        Channel::Smbios => {
            // Two strings, and the second goes on in the middle of a word of the first.
            let text = config.text(" ").replace(',', ",,");
            let (one, more) = text.split_at(text.rfind('=').unwrap_or(0));
            for (prefix, part) in [("corbel.config", one), ("corbel.config+", more)] {
                arguments.extend(["-smbios".into(), format!("type=11,value={prefix}={part}")]);
            }
        }
        Channel::CidataCd => arguments.extend(cidata(board, &user_data(scratch, config)?)),
        Channel::CidataFat => arguments.extend(cidata(board, &volume(scratch, &file)?)),
    }
    arguments.extend(plan.arguments.iter().cloned());
    let (name, kernel) = ("appliance".into(), plan.image.clone());
    Machine::start(net, scratch, &Spec { name, board, memory: plan.memory, kernel, command_line, arguments })
}

/// A disk to be read.
fn cidata(board: Board, file: &Path) -> [String; 4] {
    let drive = format!("if=none,id=cidata,format=raw,readonly=on,file={}", file.display());
    ["-drive".into(), drive, "-device".into(), board.device("blk", "drive=cidata")]
}

/// A CD as those make it who have cloud-init's guests in mind.
fn user_data(scratch: &Scratch, config: &Config) -> Result<PathBuf> {
    let (file, disk) = (scratch.file("user-data"), scratch.file("cidata.iso"));
    fs::write(&file, format!("#corbel\n{}\n", config.text("\n"))).context(file.display())?;
    let meta = scratch.file("meta-data");
    fs::write(&meta, "instance-id: none\n").context(meta.display())?;
    let mut command = process::command("/usr/bin/genisoimage");
    command.args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"]);
    command.arg(&disk).arg(file).arg(meta);
    process::check(command, LIMIT)?;
    Ok(disk)
}

/// A FAT with a file `corbel.cfg`.
fn volume(scratch: &Scratch, file: &Path) -> Result<PathBuf> {
    let disk = scratch.file("cidata.fat");
    let mut command = process::command("/usr/sbin/mkfs.vfat");
    command.args(["-n", "CIDATA", "-C"]).arg(&disk).arg("1440");
    process::check(command, LIMIT)?;
    let mut command = process::command("/usr/bin/mcopy");
    command.arg("-i").arg(&disk).arg(file).arg("::corbel.cfg");
    process::check(command, LIMIT)?;
    Ok(disk)
}

fn hosted(net: &Net, scratch: &Scratch, plan: &Plan, config: &Config) -> Result<Process> {
    if net.is_user_mode() {
        return Error::because("the hosted appliance needs TAP devices: run this as root");
    }
    let mut command = net.command(&plan.corbel);
    command.args(["hosted", "--host", Wire::Host.name(), "--service", Wire::Service.name()]);
    // Not among the arguments, which everybody can read: it may have secrets.
    let file = scratch.file("corbel.conf");
    fs::write(&file, config.text("\n")).context(file.display().to_string())?;
    command.arg("--config").arg(file);
    let log = scratch.file("appliance.log");
    // What an earlier one said is not said by this one.
    let _ = fs::remove_file(&log);
    Process::start("appliance", command, &log)
}

/// Starts tgtd with every disk, one logical unit number higher: its LUN 0 is a controller.
fn tgtd(net: &Net, scratch: &Scratch, disks: &[Disk]) -> Result<Process> {
    let address = Wire::Host.appliance();
    let mut add = net.command("sh");
    let script = format!(
        "ip address replace {address}/32 dev bridge 2>/dev/null || ip address replace {address}/32 dev host"
    );
    add.args(["-c", &script]);
    process::check(add, LIMIT)?;
    let socket = scratch.file("tgtd.socket");
    let mut command = net.command("tgtd");
    command.args(["-f", "--iscsi", &format!("portal={address}:{ISCSI}")]).env("TGT_IPC_SOCKET", &socket);
    let mut daemon = Process::start("tgtd", command, &scratch.file("tgtd.log"))?;
    net.listening(&mut daemon, std::net::SocketAddrV4::new(address, ISCSI), LIMIT)?;
    let mut names: Vec<&str> = disks.iter().map(|disk| disk.iqn.as_str()).collect();
    names.dedup();
    for (n, iqn) in names.iter().enumerate() {
        let tid = (n + 1).to_string();
        tgtadm(net, &socket, &["--op", "new", "--mode", "target", "--tid", &tid, "-T", iqn])?;
        for disk in disks.iter().filter(|disk| disk.iqn == **iqn) {
            let (lun, file) = ((disk.lun + 1).to_string(), disk.file.display().to_string());
            let unit = ["--op", "new", "--mode", "logicalunit", "--tid", &tid, "--lun", &lun, "-b", &file];
            tgtadm(net, &socket, &unit)?;
        }
        tgtadm(net, &socket, &["--op", "bind", "--mode", "target", "--tid", &tid, "-I", "ALL"])?;
    }
    Ok(daemon)
}

fn tgtadm(net: &Net, socket: &Path, words: &[&str]) -> Result<()> {
    let mut command = net.command("tgtadm");
    command.args(["--lld", "iscsi"]).args(words).env("TGT_IPC_SOCKET", socket);
    process::check(command, LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_set_again_keeps_its_place_and_takes_the_new_value() {
        let mut config = Config::default();
        config.set("a", "1");
        config.set("b", "2");
        config.set("a", "3");
        assert_eq!(config.text(" "), "a=3 b=2");
    }

    #[test]
    fn a_kind_has_one_name() {
        for name in ["q35", "pc", "microvm", "hosted", "tgtd"] {
            assert_eq!(name.parse::<Kind>().unwrap().to_string(), name);
        }
        assert!("xen".parse::<Kind>().is_err());
    }
}
