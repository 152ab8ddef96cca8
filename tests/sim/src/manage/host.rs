//! The host: the agent's real engine with a journal on a disk that forgets what was not synced, driven in virtual time.

use super::Bug;
use super::check::Check;
use super::hypervisor::Hypervisor;
use super::net::{ACCEPTOR, Event, Net};
use super::networks::Networks;
use crate::random::Random;
use agent_engine::{
    Batch, CrashPoint, Engine, Entry, Host as Backend, Job, Known, Limits, Reply, Report, Task, Ticket,
};
use agent_protocol::{
    Answer, Capability, Command, EventPage, Facility, Hello, Inventory, OpId, Outcome, Provision, Support,
    Text, Uuid, VERSION, Verb, Welcome, decode, encode, path,
};
use kernel_runtime::Instant;
use management_http::{Limits as HttpLimits, Method, Request, Response, Server};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often the agent's clock is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long an answer waits for a command before it tells that it is under way.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The agent's process, the disk with its journal, and what it drives.
pub(crate) struct Host {
    net: Rc<Net>,
    random: Random,
    bug: Option<Bug>,
    /// What is on the disk for good.
    journal: Vec<Entry>,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) networks: Networks,
    run: Option<Run>,
    runs: u64,
    /// The agent dies the next time that it comes by there.
    pub(crate) crash_at: Option<CrashPoint>,
    pub(crate) down: Duration,
    /// The hypervisor of the machine that a command is for dies the next time that it comes by there.
    pub(crate) die_at: Option<CrashPoint>,
    /// Commands by name, and of the command that has begun last the machine it is for.
    commands: BTreeMap<String, Command>,
    begun: BTreeMap<String, String>,
    /// The machine of each instance, as of the last job for it.
    machines: BTreeMap<String, u128>,
}

/// One life of the agent.
struct Run {
    number: u64,
    boot: Uuid,
    born: Instant,
    engine: Engine,
    servers: BTreeMap<usize, Server>,
    syncing: Option<Batch>,
    jobs: BTreeMap<u64, (Job, Report)>,
    waiting: Vec<(usize, Waiting)>,
    /// A planted bug: what has failed is told as done.
    lies: bool,
}

/// What an answer waits for.
enum Waiting {
    /// An operation: until when, and whether a preliminary answer is understood.
    Command(OpId, Instant, bool),
    Look(OpId, Ticket, Instant, bool),
    Welcome(u64, u64),
    Listed(u64, Vec<u8>),
}

impl Host {
    pub(crate) fn new(net: &Rc<Net>, mut random: Random, bug: Option<Bug>) -> Self {
        let random = random.fork();
        Self {
            net: net.clone(),
            random,
            bug,
            journal: Vec::new(),
            hypervisor: Hypervisor::new(bug == Some(Bug::HastyDetach)),
            networks: Networks::new(bug == Some(Bug::LostMap)),
            run: None,
            runs: 0,
            crash_at: None,
            down: Duration::ZERO,
            die_at: None,
            commands: BTreeMap::new(),
            begun: BTreeMap::new(),
            machines: BTreeMap::new(),
        }
    }

    /// The agent starts, if it is the time of this run of it.
    pub(crate) fn start(&mut self, run: u64, check: &mut Check) {
        if self.run.is_some() || run != self.runs + 1 {
            return;
        }
        self.runs = run;
        let boot = Uuid::from_random(u128::from(self.random.next()) << 64 | u128::from(run));
        let mut engine = Engine::new(boot, vec![backend()], Limits { operations: 512, ..Limits::DEFAULT });
        for entry in &self.journal {
            let of_command =
                !matches!(entry, Entry::Epoch { .. } | Entry::Replaced { .. } | Entry::Instance { .. });
            if self.bug != Some(Bug::Amnesia) || !of_command {
                engine.replay(entry.clone());
            }
        }
        engine.open(self.journal.len() as u64, 0);
        let born = self.net.now.get();
        log::debug!("agent: run {run} is up with {} entries", self.journal.len());
        self.run = Some(Run {
            number: run,
            boot,
            born,
            engine,
            servers: BTreeMap::new(),
            syncing: None,
            jobs: BTreeMap::new(),
            waiting: Vec::new(),
            lies: self.bug == Some(Bug::FalseDone),
        });
        self.net.agent_up.set(true);
        self.net.after(TICK, Event::Tick { run });
        self.pump(check);
    }

    /// The agent is killed. What the disk was just writing is there or not; calls that are out have had their effect.
    pub(crate) fn kill(&mut self, down: Duration, check: &mut Check) {
        let Some(run) = self.run.take() else { return };
        log::debug!("agent: run {} is killed", run.number);
        if let Some(batch) = run.syncing
            && self.random.chance(500)
        {
            self.note(&batch, check);
        }
        if self.bug == Some(Bug::LostSync) {
            let kept = self.journal.len().saturating_sub(self.random.below(3) as usize);
            self.journal.truncate(kept);
        }
        // With the host's power its networks go.
        if self.random.chance(250) {
            self.networks.lose();
        }
        self.net.agent_up.set(false);
        run.servers.keys().for_each(|conn| self.net.reset(*conn));
        self.net.after(down, Event::Agent { run: self.runs + 1 });
    }

    /// The agent ends where it is told to.
    fn passes(&mut self, entries: &[Entry], durable: bool, check: &mut Check) -> bool {
        let is_at = |entry: &&Entry| self.die_at.is_some() && CrashPoint::of(entry, durable) == self.die_at;
        let instance = entries.iter().find(is_at).map(|entry| match entry {
            Entry::Received { command } => Some(command.instance.to_string()),
            Entry::Begun { op_id, .. } | Entry::Asked { op_id } | Entry::Done { op_id, .. } => {
                self.commands.get(op_id.as_str()).map(|command| command.instance.to_string())
            }
            _ => None,
        });
        if let Some(instance) = instance {
            let machine = instance.and_then(|name| self.machines.get(&name).copied());
            self.fall(machine, check);
        }
        let point = self.crash_at;
        let is_there = entries.iter().any(|entry| point.is_some() && CrashPoint::of(entry, durable) == point);
        if is_there {
            self.crash_at = None;
            self.kill(self.down, check);
        }
        is_there
    }

    /// The hypervisor of a machine dies, as it was to.
    fn fall(&mut self, machine: Option<u128>, check: &mut Check) {
        self.die_at = None;
        if let Some(machine) = machine {
            log::debug!("the hypervisor of {machine:x} dies");
            self.hypervisor.fall(machine, self.net.now.get());
            check.happened(self.hypervisor.news());
        }
    }

    /// In what the agent's word about its instances differs from how they are, where all is known of what they were
    /// commanded to.
    pub(crate) fn untrue(&self, check: &Check) -> Option<String> {
        let run = self.run.as_ref()?;
        let page = run.engine.instances(None, 100);
        let runs = |one: &&agent_protocol::Instance| {
            use agent_protocol::State::{Paused, Running, Stopping};
            matches!(one.state, Running | Paused | Stopping) && check.is_settled(one)
        };
        let difference = |one: &agent_protocol::Instance| {
            Some(format!("{}: {}", one.id, self.hypervisor.difference(one)?))
        };
        page.instances.iter().filter(runs).find_map(difference)
    }

    fn clock_ms(&self, run: &Run) -> u64 {
        u64::try_from(self.net.now.get().since(run.born).as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn tick(&mut self, number: u64, check: &mut Check) {
        let now = self.net.now.get();
        let Some(mut run) = self.run.take_if(|run| run.number == number) else { return };
        run.engine.tick(self.clock_ms(&run));
        self.hypervisor.pass(now);
        check.happened(self.hypervisor.news());
        self.run = Some(run);
        self.net.after(TICK, Event::Tick { run: number });
        self.pump(check);
    }

    /// Somebody has waited long enough.
    pub(crate) fn waited(&mut self, number: u64, check: &mut Check) {
        if self.run.as_ref().is_some_and(|run| run.number == number) {
            self.pump(check);
        }
    }

    pub(crate) fn synced(&mut self, number: u64, check: &mut Check) {
        let Some(batch) =
            self.run.as_mut().filter(|run| run.number == number).and_then(|run| run.syncing.take())
        else {
            return;
        };
        self.note(&batch, check);
        if let Some(run) = &mut self.run {
            run.engine.durable(batch.last);
        }
        if !self.passes(&batch.entries, true, check) {
            self.pump(check);
        }
    }

    pub(crate) fn came_back(&mut self, number: u64, job: u64, check: &mut Check) {
        let Some(mut run) = self.run.take_if(|run| run.number == number) else { return };
        let finished = run.jobs.remove(&job);
        let now = self.clock_ms(&run);
        self.run = Some(run);
        let Some((done, report)) = finished else { return };
        let report = self.hypervisor.conclude(&done, report, self.net.now.get());
        check.happened(self.hypervisor.news());
        let performed = matches!(done.task, Task::Perform(_));
        if performed && self.die_at == Some(CrashPoint::Performed) {
            self.fall(Some(done.machine.uuid.0), check);
        }
        if performed && self.crash_at == Some(CrashPoint::Performed) {
            self.crash_at = None;
            return self.kill(self.down, check);
        }
        if let Some(run) = &mut self.run {
            run.engine.report(job, report, now);
        }
        self.pump(check);
    }

    pub(crate) fn obey(&mut self, machine: u128, check: &mut Check) {
        let wait = self.hypervisor.obey(machine, self.net.now.get());
        check.happened(self.hypervisor.news());
        if let Some(wait) = wait {
            self.net.after(wait, Event::Guest { machine });
        }
    }

    /// Bytes have arrived.
    pub(crate) fn received(&mut self, conn: usize, mut bytes: &[u8], check: &mut Check) {
        let Some(run) = &mut self.run else { return self.net.reset(conn) };
        let engine =
            run.servers.entry(conn).or_insert_with(|| Server::new(HttpLimits::SERVER, Duration::ZERO));
        while !bytes.is_empty() {
            let space = engine.space();
            let count = space.len().min(bytes.len());
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            engine.received(Duration::ZERO, count);
            bytes = &bytes[count..];
        }
        let Some(mut engine) = run.servers.remove(&conn) else { return };
        let is_whole = engine.request().is_some();
        if is_whole {
            let answer = engine.request().map(|request| self.request(conn, &request, check));
            if let Some(Some(response)) = answer {
                self.respond(conn, &mut engine, &response);
            }
        }
        if let Some(run) = &mut self.run {
            run.servers.insert(conn, engine);
            self.pump(check);
        }
    }

    pub(crate) fn gone(&mut self, conn: usize) {
        if let Some(run) = &mut self.run {
            run.servers.remove(&conn);
            run.waiting.retain(|(other, _)| *other != conn);
        }
    }

    fn respond(&self, conn: usize, engine: &mut Server, response: &Response) {
        engine.respond(Duration::ZERO, response);
        let bytes = engine.transmit().to_vec();
        engine.transmitted(Duration::ZERO, bytes.len());
        self.net.write(conn, 1 - ACCEPTOR, &bytes);
    }

    /// A request to its answer; `None` if that has to wait.
    fn request(&mut self, conn: usize, request: &Request<'_>, check: &mut Check) -> Option<Response> {
        let mut run = self.run.take()?;
        let response = self.decide(&mut run, conn, request, check);
        self.run = Some(run);
        response
    }

    fn decide(
        &mut self,
        run: &mut Run,
        conn: usize,
        request: &Request<'_>,
        check: &mut Check,
    ) -> Option<Response> {
        let now = self.clock_ms(run);
        if let Some(rest) = request.path.strip_prefix(path::NETWORKS) {
            let rule = (run.engine.epoch(), run.engine.holder());
            return Some(self.networks.answer(rest.strip_prefix('/'), request, run.boot, rule));
        }
        let recalled = request.path.strip_prefix(path::COMMAND).and_then(|rest| rest.strip_prefix('/'));
        match (request.method, request.path) {
            (Method::Post, path::HELLO) => {
                let hello: Hello = decode(request.body).ok()?;
                match run.engine.hello(&hello, None) {
                    Ok((epoch, after)) => run.waiting.push((conn, Waiting::Welcome(epoch, after))),
                    Err(_) => {
                        let body =
                            br#"{"type":"urn:corbel:problem:stale-epoch","detail":"another has taken over"}"#;
                        return Some(Response::problem(409, body.to_vec()));
                    }
                }
                None
            }
            (Method::Post, path::COMMAND) => {
                let mut command: Command = decode(request.body).ok()?;
                check.arrived(&command, now);
                let op_id = command.op_id.clone();
                self.plant(&mut command, run.engine.epoch());
                let said = request.query.and_then(|query| query.strip_prefix("wait=")?.parse().ok());
                let patience = said.map_or(PATIENCE, Duration::from_millis);
                let until = self.net.now.get() + patience;
                match run.engine.command(&command, now, u128::from(self.random.next()) << 32 | 7) {
                    Reply::Now(outcome) => return Some(answer(run, now, &op_id, outcome)),
                    Reply::Later => run.waiting.push((conn, Waiting::Command(op_id, until, said.is_some()))),
                    Reply::Looking(ticket) => {
                        run.waiting.push((conn, Waiting::Look(op_id, ticket, until, said.is_some())));
                    }
                }
                self.net.after(patience, Event::Patience { run: run.number });
                None
            }
            (Method::Get, path::INVENTORY) => {
                let page = run.engine.instances(None, 100);
                let inventory = Inventory {
                    proto: VERSION,
                    agent_boot: run.boot,
                    clock_ms: now,
                    instances: page.instances,
                    images: run.engine.images(),
                    next: page.next,
                };
                run.waiting.push((conn, Waiting::Listed(page.after, encode(&inventory))));
                None
            }
            (Method::Get, path::EVENTS) => {
                let after = request.query?.strip_prefix("after=")?.parse().ok()?;
                let (events, next, missed) = run.engine.events(after, 100);
                let (proto, agent_boot, clock_ms) = (VERSION, run.boot, now);
                let page = EventPage { proto, agent_boot, clock_ms, events, next, missed };
                Some(Response::json(200, encode(&page)))
            }
            _ => {
                let op_id: OpId = recalled?.parse().ok()?;
                Some(match run.engine.outcome(&op_id) {
                    Known::Never => Response::problem(404, b"{}".to_vec()),
                    Known::Working(outcome) if request.query.is_some() => {
                        meanwhile(run, now, &op_id, outcome)
                    }
                    Known::Working(outcome) | Known::Accepted(outcome) | Known::Ended(outcome) => {
                        answer(run, now, &op_id, outcome)
                    }
                })
            }
        }
    }

    /// What a planted bug of the agent makes of a command.
    fn plant(&self, command: &mut Command, epoch: u64) {
        match self.bug {
            Some(Bug::NoDeadline) => command.deadline_ms = None,
            Some(Bug::NoFence) => command.epoch = Some(epoch),
            _ => {}
        }
    }

    /// Let the engine go on as far as it can without time passing.
    fn pump(&mut self, check: &mut Check) {
        let now = self.net.now.get();
        while let Some(mut run) = self.run.take() {
            let mut moved = false;
            if run.syncing.is_none()
                && let Some(batch) = run.engine.take()
            {
                let entries = batch.entries.clone();
                run.syncing = Some(batch);
                let time = Duration::from_micros(self.random.range(50, 5000));
                self.net.after(time, Event::Synced { run: run.number });
                self.run = Some(run);
                if self.passes(&entries, false, check) {
                    return;
                }
                continue;
            }
            while let Some(job) = run.engine.next_job() {
                moved = true;
                let op = self.begun.get(job.machine.id.as_str()).cloned();
                let op = op.filter(|_| matches!(job.task, Task::Perform(_) | Task::Remove));
                check.performs(op.as_deref(), &job);
                self.machines.insert(job.machine.id.to_string(), job.machine.uuid.0);
                if self.bug == Some(Bug::CallTwice) && self.random.chance(50) {
                    check.performs(op.as_deref(), &job);
                    self.hypervisor.carry(&job, op.as_deref(), &mut self.random, now);
                }
                let call = self.hypervisor.carry(&job, op.as_deref(), &mut self.random, now);
                check.happened(self.hypervisor.news());
                if let Some(wait) = call.goes_down {
                    self.net.after(wait, Event::Guest { machine: job.machine.uuid.0 });
                }
                let id = job.id;
                run.jobs.insert(id, (job, call.report));
                self.net.after(call.takes, Event::Job { run: run.number, job: id });
            }
            self.answer(&mut run);
            self.run = Some(run);
            if !moved {
                return;
            }
        }
    }

    /// The disk has it. That says which command a call belongs to, and what became of it.
    fn note(&mut self, batch: &Batch, check: &mut Check) {
        self.journal.extend(batch.entries.iter().cloned());
        for entry in &batch.entries {
            match entry {
                Entry::Epoch { epoch, .. } => check.granted(*epoch),
                Entry::Received { command } => {
                    check.received(command);
                    self.commands.insert(command.op_id.to_string(), (**command).clone());
                }
                Entry::Begun { op_id, .. } | Entry::Asked { op_id } => {
                    if let Some(command) = self.commands.get(op_id.as_str()) {
                        self.begun.insert(command.instance.to_string(), op_id.to_string());
                    }
                }
                Entry::Done { op_id, outcome } => check.concluded(op_id.as_str(), outcome),
                _ => {}
            }
        }
    }

    /// Answer whoever waits for what is known now.
    fn answer(&mut self, run: &mut Run) {
        let (now, clock_ms) = (self.net.now.get(), self.clock_ms(run));
        for (conn, waiting) in core::mem::take(&mut run.waiting) {
            let response = match &waiting {
                Waiting::Command(op_id, until, patient) => match run.engine.outcome(op_id) {
                    Known::Ended(outcome) | Known::Accepted(outcome) => {
                        Some(answer(run, clock_ms, op_id, outcome))
                    }
                    Known::Working(outcome) if now >= *until && *patient => {
                        Some(meanwhile(run, clock_ms, op_id, outcome))
                    }
                    Known::Working(outcome) if now >= *until => Some(answer(run, clock_ms, op_id, outcome)),
                    _ => None,
                },
                Waiting::Look(op_id, ticket, until, patient) => match run.engine.described(ticket) {
                    Some(outcome) => Some(answer(run, clock_ms, op_id, outcome)),
                    None if now >= *until && *patient => {
                        Some(meanwhile(run, clock_ms, op_id, run.engine.described_now(ticket.instance())))
                    }
                    None => None,
                },
                Waiting::Welcome(epoch, after) if run.engine.is_durable(*after) => {
                    Some(Response::json(200, encode(&self.welcome(run, clock_ms, *epoch))))
                }
                Waiting::Listed(after, body) if run.engine.is_durable(*after) => {
                    Some(Response::json(200, body.clone()))
                }
                _ => None,
            };
            match response {
                Some(response) => {
                    if let Some(mut engine) = run.servers.remove(&conn) {
                        self.respond(conn, &mut engine, &response);
                        run.servers.insert(conn, engine);
                    }
                }
                None => run.waiting.push((conn, waiting)),
            }
        }
    }

    fn welcome(&self, run: &Run, clock_ms: u64, epoch: u64) -> Welcome {
        Welcome {
            proto: VERSION,
            version: Text::new("sim"),
            agent_boot: run.boot,
            clock_ms,
            epoch,
            journal_head: run.engine.head(),
            inventory_digest: run.engine.digest(),
            backends: Vec::new(),
        }
    }
}

fn answer(run: &Run, clock_ms: u64, op_id: &OpId, outcome: Outcome) -> Response {
    let outcome = match outcome {
        Outcome::Failed { instance: Some(instance), detail, .. } if run.lies => {
            Outcome::Done { changed: true, instance, evidence: vec![detail] }
        }
        outcome => outcome,
    };
    let answer = Answer { proto: VERSION, op_id: op_id.clone(), agent_boot: run.boot, clock_ms, outcome };
    Response::json(200, encode(&answer))
}

/// The same of what is not final.
fn meanwhile(run: &Run, clock_ms: u64, op_id: &OpId, outcome: Outcome) -> Response {
    Response { status: 202, ..answer(run, clock_ms, op_id, outcome) }
}

/// A hypervisor that says that it can do everything.
fn backend() -> Backend {
    let capability =
        |verb: &Verb| Capability { verb: *verb, support: Support::Native, by: Text::new("a call") };
    let provision = |facility: &Facility| Provision {
        facility: *facility,
        support: Support::Native,
        by: Text::new("a call"),
    };
    Backend {
        backend: agent_protocol::Backend {
            name: Text::new("sim"),
            version: Text::new("1"),
            capabilities: Verb::ALL.iter().map(capability).collect(),
            facilities: Facility::ALL.iter().map(provision).collect(),
        },
        images: vec!["tiny".parse().expect("a name")],
    }
}
