//! The appliance killed while commands that came by its API are carried out: it keeps its promises on its own disk, so who
//! asks again under the same client token hears what became of the first, and nothing is done twice.

use crate::cells::{action, is_impossible, reach_for};
use crate::crashes::{COMMANDS, moments};
use crate::native::{runs, signal};
use crate::parent::{LIMIT, Parent};
use agent_protocol::{Action, Backend, Outcome, Refusal, State, Verb};
use image_launch::api::{self, Answer};
use image_launch::{Result, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// How an operation may end.
const ENDS: &[&str] = &["succeeded", "refused", "failed", "expired", "indeterminate"];

/// One command of a round.
struct Asked {
    id: String,
    verb: Verb,
    effect: &'static str,
    uuid: String,
    before: usize,
    /// The operation, if the first request was answered with one.
    operation: Option<String>,
}

/// Kills the appliance at every moment, as by pulling its plug, and starts it anew with the same disk.
pub(crate) fn rounds(parent: &mut Parent, backend: &Backend) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for (round, moment) in moments().into_iter().enumerate() {
        let mut asked = prepare(parent, backend, round);
        let victim = parent.stage.appliance.process().pid();
        let host = &*parent;
        std::thread::scope(|scope| {
            let began = Instant::now();
            for one in &mut asked {
                scope.spawn(|| {
                    let answer = send(host, one);
                    one.operation = answer.ok().map(|answer| answer.text("/id").to_string());
                });
            }
            // A request takes curl some time to begin.
            std::thread::sleep((moment * 2).saturating_sub(began.elapsed()));
            if runs(victim) {
                signal(victim, Signal::KILL);
            }
        });
        parent.stage.crash().unwrap();
        for one in &asked {
            *told.entry(judge(parent, one)).or_default() += 1;
        }
    }
    println!("{}, appliance killed: {told:?}", backend.name.as_str());
}

fn prepare(parent: &Parent, backend: &Backend, round: usize) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (verb, state, effect) in COMMANDS {
        if is_impossible(backend, *verb) || (*state == State::Saved && is_impossible(backend, Verb::Save)) {
            continue;
        }
        let id = format!("appliance-{round}-{verb}").replace('.', "-");
        reach_for(parent, &id, *verb, Some(*state));
        let uuid = parent.find(&id).unwrap().uuid.to_string();
        let before = parent.native.calls(&uuid, effect);
        asked.push(Asked { id, verb: *verb, effect, uuid, before, operation: None });
    }
    asked
}

/// Asks the API for it, under a token that names it.
fn send(parent: &Parent, one: &Asked) -> Result<Answer> {
    let path = format!("/v1/instances/{}/commands", one.id);
    api::ask(&parent.stage.net, "POST", &path, Some(&body(one)))
}

/// The operation as it has come meanwhile.
fn look(parent: &Parent, operation: &str) -> Result<Answer> {
    api::ask(&parent.stage.net, "GET", &format!("/v1/operations/{operation}"), None)
}

/// A command as the API has it: what the agent's protocol has beside the verb is its arguments.
fn body(one: &Asked) -> Value {
    let Value::Object(mut args) = serde_json::to_value(action(one.verb)).unwrap() else {
        unreachable!("an object")
    };
    let verb = args.remove("verb").unwrap();
    json!({ "verb": verb, "args": args, "client_token": format!("token-{}", one.id) })
}

/// Asks again as a client does, until the operation has ended; holds what is told against what was done.
fn judge(parent: &Parent, one: &Asked) -> String {
    let mut last = None;
    let ended = wait::until(format!("the end of the operation on {}", one.id), LIMIT, || {
        let Ok(answer) = send(parent, one) else { return Ok(None) };
        if let Some(first) = one.operation.as_deref().filter(|id| !id.is_empty())
            && answer.status < 500
        {
            assert_eq!(
                answer.text("/id"),
                first,
                "{}: the same token is the same operation: {answer:?}",
                one.id
            );
        }
        let answer = match answer.text("/state") {
            "accepted" | "sent" | "running" => look(parent, answer.text("/id"))?,
            _ => answer,
        };
        let state = answer.text("/state").to_string();
        last = Some(answer.clone());
        Ok(ENDS.contains(&state.as_str()).then_some(state).or_else(|| refusal(&answer)))
    });
    let state = ended.unwrap_or_else(|error| {
        panic!("{error}: {last:?}\n{}\n{}", parent.log(), parent.stage.appliance.console())
    });
    let times = parent.native.calls(&one.uuid, one.effect) - one.before;
    assert!(times <= 1, "{}: {} was done {times} times; {last:?}\n{}", one.id, one.effect, parent.log());
    let ends = matches!(one.verb, Verb::ForceStop | Verb::Terminate | Verb::Stop);
    match state.as_str() {
        "succeeded" => assert!(times == 1 || ends, "{}: told as done, and it was not: {last:?}", one.id),
        word if word.starts_with("refused") || word == "expired" => {
            assert_eq!(times, 0, "{}: {state}, and it was done: {last:?}", one.id);
        }
        _ => {}
    }
    let outcome = parent.act(&one.id, Action::Terminate {});
    let gone = matches!(outcome, Outcome::Done { .. } | Outcome::Refused { code: Refusal::Terminated, .. });
    assert!(gone, "{}: {outcome:?}", one.id);
    state
}

/// A refusal that is told as a problem and not as an operation, and that trying again does not change.
fn refusal(answer: &Answer) -> Option<String> {
    if answer.text("/type").ends_with(":deadline-passed") {
        return Some("expired".into());
    }
    let retryable = answer.body.pointer("/retryable").and_then(Value::as_bool).unwrap_or_default();
    let problem = answer.media.starts_with("application/problem+json") && (400..500).contains(&answer.status);
    (problem && !retryable).then(|| format!("refused {}", answer.text("/type")))
}
