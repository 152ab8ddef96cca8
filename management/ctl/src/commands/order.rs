//! A command as the API takes it.

use crate::api;
use crate::arguments::Terms;
use crate::failure::Outcome;
use agent_protocol::{Action, InstanceId, Precondition};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// One command to one instance.
pub(super) struct Order {
    pub(super) instance: InstanceId,
    pub(super) action: Action,
}

/// What is the same for all commands of one command line.
pub(super) struct Envelope<'a> {
    terms: &'a Terms,
    token: String,
}

impl<'a> Envelope<'a> {
    pub(super) fn new(terms: &'a Terms) -> Outcome<Self> {
        let token = match &terms.token {
            Some(token) => token.clone(),
            None => api::token()?,
        };
        Ok(Self { terms, token })
    }

    /// The same for one of several: each has a name of its own.
    pub(super) fn numbered(&self, index: usize) -> Self {
        Self { terms: self.terms, token: format!("{}.{index}", self.token) }
    }

    /// The name of the request.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Where `order` is sent to.
    pub(super) fn path(&self, order: &Order) -> String {
        let query = if self.terms.dry_run { "?dry_run=true" } else { "" };
        match order.action {
            Action::Create { .. } => format!("/v1/instances{query}"),
            _ => format!("/v1/instances/{}/commands{query}", order.instance),
        }
    }

    /// The body that says it.
    pub(super) fn body(&self, order: &Order) -> Value {
        let mut body = document(order);
        body.insert("client_token".into(), self.token.as_str().into());
        if let Some(deadline) = self.terms.deadline {
            body.insert("deadline_ms".into(), milliseconds(deadline).into());
        }
        let precondition =
            Precondition { uuid: None, generation: self.terms.if_generation, state: self.terms.if_state };
        if !precondition.is_empty() {
            body.insert("precondition".into(), json!(precondition));
        }
        Value::Object(body)
    }
}

/// `{verb, args}` of the very type that the agent is asked with; `create` has its arguments beside the name.
fn document(order: &Order) -> Map<String, Value> {
    let mut arguments = match json!(order.action) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let verb = arguments.remove("verb").unwrap_or_default();
    if let Action::Create { .. } = order.action {
        arguments.insert("id".into(), order.instance.as_str().into());
        return arguments;
    }
    if let Action::Stop { graceful: false, .. } = order.action {
        arguments.retain(|name, _| name == "graceful");
    }
    let mut body = Map::new();
    body.insert("verb".into(), verb);
    if !arguments.is_empty() {
        body.insert("args".into(), Value::Object(arguments));
    }
    body
}

/// As the API counts time.
pub(super) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
