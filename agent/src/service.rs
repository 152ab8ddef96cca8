//! A request to its answer.

use crate::network::{self, Networks};
use crate::table::Table;
use agent_protocol::{
    Answer, Command, Hello, Inventory, OpId, Outcome, Refusal, Text, Uuid, VERSION, Welcome, decode, encode,
    path,
};
use management_http::json::{self, Bounds};
use management_http::{Method, PROBLEM_NAMESPACE, Request, Response};
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How many appliances that were replaced are remembered.
const SUPERSEDED_MAX: usize = 64;

/// What the agent offers on its port.
pub(crate) struct Service {
    table: Arc<Table>,
    networks: Option<Networks>,
    boot: Uuid,
    epochs: Mutex<Epochs>,
}

/// Who may command: the appliance that said hello last.
struct Epochs {
    current: u64,
    holder: Option<Uuid>,
    /// Those that held it before in this run, the latest last; they do not get it back.
    superseded: VecDeque<Uuid>,
}

impl Service {
    /// A service for these instances, in the run of the agent that `boot` names.
    pub(crate) fn new(table: Arc<Table>, networks: Option<Networks>, boot: Uuid) -> Self {
        let current = table.directory().epoch();
        let epochs = Mutex::new(Epochs { current, holder: None, superseded: VecDeque::new() });
        Self { table, networks, boot, epochs }
    }

    /// Answer one request.
    pub(crate) fn answer(&self, request: &Request<'_>) -> Response {
        let below = |prefix| request.path.strip_prefix(prefix).and_then(|rest: &str| rest.strip_prefix('/'));
        if let Some(name) = below(path::NETWORKS) {
            let epoch = self.epochs.lock().unwrap_or_else(PoisonError::into_inner).current;
            let answer = network::answer(self.networks.as_ref(), self.boot, epoch, name, request);
            return answer.unwrap_or_else(|response| response);
        }
        let recalled = below(path::COMMAND);
        let outcome = match (request.path, request.method) {
            (path::HELLO, Method::Post) => body::<Hello>(request).and_then(|hello| self.hello(&hello)),
            (path::COMMAND, Method::Post) => body::<Command>(request).map(|command| self.command(&command)),
            (path::INVENTORY, Method::Get) => Ok(self.inventory()),
            (path::HELLO | path::COMMAND, _) => Err(not_allowed("POST")),
            (path::INVENTORY, _) => Err(not_allowed("GET")),
            (_, method) => match recalled {
                Some(op_id) if method == Method::Get => self.recall(op_id),
                Some(_) => Err(not_allowed("GET")),
                None => Err(problem(404, "not-found", "There is nothing at this path.")),
            },
        };
        outcome.unwrap_or_else(|response| response)
    }

    fn hello(&self, hello: &Hello) -> Result<Response, Response> {
        if !(hello.proto_min..=hello.proto_max).contains(&VERSION) {
            return Err(problem(400, "unsupported-version", "This agent speaks version 1 of the protocol."));
        }
        let epoch = self.grant(hello.appliance_boot)?;
        let welcome = Welcome {
            proto: VERSION,
            version: Text::new(env!("CARGO_PKG_VERSION")),
            agent_boot: self.boot,
            clock_ms: self.table.clock_ms(),
            epoch,
            journal_head: 0,
            inventory_digest: 0,
            backends: self.table.backends().iter().map(|backend| backend.describe()).collect(),
        };
        Ok(Response::json(200, encode(&welcome)))
    }

    /// The epoch of an appliance; a new one replaces who held it, for good.
    fn grant(&self, appliance: Uuid) -> Result<u64, Response> {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if epochs.holder == Some(appliance) {
            return Ok(epochs.current);
        }
        if epochs.superseded.contains(&appliance) {
            return Err(problem(409, "stale-epoch", "Another appliance has taken over since."));
        }
        let next = epochs.current + 1;
        if let Err(error) = self.table.directory().keep_epoch(next) {
            log::warn!("the epoch cannot be written: {error}");
            return Err(problem(500, "storage", "The agent cannot write its own records."));
        }
        if let Some(before) = epochs.holder.replace(appliance) {
            if epochs.superseded.len() >= SUPERSEDED_MAX {
                epochs.superseded.pop_front();
            }
            epochs.superseded.push_back(before);
        }
        epochs.current = next;
        log::info!("appliance {appliance} holds epoch {next}");
        Ok(next)
    }

    fn command(&self, command: &Command) -> Response {
        // What was carried out before is told as it was, even to a sender that could not command it any more: a refusal
        // now would read as if nothing had been done.
        let known = self.table.recognise(command);
        let outcome = known.or_else(|| self.screen(command)).unwrap_or_else(|| self.table.execute(command));
        self.wrap(command.op_id.clone(), outcome)
    }

    /// What stops a command before anybody looks at its instance.
    fn screen(&self, command: &Command) -> Option<Outcome> {
        let refuse = |code, detail: String| {
            Some(Outcome::Refused { code, detail: Text::new(&detail), instance: None })
        };
        if command.proto != VERSION {
            return refuse(Refusal::Version, format!("this agent speaks version {VERSION}"));
        }
        if let Some(field) = command.unknown_critical() {
            return refuse(Refusal::UnknownCritical, format!("the critical field {field} is not understood"));
        }
        if command.agent_boot.is_some_and(|boot| boot != self.boot) {
            return refuse(Refusal::StaleBoot, "the agent has started anew since".into());
        }
        let current = self.epochs.lock().unwrap_or_else(PoisonError::into_inner).current;
        if let Some(epoch) = command.epoch.filter(|epoch| *epoch < current) {
            return refuse(Refusal::StaleEpoch, format!("epoch {epoch} has been replaced by {current}"));
        }
        None
    }

    fn recall(&self, op_id: &str) -> Result<Response, Response> {
        let unknown =
            || problem(404, "unknown-operation", "This run of the agent has received no such command.");
        let op_id: OpId = op_id.parse().map_err(|_| unknown())?;
        let outcome = self.table.recall(&op_id).ok_or_else(unknown)?;
        Ok(self.wrap(op_id, outcome))
    }

    fn wrap(&self, op_id: OpId, outcome: Outcome) -> Response {
        let clock_ms = self.table.clock_ms();
        Response::json(
            200,
            encode(&Answer { proto: VERSION, op_id, agent_boot: self.boot, clock_ms, outcome }),
        )
    }

    fn inventory(&self) -> Response {
        let inventory = Inventory {
            proto: VERSION,
            agent_boot: self.boot,
            clock_ms: self.table.clock_ms(),
            instances: self.table.instances(),
            images: self.table.images(),
            next: None,
        };
        Response::json(200, encode(&inventory))
    }
}

/// The request's body as a `T`.
pub(crate) fn body<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Response> {
    if request.media_type().as_deref() != Some("application/json") {
        return Err(problem(415, "unsupported-media-type", "The body is to be application/json."));
    }
    let malformed = |detail: String| problem(400, "malformed-body", &detail);
    json::check(request.body, &Bounds::REQUEST).map_err(|excess| malformed(excess.to_string()))?;
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
