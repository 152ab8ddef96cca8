//! What the appliance says of itself: status, capabilities, problems, figures.

use super::{age, follow, items, number, state, text};
use crate::advice;
use crate::api::Api;
use crate::arguments::Dry;
use crate::failure::{Exit, Failure, Outcome, Problem};
use crate::plain;
use crate::screen::{Screen, Tint};
use crate::table::{Cell, Table, facts};
use management_api::DrainRequest;
use management_http::Method;
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
            ("state disk", state(&text(&about, "/state/disk"))),
            ("", Cell::tinted(text(&about, "/state/detail"), Tint::Warn)),
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
    let document = api.get("/v1/capabilities")?;
    let screen = api.screen;
    let hypervisors = items(&document, "/hypervisors");
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["HYPERVISOR", "VERSION", "VERB", "SUPPORT", "BY"]);
    for hypervisor in hypervisors {
        let facilities = items(hypervisor, "/facilities").iter().map(|one| ("/facility", one));
        let verbs = items(hypervisor, "/capabilities").iter().map(|one| ("/verb", one));
        for (name, one) in verbs.chain(facilities) {
            table.row(vec![
                text(hypervisor, "/name").into(),
                text(hypervisor, "/version").into(),
                text(one, name).into(),
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

/// The host.
pub(super) fn host(api: &mut Api<'_>) -> Outcome<Exit> {
    let document = api.get("/v1/hosts/self")?;
    show_host(api.screen, &document);
    Ok(Exit::Done)
}

/// Let it take no new instances, or take them again.
pub(super) fn drain(api: &mut Api<'_>, drain: bool, dry: Dry) -> Outcome<Exit> {
    let body = super::order::json(&DrainRequest { drain })?;
    let place = (Method::Post, "/v1/hosts/self:drain");
    let document = follow::change(api, place, &[], Some(&body), ("asking", dry))?;
    show_host(api.screen, &document);
    let so = document.pointer("/drain").and_then(Value::as_bool) == Some(drain);
    let what = if drain { "no new instances" } else { "new instances" };
    let what = if so { format!("it takes {what} already") } else { format!("it would take {what}") };
    follow::would_be(api.screen, dry, &what);
    Ok(Exit::Done)
}

fn show_host(screen: &Screen, host: &Value) {
    if screen.is_json() {
        screen.document(host);
        return;
    }
    let gauge = |name: &str| {
        let (used, limit) =
            (text(host, &format!("/capacity/{name}/used")), text(host, &format!("/capacity/{name}/limit")));
        if limit.is_empty() { used } else { format!("{used} of {limit}") }
    };
    let instances = match text(host, "/drain").as_str() {
        "yes" => Cell::tinted("no: it is being drained", Tint::Warn),
        _ => Cell::tinted("yes", Tint::Good),
    };
    facts(
        screen,
        &[
            ("host", text(host, "/id").into()),
            ("takes new instances", instances),
            ("agent", super::state(&text(host, "/agent/state"))),
            ("reason", text(host, "/agent/reason").into()),
            ("hypervisors", hypervisors(host).into()),
            ("targets", gauge("targets").into()),
            ("operations remembered", gauge("operations").into()),
        ],
    );
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
