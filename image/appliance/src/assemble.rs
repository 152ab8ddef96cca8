//! START HERE: the whole appliance on one page.
//!
//! Two NICs become two stacks that share nothing. Storage listens on the host-only network and dials the storage
//! services on the service network; management listens on the service network and dials the agent on the host-only
//! network. Everything is a task of one executor, added here and nowhere else.

use crate::config::{Config, Tell, Tls};
use crate::door;
use crate::ending::Ending;
use crate::limits::{AGENT_LINKS, ISCSI_PORT, InTls, Limits, WATCH_BUFFER};
use agent_protocol::Uuid;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Clock, Correction, Day, Executor, Instant, Profile, Signal, Stage};
pub use management::Gauges;
use management::{Configuration, Management, Policy};
use network::{Attachment, Measured, Settings, Side, Stack};
use network_nic::Nic;
use network_tls::{Anchors, ClientConfig, Crypto, Dates, Identity, Random};
use state::Records;
use storage::{Control, Storage};

/// What the ground has found.
pub struct Parts<H, S> {
    /// The NIC of the host-only network.
    pub host: H,
    /// The NIC of the service network.
    pub service: S,
    /// Randomness, different at each boot.
    pub seeds: [u64; 9],
    /// What secrets are made of; without it there is neither TLS nor CHAP.
    pub secrets: Option<Secrets>,
    /// What iSCSI's digests are made with, if there is anything better than a table.
    pub checksum: Option<storage::Checksum>,
    /// Where reservations are kept through a restart, if there is a disk for it.
    pub state: Option<Records>,
    /// Where cycles are counted.
    pub profile: Profile,
    /// What the ground tells of itself.
    pub gauges: Gauges,
    /// Bytes that are free for the appliance.
    pub memory: usize,
    /// Makes the buffers of connections, of a length in bytes; what is in them never shows.
    pub buffer: fn(usize) -> Vec<u8>,
    /// The time.
    pub now: Instant,
}

/// What TLS and CHAP take from the ground.
pub struct Secrets {
    /// Randomness fit for keys.
    pub random: Arc<dyn Random>,
    /// The time of day at [`Parts::now`] in seconds since 1970; `None` where the ground does not know it.
    pub time: Option<u64>,
    /// Says it again, as the ground knows it then, so that the appliance can follow.
    pub tell: Option<Tell>,
}

/// The appliance, put together.
pub struct Appliance<H, S> {
    host: Attachment<Measured<H>>,
    service: Attachment<Measured<S>>,
    executor: Executor,
    state: Option<Records>,
    control: Control,
    profile: Profile,
    ending: Ending,
}

/// What the ground does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another turn, at once.
    Again,
    /// Be idle until a NIC has something, or until then.
    Idle(Option<Instant>),
}

impl<H: Nic, S: Nic> Appliance<H, S> {
    /// Put the appliance together.
    ///
    /// # Errors
    /// When a target of the configuration cannot be exposed; the text names its key.
    pub fn assemble(config: &Config, parts: Parts<H, S>) -> Result<Self, String> {
        let tls = InTls { disks: config.tls.is_some(), management: door::has_tls(config) };
        let limits = Limits::for_memory_with_tls(parts.memory, tls);
        Self::assemble_within(config, parts, &limits, &limits.storage())
    }

    /// As [`Appliance::assemble`], within limits that need not be those of the memory: the simulator tries others.
    ///
    /// # Errors
    /// As [`Appliance::assemble`].
    pub fn assemble_within(
        config: &Config,
        parts: Parts<H, S>,
        limits: &Limits,
        storage: &storage::Limits,
    ) -> Result<Self, String> {
        let crc32c = parts.checksum.unwrap_or(storage.iscsi.crc32c);
        let iscsi = storage::IscsiLimits { crc32c, ..storage.iscsi };
        let storage =
            &storage::Limits { iscsi, sharing: config.sharing, port_group: config.port_group, ..*storage };
        let [host_seed, service_seed, storage_seed, ..] = parts.seeds;
        let boot = u128::from(parts.seeds[3]) << 64 | u128::from(parts.seeds[4]);
        let (profile, buffer) = (parts.profile, parts.buffer);
        let mut executor = Executor::with_profile(limits.tasks(), profile.clone());
        let clock = executor.clock();

        let settings =
            |side, interface: &crate::config::Interface, other: &crate::config::Interface, seed| Settings {
                side,
                addressing: interface.addressing,
                foreign: other.cidr(),
                seed,
            };
        let host = settings(Side::HostOnly, &config.host, &config.service, host_seed);
        let host = Attachment::new(&host, Measured::new(parts.host, profile.clone()), parts.now);
        let service = settings(Side::Service, &config.service, &config.host, service_seed);
        let service = Attachment::new(&service, Measured::new(parts.service, profile.clone()), parts.now);

        let owner = config.owner.clone().unwrap_or_else(|| owner(service.nic().inner().mac()));
        let random = parts.secrets.as_ref().map(|secrets| secrets.random.clone());
        let tell = parts.secrets.as_ref().and_then(|secrets| secrets.tell);
        let voice = Voice::new(config, parts.secrets, parts.now)?;
        if let (Some(day), Some(tell)) = (voice.as_ref().and_then(|voice| voice.day.clone()), tell) {
            executor.add("day", follow(day, tell, clock.clone()));
        }
        let tls = match (&config.tls, &voice) {
            (Some(tls), Some(voice)) => Some(speak(tls, voice, limits)?),
            _ => None,
        };
        let storage = Storage::new(storage, clock.clone(), storage_seed, config.portal, &owner, tls);
        if let Some(random) = random {
            storage.make_challenges_of(random).map_err(|error| error.to_string())?;
        }
        storage.make_tokens_of(core::array::from_fn(|word| parts.seeds[5 + word]));
        // Volumes first: the way to a storage service is the longest, and a login may wait for its end.
        for index in 0..limits.volumes {
            let (receive, send) = limits.nbd_buffers;
            for path in 0..limits.paths {
                let stream = service.stack().stream_over(buffer(receive), buffer(send));
                executor.add_to(Stage::Nbd, "nbd", storage.serve_volume(index, path, stream));
            }
        }
        let stream = service.stack().stream(WATCH_BUFFER, WATCH_BUFFER);
        executor.add("watch", storage.watch_volumes(stream));
        for index in 0..limits.connections {
            let (receive, send) = limits.iscsi_buffers;
            let stream = host.stack().stream_over(buffer(receive), buffer(send));
            executor.add_to(Stage::Iscsi, "iscsi", storage.serve_initiators(index, ISCSI_PORT, stream));
        }
        if let Some(records) = &parts.state {
            executor.add("reservations", storage.keep_reservations(records.clone()));
        }
        let control = storage.control();
        expose(config, &control)?;

        if let Some(api) = &config.api {
            let door = door::door(config, api, voice.as_ref(), parts.state.as_ref(), &owner)?;
            let mut agents = door::agent(config.agent.as_ref(), voice.as_ref(), parts.state.as_ref())?;
            let configuration = Configuration {
                agent: config.agent.as_ref().map(|agent| agent.address),
                boot: Uuid::from_random(boot),
                policy: Policy::OPEN,
                gauges: parts.gauges,
                operations: limits.operations,
                door,
                dialling: agents.dialling.take(),
            };
            let state = parts.state.clone();
            let management = Rc::new(Management::new(configuration, control.clone(), state, clock.clone()));
            executor.add("operations", management::keep(management.clone()));
            if config.agent.is_some() {
                executor.add("networks", management::tend(management.clone()));
            }
            for _ in 0..limits.api_connections {
                let stream = service.stack().stream(limits.api_buffer, limits.api_buffer);
                executor.add("api", management::serve(stream, api.port, management.clone()));
            }
            let mut first = Some(agents);
            let mut turn = Rc::new(Signal::new());
            for _ in 0..AGENT_LINKS {
                let stream = host.stack().stream(limits.api_buffer, limits.api_buffer);
                let (management, clock, agents) = (management.clone(), clock.clone(), first.take());
                let next = Rc::new(Signal::new());
                let before = core::mem::replace(&mut turn, next.clone());
                executor.add("agent", async move {
                    match agents {
                        Some(mut agents) => agents.keep(&clock).await,
                        None => before.wait().await,
                    }
                    next.raise();
                    management::link(stream, management).await;
                });
            }
        }
        Ok(Self { host, service, executor, state: parts.state, control, profile, ending: Ending::default() })
    }

    /// One turn: what arrived goes in, tasks run, what they said goes out.
    pub fn turn(&mut self, now: Instant) -> Next {
        self.profile.enter(Stage::Stack);
        self.host.receive(now);
        self.service.receive(now);
        self.profile.enter(Stage::Other);
        self.executor.run_ready(now);
        if let Some(state) = &self.state {
            state.turn(now);
        }
        if self.ending.is_asked() {
            self.go_on_ending(now);
        }
        self.profile.enter(Stage::Stack);
        let more = self.host.transmit(now) | self.service.transmit(now);
        self.profile.enter(Stage::Other);
        if self.ending.is_parting() {
            self.part(now, more);
        }
        // Whatever came meanwhile is waiting in a NIC, or has made a task ready. A NIC is asked for a wake-up only when it has
        // nothing: under load nobody is woken.
        if more || self.executor.has_ready() || self.host.arm() || self.service.arm() {
            return Next::Again;
        }
        if self.state.as_ref().is_some_and(Records::arm) {
            return Next::Again;
        }
        let deadlines = [
            self.host.next_deadline(now),
            self.service.next_deadline(now),
            self.executor.next_deadline(),
            self.state.as_ref().and_then(Records::next_deadline),
            self.ending.deadline(now),
        ];
        self.profile.enter(Stage::Idle);
        Next::Idle(deadlines.into_iter().flatten().min())
    }

    /// The ground is asked to end: nobody is let in any more, initiators are asked to log out, disks are flushed and left,
    /// every connection ends, and what was said has left the NICs. It takes as long as initiators and services do, and no
    /// longer than `within` in all; then, or when all has gone, [`Self::has_ended`] says so. To be asked again changes nothing.
    pub fn end(&mut self, within: Duration, now: Instant) {
        if !self.ending.is_asked() {
            log::info!(target: "corbel", "asked to end, within {} seconds", within.as_secs());
            self.control.drain(self.ending.ask(within, now));
        }
    }

    /// Whether the appliance has ended as it was asked to; another turn does nothing.
    pub fn has_ended(&self) -> bool {
        self.ending == Ending::Ended
    }

    fn go_on_ending(&mut self, now: Instant) {
        let is_drained = self.control.is_drained() && !self.state.as_ref().is_some_and(Records::is_busy);
        if self.ending.leave(now, is_drained) {
            if !is_drained {
                log::warn!("some initiators or storage services have not let go in time");
            }
            // Nobody says anything any more, or dials again; what was said is still sent.
            self.executor = Executor::new(0);
            [self.host.stack(), self.service.stack()].iter().for_each(Stack::close);
        }
    }

    /// Whether it is over, when sockets have sent what they had, unless they have `more`. What is still in a NIC would be lost
    /// with the machine, and a peer that does not hear that its connection has ended keeps it.
    fn part(&mut self, now: Instant, more: bool) {
        let are_closed = !more && self.host.stack().is_closed() && self.service.stack().is_closed();
        // Both are asked, whatever the first says.
        let has_sent = self.host.has_sent() & self.service.has_sent();
        if self.ending.part(now, are_closed && has_sent) {
            log::info!(target: "corbel", "ended");
        }
    }

    /// The two NICs, for a ground that waits on them.
    pub fn nics(&self) -> (&H, &S) {
        (self.host.nic().inner(), self.service.nic().inner())
    }
}

/// The appliance's name as a writer, unless it was given one: its address on the service network is its own.
fn owner(mac: [u8; 6]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How often the ground is asked for the time of day.
const LOOK: Duration = Duration::from_secs(60);
/// What a clock may be put ahead by without a word.
const SMALL: u64 = 5;

/// Follow the time of day as the ground knows it.
async fn follow(day: Day, tell: Tell, clock: Clock) {
    loop {
        clock.sleep(LOOK).await;
        let Some(seconds) = tell() else { continue };
        match day.told(seconds, clock.now()) {
            None | Some(Correction::Held(_)) => {}
            Some(Correction::Ahead(by)) if by <= SMALL => {}
            Some(Correction::Ahead(by)) => log::warn!("the clock was {by} seconds slow, and is put ahead"),
            Some(Correction::Back(by)) => log::warn!(
                "the clock was {by} seconds fast, and is put back: what was signed before is refused"
            ),
        }
    }
}

/// What it takes to speak TLS to anybody.
pub(crate) struct Voice {
    pub(crate) crypto: Crypto,
    /// The time of day; `None` where nobody knows it.
    pub(crate) day: Option<Day>,
}

impl Voice {
    /// `None` when nobody is spoken to in TLS.
    fn new(config: &Config, secrets: Option<Secrets>, now: Instant) -> Result<Option<Self>, String> {
        let api = config.api.as_ref().and_then(|api| api.lock.as_ref());
        let uses = [("tls", config.tls.as_ref()), ("api.tls", api.map(|lock| &lock.tls))];
        let agent = config.agent.as_ref().and_then(|agent| agent.pin).map(|_| "agent.pin".to_string());
        let anchors = |(prefix, tls): &(&str, Option<_>)| tls.is_some().then(|| format!("{prefix}.anchors"));
        let Some(key) = uses.iter().find_map(anchors).or(agent) else { return Ok(None) };
        let Some(Secrets { random, time, .. }) = secrets else {
            return Err(format!("configuration: {key}: there is no randomness here to make secrets of"));
        };
        for (prefix, tls) in uses {
            match (tls.map(|tls| tls.dates), time) {
                (None, _) | (_, Some(_)) => {}
                (Some(Dates::MustBeChecked), None) => {
                    let reason = "this machine does not know the time, so no date can be checked";
                    return Err(format!("configuration: {prefix}.dates: {reason}"));
                }
                (Some(Dates::CheckedWhenTimeIsKnown), None) => {
                    log::warn!(
                        "{prefix}: the time is not known here: the dates of certificates are not checked"
                    );
                }
            }
        }
        let crypto =
            Crypto::new(Box::new(random)).map_err(|error| format!("configuration: {key}: {error}"))?;
        Ok(Some(Self { crypto, day: time.map(|time| Day::new(time, now)) }))
    }
}

/// What it takes to speak TLS to storage services as the configuration wants it.
fn speak(tls: &Tls, voice: &Voice, limits: &Limits) -> Result<storage::Tls, String> {
    let fail = |key: &str, reason: &dyn ToString| format!("configuration: tls.{key}: {}", reason.to_string());
    let anchors = Anchors::from_der(tls.anchors.clone()).map_err(|error| fail("anchors", &error))?;
    let identity = tls.identity.clone().map(|(chain, key)| Identity::from_der(chain, key)).transpose();
    let identity = identity.map_err(|error| fail("key", &error))?;
    let config = ClientConfig::new(&voice.crypto, &anchors, identity, tls.dates);
    let config = config.map_err(|error| fail("certificate", &error))?;
    Ok(storage::Tls { config, buffers: limits.tls_buffers, day: voice.day.clone() })
}

/// Expose what the configuration asks for.
fn expose(config: &Config, control: &Control) -> Result<(), String> {
    if let Some(access) = &config.discovery {
        control
            .guard_discovery(access.clone())
            .map_err(|error| format!("configuration: discovery.{error}"))?;
    }
    for (index, target) in config.targets.iter().enumerate() {
        control.expose(target.clone()).map_err(|error| format!("configuration: target.{index}: {error}"))?;
    }
    Ok(())
}
