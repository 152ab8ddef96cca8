//! Run worlds: see the usage text.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tests_sim::{Bug, Plan, campaign, manage, manage_campaign, run, shrink, violation};

const USAGE: &str = "usage:
sim SEED                 run the world of a seed and print its log
sim FILE.plan            the same for a plan that was written down
sim SEED COUNT [BUG]     run many worlds on all processors; print the seeds in which something is wrong.
                         BUG is the name of one to plant
sim SEED --plan          print the plan of a seed
sim SEED --shrink        print the smallest plan like that of the seed in which something is wrong
sim SEED --save NAME     write that to tests/sim/past/NAME.plan, for ever
SEED may be a FILE.plan everywhere but with COUNT.
sim manage ...           all that for the worlds of management, whose plans are in tests/sim/past/manage";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match act(&arguments) {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(2)
        }
    }
}

fn act(arguments: &[&str]) -> Result<ExitCode, String> {
    match arguments {
        ["manage", rest @ ..] => manage(rest),
        [world] => Ok(one(&plan(world)?)),
        [world, "--plan"] => {
            print!("{}", plan(world)?);
            Ok(ExitCode::SUCCESS)
        }
        [world, "--shrink"] => {
            print!("{}", smallest(&plan(world)?)?);
            Ok(ExitCode::SUCCESS)
        }
        [world, "--save", name] => {
            let file = past().join(name).with_extension("plan");
            std::fs::write(&file, smallest(&plan(world)?)?)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            println!("{}", file.display());
            Ok(ExitCode::SUCCESS)
        }
        [seed, count, rest @ ..] => {
            let (Ok(seed), Ok(count)) = (seed.parse(), count.parse()) else { return Err(USAGE.to_string()) };
            let bug = match rest {
                [] => None,
                [name] => Some(bug(name)?),
                _ => return Err(USAGE.to_string()),
            };
            Ok(many(seed, count, bug))
        }
        [] => Err(USAGE.to_string()),
    }
}

fn past() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("past")
}

/// The plan of a seed, or that in a file.
fn plan(world: &str) -> Result<Plan, String> {
    if let Ok(seed) = world.parse() {
        return Ok(Plan::of(seed));
    }
    if !Path::new(world).extension().is_some_and(|extension| extension == "plan") {
        return Err(USAGE.to_string());
    }
    let text = std::fs::read_to_string(world).map_err(|error| format!("{world}: {error}"))?;
    text.parse().map_err(|error| format!("{world}: {error}"))
}

fn bug(name: &str) -> Result<Bug, String> {
    let found = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    found.ok_or_else(|| format!("no such bug; there are {:?}", Bug::ALL))
}

fn one(plan: &Plan) -> ExitCode {
    tests_sim::log::start();
    let report = run(plan, None);
    println!("{report:#?}");
    ExitCode::from(u8::from(report.violation.is_some()))
}

/// As text, with what is wrong before it.
fn smallest(plan: &Plan) -> Result<String, String> {
    if violation(plan, None).is_none() {
        return Err("nothing is wrong in this world".to_string());
    }
    let plan = shrink(plan, None);
    let wrong = violation(&plan, None).unwrap_or_default();
    Ok(format!("# {}\n{plan}", wrong.replace('\n', " ")))
}

fn many(seed: u64, count: u64, bug: Option<Bug>) -> ExitCode {
    let tally = campaign(seed, count, bug, usize::MAX);
    println!("{tally}");
    ExitCode::from(u8::from(!tally.wrong.is_empty()))
}

/// The same for the worlds of management.
fn manage(arguments: &[&str]) -> Result<ExitCode, String> {
    let plan = |world: &str| -> Result<manage::Plan, String> {
        if let Ok(seed) = world.parse() {
            return Ok(manage::Plan::of(seed));
        }
        let text = std::fs::read_to_string(world).map_err(|error| format!("{world}: {error}"))?;
        text.parse().map_err(|error| format!("{world}: {error}"))
    };
    let smallest = |world: &str| -> Result<String, String> {
        let plan = manage::shrink(&plan(world)?, None);
        let wrong = manage::violation(&plan, None).ok_or("nothing is wrong in this world")?;
        Ok(format!("# {}\n{plan}", wrong.replace('\n', " ")))
    };
    match arguments {
        [world] => {
            tests_sim::log::start();
            let report = manage::run(&plan(world)?, None);
            println!("{report:#?}");
            return Ok(ExitCode::from(u8::from(report.violation.is_some())));
        }
        [world, "--plan"] => print!("{}", plan(world)?),
        [world, "--shrink"] => print!("{}", smallest(world)?),
        [world, "--save", name] => {
            let file = past().join("manage").join(name).with_extension("plan");
            std::fs::write(&file, smallest(world)?)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            println!("{}", file.display());
        }
        [seed, count, rest @ ..] => {
            let (Ok(seed), Ok(count)) = (seed.parse(), count.parse()) else { return Err(USAGE.to_string()) };
            let bug = match rest {
                [] => None,
                [name] => Some(
                    *manage::Bug::ALL
                        .iter()
                        .find(|bug| format!("{bug:?}") == *name)
                        .ok_or_else(|| format!("no such bug; there are {:?}", manage::Bug::ALL))?,
                ),
                _ => return Err(USAGE.to_string()),
            };
            let tally = manage_campaign(seed, count, bug, usize::MAX);
            println!("{tally}");
            return Ok(ExitCode::from(u8::from(!tally.wrong.is_empty())));
        }
        [] => return Err(USAGE.to_string()),
    }
    Ok(ExitCode::SUCCESS)
}
