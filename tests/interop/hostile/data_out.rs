//! From within a session: data for writes that is elsewhere, too much, out of order, or does not come.

use super::commands::{ABORT_TASK, ELSEWHERE, serves};
use super::peer::{Heard, Peer, SOON, Who};
use super::session::{Answer, BLOCK, CHECK_CONDITION, Session, data_out, lun, read10, write10};
use storage_iscsi::wire::{DataOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, opcode};

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

pub(crate) fn unknown_transfer_tag(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn data_for_nobody(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn data_beyond(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn data_out_of_place(session: &mut Session) -> Result<(), String> {
    lie(
        session,
        &[
            |wanted| (DataOut { last: false, buffer_offset: 512, ..honest(wanted) }, 512),
            |wanted| (DataOut { last: false, ..honest(wanted) }, 1024),
        ],
    )
}

pub(crate) fn data_numbers(session: &mut Session) -> Result<(), String> {
    lie(
        session,
        &[
            |wanted| (DataOut { last: false, data_sn: 3, ..honest(wanted) }, 512),
            |wanted| (DataOut { last: false, data_sn: 0xffff_ffff, ..honest(wanted) }, 512),
        ],
    )
}

/// WRITE_PENDING for ever: others go on, and an abort ends it.
pub(crate) fn data_withheld(session: &mut Session) -> Result<(), String> {
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

pub(crate) fn unsolicited(_: &mut Session) -> Result<(), String> {
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

pub(crate) fn immediate_beyond(session: &mut Session) -> Result<(), String> {
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
