//! The worlds of many seeds, those of the past, and the planted bugs.

use crate::{Bug, Plan, campaign, run, run_all, violation};
use std::path::Path;
use std::str::FromStr;

/// Worlds of a quick run; `SIM_WORLDS` says otherwise.
const QUICK: u64 = 1000;
/// Worlds in which a planted bug must have been found: less than a minute's worth.
pub(crate) const ENOUGH: usize = 3000;
/// Violations after which no more are looked for.
pub(crate) const PLENTY: usize = 20;

/// How many worlds there are to be.
pub(crate) fn worlds() -> u64 {
    let wanted = std::env::var("SIM_WORLDS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(QUICK)
}

#[test]
fn the_worlds_of_all_seeds_hold() {
    let tally = campaign(0, worlds(), None, PLENTY);
    println!("{tally}");
    assert!(tally.wrong.is_empty(), "{tally}: {:?}", tally.wrong);
}

#[test]
fn what_went_wrong_once_goes_well_now() {
    let tally = run_all(past("past"), None, PLENTY);
    assert!(tally.worlds > 0 && tally.wrong.is_empty(), "{tally}: {:?}", tally.wrong);
}

/// What found something once is kept as a plan, so that it stays the world that it was when seeds mean others.
pub(crate) fn past<P: FromStr<Err = String>>(folder: &str) -> std::vec::IntoIter<(String, P)> {
    let past = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> =
        past.read_dir().expect("the past").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "plan"));
    let plans = files.iter().map(|file| {
        let text = std::fs::read_to_string(file).expect("a text");
        let plan = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (file.display().to_string(), plan)
    });
    plans.collect::<Vec<_>>().into_iter()
}

#[test]
fn a_seed_is_a_world_to_the_microsecond() {
    for seed in 0..20 {
        assert_eq!(run(&Plan::of(seed), None), run(&Plan::of(seed), None));
    }
}

#[test]
fn a_plan_that_was_written_down_is_the_same_world() {
    for seed in 0..20 {
        let plan = Plan::of(seed);
        let again: Plan = plan.to_string().parse().expect("our own text");
        assert_eq!(run(&plan, None), run(&again, None));
    }
}

#[test]
fn worlds_are_not_all_the_same() {
    assert_ne!(run(&Plan::of(1), None).digest, run(&Plan::of(2), None).digest);
}

#[test]
fn a_plan_is_shrunk_to_what_matters() {
    let bug = Some(Bug::LostWrite);
    let seed = (0..ENOUGH as u64).find(|&seed| {
        let plan = Plan::of(seed);
        plan.faults.len() > 4 && violation(&plan, bug).is_some()
    });
    let plan = Plan::of(seed.expect("a world with faults that shows the bug"));
    let smallest = crate::shrink(&plan, bug);
    assert!(violation(&smallest, bug).is_some());
    assert!(smallest.faults.is_empty(), "the bug needs no faults:\n{smallest}");
}

/// Some world shows the bug, and nothing else.
fn finds(bug: Bug) {
    let plans = (0..).map(|seed: u64| (seed.to_string(), Plan::of(seed)));
    let mut plans = plans.filter(|(_, plan)| bug.may_show_in(plan)).take(ENOUGH);
    loop {
        let tally = run_all(&mut plans, Some(bug), 1);
        let Some((name, wrong)) = tally.wrong.first() else { break };
        let seed = name.parse().expect("a seed");
        if violation(&Plan::of(seed), None).is_none() {
            return println!("{bug:?}: seed {seed}: {wrong}; {tally}");
        }
    }
    panic!("{bug:?} was planted in {ENOUGH} worlds and not found");
}

/// A test for each bug that can be planted.
macro_rules! planted {
    ($($name:ident: $bug:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            finds(Bug::$bug);
        })+

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!(Bug::ALL.to_vec(), vec![$(Bug::$bug),+]);
        }
    };
}

pub(crate) use planted;

planted! {
    a_forgotten_write_is_found: LostWrite,
    a_lying_flush_is_found: LyingFlush,
    a_ghost_that_comes_too_late_is_found: LateGhost,
    a_silent_roll_back_is_found: SilentRollback,
    a_misdirected_write_is_found: MisdirectedWrite,
    a_bit_that_falls_over_is_found: BitRot,
    a_status_that_never_comes_is_found: LostStatus,
    a_status_that_comes_twice_is_found: DoubledStatus,
    newer_writes_that_do_not_wait_for_ghosts_are_found: NoHoldOff,
    a_service_that_lies_about_its_incarnation_is_found: StaleIncarnation,
    a_fence_that_drains_nothing_is_found: FenceWithoutDrain,
}
