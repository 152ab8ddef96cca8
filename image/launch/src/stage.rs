//! A whole host for one run: networks, disks behind NBD servers, and the appliance between them.

use crate::agent::Agent;
use crate::appliance::{Appliance, Channel, Config, Disk, Kind, Nics, Plan};
use crate::disk::{self, NBD, NbdServer, Server};
use crate::initiator::Unit;
use crate::net::{self, Net};
use crate::scratch::Scratch;
use crate::{Result, appliance, machine};
use std::path::PathBuf;

/// The beginning of every name of a target here.
pub const IQN: &str = "iqn.2026-11.example.corbel";
/// The serial number of the state disk, and its bytes.
const SERIAL: &str = "corbel-state";
const STATE: u64 = 4 << 20;

/// How the host is to be.
#[derive(Debug, Clone)]
pub struct Script {
    /// The appliance's body.
    pub kind: Kind,
    /// The appliance's memory, in MiB.
    pub memory: u32,
    /// The way of its configuration.
    pub channel: Channel,
    /// How it tells its NICs apart.
    pub nics: Nics,
    /// The networks.
    pub net: net::Options,
    /// Its disks; each is LUN 0 of a target of its own, `IQN:diskN`.
    pub disks: Vec<(u64, Server)>,
    /// Keys for its configuration, beyond addresses and disks, or in their place.
    pub config: Vec<(String, String)>,
    /// Whether the host has an agent.
    pub agent: bool,
    /// Whether the appliance has a disk for what outlives its restart.
    pub state: bool,
    /// More arguments for its QEMU.
    pub arguments: Vec<String>,
    /// Another image than the one built with this program.
    pub image: Option<PathBuf>,
    /// The program `corbel`.
    pub corbel: PathBuf,
}

impl Script {
    /// One appliance of `kind` with one disk of `bytes` behind `server`.
    #[must_use]
    pub fn new(corbel: impl Into<PathBuf>, kind: Kind, bytes: u64, server: Server) -> Self {
        Self {
            kind,
            memory: 64,
            channel: Channel::default(),
            nics: Nics::default(),
            net: net::Options::default(),
            disks: vec![(bytes, server)],
            config: Vec::new(),
            agent: false,
            state: false,
            arguments: Vec::new(),
            image: None,
            corbel: corbel.into(),
        }
    }
}

/// The host, standing. Its parts end in the order of the fields, and so the reverse of their start.
pub struct Stage {
    /// The appliance.
    pub appliance: Appliance,
    /// The agent, if the host has one.
    pub agent: Option<Agent>,
    /// The storage services, one a disk.
    pub servers: Vec<NbdServer>,
    /// What they serve.
    pub disks: Vec<Disk>,
    /// What the appliance was told.
    pub config: Config,
    plan: Plan,
    /// The networks.
    pub net: Net,
    /// A folder for files.
    pub scratch: Scratch,
}

impl Stage {
    /// Starts everything and waits until the appliance serves.
    ///
    /// # Errors
    /// When a part does not start; the sentence carries what it said.
    pub fn start(script: &Script) -> Result<Self> {
        let mut stage = Self::set(script)?;
        stage.appliance.ready()?;
        Ok(stage)
    }

    /// Starts everything without waiting for the appliance.
    ///
    /// # Errors
    /// When a part does not start.
    pub fn set(script: &Script) -> Result<Self> {
        let scratch = Scratch::new()?;
        let net = Net::new(script.net, &scratch)?;
        let mut config = Config::for_net(&net);
        if script.nics != Nics::Named {
            config.remove("host.mac");
            config.remove("service.mac");
        }
        config.set("api", net::API.to_string());
        if !script.config.iter().any(|(key, _)| key.starts_with("api.")) {
            config.set("api.insecure", "yes");
        }
        let (mut servers, mut disks) = (Vec::new(), Vec::new());
        for (n, (bytes, server)) in script.disks.iter().enumerate() {
            let file = scratch.file(&format!("disk{n}.raw"));
            disk::empty(&file, *bytes)?;
            let port = NBD + u16::try_from(n).unwrap_or(u16::MAX - NBD);
            let served = NbdServer::start(&net, &scratch, server, &file, port)?;
            let iqn = format!("{IQN}:disk{n}");
            config.set(format!("target.{n}.iqn"), &iqn);
            config.set(format!("target.{n}.lun"), "0");
            config.set(format!("target.{n}.volume"), served.uri());
            config.set(format!("target.{n}.initiators"), "*");
            servers.push(served);
            disks.push(Disk { file, iqn, lun: 0 });
        }
        let agent = script.agent.then(|| Agent::start(&net, &scratch, &script.corbel)).transpose()?;
        if let Some(agent) = &agent {
            agent.configure(&mut config);
        }
        let mut arguments = script.arguments.clone();
        if script.state {
            let file = scratch.file("state.raw");
            disk::empty(&file, STATE)?;
            match script.kind {
                Kind::Image(board) => {
                    config.set("state.disk", SERIAL);
                    arguments.extend(appliance::state_disk(board, &file, SERIAL));
                }
                _ => config.set("state.disk", file.display().to_string()),
            }
        }
        for (key, value) in &script.config {
            config.set(key, value);
        }
        let plan = Plan {
            kind: script.kind,
            memory: script.memory,
            channel: script.channel,
            nics: script.nics,
            image: match (&script.image, script.kind) {
                (Some(image), _) => image.clone(),
                (None, Kind::Image(_)) => crate::image()?,
                (None, _) => PathBuf::new(),
            },
            corbel: script.corbel.clone(),
            arguments,
        };
        let appliance = Appliance::start(&net, &scratch, &plan, &config, &disks)?;
        Ok(Self { appliance, agent, servers, disks, config, plan, net, scratch })
    }

    /// Logical unit `n` as an initiator names it.
    #[must_use]
    pub fn unit(&self, n: usize) -> Unit {
        let disk = &self.disks[n];
        let lun = disk.lun + u16::from(self.plan.kind == Kind::Tgtd);
        Unit { portal: self.net.portal(), iqn: disk.iqn.clone(), lun }
    }

    /// Resets the appliance (a virtual machine) or starts it anew (a process), and waits until it serves again.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn reboot(&mut self) -> Result<()> {
        if let Some(machine) = self.appliance.machine() {
            machine.reset()?;
        } else {
            self.appliance.process().stop();
            self.appliance =
                Appliance::start(&self.net, &self.scratch, &self.plan, &self.config, &self.disks)?;
        }
        self.appliance.ready()
    }

    /// Kills QEMU, or the process, and starts it anew.
    ///
    /// # Errors
    /// When it does not come up again.
    pub fn crash(&mut self) -> Result<()> {
        self.appliance.process().kill();
        self.appliance = Appliance::start(&self.net, &self.scratch, &self.plan, &self.config, &self.disks)?;
        self.appliance.ready()
    }

    /// One line on how fast this is to be expected.
    #[must_use]
    pub fn describe(&self) -> String {
        match self.plan.kind {
            Kind::Image(board) => format!("QEMU {}, {}", board.name(), machine::accelerator()),
            kind => kind.to_string(),
        }
    }
}
