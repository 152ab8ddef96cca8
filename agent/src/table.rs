//! The instances: one lane each, and what a command does to the one it names.
//!
//! A lane is a lock: commands to one instance are carried out one after another, and a hung one holds up nobody else.
//! What is listed is the lane's view, under a lock of its own that is never held while a hypervisor is waited for.

use crate::hypervisor::{Evidence, Fault, Hypervisor, Machine, Step};
use crate::operations::{Begin, Operations, summary};
use crate::record::{Record, RunDirectory};
use crate::{locked, random_uuid};
use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{
    Action, Command, Failure, ImageName, Instance, InstanceId, OpId, Outcome, Refusal, Size, State, Text,
    Then, Uuid, Verb,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a hypervisor may take to start a machine.
const START_TIME: Duration = Duration::from_secs(15);
/// How long it may take to end one.
const END_TIME: Duration = Duration::from_secs(5);
/// How long it may take for anything else.
const QUICK_TIME: Duration = Duration::from_secs(3);
/// The most instances, those not counted that were terminated.
const INSTANCES_MAX: usize = 1024;
/// How many terminated instances are remembered.
const TOMBSTONES_MAX: usize = 256;
/// The longest time a guest may be given to shut down.
const STOP_TIME_MAX: Duration = Duration::from_secs(3600);

/// All instances of this host.
pub(crate) struct Table {
    started: Instant,
    backends: Vec<Arc<dyn Hypervisor>>,
    directory: RunDirectory,
    lanes: Mutex<BTreeMap<InstanceId, Arc<Lane>>>,
    operations: Mutex<Operations>,
}

struct Lane {
    machine: Machine,
    backend: Arc<dyn Hypervisor>,
    /// Held while a command is carried out.
    work: Mutex<()>,
    view: Mutex<Instance>,
    /// A guest was asked to shut down and has not done so yet.
    stop: Mutex<Option<PendingStop>>,
}

#[derive(Clone)]
struct PendingStop {
    op_id: OpId,
    deadline: Instant,
    then: Then,
}

impl Table {
    /// The instances that the run directory knows of, as they are now.
    pub(crate) fn open(directory: RunDirectory, backends: Vec<Arc<dyn Hypervisor>>) -> io::Result<Self> {
        let table = Self {
            started: Instant::now(),
            backends,
            directory,
            lanes: Mutex::default(),
            operations: Mutex::default(),
        };
        for record in table.directory.records()? {
            table.take_over(record);
        }
        Ok(table)
    }

    fn take_over(&self, record: Record) {
        let Some(backend) = self.backends.iter().find(|backend| backend.name() == record.hypervisor) else {
            log::warn!("{}: there is no hypervisor {:?} any more", record.id, record.hypervisor);
            return;
        };
        let machine = Machine::new(record.id.clone(), record.uuid, record.image);
        let lane = Arc::new(self.lane(machine, backend.clone(), record.state, record.generation));
        locked(&lane.view).reason = record.reason;
        if record.state != State::Terminated {
            let found = backend.adopt(&lane.machine, QUICK_TIME);
            // An instance that had stopped before keeps the reason it stopped for.
            if found.state != State::Stopped || !matches!(record.state, State::Stopped | State::Failed) {
                self.set(&lane, found.state, found.reason);
            }
            log::info!("{}: taken over, {}", record.id, locked(&lane.view).state);
        }
        locked(&self.lanes).insert(record.id, lane);
    }

    fn lane(&self, machine: Machine, backend: Arc<dyn Hypervisor>, state: State, generation: u64) -> Lane {
        let now = self.clock_ms();
        let view = Instance {
            id: machine.id.clone(),
            uuid: machine.uuid,
            image: machine.image.clone(),
            hypervisor: Text::new(backend.name()),
            size: Size::default(),
            volumes: Vec::new(),
            nics: Vec::new(),
            initiator: machine.initiator(),
            state,
            reason: None,
            generation,
            since_ms: now,
            observed_ms: now,
        };
        Lane { machine, backend, work: Mutex::new(()), view: Mutex::new(view), stop: Mutex::new(None) }
    }

    /// Milliseconds since this run of the agent began: the clock of the protocol.
    pub(crate) fn clock_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The run directory.
    pub(crate) fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// The hypervisors.
    pub(crate) fn backends(&self) -> &[Arc<dyn Hypervisor>] {
        &self.backends
    }

    /// Every instance as it was last seen, without asking anybody.
    pub(crate) fn instances(&self) -> Vec<Instance> {
        locked(&self.lanes).values().map(|lane| locked(&lane.view).clone()).collect()
    }

    /// Every image of every hypervisor, sorted.
    pub(crate) fn images(&self) -> Vec<ImageName> {
        let mut images: Vec<_> = self.backends.iter().flat_map(|backend| backend.images()).collect();
        images.sort();
        images.dedup();
        images
    }

    /// What became of a command that was sent before; `None` if it never came.
    pub(crate) fn recall(&self, op_id: &OpId) -> Option<Outcome> {
        let (instance, outcome) = {
            let operations = locked(&self.operations);
            let (command, outcome) = operations.get(op_id)?;
            (command.instance.clone(), outcome.cloned())
        };
        Some(match outcome {
            // What was accepted is told with the instance as it is now.
            None | Some(Outcome::Accepted { .. }) => self.under_way(&instance),
            Some(outcome) => outcome,
        })
    }

    /// What became of this very command, if it came before.
    pub(crate) fn recognise(&self, command: &Command) -> Option<Outcome> {
        let same = {
            let operations = locked(&self.operations);
            operations.get(&command.op_id).is_some_and(|(before, _)| before.same_request(command))
        };
        if same { self.recall(&command.op_id) } else { None }
    }

    fn under_way(&self, instance: &InstanceId) -> Outcome {
        match self.find(instance) {
            Some(lane) => Outcome::Accepted { instance: locked(&lane.view).clone() },
            None => Outcome::Indeterminate { detail: Text::new("it is still being carried out") },
        }
    }

    fn find(&self, id: &InstanceId) -> Option<Arc<Lane>> {
        locked(&self.lanes).get(id).cloned()
    }

    /// Carry out a command, unless it came before.
    pub(crate) fn execute(&self, command: &Command) -> Outcome {
        if command.action.verb() == Verb::Describe {
            return self.describe(command);
        }
        let begun = locked(&self.operations).begin(command);
        match begun {
            Begin::New => {}
            Begin::Repeated(Some(outcome)) if !matches!(*outcome, Outcome::Accepted { .. }) => {
                return *outcome;
            }
            Begin::Repeated(_) => return self.under_way(&command.instance),
            Begin::Reused => return refused(Refusal::OpIdReused, "that operation is another command", None),
            Begin::Full => return refused(Refusal::Full, "too many commands are under way", None),
        }
        let outcome = match &command.action {
            Action::Create { image, start, .. } => self.create(command, image, *start),
            _ => self.carry_out(command),
        };
        log::info!(
            "{}: {} {}: {}",
            command.op_id,
            command.action.verb(),
            command.instance,
            summary(&outcome)
        );
        let mut operations = locked(&self.operations);
        // A stop may have ended before it got here.
        let overtaken = matches!(outcome, Outcome::Accepted { .. })
            && operations.get(&command.op_id).is_some_and(|(_, outcome)| outcome.is_some());
        if !overtaken {
            operations.finish(&command.op_id, outcome.clone());
        }
        outcome
    }

    fn create(&self, command: &Command, image: &ImageName, start: bool) -> Outcome {
        let Some(backend) = self.backends.iter().find(|backend| backend.images().contains(image)) else {
            return refused(Refusal::UnknownImage, format!("there is no image {image}"), None);
        };
        let mut lanes = locked(&self.lanes);
        let before = lanes.get(&command.instance).map(|lane| locked(&lane.view).clone());
        if let Some(before) = &before
            && let Effect::Refuse(code) = effect(before.state, Verb::Create)
        {
            return refused(code, format!("{} is already there", before.id), Some(before.clone()));
        }
        if let Some(outcome) = unfit(command, before.as_ref(), self.clock_ms()) {
            return outcome;
        }
        let living = lanes.values().filter(|lane| locked(&lane.view).state != State::Terminated).count();
        if living >= INSTANCES_MAX {
            return refused(Refusal::Full, format!("there are already {living} instances"), None);
        }
        let Ok(uuid) = random_uuid() else {
            return failed(Fault::new(Failure::Storage, "no random numbers can be had"), None);
        };
        let machine = Machine::new(command.instance.clone(), uuid, image.clone());
        let generation = before.map_or(1, |before| before.generation + 1);
        let lane = Arc::new(self.lane(machine, backend.clone(), State::Stopped, generation));
        let _work = locked(&lane.work);
        let replaced = lanes.insert(command.instance.clone(), lane.clone());
        drop(lanes);
        if let Err(error) = self.keep(&lane) {
            let mut lanes = locked(&self.lanes);
            match replaced {
                Some(tombstone) => lanes.insert(command.instance.clone(), tombstone),
                None => lanes.remove(&command.instance),
            };
            return failed(Fault::new(Failure::Storage, error.to_string()), None);
        }
        if start { self.start(&lane) } else { done(&lane, true, vec![Text::new("its record is written")]) }
    }

    fn carry_out(&self, command: &Command) -> Outcome {
        let Some(lane) = self.find(&command.instance) else {
            return refused(
                Refusal::UnknownInstance,
                format!("there is no instance {}", command.instance),
                None,
            );
        };
        let _work = locked(&lane.work);
        self.reconcile(&lane);
        let view = locked(&lane.view).clone();
        if let Some(outcome) = unfit(command, Some(&view), self.clock_ms()) {
            return outcome;
        }
        let verb = command.action.verb();
        match effect(view.state, verb) {
            Effect::Refuse(Refusal::Terminated) => {
                refused(Refusal::Terminated, format!("{} is already terminated", view.id), Some(view))
            }
            Effect::Refuse(code) => {
                refused(code, format!("{verb}: {} is {}", view.id, view.state), Some(view))
            }
            Effect::Already => done(&lane, false, vec![Text::new(&format!("it is {} already", view.state))]),
            Effect::Change(_) | Effect::Keep => self.change(&lane, command),
        }
    }

    /// Carry out a command that makes sense, with the lane held.
    fn change(&self, lane: &Lane, command: &Command) -> Outcome {
        let (backend, machine) = (&lane.backend, &lane.machine);
        match &command.action {
            Action::Start {} => self.start(lane),
            Action::Pause {} => {
                self.settle(lane, State::Paused, backend.perform(machine, &Step::Pause, QUICK_TIME))
            }
            Action::Resume {} => {
                self.settle(lane, State::Running, backend.perform(machine, &Step::Resume, QUICK_TIME))
            }
            Action::Stop { graceful: true, timeout_ms, then } => {
                let patience = Duration::from_millis(u64::from(*timeout_ms)).min(STOP_TIME_MAX);
                let stop = PendingStop {
                    op_id: command.op_id.clone(),
                    deadline: Instant::now() + patience,
                    then: *then,
                };
                self.ask_to_stop(lane, stop)
            }
            Action::Stop { graceful: false, .. } => {
                self.set(lane, State::Stopping, None);
                self.end(lane, State::Stopped)
            }
            Action::Terminate {} => {
                self.set(lane, State::ShuttingDown, None);
                let outcome = self.end(lane, State::Terminated);
                self.prune();
                outcome
            }
            // Neither is a change; the life cycle never leads here.
            Action::Create { .. } | Action::Describe {} => done(lane, false, Vec::new()),
            _ => {
                refused(Refusal::Impossible, "this agent cannot do it yet", Some(locked(&lane.view).clone()))
            }
        }
    }

    fn start(&self, lane: &Lane) -> Outcome {
        self.set(lane, State::Pending, None);
        let outcome = lane.backend.perform(&lane.machine, &Step::Start, START_TIME);
        self.settle(lane, State::Running, outcome)
    }

    fn ask_to_stop(&self, lane: &Lane, stop: PendingStop) -> Outcome {
        match lane.backend.perform(&lane.machine, &Step::AskToStop, QUICK_TIME) {
            Ok(_) => {
                *locked(&lane.stop) = Some(stop);
                self.set(lane, State::Stopping, None);
                Outcome::Accepted { instance: locked(&lane.view).clone() }
            }
            Err(fault) => self.settle(lane, State::Stopping, Err(fault)),
        }
    }

    /// End what runs of it, and leave it in `state`.
    fn end(&self, lane: &Lane, state: State) -> Outcome {
        match lane.backend.perform(&lane.machine, &Step::End, END_TIME) {
            Ok(evidence) => {
                if state == State::Terminated {
                    lane.backend.forget(&lane.machine);
                }
                self.set_ended(lane, Some(state), None, &evidence);
                done(lane, true, evidence)
            }
            Err(fault) => {
                self.set(lane, State::Unknown, Some(fault.detail.clone()));
                failed(fault, Some(lane))
            }
        }
    }

    /// Set the state that a command has led to: `state`, or after a fault the one that is observed.
    fn settle(&self, lane: &Lane, state: State, outcome: Result<Evidence, Fault>) -> Outcome {
        match outcome {
            Ok(evidence) => {
                self.set(lane, state, None);
                done(lane, true, evidence)
            }
            Err(fault) => {
                self.reconcile(lane);
                let observed = lane.backend.observe(&lane.machine, QUICK_TIME);
                match observed.state {
                    // Nothing of it runs, and that is not what was asked for.
                    State::Stopped => self.set(lane, State::Failed, Some(fault.detail.clone())),
                    state => self.set(lane, state, observed.reason),
                }
                failed(fault, Some(lane))
            }
        }
    }

    fn describe(&self, command: &Command) -> Outcome {
        let Some(lane) = self.find(&command.instance) else {
            return refused(
                Refusal::UnknownInstance,
                format!("there is no instance {}", command.instance),
                None,
            );
        };
        // While a command is carried out the monitor is taken, and the view is as fresh as it gets.
        if let Ok(_work) = lane.work.try_lock() {
            self.reconcile(&lane);
            let state = locked(&lane.view).state;
            if !matches!(state, State::Stopped | State::Terminated | State::Failed) {
                let observed = lane.backend.observe(&lane.machine, QUICK_TIME);
                let stopping = observed.state == State::Running && locked(&lane.stop).is_some();
                self.set(&lane, if stopping { State::Stopping } else { observed.state }, observed.reason);
            }
        }
        done(&lane, false, Vec::new())
    }

    /// Take notice of a machine that ended by itself. The lane is held.
    fn reconcile(&self, lane: &Lane) {
        let Some(ended) = lane.backend.bury(&lane.machine) else { return };
        log::info!("{}: {}", lane.machine.id, ended.how);
        let next = match locked(&lane.view).state {
            State::Failed | State::Terminated => None,
            State::Stopping => Some(State::Stopped),
            _ if ended.orderly => Some(State::Stopped),
            _ => Some(State::Failed),
        };
        self.set_ended(lane, next, Some(ended.how.clone()), &vec![ended.how]);
    }

    /// Set the state in which what ran has ended, and answer whoever waits for the guest to shut down. In one step: who
    /// sees the machine stopped and then asks for the stop hears that it is done.
    fn set_ended(&self, lane: &Lane, state: Option<State>, reason: Option<Text>, evidence: &Evidence) {
        let news = {
            let mut operations = locked(&self.operations);
            let news = state.is_some_and(|state| self.show(lane, state, reason));
            let pending = locked(&lane.stop).take();
            if let Some(stop) = pending {
                operations.finish(&stop.op_id, done(lane, true, evidence.clone()));
            }
            news
        };
        if news {
            self.keep_or_warn(lane);
        }
    }

    fn set(&self, lane: &Lane, state: State, reason: Option<Text>) {
        if self.show(lane, state, reason) {
            self.keep_or_warn(lane);
        }
    }

    /// Let it be seen like this; whether that is new.
    fn show(&self, lane: &Lane, state: State, reason: Option<Text>) -> bool {
        let mut view = locked(&lane.view);
        let now = self.clock_ms();
        view.observed_ms = now;
        if view.state == state && view.reason == reason {
            return false;
        }
        if view.state != state {
            view.generation += 1;
            view.since_ms = now;
        }
        view.state = state;
        view.reason = reason;
        true
    }

    fn keep_or_warn(&self, lane: &Lane) {
        if let Err(error) = self.keep(lane) {
            log::warn!("{}: its record cannot be written: {error}", lane.machine.id);
        }
    }

    fn keep(&self, lane: &Lane) -> io::Result<()> {
        let view = locked(&lane.view).clone();
        self.directory.keep(&Record {
            id: view.id,
            uuid: view.uuid,
            image: view.image,
            hypervisor: lane.backend.name().to_owned(),
            generation: view.generation,
            state: view.state,
            reason: view.reason,
        })
    }

    /// Forget the oldest of those that were terminated, when there are too many.
    fn prune(&self) {
        let mut lanes = locked(&self.lanes);
        let mut buried: Vec<(u64, InstanceId)> = lanes
            .values()
            .map(|lane| locked(&lane.view))
            .filter(|view| view.state == State::Terminated)
            .map(|view| (view.since_ms, view.id.clone()))
            .collect();
        buried.sort_unstable();
        for (_, id) in buried.iter().take(buried.len().saturating_sub(TOMBSTONES_MAX)) {
            lanes.remove(id);
            self.directory.remove(id);
        }
    }

    /// One round of watching: machines that ended by themselves, and guests that did not shut down in time. Takes about
    /// as long as `within`.
    pub(crate) fn watch(self: &Arc<Self>, within: Duration) {
        let share = within / u32::try_from(self.backends.len().max(1)).unwrap_or(1);
        let ended: Vec<Uuid> =
            self.backends.iter().flat_map(|backend| backend.wait_for_ends(share)).collect();
        let lanes: Vec<Arc<Lane>> = locked(&self.lanes).values().cloned().collect();
        let mut busy = false;
        for lane in lanes {
            if ended.contains(&lane.machine.uuid) {
                match lane.work.try_lock() {
                    Ok(_work) => self.reconcile(&lane),
                    // The command that holds the lane will see for itself.
                    Err(_) => busy = true,
                }
            }
            let due = locked(&lane.stop).take_if(|stop| stop.deadline <= Instant::now());
            if let Some(stop) = due {
                let (table, held, again) = (self.clone(), lane.clone(), stop.clone());
                let act = move || table.stop_is_due(&held, stop);
                if std::thread::Builder::new().name("stop".into()).spawn(act).is_err() {
                    // It is still due in the next round.
                    locked(&lane.stop).get_or_insert(again);
                }
            }
        }
        if busy || self.backends.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The guest has had its time.
    fn stop_is_due(&self, lane: &Lane, stop: PendingStop) {
        let _work = locked(&lane.work);
        self.reconcile(lane);
        let outcome = if locked(&lane.view).state != State::Stopping {
            done(lane, true, vec![Text::new("it ended meanwhile")])
        } else if stop.then == Then::Force {
            match self.end(lane, State::Stopped) {
                Outcome::Done { instance, mut evidence, .. } => {
                    evidence.insert(0, Text::new("the guest did not shut down in time; its power was cut"));
                    Outcome::Done { changed: true, instance, evidence }
                }
                outcome => outcome,
            }
        } else {
            let fault =
                Fault::new(Failure::GuestIgnored, "the guest did not shut down in time; it was left running");
            self.settle(lane, State::Running, Err(fault))
        };
        log::info!("{}: stop {}: {}", stop.op_id, lane.machine.id, summary(&outcome));
        locked(&self.operations).finish(&stop.op_id, outcome);
    }

    /// End every machine, for an agent that is told not to leave them.
    pub(crate) fn end_all(&self) {
        let lanes: Vec<Arc<Lane>> = locked(&self.lanes).values().cloned().collect();
        for lane in lanes {
            let _work = locked(&lane.work);
            if locked(&lane.view).state != State::Terminated {
                self.set(&lane, State::ShuttingDown, None);
                let outcome = self.end(&lane, State::Terminated);
                log::info!("{}: {}", lane.machine.id, summary(&outcome));
            }
        }
    }
}

/// Why a command may not touch an instance that stands like this now, as far as the command says so itself.
fn unfit(command: &Command, view: Option<&Instance>, now_ms: u64) -> Option<Outcome> {
    if command.deadline_ms.is_some_and(|deadline| now_ms > deadline) {
        return Some(refused(Refusal::Expired, "its deadline has passed", view.cloned()));
    }
    let wanted = &command.precondition;
    let holds = match view {
        None => wanted.is_empty(),
        Some(view) => {
            wanted.uuid.is_none_or(|uuid| uuid == view.uuid)
                && wanted.generation.is_none_or(|generation| generation == view.generation)
                && wanted.state.is_none_or(|state| state == view.state)
        }
    };
    let detail = "the instance is not what the command expects";
    (!holds).then(|| refused(Refusal::PreconditionFailed, detail, view.cloned()))
}

fn done(lane: &Lane, changed: bool, evidence: Evidence) -> Outcome {
    Outcome::Done { changed, instance: locked(&lane.view).clone(), evidence }
}

fn refused(code: Refusal, detail: impl AsRef<str>, instance: Option<Instance>) -> Outcome {
    Outcome::Refused { code, detail: Text::new(detail.as_ref()), instance }
}

fn failed(fault: Fault, lane: Option<&Lane>) -> Outcome {
    let instance = lane.map(|lane| locked(&lane.view).clone());
    Outcome::Failed { code: fault.code, detail: fault.detail, instance }
}
