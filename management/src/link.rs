//! One connection to the agent: it is dialled, greeted, kept alive, and carries one question at a time.
//!
//! It carries what somebody waits for, and operations; what an operation needs is decided in `delivery.rs`.

mod look;

use crate::Management;
use crate::ask::{AgentError, LinkState, Question, Reply};
use crate::delivery::{Peer, Work};
use crate::forward::Pending;
use crate::problem::Kind;
use crate::secure::Secure;
use crate::wire::Wire;
use agent_protocol::{
    Answer, Command, Hello, Inventory, Malformed, OpId, Uuid, VERSION, Welcome, decode, encode, path,
};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::future::{Future, poll_fn};
use core::net::SocketAddrV4;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use kernel_runtime::{Clock, Instant, with_deadline};
use management_http::json::{self, Bounds};
use management_http::{Client, Limits, Method, PROBLEM_NAMESPACE};
use network::{ConnectError, Stream};
use serde::de::DeserializeOwned;

/// How long the agent may take to accept a connection and to greet.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long an agent that is not believed may take to hear so, for its own log.
const FAREWELL_TIME: Duration = Duration::from_millis(50);
/// How long an idle connection stays without a word: less than the agent's patience.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// How long to wait before dialling again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How long the answer to a command is waited for. The agent answers at once, whatever its hypervisors do; when it does not,
/// it is asked again.
const COMMAND_TIME: Duration = Duration::from_secs(3);
/// The most bytes of an answer, on the smallest machines and on large ones. A page of events alone may have 240 KiB.
const REPLY_BYTES: (usize, usize) = (256 << 10, Limits::CLIENT.body);
/// The status of an answer that is not the last.
const MEANWHILE: u16 = 202;
/// The type of the problem that a greeting is refused with when another appliance has taken over.
const STALE: &str = "urn:corbel:problem:stale-epoch";

/// Carry questions to the agent in this slot of the host-only network, for ever. Several links share the questions, so
/// that one slow command does not hold up the others. Ends at once when no agent is configured.
pub async fn link(stream: Stream, management: Rc<Management>) {
    link_on(stream, &management).await;
}

/// As [`link`], in a slot of any kind.
pub async fn link_on<W: Wire>(stream: W, management: &Management) {
    let mut stream = Secure::dialling(stream, management.configuration.dialling.clone());
    let Some(agent) = management.configuration.agent else { return };
    let links = &management.forward.links;
    links.set(links.get() + 1);
    let mut link =
        Link { stream: &mut stream, management, agent, client: client(management, agent), peer: None };
    link.run().await;
}

/// The engine of a new connection.
fn client(management: &Management, agent: SocketAddrV4) -> Client {
    let body = reply_bytes(management.configuration.operations);
    Client::new(Limits { body, ..Limits::CLIENT }, &agent.to_string())
}

/// The most bytes of an answer of the agent's that are taken on a machine that remembers so many operations: no list that is
/// asked for there is longer, and an agent that says anything it likes takes no more.
fn reply_bytes(operations: usize) -> usize {
    (operations << 12).clamp(REPLY_BYTES.0, REPLY_BYTES.1)
}

struct Link<'a, W> {
    stream: &'a mut W,
    management: &'a Management,
    agent: SocketAddrV4,
    client: Client,
    /// Who answered the greeting, while connected.
    peer: Option<Peer>,
}

/// Why an exchange did not come to an end.
enum Broken {
    /// The connection was closed, reset or silent.
    Lost(&'static str),
    /// What came is not the protocol.
    Nonsense(String),
    /// Another appliance has taken over.
    Superseded,
}

impl<W: Wire> Link<'_, W> {
    fn clock(&self) -> &Clock {
        &self.management.clock
    }

    async fn run(&mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.open().await {
                Ok(()) => pause = RETRY_FIRST,
                Err(why) => {
                    self.cannot_connect(&why);
                    let until = self.clock().now() + pause;
                    if self.management.forward.is_up() {
                        // Another link carries the questions; this one has time.
                        self.clock().sleep_until(until).await;
                    } else {
                        // A question is reason enough to try again at once; nobody is made to wait for a timer.
                        let _ = with_deadline(self.clock(), until, self.wanted()).await;
                    }
                    pause = (pause * 2).min(RETRY_LAST);
                    continue;
                }
            }
            self.carry().await;
            self.close();
        }
    }

    fn cannot_connect(&self, why: &str) {
        let forward = &self.management.forward;
        forward.cannot_connect(why);
        self.management.link_changed();
        match forward.state() {
            LinkState::Up => {}
            LinkState::Superseded => {
                self.management.give_up(Kind::StaleEpoch, "Another appliance has taken over.");
            }
            _ => {
                let why = AgentError::Unavailable(why.into()).to_string();
                self.management.give_up(Kind::AgentUnavailable, &why);
            }
        }
    }

    /// Wait until somebody waits for the agent.
    async fn wanted(&self) {
        while !self.management.wants_link() {
            self.management.forward.stirred().await;
        }
    }

    /// Connect and greet.
    async fn open(&mut self) -> Result<(), String> {
        let until = self.clock().now() + CONNECT_TIME;
        self.client = client(self.management, self.agent);
        match with_deadline(&self.management.clock, until, self.stream.connect(self.agent)).await {
            Ok(Ok(())) => {}
            Ok(Err(ConnectError::Refused)) => {
                let Some(words) = self.stream.words() else {
                    return Err(format!("{} refuses or does not answer", self.agent));
                };
                let until = self.clock().now() + FAREWELL_TIME;
                let _ = with_deadline(&self.management.clock, until, self.stream.finish()).await;
                self.stream.abort();
                return Err(format!("{}: TLS: {words}", self.agent));
            }
            Ok(Err(ConnectError::Unroutable)) => return Err(format!("there is no route to {}", self.agent)),
            Err(_) => {
                self.stream.abort();
                return Err(format!("{} does not answer", self.agent));
            }
        }
        let broken = match self.greet(until, true).await {
            Ok(()) => return Ok(()),
            Err(broken) => broken,
        };
        if matches!(broken, Broken::Superseded) {
            self.management.forward.is_superseded();
            self.recall_all(until).await;
        }
        let words = self.stream.words();
        self.stream.abort();
        Err(match broken {
            // In TLS 1.3 a client hears last whether it is let in.
            Broken::Lost(_) if let Some(words) = words => {
                format!("{} did not greet: TLS: {words}", self.agent)
            }
            Broken::Lost(why) => format!("{} did not greet: {why}", self.agent),
            Broken::Nonsense(what) => format!("{} greets wrongly: {what}", self.agent),
            Broken::Superseded => format!("{} takes commands from another appliance", self.agent),
        })
    }

    fn close(&mut self) {
        self.stream.abort();
        if self.peer.take().is_some() {
            self.management.forward.is_down();
            self.management.link_changed();
        }
    }

    async fn greet(&mut self, until: Instant, is_new: bool) -> Result<(), Broken> {
        let appliance_boot = self.management.configuration.boot;
        let epoch = self.management.epoch.get();
        let hello = encode(&Hello { proto_min: VERSION, proto_max: VERSION, appliance_boot, epoch });
        self.exchange(Method::Post, path::HELLO, Some(&hello), until).await?;
        let (status, body) = self.reply();
        if status != 200 {
            let is_stale = problem_type(body).as_deref() == Some(STALE);
            return Err(if is_stale { Broken::Superseded } else { Broken::Nonsense(refusal(status, body)) });
        }
        let welcome: Welcome = parse(body, &Bounds::ANSWER).map_err(Broken::Nonsense)?;
        if welcome.proto != VERSION {
            return Err(Broken::Nonsense(format!("it speaks version {}", welcome.proto)));
        }
        let peer = Peer::new(&welcome, self.clock().now());
        self.management.hold(welcome.epoch).await;
        if is_new {
            let (boot, epoch) = (welcome.agent_boot, welcome.epoch);
            log::info!("agent {} is up: run {boot}, epoch {epoch}", self.agent);
        }
        self.peer = Some(peer);
        self.management.forward.greeted(welcome, peer, is_new);
        self.management.link_changed();
        Ok(())
    }

    /// Carry what there is until the connection is of no use any more.
    async fn carry(&mut self) {
        loop {
            let until = self.clock().now() + IDLE_TIME;
            let event = {
                let work = work(self.management);
                let closed = self.stream.read(self.client.space());
                with_deadline(&self.management.clock, until, first(work, closed)).await
            };
            let is_of_use = match event {
                Ok(First::One(Work::Question(pending))) => self.serve(&pending).await,
                Ok(First::One(Work::Operation(id))) => self.deliver(&id).await,
                // It has closed, or says what nobody asked for.
                Ok(First::Other(_)) => false,
                Err(_) => {
                    let until = self.clock().now() + CONNECT_TIME;
                    let greeted = self.greet(until, false).await;
                    if matches!(greeted, Err(Broken::Superseded)) {
                        self.management.forward.is_superseded();
                    }
                    greeted.is_ok()
                }
            };
            if !is_of_use {
                return;
            }
        }
    }

    /// Ask the agent about an operation; whether the connection can carry more.
    async fn deliver(&mut self, id: &OpId) -> bool {
        let Some(peer) = self.peer else { return false };
        let Some(question) = self.management.next_question(id, &peer) else { return true };
        let hands = &self.management.forward.hands;
        hands.set(hands.get() + 1);
        let was_sent = matches!(question, Question::Command(_));
        let until = self.clock().now() + COMMAND_TIME;
        let outcome = self.put(&question, until).await;
        let hands = &self.management.forward.hands;
        hands.set(hands.get() - 1);
        let (reply, is_of_use) = match outcome {
            Ok(reply) => (reply, self.client.is_reusable()),
            Err(broken) => (Err(self.lost(broken)), false),
        };
        if !is_of_use {
            self.close();
        }
        self.management.delivered(id, Some(&peer), was_sent, reply);
        is_of_use
    }

    /// Ask an agent that takes no commands any more what became of those it was sent.
    async fn recall_all(&mut self, until: Instant) {
        for id in self.management.take_tried() {
            let reply = self.put(&Question::Recall(id.clone()), until).await;
            let reply = reply.unwrap_or_else(|broken| Err(self.lost(broken)));
            let is_over = reply.is_err();
            self.management.delivered(&id, None, false, reply);
            if is_over {
                return;
            }
        }
    }

    fn lost(&self, broken: Broken) -> AgentError {
        match broken {
            Broken::Lost(why) => AgentError::Lost(why),
            Broken::Nonsense(what) => {
                log::warn!("agent {}: {what}", self.agent);
                AgentError::Nonsense(what)
            }
            Broken::Superseded => AgentError::Lost("another appliance has taken over"),
        }
    }

    /// Answer a question; whether the connection can carry another.
    async fn serve(&mut self, pending: &Pending) -> bool {
        if self.clock().now() >= pending.deadline {
            pending.answer(Err(AgentError::TooLate));
            return true;
        }
        self.management.forward.has_in_hands(&pending.question, true);
        let mut outcome = self.put(&pending.question, pending.deadline).await;
        if let Err(Broken::Lost(_)) = outcome {
            // To look changes nothing, so it may simply be repeated.
            self.close();
            if self.clock().now() < pending.deadline && self.open().await.is_ok() {
                outcome = self.put(&pending.question, pending.deadline).await;
            }
        }
        self.management.forward.has_in_hands(&pending.question, false);
        match outcome {
            Ok(answer) => {
                pending.answer(answer);
                self.peer.is_some() && self.client.is_reusable()
            }
            Err(broken) => {
                pending.answer(Err(self.lost(broken)));
                false
            }
        }
    }

    /// Send a question and read its answer.
    async fn put(
        &mut self,
        question: &Question,
        until: Instant,
    ) -> Result<Result<Reply, AgentError>, Broken> {
        match question {
            Question::Command(command) => {
                let stamped;
                let command = match self.peer {
                    // One that only looks has no delivery of its own.
                    Some(peer) if command.agent_boot.is_none() => {
                        stamped = Command {
                            epoch: Some(peer.epoch),
                            agent_boot: Some(peer.boot),
                            deadline_ms: Some(peer.clock_ms(until)),
                            ..(**command).clone()
                        };
                        &stamped
                    }
                    _ => &**command,
                };
                let hold = self.management.may_hold().as_millis();
                let path = format!("{}?wait={hold}", path::COMMAND);
                self.exchange(Method::Post, &path, Some(&encode(command)), until).await?;
                self.answered(&command.op_id, false)
            }
            Question::Recall(op_id) => {
                self.exchange(Method::Get, &format!("{}/{op_id}?wait=0", path::COMMAND), None, until).await?;
                self.answered(op_id, true)
            }
            Question::Inventory(limit, after) => {
                let mut path = format!("{}?limit={limit}", path::INVENTORY);
                if let Some(after) = after {
                    path += &format!("&after={after}");
                }
                self.exchange(Method::Get, &path, None, until).await?;
                let (status, body) = self.reply();
                if status != 200 {
                    return Ok(Err(AgentError::Refused(refusal(status, body))));
                }
                let inventory: Inventory = parse(body, &Bounds::LIST).map_err(Broken::Nonsense)?;
                if inventory.proto != VERSION || self.is_stranger(inventory.agent_boot) {
                    return Err(Broken::Nonsense("an inventory of another version or run".into()));
                }
                Ok(Ok(Reply::Inventory(inventory)))
            }
            Question::Console(id, after, _) => {
                let path = format!("{}/{id}?after={after}", path::CONSOLE);
                self.exchange(Method::Get, &path, None, until).await?;
                Ok(self.shown()?.map(Reply::Console))
            }
            Question::Stats(id) => {
                let hold = self.management.may_hold().as_millis();
                let path = format!("{}/{id}?wait={hold}", path::STATS);
                self.exchange(Method::Get, &path, None, until).await?;
                if self.reply().0 == MEANWHILE {
                    return Ok(Ok(Reply::Meanwhile(None)));
                }
                Ok(self.shown()?.map(|stats| Reply::Stats(Box::new(stats))))
            }
            Question::Events(after) => self.events(*after, until).await,
            Question::PutNetwork(_)
            | Question::RemoveNetwork(_)
            | Question::Network(_)
            | Question::Networks => self.network(question, until).await,
        }
    }

    /// Whether it is not the run of the agent that was greeted.
    fn is_stranger(&self, boot: Uuid) -> bool {
        self.peer.is_some_and(|peer| peer.boot != boot)
    }

    /// The answer about one operation.
    fn answered(&self, op_id: &OpId, recalled: bool) -> Result<Result<Reply, AgentError>, Broken> {
        let (status, body) = self.reply();
        if recalled && status == 404 {
            return Ok(Ok(Reply::NeverReceived));
        }
        if status != 200 && status != MEANWHILE {
            return Ok(Err(AgentError::Refused(refusal(status, body))));
        }
        let answer: Answer = parse(body, &Bounds::ANSWER).map_err(Broken::Nonsense)?;
        if answer.proto != VERSION || answer.op_id != *op_id || self.is_stranger(answer.agent_boot) {
            return Err(Broken::Nonsense("the answer to another command".into()));
        }
        let answer = Box::new(answer);
        Ok(Ok(if status == MEANWHILE { Reply::Meanwhile(Some(answer)) } else { Reply::Answer(answer) }))
    }

    /// The response of the last exchange: status and body.
    fn reply(&self) -> (u16, &[u8]) {
        self.client.reply().map_or((0, &[]), |reply| (reply.status, reply.body))
    }

    /// What was asked to be shown of an instance, or the agent's reason why not.
    fn shown<T: DeserializeOwned>(&self) -> Result<Result<T, AgentError>, Broken> {
        match self.reply() {
            (200, body) => parse(body, &Bounds::ANSWER).map(Ok).map_err(Broken::Nonsense),
            (status, body) => Ok(Err(problem(status, body))),
        }
    }

    /// Send a request and read until its response is complete.
    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        until: Instant,
    ) -> Result<(), Broken> {
        self.client.request(method, path, body);
        let count = self.client.transmit().len();
        let clock = &self.management.clock;
        match with_deadline(clock, until, self.stream.write_all(self.client.transmit())).await {
            Ok(Ok(())) => self.client.transmitted(count),
            Ok(Err(_)) => return Err(Broken::Lost("the connection was reset")),
            Err(_) => return Err(Broken::Lost("it did not take the request in time")),
        }
        while self.client.reply().is_none() {
            let count = match with_deadline(clock, until, self.stream.read(self.client.space())).await {
                Ok(Ok(0)) => return Err(Broken::Lost("it closed the connection")),
                Ok(Ok(count)) => count,
                Ok(Err(_)) => return Err(Broken::Lost("the connection was reset")),
                Err(_) => return Err(Broken::Lost("its time was up")),
            };
            self.client.received(count).map_err(|fatal| Broken::Nonsense(fatal.to_string()))?;
        }
        Ok(())
    }
}

/// What there is to carry, as soon as there is something.
async fn work(management: &Management) -> Work {
    loop {
        let next = match management.take_work() {
            Ok(work) => return work,
            Err(next) => next,
        };
        let stirred = management.forward.stirred();
        match next {
            Some(next) => drop(with_deadline(&management.clock, next, stirred).await),
            None => stirred.await,
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], bounds: &Bounds) -> Result<T, String> {
    json::check(body, bounds).map_err(|excess| excess.to_string())?;
    decode(body).map_err(|error: Malformed| error.to_string())
}

/// What the agent says in a problem document, or only its status when it says nothing that can be read.
fn refusal(status: u16, body: &[u8]) -> String {
    match detail(body) {
        Some(detail) => format!("{detail} (status {status})"),
        None => format!("status {status}"),
    }
}

/// The words of a problem document, if the body is one.
fn detail(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        detail: agent_protocol::Text,
    }
    parse::<Document>(body, &Bounds::ANSWER).ok().map(|document| document.detail.to_string())
}

/// Why the agent has no answer, if that is a reason of the catalogue.
fn problem(status: u16, body: &[u8]) -> AgentError {
    let kind = problem_type(body).and_then(|name| Kind::of_agent(name.strip_prefix(PROBLEM_NAMESPACE)?));
    match (kind, detail(body)) {
        (Some(kind), Some(detail)) => AgentError::Problem(kind, detail),
        _ => AgentError::Refused(refusal(status, body)),
    }
}

/// The type of a problem document, if the body is one.
fn problem_type(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        r#type: String,
    }
    parse::<Document>(body, &Bounds::ANSWER).ok().map(|document| document.r#type)
}

/// Which of two came first.
enum First<A, B> {
    One(A),
    Other(B),
}

/// Wait for whichever comes first.
async fn first<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> First<A, B> {
    let mut one = pin!(one);
    let mut other = pin!(other);
    poll_fn(|cx| {
        if let Poll::Ready(output) = other.as_mut().poll(cx) {
            return Poll::Ready(First::Other(output));
        }
        one.as_mut().poll(cx).map(First::One)
    })
    .await
}
