//! Sessions with several connections, and logins in the place of what there is.

use super::*;
use storage_iscsi::wire::{AsyncMessage, LogoutRequest, LogoutResponse, TaskManagementResponse};

const CONFLICT: u8 = 0x18;
const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 1];

/// A world with a disk and room for ten connections.
fn stage() -> (World, Rc<RefCell<Service>>, Vec<Stream>, Clock) {
    let mut world = world_within(&Limits { connections: 10, ..limits() });
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let streams = (0..8).map(|_| world.host.stream(65536, 65536)).collect();
    let clock = world.executor.clock();
    (world, service, streams, clock)
}

fn request(tsih: u16, cid: u16, cmd_sn: u32) -> LoginRequest {
    LoginRequest { isid: ISID, tsih, cid, cmd_sn, ..LoginRequest::default() }
}

/// Log in with these numbers.
async fn log_in(stream: Stream, request: LoginRequest) -> (Initiator, u16) {
    let (initiator, response) = Initiator::try_log_in(stream, "one", "disk", request).await;
    assert_eq!((response.status_class, response.transit), (0, true), "{response:?}");
    (initiator, response.tsih)
}

/// Two connections of a session, with CIDs 1 and 2.
async fn pair(one: Stream, two: Stream) -> ([Initiator; 2], u16) {
    let (mut one, tsih) = log_in(one, request(0, 1, 1)).await;
    one.test_unit_ready().await;
    one.hear().await;
    let (two, same) = log_in(two, request(tsih, 2, one.cmd_sn)).await;
    assert_eq!(same, tsih);
    ([one, two], tsih)
}

async fn status(initiator: &mut Initiator) -> u8 {
    let header = initiator.hear_answer().await;
    assert_eq!(header.opcode(), opcode::SCSI_RESPONSE, "{header:?}");
    ScsiResponse::read(&header).status
}

async fn ended(initiator: &mut Initiator) {
    while !matches!(initiator.stream.read(&mut [0; 512]).await, Ok(0) | Err(_)) {}
}

async fn log_out(initiator: &mut Initiator, reason: u8, cid: u16) -> u8 {
    let request = LogoutRequest {
        reason,
        immediate: true,
        initiator_task_tag: 0x70,
        cid,
        cmd_sn: initiator.cmd_sn,
        ..LogoutRequest::default()
    };
    initiator.say(request.header(), &[]).await;
    let header = initiator.hear_answer().await;
    assert_eq!(header.opcode(), opcode::LOGOUT_RESPONSE, "{header:?}");
    LogoutResponse::read(&header).response
}

#[test]
fn commands_that_come_by_two_connections_are_done_in_the_order_of_their_numbers() {
    let (mut world, service, mut streams, clock) = stage();
    let (one, two) = (streams.remove(0), streams.remove(0));
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], _) = pair(one, two).await;
        // Writes of one place: the last one by its number counts, and it is sent first.
        for round in 0..50_u8 {
            let number = one.cmd_sn;
            two.cmd_sn = number + 1;
            two.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[round; 4096]).await;
            clock.sleep(Duration::from_micros(u64::from(round) * 40)).await;
            one.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0xee; 4096]).await;
            assert_eq!([status(&mut one).await, status(&mut two).await], [GOOD; 2], "{round}");
            one.cmd_sn = number + 2;
            assert_eq!(service.borrow().disk.content()[..4096], [round; 4096]);
        }
    });
}

/// Write and read back places of its own, as one of several connections whose commands are numbered together.
async fn work(connection: Rc<RefCell<Option<Initiator>>>, numbers: Rc<RefCell<u32>>, place: u8, rounds: u8) {
    for round in 0..rounds {
        // A number is taken when its command is sent, so that it is sent.
        let mut initiator = connection.borrow_mut().take().expect("it is there");
        let address = place * 8;
        for (opcode, data) in [(0x2a, vec![place ^ round; 4096]), (0x28, Vec::new())] {
            initiator.cmd_sn = *numbers.borrow();
            *numbers.borrow_mut() += 1;
            let command =
                ScsiCommand { write: opcode == 0x2a, read: opcode == 0x28, ..ScsiCommand::default() };
            initiator.command_over(command, &[opcode, 0, 0, 0, 0, address, 0, 0, 8, 0], 4096, &data).await;
            let mut read = Vec::new();
            loop {
                let (header, data) = initiator.hear_all().await;
                read.extend(data);
                match header.opcode() {
                    opcode::SCSI_RESPONSE => assert_eq!(ScsiResponse::read(&header).status, GOOD),
                    opcode::DATA_IN if header.0[1] & 1 == 0 => continue,
                    opcode::DATA_IN => {}
                    opcode::NOP_IN => continue,
                    other => panic!("{other:#x}"),
                }
                break;
            }
            if opcode == 0x28 {
                assert_eq!(read, [place ^ round; 4096], "place {place}, round {round}");
            }
        }
        connection.replace(Some(initiator));
    }
}

#[test]
fn three_connections_work_under_load_and_every_byte_is_right() {
    let (mut world, _service, mut streams, _) = stage();
    let done = Rc::new(RefCell::new(0));
    let [one, two, three] = [(); 3].map(|()| streams.remove(0));
    let connections: [Rc<RefCell<Option<Initiator>>>; 3] = Default::default();
    let numbers = Rc::new(RefCell::new(0));
    let (given, first) = (connections.clone(), numbers.clone());
    finish(&mut world, Duration::from_secs(5), async move {
        let ([one, two], tsih) = pair(one, two).await;
        let (three, _) = log_in(three, request(tsih, 3, one.cmd_sn)).await;
        *first.borrow_mut() = one.cmd_sn;
        for (given, initiator) in given.iter().zip([one, two, three]) {
            given.replace(Some(initiator));
        }
    });
    for (index, connection) in connections.into_iter().enumerate() {
        let (numbers, done) = (numbers.clone(), done.clone());
        world.executor.add("worker", async move {
            work(connection, numbers, index as u8 + 1, 100).await;
            *done.borrow_mut() += 1;
        });
    }
    let end = world.now + Duration::from_secs(20);
    while *done.borrow() < 3 {
        assert!(world.now < end, "it takes too long");
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.control().get("disk").expect("exposed").sessions, 1);
}

#[test]
fn a_window_of_commands_over_three_connections_is_answered_in_whatever_order_they_arrive() {
    let (mut world, _service, mut streams, clock) = stage();
    let [one, two, three] = [(); 3].map(|()| streams.remove(0));
    finish(&mut world, Duration::from_secs(5), async move {
        let ([one, two], tsih) = pair(one, two).await;
        let (three, _) = log_in(three, request(tsih, 3, one.cmd_sn)).await;
        let mut number = one.cmd_sn;
        let mut connections = [one, two, three];
        let mut random = 7_u32;
        for _ in 0..20 {
            let mut sent = [0; 3];
            for _ in 0..100 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let index = (random >> 24) as usize % 3;
                connections[index].cmd_sn = number;
                connections[index].test_unit_ready().await;
                number += 1;
                sent[index] += 1;
                if random >> 16 & 7 == 0 {
                    clock.sleep(Duration::from_micros(300)).await;
                }
            }
            for (connection, sent) in connections.iter_mut().zip(sent) {
                for _ in 0..sent {
                    assert_eq!(status(connection).await, GOOD);
                }
            }
        }
    });
}

#[test]
fn a_connection_that_is_lost_takes_its_own_tasks_and_the_session_goes_on() {
    let (mut world, service, mut streams, clock) = stage();
    let [one, two, again] = [(); 3].map(|()| streams.remove(0));
    service.borrow_mut().manner = Manner::Hang;
    let disk = service.clone();
    finish(&mut world, Duration::from_secs(20), async move {
        let ([mut one, mut two], tsih) = pair(one, two).await;
        one.write(1).await;
        two.cmd_sn = one.cmd_sn;
        for place in 2..6 {
            two.write(place).await;
        }
        one.cmd_sn = two.cmd_sn;
        clock.sleep(Duration::from_millis(100)).await;
        two.stream.abort();
        clock.sleep(Duration::from_millis(100)).await;
        disk.borrow_mut().manner = Manner::Serve;
        assert_eq!(status(&mut one).await, GOOD, "its own task lives");
        // And another may join.
        let (mut again, _) = log_in(again, request(tsih, 3, one.cmd_sn)).await;
        again.write(7).await;
        assert_eq!(status(&mut again).await, GOOD);
        one.cmd_sn = again.cmd_sn;
        one.write(8).await;
        assert_eq!(status(&mut one).await, GOOD);
    });
}

#[test]
fn a_command_that_was_lost_with_its_connection_ends_the_session_in_time_and_not_for_ever() {
    let (mut world, _service, mut streams, clock) = stage();
    let [one, two] = [(); 2].map(|()| streams.remove(0));
    let control = world.control();
    finish(&mut world, Duration::from_secs(20), async move {
        let ([mut one, two], _) = pair(one, two).await;
        // As if two had sent it: it never came.
        drop(two);
        one.cmd_sn += 1;
        let begun = clock.now();
        one.write(1).await;
        ended(&mut one).await;
        let waited = clock.now().since(begun);
        assert!((10..12).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(control.get("disk").expect("exposed").sessions, 0);
    });
}

#[test]
fn a_reservation_falls_with_the_last_connection_of_its_session_before_the_logout_is_answered() {
    let (mut world, _service, mut streams, _) = stage();
    let [one, two, other] = [(); 3].map(|()| streams.remove(0));
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], _) = pair(one, two).await;
        let mut other = Initiator::log_in(other, "other", "disk").await;
        // RESERVE(6) by one of them is the session's.
        one.command(&[0x16, 0, 0, 0, 0, 0], &[]).await;
        assert_eq!(status(&mut one).await, GOOD);
        two.cmd_sn = one.cmd_sn;
        two.test_unit_ready().await;
        assert_eq!(status(&mut two).await, GOOD);
        assert_eq!(log_out(&mut one, 1, 1).await, 0);
        ended(&mut one).await;
        other.test_unit_ready().await;
        assert_eq!(status(&mut other).await, CONFLICT, "a connection is left");
        assert_eq!(log_out(&mut two, 1, 2).await, 0);
        other.test_unit_ready().await;
        assert_eq!(status(&mut other).await, GOOD);
    });
}

#[test]
fn a_logout_of_the_session_ends_all_its_connections() {
    let (mut world, _service, mut streams, _) = stage();
    let [one, two, late] = [(); 3].map(|()| streams.remove(0));
    let control = world.control();
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], tsih) = pair(one, two).await;
        assert_eq!(log_out(&mut two, 0, 0).await, 0);
        ended(&mut one).await;
        assert_eq!(control.get("disk").expect("exposed").sessions, 0);
        let (_, response) = Initiator::try_log_in(late, "one", "disk", request(tsih, 3, 9)).await;
        assert_eq!((response.status_class, response.status_detail), (2, 10), "there is nothing to join");
    });
}

#[test]
fn one_connection_can_log_out_another_and_its_tasks_with_it() {
    let (mut world, service, mut streams, clock) = stage();
    let [one, two] = [(); 2].map(|()| streams.remove(0));
    service.borrow_mut().manner = Manner::Hang;
    let disk = service.clone();
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], _) = pair(one, two).await;
        two.write(1).await;
        one.cmd_sn = two.cmd_sn;
        clock.sleep(Duration::from_millis(100)).await;
        assert_eq!(log_out(&mut one, 1, 7).await, 1, "there is no such connection");
        assert_eq!(log_out(&mut one, 2, 2).await, 2, "recovery is not done");
        assert_eq!(log_out(&mut one, 1, 2).await, 0);
        ended(&mut two).await;
        disk.borrow_mut().manner = Manner::Serve;
        one.write(2).await;
        assert_eq!(status(&mut one).await, GOOD);
    });
}

#[test]
fn a_login_with_the_cid_of_a_connection_takes_its_place_and_ends_its_tasks_first() {
    let (mut world, service, mut streams, clock) = stage();
    let [one, two, again] = [(); 3].map(|()| streams.remove(0));
    service.borrow_mut().manner = Manner::Hang;
    let disk = service.clone();
    let control = world.control();
    finish(&mut world, Duration::from_secs(20), async move {
        let ([mut one, mut two], tsih) = pair(one, two).await;
        two.write(1).await;
        one.cmd_sn = two.cmd_sn;
        clock.sleep(Duration::from_millis(100)).await;
        let (mut again, same) = log_in(again, request(tsih, 2, one.cmd_sn)).await;
        assert_eq!(same, tsih);
        ended(&mut two).await;
        again.command(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 8, 0], &[9; 4096]).await;
        disk.borrow_mut().manner = Manner::Serve;
        assert_eq!(status(&mut again).await, GOOD);
        one.cmd_sn = again.cmd_sn;
        one.write(2).await;
        assert_eq!(status(&mut one).await, GOOD);
        assert_eq!(control.get("disk").expect("exposed").sessions, 1);
    });
    assert_eq!(
        service.borrow().disk.content()[4096..8192],
        [9; 4096],
        "the old write is not over the new one"
    );
}

#[test]
fn the_only_connection_of_a_session_can_be_reinstated() {
    let (mut world, _service, mut streams, _) = stage();
    let [one, again] = [(); 2].map(|()| streams.remove(0));
    finish(&mut world, Duration::from_secs(10), async move {
        let (mut one, tsih) = log_in(one, request(0, 1, 1)).await;
        // Told, and reserved: both stay the session's.
        one.test_unit_ready().await;
        one.hear().await;
        let (mut again, same) = log_in(again, request(tsih, 1, one.cmd_sn)).await;
        assert_eq!(same, tsih);
        ended(&mut one).await;
        again.test_unit_ready().await;
        assert_eq!(status(&mut again).await, GOOD);
    });
}

#[test]
fn a_session_that_is_reinstated_under_load_ends_all_its_connections_and_their_tasks_first() {
    let (mut world, service, mut streams, clock) = stage();
    let [one, two, again] = [(); 3].map(|()| streams.remove(0));
    service.borrow_mut().manner = Manner::Hang;
    let disk = service.clone();
    let control = world.control();
    finish(&mut world, Duration::from_secs(60), async move {
        let ([mut one, mut two], tsih) = pair(one, two).await;
        for place in 0..6 {
            one.command(&[0x2a, 0, 0, 0, 0, place * 8, 0, 0, 8, 0], &[0x11; 4096]).await;
            two.cmd_sn = one.cmd_sn;
            two.command(&[0x2a, 0, 0, 0, 0, place * 8, 0, 0, 8, 0], &[0x22; 4096]).await;
            one.cmd_sn = two.cmd_sn;
        }
        clock.sleep(Duration::from_millis(100)).await;
        let (mut again, new) = log_in(again, request(0, 1, 500)).await;
        assert_ne!(new, tsih);
        ended(&mut one).await;
        ended(&mut two).await;
        for place in 0..6 {
            again.command(&[0x2a, 0, 0, 0, 0, place * 8, 0, 0, 8, 0], &[0x33; 4096]).await;
        }
        disk.borrow_mut().manner = Manner::Serve;
        for _ in 0..6 {
            assert_eq!(status(&mut again).await, GOOD);
        }
        assert_eq!(control.get("disk").expect("exposed").sessions, 1);
    });
    world.run(Duration::from_secs(5));
    assert!(
        service.borrow().disk.content()[..6 * 4096].iter().all(|&byte| byte == 0x33),
        "old writes are dead"
    );
}

#[test]
fn who_may_not_join_is_told_why() {
    let (mut world, _service, mut streams, _) = stage();
    let mut next = || streams.remove(0);
    let [a, b, c, d, e, f, g] = [(); 7].map(|()| next());
    finish(&mut world, Duration::from_secs(10), async move {
        let (one, tsih) = log_in(a, request(0, 1, 1)).await;
        let number = one.cmd_sn;
        let try_it = async |stream, name: &str, request| {
            let (_, response) = Initiator::try_log_in(stream, name, "disk", request).await;
            (response.status_class, response.status_detail)
        };
        assert_eq!(try_it(b, "one", request(tsih + 1, 2, number)).await, (2, 10), "another TSIH");
        assert_eq!(try_it(c, "two", request(tsih, 2, number)).await, (2, 10), "another initiator");
        let other = LoginRequest { isid: [0x80, 0, 0, 0, 0, 9], ..request(tsih, 2, number) };
        assert_eq!(try_it(d, "one", other).await, (2, 10), "another ISID");
        let mut kept = Vec::new();
        for (stream, cid) in [e, f, g].into_iter().zip(2..) {
            kept.push(log_in(stream, request(tsih, cid, number)).await);
        }
        assert_eq!(kept.len(), 3);
    });
}

#[test]
fn a_discovery_session_takes_the_place_of_one_of_the_same_initiator_and_of_no_other() {
    let (mut world, _service, mut streams, _) = stage();
    let mut next = || streams.remove(0);
    let [a, b, c, d, e] = [(); 5].map(|()| next());
    finish(&mut world, Duration::from_secs(10), async move {
        let (mut disk, _) = log_in(a, request(0, 1, 1)).await;
        disk.test_unit_ready().await;
        disk.hear().await;
        let other = LoginRequest { isid: [0x80, 0, 0, 0, 0, 9], ..request(0, 1, 1) };
        let mut first = Initiator::discover(b, "one", request(0, 1, 1)).await;
        let mut others = [
            Initiator::discover(c, "two", request(0, 1, 1)).await,
            Initiator::discover(d, "one", other).await,
        ];
        let mut second = Initiator::discover(e, "one", request(0, 1, 1)).await;
        ended(&mut first).await;
        for initiator in others.iter_mut().chain([&mut second]) {
            assert_eq!(log_out(initiator, 0, 0).await, 0, "it was still there");
        }
        disk.test_unit_ready().await;
        assert_eq!(status(&mut disk).await, GOOD, "and so is who uses a disk");
    });
}

#[test]
fn a_fifth_connection_is_one_too_many() {
    let (mut world, _service, mut streams, _) = stage();
    let streams: Vec<_> = streams.drain(..5).collect();
    finish(&mut world, Duration::from_secs(10), async move {
        let mut kept = Vec::new();
        let mut tsih = 0;
        for (stream, cid) in streams.into_iter().zip(1..) {
            let (initiator, response) =
                Initiator::try_log_in(stream, "one", "disk", request(tsih, cid, 1)).await;
            let refused = (response.status_class, response.status_detail);
            assert_eq!(refused, if cid == 5 { (2, 6) } else { (0, 0) }, "{cid}");
            tsih = response.tsih;
            kept.push(initiator);
        }
    });
}

#[test]
fn a_function_ends_the_tasks_of_all_connections_of_the_session_and_the_others_are_told_nothing() {
    for (function, which) in [(2, "ABORT TASK SET"), (5, "LOGICAL UNIT RESET")] {
        let (mut world, service, mut streams, clock) = stage();
        let [one, two] = [(); 2].map(|()| streams.remove(0));
        service.borrow_mut().manner = Manner::Hang;
        let disk = service.clone();
        finish(&mut world, Duration::from_secs(30), async move {
            let ([mut one, mut two], _) = pair(one, two).await;
            two.write(1).await;
            // One whose data never comes, as it is ended before.
            let command = ScsiCommand { write: true, ..ScsiCommand::default() };
            let cdb = [0x2a, 0, 0, 0, 0, 64, 0, 0, 8, 0];
            two.command_over(command, &cdb, 4096, &[]).await;
            one.cmd_sn = two.cmd_sn;
            let tag = one.manage(function, NO_TASK).await;
            let header = one.hear_answer().await;
            assert_eq!(header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE, "{which}");
            let response = TaskManagementResponse::read(&header);
            assert_eq!((response.response, response.initiator_task_tag), (0, tag), "{which}");
            disk.borrow_mut().manner = Manner::Serve;
            // What was asked for before may still be heard.
            clock.sleep(Duration::from_millis(200)).await;
            two.cmd_sn = one.cmd_sn;
            let probe = two.test_unit_ready().await;
            loop {
                let header = two.hear_answer().await;
                if header.opcode() == opcode::SCSI_RESPONSE {
                    assert_eq!(header.initiator_task_tag(), probe, "{which}: the others are silent");
                    break;
                }
                assert_eq!(header.opcode(), opcode::READY_TO_TRANSFER, "{which}");
            }
            // Longer than anybody waits for data.
            clock.sleep(Duration::from_secs(1)).await;
        });
        assert!(service.borrow().writes <= 1, "{which}");
    }
}

#[test]
fn a_nexus_reset_ends_all_connections_of_the_session() {
    let (mut world, _service, mut streams, _) = stage();
    let [one, two, other] = [(); 3].map(|()| streams.remove(0));
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], _) = pair(one, two).await;
        let mut other = Initiator::log_in(other, "other", "disk").await;
        one.manage(11, NO_TASK).await;
        assert_eq!(one.hear().await.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
        for initiator in [&mut one, &mut two] {
            assert_eq!(AsyncMessage::read(&initiator.hear().await).event, 3);
            ended(initiator).await;
        }
        other.write(1).await;
        assert_eq!(status(&mut other).await, GOOD);
    });
}

#[test]
fn each_connection_is_asked_to_leave() {
    let (mut world, _service, mut streams, _) = stage();
    let [one, two] = [(); 2].map(|()| streams.remove(0));
    let control = world.control();
    finish(&mut world, Duration::from_secs(10), async move {
        let ([mut one, mut two], _) = pair(one, two).await;
        control.withdraw_within("disk", Duration::from_secs(2)).expect("begun");
        for initiator in [&mut one, &mut two] {
            for event in [1, 3] {
                let header = initiator.hear().await;
                assert_eq!(header.opcode(), opcode::ASYNC_MESSAGE);
                assert_eq!(AsyncMessage::read(&header).event, event);
            }
            ended(initiator).await;
        }
    });
    assert!(world.control().get("disk").is_none());
}
