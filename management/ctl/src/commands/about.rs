//! What the appliance says of itself: status, capabilities, problems, figures.

use super::{age, items, number, state, text};
use crate::advice;
use crate::api::Api;
use crate::failure::{Exit, Failure, Outcome, Problem};
use crate::plain;
use crate::screen::Tint;
use crate::table::{Cell, Table, facts};
use serde_json::{Value, json};

/// `GET /v1` and `GET /readyz` in one view.
pub(super) fn status(api: &mut Api<'_>) -> Outcome<Exit> {
    let about = api.get("/v1")?;
    let (status, ready) = api.any("/readyz")?;
    let exit = if status == 200 { Exit::Done } else { Exit::Failed };
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&json!({ "about": about, "readiness": ready }));
        return Ok(exit);
    }
    let readiness = match exit {
        Exit::Done => Cell::tinted("yes", Tint::Good),
        _ => Cell::tinted(not_ready(&ready), Tint::Bad),
    };
    let agent = match (text(&about, "/agent/state"), text(&about, "/agent/reason")) {
        (state, reason) if reason.is_empty() => super::state(&state),
        (state, reason) => Cell::tinted(format!("{state}: {reason}"), Tint::Bad),
    };
    facts(
        screen,
        &[
            ("appliance", text(&about, "/name").into()),
            ("version", text(&about, "/version").into()),
            ("ready", readiness),
            ("up", age(&about, "/clock_ms").into()),
            ("boot", text(&about, "/boot").into()),
            ("authentication", text(&about, "/authentication").into()),
            ("you are", text(&about, "/principal").into()),
            ("agent", agent),
            ("agent version", text(&about, "/agent/version").into()),
            ("agent boot", text(&about, "/agent/boot").into()),
            ("epoch", text(&about, "/agent/epoch").into()),
            ("hypervisors", hypervisors(&about).into()),
        ],
    );
    Ok(exit)
}

/// Why it is not ready, out of whatever the appliance says.
fn not_ready(ready: &Value) -> String {
    let reasons: Vec<String> = ["/reason", "/agent/reason", "/detail", "/agent/state"]
        .iter()
        .map(|pointer| text(ready, pointer))
        .filter(|reason| !reason.is_empty())
        .collect();
    reasons.first().map_or_else(|| "no".into(), |reason| format!("no: {reason}"))
}

fn hypervisors(about: &Value) -> String {
    let names = items(about, "/agent/hypervisors").iter();
    let names: Vec<String> =
        names.map(|one| format!("{} {}", text(one, "/name"), text(one, "/version"))).collect();
    names.join(", ")
}

/// What each hypervisor can do, and how.
pub(super) fn capabilities(api: &mut Api<'_>) -> Outcome<Exit> {
    let about = api.get("/v1")?;
    let screen = api.screen;
    let hypervisors = items(&about, "/agent/hypervisors");
    if screen.is_json() {
        screen.document(&json!({ "hypervisors": hypervisors }));
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["HYPERVISOR", "VERSION", "VERB", "SUPPORT", "BY"]);
    for hypervisor in hypervisors {
        for one in items(hypervisor, "/capabilities") {
            table.row(vec![
                text(hypervisor, "/name").into(),
                text(hypervisor, "/version").into(),
                text(one, "/verb").into(),
                state(&text(one, "/support")),
                text(one, "/by").into(),
            ]);
        }
    }
    if table.is_empty() {
        screen.note("no hypervisor: the agent has not been heard yet");
    } else {
        table.print(screen);
    }
    Ok(Exit::Done)
}

/// The catalogue of problems, with our advice.
pub(super) fn problems(api: &mut Api<'_>) -> Outcome<Exit> {
    let catalogue = api.get("/v1/problems")?;
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&catalogue);
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["PROBLEM", "STATUS", "TITLE", "WHAT TO DO"]);
    for entry in items(&catalogue, "/problems") {
        let name = Problem::of(entry.clone()).map(|problem| problem.name).unwrap_or_default();
        table.row(vec![
            name.as_str().into(),
            number(entry, "/status").map(|status| status.to_string()).unwrap_or_default().into(),
            text(entry, "/title").into(),
            advice::of(&name).unwrap_or_default().into(),
        ]);
    }
    table.print(screen);
    Ok(Exit::Done)
}

/// The figures, as they are.
pub(super) fn metrics(api: &mut Api<'_>) -> Outcome<Exit> {
    let (status, figures) = api.text("/v1/metrics")?;
    if status != 200 {
        let problem = serde_json::from_str(&figures).ok().and_then(Problem::of);
        let nonsense = || Failure::Nonsense(format!("the answer makes no sense: status {status}"));
        return Err(problem.map_or_else(nonsense, |problem| Failure::Problem(Box::new(problem))));
    }
    api.screen.put(&plain::lines(&figures));
    Ok(Exit::Done)
}
