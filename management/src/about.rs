//! What the appliance says of itself and of its host.

use crate::Management;
use crate::ask::LinkState;
use agent_protocol::{Object, Text, Welcome, encode};
use management_api::{
    AboutView, AgentState, AgentView, BATCH_MAX, Capabilities, Capacity, Gauge, HostView, LimitsView,
    ReadyView, StateDisk, StateView, VERSION,
};
use management_http::{Limits, Response};

fn state(management: &Management) -> StateView {
    let (disk, detail) = match (&management.state, management.state_failed.get()) {
        (None, _) => {
            (StateDisk::None, Some("What is to be remembered is forgotten when the appliance is reset."))
        }
        (Some(_), true) => {
            (StateDisk::Failed, Some("The state disk does not take what is to be remembered."))
        }
        (Some(_), false) => (StateDisk::Kept, None),
    };
    StateView { disk, detail: detail.map(Text::new) }
}

fn agent(state: &LinkState, welcome: Option<&Welcome>) -> AgentView {
    let (state, reason) = match state {
        LinkState::NotConfigured => (AgentState::NotConfigured, None),
        LinkState::Connecting => (AgentState::Connecting, None),
        LinkState::Up => (AgentState::Up, None),
        LinkState::Down(reason) => (AgentState::Down, Some(Text::new(reason))),
        LinkState::Superseded => (AgentState::Superseded, None),
    };
    AgentView {
        state,
        reason,
        version: welcome.map(|welcome| welcome.version.clone()),
        boot: welcome.map(|welcome| welcome.agent_boot),
        epoch: welcome.map(|welcome| welcome.epoch),
        hypervisors: welcome.map(|welcome| welcome.backends.clone()).unwrap_or_default(),
    }
}

/// `GET /v1`
pub(crate) fn about(management: &Management) -> Response {
    let limits = Limits::SERVER;
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let about = AboutView {
        name: "corbel".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        api_versions: [VERSION.into()].into(),
        boot: management.configuration.boot,
        clock_ms: management.clock.now().as_micros() / 1000,
        authentication: management.configuration.door.authentication().into(),
        agent: management.forward.with_welcome(|welcome| agent(&management.forward.state(), welcome)),
        state: state(management),
        limits: LimitsView {
            request_line_bytes: wide(limits.first_line),
            header_fields: wide(limits.fields),
            header_bytes: wide(limits.field_bytes),
            body_bytes: wide(limits.body),
            batch_commands: wide(BATCH_MAX),
        },
    };
    Response::json(200, encode(&about))
}

/// `GET /readyz`: ready when every part that is configured can do its work.
pub(crate) fn ready(management: &Management) -> Response {
    let certificate = management.configuration.door.certificate(&management.clock);
    let valid = management.configuration.door.is_ready(&management.clock);
    let link = management.forward.state();
    let is_linked = matches!(link, LinkState::Up | LinkState::NotConfigured);
    let ready = is_linked && !management.state_failed.get() && valid;
    let view = ReadyView { ready, agent: agent(&link, None), state: state(management), certificate };
    Response::json(if ready { 200 } else { 503 }, encode(&view))
}

/// `GET /v1/hosts/self`
pub(crate) fn host(management: &Management) -> Response {
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let operations = management.operations.borrow().iter().count();
    let view = HostView {
        id: "self".into(),
        agent: management.forward.with_welcome(|welcome| agent(&management.forward.state(), welcome)),
        capacity: Capacity {
            targets: Gauge { used: wide(management.targets.list().len()), limit: None },
            operations: Gauge {
                used: wide(operations),
                limit: Some(wide(management.configuration.operations)),
            },
        },
        drain: management.drain.get(),
    };
    Response::json(200, encode(&view))
}

/// `GET /v1/capabilities`; `None` before the agent was ever greeted.
pub(crate) fn capabilities(management: &Management) -> Option<Response> {
    let backends = management.forward.with_welcome(|welcome| Some(welcome?.backends.clone()))?;
    let hypervisors = backends.into_iter().map(Object).collect();
    Some(Response::json(200, encode(&Capabilities { hypervisors })))
}
