//! libiscsi's conformance suite (`iscsi-test-cu`), counted honestly, and compared with the score we have.
//!
//! One process a suite: a test of version 1.19 leaves a hook behind that falsifies all later ones of its process. A
//! skipped test is printed as passed by the tool, and counted as skipped here.

mod score;

use crate::fixture::{script, stage, target};
use image_launch::disk::Server;
use image_launch::process;
use image_launch::stage::Stage;
use score::{Outcome, Score};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE: u64 = 100 << 20;
/// For one suite; the longest needs 12 s on a busy machine with a target that answers.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_libiscsi_suite_scores_no_less_than_it_did() {
    let (stage, _turn) = stage(&script(target(), SIZE, Server::QemuNbd));
    let start = Instant::now();
    let mut score = Score::default();
    for suite in suites(&stage) {
        score.add(&suite, run(&stage, &suite));
    }
    // Past the capture of a test that passes: the score is to be read in every run.
    let shown = format!("\n{}{:.0} s\n", score.table(), start.elapsed().as_secs_f32());
    std::io::stderr().write_all(shown.as_bytes()).unwrap();
    if std::env::var("CORBEL_TARGET").is_ok() {
        println!("CORBEL_TARGET is set: not compared with the score of the image");
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/iscsi-test-cu.score");
    if std::env::var("CORBEL_SCORE").is_ok_and(|word| word == "update") {
        std::fs::write(&file, score.text()).unwrap();
        println!("wrote {}", file.display());
        return;
    }
    let before = Score::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let verdict = score.against(&before);
    println!("{}", verdict.join("\n"));
    assert!(score.is_no_worse_than(&before), "the score fell:\n{}", verdict.join("\n"));
    assert!(!stage.appliance.has_panicked(), "{}", stage.appliance.console());
}

/// The suites of the family that holds every test, in the tool's order.
fn suites(stage: &Stage) -> Vec<String> {
    let mut list = stage.net.command("iscsi-test-cu");
    list.arg("--list");
    let text = process::run(list, LIMIT).unwrap().text();
    let names = text.lines().filter_map(|line| line.strip_prefix("ALL."));
    names.filter(|name| !name.contains('.')).map(str::to_string).collect()
}

fn run(stage: &Stage, suite: &str) -> Vec<(String, Outcome)> {
    let mut command = stage.net.command("timeout");
    command.args(["-s", "KILL", &LIMIT.as_secs().to_string(), "stdbuf", "-oL"]);
    command.args(["iscsi-test-cu", "--dataloss", "--allow-sanitize", "--test", &format!("ALL.{suite}")]);
    // Twice: the tests of several paths want a second one, and any two sessions are two paths.
    let url = stage.unit(0).url();
    command.args([&url, &url]);
    let output = process::run(command, LIMIT + Duration::from_secs(5)).unwrap();
    let tests = score::parse_run(&output.stdout);
    if tests.is_empty() {
        println!("{suite}: no test began; code {}: {}", output.code, output.text());
        return vec![("(login)".into(), Outcome::Unfinished)];
    }
    // A loop that fails at every turn would fill the screen.
    let reasons = output.stdout.lines().filter(|line| line.contains("[FAILED]") || line.contains("  - CU_"));
    for line in reasons.take(8) {
        println!("{suite}: {}", line.trim());
    }
    tests
}
