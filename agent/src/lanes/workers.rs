//! The threads: one that writes the journal, one that knows the time, one that watches each hypervisor, and as many as
//! there are machines to wait for.

use super::{CRASH_VARIABLE, Lanes, TICK, crash_point};
use crate::hypervisor::{Hypervisor, Incident};
use crate::journal::Journal;
use crate::locked;
use agent_engine::{Batch, CrashPoint, Engine, Fault, Finding, Job, Report, Step, Task};
use agent_protocol::{Failure, State};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The most threads that wait for machines.
const WORKERS_MAX: usize = 256;
/// How long one waits for more to do before it ends.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// What a worker needs of stack.
const STACK: usize = 512 * 1024;
/// How long before a journal that cannot be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Jobs and who does them.
#[derive(Default)]
pub(super) struct Workers {
    pool: Mutex<Pool>,
    more: Condvar,
}

#[derive(Default)]
struct Pool {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Workers {
    /// Take no more jobs; those that have not begun are left to another run of the agent.
    pub(super) fn close(&self) {
        let mut pool = locked(&self.pool);
        pool.closed = true;
        pool.jobs.clear();
        drop(pool);
        self.more.notify_all();
    }

    /// Whether a job is being done.
    pub(super) fn is_busy(&self) -> bool {
        locked(&self.pool).threads > 0
    }
}

impl Lanes {
    /// Give what the engine has to do to the threads.
    pub(super) fn hand_out(self: &Lanes, engine: &mut Engine) {
        self.changed.notify_all();
        let mut pool = locked(&self.workers.pool);
        if pool.closed {
            return;
        }
        while let Some(job) = engine.next_job() {
            pool.jobs.push_back(job);
        }
        self.workers.more.notify_all();
    }

    /// See that there are threads enough for the jobs that wait.
    fn recruit(self: &Arc<Self>) {
        let mut pool = locked(&self.workers.pool);
        while !pool.closed && pool.jobs.len() > pool.idle && pool.threads < WORKERS_MAX {
            let lanes = self.clone();
            let builder = std::thread::Builder::new().name("lane".into()).stack_size(STACK);
            if let Err(error) = builder.spawn(move || lanes.work()) {
                log::warn!("no thread for a machine: {error}");
                break;
            }
            // It counts as idle until it has taken its first.
            pool.threads += 1;
            pool.idle += 1;
        }
    }

    fn work(self: &Arc<Self>) {
        let mut pool = locked(&self.workers.pool);
        loop {
            if let Some(job) = pool.jobs.pop_front() {
                pool.idle -= 1;
                drop(pool);
                self.carry_out(&job);
                pool = locked(&self.workers.pool);
                pool.idle += 1;
                continue;
            }
            if pool.closed {
                break;
            }
            let waited =
                self.workers.more.wait_timeout(pool, IDLE_TIME).unwrap_or_else(PoisonError::into_inner);
            pool = waited.0;
            if waited.1.timed_out() && pool.jobs.is_empty() {
                break;
            }
        }
        pool.threads -= 1;
        pool.idle -= 1;
    }

    fn carry_out(self: &Arc<Self>, job: &Job) {
        let backend = &*self.backends[job.backend];
        let report = perform(backend, job);
        if matches!(job.task, Task::Perform(_) | Task::Remove) {
            self.crash.pass(CrashPoint::Performed);
        }
        let mut engine = self.engine();
        engine.report(job.id, report, self.clock_ms());
        self.hand_out(&mut engine);
        drop(engine);
        self.recruit();
    }

    /// Write the journal until the agent ends.
    pub(super) fn write(self: &Arc<Self>, mut journal: Journal) {
        loop {
            let mut engine = self.engine();
            let batch = loop {
                self.hand_out(&mut engine);
                self.recruit();
                if let Some(batch) = engine.take() {
                    break batch;
                }
                if self.closing.load(Ordering::Acquire) {
                    return;
                }
                engine = self.changed.wait(engine).unwrap_or_else(PoisonError::into_inner);
            };
            let snapshot = journal.is_due().then(|| engine.snapshot());
            drop(engine);
            self.pass(&batch, false);
            let rewritten = snapshot.map(|entries| journal.rewrite(batch.last, entries));
            let written = match rewritten {
                Some(Ok(())) => Ok(()),
                Some(Err(error)) => {
                    log::warn!("the journal cannot be written anew: {error}");
                    journal.append(&batch)
                }
                None => journal.append(&batch),
            };
            if !self.persist(&mut journal, &batch, written) {
                return;
            }
            self.pass(&batch, true);
            self.engine().durable(batch.last);
        }
    }

    /// Try until it is written; whether it is, or the agent is to end.
    fn persist(&self, journal: &mut Journal, batch: &Batch, mut written: io::Result<()>) -> bool {
        while let Err(error) = written {
            log::error!("the journal cannot be written, so nothing is begun: {error}");
            self.engine().set_stuck(true);
            if self.closing.load(Ordering::Acquire) {
                return false;
            }
            std::thread::sleep(AGAIN);
            written = journal.append(batch);
            if written.is_ok() {
                self.engine().set_stuck(false);
            }
        }
        true
    }

    fn pass(&self, batch: &Batch, durable: bool) {
        batch
            .entries
            .iter()
            .filter_map(|entry| CrashPoint::of(entry, durable))
            .for_each(|point| self.crash.pass(point));
    }

    /// Let the engine know the time until the agent ends.
    pub(super) fn tick(self: &Arc<Self>) {
        while !self.closing.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
            let mut engine = self.engine();
            engine.tick(self.clock_ms());
            if engine.has_news() {
                self.hand_out(&mut engine);
            }
            drop(engine);
            self.recruit();
        }
    }

    /// Let the engine know what happens to machines until the agent ends.
    pub(super) fn watch(self: &Arc<Self>, backend: &dyn Hypervisor) {
        while !self.closing.load(Ordering::Acquire) {
            let changed = backend.wait_for_ends(Duration::from_millis(100));
            let incidents = backend.incidents();
            if changed.is_empty() && incidents.is_empty() {
                continue;
            }
            {
                let mut engine = self.engine();
                for Incident { uuid, kind, detail } in incidents {
                    engine.happened(uuid, kind, detail, self.clock_ms());
                }
                changed.iter().for_each(|uuid| engine.noticed(*uuid, self.clock_ms()));
                self.hand_out(&mut engine);
            }
            self.recruit();
            // Until it is looked at, it would be told again at once.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Do one thing for one machine.
fn perform(backend: &dyn Hypervisor, job: &Job) -> Report {
    let machine = &job.machine;
    let within = Duration::from_millis(job.within_ms.into());
    if job.task == Task::CallOff {
        backend.call_off(machine);
        return Report { ended: None, result: Finding::Performed(Ok(Vec::new())) };
    }
    if job.task == Task::Adopt {
        return Report { ended: None, result: Finding::Seen(backend.adopt(machine, within)) };
    }
    let mut ended = backend.bury(machine);
    let result = match &job.task {
        Task::Adopt | Task::CallOff | Task::Look => {
            let seen = backend.observe(machine, within);
            // It may have ended between the two: how it has is more than that it has.
            if seen.state == State::Stopped && ended.is_none() {
                ended = backend.bury(machine);
            }
            Finding::Seen(seen)
        }
        Task::Stats => Finding::Used(backend.stats(machine, within)),
        Task::Perform(step) => match &ended {
            Some(ended) if step.needs_running() => {
                Finding::Performed(Err(Fault::new(Failure::Ended, ended.how.as_str())))
            }
            _ => Finding::Performed(backend.perform(machine, step, within)),
        },
        Task::Remove => {
            let outcome = backend.perform(machine, &Step::End, within);
            if outcome.is_ok() {
                backend.forget(machine);
            }
            Finding::Performed(outcome)
        }
    };
    if let Some(ended) = &ended {
        log::info!("{}: {}", machine.id, ended.how);
    }
    Report { ended, result }
}

/// Has the agent killed at one place, or held there, so that a test can see what comes after.
#[derive(Default)]
pub(super) struct Crash {
    at: Option<CrashPoint>,
    left: AtomicUsize,
    orders: Option<PathBuf>,
}

impl Crash {
    /// As the environment says: the place, and after a colon the how-manieth time it is passed; or a file (with a slash in
    /// its name) that names the place once it is there.
    pub(super) fn from_environment() -> Result<Self, String> {
        let Some(text) = std::env::var_os(CRASH_VARIABLE) else { return Ok(Self::default()) };
        let text = text.to_string_lossy();
        if text.contains('/') {
            return Ok(Self { orders: Some(PathBuf::from(text.as_ref())), ..Self::default() });
        }
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        let wrong = || format!("{CRASH_VARIABLE}={text} is not PLACE, PLACE:TIMES or a file");
        let at = Some(crash_point(name).ok_or_else(wrong)?);
        Ok(Self { at, left: AtomicUsize::new(times.parse().map_err(|_| wrong())?), orders: None })
    }

    fn pass(&self, point: CrashPoint) {
        if self.at == Some(point) && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            end(Signal::KILL);
        }
        let Some(file) = &self.orders else { return };
        let Ok(order) = fs::read_to_string(file) else { return };
        let (name, held) = order.strip_suffix(" hold").map_or((&*order, false), |name| (name, true));
        // It is carried out once, whoever of the threads passes there.
        if point.as_str() == name && fs::remove_file(file).is_ok() {
            end(if held { Signal::STOP } else { Signal::KILL });
        }
    }
}

/// End, or be held until somebody lets it go on, as abruptly as from outside: nothing is flushed and nothing tidied.
fn end(signal: Signal) {
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    if signal == Signal::KILL {
        loop {
            std::thread::park();
        }
    }
}
