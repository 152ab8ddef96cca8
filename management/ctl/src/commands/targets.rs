//! Targets: the disks that the appliance offers.

use super::{bytes, items, listed, number, state, text};
use crate::api::Api;
use crate::arguments::{Expose, TargetAction};
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::Screen;
use crate::table::{Table, facts};
use management_http::Method;
use serde_json::{Value, json};

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
        Some(TargetAction::Withdraw { target, grace }) => {
            let query = grace.map(|grace| format!("?grace={}", grace.as_secs())).unwrap_or_default();
            let path = format!("/v1/targets/{}{query}", target.id);
            let left = api.send(Method::Delete, &path, None, &format!("withdrawing {}", target.id))?;
            if api.screen.is_json() {
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
    let document = api.get("/v1/targets")?;
    let screen = api.screen;
    if screen.is_json() {
        screen.document(&document);
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&["TARGET", "STATE", "SIZE", "SESSIONS", "LUN", "ACCESS", "IQN", "VOLUME", "REASON"]);
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
            ("policy", text(one, "/policy").into()),
        ],
    );
}

fn expose(api: &mut Api<'_>, expose: &Expose) -> Outcome<Exit> {
    let mut body = json!({
        "iqn": expose.iqn,
        "lun": expose.lun,
        "volume": expose.volume,
        "initiators": expose.initiators,
    });
    for (name, set) in [("read_only", expose.read_only), ("removable", expose.removable)] {
        if set {
            body[name] = true.into();
        }
    }
    if let Some(access) = &expose.access {
        body["access"] = access.as_str().into();
    }
    if let Some(file) = &expose.chap {
        body["chap"] = accounts(file)?;
    }
    if let Some(iops) = expose.iops {
        body["policy"]["iops"] = iops.into();
    }
    if let Some(bandwidth) = expose.bandwidth {
        body["policy"]["bandwidth"] = bandwidth.into();
    }
    let id = &expose.target.id;
    let document =
        api.send(Method::Put, &format!("/v1/targets/{id}"), Some(&body), &format!("exposing {id}"))?;
    show(api.screen, &document);
    Ok(Exit::Done)
}

fn accounts(file: &std::path::Path) -> Outcome<Value> {
    let here = |error: &dyn std::fmt::Display| Failure::Here(format!("{}: {error}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| here(&error))?.len();
    if length > CHAP_LIMIT {
        return Err(here(&format!("it has {length} bytes, more than {CHAP_LIMIT}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| here(&error))?;
    serde_json::from_str(&text).map_err(|error| here(&error))
}
