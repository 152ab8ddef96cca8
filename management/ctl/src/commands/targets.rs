//! Targets: the disks that the appliance offers.

use super::order::json;
use super::{bytes, follow, items, listed, number, state, text};
use crate::api::Api;
use crate::arguments::{Expose, TargetAction};
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::Screen;
use crate::table::{Table, facts};
use agent_protocol::Object;
use management_api::{AccessDocument, PolicyDocument, TargetDocument};
use management_http::Method;
use serde_json::Value;

/// Larger is no list of accounts.
const CHAP_LIMIT: u64 = 64 << 10;

pub(super) fn run(api: &mut Api<'_>, action: Option<&TargetAction>) -> Outcome<Exit> {
    match action {
        None | Some(TargetAction::List) => list(api),
        Some(TargetAction::Show(target)) => {
            let document = api.get(&format!("/v1/targets/{}", target.id))?;
            show(api.screen, &document);
            Ok(Exit::Done)
        }
        Some(TargetAction::Expose(expose)) => self::expose(api, expose),
        Some(TargetAction::Withdraw { target, grace, dry }) => {
            let query: Vec<String> = grace.iter().map(|grace| format!("grace={}", grace.as_secs())).collect();
            let (path, label) = (format!("/v1/targets/{}", target.id), format!("withdrawing {}", target.id));
            let left = follow::change(api, (Method::Delete, &path), &query, None, (&label, *dry))?;
            if dry.dry_run && !api.screen.is_json() {
                let sessions = match number(&left, "/sessions") {
                    Some(0) | None => String::new(),
                    Some(sessions) => {
                        format!("; sessions whose initiators would be asked to log out: {sessions}")
                    }
                };
                follow::would_be(api.screen, *dry, &format!("{}: would be withdrawn{sessions}", target.id));
            } else if api.screen.is_json() {
                api.screen.document(&left);
            } else if left.is_null() {
                api.screen.say(&format!("{}: withdrawn", target.id));
            } else {
                let sessions = text(&left, "/sessions");
                api.screen.say(&format!(
                    "{}: its initiators are asked to log out; sessions: {sessions}",
                    target.id
                ));
            }
            Ok(Exit::Done)
        }
    }
}

fn list(api: &mut Api<'_>) -> Outcome<Exit> {
    let document = api.list("/v1/targets", "targets", usize::MAX)?;
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        "TARGET", "STATE", "SIZE", "SESSIONS", "LUN", "ACCESS", "IQN", "VOLUME", "APPLIED", "REASON",
    ]);
    for one in items(&document, "/targets") {
        table.row(vec![
            text(one, "/id").into(),
            state(&text(one, "/state")),
            number(one, "/size_bytes").map(bytes).unwrap_or_default().into(),
            text(one, "/sessions").into(),
            text(one, "/lun").into(),
            access(one).into(),
            text(one, "/iqn").into(),
            text(one, "/volume").into(),
            applied(one).into(),
            text(one, "/reason").into(),
        ]);
    }
    if table.is_empty() {
        screen.note("no targets");
    } else {
        table.print(screen);
    }
    Ok(Exit::Done)
}

/// Whether storage has it as it is wanted, and if not in what it differs; empty where nothing else is wanted.
fn applied(target: &Value) -> String {
    match text(target, "/desired/applied").as_str() {
        "no" => {
            let (fields, why) = (listed(target, "/desired/difference"), text(target, "/desired/problem"));
            let words = [fields, why];
            let words: Vec<String> = words.into_iter().filter(|words| !words.is_empty()).collect();
            format!("no: {}", words.join("; "))
        }
        other => other.into(),
    }
}

fn access(target: &Value) -> String {
    let mut words = Vec::new();
    if text(target, "/read_only") == "yes" {
        words.push("read only".to_string());
    }
    if text(target, "/chap") == "yes" {
        words.push("CHAP".to_string());
    }
    let way = text(target, "/access");
    if !way.is_empty() {
        words.push(way);
    }
    words.join(", ")
}

fn show(screen: &Screen, one: &Value) {
    if screen.is_json() {
        screen.document(one);
        return;
    }
    facts(
        screen,
        &[
            ("target", text(one, "/id").into()),
            ("state", state(&text(one, "/state"))),
            ("reason", text(one, "/reason").into()),
            ("size", number(one, "/size_bytes").map(bytes).unwrap_or_default().into()),
            ("iqn", text(one, "/iqn").into()),
            ("lun", text(one, "/lun").into()),
            ("volume", text(one, "/volume").into()),
            ("initiators", listed(one, "/initiators").into()),
            ("sessions", text(one, "/sessions").into()),
            ("access", access(one).into()),
            ("generation", text(one, "/desired/generation").into()),
            ("applied", applied(one).into()),
            ("outlives a restart", text(one, "/desired/durable").into()),
            ("policy", text(one, "/policy").into()),
        ],
    );
}

fn expose(api: &mut Api<'_>, expose: &Expose) -> Outcome<Exit> {
    let policy =
        PolicyDocument { iops: expose.iops, bandwidth: expose.bandwidth, ..PolicyDocument::default() };
    let document = TargetDocument {
        generation: expose.generation,
        iqn: expose.iqn.as_str().into(),
        lun: expose.lun,
        volume: expose.volume.clone(),
        initiators: expose.initiators.clone(),
        chap: expose.chap.as_deref().map(accounts).transpose()?.map(Object),
        read_only: expose.read_only,
        removable: expose.removable,
        access: expose.access,
        policy: Some(Object(policy)).filter(|Object(policy)| *policy != PolicyDocument::default()),
    };
    let id = &expose.target.id;
    let (path, label) = (format!("/v1/targets/{id}"), format!("exposing {id}"));
    let body = json(&document)?;
    let shown = follow::change(api, (Method::Put, &path), &[], Some(&body), (&label, expose.dry))?;
    show(api.screen, &shown);
    follow::would_be(api.screen, expose.dry, &format!("{id}: this is how it would be"));
    Ok(Exit::Done)
}

fn accounts(file: &std::path::Path) -> Outcome<AccessDocument> {
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| here(&error))?.len();
    if length > CHAP_LIMIT {
        return Err(here(&format!("it has {length} bytes, more than {CHAP_LIMIT}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| here(&error))?;
    serde_json::from_str(&text).map_err(|error| here(&error))
}
