//! libiscsi's conformance suite (`iscsi-test-cu`), counted honestly over a set of logical units, and compared with the
//! score we have.
//!
//! One process a suite: a test of version 1.19 leaves a hook behind that falsifies all later ones of its process. A
//! skipped test is printed as passed by the tool, and counted as skipped here. A test counts as passed if it passes on a
//! unit that has what it tests and fails on none; README.md beside this says on which units each suite runs and why.

mod families;
mod score;
mod units;

use crate::fixture::{script, stage, target};
use image_launch::disk::Server;
use image_launch::process;
use image_launch::stage::{IQN, Script, Stage};
use score::{Outcome, Score};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use units::{LIST, Unit};

const SIZE: u64 = 100 << 20;
/// For one suite; the longest needs 12 s, and on a machine that has ten other things to do a minute.
const LIMIT: Duration = Duration::from_secs(240);
/// What the gate wants: all tests of version 1.19 but SANITIZE's 11 and WRITE ATOMIC(16)'s 6.
const LEAST: usize = 213;

#[test]
fn the_libiscsi_suite_fails_nowhere_and_scores_no_less_than_it_did() {
    let (stage, _turn) = stage(&with_units(script(target(), SIZE, Server::QemuNbd)));
    let everything = std::env::var("CORBEL_SUITE").is_ok_and(|word| word == "everything");
    let suites = suites(&stage);
    let start = Instant::now();
    let mut score = Score::default();
    for (suite, _) in &suites {
        score.add(suite, &[]);
    }
    for (number, unit) in LIST.iter().enumerate() {
        let begun = Instant::now();
        let (mut alone, mut slowest) = (Score::default(), (Duration::ZERO, ""));
        for (suite, tests) in unit.order(&suites, everything) {
            let begun = Instant::now();
            let outcomes = run(&stage, (number, unit), suite, &unit.tests(suite, tests));
            slowest = slowest.max((begun.elapsed(), suite));
            alone.add(suite, &outcomes);
            score.add(suite, &outcomes);
        }
        let (took, slow) = (begun.elapsed().as_secs_f32(), slowest.0.as_secs_f32());
        say(&format!("{:32}{}  {took:.0} s, {} {slow:.0} s\n", unit.name, alone.summary(), slowest.1));
    }
    // Past the capture of a test that passes: the score is to be read in every run.
    say(&format!("\n{}{:.0} s\n", families::table(&score), start.elapsed().as_secs_f32()));
    if std::env::var("CORBEL_TARGET").is_ok() {
        println!("CORBEL_TARGET is set: not compared with the score of the image");
        return;
    }
    if std::env::var("CORBEL_SCORE").is_ok_and(|word| word == "update") {
        std::fs::write(file("iscsi-test-cu.score"), score.text()).unwrap();
        std::fs::write(file("CONFORMANCE.md"), families::document(&score)).unwrap();
        return;
    }
    let before = Score::parse(&std::fs::read_to_string(file("iscsi-test-cu.score")).unwrap()).unwrap();
    let verdict = score.against(&before);
    println!("{}", verdict.join("\n"));
    assert!(score.is_no_worse_than(&before), "the score fell:\n{}", verdict.join("\n"));
    assert!(!stage.appliance.has_panicked(), "{}", stage.appliance.console());
}

#[test]
fn the_kept_score_reaches_the_gate_and_is_the_one_that_is_published() {
    let score = Score::parse(&std::fs::read_to_string(file("iscsi-test-cu.score")).unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(file("CONFORMANCE.md")).unwrap(), families::document(&score));
    assert_eq!(score.count(Outcome::Fail) + score.count(Outcome::Unfinished), 0);
    assert!(score.count(Outcome::Pass) >= LEAST, "{} of {LEAST}", score.count(Outcome::Pass));
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop").join(name)
}

fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// The host with a disk for each of the units, in their order.
fn with_units(mut script: Script) -> Script {
    script.disks = LIST.iter().map(|unit| (SIZE, (unit.server)())).collect();
    for (number, unit) in LIST.iter().enumerate() {
        let keys = unit.keys.iter().map(|(key, value)| (format!("target.{number}.{key}"), (*value).into()));
        script.config.extend(keys);
    }
    script
}

/// The suites of the family that holds every test, and their tests, in the tool's order.
fn suites(stage: &Stage) -> Vec<(String, Vec<String>)> {
    let mut list = stage.net.command("iscsi-test-cu");
    list.arg("--list");
    let text = process::run(list, LIMIT).unwrap().text();
    let mut suites: Vec<(String, Vec<String>)> = Vec::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("ALL.")) {
        match (name.split_once('.'), suites.last_mut()) {
            (Some((_, test)), Some((_, tests))) => tests.push(test.into()),
            _ => suites.push((name.into(), Vec::new())),
        }
    }
    suites
}

/// Runs tests of one suite on one unit.
fn run(stage: &Stage, (number, unit): (usize, &Unit), suite: &str, tests: &str) -> Vec<(String, Outcome)> {
    let mut command = stage.net.command("timeout");
    command.args(["-s", "KILL", &LIMIT.as_secs().to_string(), "stdbuf", "-oL"]);
    command.args(["iscsi-test-cu", "--allow-sanitize", "--test", tests]);
    if unit.may_lose_data(suite) {
        command.arg("--dataloss");
    }
    let plain = stage.unit(number).url();
    let url = unit.url(&plain);
    debug_assert!(url.contains(IQN));
    command.args(vec![url; unit.paths(suite)]);
    let output = process::run(command, LIMIT + Duration::from_secs(5)).unwrap();
    let tests = score::parse_run(&output.stdout);
    if tests.is_empty() {
        println!("{}: {suite}: no test began; code {}: {}", unit.name, output.code, output.text());
        return vec![("(login)".into(), Outcome::Unfinished)];
    }
    // A loop that fails at every turn would fill the screen.
    let reasons = output.stdout.lines().filter(|line| line.contains("[FAILED]") || line.contains("  - CU_"));
    for line in reasons.take(8) {
        println!("{}: {suite}: {}", unit.name, line.trim());
    }
    for (test, outcome) in tests.iter().filter(|(_, outcome)| *outcome == Outcome::Fail) {
        println!("{}: {suite}.{test}: {outcome:?}", unit.name);
    }
    tests
}
