//! Moving to another host: calling that off while it is under way, and what is left to do here when it has come about.

use agent_protocol::{Action, EventKind, InstanceId, OpId};

use crate::lane::Purpose;
use crate::plan::{END_MS, QUICK_MS};
use crate::{Engine, Evidence, Job, Passage, Task};

impl Engine {
    /// If it is being moved, have that given up for the sake of this command, which comes next.
    pub(crate) fn call_off(&mut self, id: &InstanceId, by: &OpId) {
        let Some(lane) = self.lanes.get(id) else { return };
        let (Some(backend), Some((_, Purpose::Step(moving)))) = (lane.backend, &lane.job) else { return };
        let moving = self.memory.get(moving).and_then(|operation| operation.command());
        if !moving.is_some_and(|command| matches!(command.action, Action::MigrateStart { .. })) {
            return;
        }
        let machine = lane.record.machine();
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.called_off = Some(by.clone());
        }
        let id = self.next_job_number();
        self.push_job(Job { id, backend, machine, task: Task::CallOff, within_ms: QUICK_MS });
    }

    /// Its peer has all of it: remove what is left of it here.
    pub(crate) fn has_left(&mut self, id: &InstanceId, op_id: &OpId, evidence: Evidence) {
        // Durable before the last trace of it is removed: without it, it would look like one that can be started.
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.record.passage = Some(Passage::Arrived);
            lane.record.generation += 1;
        }
        self.keep(id, EventKind::State, Some(op_id));
        self.hand_out(id, Purpose::Left(op_id.clone(), evidence), Task::Remove, END_MS);
    }
}
