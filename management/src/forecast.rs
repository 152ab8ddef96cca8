//! What can be said of a command before it is sent: whether any hypervisor here can do it, and what a dry run would find.

use crate::Management;
use crate::ask::{Ask, Reply};
use crate::audit::Entry;
use crate::documents::Order;
use crate::plane::{ANSWER_TIME, Aim, Wait};
use crate::policy::Principal;
use crate::problem::{Kind, Problem};
use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{
    Answer, Backend, Capability, Facility, Instance, Outcome, Provision, Refusal, Support, Text, Verb,
};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use management_api::audit::Decision;
use management_api::{Forecast, InstanceView};
use management_http::{Method, Response};

impl Management {
    /// Refuse what none of the host's hypervisors can do, and instances on a host that takes none: nothing is sent.
    pub(crate) fn foresee(&self, verb: Verb) -> Result<(), Problem> {
        if self.drain.get() && matches!(verb, Verb::Create | Verb::MigratePrepare) {
            return Err(Problem::new(Kind::Draining, "The host is being drained; use another."));
        }
        if self.chances(verb).is_some_and(|(can, _)| can) { Ok(()) } else { self.cannot(verb, None) }
    }

    /// Refuse to look for what none of the host's hypervisors provides: nothing is sent. Where only some of them do not, and of
    /// one that does not speak of it, the agent is asked.
    pub(crate) fn foresee_look(&self, facility: Facility) -> Result<(), Problem> {
        self.forward.with_welcome(|welcome| {
            let mut first = None;
            for backend in welcome.iter().flat_map(|welcome| &welcome.backends) {
                let is_it = |one: &&Provision| one.facility == facility && one.support == Support::Impossible;
                let Some(provision) = backend.facilities.iter().find(is_it) else { return Ok(()) };
                first.get_or_insert((&backend.name, provision));
            }
            let Some((name, provision)) = first else { return Ok(()) };
            let detail = format!("{name} has no {facility}: {}", provision.by);
            let facility = Some(Box::new(provision.clone()));
            Err(Problem { facility, ..Problem::new(Kind::Unsupported, detail) })
        })
    }

    /// Whether it takes to know by which of the host's hypervisors an instance is run, to say whether that can be done.
    pub(crate) fn depends(&self, verb: Verb) -> bool {
        self.chances(verb) == Some((true, true))
    }

    /// Refuse what this of the host's hypervisors cannot do.
    pub(crate) fn foresee_by(&self, verb: Verb, hypervisor: &Text) -> Result<(), Problem> {
        self.cannot(verb, Some(hypervisor))
    }

    /// Whether some of the hypervisors may be able to do it, and whether some are not. One that does not speak of a verb has to
    /// be asked.
    fn chances(&self, verb: Verb) -> Option<(bool, bool)> {
        self.forward.with_welcome(|welcome| {
            let backends = &welcome?.backends;
            let cannot = |backend: &&Backend| why_not(backend, verb).is_some();
            Some((
                !backends.iter().all(|backend| cannot(&backend)),
                backends.iter().any(|backend| cannot(&backend)),
            ))
        })
    }

    /// Refuse it if it is impossible for the hypervisor of this name, or for the first one.
    fn cannot(&self, verb: Verb, hypervisor: Option<&Text>) -> Result<(), Problem> {
        self.forward.with_welcome(|welcome| {
            let mut backends = welcome.iter().flat_map(|welcome| &welcome.backends);
            let it = backends.find(|backend| hypervisor.is_none_or(|name| backend.name == *name));
            let Some((backend, capability)) = it.and_then(|it| Some((it, why_not(it, verb)?))) else {
                return Ok(());
            };
            let detail = format!("{} cannot {verb}: {}", backend.name, capability.by);
            let capability = Some(Box::new(capability.clone()));
            Err(Problem { capability, ..Problem::new(Kind::Unsupported, detail) })
        })
    }

    /// Look by which hypervisor the instance is run, make an operation of the order unless that one cannot do it, and wait for
    /// what comes of it.
    pub async fn look(&self, look: Look) -> Response {
        let Look { order, principal, ask, aim, path } = look;
        let reply = self.forward.ask(ask.question, ask.deadline).await;
        // What nothing can be seen of is told by the agent, when it has the command.
        let seen = match &reply {
            Ok(Reply::Answer(answer)) | Ok(Reply::Meanwhile(Some(answer))) => instance_of(answer),
            _ => None,
        };
        let verb = order.action.verb();
        let may = seen.map_or(Ok(()), |instance| self.foresee_by(verb, &instance.hypervisor));
        match may.and_then(|()| self.admit(&order, principal)) {
            Ok(id) => self.wait(Wait { id, until: self.clock.now() + ANSWER_TIME, aim, path }).await,
            Err(problem) => {
                let (verb, outcome) = (Method::Post.as_str(), problem.kind.name());
                let (object, decision) = (path.as_str(), Decision::Allowed);
                self.record(Entry { principal, verb, object, decision, outcome, operation: None });
                self.recorded().await;
                let response = problem.at(&path).response();
                self.metrics.response(response.status);
                response
            }
        }
    }
}

/// A command of which it is to be seen first which hypervisor it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub(crate) order: Box<Order>,
    pub(crate) principal: Principal,
    pub(crate) ask: Ask,
    pub(crate) aim: Aim,
    /// The path of the request.
    pub(crate) path: String,
}

/// The instance that an answer tells of.
pub(crate) fn instance_of(answer: &Answer) -> Option<&Instance> {
    match &answer.outcome {
        Outcome::Done { instance, .. } | Outcome::Accepted { instance } => Some(instance),
        Outcome::Refused { instance, .. } | Outcome::Failed { instance, .. } => instance.as_ref(),
        Outcome::Indeterminate { .. } => None,
    }
}

/// What a hypervisor says about a verb that is impossible there.
fn why_not(backend: &Backend, verb: Verb) -> Option<&Capability> {
    let is_it =
        |capability: &&Capability| capability.verb == verb && capability.support == Support::Impossible;
    backend.capabilities.iter().find(is_it)
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
