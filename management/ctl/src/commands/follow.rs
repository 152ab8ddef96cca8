//! A command on its way: sent, waited for, reported.

use super::operations;
use super::order::{Envelope, Order};
use super::text;
use crate::advice;
use crate::api::Api;
use crate::arguments::Terms;
use crate::failure::{Exit, Failure, Outcome};
use crate::progress::Progress;
use management_http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two looks at an operation, at first and at most.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(2);

/// Send one command and report what became of it.
pub(super) fn one(api: &mut Api<'_>, order: &Order, envelope: &Envelope<'_>, terms: &Terms) -> Outcome<Exit> {
    api.screen.detail(&format!("client token {}", envelope.token()));
    let operation = send(api, order, envelope)?;
    if terms.dry_run {
        return Ok(would(api, order, &operation));
    }
    let operation = match terms.wait {
        Some(limit) => wait(api, operation, limit)?,
        None => operation,
    };
    report(api, &operation, terms.wait.is_some());
    if api.screen.is_json() {
        api.screen.document(&operation);
    }
    Ok(exit(&operation, terms.wait.is_some()))
}

fn send(api: &mut Api<'_>, order: &Order, envelope: &Envelope<'_>) -> Outcome<Value> {
    let label = format!("{} {}", order.action.verb(), order.instance);
    let sent = api.send(Method::Post, &envelope.path(order), Some(&envelope.body(order)), &label);
    let again = |what: String| {
        let advice = format!(
            "nobody knows whether it was done. Say the same again with --token {}: it is not done twice, and you are \
             told what became of it.",
            envelope.token()
        );
        Failure::Lost(what, advice)
    };
    sent.map_err(|failure| match failure {
        Failure::Lost(what, _) => again(what),
        Failure::Interrupted => again("interrupted before the answer".into()),
        other => other,
    })
}

/// What a dry run has found.
fn would(api: &Api<'_>, order: &Order, answer: &Value) -> Exit {
    if api.screen.is_json() {
        api.screen.document(answer);
    } else {
        api.screen.say(&format!("{}: {} would be done; nothing was", order.instance, order.action.verb()));
    }
    Exit::Done
}

/// Send several commands, and report each.
pub(super) fn several(
    api: &mut Api<'_>,
    orders: &[Order],
    envelope: &Envelope<'_>,
    terms: &Terms,
) -> Outcome<Exit> {
    let mut worst = Exit::Done;
    let mut results = Vec::new();
    for (index, order) in orders.iter().enumerate() {
        let envelope = envelope.numbered(index);
        let sent = send(api, order, &envelope).and_then(|operation| match terms.wait {
            Some(limit) if !terms.dry_run => wait(api, operation, limit),
            _ => Ok(operation),
        });
        let ended = match sent {
            Ok(operation) => {
                report(api, &operation, terms.wait.is_some());
                let exit = exit(&operation, terms.wait.is_some());
                results.push(json!({ "instance": order.instance, "operation": operation }));
                exit
            }
            Err(Failure::Problem(problem)) => {
                let words = format!("{}: {}", order.instance, problem.words());
                api.screen.error(&words, advice::of(&problem.name));
                let exit = problem.exit();
                results.push(json!({ "instance": order.instance, "problem": problem.document }));
                exit
            }
            Err(other) => return Err(other),
        };
        worst = worst.max(ended);
    }
    if api.screen.is_json() {
        api.screen.document(&json!({ "results": results }));
    }
    Ok(worst)
}

/// Look at an operation until it has ended, at most for `limit`.
pub(super) fn wait(api: &mut Api<'_>, operation: Value, limit: Option<Duration>) -> Outcome<Value> {
    let screen = api.screen;
    api.interrupt.hold();
    let mut progress = Progress::new(screen, "");
    let mut operation = operation;
    let mut pause = SOON;
    while is_open(&operation) {
        let (verb, name) = (text(&operation, "/verb"), text(&operation, "/instance"));
        progress.label(format!("{verb} {name}: {}", text(&operation, "/state")));
        if limit.is_some_and(|limit| progress.elapsed() >= limit) {
            break;
        }
        let until = progress.elapsed() + limit.map_or(pause, |limit| pause.min(limit));
        while progress.elapsed() < until && !api.interrupt.is_set() {
            progress.tick();
            api.interrupt.sleep(Duration::from_millis(50));
        }
        pause = (pause * 2).min(LATER);
        let path = format!("/v1/operations/{}", text(&operation, "/id"));
        operation = match api.get_showing(&path, &mut progress) {
            Err(Failure::Interrupted) => {
                progress.clear();
                screen.note(&operations::hint(&operation));
                return Err(Failure::Said(Exit::Unknown));
            }
            other => other?,
        };
    }
    Ok(operation)
}

fn is_open(operation: &Value) -> bool {
    matches!(text(operation, "/state").as_str(), "accepted" | "sent" | "running")
}

/// The exit code of an operation; one that goes on is unknown to somebody who has waited for its end.
pub(super) fn exit(operation: &Value, waited: bool) -> Exit {
    match text(operation, "/state").as_str() {
        "succeeded" => Exit::Done,
        "accepted" | "sent" | "running" if !waited => Exit::Done,
        "accepted" | "sent" | "running" | "indeterminate" => Exit::Unknown,
        _ => Exit::Failed,
    }
}

/// Say what became of an operation, and what to do when that is not what was asked for.
fn report(api: &Api<'_>, operation: &Value, waited: bool) {
    let screen = api.screen;
    if !screen.is_json() {
        screen.say(&operations::line(screen, operation));
    }
    for evidence in super::items(operation, "/evidence") {
        screen.detail(&format!("evidence: {}", text(evidence, "")));
    }
    if let Some(problem) = operations::problem(operation) {
        screen.error(&problem.words(), advice::of(&problem.name));
    }
    if is_open(operation) {
        let still = if waited { "waited long enough; " } else { "" };
        screen.note(&format!("{still}{}", operations::hint(operation)));
    }
}
