//! What can be said of a command before it is sent: whether any hypervisor here can do it, and what a dry run would find.

use crate::Management;
use crate::documents::Order;
use crate::problem::{Kind, Problem};
use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{Answer, Outcome, Refusal, Support, Verb};
use alloc::boxed::Box;
use alloc::format;
use management_api::{Forecast, InstanceView};

impl Management {
    /// Refuse what none of the host's hypervisors can do, and instances on a host that takes none: nothing is sent.
    pub(crate) fn foresee(&self, verb: Verb) -> Result<(), Problem> {
        if self.drain.get() && matches!(verb, Verb::Create | Verb::MigratePrepare) {
            return Err(Problem::new(Kind::Draining, "The host is being drained; use another."));
        }
        self.forward.with_welcome(|welcome| {
            let Some(welcome) = welcome else { return Ok(()) };
            let mut missing = None;
            for backend in &welcome.backends {
                let capability = backend.capabilities.iter().find(|capability| capability.verb == verb);
                match capability {
                    Some(capability) if capability.support == Support::Impossible => {
                        missing.get_or_insert((backend, capability));
                    }
                    // One that does not speak of a verb has to be asked.
                    _ => return Ok(()),
                }
            }
            let Some((backend, capability)) = missing else { return Ok(()) };
            let detail = format!("{} cannot {verb}: {}", backend.name, capability.by);
            let capability = Some(Box::new(capability.clone()));
            Err(Problem { capability, ..Problem::new(Kind::Unsupported, detail) })
        })
    }
}

/// What would come of an order, going by how the instance is now.
pub(crate) fn forecast(order: &Order, answer: &Answer) -> Result<Forecast, Problem> {
    let verb = order.action.verb();
    let instance = match &answer.outcome {
        Outcome::Done { instance, .. } | Outcome::Accepted { instance } => instance,
        Outcome::Refused { code: Refusal::UnknownInstance, .. }
            if matches!(verb, Verb::Create | Verb::MigratePrepare) =>
        {
            return Ok(shown(Some(true), None));
        }
        Outcome::Refused { code: Refusal::Terminated, instance: Some(instance), .. } => instance,
        Outcome::Refused { code, detail, .. } => {
            return Err(Problem::new(Kind::of_refusal(*code), detail.as_str()));
        }
        Outcome::Failed { code, detail, .. } => {
            return Err(Problem::new(Kind::of_failure(*code), detail.as_str()));
        }
        Outcome::Indeterminate { detail } => return Err(Problem::new(Kind::StateUnknown, detail.as_str())),
    };
    let current = InstanceView::new(instance, answer.clock_ms);
    let refused = |kind, detail| {
        let current = Some(Box::new(current.clone()));
        Err(Problem { current, ..Problem::new(kind, detail) })
    };
    let asked = &order.precondition;
    let holds = asked.uuid.is_none_or(|uuid| uuid == instance.uuid)
        && asked.generation.is_none_or(|generation| generation == instance.generation)
        && asked.state.is_none_or(|state| state == instance.state);
    if !holds {
        return refused(Kind::PreconditionFailed, "The instance is not as the precondition says.".into());
    }
    match effect(instance.state, verb) {
        Effect::Change(_) => Ok(shown(Some(true), Some(current))),
        Effect::Keep => Ok(shown(None, Some(current))),
        Effect::Already => Ok(shown(Some(false), Some(current))),
        Effect::Refuse(code) => {
            refused(Kind::of_refusal(code), format!("{verb} does not go with {}.", instance.state))
        }
    }
}

const fn shown(would_change: Option<bool>, current: Option<InstanceView>) -> Forecast {
    Forecast { dry_run: true, would_change, current }
}
