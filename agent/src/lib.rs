//! The agent: on the host, at the other end of the command path.
//!
//! It listens on one address of the host-only network, takes commands from the appliance and has a hypervisor carry them
//! out. It dials nobody and holds no credential for anything. [`run`] is all of it; [`main`] is the program around it.
#![forbid(unsafe_code)]

mod arguments;
mod directory;
pub mod hypervisor;
mod journal;
mod lanes;
mod line;
mod network;
mod privilege;
mod refusals;
mod server;
mod service;

pub use arguments::{Config, USAGE, parse};
pub use server::Shutdown;

use agent_protocol::{Text, Uuid};
use directory::RunDirectory;
use hypervisor::Hypervisor;
use hypervisor::libvirt::{Libvirt, Section};
use hypervisor::qemu::{Images, Qemu};
use lanes::Lanes;
use line::Security;
use network::{Networks, Overlay};
use serde::Deserialize;
use service::Service;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often it is looked whether the agent is to end.
const TICK: Duration = Duration::from_millis(50);

/// Why the agent cannot start, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The operator's file: a section for each hypervisor of this host.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operator {
    network: Option<Overlay>,
    qemu: Option<Images>,
    libvirt: Option<Section>,
}

/// An agent that listens and does not serve yet.
pub struct Agent {
    listener: TcpListener,
    lanes: Arc<Lanes>,
    service: Service,
    security: Security,
    end_guests: bool,
}

impl Agent {
    /// Read the operator's file, take the run directory, take over what runs, and listen.
    pub fn bind(config: &Config) -> Result<Self, Error> {
        let operator = operator(&config.images)?;
        let at = |path: &Path, error: &dyn fmt::Display| Error(format!("{}: {error}", path.display()));
        let run = &config.run_directory;
        let directory = RunDirectory::open(run).map_err(|error| at(run, &error))?;
        let mut backends: Vec<Arc<dyn Hypervisor>> = Vec::new();
        if let Some(images) = operator.qemu {
            backends.push(Arc::new(Qemu::new(images, directory.below("qemu")).map_err(Error)?));
        }
        if let Some(section) = operator.libvirt {
            backends.push(Arc::new(Libvirt::new(section).map_err(Error)?));
        }
        if backends.is_empty() {
            return Err(at(&config.images, &"it names no hypervisor"));
        }
        let boot = random_uuid().map_err(|error| Error(format!("no random numbers: {error}")))?;
        let security = if config.insecure {
            log::warn!("WITHOUT AUTHENTICATION (--insecure): whoever reaches {} may do all", config.listen);
            Security::NONE
        } else {
            let key = config.key.clone().unwrap_or_else(|| run.join("key.pem"));
            let (security, pin) = Security::new(&key, &config.pins)?;
            log::info!("our key is agent.pin={pin}");
            security
        };
        let listener = TcpListener::bind(config.listen);
        let listener = listener.map_err(|error| Error(format!("{}: {error}", config.listen)))?;
        let networks = operator.network.as_ref().map(Networks::new).transpose().map_err(Error)?;
        let lanes = Lanes::open(directory, backends, boot).map_err(|error| at(run, &error))?;
        if !config.insecure {
            let keys: Vec<Text> = config.pins.iter().map(|pin| Text::new(&pin.to_string())).collect();
            lanes.believe(&keys);
        }
        let service = Service::new(lanes.clone(), networks, boot);
        Ok(Self { listener, lanes, service, security, end_guests: config.end_guests })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serve until told to end.
    pub fn serve(&self, shutdown: &Shutdown) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !shutdown.is_requested() {
                    std::thread::sleep(TICK);
                }
                self.lanes.hurry();
            });
            server::serve(&self.listener, &self.service, &self.security, shutdown);
        });
        if self.end_guests {
            self.lanes.end_all();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.lanes.close();
    }
}

/// Be an agent until told to end.
pub fn run(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    let agent = Agent::bind(config)?;
    if let Some(address) = agent.address() {
        log::info!("listening on {address}");
    }
    agent.serve(shutdown);
    Ok(())
}

/// The whole program: the command line (the program's name excluded), signals, a log on standard error, and [`run`].
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let config = match parse(arguments) {
        Ok(config) => config,
        Err(what) => {
            eprint!("agent: {what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Somebody else's logger is as good.
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    privilege::withhold();
    let shutdown = Shutdown::default();
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, shutdown.flag()) {
            eprintln!("agent: signals cannot be caught: {error}");
            return ExitCode::FAILURE;
        }
    }
    match run(&config, &shutdown) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn operator(path: &Path) -> Result<Operator, Error> {
    let text = std::fs::read(path).map_err(|error| Error(format!("{}: {error}", path.display())))?;
    serde_json::from_slice(&text).map_err(|error| Error(format!("{}: {error}", path.display())))
}

/// A log on standard error, one line an event.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("agent: {}: {}", record.level().as_str().to_ascii_lowercase(), record.args());
    }

    fn flush(&self) {}
}

/// A new UUID from the kernel's random numbers.
fn random_uuid() -> io::Result<Uuid> {
    let mut bits = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bits)?;
    Ok(Uuid::from_random(u128::from_le_bytes(bits)))
}

/// The guard of a lock. A panic elsewhere must not stop the rest from being managed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
