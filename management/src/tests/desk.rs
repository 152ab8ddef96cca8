//! A plane without a network: requests in, steps out.

use crate::*;
use agent_protocol::{Answer, Command, Instance, InstanceId, Inventory, Outcome, State, Text, Uuid};
use core::time::Duration;
use kernel_runtime::{Executor, Instant};
use management_http::{Limits, Request, Response, Server};
use serde_json::Value;
use std::cell::RefCell;
use std::rc::Rc;
use storage::{Connected, ControlError, Exposed, Exposure, VolumeState};

pub(super) const AGENT: Uuid = Uuid(7);

/// Storage, as far as management can tell.
#[derive(Clone, Default)]
pub(super) struct Shelf(pub(super) Rc<RefCell<Vec<Exposed>>>);

impl Targets for Shelf {
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError> {
        if !exposure.iqn.starts_with("iqn.") {
            return Err(ControlError::Invalid { field: "iqn", reason: "it is to begin with iqn.".into() });
        }
        let mut shelf = self.0.borrow_mut();
        if let Some(there) = shelf.iter().find(|exposed| exposed.exposure.id == exposure.id) {
            let same = there.exposure == exposure;
            return if same { Ok(there.clone()) } else { Err(ControlError::Conflict("it differs".into())) };
        }
        if shelf.len() == 2 {
            return Err(ControlError::Full);
        }
        let exposed = Exposed {
            exposure,
            state: VolumeState::Connecting,
            size: None,
            sessions: 0,
            status: storage::Status::default(),
        };
        shelf.push(exposed.clone());
        Ok(exposed)
    }

    fn withdraw(&self, id: &str) -> Result<(), ControlError> {
        let mut shelf = self.0.borrow_mut();
        let index =
            shelf.iter().position(|exposed| exposed.exposure.id == id).ok_or(ControlError::NotFound)?;
        if shelf[index].sessions > 0 {
            return Err(ControlError::InUse);
        }
        shelf.remove(index);
        Ok(())
    }

    fn withdraw_within(&self, id: &str, grace: Duration) -> Result<(), ControlError> {
        match self.withdraw(id) {
            Err(ControlError::InUse) if !grace.is_zero() => Ok(()),
            Err(ControlError::InUse) => {
                self.0.borrow_mut().retain(|exposed| exposed.exposure.id != id);
                Ok(())
            }
            done => done,
        }
    }

    fn list(&self) -> Vec<Exposed> {
        self.0.borrow().clone()
    }

    fn get(&self, id: &str) -> Option<Exposed> {
        self.list().into_iter().find(|exposed| exposed.exposure.id == id)
    }

    fn connections(&self) -> Vec<Connected> {
        let connected = |connection| Connected {
            connection,
            initiator: "iqn.2026-11.example:host".into(),
            target: "iqn.2026-11.example.corbel:disk0".into(),
            commands: 3,
            window: 32,
            ended: 7,
            took: Duration::from_micros(2_500_017),
            awaited: Duration::from_millis(20),
            functions: 1,
            kept_back: 9,
        };
        Vec::from([connected(0), connected(5)])
    }
}

/// A plane, its clock and its shelf.
pub(super) struct Desk {
    pub(super) management: Management,
    pub(super) shelf: Shelf,
    executor: Executor,
}

pub(super) fn configuration(agent: Option<&str>) -> Configuration {
    Configuration {
        agent: agent.map(|agent| agent.parse().unwrap()),
        boot: Uuid(0xabc),
        policy: Policy::OPEN,
        gauges: Gauges::NONE,
    }
}

impl Desk {
    pub(super) fn new() -> Self {
        Self::with(configuration(Some("10.0.0.1:7077")))
    }

    pub(super) fn with(configuration: Configuration) -> Self {
        let executor = Executor::new(1);
        let shelf = Shelf::default();
        Self { management: Management::new(configuration, shelf.clone(), executor.clock()), shelf, executor }
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        let now = self.management.clock.now() + duration;
        self.executor.run_ready(now);
    }

    pub(super) fn now(&self) -> Instant {
        self.management.clock.now()
    }

    /// What a request with this head and body leads to.
    pub(super) fn step(&self, line: &str, body: &str) -> Step {
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let text =
            format!("{line} HTTP/1.1\r\nHost: a\r\n{json}Content-Length: {}\r\n\r\n{body}", body.len());
        with_request(text.as_bytes(), |request| self.management.begin(request, Principal::Anonymous))
    }

    /// A request that is answered at once: status and document.
    pub(super) fn answer(&self, line: &str, body: &str) -> (u16, Value) {
        match self.step(line, body) {
            Step::Answer(response) => read(&response),
            Step::Ask(ask, _) => panic!("it asks {ask:?}"),
        }
    }

    /// A request that leads to a question, and its answer once the agent has replied.
    pub(super) fn asked(&self, line: &str, body: &str) -> (Ask, Continuation) {
        match self.step(line, body) {
            Step::Ask(ask, continuation) => (ask, continuation),
            Step::Answer(response) => panic!("{:?}", read(&response)),
        }
    }

    /// A command, and the answer to it when the agent says `outcome`.
    pub(super) fn command(&self, line: &str, body: &str, outcome: Outcome) -> (u16, Value) {
        let (ask, continuation) = self.asked(line, body);
        let command = command(&ask);
        let reply = Answer { proto: 1, op_id: command.op_id, agent_boot: AGENT, clock_ms: 1000, outcome };
        read(&self.management.complete(continuation, Ok(Reply::Answer(reply.into()))))
    }

    /// A command, and the answer to it when there is no reply.
    pub(super) fn lost(&self, line: &str, body: &str, error: AgentError) -> (u16, Value) {
        let (_, continuation) = self.asked(line, body);
        read(&self.management.complete(continuation, Err(error)))
    }
}

pub(super) fn with_request<T>(bytes: &[u8], look: impl FnOnce(&Request<'_>) -> T) -> T {
    let mut engine = Server::new(Limits::SERVER, Duration::ZERO);
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = engine.space();
        let count = space.len().min(rest.len());
        assert!(count > 0, "{}", String::from_utf8_lossy(engine.transmit()));
        space[..count].copy_from_slice(&rest[..count]);
        engine.received(Duration::ZERO, count);
        rest = &rest[count..];
    }
    look(&engine.request().expect("a request"))
}

pub(super) fn command(ask: &Ask) -> Command {
    match &ask.question {
        Question::Command(command) => (**command).clone(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn read(response: &Response) -> (u16, Value) {
    let value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
    if response.status >= 400 {
        assert_eq!(response.media_type, "application/problem+json");
        assert_eq!(value["status"], response.status);
        for member in ["type", "title", "detail", "instance", "retryable"] {
            assert!(!value[member].is_null(), "{member} is missing in {value}");
        }
    }
    (response.status, value)
}

/// The last part of a problem's type.
pub(super) fn kind(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["type"].as_str().unwrap().strip_prefix("urn:corbel:problem:").unwrap())
}

pub(super) fn instance(id: &str, state: State) -> Instance {
    Instance {
        id: id.parse().unwrap(),
        uuid: Uuid(1),
        image: "tiny".parse().unwrap(),
        hypervisor: Text::new("qemu"),
        size: agent_protocol::Size::default(),
        volumes: vec![],
        nics: vec![],
        initiator: None,
        state,
        reason: None,
        generation: 4,
        since_ms: 400,
        observed_ms: 900,
    }
}

pub(super) fn inventory(instances: Vec<Instance>) -> Inventory {
    let images = vec!["tiny".parse().unwrap()];
    Inventory { proto: 1, agent_boot: AGENT, clock_ms: 1000, instances, images, next: None }
}

pub(super) fn done(id: &str, state: State, changed: bool) -> Outcome {
    Outcome::Done { changed, instance: instance(id, state), evidence: vec![Text::new("seen")] }
}

pub(super) fn name(text: &str) -> InstanceId {
    text.parse().unwrap()
}
