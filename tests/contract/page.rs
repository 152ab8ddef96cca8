//! The table that a run has made, beside the one that is committed.

use crate::cells::{Row, is_impossible};
use crate::states::{self, STANDINGS};
use agent_protocol::{Backend, Facility, Support, Verb};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// How a verb is carried out, and whether this run has seen it carried out.
fn tried(backend: &Backend, verb: Verb, cells: &[String]) -> String {
    let found = backend.capabilities.iter().find(|capability| capability.verb == verb);
    let Some(capability) = found else { return "not run: the backend does not know it".into() };
    let how = match capability.support {
        Support::Impossible => "impossible",
        _ if !cells.iter().any(|cell| cell.starts_with('→') || (verb == Verb::Describe && cell == "=")) => {
            "not run"
        }
        Support::Native => "executed",
        Support::Emulated => "emulated",
    };
    format!("{how}: {}", capability.by.as_str())
}

/// The section of one backend.
pub(crate) fn section(backend: &Backend, rows: &[Row], looked: &[(Facility, String)]) -> String {
    let mut text = format!("## {}\n\n", backend.name.as_str());
    let _ = writeln!(text, "| command | how |\n|---|---|");
    for (verb, cells) in rows {
        let _ = writeln!(text, "| `{verb}` | {} |", tried(backend, *verb, cells));
    }
    for (facility, how) in looked {
        let _ = writeln!(text, "| `{facility}` | {how} |");
    }
    let heads: Vec<&str> = STANDINGS.iter().map(|standing| states::name(*standing)).collect();
    let _ = writeln!(text, "\n| command | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (verb, cells) in rows {
        if !is_impossible(backend, *verb) {
            let _ = writeln!(text, "| `{verb}` | {} |", cells.join(" | "));
        }
    }
    text
}

const PAGE: &str = "tests/contract/RESULTS.md";
const HEAD: &str = "\
# What each hypervisor was seen to do

Written by `CORBEL_CONTRACT=update cargo test -p image_launch --test contract every_state`; the test fails when a run comes
to another table. *Executed* and *emulated* are what was carried out by a real process of that hypervisor, traced from outside;
*impossible* is refused before anything is sent, and says why.

In the tables of states `→ state` is done and leads there, `=` is done without anything to do, `✗` was tried and has not
come about, and all else is a refusal. Each was sent again under the same name, which did nothing, and once more as a
new command.

";

/// Holds a section against the page, or puts it in.
pub(crate) fn settle(name: &str, section: &str) {
    let path = root().join(PAGE);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let mut sections: BTreeMap<String, String> = committed
        .split("\n## ")
        .skip(1)
        .map(|text| {
            (text.lines().next().unwrap_or_default().to_string(), format!("## {}\n", text.trim_end()))
        })
        .collect();
    if std::env::var("CORBEL_CONTRACT").is_ok_and(|value| value == "update") {
        sections.insert(name.into(), section.into());
        let all: Vec<&str> = sections.values().map(|section| section.trim_end()).collect();
        fs::write(&path, format!("{HEAD}{}\n", all.join("\n\n"))).unwrap();
        return;
    }
    let before = sections.get(name).map_or("", |section| section.trim_end());
    assert_eq!(before, section.trim_end(), "{PAGE} has another table than this run; see its head");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}
