//! Which resource a request is about.

use crate::problem::{Kind, Problem};
use agent_protocol::{InstanceId, OpId};
use alloc::format;
use core::str::FromStr;
use core::time::Duration;
use management_api::{Call, Parameters, TargetId, find, methods};
use management_http::{Method, Request};

/// A request, understood as far as its method and path go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET /healthz`
    Health,
    /// `GET /readyz`
    Ready,
    /// `GET /v1`
    About,
    /// `GET /v1/problems`
    Problems,
    /// `GET /v1/metrics`
    Metrics,
    /// `GET /v1/images`
    Images,
    /// `GET /v1/instances`
    Instances(Page),
    /// `POST /v1/instances`
    CreateInstance,
    /// `GET /v1/instances/{id}`
    Instance(InstanceId),
    /// `POST /v1/instances/{id}/commands`
    Command(InstanceId),
    /// `GET /v1/operations`
    Operations(Page),
    /// `GET /v1/operations/{id}`, and how long to wait for its end
    Operation(OpId, Option<Duration>),
    /// `GET /v1/targets`
    Targets,
    /// `GET /v1/targets/{id}`
    Target(TargetId),
    /// `PUT /v1/targets/{id}`
    PutTarget(TargetId),
    /// `GET /v1/enrol`
    EnrolmentRequest,
    /// `POST /v1/enrol`
    Enrol,
    /// `GET /v1/keys`
    Keys,
    /// `POST /v1/keys:rotate`
    RotateKeys,
    /// `PUT /v1/keys`
    PutKeys,
    /// `DELETE /v1/targets/{id}`, with the seconds that initiators have to log out
    DeleteTarget(TargetId, Option<u16>),
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most so many.
    pub(crate) limit: usize,
    /// Those that come after this name.
    pub(crate) after: Option<InstanceId>,
}

/// Most seconds that may be waited for something to happen: connections are few.
const MAX_WAIT: u64 = 25;
/// Most seconds that initiators may be given to log out.
const MAX_GRACE: u16 = 3600;

impl Page {
    const DEFAULT: usize = 100;
    const MAX: usize = 200;
}

/// Understand the method, the path and the query.
pub(crate) fn route(request: &Request<'_>) -> Result<Route, Problem> {
    let nothing = || Problem::new(Kind::NotFound, format!("There is nothing at {}.", request.path));
    let (endpoint, name) = find(request.method, request.path).map_err(|others| match methods(others) {
        Some(allow) => not_allowed(allow),
        None => nothing(),
    })?;
    let (mut patience, mut waited) = (None, None);
    let page = match request.query {
        Some(query) if endpoint.query.has(Parameters::PAGE) => page(query)?,
        Some(query) if endpoint.query.has(Parameters::GRACE) => {
            patience = Some(grace(query)?);
            Page { limit: Page::DEFAULT, after: None }
        }
        Some(query) if endpoint.query.has(Parameters::WAIT) => {
            waited = Some(wait(query)?);
            Page { limit: Page::DEFAULT, after: None }
        }
        Some(_) => return Err(Problem::new(Kind::MalformedQuery, "This resource takes no query.")),
        None => Page { limit: Page::DEFAULT, after: None },
    };
    let route = match endpoint.call {
        Call::Health => Route::Health,
        Call::Ready => Route::Ready,
        Call::About => Route::About,
        Call::Problems => Route::Problems,
        Call::Metrics => Route::Metrics,
        Call::Images => Route::Images,
        Call::Instances => Route::Instances(page),
        Call::CreateInstance => Route::CreateInstance,
        Call::Instance => Route::Instance(named(name, Kind::UnknownInstance)?),
        Call::Command => Route::Command(named(name, Kind::UnknownInstance)?),
        Call::Operations => Route::Operations(page),
        Call::Operation => Route::Operation(named(name, Kind::UnknownOperation)?, waited),
        Call::Targets => Route::Targets,
        Call::Target => Route::Target(named(name, Kind::UnknownTarget)?),
        Call::PutTarget => Route::PutTarget(named(name, Kind::InvalidField)?),
        Call::DeleteTarget => Route::DeleteTarget(named(name, Kind::UnknownTarget)?, patience),
        Call::EnrolmentRequest => Route::EnrolmentRequest,
        Call::Enrol => Route::Enrol,
        Call::Keys => Route::Keys,
        Call::RotateKeys => Route::RotateKeys,
        Call::PutKeys => Route::PutKeys,
        _ => return Err(nothing()),
    };
    let has_body = matches!(request.method, Method::Post | Method::Put | Method::Patch);
    if !has_body && !request.body.is_empty() {
        return Err(Problem::new(Kind::UnexpectedBody, format!("{} takes no body.", request.method)));
    }
    Ok(route)
}

/// A name in a path. One that nothing can have stands for nothing: that is `otherwise`.
fn named<T: FromStr>(text: &str, otherwise: Kind) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let rule = "A name has 1 to 63 of a-z, 0-9 and hyphens, and no hyphen at its ends.";
        Problem::new(otherwise, format!("{text} names nothing. {rule}"))
    })
}

/// `wait=25s`
fn wait(query: &str) -> Result<Duration, Problem> {
    let seconds = query.strip_prefix("wait=").and_then(|wait| wait.strip_suffix('s')?.parse().ok());
    seconds
        .filter(|seconds| *seconds <= MAX_WAIT)
        .map(Duration::from_secs)
        .ok_or_else(|| Problem::new(Kind::MalformedQuery, "wait: from 0s to 25s"))
}

fn grace(query: &str) -> Result<u16, Problem> {
    let seconds = query.strip_prefix("grace=").and_then(|seconds| seconds.parse().ok());
    seconds
        .filter(|seconds| *seconds <= MAX_GRACE)
        .ok_or_else(|| Problem::new(Kind::MalformedQuery, "grace: seconds, from 0 to 3600"))
}

fn page(query: &str) -> Result<Page, Problem> {
    let malformed = |detail: &str| Problem::new(Kind::MalformedQuery, detail);
    let (mut limit, mut after) = (None, None);
    for pair in query.split('&') {
        let twice = match pair.split_once('=') {
            Some(("limit", value)) => {
                let number = value.parse().ok().filter(|number| (1..=Page::MAX).contains(number));
                limit.replace(number.ok_or_else(|| malformed("limit: from 1 to 200"))?).is_some()
            }
            Some(("after", value)) => {
                let name = value.parse().map_err(|_| malformed("after: the name that a page ended with"))?;
                after.replace(name).is_some()
            }
            _ => return Err(malformed("This list takes limit and after.")),
        };
        if twice {
            return Err(malformed("A parameter stands twice."));
        }
    }
    Ok(Page { limit: limit.unwrap_or(Page::DEFAULT), after })
}

fn not_allowed(allow: &'static str) -> Problem {
    let problem = Problem::new(Kind::MethodNotAllowed, format!("The methods are {allow}."));
    Problem { allow: Some(allow), ..problem }
}
