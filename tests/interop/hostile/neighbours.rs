//! Beside somebody else's session: meddling with its tasks, taking all there is, noise.

use super::commands::{ABORT_TASK, ABORT_TASK_SET, another};
use super::peer::{SOON, Who};
use super::session::{BLOCK, SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use super::steady::Steady;
use std::time::{Duration, Instant};
use storage_iscsi::wire::{DataOut, RESERVED_TAG};

/// Functions for the tasks of another session, at the same unit: it must notice nothing of them.
pub(crate) fn others_tasks(steady: &Steady) -> Result<(), String> {
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
    const BOUND: Duration = Duration::from_secs(2);
    let steady = Steady::start_without_flushes(0);
    let block = |n: u32| 8192 + n * 32;
    let who = |n: u32| Who::new(&format!("greedy-{n}"), 0);
    let mut takers: Vec<_> = (0..2).map(|n| Session::open(&who(n))).collect();
    let mut givers: Vec<_> = (2..7).map(|n| Session::open(&who(n))).collect();
    // As many as their windows have room for, which are smaller where there is less memory.
    for n in 0..110 {
        for session in takers.iter_mut().filter(|session| session.has_room()) {
            session.begin(lun(0), &read10(block(n), 512), &[], 512 * BLOCK as u32);
        }
        for session in givers.iter_mut().filter(|session| session.has_room()) {
            promise(session, block(n));
        }
    }
    let (start, before, mut longest) = (Instant::now(), steady.rounds(), Duration::ZERO);
    while start.elapsed() < LASTS {
        // They are well and answer pings; they just give nothing for the R2Ts they get.
        for session in &mut givers {
            session.listen(Duration::from_millis(20)).unwrap();
            longest = longest.max(session.ping().unwrap());
            // Who is told to try again does so.
            for _ in 0..session.forget_ended() {
                if session.has_room() {
                    promise(session, block(0));
                }
            }
        }
    }
    let rounds = steady.rounds() - before;
    println!("{rounds} rounds beside the greedy, whose longest ping took {longest:?}");
    assert!(longest < BOUND, "a ping waited for {longest:?}");
    assert!(rounds > 20, "the steady session starves: {rounds} rounds");
    steady.finish(BOUND);
    // The disk is theirs again as soon as they want it.
    for mut session in givers {
        session.manage(ABORT_TASK_SET, lun(0), (RESERVED_TAG, 0)).unwrap();
        session.run(lun(0), &read10(0, 1), &[], 512).unwrap().good().unwrap();
    }
}

/// Sends a write whose data will not come.
fn promise(session: &mut Session, block: u32) {
    let write = session.command(lun(0), &write10(block, 512), 512 * BLOCK, 0);
    session.expect(&write);
    session.peer.say(write.header(), &[]);
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
