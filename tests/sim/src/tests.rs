//! The smoke of some hundred worlds, the seeds of the past, and the planted bugs.

use crate::{Bug, run};

/// Worlds of the smoke.
const SMOKE: u64 = 400;
/// Worlds in which a planted bug must have been found.
const ENOUGH: u64 = 2000;

/// Seeds that found something, and what. A seed stands for another world once the plan changes, so each find has a test
/// of its own beside the code that was mended; these go on as worlds that were once the wrong ones.
const PAST: &[(u64, &str)] = &[
    (2, "pings behind several commands without a place waited half a second for each"),
    (299, "UNMAP was refused for ever when it came before the storage service had answered"),
    (127, "a failed flush below a write with FUA was forgotten by the next one"),
];

fn holds(seed: u64) {
    let report = run(seed, None);
    if let Some(violation) = report.violation {
        panic!("seed {seed}: {violation}\nlook at it again with: cargo sim {seed}");
    }
}

#[test]
fn what_went_wrong_once_goes_well_now() {
    for (seed, _) in PAST {
        holds(*seed);
    }
}

#[test]
fn some_hundred_worlds_hold() {
    (0..SMOKE).for_each(holds);
}

#[test]
fn a_seed_is_a_world_to_the_microsecond() {
    for seed in 0..5 {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[test]
fn worlds_are_not_all_the_same() {
    assert_ne!(run(1, None).digest, run(2, None).digest);
}

/// The first world that shows the bug.
fn finds(bug: Bug) {
    let found = (0..ENOUGH).find(|&seed| run(seed, Some(bug)).violation.is_some());
    assert!(found.is_some(), "{bug:?} was planted in {ENOUGH} worlds and not found");
}

#[test]
fn a_forgotten_write_is_found() {
    finds(Bug::LostWrite);
}

#[test]
fn a_lying_flush_is_found() {
    finds(Bug::LyingFlush);
}

#[test]
fn a_ghost_that_comes_too_late_is_found() {
    finds(Bug::LateGhost);
}

#[test]
fn a_silent_roll_back_is_found() {
    finds(Bug::SilentRollback);
}

#[test]
fn a_misdirected_write_is_found() {
    finds(Bug::MisdirectedWrite);
}

#[test]
fn a_bit_that_falls_over_is_found() {
    finds(Bug::BitRot);
}

#[test]
fn a_status_that_never_comes_is_found() {
    finds(Bug::LostStatus);
}

#[test]
fn a_status_that_comes_twice_is_found() {
    finds(Bug::DoubledStatus);
}

#[test]
fn newer_writes_that_do_not_wait_for_ghosts_are_found() {
    finds(Bug::NoHoldOff);
}
