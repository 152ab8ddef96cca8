//! The provider-facing API as types and tables: what clients send, what they are shown, what can go wrong, and where
//! each request goes.
//!
//! The server parses with these types, clients speak with them, and the OpenAPI document in this folder is made of
//! them (feature `schema`); [`ENDPOINTS`] is the one table that all three go by.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod audit;
mod command;
mod endpoint;
mod event;
mod host;
mod instance;
mod keys;
mod network;
#[cfg(feature = "schema")]
pub mod openapi;
mod operation;
mod problem;
pub mod signature;
mod target;
mod token;

pub use command::{
    Arguments, BATCH_MAX, BatchElement, BatchRequest, BatchResult, BatchView, CommandRequest, CreateRequest,
    Forecast, Form, argument, form,
};
pub use endpoint::{ANY, CHANGE, Call, ENDPOINTS, Endpoint, Headers, Parameters, Right, find, methods};
pub use event::{ApiEvent, EventKind, EventPage};
pub use host::{
    AboutView, AgentState, AgentView, Capabilities, Capacity, DrainRequest, Gauge, HostView, LimitsView,
    ReadyView, StateDisk, StateView,
};
pub use instance::{ImageList, InstancePage, InstanceView};
pub use keys::{CertificateDocument, CertificateRequestView, CertificateView, EnrolRequest, KeysView};
pub use network::{NetworkApplied, NetworkCounters, NetworkDesired, NetworkDrops, NetworkPage, NetworkView};
pub use operation::{OperationPage, OperationState, OperationView};
pub use problem::{Catalogue, CatalogueEntry, Kind, Problem, ProblemDocument, catalogue};
pub use target::{
    Access, AccessDocument, AccountDocument, PolicyDocument, TargetDesired, TargetDocument, TargetPage,
    TargetView, VolumeState,
};
pub use token::{ClientToken, TargetId};

/// The version of this API, as the header field `api-version` and `GET /v1` tell it.
pub const VERSION: &str = "1";
