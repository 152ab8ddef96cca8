//! Every verb in every state, sent twice, with the agent ending at each place where it can.

use super::played::{World, action};
use crate::plan::{self, Plan};
use crate::{Known, Step};
use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{Failure, Outcome, Refusal, State, Verb};

/// The states that can be reached and left alone.
const STATES: [State; 8] = [
    State::Stopped,
    State::Running,
    State::Paused,
    State::Stopping,
    State::Saved,
    State::Failed,
    State::Terminated,
    State::Unknown,
];

/// Verbs after whose native call the instance looks as before.
fn leaves_no_trace(verb: Verb) -> bool {
    use Verb as V;
    matches!(verb, V::Reset | V::Snapshot | V::Revert | V::Resize | V::VolumeResize | V::NicUpdate)
}

#[test]
fn every_verb_in_every_state_comes_to_what_the_life_cycle_says_and_a_second_one_changes_nothing() {
    for state in STATES {
        for &verb in Verb::ALL {
            let what = format!("{verb} when {state}");
            let mut world = World::new();
            world.reach("a", state);
            let before = world.real("a").steps.len();
            let command = world.command("a", action(verb));
            let first = match world.send(&command) {
                Known::Ended(outcome) => outcome,
                Known::Accepted(_) => {
                    assert!(plan::awaited(&command.action).is_some(), "{what}");
                    world.pass(10_000);
                    world.ended(&command.op_id)
                }
                other => panic!("{what}: {other:?}"),
            };
            let record = |outcome: &Outcome| matches!(outcome, Outcome::Done { changed: true, .. });
            match effect(state, verb) {
                _ if verb == Verb::VolumeResize && state != State::Terminated => {
                    assert!(matches!(first, Outcome::Refused { code: Refusal::Impossible, .. }), "{what}");
                }
                Effect::Refuse(code) => {
                    assert!(
                        matches!(&first, Outcome::Refused { code: is, .. } if *is == code),
                        "{what}: {first:?}"
                    );
                }
                Effect::Already => {
                    assert!(matches!(first, Outcome::Done { changed: false, .. }), "{what}: {first:?}");
                }
                Effect::Keep
                    if state == State::Paused && matches!(verb, Verb::VolumeDetach | Verb::NicDetach) =>
                {
                    let Outcome::Failed { code: Failure::GuestDidNotRelease, .. } = first else {
                        panic!("{what}")
                    };
                    continue;
                }
                // It does not move.
                Effect::Keep if verb == Verb::MigrateCancel => {
                    assert!(matches!(first, Outcome::Done { changed: false, .. }), "{what}: {first:?}");
                }
                Effect::Change(_) | Effect::Keep => assert!(record(&first), "{what}: {first:?}"),
            }
            if !record(&first) {
                assert_eq!(world.real("a").steps.len(), before, "{what}: nothing was done");
            }
            let after: Vec<usize> = world.machines.values().map(|real| real.steps.len()).collect();
            if verb != Verb::Describe {
                assert_eq!(world.send(&command), Known::Ended(first), "{what}: the same answer");
            }
            world.pass(10_000);
            let again: Vec<usize> = world.machines.values().map(|real| real.steps.len()).collect();
            assert_eq!(after, again, "{what}: nothing more was done");
        }
    }
}

/// Verbs that have a machine run that did not.
fn starts(verb: Verb) -> bool {
    matches!(verb, Verb::Start | Verb::Create | Verb::Restore | Verb::Reboot)
}

/// Plays one command, with a crash at the `crash`th place that it passes; whether there is such a place.
fn play(state: State, verb: Verb, obeys: bool, crash: usize) -> bool {
    // A guest whose processors are held lets go of nothing.
    let obeys = obeys && state != State::Paused;
    let what = format!("{verb} when {state}, crash at {crash}, obeys {obeys}");
    let mut world = World::new();
    world.guests_obey = obeys;
    world.reach("a", state);
    let uuid = world.instance("a").uuid;
    let steps = world.machines[&uuid].steps.len();
    world.passed = 0;
    world.crash_at = Some(crash);
    let command = world.command("a", action(verb));
    world.send(&command);
    world.pass(10_000);
    if world.crashes == 0 {
        return false;
    }
    world.pass(100_000);
    let mut done: Vec<Step> = world
        .machines
        .iter()
        .flat_map(|(of, real)| {
            let skip = if *of == uuid { steps } else { 0 };
            real.steps.iter().skip(skip).cloned().collect::<Vec<_>>()
        })
        .collect();
    let told = world.engine.outcome(&command.op_id);
    for step in &done {
        let times = done.iter().filter(|other| *other == step).count();
        // Ending what nothing runs of any more is no second time: it removes what is left.
        let removes = matches!(verb, Verb::Terminate | Verb::MigrateStart) && *step == Step::End;
        let distinct = if removes { 2 } else { 1 };
        assert!(times <= distinct, "{what}: {step:?} was done {times} times");
    }
    match &told {
        Known::Never => assert!(done.is_empty(), "{what}: {done:?} and nobody knows"),
        Known::Ended(Outcome::Done { changed: true, .. }) => {
            let mut sight = World::new();
            sight.reach("a", state);
            let only_written = matches!(
                plan::plan(&command, sight.engine.record(&command.instance).unwrap()),
                Plan::Record(_)
            );
            assert!(only_written && verb != Verb::Create || !done.is_empty(), "{what}: told as done");
        }
        Known::Ended(Outcome::Done { changed: false, .. } | Outcome::Refused { .. }) => {
            assert!(done.is_empty(), "{what}: {done:?} although {told:?}");
        }
        Known::Ended(Outcome::Failed { code: Failure::Interrupted, .. }) => {
            let asked = plan::awaited(&command.action).is_some();
            // What there is of a start that was cut short is ended.
            done.retain(|step| *step != Step::End || !starts(verb));
            // A reboot may end between its halves; what is told says that it is stopped.
            let half = verb == Verb::Reboot && done == [Step::AskToStop];
            assert!(done.is_empty() || asked && !obeys || half, "{what}: {done:?} although {told:?}");
        }
        Known::Ended(Outcome::Failed {
            code: Failure::GuestIgnored | Failure::GuestDidNotRelease, ..
        }) => {
            assert!(!obeys, "{what}: {told:?}");
        }
        Known::Ended(Outcome::Indeterminate { .. }) => {
            assert!(leaves_no_trace(verb) || state == State::Unknown, "{what}: {told:?}");
            let mut other = |verb| {
                let command = world.command("a", action(verb));
                world.send(&command)
            };
            let Known::Ended(Outcome::Refused { code: Refusal::Frozen, .. }) = other(Verb::Reset) else {
                panic!("{what}: not frozen")
            };
            assert!(matches!(other(Verb::Describe), Known::Ended(Outcome::Done { .. })), "{what}");
            let ended = other(if crash.is_multiple_of(2) { Verb::ForceStop } else { Verb::Terminate });
            assert!(matches!(ended, Known::Ended(Outcome::Done { changed: true, .. })), "{what}: {ended:?}");
        }
        other => panic!("{what}: {other:?} for ever"),
    }
    let state = world.instance("a").state;
    assert!(
        state != State::Pending || verb == Verb::MigratePrepare,
        "{what}: {told:?}, and it stays pending"
    );
    if let Known::Ended(outcome) = told {
        assert_eq!(world.send(&command), Known::Ended(outcome), "{what}: told the same again");
    }
    true
}

#[test]
fn whatever_place_the_agent_ends_at_nothing_is_done_twice_and_nothing_is_told_wrong() {
    let mut played = 0;
    for state in STATES {
        for &verb in Verb::ALL {
            for obeys in [true, false] {
                played += (1..).take_while(|crash| play(state, verb, obeys, *crash)).count();
            }
        }
    }
    assert!(played > 1000, "{played}");
}

#[test]
fn a_journal_written_anew_says_the_same() {
    for state in STATES {
        let mut world = World::new();
        world.reach("a", state);
        let command = world.command("a", action(Verb::Reboot));
        world.send(&command);
        world.reach("b", State::Stopping);
        let before = world.engine.snapshot();
        let batch = crate::Batch { last: world.engine.head(), entries: before.clone() };
        world.journal = vec![batch];
        let known = world.engine.outcome(&command.op_id);
        world.restart();
        assert_eq!(world.engine.snapshot(), before, "{state}");
        if let Known::Ended(_) = known {
            assert_eq!(world.engine.outcome(&command.op_id), known);
        }
        let text = agent_protocol::encode(&before);
        assert!(!text.is_empty());
    }
}
