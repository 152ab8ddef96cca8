//! What is wrong in full feature phase, data of commands apart (RFC 7143, sections 4.2, 7 and 11).

use crate::case::{Answer, Case, Edit, Place, Said, State, Step, case};
use crate::play::{login, names};
use storage_iscsi::wire::{
    DataOut, Header, LogoutRequest, NopOut, RESERVED_TAG, ScsiCommand, SnackRequest, TaskManagementRequest,
    TextRequest, opcode, reject,
};

pub(crate) const SESSION: State = State::FullFeature("");
const DIGESTS: State = State::FullFeature("HeaderDigest=CRC32C\0DataDigest=CRC32C\0");

pub(crate) fn cases(place: &Place) -> Vec<Case> {
    let mut cases = codes(place);
    cases.extend(too_long());
    cases.extend(additional_headers());
    cases.extend(additional_headers_of_commands());
    cases.extend(tags());
    cases.extend(numbers());
    cases.extend(texts());
    cases.extend(texts_without_data());
    cases.extend(snacks_and_logouts());
    cases.extend(functions());
    cases.extend(digests());
    cases.extend(discovery());
    cases
}

/// TEST UNIT READY.
fn plain() -> ScsiCommand {
    ScsiCommand { last: true, attribute: 1, initiator_task_tag: 0x50, ..ScsiCommand::default() }
}

fn immediate_ping() -> NopOut {
    NopOut {
        immediate: true,
        initiator_task_tag: 0x51,
        target_transfer_tag: RESERVED_TAG,
        ..NopOut::default()
    }
}

fn text() -> TextRequest {
    TextRequest {
        immediate: true,
        last: true,
        initiator_task_tag: 0x52,
        target_transfer_tag: RESERVED_TAG,
        ..TextRequest::default()
    }
}

fn function(function: u8) -> TaskManagementRequest {
    TaskManagementRequest {
        immediate: true,
        function,
        initiator_task_tag: 0x53,
        referenced_task_tag: RESERVED_TAG,
        ..TaskManagementRequest::default()
    }
}

fn logout(reason: u8, cid: u16) -> LogoutRequest {
    LogoutRequest { immediate: true, reason, cid, initiator_task_tag: 0x54, ..LogoutRequest::default() }
}

/// Codes of targets end the connection, those of nobody are rejected, and a login is one thing too many (11.2.1.2,
/// 11.17.1).
fn codes(place: &Place) -> Vec<Case> {
    let with = |code: u8| {
        let mut header = NopOut { initiator_task_tag: 7, ..NopOut::default() }.header();
        header.0[0] = code;
        Said::new(header, &[])
    };
    let mut cases = Vec::new();
    for code in 0x20..0x40 {
        cases.push(case(
            "L12",
            format!("opcode {code:#04x} in a session"),
            SESSION,
            with(code),
            Answer::Closed,
        ));
    }
    for code in (0x07..0x20).filter(|&code| code != opcode::SNACK_REQUEST) {
        let answer = Answer::Reject(reject::COMMAND_NOT_SUPPORTED);
        cases.push(case("L12", format!("opcode {code:#04x} of nobody"), SESSION, with(code), answer));
    }
    for code in [0x07, 0x1f] {
        let said = Said { data: vec![1; 1001], ..with(code | 0x40) };
        let answer = Answer::Reject(reject::COMMAND_NOT_SUPPORTED);
        let name = format!("opcode {code:#04x} of nobody, immediate, with 1,001 bytes");
        cases.push(case("L12", name, SESSION, said, answer));
    }
    let answer = || Answer::Reject(reject::PROTOCOL_ERROR);
    for stage in [0, 1] {
        let said = Said::new(login(stage, true).header(), names(place).as_bytes());
        cases.push(case("L17", format!("a login of stage {stage} in a session"), SESSION, said, answer()));
    }
    cases
}

/// A data segment is no longer than the target has declared to take (13.12).
fn too_long() -> Vec<Case> {
    let headers: [(&str, Header); 7] = [
        ("a ping", immediate_ping().header()),
        (
            "a command",
            ScsiCommand { write: true, expected_data_transfer_length: 1 << 20, ..plain() }.header(),
        ),
        ("a task management function", function(1).header()),
        ("a text request", text().header()),
        ("a Data-Out", DataOut { initiator_task_tag: 9, ..DataOut::default() }.header()),
        ("a logout", logout(0, 0).header()),
        ("a SNACK", SnackRequest::default().header()),
    ];
    let mut cases = Vec::new();
    for (what, header) in headers {
        let longer = Said::new(header, &[]).with(Edit::Beyond(1));
        let name = format!("{what} with a byte more than was declared");
        cases.push(case("L25", name, SESSION, longer, Answer::Closed));
        let longest = Said::new(header, &[]).put(5, &[0xff; 3]);
        let name = format!("{what} with 16 MiB");
        cases.push(case("L25", name, SESSION, longest, Answer::Closed));
    }
    cases
}

/// Only commands have additional headers (11.2.2).
fn additional_headers() -> Vec<Case> {
    let headers: [(&str, Header); 6] = [
        ("a ping", immediate_ping().header()),
        ("a task management function", function(1).header()),
        ("a text request", text().header()),
        ("a Data-Out", DataOut { initiator_task_tag: 9, ..DataOut::default() }.header()),
        ("a logout", logout(0, 0).header()),
        ("a SNACK", SnackRequest::default().header()),
    ];
    let mut cases = Vec::new();
    for (what, header) in headers {
        for length in [4, 1020] {
            let said = Said::new(header, &[]).and_headers(&vec![0; length]);
            let answer = Answer::Reject(reject::INVALID_PDU_FIELD);
            let name = format!("{what} with {length} bytes of additional headers");
            cases.push(case("L14", name, SESSION, said, answer));
        }
    }
    cases
}

/// The length of an additional header lies within their area and is that of its kind (11.2.2.1 to 11.2.2.4).
fn additional_headers_of_commands() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, segments: &[u8], answer: Answer| {
        let said = Said::new(plain().header(), &[]).and_headers(segments);
        cases.push(case("L14", name, SESSION, said, answer));
    };
    for kind in [0_u8, 3, 4, 0x1f, 0x20, 0x3e, 0x3f] {
        let name = format!("an additional header of kind {kind:#04x}");
        push(name, &[0, 1, kind, 0], Answer::Reject(reject::INVALID_PDU_FIELD));
    }
    for length in [2_u16, 5, 0x00ff, 0x0100, 0x7fff, 0xffff] {
        let [high, low] = length.to_be_bytes();
        let name = format!("an extended CDB of {length} bytes in an area of four");
        push(name, &[high, low, 1, 0], Answer::Closed);
    }
    push("an extended CDB without its reserved byte".into(), &[0, 0, 1, 0], Answer::Closed);
    for length in [0_u8, 1, 2, 3, 4, 6, 7, 8, 9] {
        let mut segments = vec![0, length, 2, 0];
        segments.resize((3 + usize::from(length)).next_multiple_of(4), 0);
        push(format!("a read length of {length} bytes, where five are due"), &segments, Answer::Closed);
    }
    for length in [12_usize, 1020] {
        push(format!("{length} bytes of additional headers of ones"), &vec![0xff; length], Answer::Closed);
    }
    let mut second = vec![0, 1, 1, 0];
    second.extend([0, 9, 1, 0]);
    push("a second additional header beyond the area".into(), &second, Answer::Closed);
    cases
}

/// Task tags that are reserved (11.2.1.8), and one that is in use.
fn tags() -> Vec<Case> {
    let reserved = |name: &str, header: Header, reason: u8| {
        let said = Said::new(header, &[]).put(16, &[0xff; 4]);
        case("L22", format!("the reserved task tag on {name}"), SESSION, said, Answer::Reject(reason))
    };
    let mut cases = vec![
        reserved("a command", plain().header(), reject::INVALID_PDU_FIELD),
        reserved(
            "an immediate command",
            ScsiCommand { immediate: true, ..plain() }.header(),
            reject::INVALID_PDU_FIELD,
        ),
        reserved("a task management function", function(1).header(), reject::INVALID_PDU_FIELD),
        reserved("a logout", logout(0, 0).header(), reject::INVALID_PDU_FIELD),
        reserved("a text request", text().header(), reject::PROTOCOL_ERROR),
    ];
    // The first waits for data that does not come before the end.
    let waiting = ScsiCommand {
        write: true,
        expected_data_transfer_length: 512,
        cdb: [0x2a, 0, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ..plain()
    };
    let mut function = function(1);
    function.initiator_task_tag = 0x50;
    let again: [(&str, Header); 3] = [
        ("a command", plain().header()),
        ("an immediate command", ScsiCommand { immediate: true, ..plain() }.header()),
        ("a task management function", function.header()),
    ];
    for (what, header) in again {
        let data = DataOut { last: true, ..DataOut::default() };
        let steps = vec![
            Step::Say(Said::new(waiting.header(), &[])),
            Step::Hear(Answer::Wanted),
            Step::Say(Said::new(header, &[]).untaken()),
            Step::Hear(Answer::Reject(reject::TASK_IN_PROGRESS)),
            Step::Say(Said::new(data.header(), &[]).with(Edit::AnswerR2t)),
            Step::Hear(Answer::Status(0)),
        ];
        cases.push(Case {
            source: "L22",
            name: format!("a task tag in use, on {what}"),
            state: SESSION,
            steps,
        });
    }
    cases
}

/// A number in a gap on the only connection ends it, one beside the window is as if it had never come (4.2.2.1).
fn numbers() -> Vec<Case> {
    let headers: [(&str, Header); 5] = [
        ("a command", plain().header()),
        ("a ping", NopOut { immediate: false, ..immediate_ping() }.header()),
        ("a text request", TextRequest { immediate: false, ..text() }.header()),
        ("a task management function", TaskManagementRequest { immediate: false, ..function(2) }.header()),
        ("a logout", LogoutRequest { immediate: false, ..logout(0, 0) }.header()),
    ];
    let mut cases = Vec::new();
    for (what, header) in headers {
        for ahead in [1_u32, 2] {
            let said = Said::new(header, &[]).with(Edit::Add(24, ahead));
            let name = format!("{what} {ahead} ahead of its number");
            cases.push(case("L22", name, SESSION, said, Answer::Closed));
        }
        for beside in [u32::MAX, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0x8000_0001] {
            let said = Said::new(header, &[]).with(Edit::Add(24, beside));
            let name = format!("{what} with the number {beside:#x} behind its own");
            cases.push(case("L22", name, SESSION, said, Answer::Nothing));
        }
    }
    cases
}

/// Text Requests that ask for nothing, or wrongly (11.10, 13).
fn texts() -> Vec<Case> {
    let with = |name: &str, data: &[u8], reason: u8| {
        case("L15", name, SESSION, Said::new(text().header(), data), Answer::Reject(reason))
    };
    let mut cases = vec![
        with("a text without an equals sign", b"SendTargets\0", reject::PROTOCOL_ERROR),
        with("a text without a key", b"=All\0", reject::PROTOCOL_ERROR),
        with("a text without an end", b"SendTargets=All", reject::PROTOCOL_ERROR),
        with("a text of ones", &[0xff; 4000], reject::PROTOCOL_ERROR),
        with("a text with a key twice", b"SendTargets=All\0SendTargets=All\0", reject::PROTOCOL_ERROR),
        with(
            "a text with a key too long",
            format!("{}=1\0", "k".repeat(64)).as_bytes(),
            reject::PROTOCOL_ERROR,
        ),
        with("targets of a name that is none", b"SendTargets=disk\0", reject::INVALID_PDU_FIELD),
        with(
            "another target in a normal session",
            b"SendTargets=iqn.2026-01.example:other\0",
            reject::PROTOCOL_ERROR,
        ),
        with("a key that nobody knows, alone", b"X-example=1\0", reject::COMMAND_NOT_SUPPORTED),
        with(
            "a segment length of nothing after the login",
            b"MaxRecvDataSegmentLength=0\0",
            reject::PROTOCOL_ERROR,
        ),
    ];
    let tag = |name: &str, tag: u32| {
        let header = TextRequest { target_transfer_tag: tag, ..text() }.header();
        let said = Said::new(header, b"SendTargets=All\0");
        case("L25", name, SESSION, said, Answer::Reject(reject::INVALID_PDU_FIELD))
    };
    cases.push(tag("a text that goes on from nothing", 0));
    cases.push(tag("a text that goes on from elsewhere", 0x1234));
    let long = TextRequest { last: false, to_be_continued: true, ..text() }.header();
    let said = Said::new(long, &vec![b'x'; 16_385]);
    let answer = Answer::Reject(reject::LONG_OPERATION);
    cases.push(case("L16", "a text of more than 16 KiB", SESSION, said, answer));
    cases
}

/// C and F are not both set, and what goes on goes on from something (11.10.2 to 11.10.4).
fn texts_without_data() -> Vec<Case> {
    let mut cases = Vec::new();
    for (last, to_be_continued, tag) in
        [(true, true, RESERVED_TAG), (true, true, 5), (true, false, 5), (false, true, 5), (false, false, 5)]
    {
        let header = TextRequest { last, to_be_continued, target_transfer_tag: tag, ..text() }.header();
        let reason = if last && to_be_continued { reject::PROTOCOL_ERROR } else { reject::INVALID_PDU_FIELD };
        for length in [0, 16] {
            let data = &b"SendTargets=All\0"[..length];
            let name = format!("a text of {length} bytes with F={last}, C={to_be_continued}, tag {tag:#x}");
            let said = Said::new(header, data);
            cases.push(case("CVE-2021-28361", name, SESSION, said, Answer::Reject(reason)));
        }
    }
    cases
}

/// At error recovery level 0 there is no SNACK (11.16); nobody logs out somebody else (11.14); pings are echoed as
/// far as there is room for them.
fn snacks_and_logouts() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in 0..=15 {
        let snack = SnackRequest {
            kind,
            initiator_task_tag: 0x33,
            target_transfer_tag: RESERVED_TAG,
            beg_run: u32::MAX,
            run_length: u32::MAX,
            ..SnackRequest::default()
        };
        let said = Said::new(snack.header(), &[]);
        cases.push(case(
            "L25",
            format!("SNACK of type {kind}"),
            SESSION,
            said,
            Answer::Reject(reject::SNACK_REJECT),
        ));
    }
    let mut push = |name: String, said: Said, answer: Answer| {
        cases.push(case("L25", name, SESSION, said, answer));
    };
    for cid in [1, 77, 0xffff] {
        let said = Said::new(logout(1, cid).header(), &[]);
        push(format!("logout of connection {cid}, which is not there"), said, Answer::LoggedOut(1));
    }
    for cid in [0, 1] {
        let said = Said::new(logout(2, cid).header(), &[]);
        push(format!("logout of connection {cid} for recovery"), said, Answer::LoggedOut(2));
    }
    for reason in [3, 4, 0x3f, 0x40, 0x7f] {
        let said = Said::new(logout(reason, 0).header(), &[]);
        push(format!("logout for reason {reason}"), said, Answer::Reject(reject::INVALID_PDU_FIELD));
    }
    let said = Said::new(logout(0, 0).header(), b"data");
    push("logout with data".into(), said, Answer::Reject(reject::INVALID_PDU_FIELD));
    let said = Said::new(immediate_ping().header(), &vec![1; 16_385]);
    push("a ping of more than 16 KiB".into(), said, Answer::Reject(reject::COMMAND_NOT_SUPPORTED));
    cases
}

/// Task management functions, their scope and their codes (11.5, 11.6.1).
fn functions() -> Vec<Case> {
    const TASK_DOES_NOT_EXIST: u8 = 1;
    const LUN_DOES_NOT_EXIST: u8 = 2;
    const REASSIGNMENT_NOT_SUPPORTED: u8 = 4;
    const NOT_SUPPORTED: u8 = 5;
    let mut cases = Vec::new();
    let mut push = |name: String, request: TaskManagementRequest, edits: Vec<Edit>, code: u8| {
        let said = Said { edits, ..Said::new(request.header(), &[]) };
        cases.push(case("L23", name, SESSION, said, Answer::Managed(code)));
    };
    for code in [0, 13, 14, 0x1f, 0x20, 0x3f, 0x40, 0x7e, 0x7f] {
        push(format!("function {code}"), function(code), vec![], NOT_SUPPORTED);
    }
    push("CLEAR ACA".into(), function(3), vec![], NOT_SUPPORTED);
    let one = |code: u8, tag: u32| TaskManagementRequest { referenced_task_tag: tag, ..function(code) };
    push("TASK REASSIGN".into(), one(8, 0x77), vec![], REASSIGNMENT_NOT_SUPPORTED);
    for ahead in [0x4000_0000_u32, 0x7fff_ffff] {
        let number = ahead.to_be_bytes().to_vec();
        let name = format!("ABORT TASK of a task with the number {ahead:#x}");
        push(name, one(1, 0x77), vec![Edit::Put(32, number)], TASK_DOES_NOT_EXIST);
    }
    for (code, name, answer) in [
        (2, "ABORT TASK SET", LUN_DOES_NOT_EXIST),
        (4, "CLEAR TASK SET", LUN_DOES_NOT_EXIST),
        (5, "LOGICAL UNIT RESET", LUN_DOES_NOT_EXIST),
        // One of RFC 7144, which was not agreed upon.
        (10, "QUERY TASK SET", NOT_SUPPORTED),
    ] {
        for lun in [[0, 1, 0, 0, 0, 0, 0, 0], [0x40, 1, 0, 0, 0, 0, 0, 0], [0xff; 8]] {
            let request = TaskManagementRequest { lun, ..function(code) };
            push(format!("{name} at {lun:02x?}"), request, vec![], answer);
        }
    }
    let data = Said::new(function(1).header(), b"data");
    let answer = Answer::Reject(reject::INVALID_PDU_FIELD);
    cases.push(case("L23", "a task management function with data", SESSION, data, answer));
    cases
}

/// A header that does not match its digest ends the connection, data that does not is rejected (7.8).
fn digests() -> Vec<Case> {
    let mut cases = Vec::new();
    // Lengths decide how much is read before the digest is looked at.
    for at in (0..4).chain(8..52) {
        let said = Said::new(plain().header(), &[]).with(Edit::Damage(at, 0x10));
        let what = if at < 48 {
            format!("byte {at} of a header")
        } else {
            format!("byte {} of its digest", at - 48)
        };
        cases.push(case("L24", format!("{what}, off by a bit"), DIGESTS, said, Answer::Closed));
    }
    let bare = Said::new(plain().header(), &[]).with(Edit::Bare);
    // What follows is taken for the digest.
    let steps = vec![Step::Say(bare.clone()), Step::Say(bare), Step::Hear(Answer::Closed)];
    cases.push(Case { source: "L24", name: "a header without its digest".into(), state: DIGESTS, steps });
    // Header 48, digest 4, then data, padding and digest.
    for (what, at) in [("the first byte", 52), ("the last byte", 56), ("the padding", 57), ("the digest", 60)]
    {
        for (pdu, header) in [("a ping", immediate_ping().header()), ("a text request", text().header())] {
            let said = Said::new(header, b"a=1\0b").with(Edit::Damage(at, 0x01));
            let name = format!("{what} of the data of {pdu}, off by a bit");
            // It is as if the PDU had never come, but for the Reject.
            cases.push(case("L24", name, DIGESTS, said, Answer::Reject(reject::DATA_DIGEST_ERROR)));
        }
    }
    cases
}

/// A discovery session is for text and for leaving (4.3).
fn discovery() -> Vec<Case> {
    let headers: [(&str, Header); 4] = [
        ("a command", plain().header()),
        ("a ping", immediate_ping().header()),
        ("a task management function", function(5).header()),
        ("a Data-Out", DataOut::default().header()),
    ];
    headers
        .map(|(what, header)| {
            let answer = Answer::Reject(reject::PROTOCOL_ERROR);
            let name = format!("{what} in a discovery session");
            case("L12", name, State::Discovery, Said::new(header, &[]), answer)
        })
        .to_vec()
}
