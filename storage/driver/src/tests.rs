//! A disk under random requests over random services: connections die, services crash with and without their cache,
//! flushes fail and drop what they were to make durable, requests of dead connections are executed late. What was
//! acknowledged is there, and what was flushed is durable.

mod directed;
mod world;

use crate::Rate;
use std::time::Duration;
use world::{Defects, Faults, World};

const SEEDS: u64 = 400;

fn many(faults: Faults) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed, faults, Defects::default());
        world.run(1000);
        let status = world.status();
        sum = (sum.0 + world.verified, sum.1 + status.replays, sum.2 + status.repairs);
    }
    sum
}

#[test]
fn on_a_sunny_day_everything_is_right() {
    let (verified, replays, repairs) = many(Faults::default());
    assert!(verified > 100_000 && replays == 0 && repairs == 0, "{verified} {replays} {repairs}");
}

#[test]
fn nothing_is_lost_when_connections_die_and_their_requests_are_executed_late() {
    let (verified, replays, _) = many(Faults { kills: true, ..Faults::default() });
    assert!(verified > 50_000 && replays > 100, "{verified} {replays}");
}

#[test]
fn nothing_is_lost_when_services_crash_with_their_cache() {
    let (verified, replays, _) = many(Faults { kills: true, crashes: true, ..Faults::default() });
    assert!(verified > 50_000 && replays > 100, "{verified} {replays}");
}

#[test]
fn a_failed_flush_that_drops_what_it_was_to_keep_is_repaired_before_it_is_answered() {
    let (verified, _, repairs) = many(Faults { flushes: true, ..Faults::default() });
    assert!(verified > 50_000 && repairs > 100, "{verified} {repairs}");
}

#[test]
fn all_of_it_together_over_several_connections() {
    let all = Faults { kills: true, crashes: true, flushes: true, shared: true, errors: true, fences: true };
    let (verified, replays, repairs) = many(all);
    assert!(verified > 50_000 && replays > 100 && repairs > 100, "{verified} {replays} {repairs}");
}

/// In how many of the worlds something is wrong when the driver lacks one of its rules.
fn found(faults: Faults, defects: Defects) -> usize {
    let wrong = |seed| std::panic::catch_unwind(|| World::new(seed, faults, defects).run(1000)).is_err();
    (0..SEEDS).filter(|&seed| wrong(seed)).count()
}

#[test]
fn without_the_journal_losses_are_found() {
    let faults = Faults { kills: true, crashes: true, ..Faults::default() };
    assert!(found(faults, Defects { forgets: true, ..Defects::default() }) > 10);
}

#[test]
fn without_the_quarantine_ghosts_are_found() {
    let faults = Faults { kills: true, ..Faults::default() };
    assert!(found(faults, Defects { no_hold_off: true, ..Defects::default() }) > 10);
}

#[test]
fn a_service_that_claims_to_have_forgotten_nothing_and_has_is_found() {
    let faults = Faults { kills: true, crashes: true, fences: true, ..Faults::default() };
    assert!(found(faults, Defects { lies: true, ..Defects::default() }) > 10);
}

#[test]
fn a_disk_with_a_rate_gets_no_more_and_everything_ends() {
    let mut world = World::new(1, Faults::default(), Defects::default());
    world.limit(Rate { iops: 50, bandwidth: 0, burst: 1 });
    world.run(1000);
    // A second's worth may go at once.
    let rate = (world.executed - 50) as f64 / world.elapsed().as_secs_f64();
    assert!((40.0..=51.0).contains(&rate), "{rate} in a second");
}

#[test]
fn a_withdrawn_disk_is_flushed_before_the_farewell() {
    for seed in 0..50 {
        let mut world = World::new(seed, Faults::default(), Defects::default());
        world.run(200);
        world.close(Duration::from_secs(10));
        assert!(world.is_durable(), "seed {seed}");
    }
}
