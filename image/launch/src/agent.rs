//! The agent of the parent partition, as this program's own `agent` role, with one image in its table.

use crate::appliance::Config;
use crate::net::{Net, Wire};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{Context, Error, Result, child, keys, machine, wait};
use network_tls::{Pin, PrivateKey};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Its port on the host-only network.
pub const PORT: u16 = 4010;
/// The name of the one image it knows: the smallest virtual machine ([`child`]).
pub const IMAGE: &str = "tiny";

const LIMIT: Duration = Duration::from_secs(20);

/// A running agent. When it is dropped, it and all its guests end.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    run: PathBuf,
    seen: SocketAddrV4,
    /// What its key is called, if it asks for one, and the key of the one appliance that it believes, if that was made here.
    pin: Option<Pin>,
    appliance: Option<PrivateKey>,
}

impl Agent {
    /// Starts it on the host-only network and waits until it listens, with a key that it makes itself; the appliance's is
    /// made here. `corbel` is this program.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(net: &Net, scratch: &Scratch, corbel: &Path) -> Result<Self> {
        let appliance = keys::make()?;
        let mut agent = Self::start_that_believes(appliance.pin(), net, scratch, corbel)?;
        agent.appliance = Some(appliance);
        Ok(agent)
    }

    /// The same for the appliance whose key is called so. Its own key is the one in its folder, if there is one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_that_believes(pin: Pin, net: &Net, scratch: &Scratch, corbel: &Path) -> Result<Self> {
        let mut agent = Self::spawn(Some(pin), net, scratch, corbel)?;
        let own = keys::of_agent(&agent.process.output());
        let silent = || Error::new(format!("the agent names no key\n{}", agent.process.tail()));
        agent.pin = Some(own.ok_or_else(silent)?);
        Ok(agent)
    }

    /// The same for any appliance, in clear: one that has nothing but its command line can be given no key.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_in_clear(net: &Net, scratch: &Scratch, corbel: &Path) -> Result<Self> {
        Self::spawn(None, net, scratch, corbel)
    }

    fn spawn(believed: Option<Pin>, net: &Net, scratch: &Scratch, corbel: &Path) -> Result<Self> {
        let (listen, seen) = net.server(Wire::Host, PORT)?;
        let run = Self::folder(scratch);
        fs::create_dir_all(&run).context(run.display())?;
        let kernel = scratch.file("child.elf");
        child::write(&kernel)?;
        let table = scratch.file("images.json");
        fs::write(&table, self::table(&kernel).to_string()).context(table.display())?;
        // Not killed but asked to end when we are gone, so that it takes its guests along.
        let mut command = net.command("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(corbel);
        command.args(["agent", "--listen", &listen.to_string(), "--end-guests", "--config"]).arg(&table);
        command.arg("--run-dir").arg(&run);
        match believed {
            Some(pin) => command.args(["--pin", &pin.to_string()]),
            None => command.arg("--insecure"),
        };
        let mut process = Process::start("agent", command, &scratch.file("agent.log"))?;
        net.listening(&mut process, listen, LIMIT)?;
        Ok(Self { process, run, seen, pin: None, appliance: None })
    }

    /// Where it keeps its key and its machines.
    #[must_use]
    pub fn folder(scratch: &Scratch) -> PathBuf {
        scratch.file("agent")
    }

    /// Where the appliance finds it.
    #[must_use]
    pub fn seen(&self) -> SocketAddrV4 {
        self.seen
    }

    /// Tells an appliance where it is and what its key is called, and gives it the key that it believes, if that was made here.
    pub fn configure(&self, config: &mut Config) {
        config.set("agent", self.seen.to_string());
        match self.pin {
            Some(pin) => config.set("agent.pin", pin.to_string()),
            None => config.set("agent.insecure", "yes"),
        }
        if let Some(key) = &self.appliance {
            config.set("agent.key", keys::base64(key));
        }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The processes of its guests that are there at the moment: those whose command line names its folder.
    #[must_use]
    pub fn guests(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != self.process.pid() && is_guest(*pid, &self.run)).collect()
    }

    /// Waits until it has exactly this many guests.
    ///
    /// # Errors
    /// When it has another number after `limit`.
    pub fn wait_for_guests(&self, count: usize, limit: Duration) -> Result<Vec<u32>> {
        wait::until(format!("the agent having {count} guests"), limit, || {
            let guests = self.guests();
            Ok((guests.len() == count).then_some(guests))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.stop();
        // It has ended its guests, unless a test killed it.
        for pid in self.guests().into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn is_guest(pid: u32, run: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let run = run.as_os_str().as_encoded_bytes();
    program.windows(4).any(|part| part == b"qemu") && line.windows(run.len()).any(|part| part == run)
}

fn table(kernel: &Path) -> serde_json::Value {
    let accel = machine::accelerator();
    let arguments = [
        "-machine",
        "microvm,acpi=off,isa-serial=on",
        "-accel",
        &accel,
        "-m",
        "16",
        "-kernel",
        &kernel.display().to_string(),
        "-serial",
        "file:{directory}/console",
    ];
    json!({ "qemu": {
        "executable": "/usr/bin/qemu-system-x86_64",
        "images": { IMAGE: { "arguments": arguments } }
    } })
}
