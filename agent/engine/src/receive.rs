//! Who may command, and what arrives.

use agent_protocol::{
    Action, Command, EventKind, Facility, Failure, Hello, InstanceId, Outcome, Refusal, State, Support, Text,
    Uuid, VERSION, Verb,
};
use alloc::format;
use alloc::string::String;

use crate::engine::refused;
use crate::lane::{Lane, Purpose};
use crate::memory::{digest, is_forced};
use crate::plan::{self, Plan};
use crate::{Engine, Entry, Known, Record, Reply, Step, Task, Ticket};

/// How many appliances that were replaced are remembered, and how many of their keys.
const SUPERSEDED_MAX: usize = 64;

impl Engine {
    /// The epoch of an appliance that presents itself, and the entry that must be durable before it is told. `key` names the
    /// key by which it has proved who it is, where it had to.
    ///
    /// One that brings the epoch it holds keeps it, unless a larger one was granted since. One that brings none takes over:
    /// it is granted the next one, and who held it before is refused from here on: by its boot, and by its key if that is
    /// another one, so that one that remembers nothing does not take it back by starting anew. One that has the holder's own
    /// key is the holder, started anew.
    ///
    /// # Errors
    /// Another appliance has taken over since.
    pub fn hello(&mut self, hello: &Hello, key: Option<&Text>) -> Result<(u64, u64), Refusal> {
        let appliance = hello.appliance_boot;
        if key.is_some_and(|key| self.replaced.contains(key)) {
            return Err(Refusal::StaleEpoch);
        }
        let next = match hello.epoch {
            Some(held) if held < self.epoch || held == u64::MAX => return Err(Refusal::StaleEpoch),
            // A larger one was granted by a journal that is lost.
            Some(held) => held,
            None if self.holder == Some(appliance) => self.epoch,
            None if self.superseded.contains(&appliance) => return Err(Refusal::StaleEpoch),
            None => self.epoch.checked_add(1).ok_or(Refusal::StaleEpoch)?,
        };
        if (self.epoch, self.holder, self.key.as_ref()) != (next, Some(appliance), key) {
            self.grant(next, appliance, key.cloned());
            self.append(Entry::Epoch { epoch: next, holder: appliance, key: key.cloned() });
        }
        Ok((next, self.head))
    }

    /// The operator has said who may command: whoever has one of these keys. A key that is not among them any more is
    /// forgotten, as one that was replaced too; and where it is the holder's, all of them are free to take over again.
    pub fn believe(&mut self, keys: &[Text]) {
        let holds = self.key.as_ref().is_none_or(|key| keys.contains(key));
        let before = self.replaced.len();
        self.replaced.retain(|key| holds && keys.contains(key));
        if self.replaced.len() < before {
            self.append(Entry::Replaced { keys: self.replaced.iter().cloned().collect() });
        }
    }

    pub(crate) fn grant(&mut self, epoch: u64, appliance: Uuid, key: Option<Text>) {
        let is_other = key.is_some() && self.key != key;
        let key_before = core::mem::replace(&mut self.key, key);
        if let Some(before) = key_before.filter(|_| is_other && epoch > self.epoch) {
            if self.replaced.len() >= SUPERSEDED_MAX {
                self.replaced.pop_front();
            }
            self.replaced.push_back(before);
        }
        let before = self.holder.replace(appliance).filter(|before| *before != appliance);
        // Within one epoch the same appliance has started anew.
        if let Some(before) = before.filter(|_| epoch > self.epoch) {
            if self.superseded.len() >= SUPERSEDED_MAX {
                self.superseded.pop_front();
            }
            self.superseded.push_back(before);
        }
        self.epoch = epoch;
    }

    /// A command has arrived at `now_ms` on the agent's clock. `random` is 128 fresh random bits, for what it may make.
    pub fn command(&mut self, command: &Command, now_ms: u64, random: u128) -> Reply {
        self.now_ms = now_ms;
        let before = self.memory.get(&command.op_id).map(|operation| operation.digest);
        // What was carried out before is told as it was, even to a sender that could not command it any more: a refusal
        // now would read as if nothing had been done.
        if before == Some(digest(command)) {
            return match self.outcome(&command.op_id) {
                Known::Ended(outcome) | Known::Accepted(outcome) => Reply::Now(outcome),
                _ => Reply::Later,
            };
        }
        if let Some((code, detail)) = self.screen(command) {
            return Reply::Now(refused(code, &detail, self.lanes.get(&command.instance).map(Lane::instance)));
        }
        if before.is_some() {
            return Reply::Now(refused(Refusal::OpIdReused, "that operation is another command", None));
        }
        if command.action.verb() == Verb::Describe {
            return self.describe(command);
        }
        if self.stuck {
            let detail = Text::new("the agent cannot write its journal; nothing was done");
            return Reply::Now(Outcome::Failed { code: Failure::Storage, detail, instance: None });
        }
        let forced = is_forced(command.action.verb());
        let waiting = self.lanes.get(&command.instance).map_or(0, |lane| lane.queue.len());
        let most = if forced { self.limits.queue.saturating_mul(2) } else { self.limits.queue };
        if waiting >= most || !self.memory.has_room(now_ms, &self.limits) {
            return Reply::Now(refused(Refusal::Full, "too many commands are under way", None));
        }
        self.memory.receive(command, now_ms);
        self.append(Entry::Received { command: command.clone().into() });
        self.admit(command, random);
        Reply::Later
    }

    /// What stops a command before anybody looks at its instance, now and for ever.
    fn screen(&self, command: &Command) -> Option<(Refusal, String)> {
        if command.proto != VERSION {
            return Some((Refusal::Version, format!("this agent speaks version {VERSION}")));
        }
        if let Some(field) = command.unknown_critical() {
            return Some((Refusal::UnknownCritical, format!("the critical field {field} is not understood")));
        }
        if command.agent_boot.is_some_and(|boot| boot != self.boot) {
            return Some((Refusal::StaleBoot, "the agent has started anew since".into()));
        }
        // A larger one was granted by a journal that is lost: who holds it has to say so before.
        match command.epoch {
            Some(epoch) if epoch != self.epoch => {
                return Some((Refusal::StaleEpoch, format!("{} is granted, and not {epoch}", self.epoch)));
            }
            // Whoever only looks needs none.
            None if self.epoch > 0 && command.action.verb() != Verb::Describe => {
                return Some((Refusal::StaleEpoch, format!("{} is granted, and it has none", self.epoch)));
            }
            _ => {}
        }
        if command.deadline_ms.is_some_and(|deadline| self.now_ms > deadline) {
            return Some((Refusal::Expired, "its deadline has passed".into()));
        }
        None
    }

    fn admit(&mut self, command: &Command, random: u128) {
        let verb = command.action.verb();
        let id = &command.instance;
        if let Action::Create { image, .. } | Action::MigratePrepare { image, .. } = &command.action {
            let place = self.hosts.iter().position(|host| host.images.contains(image));
            let Some(backend) = place else {
                return self.refuse(
                    &command.op_id,
                    Refusal::UnknownImage,
                    &format!("there is no image {image}"),
                );
            };
            if let Some(why) = self.impossible(backend, verb) {
                return self.refuse(&command.op_id, Refusal::Impossible, &why);
            }
            return self.create(command, backend, random);
        }
        let Some(lane) = self.lanes.get_mut(id) else {
            let detail = format!("there is no instance {id}");
            return self.refuse(&command.op_id, Refusal::UnknownInstance, &detail);
        };
        let backend = lane.backend;
        if is_forced(verb) {
            lane.queue.push_front(command.op_id.clone());
        } else {
            lane.queue.push_back(command.op_id.clone());
        }
        let why = match backend {
            _ if self.record(id).is_some_and(|record| record.state == State::Terminated) => None,
            None => Some("there is no such hypervisor any more".into()),
            Some(backend) => self.impossible(backend, verb),
        };
        if let Some(why) = why {
            self.unqueue(id, command);
            return self.refuse(&command.op_id, Refusal::Impossible, &why);
        }
        if is_forced(verb) || verb == Verb::MigrateCancel {
            self.call_off(id, &command.op_id);
        }
        self.advance(id);
    }

    fn unqueue(&mut self, id: &InstanceId, command: &Command) {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.queue.retain(|op_id| *op_id != command.op_id);
        }
    }

    /// Why a hypervisor cannot do it, if it cannot.
    fn impossible(&self, backend: usize, verb: Verb) -> Option<String> {
        let capabilities = &self.hosts.get(backend)?.backend.capabilities;
        match capabilities.iter().find(|capability| capability.verb == verb) {
            Some(capability) if capability.support != Support::Impossible => None,
            Some(capability) => Some(format!("{verb}: {}", capability.by)),
            None => Some(format!("{verb}: the hypervisor does not say that it can")),
        }
    }

    /// Why the hypervisor of an instance does not provide a facility, if it does not. Of an instance that there is not, or not
    /// any more, that is not why.
    pub fn lacks(&self, id: &InstanceId, facility: Facility) -> Option<String> {
        let lane = self.lanes.get(id).filter(|lane| lane.record.state != State::Terminated)?;
        let facilities = &self.hosts.get(lane.backend?)?.backend.facilities;
        match facilities.iter().find(|provision| provision.facility == facility) {
            Some(provision) if provision.support != Support::Impossible => None,
            Some(provision) => Some(format!("{facility}: {}", provision.by)),
            None => Some(format!("{facility}: the hypervisor does not say that it can")),
        }
    }

    fn create(&mut self, command: &Command, backend: usize, random: u128) {
        let (Action::Create { image, .. } | Action::MigratePrepare { image, .. }) = &command.action else {
            return;
        };
        let id = &command.instance;
        let arrives = match &command.action {
            Action::MigratePrepare { uuid, .. } => Some(*uuid),
            _ => None,
        };
        // What was ordered for it before goes with it.
        let mut parts = None;
        if let Some(lane) = self.lanes.get(id) {
            let record = &lane.record;
            let may_become = arrives.is_some() && record.fresh && record.image == *image && lane.is_idle();
            if may_become && record.state == State::Stopped {
                parts = Some((record.size, record.volumes.clone(), record.nics.clone()));
            } else if record.state != State::Terminated {
                let detail = format!("{id} is already there");
                return self.refuse(&command.op_id, Refusal::AlreadyExists, &detail);
            }
            if let Plan::Refuse(code, detail) = plan::plan(command, &lane.record) {
                return self.refuse(&command.op_id, code, &detail);
            }
        } else if !command.precondition.is_empty() {
            return self.refuse(&command.op_id, Refusal::PreconditionFailed, "there is no such instance");
        }
        let is_other = |lane: &&Lane| lane.record.id != *id && lane.record.state != State::Terminated;
        if let Some(other) =
            self.lanes.values().filter(is_other).find(|lane| Some(lane.record.uuid) == arrives)
        {
            let detail = format!("that is the UUID of {}", other.record.id);
            return self.refuse(&command.op_id, Refusal::AlreadyExists, &detail);
        }
        let living = self.lanes.values().filter(|lane| lane.record.state != State::Terminated).count();
        if parts.is_none() && living >= self.limits.instances {
            let detail = format!("there are already {living} instances");
            return self.refuse(&command.op_id, Refusal::Full, &detail);
        }
        let (mut size, volumes, nics) = parts.unwrap_or_default();
        if let Action::Create { size: wanted, .. } = &command.action {
            size = *wanted;
        }
        let record = Record {
            id: id.clone(),
            uuid: arrives.unwrap_or_else(|| Uuid::from_random(random)),
            image: image.clone(),
            hypervisor: self.hosts[backend].backend.name.clone(),
            size,
            volumes,
            nics,
            snapshots: alloc::vec::Vec::new(),
            generation: self.lanes.get(id).map_or(1, |lane| lane.record.generation + 1),
            state: State::Stopped,
            reason: None,
            frozen: None,
            passage: None,
            fresh: true,
        };
        self.lanes.insert(id.clone(), Lane::new(record, Some(backend), self.now_ms));
        self.keep(id, EventKind::Created, Some(&command.op_id));
        let step = match &command.action {
            Action::Create { start: true, .. } => Step::Start,
            Action::MigratePrepare { .. } => Step::MigratePrepare,
            _ => {
                let evidence = alloc::vec![Text::new("its record is written")];
                return self.done(id, &command.op_id, true, evidence);
            }
        };
        self.begin(id, &command.op_id, Some(State::Pending));
        self.hand_out(id, Purpose::Step(command.op_id.clone()), Task::Perform(step), plan::START_MS);
    }

    fn describe(&mut self, command: &Command) -> Reply {
        let id = &command.instance;
        let Some(lane) = self.lanes.get_mut(id) else {
            return Reply::Now(refused(
                Refusal::UnknownInstance,
                &format!("there is no instance {id}"),
                None,
            ));
        };
        // While a command is carried out its monitor is taken, and what is known is as fresh as it gets.
        let busy =
            lane.job.as_ref().is_some_and(|(_, purpose)| !matches!(purpose, Purpose::Look | Purpose::Stats));
        if busy || lane.backend.is_none() || lane.record.state == State::Terminated {
            return Reply::Now(Outcome::Done {
                changed: false,
                instance: lane.instance(),
                evidence: Default::default(),
            });
        }
        let ticket = self.ticket(id);
        ticket.map_or(Reply::Later, Reply::Looking)
    }

    /// Have an instance looked at. A look that is out already counts: it is at most as old as a native call may take.
    fn ticket(&mut self, id: &InstanceId) -> Option<Ticket> {
        let lane = self.lanes.get_mut(id)?;
        let out = matches!(lane.job, Some((_, Purpose::Look)));
        let number = if out { lane.looks.0 } else { lane.looks.0 + 1 };
        lane.wants_look |= !out;
        let ticket = Ticket { id: id.clone(), uuid: lane.record.uuid, number };
        self.advance(id);
        Some(ticket)
    }

    /// Have it seen what an instance has used; [`Engine::used`] has it afterwards.
    ///
    /// # Errors
    /// There is no such instance, nothing of it runs, or its hypervisor has no figures ([`Engine::lacks`]).
    pub fn ask_stats(&mut self, id: &InstanceId, now_ms: u64) -> Result<Ticket, Refusal> {
        self.now_ms = now_ms;
        let lane = self.lanes.get(id).ok_or(Refusal::UnknownInstance)?;
        if !lane.record.lives() || lane.backend.is_none() {
            return Err(Refusal::WrongState);
        }
        if self.lacks(id, Facility::Stats).is_some() {
            return Err(Refusal::Impossible);
        }
        let lane = self.lanes.get_mut(id).ok_or(Refusal::UnknownInstance)?;
        // One that is being seen already counts.
        lane.wants_stats |= !matches!(lane.job, Some((_, Purpose::Stats)));
        let ticket = Ticket { id: id.clone(), uuid: lane.record.uuid, number: lane.stats.0 + 1 };
        self.advance(id);
        Ok(ticket)
    }
}
