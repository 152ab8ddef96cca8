//! What the appliance and the agent say to each other, as types.
//!
//! [`Command`] and [`Answer`] are the heart; [`Hello`] and [`Welcome`] open each connection; [`Inventory`] tells
//! what there is. [`lifecycle`] is the table of what each verb does in each state, so that both ends agree on it.
//! The README has the rules of the wire.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod answer;
mod command;
mod console;
mod event;
mod hello;
pub mod lifecycle;
mod named;
mod network;
mod parts;
#[cfg(feature = "schema")]
mod schema;
mod text;
mod token;
mod wire;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Failure, Instance, Inventory, Outcome, Refusal};
pub use command::{Action, Command, Precondition, Then, Verb};
pub use console::{Bytes, CONSOLE_BYTES_MAX, ConsolePage};
pub use event::{Event, EventKind, EventPage};
pub use hello::{Backend, Capability, Facility, Hello, Provision, Support, Welcome};
pub use lifecycle::State;
pub use network::{ENDPOINTS_MAX, Endpoint, MTU, NETWORKS_MAX, NetworkList, NetworkMap, NetworkState, Vni};
pub use parts::{
    AttachedNic, AttachedVolume, Attachment, Link, Mac, NICS_MAX, Nic, Size, Stats, Traffic, VOLUMES_MAX,
    Volume,
};
pub use text::Text;
pub use token::{
    ImageName, InstanceId, IscsiName, NetworkName, NicName, OpId, PeerName, SnapshotName, TokenError, Uuid,
    VolumeName,
};
pub use wire::{Malformed, Object, decode, encode, path};

/// The version of the protocol these types describe.
pub const VERSION: u16 = 1;
