//! A plane without a network: requests in, steps out.

use crate::delivery::{Peer, Work};
use crate::*;
use agent_protocol::{
    Answer, Command, Instance, InstanceId, Inventory, OpId, Outcome, State, Text, Uuid, VERSION, Welcome,
};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use kernel_runtime::{Executor, Instant};
use management_http::{Limits, Request, Response, Server};
use serde_json::Value;
use state::Records;
use std::cell::RefCell;
use std::rc::Rc;
use storage::{Connected, ControlError, Exposed, Exposure, VolumeState};

pub(super) const AGENT: Uuid = Uuid(7);

/// Storage, as far as management can tell.
#[derive(Clone, Default)]
pub(super) struct Shelf(pub(super) Rc<RefCell<Vec<Exposed>>>);

impl Targets for Shelf {
    fn expose(&self, mut exposure: Exposure) -> Result<Exposed, ControlError> {
        // As storage does.
        exposure.iqn.make_ascii_lowercase();
        exposure.initiators.iter_mut().for_each(|name| name.make_ascii_lowercase());
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
        door: Door::OPEN,
        dialling: None,
        gauges: Gauges::NONE,
        operations: 256,
    }
}

impl Desk {
    pub(super) fn new() -> Self {
        Self::with(configuration(Some("10.0.0.1:7077")))
    }

    pub(super) fn with(configuration: Configuration) -> Self {
        Self::over(configuration, None)
    }

    /// One that keeps what it promises in `state`.
    pub(super) fn over(configuration: Configuration, state: Option<Records>) -> Self {
        Self::with_shelf(configuration, state, Shelf::default())
    }

    /// The same over storage that is there already.
    pub(super) fn with_shelf(configuration: Configuration, state: Option<Records>, shelf: Shelf) -> Self {
        let executor = Executor::new(1);
        let management = Management::new(configuration, shelf.clone(), state, executor.clock());
        Self { management, shelf, executor }
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
        self.step_with(line, "", body)
    }

    /// The same with more fields in its head.
    fn step_with(&self, line: &str, fields: &str, body: &str) -> Step {
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let text = format!(
            "{line} HTTP/1.1\r\nHost: a\r\n{fields}{json}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        with_request(text.as_bytes(), |request| self.management.begin(request, Principal::Anonymous))
    }

    /// A request that is answered at once: status and document.
    pub(super) fn answer(&self, line: &str, body: &str) -> (u16, Value) {
        self.answer_with(line, "", body)
    }

    /// The same of a request with more fields in its head.
    pub(super) fn answer_with(&self, line: &str, fields: &str, body: &str) -> (u16, Value) {
        let response = match self.step_with(line, fields, body) {
            Step::Answer(response) => response,
            Step::Ask(ask, _) => panic!("it asks {ask:?}"),
            Step::Keys(_) => panic!("{line}: of keys"),
            Step::Look(look) => panic!("it looks first: {look:?}"),
            Step::Wait(wait) => {
                self.clerk();
                self.management.waited(&wait)
            }
            Step::Batch(batch) => self.finish(self.management.wait_for_all(batch)),
            Step::Listen(listen) => self.finish(self.management.listen(listen)),
            Step::Keep(deed) => self.finish(self.management.carry_out(deed)),
        };
        seen(line, &response)
    }

    /// The same of a request of somebody who is known.
    pub(super) fn answer_by(&self, caller: &crate::door::Caller, line: &str) -> (u16, Value) {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        let step = with_request(text.as_bytes(), |request| self.management.receive(request, caller));
        match step {
            Step::Answer(response) => seen(line, &response),
            Step::Listen(listen) => seen(line, &self.finish(self.management.listen(listen))),
            step => panic!("{step:?}"),
        }
    }

    /// A request that leads to a question, and its answer once the agent has replied.
    pub(super) fn asked(&self, line: &str, body: &str) -> (Ask, Continuation) {
        match self.step(line, body) {
            Step::Ask(ask, continuation) => (ask, continuation),
            Step::Answer(response) => panic!("{:?}", read(&response)),
            Step::Keys(_) => panic!("{line}: of keys"),
            step => panic!("{step:?}"),
        }
    }

    /// What comes of something that waits for the state disk, or for a time that is over.
    pub(super) fn finish<T>(&self, doing: impl Future<Output = T>) -> T {
        let (mut doing, mut keeping) = (pin!(doing), pin!(clerk::keep_for(&self.management)));
        for _ in 0..20 {
            if let Poll::Ready(done) = doing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return done;
            }
            assert!(keeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            if let Some(records) = &self.management.state {
                records.turn(self.now());
            }
        }
        panic!("it does not end");
    }

    /// The clerk does what there is to do.
    pub(super) fn clerk(&self) {
        let mut keeping = pin!(clerk::keep_for(&self.management));
        for _ in 0..6 {
            assert!(keeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            if let Some(records) = &self.management.state {
                records.turn(self.now());
            }
        }
    }

    /// The state disk has this record.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) {
        let records = self.management.state.as_ref().unwrap();
        let changes = [state::Change::Put(key, value)];
        let mut keeping = pin!(records.keep(&changes));
        while keeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            records.turn(self.now());
        }
    }

    /// The agent has granted this epoch.
    pub(super) fn hold(&self, epoch: u64) {
        let mut holding = pin!(self.management.hold(epoch));
        while holding.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.management.state.as_ref().unwrap().turn(self.now());
        }
    }

    /// The agent as a link has greeted it just now.
    pub(super) fn peer(&self, boot: Uuid, clock_ms: u64, journal_head: u64) -> Peer {
        Peer::new(&welcome(boot, clock_ms, journal_head), self.now())
    }

    /// What a link asks about the next operation that is due, if it asks anything.
    pub(super) fn carried(&self, peer: &Peer) -> Option<(OpId, Question)> {
        for _ in 0..3 {
            self.clerk();
            let Ok(Work::Operation(id)) = self.management.take_work() else { return None };
            if let Some(question) = self.management.next_question(&id, peer) {
                return Some((id, question));
            }
        }
        None
    }

    /// A command that a link sends to the agent, and what waits for what comes of it.
    pub(super) fn sent(&self, line: &str, body: &str) -> (Command, Wait) {
        let Step::Wait(wait) = self.step(line, body) else { panic!("{line} is no command") };
        let Some((_, Question::Command(command))) = self.carried(&self.peer(AGENT, 1000, 1)) else {
            panic!("it is not sent")
        };
        (*command, wait)
    }

    /// What came of it.
    pub(super) fn deliver(&self, id: &OpId, was_sent: bool, reply: Result<Reply, AgentError>) {
        self.management.delivered(id, Some(&self.peer(AGENT, 1000, 1)), was_sent, reply);
        self.clerk();
    }

    /// A command, and the answer to it when the agent says `outcome`; of a question that changes nothing as well.
    pub(super) fn command(&self, line: &str, body: &str, outcome: Outcome) -> (u16, Value) {
        if line.starts_with("GET") {
            let (ask, continuation) = self.asked(line, body);
            let Question::Command(command) = ask.question else { panic!("{ask:?}") };
            let reply = answer_to(&command.op_id, outcome);
            return seen(line, &self.management.complete(continuation, Ok(reply)));
        }
        let (command, wait) = self.sent(line, body);
        self.deliver(&command.op_id, true, Ok(answer_to(&command.op_id, outcome)));
        seen(line, &self.management.waited(&wait))
    }

    /// A command, and the answer to it when there is no reply; of a question that changes nothing as well.
    pub(super) fn lost(&self, line: &str, body: &str, error: AgentError) -> (u16, Value) {
        if line.starts_with("GET") {
            let (_, continuation) = self.asked(line, body);
            return seen(line, &self.management.complete(continuation, Err(error)));
        }
        let (command, wait) = self.sent(line, body);
        self.deliver(&command.op_id, true, Err(error));
        seen(line, &self.management.waited(&wait))
    }
}

/// What the agent greets with.
pub(super) fn welcome(boot: Uuid, clock_ms: u64, journal_head: u64) -> Welcome {
    Welcome {
        proto: VERSION,
        version: Text::new("test"),
        agent_boot: boot,
        clock_ms,
        epoch: 3,
        journal_head,
        inventory_digest: 0,
        backends: Vec::new(),
    }
}

pub(super) fn answer_to(op_id: &OpId, outcome: Outcome) -> Reply {
    let op_id = op_id.clone();
    Reply::Answer(Answer { proto: VERSION, op_id, agent_boot: AGENT, clock_ms: 1000, outcome }.into())
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

/// The answer to the request with this line, held against the document.
pub(super) fn seen(line: &str, response: &Response) -> (u16, Value) {
    super::held::hold(line, response);
    read(response)
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
