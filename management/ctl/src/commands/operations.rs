//! Operations: every command that was given, and what became of it.

use super::{follow, number, state, text};
use crate::api::Api;
use crate::arguments::{Dry, Operation, Operations};
use crate::failure::{Exit, Outcome, Problem};
use crate::screen::{Screen, Tint};
use crate::span;
use crate::table::{Table, facts};
use agent_protocol::OpId;
use management_http::Method;
use serde_json::Value;

/// The latest first.
pub(super) fn list(api: &mut Api<'_>, options: &Operations) -> Outcome<Exit> {
    // To find those of one instance all have to be looked at.
    let most = if options.instance.is_some() { usize::MAX } else { options.limit };
    let mut document = api.list("/v1/operations", "operations", most)?;
    if let Some(list) = document.get_mut("operations").and_then(Value::as_array_mut) {
        if let Some(name) = &options.instance {
            list.retain(|operation| text(operation, "/instance") == name.as_str());
        }
        list.truncate(options.limit);
    }
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let clock = clock(api)?;
    let table = table(super::items(&document, "/operations"), clock);
    if table.is_empty() {
        screen.note("no operations");
    } else {
        table.print(screen);
    }
    Ok(Exit::Done)
}

/// The appliance's clock, on which operations have their times.
pub(super) fn clock(api: &mut Api<'_>) -> Outcome<Option<u64>> {
    Ok(number(&api.get("/v1")?, "/clock_ms"))
}

pub(super) fn table(operations: &[Value], clock: Option<u64>) -> Table {
    let mut table =
        Table::new(&["OPERATION", "INSTANCE", "VERB", "STATE", "AGO", "TOOK", "CHANGED", "PROBLEM"]);
    for one in operations {
        let accepted = number(one, "/accepted_ms");
        let since = |end: Option<u64>| {
            end.zip(accepted).map(|(end, begin)| span::show(end.saturating_sub(begin))).unwrap_or_default()
        };
        table.row(vec![
            text(one, "/id").into(),
            text(one, "/instance").into(),
            text(one, "/verb").into(),
            state(&text(one, "/state")),
            since(clock.filter(|clock| accepted.is_some_and(|accepted| accepted <= *clock))).into(),
            since(number(one, "/ended_ms")).into(),
            text(one, "/changed").into(),
            problem(one).map(|problem| problem.words()).unwrap_or_default().into(),
        ]);
    }
    table
}

/// Why an operation did not succeed.
pub(super) fn problem(operation: &Value) -> Option<Problem> {
    operation.get("error").or_else(|| operation.get("problem")).cloned().and_then(Problem::of)
}

/// One operation, perhaps when it has ended.
pub(super) fn show(api: &mut Api<'_>, options: &Operation) -> Outcome<Exit> {
    let mut operation = api.get(&format!("/v1/operations/{}", options.id))?;
    if let Some(limit) = options.wait {
        operation = follow::wait(api, operation, limit)?;
    }
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&operation);
    } else {
        describe(screen, &operation);
        if let Some(problem) = problem(&operation) {
            screen.error(&problem.words(), crate::advice::of(&problem.name));
        }
    }
    Ok(follow::exit(&operation, options.wait.is_some()))
}

/// Call one off that nobody was asked to carry out yet.
pub(super) fn cancel(api: &mut Api<'_>, id: &OpId, dry: Dry) -> Outcome<Exit> {
    let place = (Method::Post, format!("/v1/operations/{id}:cancel"));
    let operation = follow::change(api, (place.0, &place.1), &[], None, ("calling it off", dry))?;
    follow::would_be(api.screen, dry, &format!("{id}: would be called off"));
    if api.screen.is_json() {
        api.screen.document(&operation);
    } else if !dry.dry_run {
        api.screen.say(&line(api.screen, &operation));
    }
    Ok(Exit::Done)
}

fn describe(screen: &Screen, one: &Value) {
    let changed = match text(one, "/changed") {
        no if no == "no" => "no, it was so already".into(),
        other => other,
    };
    let took = number(one, "/ended_ms").zip(number(one, "/accepted_ms"));
    let took = took.map(|(end, begin)| format!("{} ms", end.saturating_sub(begin))).unwrap_or_default();
    facts(
        screen,
        &[
            ("operation", text(one, "/id").into()),
            ("instance", text(one, "/instance").into()),
            ("verb", text(one, "/verb").into()),
            ("state", state(&text(one, "/state"))),
            ("changed", changed.into()),
            ("took", took.into()),
            ("by", text(one, "/principal").into()),
            ("token", text(one, "/client_token").into()),
            ("now", super::state(&text(one, "/result/state"))),
        ],
    );
    for evidence in super::items(one, "/evidence") {
        screen.say(&format!("  {}", screen.tint(Tint::Faint, &text(evidence, ""))));
    }
}

/// One line about it.
pub(super) fn line(screen: &Screen, one: &Value) -> String {
    let mut line = format!("{}: {} ", text(one, "/instance"), text(one, "/verb"));
    let name = text(one, "/state");
    line += &screen.tint(tint(&name), &name);
    if text(one, "/changed") == "no" {
        line += ", nothing had to be done";
    }
    let now = text(one, "/result/state");
    if !now.is_empty() {
        line += &format!("; it is {now}");
    }
    line
}

fn tint(state: &str) -> Tint {
    match state {
        "succeeded" => Tint::Good,
        "cancelled" => Tint::Faint,
        "accepted" | "sent" | "running" => Tint::Warn,
        _ => Tint::Bad,
    }
}

/// Its name as a cell of a remark.
pub(super) fn hint(operation: &Value) -> String {
    format!("it goes on: corbelctl operation {} --wait", text(operation, "/id"))
}
