//! The appliance as a Linux process over two TAP devices, to be debugged and measured natively.
//!
//! Same `assemble`, same engines; here a NIC is a TAP with virtio's header (so segmentation offload works as in a
//! VM), time is the monotonic clock and idling is `poll(2)`.

mod counter;
mod disk;
mod ending;
mod tap;

use crate::assemble::{Appliance, Gauges, Next, Parts, Secrets};
use crate::config::{Channel, Config};
use crate::limits::Limits;
use disk::FileDisk;
use ending::Ending;
use kernel_runtime::{Instant, Profile};
use network_tls::{NoEntropy, Random};
use rustix::event::{PollFd, PollFlags, poll};
use state::Records;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::string::String;
use std::sync::Arc;
use std::time::SystemTime;
use tap::Tap;

const USAGE: &str = "usage: hosted --host TAP --service TAP [--config FILE] [KEY=VALUE]...
The two TAP devices must exist, with vnet_hdr. Keys are those of image/appliance/docs/configuration.md.";

/// Run the appliance with these arguments (without the program's name) until the process is asked to end: by SIGTERM or
/// SIGINT, at which it ends as [`Appliance::end`] says, and at the second one at once.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let arguments = Arguments::parse(arguments)?;
    let channels = [(Channel::Arguments, &*arguments.text), (Channel::File, &*arguments.file)];
    let config = Config::parse(&channels).map_err(|error| error.to_string())?;
    if config.watchdog.is_some_and(|seconds| seconds != 0) {
        return Err("configuration: watchdog: a process has none; whoever runs it watches it".to_string());
    }
    if Config::first(&channels).is_ok_and(|first| first.metadata.is_some()) {
        return Err("configuration: config.mmds: the hosted process asks no metadata service".to_string());
    }
    start_log(config.log);
    let started = std::time::Instant::now();
    counter::start();
    let now = move || Instant::from_micros(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    let open = |name: &str| Tap::open(name).map_err(|error| format!("{name}: {error}"));
    let state = config.state.as_deref().map(|path| open_state(path, &now)).transpose()?;
    let (host, service) = (open(&arguments.host)?, open(&arguments.service)?);
    let (time, tell) = config.time.of(time_of_day);
    let secrets = Some(Secrets { random: Arc::new(Urandom(urandom()?)), time, tell });
    let parts = Parts {
        host,
        service,
        seeds: seeds()?,
        secrets,
        state,
        checksum: checksum(),
        profile: Profile::new(counter::cycles),
        // An operating system's heap and memory are others' to tell of.
        gauges: Gauges { hertz: counter::hertz, ..Gauges::NONE },
        memory: HOSTED_MEMORY,
        // The operating system fills them when they are first touched.
        buffer: |length| vec![0; length],
        now: now(),
    };
    let mut appliance = Appliance::assemble(&config, parts)?;
    let mut ending = Ending::new().map_err(|error| format!("signals: {error}"))?;
    // Portals and the API begin to listen in the first turn: who has read this is not refused.
    appliance.turn(now());
    log::info!(target: "corbel", "ready");
    let mut was_asked = false;
    loop {
        match appliance.turn(now()) {
            Next::Again => {}
            Next::Idle(deadline) => idle(&appliance, &ending, deadline.map(|deadline| deadline.since(now()))),
        }
        if ending.is_asked() {
            if was_asked {
                return Ok(());
            }
            was_asked = true;
            appliance.end(config.off, now());
        }
        if appliance.has_ended() {
            return Ok(());
        }
    }
}

/// The records on the state disk. Without them the appliance does not start: it would let in whom reservations keep out.
fn open_state(path: &str, now: &impl Fn() -> Instant) -> Result<Records, String> {
    let fail = |reason: &dyn std::fmt::Display| format!("configuration: state.disk: {path}: {reason}");
    let file = FileDisk::open(path).map_err(|error| fail(&error))?;
    let mut identity = [0; 16];
    let mut seed = [0; 8];
    let mut source = urandom()?;
    let read = source.read_exact(&mut identity).and_then(|()| source.read_exact(&mut seed));
    read.map_err(|error| format!("/dev/urandom: {error}"))?;
    let limit = Limits::for_memory(HOSTED_MEMORY).state();
    Records::open(Box::new(file), limit, (identity, u64::from_ne_bytes(seed)), now)
        .map_err(|error| fail(&error))
}

/// What iSCSI's digests are made with where the CPU has an instruction for it.
#[cfg(target_arch = "x86_64")]
use kernel::crc32c::by_instruction as checksum;

#[cfg(not(target_arch = "x86_64"))]
fn checksum() -> Option<storage::Checksum> {
    None
}

/// What the process is sized for: as a VM with so much memory would be.
const HOSTED_MEMORY: usize = 512 << 20;

struct Arguments {
    host: String,
    service: String,
    /// Items among the arguments, and those in files.
    text: String,
    file: String,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut host, mut service) = (None, None);
        let (mut text, mut file) = (String::new(), String::new());
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--host" => host = Some(value()?),
                "--service" => service = Some(value()?),
                "--config" => {
                    let path = value()?;
                    let read = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
                    file.push_str(&read);
                    file.push('\n');
                }
                item if item.contains('=') && !item.starts_with('-') => {
                    text.push_str(item);
                    text.push('\n');
                }
                _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
            }
        }
        let (Some(host), Some(service)) = (host, service) else {
            return Err(USAGE.to_string());
        };
        Ok(Self { host, service, text, file })
    }
}

/// In seconds since 1970.
fn time_of_day() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The operating system's randomness, for keys.
#[derive(Debug)]
struct Urandom(File);

impl Random for Urandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        (&self.0).read_exact(out).map_err(|_| NoEntropy)
    }
}

fn urandom() -> Result<File, String> {
    File::open("/dev/urandom").map_err(|error| format!("/dev/urandom: {error}"))
}

fn seeds() -> Result<[u64; 9], String> {
    let mut bytes = [0; 72];
    urandom()?.read_exact(&mut bytes).map_err(|error| format!("/dev/urandom: {error}"))?;
    let mut seeds = [0; 9];
    for (seed, bytes) in seeds.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *seed = u64::from_ne_bytes(*bytes);
    }
    Ok(seeds)
}

/// Wait until a TAP is readable, the process is asked to end, or `timeout` is over.
fn idle(appliance: &Appliance<Tap, Tap>, ending: &Ending, timeout: Option<core::time::Duration>) {
    let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
    let (host, service) = appliance.nics();
    let mut descriptors =
        [host.as_fd(), service.as_fd(), ending.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    // An interrupted or failed wait is a short one: the next turn finds nothing to do and waits again.
    let _ready = poll(&mut descriptors, timeout.as_ref());
}

/// Log lines on standard error, with the seconds since the start.
struct Log(std::time::Instant);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let seconds = self.0.elapsed().as_secs_f64();
        eprintln!("[{seconds:10.6}] {:5} {}: {}", record.level(), record.target(), record.args());
    }
    fn flush(&self) {}
}

fn start_log(level: log::LevelFilter) {
    if log::set_boxed_logger(Box::new(Log(std::time::Instant::now()))).is_ok() {
        log::set_max_level(level);
    }
}
