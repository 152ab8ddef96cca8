//! What the plane asks of the agent, and what can come back.

use crate::problem::Kind;
use agent_protocol::{
    Answer, Command, ConsolePage, EventPage, InstanceId, Inventory, NetworkMap, NetworkName, NetworkState,
    OpId, Stats,
};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use kernel_runtime::Instant;

/// A question to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Carry this out. Without a run of the agent, epoch and deadline are filled in by the link, which knows them.
    Command(Box<Command>),
    /// What is there: at most so many instances that come after this name, and every image.
    Inventory(usize, Option<InstanceId>),
    /// What became of this.
    Recall(OpId),
    /// What this instance has used.
    Stats(InstanceId),
    /// Have this network like this.
    PutNetwork(Box<NetworkMap>),
    /// Have no such network any more.
    RemoveNetwork(NetworkName),
    /// What there is of this network.
    Network(NetworkName),
    /// What there is of all networks.
    Networks,
    /// What has happened after this number.
    Events(u64),
    /// What its guest wrote to its console after the first so many bytes; until then an answer without any is not final.
    Console(InstanceId, u64, Instant),
}

impl Question {
    /// Whether the agent needs the kernel of its host for it, which may take its time.
    pub(crate) const fn is_of_networks(&self) -> bool {
        matches!(self, Self::PutNetwork(_) | Self::RemoveNetwork(_) | Self::Network(_) | Self::Networks)
    }

    /// Until when it is to be asked again after this reply, at most; `None` when that is what there is to say.
    pub(crate) fn again(&self, reply: &Result<Reply, AgentError>, deadline: Instant) -> Option<Instant> {
        match (self, reply) {
            (_, Ok(Reply::Meanwhile(_))) => Some(deadline),
            (Self::Console(_, _, until), Ok(Reply::Console(page))) if page.data.0.is_empty() => Some(*until),
            _ => None,
        }
    }
}

/// A question and until when an answer is of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The question.
    pub question: Question,
    /// After this nobody waits for the answer any more.
    pub deadline: Instant,
}

/// The agent's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a command, or to the recall of one.
    Answer(Box<Answer>),
    /// To any of them but a list: nothing final yet; it is to be asked again. The answer, if there is one, says how it stands.
    Meanwhile(Option<Box<Answer>>),
    /// To a recall: the agent never received it, as far as it remembers.
    NeverReceived,
    /// What is there.
    Inventory(Inventory),
    /// What an instance has used.
    Stats(Box<Stats>),
    /// What there is of a network.
    Network(Box<NetworkState>),
    /// There is no such network, or not any more.
    NoNetwork,
    /// What there is of all networks.
    Networks(Vec<NetworkState>),
    /// What has happened.
    Events(EventPage),
    /// What a guest wrote to its console.
    Console(ConsolePage),
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentError {
    /// No agent is configured.
    NotConfigured,
    /// So many questions wait already; this one was not sent.
    Busy,
    /// The agent cannot be reached; the question was not sent. The reason is for people.
    Unavailable(String),
    /// Its time was up before it was sent.
    TooLate,
    /// It was sent, and no reply came.
    Lost(&'static str),
    /// What came back is not the protocol. Whether a command was carried out is not known.
    Nonsense(String),
    /// The agent refused the request as such: nothing was carried out.
    Refused(String),
    /// The agent has no answer, for a reason that the catalogue knows.
    Problem(Kind, String),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => f.write_str("No agent is configured."),
            Self::Busy => f.write_str("Too many requests wait for the agent."),
            Self::Unavailable(why) => write!(f, "The agent cannot be reached: {why}."),
            Self::TooLate => f.write_str("The time was up before the agent could be asked."),
            Self::Lost(why) => write!(f, "The agent was asked and did not answer: {why}."),
            Self::Nonsense(what) => write!(f, "The agent answered what is not the protocol: {what}."),
            Self::Refused(what) => write!(f, "The agent did not take the request: {what}"),
            Self::Problem(_, what) => f.write_str(what),
        }
    }
}

/// How the link to the agent fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No agent is configured.
    NotConfigured,
    /// No connection has come about yet.
    Connecting,
    /// Connected and greeted.
    Up,
    /// Not connected, for this reason.
    Down(String),
    /// The agent takes commands from another appliance, which has taken over.
    Superseded,
}

impl LinkState {
    /// Its name in views and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down(_) => "down",
            Self::Superseded => "stale-epoch",
        }
    }
}
