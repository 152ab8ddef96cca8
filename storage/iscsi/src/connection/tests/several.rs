//! Several connections of one session: one numbering of commands, and everything else apart.

use super::bench::{Bench, LUN, NORMAL};
use crate::wire::{
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse as Response, NopIn, SerialNumber,
    TaskManagementRequest, opcode,
};
use crate::{Event, Fatal, Limits, LogoutReason, Referenced};
use std::time::Duration;

const SEVERAL: &str = "MaxConnections=4\0InitialR2T=No\0MaxBurstLength=65536\0";

/// Two connections of a session; the second one has CID 4.
fn pair() -> [Bench; 2] {
    let one = Bench::logged_in(SEVERAL);
    let two = joined(&one, "");
    [one, two]
}

/// Another connection of the session of `one`, which says these keys.
fn joined(one: &Bench, keys: &str) -> Bench {
    let mut two = Bench::new(&Limits::default());
    two.cmd_sn = one.cmd_sn;
    two.exp_stat_sn = 900;
    let request = LoginRequest { cid: 4, tsih: 7, ..two.login_request(1, Some(3)) };
    two.send(request.header(), format!("{NORMAL}{keys}").as_bytes());
    assert!(matches!(two.connection.poll_event(), Some(Event::Login)));
    two.connection.join(&one.connection.session());
    two.accept();
    assert!(matches!(two.connection.poll_event(), Some(Event::LoggedIn)));
    let response = LoginResponse::read(&two.hear().header);
    assert_eq!((response.status_class, response.tsih, response.stat_sn), (0, 7, 900));
    two.exp_stat_sn = 901;
    two
}

/// Let a connection look again, as the layer above does.
fn retry(bench: &mut Bench) -> bool {
    let taken = bench.connection.retry().expect("the connection goes on");
    bench.resume();
    taken
}

#[test]
fn a_connection_that_joins_has_the_keys_of_the_session_and_its_own() {
    let one = Bench::logged_in(SEVERAL);
    let mut two = Bench::new(&Limits::default());
    let request = LoginRequest { cid: 4, tsih: 7, ..two.login_request(1, Some(3)) };
    let keys = "HeaderDigest=CRC32C\0MaxRecvDataSegmentLength=512\0InitialR2T=No\0MaxBurstLength=4096\0\
        FirstBurstLength=512\0MaxConnections=1\0ErrorRecoveryLevel=2\0";
    two.send(request.header(), format!("{NORMAL}{keys}").as_bytes());
    two.connection.poll_event();
    two.connection.join(&one.connection.session());
    two.accept();
    let text = String::from_utf8(two.hear().data).expect("text");
    assert_eq!(
        text,
        "TargetPortalGroupTag=1\0HeaderDigest=CRC32C\0InitialR2T=No\0MaxBurstLength=Reject\0\
         FirstBurstLength=Reject\0MaxConnections=Reject\0ErrorRecoveryLevel=0\0MaxRecvDataSegmentLength=262144\0"
    );
    let (leading, further) = (one.connection.parameters(), two.connection.parameters());
    assert!(further.header_digest() && !leading.header_digest());
    assert_eq!((further.max_recv_data_segment_length(), further.max_connections()), (512, 4));
    assert_eq!((further.initial_r2t(), further.max_burst_length()), (false, 65_536));
    assert_eq!(further.first_burst_length(), leading.first_burst_length());
}

#[test]
fn commands_are_handed_up_in_the_order_of_their_numbers_whichever_connection_they_come_by() {
    let [mut one, mut two] = pair();
    let commands = [(); 5].map(|()| one.read_command(one.cmd_sn, 0));
    two.send(commands[1].header(), &[]);
    two.send(commands[3].header(), &[]);
    two.no_event();
    assert!(!retry(&mut two) && !one.connection.frees_others(), "nothing has come");
    assert_eq!(two.unread(), 48, "what stands behind is not read");
    one.begin(commands[0], &[]);
    assert!(one.connection.frees_others());
    assert!(retry(&mut two));
    assert_eq!(two.taken().task, two.connection.tasks().next().expect("one").0);
    two.resume();
    two.no_event();
    one.begin(commands[2], &[]);
    assert!(retry(&mut two));
    two.taken();
    one.begin(commands[4], &[]);
    assert_eq!((one.connection.tasks_in_use(), two.connection.tasks_in_use()), (3, 2));
}

#[test]
fn a_connection_that_comes_to_wait_itself_frees_the_others_first_and_is_freed_by_them() {
    let [mut one, mut two] = pair();
    let commands = [(); 4].map(|()| one.read_command(one.cmd_sn, 0));
    two.send(commands[1].header(), &[]);
    two.send(commands[2].header(), &[]);
    // The next one, and one that is early, before anybody looks.
    one.begin(commands[0], &[]);
    one.send(commands[3].header(), &[]);
    assert!(one.connection.frees_others());
    assert!(retry(&mut two));
    two.taken();
    two.resume();
    two.taken();
    assert!(two.connection.frees_others());
    assert!(retry(&mut one));
    one.taken();
}

#[test]
fn answers_go_by_the_connection_of_their_command_with_its_own_numbers() {
    let [mut one, mut two] = pair();
    let first = one.read(0x10, 0);
    two.cmd_sn = one.cmd_sn;
    let second = two.read(0x11, 0);
    two.good(second, 0);
    one.silence();
    let response = two.hear_response(0x11, 0);
    assert_eq!((response.exp_cmd_sn, response.stat_sn), (102, 901));
    one.good(first, 0);
    let response = one.hear_response(0x10, 0);
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (102, 102 + 127), "the window is the session's");
    two.silence();
}

#[test]
fn the_window_is_shared_and_closes_for_all() {
    let limits = Limits { commands: 2, ..Limits::default() };
    let mut one = Bench::logged_in_with(&limits, SEVERAL);
    let mut two = joined(&one, "");
    let running = one.read(0x10, 0);
    two.cmd_sn = one.cmd_sn;
    two.read(0x11, 0);
    one.cmd_sn = two.cmd_sn;
    let beyond = one.read_command(0x12, 0);
    one.send(beyond.header(), &[]);
    one.no_event();
    assert_eq!(one.connection.counters().ignored, 1);
    one.good(running, 0);
    one.hear_response(0x10, 0);
    two.begin(beyond, &[]);
}

#[test]
fn immediate_commands_wait_for_nobody() {
    let [mut one, mut two] = pair();
    one.cmd_sn += 3;
    let mut command = two.read_command(0x20, 0);
    (command.immediate, command.cmd_sn) = (true, one.cmd_sn);
    two.begin(command, &[]);
}

#[test]
fn a_gap_that_nobody_fills_ends_the_connection_in_time() {
    let [_one, mut two] = pair();
    two.cmd_sn += 1;
    let early = two.read_command(0x10, 0);
    two.send(early.header(), &[]);
    let limit = Limits::default().gap_within;
    assert_eq!(two.connection.poll_timeout(), Some(two.now + limit / 2));
    assert_eq!(two.connection.handle_timeout(two.now + limit / 2), Ok(()));
    assert_eq!(two.connection.poll_timeout(), Some(two.now + limit));
    assert_eq!(two.connection.handle_timeout(two.now + (limit - Duration::from_millis(1))), Ok(()));
    let ended = two.connection.handle_timeout(two.now + limit);
    assert_eq!(ended, Err(Fatal::CommandGap { expected: 100, received: 101 }));
}

#[test]
fn a_command_waits_as_long_as_those_before_it_keep_coming() {
    let [mut one, mut two] = pair();
    two.cmd_sn += 8;
    let early = two.read_command(0x10, 0);
    two.send(early.header(), &[]);
    let step = Limits::default().gap_within / 2;
    for number in 0..7 {
        one.read(number, 0);
        assert!(!retry(&mut two), "there are more before it");
        two.now = two.now + step;
        assert_eq!(two.connection.handle_timeout(two.now), Ok(()), "{number}");
    }
    assert_eq!(
        two.connection.handle_timeout(two.now + step),
        Err(Fatal::CommandGap { expected: 107, received: 108 })
    );
}

#[test]
fn a_connection_that_has_not_joined_yet_promises_nothing_of_the_window() {
    let mut two = Bench::new(&Limits::default());
    let request = two.login_request(1, None);
    let request = LoginRequest { cid: 4, tsih: 7, to_be_continued: true, cmd_sn: 500, ..request };
    two.send(request.header(), NORMAL.as_bytes());
    let response = LoginResponse::read(&two.hear().header);
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (500, 499));
}

#[test]
fn who_takes_nothing_is_told_of_the_window_no_more_often_than_there_is_room_for() {
    let [_one, mut two] = pair();
    for _ in 0..200 {
        two.connection.tell_window();
    }
    let mut told = 0;
    while let Some(heard) = two.try_hear() {
        assert_eq!(heard.header.opcode(), opcode::NOP_IN);
        told += 1;
    }
    assert!((1..=32).contains(&told), "{told}");
}

#[test]
fn a_connection_that_ends_leaves_its_places_in_the_window_to_the_others() {
    let limits = Limits { commands: 3, ..Limits::default() };
    let mut one = Bench::logged_in_with(&limits, SEVERAL);
    let mut two = joined(&one, "");
    let kept = one.read(0x10, 0);
    two.cmd_sn = one.cmd_sn;
    two.read(0x11, 0);
    two.read(0x12, 0);
    one.cmd_sn = two.cmd_sn;
    one.connection.tell_reopened();
    one.silence();
    two.connection.close();
    one.connection.tell_reopened();
    let told = NopIn::read(&one.hear().header);
    assert_eq!((told.initiator_task_tag, told.target_transfer_tag), (0xffff_ffff, 0xffff_ffff));
    assert_eq!((told.exp_cmd_sn, told.max_cmd_sn, told.stat_sn), (103, 104, one.exp_stat_sn));
    one.connection.tell_reopened();
    one.silence();
    one.read(0x11, 0);
    one.good(kept, 0);
    one.hear_response(0x10, 0);
    // What begins in the place of the connection that ended has a window of its own.
    two.connection.reset(two.now);
    (two.cmd_sn, two.exp_stat_sn) = (5000, 1);
    two.log_in(NORMAL, "");
    two.read(1, 0);
    assert_eq!(SerialNumber(one.cmd_sn), SerialNumber(104));
}

#[test]
fn a_function_that_ends_several_tasks_waits_for_those_before_it() {
    for (function, waits) in [(2, true), (4, true), (5, true), (6, true), (7, true), (1, false), (9, false)] {
        let mut one = Bench::logged_in("MaxConnections=2\0iSCSIProtocolLevel=2\0");
        let mut two = joined(&one, "");
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun: LUN,
            initiator_task_tag: 0x80,
            referenced_task_tag: 0x77,
            cmd_sn: one.cmd_sn + 1,
            ref_cmd_sn: one.cmd_sn - 5,
            ..Default::default()
        };
        two.send(request.header(), &[]);
        if waits {
            two.no_event();
            one.read(0x10, 0);
            assert!(one.connection.frees_others() && retry(&mut two), "{function}");
        }
        let Some(Event::TaskManagement(taken)) = two.connection.poll_event() else { panic!("{function}") };
        let meant = if waits { Referenced::Nothing } else { Referenced::Unknown };
        assert_eq!(taken.referenced, meant, "{function}: it may be running elsewhere");
    }
}

#[test]
fn a_command_that_waits_is_passed_over_if_it_is_aborted_meanwhile() {
    let [mut one, mut two] = pair();
    let first = one.read_command(0x10, 0);
    let second = one.read_command(0x11, 0);
    two.send(second.header(), &[]);
    let abort = TaskManagementRequest {
        immediate: true,
        function: 1,
        lun: LUN,
        initiator_task_tag: 0x80,
        referenced_task_tag: 0x11,
        cmd_sn: one.cmd_sn,
        ref_cmd_sn: second.cmd_sn,
        ..Default::default()
    };
    one.send(abort.header(), &[]);
    let Some(Event::TaskManagement(taken)) = one.connection.poll_event() else { panic!("it comes") };
    assert_eq!(taken.referenced, Referenced::NotArrived);
    one.begin(first, &[]);
    assert!(one.connection.frees_others() && retry(&mut two));
    two.no_event();
    assert_eq!(two.connection.counters().ignored, 1);
    one.cmd_sn = 102;
    one.read(0x12, 0);
}

#[test]
fn another_connection_of_the_session_can_be_logged_out() {
    let [mut one, _two] = pair();
    for (ended, response) in [(true, 0), (false, 1)] {
        let logout = LogoutRequest {
            reason: 1,
            initiator_task_tag: 0x70,
            cid: 4,
            cmd_sn: one.cmd_sn,
            exp_stat_sn: one.exp_stat_sn,
            ..Default::default()
        };
        one.cmd_sn += 1;
        one.send(logout.header(), &[]);
        let event = one.connection.poll_event();
        assert!(matches!(event, Some(Event::Logout(LogoutReason::CloseOther(4)))), "{event:?}");
        one.connection.logout_of_other_response(ended);
        let heard = one.hear();
        assert_eq!(heard.header.opcode(), opcode::LOGOUT_RESPONSE);
        assert_eq!(Response::read(&heard.header).response, response);
        one.exp_stat_sn += 1;
    }
    let task = one.read(0x10, 0);
    one.good(task, 0);
    one.hear_response(0x10, 0);
}

#[test]
fn data_with_a_command_that_waits_finds_its_place_later() {
    let [mut one, mut two] = pair();
    one.cmd_sn += 1;
    let write = one.write_command(0x11, 4096);
    let bytes = super::bench::pattern(0, 4096);
    two.chunk = 100;
    two.send(write.header(), &bytes);
    two.no_event();
    one.cmd_sn = 100;
    one.read(0x10, 0);
    assert!(retry(&mut two));
    let task = two.taken().task;
    two.connection.receive(task, 0, two.buffer(4096));
    two.resume();
    assert_eq!(two.filled_place(), (0, 4096));
}
