//! What is wrong with the order of a login (RFC 7143, sections 6.3, 11.12 and 11.13.5).

use crate::case::{Answer, Case, Edit, Place, Said, State, Step, case};
use crate::play::{login, names};
use storage_iscsi::wire::{Header, LoginRequest, NopOut, opcode};

const INITIATOR_ERROR: Answer = Answer::Refused(2, 0);
const UNSUPPORTED_VERSION: Answer = Answer::Refused(2, 5);
const SESSION_DOES_NOT_EXIST: Answer = Answer::Refused(2, 10);

pub(crate) fn cases(place: &Place) -> Vec<Case> {
    let mut cases = stages(place);
    cases.extend(versions(place));
    cases.extend(sessions(place));
    cases.extend(changes());
    cases.extend(continued(place));
    cases.extend(something_else());
    cases
}

fn first(request: LoginRequest, place: &Place) -> Said {
    Said::new(request.header(), names(place).as_bytes())
}

/// Forward only, never to or from the reserved stage, and not while the text goes on (6.3, 11.12.3).
fn stages(place: &Place) -> Vec<Case> {
    let mut cases = Vec::new();
    for current_stage in 0..4 {
        for next_stage in 0..4 {
            if matches!((current_stage, next_stage), (0, 1 | 3) | (1, 3)) {
                continue;
            }
            let request = LoginRequest { current_stage, next_stage, ..login(0, true) };
            let name = format!("from stage {current_stage} to stage {next_stage}");
            cases.push(case("L17", name, State::TransportUp, first(request, place), INITIATOR_ERROR));
        }
    }
    for current_stage in [2, 3] {
        let request = LoginRequest { current_stage, ..login(0, false) };
        let name = format!("to stay in stage {current_stage}");
        cases.push(case("L17", name, State::TransportUp, first(request, place), INITIATOR_ERROR));
    }
    for (current_stage, next_stage) in [(0, 1), (0, 3), (1, 3)] {
        let request = LoginRequest { current_stage, next_stage, to_be_continued: true, ..login(0, true) };
        let name = format!("more to come, and from stage {current_stage} to {next_stage}");
        cases.push(case("L16", name, State::TransportUp, first(request, place), INITIATOR_ERROR));
    }
    cases
}

/// There is version 0 and no other (11.12.4).
fn versions(place: &Place) -> Vec<Case> {
    [(1, 1), (2, 1), (0xff, 0x80), (0xff, 0xff)]
        .map(|(version_max, version_min)| {
            let request = LoginRequest { version_max, version_min, ..login(1, true) };
            let name = format!("versions from {version_min} to {version_max}");
            case("L17", name, State::TransportUp, first(request, place), UNSUPPORTED_VERSION)
        })
        .to_vec()
}

/// A TSIH that is not zero names a session of this initiator, this ISID and this target, or none (6.3.1, 11.12.6).
fn sessions(place: &Place) -> Vec<Case> {
    let with = |name: String, request: LoginRequest| {
        case("L17", name, State::TransportUp, first(request, place), SESSION_DOES_NOT_EXIST)
    };
    [0x7fff, 0x8000, 0xbeef, 0xffff]
        .map(|tsih| {
            with(
                format!("to join session {tsih:#06x}, which never was"),
                LoginRequest { tsih, ..login(1, true) },
            )
        })
        .to_vec()
}

/// What all requests of a login have in common does not change on the way (6.3, 11.12).
fn changes() -> Vec<Case> {
    let mut cases = Vec::new();
    let change = |name: &str, at: usize, bytes: &[u8]| {
        let said = Said::new(login(1, true).header(), &[]).put(at, bytes);
        case(
            "L17",
            format!("another {name} in the second request"),
            State::Operational,
            said,
            INITIATOR_ERROR,
        )
    };
    for at in 8..14 {
        cases.push(change(&format!("ISID, by its byte {},", at - 8), at, &[0x5a]));
    }
    cases.push(change("TSIH", 14, &[0, 1]));
    cases.push(change("task tag", 16, &[0, 0, 0, 2]));
    cases.push(change("reserved task tag", 16, &[0xff; 4]));
    cases.push(change("CID", 20, &[0, 1]));
    cases.push(change("CID of 65535", 20, &[0xff; 2]));
    let back = Said::new(login(0, false).header(), &[]);
    cases.push(case("L17", "back to the security stage", State::Operational, back, INITIATOR_ERROR));
    let ahead = Said::new(login(1, false).header(), &[]);
    cases.push(case(
        "L17",
        "in the operational stage without a way there",
        State::Security,
        ahead,
        INITIATOR_ERROR,
    ));
    cases
}

/// Text that goes on without end is ended (6.2, and this target's own bounds: 32 requests, 16 KiB of text).
fn continued(place: &Place) -> Vec<Case> {
    let request = LoginRequest { to_be_continued: true, ..login(1, false) };
    let goes_on = |data: &[u8]| [Step::Say(Said::new(request.header(), data)), Step::Hear(goes_on())];
    let mut empty: Vec<_> = (0..32).flat_map(|_| goes_on(&[])).collect();
    empty.push(Step::Say(Said::new(request.header(), &[])));
    empty.push(Step::Hear(Answer::Closed));
    let mut long: Vec<_> = (0..2).flat_map(|_| goes_on(&[b'x'; 8000])).collect();
    long.push(Step::Say(Said::new(request.header(), &[b'x'; 8000])));
    long.push(Step::Hear(Answer::Refused(3, 2)));
    let mut half: Vec<_> = goes_on(b"InitiatorName").to_vec();
    half.push(Step::Say(Said::new(login(1, true).header(), &[])));
    half.push(Step::Hear(INITIATOR_ERROR));
    let mut cut: Vec<_> = goes_on(names(place).as_bytes()).to_vec();
    cut.push(Step::Say(Said::new(login(1, true).header(), &[]).with(Edit::Cut(20))));
    cut.push(Step::Hear(Answer::Closed));
    [
        ("more to come of nothing, for ever", empty),
        ("text of 24,000 bytes", long),
        ("half a key, and the end", half),
        ("text that was to go on, and half a request", cut),
    ]
    .map(|(name, steps)| Case { source: "L16", name: name.into(), state: State::TransportUp, steps })
    .to_vec()
}

/// The answer to a request that goes on: none of its own pairs yet.
fn goes_on() -> Answer {
    Answer::Settled(String::new())
}

/// Nothing but Login Requests before full feature phase (4.2.4); what is a target's is worth no answer.
fn something_else() -> Vec<Case> {
    let codes = [
        opcode::NOP_OUT,
        opcode::SCSI_COMMAND,
        opcode::TASK_MANAGEMENT_REQUEST,
        opcode::TEXT_REQUEST,
        opcode::DATA_OUT,
        opcode::LOGOUT_REQUEST,
        opcode::SNACK_REQUEST,
        0x1c,
        opcode::LOGIN_RESPONSE,
        opcode::REJECT,
    ];
    let mut cases = Vec::new();
    for state in [State::Security, State::Operational] {
        for code in codes {
            let mut header: Header = NopOut::default().header();
            header.0[0] = code;
            let answer = if header.from_initiator() { Answer::Refused(2, 11) } else { Answer::Closed };
            let name = format!("opcode {code:#04x} within a login, {state:?}");
            cases.push(case("L16", name, state, Said::new(header, &[]), answer));
        }
    }
    cases
}
