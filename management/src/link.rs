//! One connection to the agent: it is dialled, greeted, kept alive, and carries one question at a time.
//!
//! A command that was sent and not answered is sent again once, on a new connection, if the same run of the agent is
//! still there: that agent remembers what it was sent, so the command takes effect once at most. Another run of it
//! would refuse the command, because it names the run it was meant for.

use crate::Management;
use crate::ask::{AgentError, LinkState, Question, Reply};
use crate::forward::{GRACE, Pending};
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
use management_http::{Client, Limits, Method};
use network::{ConnectError, Stream};
use serde::de::DeserializeOwned;

/// How long the agent may take to accept a connection and to greet.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long an idle connection stays without a word: less than the agent's patience.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// How long to wait before dialling again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Carry questions to the agent in this slot of the host-only network, for ever. Several links share the questions, so
/// that one slow command does not hold up the others. Ends at once when no agent is configured.
pub async fn link(mut stream: Stream, management: Rc<Management>) {
    link_on(&mut stream, &management).await;
}

pub(crate) async fn link_on<W: Wire>(stream: &mut W, management: &Management) {
    let Some(agent) = management.configuration.agent else { return };
    let mut link = Link {
        stream,
        management,
        agent,
        client: Client::new(Limits::CLIENT, &agent.to_string()),
        peer: None,
    };
    link.run().await;
}

struct Link<'a, W> {
    stream: &'a mut W,
    management: &'a Management,
    agent: SocketAddrV4,
    client: Client,
    /// Who answered the greeting, while connected.
    peer: Option<Peer>,
}

/// The run of the agent at the other end, and how its clock relates to ours.
#[derive(Clone, Copy)]
struct Peer {
    boot: Uuid,
    epoch: u64,
    /// Its clock said this, in milliseconds,
    clock_ms: u64,
    /// when ours said this.
    heard: Instant,
}

/// Why an exchange did not come to an end.
enum Broken {
    /// The connection was closed, reset or silent.
    Lost(&'static str),
    /// What came is not the protocol.
    Nonsense(String),
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
                    let forward = &self.management.forward;
                    forward.cannot_connect(&why);
                    let until = self.clock().now() + pause;
                    if forward.state() == LinkState::Up {
                        // Another link carries the questions; this one has time.
                        self.clock().sleep_until(until).await;
                    } else {
                        // A question is reason enough to try again at once; nobody is made to wait for a timer.
                        let _ = with_deadline(self.clock(), until, forward.wanted()).await;
                    }
                    pause = (pause * 2).min(RETRY_LAST);
                    continue;
                }
            }
            self.carry().await;
            self.close();
        }
    }

    /// Connect and greet.
    async fn open(&mut self) -> Result<(), String> {
        let until = self.clock().now() + CONNECT_TIME;
        self.client = Client::new(Limits::CLIENT, &self.agent.to_string());
        match with_deadline(&self.management.clock, until, self.stream.connect(self.agent)).await {
            Ok(Ok(())) => {}
            Ok(Err(ConnectError::Refused)) => {
                return Err(format!("{} refuses or does not answer", self.agent));
            }
            Ok(Err(ConnectError::Unroutable)) => return Err(format!("there is no route to {}", self.agent)),
            Err(_) => {
                self.stream.abort();
                return Err(format!("{} does not answer", self.agent));
            }
        }
        match self.greet(until).await {
            Ok(welcome) => {
                let (boot, epoch) = (welcome.agent_boot, welcome.epoch);
                log::info!("agent {} is up: run {boot}, epoch {epoch}", self.agent);
                self.management.forward.is_up(welcome);
                Ok(())
            }
            Err(broken) => {
                self.stream.abort();
                Err(match broken {
                    Broken::Lost(why) => format!("{} did not greet: {why}", self.agent),
                    Broken::Nonsense(what) => format!("{} greets wrongly: {what}", self.agent),
                })
            }
        }
    }

    fn close(&mut self) {
        self.stream.abort();
        if self.peer.take().is_some() {
            self.management.forward.is_down();
        }
    }

    async fn greet(&mut self, until: Instant) -> Result<Welcome, Broken> {
        let appliance_boot = self.management.configuration.boot;
        let hello = encode(&Hello { proto_min: VERSION, proto_max: VERSION, appliance_boot, epoch: None });
        self.exchange(Method::Post, path::HELLO, Some(&hello), until).await?;
        let (status, body) = self.reply();
        if status != 200 {
            return Err(Broken::Nonsense(refusal(status, body)));
        }
        let welcome: Welcome = parse(body, &Bounds::ANSWER).map_err(Broken::Nonsense)?;
        if welcome.proto != VERSION {
            return Err(Broken::Nonsense(format!("it speaks version {}", welcome.proto)));
        }
        self.peer = Some(Peer {
            boot: welcome.agent_boot,
            epoch: welcome.epoch,
            clock_ms: welcome.clock_ms,
            heard: self.clock().now(),
        });
        Ok(welcome)
    }

    /// Carry questions until the connection is of no use any more.
    async fn carry(&mut self) {
        loop {
            let until = self.clock().now() + IDLE_TIME;
            let event = {
                let next = self.management.forward.next();
                let closed = self.stream.read(self.client.space());
                with_deadline(&self.management.clock, until, first(next, closed)).await
            };
            match event {
                Ok(First::One(pending)) => {
                    if !self.serve(&pending).await {
                        return;
                    }
                }
                // It has closed, or says what nobody asked for.
                Ok(First::Other(_)) => return,
                Err(_) => {
                    let until = self.clock().now() + CONNECT_TIME;
                    match self.greet(until).await {
                        Ok(welcome) => self.management.forward.heard(welcome),
                        Err(_) => return,
                    }
                }
            }
        }
    }

    /// Answer a question; whether the connection can carry another.
    async fn serve(&mut self, pending: &Pending) -> bool {
        let asked_of = self.peer;
        let mut outcome = self.put(pending).await;
        if let Err(Broken::Lost(why)) = outcome {
            self.close();
            outcome = self.put_again(pending, asked_of, why).await;
        }
        let boot = asked_of.map(|peer| peer.boot);
        match outcome {
            Ok(answer) => {
                pending.answer(answer);
                self.peer.is_some() && self.client.is_reusable()
            }
            Err(Broken::Lost(why)) => {
                pending.answer(Err(AgentError::Lost(boot, why)));
                false
            }
            Err(Broken::Nonsense(what)) => {
                log::warn!("agent {}: {what}", self.agent);
                pending.answer(Err(AgentError::Nonsense(boot, what)));
                false
            }
        }
    }

    /// Ask again on a new connection what was lost on another: to look changes nothing, and the run of the agent that
    /// was sent a command knows it for the same. Only its answer to that clears up what became of the first attempt.
    async fn put_again(
        &mut self,
        pending: &Pending,
        asked_of: Option<Peer>,
        why: &'static str,
    ) -> Result<Result<Reply, AgentError>, Broken> {
        if self.clock().now() >= pending.deadline || self.open().await.is_err() {
            return Err(Broken::Lost(why));
        }
        let is_command = matches!(pending.question, Question::Command(_));
        if is_command && self.peer.map(|peer| peer.boot) != asked_of.map(|peer| peer.boot) {
            return Err(Broken::Lost("it has started anew meanwhile"));
        }
        match self.put(pending).await {
            Ok(Err(_)) if is_command => Err(Broken::Lost(why)),
            outcome => outcome,
        }
    }

    /// Send a question and read its answer.
    async fn put(&mut self, pending: &Pending) -> Result<Result<Reply, AgentError>, Broken> {
        let Some(peer) = self.peer else { return Err(Broken::Lost("the connection is gone")) };
        if self.clock().now() >= pending.deadline {
            return Ok(Err(AgentError::TooLate));
        }
        let until = pending.deadline + GRACE;
        match &pending.question {
            Question::Command(command) => {
                let command = self.stamped(command, peer, pending.deadline);
                self.exchange(Method::Post, path::COMMAND, Some(&encode(&command)), until).await?;
                self.answered(&command.op_id, peer, false)
            }
            Question::Recall(op_id) => {
                self.exchange(Method::Get, &format!("{}/{op_id}", path::COMMAND), None, until).await?;
                self.answered(op_id, peer, true)
            }
            Question::Inventory => {
                self.exchange(Method::Get, path::INVENTORY, None, until).await?;
                let (status, body) = self.reply();
                if status != 200 {
                    return Ok(Err(AgentError::Refused(refusal(status, body))));
                }
                let inventory: Inventory = parse(body, &Bounds::LIST).map_err(Broken::Nonsense)?;
                if inventory.proto != VERSION || inventory.agent_boot != peer.boot {
                    return Err(Broken::Nonsense("an inventory of another version or run".into()));
                }
                Ok(Ok(Reply::Inventory(inventory)))
            }
        }
    }

    /// The command with what only the link knows.
    fn stamped(&self, command: &Command, peer: Peer, deadline: Instant) -> Command {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = peer.clock_ms.saturating_add(millis(deadline.since(peer.heard)));
        Command {
            epoch: Some(peer.epoch),
            agent_boot: Some(peer.boot),
            deadline_ms: Some(deadline_ms),
            ..command.clone()
        }
    }

    /// The answer about one operation.
    fn answered(
        &self,
        op_id: &OpId,
        peer: Peer,
        recalled: bool,
    ) -> Result<Result<Reply, AgentError>, Broken> {
        let (status, body) = self.reply();
        if recalled && status == 404 {
            return Ok(Ok(Reply::NeverReceived(peer.boot)));
        }
        if status != 200 {
            return Ok(Err(AgentError::Refused(refusal(status, body))));
        }
        let answer: Answer = parse(body, &Bounds::ANSWER).map_err(Broken::Nonsense)?;
        if answer.proto != VERSION || answer.op_id != *op_id || answer.agent_boot != peer.boot {
            return Err(Broken::Nonsense("the answer to another command".into()));
        }
        Ok(Ok(Reply::Answer(Box::new(answer))))
    }

    /// The response of the last exchange: status and body.
    fn reply(&self) -> (u16, &[u8]) {
        self.client.reply().map_or((0, &[]), |reply| (reply.status, reply.body))
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

fn parse<T: DeserializeOwned>(body: &[u8], bounds: &Bounds) -> Result<T, String> {
    json::check(body, bounds).map_err(|excess| excess.to_string())?;
    decode(body).map_err(|error: Malformed| error.to_string())
}

/// What the agent says in a problem document, or only its status when it says nothing that can be read.
fn refusal(status: u16, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        detail: agent_protocol::Text,
    }
    match parse::<Document>(body, &Bounds::ANSWER) {
        Ok(document) => format!("{} (status {status})", document.detail),
        Err(_) => format!("status {status}"),
    }
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
