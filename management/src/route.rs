//! Which resource a request is about.

use crate::problem::{Kind, Problem};
use agent_protocol::{InstanceId, NetworkName, OpId};
use alloc::format;
use core::str::FromStr;
use core::time::Duration;
use management_api::{Call, Headers, Parameters, Right, TargetId, find, methods};
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
    /// `GET /v1/metrics`, and `GET /metrics`
    Metrics,
    /// `GET /v1/images`
    Images,
    /// `GET /v1/instances`
    Instances(Page),
    /// `POST /v1/instances`, and whether it is a dry run
    CreateInstance(bool),
    /// `GET /v1/instances/{id}`
    Instance(InstanceId),
    /// `GET /v1/instances/{id}/stats`
    Stats(InstanceId),
    /// `GET /v1/instances/{id}/console`: after which byte, and how long to wait for more
    Console(InstanceId, u64, Duration),
    /// `POST /v1/instances/{id}/commands`, and whether it is a dry run
    Command(InstanceId, bool),
    /// `POST /v1/commands`, and whether it is a dry run
    Batch(bool),
    /// `GET /v1/operations`
    Operations(Page),
    /// `GET /v1/operations/{id}`, and how long to wait for its end
    Operation(OpId, Option<Duration>),
    /// `POST /v1/operations/{id}:cancel`, and whether it is a dry run
    Cancel(OpId, bool),
    /// `GET /v1/hosts/self`
    Host,
    /// `POST /v1/hosts/self:drain`, and whether it is a dry run
    Drain(bool),
    /// `GET /v1/capabilities`
    Capabilities,
    /// `GET /v1/events`, and how long to wait for one
    Events(SeqPage, Option<Duration>),
    /// `GET /v1/audit`
    Audit(SeqPage),
    /// `GET /v1/targets`
    Targets(Page),
    /// `GET /v1/targets/{id}`
    Target(TargetId),
    /// `PUT /v1/targets/{id}`, and whether it is a dry run
    PutTarget(TargetId, bool, IfMatch),
    /// `GET /v1/networks`
    Networks(Page),
    /// `GET /v1/networks/{id}/map`
    Network(NetworkName),
    /// `PUT /v1/networks/{id}/map`, and whether it is a dry run
    PutNetwork(NetworkName, bool, IfMatch),
    /// `DELETE /v1/networks/{id}/map`, and whether it is a dry run
    DeleteNetwork(NetworkName, bool, IfMatch),
    /// `GET /v1/networks/{id}/counters`
    NetworkCounters(NetworkName),
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
    /// `DELETE /v1/targets/{id}`, with the seconds that initiators have to log out, and whether it is a dry run
    DeleteTarget(TargetId, Option<u16>, bool, IfMatch),
}

/// The generation that has to be there, as `If-Match` says (RFC 9110 section 13.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// Whatever is there, or nothing.
    Absent,
    /// Something.
    Any,
    /// That one.
    Generation(u64),
    /// What no generation is.
    Nothing,
}

impl IfMatch {
    fn of(text: Option<&str>) -> Self {
        match text.map(|text| text.trim_matches('"')) {
            None => Self::Absent,
            Some("*") => Self::Any,
            Some(number) => number.parse().map_or(Self::Nothing, Self::Generation),
        }
    }

    /// Whether it holds where this generation is there; 0 is that of nothing.
    pub(crate) const fn holds(self, current: u64) -> bool {
        match self {
            Self::Absent => true,
            Self::Any => current > 0,
            Self::Generation(expected) => expected == current,
            Self::Nothing => false,
        }
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most so many.
    pub(crate) limit: usize,
    /// Those that come after this name.
    pub(crate) after: Option<InstanceId>,
}

/// Which part of a list of numbered things is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeqPage {
    /// At most so many.
    pub(crate) limit: usize,
    /// Those that come after this number.
    pub(crate) after: Option<u64>,
}

/// What stands behind the question mark.
#[derive(Default)]
struct Query<'a> {
    limit: Option<usize>,
    after: Option<&'a str>,
    wait: Option<Duration>,
    grace: Option<u16>,
    dry_run: Option<bool>,
}

/// Most seconds that may be waited for something to happen: connections are few.
const MAX_WAIT: u64 = 25;
/// Most seconds that initiators may be given to log out.
const MAX_GRACE: u16 = 3600;

impl Page {
    const DEFAULT: usize = 100;
    const MAX: usize = 200;
}

/// Understand the method, the path and the query; and what right it takes.
pub(crate) fn route(request: &Request<'_>) -> Result<(Right, Route), Problem> {
    let nothing = || Problem::new(Kind::NotFound, format!("There is nothing at {}.", request.path));
    let (endpoint, name) = find(request.method, request.path).map_err(|others| match methods(others) {
        Some(allow) => not_allowed(allow),
        None => nothing(),
    })?;
    let query = query(request.query, endpoint.query)?;
    let limit = query.limit.unwrap_or(Page::DEFAULT);
    let malformed = |_| Problem::new(Kind::MalformedQuery, "after: the name that a page ended with");
    let page = || Ok(Page { limit, after: query.after.map(str::parse).transpose().map_err(malformed)? });
    let numbered = || {
        let after = query.after.map(str::parse).transpose();
        after
            .map(|after| SeqPage { limit, after })
            .map_err(|_| Problem::new(Kind::MalformedQuery, "after: the number that a page ended with"))
    };
    let dry = query.dry_run.unwrap_or_default();
    // Only what the row has counts: what the document does not tell of, nobody is decided by.
    let takes_match = endpoint.headers.has(Headers::IF_MATCH);
    let if_match = IfMatch::of(request.field("if-match").filter(|_| takes_match));
    let route = match endpoint.call {
        Call::Health => Route::Health,
        Call::Ready => Route::Ready,
        Call::About => Route::About,
        Call::Problems => Route::Problems,
        Call::Metrics | Call::Scrape => Route::Metrics,
        Call::Host => Route::Host,
        Call::Drain => Route::Drain(dry),
        Call::Capabilities => Route::Capabilities,
        Call::Images => Route::Images,
        Call::Instances => Route::Instances(page()?),
        Call::CreateInstance => Route::CreateInstance(dry),
        Call::Instance => Route::Instance(named(name, Kind::UnknownInstance)?),
        Call::Stats => Route::Stats(named(name, Kind::UnknownInstance)?),
        Call::Console => Route::Console(
            named(name, Kind::UnknownInstance)?,
            numbered()?.after.unwrap_or(0),
            query.wait.unwrap_or_default(),
        ),
        Call::Command => Route::Command(named(name, Kind::UnknownInstance)?, dry),
        Call::Batch => Route::Batch(dry),
        Call::Operations => Route::Operations(page()?),
        Call::Operation => Route::Operation(named(name, Kind::UnknownOperation)?, query.wait),
        Call::Cancel => Route::Cancel(named(name, Kind::UnknownOperation)?, dry),
        Call::Targets => Route::Targets(page()?),
        Call::Target => Route::Target(named(name, Kind::UnknownTarget)?),
        Call::PutTarget => Route::PutTarget(named(name, Kind::InvalidField)?, dry, if_match),
        Call::DeleteTarget => {
            Route::DeleteTarget(named(name, Kind::UnknownTarget)?, query.grace, dry, if_match)
        }
        Call::Networks => Route::Networks(page()?),
        Call::Network => Route::Network(named(name, Kind::UnknownNetwork)?),
        Call::PutNetwork => Route::PutNetwork(named(name, Kind::InvalidField)?, dry, if_match),
        Call::DeleteNetwork => Route::DeleteNetwork(named(name, Kind::UnknownNetwork)?, dry, if_match),
        Call::NetworkCounters => Route::NetworkCounters(named(name, Kind::UnknownNetwork)?),
        Call::Events => Route::Events(numbered()?, query.wait),
        Call::Audit => Route::Audit(numbered()?),
        Call::EnrolmentRequest => Route::EnrolmentRequest,
        Call::Enrol => Route::Enrol,
        Call::Keys => Route::Keys,
        Call::RotateKeys => Route::RotateKeys,
        Call::PutKeys => Route::PutKeys,
    };
    let has_body = matches!(request.method, Method::Post | Method::Put | Method::Patch);
    let has_body = has_body && !matches!(endpoint.call, Call::Cancel);
    if !has_body && !request.body.is_empty() {
        return Err(Problem::new(Kind::UnexpectedBody, format!("{} takes no body.", request.method)));
    }
    Ok((endpoint.right, route))
}

/// A name in a path. One that nothing can have stands for nothing: that is `otherwise`.
fn named<T: FromStr>(text: &str, otherwise: Kind) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let rule = "A name has 1 to 63 of a-z, 0-9 and hyphens, and no hyphen at its ends.";
        Problem::new(otherwise, format!("{text} names nothing. {rule}"))
    })
}

/// The parameters of a query, each once and each of those that the resource takes.
fn query(text: Option<&str>, takes: Parameters) -> Result<Query<'_>, Problem> {
    let malformed = |detail: &str| Problem::new(Kind::MalformedQuery, detail);
    let mut query = Query::default();
    for pair in text.into_iter().flat_map(|text| text.split('&')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let twice = match name {
            "limit" if takes.has(Parameters::LIMIT) => {
                let number = value.parse().ok().filter(|number| (1..=Page::MAX).contains(number));
                query.limit.replace(number.ok_or_else(|| malformed("limit: from 1 to 200"))?).is_some()
            }
            "after" if takes.has(Parameters::AFTER) || takes.has(Parameters::AFTER_SEQ) => {
                query.after.replace(value).is_some()
            }
            "wait" if takes.has(Parameters::WAIT) => {
                let seconds = value.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
                let wait = seconds.filter(|seconds| *seconds <= MAX_WAIT).map(Duration::from_secs);
                query.wait.replace(wait.ok_or_else(|| malformed("wait: from 0s to 25s"))?).is_some()
            }
            "grace" if takes.has(Parameters::GRACE) => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= MAX_GRACE);
                let seconds = seconds.ok_or_else(|| malformed("grace: seconds, from 0 to 3600"))?;
                query.grace.replace(seconds).is_some()
            }
            "dry_run" if takes.has(Parameters::DRY_RUN) => {
                let dry = value.parse().map_err(|_| malformed("dry_run: true or false"))?;
                query.dry_run.replace(dry).is_some()
            }
            _ => return Err(malformed("This resource does not take this parameter.")),
        };
        if twice {
            return Err(malformed("A parameter stands twice."));
        }
    }
    Ok(query)
}

fn not_allowed(allow: &'static str) -> Problem {
    let problem = Problem::new(Kind::MethodNotAllowed, format!("The methods are {allow}."));
    Problem { allow: Some(allow), ..problem }
}
