//! The work of a lane: what is done next, and what follows from what came of it.

use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{
    Action, Command, EventKind, Failure, InstanceId, OpId, Outcome, Refusal, State, Text, Then,
};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::lane::{Lane, Purpose, Unsettled, Waiting, What};
use crate::memory::{Stage, is_forced};
use crate::plan::{self, END_MS, Plan, QUICK_MS, START_MS};
use crate::settle::{Verdict, verdict};
use crate::{Ended, Engine, Entry, Evidence, Fault, Finding, Observation, Report, Step, Task};

/// After how long an instance is looked at without anybody asking.
const REFRESH_MS: u64 = 60_000;
/// The same, while a guest is waited for, or a command of an earlier run of the agent.
const SOON_MS: u64 = 500;

impl Engine {
    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let due: Vec<InstanceId> = self
            .lanes
            .iter_mut()
            .filter(|(_, lane)| lane.job.is_none() && lane.record.state != State::Terminated)
            .filter_map(|(id, lane)| {
                lane.wants_look |= lane.look_at_ms <= now_ms;
                let due = lane.wants_look || lane.waiting.iter().any(|one| one.due_ms <= now_ms);
                due.then(|| id.clone())
            })
            .collect();
        for id in due {
            self.advance(&id);
        }
    }

    /// Something has happened to that machine: it is to be looked at.
    pub fn noticed(&mut self, uuid: agent_protocol::Uuid, now_ms: u64) {
        self.now_ms = now_ms;
        // One that has moved away may have come back under another name.
        let is_it = |lane: &Lane| lane.record.uuid == uuid && lane.record.state != State::Terminated;
        let Some((id, lane)) = self.lanes.iter_mut().find(|(_, lane)| is_it(lane)) else { return };
        lane.wants_look = true;
        let id = id.clone();
        self.advance(&id);
    }

    /// Begin what comes next for an instance, if nothing is out for it.
    pub(crate) fn advance(&mut self, id: &InstanceId) {
        // Each round either hands out a job or takes something away.
        while let Some(lane) = self.lanes.get_mut(id) {
            if lane.job.is_some() {
                return;
            }
            if lane.record.state == State::Terminated {
                // There is nothing to look at any more.
                (lane.wants_look, lane.wants_stats) = (false, false);
            }
            if lane.cold {
                return self.hand_out(id, Purpose::Look, Task::Adopt, QUICK_MS);
            }
            if let Some(index) = lane.waiting.iter().position(|one| one.due_ms <= self.now_ms) {
                let waiting = lane.waiting.remove(index);
                self.is_due(id, waiting);
                continue;
            }
            if let Some(unsettled) = lane.unsettled.front() {
                let next = lane.queue.front().and_then(|op_id| self.memory.get(op_id));
                let forced =
                    next.and_then(|next| next.command()).is_some_and(|one| is_forced(one.action.verb()));
                if forced {
                    let Unsettled { op_id, why, .. } = unsettled.clone();
                    lane.unsettled.pop_front();
                    self.freeze(id, &op_id, &format!("{}, and its hypervisor did not tell", why.detail));
                    continue;
                }
                if lane.wants_look {
                    self.hand_out(id, Purpose::Look, Task::Look, QUICK_MS);
                }
                return;
            }
            if let Some(op_id) = lane.queue.pop_front() {
                self.next(id, &op_id);
                continue;
            }
            if lane.wants_stats {
                lane.wants_stats = false;
                return self.hand_out(id, Purpose::Stats, Task::Stats, QUICK_MS);
            }
            if lane.wants_look {
                self.hand_out(id, Purpose::Look, Task::Look, QUICK_MS);
            }
            return;
        }
    }

    /// It is the turn of a command.
    fn next(&mut self, id: &InstanceId, op_id: &OpId) {
        let Some(operation) = self.memory.get(op_id) else { return };
        let Some(command) = operation.command().cloned() else { return };
        if matches!(operation.stage, Stage::Asked(..)) {
            return self.start_again(id, op_id);
        }
        let ended = self.record(id).is_none_or(|record| record.state == State::Terminated);
        if is_forced(command.action.verb()) || ended {
            // To end it nobody has to be asked first, least of all a monitor that may hang.
            return self.decide(id, &command);
        }
        self.hand_out(id, Purpose::Before(op_id.clone()), Task::Look, QUICK_MS);
    }

    /// The guest has shut down for a reboot.
    fn start_again(&mut self, id: &InstanceId, op_id: &OpId) {
        if self.record(id).is_none_or(|record| record.lives() || record.state == State::Terminated) {
            let fault =
                Fault::new(Failure::Ended, "another command came in between; it was not started again");
            return self.fail(id, op_id, fault);
        }
        self.begin(id, op_id, Some(State::Pending));
        self.hand_out(id, Purpose::Again(op_id.clone()), Task::Perform(Step::Start), START_MS);
    }

    /// Write down that the native call of a command is about to be made, and what is shown until it has come back.
    pub(crate) fn begin(&mut self, id: &InstanceId, op_id: &OpId, meanwhile: Option<State>) {
        let Some(from) = self.record(id).map(|record| record.state) else { return };
        if let Some(state) = meanwhile {
            self.set(id, state, None, Some(op_id));
        }
        self.append(Entry::Begun { op_id: op_id.clone(), from });
        self.memory.begin(op_id, from);
    }

    /// Carry out a command for an instance whose state was just seen.
    fn decide(&mut self, id: &InstanceId, command: &Command) {
        let op_id = &command.op_id;
        // Both may have passed while it waited for its turn.
        if command.epoch.unwrap_or(0) != self.epoch {
            return self.refuse(
                op_id,
                Refusal::StaleEpoch,
                "another appliance has taken over before its turn",
            );
        }
        if command.deadline_ms.is_some_and(|deadline| self.now_ms > deadline) {
            return self.refuse(op_id, Refusal::Expired, "its deadline has passed");
        }
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let called_off = lane.called_off.take_if(|by| by == op_id).is_some();
        match plan::plan(command, &lane.record) {
            Plan::Already(_) if called_off && command.action == (Action::MigrateCancel {}) => {
                let how = format!("its move was called off; it is {}", lane.record.state);
                self.done(id, op_id, true, vec![Text::new(&how)]);
            }
            Plan::Refuse(code, detail) => self.refuse(op_id, code, &detail),
            Plan::Already(how) => self.done(id, op_id, false, vec![Text::new(&how)]),
            Plan::Record(how) => {
                self.apply(id, command);
                self.done(id, op_id, true, vec![Text::new(how)]);
            }
            Plan::Remove => {
                self.begin(id, op_id, Some(State::ShuttingDown));
                self.hand_out(id, Purpose::Step(op_id.clone()), Task::Remove, END_MS);
            }
            Plan::Act { step, meanwhile, within_ms } => {
                let what = what(&command.action);
                if lane.waiting.iter().any(|one| Some(&one.what) == what.as_ref()) {
                    // The guest has been asked by another command; this one waits with that.
                    return self.wait(id, command, true);
                }
                self.begin(id, op_id, meanwhile);
                self.hand_out(id, Purpose::Step(op_id.clone()), Task::Perform(step), within_ms);
            }
        }
    }

    /// Write down what a command has changed beside the state.
    fn apply(&mut self, id: &InstanceId, command: &Command) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if plan::apply(&command.action, &mut lane.record) {
            lane.record.generation += 1;
            self.keep(id, EventKind::Shape, Some(&command.op_id));
        }
    }

    /// Let an instance be in that state.
    pub(crate) fn set(&mut self, id: &InstanceId, state: State, reason: Option<Text>, op_id: Option<&OpId>) {
        let now_ms = self.now_ms;
        if self.lanes.get_mut(id).is_some_and(|lane| lane.set(state, reason, now_ms)) {
            let kind = if state == State::Terminated { EventKind::Terminated } else { EventKind::State };
            self.keep(id, kind, op_id);
        }
    }

    /// The guest of a command was asked, or may have been: wait for it.
    pub(crate) fn wait(&mut self, id: &InstanceId, command: &Command, asked: bool) {
        let Some(what) = what(&command.action) else { return };
        let (timeout_ms, then) = plan::awaited(&command.action).unwrap_or((0, Then::Leave));
        let due_ms = self.now_ms.saturating_add(u64::from(timeout_ms));
        let then = if asked { then } else { Then::Leave };
        let Some(lane) = self.lanes.get_mut(id) else { return };
        // Whether it was asked or may have been: what it lets go of is noticed.
        let news = lane.mark_detaching(&what);
        lane.waiting.push(Waiting { op_id: command.op_id.clone(), what: what.clone(), due_ms, then, asked });
        lane.look_at_ms = self.now_ms + SOON_MS;
        if news {
            self.keep(id, EventKind::Shape, Some(&command.op_id));
        }
        if asked {
            if matches!(what, What::Stop | What::Reboot) {
                self.set(id, State::Stopping, None, Some(&command.op_id));
            }
            self.append(Entry::Asked { op_id: command.op_id.clone() });
            self.memory.ask(&command.op_id, self.head);
        }
    }

    /// A guest has had its time.
    fn is_due(&mut self, id: &InstanceId, waiting: Waiting) {
        let op_id = waiting.op_id;
        let (code, detail) = match waiting.what {
            _ if !waiting.asked => {
                let detail = "its guest may have been asked, and has not done it since";
                (Failure::Interrupted, detail)
            }
            What::Stop | What::Reboot if waiting.then == Then::Force => {
                let Some(from) = self.record(id).map(|record| record.state) else { return };
                self.append(Entry::Begun { op_id: op_id.clone(), from });
                self.memory.begin(&op_id, from);
                return self.hand_out(id, Purpose::Cut(op_id), Task::Perform(Step::End), END_MS);
            }
            What::Stop | What::Reboot => {
                (Failure::GuestIgnored, "the guest did not shut down in time; it was left running")
            }
            What::Volume(_) => (Failure::GuestDidNotRelease, "the guest did not let go of the disk in time"),
            What::Nic(_) => {
                (Failure::GuestDidNotRelease, "the guest did not let go of the interface in time")
            }
        };
        self.hand_out(id, Purpose::After(op_id, Fault::new(code, detail)), Task::Look, QUICK_MS);
    }

    /// What came of a job.
    pub fn report(&mut self, job: u64, report: Report, now_ms: u64) {
        self.now_ms = now_ms;
        let Some((id, uuid)) = self.out.remove(&job) else { return };
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.record.uuid == uuid) else { return };
        let Some((_, purpose)) = lane.job.take_if(|(number, _)| *number == job) else { return };
        if matches!(report.result, Finding::Seen(_)) {
            lane.looks.1 = lane.looks.0;
        }
        lane.look_at_ms = now_ms + if lane.waiting.is_empty() { REFRESH_MS } else { SOON_MS };
        if let Some(ended) = report.ended {
            self.ended(&id, ended);
        }
        match (purpose, report.result) {
            (Purpose::Look, Finding::Seen(seen)) => self.seen(&id, &seen),
            (Purpose::Before(op_id), Finding::Seen(seen)) => {
                self.seen(&id, &seen);
                if let Some(command) = self.memory.get(&op_id).and_then(|one| one.command()).cloned() {
                    self.decide(&id, &command);
                }
            }
            (Purpose::After(op_id, fault), Finding::Seen(seen)) => self.after(&id, &op_id, fault, &seen),
            (Purpose::Undo(op_id, fault), Finding::Performed(_)) => {
                self.hand_out(&id, Purpose::Undone(op_id, fault), Task::Look, QUICK_MS);
            }
            (Purpose::Undone(op_id, fault), Finding::Seen(seen)) => {
                self.seen(&id, &seen);
                self.fail(&id, &op_id, fault);
            }
            (Purpose::Stats, Finding::Used(used)) => {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.stats = (lane.stats.0 + 1, Some(used));
                }
            }
            (purpose, Finding::Performed(Ok(evidence))) => self.performed(&id, purpose, evidence),
            (
                Purpose::Step(op_id)
                | Purpose::Cut(op_id)
                | Purpose::Again(op_id)
                | Purpose::Clear(op_id)
                | Purpose::Left(op_id, _),
                Finding::Performed(Err(fault)),
            ) => self.hand_out(&id, Purpose::After(op_id, fault), Task::Look, QUICK_MS),
            // What was not asked for tells nothing.
            _ => {}
        }
        self.advance(&id);
    }

    /// A step has succeeded.
    fn performed(&mut self, id: &InstanceId, purpose: Purpose, mut evidence: Evidence) {
        let (Purpose::Step(op_id)
        | Purpose::Cut(op_id)
        | Purpose::Again(op_id)
        | Purpose::Clear(op_id)
        | Purpose::Left(op_id, _)) = &purpose
        else {
            return;
        };
        let Some(operation) = self.memory.get(op_id) else { return };
        let (Some(command), from) = (operation.command().cloned(), from(&operation.stage)) else { return };
        match (&purpose, &command.action) {
            (Purpose::Cut(_), action) => {
                evidence.insert(0, Text::new("the guest did not shut down in time; its power was cut"));
                self.set(id, State::Stopped, None, Some(op_id));
                self.nothing_runs(id, &evidence, true);
                if matches!(action, Action::Reboot { .. }) {
                    return self.start_again(id, op_id);
                }
                self.done(id, op_id, true, evidence);
            }
            (Purpose::Again(_), _) => {
                self.set(id, State::Running, None, Some(op_id));
                self.done(id, op_id, true, evidence);
            }
            (_, action) if plan::awaited(action).is_some() => self.wait(id, &command, true),
            (Purpose::Step(_), Action::MigrateStart { .. }) => self.has_left(id, op_id, evidence),
            (_, action) => {
                if let Purpose::Left(_, before) = &purpose {
                    evidence.splice(0..0, before.iter().cloned());
                }
                let state = leads_to(action, from);
                if let Some(lane) = self.lanes.get_mut(id) {
                    let thaws = matches!(
                        action,
                        Action::Terminate {} | Action::Stop { .. } | Action::MigrateCancel {}
                    );
                    lane.record.frozen.take_if(|_| thaws);
                    let over = state == State::Terminated || *action == Action::MigrateCancel {};
                    lane.record.passage.take_if(|_| over);
                }
                self.apply(id, &command);
                // What leaves the state as it is says nothing of it: the machine may have died before it was done to what
                // was left of it.
                if effect(from, action.verb()) != Effect::Keep || state != from {
                    self.set(id, state, None, Some(op_id));
                }
                if matches!(state, State::Stopped | State::Terminated | State::Saved) {
                    self.nothing_runs(id, &evidence, true);
                }
                self.done(id, op_id, true, evidence);
                self.prune();
            }
        }
    }

    /// A step has failed, or a guest did not do what it was asked for, and the instance was looked at since.
    fn after(&mut self, id: &InstanceId, op_id: &OpId, fault: Fault, seen: &Observation) {
        let Some(operation) = self.memory.get(op_id) else { return };
        let (Some(command), from) = (operation.command().cloned(), from(&operation.stage)) else { return };
        let passes = self.lanes.get_mut(id).is_some_and(|lane| lane.passes(seen));
        if passes {
            self.keep(id, EventKind::Shape, Some(op_id));
        }
        if seen.state == State::Stopped && self.record(id).is_some_and(|record| record.lives()) {
            // Nothing of it runs, and that may not be what was asked for.
            let stopped =
                matches!(command.action, Action::Stop { .. } | Action::Reboot { .. } | Action::Terminate {});
            let state = if stopped { State::Stopped } else { State::Failed };
            self.set(id, state, Some(fault.detail.clone()), Some(op_id));
            self.nothing_runs(id, &vec![fault.detail.clone()], true);
        } else {
            self.seen(id, seen);
        }
        // Only where the hypervisor fell silent can the step have come about all the same.
        let silent = fault.code == Failure::Timeout;
        let waited =
            matches!(fault.code, Failure::GuestIgnored | Failure::GuestDidNotRelease | Failure::Interrupted);
        match verdict(&command.action, from, seen) {
            Verdict::Done if silent || waited => {
                if let Some(lane) = self.lanes.get_mut(id)
                    && matches!(command.action, Action::Stop { .. })
                {
                    lane.record.frozen = None;
                }
                self.apply(id, &command);
                let how = format!("{}; it is seen to be {}", fault.detail, seen.state);
                self.done(id, op_id, true, vec![Text::new(&how)]);
            }
            // Its peer may have all of it, whatever was told here.
            Verdict::Unknowable if seen.passage.is_some() => {
                self.freeze(id, op_id, &format!("{}: {}", command.action.verb(), fault.detail));
            }
            Verdict::Remove if seen.passage.is_some() => {
                self.has_left(id, op_id, vec![Text::new("its peer has said that it has all of it")]);
            }
            // The request may still reach the guest, which may still do it.
            Verdict::MayCome if silent => self.wait(id, &command, false),
            Verdict::Silent if silent && !is_forced(command.action.verb()) => {
                self.unsettle(id, op_id, from, fault);
            }
            Verdict::Unknowable if silent && !is_forced(command.action.verb()) => {
                self.freeze(id, op_id, &format!("{}: {}", command.action.verb(), fault.detail));
            }
            Verdict::Half => self.undo(id, op_id.clone(), fault),
            _ => self.fail(id, op_id, fault),
        }
    }

    /// Have what there is of a machine ended, whose start was cut short: it would stay as it is, held for ever, and could
    /// not be told from one that somebody wants so. Whatever comes of it, the start has failed.
    pub(crate) fn undo(&mut self, id: &InstanceId, op_id: OpId, fault: Fault) {
        self.hand_out(id, Purpose::Undo(op_id, fault), Task::Perform(Step::End), END_MS);
    }

    /// A machine has ended by itself.
    fn ended(&mut self, id: &InstanceId, ended: Ended) {
        let Some(lane) = self.lanes.get(id) else { return };
        let stopping = lane.waiting.iter().any(super::lane::Waiting::is_stop);
        let next = match lane.record.state {
            // It was seen to have stopped before anybody knew how.
            State::Stopped if lane.record.reason.is_none() && !ended.orderly => Some(State::Failed),
            State::Stopped if lane.record.reason.is_none() => Some(State::Stopped),
            State::Failed | State::Terminated | State::Stopped | State::Saved => None,
            State::Stopping | State::ShuttingDown => Some(State::Stopped),
            _ if ended.orderly || stopping => Some(State::Stopped),
            _ => Some(State::Failed),
        };
        if let Some(state) = next {
            self.set(id, state, Some(ended.how.clone()), None);
        }
        self.nothing_runs(id, &vec![ended.how], false);
    }

    /// Nothing of a machine runs any more: whoever waits for its guest is told, or it is started again.
    pub(crate) fn nothing_runs(&mut self, id: &InstanceId, evidence: &Evidence, by_command: bool) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let saved = lane.record.state == State::Saved;
        for waiting in core::mem::take(&mut lane.waiting) {
            let command = self.memory.get(&waiting.op_id).and_then(|one| one.command()).cloned();
            let Some(command) = command else { continue };
            match waiting.what {
                // The guest that was asked sleeps, and wakes with all that it had.
                What::Volume(_) | What::Nic(_) if saved => {
                    let detail = "it was saved before its guest let go of it";
                    self.fail(id, &waiting.op_id, Fault::new(Failure::GuestDidNotRelease, detail));
                }
                What::Stop if saved => {
                    let detail = "it was saved before its guest had shut down";
                    self.fail(id, &waiting.op_id, Fault::new(Failure::Ended, detail));
                }
                What::Reboot if by_command => {
                    let fault =
                        Fault::new(Failure::Ended, "another command ended it before it was started again");
                    self.fail(id, &waiting.op_id, fault);
                }
                What::Reboot => {
                    // First of all, and as one that has been asked.
                    if !waiting.asked {
                        self.append(Entry::Asked { op_id: waiting.op_id.clone() });
                        self.memory.ask(&waiting.op_id, self.head);
                    }
                    if let Some(lane) = self.lanes.get_mut(id) {
                        lane.queue.push_front(waiting.op_id);
                    }
                }
                What::Stop => self.done(id, &waiting.op_id, true, evidence.clone()),
                What::Volume(_) | What::Nic(_) => {
                    self.apply(id, &command);
                    self.done(id, &waiting.op_id, true, evidence.clone());
                }
            }
        }
    }

    /// An instance was looked at.
    fn seen(&mut self, id: &InstanceId, seen: &Observation) {
        let alive = |lane: &&mut crate::lane::Lane| lane.record.state != State::Terminated;
        let Some(lane) = self.lanes.get_mut(id).filter(alive) else { return };
        lane.cold = false;
        let (state, reason) = lane.meaning(seen);
        let had_stopped = !lane.record.lives();
        let passes = lane.passes(seen);
        let released = seen.state != State::Unknown && lane.released(seen);
        self.set(id, state, reason.clone(), None);
        if released || passes {
            self.keep(id, EventKind::Shape, None);
        }
        self.released(id);
        if matches!(state, State::Stopped | State::Failed) && !had_stopped {
            self.nothing_runs(
                id,
                &vec![reason.unwrap_or_else(|| Text::new("nothing of it runs any more"))],
                false,
            );
        }
        self.settle(id, seen);
    }

    /// Tell whoever waits for a disk or an interface that is not there any more.
    fn released(&mut self, id: &InstanceId) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let record = &lane.record;
        let gone = |one: &Waiting| match &one.what {
            What::Volume(name) => record.find_volume(name).is_none(),
            What::Nic(name) => record.find_nic(name).is_none(),
            What::Stop | What::Reboot => false,
        };
        let (over, rest): (Vec<_>, Vec<_>) = lane.waiting.iter().cloned().partition(gone);
        lane.waiting = rest;
        for waiting in over {
            self.done(
                id,
                &waiting.op_id,
                true,
                vec![Text::new("its hypervisor shows that the guest has let go of it")],
            );
        }
    }

    /// Forget the oldest of those that were terminated, when there are too many.
    fn prune(&mut self) {
        let gone = self.lanes.iter().filter(|(_, lane)| lane.record.state == State::Terminated);
        let mut gone: Vec<_> =
            gone.map(|(id, lane)| (lane.since_ms, lane.record.generation, id.clone())).collect();
        gone.sort_unstable();
        for (.., id) in gone.iter().take(gone.len().saturating_sub(self.limits.tombstones)) {
            if let Some(lane) = self.lanes.remove(id) {
                self.append(Entry::Forgotten { id: id.clone(), uuid: lane.record.uuid });
            }
        }
    }
}

/// What a command's guest is asked for, if it is.
pub(crate) fn what(action: &Action) -> Option<What> {
    Some(match action {
        Action::Stop { graceful: true, .. } => What::Stop,
        Action::Reboot { .. } => What::Reboot,
        Action::VolumeDetach { volume, .. } => What::Volume(volume.clone()),
        Action::NicDetach { nic, .. } => What::Nic(nic.clone()),
        _ => return None,
    })
}

/// The state before a command.
const fn from(stage: &Stage) -> State {
    match stage {
        Stage::Begun(_, from) => *from,
        _ => State::Unknown,
    }
}

/// The state that a command leads to when it succeeds.
pub(crate) fn leads_to(action: &Action, from: State) -> State {
    match action {
        Action::Create { .. } => State::Running,
        Action::MigratePrepare { .. } => State::Pending,
        // It was held for as long as nobody knew.
        Action::MigrateCancel {} if from == State::Paused => State::Running,
        Action::Stop { graceful: false, .. } => State::Stopped,
        Action::Terminate {} => State::Terminated,
        action => match effect(from, action.verb()) {
            Effect::Change(state) => state,
            _ => from,
        },
    }
}

/// What is told of a command that had been received and not begun when the agent ended.
pub(crate) fn never_begun(instance: Option<agent_protocol::Instance>) -> Outcome {
    let detail = Text::new("the agent ended before it was begun; nothing was done");
    Outcome::Failed { code: Failure::Interrupted, detail, instance }
}
