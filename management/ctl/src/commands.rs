//! What each command asks, and how it shows the answer.

mod about;
pub(crate) mod audit;
mod console;
mod events;
mod follow;
mod instances;
mod keys;
mod lifecycle;
pub(crate) mod manual;
mod networks;
mod operations;
mod order;
mod targets;
mod why;

use crate::api::Api;
use crate::arguments::Command;
use crate::failure::{Exit, Outcome};
use crate::plain;
use crate::screen::Tint;
use crate::table::Cell;
use serde_json::Value;

/// Carry out `command`, which needs an appliance.
pub(crate) fn run(api: &mut Api<'_>, command: &Command) -> Outcome<Exit> {
    match command {
        Command::Status => about::status(api),
        Command::Capabilities => about::capabilities(api),
        Command::Problems => about::problems(api),
        Command::Metrics => about::metrics(api),
        Command::Images => instances::images(api),
        Command::Instances(options) => instances::list(api, options),
        Command::Instance(named) => instances::show(api, &named.name),
        Command::Stats(named) => instances::stats(api, &named.name),
        Command::Console(options) => console::run(api, options),
        Command::Why(named) => why::run(api, &named.name),
        Command::Targets(options) => targets::run(api, options.action.as_ref()),
        Command::Networks(options) => networks::run(api, options.action.as_ref()),
        Command::Operations(options) => operations::list(api, options),
        Command::Operation(options) => operations::show(api, options),
        Command::Cancel { id, dry } => operations::cancel(api, id, *dry),
        Command::Events(options) => events::run(api, options),
        Command::Audit(options) => audit::run(api, options),
        Command::Host => about::host(api),
        Command::Enrol(options) => keys::enrol(api, options),
        Command::Keys(options) => keys::run(api, options.action.as_ref()),
        Command::Drain { off, dry } => about::drain(api, !off, *dry),
        Command::Completion { .. } | Command::Man => Ok(Exit::Done),
        other => lifecycle::run(api, other),
    }
}

/// The value at `pointer` (RFC 6901) in words; empty when there is none.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => plain::line(text),
        Some(Value::Bool(true)) => "yes".into(),
        Some(Value::Bool(false)) => "no".into(),
        Some(other) => plain::line(&other.to_string()),
    }
}

/// The number at `pointer`, if there is one.
fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// The list at `pointer`; empty when there is none.
fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// An age in milliseconds.
fn age(value: &Value, pointer: &str) -> String {
    number(value, pointer).map(crate::span::show).unwrap_or_default()
}

/// Words behind each other.
fn listed(value: &Value, pointer: &str) -> String {
    let words: Vec<String> = items(value, pointer).iter().map(|item| text(item, "")).collect();
    words.join(", ")
}

/// A state, coloured.
fn state(name: &str) -> Cell {
    let tint = match name {
        "running" | "succeeded" | "ready" | "up" | "native" | "kept" => Tint::Good,
        "failed" | "unknown" | "refused" | "indeterminate" | "expired" | "down" | "impossible" => Tint::Bad,
        "stopped" | "terminated" | "saved" => Tint::Faint,
        "" => Tint::Plain,
        _ => Tint::Warn,
    };
    Cell::tinted(name, tint)
}

/// Bytes, as short as they can be said exactly enough.
fn bytes(count: u64) -> String {
    let mut unit = 0;
    let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut tenths = u128::from(count) * 10;
    while tenths >= 10_240 && unit + 1 < names.len() {
        tenths /= 1024;
        unit += 1;
    }
    let (whole, rest) = (tenths / 10, tenths % 10);
    if rest == 0 || unit == 0 {
        format!("{whole} {}", names[unit])
    } else {
        format!("{whole}.{rest} {}", names[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_their_unit() {
        for (count, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }
}
