//! Text in full feature phase: finding targets, long answers, and texts that are none.

use super::bench::{Bench, DISCOVERY};
use crate::wire::{RESERVED_TAG, TextRequest, TextResponse, opcode, reject};
use crate::{Event, Limits, Portal, TargetRecord};

fn discovery(keys: &str) -> Bench {
    let mut bench = Bench::new(&Limits::default());
    bench.log_in(DISCOVERY, keys);
    bench
}

fn request(bench: &mut Bench, transfer: u32, last: bool, continued: bool) -> TextRequest {
    let cmd_sn = bench.cmd_sn;
    bench.cmd_sn += 1;
    TextRequest {
        last,
        to_be_continued: continued,
        initiator_task_tag: 0x50,
        target_transfer_tag: transfer,
        cmd_sn,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    }
}

fn ask(bench: &mut Bench, text: &str) {
    let request = request(bench, RESERVED_TAG, true, false);
    bench.send(request.header(), text.as_bytes());
}

fn hear(bench: &mut Bench) -> (TextResponse, String) {
    let heard = bench.hear();
    assert_eq!(heard.header.opcode(), opcode::TEXT_RESPONSE, "{heard:?}");
    let response = TextResponse::read(&heard.header);
    assert_eq!((response.stat_sn, response.initiator_task_tag), (bench.exp_stat_sn, 0x50));
    bench.exp_stat_sn += 1;
    assert_eq!(response.last, response.target_transfer_tag == RESERVED_TAG);
    assert!(!(response.last && response.to_be_continued));
    (response, String::from_utf8(heard.data).unwrap())
}

fn portals() -> [Portal; 2] {
    ["192.0.2.1:3260", "[2001:db8::1]:3260"]
        .map(|address| Portal { address: address.parse().unwrap(), group_tag: 1 })
}

fn answer(bench: &mut Bench, names: &[&str]) {
    assert!(matches!(bench.connection.poll_event(), Some(Event::SendTargets)));
    let portals = portals();
    bench.connection.answer_send_targets(names.iter().map(|name| TargetRecord { name, portals: &portals }));
}

const DISK: &str = "iqn.2001-04.com.example:disk";
const OTHER: &str = "iqn.2001-04.com.example:other";

#[test]
fn all_targets_are_listed_with_their_portals() {
    let mut bench = discovery("");
    ask(&mut bench, "SendTargets=All\0");
    answer(&mut bench, &[DISK, OTHER]);
    let (response, text) = hear(&mut bench);
    assert!(response.last);
    let one = |name| {
        format!("TargetName={name}\0TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1]:3260,1\0")
    };
    assert_eq!(text, one(DISK) + &one(OTHER));
}

#[test]
fn one_target_is_listed_by_its_name_and_an_unknown_one_not() {
    let mut bench = discovery("");
    ask(&mut bench, "SendTargets=iqn.2001-04.com.EXAMPLE:other\0");
    answer(&mut bench, &[DISK, OTHER]);
    let (_, text) = hear(&mut bench);
    assert!(text.starts_with(&format!("TargetName={OTHER}\0")) && !text.contains(DISK));
    ask(&mut bench, "SendTargets=iqn.2001-04.com.example:none\0");
    answer(&mut bench, &[DISK, OTHER]);
    let (response, text) = hear(&mut bench);
    assert!(response.last && text.is_empty());
}

#[test]
fn a_normal_session_hears_of_its_own_target_only() {
    for value in ["", "All", DISK] {
        let mut bench = Bench::logged_in("");
        ask(&mut bench, &format!("SendTargets={value}\0"));
        answer(&mut bench, &[OTHER, DISK]);
        let (_, text) = hear(&mut bench);
        assert!(text.contains(DISK) && !text.contains(OTHER));
    }
    let mut bench = Bench::logged_in("");
    let asked = request(&mut bench, RESERVED_TAG, true, false);
    let text = format!("SendTargets={OTHER}\0");
    bench.send(asked.header(), text.as_bytes());
    bench.hear_reject(reject::PROTOCOL_ERROR, asked.header().with_data_segment(text.len() as u32));
}

#[test]
fn hundreds_of_targets_with_the_longest_names_come_in_pieces() {
    for segment in [512, 8192, 16_777_215] {
        let mut bench = discovery(&format!("MaxRecvDataSegmentLength={segment}\0"));
        let names: Vec<String> = (0..256).map(|n| format!("iqn.{n:0219}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        ask(&mut bench, "SendTargets=All\0");
        let mut whole = String::new();
        loop {
            if !bench.connection.space().is_empty() {
                unreachable!("the exchange waits for us");
            }
            while let Some(event) = bench.connection.poll_event() {
                assert!(matches!(event, Event::SendTargets));
                let portals = portals();
                bench
                    .connection
                    .answer_send_targets(names.iter().map(|name| TargetRecord { name, portals: &portals }));
            }
            let (response, text) = hear(&mut bench);
            assert!(text.len() <= segment);
            whole += &text;
            if response.last {
                break;
            }
            assert!(response.to_be_continued);
            let more = request(&mut bench, response.target_transfer_tag, true, false);
            bench.send(more.header(), &[]);
        }
        assert_eq!(whole.matches("TargetName=").count(), 256);
        assert_eq!(whole.matches("TargetAddress=").count(), 512);
        assert!(names.iter().all(|name| whole.contains(name)));
    }
}

#[test]
fn text_may_be_asked_in_pieces_and_without_the_last_word() {
    let mut bench = discovery("");
    let first = request(&mut bench, RESERVED_TAG, false, true);
    bench.send(first.header(), b"SendTar");
    let (response, text) = hear(&mut bench);
    assert!(!response.last && !response.to_be_continued && text.is_empty());
    let second = request(&mut bench, response.target_transfer_tag, false, false);
    bench.send(second.header(), b"gets=All\0");
    answer(&mut bench, &[DISK]);
    let (response, text) = hear(&mut bench);
    assert!(!response.last && text.contains(DISK), "the initiator may want to say more");
    let third = request(&mut bench, response.target_transfer_tag, true, false);
    bench.send(third.header(), b"");
    let (response, text) = hear(&mut bench);
    assert!(response.last && text.is_empty());
}

#[test]
fn every_combination_of_length_and_flags_is_survived() {
    for (length, last, continued) in [0, 16]
        .into_iter()
        .flat_map(|l| [(l, false, false), (l, false, true), (l, true, false), (l, true, true)])
    {
        let mut bench = discovery("");
        let asked = request(&mut bench, RESERVED_TAG, last, continued);
        bench.send(asked.header(), &b"SendTargets=All\0"[..length]);
        if last && continued {
            bench.hear_reject(reject::PROTOCOL_ERROR, asked.header().with_data_segment(length as u32));
            continue;
        }
        if length > 0 && !continued {
            answer(&mut bench, &[DISK]);
        }
        let (response, _) = hear(&mut bench);
        assert_eq!(response.last, last);
    }
}

#[test]
fn texts_that_are_none_are_rejected_and_the_session_goes_on() {
    let mut bench = discovery("");
    for (text, reason) in [
        ("SendTargetsPlease=All\0", reject::COMMAND_NOT_SUPPORTED),
        ("sENDtARGETS=aLL\0", reject::COMMAND_NOT_SUPPORTED),
        ("SendTargets=Alle\0", reject::INVALID_PDU_FIELD),
        ("SendTargets=\0", reject::INVALID_PDU_FIELD),
        ("SendTargets\0", reject::PROTOCOL_ERROR),
        ("SendTargets=All", reject::PROTOCOL_ERROR),
        ("SendTargets=All\0SendTargets=All\0", reject::PROTOCOL_ERROR),
        ("=\0", reject::PROTOCOL_ERROR),
    ] {
        let asked = request(&mut bench, RESERVED_TAG, true, false);
        bench.send(asked.header(), text.as_bytes());
        bench.hear_reject(reason, asked.header().with_data_segment(text.len() as u32));
        bench.no_event();
    }
    ask(&mut bench, "SendTargets=All\0X-com.example.key=1\0");
    answer(&mut bench, &[DISK]);
    let (_, text) = hear(&mut bench);
    assert!(text.starts_with("X-com.example.key=NotUnderstood\0TargetName="));
}

#[test]
fn an_exchange_is_continued_by_its_own_tags_only() {
    let mut bench = discovery("");
    let first = request(&mut bench, RESERVED_TAG, false, true);
    bench.send(first.header(), b"SendTar");
    let (response, _) = hear(&mut bench);
    let stranger = request(&mut bench, response.target_transfer_tag.wrapping_add(1), true, false);
    bench.send(stranger.header(), b"gets=All\0");
    bench.hear_reject(reject::INVALID_PDU_FIELD, stranger.header().with_data_segment(9));
    bench.cmd_sn = stranger.cmd_sn;
    let other = TextRequest {
        initiator_task_tag: 0x51,
        ..request(&mut bench, response.target_transfer_tag, true, false)
    };
    bench.send(other.header(), b"gets=All\0");
    bench.hear_reject(reject::INVALID_PDU_FIELD, other.header().with_data_segment(9));
    bench.cmd_sn = other.cmd_sn;
    // A new exchange gives the old one up.
    ask(&mut bench, "SendTargets=All\0");
    answer(&mut bench, &[DISK]);
    assert!(hear(&mut bench).1.contains(DISK));
}

#[test]
fn text_without_end_is_rejected_when_there_is_no_room_any_more() {
    let mut bench = discovery("");
    let mut transfer = RESERVED_TAG;
    for round in 0.. {
        let more = request(&mut bench, transfer, false, true);
        bench.send(more.header(), &[b'x'; 5000]);
        if round == 3 {
            bench.hear_reject(reject::LONG_OPERATION, more.header().with_data_segment(5000));
            break;
        }
        transfer = hear(&mut bench).0.target_transfer_tag;
    }
}

#[test]
fn a_segment_length_can_be_declared_anew() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=8192\0");
    ask(&mut bench, "MaxRecvDataSegmentLength=512\0");
    let (response, text) = hear(&mut bench);
    assert!(response.last && text.is_empty());
    assert_eq!(bench.connection.parameters().max_recv_data_segment_length(), 512);
    let task = bench.read(0x10, 1024);
    bench.connection.send(task, 0, bench.filled(0, 1024));
    assert_eq!(bench.hear().data.len(), 512);
}

#[test]
fn nothing_but_text_and_logout_is_for_a_discovery_session() {
    let mut bench = discovery("");
    let command = bench.command(0x10);
    bench.send(command.header(), &[]);
    bench.hear_reject(reject::PROTOCOL_ERROR, command.header());
    bench.no_event();
}

#[test]
fn a_text_that_fails_changes_nothing() {
    let segment = |bench: &Bench| bench.connection.parameters().max_recv_data_segment_length();
    // Something is wrong behind the pair, the pair is said again, or the exchange is left before its end.
    for (text, reason) in [
        ("MaxRecvDataSegmentLength=512\0SendTargets=Alle\0", reject::INVALID_PDU_FIELD),
        ("MaxRecvDataSegmentLength=512\0MaxRecvDataSegmentLength=1024\0", reject::PROTOCOL_ERROR),
        ("MaxRecvDataSegmentLength=512\0SendTargets=", reject::PROTOCOL_ERROR),
    ] {
        let mut bench = discovery("MaxRecvDataSegmentLength=4096\0");
        let asked = request(&mut bench, RESERVED_TAG, true, false);
        bench.send(asked.header(), text.as_bytes());
        bench.hear_reject(reason, asked.header().with_data_segment(text.len() as u32));
        assert_eq!(segment(&bench), 4096, "{text}");
    }
    let mut bench = discovery("MaxRecvDataSegmentLength=4096\0");
    let unfinished = request(&mut bench, RESERVED_TAG, false, false);
    bench.send(unfinished.header(), b"MaxRecvDataSegmentLength=512\0");
    hear(&mut bench);
    ask(&mut bench, "SendTargets=All\0");
    assert_eq!(segment(&bench), 4096);
    answer(&mut bench, &[DISK]);
    hear(&mut bench);
    ask(&mut bench, "MaxRecvDataSegmentLength=512\0");
    hear(&mut bench);
    ask(&mut bench, "SendTargets=All\0");
    assert_eq!(segment(&bench), 512, "what came to its end stays");
}

#[test]
fn the_lun_of_an_exchange_comes_back_with_its_tag() {
    let mut bench = discovery("");
    let lun = [0, 5, 0, 0, 0, 0, 0, 0];
    let first = TextRequest { lun, ..request(&mut bench, RESERVED_TAG, false, true) };
    bench.send(first.header(), b"SendTar");
    let (response, _) = hear(&mut bench);
    assert_ne!(response.target_transfer_tag, RESERVED_TAG);
    assert_eq!(response.lun, lun);
}
