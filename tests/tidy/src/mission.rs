//! The page that maps the mission's rows to code and tests: every row stands there, what it names exists, and what it calls
//! done has both.

use crate::{read, report, root};
use std::path::Path;

const PAGE: &str = "management/docs/mission.md";

/// Every row there has to be, in this order.
fn wanted() -> Vec<String> {
    let rows = [('A', 16), ('M', 15), ('N', 5)];
    rows.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}"))).collect()
}

/// A link of Markdown: its text and where it leads.
fn links(cell: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = cell;
    while let Some((_, after)) = rest.split_once("[`") {
        let Some((name, after)) = after.split_once("`](") else { break };
        let Some((target, after)) = after.split_once(')') else { break };
        found.push((name, target));
        rest = after;
    }
    found
}

/// Whether a source has that function as a test that every run runs.
fn is_run(source: &str, name: &str) -> Result<(), &'static str> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let start = format!("fn {name}(");
    let place = lines.iter().position(|line| line.starts_with(&start)).ok_or("is not there")?;
    let above = lines[..place].iter().rev();
    let attributes: Vec<&&str> =
        above.take_while(|line| line.starts_with("#[") || line.starts_with("//")).collect();
    if !attributes.iter().any(|line| **line == "#[test]") {
        return Err("is no test");
    }
    if attributes.iter().any(|line| line.starts_with("#[ignore") || line.starts_with("#[cfg_attr")) {
        return Err("is a test that is not always run");
    }
    Ok(())
}

/// What is wrong with one row's cells: state, code, tests, what is missing.
fn wrong(cells: &[&str]) -> Option<String> {
    let [state, code, tests, missing] = cells else { return Some("has not six cells".into()) };
    let at = |target: &str| root().join("management/docs").join(target.split('#').next().unwrap_or_default());
    let (code, tests) = (links(code), links(tests));
    for (name, target) in code.iter().chain(&tests) {
        if !at(target).exists() {
            return Some(format!("{name}: there is no {target}"));
        }
    }
    for (name, target) in &tests {
        if let Err(why) = is_run(&read(&at(target)), name) {
            return Some(format!("{name} in {target} {why}"));
        }
    }
    let (proved, silent) = (!code.is_empty() && !tests.is_empty(), missing.is_empty());
    match *state {
        "done" if !proved => Some("is called done without code and a test".into()),
        "done" if !silent => Some("is called done, and something is missing".into()),
        "partly" if !proved || silent => Some("is called partly done: what is, and what is missing?".into()),
        "missing" if silent => Some("is missing, and it is not said what".into()),
        "done" | "partly" | "missing" => None,
        other => Some(format!("is neither done, partly done nor missing, but {other:?}")),
    }
}

#[test]
fn every_row_of_the_mission_has_code_and_a_test_or_says_what_is_missing() {
    let page = read(&root().join(PAGE));
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")) {
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        if !wanted().iter().any(|row| row == cells[0]) {
            continue;
        }
        rows.push(cells[0].to_string());
        if let Some(what) = wrong(cells.get(2..).unwrap_or_default()) {
            broken.push(format!("{} {what}", cells[0]));
        }
    }
    assert_eq!(rows, wanted(), "{PAGE} has not exactly the rows of the mission");
    report("mission: what the page calls done is in the tree, and a test shows it", &broken);
    let linked = |file: &str| read(&root().join(file)).contains(PAGE);
    assert!(linked("README.md") && linked("ARCHITECTURE.md"), "{PAGE} is linked from both");
}

#[test]
fn a_function_that_is_no_test_proves_nothing() {
    let source = "fn helper() {}\n    #[test]\n    /// Words.\n    fn runs() {}\n#[test]\n#[ignore = \"slow\"]\nfn rests() {}\n";
    assert_eq!(is_run(source, "runs"), Ok(()));
    for (name, why) in
        [("helper", "is no test"), ("rests", "is a test that is not always run"), ("none", "is not there")]
    {
        assert_eq!(is_run(source, name), Err(why));
    }
}

#[test]
fn a_row_that_promises_too_much_is_noticed() {
    assert!(Path::new(&root()).join("README.md").exists());
    let code = "[`a`](../README.md)";
    let here = "[`a_row_that_promises_too_much_is_noticed`](../../tests/tidy/src/mission.rs)";
    assert_eq!(wrong(&["done", code, here, ""]), None);
    assert_eq!(wrong(&["missing", "", "", "all of it"]), None);
    for cells in [
        ["done", code, "", ""],
        ["done", "", here, ""],
        ["done", code, here, "but"],
        ["partly", code, here, ""],
        ["missing", "", "", ""],
        ["soon", code, here, ""],
        ["done", "[`x`](../nowhere.rs)", here, ""],
        ["done", code, "[`no_such_test`](../../tests/tidy/src/mission.rs)", ""],
    ] {
        assert!(wrong(&cells).is_some(), "{cells:?}");
    }
}
