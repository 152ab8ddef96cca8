//! libvirt: one domain per instance, driven by libvirtd's own remote procedure calls.
//!
//! An instance has a definition in libvirtd from its first start until it is terminated. It is made anew at each start out
//! of the operator's file and what the appliance ordered, so what libvirtd keeps is never read back as an order. A domain
//! counts as the agent's by its UUID and by a mark in its description; no other is ever touched.

mod capabilities;
mod described;
mod document;
mod events;
mod images;
mod process;
mod request;
mod rpc;
mod session;
mod steps;
mod xdr;
mod xml;

pub use described::{Described, Plug};
pub use images::Section;
pub use request::{Afterwards, Domain, Request, requests};

use super::{Ended, Evidence, Fault, Hypervisor, Incident, Machine, Observation, Step};
use crate::locked;
use agent_protocol::{Backend, Failure, ImageName, State, Stats, Text, Traffic, Uuid};
use events::Events;
use rpc::{Answer, RpcError};
use session::{Control, Figure, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long libvirtd may take to tell its version.
const VERSION_TIME: Duration = Duration::from_secs(1);
/// How long it may take to tell whether a machine that is watched still runs.
const BURY_TIME: Duration = Duration::from_secs(1);
/// How long a hypervisor may take to show that it still listens.
const PROBE_TIME: Duration = Duration::from_millis(1500);
/// A hypervisor that has kept libvirtd waiting for so long is not asked more.
const BUSY_TIME: Duration = Duration::from_millis(700);
/// How long between two looks at whether libvirtd is still in the middle of something.
const AGAIN_TIME: Duration = Duration::from_millis(20);
/// How many hypervisors that do not answer may each hold one of libvirtd's twenty workers by being looked at.
const DEAF_MAX: usize = 8;
/// How many terminated machines wait for everything of them to be removed.
const LEFTOVERS_MAX: usize = 1024;
/// How long the definition of a terminated machine may take to be removed.
const FORGET_TIME: Duration = Duration::from_secs(5);
/// Groups of figures (`VIR_DOMAIN_STATS_`): processors, memory, interfaces and disks.
const CPU_TOTAL: u32 = 1 << 1;
const BALLOON: u32 = 1 << 2;
const INTERFACE: u32 = 1 << 4;
const BLOCK: u32 = 1 << 5;

/// The libvirt backend.
pub struct Libvirt {
    section: Section,
    /// Once libvirtd has told it.
    version: Mutex<Option<Text>>,
    /// The machines that run as far as is known.
    watched: Mutex<BTreeSet<Uuid>>,
    /// Those whose hypervisor did not answer when it was last looked at.
    deaf: Mutex<BTreeSet<Uuid>>,
    /// Those to which something has happened that could not be looked at.
    unseen: Mutex<BTreeSet<Uuid>>,
    /// Errors of disks that nobody has asked for yet.
    incidents: Mutex<Vec<Incident>>,
    /// Terminated ones of which libvirtd would not remove everything yet.
    leftovers: Mutex<Vec<Machine>>,
    events: Mutex<Events>,
}

impl Libvirt {
    /// A backend for what the operator's file says. libvirtd need not be there yet.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(section: Section) -> Result<Self, String> {
        section.check()?;
        Ok(Self {
            section,
            version: Mutex::default(),
            watched: Mutex::default(),
            deaf: Mutex::default(),
            unseen: Mutex::default(),
            incidents: Mutex::default(),
            leftovers: Mutex::default(),
            events: Mutex::default(),
        })
    }

    fn open(&self, within: Duration) -> Answer<Session> {
        Session::open(&self.section.socket, &self.section.uri, Instant::now() + within)
    }

    fn version(&self) -> Text {
        if let Some(version) = &*locked(&self.version) {
            return version.clone();
        }
        match self.open(VERSION_TIME).and_then(|mut session| session.versions()) {
            Ok((library, hypervisor)) => {
                let text = format!("libvirt {}, QEMU {}", dotted(library), dotted(hypervisor));
                locked(&self.version).insert(Text::new(&text)).clone()
            }
            Err(error) => Text::new(&error.to_string()),
        }
    }

    /// The machine's domain, if there is one.
    fn find(&self, session: &mut Session, machine: &Machine) -> Result<Option<(Domain, Described)>, Fault> {
        let Some(domain) = session.look_up(machine.uuid).map_err(unsent)? else { return Ok(None) };
        let described = session.described(&domain).map_err(unsent)?;
        if described.instance.as_deref() == Some(machine.id.as_str()) {
            return Ok(Some((domain, described)));
        }
        Err(Fault::new(Failure::Hypervisor, format!("the domain {} is not this agent's", domain.name)))
    }

    fn look(&self, machine: &Machine, within: Duration) -> Result<Observation, Fault> {
        let mut session = self.open(within).map_err(unsent)?;
        let Some((domain, _)) = self.find(&mut session, machine)? else {
            return Ok(Observation::of(State::Stopped));
        };
        let (mut state, mut why) = session.state(&domain).map_err(unsent)?;
        if state != SHUT_OFF {
            locked(&self.watched).insert(machine.uuid);
            if let Some(reason) = self.is_deaf(&mut session, &domain, machine.uuid)? {
                return Ok(Observation::of(State::Unknown).because(reason));
            }
            // What libvirtd was in the middle of is over.
            (state, why) = session.state(&domain).map_err(unsent)?;
        }
        let mut seen = observation(state, why);
        if state == SHUT_OFF {
            locked(&self.watched).remove(&machine.uuid);
            if session.has_saved_memory(&domain).map_err(unsent)? {
                seen = Observation::of(State::Saved);
            }
            return Ok(seen);
        }
        let described = session.described(&domain).map_err(unsent)?;
        seen.volumes = Some(described.volumes.into_keys().collect());
        seen.nics = Some(described.nics.into_keys().collect());
        Ok(seen)
    }

    /// Why the hypervisor of a domain that runs cannot be spoken with, if it cannot. libvirtd itself tells only what it
    /// heard last. What it is in the middle of, for an agent that was killed since or for somebody else, is waited for: how
    /// the domain will be is not to be seen before.
    fn is_deaf(
        &self,
        session: &mut Session,
        domain: &Domain,
        uuid: Uuid,
    ) -> Result<Option<&'static str>, Fault> {
        loop {
            match session.control(domain) {
                Ok(Control::Busy(since)) if since > BUSY_TIME => {
                    locked(&self.deaf).insert(uuid);
                    return Ok(Some(BUSY));
                }
                Ok(Control::Busy(_)) => std::thread::sleep(AGAIN_TIME),
                Ok(Control::Broken) => return Ok(Some("libvirtd has lost the connection to its hypervisor")),
                Ok(Control::Ready) => break,
                // It has ended meanwhile.
                Err(RpcError::Refused { .. }) => return Ok(None),
                Err(error) => return Err(unsent(error)),
            }
        }
        if locked(&self.deaf).len() >= DEAF_MAX && !locked(&self.deaf).contains(&uuid) {
            return Ok(None);
        }
        let deadline = session.deadline();
        session.until(deadline.min(Instant::now() + PROBE_TIME));
        let answer = session.figures(domain, BLOCK);
        session.until(deadline);
        match answer {
            Err(RpcError::Timeout) => {
                locked(&self.deaf).insert(uuid);
                Ok(Some("its hypervisor does not answer"))
            }
            // It has ended meanwhile, or cannot tell; in any case it has spoken.
            Ok(_) | Err(RpcError::Refused { .. }) => {
                locked(&self.deaf).remove(&uuid);
                Ok(None)
            }
            Err(error) => Err(unsent(error)),
        }
    }

    /// How it has ended, if it has.
    fn look_for_end(&self, machine: &Machine) -> Answer<Option<(bool, &'static str)>> {
        let mut session = self.open(BURY_TIME)?;
        let Some(domain) = session.look_up(machine.uuid)? else {
            return Ok(Some((false, "somebody else had libvirtd remove it")));
        };
        Ok(match session.state(&domain)? {
            (SHUT_OFF, why) => {
                Some(ended(why).unwrap_or((false, "it has ended, and libvirtd does not know why")))
            }
            _ => None,
        })
    }

    fn remove(&self, machine: &Machine) -> Result<(), Fault> {
        let mut session = self.open(FORGET_TIME).map_err(unsent)?;
        if let Some((domain, _)) = self.find(&mut session, machine)? {
            if session.state(&domain).map_err(unsent)?.0 != SHUT_OFF {
                return Err(Fault::new(Failure::Hypervisor, "it runs"));
            }
            session.carry_out(&domain, &Request::Undefine).map_err(unsent)?;
        }
        let Some(image) = self.section.images.get(&machine.image) else { return Ok(()) };
        for index in 0..image.disks.len() {
            if let Some(file) = document::private_disk(&self.section, machine, index) {
                let _ = fs::remove_file(file);
            }
        }
        Ok(())
    }
}

/// Why a machine is not asked more.
const BUSY: &str = "libvirtd still waits for its hypervisor to answer an earlier call";
/// The states of a domain (`virDomainState`) that are spoken of elsewhere.
const RUNNING: i32 = 1;
const PAUSED: i32 = 3;
const SHUT_OFF: i32 = 5;
const SLEEPS: i32 = 7;

/// What a state of a domain and its reason (`virDomainState` and those beside it) are to us.
fn observation(state: i32, why: i32) -> Observation {
    let (state, reason) = match (state, why) {
        (RUNNING | 2, _) => (State::Running, None),
        (PAUSED, 2 | 3 | 4 | 9 | 12 | 13) => (State::Saving, None),
        (PAUSED, 5) => (State::Paused, Some("held because of an error of its disk")),
        (PAUSED, 6) => (State::Paused, Some("held by its watchdog")),
        (PAUSED, 8) => (State::Stopping, Some("the guest has powered off and its process still exists")),
        (PAUSED, 10) => (State::Paused, Some("held because the guest's kernel panicked")),
        (PAUSED, 11) => (State::Pending, None),
        (PAUSED, _) => (State::Paused, None),
        (4, _) => (State::Stopping, Some("the guest has powered off and its process still exists")),
        (SHUT_OFF, CRASHED) => (State::Failed, ended(CRASHED).map(|(_, how)| how)),
        (SHUT_OFF, _) => (State::Stopped, ended(why).map(|(_, how)| how)),
        // As its definition may say (`preserve`): its hypervisor is there, with all its disks.
        (6, _) => (State::Paused, Some("held because the guest crashed")),
        (SLEEPS, _) => (State::Running, Some("the guest sleeps")),
        _ => (State::Unknown, Some("libvirtd names a state that this agent does not know")),
    };
    Observation { reason: reason.map(Text::new), ..Observation::of(state) }
}

/// Nobody has ended it (`VIR_DOMAIN_SHUTOFF_CRASHED`).
const CRASHED: i32 = 3;

/// How a domain that is shut off (`virDomainShutoffReason`) has ended by itself: whether in order, and in words.
const fn ended(why: i32) -> Option<(bool, &'static str)> {
    match why {
        1 => Some((true, "the guest has powered off")),
        2 => Some((false, "somebody else had libvirtd cut its power")),
        CRASHED => Some((false, "its hypervisor has ended unexpectedly")),
        4 => Some((true, "it has moved to another host")),
        5 => Some((true, "somebody else had libvirtd save it")),
        6 => Some((false, "libvirtd could not go on with it")),
        7 => Some((true, "somebody else had libvirtd go back to a snapshot")),
        8 => Some((false, "libvirtd has ended it")),
        _ => None,
    }
}

/// A version as libvirt counts: a million for the first part, a thousand for the second.
fn dotted(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// What was asked for has not come about: nothing was asked of libvirtd that could have changed anything.
fn unsent(error: RpcError) -> Fault {
    Fault::new(Failure::Hypervisor, error.to_string())
}

/// Something was asked for. Unless libvirtd refused it, it may have come about although no answer has.
fn unanswered(error: RpcError) -> Fault {
    let code = match error {
        RpcError::Timeout | RpcError::Closed | RpcError::Malformed(_) => Failure::Timeout,
        RpcError::Unreachable(_) | RpcError::Refused { .. } => Failure::Hypervisor,
    };
    Fault::new(code, error.to_string())
}

impl Hypervisor for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn describe(&self) -> Backend {
        Backend {
            name: Text::new(self.name()),
            version: self.version(),
            capabilities: capabilities::all(&self.section),
            facilities: capabilities::facilities(),
        }
    }

    fn images(&self) -> Vec<ImageName> {
        self.section.images.keys().cloned().collect()
    }

    fn adopt(&self, machine: &Machine, within: Duration) -> Observation {
        let seen = self.observe(machine, within);
        if seen.state == State::Stopped && seen.reason.is_none() {
            return seen.because("it ended while no agent was watching");
        }
        seen
    }

    fn observe(&self, machine: &Machine, within: Duration) -> Observation {
        // What cannot be seen is not known. It is never taken for gone.
        self.look(machine, within)
            .unwrap_or_else(|fault| Observation::of(State::Unknown).because(fault.detail.as_str()))
    }

    fn perform(&self, machine: &Machine, step: &Step, within: Duration) -> Result<Evidence, Fault> {
        self.carry_out(machine, step, Instant::now() + within)
    }

    fn stats(&self, machine: &Machine, within: Duration) -> Result<Stats, Fault> {
        let mut session = self.open(within).map_err(unsent)?;
        let found = self.find(&mut session, machine)?;
        let (domain, described) = found.ok_or_else(|| Fault::new(Failure::Ended, "it does not run"))?;
        let figures = session.figures(&domain, CPU_TOTAL | BALLOON | INTERFACE | BLOCK).map_err(unsent)?;
        Ok(stats(&figures.into_iter().collect(), &described))
    }

    fn forget(&self, machine: &Machine) {
        locked(&self.watched).remove(&machine.uuid);
        locked(&self.deaf).remove(&machine.uuid);
        if let Err(fault) = self.remove(machine) {
            log::warn!("{}: its definition could not be removed yet: {}", machine.id, fault.detail);
            let mut leftovers = locked(&self.leftovers);
            if leftovers.len() < LEFTOVERS_MAX {
                leftovers.push(machine.clone());
            }
        }
    }

    fn bury(&self, machine: &Machine) -> Option<Ended> {
        if !locked(&self.watched).contains(&machine.uuid) {
            return None;
        }
        let Ok(ended) = self.look_for_end(machine) else {
            // It is told of again.
            locked(&self.unseen).insert(machine.uuid);
            return None;
        };
        let (orderly, how) = ended?;
        locked(&self.watched).remove(&machine.uuid);
        locked(&self.deaf).remove(&machine.uuid);
        Some(Ended { orderly, how: Text::new(how) })
    }

    fn wait_for_ends(&self, within: Duration) -> Vec<Uuid> {
        self.await_news(within)
    }

    fn incidents(&self) -> Vec<Incident> {
        let watched = locked(&self.watched);
        let mut incidents = std::mem::take(&mut *locked(&self.incidents));
        incidents.retain(|incident| watched.contains(&incident.uuid));
        incidents
    }
}

/// What a domain has used, of the figures that libvirtd tells of it.
fn stats(figures: &BTreeMap<String, Figure>, described: &Described) -> Stats {
    let number = |name: &str| match figures.get(name) {
        Some(Figure::Number(number)) => Some(*number),
        _ => None,
    };
    let traffic = |kind: &str, index: u64, names: [&str; 4], ours: &dyn Fn(&str) -> Option<String>| {
        let Figure::Text(at) = figures.get(&format!("{kind}.{index}.name"))? else { return None };
        let [reads, read_bytes, writes, write_bytes] =
            names.map(|name| number(&format!("{kind}.{index}.{name}")).unwrap_or(0));
        let name = Text::new(ours(at).as_deref().unwrap_or(at));
        Some(Traffic { name, reads, read_bytes, writes, write_bytes })
    };
    let disk = |at: &str| {
        described.volumes.iter().find(|(_, target)| *target == at).map(|(name, _)| name.to_string())
    };
    let nic = |at: &str| {
        let found = described.nics.iter().find(|(_, nic)| nic.end.as_deref() == Some(at));
        found.map(|(name, _)| name.to_string())
    };
    // As many as can be read, and not as many as are claimed.
    let most = figures.len() as u64;
    let count = |name| number(name).unwrap_or(0).min(most);
    let disks = ["rd.reqs", "rd.bytes", "wr.reqs", "wr.bytes"];
    let nics = ["rx.pkts", "rx.bytes", "tx.pkts", "tx.bytes"];
    Stats {
        cpu_ms: number("cpu.time").unwrap_or(0) / 1_000_000,
        memory_kib: number("balloon.current"),
        disks: (0..count("block.count")).filter_map(|index| traffic("block", index, disks, &disk)).collect(),
        nics: (0..count("net.count")).filter_map(|index| traffic("net", index, nics, &nic)).collect(),
    }
}
