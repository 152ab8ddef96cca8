//! The command path: an HTTP API on the service network, and the link to the agent on the host-only network.
//!
//! A request becomes a typed command at the door, policy says yes or no, and it is answered from storage or forwarded
//! to the agent. [`Management`] is all that as functions that never wait; [`serve`] and [`link`] are the tasks around
//! it, one for each connection slot. The README follows one command through the files.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod about;
mod answers;
mod ask;
mod audit;
mod batch;
mod clerk;
mod delivery;
mod desired;
mod documents;
mod door;
mod events;
mod forecast;
mod forward;
mod keys;
mod link;
mod metrics;
mod networks;
mod operations;
mod plane;
pub mod policy;
pub mod problem;
mod refusals;
mod route;
mod secure;
mod session;
mod signatures;
mod slots;
mod steward;
mod stored;
mod targets;
mod views;
mod waiting;
mod wire;

#[cfg(test)]
mod tests;

pub use ask::{AgentError, Ask, LinkState, Question, Reply};
pub use audit::audit_records;
pub use batch::Batch;
pub use clerk::keep;
pub use desired::Deed;
pub use documents::ClientToken;
pub use door::{Door, Lock};
pub use events::Listen;
pub use forecast::Look;
pub use keys::Enrolment;
pub use link::{link, link_on};
pub use metrics::Gauges;
pub use networks::network_bytes;
pub use plane::{Configuration, Continuation, KeysStep, Management, Step, Wait};
pub use policy::{Policy, Principal, Service};
pub use problem::{Kind, Problem};
pub use secure::Dialling;
pub use session::{serve, serve_on};
pub use steward::tend;
pub use targets::Targets;
pub use views::InstanceView;
pub use wire::Wire;
