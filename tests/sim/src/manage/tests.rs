//! The worlds of many seeds, those of the past, and the planted bugs.

use super::{Bug, Plan, run, shrink, violation};
use crate::tests::{ENOUGH, PLENTY, past, planted, worlds};
use crate::{manage_all, manage_campaign};

#[test]
fn the_worlds_of_all_seeds_hold() {
    let tally = manage_campaign(0, worlds(), None, PLENTY);
    println!("{tally}");
    assert!(tally.wrong.is_empty(), "{tally}: {:?}", tally.wrong);
}

#[test]
fn what_went_wrong_once_goes_well_now() {
    let tally = manage_all(past("past/manage"), None, PLENTY);
    assert!(tally.worlds > 0 && tally.wrong.is_empty(), "{tally}: {:?}", tally.wrong);
}

#[test]
fn a_seed_is_a_world_to_the_microsecond_also_when_it_was_written_down() {
    for seed in 0..20 {
        let plan = Plan::of(seed);
        let again: Plan = plan.to_string().parse().expect("our own text");
        assert_eq!(run(&plan, None), run(&again, None));
    }
    assert_ne!(run(&Plan::of(1), None).digest, run(&Plan::of(2), None).digest);
}

#[test]
fn worlds_have_commands_that_are_carried_out_and_answers_that_are_checked() {
    let tally = manage_campaign(0, 100, None, PLENTY);
    assert!(tally.commands > 100 && tally.sectors > 500, "{tally}");
}

#[test]
fn a_plan_is_shrunk_to_what_matters() {
    let bug = Some(Bug::CallTwice);
    let seed = (0..ENOUGH as u64).find(|&seed| {
        let plan = Plan::of(seed);
        plan.faults.len() > 3 && violation(&plan, bug).is_some()
    });
    let smallest = shrink(&Plan::of(seed.expect("a world with faults that shows the bug")), bug);
    assert!(violation(&smallest, bug).is_some());
    assert!(smallest.faults.is_empty(), "the bug needs no faults:\n{smallest}");
}

/// Some world shows the bug, and nothing else.
fn finds(bug: Bug) {
    let mut plans = (0..ENOUGH as u64).map(|seed| (seed.to_string(), Plan::of(seed)));
    loop {
        let tally = manage_all(&mut plans, Some(bug), 1);
        let Some((name, wrong)) = tally.wrong.first() else { break };
        let seed = name.parse().expect("a seed");
        if violation(&Plan::of(seed), None).is_none() {
            return println!("{bug:?}: seed {seed}: {wrong}; {tally}");
        }
    }
    panic!("{bug:?} was planted in {ENOUGH} worlds and not found");
}

planted! {
    a_journal_that_is_not_written_is_found: LostSync,
    an_agent_that_forgets_is_found: Amnesia,
    a_command_that_comes_too_late_and_is_taken_is_found: NoDeadline,
    a_replaced_appliance_that_still_commands_is_found: NoFence,
    a_failure_that_is_told_as_success_is_found: FalseDone,
    a_call_that_is_made_twice_is_found: CallTwice,
    a_state_disk_that_forgets_is_found: LyingStateDisk,
    a_map_that_is_not_in_effect_is_found: LostMap,
    a_disk_that_its_guest_still_has_and_is_told_as_gone_is_found: HastyDetach,
}
