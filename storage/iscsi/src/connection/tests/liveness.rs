//! Pings, and silence.

use super::bench::{Bench, DISCOVERY, pattern};
use crate::wire::{DataOut, NopIn, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, opcode, reject};
use crate::{Event, Fatal, Limits};
use kernel_runtime::Instant;
use std::time::Duration;

fn after(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn ping(bench: &Bench, tag: u32) -> NopOut {
    NopOut {
        immediate: true,
        initiator_task_tag: tag,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn: bench.cmd_sn,
        exp_stat_sn: bench.exp_stat_sn,
        lun: [0, 3, 0, 0, 0, 0, 0, 0],
        ..Default::default()
    }
}

#[test]
fn a_ping_is_echoed_with_its_data() {
    for length in [0, 1, 4, 1000, 16 << 10] {
        let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=65536\0");
        bench.send(ping(&bench, 0x20).header(), &pattern(0, length));
        let heard = bench.hear();
        assert_eq!(heard.header.opcode(), opcode::NOP_IN);
        let echo = NopIn::read(&heard.header);
        assert_eq!((echo.initiator_task_tag, echo.target_transfer_tag), (0x20, RESERVED_TAG));
        assert_eq!((echo.lun[1], echo.stat_sn, echo.exp_cmd_sn), (3, bench.exp_stat_sn, 100));
        assert_eq!(heard.data, pattern(0, length));
    }
}

#[test]
fn an_echo_is_no_longer_than_the_initiator_can_receive() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=512\0");
    bench.send(ping(&bench, 0x20).header(), &pattern(0, 1000));
    assert_eq!(bench.hear().data, pattern(0, 512));
}

#[test]
fn a_ping_with_more_data_than_there_is_room_for_is_rejected() {
    let mut bench = Bench::logged_in("");
    let nop = ping(&bench, 0x20);
    bench.send(nop.header(), &[0; (16 << 10) + 1]);
    bench.hear_reject(reject::COMMAND_NOT_SUPPORTED, nop.header().with_data_segment((16 << 10) + 1));
}

#[test]
fn a_ping_without_a_tag_wants_no_answer_however_long() {
    let mut bench = Bench::logged_in("");
    bench.send(ping(&bench, RESERVED_TAG).header(), &vec![0; 256 << 10]);
    bench.silence();
    let too_long = ping(&bench, RESERVED_TAG).header().with_data_segment(0xff_ffff);
    assert_eq!(bench.feed(&too_long.0), Err(Fatal::DataSegmentTooLong { length: 0xff_ffff }));
}

#[test]
fn an_echo_overtakes_read_data() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=8192\0");
    let task = bench.read(0x10, 65_536);
    bench.connection.send(task, 0, bench.filled(0, 65_536));
    bench.good(task, 65_536);
    bench.hear();
    bench.send(ping(&bench, 0x20).header(), b"now");
    assert_eq!(bench.hear().header.opcode(), opcode::NOP_IN);
    assert_eq!(bench.hear().header.opcode(), opcode::DATA_IN);
}

#[test]
fn echoes_that_are_not_fetched_stop_the_reading() {
    let mut bench = Bench::logged_in("");
    let bytes = bench.bytes(ping(&bench, 0x20).header(), b"");
    for _ in 0..1000 {
        bench.feed(&bytes).unwrap();
    }
    assert!(bench.unread() > 48 * 900);
    let mut count = 0;
    while bench.try_hear().is_some() {
        count += 1;
        bench.resume();
    }
    assert_eq!(count, 1000);
    let with_data = bench.bytes(ping(&bench, 0x20).header(), b"data");
    bench.feed(&with_data).unwrap();
    bench.feed(&with_data).unwrap();
    assert_eq!(bench.unread(), 52, "one place for ping data");
    bench.hear();
    bench.resume();
    bench.hear();
}

#[test]
fn a_silent_initiator_is_pinged_and_lives_by_any_answer() {
    let mut bench = Bench::logged_in("");
    assert_eq!(bench.connection.poll_timeout(), Some(after(15)));
    assert_eq!(bench.connection.handle_timeout(after(14)), Ok(()));
    bench.silence();
    assert_eq!(bench.connection.handle_timeout(after(15)), Ok(()));
    let ping = NopIn::read(&bench.hear().header);
    assert_eq!((ping.initiator_task_tag, ping.stat_sn), (RESERVED_TAG, bench.exp_stat_sn));
    assert_ne!(ping.target_transfer_tag, RESERVED_TAG);
    assert_eq!(bench.connection.poll_timeout(), Some(after(30)));
    bench.now = after(20);
    let pong = NopOut {
        immediate: true,
        initiator_task_tag: RESERVED_TAG,
        target_transfer_tag: ping.target_transfer_tag,
        cmd_sn: bench.cmd_sn,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    };
    bench.send(pong.header(), &[]);
    bench.silence();
    assert_eq!(bench.connection.poll_timeout(), Some(after(35)));
    assert_eq!(bench.connection.handle_timeout(after(35)), Ok(()));
    let again = NopIn::read(&bench.hear().header);
    assert_ne!(again.target_transfer_tag, ping.target_transfer_tag);
    assert_eq!(again.stat_sn, ping.stat_sn, "a ping consumes no status number");
    assert_eq!(bench.connection.handle_timeout(after(50)), Err(Fatal::PeerSilent));
}

#[test]
fn an_initiator_is_not_silent_while_it_is_we_who_do_not_read() {
    let mut bench = Bench::logged_in("");
    let command = bench.write_command(0x10, 512);
    bench.send(command.header(), &[1; 512]);
    let task = bench.taken().task;
    for second in [15, 30, 60, 300] {
        assert_eq!(bench.connection.handle_timeout(after(second)), Ok(()));
    }
    bench.silence();
    bench.connection.receive(task, 0, bench.buffer(512));
    bench.now = after(301);
    bench.resume();
    assert!(matches!(bench.connection.poll_event(), Some(Event::Received { .. })));
    assert_eq!(bench.connection.poll_timeout(), Some(after(316)));
}

#[test]
fn a_discovery_session_that_falls_silent_ends_without_a_ping() {
    let mut bench = Bench::new(&Limits::default());
    bench.log_in(DISCOVERY, "");
    assert_eq!(bench.connection.poll_timeout(), Some(after(30)));
    assert_eq!(bench.connection.handle_timeout(after(30)), Err(Fatal::PeerSilent));
}

/// Let time pass in steps of a second, with an answer to each ping, until the connection is dropped.
fn dropped_after(
    bench: &mut Bench,
    most: u64,
    mut each: impl FnMut(&mut Bench, u64),
) -> Option<(u64, Fatal)> {
    for second in 1..=most {
        bench.now = after(second);
        if let Err(fatal) = bench.connection.handle_timeout(bench.now) {
            return Some((second, fatal));
        }
        while let Some(heard) = bench.try_hear() {
            if heard.header.opcode() == opcode::NOP_IN {
                let tag = NopIn::read(&heard.header).target_transfer_tag;
                let answer = NopOut { target_transfer_tag: tag, ..ping(bench, RESERVED_TAG) };
                bench.send(answer.header(), b"");
            }
        }
        each(bench, second);
    }
    None
}

#[test]
fn data_that_was_asked_for_and_does_not_come_ends_the_connection() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    let task = bench.write(0x10, 8192);
    let buffer = bench.buffer(8192);
    bench.connection.receive(task, 0, buffer);
    let (second, fatal) = dropped_after(&mut bench, 60, |_, _| {}).expect("it is dropped");
    assert_eq!(fatal, Fatal::DataWithheld);
    assert!((30..=40).contains(&second), "{second}");
}

#[test]
fn data_that_was_announced_and_does_not_come_ends_the_connection_whoever_has_ended_the_command() {
    for ended in [false, true] {
        let mut bench = Bench::logged_in("InitialR2T=No\0");
        let command = ScsiCommand { last: false, ..bench.write_command(0x10, 8192) };
        let task = bench.begin(command, b"some").task;
        if ended {
            bench.good(task, 0);
        } else {
            let buffer = bench.buffer(8192);
            bench.connection.receive(task, 0, buffer);
        }
        bench.resume();
        let (second, fatal) = dropped_after(&mut bench, 60, |_, _| {}).expect("it is dropped");
        assert_eq!(fatal, Fatal::DataWithheld);
        assert!((30..=40).contains(&second), "{second}");
    }
}

#[test]
fn data_that_comes_slowly_is_waited_for_but_not_for_ever() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    let task = bench.write(0x10, 8192);
    let buffer = bench.buffer(8192);
    bench.connection.receive(task, 0, buffer);
    let heard = bench.hear();
    let tag = ReadyToTransfer::read(&heard.header).target_transfer_tag;
    let mut sent = 0;
    let drip = |bench: &mut Bench, second: u64| {
        if second.is_multiple_of(20) {
            let data = DataOut {
                initiator_task_tag: 0x10,
                target_transfer_tag: tag,
                exp_stat_sn: bench.exp_stat_sn,
                data_sn: sent,
                buffer_offset: 4 * sent,
                ..Default::default()
            };
            bench.send(data.header(), &pattern(4 * sent as usize, 4));
            sent += 1;
        }
    };
    let (second, fatal) = dropped_after(&mut bench, 1000, drip).expect("it is dropped");
    assert_eq!(fatal, Fatal::DataWithheld);
    assert!((300..=320).contains(&second), "{second}");
}

#[test]
fn a_task_that_owes_nothing_may_take_for_ever() {
    let mut bench = Bench::logged_in("");
    let command = bench.write_command(0x10, 4096);
    let task = bench.begin(command, &pattern(0, 4096)).task;
    let buffer = bench.buffer(4096);
    bench.connection.receive(task, 0, buffer);
    bench.resume();
    bench.filled_place();
    bench.read(0x11, 4096);
    assert_eq!(dropped_after(&mut bench, 1000, |_, _| {}), None);
}

#[test]
fn while_we_do_not_read_data_that_is_owed_counts_a_quarter() {
    let mut bench = Bench::logged_in("InitialR2T=No\0");
    let owing = ScsiCommand { last: false, ..bench.write_command(0x10, 8192) };
    bench.begin(owing, b"");
    // Immediate data without a place: it is we who do not read.
    let stands = bench.write_command(0x11, 512);
    bench.begin(stands, &pattern(0, 512));
    assert!(bench.connection.starved().is_some());
    let (second, fatal) = dropped_after(&mut bench, 1000, |_, _| {}).expect("it is dropped");
    assert_eq!(fatal, Fatal::DataWithheld);
    assert!((120..=140).contains(&second), "{second}");
}
