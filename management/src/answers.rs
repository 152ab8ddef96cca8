//! What the agent's replies to those who look become to a client.

use crate::ask::{AgentError, Reply};
use crate::problem::{Kind, Problem};
use crate::route::Page;
use crate::views::{ImageList, InstancePage, InstanceView};
use agent_protocol::{Answer, Inventory, OpId, Outcome, encode};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use management_http::Response;

/// What to tell of a question that changes nothing and was not answered.
pub(crate) fn unanswered(error: &AgentError) -> Problem {
    let kind = match error {
        AgentError::NotConfigured => Kind::AgentNotConfigured,
        AgentError::Busy => Kind::TooBusy,
        // Nothing was to be done, so nothing is in doubt: it may simply be asked again.
        AgentError::Unavailable(_) | AgentError::TooLate | AgentError::Lost(..) => Kind::AgentUnavailable,
        AgentError::Nonsense(..) => Kind::AgentNonsense,
        AgentError::Refused(_) => Kind::AgentRefused,
        AgentError::Problem(kind, _) => *kind,
    };
    Problem::new(kind, error.to_string())
}

pub(crate) fn inventory(reply: Result<Reply, AgentError>) -> Result<Inventory, Problem> {
    match reply {
        Ok(Reply::Inventory(inventory)) => Ok(inventory),
        Ok(_) => Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => Err(unanswered(&error)),
    }
}

pub(crate) fn images(inventory: &Inventory) -> Response {
    Response::json(200, encode(&ImageList { images: inventory.images.clone() }))
}

/// A page of the agent's, as a page of ours: it ends where the agent's does, or sooner should the agent send more than was
/// asked for.
pub(crate) fn instances(inventory: &Inventory, page: &Page) -> Response {
    let view = |instance| InstanceView::new(instance, inventory.clock_ms);
    let mut found = inventory
        .instances
        .iter()
        .filter(|instance| page.after.as_ref().is_none_or(|after| instance.id > *after));
    let shown: alloc::vec::Vec<_> = found.by_ref().take(page.limit).collect();
    let last = shown.last().map(|instance| instance.id.clone());
    // An agent that goes on elsewhere than behind the last could lead a client round and round.
    let next = if found.next().is_some() {
        last
    } else {
        inventory.next.clone().filter(|next| last.as_ref() == Some(next))
    };
    Response::json(200, encode(&InstancePage { instances: shown.into_iter().map(view).collect(), next }))
}

pub(crate) fn answered(reply: Result<Reply, AgentError>) -> Result<Box<Answer>, Problem> {
    match reply {
        // Of a hypervisor that does not answer in time it is told how its machine was last seen.
        Ok(Reply::Answer(answer) | Reply::Meanwhile(Some(answer))) => Ok(answer),
        Ok(_) => Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => Err(unanswered(&error)),
    }
}

/// What an instance has used.
pub(crate) fn stats(reply: Result<Reply, AgentError>) -> Result<Response, Problem> {
    match reply {
        Ok(Reply::Stats(stats)) => Ok(Response::json(200, encode(&*stats))),
        Ok(Reply::Meanwhile(_)) => {
            Err(Problem::new(Kind::HypervisorTimeout, "The hypervisor does not tell the agent in time."))
        }
        Ok(_) => Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => Err(unanswered(&error)),
    }
}

/// What a guest wrote to its console.
pub(crate) fn console(reply: Result<Reply, AgentError>) -> Result<Response, Problem> {
    match reply {
        Ok(Reply::Console(page)) => Ok(Response::json(200, encode(&page))),
        Ok(_) => Err(Problem::new(Kind::AgentNonsense, "The agent answered another question.")),
        Err(error) => Err(unanswered(&error)),
    }
}

/// The instance that the agent was told to look at.
pub(crate) fn described(reply: Result<Reply, AgentError>) -> Result<Response, Problem> {
    let answer = answered(reply)?;
    match answer.outcome {
        Outcome::Done { instance, .. } | Outcome::Accepted { instance } => {
            Ok(Response::json(200, encode(&InstanceView::new(&instance, answer.clock_ms))))
        }
        Outcome::Refused { code, detail, .. } => Err(Problem::new(Kind::of_refusal(code), detail.as_str())),
        Outcome::Failed { code, detail, .. } => Err(Problem::new(Kind::of_failure(code), detail.as_str())),
        Outcome::Indeterminate { detail } => Err(Problem::new(Kind::StateUnknown, detail.as_str())),
    }
}

pub(crate) fn forgotten(id: &OpId) -> Problem {
    Problem::new(Kind::UnknownOperation, format!("There is no operation {id}, or it has been forgotten."))
}
