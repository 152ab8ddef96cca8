//! A command as the API takes it.

use crate::api;
use crate::arguments::Terms;
use crate::failure::{Failure, Outcome};
use agent_protocol::{ImageName, InstanceId, Object, Precondition, Size, Verb};
use management_api::{Arguments, BatchElement, ClientToken, CommandRequest, CreateRequest};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// One command to one instance.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) instance: InstanceId,
    pub(super) what: What,
}

/// What is to be done.
#[derive(Clone)]
pub(super) enum What {
    /// Make it.
    Create { image: ImageName, start: bool, size: Size },
    /// Something to one that is there.
    Command(Verb, Arguments),
}

impl Order {
    /// The verb.
    pub(super) fn verb(&self) -> Verb {
        match self.what {
            What::Create { .. } => Verb::Create,
            What::Command(verb, _) => verb,
        }
    }
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

    /// The name of the request.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// The same for one of several, which has a name of its own.
    pub(super) fn numbered(&self, index: usize) -> Self {
        Self { terms: self.terms, token: format!("{}.{index}", self.token) }
    }

    /// Where `order` is sent to.
    pub(super) fn path(&self, order: &Order) -> String {
        match order.what {
            What::Create { .. } => format!("/v1/instances{}", self.query()),
            What::Command(..) => format!("/v1/instances/{}/commands{}", order.instance, self.query()),
        }
    }

    fn query(&self) -> &'static str {
        if self.terms.dry_run { "?dry_run=true" } else { "" }
    }

    /// The body that says it.
    pub(super) fn body(&self, order: &Order) -> Outcome<Value> {
        let client_token = Some(named(&self.token)?);
        match &order.what {
            What::Create { image, start, size } => json(&CreateRequest {
                id: order.instance.clone(),
                image: image.clone(),
                start: Some(*start),
                size: Some(Object(*size)).filter(|Object(size)| !size.is_empty()),
                client_token,
                deadline_ms: self.deadline(),
            }),
            What::Command(verb, arguments) => json(&CommandRequest {
                verb: *verb,
                args: given(arguments),
                precondition: self.precondition(),
                client_token,
                deadline_ms: self.deadline(),
            }),
        }
    }

    /// The same as one of several, each of which has a name of its own.
    pub(super) fn element(&self, order: &Order, index: usize) -> Outcome<Object<BatchElement>> {
        let What::Command(verb, arguments) = &order.what else {
            return Err(Failure::Here("instances are made one by one".into()));
        };
        Ok(Object(BatchElement {
            instance: order.instance.clone(),
            verb: *verb,
            args: given(arguments),
            precondition: self.precondition(),
            client_token: Some(named(&self.numbered(index).token)?),
            deadline_ms: self.deadline(),
        }))
    }

    fn precondition(&self) -> Option<Object<Precondition>> {
        let Terms { if_uuid: uuid, if_generation: generation, if_state: state, .. } = *self.terms;
        Some(Precondition { uuid, generation, state }).filter(|condition| !condition.is_empty()).map(Object)
    }

    fn deadline(&self) -> Option<u32> {
        self.terms.deadline.map(milliseconds)
    }
}

fn given(arguments: &Arguments) -> Option<Object<Arguments>> {
    Some(Object(arguments.clone())).filter(|Object(arguments)| arguments.present() != 0)
}

fn named(token: &str) -> Outcome<ClientToken> {
    let advice = "choose a shorter --token: with several instances each adds its number to it.";
    token.parse().map_err(|error| Failure::Usage(format!("--token: {error}"), advice))
}

pub(super) fn json<T: Serialize>(document: &T) -> Outcome<Value> {
    serde_json::to_value(document).map_err(|error| Failure::Here(error.to_string()))
}

/// As the API counts time.
pub(super) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
