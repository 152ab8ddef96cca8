//! A request to its answer.

use crate::lanes::{Lanes, Told};
use crate::network::{self, Networks};
use agent_protocol::{
    Answer, Command, EventPage, Facility, Failure, Hello, InstanceId, Inventory, OpId, Refusal, Text, Uuid,
    VERSION, Welcome, decode, encode, path,
};
use management_http::json::{self, Bounds};
use management_http::{Method, PROBLEM_NAMESPACE, Request, Response};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// The most instances of one list, and the most bytes: what the other end takes ([`management_http::Limits::CLIENT`]) with
/// room for what stands around them.
const INSTANCES_MAX: usize = 1024;
const LIST_BYTES: usize = 960 * 1024;
/// The most events of one page, about 64 KiB.
const EVENTS_MAX: usize = 256;
/// The longest that a listener is made to wait.
const WAIT_MAX: Duration = Duration::from_secs(25);

/// What the agent offers on its port.
pub(crate) struct Service {
    lanes: Arc<Lanes>,
    networks: Option<Networks>,
    boot: Uuid,
}

impl Service {
    /// A service for these instances, in the run of the agent that `boot` names.
    pub(crate) const fn new(lanes: Arc<Lanes>, networks: Option<Networks>, boot: Uuid) -> Self {
        Self { lanes, networks, boot }
    }

    /// Answer one request of an appliance that came with the key of this name, where it needed one.
    pub(crate) fn answer(&self, request: &Request<'_>, key: Option<&Text>) -> Response {
        let below = |prefix| request.path.strip_prefix(prefix).and_then(|rest: &str| rest.strip_prefix('/'));
        if let Some(name) = below(path::NETWORKS) {
            let rule = || self.lanes.rule();
            let answer = network::answer(self.networks.as_ref(), self.boot, rule, name, request);
            return answer.unwrap_or_else(|response| response);
        }
        let outcome = match (request.path, request.method) {
            (path::HELLO, Method::Post) => body::<Hello>(request).and_then(|hello| self.hello(&hello, key)),
            (path::COMMAND, Method::Post) => {
                within(request.query).and_then(|within| Ok(self.command(&body(request)?, within)))
            }
            (path::INVENTORY, Method::Get) => self.inventory(request.query),
            (path::EVENTS, Method::Get) => self.events(request.query),
            (path::NETWORKS, Method::Get) => network::list(self.networks.as_ref(), self.boot),
            (path::HELLO | path::COMMAND, _) => Err(not_allowed("POST")),
            (path::INVENTORY | path::EVENTS | path::NETWORKS, _) => Err(not_allowed("GET")),
            (_, method) => match (below(path::COMMAND), below(path::STATS).or(below(path::CONSOLE))) {
                (None, None) => Err(problem(404, "not-found", "There is nothing at this path.")),
                _ if method != Method::Get => Err(not_allowed("GET")),
                (Some(op_id), _) => self.recall(op_id, within(request.query)),
                (_, Some(id)) if request.path.starts_with(path::CONSOLE) => self.console(id, request.query),
                (_, Some(id)) => self.stats(id, within(request.query)),
            },
        };
        outcome.unwrap_or_else(|response| response)
    }

    fn hello(&self, hello: &Hello, key: Option<&Text>) -> Result<Response, Response> {
        if !(hello.proto_min..=hello.proto_max).contains(&VERSION) {
            return Err(problem(400, "unsupported-version", "This agent speaks version 1 of the protocol."));
        }
        let (epoch, journal_head) = self.lanes.hello(hello, key).map_err(|refusal| match refusal {
            Some(_) => problem(409, "stale-epoch", "Another appliance has taken over since."),
            None => problem(500, "storage", "The agent cannot write its own records."),
        })?;
        log::info!("appliance {} holds epoch {epoch}", hello.appliance_boot);
        let mut backends = self.lanes.described().to_vec();
        for backend in &mut backends {
            backend.facilities.push(network::provision(self.networks.as_ref()));
        }
        let welcome = Welcome {
            proto: VERSION,
            version: Text::new(env!("CARGO_PKG_VERSION")),
            agent_boot: self.boot,
            clock_ms: self.lanes.clock_ms(),
            epoch,
            journal_head,
            inventory_digest: self.lanes.digest(),
            backends,
        };
        Ok(Response::json(200, encode(&welcome)))
    }

    fn command(&self, command: &Command, within: Option<Duration>) -> Response {
        self.wrap(command.op_id.clone(), self.lanes.execute(command, within), within)
    }

    fn recall(&self, op_id: &str, within: Result<Option<Duration>, Response>) -> Result<Response, Response> {
        let within = within?;
        let unknown = || problem(404, "unknown-operation", "The agent has received no such command.");
        let op_id: OpId = op_id.parse().map_err(|_| unknown())?;
        let told = self.lanes.recall(&op_id, within.unwrap_or_default()).ok_or_else(unknown)?;
        Ok(self.wrap(op_id, told, within))
    }

    fn wrap(&self, op_id: OpId, told: Told, within: Option<Duration>) -> Response {
        // Whoever does not say how long it waits knows nothing of answers that are not the last.
        let (status, outcome) = match told {
            Told::Final(outcome) => (200, outcome),
            Told::Meanwhile(outcome) => (if within.is_some() { 202 } else { 200 }, outcome),
        };
        let clock_ms = self.lanes.clock_ms();
        Response::json(
            status,
            encode(&Answer { proto: VERSION, op_id, agent_boot: self.boot, clock_ms, outcome }),
        )
    }

    fn inventory(&self, query: Option<&str>) -> Result<Response, Response> {
        let [limit, after] = fields(query, ["limit", "after"])?;
        let mut limit =
            limit.map_or(Ok(INSTANCES_MAX), |text| number(text, "limit"))?.clamp(1, INSTANCES_MAX);
        let after: Option<InstanceId> =
            after.map(str::parse).transpose().map_err(|_| wrong("after: no name of an instance"))?;
        loop {
            let page = self.lanes.instances(after.as_ref(), limit);
            let inventory = Inventory {
                proto: VERSION,
                agent_boot: self.boot,
                clock_ms: self.lanes.clock_ms(),
                instances: page.instances,
                images: self.lanes.images(),
                next: page.next,
            };
            let bytes = encode(&inventory);
            if bytes.len() <= LIST_BYTES || limit == 1 {
                return Ok(Response::json(200, bytes));
            }
            limit /= 2;
        }
    }

    fn events(&self, query: Option<&str>) -> Result<Response, Response> {
        let [after, wait] = fields(query, ["after", "wait"])?;
        let after: u64 = after.map_or(Ok(0), |text| number(text, "after"))?;
        let wait = Duration::from_millis(wait.map_or(Ok(0), |text| number(text, "wait"))?).min(WAIT_MAX);
        let (events, next, missed) = self.lanes.events(after, EVENTS_MAX, wait);
        let clock_ms = self.lanes.clock_ms();
        let page = EventPage { proto: VERSION, agent_boot: self.boot, clock_ms, events, next, missed };
        Ok(Response::json(200, encode(&page)))
    }

    fn console(&self, id: &str, query: Option<&str>) -> Result<Response, Response> {
        let unknown = || problem(404, "unknown-instance", "There is no instance of that name.");
        let id: InstanceId = id.parse().map_err(|_| unknown())?;
        let [after] = fields(query, ["after"])?;
        let after = after.map_or(Ok(0), |text| number(text, "after"))?;
        self.provided(&id, Facility::Console)?;
        let page = self.lanes.console(&id, after).map_err(|refusal| match refusal {
            Refusal::UnknownInstance => unknown(),
            Refusal::WrongState => problem(409, "wrong-state", "Nothing of the instance runs."),
            _ => problem(
                422,
                "impossible",
                "The agent does not listen to its console: its image has a serial port of its own, or none.",
            ),
        })?;
        Ok(Response::json(200, encode(&page)))
    }

    /// Refuse what the hypervisor of an instance is said not to provide.
    fn provided(&self, id: &InstanceId, facility: Facility) -> Result<(), Response> {
        self.lanes.lacks(id, facility).map_or(Ok(()), |why| Err(problem(422, "impossible", &why)))
    }

    fn stats(&self, id: &str, within: Result<Option<Duration>, Response>) -> Result<Response, Response> {
        let within = within?;
        let unknown = || problem(404, "unknown-instance", "There is no instance of that name.");
        let id: InstanceId = id.parse().map_err(|_| unknown())?;
        self.provided(&id, Facility::Stats)?;
        let used = self.lanes.stats(&id, within).map_err(|refusal| match refusal {
            Refusal::UnknownInstance => unknown(),
            _ => problem(409, "wrong-state", "Nothing of the instance runs."),
        })?;
        let Some(used) = used else {
            return match within {
                Some(_) => Ok(Response::json(202, b"{}".to_vec())),
                None => Err(problem(504, "timeout", "its hypervisor does not answer")),
            };
        };
        let stats = used.map_err(|fault| match fault.code {
            Failure::Timeout => problem(504, "timeout", fault.detail.as_str()),
            _ => problem(503, "hypervisor", fault.detail.as_str()),
        })?;
        Ok(Response::json(200, encode(&stats)))
    }
}

/// The fields of a query, by their names; another one is an error.
pub(crate) fn fields<'a, const N: usize>(
    query: Option<&'a str>,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], Response> {
    let mut fields = [None; N];
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = names.iter().position(|known| *known == name);
        let place = place.ok_or_else(|| wrong("the query has a field that is not known here"))?;
        if fields[place].replace(value).is_some() {
            return Err(wrong("the query has a field twice"));
        }
    }
    Ok(fields)
}

/// How long whoever asks waits, if it says so and nothing else.
fn within(query: Option<&str>) -> Result<Option<Duration>, Response> {
    let [wait] = fields(query, ["wait"])?;
    let wait = wait.map(|text| number(text, "wait")).transpose()?;
    Ok(wait.map(|wait| Duration::from_millis(wait).min(WAIT_MAX)))
}

pub(crate) fn number<T: std::str::FromStr>(text: &str, name: &str) -> Result<T, Response> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| wrong(&format!("{name}: no number that fits")))
}

pub(crate) fn wrong(detail: &str) -> Response {
    problem(400, "invalid-query", detail)
}

/// The request's body as a `T`.
pub(crate) fn body<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Response> {
    body_within(request, &Bounds::REQUEST)
}

/// The same within other bounds.
pub(crate) fn body_within<T: DeserializeOwned>(
    request: &Request<'_>,
    bounds: &Bounds,
) -> Result<T, Response> {
    if request.media_type().as_deref() != Some("application/json") {
        return Err(problem(415, "unsupported-media-type", "The body is to be application/json."));
    }
    let malformed = |detail: String| problem(400, "malformed-body", &detail);
    json::check(request.body, bounds).map_err(|excess| malformed(excess.to_string()))?;
    decode(request.body).map_err(|error| malformed(error.to_string()))
}

pub(crate) fn not_allowed(allow: &'static str) -> Response {
    let response = problem(405, "method-not-allowed", "The resource does not have this method.");
    Response { allow: Some(allow), ..response }
}

pub(crate) fn problem(status: u16, name: &str, detail: &str) -> Response {
    let document = serde_json::json!({
        "type": format!("{PROBLEM_NAMESPACE}{name}"),
        "title": management_http::reason(status),
        "status": status,
        "detail": Text::new(detail).as_str(),
    });
    Response::problem(status, document.to_string().into_bytes())
}
