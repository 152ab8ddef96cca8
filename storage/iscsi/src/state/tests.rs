//! The tables are the standard's, and the text that shows them is theirs.

use super::{SessionState, SessionTrigger, State, Trigger};
use crate::login::Stage;
use storage_block::draw;

const CONNECTION: &[(State, &str)] = &[
    (State::Free, "S1 FREE"),
    (State::TransportUp, "S3 XPT_UP"),
    (State::InLogin, "S4 IN_LOGIN"),
    (State::LoggedIn, "S5 LOGGED_IN"),
    (State::InLogout, "S6 IN_LOGOUT"),
    (State::LogoutRequested, "S7 LOGOUT_REQUESTED"),
    (State::CleanupWait, "S8 CLEANUP_WAIT"),
];

const CLEANUP: &[(State, &str)] =
    &[(State::CleanupWait, "R1 CLEANUP_WAIT"), (State::InCleanup, "R2 IN_CLEANUP"), (State::Free, "R3 FREE")];

const SESSION: &[(SessionState, &str)] = &[
    (SessionState::Free, "Q1 FREE"),
    (SessionState::Active, "Q2 ACTIVE"),
    (SessionState::LoggedIn, "Q3 LOGGED_IN"),
    (SessionState::Failed, "Q4 FAILED"),
    (SessionState::InContinue, "Q5 IN_CONTINUE"),
];

const STAGES: &[(Stage, &str)] = &[
    (Stage::Security, "0 Security"),
    (Stage::Operational, "1 Operational"),
    (Stage::FullFeature, "3 FullFeature"),
];

/// The arrows of one of the two diagrams that a connection's states are drawn in.
fn arrows_named(letter: char) -> Vec<(&'static str, State, Trigger, State)> {
    State::ARROWS.iter().copied().filter(|arrow| arrow.0.starts_with(letter)).collect()
}

#[test]
fn the_text_shows_the_tables() {
    let mut drawn = String::from(
        "The state machines of this package, as their tables in src/state.rs, src/state/session.rs and src/login.rs have\n\
         them. A row is the state before, a column the state after, a cell the arrow's name in the standard.\n\n",
    );
    drawn += &draw("A connection at the target (RFC 7143, 8.1.4)", CONNECTION, &arrows_named('T'));
    drawn += &draw("The cleanup of a connection (8.2)", CLEANUP, &arrows_named('M'));
    drawn += &draw("A session at the target (8.3.2)", SESSION, SessionState::ARROWS);
    drawn += &draw("The stages of a login (6.3), by what NSG asks for", STAGES, Stage::ARROWS);
    storage_block::assert_states_shown!(drawn);
}

/// The governing tables of the standard, cell by cell, written down apart from ours.
#[test]
fn the_tables_have_the_cells_of_the_standard() {
    let cells = |rows: &[&str]| -> Vec<Vec<String>> {
        rows.iter().map(|row| row.split(' ').map(str::to_string).collect()).collect()
    };
    assert_eq!(
        grid(CONNECTION, &arrows_named('T')),
        cells(&[
            "- T3 - - - - -",
            "T6 - T4 - - - -",
            "T7 - - T5 - - -",
            "T8 - - - T9 T11 T15",
            "T13 - - - - - T17",
            "T18 - - - T10 T12 T16",
            "- - - - - - -",
        ])
    );
    assert_eq!(grid(CLEANUP, &arrows_named('M')), cells(&["- M2 M1", "M3 - M4", "- - -"]));
    assert_eq!(
        grid(SESSION, SessionState::ARROWS),
        cells(&["- N1 - - -", "N9 - N2 - -", "N3 - - N5 -", "N6 - - - N7", "N11 - N10 N8 -"])
    );
}

fn grid<S: Copy + PartialEq, T: Copy>(
    states: &[(S, &str)],
    arrows: &[(&'static str, S, T, S)],
) -> Vec<Vec<String>> {
    let cell = |from, to| {
        let mut found: Vec<_> =
            arrows.iter().filter(|arrow| arrow.1 == from && arrow.3 == to).map(|arrow| arrow.0).collect();
        found.dedup();
        if found.is_empty() { "-".to_string() } else { found.join(",") }
    };
    states.iter().map(|&(from, _)| states.iter().map(|&(to, _)| cell(from, to)).collect()).collect()
}

#[test]
fn what_is_not_drawn_does_not_happen() {
    for arrow in State::ARROWS {
        assert_eq!(arrow.1.after(arrow.2), Some(arrow.3));
    }
    assert_eq!(State::Free.after(Trigger::LogoutRequest), None);
    assert_eq!(State::InLogout.after(Trigger::LogoutRequest), None);
    assert_eq!(State::CleanupWait.after(Trigger::TransportUp), None);
    assert_eq!(SessionState::Free.after(SessionTrigger::LoginAccepted), None);
    assert_eq!(SessionState::Failed.after(SessionTrigger::LoginAccepted), None, "only by way of Q5");
    assert_eq!(Stage::Operational.after(Stage::Security), None);
}
