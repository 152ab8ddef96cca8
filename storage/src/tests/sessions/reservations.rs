//! Reservations that are kept on a state disk, and what waits for it.

use super::*;
use crate::ControlError;
use state::Records;
use state::testing::RamDisk;

const CONFLICT: u8 = 0x18;
const CHECK_CONDITION: u8 = 2;

/// A world with a disk for the service, and one for what outlives a restart.
fn kept_on(disk: &RamDisk) -> World {
    let mut world = world();
    let records = Records::open(Box::new(disk.clone()), 65536, ([1; 16], 1), || Instant::ZERO);
    let records = records.unwrap_or_else(|error| panic!("{error}"));
    world.executor.add("reservations", world.storage.keep_reservations(records.clone()));
    world.records = Some(records);
    world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    world
}

/// PERSISTENT RESERVE OUT; answers the command's tag.
async fn change(initiator: &mut Initiator, action: u8, kind: u8, (key, action_key): (u8, u8), flags: u8) {
    let mut list = [0; 24];
    (list[7], list[15], list[20]) = (key, action_key, flags);
    initiator.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list).await;
}

async fn status(initiator: &mut Initiator) -> u8 {
    ScsiResponse::read(&initiator.hear_answer().await).status
}

#[test]
fn a_change_waits_for_the_state_disk_and_nothing_else_does() {
    let disk = RamDisk::new(600);
    let mut world = kept_on(&disk);
    let [one, two] = [(), ()].map(|()| world.host.stream(65536, 65536));
    let (clock, state_disk) = (world.executor.clock(), disk.clone());
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        let mut two = Initiator::log_in(two, "two", "disk").await;
        state_disk.hang(true);
        change(&mut one, 6, 0, (0, 7), 1).await;
        change(&mut two, 6, 0, (0, 8), 1).await;
        clock.sleep(Duration::from_millis(500)).await;
        for initiator in [&mut one, &mut two] {
            // The ping comes back, and the write is done, before what was asked first.
            initiator.ping().await;
            assert_eq!(initiator.hear().await.opcode(), opcode::NOP_IN);
            initiator.write(1).await;
            assert_eq!(status(initiator).await, GOOD);
        }
        state_disk.hang(false);
        assert_eq!((status(&mut one).await, status(&mut two).await), (GOOD, GOOD));
        change(&mut two, 1, 3, (8, 0), 0).await;
        assert_eq!(status(&mut two).await, GOOD);
        one.write(1).await;
        assert_eq!(status(&mut one).await, CONFLICT);
    });
    // The power fails; whoever comes first is kept out.
    disk.power_failure(|| 0);
    let mut world = kept_on(&disk);
    let [one, two] = [(), ()].map(|()| world.host.stream(65536, 65536));
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        one.write(1).await;
        assert_eq!(status(&mut one).await, CONFLICT);
        let mut two = Initiator::log_in(two, "two", "disk").await;
        two.write(1).await;
        assert_eq!(status(&mut two).await, GOOD);
    });
}

#[test]
fn a_state_disk_that_fails_fails_changes_only_until_it_works_again() {
    let disk = RamDisk::new(600);
    let mut world = kept_on(&disk);
    let one = world.host.stream(65536, 65536);
    let (clock, state_disk) = (world.executor.clock(), disk.clone());
    finish(&mut world, Duration::from_secs(30), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        state_disk.fail_after(Some(0));
        for _ in 0..3 {
            change(&mut one, 6, 0, (0, 7), 1).await;
            assert_eq!(status(&mut one).await, CHECK_CONDITION);
            one.write(1).await;
            assert_eq!(status(&mut one).await, GOOD);
        }
        // Nothing was promised, so without a promise it is as ever.
        change(&mut one, 6, 0, (0, 7), 0).await;
        assert_eq!(status(&mut one).await, GOOD);
        state_disk.fail_after(None);
        clock.sleep(Duration::from_secs(6)).await;
        change(&mut one, 0, 0, (7, 9), 1).await;
        assert_eq!(status(&mut one).await, GOOD);
    });
}

#[test]
fn a_disk_whose_reservations_cannot_be_read_is_not_exposed() {
    let disk = RamDisk::new(600);
    let mut world = kept_on(&disk);
    let records = world.records.clone().expect("there");
    let uuid = crate::control::uuid(&exposure("other", "nbd://10.78.0.2:10810/other"));
    finish(&mut world, Duration::from_secs(1), async move {
        let key = [b"reservations/", &uuid[..]].concat();
        records.keep(&[state::Change::Put(&key, b"nonsense")]).await.expect("kept");
    });
    let refused = world.control().expose(exposure("other", "nbd://10.78.0.2:10810/other"));
    assert!(matches!(refused, Err(ControlError::Conflict(reason)) if reason.contains("reservations")));
    assert!(world.control().get("other").is_none());
}
