//! `cargo run`: the tour sees what it should, and whatever ends it, nothing of it stays behind.

use crate::fixture::Turn;
use image_launch::process::{self, Process};
use image_launch::scratch::Scratch;
use image_launch::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn corbel(words: &[&str]) -> std::process::Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_corbel"));
    command.args(words);
    command
}

#[test]
fn the_unattended_tour_ends_well_in_every_body() {
    for words in [
        &["--once"][..],
        &["--once", "--machine", "pc"],
        &["--once", "--machine", "microvm", "--memory", "32"],
        &["--once", "--hosted"],
        &["--once", "--user-network"],
    ] {
        let _turn = Turn::take();
        let seen = process::check(corbel(words), LIMIT).unwrap();
        println!("{seen}");
        for line in ["discovery ", "inquiry ", "capacity ", "write, read ", "instances ", "terminate "] {
            assert!(seen.lines().any(|said| said.starts_with(line)), "{words:?} did not say {line}:\n{seen}");
        }
    }
}

#[test]
fn what_ends_the_launcher_ends_everything_it_started() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let _turn = Turn::take();
        let scratch = Scratch::new().unwrap();
        let mut launcher = start(&scratch);
        let name = mark(&launcher);
        assert!(living(&name) >= 4, "{}", launcher.output());
        kill_process(Pid::from_raw(launcher.pid().cast_signed()).unwrap(), signal).unwrap();
        let status = launcher.wait(LIMIT).unwrap();
        assert!(status.success(), "{signal:?}: {status}\n{}", launcher.tail());
        assert_eq!(living(&name), 0, "after {signal:?}");
        assert_eq!(left(&name), Vec::<String>::new(), "after {signal:?}");
    }
}

#[test]
fn a_launcher_under_timeout_ends_everything_though_it_is_signalled_twice() {
    let _turn = Turn::take();
    let scratch = Scratch::new().unwrap();
    let log = scratch.file("corbel.log");
    let mut timeout = process::command("timeout");
    timeout.args(["8", env!("CARGO_BIN_EXE_corbel")]);
    let mut timeout = Process::start("timeout", timeout, &log).unwrap();
    let folder = wait::until("the screen", LIMIT, || {
        timeout.must_run()?;
        let output = timeout.output();
        let rest = output.split_once("Console and logs: ").map(|(_, rest)| rest.to_string());
        Ok(rest.filter(|rest| rest.contains("Ctrl-C ends everything")))
    });
    let folder = folder.unwrap();
    // corbel-PID-0: all that this run names begins so.
    let name = folder
        .lines()
        .next()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .trim_end_matches(char::is_numeric)
        .to_string();
    assert!(living(&name) >= 4, "{}", timeout.output());
    timeout.wait(LIMIT).unwrap();
    wait::until("the end of all", LIMIT, || Ok((living(&name) == 0).then_some(()))).unwrap();
    assert_eq!(left(&name), Vec::<String>::new());
}

#[test]
fn a_launcher_that_is_killed_takes_its_children_along_and_the_next_one_clears_up() {
    let _turn = Turn::take();
    let scratch = Scratch::new().unwrap();
    let mut launcher = start(&scratch);
    let name = mark(&launcher);
    kill_process(Pid::from_raw(launcher.pid().cast_signed()).unwrap(), Signal::KILL).unwrap();
    launcher.wait(LIMIT).unwrap();
    wait::until("the children's end", LIMIT, || Ok((living(&name) == 0).then_some(()))).unwrap();
    process::check(corbel(&["--once"]), LIMIT).unwrap();
    assert_eq!(left(&name), Vec::<String>::new());
}

fn start(scratch: &Scratch) -> Process {
    let mut launcher = Process::start("corbel", corbel(&[]), &scratch.file("corbel.log")).unwrap();
    wait::until("the screen", LIMIT, || {
        launcher.must_run()?;
        Ok(launcher.output().contains("Ctrl-C ends everything").then_some(()))
    })
    .unwrap();
    launcher
}

/// The beginning of every name that this launcher gives.
fn mark(launcher: &Process) -> String {
    format!("corbel-{}-", launcher.pid())
}

/// How many processes name `mark` in their command line.
fn living(mark: &str) -> usize {
    pids(mark).len()
}

fn pids(mark: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(mark.len()).any(|part| part == mark.as_bytes())
    };
    pids.filter(names).collect()
}

/// Namespaces and temporary folders that begin with `mark`.
fn left(mark: &str) -> Vec<String> {
    let folders = ["/run/netns".into(), std::env::temp_dir()];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(mark)).collect()
}
