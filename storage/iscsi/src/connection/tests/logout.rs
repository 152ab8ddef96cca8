//! Leaving, and being asked to leave.

use super::bench::{Bench, DISCOVERY, LUN};
use crate::wire::{AsyncMessage, LogoutRequest, LogoutResponse as Response, opcode, reject};
use crate::{Announcement, Connection, Event, Limits, LogoutReason, LogoutResponse, State};

fn request(bench: &mut Bench, reason: u8, cid: u16) -> LogoutRequest {
    let cmd_sn = bench.cmd_sn;
    bench.cmd_sn += 1;
    LogoutRequest {
        reason,
        initiator_task_tag: 0x70,
        cid,
        cmd_sn,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    }
}

fn hear(bench: &mut Bench) -> Response {
    let heard = bench.hear();
    assert_eq!(heard.header.opcode(), opcode::LOGOUT_RESPONSE);
    let response = Response::read(&heard.header);
    assert_eq!(response.stat_sn, bench.exp_stat_sn);
    bench.exp_stat_sn += 1;
    response
}

#[test]
fn a_logout_is_the_last_word_behind_all_responses() {
    for (reason, said) in [(0, LogoutReason::CloseSession), (1, LogoutReason::CloseConnection)] {
        let mut bench = Bench::logged_in("");
        let answered = bench.read(0x10, 4096);
        let unanswered = bench.read(0x11, 4096);
        let logout = request(&mut bench, reason, 3);
        bench.send(logout.header(), &[]);
        assert!(matches!(bench.connection.poll_event(), Some(Event::Logout(heard)) if heard == said));
        assert_eq!(bench.connection.state(), State::InLogout);
        bench.silence();
        assert!(bench.connection.space().is_empty(), "nothing more is read");
        bench.connection.send(answered, 0, bench.filled(0, 4096));
        bench.connection.send(unanswered, 0, bench.filled(0, 4096));
        bench.good(answered, 4096);
        bench.connection.logout_response(LogoutResponse::Closed);
        assert_eq!(bench.hear().header.opcode(), opcode::DATA_IN);
        bench.exp_stat_sn += 1;
        let response = hear(&mut bench);
        assert_eq!((response.response, response.initiator_task_tag), (0, 0x70));
        assert!(matches!(bench.connection.poll_event(), Some(Event::Close)));
        bench.silence();
        assert_eq!((bench.share.used(), bench.connection.state()), (0, State::Free));
    }
}

#[test]
fn logouts_that_cannot_be_are_answered_and_the_session_goes_on() {
    let mut bench = Bench::logged_in("");
    for (reason, cid, answer) in [(1, 99, 1), (2, 3, 2)] {
        let logout = request(&mut bench, reason, cid);
        bench.send(logout.header(), &[]);
        bench.no_event();
        assert_eq!(hear(&mut bench).response, answer);
    }
    let logout = request(&mut bench, 5, 3);
    bench.send(logout.header(), &[]);
    bench.hear_reject(reject::INVALID_PDU_FIELD, logout.header());
    assert_eq!(bench.connection.state(), State::LoggedIn);
    let task = bench.read(0x10, 0);
    bench.good(task, 0);
    bench.hear_response(0x10, 0);
}

#[test]
fn a_discovery_session_can_leave() {
    let mut bench = Bench::new(&Limits::default());
    bench.log_in(DISCOVERY, "");
    let logout = request(&mut bench, 0, 3);
    bench.send(logout.header(), &[]);
    assert!(matches!(bench.connection.poll_event(), Some(Event::Logout(LogoutReason::CloseSession))));
    bench.connection.logout_response(LogoutResponse::Closed);
    hear(&mut bench);
    assert!(matches!(bench.connection.poll_event(), Some(Event::Close)));
}

#[test]
fn what_comes_behind_a_logout_is_not_read() {
    let mut bench = Bench::logged_in("");
    let logout = request(&mut bench, 0, 3);
    bench.send(logout.header(), &[]);
    let late = bench.command(0x10);
    bench.send(late.header(), &[]);
    assert!(matches!(bench.connection.poll_event(), Some(Event::Logout(_))));
    bench.resume();
    bench.no_event();
    assert_eq!(bench.unread(), 48);
}

#[test]
fn a_target_can_ask_for_a_logout_and_go_on_until_it_comes() {
    let mut bench = Bench::logged_in("");
    assert!(bench.connection.announce(Announcement::RequestLogout { within: 20 }));
    let message = AsyncMessage::read(&bench.hear().header);
    assert_eq!((message.event, message.parameter3, message.stat_sn), (1, 20, bench.exp_stat_sn));
    bench.exp_stat_sn += 1;
    assert_eq!(bench.connection.state(), State::LogoutRequested);
    let task = bench.read(0x10, 0);
    bench.good(task, 0);
    bench.hear_response(0x10, 0);
    let logout = request(&mut bench, 0, 3);
    bench.send(logout.header(), &[]);
    assert!(matches!(bench.connection.poll_event(), Some(Event::Logout(_))));
}

#[test]
fn events_of_units_are_told() {
    let mut bench = Bench::logged_in("");
    let sense = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2a, 0x09, 0, 0, 0, 0];
    assert!(bench.connection.announce(Announcement::Scsi { lun: LUN, sense: &sense }));
    let heard = bench.hear();
    let message = AsyncMessage::read(&heard.header);
    assert_eq!((message.event, message.lun, message.initiator_task_tag), (0, LUN, 0xffff_ffff));
    assert_eq!(heard.data[..2], [0, 18]);
    assert_eq!(heard.data[2..], sense);
    for _ in 0..4 {
        assert!(bench.connection.announce(Announcement::Scsi { lun: LUN, sense: &sense }));
    }
    assert!(!bench.connection.announce(Announcement::Scsi { lun: LUN, sense: &sense }), "no room");
}

#[test]
fn that_a_connection_is_dropped_is_the_last_word_behind_all_answers() {
    for (announcement, event, cid) in
        [(Announcement::DropConnection, 2, 3), (Announcement::DropSession, 3, 0)]
    {
        let mut bench = Bench::logged_in("DefaultTime2Wait=5\0DefaultTime2Retain=0\0");
        let answered = bench.read(0x10, 0);
        let unanswered = bench.read(0x11, 4096);
        bench.good(answered, 0);
        assert!(bench.connection.announce(announcement));
        assert!(!bench.connection.announce(announcement), "it is said once");
        assert!(bench.connection.space().is_empty(), "nothing more is read");
        bench.hear_response(0x10, 0);
        let message = AsyncMessage::read(&bench.hear().header);
        assert_eq!((message.event, message.parameter1, message.parameter2), (event, cid, 5));
        assert!(matches!(bench.connection.poll_event(), Some(Event::Close)));
        bench.good(unanswered, 0);
        bench.silence();
    }
}

#[test]
fn nothing_is_announced_before_full_feature_phase() {
    let mut bench = Bench::new(&Limits::default());
    assert!(!bench.connection.announce(Announcement::DropSession));
    bench.silence();
}

#[test]
fn however_a_connection_ends_it_is_free_and_holds_nothing() {
    for close in [Connection::close, Connection::close_for_reinstatement, Connection::close_for_cleanup] {
        let mut bench = Bench::logged_in("");
        let task = bench.write(0x10, 4096);
        let buffer = bench.buffer(4096);
        bench.connection.receive(task, 0, buffer);
        assert!(bench.share.used() > 0);
        close(&mut bench.connection);
        assert_eq!((bench.connection.state(), bench.connection.tasks_in_use()), (State::Free, 0));
        assert_eq!(bench.share.used(), 0);
    }
}
