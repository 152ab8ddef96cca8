//! The ledger's text: what a line means, and what is wrong with one that means nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Why a requirement has no code and no test of ours.
pub(crate) const REASONS: &[(&str, &str)] = &[
    ("initiator only", "it binds the other side"),
    ("ERL 0 only", "it concerns error recovery levels that are never agreed upon"),
    ("not offered", "it belongs to something optional that we do not offer, and that is refused"),
    ("operator", "it is for who sets up and runs the appliance"),
    ("definition", "it binds authors, vendors or registries, or only says what words mean"),
    ("on purpose", "we do otherwise and say why"),
    ("not there", "it is required and missing"),
];

/// One requirement.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it stands, for whoever has to mend it.
    pub(crate) place: String,
    pub(crate) id: String,
    pub(crate) section: String,
    /// How many normative keywords of its section it stands for.
    pub(crate) keywords: usize,
    pub(crate) text: String,
    /// Paths and the items in them that do it.
    pub(crate) code: Vec<(String, String)>,
    /// Paths and the tests in them that prove it.
    pub(crate) tests: Vec<(String, String)>,
    /// The reason why there is neither, and an explanation.
    pub(crate) exception: Option<(String, String)>,
    /// Commands, pages and keys it speaks of, each as a kind and a name.
    pub(crate) covers: Vec<(String, String)>,
}

/// All requirements of one standard, in the order of their files.
pub(crate) type Ledger = BTreeMap<String, Vec<Entry>>;

/// How many normative keywords each section of a standard has.
pub(crate) type Counts = BTreeMap<String, usize>;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ledger")
}

fn texts(beginning: &str) -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(folder())
        .expect("the ledger")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning)))
        .collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    paths
        .iter()
        .map(|path| (name(path).unwrap_or_default(), fs::read_to_string(path).expect("a text")))
        .collect()
}

/// Read the whole ledger. What cannot be understood is told in the second place.
pub(crate) fn read() -> (Ledger, Vec<String>) {
    let (mut ledger, mut wrong) = (Ledger::new(), Vec::new());
    for (file, text) in texts("") {
        if file.starts_with("count-") {
            continue;
        }
        parse(&file, &text, &mut ledger, &mut wrong);
    }
    (ledger, wrong)
}

/// Read the table of counts of a standard.
pub(crate) fn counts(standard: &str) -> Counts {
    let (_, text) = texts(&format!("count-{standard}.")).pop().expect("a table of counts");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (section, count) = line.rsplit_once(' ').expect("a section and its count");
            (section.to_string(), count.parse().expect("a number"))
        })
        .collect()
}

/// Lines that go on where the line before has ended, joined to it.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match lines.last_mut().filter(|_| line.starts_with("      ")) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line.trim());
            }
            None => lines.push((number + 1, line.to_string())),
        }
    }
    lines
}

/// Read one file of the ledger.
pub(crate) fn parse(file: &str, text: &str, ledger: &mut Ledger, wrong: &mut Vec<String>) {
    let (mut standard, mut section) = (String::new(), String::new());
    for (number, line) in joined(text) {
        let place = format!("{file}:{number}");
        let (first, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let rest = rest.trim();
        let entries = ledger.entry(standard.clone()).or_default();
        if !line.starts_with(' ') {
            match first {
                "standard" => standard = rest.to_string(),
                "section" => section = rest.split("  ").next().unwrap_or_default().to_string(),
                _ => match entry(&place, &standard, &section, first, rest) {
                    Some(entry) => entries.push(entry),
                    None => wrong.push(format!("{place}: not an entry: {line}")),
                },
            }
            continue;
        }
        let Some(entry) = entries.last_mut() else {
            wrong.push(format!("{place}: belongs to no entry"));
            continue;
        };
        if !detail(entry, first, rest) {
            wrong.push(format!("{place}: means nothing: {line}"));
        }
    }
    ledger.retain(|_, entries| !entries.is_empty());
}

/// `STANDARD-SECTION-NUMBER [xKEYWORDS] WHO: TEXT`
fn entry(place: &str, standard: &str, section: &str, id: &str, rest: &str) -> Option<Entry> {
    let number = id.strip_prefix(standard)?.strip_prefix('-')?.strip_prefix(section)?.strip_prefix('-')?;
    number.parse::<u32>().ok()?;
    let (head, text) = rest.split_once(": ")?;
    let (keywords, who) = match head.split_once(' ') {
        Some((keywords, who)) => (keywords.strip_prefix('x')?.parse().ok()?, who),
        None => (1, head),
    };
    ["initiator", "target", "both", "others"].contains(&who).then(|| Entry {
        place: place.to_string(),
        id: id.to_string(),
        section: section.to_string(),
        keywords,
        text: text.to_string(),
        code: Vec::new(),
        tests: Vec::new(),
        exception: None,
        covers: Vec::new(),
    })
}

fn detail(entry: &mut Entry, first: &str, rest: &str) -> bool {
    let owned = |(left, right): (&str, &str)| (left.trim().to_string(), right.trim().to_string());
    match first {
        "code" | "test" => {
            let Some(named) = rest.split_once(' ') else { return false };
            let list = if first == "code" { &mut entry.code } else { &mut entry.tests };
            list.push(owned(named));
        }
        "except" => {
            let Some((reason, why)) = rest.split_once(": ") else { return false };
            let is_known = REASONS.iter().any(|(known, _)| *known == reason);
            if !is_known || entry.exception.is_some() {
                return false;
            }
            entry.exception = Some(owned((reason, why)));
        }
        "command" | "page" | "key" | "function" => entry.covers.push(owned((first, rest))),
        _ => return false,
    }
    true
}
