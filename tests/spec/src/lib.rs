//! Every requirement of the standards has code and a test, or a reason why not; see README.md beside this file.
#![forbid(unsafe_code)]
#![cfg(test)]

mod ledger;
mod tree;

use ledger::{Entry, Ledger, REASONS};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use tree::Tree;

fn ledger() -> Ledger {
    ledger::read().0
}

fn entries(ledger: &Ledger) -> impl Iterator<Item = &Entry> {
    ledger.values().flatten()
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "\nrule: {rule}\nbroken by:\n  {}\n", broken.join("\n  "));
}

#[test]
fn every_line_means_something_and_no_id_is_used_twice() {
    let (ledger, mut broken) = ledger::read();
    let mut ids = BTreeSet::new();
    for entry in entries(&ledger) {
        if !ids.insert(&entry.id) {
            broken.push(format!("{}: {} is used already", entry.place, entry.id));
        }
        if entry.text.trim().is_empty() {
            broken.push(format!("{}: {} says nothing", entry.place, entry.id));
        }
    }
    report("form: ledger/README.txt says what a line is", &broken);
}

#[test]
fn every_requirement_is_proved_or_excepted() {
    let ledger = ledger();
    let mut broken = Vec::new();
    for entry in entries(&ledger) {
        let is_proved = !entry.code.is_empty() && !entry.tests.is_empty();
        let is_orphan = match &entry.exception {
            None => !is_proved,
            // What is not there may say which part of it is.
            Some((_, why)) => why.is_empty() || is_proved,
        };
        if is_orphan {
            broken.push(format!("{}: {}", entry.place, entry.id));
        }
    }
    report(
        "orphans: a requirement has code and a test, or an exception with its reason, and not both",
        &broken,
    );
}

#[test]
fn what_the_ledger_names_is_in_the_tree() {
    let ledger = ledger();
    let mut tree = Tree::new();
    let mut broken = Vec::new();
    for entry in entries(&ledger) {
        let lacks_items = entry.code.iter().filter_map(|(path, item)| tree.lacks_item(path, item));
        let mut lacks: Vec<_> = lacks_items.collect();
        lacks.extend(entry.tests.iter().filter_map(|(path, test)| tree.lacks_test(path, test)));
        broken.extend(lacks.into_iter().map(|lack| format!("{}: {}: {lack}", entry.place, entry.id)));
    }
    report("names: code and tests that are moved or renamed take their requirements with them", &broken);
}

#[test]
fn no_keyword_of_the_standard_is_passed_over() {
    let ledger = ledger();
    let mut broken = Vec::new();
    for standard in ["rfc7143", "rfc7144"] {
        let counts = ledger::counts(standard);
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &ledger[standard] {
            *found.entry(&entry.section).or_default() += entry.keywords;
        }
        for (section, &count) in &counts {
            let there = found.remove(section.as_str()).unwrap_or_default();
            if there != count {
                broken.push(format!("{standard} {section}: {there} of {count} keywords are accounted for"));
            }
        }
        let strangers = found.into_iter().filter(|&(_, count)| count > 0);
        broken
            .extend(strangers.map(|(section, count)| format!("{standard} {section}: {count} of 0 keywords")));
    }
    report("counts: each MUST, SHALL and REQUIRED of a section is some entry's", &broken);
}

/// What the ledger says of commands, pages, keys and functions, by their names.
fn covered(kind: &str) -> BTreeSet<String> {
    let ledger = ledger();
    let covers = entries(&ledger).flat_map(|entry| &entry.covers);
    covers.filter(|(of, _)| of == kind).map(|(_, name)| name.clone()).collect()
}

fn all_covered(kind: &str, names: &[String]) {
    assert!(!names.is_empty(), "no {kind} was found in the source: how its table is written has changed");
    let covered = covered(kind);
    let missing: Vec<_> = names.iter().filter(|name| !covered.contains(*name)).cloned().collect();
    report(&format!("tables: each {kind} we offer has requirements, with a line `{kind} NAME`"), &missing);
}

#[test]
fn every_command_of_the_table_has_requirements() {
    let rows = Tree::new().quoted_after("storage/scsi/src/opcode.rs", "row(");
    assert!(rows.len() > 50, "{} rows", rows.len());
    all_covered("command", &rows);
}

#[test]
fn every_page_has_requirements() {
    let mut tree = Tree::new();
    let mut names = Vec::new();
    for (kind, path) in [("VPD", "storage/scsi/src/inquiry.rs"), ("mode", "storage/scsi/src/mode.rs")] {
        let text = tree.text(path).expect("the source");
        let codes = text.match_indices("Page { code: 0x").map(|(at, marker)| &text[at + marker.len()..][..2]);
        names.extend(codes.map(|code| format!("{kind} {code}")));
    }
    all_covered("page", &names);
}

#[test]
fn every_key_of_the_negotiation_has_requirements() {
    let path = "storage/iscsi/src/negotiation/keys.rs";
    let mut rows = Tree::new().quoted_after(path, "(Key::");
    rows.extend(Tree::new().quoted_after(path, "        Key::"));
    all_covered("key", &rows);
}

#[test]
fn a_ledger_with_a_hole_is_noticed() {
    let (mut ledger, mut wrong) = (Ledger::new(), Vec::new());
    let text = "standard s\nsection 1.2  Title\ns-1.2-1 x2 target: Some\n      thing.\n    code a b\n    test a c\n\
                s-1.2-2 both: Else.\n    except initiator only: they do\ns-1.3-1 target: Of another section.\n    \
                except because: unknown\n";
    ledger::parse("f", text, &mut ledger, &mut wrong);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    let entries = &ledger["s"];
    assert_eq!((entries[0].keywords, entries[0].text.as_str()), (2, "Some thing."));
    assert_eq!(entries[0].tests, [("a".to_string(), "c".to_string())]);
    assert!(entries[1].exception.is_some() && entries.len() == 2);
}

#[test]
fn items_and_tests_are_found_where_they_are_and_nowhere_else() {
    let text = "/// fn comment\npub(crate) const fn some<T>(a: T) {}\nenum E {\n    First,\n    Second(u8),\n}\n\
                static TABLE: [u8; 1] = [1];\n#[test]\nfn a_test() { call(); }\n\nfn call() {}\n";
    for item in ["some", "E", "First", "Second", "TABLE", "call"] {
        assert!(tree::defines(text, item), "{item}");
    }
    for item in ["comment", "Third", "T", "u8"] {
        assert!(!tree::defines(text, item), "{item}");
    }
    assert_eq!(tree::tests(text).collect::<Vec<_>>(), ["a_test"]);
}

/// The table of README.md: a row for each standard, a column for what is proved and for each reason. Its counts are those of
/// the day it was written, since every new command moves them; but what is required and missing it must say right.
#[test]
fn the_readme_says_how_much_is_missing() {
    let ledger = ledger();
    let mut table = String::from("| standard | requirements | proved |");
    for (reason, _) in REASONS {
        write!(table, " {reason} |").expect("text");
    }
    table += &format!("\n|---|{}\n", "---:|".repeat(REASONS.len() + 2));
    let mut total = vec![0; REASONS.len() + 2];
    for (standard, entries) in &ledger {
        let with = |reason: &str| {
            entries
                .iter()
                .filter(|entry| entry.exception.as_ref().is_some_and(|(of, _)| of == reason))
                .count()
        };
        let mut row = vec![entries.len(), entries.iter().filter(|entry| entry.exception.is_none()).count()];
        row.extend(REASONS.iter().map(|(reason, _)| with(reason)));
        writeln!(
            table,
            "| {standard} | {} |",
            row.iter().map(usize::to_string).collect::<Vec<_>>().join(" | ")
        )
        .expect("text");
        total.iter_mut().zip(&row).for_each(|(total, count)| *total += count);
    }
    writeln!(table, "| all | {} |", total.iter().map(usize::to_string).collect::<Vec<_>>().join(" | "))
        .expect("text");
    println!("{table}");
    for entry in entries(&ledger) {
        if let Some((_, why)) = entry.exception.as_ref().filter(|(reason, _)| reason == "not there") {
            println!("not there: {}: {} ({why})", entry.id, entry.text);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let begin = readme.find("| standard |").expect("a table");
    let end = begin + readme[begin..].find("\n\n").map_or(readme.len() - begin, |end| end + 1);
    if std::env::var_os("CORBEL_WRITE_SPEC").is_some() {
        fs::write(&path, format!("{}{table}{}", &readme[..begin], &readme[end..])).expect("written");
        return;
    }
    let ends = |table: &str| -> Vec<(String, String)> {
        let cells = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        cells.map(|row| (row[1].to_string(), row[row.len() - 2].to_string())).collect()
    };
    let (said, due) = (ends(&readme[begin..end]), ends(&table));
    assert_eq!(said, due, "README.md has another table; CORBEL_WRITE_SPEC=1 writes it anew:\n{table}");
}
