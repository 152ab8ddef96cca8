//! Logging in: stages, continued text, refusals, and everything an initiator can do wrong before it is in.

use super::bench::{Bench, DISCOVERY, NORMAL};
use crate::wire::text::pairs;
use crate::wire::{Header, LoginRequest, LoginResponse, NopOut, ScsiCommand, opcode};
use crate::{Admission, Event, Fatal, Limits, Portal, SessionType, State, Status};
use kernel_runtime::Instant;
use std::time::Duration;

fn bench() -> Bench {
    Bench::new(&Limits::default())
}

impl Bench {
    pub(super) fn say(&mut self, request: LoginRequest, text: &str) {
        self.send(request.header(), text.as_bytes());
    }

    pub(super) fn hear_login(&mut self) -> (LoginResponse, String) {
        let heard = self.hear();
        assert_eq!(heard.header.opcode(), opcode::LOGIN_RESPONSE);
        let response = LoginResponse::read(&heard.header);
        assert_eq!(response.stat_sn, self.exp_stat_sn, "every response takes a number");
        self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
        assert_eq!((response.version_max, response.version_active), (0, 0));
        assert_eq!(response.isid, [0x40, 0, 1, 0x37, 0, 0]);
        (response, String::from_utf8(heard.data).unwrap())
    }

    /// Refused with this status, after which the connection closes.
    pub(super) fn hear_refusal(&mut self, class: u8, detail: u8) {
        let (response, _) = self.hear_login();
        assert_eq!((response.status_class, response.status_detail), (class, detail));
        assert!(!response.transit);
        assert!(matches!(self.connection.poll_event(), Some(Event::Close)));
        assert!(self.connection.space().is_empty());
        assert_eq!(self.connection.state(), State::Free);
        self.silence();
    }

    pub(super) fn announced(&mut self) {
        assert!(matches!(self.connection.poll_event(), Some(Event::Login)));
    }
}

#[test]
fn a_login_goes_through_both_stages() {
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(1)), &format!("{NORMAL}AuthMethod=CHAP,None\0"));
    bench.announced();
    let peer = *bench.connection.peer();
    assert_eq!(peer.initiator.as_str(), "iqn.2001-04.com.example:host");
    assert_eq!(peer.target.as_str(), "iqn.2001-04.com.example:disk");
    assert_eq!((peer.session_type, peer.tsih, peer.cid), (SessionType::Normal, 0, 3));
    bench.silence();
    bench.accept();
    let (response, text) = bench.hear_login();
    assert_eq!((response.current_stage, response.next_stage, response.transit), (0, 1, true));
    assert_eq!(response.tsih, 0, "not before the end");
    assert_eq!(text, "TargetPortalGroupTag=1\0AuthMethod=None\0");
    bench.say(bench.login_request(1, Some(3)), "HeaderDigest=None\0MaxConnections=4\0");
    let (response, text) = bench.hear_login();
    assert_eq!((response.current_stage, response.next_stage, response.tsih), (1, 3, 7));
    assert_eq!(text, "HeaderDigest=None\0MaxConnections=4\0MaxRecvDataSegmentLength=262144\0");
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (100, 227), "a login consumes no command number");
    assert!(matches!(bench.connection.poll_event(), Some(Event::LoggedIn)));
    assert_eq!(bench.connection.peer().tsih, 7);
    assert_eq!(bench.connection.state(), State::LoggedIn);
}

#[test]
fn a_login_may_jump_from_security_to_full_feature_phase() {
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(3)), &format!("{NORMAL}AuthMethod=None\0"));
    bench.announced();
    bench.accept();
    let (response, _) = bench.hear_login();
    assert_eq!((response.next_stage, response.transit, response.tsih), (3, true, 7));
    assert!(matches!(bench.connection.poll_event(), Some(Event::LoggedIn)));
    // We never had the occasion to declare more than the 8,192 bytes that hold by default.
    let command = ScsiCommand { write: true, ..bench.write_command(1, 8193) };
    assert_eq!(bench.try_send(command.header(), &[0; 8193]), Err(Fatal::DataSegmentTooLong { length: 8193 }));
}

#[test]
fn a_stage_without_transit_is_answered_without_transit() {
    let mut bench = bench();
    bench.say(bench.login_request(1, None), &format!("{NORMAL}DataDigest=CRC32C\0"));
    bench.announced();
    bench.accept();
    let (response, text) = bench.hear_login();
    assert_eq!((response.transit, response.current_stage, response.next_stage), (false, 1, 0));
    assert!(text.contains("DataDigest=CRC32C\0"));
    bench.say(bench.login_request(1, Some(3)), "");
    let (response, text) = bench.hear_login();
    assert!(response.transit && text.is_empty(), "what was said is not said again");
}

#[test]
fn text_of_a_login_may_come_in_pieces_cut_anywhere() {
    let whole = format!("{NORMAL}HeaderDigest=CRC32C,None\0MaxBurstLength=65536\0");
    for cut in 1..whole.len() {
        let mut bench = bench();
        let first = LoginRequest { to_be_continued: true, ..bench.login_request(1, None) };
        bench.say(first, &whole[..cut]);
        let (response, text) = bench.hear_login();
        assert_eq!((response.transit, response.to_be_continued, text.as_str()), (false, false, ""));
        bench.no_event();
        bench.say(bench.login_request(1, Some(3)), &whole[cut..]);
        bench.announced();
        bench.accept();
        let (response, text) = bench.hear_login();
        assert!(response.transit);
        assert_eq!(pairs(text.as_bytes()).count(), 4, "{text:?}");
        assert_eq!(bench.connection.parameters().max_burst_length(), 65_536);
    }
}

#[test]
fn a_long_answer_comes_in_pieces() {
    let mut bench = bench();
    let unknown: String = (0..120).map(|n| format!("X-com.example.{n:040}=1\0")).collect();
    bench.say(bench.login_request(1, Some(3)), &format!("{NORMAL}{unknown}"));
    bench.announced();
    bench.accept();
    let (response, mut text) = bench.hear_login();
    assert_eq!((response.transit, response.to_be_continued, text.len()), (false, true, 8192));
    bench.no_event();
    bench.say(bench.login_request(1, Some(3)), "");
    let (response, rest) = bench.hear_login();
    assert_eq!((response.transit, response.to_be_continued), (true, false));
    text += &rest;
    assert_eq!(text.matches("=NotUnderstood\0").count(), 120);
}

#[test]
fn a_discovery_session_needs_no_target() {
    let mut bench = bench();
    bench.say(bench.login_request(1, Some(3)), &format!("{DISCOVERY}MaxBurstLength=512\0InitialR2T=Yes\0"));
    bench.announced();
    assert_eq!(bench.connection.peer().session_type, SessionType::Discovery);
    bench.accept();
    let (response, text) = bench.hear_login();
    assert_eq!(response.tsih, 7);
    assert_eq!(
        text,
        "TargetPortalGroupTag=1\0MaxBurstLength=Irrelevant\0InitialR2T=Irrelevant\0MaxRecvDataSegmentLength=262144\0"
    );
}

#[test]
fn each_wrong_first_request_has_its_status() {
    let name = "InitiatorName=iqn.2001-04.com.example:host\0";
    let target = "TargetName=iqn.2001-04.com.example:disk\0";
    let long_name = format!("InitiatorName=iqn.{}\0{target}", "x".repeat(220));
    for (text, class, detail) in [
        ("", 2, 7),
        ("\0\0\0\0", 2, 7),
        (name, 2, 7),
        (target, 2, 7),
        ("InitiatorName=\0", 2, 0),
        ("InitiatorName=host\0TargetName=iqn.2001-04.com.example:disk\0", 2, 0),
        (&long_name, 2, 0),
        (&format!("{name}TargetName=disk\0"), 2, 3),
        (&format!("{name}{target}SessionType=Strange\0"), 2, 9),
        ("InitiatorName", 2, 0),
        ("=x\0", 2, 0),
        (&format!("{name}{target}{}=1\0", "k".repeat(64)), 2, 0),
        (&format!("{name}{target}no equals sign\0"), 2, 0),
        (&format!("{name}{target}A=\u{1b}[31m\0"), 2, 0),
    ] {
        let mut bench = bench();
        bench.say(bench.login_request(1, Some(3)), text);
        bench.hear_refusal(class, detail);
    }
}

#[test]
fn each_wrong_negotiation_has_its_status() {
    let many: String = (0..300).map(|n| format!("X-{n}=1\0")).collect();
    for (text, class, detail) in [
        ("HeaderDigest=None\0HeaderDigest=None\0", 2, 0),
        ("InitiatorName=iqn.2001-04.com.example:host\0", 2, 0),
        ("MaxRecvDataSegmentLength=0\0", 2, 0),
        ("MaxRecvDataSegmentLength=511\0", 2, 0),
        ("MaxRecvDataSegmentLength=16777216\0", 2, 0),
        ("MaxRecvDataSegmentLength=4294967296\0", 2, 0),
        ("MaxRecvDataSegmentLength=-1\0", 2, 0),
        ("MaxRecvDataSegmentLength=0x\0", 2, 0),
        (many.as_str(), 2, 0),
    ] {
        let mut bench = bench();
        bench.say(bench.login_request(1, Some(3)), &format!("{NORMAL}{text}"));
        bench.announced();
        bench.accept();
        bench.hear_refusal(class, detail);
    }
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(1)), &format!("{NORMAL}AuthMethod=CHAP,SRP\0"));
    bench.announced();
    bench.accept();
    bench.hear_refusal(2, 1);
}

#[test]
fn each_wrong_stage_is_refused() {
    // Current, next, transit, continued.
    for (current, next, transit, continued) in [
        (2, 3, true, false),
        (3, 3, true, false),
        (3, 0, false, false),
        (0, 2, true, false),
        (1, 0, true, false),
        (0, 0, true, false),
        (1, 1, true, false),
        (1, 3, true, true),
    ] {
        let mut bench = bench();
        let request = LoginRequest {
            transit,
            to_be_continued: continued,
            current_stage: current,
            next_stage: next,
            ..bench.login_request(0, None)
        };
        bench.say(request, NORMAL);
        bench.hear_refusal(2, 0);
    }
}

#[test]
fn a_request_that_does_not_belong_to_the_login_is_refused() {
    let changes: [fn(&mut LoginRequest); 5] = [
        |request| request.initiator_task_tag = 99,
        |request| request.isid[5] = 1,
        |request| request.cid = 9,
        |request| request.tsih = 5,
        |request| request.current_stage = 0,
    ];
    for change in changes {
        let mut bench = bench();
        bench.say(bench.login_request(1, None), NORMAL);
        bench.announced();
        bench.accept();
        bench.hear_login();
        let mut request = LoginRequest { isid: [0x40, 0, 1, 0x37, 0, 0], ..bench.login_request(1, Some(3)) };
        change(&mut request);
        bench.send(request.header(), &[]);
        let heard = bench.hear();
        assert_eq!(heard.header.0[36..38], [2, 0]);
        assert!(matches!(bench.connection.poll_event(), Some(Event::Close)));
    }
}

#[test]
fn an_initiator_of_another_version_is_refused() {
    let mut bench = bench();
    let request = LoginRequest { version_min: 1, version_max: 2, ..bench.login_request(1, Some(3)) };
    bench.say(request, NORMAL);
    bench.hear_refusal(2, 5);
}

#[test]
fn the_layer_above_may_refuse_or_redirect() {
    for status in [
        Status::AUTHORIZATION_FAILURE,
        Status::NOT_FOUND,
        Status::TOO_MANY_CONNECTIONS,
        Status::SESSION_DOES_NOT_EXIST,
        Status::SERVICE_UNAVAILABLE,
        Status::OUT_OF_RESOURCES,
    ] {
        let mut bench = bench();
        bench.say(LoginRequest { tsih: 9, ..bench.login_request(1, Some(3)) }, NORMAL);
        bench.announced();
        assert_eq!(bench.connection.peer().tsih, 9);
        bench.connection.admit(Admission::Refuse(status));
        bench.hear_refusal(status.class, status.detail);
    }
    let mut bench = bench();
    bench.say(bench.login_request(1, Some(3)), NORMAL);
    bench.announced();
    let address = Portal { address: "[2001:db8::1]:3260".parse().unwrap(), group_tag: 1 };
    bench.connection.admit(Admission::Redirect { address: &address, permanently: false });
    let (response, text) = bench.hear_login();
    assert_eq!((response.status_class, response.status_detail), (1, 1));
    assert_eq!(text, "TargetAddress=[2001:db8::1]:3260,1\0");
    assert!(matches!(bench.connection.poll_event(), Some(Event::Close)));
}

#[test]
fn only_logins_are_legal_before_full_feature_phase() {
    for first in (0_u8..64).filter(|&code| code != opcode::LOGIN_REQUEST) {
        let mut bench = bench();
        let mut header = NopOut::default().header();
        header.0[0] = first;
        assert_eq!(bench.try_send(header, &[]), Err(Fatal::UnexpectedPdu { opcode: first }));
    }
}

#[test]
fn what_is_no_login_is_refused_during_one() {
    for code in (0_u8..64).filter(|&code| code != opcode::LOGIN_REQUEST && code & 0x20 == 0) {
        let mut bench = bench();
        bench.say(bench.login_request(1, None), NORMAL);
        bench.announced();
        bench.accept();
        bench.hear_login();
        let mut header = NopOut::default().header();
        header.0[0] = code;
        bench.send(header, &[]);
        bench.hear_refusal(2, 11);
    }
}

#[test]
fn a_login_request_of_8192_bytes_is_read_and_a_longer_one_ends_the_connection() {
    for length in 8188..=8196_u32 {
        let mut bench = bench();
        let mut text = NORMAL.as_bytes().to_vec();
        text.resize(length as usize, b'x');
        let tried = bench.try_send(bench.login_request(1, Some(3)).header(), &text);
        if length <= 8192 {
            assert_eq!(tried, Ok(()));
            bench.hear_refusal(2, 0);
        } else {
            assert_eq!(tried, Err(Fatal::DataSegmentTooLong { length }));
        }
    }
    let mut bench = bench();
    let header = Header(bench.login_request(1, Some(3)).header().0).with_data_segment(0xff_ffff);
    assert_eq!(bench.feed(&header.0), Err(Fatal::DataSegmentTooLong { length: 0xff_ffff }));
    let header = bench.login_request(1, Some(3)).header().with_additional_headers(1020);
    let mut other = Bench::new(&Limits::default());
    let mut bytes = header.0.to_vec();
    bytes.resize(48 + 1020, 0);
    assert_eq!(other.feed(&bytes), Err(Fatal::AdditionalHeader));
}

#[test]
fn a_login_cut_at_any_byte_waits_and_then_times_out() {
    let whole = {
        let bench = bench();
        bench.bytes(bench.login_request(1, Some(3)).header(), NORMAL.as_bytes())
    };
    for cut in 0..whole.len() {
        let mut bench = bench();
        bench.feed(&whole[..cut]).unwrap();
        bench.no_event();
        bench.silence();
        let deadline = Instant::ZERO + Duration::from_secs(10);
        assert_eq!(bench.connection.poll_timeout(), Some(deadline));
        assert_eq!(bench.connection.handle_timeout(Instant::ZERO), Ok(()));
        assert_eq!(bench.connection.handle_timeout(deadline), Err(Fatal::LoginTimeout));
    }
}

#[test]
fn the_time_the_layer_above_takes_is_not_the_initiators() {
    let mut bench = bench();
    bench.say(bench.login_request(1, Some(3)), NORMAL);
    bench.announced();
    let later = Instant::ZERO + Duration::from_secs(30);
    assert_eq!(bench.connection.handle_timeout(later), Ok(()));
    bench.accept();
    assert_eq!(bench.hear_login().0.status_class, 0);
}

#[test]
fn endless_logins_end() {
    let mut bench = bench();
    let request = LoginRequest { to_be_continued: true, ..bench.login_request(1, None) };
    let mut count = 0;
    while bench.try_send(request.header(), &[]).is_ok() {
        bench.hear_login();
        count += 1;
        assert!(count <= 32);
    }
    assert_eq!(count, 32);

    // Text without end runs out of room first, and of bytes if there were room.
    let mut bench = Bench::new(&Limits { login_requests: 1000, ..Limits::default() });
    let mut said = 0;
    loop {
        bench.say(LoginRequest { to_be_continued: true, ..bench.login_request(1, None) }, &"x".repeat(8000));
        let (response, _) = bench.hear_login();
        if response.status_class != 0 {
            assert_eq!((response.status_class, response.status_detail, said), (3, 2, 2));
            break;
        }
        said += 1;
    }
    let limits = Limits { login_requests: 1000, login_keys: u16::MAX, ..Limits::default() };
    let mut bench = Bench::new(&limits);
    bench.say(bench.login_request(1, None), NORMAL);
    bench.announced();
    bench.accept();
    bench.hear_login();
    let mut said = 0;
    let end = loop {
        let text = format!("X-{said}={}\0", "x".repeat(200));
        if let Err(fatal) = bench.try_send(bench.login_request(1, None).header(), text.as_bytes()) {
            break fatal;
        }
        bench.hear_login();
        said += 1;
    };
    assert_eq!(end, Fatal::LoginTooLong);
    assert!((200..300).contains(&said), "64 KiB of them: {said}");
}

#[test]
fn a_second_request_is_not_read_before_the_first_is_answered() {
    let mut bench = bench();
    bench.say(bench.login_request(0, Some(1)), NORMAL);
    bench.say(bench.login_request(1, Some(3)), "");
    bench.announced();
    assert!(bench.connection.space().is_empty());
    bench.accept();
    assert!(bench.connection.space().is_empty(), "the answer is not out");
    bench.hear_login();
    bench.resume();
    assert!(bench.hear_login().0.transit);
}

#[test]
fn a_login_on_a_connection_in_full_feature_phase_is_rejected() {
    let mut bench = Bench::logged_in("");
    let request = bench.login_request(1, Some(3));
    bench.send(request.header(), NORMAL.as_bytes());
    bench.hear_reject(4, request.header().with_data_segment(NORMAL.len() as u32));
    let task = bench.read(0x10, 0);
    bench.good(task, 0);
    bench.hear_response(0x10, 0);
}

#[test]
fn a_slot_is_as_new_after_a_reset() {
    let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0DataDigest=CRC32C\0MaxBurstLength=512\0");
    let task = bench.write(0x10, 4096);
    bench.connection.receive(task, 0, bench.buffer(4096));
    let read = bench.read(0x11, 4096);
    bench.connection.send(read, 0, bench.filled(0, 4096));
    bench.connection.poll_transmit();
    bench.connection.transmitted(10);
    bench.connection.reset(Instant::ZERO);
    assert_eq!((bench.share.used(), bench.connection.tasks_in_use()), (0, 0));
    bench.silence();
    bench.digests = crate::wire::Digests::default();
    bench.cmd_sn = 5;
    bench.log_in(NORMAL, "");
    assert_eq!(bench.connection.parameters().max_burst_length(), 262_144);
    bench.connection.send(read, 0, bench.filled(0, 4096));
    bench.silence();
    assert_eq!(bench.share.used(), 0, "tasks of the connection before are stale");
}

#[test]
fn so_many_pairs_and_no_more() {
    // The names are three of them.
    for (more, fits) in [(252, true), (253, true), (254, false)] {
        let mut bench = bench();
        let text: String = (0..more).map(|n| format!("X-{n}=1\0")).collect();
        bench.say(bench.login_request(1, Some(3)), &format!("{NORMAL}{text}"));
        bench.announced();
        bench.accept();
        assert_eq!(bench.hear_login().0.status_class == 0, fits, "{more}");
    }
}
