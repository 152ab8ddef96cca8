//! After the agent has ended and started anew: what the journal says, and what looking tells of the rest.

use agent_protocol::{Action, Failure, InstanceId, OpId, Outcome, State, Text};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::lane::{Lane, Purpose, Unsettled};
use crate::memory::Stage;
use crate::plan::{self, END_MS};
use crate::settle::{Verdict, verdict};
use crate::work::{leads_to, never_begun};
use crate::{Engine, Entry, Fault, Observation, Passage, Task};

/// How long a hypervisor that does not answer is asked what became of a command.
const SETTLE_MS: u64 = 30_000;
/// How long before it is asked again.
const AGAIN_MS: u64 = 1000;

impl Engine {
    /// An entry that was read back, in the order in which it was written.
    pub fn replay(&mut self, entry: Entry) {
        match entry {
            Entry::Epoch { epoch, holder, key } => self.grant(epoch, holder, key),
            Entry::Replaced { keys } => self.replaced = keys.into(),
            Entry::Instance { record } => {
                let backend = self.hosts.iter().position(|host| host.backend.name == record.hypervisor);
                let mut lane = Lane::new(*record, backend, 0);
                lane.cold = lane.record.state != State::Terminated;
                self.lanes.insert(lane.record.id.clone(), lane);
            }
            Entry::Forgotten { id, uuid } => {
                if self.record(&id).is_some_and(|record| record.uuid == uuid) {
                    self.lanes.remove(&id);
                }
            }
            Entry::Received { command } => {
                // What is read back never grows beyond what was kept.
                self.memory.make_room(&self.limits);
                self.memory.receive(&command, 0);
            }
            Entry::Begun { op_id, from } => self.memory.begin(&op_id, from),
            Entry::Asked { op_id } => self.memory.ask(&op_id, 0),
            Entry::Done { op_id, outcome } => drop(self.memory.end(&op_id, *outcome, 0)),
            Entry::Kept { op_id, digest, instance, outcome } => {
                self.memory.make_room(&self.limits);
                self.memory.keep(op_id, digest, instance, outcome);
            }
        }
    }

    /// Entries between those that were read back are lost, so that one of which only the arrival is known may have begun:
    /// it is looked for. To be called before [`Engine::open`].
    pub fn doubt(&mut self) {
        let received = |(op_id, operation): (&OpId, &crate::memory::Operation)| {
            matches!(operation.stage, Stage::Received(_)).then(|| op_id.clone())
        };
        let received: Vec<OpId> = self.memory.iter().filter_map(received).collect();
        received.iter().for_each(|op_id| self.memory.begin(op_id, State::Unknown));
    }

    /// All that was read back is there; `head` is the number of its last entry. Now the hypervisors are read.
    pub fn open(&mut self, head: u64, now_ms: u64) {
        self.now_ms = now_ms;
        (self.head, self.durable) = (head, head);
        let open: Vec<(OpId, InstanceId)> = self
            .memory
            .iter()
            .filter(|(_, operation)| !matches!(operation.stage, Stage::Ended(..)))
            .map(|(op_id, operation)| (op_id.clone(), operation.instance.clone()))
            .collect();
        for (op_id, id) in open {
            self.resume(&id, &op_id);
        }
        let cold: Vec<InstanceId> =
            self.lanes.iter().filter(|(_, lane)| lane.cold).map(|(id, _)| id.clone()).collect();
        for id in cold {
            self.advance(&id);
        }
    }

    fn resume(&mut self, id: &InstanceId, op_id: &OpId) {
        let Some(operation) = self.memory.get(op_id) else { return };
        let Some(command) = operation.command().cloned() else { return };
        let lane = self.lanes.get_mut(id);
        match (&operation.stage, lane) {
            (Stage::Begun(_, from), Some(lane)) if lane.record.state != State::Terminated => {
                let from = *from;
                self.unsettle(id, op_id, from, Fault::new(Failure::Interrupted, "the agent ended meanwhile"));
            }
            (Stage::Asked(..), Some(lane)) if lane.record.state != State::Terminated => {
                // How much of its time was left nobody knows; it gets all of it.
                let ended = matches!(lane.record.state, State::Stopped | State::Failed);
                if ended && matches!(command.action, Action::Reboot { .. }) {
                    lane.queue.push_front(op_id.clone());
                } else {
                    self.wait(id, &command, true);
                }
            }
            (Stage::Received(_), lane) => {
                let outcome = never_begun(lane.map(|lane| lane.instance()));
                self.finish(op_id, outcome);
            }
            // What the journal said of the instance is lost.
            _ => {
                let detail = "it may have begun, and nothing is known of its instance any more";
                self.finish(op_id, Outcome::Indeterminate { detail: Text::new(detail) });
            }
        }
    }

    /// What became of a command is to be seen from how its instance comes to stand. Nothing else is done to it before, but
    /// what ends it by force.
    pub(crate) fn unsettle(&mut self, id: &InstanceId, op_id: &OpId, from: State, why: Fault) {
        let now_ms = self.now_ms;
        let Some(lane) = self.lanes.get_mut(id) else { return };
        lane.unsettled.push_back(Unsettled { op_id: op_id.clone(), from, until_ms: now_ms + SETTLE_MS, why });
        lane.look_at_ms = now_ms + AGAIN_MS;
    }

    /// See whether looking tells what became of a command that had begun when the agent ended.
    pub(crate) fn settle(&mut self, id: &InstanceId, seen: &Observation) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let Some(first) = lane.unsettled.front_mut() else { return };
        if seen.state == State::Saving {
            // It is in the middle of it, however long that takes.
            first.until_ms = self.now_ms + SETTLE_MS;
        }
        let Unsettled { op_id, from, until_ms, why } = first.clone();
        let command = self.memory.get(&op_id).and_then(|operation| operation.command()).cloned();
        let Some(command) = command else {
            lane.unsettled.pop_front();
            return;
        };
        let has_left = lane.record.passage == Some(Passage::Arrived);
        let verdict = match &command.action {
            Action::MigrateStart { .. } if has_left => Verdict::Remove,
            action => verdict(action, from, seen),
        };
        if verdict == Verdict::Silent && self.now_ms < until_ms {
            lane.look_at_ms = self.now_ms + AGAIN_MS;
            return;
        }
        lane.unsettled.pop_front();
        // What comes of this one may show in the next look.
        lane.wants_look |= !lane.unsettled.is_empty();
        match verdict {
            Verdict::Done => {
                if matches!(command.action, Action::Stop { .. } | Action::MigrateCancel {}) {
                    lane.record.frozen = None;
                }
                if plan::apply(&command.action, &mut lane.record) {
                    lane.record.generation += 1;
                    self.keep(id, agent_protocol::EventKind::Shape, Some(&op_id));
                }
                if leads_to(&command.action, from) == State::Saved {
                    self.set(id, State::Saved, None, Some(&op_id));
                }
                let how = format!("{}; it is seen to be {}", why.detail, seen.state);
                self.done(id, &op_id, true, vec![Text::new(&how)]);
            }
            Verdict::NotDone => {
                let detail = format!("{}; it is seen to be {}", why.detail, seen.state);
                self.fail(id, &op_id, Fault::new(why.code, detail));
            }
            Verdict::MayCome => self.wait(id, &command, false),
            Verdict::Again => {
                lane.queue.push_front(op_id.clone());
                self.append(Entry::Asked { op_id: op_id.clone() });
                self.memory.ask(&op_id, self.head);
            }
            Verdict::Remove if matches!(command.action, Action::MigrateStart { .. }) => {
                self.has_left(id, &op_id, vec![Text::new("its peer has said that it has all of it")]);
            }
            Verdict::Remove => self.hand_out(id, Purpose::Clear(op_id), Task::Remove, END_MS),
            Verdict::Half => {
                let detail =
                    "the agent ended before its processors had begun; what there was of it was ended";
                self.undo(id, op_id, Fault::new(Failure::Interrupted, detail));
            }
            Verdict::Silent => self.freeze(
                id,
                &op_id,
                &format!("{}: {}, and its hypervisor does not tell", command.action.verb(), why.detail),
            ),
            Verdict::Unknowable => self.freeze(
                id,
                &op_id,
                &format!("{}: {}, and nothing shows whether it was done", command.action.verb(), why.detail),
            ),
        }
    }

    /// All that is known, as the shortest journal that says it.
    pub fn snapshot(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(holder) = self.holder {
            // Those before it as if they had followed each other: they are not to be let in again.
            let count = self.superseded.len() as u64;
            entries.extend(self.superseded.iter().zip(0..).map(|(before, at)| Entry::Epoch {
                epoch: self.epoch.saturating_sub(count - at),
                holder: *before,
                key: None,
            }));
            entries.push(Entry::Epoch { epoch: self.epoch, holder, key: self.key.clone() });
            if !self.replaced.is_empty() {
                entries.push(Entry::Replaced { keys: self.replaced.iter().cloned().collect() });
            }
        }
        entries.extend(
            self.lanes.values().map(|lane| Entry::Instance { record: Box::new(lane.record.clone()) }),
        );
        for (op_id, operation) in self.memory.iter() {
            let op_id = op_id.clone();
            let command =
                operation.command().map(|command| Entry::Received { command: command.clone().into() });
            entries.extend(command);
            entries.extend(match &operation.stage {
                Stage::Received(_) => None,
                Stage::Begun(_, from) => Some(Entry::Begun { op_id, from: *from }),
                Stage::Asked(..) => Some(Entry::Asked { op_id }),
                Stage::Ended(outcome, _) => Some(Entry::Kept {
                    op_id,
                    digest: operation.digest,
                    instance: operation.instance.clone(),
                    outcome: outcome.clone(),
                }),
            });
        }
        entries
    }
}
