//! From within a session: PDUs out of order, data that lies, tasks that are not one's own, commands that make no sense.

use super::login::login_again;
use super::peer::{BRIEF, Heard, Peer, SOON, Who};
use super::session::{
    Answer, BLOCK, CHECK_CONDITION, GOOD, SYNCHRONIZE_CACHE, Session, data_out, lun, read10, write10,
};
use super::steady::Steady;
use std::time::{Duration, Instant};
use storage_iscsi::wire::{
    DataOut, LogoutRequest, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, SnackRequest, TextRequest,
    opcode, reject,
};

/// Where hostile writes go; what lies below is a canary.
const ELSEWHERE: u32 = 4096;
/// Blocks of the canary.
const CANARY: u16 = 64;
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TASK_REASSIGN: u8 = 8;

type Test = fn(&mut Session) -> Result<(), String>;

/// Each is played on a session of its own, and says itself whether that must live on.
const TESTS: &[(&str, Test)] = &[
    ("login in a session", login_again),
    ("opcodes of targets", target_opcodes),
    ("opcodes of nobody", unknown_opcodes),
    ("data segments beyond what was declared", too_much_data),
    ("additional headers", additional_headers),
    ("command numbers out of the window", numbers_out_of_window),
    ("a gap in the command numbers", number_gap),
    ("one command number twice", number_twice),
    ("a task tag in use", tag_in_use),
    ("the reserved task tag", reserved_tag),
    ("statuses of the future", status_from_the_future),
    ("transfer tags that never were", unknown_transfer_tag),
    ("data for nobody", data_for_nobody),
    ("data beyond the end", data_beyond),
    ("data out of place", data_out_of_place),
    ("data numbers out of order", data_numbers),
    ("data that never comes", data_withheld),
    ("unsolicited data where it was refused", unsolicited),
    ("more immediate data than the command has", immediate_beyond),
    ("lengths other than the command's", expected_lengths),
    ("ranges that are not there", ranges),
    ("units that are not there", units),
    ("SNACK", snack),
    ("text that is no request", texts),
    ("task management of nothing", manage_nothing),
    ("a reset while commands wait", reset_under_load),
    ("digests that do not match", digests),
    ("logout for somebody else", logout_of_others),
    ("talk after the logout", talk_after_logout),
    ("commands of every kind", every_command),
    ("allocation lengths", allocation_lengths),
];

/// Plays every test beside a steady session.
pub(crate) fn bad_sessions() {
    let steady = Steady::start(0);
    let who = Who::new("rogue", 1);
    let canary: Vec<u8> = (0..usize::from(CANARY) * BLOCK).map(|n| (n % 251) as u8 + 1).collect();
    let write = |session: &mut Session| session.run(lun(0), &write10(0, CANARY), &canary, 0)?.good();
    write(&mut Session::open(&who)).unwrap();
    let mut wrong = Vec::new();
    for (what, test) in TESTS {
        let before = steady.rounds();
        if let Err(error) = test(&mut Session::open(&who)) {
            wrong.push(format!("{what}: {error}"));
        }
        assert!(steady.rounds() >= before);
    }
    wrong.extend(others_tasks(&steady).err().map(|error| format!("tasks of others: {error}")));
    let mut session = Session::open(&who);
    let answer = session.run(lun(0), &read10(0, CANARY), &[], u32::try_from(canary.len()).unwrap()).unwrap();
    assert!(answer.status != GOOD || answer.data == canary, "the canary is dead");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TESTS.len(), wrong.join("\n"));
    steady.finish(SOON);
}

/// The target closes.
fn ends(session: &mut Session) -> Result<(), String> {
    session.peer.ends(SOON).map(drop)
}

/// The last PDU was rejected for this reason, and the session lives.
fn rejected(session: &mut Session, reason: u8) -> Result<(), String> {
    session.ping()?;
    match session.rejects.pop() {
        Some(found) if found == reason => Ok(()),
        found => Err(format!("expected a Reject for {reason:#04x}, found {found:x?}")),
    }
}

/// The session serves reads and writes.
fn serves(session: &mut Session) -> Result<(), String> {
    session.ping()?;
    session.settle()?;
    let data = vec![0x5a; BLOCK];
    session.run(lun(0), &write10(ELSEWHERE + 900, 1), &data, 0)?.good()?;
    let answer = session.run(lun(0), &read10(ELSEWHERE + 900, 1), &[], 512)?.good()?;
    if answer.data == data { Ok(()) } else { Err("what was written is not what is read".into()) }
}

fn another() -> Session {
    Session::open(&Who::new("another-rogue", 1))
}

fn target_opcodes(_: &mut Session) -> Result<(), String> {
    for code in 0x20..0x40 {
        let mut session = another();
        let mut header = NopOut { cmd_sn: session.cmd_sn, ..NopOut::default() }.header();
        header.0[0] = code;
        session.peer.say(header, &[]);
        ends(&mut session).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

fn unknown_opcodes(session: &mut Session) -> Result<(), String> {
    for code in (0x07..0x10).chain(0x11..0x20) {
        let mut header =
            NopOut { cmd_sn: session.cmd_sn, initiator_task_tag: 7, ..NopOut::default() }.header();
        header.0[0] = code | 0x40;
        session.peer.say(header, &[]);
        rejected(session, reject::COMMAND_NOT_SUPPORTED).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

fn too_much_data(_: &mut Session) -> Result<(), String> {
    for code in [opcode::NOP_OUT, opcode::SCSI_COMMAND, opcode::TEXT_REQUEST, opcode::DATA_OUT] {
        let mut session = another();
        let mut header = NopOut { immediate: true, cmd_sn: session.cmd_sn, ..NopOut::default() }.header();
        header.0[0] = code | 0x40;
        session.peer.bytes(&header.with_data_segment(0x00ff_ffff).0);
        ends(&mut session).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

fn additional_headers(_: &mut Session) -> Result<(), String> {
    // Length 0; beyond the area; a kind nobody knows; a read length without a bidirectional command; 1,020 bytes.
    let segments: [&[u8]; 5] = [
        &[0, 0, 0, 0],
        &[0xff, 0xff, 1, 0],
        &[0, 1, 0x3f, 0],
        &[0, 5, 2, 0, 0, 0, 0xff, 0xff],
        &[0xff; 1020],
    ];
    for segment in segments {
        let mut session = another();
        let command = session.command(lun(0), &[0; 16], 0, 0);
        let mut bytes = Vec::new();
        session.peer.digests.write(command.header(), segment, &[], &mut bytes);
        session.peer.bytes(&bytes);
        match session.peer.hear(SOON) {
            Heard::Nothing => return Err(format!("{:02x?}: silence", &segment[..4])),
            Heard::Closed | Heard::Pdu(..) => {}
        }
    }
    Ok(())
}

fn numbers_out_of_window(session: &mut Session) -> Result<(), String> {
    let next = session.cmd_sn;
    for number in
        [next.wrapping_sub(1), next.wrapping_add(40_000), next.wrapping_add(1 << 31), next ^ 0x8000_0001]
    {
        let command = ScsiCommand { cmd_sn: number, ..session.command(lun(0), &[0; 16], 0, 0) };
        session.cmd_sn = next;
        session.peer.say(command.header(), &[]);
        // It is as if it had never come.
        session.ping()?;
    }
    serves(session)
}

fn number_gap(session: &mut Session) -> Result<(), String> {
    session.number();
    let command = session.command(lun(0), &[0; 16], 0, 0);
    session.peer.say(command.header(), &[]);
    ends(session)
}

fn number_twice(session: &mut Session) -> Result<(), String> {
    let first = session.command(lun(0), &read10(0, 1), 0, 512);
    let second = ScsiCommand { initiator_task_tag: session.tag(), ..first };
    let tag = session.send(&first, &[], 0);
    session.peer.say(second.header(), &[]);
    session.finish(tag, SOON)?.good()?;
    serves(session)
}

fn tag_in_use(session: &mut Session) -> Result<(), String> {
    // The first waits for data that does not come.
    let first = session.command(lun(0), &write10(ELSEWHERE, 8), 8 * BLOCK, 0);
    session.peer.say(first.header(), &[]);
    let second = ScsiCommand { cmd_sn: session.number(), ..first };
    session.peer.say(second.header(), &[]);
    rejected(session, reject::TASK_IN_PROGRESS)?;
    // The number of a command that was rejected counts as never received (RFC 7143 section 11.17.1).
    session.cmd_sn = second.cmd_sn;
    session.manage(ABORT_TASK, lun(0), (first.initiator_task_tag, first.cmd_sn))?;
    serves(session)
}

fn reserved_tag(session: &mut Session) -> Result<(), String> {
    let command = ScsiCommand { initiator_task_tag: RESERVED_TAG, ..session.command(lun(0), &[0; 16], 0, 0) };
    session.peer.say(command.header(), &[]);
    rejected(session, reject::INVALID_PDU_FIELD).or_else(|_| serves(session))
}

fn status_from_the_future(session: &mut Session) -> Result<(), String> {
    session.exp_stat_sn = session.exp_stat_sn.wrapping_add(1 << 30);
    session.ping()?;
    serves(session)
}

/// Sends a write of 64 KiB without data, and waits for its R2T.
fn wanted(session: &mut Session) -> Result<(ScsiCommand, ReadyToTransfer), String> {
    let command = session.command(lun(0), &write10(ELSEWHERE, 128), 128 * BLOCK, 0);
    session.peer.say(command.header(), &[]);
    match session.peer.hear(SOON) {
        Heard::Pdu(header, _) if header.opcode() == opcode::READY_TO_TRANSFER => {
            Ok((command, ReadyToTransfer::read(&header)))
        }
        other => Err(format!("no R2T: {other:?}")),
    }
}

/// What the command of `tag` came to.
fn outcome(session: &mut Session, tag: u32) -> Result<Answer, String> {
    let command = ScsiCommand { initiator_task_tag: tag, ..ScsiCommand::default() };
    // Nothing is sent: the place for the answer is made.
    session.expect(&command);
    session.finish(tag, SOON)
}

fn unknown_transfer_tag(session: &mut Session) -> Result<(), String> {
    let (command, wanted) = wanted(session)?;
    let length = wanted.desired_data_transfer_length as usize;
    for ahead in [1, 1000, 0x4000_0000] {
        let tag = wanted.target_transfer_tag.wrapping_add(ahead);
        let lie = DataOut { target_transfer_tag: tag, ..data_out(&wanted, session.exp_stat_sn) };
        session.peer.say(lie.header(), &[0xbb; 512]);
        session.ping()?;
        if session.rejects.pop().is_none() {
            return Err(format!("the transfer tag {tag:#x} was not rejected"));
        }
    }
    session.peer.say(data_out(&wanted, session.exp_stat_sn).header(), &vec![0xaa; length]);
    outcome(session, command.initiator_task_tag)?.good()?;
    serves(session)
}

fn data_for_nobody(session: &mut Session) -> Result<(), String> {
    for transfer in [RESERVED_TAG, 1, 0x1234] {
        let lie = DataOut {
            last: true,
            initiator_task_tag: 0x7777,
            target_transfer_tag: transfer,
            exp_stat_sn: session.exp_stat_sn,
            ..DataOut::default()
        };
        session.peer.say(lie.header(), &[0xbb; 4096]);
    }
    serves(session)
}

/// What is said in answer to an R2T, and how many bytes of data go with it.
type Lie = fn(&ReadyToTransfer) -> (DataOut, usize);

/// A lie in answer to an R2T. Its command ends with CHECK CONDITION, or the truth is still taken; the session lives.
fn lie(session: &mut Session, lies: &[Lie]) -> Result<(), String> {
    for lie in lies {
        let (command, wanted) = wanted(session)?;
        let (header, length) = lie(&wanted);
        let header = DataOut { exp_stat_sn: session.exp_stat_sn, ..header };
        session.peer.say(header.header(), &vec![0xbb; length]);
        // Then all that was asked for, so that nothing is missing.
        let truth = data_out(&wanted, session.exp_stat_sn);
        session.peer.say(truth.header(), &vec![0xaa; wanted.desired_data_transfer_length as usize]);
        let answer = outcome(session, command.initiator_task_tag)?;
        if answer.status != CHECK_CONDITION {
            return Err(format!("{header:?} ended with {answer:?}"));
        }
        session.rejects.clear();
    }
    serves(session)
}

fn honest(wanted: &ReadyToTransfer) -> DataOut {
    data_out(wanted, 0)
}

fn data_beyond(session: &mut Session) -> Result<(), String> {
    lie(
        session,
        &[
            |wanted| {
                (
                    DataOut {
                        last: false,
                        buffer_offset: wanted.desired_data_transfer_length,
                        ..honest(wanted)
                    },
                    4096,
                )
            },
            |wanted| (DataOut { last: false, buffer_offset: 0xffff_fe00, ..honest(wanted) }, 512),
            |wanted| (honest(wanted), wanted.desired_data_transfer_length as usize + 512),
        ],
    )
}

fn data_out_of_place(session: &mut Session) -> Result<(), String> {
    lie(
        session,
        &[
            |wanted| (DataOut { last: false, buffer_offset: 512, ..honest(wanted) }, 512),
            |wanted| (DataOut { last: false, ..honest(wanted) }, 1024),
        ],
    )
}

fn data_numbers(session: &mut Session) -> Result<(), String> {
    lie(
        session,
        &[
            |wanted| (DataOut { last: false, data_sn: 3, ..honest(wanted) }, 512),
            |wanted| (DataOut { last: false, data_sn: 0xffff_ffff, ..honest(wanted) }, 512),
        ],
    )
}

/// WRITE_PENDING for ever: others go on, and an abort ends it.
fn data_withheld(session: &mut Session) -> Result<(), String> {
    let (command, wanted) = wanted(session)?;
    serves(session)?;
    for _ in 0..3 {
        // The same again, and functions that mean others, change nothing.
        session.manage(ABORT_TASK, lun(0), (0x7777, command.cmd_sn.wrapping_add(9)))?;
    }
    let response = session.manage(ABORT_TASK, lun(0), (command.initiator_task_tag, command.cmd_sn))?;
    if response != 0 {
        return Err(format!("ABORT TASK of a command that waits for data: {response}"));
    }
    // Data that comes too late is swallowed.
    session.peer.say(data_out(&wanted, session.exp_stat_sn).header(), &vec![0xbb; 128 * BLOCK]);
    serves(session)
}

fn unsolicited(_: &mut Session) -> Result<(), String> {
    let keys = [("InitialR2T", "Yes"), ("ImmediateData", "No")];
    let mut session = Session::open_with(Peer::connect(), &Who::new("another-rogue", 1), &keys)?;
    let command = session.command(lun(0), &write10(ELSEWHERE, 1), BLOCK, 0);
    session.send(&command, &[0xaa; BLOCK], BLOCK);
    session.finish(command.initiator_task_tag, SOON).and_then(|answer| {
        if answer.status == CHECK_CONDITION { Ok(()) } else { Err(format!("immediate data: {answer:?}")) }
    })?;
    let command = ScsiCommand { last: false, ..session.command(lun(0), &write10(ELSEWHERE, 1), BLOCK, 0) };
    session.send(&command, &[0xaa; BLOCK], 0);
    let data = DataOut {
        last: true,
        initiator_task_tag: command.initiator_task_tag,
        target_transfer_tag: RESERVED_TAG,
        exp_stat_sn: session.exp_stat_sn,
        ..DataOut::default()
    };
    session.peer.say(data.header(), &[0xaa; BLOCK]);
    session.ping()?;
    session.manage(ABORT_TASK, lun(0), (command.initiator_task_tag, command.cmd_sn))?;
    session.forget(command.initiator_task_tag);
    session.run(lun(0), &read10(0, 1), &[], 512)?.good()?;
    session.ping().map(drop)
}

fn immediate_beyond(session: &mut Session) -> Result<(), String> {
    // More than is expected, more than a first burst, and data with a read.
    let small = session.command(lun(0), &write10(ELSEWHERE, 1), BLOCK, 0);
    let large = session.command(lun(0), &write10(ELSEWHERE, 256), 256 * BLOCK, 0);
    let read = session.command(lun(0), &read10(ELSEWHERE, 1), 0, 512);
    for (command, length) in [(small, 4 * BLOCK), (large, 256 * BLOCK), (read, BLOCK)] {
        session.peer.say(command.header(), &vec![0xbb; length]);
        session.expect(&command);
        match session.finish(command.initiator_task_tag, SOON) {
            Ok(answer) if answer.status == CHECK_CONDITION => {}
            // Data with a read may be refused as a PDU.
            _ if session.rejects.pop().is_some() => session.forget(command.initiator_task_tag),
            other => return Err(format!("{length} bytes of immediate data: {other:?}")),
        }
    }
    serves(session)
}

fn expected_lengths(session: &mut Session) -> Result<(), String> {
    let read = session.run(lun(0), &read10(0, 2), &[], 512)?;
    if read.status != GOOD || !read.overflow || read.residual != 512 || read.data.len() != 512 {
        return Err(format!("a read of more than is expected: {read:?}"));
    }
    for expected in [1023, 1025, 0x00ff_ffff, 0xffff_ffff] {
        let read = session.run(lun(0), &read10(0, 2), &[], expected)?;
        let over = if expected < 1024 { read.overflow } else { read.underflow };
        if read.status != GOOD || !over || read.residual != expected.abs_diff(1024) {
            return Err(format!("a read of 1024 where {expected} are expected: {:?}", read.residual));
        }
    }
    // No direction, both directions, and a write in the direction of a read.
    for (read, write) in [(false, false), (true, true), (true, false)] {
        for cdb in [read10(0, 1), write10(ELSEWHERE, 1)] {
            let command = ScsiCommand { read, write, ..session.command(lun(0), &cdb, 0, 512) };
            let data: &[u8] = if write { &[0xaa; BLOCK] } else { &[] };
            let tag = session.send(&command, data, data.len());
            session.finish(tag, SOON).map_err(|error| format!("R={read} W={write} {cdb:02x?}: {error}"))?;
        }
    }
    serves(session)
}

fn ranges(session: &mut Session) -> Result<(), String> {
    let capacity =
        session.run(lun(0), &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8)?.good()?;
    let last = u64::from(u32::from_be_bytes(capacity.data[..4].try_into().unwrap()));
    for code in [0x88, 0x8a, 0x8f, 0x93, 0x91] {
        for (block, count) in [(u64::MAX, u32::MAX), (u64::MAX, 1), (last + 1, 1), (last, 2), (0, u32::MAX)] {
            let mut cdb = [0; 16];
            cdb[0] = code;
            cdb[2..10].copy_from_slice(&block.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
            let (out, expected): (&[u8], u32) = match code {
                0x88 => (&[], 4096),
                0x8a | 0x93 => (&[0xbb; BLOCK], 0),
                _ => (&[], 0),
            };
            let answer = session.run(lun(0), &cdb, out, expected)?;
            if answer.status != CHECK_CONDITION {
                return Err(format!("{cdb:02x?}: {answer:?}"));
            }
        }
    }
    serves(session)
}

fn units(session: &mut Session) -> Result<(), String> {
    let units: [[u8; 8]; 7] = [
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 255, 0, 0, 0, 0, 0, 0],
        [0xc0, 0, 0, 0, 0, 0, 0, 0],
        [0xc1, 1, 0, 0, 0, 0, 0, 0],
        [0x40, 1, 0, 0, 0, 0, 0, 0],
        [0xff; 8],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ];
    for unit in units {
        let answer = session.run(unit, &read10(0, 1), &[], 512)?;
        // The well-known unit of REPORT LUNS may be there, but is no disk.
        let absent = [Some((5, 0x25, 0)), (unit[0] == 0xc1).then_some((5, 0x20, 0))];
        if answer.sense.is_none() || !absent.contains(&answer.sense) {
            return Err(format!("a read of {unit:02x?}: {answer:?}"));
        }
        let inquiry = session.run(unit, &[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 36)?;
        if inquiry.status == GOOD
            && inquiry.data.first() != Some(&0x7f)
            && inquiry.data.first() != Some(&0x1e)
        {
            return Err(format!("INQUIRY of {unit:02x?}: {inquiry:?}"));
        }
        session.run(unit, &write10(0, 1), &[0xbb; BLOCK], 0)?;
        session.manage(LOGICAL_UNIT_RESET, unit, (RESERVED_TAG, 0))?;
    }
    serves(session)
}

fn snack(session: &mut Session) -> Result<(), String> {
    for kind in 0..=4 {
        let request = SnackRequest {
            kind,
            initiator_task_tag: 0x33,
            target_transfer_tag: RESERVED_TAG,
            beg_run: u32::MAX,
            run_length: u32::MAX,
            exp_stat_sn: session.exp_stat_sn,
            ..SnackRequest::default()
        };
        session.peer.say(request.header(), &[]);
        rejected(session, reject::SNACK_REJECT)?;
    }
    Ok(())
}

fn texts(session: &mut Session) -> Result<(), String> {
    let bodies: [&[u8]; 7] = [
        b"",
        b"nonsense",
        b"=\0",
        &[0; 4096],
        &[0xff; 65536],
        b"SendTargets=All\0SendTargets=All\0",
        b"SendTargets=iqn.not.there\0",
    ];
    for body in bodies {
        for (last, to_be_continued) in [(true, false), (false, false), (false, true), (true, true)] {
            let request = TextRequest {
                immediate: true,
                last,
                to_be_continued,
                initiator_task_tag: session.tag(),
                target_transfer_tag: RESERVED_TAG,
                cmd_sn: session.cmd_sn,
                exp_stat_sn: session.exp_stat_sn,
                ..TextRequest::default()
            };
            session.peer.say(request.header(), body);
            session.ping()?;
        }
    }
    serves(session)
}

fn manage_nothing(session: &mut Session) -> Result<(), String> {
    let tag = session.tag();
    // Every code there is, and those that are none, for a task that is none.
    for function in 0..=0x7f {
        let response = session.manage(function, lun(0), (tag, session.cmd_sn.wrapping_add(5)))?;
        if function == TASK_REASSIGN && response == 0 {
            return Err("TASK REASSIGN succeeded at error recovery level 0".into());
        }
    }
    serves(session)
}

/// Three resets at once, with aborts, while writes wait for their data and reads are under way.
fn reset_under_load(session: &mut Session) -> Result<(), String> {
    let mut waiting = Vec::new();
    for n in 0..6 {
        let write = session.command(lun(0), &write10(ELSEWHERE + 128 * n, 128), 128 * BLOCK, 0);
        session.peer.say(write.header(), &[]);
        waiting.push(write);
        let read = session.command(lun(0), &read10(128 * n, 128), 0, 65536);
        session.peer.say(read.header(), &[]);
        waiting.push(read);
    }
    let mut tags: Vec<_> =
        (0..3).map(|_| session.manage_later(LOGICAL_UNIT_RESET, lun(0), (RESERVED_TAG, 0))).collect();
    for command in &waiting {
        tags.push(session.manage_later(ABORT_TASK, lun(0), (command.initiator_task_tag, command.cmd_sn)));
    }
    tags.push(session.manage_later(CLEAR_TASK_SET, lun(0), (RESERVED_TAG, 0)));
    tags.push(session.manage_later(ABORT_TASK_SET, lun(0), (RESERVED_TAG, 0)));
    // Each is answered, or rejected for coming on top of too many others.
    let end = Instant::now() + SOON;
    loop {
        tags.retain(|tag| !session.is_answered(*tag));
        let too_many = session.rejects.iter().filter(|reason| **reason == reject::IMMEDIATE_COMMAND).count();
        if tags.len() == too_many {
            break;
        }
        session.step(end).map_err(|error| format!("{} functions without an answer: {error}", tags.len()))?;
    }
    serves(session)
}

fn digests(_: &mut Session) -> Result<(), String> {
    let who = Who::new("another-rogue", 1);
    let keys = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    // Data off by one bit: the command fails, the session lives.
    let mut session = Session::open_with(Peer::connect(), &who, &keys)?;
    let command = session.command(lun(0), &write10(ELSEWHERE, 1), BLOCK, 0);
    session.expect(&command);
    let mut bytes = Vec::new();
    session.peer.digests.write(command.header(), &[], &[0xaa; BLOCK], &mut bytes);
    bytes[52 + 100] ^= 1;
    session.peer.bytes(&bytes);
    let answer = session.finish(command.initiator_task_tag, SOON)?;
    if answer.status != CHECK_CONDITION || session.rejects.pop() != Some(reject::DATA_DIGEST_ERROR) {
        return Err(format!("a wrong data digest: {answer:?}"));
    }
    serves(&mut session)?;
    // A header off by one bit: nothing can be believed any more.
    let command = session.command(lun(0), &[0; 16], 0, 0);
    let mut bytes = Vec::new();
    session.peer.digests.write(command.header(), &[], &[], &mut bytes);
    bytes[17] ^= 1;
    session.peer.bytes(&bytes);
    ends(&mut session)?;
    // Digests that were negotiated and are not there.
    let mut session = Session::open_with(Peer::connect(), &who, &keys)?;
    session.peer.digests = storage_iscsi::wire::Digests::default();
    for _ in 0..4 {
        let command = session.command(lun(0), &[0; 16], 0, 0);
        session.peer.say(command.header(), &[]);
    }
    ends(&mut session)
}

fn logout(session: &mut Session, reason: u8, cid: u16) -> Result<u8, String> {
    let tag = session.tag();
    let request = LogoutRequest {
        immediate: true,
        reason,
        cid,
        initiator_task_tag: tag,
        cmd_sn: session.cmd_sn,
        exp_stat_sn: session.exp_stat_sn,
    };
    session.peer.say(request.header(), &[]);
    session.answer(tag)
}

fn logout_of_others(session: &mut Session) -> Result<(), String> {
    for (reason, cid, response) in [(1, 77, 1), (2, 0, 2)] {
        let found = logout(session, reason, cid)?;
        if found != response {
            return Err(format!("logout for reason {reason}, CID {cid}: {found}"));
        }
    }
    serves(session)
}

fn talk_after_logout(session: &mut Session) -> Result<(), String> {
    let text = TextRequest {
        immediate: true,
        last: true,
        initiator_task_tag: 9,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn: session.cmd_sn,
        ..TextRequest::default()
    };
    let request = LogoutRequest {
        immediate: true,
        initiator_task_tag: 8,
        cmd_sn: session.cmd_sn,
        ..LogoutRequest::default()
    };
    session.peer.say(request.header(), &[]);
    session.peer.say(text.header(), b"SendTargets=All\0");
    session.peer.bytes(&[0xff; 4096]);
    ends(session)
}

/// CDBs of every operation code, zeroes and noise behind it; each is answered, with data or sense.
fn every_command(_: &mut Session) -> Result<(), String> {
    // On a unit of its own, so that what it reserves and locks harms nobody here.
    let who = Who::new("fuzzer", 2);
    let mut session = Session::open(&who);
    let mut state = 0x0dd0_5eed_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (start, mut answered) = (Instant::now(), 0);
    for code in 0..=0xff_u8 {
        for round in 0..6_u64 {
            let mut cdb = [0; 16];
            if round > 0 {
                cdb[..8].copy_from_slice(&random().to_be_bytes());
                cdb[8..].copy_from_slice(&random().to_be_bytes());
            }
            cdb[0] = code;
            let noise: Vec<u8> = (0..64).flat_map(|_| random().to_be_bytes()).collect();
            let (out, expected): (&[u8], u32) = match round % 3 {
                0 => (&[], 0),
                1 => (&noise, 0),
                _ => (&[], 1024),
            };
            let answer = session.run(lun(0), &cdb, out, expected);
            answer.map_err(|error| {
                format!("{cdb:02x?} with {} bytes out, {expected} in: {error}", out.len())
            })?;
            answered += 1;
        }
    }
    println!("{answered} CDBs in {:?}", start.elapsed());
    session.ping().map(drop)
}

fn allocation_lengths(session: &mut Session) -> Result<(), String> {
    let lengths = [0, 1, 3, 4, 15, 16, 255, 65535];
    for length in lengths {
        let [high, low] = u16::to_be_bytes(length);
        let cdbs: [[u8; 16]; 7] = [
            [0x12, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0x12, 1, 0xff, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0x12, 1, 0x83, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0x5a, 0, 0x3f, 0xff, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0],
            [0xa0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0],
            [0x03, 0, 0, 0, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0xa3, 0x0c, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0],
        ];
        for cdb in cdbs {
            let answer = session.run(lun(0), &cdb, &[], 65536)?;
            if answer.data.len() > usize::from(length) {
                return Err(format!("{cdb:02x?} brought {} bytes", answer.data.len()));
            }
        }
    }
    serves(session)
}

/// Functions for the tasks of another session, at the same unit: it must notice nothing of them.
fn others_tasks(steady: &Steady) -> Result<(), String> {
    let mut session = Session::open(&Who::new("meddler", 0));
    let end = Instant::now() + Duration::from_millis(500);
    let before = steady.rounds();
    while Instant::now() < end {
        let tag = steady.tag();
        for function in [ABORT_TASK, 9, ABORT_TASK_SET, 10] {
            session.manage(function, lun(0), (tag, session.cmd_sn.wrapping_sub(1)))?;
        }
        let data = DataOut {
            last: true,
            initiator_task_tag: tag,
            target_transfer_tag: RESERVED_TAG,
            exp_stat_sn: session.exp_stat_sn,
            ..DataOut::default()
        };
        session.peer.say(data.header(), &[0xbb; 512]);
        session.run(lun(0), &SYNCHRONIZE_CACHE, &[], 0)?;
    }
    if steady.rounds() > before { Ok(()) } else { Err("the steady session stood still".into()) }
}

/// Initiators that ask for much and take none of it, or offer much and give none of it, on the very disk of the steady
/// session: what they hold is their own part.
pub(crate) fn greedy() {
    const LASTS: Duration = Duration::from_secs(3);
    let steady = Steady::start_without_flushes(0);
    let block = |n: u32| 8192 + n * 32;
    let who = |n: u32| Who::new(&format!("greedy-{n}"), 0);
    let mut takers: Vec<_> = (0..2).map(|n| Session::open(&who(n))).collect();
    let mut givers: Vec<_> = (2..5).map(|n| Session::open(&who(n))).collect();
    for n in 0..60 {
        for session in &mut takers {
            session.begin(lun(0), &read10(block(n), 512), &[], 512 * BLOCK as u32);
        }
        for session in &mut givers {
            let write = session.command(lun(0), &write10(block(n), 512), 512 * BLOCK, 0);
            session.peer.say(write.header(), &[]);
        }
    }
    let (start, before) = (Instant::now(), steady.rounds());
    while start.elapsed() < LASTS {
        // They are well and answer pings; they just give nothing for the R2Ts they get.
        for session in &mut givers {
            session.listen(BRIEF).unwrap();
            session.ping().unwrap();
        }
    }
    let rounds = steady.rounds() - before;
    println!("{rounds} rounds beside the greedy");
    assert!(rounds > 20, "the steady session starves: {rounds} rounds");
    steady.finish(Duration::from_secs(2));
    // The disk is theirs again as soon as they want it.
    for mut session in givers {
        session.manage(ABORT_TASK_SET, lun(0), (RESERVED_TAG, 0)).unwrap();
        session.run(lun(0), &read10(0, 1), &[], 512).unwrap().good().unwrap();
    }
}

/// Headers of noise behind a valid login: whatever it is, it is answered or the connection ends, and nobody else sees it.
pub(crate) fn noise() {
    let steady = Steady::start(0);
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..150 {
        let mut session = another();
        for _ in 0..8 {
            let mut bytes = [0; 48];
            for eight in bytes.chunks_mut(8) {
                eight.copy_from_slice(&random().to_be_bytes());
            }
            // Mostly a code and lengths that get somewhere.
            bytes[0] = [0, 1, 2, 4, 5, 6, 0x10, 0x41][(random() % 8) as usize];
            bytes[4..7].fill(0);
            if random() % 2 == 0 {
                bytes[24..28].copy_from_slice(&session.cmd_sn.to_be_bytes());
            }
            let length = usize::from(bytes[7]);
            session.peer.bytes(&bytes);
            session.peer.bytes(&vec![0xcc; length + (length.wrapping_neg() & 3)]);
        }
        session.peer.finish();
        session.peer.ends(SOON).unwrap();
    }
    steady.finish(SOON);
}
