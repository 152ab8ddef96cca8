//! The engine: what it holds, and what goes in and out.

use agent_protocol::{Backend, EventKind, ImageName, InstanceId, OpId, Outcome, Refusal, Text, Uuid};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::events::Ring;
use crate::lane::{Lane, Purpose};
use crate::memory::{Memory, Stage};
use crate::{Entry, Fault, Job, Record, Task};

/// How much is kept, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances, those not counted that were terminated.
    pub instances: usize,
    /// Terminated instances whose names are remembered.
    pub tombstones: usize,
    /// Commands that are remembered.
    pub operations: usize,
    /// Commands that wait for one instance, those not counted that are forced.
    pub queue: usize,
    /// Events that can be replayed.
    pub events: usize,
    /// For how long a sender may ask again about a command: no younger one is forgotten, in milliseconds.
    pub retry_ms: u64,
    /// After how long a command that has ended is forgotten in any case, in milliseconds.
    pub keep_ms: u64,
}

impl Limits {
    /// For one host.
    pub const DEFAULT: Self = Self {
        instances: 1024,
        tombstones: 256,
        operations: 16 * 1024,
        queue: 16,
        events: 16 * 1024,
        retry_ms: 10 * 60 * 1000,
        keep_ms: 24 * 60 * 60 * 1000,
    };
}

/// A hypervisor, as the engine needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What it can do. A verb it does not name is one it cannot.
    pub backend: Backend,
    /// The images it can make instances of.
    pub images: Vec<ImageName>,
}

/// Entries of the journal that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the last of them, for [`Engine::durable`].
    pub last: u64,
    /// They.
    pub entries: Vec<Entry>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This, at once.
    Now(Outcome),
    /// What [`Engine::outcome`] says, in due time.
    Later,
    /// What [`Engine::described`] says, once the instance was looked at.
    Looking(Ticket),
}

/// Stands for a look at an instance that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) id: InstanceId,
    pub(crate) uuid: Uuid,
    pub(crate) number: u64,
}

impl Ticket {
    /// Which instance is looked at.
    pub const fn instance(&self) -> &InstanceId {
        &self.id
    }
}

/// What is known of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It never came, or was forgotten since.
    Never,
    /// It is being carried out, and there is nothing to tell yet; if somebody must be told, this.
    Working(Outcome),
    /// The guest was asked; this is to be told, and the end will be told later.
    Accepted(Outcome),
    /// It is over.
    Ended(Outcome),
}

/// The engine of one agent.
pub struct Engine {
    pub(crate) boot: Uuid,
    pub(crate) limits: Limits,
    pub(crate) hosts: Vec<Host>,
    pub(crate) epoch: u64,
    pub(crate) holder: Option<Uuid>,
    /// The key of the holder, if it had to prove who it is.
    pub(crate) key: Option<Text>,
    pub(crate) superseded: VecDeque<Uuid>,
    /// The keys of those that were replaced by one with another.
    pub(crate) replaced: VecDeque<Text>,
    pub(crate) memory: Memory,
    pub(crate) lanes: BTreeMap<InstanceId, Lane>,
    pub(crate) events: Ring,
    pub(crate) now_ms: u64,
    /// Entries that nobody has taken yet, the number of the last one, and of the last one that is durable.
    journal: Vec<Entry>,
    pub(crate) head: u64,
    pub(crate) durable: u64,
    /// The journal cannot be written at present.
    pub(crate) stuck: bool,
    /// What is to be done, each with the entry that must be durable before.
    jobs: VecDeque<(u64, Job)>,
    /// What is being done, and for which incarnation.
    pub(crate) out: BTreeMap<u64, (InstanceId, Uuid)>,
    last_job: u64,
}

impl Engine {
    /// The engine of the run `boot` of an agent with these hypervisors, for [`Engine::replay`] and [`Engine::open`].
    pub fn new(boot: Uuid, hosts: Vec<Host>, limits: Limits) -> Self {
        Self {
            boot,
            limits,
            hosts,
            epoch: 0,
            holder: None,
            key: None,
            superseded: VecDeque::new(),
            replaced: VecDeque::new(),
            memory: Memory::default(),
            lanes: BTreeMap::new(),
            events: Ring::new(limits.events),
            now_ms: 0,
            journal: Vec::new(),
            head: 0,
            durable: 0,
            stuck: false,
            jobs: VecDeque::new(),
            out: BTreeMap::new(),
            last_job: 0,
        }
    }

    /// The entries that are to be made durable next, if there are any.
    pub fn take(&mut self) -> Option<Batch> {
        if self.journal.is_empty() {
            return None;
        }
        Some(Batch { last: self.head, entries: core::mem::take(&mut self.journal) })
    }

    /// All entries up to this number are durable.
    pub fn durable(&mut self, last: u64) {
        self.durable = self.durable.max(last.min(self.head));
    }

    /// Whether the journal cannot be written at present. Then commands are refused before anything is done.
    pub const fn set_stuck(&mut self, stuck: bool) {
        self.stuck = stuck;
    }

    /// The number of the last entry of the journal. What is listed may be told once it is durable.
    pub const fn head(&self) -> u64 {
        self.head
    }

    /// The number of the last durable entry.
    pub const fn is_durable(&self, number: u64) -> bool {
        number <= self.durable
    }

    /// Whether there is something to take or to do.
    pub fn has_news(&self) -> bool {
        !self.journal.is_empty() || !self.jobs.is_empty()
    }

    /// The epoch that was granted last.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The appliance that it was granted to.
    pub const fn holder(&self) -> Option<Uuid> {
        self.holder
    }

    /// Something to do, if what it rests on is durable.
    pub fn next_job(&mut self) -> Option<Job> {
        let index = self.jobs.iter().position(|(after, _)| *after <= self.durable)?;
        self.jobs.remove(index).map(|(_, job)| job)
    }

    /// What is known of a command.
    pub fn outcome(&self, op_id: &OpId) -> Known {
        let Some(operation) = self.memory.get(op_id) else { return Known::Never };
        match &operation.stage {
            Stage::Ended(outcome, after) if *after <= self.durable => {
                return Known::Ended((**outcome).clone());
            }
            _ => {}
        }
        let meanwhile = match self.lanes.get(&operation.instance) {
            Some(lane) => Outcome::Accepted { instance: lane.instance() },
            None => Outcome::Indeterminate { detail: Text::new("it is still being carried out") },
        };
        match &operation.stage {
            Stage::Asked(_, after) if *after <= self.durable => Known::Accepted(meanwhile),
            _ => Known::Working(meanwhile),
        }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        self.head += 1;
        self.journal.push(entry);
    }

    /// Write down an instance as it is now, and tell of it.
    pub(crate) fn keep(&mut self, id: &InstanceId, kind: EventKind, op_id: Option<&OpId>) {
        let Some(record) = self.lanes.get(id).map(|lane| lane.record.clone()) else { return };
        self.append(Entry::Instance { record: record.clone().into() });
        let detail = record.reason.clone();
        self.events.add(self.head, self.now_ms, &record, kind, op_id.cloned(), detail);
    }

    /// A command is over.
    pub(crate) fn finish(&mut self, op_id: &OpId, outcome: Outcome) {
        let Some(id) = self.memory.get(op_id).map(|operation| operation.instance.clone()) else { return };
        if !self.memory.end(op_id, outcome.clone(), self.head + 1) {
            return;
        }
        self.append(Entry::Done { op_id: op_id.clone(), outcome: outcome.into() });
        if let Some(record) = self.lanes.get(&id).map(|lane| lane.record.clone()) {
            self.events.add(self.head, self.now_ms, &record, EventKind::Operation, Some(op_id.clone()), None);
        }
    }

    pub(crate) fn refuse(&mut self, op_id: &OpId, code: Refusal, detail: &str) {
        let id = self.memory.get(op_id).map(|operation| operation.instance.clone());
        let instance = id.and_then(|id| self.lanes.get(&id)).map(Lane::instance);
        self.finish(op_id, refused(code, detail, instance));
    }

    pub(crate) fn fail(&mut self, id: &InstanceId, op_id: &OpId, fault: Fault) {
        let instance = self.lanes.get(id).map(Lane::instance);
        self.finish(op_id, Outcome::Failed { code: fault.code, detail: fault.detail, instance });
    }

    pub(crate) fn done(&mut self, id: &InstanceId, op_id: &OpId, changed: bool, evidence: Vec<Text>) {
        if let Some(instance) = self.lanes.get(id).map(Lane::instance) {
            self.finish(op_id, Outcome::Done { changed, instance, evidence });
        }
    }

    /// What became of a command cannot be known: from here on its instance can only be looked at and ended.
    pub(crate) fn freeze(&mut self, id: &InstanceId, op_id: &OpId, detail: &str) {
        let detail = Text::new(detail);
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.record.frozen = Some(detail.clone());
            lane.record.generation += 1;
        }
        self.keep(id, EventKind::State, Some(op_id));
        self.finish(op_id, Outcome::Indeterminate { detail });
    }

    /// Hand out a job for a lane that has none out.
    pub(crate) fn hand_out(&mut self, id: &InstanceId, purpose: Purpose, task: Task, within_ms: u32) {
        let after = if matches!(task, Task::Perform(_) | Task::Remove) { self.head } else { 0 };
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let Some(backend) = lane.backend else { return };
        let number = self.next_job_number();
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if matches!(task, Task::Look | Task::Adopt) {
            lane.looks.0 += 1;
            lane.wants_look = false;
        }
        lane.job = Some((number, purpose));
        self.out.insert(number, (id.clone(), lane.record.uuid));
        let job = Job { id: number, backend, machine: lane.record.machine(), task, within_ms };
        self.jobs.push_back((after, job));
    }

    pub(crate) const fn next_job_number(&mut self) -> u64 {
        self.last_job += 1;
        self.last_job
    }

    /// Hand out a job beside those of the lanes, once all is durable that was decided until now.
    pub(crate) fn push_job(&mut self, job: Job) {
        self.jobs.push_back((self.head, job));
    }

    pub(crate) fn record(&self, id: &InstanceId) -> Option<&Record> {
        self.lanes.get(id).map(|lane| &lane.record)
    }
}

pub(crate) fn refused(code: Refusal, detail: &str, instance: Option<agent_protocol::Instance>) -> Outcome {
    Outcome::Refused { code, detail: Text::new(detail), instance }
}
