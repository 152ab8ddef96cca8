//! Xen itself, where the environment names a folder for Debian's packages of it: it runs under QEMU, translated, and on it a small
//! parent partition that has a NIC on each network and bridges it to the appliance's.

use crate::host::{Came, Host, Machine};
use crate::qemu::Seen;
use image_launch::appliance::{Config, READY};
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::{Context, Error, Result, wait};
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The variable that names the folder.
pub(crate) const VARIABLE: &str = "CORBEL_XEN";

/// How long the packages and the parent partition may take to be put together, and each thing that it is told to do: on a host that
/// does other things as well a BIOS takes minutes, for what it does goes through a translated QEMU.
const BUILD: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(480);
const BUILDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/matrix/xen/build.sh");
/// SVM it must have, for QEMU translates no VT-x. Xen 4.17 does not start on what is taken away.
const PROCESSOR: &str = "max,-smap,-smep,-pku,-la57,-avx,-avx2";
/// Addresses that the guest's files have (`image/hosts`).
const MACS: [&str; 2] = ["52:54:00:c0:be:01", "52:54:00:c0:be:02"];
/// The last that the appliance says.
const ENDED: &str = "corbel: ended";

/// How the appliance is a guest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Started by Xen, with its own NICs only.
    Pvh,
    /// Started by a BIOS from a disk, with NICs that are Xen's own and emulated.
    Hvm,
}

impl Kind {
    /// What the tools are told, as it is handed out.
    fn description(self) -> &'static str {
        match self {
            Self::Pvh => include_str!("../../image/hosts/xen-pvh.cfg"),
            Self::Hvm => include_str!("../../image/hosts/xen-hvm.cfg"),
        }
    }
}

/// Boots it on Xen on `host`, has the parent partition read and write a disk, has it start again, and so on.
pub(crate) fn run(host: &Host, kind: Kind) -> Result<(Seen, Duration)> {
    let Some(folder) = std::env::var_os(VARIABLE) else { return Ok((Seen::NotHere, Duration::ZERO)) };
    let agent = host.agent()?;
    let made = host.scratch.file("xen");
    build(host, Path::new(&folder), kind, &host.config(Some(&agent)), &made)?;
    let mut machine = start(host, &made)?;
    let outcome = drive(host, &mut machine);
    outcome.map_err(|error| Error::new(format!("{error}\n{}\n{}", machine.tail(), tail(&made))))
}

fn drive(host: &Host, machine: &mut Machine) -> Result<(Seen, Duration)> {
    let came = host.wait_within(LIMIT, machine, true)?;
    let took = machine.begun.elapsed();
    if came == Came::WithoutNics {
        return Ok((Seen::NoDriver, took));
    }
    let mut words = UnixStream::connect(socket(host)).context("COM2")?;
    // What is said there is in the file as well; unread it would hold everything up.
    let mut unread = words.try_clone().context("COM2")?;
    thread::spawn(move || io::copy(&mut unread, &mut io::sink()));
    host.prove(machine)?;
    tell(&mut words, machine, "login", "dom0: login: 0", 1)?;
    tell(&mut words, machine, "reboot", READY, 2)?;
    host.read()?;
    writeln!(words, "shutdown").context("COM2")?;
    let seen = host.end(machine, LIMIT)?;
    let said = machine.said();
    println!("{}", summary(&said));
    if said.matches(ENDED).count() == 2 && said.contains("dom0: shutdown: 0") {
        return Ok((seen, took));
    }
    Error::because("it did not end in order")
}

/// Says a word, and waits until the answer is there for the `count`th time.
fn tell(words: &mut UnixStream, machine: &mut Machine, word: &str, answer: &str, count: usize) -> Result<()> {
    writeln!(words, "{word}").context("COM2")?;
    let failed = format!("dom0: {word}: ");
    wait::until(format!("`{word}`"), LIMIT, || {
        machine.process.must_run()?;
        let said = machine.said();
        if said.matches(answer).count() >= count {
            return Ok(Some(()));
        }
        let answers = said.split(&failed).skip(1);
        if answers.into_iter().any(|status| !status.starts_with('0')) {
            return Error::because(format!("{word} failed"));
        }
        Ok(None)
    })
}

/// What of the guest's log says how it is there.
fn summary(said: &str) -> String {
    let is_of_interest = |line: &&str| {
        ["clock:", "netfront", "time of day", READY, "logged in", "asked to end", ENDED, "dom0:"]
            .iter()
            .any(|text| line.contains(text))
    };
    said.lines().map(str::trim_end).filter(is_of_interest).collect::<Vec<_>>().join("\n")
}

/// Puts the guest together, and what runs it.
fn build(host: &Host, folder: &Path, kind: Kind, config: &Config, made: &Path) -> Result<()> {
    let guest = host.scratch.file("guest");
    let _ = fs::remove_dir_all(&guest);
    let (images, etc) = (guest.join("var/lib/xen/images"), guest.join("etc"));
    for folder in [&images, &etc.join("corbel"), &etc.join("xen"), &made.to_path_buf()] {
        fs::create_dir_all(folder).context(folder.display())?;
    }
    let write = |path: PathBuf, text: &str| fs::write(&path, text).context(path.display());
    let mut config = config.clone();
    for (wire, mac) in [Wire::Host, Wire::Service].into_iter().zip(MACS) {
        let key = format!("{}.mac", wire.name());
        match kind {
            // Its command line has them.
            Kind::Pvh => config.remove(&key),
            Kind::Hvm => config.set(key, mac),
        }
    }
    let document = config.text("\n") + "\n";
    write(etc.join("xen/guest.cfg"), kind.description())?;
    match kind {
        Kind::Pvh => {
            write(etc.join("corbel/appliance.conf"), &document)?;
            fs::copy(image_launch::image()?, images.join("corbel.elf")).context("the image")?;
        }
        Kind::Hvm => image_pack::write_disk(&document, &images.join("corbel.raw")).map_err(Error::new)?,
    }
    fs::copy(host.pattern(), guest.join("disk.raw")).context("the disk")?;
    let mut builder = process::command("bash");
    builder.arg(BUILDER).arg(folder).arg(&guest).arg(made);
    process::check(builder, BUILD).context("Xen").map(drop)
}

fn start(host: &Host, made: &Path) -> Result<Machine> {
    let console = host.scratch.file("console");
    let _ = fs::remove_file(&console);
    let _ = fs::remove_file(socket(host));
    let mut qemu = host.net.command("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        PROCESSOR,
        "-smp",
        "2",
        "-m",
        "1536",
        "-machine",
        "q35",
    ]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    for (index, wire) in [Wire::Host, Wire::Service].into_iter().enumerate() {
        let device = format!("e1000,romfile=,netdev={},mac=52:54:00:d0:00:0{index}", wire.name());
        qemu.args(["-netdev", &host.net.netdev(wire), "-device", &device]);
    }
    qemu.arg("-kernel").arg(made.join("xen")).args([
        "-append",
        "console=com1 com1=115200,8n1 dom0_mem=640M dom0_max_vcpus=1 dom0_vcpus_pin guest_loglvl=all",
    ]);
    let modules = [made.join("linux"), made.join("initrd")].map(|path| path.display().to_string());
    qemu.args(["-initrd", &format!("{} console=hvc0 mitigations=off nokaslr,{}", modules[0], modules[1])]);
    qemu.arg("-serial").arg(format!("file:{}", log(made).display()));
    let [socket, console_log] = [socket(host), console.clone()].map(|path| path.display().to_string());
    let com2 = format!("socket,id=com2,path={socket},server=on,wait=off,logfile={console_log}");
    qemu.args(["-chardev", &com2, "-serial", "chardev:com2"]);
    let begun = Instant::now();
    let process = Process::start("qemu", qemu, &host.scratch.file("qemu.log"))?;
    Ok(Machine { process, console, begun })
}

/// COM2: what the appliance says, and the way to the parent partition.
fn socket(host: &Host) -> PathBuf {
    host.scratch.file("com2")
}

/// COM1: what Xen and the parent partition say.
fn log(made: &Path) -> PathBuf {
    made.join("log")
}

fn tail(made: &Path) -> String {
    let said = fs::read(log(made)).unwrap_or_default();
    process::last_lines(&String::from_utf8_lossy(&said), 40)
}
