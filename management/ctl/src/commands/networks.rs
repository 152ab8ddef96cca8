//! Networks: the maps that say on which host each interface is.

use super::{follow, items, listed, text};
use crate::api::Api;
use crate::arguments::{Dry, NetworkAction, NetworkTerms};
use crate::failure::{Exit, Failure, Outcome};
use crate::progress::Progress;
use crate::screen::{Screen, Tint};
use crate::table::{Cell, Table, facts};
use agent_protocol::NetworkMap;
use management_http::Method;
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// What the appliance takes at most.
const MAP_LIMIT: u64 = 64 << 10;
/// Between two looks at whether it is in effect.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) fn run(api: &mut Api<'_>, action: Option<&NetworkAction>) -> Outcome<Exit> {
    match action {
        None | Some(NetworkAction::List) => list(api),
        Some(NetworkAction::Show(network)) => {
            let document = api.get(&place(network.id.as_str()))?;
            show(api.screen, &document);
            Ok(Exit::Done)
        }
        Some(NetworkAction::Apply { file, terms }) => apply(api, file, terms),
        Some(NetworkAction::Remove { network, terms }) => remove(api, network.id.as_str(), terms),
    }
}

fn place(id: &str) -> String {
    format!("/v1/networks/{id}/map")
}

fn list(api: &mut Api<'_>) -> Outcome<Exit> {
    let document = api.list("/v1/networks", "networks", usize::MAX)?;
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&["NETWORK", "VNI", "MTU", "INTERFACES", "GEN", "IN EFFECT", "DROPPED", "PROBLEM"]);
    for one in items(&document, "/networks") {
        table.row(vec![
            text(one, "/id").into(),
            text(one, "/desired/vni").into(),
            text(one, "/desired/mtu").into(),
            text(one, "/desired/endpoints").into(),
            text(one, "/desired/generation").into(),
            effect(one),
            text(one, "/applied/drops/unknown_destination").into(),
            listed(one, "/problems").into(),
        ]);
    }
    if table.is_empty() {
        screen.note("no networks");
    } else {
        table.print(screen);
    }
    Ok(Exit::Done)
}

/// Whether the host has it as it is wanted, and if not how it has it.
fn effect(network: &Value) -> Cell {
    let generation = text(network, "/applied/generation");
    let there = network.pointer("/applied").is_some();
    let words = match (is_settled(network), network.pointer("/desired").is_some()) {
        (true, _) => return Cell::tinted("yes", Tint::Good),
        (false, true) if !generation.is_empty() => format!("no: generation {generation}"),
        (false, true) => "no".into(),
        (false, false) if there => "not wanted, still there".into(),
        (false, false) => "not wanted".into(),
    };
    Cell::tinted(words, Tint::Warn)
}

fn is_settled(network: &Value) -> bool {
    items(network, "/difference").is_empty()
}

fn show(screen: &Screen, one: &Value) {
    if screen.is_json() {
        screen.document(one);
        return;
    }
    let age = super::age(one, "/applied/age_ms");
    facts(
        screen,
        &[
            ("network", text(one, "/id").into()),
            ("vni", text(one, "/desired/vni").into()),
            ("mtu", text(one, "/desired/mtu").into()),
            ("interfaces", text(one, "/desired/endpoints").into()),
            ("generation", text(one, "/desired/generation").into()),
            ("in effect", effect(one)),
            ("looked at", if age.is_empty() { age } else { format!("{age} ago") }.into()),
            ("problem", listed(one, "/problems").into()),
            ("dropped: unknown destination", text(one, "/applied/drops/unknown_destination").into()),
            ("outlives a restart", text(one, "/desired/durable").into()),
        ],
    );
    let endpoints = items(one, "/map/endpoints");
    if endpoints.is_empty() {
        return;
    }
    screen.say("");
    let mut table = Table::new(&["ADDRESS", "IP", "HOST"]);
    for endpoint in endpoints {
        table.row(["/mac", "/ip", "/underlay"].map(|member| text(endpoint, member).into()).into());
    }
    table.print(screen);
}

fn apply(api: &mut Api<'_>, file: &Path, terms: &NetworkTerms) -> Outcome<Exit> {
    let map = read(file)?;
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let body = serde_json::to_value(&map).map_err(|error| here(&error))?;
    let id = map.network.as_str();
    let (path, label, dry) = (place(id), format!("applying {id}"), Dry { dry_run: terms.dry_run });
    let answer = follow::change(api, (Method::Put, &path), &[], Some(&body), (&label, dry));
    let answer = answer.map_err(same_again)?;
    let words = |answer: &Value| match (terms.dry_run, is_settled(answer)) {
        (true, _) => "would be taken (dry run: nothing was done)",
        (false, true) => "is in effect",
        (false, false) => "is wanted",
    };
    let (answer, exit) = match terms.wait.filter(|_| !terms.dry_run) {
        Some(limit) => until(api, id, answer, limit, &|now| now.is_some_and(is_settled))?,
        None => (Some(answer), Exit::Done),
    };
    let answer = answer.unwrap_or_default();
    if api.screen.is_json() {
        api.screen.document(&answer);
    } else {
        api.screen.say(&format!("{id}: generation {} {}", map.generation, words(&answer)));
    }
    told(api.screen, &answer, terms, exit);
    Ok(exit)
}

fn remove(api: &mut Api<'_>, id: &str, terms: &NetworkTerms) -> Outcome<Exit> {
    let (path, label, dry) = (place(id), format!("removing {id}"), Dry { dry_run: terms.dry_run });
    let answer = follow::change(api, (Method::Delete, &path), &[], None, (&label, dry));
    let answer = answer.map_err(same_again)?;
    let (answer, exit) = match terms.wait.filter(|_| !terms.dry_run) {
        Some(limit) => until(api, id, answer, limit, &|now| now.is_none())?,
        None => (Some(answer), Exit::Done),
    };
    let words = match (&answer, terms.dry_run) {
        (_, true) => "would be removed (dry run: nothing was done)",
        (None, _) => "gone from the host",
        (Some(_), _) => "not wanted any more",
    };
    if api.screen.is_json() {
        api.screen.document(&answer.clone().unwrap_or_default());
    } else {
        api.screen.say(&format!("{id}: {words}"));
    }
    told(api.screen, &answer.unwrap_or_default(), terms, exit);
    Ok(exit)
}

/// Say what is in the way, and where to look.
fn told(screen: &Screen, answer: &Value, terms: &NetworkTerms, exit: Exit) {
    if terms.dry_run {
        return;
    }
    for problem in items(answer, "/problems") {
        screen.warn(&text(problem, ""));
    }
    if exit == Exit::Unknown {
        screen.note(
            "waited long enough; the appliance goes on with it: `corbelctl networks` tells how it stands",
        );
    }
}

/// Look at a network until it is as `is_over` wants it, at most for `limit`; how it is then, if it is there.
fn until(
    api: &mut Api<'_>,
    id: &str,
    answer: Value,
    limit: Option<Duration>,
    is_over: &dyn Fn(Option<&Value>) -> bool,
) -> Outcome<(Option<Value>, Exit)> {
    api.interrupt.hold();
    let mut progress = Progress::new(api.screen, format!("{id}: the host has it not yet"));
    let mut now = Some(answer);
    loop {
        if is_over(now.as_ref()) {
            return Ok((now, Exit::Done));
        }
        if api.interrupt.is_set() || limit.is_some_and(|limit| progress.elapsed() >= limit) {
            return Ok((now, Exit::Unknown));
        }
        api.interrupt.sleep(PAUSE);
        progress.tick();
        now = match api.get_showing(&place(id), &mut progress) {
            Ok(document) => Some(document),
            Err(Failure::Problem(problem)) if problem.name == "unknown-network" => None,
            // The appliance may be starting anew.
            Err(Failure::Unreachable(..)) => continue,
            // Or the link to the agent, which alone knows.
            Err(Failure::Problem(problem)) if problem.document["retryable"] == true => continue,
            Err(other) => return Err(other),
        };
    }
}

/// A request whose answer was lost says how a thing is to be.
fn same_again(failure: Failure) -> Failure {
    match failure {
        Failure::Lost(what, _) => Failure::Lost(
            what,
            "nobody knows whether it was taken; say the same again, it changes nothing more.".into(),
        ),
        other => other,
    }
}

fn read(file: &Path) -> Outcome<NetworkMap> {
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAP_LIMIT + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAP_LIMIT + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|error| here(&error))?;
    if u64::try_from(length).is_ok_and(|length| length > MAP_LIMIT) {
        return Err(here(&format!("it has more than {MAP_LIMIT} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| here(&error))
}
