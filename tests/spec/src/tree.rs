//! What is in the tree: whether a file has an item or a test of some name, and the tables that the ledger has to follow.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The sources of the tree, by their paths in it.
pub(crate) struct Tree {
    root: PathBuf,
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace");
        Self { root, files: BTreeMap::new() }
    }

    /// A file's text, if it is there.
    pub(crate) fn text(&mut self, path: &str) -> Option<&str> {
        let root = &self.root;
        let text =
            self.files.entry(path.to_string()).or_insert_with(|| fs::read_to_string(root.join(path)).ok());
        text.as_deref()
    }

    /// Why a file is no proof of an item, if it is none.
    pub(crate) fn lacks_item(&mut self, path: &str, item: &str) -> Option<String> {
        let Some(text) = self.text(path) else { return Some(format!("there is no {path}")) };
        (!defines(text, item)).then(|| format!("{path} has no item {item}"))
    }

    /// Why a file is no proof of a test, if it is none.
    pub(crate) fn lacks_test(&mut self, path: &str, name: &str) -> Option<String> {
        let Some(text) = self.text(path) else { return Some(format!("there is no {path}")) };
        (!tests(text).any(|test| test == name)).then(|| format!("{path} has no test {name}"))
    }

    /// The texts in quotes that follow `marker` on the lines of a file.
    pub(crate) fn quoted_after(&mut self, path: &str, marker: &str) -> Vec<String> {
        let text = self.text(path).unwrap_or_else(|| panic!("{path}"));
        text.match_indices(marker)
            .filter_map(|(at, _)| text[at + marker.len()..].split('"').nth(1))
            .map(str::to_string)
            .collect()
    }
}

/// Whether a Rust text defines something of that name: an item, a variant of an enumeration, or a row of a table.
pub(crate) fn defines(text: &str, item: &str) -> bool {
    const KINDS: &[&str] =
        &["fn", "struct", "enum", "const", "static", "type", "trait", "mod", "macro_rules!"];
    text.lines().map(str::trim).filter(|line| !line.starts_with("//")).any(|line| {
        let mut words =
            line.split(|c: char| c.is_whitespace() || matches!(c, '(' | '<' | ':' | ';' | ',' | '=' | '{'));
        let mut before = "";
        let is_item = words.any(|word| {
            let found = word == item && KINDS.contains(&before);
            if !word.is_empty() {
                before = word;
            }
            found
        });
        let is_variant = item.starts_with(|c: char| c.is_ascii_uppercase())
            && line
                .strip_prefix(item)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([',', '(', ' ']));
        is_item || is_variant
    })
}

/// The names of the tests in a Rust text.
pub(crate) fn tests(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins =
        (0..lines.len()).filter(|&at| text.contains("#[test]") && lines[at] == "#[test]").collect::<Vec<_>>();
    begins.into_iter().filter_map(move |at| {
        let mut rest = lines[at + 1..].iter().take_while(|line| !line.is_empty());
        let line = rest.find(|line| !line.starts_with("#[") && !line.starts_with("//"))?;
        line.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next())
    })
}
