//! Many worlds, on all processors.
//!
//! What is wrong is printed as soon as it is known; so is a world that does not end, because something in it turns round
//! and round while no time passes there.

use crate::{Bug, Plan, Report, manage, run};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a world may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of many worlds.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Worlds that were run.
    pub worlds: u64,
    /// Commands that were answered in them.
    pub commands: u64,
    /// Sectors that were read and found right.
    pub sectors: u64,
    /// The time that passed in them.
    pub time: Duration,
    /// The time that passed here.
    pub took: Duration,
    /// Names of worlds in which something was wrong, and what.
    pub wrong: Vec<(String, String)>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { worlds, commands, sectors, time, took, wrong } = self;
        let rate = *worlds as f64 / took.as_secs_f64().max(0.001);
        write!(
            f,
            "{worlds} worlds, {commands} commands, {sectors} sectors compared, {} virtual seconds in {:.1} s \
             ({rate:.0} worlds a second): {} wrong",
            time.as_secs(),
            took.as_secs_f64(),
            wrong.len()
        )
    }
}

/// What is wrong in the world of `plan`, if anything; a panic is.
pub fn violation(plan: &Plan, bug: Option<Bug>) -> Option<String> {
    match catch_unwind(|| run(plan, bug)) {
        Ok(report) => report.violation,
        Err(panic) => Some(text_of(&panic)),
    }
}

pub(crate) fn text_of(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of no known kind"))
}

/// Run the worlds of `count` seeds from `first` on, and no more once `enough` were wrong.
pub fn campaign(first: u64, count: u64, bug: Option<Bug>, enough: usize) -> Tally {
    let seeds = first..first.saturating_add(count);
    run_all(seeds.map(|seed| (seed.to_string(), Plan::of(seed))), bug, enough)
}

/// Run all worlds, each of which has a name, and no more once `enough` were wrong.
pub fn run_all(
    worlds: impl Iterator<Item = (String, Plan)> + Send,
    bug: Option<Bug>,
    enough: usize,
) -> Tally {
    let again = bug.is_none().then_some("cargo sim");
    tally(worlds, enough, again, |plan| {
        let report = run(plan, bug);
        let Report { violation, time, answered, sectors, .. } = report;
        Outcome { commands: answered.0, sectors, time, violation }
    })
}

/// Run the worlds of management of `count` seeds from `first` on, and no more once `enough` were wrong. What is counted as
/// commands are native calls, and as sectors answers.
pub fn manage_campaign(first: u64, count: u64, bug: Option<manage::Bug>, enough: usize) -> Tally {
    let seeds = first..first.saturating_add(count);
    manage_all(seeds.map(|seed| (seed.to_string(), manage::Plan::of(seed))), bug, enough)
}

/// Run all worlds of management, each of which has a name, and no more once `enough` were wrong.
pub fn manage_all(
    worlds: impl Iterator<Item = (String, manage::Plan)> + Send,
    bug: Option<manage::Bug>,
    enough: usize,
) -> Tally {
    let again = bug.is_none().then_some("cargo sim manage");
    tally(worlds, enough, again, |plan| {
        let manage::Report { violation, time, checked, .. } = manage::run(plan, bug);
        Outcome { commands: checked.1, sectors: checked.0, time, violation }
    })
}

/// What came of one world.
struct Outcome {
    commands: u64,
    sectors: u64,
    time: Duration,
    violation: Option<String>,
}

/// Run worlds on all processors. What is wrong is told with how to run it `again`, unless it is to be.
fn tally<P>(
    worlds: impl Iterator<Item = (String, P)> + Send,
    enough: usize,
    again: Option<&str>,
    run: impl Fn(&P) -> Outcome + Sync + std::panic::RefUnwindSafe,
) -> Tally {
    let started = Instant::now();
    let worlds = Mutex::new(worlds);
    let is_over = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let running = Running::default();
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let next = worlds.lock().ok().and_then(|mut worlds| worlds.next());
            let Some((name, plan)) = next else { return };
            running.begin(&name);
            let outcome = catch_unwind(std::panic::AssertUnwindSafe(|| run(&plan)));
            running.end(&name);
            let Ok(mut tally) = tally.lock() else { return };
            tally.worlds += 1;
            let wrong = match outcome {
                Ok(outcome) => {
                    tally.commands += outcome.commands;
                    tally.sectors += outcome.sectors;
                    tally.time += outcome.time;
                    outcome.violation
                }
                Err(panic) => Some(text_of(&panic)),
            };
            if let Some(wrong) = wrong {
                if let Some(again) = again {
                    println!("seed {name}: {wrong}\n    once more, with its log: {again} {name}");
                }
                tally.wrong.push((name, wrong));
                is_over.fetch_or(tally.wrong.len() >= enough, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| running.watch(&is_over));
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let _ended = worker.join();
        }
        is_over.store(true, Ordering::Relaxed);
        watch.thread().unpark();
    });
    let mut tally = tally.into_inner().unwrap_or_default();
    tally.took = started.elapsed();
    tally.wrong.sort();
    tally
}

/// The worlds that are being run, and since when.
#[derive(Default)]
struct Running(Mutex<Vec<(String, Instant)>>);

impl Running {
    fn begin(&self, name: &str) {
        if let Ok(mut running) = self.0.lock() {
            running.push((name.to_string(), Instant::now()));
        }
    }

    fn end(&self, name: &str) {
        if let Ok(mut running) = self.0.lock() {
            running.retain(|(other, _)| other != name);
        }
    }

    /// Look after them until all is over. A thread cannot be stopped, so all ends with a world that does not.
    fn watch(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(200));
            let Ok(running) = self.0.lock() else { return };
            if let Some((name, _)) = running.iter().find(|(_, since)| since.elapsed() > PATIENCE) {
                println!(
                    "seed {name}: the world does not end\n    once more, with its log: cargo sim {name}"
                );
                std::process::exit(1);
            }
        }
    }
}
