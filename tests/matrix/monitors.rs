//! Monitors that are not QEMU, where the environment names what they are: Firecracker and Cloud Hypervisor on KVM, and Xen.

use crate::host::{Came, Host, Machine, OFF};
use crate::qemu::Seen;
use crate::xen::{self, Kind};
use image_launch::appliance::Config;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::{Context, Error, Result, wait};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ANSWER: Duration = Duration::from_secs(20);
const MEMORY: u64 = 64;

/// A monitor, and how it has its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Monitor {
    /// By registers in memory.
    Firecracker,
    /// On PCI.
    FirecrackerPci,
    CloudHypervisor,
    Xen(Kind),
}

impl Monitor {
    pub(crate) const ALL: [Self; 5] = [
        Self::Firecracker,
        Self::FirecrackerPci,
        Self::CloudHypervisor,
        Self::Xen(Kind::Pvh),
        Self::Xen(Kind::Hvm),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Firecracker => "Firecracker itself",
            Self::FirecrackerPci => "Firecracker itself, with PCI",
            Self::CloudHypervisor => "Cloud Hypervisor itself",
            Self::Xen(Kind::Pvh) => "Xen itself, PVH",
            Self::Xen(Kind::Hvm) => "Xen itself, HVM",
        }
    }

    /// The variable that has the path of its program, or of a folder for its packages.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Firecracker | Self::FirecrackerPci => "CORBEL_FIRECRACKER",
            Self::CloudHypervisor => "CORBEL_CLOUD_HYPERVISOR",
            Self::Xen(_) => xen::VARIABLE,
        }
    }

    /// Boots the image with it on `host`, and so on.
    pub(crate) fn run(self, host: &Host) -> Result<(Seen, Duration)> {
        if let Self::Xen(kind) = self {
            return xen::run(host, kind);
        }
        let Some(program) = std::env::var_os(self.variable()) else {
            return Ok((Seen::NotHere, Duration::ZERO));
        };
        let socket = host.scratch.file("monitor.sock");
        let _ = fs::remove_file(&socket);
        let agent = host.agent()?;
        let config = host.config(Some(&agent));
        let mut machine = match self {
            Self::CloudHypervisor => cloud_hypervisor(host, Path::new(&program), &socket, &config)?,
            _ => firecracker(host, Path::new(&program), &socket, &config, self == Self::FirecrackerPci)?,
        };
        let came = host.wait_for(&mut machine, true)?;
        let took = machine.begun.elapsed();
        if came == Came::WithoutNics {
            return Err(Error::new(format!("no NICs:\n{}", machine.said())));
        }
        host.prove(&machine)?;
        self.press(&socket)?;
        Ok((host.end(&mut machine, OFF)?, took))
    }

    /// Its power button or, where it has none, what it has in the place of one.
    fn press(self, socket: &Path) -> Result<()> {
        let (path, body) = match self {
            Self::CloudHypervisor => ("api/v1/vm.power-button", None),
            _ => ("actions", Some(json!({ "action_type": "SendCtrlAltDel" }).to_string())),
        };
        let mut curl = process::command("curl");
        curl.args(["-sS", "--fail-with-body", "-X", "PUT", "--unix-socket"]).arg(socket);
        if let Some(body) = &body {
            curl.args(["-H", "content-type: application/json", "-d", body]);
        }
        curl.arg(format!("http://localhost/{path}"));
        process::check(curl, ANSWER).map(drop)
    }
}

fn firecracker(host: &Host, program: &Path, socket: &Path, config: &Config, pci: bool) -> Result<Machine> {
    let nic = |wire: Wire| json!({ "iface_id": wire.name(), "host_dev_name": wire.name(), "guest_mac": wire.mac() });
    let document = json!({
        "boot-source": { "kernel_image_path": image_launch::image()?, "boot_args": config.text(" ") },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY },
        "network-interfaces": [nic(Wire::Host), nic(Wire::Service)],
        "entropy": {},
    });
    let file = host.scratch.file("firecracker.json");
    fs::write(&file, document.to_string()).context(file.display())?;
    let mut command = host.net.command(program);
    command.arg("--api-sock").arg(socket).arg("--config-file").arg(file);
    if pci {
        command.arg("--enable-pci");
    }
    // The serial port is its standard output.
    let console = log(host);
    begin(command, console)
}

fn cloud_hypervisor(host: &Host, program: &Path, socket: &Path, config: &Config) -> Result<Machine> {
    let console = host.scratch.file("console");
    let _ = fs::remove_file(&console);
    let mut command = host.net.command(program);
    command.arg("--api-socket").arg(socket).arg("--kernel").arg(image_launch::image()?);
    command.args([
        "--cmdline",
        &config.text(" "),
        "--cpus",
        "boot=1",
        "--memory",
        &format!("size={MEMORY}M"),
    ]);
    command.arg("--serial").arg(format!("file={}", console.display())).args(["--console", "off"]);
    command.arg("--net");
    command.args([Wire::Host, Wire::Service].map(|wire| format!("tap={},mac={}", wire.name(), wire.mac())));
    let _ = fs::remove_file(log(host));
    let begun = Instant::now();
    let process = Process::start("cloud-hypervisor", command, &log(host))?;
    let mut machine = Machine { process, console, begun };
    wait::until("Cloud Hypervisor's socket", ANSWER, || {
        machine.process.must_run()?;
        Ok(socket.exists().then_some(()))
    })?;
    Ok(machine)
}

fn begin(command: std::process::Command, console: PathBuf) -> Result<Machine> {
    let _ = fs::remove_file(&console);
    let begun = Instant::now();
    let process = Process::start("firecracker", command, &console)?;
    Ok(Machine { process, console, begun })
}

fn log(host: &Host) -> PathBuf {
    host.scratch.file("monitor.log")
}
