//! iproute2, asked and told.

use crate::privilege::lend;
use agent_protocol::{Mac, Text};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one of the programs may take.
const TIME: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_MAX: u64 = 16 << 20;
/// Where the programs may be.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The kernel's networks, in one namespace.
pub(super) struct Kernel {
    ip: PathBuf,
    bridge: PathBuf,
    namespace: Option<String>,
}

/// A device that encapsulates.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) alias: String,
    /// The address and the UDP port that it sends from and to.
    pub(super) local: Option<Ipv4Addr>,
    pub(super) port: Option<u16>,
    /// Packets that were not sent.
    pub(super) dropped: u64,
}

#[derive(Deserialize)]
struct Link {
    ifname: Option<String>,
    ifalias: Option<String>,
    linkinfo: Option<Info>,
    stats64: Option<Stats>,
}

#[derive(Deserialize)]
struct Info {
    info_data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    local: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize)]
struct Stats {
    tx: Sent,
}

#[derive(Deserialize)]
struct Sent {
    dropped: u64,
}

#[derive(Deserialize)]
struct Forwarding {
    mac: Option<String>,
    dst: Option<Ipv4Addr>,
    master: Option<String>,
    state: Option<String>,
}

#[derive(Deserialize)]
struct Neighbour {
    dev: Option<String>,
    dst: Option<String>,
    lladdr: Option<String>,
    state: Option<Vec<String>>,
}

impl Kernel {
    /// The kernel, by the programs of iproute2.
    pub(super) fn new(namespace: Option<&str>) -> Result<Self, String> {
        let plain = |name: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !name.is_empty() && name.bytes().all(is_plain) && !name.starts_with(['-', '.'])
        };
        if let Some(name) = namespace.filter(|name| !plain(name)) {
            return Err(format!("network.namespace: {name:?} is no name of a namespace"));
        }
        let find = |program: &str| {
            let mut places = PLACES.iter().map(|place| PathBuf::from(place).join(program));
            places
                .find(|path| path.is_file())
                .ok_or(format!("network: there is no program {program} (iproute2)"))
        };
        Ok(Self { ip: find("ip")?, bridge: find("bridge")?, namespace: namespace.map(str::to_owned) })
    }

    /// Carry out these commands of `ip`, one a line, as far as all before them have succeeded.
    pub(super) fn ip(&self, lines: &str) -> Result<(), Text> {
        self.batch(&self.ip, lines)
    }

    /// The same of `bridge`.
    pub(super) fn bridge(&self, lines: &str) -> Result<(), Text> {
        self.batch(&self.bridge, lines)
    }

    /// Remove a device, if it is there.
    pub(super) fn remove(&self, device: &str) -> Result<(), Text> {
        if self.has(device)? { self.ip(&format!("link del {device}\n")) } else { Ok(()) }
    }

    /// Whether there is a device of that name.
    pub(super) fn has(&self, device: &str) -> Result<bool, Text> {
        let all: Vec<Link> = self.ask(&self.ip, &["link", "show"])?;
        Ok(all.iter().any(|link| link.ifname.as_deref() == Some(device)))
    }

    /// The devices that encapsulate.
    pub(super) fn devices(&self) -> Result<Vec<Device>, Text> {
        let links: Vec<Link> = self.ask(&self.ip, &["-d", "-s", "link", "show", "type", "vxlan"])?;
        let device = |link: Link| {
            let dropped = link.stats64.map_or(0, |stats| stats.tx.dropped);
            let data = link.linkinfo.and_then(|info| info.info_data);
            let local = data.as_ref().and_then(|data| data.local.as_ref()?.parse().ok());
            let port = data.as_ref().and_then(|data| data.port);
            Some(Device { name: link.ifname?, alias: link.ifalias.unwrap_or_default(), local, port, dropped })
        };
        Ok(links.into_iter().filter_map(device).collect())
    }

    /// To which host the device sends what is for whom.
    pub(super) fn places(&self, device: &str) -> Result<BTreeMap<Mac, Ipv4Addr>, Text> {
        let entry = |entry: Forwarding| Some((entry.mac?.parse().ok()?, entry.dst?));
        Ok(self.table(device)?.into_iter().filter_map(entry).collect())
    }

    /// Who the bridge knows to be behind the device.
    pub(super) fn forwarded(&self, device: &str) -> Result<BTreeSet<Mac>, Text> {
        let entry = |entry: Forwarding| {
            (entry.master.is_some() && entry.state.as_deref() == Some("static"))
                .then(|| entry.mac?.parse().ok())
                .flatten()
        };
        Ok(self.table(device)?.into_iter().filter_map(entry).collect())
    }

    fn table(&self, device: &str) -> Result<Vec<Forwarding>, Text> {
        self.ask(&self.bridge, &["fdb", "show", "dev", device])
    }

    /// For whom ARP is answered.
    pub(super) fn answered(&self, bridge: &str) -> Result<BTreeSet<(Ipv4Addr, Mac)>, Text> {
        let neighbours: Vec<Neighbour> = self.ask(&self.ip, &["neigh", "show", "dev", bridge])?;
        let entry = |neighbour: Neighbour| {
            let is_permanent = neighbour.state?.iter().any(|state| state == "PERMANENT");
            let pair = (neighbour.dst?.parse().ok()?, neighbour.lladdr?.parse().ok()?);
            is_permanent.then_some(pair)
        };
        Ok(neighbours.into_iter().filter_map(entry).collect())
    }

    /// For how many ARP is answered on each bridge.
    pub(super) fn all_answered(&self) -> Result<BTreeMap<String, usize>, Text> {
        let neighbours: Vec<Neighbour> = self.ask(&self.ip, &["neigh", "show", "nud", "permanent"])?;
        let mut counts = BTreeMap::new();
        for bridge in neighbours.into_iter().filter_map(|neighbour| neighbour.dev) {
            *counts.entry(bridge).or_default() += 1;
        }
        Ok(counts)
    }

    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        if let Some(namespace) = &self.namespace {
            command.args(["-n", namespace]);
        }
        command
    }

    fn batch(&self, program: &PathBuf, lines: &str) -> Result<(), Text> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut command = self.command(program);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        run(command, lines).map(|_| ())
    }

    fn ask<T: DeserializeOwned>(&self, program: &PathBuf, question: &[&str]) -> Result<Vec<T>, Text> {
        let mut command = self.command(program);
        command.arg("-json").args(question);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let answer = run(command, "")?;
        if answer.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&answer).map_err(|error| Text::new(&format!("{}: {error}", program.display())))
    }
}

/// Run a program with this input, for no longer than it may take; what it printed.
fn run(mut command: Command, input: &str) -> Result<Vec<u8>, Text> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |what: &str| Text::new(&format!("{name}: {what}"));
    let mut child = lend(true, || command.spawn()).map_err(|error| failed(&error.to_string()))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // Each pipe has a thread, so that none is full while another is waited for.
    let spawned = (|| {
        let input = input.to_owned();
        let writer = aside(pipes.0.map(|mut pipe| move || drop(pipe.write_all(input.as_bytes()))))?;
        Ok((writer, aside(pipes.1.map(|pipe| || all_of(pipe)))?, aside(pipes.2.map(|pipe| || all_of(pipe)))?))
    })();
    let (writer, printed, complained) = spawned.map_err(|error: std::io::Error| {
        let _ = child.kill();
        let _ = child.wait();
        failed(&error.to_string())
    })?;
    let ended = wait(&mut child);
    let text = |thread: Option<JoinHandle<Vec<u8>>>| {
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    let (printed, complained) = (text(printed), text(complained));
    if let Some(writer) = writer {
        let _ = writer.join();
    }
    match ended {
        None => Err(failed("it takes too long")),
        Some(true) => Ok(printed),
        Some(false) => Err(failed(&String::from_utf8_lossy(&complained))),
    }
}

/// Have that done by another thread, if there is anything to do.
fn aside<T: Send + 'static>(
    work: Option<impl FnOnce() -> T + Send + 'static>,
) -> std::io::Result<Option<JoinHandle<T>>> {
    work.map(|work| std::thread::Builder::new().name("iproute2".into()).spawn(work)).transpose()
}

fn all_of(pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.take(ANSWER_MAX).read_to_end(&mut bytes);
    bytes
}

/// Wait for its end; whether it succeeded, or `None` if it had to be killed.
fn wait(child: &mut Child) -> Option<bool> {
    let until = Instant::now() + TIME;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}
