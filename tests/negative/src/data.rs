//! What is wrong with data on its way to the target (RFC 7143, sections 4.2.5, 11.3, 11.4.7.2 and 11.7).

use crate::case::{Answer, Case, Edit, Said, Sense, State, Step, Transferred};
use crate::session::SESSION;
use storage_iscsi::wire::{DataOut, RESERVED_TAG, ScsiCommand, TaskManagementRequest, reject};

/// Data that nobody asked for may come, up to 4 KiB.
const EAGER: State =
    State::FullFeature("InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=4096\0MaxBurstLength=65536\0");
/// All data is asked for.
const ASKED: State = State::FullFeature("InitialR2T=Yes\0ImmediateData=No\0");

const ABORTED_COMMAND: u8 = 0x0b;
const UNEXPECTED_UNSOLICITED_DATA: Answer = condition(0x0c0c);
const INCORRECT_AMOUNT_OF_DATA: Answer = condition(0x0c0d);
const PROTOCOL_SERVICE_CRC_ERROR: Answer = condition(0x4705);

const fn condition(code: u16) -> Answer {
    Answer::Condition(Sense {
        key: ABORTED_COMMAND,
        code,
        specific: [0; 3],
        transferred: Transferred::Nothing,
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = answers_to_r2t();
    cases.extend(strays());
    cases.extend(immediate());
    cases.extend(unsolicited());
    cases.extend(digests());
    cases.extend(aborts());
    cases
}

/// WRITE (10) of that many blocks, behind all that must not change.
fn write(blocks: u8) -> ScsiCommand {
    ScsiCommand {
        last: true,
        write: true,
        attribute: 1,
        initiator_task_tag: 0x60,
        expected_data_transfer_length: u32::from(blocks) * 512,
        cdb: [0x2a, 0, 0, 0, 0x10, 0, 0, 0, blocks, 0, 0, 0, 0, 0, 0, 0],
        ..ScsiCommand::default()
    }
}

fn say(command: &ScsiCommand) -> Step {
    Step::Say(Said::new(command.header(), &[]))
}

/// The Data-Out that an R2T asks for.
fn right() -> Said {
    let data = DataOut { last: true, ..DataOut::default() };
    Said::new(data.header(), &[]).with(Edit::AnswerR2t)
}

fn without_end(said: Said) -> Said {
    said.put(1, &[0])
}

/// What answers an R2T is what it asks for: in one sequence from 0 on, in order, no more and no less, with an end (11.7,
/// 11.8). Whatever is wrong ends the command, as soon as the sequence is over.
fn answers_to_r2t() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, said: Said, answer: Answer| {
        let steps = vec![say(&write(16)), Step::Hear(Answer::Wanted), Step::Say(said), Step::Hear(answer)];
        cases.push(Case { source: "L21", name, state: SESSION, steps });
    };
    for ahead in [1_u32, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let said = right().with(Edit::Add(36, ahead));
        push(format!("Data-Out that begins with DataSN {ahead:#x}"), said, PROTOCOL_SERVICE_CRC_ERROR);
    }
    for ahead in [4_u32, 512, 8192, 0x7fff_fffc, 0x8000_0000, 0xffff_fffc] {
        let said = right().with(Edit::Add(40, ahead));
        push(
            format!("Data-Out {ahead:#x} bytes away from where it belongs"),
            said,
            PROTOCOL_SERVICE_CRC_ERROR,
        );
    }
    for more in [-8192, -512, -1, 1, 512] {
        let said = right().with(Edit::Resize(more));
        push(
            format!("the end of a Data-Out sequence with {more} bytes more than due"),
            said,
            INCORRECT_AMOUNT_OF_DATA,
        );
    }
    push("a Data-Out sequence without an end".into(), without_end(right()), INCORRECT_AMOUNT_OF_DATA);
    let said = without_end(right().with(Edit::Resize(-512)));
    let mut steps = vec![say(&write(16)), Step::Hear(Answer::Wanted), Step::Say(said.clone())];
    // The same once more, instead of what comes next.
    steps.push(Step::Say(right()));
    steps.push(Step::Hear(PROTOCOL_SERVICE_CRC_ERROR));
    cases.push(Case { source: "L21", name: "data twice".into(), state: SESSION, steps });
    let next = right().with(Edit::Resize(-7680)).with(Edit::Add(40, 7680));
    for (name, number) in [("the same DataSN twice", 0_u32), ("a DataSN left out", 2)] {
        let steps = vec![
            say(&write(16)),
            Step::Hear(Answer::Wanted),
            Step::Say(said.clone()),
            Step::Say(next.clone().put(36, &number.to_be_bytes())),
            Step::Hear(PROTOCOL_SERVICE_CRC_ERROR),
        ];
        cases.push(Case { source: "L21", name: name.into(), state: SESSION, steps });
    }
    cases
}

/// Data for nobody is rejected, and whom it was not for goes on (11.7.4).
fn strays() -> Vec<Case> {
    let mut cases = Vec::new();
    let rejected = || Answer::Reject(reject::INVALID_PDU_FIELD);
    for ahead in [1_u32, 1000, 0x4000_0000, 0x7fff_ffff] {
        let steps = vec![
            say(&write(16)),
            Step::Hear(Answer::Wanted),
            Step::Say(right().with(Edit::Add(20, ahead))),
            Step::Hear(rejected()),
            Step::Say(right()),
            Step::Hear(Answer::Status(0)),
        ];
        let name = format!("a transfer tag {ahead:#x} ahead of the one that was given");
        cases.push(Case { source: "L21", name, state: SESSION, steps });
    }
    let steps = vec![
        say(&write(16)),
        Step::Hear(Answer::Wanted),
        Step::Say(right().put(16, &[0, 0, 0x77, 0x77]).put(20, &[0xff; 4])),
        Step::Hear(rejected()),
        Step::Say(right()),
        Step::Hear(Answer::Status(0)),
    ];
    cases.push(Case {
        source: "L21",
        name: "unsolicited data beside a task that waits".into(),
        state: SESSION,
        steps,
    });
    for (name, tag) in
        [("unsolicited data", RESERVED_TAG), ("data for a transfer that never was", 0x1234_5678)]
    {
        for length in [0, 1, 4096] {
            let data = DataOut {
                last: true,
                initiator_task_tag: 0x7777,
                target_transfer_tag: tag,
                ..DataOut::default()
            };
            let steps = vec![Step::Say(Said::new(data.header(), &vec![1; length])), Step::Hear(rejected())];
            let name = format!("{name}, {length} bytes for no task");
            cases.push(Case { source: "L21", name, state: SESSION, steps });
        }
    }
    let late = DataOut {
        last: true,
        initiator_task_tag: 0x60,
        target_transfer_tag: RESERVED_TAG,
        ..DataOut::default()
    };
    let steps = vec![
        say(&write(16)),
        Step::Hear(Answer::Wanted),
        Step::Say(right()),
        Step::Hear(Answer::Status(0)),
        Step::Say(Said::new(late.header(), &[1; 512])),
        Step::Hear(rejected()),
    ];
    cases.push(Case { source: "L21", name: "data for a task that has ended".into(), state: SESSION, steps });
    cases
}

/// Immediate data: only with a write, only where agreed on, no more than a first burst nor than is expected (11.3.4,
/// 13.11, 13.14).
fn immediate() -> Vec<Case> {
    let read = ScsiCommand {
        write: false,
        read: true,
        cdb: [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ..write(1)
    };
    let neither = ScsiCommand { read: false, cdb: [0; 16], expected_data_transfer_length: 0, ..read };
    let rows = [
        ("immediate data that was not agreed on", ASKED, write(1), 512, UNEXPECTED_UNSOLICITED_DATA),
        ("a byte of immediate data that was not agreed on", ASKED, write(1), 1, UNEXPECTED_UNSOLICITED_DATA),
        ("immediate data with a read", EAGER, read, 512, UNEXPECTED_UNSOLICITED_DATA),
        ("immediate data with a command that has none", EAGER, neither, 512, UNEXPECTED_UNSOLICITED_DATA),
        ("a byte more of immediate data than is expected", EAGER, write(1), 513, INCORRECT_AMOUNT_OF_DATA),
        ("four times the immediate data that is expected", EAGER, write(1), 2048, INCORRECT_AMOUNT_OF_DATA),
        (
            "a byte more of immediate data than a first burst",
            EAGER,
            write(16),
            4097,
            INCORRECT_AMOUNT_OF_DATA,
        ),
        ("all data at once, which is two first bursts", EAGER, write(16), 8192, INCORRECT_AMOUNT_OF_DATA),
        (
            "immediate data for a write of nothing",
            EAGER,
            ScsiCommand { expected_data_transfer_length: 0, ..write(0) },
            512,
            INCORRECT_AMOUNT_OF_DATA,
        ),
    ];
    rows.map(|(name, state, command, length, answer)| {
        let steps = vec![Step::Say(Said::new(command.header(), &vec![0x5a; length])), Step::Hear(answer)];
        Case { source: "L20", name: name.into(), state, steps }
    })
    .to_vec()
}

/// Unsolicited Data-Out: only where agreed on, from where the immediate data ends, in order, up to a first burst (11.7,
/// 13.10, 13.14).
fn unsolicited() -> Vec<Case> {
    let more = ScsiCommand { last: false, ..write(16) };
    let part = |length: usize, data_sn: u32, buffer_offset: u32| {
        let data = DataOut {
            last: true,
            initiator_task_tag: 0x60,
            target_transfer_tag: RESERVED_TAG,
            data_sn,
            buffer_offset,
            ..DataOut::default()
        };
        Step::Say(Said::new(data.header(), &vec![0x5a; length]))
    };
    let rows: Vec<(&str, State, Vec<Step>, Answer)> = vec![
        (
            "unsolicited data that was not agreed on",
            ASKED,
            vec![say(&more), part(512, 0, 0)],
            UNEXPECTED_UNSOLICITED_DATA,
        ),
        (
            "unsolicited data that begins with DataSN 1",
            EAGER,
            vec![say(&more), part(512, 1, 0)],
            PROTOCOL_SERVICE_CRC_ERROR,
        ),
        (
            "unsolicited data that does not begin at 0",
            EAGER,
            vec![say(&more), part(512, 0, 512)],
            PROTOCOL_SERVICE_CRC_ERROR,
        ),
        (
            "unsolicited data of more than a first burst",
            EAGER,
            vec![say(&more), part(4100, 0, 0)],
            INCORRECT_AMOUNT_OF_DATA,
        ),
        (
            "unsolicited data of two first bursts",
            EAGER,
            vec![say(&more), part(8192, 0, 0)],
            INCORRECT_AMOUNT_OF_DATA,
        ),
    ];
    rows.into_iter()
        .map(|(name, state, mut steps, answer)| {
            steps.push(Step::Hear(answer));
            Case { source: "L21", name: name.into(), state, steps }
        })
        .collect()
}

/// Data that does not match its digest is rejected, and its command ends (7.8).
fn digests() -> Vec<Case> {
    const DIGEST: State = State::FullFeature("DataDigest=CRC32C\0ImmediateData=Yes\0");
    let rejected = || Step::Hear(Answer::Reject(reject::DATA_DIGEST_ERROR));
    let spoilt = || Step::Hear(PROTOCOL_SERVICE_CRC_ERROR);
    let mut cases = Vec::new();
    for (what, at) in [("first byte", 48), ("last byte", 48 + 511), ("digest", 48 + 512)] {
        let said = Said::new(write(1).header(), &[0x5a; 512]).with(Edit::Damage(at, 0x80));
        let steps = vec![Step::Say(said), rejected(), spoilt()];
        let name = format!("the {what} of immediate data, off by a bit");
        cases.push(Case { source: "L24", name, state: DIGEST, steps });
        let said = right().with(Edit::Damage(at, 0x80));
        let steps = vec![say(&write(1)), Step::Hear(Answer::Wanted), Step::Say(said), rejected(), spoilt()];
        let name = format!("the {what} of a Data-Out, off by a bit");
        cases.push(Case { source: "L24", name, state: DIGEST, steps });
    }
    cases
}

/// A write that waits for its data is aborted, or its unit reset: that is answered, and the same again is, too, because
/// the task is gone (11.5.1 has "task does not exist" for it, at which initiators reset the unit); data that comes late
/// changes nothing (4.2.3.3).
fn aborts() -> Vec<Case> {
    const ABORT_TASK: u8 = 1;
    const LOGICAL_UNIT_RESET: u8 = 5;
    let manage = |function: u8, tag: u32, edits: Vec<Edit>| {
        let request = TaskManagementRequest {
            immediate: true,
            function,
            initiator_task_tag: tag,
            referenced_task_tag: if function == ABORT_TASK { 0x60 } else { RESERVED_TAG },
            ..TaskManagementRequest::default()
        };
        [Step::Say(Said { edits, ..Said::new(request.header(), &[]) }), Step::Hear(Answer::Managed(0))]
    };
    // RefCmdSN is that of the command, which is the one before the next.
    let abort = |tag: u32| manage(ABORT_TASK, tag, vec![Edit::Copy(24, 32), Edit::Add(32, u32::MAX)]);
    let reset = |tag: u32| manage(LOGICAL_UNIT_RESET, tag, vec![]);
    let case = |name: &str, functions: Vec<[Step; 2]>| {
        let mut steps = vec![say(&write(16)), Step::Hear(Answer::Wanted)];
        steps.extend(functions.concat());
        steps.push(Step::Say(right()));
        Case { source: "CVE-2024-26845", name: name.into(), state: SESSION, steps }
    };
    vec![
        case("an abort of a write that waits for data, and once more", vec![abort(0x61), abort(0x62)]),
        case(
            "an abort of a write that waits for data, a reset, and an abort",
            vec![abort(0x61), reset(0x62), abort(0x63)],
        ),
        case("a reset while a write waits for data, and an abort of it", vec![reset(0x61), abort(0x62)]),
        case("three resets while a write waits for data", vec![reset(0x61), reset(0x62), reset(0x63)]),
    ]
}
