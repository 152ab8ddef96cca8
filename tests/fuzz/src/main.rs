//! `fuzz TARGET SECONDS [SEED]`: a long run of one target, or of all of them.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;
use tests_fuzz::{Find, TARGETS, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, seconds, seed) = match arguments.as_slice() {
        [name, seconds] => (name, seconds.parse(), Ok(1)),
        [name, seconds, seed] => (name, seconds.parse(), seed.parse()),
        _ => {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("usage: fuzz TARGET SECONDS [SEED]\ntargets: all {}", names.join(" "));
            return ExitCode::from(2);
        }
    };
    let (Ok(seconds), Ok(seed)) = (seconds, seed) else {
        eprintln!("fuzz: SECONDS and SEED are numbers");
        return ExitCode::from(2);
    };
    let mut found = false;
    for target in TARGETS.iter().filter(|target| name == "all" || target.name == name) {
        match run(target, seed, Duration::from_secs(seconds), 0) {
            Ok(count) => println!("{}: {count} inputs survived", target.name),
            Err(Find { seed, input }) => {
                found = true;
                println!("{}: FOUND by seed {seed}: {}", target.name, input.escape_ascii());
            }
        }
    }
    if found { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
