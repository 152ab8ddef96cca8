//! The link to the agent in TLS, with keys that both ends have made themselves: what has another key commands nothing.

use crate::cut::{self, said};
use crate::fixture::{script, stage, target};
use image_launch::agent::{self, Agent, IMAGE};
use image_launch::api::{self, Answer};
use image_launch::disk::Server;
use image_launch::net::Wire;
use image_launch::stage::Stage;
use image_launch::{keys, wait};
use network_tls::Pin;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn the_appliance_commands_by_a_key_of_its_own_making_and_by_no_other_and_no_other_agent() {
    let [agents, stranger] = [(); 2].map(|()| keys::make().unwrap());
    let mut script = script(target(), 1 << 20, Server::QemuNbd);
    // Where it keeps the key.
    script.state = true;
    script.config = vec![
        ("agent".into(), std::net::SocketAddrV4::new(Wire::Host.here(), agent::PORT).to_string()),
        ("agent.pin".into(), agents.pin().to_string()),
    ];
    let (mut stage, _turn) = stage(&script);
    let own = key(&stage);
    keys::give(&Agent::folder(&stage.scratch), &agents).unwrap();

    start_agent(&mut stage, stranger.pin());
    is_cut(&stage, "TLS: the peer refuses: AccessDenied");
    refused(&stage, "is refused: the peer's certificate is not accepted: its key is not one");
    assert_eq!(guests(&stage), 0, "an appliance that is not known makes no machine");

    start_agent(&mut stage, own);
    cut::is_whole(&stage, LIMIT);
    let made = ask(&stage, "POST", "/v1/instances", Some(&create()));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(guests(&stage), 1);

    believe(&mut stage, stranger.pin());
    is_cut(&stage, "TLS: the peer's certificate is not accepted: its key is not one");
    refused(&stage, "is refused: the peer refuses: AccessDenied");
    assert_eq!(guests(&stage), 1, "an agent that is not known is told nothing");

    believe(&mut stage, agents.pin());
    assert_eq!(key(&stage), own, "it outlives a crash");
    cut::is_whole(&stage, LIMIT);
    let ended = ask(&stage, "POST", COMMANDS, Some(&terminate()));
    assert!(ended.succeeded(), "{ended:?}");
    assert_eq!(guests(&stage), 0);
}

const COMMANDS: &str = "/v1/instances/one/commands";

fn create() -> Value {
    json!({ "id": "one", "image": IMAGE, "start": true })
}

fn terminate() -> Value {
    json!({ "verb": "terminate" })
}

/// What the appliance says that its key is called, once it is kept.
fn key(stage: &Stage) -> Pin {
    let said = || Ok(keys::of_appliance(&stage.appliance.console()));
    wait::until("the appliance saying what its key is called", LIMIT, said).unwrap()
}

/// Starts the agent, which believes this key, in the place of the one that runs.
fn start_agent(stage: &mut Stage, pin: Pin) {
    stage.agent = None;
    let corbel = Path::new(env!("CARGO_BIN_EXE_corbel"));
    let agent = Agent::start_that_believes(pin, &stage.net, &stage.scratch, corbel).unwrap();
    stage.agent = Some(agent);
}

/// Starts the appliance anew, which believes the agent that has this key.
fn believe(stage: &mut Stage, pin: Pin) {
    stage.config.set("agent.pin", pin.to_string());
    stage.crash().unwrap();
}

fn guests(stage: &Stage) -> usize {
    stage.agent.as_ref().unwrap().guests().len()
}

fn ask(stage: &Stage, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let answer = api::ask(&stage.net, method, path, body).unwrap();
    println!("{method} {path}: {} {}", answer.status, answer.body);
    answer
}

/// The appliance says by these words why it does not reach the agent.
fn is_cut(stage: &Stage, words: &str) {
    cut::is_cut(stage, LIMIT, words, &[("/v1/instances", create()), (COMMANDS, terminate())]);
}

/// The agent has said these words.
fn refused(stage: &Stage, words: &str) {
    said(LIMIT, || fs::read_to_string(stage.scratch.file("agent.log")).unwrap_or_default(), words);
}
