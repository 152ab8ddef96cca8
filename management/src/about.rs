//! What the appliance says of itself.

use crate::Management;
use crate::ask::LinkState;
use agent_protocol::{Backend, Text, Uuid, Welcome, encode};
use alloc::string::String;
use management_api::CertificateView;
use management_http::{Limits, Response};
use serde::Serialize;

#[derive(Serialize)]
struct About<'a> {
    name: &'static str,
    version: &'static str,
    api_versions: [&'static str; 1],
    boot: Uuid,
    /// Milliseconds since it started: the clock of every time in this API.
    clock_ms: u64,
    /// How callers are told apart.
    authentication: &'static str,
    agent: AgentView<'a>,
    state: StateView,
    limits: LimitsView,
}

/// Where promises are kept.
#[derive(Serialize)]
struct StateView {
    /// `kept`, `none` or `failed`.
    disk: &'static str,
    /// What that means, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

impl StateView {
    fn new(management: &Management) -> Self {
        let (disk, detail) = match (&management.state, management.state_failed.get()) {
            (None, _) => {
                ("none", Some("Operations and client tokens are forgotten when the appliance is reset."))
            }
            (Some(_), true) => ("failed", Some("The state disk does not take what is to be remembered.")),
            (Some(_), false) => ("kept", None),
        };
        Self { disk, detail }
    }
}

#[derive(Serialize)]
struct AgentView<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "<[Backend]>::is_empty")]
    hypervisors: &'a [Backend],
}

impl<'a> AgentView<'a> {
    fn new(state: &LinkState, welcome: Option<&'a Welcome>) -> Self {
        let reason = if let LinkState::Down(reason) = state { Some(reason.clone()) } else { None };
        Self {
            state: state.as_str(),
            reason,
            version: welcome.map(|welcome| &welcome.version),
            boot: welcome.map(|welcome| welcome.agent_boot),
            epoch: welcome.map(|welcome| welcome.epoch),
            hypervisors: welcome.map(|welcome| &*welcome.backends).unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
struct LimitsView {
    request_line_bytes: usize,
    header_fields: usize,
    header_bytes: usize,
    body_bytes: usize,
}

/// `GET /v1`
pub(crate) fn about(management: &Management) -> Response {
    let limits = Limits::SERVER;
    management.forward.with_welcome(|welcome| {
        let about = About {
            name: "corbel",
            version: env!("CARGO_PKG_VERSION"),
            api_versions: ["1"],
            boot: management.configuration.boot,
            clock_ms: management.clock.now().as_micros() / 1000,
            authentication: management.configuration.door.authentication(),
            agent: AgentView::new(&management.forward.state(), welcome),
            state: StateView::new(management),
            limits: LimitsView {
                request_line_bytes: limits.first_line,
                header_fields: limits.fields,
                header_bytes: limits.field_bytes,
                body_bytes: limits.body,
            },
        };
        Response::json(200, encode(&about))
    })
}

/// `GET /readyz`: ready when every part that is configured can do its work.
pub(crate) fn ready(management: &Management) -> Response {
    #[derive(Serialize)]
    struct Ready<'a> {
        ready: bool,
        agent: AgentView<'a>,
        state: StateView,
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<CertificateView>,
    }
    let certificate = management.configuration.door.certificate(&management.clock);
    let valid = management.configuration.door.is_ready(&management.clock);
    let state = management.forward.state();
    let is_linked = matches!(state, LinkState::Up | LinkState::NotConfigured);
    let ready = is_linked && !management.state_failed.get() && valid;
    let agent = AgentView::new(&state, None);
    let body = encode(&Ready { ready, agent, state: StateView::new(management), certificate });
    Response::json(if ready { 200 } else { 503 }, body)
}
