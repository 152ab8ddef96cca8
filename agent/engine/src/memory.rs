//! What became of each command: one that is sent twice is carried out once.

use agent_protocol::{Command, InstanceId, OpId, Outcome, State, Uuid, Verb, encode};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use sha2::{Digest as _, Sha256};

use crate::Limits;

/// What all that decides a command's effect comes to (the first 128 bits of its SHA-256).
pub(crate) fn digest(command: &Command) -> Uuid {
    let decisive = encode(&(&command.instance, &command.action, &command.precondition));
    let hash = Sha256::digest(decisive);
    let mut bits = 0;
    for byte in &hash[..16] {
        bits = bits << 8 | u128::from(*byte);
    }
    Uuid(bits)
}

/// A command that came.
pub(crate) struct Operation {
    pub(crate) digest: Uuid,
    pub(crate) instance: InstanceId,
    pub(crate) stage: Stage,
    /// When, on the clock of this run. One of an earlier run counts as new, so that it is rather kept too long.
    at_ms: u64,
}

/// How far it has come.
pub(crate) enum Stage {
    /// Nothing was done.
    Received(Box<Command>),
    /// Its native call was made, or is about to be; the state before it.
    Begun(Box<Command>, State),
    /// The guest was asked, and is waited for. It may be told when that entry of the journal is durable.
    Asked(Box<Command>, u64),
    /// It is over. It may be told when that entry of the journal is durable.
    Ended(Box<Outcome>, u64),
}

impl Operation {
    /// The command, while it is under way.
    pub(crate) fn command(&self) -> Option<&Command> {
        match &self.stage {
            Stage::Received(command) | Stage::Begun(command, _) | Stage::Asked(command, _) => Some(command),
            Stage::Ended(..) => None,
        }
    }
}

/// The commands of late.
#[derive(Default)]
pub(crate) struct Memory {
    known: BTreeMap<OpId, Operation>,
    /// In the order they came.
    order: VecDeque<OpId>,
}

impl Memory {
    pub(crate) fn get(&self, op_id: &OpId) -> Option<&Operation> {
        self.known.get(op_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OpId, &Operation)> {
        self.order.iter().filter_map(|op_id| Some((op_id, self.known.get(op_id)?)))
    }

    /// Whether there is room for another, after forgetting what may be forgotten: what is older than anybody asks for, and
    /// of more than there is room for the oldest that nobody asks for any more. What is under way is never forgotten.
    pub(crate) fn has_room(&mut self, now_ms: u64, limits: &Limits) -> bool {
        while let Some(oldest) = self.order.front().and_then(|op_id| self.known.get(op_id)) {
            let age = now_ms.saturating_sub(oldest.at_ms);
            let ended = matches!(oldest.stage, Stage::Ended(..));
            if !ended || age <= limits.keep_ms {
                break;
            }
            self.forget(0);
        }
        if self.order.len() < limits.operations {
            return true;
        }
        let may_go = |op_id: &OpId| {
            self.known.get(op_id).is_none_or(|operation| {
                let age = now_ms.saturating_sub(operation.at_ms);
                matches!(operation.stage, Stage::Ended(..)) && age > limits.retry_ms
            })
        };
        let Some(index) = self.order.iter().position(may_go) else { return false };
        self.forget(index);
        true
    }

    /// Forget the oldest that has ended, if there are too many.
    pub(crate) fn make_room(&mut self, limits: &Limits) {
        if self.order.len() < limits.operations {
            return;
        }
        let ended = |op_id: &OpId| {
            self.known.get(op_id).is_none_or(|operation| matches!(operation.stage, Stage::Ended(..)))
        };
        if let Some(index) = self.order.iter().position(ended) {
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(op_id) = self.order.remove(index) {
            self.known.remove(&op_id);
        }
    }

    pub(crate) fn receive(&mut self, command: &Command, at_ms: u64) {
        self.add(
            command.op_id.clone(),
            Operation {
                digest: digest(command),
                instance: command.instance.clone(),
                stage: Stage::Received(Box::new(command.clone())),
                at_ms,
            },
        );
    }

    pub(crate) fn keep(&mut self, op_id: OpId, digest: Uuid, instance: InstanceId, outcome: Box<Outcome>) {
        self.add(op_id, Operation { digest, instance, stage: Stage::Ended(outcome, 0), at_ms: 0 });
    }

    fn add(&mut self, op_id: OpId, operation: Operation) {
        if self.known.insert(op_id.clone(), operation).is_none() {
            self.order.push_back(op_id);
        }
    }

    pub(crate) fn begin(&mut self, op_id: &OpId, from: State) {
        self.advance(op_id, |command| Stage::Begun(command, from));
    }

    pub(crate) fn ask(&mut self, op_id: &OpId, after: u64) {
        self.advance(op_id, |command| Stage::Asked(command, after));
    }

    /// It is over. Whether it was not before.
    pub(crate) fn end(&mut self, op_id: &OpId, outcome: Outcome, after: u64) -> bool {
        let mut ended = false;
        self.advance(op_id, |_| {
            ended = true;
            Stage::Ended(Box::new(outcome), after)
        });
        ended
    }

    fn advance(&mut self, op_id: &OpId, next: impl FnOnce(Box<Command>) -> Stage) {
        let Some(operation) = self.known.get_mut(op_id) else { return };
        if let Some(command) = operation.command().cloned() {
            operation.stage = next(Box::new(command));
        }
    }
}

/// Whether the verb is open in every state and for every instance that something may run of.
pub(crate) const fn is_forced(verb: Verb) -> bool {
    matches!(verb, Verb::Terminate | Verb::ForceStop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{Action, Precondition, Text};

    fn command(op: &str, action: Action) -> Command {
        Command::new(op.parse().unwrap(), "a".parse().unwrap(), action)
    }

    #[test]
    fn the_digest_is_of_all_that_decides_the_effect_and_of_nothing_else() {
        let base = command("op-1", Action::Pause {});
        let same =
            Command { deadline_ms: Some(7), epoch: Some(3), op_id: "x".parse().unwrap(), ..base.clone() };
        assert_eq!(digest(&base), digest(&same));
        let wanted = Precondition { generation: Some(1), ..Precondition::default() };
        for other in [
            command("op-1", Action::Resume {}),
            Command { instance: "b".parse().unwrap(), ..base.clone() },
            Command { precondition: wanted, ..base.clone() },
        ] {
            assert_ne!(digest(&base), digest(&other));
            assert!(!base.same_request(&other));
        }
    }

    #[test]
    fn memory_is_bounded_by_count_and_age_and_never_shorter_than_a_sender_retries() {
        let limits = Limits { operations: 3, retry_ms: 100, keep_ms: 1000, ..Limits::DEFAULT };
        let outcome = || Outcome::Indeterminate { detail: Text::default() };
        let mut memory = Memory::default();
        for number in 0..3 {
            assert!(memory.has_room(0, &limits));
            memory.receive(&command(&format!("op-{number}"), Action::Pause {}), 0);
        }
        assert!(!memory.has_room(5000, &limits), "all are under way");
        assert!(memory.end(&"op-1".parse().unwrap(), outcome(), 1));
        assert!(!memory.end(&"op-1".parse().unwrap(), outcome(), 1), "once");
        assert!(!memory.has_room(100, &limits), "its sender may still ask");
        assert!(memory.has_room(101, &limits));
        assert!(memory.get(&"op-1".parse().unwrap()).is_none());
        memory.receive(&command("op-3", Action::Pause {}), 200);
        for op in ["op-0", "op-2", "op-3"] {
            memory.end(&op.parse().unwrap(), outcome(), 1);
        }
        assert!(memory.has_room(1001, &limits));
        assert_eq!(memory.iter().count(), 1, "the others are too old");
    }
}
