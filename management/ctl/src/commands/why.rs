//! One view of all that explains the state of an instance, for somebody who has just been woken up.

use super::events::{self, Listener};
use super::{instances, items, operations, text};
use crate::advice;
use crate::api::Api;
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::Tint;
use agent_protocol::InstanceId;
use serde_json::{Value, json};

/// So many operations and events of it are shown.
const LATEST: usize = 5;

/// The instance, its last operations and events, and what to do now.
pub(super) fn run(api: &mut Api<'_>, name: &InstanceId) -> Outcome<Exit> {
    let instance = match api.get(&format!("/v1/instances/{name}")) {
        // One that is gone has a past all the same.
        Err(Failure::Problem(problem)) => Err(problem),
        other => Ok(other?),
    };
    let mut past = api.list("/v1/operations", "operations", usize::MAX)?;
    let past = past.get_mut("operations").map(Value::take).unwrap_or_default();
    let of_it = |operation: &&Value| text(operation, "/instance") == name.as_str();
    let past: Vec<Value> = items(&past, "").iter().filter(of_it).take(LATEST).cloned().collect();
    let mut listener = Listener::new(api, None)?;
    let happened = happened(api, &mut listener, name)?;
    let screen = api.screen;
    if screen.is_json() {
        let (instance, problem) = match &instance {
            Ok(instance) => (instance.clone(), Value::Null),
            Err(problem) => (Value::Null, problem.document.clone()),
        };
        let all = json!({ "instance": instance, "problem": problem, "operations": past, "events": happened });
        screen.document(&all);
        return Ok(Exit::Done);
    }
    match &instance {
        Ok(instance) => instances::describe(screen, instance),
        Err(problem) => screen.error(&problem.words(), advice::of(&problem.name)),
    }
    let heading = |words: &str| screen.say(&format!("\n{}", screen.tint(Tint::Head, words)));
    if !past.is_empty() {
        heading("Last operations");
        let clock = operations::clock(api)?;
        operations::table(&past, clock).print(api.screen);
    }
    if !happened.is_empty() {
        heading("Last events");
        for event in &happened {
            screen.say(&events::line(screen, event, listener.clock));
        }
    }
    let next = next(instance.as_ref().ok(), &past);
    if !next.is_empty() {
        heading("What to do");
        for line in next {
            screen.say(&line);
        }
    }
    Ok(Exit::Done)
}

/// Its latest events, the oldest first.
fn happened(api: &mut Api<'_>, listener: &mut Listener, name: &InstanceId) -> Outcome<Vec<Value>> {
    let mut happened: Vec<Value> = Vec::new();
    loop {
        let page = match listener.next(api, false) {
            // Who may not read events, or asks an appliance that has none, is told the rest.
            Err(Failure::Problem(_)) => return Ok(happened),
            other => other?,
        };
        let events = items(&page, "/events");
        if events.is_empty() {
            return Ok(happened);
        }
        happened.extend(events.iter().filter(|event| text(event, "/object") == name.as_str()).cloned());
        let surplus = happened.len().saturating_sub(LATEST);
        happened.drain(..surplus);
    }
}

/// Sentences on what the state asks for, and what the last operation's problem does.
fn next(instance: Option<&Value>, past: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(instance) = instance {
        let name = text(instance, "/id");
        let by_state = match text(instance, "/state").as_str() {
            "unknown" => format!(
                "its hypervisor does not answer, and nobody knows whether it runs. It may come back by itself; \
                 `corbelctl terminate {name}` ends it in any case."
            ),
            "failed" => format!(
                "it ended by a fault; the reason stands above. `corbelctl start {name}` runs it again, and its console is \
                 with the agent on the host."
            ),
            "stopping" => format!(
                "the guest was asked to shut down and has not yet. `corbelctl stop {name} --force --timeout 0` cuts its \
                 power."
            ),
            "paused" => format!("`corbelctl resume {name}` lets it go on."),
            "saved" => format!("`corbelctl restore {name}` lets it go on."),
            "stopped" => format!("`corbelctl start {name}` runs it."),
            _ => String::new(),
        };
        lines.extend(Some(by_state).filter(|words| !words.is_empty()));
    }
    if let Some(latest) = past.first() {
        let verb = text(latest, "/verb");
        match (operations::problem(latest), text(latest, "/state").as_str()) {
            (Some(problem), _) => {
                let advice = advice::of(&problem.name).unwrap_or("look at the reason that it gives.");
                lines.push(format!("the last {verb} ended with {}: {advice}", problem.name));
            }
            (None, "accepted" | "sent" | "running") => lines.push(operations::hint(latest)),
            _ => {}
        }
    }
    lines
}
