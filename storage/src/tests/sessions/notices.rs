//! What initiators are told without having asked.

use super::*;
use storage_iscsi::wire::{AsyncMessage, LogoutRequest};

/// A world with a disk, and a session on it.
fn stage() -> (World, Stream, Clock) {
    let mut world = world();
    world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let (stream, clock) = (world.host.stream(65536, 65536), world.executor.clock());
    (world, stream, clock)
}

async fn hear_event(initiator: &mut Initiator) -> (AsyncMessage, Vec<u8>) {
    let (header, data) = initiator.hear_all().await;
    assert_eq!(header.opcode(), opcode::ASYNC_MESSAGE, "{header:?}");
    (AsyncMessage::read(&header), data)
}

async fn log_out(initiator: &mut Initiator) {
    let request = LogoutRequest {
        immediate: true,
        initiator_task_tag: 99,
        cmd_sn: initiator.cmd_sn,
        ..LogoutRequest::default()
    };
    initiator.say(request.header(), &[]).await;
    assert_eq!(initiator.hear().await.opcode(), opcode::LOGOUT_RESPONSE);
}

#[test]
fn who_is_logged_in_hears_of_another_unit_at_once_and_by_a_unit_attention() {
    let (mut world, stream, _) = stage();
    world.service(10810, "more", Manner::Serve);
    let control = world.control();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let more = Exposure {
            iqn: "iqn.2026-01.test:disk".into(),
            lun: 7,
            ..exposure("more", "nbd://10.78.0.2:10810/more")
        };
        control.expose(more).expect("exposed");
        let (message, data) = hear_event(&mut initiator).await;
        assert_eq!((message.event, message.stat_sn), (0, 2));
        assert_eq!(
            (data[..3].to_vec(), data[4] & 15, data[14], data[15]),
            (vec![0, 18, 0x70], 6, 0x3f, 0x0e)
        );
        initiator.test_unit_ready().await;
        let (_, data) = initiator.hear_all().await;
        assert_eq!((data[14], data[15]), (0x3f, 0x0e));
    });
}

#[test]
fn who_is_logged_in_to_what_is_withdrawn_is_asked_to_leave_and_does() {
    let (mut world, stream, clock) = stage();
    let control = world.control();
    let again = world.host.stream(65536, 65536);
    finish(&mut world, Duration::from_secs(20), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        control.withdraw_within("disk", Duration::from_millis(9500)).expect("begun");
        let (message, _) = hear_event(&mut initiator).await;
        assert_eq!((message.event, message.parameter3), (1, 10));
        // Until it goes all is as it was, but for logins.
        initiator.write(1).await;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
        refused(again, 0x301).await;
        assert_eq!(control.withdraw("disk"), Err(crate::ControlError::InUse));
        log_out(&mut initiator).await;
        clock.sleep(Duration::from_secs(1)).await;
        assert!(control.get("disk").is_none(), "it went with the session");
    });
}

/// Log in in vain, for this reason.
async fn refused(stream: Stream, status: u16) {
    let (_, response) = Initiator::try_log_in(stream, "late", "disk", LoginRequest::default()).await;
    assert_eq!(u16::from(response.status_class) << 8 | u16::from(response.status_detail), status);
}

#[test]
fn who_is_still_logging_in_to_what_is_withdrawn_is_asked_to_leave_when_it_is_in() {
    let (mut world, mut stream, clock) = stage();
    let control = world.control();
    finish(&mut world, Duration::from_secs(20), async move {
        stream.connect(format!("10.78.0.1:{PORT}").parse().expect("address")).await.expect("connected");
        let mut initiator = Initiator { stream, input: Vec::new(), cmd_sn: 1, tag: 0 };
        let request = LoginRequest { immediate: true, current_stage: 1, ..LoginRequest::default() };
        let names = "InitiatorName=iqn.2026-01.test:slow\0TargetName=iqn.2026-01.test:disk\0";
        initiator.say(request.header(), names.as_bytes()).await;
        assert!(!LoginResponse::read(&initiator.hear().await).transit);
        control.withdraw_within("disk", Duration::from_secs(3)).expect("begun");
        clock.sleep(Duration::from_secs(1)).await;
        let request = LoginRequest { transit: true, next_stage: 3, ..request };
        initiator.say(request.header(), &[]).await;
        assert!(LoginResponse::read(&initiator.hear().await).transit);
        let (message, _) = hear_event(&mut initiator).await;
        assert_eq!((message.event, message.parameter3), (1, 2), "what is left of the time");
        assert_eq!(hear_event(&mut initiator).await.0.event, 3);
    });
}

#[test]
fn who_does_not_leave_is_dropped_when_the_time_is_over() {
    let (mut world, stream, clock) = stage();
    let control = world.control();
    finish(&mut world, Duration::from_secs(20), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let begun = clock.now();
        control.withdraw_within("disk", Duration::from_secs(3)).expect("begun");
        assert_eq!(hear_event(&mut initiator).await.0.event, 1);
        let (message, _) = hear_event(&mut initiator).await;
        assert_eq!(message.event, 3);
        assert_eq!(initiator.stream.read(&mut [0; 16]).await, Ok(0), "the end");
        let waited = clock.now().since(begun);
        assert!((3000..3500).contains(&waited.as_millis()), "{waited:?}");
        clock.sleep(Duration::from_secs(1)).await;
        assert!(control.get("disk").is_none());
    });
}

#[test]
fn an_appliance_that_ends_lets_nobody_in_and_leaves_its_disks_in_order() {
    let (mut world, stream, _) = stage();
    let control = world.control();
    let again = world.host.stream(65536, 65536);
    let drained = control.clone();
    finish(&mut world, Duration::from_secs(20), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        initiator.write(1).await;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
        control.drain(Duration::from_secs(5));
        assert_eq!(hear_event(&mut initiator).await.0.event, 1);
        refused(again, 0x301).await;
        assert!(!control.is_drained());
        log_out(&mut initiator).await;
    });
    world.run(Duration::from_secs(2));
    assert!(drained.is_drained(), "the disk was told farewell");
}
