//! Instances and images, as they are.

use super::{age, items, listed, number, state, text};
use crate::api::Api;
use crate::arguments::Instances;
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::{Screen, Tint};
use crate::table::{Cell, Table, facts};
use agent_protocol::InstanceId;
use serde_json::Value;
use std::time::Duration;

/// Between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// The list, once or again and again.
pub(super) fn list(api: &mut Api<'_>, options: &Instances) -> Outcome<Exit> {
    if options.watch {
        // The end of a watch is no failure.
        api.interrupt.hold();
    }
    let mut last = None;
    loop {
        let mut document = match api.list("/v1/instances", "instances", usize::MAX) {
            Err(Failure::Interrupted) if options.watch => return Ok(Exit::Done),
            other => other?,
        };
        if let Some(list) = document.get_mut("instances").and_then(Value::as_array_mut) {
            list.retain(|instance| is_wanted(instance, options));
        }
        let screen = api.screen;
        if !options.watch {
            print(screen, &document);
            return Ok(Exit::Done);
        }
        redraw(screen, &document, &mut last);
        if screen.is_gone() || !api.interrupt.sleep(WATCH) {
            return Ok(Exit::Done);
        }
    }
}

fn is_wanted(instance: &Value, options: &Instances) -> bool {
    let name = text(instance, "/state");
    if options.state.is_empty() {
        return options.all || name != "terminated";
    }
    options.state.iter().any(|state| state.as_str() == name)
}

fn print(screen: &Screen, document: &Value) {
    if screen.is_json() {
        screen.document(document);
        return;
    }
    let table = table(document);
    if table.is_empty() {
        screen.note("no instances");
    } else {
        table.print(screen);
    }
}

/// On a terminal the screen is drawn anew; elsewhere only what has changed is written.
fn redraw(screen: &Screen, document: &Value, last: &mut Option<Vec<String>>) {
    let names = items(document, "/instances").iter();
    let now = names.map(|one| format!("{} {}", text(one, "/id"), text(one, "/generation"))).collect();
    if screen.can_redraw() {
        // Home, and clear what is below: what was there before is still in the scrollback.
        let mut lines = table(document).lines(screen);
        lines.push(String::new());
        lines.push(screen.tint(Tint::Faint, "Ctrl-C ends this"));
        screen.put(&format!("\x1b[H\x1b[J{}\n", lines.join("\n")));
    } else if last.as_ref() != Some(&now) {
        if screen.is_json() {
            screen.record(document);
        } else {
            print(screen, document);
        }
    }
    *last = Some(now);
}

fn table(document: &Value) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "FOR",
        "IMAGE",
        "HYPERVISOR",
        "CPUS",
        "MEMORY",
        "DISKS",
        "NICS",
        "GEN",
        "REASON",
    ]);
    for one in items(document, "/instances") {
        table.row(vec![
            text(one, "/id").into(),
            state(&text(one, "/state")),
            age(one, "/state_age_ms").into(),
            text(one, "/image").into(),
            text(one, "/hypervisor").into(),
            text(one, "/size/cpus").into(),
            memory(one).into(),
            count(one, "/volumes").into(),
            count(one, "/nics").into(),
            text(one, "/generation").into(),
            text(one, "/reason").into(),
        ]);
    }
    table
}

fn memory(instance: &Value) -> String {
    number(instance, "/size/memory_mib").map(|mebibytes| super::bytes(mebibytes << 20)).unwrap_or_default()
}

fn count(instance: &Value, pointer: &str) -> String {
    match items(instance, pointer).len() {
        0 => String::new(),
        some => some.to_string(),
    }
}

/// One instance.
pub(super) fn show(api: &mut Api<'_>, name: &InstanceId) -> Outcome<Exit> {
    let instance = api.get(&format!("/v1/instances/{name}"))?;
    if api.screen.is_json() {
        api.screen.document(&instance);
    } else {
        describe(api.screen, &instance);
    }
    Ok(Exit::Done)
}

/// All that is known of one, in words.
pub(super) fn describe(screen: &Screen, one: &Value) {
    let when = |pointer: &str| match age(one, pointer) {
        age if age.is_empty() => age,
        age => format!("{age} ago"),
    };
    facts(
        screen,
        &[
            ("name", text(one, "/id").into()),
            ("state", state(&text(one, "/state"))),
            ("reason", Cell::tinted(text(one, "/reason"), Tint::Warn)),
            ("since", when("/state_age_ms").into()),
            ("looked at", when("/observed_age_ms").into()),
            ("image", text(one, "/image").into()),
            ("hypervisor", text(one, "/hypervisor").into()),
            ("cpus", text(one, "/size/cpus").into()),
            ("memory", memory(one).into()),
            ("generation", text(one, "/generation").into()),
            ("uuid", text(one, "/uuid").into()),
            ("initiator", text(one, "/initiator").into()),
            ("can", listed(one, "/allowed_actions").into()),
        ],
    );
    let mut disks = Table::new(&["DISK", "TARGET", "LUN", "READ ONLY", "ATTACHMENT"]);
    for disk in items(one, "/volumes") {
        disks.row(vec![
            text(disk, "/volume").into(),
            text(disk, "/iqn").into(),
            text(disk, "/lun").into(),
            text(disk, "/read_only").into(),
            text(disk, "/attachment").into(),
        ]);
    }
    let mut nics = Table::new(&["INTERFACE", "NETWORK", "ADDRESS", "LINK", "ATTACHMENT"]);
    for nic in items(one, "/nics") {
        nics.row(vec![
            text(nic, "/nic").into(),
            text(nic, "/network").into(),
            text(nic, "/mac").into(),
            text(nic, "/link").into(),
            text(nic, "/attachment").into(),
        ]);
    }
    for table in [disks, nics].iter().filter(|table| !table.is_empty()) {
        screen.say("");
        table.print(screen);
    }
}

/// What one has used.
pub(super) fn stats(api: &mut Api<'_>, name: &InstanceId) -> Outcome<Exit> {
    let stats = api.get(&format!("/v1/instances/{name}/stats"))?;
    if api.screen.is_json() {
        api.screen.document(&stats);
        return Ok(Exit::Done);
    }
    let memory = number(&stats, "/memory_kib").map(|kibibytes| super::bytes(kibibytes << 10));
    facts(
        api.screen,
        &[("processor time", age(&stats, "/cpu_ms").into()), ("memory", memory.unwrap_or_default().into())],
    );
    for (pointer, head) in [
        ("/disks", ["DISK", "READS", "READ", "WRITES", "WRITTEN"]),
        ("/nics", ["INTERFACE", "PACKETS IN", "RECEIVED", "PACKETS OUT", "SENT"]),
    ] {
        let mut table = Table::new(&head);
        for one in items(&stats, pointer) {
            let size = |pointer| super::bytes(number(one, pointer).unwrap_or_default());
            table.row(vec![
                text(one, "/name").into(),
                text(one, "/reads").into(),
                size("/read_bytes").into(),
                text(one, "/writes").into(),
                size("/write_bytes").into(),
            ]);
        }
        if !table.is_empty() {
            api.screen.say("");
            table.print(api.screen);
        }
    }
    Ok(Exit::Done)
}

/// The images.
pub(super) fn images(api: &mut Api<'_>) -> Outcome<Exit> {
    let document = api.get("/v1/images")?;
    if api.screen.is_json() {
        api.screen.document(&document);
        return Ok(Exit::Done);
    }
    let images = items(&document, "/images");
    for image in images {
        api.screen.say(&text(image, ""));
    }
    if images.is_empty() {
        api.screen.note("no images: the agent has none in its table");
    }
    Ok(Exit::Done)
}
