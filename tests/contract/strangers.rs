//! Who is not the other end of the link: refused in words, in the logs of both and in the appliance's health, and nothing of
//! what it wants is done. And the link of development, where nobody proves anything and both say so.

use crate::cut::{self, said};
use crate::parent::{LIMIT, Parent};
use crate::states::{create, done};
use crate::way::{self, Lost};
use agent_protocol::{Action, State, path};
use image_launch::{api, keys};
use management_http::Method;
use network_tls::Pin;
use serde_json::json;

/// The agent believes another appliance, and the appliance another agent.
pub(crate) fn are_refused(parent: &mut Parent) {
    let uuid = done(parent.act("stays", create("deaf", true))).uuid.to_string();
    let before = parent.native.effects(&uuid);
    let stranger = keys::make().unwrap();
    callers(parent);

    parent.kill_agent();
    parent.start_agent_that_believes(stranger.pin());
    // A server is the first to know: it tells the peer by an alert.
    is_cut(parent, "TLS: the peer refuses: AccessDenied");
    said(LIMIT, || parent.log(), "is refused: the peer's certificate is not accepted: its key is not one");
    let own = parent.keys().unwrap().dialling();
    let looked = parent.request_as(Some(&own), (Method::Get, path::INVENTORY, None));
    assert!(matches!(looked, Err(Lost::Refused(_))), "{looked:?}");

    parent.kill_agent();
    parent.start_agent(&[]);
    is_whole(parent);
    assert_eq!(parent.native.effects(&uuid), before, "nobody had a say");
    command(parent, Action::Pause {});
    assert_eq!(parent.native.calls(&uuid, "stop"), 1);

    let before = parent.native.effects(&uuid);
    believe(parent, stranger.pin());
    is_cut(parent, "TLS: the peer's certificate is not accepted: its key is not one");
    said(LIMIT, || parent.log(), "is refused: the peer refuses: AccessDenied");
    assert_eq!(parent.native.effects(&uuid), before, "nobody was told anything");

    let pin = parent.keys().unwrap().agent.pin();
    believe(parent, pin);
    is_whole(parent);
    command(parent, Action::Resume {});
    assert_eq!(parent.find("stays").unwrap().state, State::Running);
    command(parent, Action::Terminate {});
    assert!(parent.native.running(&uuid).is_empty());
}

/// An agent and an appliance that ask for no keys say so, and do what they are told.
pub(crate) fn are_all_the_same_in_clear(parent: &Parent) {
    let uuid = done(parent.act("stays", create("deaf", true))).uuid.to_string();
    command(parent, Action::Terminate {});
    assert!(parent.native.running(&uuid).is_empty());
    said(LIMIT, || parent.log(), "WITHOUT AUTHENTICATION (--insecure)");
    said(LIMIT, || parent.stage.appliance.console(), "WITHOUT AUTHENTICATION (agent.insecure=yes)");
}

/// Whoever comes to the agent without the appliance's key, or without any, is told nothing and does nothing.
fn callers(parent: &Parent) {
    let terminate = agent_protocol::encode(&parent.command("stays", Action::Terminate {}));
    let order = (Method::Post, path::COMMAND, Some(terminate.as_slice()));
    let with_another = way::dialling(parent.keys().unwrap().agent.pin(), &keys::make().unwrap());
    for (who, dialling) in [("another key", Some(&with_another)), ("none", None)] {
        let outcome = parent.request_as(dialling, order);
        println!("who comes with {who}: {outcome:?}");
        assert!(outcome.is_err(), "{who}: {outcome:?}");
    }
    assert_eq!(parent.find("stays").unwrap().state, State::Running);
}

/// Starts the appliance anew, which believes the agent that has the key of this name.
fn believe(parent: &mut Parent, pin: Pin) {
    parent.stage.config.set("agent.pin", pin.to_string());
    parent.stage.crash().unwrap();
}

/// The appliance says by these words why it does not reach the agent, and nothing is done.
fn is_cut(parent: &Parent, words: &str) {
    let new = json!({ "id": "new", "image": "deaf", "start": true });
    let orders = [("/v1/instances", new), ("/v1/instances/stays/commands", json!({ "verb": "terminate" }))];
    cut::is_cut(&parent.stage, LIMIT, words, &orders);
    assert_eq!(parent.native.processes().len(), 1, "no machine was made, and none was ended");
}

/// The appliance reaches the agent again, and what was refused meanwhile is not done late.
fn is_whole(parent: &Parent) {
    cut::is_whole(&parent.stage, LIMIT);
    let all = parent.instances();
    assert_eq!(all.len(), 1, "{all:?}");
}

/// A command through the API, carried out.
fn command(parent: &Parent, action: Action) {
    let mut verb = serde_json::to_value(action).unwrap();
    let body = json!({ "verb": verb["verb"].take() });
    let answer = api::ask(&parent.stage.net, "POST", "/v1/instances/stays/commands", Some(&body)).unwrap();
    assert!(answer.succeeded(), "{answer:?}");
}
