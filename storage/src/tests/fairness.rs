//! What one disk that lacks memory costs the others.

use super::limits;
use crate::mailbox::CommandIndex;
use crate::shared::{Owner, Shared};
use kernel_runtime::{Executor, Instant};
use std::rc::Rc;
use storage_block::{Buffer, Share};
use storage_iscsi::wire::{LoginRequest, ScsiCommand};
use storage_iscsi::{Admission, Connection, Event, Task};

/// All that a share gives.
fn exhaust(share: &Share) -> Vec<Buffer> {
    core::iter::from_fn(|| share.take(4096)).collect()
}

/// A task, which only an engine can make.
fn task() -> Task {
    let mut connection = Connection::new(&limits().iscsi, Instant::ZERO);
    let text = b"InitiatorName=iqn.2001-04.com.example:host\0TargetName=iqn.2001-04.com.example:disk\0\0";
    let login = LoginRequest {
        immediate: true,
        transit: true,
        current_stage: 1,
        next_stage: 3,
        data_segment: text.len() as u32 - 1,
        isid: [0x80, 0, 0, 0, 0, 1],
        ..Default::default()
    };
    let mut bytes = login.header().0.to_vec();
    bytes.extend(text);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(ScsiCommand { last: true, ..Default::default() }.header().0);
    let mut rest = &bytes[..];
    loop {
        rest = &rest[connection.take(Instant::ZERO, rest).expect("legal")..];
        match connection.poll_event() {
            Some(Event::Login) => {
                connection.admit(Admission::Accept { tsih: std::num::NonZeroU16::MIN, portal_group_tag: 1 });
            }
            Some(Event::Command(command)) => return command.task,
            _ => {}
        }
        while connection.fill(&mut [0; 512]) > 0 {}
    }
}

/// A command of a connection that lacks what `share` was just asked for in vain.
fn starve(shared: &Rc<Shared>, connection: usize, share: &Share) -> CommandIndex {
    let state = &mut *shared.state.borrow_mut();
    let (index, running) = state.commands.claim();
    running.owner = Some(Owner { connection, task: task() });
    shared.hold(state, index, [share.lack(), None]);
    index
}

fn woken(shared: &Rc<Shared>, connection: usize) -> Vec<CommandIndex> {
    let mut ready = Vec::new();
    shared.wake_starved();
    shared.mailboxes[connection].drain_into(&mut ready);
    ready
}

#[test]
fn who_lacks_memory_is_woken_by_what_comes_back_to_its_own_disk_and_by_nothing_else() {
    let shared = Shared::new(&limits(), Executor::new(1).clock(), 1, None, "test", None);
    let (stalled, busy) = (shared.pool.share(32768), shared.pool.share(32768));
    let part = stalled.part();
    let held = exhaust(&part);
    let [first, second] = [0, 1].map(|_| {
        assert!(part.take(4096).is_none());
        starve(&shared, 0, &part)
    });
    for _ in 0..3 {
        drop(busy.take(4096).expect("another disk goes on"));
        drop(shared.control().take(512).expect("and answers are given"));
        assert_eq!(woken(&shared, 0), []);
    }
    drop(held);
    assert_eq!(woken(&shared, 0), [first, second]);
    assert!(shared.state.borrow().held.is_empty() && shared.state.borrow().lacks.is_empty());
    drop(part.take(4096));
    assert_eq!(woken(&shared, 0), [], "nobody waits any more");
}

#[test]
fn who_finds_the_pool_empty_is_woken_by_whoever_gives_something_back() {
    let shared = Shared::new(&limits(), Executor::new(1).clock(), 1, None, "test", None);
    let (greedy, modest) = (shared.pool.share(usize::MAX / 2), shared.pool.share(65536));
    let mut held = exhaust(&greedy);
    assert!(modest.take(4096).is_none());
    let waiting = starve(&shared, 1, &modest);
    assert_eq!(woken(&shared, 1), []);
    held.pop();
    assert_eq!(woken(&shared, 1), [waiting]);
    assert_eq!(woken(&shared, 0), []);
}

#[test]
fn what_nobody_lacks_any_more_is_forgotten() {
    let shared = Shared::new(&limits(), Executor::new(1).clock(), 1, None, "test", None);
    let held = exhaust(&shared.pool.share(usize::MAX / 2));
    for _ in 0..1000 {
        // A disk comes, has a command that starves, and goes.
        let disk = shared.pool.share(4096);
        assert!(disk.take(4096).is_none());
        let lack = disk.lack();
        let state = &mut *shared.state.borrow_mut();
        let (index, _) = state.commands.claim();
        shared.hold(state, index, [lack, None]);
        state.commands.release(index);
        state.held.clear();
        assert!(state.lacks.len() <= 2 * limits().commands);
    }
    drop(held);
}
