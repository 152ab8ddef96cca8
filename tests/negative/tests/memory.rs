//! The whole table against the whole of storage, in memory: target and SCSI engine, driver, NBD client and TCP, with a
//! storage service at the end and an initiator at the other, on virtual time.

mod memory {
    pub(crate) mod world;
}

use memory::world::World;
use std::collections::BTreeSet;
use tests_negative::{Answer, Case, Place, SOURCES, Step, cases, fill, is_as_filled, play};

/// Cases of which each has to be refused: what was promised.
const PROMISED: usize = 400;

fn place() -> Place {
    Place {
        initiator: "iqn.2026-11.example:rogue".into(),
        target: "iqn.2026-11.example:disk".into(),
        blocks: memory::world::BLOCKS,
    }
}

#[test]
fn every_case_is_answered_as_it_has_to_be_and_changes_nothing() {
    let place = place();
    let mut world = World::new(&place.target);
    fill(&place, &mut world.connect()).expect("the disk is there");
    let cases = cases(&place);
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let outcome = play(case, &place, &mut world.connect());
            outcome.err().map(|error| format!("{} {}: {error}", case.source, case.name))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    is_as_filled(&place, &mut world.connect()).expect("nothing has changed");
}

#[test]
fn no_case_is_there_twice() {
    let cases = cases(&place());
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "each has a name of its own");
    let said = |case: &Case| {
        let said = case.steps.iter().filter_map(|step| match step {
            Step::Say(said) => {
                Some(format!("{:?} {:?} {:?} {:?}", said.header, said.additional, said.data, said.edits))
            }
            Step::Hear(_) => None,
        });
        format!("{:?} {:?}", case.state, said.collect::<Vec<_>>())
    };
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = cases.iter().filter(|case| !seen.insert(said(case))).map(|case| &case.name).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn every_case_is_refused_or_is_as_if_it_had_never_come() {
    let cases = cases(&place());
    for case in &cases {
        let Some(Step::Hear(_)) = case.steps.iter().rfind(|step| matches!(step, Step::Hear(_))) else {
            panic!("{}: nothing is heard", case.name);
        };
        let done = |step: &Step| matches!(step, Step::Hear(Answer::Nothing | Answer::Managed(0)));
        assert!(case.is_refused() != case.steps.iter().any(done), "{}", case.name);
    }
    let refused = cases.iter().filter(|case| case.is_refused()).count();
    assert!(refused >= PROMISED, "{refused} cases are refused");
}

/// The README has a row for each source, with the number of its cases.
#[test]
fn the_readme_counts_right() {
    let readme = include_str!("../README.md");
    let cases = cases(&place());
    let mut rows: Vec<String> = SOURCES
        .iter()
        .map(|(source, what)| {
            let count = cases.iter().filter(|case| case.source == *source).count();
            format!("| {source} | {what} | {count} |")
        })
        .collect();
    let refused = cases.iter().filter(|case| case.is_refused()).count();
    rows.push(format!(
        "| all | of which {} are as if they had never come, and {refused} are refused | {} |",
        cases.len() - refused,
        cases.len()
    ));
    let missing: Vec<_> = rows.iter().filter(|row| !readme.contains(*row)).cloned().collect();
    assert!(missing.is_empty(), "the README lacks:\n{}", missing.join("\n"));
    assert!(cases.iter().all(|case| SOURCES.iter().any(|(source, _)| *source == case.source)));
}

/// A table that cannot fail proves nothing: with any other answer each case is wrong.
#[test]
fn a_wrong_answer_is_noticed() {
    let place = place();
    let mut world = World::new(&place.target);
    for mut case in cases(&place).into_iter().step_by(7) {
        for step in &mut case.steps {
            let Step::Hear(answer) = step else { continue };
            *answer = match answer.clone() {
                Answer::Closed => Answer::Refused(2, 0),
                Answer::Refused(class, detail) => Answer::Refused(class, detail ^ 1),
                Answer::Settled(pair) => Answer::Settled(format!("{pair}x=y")),
                Answer::Reject(reason) => Answer::Reject(reason ^ 1),
                Answer::Condition(mut sense) => {
                    sense.specific[2] ^= 1;
                    Answer::Condition(sense)
                }
                Answer::Status(status) => Answer::Status(status ^ 4),
                Answer::Conflict => Answer::Status(0x18),
                Answer::Managed(code) => Answer::Managed(code ^ 4),
                Answer::LoggedOut(code) => Answer::LoggedOut(code ^ 4),
                Answer::Wanted | Answer::Nothing => Answer::Closed,
            };
        }
        let outcome = play(&case, &place, &mut world.connect());
        assert!(outcome.is_err(), "{} is right whatever comes", case.name);
    }
}
