//! What an initiator makes of answers, and of those that do not come.

use super::command::{Answer, GOOD, Op, Task};
use super::session::{Function, Management, Session};
use super::{CALM_TIMEOUT, FLUSH_TIMEOUT, Initiator, MANAGING, Stage, TIMEOUT};
use crate::history;
use kernel_runtime::Instant;
use std::time::Duration;

/// When a command to a unit that nothing is wrong with must have been answered, whatever happens to other units.
const SPARED_TIMEOUT: Duration = Duration::from_secs(5);

impl Initiator {
    pub(super) fn time_out(&mut self, now: Instant, session: &mut Session) {
        let mut tags = Vec::new();
        for (&tag, task) in &mut session.tasks {
            let timeout = if matches!(task.op, Op::Flush | Op::Write { fua: true, .. }) {
                FLUSH_TIMEOUT
            } else {
                TIMEOUT
            };
            let has_calm =
                self.shared.calm.get().is_some_and(|calm| task.invoked.max(calm) + CALM_TIMEOUT < now);
            if has_calm {
                self.shared.fail(format!("initiator {}: never answered: {task:?}", self.index));
            }
            if self.shared.plan.is_spared(task.unit) && now > task.invoked + SPARED_TIMEOUT {
                self.shared.fail(format!(
                    "initiator {}: held up although nothing is wrong with its unit: {:?} of {:?} on unit {}",
                    self.index, task.op, task.invoked, task.unit
                ));
            }
            if task.is_aborting {
            } else if task.abort_at.is_some_and(|at| at <= now) {
                tags.push(tag);
            } else if task.abort_at.is_none() && now > task.invoked + timeout {
                if self.shared.plan.is_sunny() {
                    self.shared
                        .fail(format!("initiator {}: not answered on a sunny day: {task:?}", self.index));
                }
                task.abort_at = Some(now);
                tags.push(tag);
            }
        }
        // The others have to wait: a target takes only so many immediate requests at once.
        let room = MANAGING.saturating_sub(session.managing.len());
        for tag in tags.into_iter().take(room) {
            session.abort(now, tag);
        }
    }

    pub(super) fn managed(&mut self, now: Instant, session: &mut Session, management: Management) {
        log::debug!("initiator {}: done: {:?}", self.index, management.what);
        let mut over = Vec::new();
        match management.what {
            Function::Abort(tag) => over.extend(session.tasks.remove(&tag)),
            Function::Reset(unit) => {
                // Commands given after the reset are not meant.
                let gone = session.tasks.extract_if(..management.tag, |_, task| task.unit == unit);
                over.extend(gone.map(|(_, task)| task));
            }
        }
        for id in over.iter().filter_map(|task| task.op.write()) {
            self.shared.history.borrow_mut().abort(id, now);
        }
    }

    pub(super) fn judge(&mut self, now: Instant, task: &Task, answer: Answer) -> Result<(), String> {
        let plan = &self.shared.plan;
        if !answer.is_explained(&task.op, plan) {
            return Err(format!("nothing explains {answer:?} to {:?} of unit {}", task.op, task.unit));
        }
        let history = &mut *self.shared.history.borrow_mut();
        if answer.status != GOOD {
            if let Some(id) = task.op.write() {
                history.end(id, now);
            }
            return Ok(());
        }
        if let Some(id) = task.op.write() {
            let carries = matches!(task.op, Op::Write { .. } | Op::Swap { .. });
            if carries && !history.is_executed(id) {
                return Err(format!("GOOD although no service has answered for all of {task:?}"));
            }
            history.acknowledge(id, now);
        }
        let service = self.shared.services[task.unit].borrow();
        let durable = service.medium.durable();
        match &task.op {
            Op::Flush => history.flushed(task.unit, durable, task.invoked),
            Op::Write { fua: true, id, .. } => history.forced(*id, durable),
            Op::Read { first, .. } => {
                self.seen = task
                    .data_in
                    .first_chunk::<512>()
                    .map(|_| (task.unit, *first, task.data_in[..plan.shape.block].to_vec()));
                history.read(task.unit, *first, &task.data_in, task.invoked)
            }
            Op::Swap { block, expected, .. } => {
                history.read(task.unit, *block, expected, task.invoked)?;
                let value = history::writer(expected);
                let is_first = value.is_none_or(|id| history.replace(task.unit, *block, id));
                if is_first { Ok(()) } else { Err(format!("two commands replaced the same value: {task:?}")) }
            }
            Op::Capacity => {
                let block = plan.shape.block;
                let blocks = plan.blocks()..=self.shared.sizes[task.unit].get() / block;
                let last = task.data_in.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)) as usize;
                let told = task.data_in[8..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                let is_right = blocks.contains(&(last + 1)) && told as usize == block;
                if is_right { Ok(()) } else { Err(format!("capacity {last}, {told}")) }
            }
            Op::Ready | Op::Write { .. } | Op::Zero { .. } | Op::Unmap { .. } => Ok(()),
        }
    }

    /// Go on with the last examination.
    pub(super) fn conclude(&mut self, now: Instant, session: &mut Session, task: &Task, answer: Answer) {
        let plan = &self.shared.plan;
        match (self.stage, &task.op) {
            (Stage::Flush(unit), Op::Flush) if answer.status == GOOD => {
                self.stage = Stage::Read(unit, 0);
                self.next_at = now;
            }
            // A flush that failed stays failed until the unit is reset; nothing is lost for it.
            (Stage::Flush(unit), Op::Flush) if answer.is_flush_failure() => session.reset(now, unit),
            (Stage::Read(unit, _), Op::Read { first, blocks }) if answer.status == GOOD => {
                self.next_at = now;
                self.stage = match (first + blocks == plan.blocks(), unit + 1 == plan.shape.units) {
                    (false, _) => Stage::Read(unit, first + blocks),
                    (true, false) => Stage::Flush(unit + 1),
                    (true, true) => Stage::Done,
                };
            }
            _ => {}
        }
    }
}
