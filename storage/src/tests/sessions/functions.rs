//! Task management functions, each against a service that hangs and beside another initiator.

use super::*;

const CHECK_CONDITION: u8 = 2;
const COMPLETE: u8 = 0;
const NOT_THERE: u8 = 1;
const NO_SUCH_UNIT: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const SUCCEEDED: u8 = 7;

/// How a function is answered; responses to commands that come before it are passed over.
async fn answered(initiator: &mut Initiator, tag: u32) -> Header {
    loop {
        let header = initiator.hear_answer().await;
        if header.opcode() == opcode::TASK_MANAGEMENT_RESPONSE {
            assert_eq!(header.initiator_task_tag(), tag);
            return header;
        }
        assert_eq!(header.opcode(), opcode::SCSI_RESPONSE);
    }
}

async fn ask(initiator: &mut Initiator, function: u8, task: (u32, u32)) -> u8 {
    let tag = initiator.manage(function, task).await;
    answered(initiator, tag).await.0[2]
}

/// The unit attention that the next command is told, as its additional sense code and qualifier.
async fn told(initiator: &mut Initiator) -> Option<[u8; 2]> {
    initiator.test_unit_ready().await;
    let (header, data) = initiator.hear_all().await;
    let response = ScsiResponse::read(&header);
    (response.status == CHECK_CONDITION).then(|| [data[14], data[15]])
}

/// A world with a disk of a service that hangs, and two initiators.
fn stage() -> (World, Rc<RefCell<Service>>, [Stream; 2], Clock) {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Hang;
    let streams = [(), ()].map(|()| world.host.stream(65536, 65536));
    let clock = world.executor.clock();
    (world, service, streams, clock)
}

#[test]
fn functions_that_end_tasks_are_answered_within_a_second_although_the_service_hangs() {
    // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET WARM RESET.
    for function in [1, 2, 4, 5, 6] {
        let (mut world, service, [stream, _], clock) = stage();
        let disk = service.clone();
        finish(&mut world, Duration::from_secs(60), async move {
            let mut initiator = Initiator::log_in(stream, "one", "disk").await;
            let write = initiator.write(1).await;
            clock.sleep(Duration::from_secs(4)).await;
            let asked = clock.now();
            let task = (write, initiator.cmd_sn - 1);
            assert_eq!(ask(&mut initiator, function, task).await, COMPLETE, "{function}");
            let waited = clock.now().since(asked);
            assert!(waited < Duration::from_secs(1), "{function}: {waited:?}");
            if matches!(function, 5 | 6) {
                assert!(told(&mut initiator).await.is_some());
            }
            // What overlaps the write waits until that cannot change anything any more, and then holds.
            let begun = clock.now();
            initiator.command(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 8, 0], &[9; 4096]).await;
            clock.sleep(Duration::from_secs(2)).await;
            disk.borrow_mut().manner = Manner::Serve;
            assert_eq!(ScsiResponse::read(&initiator.hear_answer().await).status, GOOD);
            assert!(clock.now().since(begun) > Duration::from_secs(2), "{function}");
        });
        assert_eq!(service.borrow().disk.content()[4096..8192], [9; 4096], "{function}");
    }
}

#[test]
fn what_was_aborted_is_not_sent_again_to_a_service_that_comes_back() {
    let (mut world, service, [stream, _], _) = stage();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let write = initiator.write(1).await;
        let task = (write, initiator.cmd_sn - 1);
        assert_eq!(ask(&mut initiator, 1, task).await, COMPLETE);
    });
    // Long enough for its connection to be dropped.
    world.run(Duration::from_secs(60));
    assert_eq!(service.borrow().writes, 0);
    service.borrow_mut().manner = Manner::Serve;
    world.run(Duration::from_secs(30));
    assert_eq!(service.borrow().writes, 0);
}

#[test]
fn an_abort_tells_apart_what_ended_what_comes_yet_and_what_never_was() {
    let (mut world, service, [stream, _], _) = stage();
    service.borrow_mut().manner = Manner::Serve;
    finish(&mut world, Duration::from_secs(5), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let ended = initiator.write(1).await;
        let number = initiator.cmd_sn - 1;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
        assert_eq!(ask(&mut initiator, 1, (ended, number)).await, COMPLETE);
        assert_eq!(ask(&mut initiator, 1, (4711, number + 5000)).await, NOT_THERE);
        // One that was sent before, as it seems, and comes behind it.
        let number = initiator.cmd_sn;
        initiator.cmd_sn += 1;
        assert_eq!(ask(&mut initiator, 1, (4711, number)).await, COMPLETE);
        initiator.cmd_sn = number;
        initiator.write(2).await;
        initiator.write(3).await;
        let response = ScsiResponse::read(&initiator.hear().await);
        assert_eq!(
            (response.status, response.initiator_task_tag),
            (GOOD, initiator.tag),
            "the other is dropped"
        );
    });
    assert_eq!(service.borrow().writes, 2);
}

#[test]
fn a_reset_and_a_cleared_task_set_are_told_to_others_and_an_abort_is_not() {
    for (function, aborted, then) in [
        (2, None, None),
        (4, Some(TASK_ABORTED), None),
        (5, Some(TASK_ABORTED), Some([0x29, 0x03])),
        (6, Some(TASK_ABORTED), Some([0x29, 0x03])),
        (11, None, None),
    ] {
        let (mut world, _service, [one, two], _) = stage();
        finish(&mut world, Duration::from_secs(5), async move {
            let mut one = Initiator::log_in(one, "one", "disk").await;
            let mut two = Initiator::log_in(two, "two", "disk").await;
            one.write(1).await;
            one.ping().await;
            assert_eq!(one.hear().await.opcode(), opcode::NOP_IN, "the write is there");
            assert_eq!(ask(&mut two, function, NO_TASK).await, COMPLETE);
            if let Some(status) = aborted {
                assert_eq!(ScsiResponse::read(&one.hear_answer().await).status, status, "{function}");
            }
            assert_eq!(told(&mut one).await, then, "{function}");
        });
    }
}

#[test]
fn a_nexus_reset_ends_the_session_and_loses_what_a_lost_nexus_loses() {
    let (mut world, service, [one, two], clock) = stage();
    service.borrow_mut().manner = Manner::Serve;
    let again = world.host.stream(65536, 65536);
    let disk = service.clone();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        let mut two = Initiator::log_in(two, "two", "disk").await;
        // RESERVE(6).
        one.command(&[0x16, 0, 0, 0, 0, 0], &[]).await;
        assert_eq!(ScsiResponse::read(&one.hear().await).status, GOOD);
        two.test_unit_ready().await;
        assert_eq!(ScsiResponse::read(&two.hear().await).status, 0x18);
        disk.borrow_mut().manner = Manner::Hang;
        one.write(1).await;
        let asked = clock.now();
        assert_eq!(ask(&mut one, 11, NO_TASK).await, COMPLETE);
        assert!(clock.now().since(asked) < Duration::from_secs(1));
        let header = one.hear().await;
        assert_eq!((header.opcode(), header.0[36]), (opcode::ASYNC_MESSAGE, 3));
        assert_eq!(one.stream.read(&mut [0; 16]).await, Ok(0), "the end");
        two.test_unit_ready().await;
        assert_eq!(ScsiResponse::read(&two.hear().await).status, GOOD);
        one.stream.abort();
        clock.sleep(Duration::from_millis(100)).await;
        let mut one = Initiator::log_in_untold(again, "one", "disk").await;
        let event = one.manage(12, NO_TASK).await;
        let header = answered(&mut one, event).await;
        assert_eq!((header.0[2], &header.0[8..11]), (SUCCEEDED, &[0x16, 0x29, 0x07][..]));
        assert_eq!(told(&mut one).await, Some([0x29, 0x07]));
        assert_eq!(ask(&mut one, 12, NO_TASK).await, COMPLETE, "it was told");
    });
}

#[test]
fn queries_say_what_runs_for_whom() {
    let (mut world, service, [one, two], _) = stage();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        let mut two = Initiator::log_in(two, "two", "disk").await;
        let write = one.write(1).await;
        let task = (write, one.cmd_sn - 1);
        assert_eq!(ask(&mut one, 9, task).await, SUCCEEDED);
        assert_eq!(ask(&mut one, 10, NO_TASK).await, SUCCEEDED);
        assert_eq!(ask(&mut two, 10, NO_TASK).await, COMPLETE, "it is not theirs");
        service.borrow_mut().manner = Manner::Serve;
        assert_eq!(ScsiResponse::read(&one.hear().await).status, GOOD);
        assert_eq!(ask(&mut one, 9, task).await, COMPLETE);
        assert_eq!(ask(&mut one, 10, NO_TASK).await, COMPLETE);
    });
}

#[test]
fn functions_that_are_not_there_say_so() {
    let (mut world, _service, [stream, _], _) = stage();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        // CLEAR ACA, TASK REASSIGN, and numbers that nothing has.
        for (function, response) in
            [(3, NOT_SUPPORTED), (8, NO_REASSIGNMENT), (0, NOT_SUPPORTED), (13, NOT_SUPPORTED)]
        {
            assert_eq!(ask(&mut initiator, function, NO_TASK).await, response, "{function}");
        }
        initiator.tag += 1;
        let request = TaskManagementRequest {
            immediate: true,
            function: 5,
            lun: [0, 1, 0, 0, 0, 0, 0, 0],
            initiator_task_tag: initiator.tag,
            referenced_task_tag: wire::RESERVED_TAG,
            cmd_sn: initiator.cmd_sn,
            ..TaskManagementRequest::default()
        };
        initiator.say(request.header(), &[]).await;
        let tag = initiator.tag;
        assert_eq!(answered(&mut initiator, tag).await.0[2], NO_SUCH_UNIT);
    });
}

#[test]
fn a_cold_reset_ends_every_session_behind_its_answer() {
    let (mut world, _service, [one, two], _) = stage();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        let mut two = Initiator::log_in(two, "two", "disk").await;
        two.write(1).await;
        two.ping().await;
        assert_eq!(two.hear().await.opcode(), opcode::NOP_IN, "the write is there");
        assert_eq!(ask(&mut one, 7, NO_TASK).await, COMPLETE);
        assert_eq!(ScsiResponse::read(&two.hear().await).status, TASK_ABORTED);
        for initiator in [&mut one, &mut two] {
            let header = initiator.hear().await;
            assert_eq!((header.opcode(), header.0[36]), (opcode::ASYNC_MESSAGE, 3));
            assert_eq!(initiator.stream.read(&mut [0; 16]).await, Ok(0), "the end");
        }
    });
    assert_eq!(world.control().get("disk").expect("exposed").sessions, 0);
}
