//! What became of each command: one that is sent twice is carried out once.
//!
//! Kept in memory, for one run of the agent; `agent_boot` in every answer tells a sender when it has begun anew.

use agent_protocol::{Command, OpId, Outcome};
use std::collections::{HashMap, VecDeque};

/// How many commands are remembered.
const CAPACITY: usize = 1024;

/// The commands of late, and what became of them.
#[derive(Default)]
pub(crate) struct Operations {
    known: HashMap<OpId, Operation>,
    /// In the order they came.
    order: VecDeque<OpId>,
}

struct Operation {
    command: Command,
    /// `None` while it is being carried out.
    outcome: Option<Outcome>,
}

/// Whether a command is to be carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// It is new.
    New,
    /// It came before, and this became of it; `None` if it is being carried out.
    Repeated(Option<Box<Outcome>>),
    /// Its name stands for another command.
    Reused,
    /// So many are being carried out that it could not be remembered.
    Full,
}

impl Operations {
    /// Remember a command before anything is done.
    pub(crate) fn begin(&mut self, command: &Command) -> Begin {
        if let Some(operation) = self.known.get(&command.op_id) {
            return if operation.command.same_request(command) {
                Begin::Repeated(operation.outcome.clone().map(Box::new))
            } else {
                Begin::Reused
            };
        }
        if self.order.len() >= CAPACITY && !self.forget_oldest() {
            return Begin::Full;
        }
        self.order.push_back(command.op_id.clone());
        self.known.insert(command.op_id.clone(), Operation { command: command.clone(), outcome: None });
        Begin::New
    }

    /// Remember what became of it.
    pub(crate) fn finish(&mut self, op_id: &OpId, outcome: Outcome) {
        if let Some(operation) = self.known.get_mut(op_id) {
            operation.outcome = Some(outcome);
        }
    }

    /// The command of that name and what became of it, `None` while it is being carried out.
    pub(crate) fn get(&self, op_id: &OpId) -> Option<(&Command, Option<&Outcome>)> {
        self.known.get(op_id).map(|operation| (&operation.command, operation.outcome.as_ref()))
    }

    /// Drop the oldest that has ended; whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let ended =
            |op_id: &OpId| self.known.get(op_id).is_none_or(|operation| is_final(operation.outcome.as_ref()));
        let Some(index) = self.order.iter().position(ended) else { return false };
        if let Some(op_id) = self.order.remove(index) {
            self.known.remove(&op_id);
        }
        true
    }
}

fn is_final(outcome: Option<&Outcome>) -> bool {
    !matches!(outcome, None | Some(Outcome::Accepted { .. }))
}

/// An outcome in a few words, for the log.
pub(crate) fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { changed: true, instance, .. } => format!("done, {}", instance.state),
        Outcome::Done { changed: false, .. } => "nothing to do".to_owned(),
        Outcome::Accepted { .. } => "accepted".to_owned(),
        Outcome::Refused { code, .. } => format!("refused, {}", code.as_str()),
        Outcome::Failed { code, detail, .. } => format!("failed, {}: {detail}", code.as_str()),
        Outcome::Indeterminate { detail } => format!("indeterminate: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{Action, Text};

    fn command(op: &str, action: Action) -> Command {
        Command::new(op.parse().unwrap(), "a".parse().unwrap(), action)
    }

    #[test]
    fn a_command_is_new_once() {
        let mut operations = Operations::default();
        let terminate = command("op-1", Action::Terminate {});
        assert_eq!(operations.begin(&terminate), Begin::New);
        assert_eq!(operations.begin(&terminate), Begin::Repeated(None));
        let outcome = Outcome::Indeterminate { detail: Text::new("x") };
        operations.finish(&terminate.op_id, outcome.clone());
        let again = Command { deadline_ms: Some(9), ..terminate };
        assert_eq!(operations.begin(&again), Begin::Repeated(Some(Box::new(outcome))));
        assert_eq!(operations.begin(&command("op-1", Action::Pause {})), Begin::Reused);
    }

    #[test]
    fn memory_is_bounded_and_what_is_under_way_is_never_forgotten() {
        let mut operations = Operations::default();
        for number in 0..CAPACITY {
            assert_eq!(operations.begin(&command(&format!("op-{number}"), Action::Pause {})), Begin::New);
        }
        assert_eq!(operations.begin(&command("more", Action::Pause {})), Begin::Full);
        let seven: OpId = "op-7".parse().unwrap();
        operations.finish(&seven, Outcome::Indeterminate { detail: Text::default() });
        assert_eq!(operations.begin(&command("more", Action::Pause {})), Begin::New);
        assert!(operations.get(&seven).is_none());
        assert_eq!(operations.known.len(), CAPACITY);
    }
}
