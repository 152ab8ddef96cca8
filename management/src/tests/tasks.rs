//! The session and the link as tasks, on wires in memory, with an agent that does as it is told.

use super::desk::*;
use crate::wire::Wire;
use crate::*;
use agent_protocol::{
    Action, Answer, Bytes, Command, ConsolePage, Inventory, Outcome, State, Stats, Text, Uuid, Welcome,
    decode, encode, path,
};
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::{Context, Poll, Waker};
use kernel_runtime::{Executor, Instant};
use management_http::{Client, Limits, Method, Request, Response, Server};
use network::{ConnectError, Reset};
use state::Records;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Half {
    bytes: RefCell<VecDeque<u8>>,
    finished: Cell<bool>,
    reset: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Half {
    fn wake(&self) {
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// One end of a connection.
#[derive(Clone, Default)]
pub(super) struct End {
    incoming: Rc<Half>,
    outgoing: Rc<Half>,
}

impl End {
    fn pair() -> (Self, Self) {
        let one = Self::default();
        let other = Self { incoming: one.outgoing.clone(), outgoing: one.incoming.clone() };
        (one, other)
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        self.outgoing.bytes.borrow_mut().extend(bytes);
        self.outgoing.wake();
    }

    pub(super) fn read(&self) -> Vec<u8> {
        self.incoming.bytes.borrow_mut().drain(..).collect()
    }

    pub(super) fn finish(&self) {
        self.outgoing.finished.set(true);
        self.outgoing.wake();
    }

    pub(super) fn reset(&self) {
        for half in [&self.incoming, &self.outgoing] {
            half.reset.set(true);
            half.wake();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.incoming.reset.get() || self.incoming.finished.get()
    }
}

/// The exchange between a slot and the test: connections that wait to be accepted, from either side.
#[derive(Clone, Default)]
pub(super) struct Exchange {
    waiting: Rc<RefCell<VecDeque<End>>>,
    wakers: Rc<RefCell<Vec<Waker>>>,
    /// For a link: whether its agent answers, refuses, or is silent.
    reachable: Rc<Cell<Reach>>,
    attempts: Rc<Cell<usize>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Reach {
    #[default]
    Answers,
    Refuses,
    Silent,
}

impl Exchange {
    /// The test connects to a session's slot.
    pub(super) fn dial(&self) -> End {
        let (ours, theirs) = End::pair();
        self.waiting.borrow_mut().push_back(theirs);
        for waker in self.wakers.borrow_mut().drain(..) {
            waker.wake();
        }
        ours
    }
}

/// A slot on the exchange.
pub(super) struct Slot {
    pub(super) exchange: Exchange,
    pub(super) end: End,
}

impl Wire for Slot {
    async fn accept(&mut self, _: u16) {
        self.end = poll_fn(|cx: &mut Context<'_>| match self.exchange.waiting.borrow_mut().pop_front() {
            Some(end) => Poll::Ready(end),
            None => {
                self.exchange.wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }

    async fn connect(&mut self, _: SocketAddrV4) -> Result<(), ConnectError> {
        self.exchange.attempts.set(self.exchange.attempts.get() + 1);
        match self.exchange.reachable.get() {
            Reach::Answers => {}
            Reach::Refuses => return Err(ConnectError::Refused),
            Reach::Silent => poll_fn(|_| Poll::<()>::Pending).await,
        }
        let (ours, theirs) = End::pair();
        self.end = ours;
        self.exchange.waiting.borrow_mut().push_back(theirs);
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        let half = &self.end.incoming;
        poll_fn(|cx: &mut Context<'_>| {
            if half.reset.get() {
                return Poll::Ready(Err(Reset));
            }
            let mut bytes = half.bytes.borrow_mut();
            if bytes.is_empty() && !half.finished.get() {
                *half.reader.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let count = bytes.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(bytes.drain(..count)) {
                *place = byte;
            }
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        if self.end.outgoing.reset.get() {
            return Err(Reset);
        }
        self.end.write(bytes);
        Ok(bytes.len())
    }

    async fn finish(&mut self) {
        self.end.finish();
    }

    fn abort(&mut self) {
        self.end.reset();
    }
}

/// The plane with one session slot and `links` links.
pub(super) struct World {
    executor: Executor,
    now: Duration,
    pub(super) management: Rc<Management>,
    api: Exchange,
    agent: Exchange,
    /// What the test, as the agent, holds of each connection the links made.
    pub(super) held: Vec<(End, Server)>,
    /// The disk that is turned with the rest.
    state: Option<Records>,
}

impl World {
    fn new(links: usize) -> Self {
        Self::with(links, 2)
    }

    fn with(links: usize, slots: usize) -> Self {
        Self::over((links, slots), configuration(Some("10.0.0.1:7077")), None)
    }

    /// One that keeps what it promises in `state`.
    pub(super) fn over(
        (links, slots): (usize, usize),
        configuration: Configuration,
        state: Option<Records>,
    ) -> Self {
        let mut executor = Executor::new(9);
        let plane = Management::new(configuration, Shelf::default(), state.clone(), executor.clock());
        let management = Rc::new(plane);
        executor.add("operations", keep(management.clone()));
        let (api, agent) = (Exchange::default(), Exchange::default());
        let slot = |exchange: &Exchange| Slot { exchange: exchange.clone(), end: End::default() };
        for _ in 0..slots {
            let (slot, shared) = (slot(&api), management.clone());
            executor.add("session", async move { session::serve_on(slot, 80, &shared).await });
        }
        for _ in 0..links {
            let (slot, shared) = (slot(&agent), management.clone());
            executor.add("link", async move { link::link_on(slot, &shared).await });
        }
        Self { executor, now: Duration::ZERO, management, api, agent, held: Vec::new(), state }
    }

    /// Have the steward in it.
    pub(super) fn tend(&mut self) {
        self.executor.add("networks", tend(self.management.clone()));
    }

    pub(super) fn pump(&mut self) {
        loop {
            let ran = self.executor.run_ready(Instant::ZERO + self.now);
            if let Some(state) = &self.state {
                state.turn(Instant::ZERO + self.now);
            }
            if ran == 0 && !self.executor.has_ready() {
                return;
            }
        }
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.pump();
            let next = self.executor.next_deadline().map(|deadline| deadline.since(Instant::ZERO));
            match next {
                Some(next) if next <= end => self.now = next.max(self.now + Duration::from_micros(1)),
                _ => break,
            }
        }
        self.now = end;
        self.pump();
    }

    /// Be the agent: answer whatever the links send by `answer`, until they send no more.
    pub(super) fn agent(&mut self, mut answer: impl FnMut(&Request<'_>) -> Option<Vec<u8>>) {
        loop {
            self.pump();
            while let Some(end) = self.agent.waiting.borrow_mut().pop_front() {
                self.held.push((end, Server::new(Limits::SERVER, Duration::ZERO)));
            }
            let mut busy = false;
            for (end, engine) in &mut self.held {
                let bytes = end.read();
                if !bytes.is_empty() {
                    engine.space()[..bytes.len()].copy_from_slice(&bytes);
                    engine.received(Duration::ZERO, bytes.len());
                }
                let Some(request) = engine.request() else { continue };
                if let Some(bytes) = answer(&request) {
                    busy = true;
                    end.write(&bytes);
                    engine.respond(Duration::ZERO, &Response::no_content());
                    let count = engine.transmit().len();
                    engine.transmitted(Duration::ZERO, count);
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Time passes, and the agent answers in it.
    pub(super) fn live(
        &mut self,
        duration: Duration,
        mut answer: impl FnMut(&Request<'_>) -> Option<Vec<u8>>,
    ) {
        for _ in 0..duration.as_millis() / 100 {
            self.wait(Duration::from_millis(100));
            self.agent(&mut answer);
        }
    }

    /// A client that sends one request and has not read the answer.
    pub(super) fn client(&mut self, method: Method, path: &str, body: Option<&str>) -> Caller {
        let mut client = Client::new(Limits::CLIENT, "corbel");
        client.request(method, path, body.map(str::as_bytes));
        let end = self.api.dial();
        end.write(client.transmit());
        let count = client.transmit().len();
        client.transmitted(count);
        self.pump();
        Caller { end, client }
    }
}

pub(super) struct Caller {
    pub(super) end: End,
    client: Client,
}

impl Caller {
    /// The answer, if it has come.
    pub(super) fn answer(&mut self) -> Option<(u16, serde_json::Value)> {
        for byte in self.end.read() {
            self.client.space()[0] = byte;
            self.client.received(1).unwrap();
        }
        let reply = self.client.reply()?;
        Some((reply.status, serde_json::from_slice(reply.body).unwrap_or_default()))
    }
}

pub(super) fn http(status: u16, body: &[u8]) -> Vec<u8> {
    let mut engine = Server::new(Limits::SERVER, Duration::ZERO);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    engine.space()[..request.len()].copy_from_slice(request);
    engine.received(Duration::ZERO, request.len());
    engine.respond(Duration::ZERO, &Response::json(status, body.to_vec()));
    engine.transmit().to_vec()
}

pub(super) fn welcome(boot: Uuid) -> Vec<u8> {
    let version = Text::new("test");
    http(
        200,
        &encode(&Welcome {
            proto: 1,
            version,
            agent_boot: boot,
            clock_ms: 5000,
            epoch: 3,
            journal_head: 0,
            inventory_digest: 0,
            backends: vec![],
        }),
    )
}

fn answered(command: &Command, boot: Uuid, outcome: Outcome) -> Vec<u8> {
    let op_id = command.op_id.clone();
    http(200, &encode(&Answer { proto: 1, op_id, agent_boot: boot, clock_ms: 6000, outcome }))
}

/// An agent that greets, terminates everything and has nothing.
fn willing(request: &Request<'_>) -> Option<Vec<u8>> {
    Some(match request.path {
        path::HELLO => welcome(AGENT),
        "/a1/stats/web-1" => http(200, &encode(&Stats { cpu_ms: 7, ..Stats::default() })),
        path::INVENTORY => http(200, &encode(&inventory(vec![instance("web-1", State::Running)]))),
        path::COMMAND => {
            let command: Command = decode(request.body).unwrap();
            answered(&command, AGENT, done(command.instance.as_str(), State::Terminated, true))
        }
        recalled if recalled.starts_with(path::COMMAND) => http(404, b"{}"),
        other => panic!("{other}"),
    })
}

const COMMANDS: &str = "/v1/instances/web-1/commands";
const TERMINATE: Option<&str> = Some(r#"{"verb":"terminate"}"#);

#[test]
fn a_command_goes_all_the_way_and_back() {
    let mut world = World::new(1);
    world.agent(willing);
    assert_eq!(world.management.link_state(), LinkState::Up);
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    world.wait(Duration::from_millis(1500));
    let mut seen = None;
    world.agent(|request| {
        seen = decode::<Command>(request.body).ok();
        willing(request)
    });
    let (status, operation) = caller.answer().unwrap();
    assert_eq!((status, &operation["state"]), (202, &"succeeded".into()));
    let command = seen.unwrap();
    assert_eq!((command.epoch, command.agent_boot), (Some(3), Some(AGENT)));
    assert_eq!(command.deadline_ms, Some(5000 + 25_000), "on the agent's clock");
    assert_eq!(command.unknown_critical(), None);
}

#[test]
fn an_agent_that_is_down_is_told_at_once_and_dialled_again() {
    let mut world = World::new(1);
    world.agent.reachable.set(Reach::Refuses);
    world.pump();
    assert!(matches!(world.management.link_state(), LinkState::Down(_)));
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    assert_eq!(kind(&caller.answer().expect("without any time passing")), (503, "agent-unavailable"));
    let before = world.agent.attempts.get();
    world.wait(Duration::from_secs(60));
    let attempts = world.agent.attempts.get() - before;
    assert!((12..=20).contains(&attempts), "{attempts} attempts in a minute");

    world.agent.reachable.set(Reach::Silent);
    let mut caller = world.client(Method::Get, "/v1/instances", None);
    assert!(caller.answer().is_none());
    world.wait(Duration::from_secs(3));
    assert_eq!(kind(&caller.answer().unwrap()), (503, "agent-unavailable"));

    world.agent.reachable.set(Reach::Answers);
    for _ in 0..60 {
        world.wait(Duration::from_millis(100));
        world.agent(willing);
    }
    assert_eq!(world.management.link_state(), LinkState::Up);
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    world.agent(willing);
    assert_eq!(caller.answer().unwrap().0, 202);
}

#[test]
fn an_agent_that_leaves_is_noticed_and_greeted_again_when_it_is_back() {
    let mut world = World::new(1);
    world.agent(willing);
    world.held.pop().unwrap().0.finish();
    world.agent.reachable.set(Reach::Refuses);
    world.pump();
    assert!(matches!(world.management.link_state(), LinkState::Down(_)));
    world.agent.reachable.set(Reach::Answers);
    world.wait(Duration::from_secs(1));
    world.agent(willing);
    assert_eq!(world.management.link_state(), LinkState::Up);
}

#[test]
fn an_idle_link_greets_now_and_then() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut greetings = 0;
    for _ in 0..60 {
        world.wait(Duration::from_secs(1));
        world.agent(|request| {
            greetings += usize::from(request.path == path::HELLO);
            willing(request)
        });
    }
    assert!((3..=4).contains(&greetings), "{greetings}");
    assert_eq!(world.agent.attempts.get(), 1, "on the same connection");
    world.wait(Duration::from_secs(18));
    assert_ne!(world.management.link_state(), LinkState::Up, "silence is noticed");
}

#[test]
fn a_command_that_was_cut_off_is_asked_for_and_sent_again_if_the_same_run_never_received_it() {
    for (boot, expected) in [(AGENT, (202, None)), (Uuid(99), (504, Some("outcome-unknown")))] {
        let mut world = World::new(1);
        world.agent(willing);
        let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
        let mut commands = Vec::new();
        world.agent(|request| {
            commands.push(decode::<Command>(request.body).unwrap());
            None
        });
        world.held.pop().unwrap().0.reset();
        for _ in 0..5 {
            world.wait(Duration::from_millis(200));
            world.agent(|request| {
                Some(match request.path {
                    path::HELLO => welcome(boot),
                    path::COMMAND => {
                        commands.push(decode::<Command>(request.body).unwrap());
                        answered(commands.last().unwrap(), boot, done("web-1", State::Terminated, true))
                    }
                    _ => http(404, b"{}"),
                })
            });
        }
        let answer = caller.answer().unwrap();
        assert_eq!(answer.0, expected.0);
        if let Some(name) = expected.1 {
            assert_eq!(kind(&answer).1, name);
            assert_eq!(commands.len(), 1, "another run is not asked to do it");
        } else {
            assert_eq!(commands.len(), 2);
            assert_eq!(commands[0], commands[1], "and knows it for the same");
        }
    }
}

#[test]
fn an_agent_that_dies_with_a_command_leaves_the_outcome_unknown_until_it_is_back() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    world.agent.reachable.set(Reach::Refuses);
    world.held.pop().unwrap().0.reset();
    world.pump();
    assert!(caller.answer().is_none());
    world.wait(Duration::from_secs(5));
    let (status, operation) = caller.answer().unwrap();
    assert_eq!((status, &operation["state"]), (202, &"sent".into()));
    let path = format!("/v1/operations/{}", operation["id"].as_str().unwrap());
    world.wait(Duration::from_secs(45));
    let mut look = world.client(Method::Get, &path, None);
    assert_eq!(look.answer().unwrap().1["state"], "indeterminate");

    world.agent.reachable.set(Reach::Answers);
    let op_id = operation["id"].as_str().unwrap().parse().unwrap();
    let command = Command::new(op_id, name("web-1"), Action::Terminate {});
    for _ in 0..60 {
        world.wait(Duration::from_secs(1));
        world.agent(|request| {
            let is_recall = request.path.starts_with("/a1/cmd/");
            let outcome = done("web-1", State::Terminated, true);
            if is_recall { Some(answered(&command, AGENT, outcome)) } else { willing(request) }
        });
    }
    let mut look = world.client(Method::Get, &path, None);
    assert_eq!(look.answer().unwrap().1["state"], "succeeded");
}

#[test]
fn whoever_waits_for_an_operation_hears_at_once_when_it_has_ended() {
    let mut world = World::new(2);
    world.agent(willing);
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    let silent = |request: &Request<'_>| (request.path == path::HELLO).then(|| welcome(AGENT));
    world.live(Duration::from_secs(6), silent);
    let operation = caller.answer().unwrap().1;
    assert_eq!(operation["state"], "sent");
    let path = format!("/v1/operations/{}?wait=25s", operation["id"].as_str().unwrap());
    let mut waiting = world.client(Method::Get, &path, None);
    world.live(Duration::from_secs(4), silent);
    assert!(waiting.answer().is_none());
    // Of two connections one may be waited on.
    caller.end.reset();
    let mut another = world.client(Method::Get, &path, None);
    world.live(Duration::from_millis(10), silent);
    assert_eq!(another.answer().unwrap().1["state"], "sent");
    another.end.reset();
    let op_id = operation["id"].as_str().unwrap().parse().unwrap();
    let command = Command::new(op_id, name("web-1"), Action::Terminate {});
    world.live(Duration::from_secs(6), |request| {
        Some(match request.path {
            path::HELLO => welcome(AGENT),
            _ => answered(&command, AGENT, done("web-1", State::Terminated, true)),
        })
    });
    assert_eq!(waiting.answer().unwrap().1["state"], "succeeded");
    let mut late = world.client(Method::Get, "/v1/operations/nobody?wait=25s", None);
    assert_eq!(late.answer().unwrap().0, 404);
}

#[test]
fn nonsense_is_told_as_nonsense_and_ends_the_connection() {
    let command = |request: &Request<'_>| decode::<Command>(request.body).unwrap();
    let gone = || done("web-1", State::Terminated, true);
    type Liar = Box<dyn Fn(&Request<'_>) -> Vec<u8>>;
    let liars: Vec<(&str, Liar)> = vec![
        (
            "another command's answer",
            Box::new(move |request| {
                let other = Command { op_id: "other".parse().unwrap(), ..command(request) };
                answered(&other, AGENT, gone())
            }),
        ),
        ("another run's answer", Box::new(move |request| answered(&command(request), Uuid(5), gone()))),
        ("no JSON", Box::new(|_| http(200, b"<html>"))),
        ("an empty body", Box::new(|_| http(200, b""))),
        ("endless nesting", Box::new(|_| http(200, &[b'['; 9000]))),
        ("a list instead of an object", Box::new(|_| http(200, b"[1,\"a\"]"))),
        ("no HTTP", Box::new(|_| b"SSH-2.0-x\r\n\r\n".to_vec())),
        ("16 MiB", Box::new(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n".to_vec())),
        ("chunks", Box::new(|_| b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())),
        (
            "two answers",
            Box::new(move |request| {
                let one = answered(&command(request), AGENT, gone());
                [one.clone(), one].concat()
            }),
        ),
    ];
    for (what, liar) in liars {
        let mut world = World::new(1);
        world.agent(willing);
        let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
        world.agent(|request| {
            Some(if request.path == path::COMMAND { liar(request) } else { welcome(AGENT) })
        });
        assert_eq!(kind(&caller.answer().expect(what)), (502, "agent-nonsense"), "{what}");
        assert!(world.held[0].0.is_closed(), "{what}");
        world.wait(Duration::from_secs(1));
        world.agent(willing);
        let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
        world.agent(willing);
        assert_eq!(caller.answer().expect(what).0, 202, "{what}: the next command goes through");
    }
}

#[test]
fn what_an_instance_has_used_is_asked_of_the_agent_and_why_there_is_nothing_is_of_the_catalogue() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut caller = world.client(Method::Get, "/v1/instances/web-1/stats", None);
    world.agent(willing);
    let (status, stats) = caller.answer().unwrap();
    assert_eq!((status, &stats["cpu_ms"]), (200, &7.into()));
    caller.end.reset();
    for (said, status, told) in [
        ("unknown-instance", 404, (404, "unknown-instance")),
        ("wrong-state", 409, (409, "wrong-state")),
        ("hypervisor", 503, (502, "hypervisor-failed")),
        ("not-found", 404, (502, "agent-refused")),
    ] {
        let mut caller = world.client(Method::Get, "/v1/instances/web-1/stats", None);
        let document = format!(r#"{{"type":"urn:corbel:problem:{said}","detail":"as it is"}}"#);
        world.agent(|_| Some(http(status, document.as_bytes())));
        let answer = caller.answer().unwrap();
        assert_eq!(kind(&answer), told);
        assert!(answer.1["detail"].as_str().unwrap().contains("as it is"), "{said}");
        caller.end.reset();
    }
}

#[test]
fn machines_that_hang_hold_no_link_however_many_are_commanded_and_looked_at() {
    let mut world = World::with(2, 8);
    world.agent(willing);
    // The agent knows of what it was asked, and its hypervisor says nothing about any machine but one.
    let mut known = Vec::new();
    let mut held = Vec::new();
    let mut agent = |request: &Request<'_>| {
        let wait: Option<u64> = request.query.and_then(|query| query.strip_prefix("wait=")?.parse().ok());
        let meanwhile = |command: &Command| {
            let instance = instance(command.instance.as_str(), State::Running);
            let mut bytes = answered(command, AGENT, Outcome::Accepted { instance });
            bytes.splice(..15, *b"HTTP/1.1 202 OK");
            bytes
        };
        if let Some(id) = request.path.strip_prefix("/a1/cmd/") {
            assert_eq!(wait, Some(0));
            return Some(meanwhile(
                known.iter().find(|command: &&Command| command.op_id.as_str() == id).unwrap(),
            ));
        }
        if request.path.starts_with("/a1/stats/") {
            held.extend(wait);
            return Some(http(202, b"{}"));
        }
        if request.path != path::COMMAND {
            return willing(request);
        }
        held.extend(wait);
        let command: Command = decode(request.body).unwrap();
        let is_well = command.instance.as_str() == "well";
        known.push(command.clone());
        Some(if is_well {
            answered(&command, AGENT, done("well", State::Running, true))
        } else {
            meanwhile(&command)
        })
    };
    let mut hung: Vec<Caller> = Vec::new();
    for name in ["hung-1", "hung-2", "hung-3"] {
        hung.push(world.client(
            Method::Post,
            &format!("/v1/instances/{name}/commands"),
            Some(r#"{"verb":"pause"}"#),
        ));
    }
    hung.push(world.client(Method::Get, "/v1/instances/hung-1", None));
    hung.push(world.client(Method::Get, "/v1/instances/hung-2", None));
    hung.push(world.client(Method::Get, "/v1/instances/hung-3/stats", None));
    for _ in 0..40 {
        world.wait(Duration::from_millis(50));
        world.agent(&mut agent);
        let mut well = world.client(Method::Post, "/v1/instances/well/commands", Some(r#"{"verb":"pause"}"#));
        // Without any time passing.
        world.agent(&mut agent);
        let (status, operation) = well.answer().expect("nothing stands before it");
        assert_eq!((status, &operation["state"]), (202, &"succeeded".into()));
        well.end.reset();
    }
    assert!(hung.iter_mut().all(|caller| caller.answer().is_none()), "they wait, each for its own");
    world.live(Duration::from_secs(5), &mut agent);
    let answers: Vec<_> = hung.iter_mut().map(|caller| caller.answer().unwrap()).collect();
    assert!(answers[..3].iter().all(|(status, operation)| *status == 202 && operation["state"] == "running"));
    assert!(answers[3..5].iter().all(|(status, seen)| *status == 200 && seen["state"] == "running"));
    assert_eq!(kind(&answers[5]), (504, "hypervisor-timeout"));
    assert!(held.iter().all(|wait| *wait <= 50) && held.contains(&0), "{held:?}");
}

#[test]
fn a_thousand_instances_are_listed_without_ever_having_more_of_them_than_a_page() {
    let mut world = World::new(1);
    let all: Vec<_> = (0..1000).map(|number| instance(&format!("web-{number:04}"), State::Running)).collect();
    let mut largest = 0;
    let mut agent = |request: &Request<'_>| {
        if request.path != path::INVENTORY {
            return willing(request);
        }
        let fields: Vec<_> =
            request.query.unwrap().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let field = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1);
        let limit: usize = field("limit").unwrap().parse().unwrap();
        largest = largest.max(limit);
        let rest = all.iter().skip_while(|one| field("after").is_some_and(|after| one.id.as_str() <= after));
        let some: Vec<_> = rest.clone().take(limit).cloned().collect();
        let next = rest.clone().nth(limit).and(some.last()).map(|last| last.id.clone());
        Some(http(200, &encode(&Inventory { next, ..inventory(some) })))
    };
    world.agent(&mut agent);
    let mut listed: Vec<String> = Vec::new();
    let mut after = String::new();
    loop {
        let mut caller = world.client(Method::Get, &format!("/v1/instances?limit=200{after}"), None);
        world.agent(&mut agent);
        let (status, page) = caller.answer().unwrap();
        assert_eq!(status, 200);
        listed.extend(
            page["instances"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().into()),
        );
        caller.end.reset();
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let names: Vec<String> = all.iter().map(|one| one.id.to_string()).collect();
    assert_eq!(listed, names);
    // A machine that remembers 256 operations.
    assert_eq!(largest, 64);
}

#[test]
fn whoever_waits_for_a_console_hears_what_the_guest_writes_and_holds_no_link() {
    let mut world = World::with(1, 3);
    let written = RefCell::new(b"boot\n".to_vec());
    let mut agent = |request: &Request<'_>| {
        if request.path != "/a1/console/web-1" {
            return willing(request);
        }
        let after: usize = request.query.unwrap().strip_prefix("after=").unwrap().parse().unwrap();
        let written = written.borrow();
        let data = Bytes(written[after.min(written.len())..].to_vec());
        let next = written.len() as u64;
        Some(http(200, &encode(&ConsolePage { from: next - data.0.len() as u64, next, data })))
    };
    world.agent(&mut agent);
    let mut caller = world.client(Method::Get, "/v1/instances/web-1/console", None);
    world.agent(&mut agent);
    let (status, page) = caller.answer().unwrap();
    assert_eq!((status, &page["next"], &page["data"]), (200, &5.into(), &"Ym9vdAo=".into()));
    caller.end.reset();
    let mut waiting = world.client(Method::Get, "/v1/instances/web-1/console?after=5&wait=4s", None);
    world.live(Duration::from_secs(1), &mut agent);
    assert!(waiting.answer().is_none());
    let mut other = world.client(Method::Get, "/v1/instances", None);
    world.agent(&mut agent);
    assert_eq!(other.answer().unwrap().0, 200, "the one link is free");
    other.end.reset();
    written.borrow_mut().extend(b"login: ");
    world.live(Duration::from_secs(1), &mut agent);
    let page = waiting.answer().unwrap().1;
    assert_eq!(
        (&page["from"], &page["next"], &page["data"]),
        (&5.into(), &12.into(), &"bG9naW46IA==".into())
    );
    waiting.end.reset();
    // Nothing more comes: it is told so in time.
    let mut waiting = world.client(Method::Get, "/v1/instances/web-1/console?after=12&wait=25s", None);
    world.live(Duration::from_secs(4), &mut agent);
    assert!(waiting.answer().is_none());
    world.live(Duration::from_secs(2), &mut agent);
    let (status, page) = waiting.answer().unwrap();
    assert_eq!((status, &page["from"], &page["next"]), (200, &12.into(), &12.into()));
    waiting.end.reset();
    let mut caller = world.client(Method::Get, "/v1/instances/web-1/console", None);
    world.agent(|_| Some(http(422, br#"{"type":"urn:corbel:problem:impossible","detail":"it has none"}"#)));
    assert_eq!(kind(&caller.answer().unwrap()), (422, "unsupported"));
}

#[test]
fn what_the_agent_has_said_of_a_hung_machine_counts_also_when_it_is_cut_short_at_the_end() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut caller = world.client(Method::Get, "/v1/instances/hung-1/stats", None);
    let mut asked = 0;
    world.live(Duration::from_secs(6), |request| {
        asked += u32::from(request.path == "/a1/stats/hung-1");
        if asked > 5 {
            None
        } else if asked > 0 {
            Some(http(202, b"{}"))
        } else {
            willing(request)
        }
    });
    assert_eq!(kind(&caller.answer().unwrap()), (504, "hypervisor-timeout"));
}

#[test]
fn whoever_follows_consoles_leaves_connections_to_others() {
    let mut world = World::with(1, 4);
    let agent = |request: &Request<'_>| match request.path {
        "/a1/console/web-1" => {
            Some(http(200, &encode(&ConsolePage { from: 0, next: 0, data: Bytes(Vec::new()) })))
        }
        _ => willing(request),
    };
    world.agent(agent);
    let path = "/v1/instances/web-1/console?wait=5s";
    let mut callers = [(); 4].map(|()| world.client(Method::Get, path, None));
    world.live(Duration::from_secs(1), agent);
    let answers = callers.each_mut().map(|caller| caller.answer().is_some());
    assert_eq!(answers, [false, false, true, true]);
}

#[test]
fn an_agent_that_refuses_the_request_has_done_nothing() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut caller = world.client(Method::Post, COMMANDS, TERMINATE);
    world.agent(|_| Some(http(400, br#"{"type":"x","detail":"no such thing"}"#)));
    let answer = caller.answer().unwrap();
    assert_eq!(kind(&answer), (502, "agent-refused"));
    assert!(answer.1["detail"].as_str().unwrap().contains("no such thing (status 400)"));
}

#[test]
fn a_silent_agent_costs_time_and_no_more() {
    let mut world = World::new(1);
    world.agent(willing);
    let mut caller = world.client(Method::Post, COMMANDS, Some(r#"{"verb":"pause","deadline_ms":1000}"#));
    let mut waiting = world.client(Method::Get, "/v1/instances", None);
    world.wait(Duration::from_secs(6));
    assert_eq!(kind(&waiting.answer().unwrap()), (503, "agent-unavailable"), "it was never sent");
    let (status, operation) = caller.answer().unwrap();
    assert_eq!((status, &operation["state"]), (202, &"sent".into()));
    world.wait(Duration::from_secs(16));
    let path = format!("/v1/operations/{}", operation["id"].as_str().unwrap());
    let mut look = world.client(Method::Get, &path, None);
    assert_eq!(look.answer().unwrap().1["state"], "indeterminate");
}

#[test]
fn one_slow_command_does_not_hold_up_the_other_link() {
    let mut world = World::with(2, 4);
    world.agent(willing);
    assert_eq!(world.held.len(), 2);
    let mut slow = world.client(Method::Post, COMMANDS, TERMINATE);
    world.pump();
    let mut quick = world.client(Method::Get, "/v1/instances", None);
    world.agent(|request| if request.path == path::COMMAND { None } else { willing(request) });
    assert_eq!(quick.answer().unwrap().1["instances"][0]["state"], "running");
    assert!(slow.answer().is_none());
    let mut second = world.client(Method::Post, COMMANDS, TERMINATE);
    let mut quick = world.client(Method::Get, "/v1/instances", None);
    world.agent(|request| if request.path == path::COMMAND { None } else { willing(request) });
    assert_eq!(quick.answer().unwrap().0, 200, "nor do two of them");
    assert!(second.answer().is_none());
    world.agent(willing);
    assert_eq!(slow.answer().unwrap().0, 202);
}

#[test]
fn a_slot_serves_one_peer_after_another_whatever_they_send() {
    let mut world = World::new(0);
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
    ] {
        let end = world.api.dial();
        end.write(bytes);
        world.pump();
        let text = String::from_utf8(end.read()).unwrap();
        assert!(text.contains("application/problem+json") && end.is_closed(), "{text}");
    }
    // Both slots are taken by peers that say nothing more.
    let slow = world.api.dial();
    slow.write(b"GET /hea");
    let gone = world.api.dial();
    gone.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea");
    world.pump();
    let mut third = world.client(Method::Get, "/healthz", None);
    assert!(third.answer().is_none());
    gone.reset();
    world.pump();
    assert_eq!(third.answer().unwrap().0, 200);
    world.wait(Duration::from_secs(10));
    assert!(String::from_utf8(slow.read()).unwrap().starts_with("HTTP/1.1 408 "));
    assert!(slow.is_closed());
    let mut fourth = world.client(Method::Get, "/v1", None);
    assert_eq!(fourth.answer().unwrap().0, 200);
    world.wait(Duration::from_secs(61));
    assert!(fourth.end.is_closed(), "an idle connection is closed");
}
