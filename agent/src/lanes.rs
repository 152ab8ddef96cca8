//! The engine (`agent_engine`), driven: its journal in a file, its jobs by threads, so that a hypervisor that hangs holds
//! up the thread that waits for it and nobody else.

mod workers;

use crate::directory::RunDirectory;
use crate::hypervisor::Hypervisor;
use crate::journal::Journal;
use crate::{locked, random_uuid};
use agent_engine::{CrashPoint, Engine, Fault, Host, Known, Limits, Page, Reply, Ticket};
use agent_protocol::{
    Action, Backend, Bytes, CONSOLE_BYTES_MAX, Command, ConsolePage, Event, Facility, Failure, Hello,
    ImageName, InstanceId, OpId, Outcome, Refusal, Stats, Text, Uuid, Verb,
};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use workers::{Crash, Workers};

/// How long a sender is made to wait for an outcome, before it is told that the command is under way.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long whoever looks is made to wait for a hypervisor.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// How long whoever lists is made to wait for the journal.
const JOURNAL_TIME: Duration = Duration::from_secs(2);
/// How long the agent waits for its hypervisors to be read when it starts; those that hang are unknown until they answer.
const ADOPT_TIME: Duration = Duration::from_secs(4);
/// How long it waits for what is under way when it ends.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// By how much the journal's numbers go on from one that was damaged: more than any appliance takes for its history.
const LEAP: u64 = 1 << 40;
/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(50);
/// How many requests may wait at once; others are answered with what is known, so that lists always find room.
const WAITERS_MAX: usize = 24;

/// All instances of this host.
pub(crate) struct Lanes {
    started: Instant,
    engine: Mutex<Engine>,
    /// Something has changed in the engine.
    changed: Condvar,
    workers: Workers,
    backends: Vec<Arc<dyn Hypervisor>>,
    described: Vec<Backend>,
    /// Held for as long as anything here can write to it.
    _directory: RunDirectory,
    crash: Crash,
    waiters: AtomicUsize,
    /// Nobody is made to wait any more.
    hurry: AtomicBool,
    closing: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    /// The instances that the run directory knows of, as they are now.
    pub(crate) fn open(
        directory: RunDirectory,
        backends: Vec<Arc<dyn Hypervisor>>,
        boot: Uuid,
    ) -> io::Result<Arc<Self>> {
        let (journal, found) = Journal::open(&directory.below("journal"))?;
        let described: Vec<Backend> = backends.iter().map(|backend| backend.describe()).collect();
        let hosts = backends.iter().zip(&described);
        let hosts =
            hosts.map(|(backend, described)| Host { backend: described.clone(), images: backend.images() });
        let mut engine = Engine::new(boot, hosts.collect(), Limits::DEFAULT);
        let mut head = 0;
        for line in found.batches {
            head = line.last;
            line.entries.into_iter().for_each(|entry| engine.replay(entry));
        }
        let damaged = !found.damaged.is_empty();
        if damaged {
            // A head that is far from the one before tells the appliance, also when much was written since.
            head = head.saturating_add(LEAP);
            engine.doubt();
        }
        // A journal that is damaged or gone does not tell which machines there are.
        if !damaged && head > 0 {
            let known = engine.uuids().collect();
            backends.iter().for_each(|backend| backend.sweep(&known));
        }
        engine.open(head, 0);
        let lanes = Arc::new(Self {
            started: Instant::now(),
            engine: Mutex::new(engine),
            changed: Condvar::new(),
            workers: Workers::default(),
            backends,
            described,
            _directory: directory,
            crash: Crash::from_environment().map_err(io::Error::other)?,
            waiters: AtomicUsize::new(0),
            hurry: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        lanes.start(journal)?;
        lanes.wait(lanes.engine(), ADOPT_TIME, |engine| (!engine.is_cold()).then_some(()));
        Ok(lanes)
    }

    fn start(self: &Arc<Self>, journal: Journal) -> io::Result<()> {
        let writer = self.clone();
        self.thread("journal", move || writer.write(journal))?;
        let ticker = self.clone();
        self.thread("clock", move || ticker.tick())?;
        for backend in &self.backends {
            let (watcher, backend) = (self.clone(), backend.clone());
            self.thread("watch", move || watcher.watch(&*backend))?;
        }
        self.hand_out(&mut self.engine());
        Ok(())
    }

    fn thread(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(body)?;
        locked(&self.threads).push(thread);
        Ok(())
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        locked(&self.engine)
    }

    /// Milliseconds since this run of the agent began: the clock of the protocol.
    pub(crate) fn clock_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The hypervisors, and what they can do.
    pub(crate) fn described(&self) -> &[Backend] {
        &self.described
    }

    /// Every image of every hypervisor, sorted.
    pub(crate) fn images(&self) -> Vec<ImageName> {
        self.engine().images()
    }

    /// Wait until `ready` has something to say, `within` at most and only while there is room to wait.
    fn wait<'a, T>(
        &'a self,
        engine: MutexGuard<'a, Engine>,
        within: Duration,
        mut ready: impl FnMut(&Engine) -> Option<T>,
    ) -> Option<T> {
        let mut outcome = ready(&engine);
        if outcome.is_none() {
            if self.waiters.fetch_add(1, Ordering::AcqRel) < WAITERS_MAX {
                outcome = self.wait_anyway(engine, within, ready);
            }
            self.waiters.fetch_sub(1, Ordering::AcqRel);
        }
        outcome
    }

    /// The same however many wait.
    fn wait_anyway<'a, T>(
        &'a self,
        mut engine: MutexGuard<'a, Engine>,
        within: Duration,
        mut ready: impl FnMut(&Engine) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + within;
        loop {
            let outcome = ready(&engine);
            let left = until.saturating_duration_since(Instant::now());
            if outcome.is_some() || left.is_zero() || self.hurry.load(Ordering::Acquire) {
                return outcome;
            }
            engine = self.changed.wait_timeout(engine, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether everything up to that entry is durable, or becomes so in a moment.
    fn is_durable(&self, number: u64) -> bool {
        let durable = |engine: &Engine| engine.is_durable(number).then_some(());
        // However many wait for machines: an appliance that takes over must not find all places taken.
        self.wait_anyway(self.engine(), JOURNAL_TIME, durable).is_some()
    }

    /// The epoch of an appliance, and the head of the journal; `key` names the one it came with, if it needed one.
    ///
    /// # Errors
    /// Another appliance has taken over; or, without a refusal, the journal cannot be written.
    pub(crate) fn hello(&self, hello: &Hello, key: Option<&Text>) -> Result<(u64, u64), Option<Refusal>> {
        let granted = {
            let mut engine = self.engine();
            let granted = engine.hello(hello, key);
            self.hand_out(&mut engine);
            granted
        };
        let (epoch, after) = granted.map_err(Some)?;
        // What cannot be kept is not granted: another run of the agent would grant it again.
        // The head is the one that is durable: a larger one might be smaller after a crash.
        if self.is_durable(after) { Ok((epoch, after)) } else { Err(None) }
    }

    /// The epoch that was granted last, and the appliance it was granted to.
    pub(crate) fn rule(&self) -> (u64, Option<Uuid>) {
        let engine = self.engine();
        (engine.epoch(), engine.holder())
    }

    /// Only those who have one of these keys may command.
    pub(crate) fn believe(&self, keys: &[Text]) {
        let mut engine = self.engine();
        engine.believe(keys);
        self.hand_out(&mut engine);
    }

    /// What changes whenever the instances do.
    pub(crate) fn digest(&self) -> u64 {
        self.engine().digest()
    }

    /// Carry out a command, unless it came before; what is to be told of it after that time, or a long one if none is said.
    pub(crate) fn execute(&self, command: &Command, within: Option<Duration>) -> Told {
        let Ok(random) = random_uuid() else {
            let detail = Text::new("no random numbers can be had");
            return Told::Final(Outcome::Failed { code: Failure::Storage, detail, instance: None });
        };
        let mut engine = self.engine();
        let reply = engine.command(command, self.clock_ms(), random.0);
        self.hand_out(&mut engine);
        match reply {
            Reply::Now(outcome) => Told::Final(outcome),
            Reply::Later => self.outcome(engine, command, within.unwrap_or(ANSWER_TIME)),
            Reply::Looking(ticket) => {
                let within = within.unwrap_or(LOOK_TIME);
                let seen = self.wait(engine, within, |engine| engine.described(&ticket));
                let before = || Told::Meanwhile(self.engine().described_now(&command.instance));
                seen.map_or_else(before, Told::Final)
            }
        }
    }

    fn outcome(&self, engine: MutexGuard<'_, Engine>, command: &Command, within: Duration) -> Told {
        let op_id = &command.op_id;
        let told = self.told(engine, op_id, within).unwrap_or_else(|| {
            let detail = Text::new("it was forgotten while it was waited for");
            Told::Final(Outcome::Indeterminate { detail })
        });
        let words = match &told {
            Told::Final(outcome) => summary(outcome),
            Told::Meanwhile(_) => "under way".to_owned(),
        };
        log::info!("{op_id}: {} {}: {words}", command.action.verb(), command.instance);
        told
    }

    /// What can be told of a command, as soon as it is final or the time is over; `None` if it never came.
    fn told(&self, engine: MutexGuard<'_, Engine>, op_id: &OpId, within: Duration) -> Option<Told> {
        let told = self.wait(engine, within, |engine| match engine.outcome(op_id) {
            Known::Ended(outcome) | Known::Accepted(outcome) => Some(Some(Told::Final(outcome))),
            Known::Never => Some(None),
            Known::Working(_) => None,
        });
        told.unwrap_or_else(|| match self.engine().outcome(op_id) {
            Known::Never => None,
            Known::Working(outcome) => Some(Told::Meanwhile(outcome)),
            Known::Accepted(outcome) | Known::Ended(outcome) => Some(Told::Final(outcome)),
        })
    }

    /// What became of a command that was sent before; `None` if it never came.
    pub(crate) fn recall(&self, op_id: &OpId, within: Duration) -> Option<Told> {
        self.told(self.engine(), op_id, within)
    }

    /// Up to `limit` instances after that name, as they were last seen, without asking anybody.
    pub(crate) fn instances(&self, after: Option<&InstanceId>, limit: usize) -> Page {
        let page = self.engine().instances(after, limit);
        // What a crash could undo is not told. When the journal cannot be written for long, it is better than nothing.
        self.is_durable(page.after);
        page
    }

    /// Events after that number, waited for if there are none: they, what to ask after next, whether some were missed.
    pub(crate) fn events(&self, after: u64, limit: usize, within: Duration) -> (Vec<Event>, u64, bool) {
        let page = self.wait(self.engine(), within, |engine| {
            let page = engine.events(after, limit);
            (!page.0.is_empty() || page.2).then_some(page)
        });
        page.unwrap_or_else(|| self.engine().events(after, limit))
    }

    /// Why the hypervisor of an instance does not provide a facility, if it does not.
    pub(crate) fn lacks(&self, id: &InstanceId, facility: Facility) -> Option<String> {
        self.engine().lacks(id, facility)
    }

    /// What an instance has used; `None` when the hypervisor has not said so in time.
    ///
    /// # Errors
    /// There is no such instance or nothing of it runs; or the hypervisor does not say.
    pub(crate) fn stats(
        &self,
        id: &InstanceId,
        within: Option<Duration>,
    ) -> Result<Option<Result<Stats, Fault>>, Refusal> {
        let mut engine = self.engine();
        let ticket: Ticket = engine.ask_stats(id, self.clock_ms())?;
        self.hand_out(&mut engine);
        Ok(self.wait(engine, within.unwrap_or(LOOK_TIME), |engine| engine.used(&ticket)))
    }

    /// What a guest wrote to its console after the first `after` bytes, of what is kept.
    ///
    /// # Errors
    /// There is no such instance, nothing of it runs, or the agent has no console of it.
    pub(crate) fn console(&self, id: &InstanceId, after: u64) -> Result<ConsolePage, Refusal> {
        let (backend, machine) = self.engine().machine(id)?;
        let page = self.backends[backend].console(&machine, after, CONSOLE_BYTES_MAX);
        let page = page.ok_or(Refusal::Impossible)?;
        let next = page.from + page.bytes.len() as u64;
        Ok(ConsolePage { from: page.from, next, data: Bytes(page.bytes) })
    }

    /// Let nobody wait any longer: the agent is about to end.
    pub(crate) fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// End every machine, for an agent that is told not to leave them.
    pub(crate) fn end_all(&self) {
        let living = self.engine().living();
        let Ok(Uuid(run)) = random_uuid() else { return };
        let names: Vec<OpId> = (0..living.len())
            .filter_map(|number| format!("agent-ends-{:016x}-{number}", run as u64).parse().ok())
            .collect();
        {
            let mut engine = self.engine();
            for (op_id, id) in names.iter().zip(living) {
                // By nobody but the operator, in the place of whoever commands.
                let epoch = Some(engine.epoch()).filter(|epoch| *epoch > 0);
                let command = Command { epoch, ..Command::new(op_id.clone(), id, Action::Terminate {}) };
                engine.command(&command, self.clock_ms(), 0);
            }
            self.hand_out(&mut engine);
        }
        let until = Instant::now() + ANSWER_TIME;
        while Instant::now() < until {
            let over = |op_id: &OpId| !matches!(self.engine().outcome(op_id), Known::Working(_));
            if names.iter().all(over) {
                break;
            }
            std::thread::sleep(TICK);
        }
        for op_id in &names {
            if let Some(Told::Final(outcome) | Told::Meanwhile(outcome)) = self.recall(op_id, Duration::ZERO)
            {
                log::info!("{op_id}: {} {}", Verb::Terminate, summary(&outcome));
            }
        }
    }

    /// Let nothing more begin, and end the threads once what is under way has come back and is written down.
    pub(crate) fn close(&self) {
        self.hurry();
        self.workers.close();
        // They could take half an hour, and a guest that is held for one would be held on.
        self.backends.iter().for_each(|backend| backend.call_all_off());
        let until = Instant::now() + LEAVE_TIME;
        while self.workers.is_busy() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        {
            // With the lock held, so that nobody goes to sleep in between.
            let _engine = self.engine();
            self.closing.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        for thread in locked(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

/// What is told of a command.
pub(crate) enum Told {
    /// This came of it, or the guest was asked and has its time.
    Final(Outcome),
    /// It is under way, and this is how it stands.
    Meanwhile(Outcome),
}

/// An outcome in a few words, for the log.
fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { changed: true, instance, .. } => format!("done, {}", instance.state),
        Outcome::Done { changed: false, .. } => "nothing to do".to_owned(),
        Outcome::Accepted { .. } => "accepted".to_owned(),
        Outcome::Refused { code, .. } => format!("refused, {}", code.as_str()),
        Outcome::Failed { code, detail, .. } => format!("failed, {}: {detail}", code.as_str()),
        Outcome::Indeterminate { detail } => format!("indeterminate: {detail}"),
    }
}

/// The environment variable that names a place at which the agent is to be killed, for tests.
pub(crate) const CRASH_VARIABLE: &str = "CORBEL_AGENT_CRASH";

/// The places by their names.
pub(crate) fn crash_point(name: &str) -> Option<CrashPoint> {
    CrashPoint::ALL.iter().copied().find(|point| point.as_str() == name)
}
