//! The clerk: keeps operations on the state disk, and sees to it that each of them ends.
//!
//! One task writes what all others have changed, as much at once as there is: an operation costs two writes, one before
//! it is sent and one before its end is told, and many at the same time cost no more than one.

use crate::Management;
use crate::forward::GRACE;
use crate::operations::{End, Kept, Operation, Stage};
use crate::problem::Kind;
use crate::stored;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Instant, with_deadline};
use state::Change;

/// How long a disk that has failed is left alone.
const REST: Duration = Duration::from_secs(5);
/// How long the agent may say nothing of what it carries out.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of changes that are written at once; the largest record fits twice.
const AT_ONCE: usize = 12 << 10;
/// Records that are removed at once.
const REMOVED_AT_ONCE: usize = 64;

/// Keep the operations, for ever.
pub async fn keep(management: Rc<Management>) {
    keep_for(&management).await;
}

pub(crate) async fn keep_for(management: &Management) {
    loop {
        let next = kernel_runtime::earliest(management.sweep(), management.reconcile());
        let next = kernel_runtime::earliest(next, management.tell_refusals());
        let more = management.keep_records().await;
        let next = kernel_runtime::earliest(next, management.records_due());
        if management.keep_some().await || more {
            continue;
        }
        let changed = management.changed.wait();
        match next {
            Some(next) => drop(with_deadline(&management.clock, next, changed).await),
            None => changed.await,
        }
    }
}

/// What is to be written now.
struct Batch {
    removed: Vec<u64>,
    /// Number, key and value.
    written: Vec<(u64, String, Vec<u8>)>,
}

impl Management {
    /// Look through the operations for those whose time is over. Answers when to look again.
    fn sweep(&self) -> Option<Instant> {
        let now = self.clock.now();
        let mut next = None;
        for operation in self.operations.borrow_mut().iter_mut() {
            if operation.kept != Kept::Yes && operation.due > now && self.state.is_some() {
                next = kernel_runtime::earliest(next, Some(operation.due));
            }
            let Some(end) = limit(operation) else { continue };
            if now < end {
                next = kernel_runtime::earliest(next, Some(end));
                continue;
            }
            if operation.kept == Kept::Waiting {
                continue;
            }
            if operation.sends == 0 {
                let detail = "Its time was up before the agent could be asked.";
                operation.end_with(End::undone(Kind::DeadlinePassed, detail), now);
            } else {
                let detail = "The agent was asked and has not said what became of it.";
                let news = operation.doubt(Kind::OutcomeUnknown, detail, now);
                self.noted(news, operation);
                self.news.ring();
            }
        }
        next
    }

    /// Write some of what is to be written; whether there may be more.
    async fn keep_some(&self) -> bool {
        let Some(batch) = self.gather() else { return false };
        let removed: Vec<String> = batch.removed.iter().map(|number| stored::key(*number)).collect();
        let mut changes: Vec<Change<'_>> = removed.iter().map(|key| Change::Delete(key.as_bytes())).collect();
        changes.extend(batch.written.iter().map(|(_, key, value)| Change::Put(key.as_bytes(), value)));
        let outcome = match &self.state {
            Some(records) => records.keep(&changes).await.map_err(|error| {
                log::warn!("operations cannot be kept: the state disk: {error}");
            }),
            None => Err(()),
        };
        self.state_failed.set(outcome.is_err() && self.state.is_some());
        let now = self.clock.now();
        let mut operations = self.operations.borrow_mut();
        if outcome.is_err() && self.state.is_some() {
            operations.put_back(batch.removed);
        }
        for operation in operations.iter_mut() {
            if batch.written.iter().any(|(number, ..)| *number == operation.number) {
                let news = match outcome {
                    Ok(()) => kept(operation, now),
                    Err(()) => not_kept(operation, self.state.is_some(), now),
                };
                self.noted(news, operation);
            }
        }
        drop(operations);
        self.forward.wake();
        self.news.ring();
        true
    }

    fn gather(&self) -> Option<Batch> {
        let now = self.clock.now();
        let mut operations = self.operations.borrow_mut();
        let mut removed = operations.take_forgotten();
        if removed.len() > REMOVED_AT_ONCE {
            operations.put_back(removed.split_off(REMOVED_AT_ONCE));
        }
        let mut written: Vec<(u64, String, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for operation in operations.iter() {
            let again = operation.kept == Kept::No && operation.stage.is_final() && self.state.is_some();
            if operation.due <= now && (operation.kept == Kept::Waiting || again) {
                let value = stored::write(operation);
                bytes += value.len();
                written.push((operation.number, stored::key(operation.number), value));
                if bytes >= AT_ONCE {
                    break;
                }
            }
        }
        // Without anything to write, what is forgotten can wait for company.
        if written.is_empty() {
            operations.put_back(removed);
            return None;
        }
        Some(Batch { removed, written })
    }
}

impl Management {
    /// An operation has moved on, if that is news.
    pub(crate) fn noted(&self, news: Option<Stage>, operation: &Operation) {
        if let Some(stage) = news {
            self.metrics.ended(news);
            self.moved_on(operation);
            if !stage.is_open() {
                self.record_end(operation);
            }
        }
    }
}

/// When it is over with the patience for an operation, if that is not already so.
fn limit(operation: &Operation) -> Option<Instant> {
    match operation.stage {
        _ if operation.end.is_some() => None,
        Stage::Accepted if operation.sends == 0 => Some(operation.deadline),
        Stage::Accepted | Stage::Sent => Some(operation.deadline + GRACE),
        Stage::Running => Some(operation.heard + SILENCE),
        _ => None,
    }
}

/// The disk has it. Answers the stage that it is in since, if that is news.
fn kept(operation: &mut Operation, now: Instant) -> Option<Stage> {
    (operation.kept, operation.told, operation.durable) = (Kept::Yes, true, true);
    operation.finish(now)
}

/// The disk does not have it. Answers the stage that it is in since, if that is news.
fn not_kept(operation: &mut Operation, has_disk: bool, now: Instant) -> Option<Stage> {
    operation.due = if has_disk { now + REST } else { now };
    match &operation.end {
        // After a restart it would be found out again, or be too late for it to become anything else.
        Some(end) if has_disk && !end.remembered && now <= operation.deadline + REST => return None,
        None if operation.stage.is_final() => return None,
        None if has_disk && !operation.told && !is_repeatable(operation) => {
            let detail = "The state disk has failed, so that this could not be remembered; nothing was done.";
            operation.end = Some(End::undone(Kind::NoState, detail));
            return None;
        }
        None => operation.due = now,
        Some(_) => {}
    }
    (operation.kept, operation.told) = (Kept::No, true);
    operation.finish(now)
}

fn is_repeatable(operation: &Operation) -> bool {
    crate::delivery::is_repeatable(operation.action.verb())
}
