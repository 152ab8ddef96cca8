//! A cell carried out: the machine is booted, read from, told to do something, and switched off.

use crate::cell::{Bus, Cell, Start};
use crate::host::{Came, Host, Machine, OFF};
use image_launch::appliance::Config;
use image_launch::machine::{self, Board};
use image_launch::net::Wire;
use image_launch::process::Process;
use image_launch::qmp::Qmp;
use image_launch::{Context, Error, Result};
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ANSWER: Duration = Duration::from_secs(20);
/// How long a machine is watched that nothing is expected to end.
const MOMENT: Duration = Duration::from_secs(2);

/// What came of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It booted, a disk was read over iSCSI, a command was carried out, and its power button ended it.
    All,
    /// The same, but that nothing ends it from outside.
    Serves,
    /// It booted and says that there are no NICs that it has a driver for.
    NoDriver,
    /// There is no such machine.
    Never,
    /// What would start it is not here.
    NotHere,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Serves => "serves",
            Self::NoDriver => "no driver",
            Self::Never => "–",
            Self::NotHere => "not run",
        })
    }
}

/// The firmware that is given by the path of its file.
pub(crate) const SMALL: &str = "CORBEL_HYPERVISOR_FW";

/// Carries `cell` out on `host`; also how long it took from the start of QEMU until the appliance was ready.
pub(crate) fn run(host: &Host, cell: &Cell) -> Result<(Seen, Duration)> {
    if !cell.exists() {
        return Ok((Seen::Never, Duration::ZERO));
    }
    if cell.start == Start::Small && std::env::var_os(SMALL).is_none() {
        return Ok((Seen::NotHere, Duration::ZERO));
    }
    let agent = host.agent()?;
    let mut machine = start(host, cell, &host.config(Some(&agent)))?;
    let came = host.wait_for(&mut machine, cell.serial)?;
    let took = machine.begun.elapsed();
    if came == Came::WithoutNics {
        return Ok((Seen::NoDriver, took));
    }
    host.prove(&machine)?;
    let patience = if cell.board.has_button() { OFF } else { MOMENT };
    Ok((press(host, &mut machine, patience)?, took))
}

/// Presses the machine's power button, and waits for what comes of it.
pub(crate) fn press(host: &Host, machine: &mut Machine, patience: Duration) -> Result<Seen> {
    let mut qmp = Qmp::connect(&socket(host), ANSWER)?;
    qmp.execute("system_powerdown", &json!({}))?;
    host.end(machine, patience)
}

/// Starts QEMU with the image.
pub(crate) fn start(host: &Host, cell: &Cell, config: &Config) -> Result<Machine> {
    let (console, disk) = (host.scratch.file("console"), host.scratch.file("boot.img"));
    let _ = fs::remove_file(&console);
    let _ = fs::remove_file(socket(host));
    let _ = fs::remove_file(log(host));
    if cell.start.bus().is_some() {
        image_pack::write_disk(&(config.text("\n") + "\n"), &disk).map_err(Error::new)?;
        if cell.start.bus() == Some(Bus::Cd) {
            let bytes = fs::read(&disk).context(disk.display())?;
            let iso = image_formats::iso(&bytes).map_err(|error| Error::new(error.to_string()))?;
            fs::write(&disk, iso).context(disk.display())?;
        }
    }
    let mut qemu = host.net.command("qemu-system-x86_64");
    qemu.args(["-accel", &machine::accelerator(), "-cpu", &machine::processor(), "-smp", "1"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(cell.arguments(&disk));
    for (index, wire) in [Wire::Host, Wire::Service].into_iter().enumerate() {
        if let Some(device) = cell.device(index) {
            let device = format!("{device},netdev={},mac={}", wire.name(), wire.mac());
            qemu.args(["-netdev", &host.net.netdev(wire), "-device", &device]);
        }
    }
    match cell.start {
        Start::Pvh => {
            let quick = if cell.board.has_pci() { machine::firmware(Board::Q35) } else { &[] };
            qemu.args(quick).arg("-kernel").arg(image_launch::image()?).args(["-append", &config.text(" ")]);
        }
        Start::Small => {
            let firmware =
                std::env::var_os(SMALL).ok_or_else(|| Error::new(format!("{SMALL} is not set")))?;
            qemu.arg("-kernel").arg(firmware);
        }
        Start::Ovmf(_) | Start::SeaBios(_) => {}
    }
    if cell.serial {
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
    }
    qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket(host).display()));
    let begun = Instant::now();
    let process = Process::start("qemu", qemu, &log(host))?;
    Ok(Machine { process, console, begun })
}

fn socket(host: &Host) -> PathBuf {
    host.scratch.file("qmp")
}

fn log(host: &Host) -> PathBuf {
    host.scratch.file("qemu.log")
}
