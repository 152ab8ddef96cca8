//! From within a session: PDUs that are none, numbers out of order, digests that do not match, talk after the end.

use super::commands::{ABORT_TASK, ELSEWHERE, another, serves};
use super::peer::{Heard, Peer, SOON, Who};
use super::session::{BLOCK, CHECK_CONDITION, Session, lun, read10, write10};
use storage_iscsi::wire::{
    LogoutRequest, NopOut, RESERVED_TAG, ScsiCommand, SnackRequest, TextRequest, opcode, reject,
};

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

pub(crate) fn target_opcodes(_: &mut Session) -> Result<(), String> {
    for code in 0x20..0x40 {
        let mut session = another();
        let mut header = NopOut { cmd_sn: session.cmd_sn, ..NopOut::default() }.header();
        header.0[0] = code;
        session.peer.say(header, &[]);
        ends(&mut session).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

pub(crate) fn unknown_opcodes(session: &mut Session) -> Result<(), String> {
    for code in (0x07..0x10).chain(0x11..0x20) {
        let mut header =
            NopOut { cmd_sn: session.cmd_sn, initiator_task_tag: 7, ..NopOut::default() }.header();
        header.0[0] = code | 0x40;
        session.peer.say(header, &[]);
        rejected(session, reject::COMMAND_NOT_SUPPORTED).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

pub(crate) fn too_much_data(_: &mut Session) -> Result<(), String> {
    for code in [opcode::NOP_OUT, opcode::SCSI_COMMAND, opcode::TEXT_REQUEST, opcode::DATA_OUT] {
        let mut session = another();
        let mut header = NopOut { immediate: true, cmd_sn: session.cmd_sn, ..NopOut::default() }.header();
        header.0[0] = code | 0x40;
        session.peer.bytes(&header.with_data_segment(0x00ff_ffff).0);
        ends(&mut session).map_err(|error| format!("{code:#04x}: {error}"))?;
    }
    Ok(())
}

pub(crate) fn additional_headers(_: &mut Session) -> Result<(), String> {
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

pub(crate) fn numbers_out_of_window(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn number_gap(session: &mut Session) -> Result<(), String> {
    session.number();
    let command = session.command(lun(0), &[0; 16], 0, 0);
    session.peer.say(command.header(), &[]);
    ends(session)
}

pub(crate) fn number_twice(session: &mut Session) -> Result<(), String> {
    let first = session.command(lun(0), &read10(0, 1), 0, 512);
    let second = ScsiCommand { initiator_task_tag: session.tag(), ..first };
    let tag = session.send(&first, &[], 0);
    session.peer.say(second.header(), &[]);
    session.finish(tag, SOON)?.good()?;
    serves(session)
}

pub(crate) fn tag_in_use(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn reserved_tag(session: &mut Session) -> Result<(), String> {
    let command = ScsiCommand { initiator_task_tag: RESERVED_TAG, ..session.command(lun(0), &[0; 16], 0, 0) };
    session.peer.say(command.header(), &[]);
    rejected(session, reject::INVALID_PDU_FIELD).or_else(|_| serves(session))
}

pub(crate) fn status_from_the_future(session: &mut Session) -> Result<(), String> {
    session.exp_stat_sn = session.exp_stat_sn.wrapping_add(1 << 30);
    session.ping()?;
    serves(session)
}

pub(crate) fn snack(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn texts(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn digests(_: &mut Session) -> Result<(), String> {
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

pub(crate) fn logout_of_others(session: &mut Session) -> Result<(), String> {
    for (reason, cid, response) in [(1, 77, 1), (2, 0, 2)] {
        let found = logout(session, reason, cid)?;
        if found != response {
            return Err(format!("logout for reason {reason}, CID {cid}: {found}"));
        }
    }
    serves(session)
}

pub(crate) fn talk_after_logout(session: &mut Session) -> Result<(), String> {
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
