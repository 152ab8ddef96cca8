//! The appliance killed while commands that came by its API are carried out: it keeps its promises on its own disk, so who
//! asks again under the same client token hears what became of the first, and nothing is done twice.

use crate::crashes::{
    At, Sent, Victim, at_most_once, frozen, is_not_done, moments, prepare, terminate, the_state_is_true,
};
use crate::native::{runs, signal};
use crate::parent::{LIMIT, Parent};
use crate::steps::{all_places, await_hold, places, rounds};
use agent_protocol::{Backend, OpId, Outcome, Verb};
use image_launch::api::{self, Answer};
use image_launch::process::Process;
use image_launch::{Result, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How an operation may end.
const ENDS: &[&str] = &["succeeded", "refused", "failed", "expired", "indeterminate"];

/// How long a request is waited for, in seconds: nearly all are answered at once, and others are asked again.
const PATIENCE: u32 = 2;

/// One command of a round, the request for it, and the operation, if the first one was answered with one.
struct Asked {
    sent: Sent,
    path: String,
    body: Value,
    operation: Option<String>,
}

/// Kills the appliance, as by pulling its plug, and starts it anew with the same disk.
pub(crate) fn kills(parent: &mut Parent, backend: &Backend) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for (round, moment) in moments().into_iter().enumerate() {
        let mut asked = ready(parent, backend, At::Moments, &format!("appliance-{round}"));
        at_a_moment(parent, &mut asked, moment);
        for one in &asked {
            *told.entry(judge(parent, one)).or_default() += 1;
        }
    }
    println!("{}, appliance killed at moments: {told:?}", backend.name.as_str());
    told.clear();
    parent.kill_agent();
    parent.start_agent_that_obeys();
    let mut hit = BTreeSet::new();
    for round in 0..rounds() {
        let asked = ready(parent, backend, At::Places, &format!("appliance-steps-{round}"));
        let places = places(asked.iter().map(|one| one.sent.case), round);
        for (one, place) in asked.iter().zip(places) {
            at_a_place(parent, one, place);
            hit.insert(place);
            *told.entry(judge(parent, one)).or_default() += 1;
        }
    }
    println!("{}, appliance killed with the agent at {hit:?}: {told:?}", backend.name.as_str());
    all_places(&hit);
}

fn ready(parent: &Parent, backend: &Backend, at: At, round: &str) -> Vec<Asked> {
    let targets = api::ask(&parent.stage.net, "GET", "/v1/targets", None).unwrap();
    let asked = |sent| {
        let (path, body) = request(&sent, targets.text("/targets/0/id"));
        Asked { sent, path, body, operation: None }
    };
    prepare(parent, backend, at, round).into_iter().map(asked).collect()
}

/// Asks for all of it, and kills meanwhile.
fn at_a_moment(parent: &mut Parent, asked: &mut [Asked], moment: Duration) {
    let victim = parent.stage.appliance.process().pid();
    let host = &*parent;
    std::thread::scope(|scope| {
        let began = Instant::now();
        for one in asked {
            scope.spawn(|| one.operation = operation(send(host, &one.path, &one.body)));
        }
        // A request takes curl some time to begin.
        std::thread::sleep((moment * 2).saturating_sub(began.elapsed()));
        if runs(victim) {
            signal(victim, Signal::KILL);
        }
    });
    parent.stage.crash().unwrap();
}

/// Asks for one, and kills while the agent is held at that place. Who asked hears nothing of it.
fn at_a_place(parent: &mut Parent, one: &Asked, place: &str) {
    let victim = parent.stage.appliance.process().pid();
    parent.order(&format!("{place} hold"));
    let curl = api::request(&parent.stage.net, "POST", &one.path, Some(&one.body), PATIENCE);
    let mut asking = Process::start("curl", curl, &parent.stage.scratch.file("curl.log")).unwrap();
    await_hold(parent, place, || false);
    signal(victim, Signal::KILL);
    signal(parent.agent(), Signal::CONT);
    asking.kill();
    parent.stage.crash().unwrap();
}

fn operation(answer: Result<Answer>) -> Option<String> {
    answer.ok().map(|answer| answer.text("/id").to_string())
}

/// Asks the API for it.
fn send(parent: &Parent, path: &str, body: &Value) -> Result<Answer> {
    api::ask_within(&parent.stage.net, "POST", path, Some(body), PATIENCE)
}

/// A command as the API has it, under a token that names it.
fn request(one: &Sent, target: &str) -> (String, Value) {
    let token = format!("token-{}", one.id);
    if one.case.verb == Verb::Create {
        let body = json!({ "id": one.id, "image": "deaf", "start": true, "client_token": token });
        return ("/v1/instances".into(), body);
    }
    // What the agent's protocol has beside the verb is its arguments, with a few exceptions.
    let args = match (one.case.verb, serde_json::to_value(&one.command.action).unwrap()) {
        (Verb::ForceStop, _) => json!({}),
        (Verb::VolumeAttach, _) => json!({ "target": target, "volume": "data" }),
        (Verb::NicAttach, action) => action["nic"].clone(),
        (Verb::Resize, action) => action["size"].clone(),
        (_, mut action) => {
            action.as_object_mut().unwrap().remove("verb");
            action
        }
    };
    let body = json!({ "verb": one.case.verb, "args": args, "client_token": token });
    (format!("/v1/instances/{}/commands", one.id), body)
}

/// The operation as it has come meanwhile.
fn look(parent: &Parent, operation: &str) -> Result<Answer> {
    api::ask(&parent.stage.net, "GET", &format!("/v1/operations/{operation}"), None)
}

/// Asks again as a client does, until the operation has ended; holds what is told against what was done.
fn judge(parent: &Parent, one: &Asked) -> String {
    let sent = &one.sent;
    let mut last = None;
    let ended = wait::until(format!("the end of the operation on {}", sent.id), LIMIT, || {
        let Ok(answer) = send(parent, &one.path, &one.body) else { return Ok(None) };
        if let Some(first) = one.operation.as_deref().filter(|id| !id.is_empty())
            && answer.status < 400
        {
            assert_eq!(
                answer.text("/id"),
                first,
                "{}: the same token is the same operation: {answer:?}",
                sent.id
            );
        }
        // What has failed is told as a problem that names the operation.
        let failed = answer.text("/instance").strip_prefix("/v1/operations/");
        let answer = match (answer.text("/state"), failed) {
            ("accepted" | "sent" | "running", _) => look(parent, answer.text("/id"))?,
            (_, Some(operation)) => look(parent, operation)?,
            _ => answer,
        };
        let state = answer.text("/state").to_string();
        last = Some(answer.clone());
        // Nobody knows only if the agent does not, which may be asked anew at any moment.
        if state == "indeterminate" && !is_unknown_to_the_agent(parent, &answer) {
            return Ok(None);
        }
        Ok(ENDS.contains(&state.as_str()).then_some(state).or_else(|| is_late(&answer)))
    });
    let state = ended.unwrap_or_else(|error| {
        panic!("{error}: {last:?}\n{}\n{}", parent.log(), parent.stage.appliance.console())
    });
    at_most_once(parent, sent, &format!("{last:?}"));
    let times = sent.times(parent);
    let ends = matches!(sent.case.verb, Verb::ForceStop | Verb::Terminate | Verb::Stop);
    match state.as_str() {
        "succeeded" => assert!(times == 1 || ends, "{}: told as done, and it was not: {last:?}", sent.id),
        word if word.starts_with("refused") || word == "expired" => {
            assert_eq!(times, 0, "{}: {state}, and it was done: {last:?}", sent.id);
        }
        "failed" => {
            let last = last.expect("it is of an answer");
            let asked = ["guest-ignored", "guest-did-not-release"]
                .iter()
                .any(|kind| last.text("/error/type").ends_with(kind));
            is_not_done(parent, sent, Victim::Agent, asked, &format!("{last:?}"));
        }
        _ => {
            assert_eq!(state, "indeterminate", "{}", sent.id);
            frozen(parent, sent);
        }
    }
    the_state_is_true(parent, &sent.id);
    terminate(parent, &sent.id);
    state
}

/// Whether the agent itself cannot tell what became of an operation.
fn is_unknown_to_the_agent(parent: &Parent, operation: &Answer) -> bool {
    let op_id: OpId = operation.text("/id").parse().expect("an operation");
    matches!(parent.recall(&op_id), Some(Outcome::Indeterminate { .. }))
}

/// A command that was not sent in time is told as a problem and not as an operation. No other problem lasts.
fn is_late(answer: &Answer) -> Option<String> {
    if answer.text("/type").ends_with(":deadline-passed") {
        return Some("expired".into());
    }
    let retryable = answer.body.pointer("/retryable").and_then(Value::as_bool).unwrap_or_default();
    let problem = answer.media.starts_with("application/problem+json") && (400..500).contains(&answer.status);
    assert!(!problem || retryable, "{answer:?}");
    None
}
