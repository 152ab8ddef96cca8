//! From within a session: commands that make no sense, for units and ranges that are not there, and task management of
//! nothing; and the list of all that is tried from within.

use super::data_out::{
    data_beyond, data_for_nobody, data_numbers, data_out_of_place, data_withheld, immediate_beyond,
    unknown_transfer_tag, unsolicited,
};
use super::login::login_again;
use super::neighbours::others_tasks;
use super::peer::{SOON, Who};
use super::sequence::{
    additional_headers, digests, logout_of_others, number_gap, number_twice, numbers_out_of_window,
    reserved_tag, snack, status_from_the_future, tag_in_use, talk_after_logout, target_opcodes, texts,
    too_much_data, unknown_opcodes,
};
use super::session::{BLOCK, CHECK_CONDITION, GOOD, Session, lun, read10, write10};
use super::steady::Steady;
use std::time::Instant;
use storage_iscsi::wire::{RESERVED_TAG, ScsiCommand, reject};

/// Where hostile writes go; what lies below is a canary.
pub(crate) const ELSEWHERE: u32 = 4096;

/// Blocks of the canary.
const CANARY: u16 = 64;

pub(crate) const ABORT_TASK: u8 = 1;

pub(crate) const ABORT_TASK_SET: u8 = 2;

const CLEAR_TASK_SET: u8 = 4;

const LOGICAL_UNIT_RESET: u8 = 5;

const TARGET_COLD_RESET: u8 = 7;
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

/// The session serves reads and writes.
pub(crate) fn serves(session: &mut Session) -> Result<(), String> {
    session.ping()?;
    session.settle()?;
    let data = vec![0x5a; BLOCK];
    session.run(lun(0), &write10(ELSEWHERE + 900, 1), &data, 0)?.good()?;
    let answer = session.run(lun(0), &read10(ELSEWHERE + 900, 1), &[], 512)?.good()?;
    if answer.data == data { Ok(()) } else { Err("what was written is not what is read".into()) }
}

pub(crate) fn another() -> Session {
    Session::open(&Who::new("another-rogue", 1))
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

fn manage_nothing(session: &mut Session) -> Result<(), String> {
    let tag = session.tag();
    // Every code there is, and those that are none, for a task that is none; but for the one that ends the session.
    for function in (0..=0x7f).filter(|function| *function != TARGET_COLD_RESET) {
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
