//! Targets: the part of the API that storage answers.

use crate::problem::{Kind, Problem};
use crate::views;
use agent_protocol::encode;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;
use management_api::TargetPage;
use management_http::Response;
use storage::{Connected, ControlError, Exposed, Exposure};

/// What management asks of storage. `storage::Control` does it; tests put something else in its place.
pub trait Targets {
    /// Make a target as described; the same again changes nothing.
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError>;
    /// Take it away; refused while a session is logged in.
    fn withdraw(&self, id: &str) -> Result<(), ControlError>;
    /// Take it away when its initiators have logged out, as they are asked to, or when that time is over.
    fn withdraw_within(&self, id: &str, grace: Duration) -> Result<(), ControlError>;
    /// All of them.
    fn list(&self) -> Vec<Exposed>;
    /// One of them.
    fn get(&self, id: &str) -> Option<Exposed>;
    /// The connections of initiators that are logged in.
    fn connections(&self) -> Vec<Connected>;
}

impl Targets for storage::Control {
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError> {
        Self::expose(self, exposure)
    }
    fn withdraw(&self, id: &str) -> Result<(), ControlError> {
        Self::withdraw(self, id)
    }
    fn withdraw_within(&self, id: &str, grace: Duration) -> Result<(), ControlError> {
        Self::withdraw_within(self, id, grace)
    }
    fn list(&self) -> Vec<Exposed> {
        Self::list(self)
    }
    fn get(&self, id: &str) -> Option<Exposed> {
        Self::get(self, id)
    }
    fn connections(&self) -> Vec<Connected> {
        Self::connections(self)
    }
}

pub(crate) fn list(targets: &dyn Targets) -> Response {
    let exposed = targets.list();
    let targets = exposed.iter().map(views::target).collect();
    Response::json(200, encode(&TargetPage { targets, next: None }))
}

pub(crate) fn get(targets: &dyn Targets, id: &str) -> Result<Response, Problem> {
    let exposed = targets.get(id).ok_or_else(|| unknown(id))?;
    Ok(Response::json(200, encode(&views::target(&exposed))))
}

/// Made for the first time it is 201, and 200 when it was there.
pub(crate) fn put(targets: &dyn Targets, exposure: Exposure) -> Result<Response, Problem> {
    let id = exposure.id.clone();
    let before = targets.get(&id);
    let exposed = targets.expose(exposure).map_err(|error| problem(&id, error))?;
    let body = encode(&views::target(&exposed));
    if before.is_some() {
        return Ok(Response::json(200, body));
    }
    Ok(Response { location: Some(format!("/v1/targets/{id}")), ..Response::json(201, body) })
}

/// With `grace` seconds for its initiators; while they leave it is 202.
pub(crate) fn delete(targets: &dyn Targets, id: &str, grace: Option<u16>) -> Result<Response, Problem> {
    let done = match grace {
        None => targets.withdraw(id),
        Some(seconds) => targets.withdraw_within(id, Duration::from_secs(seconds.into())),
    };
    done.map_err(|error| problem(id, error))?;
    Ok(match targets.get(id) {
        None => Response::no_content(),
        Some(leaving) => Response::json(202, encode(&views::target(&leaving))),
    })
}

fn unknown(id: &str) -> Problem {
    Problem::new(Kind::UnknownTarget, format!("There is no target {id}."))
}

fn problem(id: &str, error: ControlError) -> Problem {
    match error {
        ControlError::NotFound => unknown(id),
        ControlError::Invalid { .. } => Problem::new(Kind::InvalidField, error.to_string()),
        ControlError::Conflict(what) => Problem::new(Kind::TargetConflict, what),
        ControlError::Full => Problem::new(Kind::NoCapacity, "All target slots are taken."),
        ControlError::InUse => {
            Problem::new(Kind::TargetInUse, format!("A session is logged in to {id}; log it out first."))
        }
    }
}
