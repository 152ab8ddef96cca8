//! Run worlds: `sim SEED [COUNT]`. One seed alone tells what happens in its world; of many, only what is wrong.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;
use tests_sim::Bug;

const USAGE: &str = "usage: sim SEED [COUNT [BUG]]
One seed: run its world and print its log. COUNT worlds from SEED on: print those in which something is wrong.
BUG is the number of one to plant.";

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(seed)), None, None, None) => one(seed),
        (Some(Ok(seed)), Some(Ok(count)), None, None) => many(seed, count, None),
        (Some(Ok(seed)), Some(Ok(count)), Some(Ok(bug)), None) => {
            many(seed, count, Bug::ALL.get(bug as usize).copied())
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64) -> ExitCode {
    tests_sim::log::start();
    let report = tests_sim::run(seed, None);
    println!("seed {seed}: {report:#?}");
    ExitCode::from(u8::from(report.violation.is_some()))
}

fn many(seed: u64, count: u64, bug: Option<Bug>) -> ExitCode {
    let started = Instant::now();
    let mut wrong = 0;
    let (mut answered, mut time) = (0, 0);
    for seed in seed..seed.saturating_add(count) {
        match std::panic::catch_unwind(|| tests_sim::run(seed, bug)) {
            Ok(report) => {
                answered += report.answered.0;
                time += report.time.as_secs();
                if let Some(violation) = report.violation {
                    println!("seed {seed}: {violation}");
                    wrong += 1;
                }
            }
            Err(_) => {
                println!("seed {seed}: panic");
                wrong += 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{count} worlds, {answered} commands, {time} virtual seconds in {seconds:.1} s: {wrong} wrong");
    ExitCode::from(u8::from(wrong > 0))
}
