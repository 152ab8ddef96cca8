//! Commands on their way: sent, waited for, reported.

use super::operations;
use super::order::{Envelope, Order, json};
use super::text;
use crate::advice;
use crate::api::Api;
use crate::arguments::{Dry, Terms};
use crate::failure::{Exit, Failure, Outcome, Problem};
use crate::progress::Progress;
use crate::screen::Screen;
use management_api::{BATCH_MAX, BatchRequest};
use management_http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How long the appliance may hold an answer back until an operation has ended.
const HELD: Duration = Duration::from_secs(25);
/// Between two looks, when it does not.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an appliance may be away while somebody waits: one that is reset is back in a second, and remembers.
const AWAY: Duration = Duration::from_secs(60);

/// What to do when the appliance cannot tell what became of an operation that it has made.
const UNKNOWN: &str =
    "nobody knows whether it was done: look by `corbelctl instance NAME` before you say it again.";

/// Send one command and report what became of it.
pub(super) fn one(api: &mut Api<'_>, order: &Order, envelope: &Envelope<'_>, terms: &Terms) -> Outcome<Exit> {
    api.screen.detail(&format!("client token {}", envelope.token()));
    let label = format!("{} {}", order.verb(), order.instance);
    let sent = api.send(Method::Post, &envelope.path(order), Some(&envelope.body(order)?), &label);
    if terms.dry_run {
        let forecast = sent.map_err(unasked)?;
        would(api, order, &forecast);
        return Ok(Exit::Done);
    }
    let operation = sent.map_err(|failure| judged(api, unless_lost(failure, envelope, false)))?;
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

/// The exit code of a problem that was the answer to a command: what the agent has answered, or the operation that was
/// made and is forgotten, would have told what became of it.
fn fate(problem: &Problem) -> Exit {
    match problem.name.as_str() {
        "agent-nonsense" | "unknown-operation" => Exit::Unknown,
        _ => problem.exit(),
    }
}

/// A failure of all that was sent, said with the exit code that it has there.
fn judged(api: &Api<'_>, failure: Failure) -> Failure {
    match failure {
        Failure::Problem(problem) => {
            let exit = fate(&problem);
            Failure::Problem(problem).report(api.screen);
            Failure::Said(exit)
        }
        other => other,
    }
}

/// What to do when nobody knows what became of a request: say the same again. `begun` when something of it was done
/// before: then an appliance that cannot be reached any more leaves that open as well.
fn unless_lost(failure: Failure, envelope: &Envelope<'_>, begun: bool) -> Failure {
    let what = match failure {
        Failure::Lost(what, _) | Failure::Nonsense(what) => what,
        Failure::Interrupted => "interrupted before the answer".into(),
        Failure::Unreachable(what, _) if begun => what,
        other => return other,
    };
    let advice = format!(
        "nobody knows whether it was done. Say the same again with --token {}: it is not done twice, and you are told \
         what became of it.",
        envelope.token()
    );
    Failure::Lost(what, advice)
}

/// A forecast that was lost leaves nothing open: nothing was to be done.
pub(super) fn unasked(failure: Failure) -> Failure {
    match failure {
        Failure::Lost(what, _) => Failure::Unreachable(what, "nothing was changed by asking; try again."),
        other => other,
    }
}

/// Send a change, or only ask whether it would be done; the path has no query yet.
pub(super) fn change(
    api: &mut Api<'_>,
    (method, path): (Method, &str),
    query: &[String],
    body: Option<&Value>,
    (label, dry): (&str, Dry),
) -> Outcome<Value> {
    let asked = dry.dry_run.then(|| "dry_run=true".to_string());
    let query: Vec<String> = query.iter().cloned().chain(asked).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let answer = api.send(method, &format!("{path}{mark}{}", query.join("&")), body, label);
    if dry.dry_run { answer.map_err(unasked) } else { answer }
}

/// Say what a dry run has found, if it was one and is not told as a document.
pub(super) fn would_be(screen: &Screen, dry: Dry, what: &str) {
    if dry.dry_run && !screen.is_json() {
        screen.say(&format!("{what} (dry run: nothing was done)"));
    }
}

/// What a dry run has found.
fn would(api: &Api<'_>, order: &Order, forecast: &Value) {
    if api.screen.is_json() {
        api.screen.document(forecast);
        return;
    }
    let what = match text(forecast, "/would_change").as_str() {
        "no" => "would be done, and there would be nothing to do",
        "yes" => "would be done",
        _ => "would be tried",
    };
    let now = text(forecast, "/current/state");
    let now = if now.is_empty() { now } else { format!("; it is {now}") };
    api.screen.say(&format!("{}: {} {what}{now} (dry run: nothing was done)", order.instance, order.verb()));
}

/// Send several commands, and report each.
pub(super) fn several(
    api: &mut Api<'_>,
    orders: &[Order],
    envelope: &Envelope<'_>,
    terms: &Terms,
) -> Outcome<Exit> {
    if terms.dry_run {
        return would_all(api, orders, envelope);
    }
    api.screen.detail(&format!("client token {}, and the number of each", envelope.token()));
    let mut results: Vec<Value> = Vec::new();
    let sent = match send_all(api, orders, envelope, &mut results) {
        // As with a single command.
        Err(failure) if results.is_empty() => return Err(judged(api, failure)),
        sent => sent,
    };
    // What came before a failure is told first, as it stands; nobody waits for it.
    let mut limit = terms.wait.filter(|_| sent.is_ok());
    let mut worst = Exit::Done;
    for (order, result) in orders.iter().zip(&mut results) {
        worst = worst.max(match told(api, order, result, limit) {
            Ok(exit) => exit,
            Err(failure) => {
                limit = None;
                complain(api, &failure)
            }
        });
    }
    if api.screen.is_json() {
        api.screen.document(&json!({ "results": results }));
    }
    if let Err(failure) = sent {
        worst = worst.max(complain(api, &failure));
        let (said, all) = (results.len(), orders.len());
        api.screen.note(&format!("of {all} instances, the last {} have no result", all - said));
    }
    Ok(worst)
}

/// Say a failure beside results, which with `--json` are the one document.
fn complain(api: &Api<'_>, failure: &Failure) -> Exit {
    if let Failure::Problem(problem) = failure {
        api.screen.error(&problem.words(), advice::of(&problem.name));
        return fate(problem);
    }
    failure.report(api.screen);
    failure.exit()
}

/// Send all, and add what each has become to `results`, until one fails.
fn send_all(
    api: &mut Api<'_>,
    orders: &[Order],
    envelope: &Envelope<'_>,
    results: &mut Vec<Value>,
) -> Outcome<()> {
    for chunk in orders.chunks(BATCH_MAX) {
        let begin = results.len();
        let commands = chunk.iter().enumerate().map(|(index, order)| envelope.element(order, begin + index));
        let body = json(&BatchRequest { commands: commands.collect::<Outcome<_>>()? })?;
        let label = format!("{} {} instances", chunk[0].verb(), orders.len());
        let answer = api.send(Method::Post, "/v1/commands", Some(&body), &label);
        let mut answer = match answer {
            // An appliance that is older than batches.
            Err(Failure::Problem(problem))
                if matches!(&*problem.name, "not-found" | "method-not-allowed") =>
            {
                one_by_one(api, chunk, envelope, results)?;
                continue;
            }
            other => other.map_err(|failure| unless_lost(failure, envelope, begin > 0))?,
        };
        match answer.get_mut("results").map(Value::take) {
            Some(Value::Array(some)) if some.len() == chunk.len() => results.extend(some),
            _ => {
                let what = "the answer makes no sense: it has not one result a command";
                return Err(unless_lost(Failure::Nonsense(what.into()), envelope, true));
            }
        }
    }
    Ok(())
}

/// The results of a batch, of an appliance that has none.
fn one_by_one(
    api: &mut Api<'_>,
    orders: &[Order],
    envelope: &Envelope<'_>,
    results: &mut Vec<Value>,
) -> Outcome<()> {
    for order in orders {
        let numbered = envelope.numbered(results.len());
        let label = format!("{} {}", order.verb(), order.instance);
        let sent = api.send(Method::Post, &numbered.path(order), Some(&numbered.body(order)?), &label);
        results.push(match sent {
            Ok(operation) => json!({ "instance": order.instance, "operation": operation }),
            Err(Failure::Problem(problem)) => {
                json!({ "instance": order.instance, "problem": problem.document })
            }
            // The same call with the same token numbers the same instances alike.
            Err(other) => return Err(unless_lost(other, envelope, !results.is_empty())),
        });
    }
    Ok(())
}

/// A forecast for each; a batch has none.
fn would_all(api: &mut Api<'_>, orders: &[Order], envelope: &Envelope<'_>) -> Outcome<Exit> {
    let mut worst = Exit::Done;
    for order in orders {
        let label = format!("{} {}", order.verb(), order.instance);
        match api.send(Method::Post, &envelope.path(order), Some(&envelope.body(order)?), &label) {
            Ok(forecast) => would(api, order, &forecast),
            Err(Failure::Problem(problem)) => {
                let words = format!("{}: {}", order.instance, problem.words());
                api.screen.error(&words, advice::of(&problem.name));
                worst = worst.max(problem.exit());
            }
            Err(other) => return Err(unasked(other)),
        }
    }
    Ok(worst)
}

/// Wait for one of several, if that is wanted, and report it.
fn told(
    api: &mut Api<'_>,
    order: &Order,
    result: &mut Value,
    limit: Option<Option<Duration>>,
) -> Outcome<Exit> {
    if let Some(problem) = result.get("problem").cloned().and_then(Problem::of) {
        let words = format!("{}: {}", order.instance, problem.words());
        api.screen.error(&words, advice::of(&problem.name));
        return Ok(fate(&problem));
    }
    let Some(operation) = result.get_mut("operation") else {
        let what =
            format!("{}: the answer makes no sense: there is neither operation nor problem", order.instance);
        return Err(Failure::Lost(what, UNKNOWN.into()));
    };
    if let Some(limit) = limit {
        *operation = wait(api, operation.clone(), limit)?;
    }
    report(api, operation, limit.is_some());
    Ok(exit(operation, limit.is_some()))
}

/// Look at an operation until it has ended, at most for `limit`.
pub(super) fn wait(api: &mut Api<'_>, operation: Value, limit: Option<Duration>) -> Outcome<Value> {
    let screen = api.screen;
    api.interrupt.hold();
    let mut progress = Progress::new(screen, "");
    let mut operation = operation;
    let mut heard = progress.elapsed();
    while is_open(&operation) {
        let (verb, name) = (text(&operation, "/verb"), text(&operation, "/instance"));
        progress.label(format!("{verb} {name}: {}", text(&operation, "/state")));
        let began = progress.elapsed();
        let left = limit.map_or(HELD, |limit| limit.saturating_sub(began)).min(HELD);
        if left.is_zero() {
            break;
        }
        let seconds = left.as_millis().div_ceil(1000);
        let path = format!("/v1/operations/{}?wait={seconds}s", text(&operation, "/id"));
        operation = match api.get_showing(&path, &mut progress) {
            Ok(operation) => operation,
            Err(Failure::Unreachable(..)) if progress.elapsed() - heard < AWAY && !api.interrupt.is_set() => {
                progress.label(format!("{verb} {name}: the appliance does not answer"));
                api.interrupt.sleep(PAUSE * 5);
                progress.tick();
                continue;
            }
            Err(failure @ (Failure::Interrupted | Failure::Unreachable(..))) => {
                progress.clear();
                failure.report(screen);
                screen.note(&operations::hint(&operation));
                return Err(Failure::Said(Exit::Unknown));
            }
            Err(Failure::Problem(problem)) => {
                let lost = format!("{verb} {name}: {}", problem.words());
                return Err(Failure::Lost(lost, UNKNOWN.into()));
            }
            Err(Failure::Nonsense(what)) => {
                return Err(Failure::Lost(format!("{verb} {name}: {what}"), UNKNOWN.into()));
            }
            Err(other) => return Err(other),
        };
        heard = progress.elapsed();
        // An answer that was not held back is not asked for again at once.
        while progress.elapsed() < began + PAUSE && is_open(&operation) {
            api.interrupt.sleep(PAUSE / 4);
            progress.tick();
        }
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
