//! Command and status numbers: the window, immediate commands, tags in use.

use super::bench::Bench;
use crate::wire::{NopIn, NopOut, RESERVED_TAG, SerialNumber, opcode, reject};
use crate::{Fatal, Limits};

fn window(commands: u16, immediate: u16) -> Bench {
    let limits = Limits { commands, immediate, ..Limits::default() };
    Bench::logged_in_with(&limits, "")
}

#[test]
fn commands_outside_the_window_are_ignored_and_not_answered() {
    let mut bench = window(4, 1);
    for wrong in [104, 99, 100_u32.wrapping_add(0x8000_0000), 0, u32::MAX] {
        let mut command = bench.command(0x10);
        command.cmd_sn = wrong;
        bench.cmd_sn = 100;
        bench.send(command.header(), &[]);
        bench.no_event();
        bench.silence();
    }
    assert_eq!(bench.connection.counters().ignored, 5);
    let task = bench.read(0x10, 0);
    bench.good(task, 0);
    bench.hear_response(0x10, 0);
}

#[test]
fn a_number_used_twice_is_ignored_the_second_time() {
    let mut bench = window(4, 1);
    let command = bench.command(0x10);
    bench.begin(command, &[]);
    bench.send(command.header(), &[]);
    bench.no_event();
    bench.silence();
}

#[test]
fn the_window_closes_with_its_last_slot_and_opens_with_a_response() {
    for first in [100, 0xffff_fffe] {
        let limits = Limits { commands: 3, ..Limits::default() };
        let mut bench = Bench::new(&limits);
        bench.cmd_sn = first;
        bench.exp_stat_sn = 0xffff_ffff;
        bench.log_in(super::bench::NORMAL, "");
        assert_eq!(bench.exp_stat_sn, 0, "numbers wrap");
        let mut last = first.wrapping_add(2);
        let tasks: Vec<_> = (0..3).map(|tag| bench.read(tag, 0)).collect();
        let over = bench.command(9);
        bench.send(over.header(), &[]);
        bench.no_event();
        bench.cmd_sn = over.cmd_sn;
        for (tag, &task) in tasks.iter().enumerate() {
            bench.good(task, 0);
            let response = bench.hear_response(tag as u32, 0);
            assert_eq!(response.exp_cmd_sn, first.wrapping_add(3));
            assert!(SerialNumber(last).is_before(SerialNumber(response.max_cmd_sn)), "it never goes back");
            last = response.max_cmd_sn;
        }
        assert_eq!(last, first.wrapping_add(5));
        let task = bench.read(9, 0);
        bench.good(task, 0);
        bench.hear_response(9, 0);
    }
}

#[test]
fn an_immediate_command_is_taken_above_a_closed_window_and_consumes_no_number() {
    let mut bench = window(1, 2);
    let held = bench.read(0x10, 0);
    let mut immediate = bench.command(0x11);
    bench.cmd_sn = immediate.cmd_sn;
    immediate.immediate = true;
    let first = bench.begin(immediate, &[]);
    assert!(first.immediate);
    immediate.initiator_task_tag = 0x12;
    let second = bench.begin(immediate, &[]).task;
    immediate.initiator_task_tag = 0x13;
    bench.send(immediate.header(), &[]);
    bench.hear_reject(reject::IMMEDIATE_COMMAND, immediate.header());
    bench.good(first.task, 0);
    let response = bench.hear_response(0x11, 0);
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (101, 100), "still closed");
    bench.good(second, 0);
    bench.hear_response(0x12, 0);
    bench.good(held, 0);
    assert_eq!(bench.hear_response(0x10, 0).max_cmd_sn, 101);
}

#[test]
fn a_tag_in_use_is_rejected_and_the_reserved_one_too() {
    let mut bench = window(8, 1);
    let first = bench.command(0x10);
    bench.begin(first, &[]);
    let again = bench.command(0x10);
    bench.send(again.header(), &[]);
    bench.hear_reject(reject::TASK_IN_PROGRESS, again.header());
    bench.cmd_sn = again.cmd_sn;
    let reserved = bench.command(RESERVED_TAG);
    bench.send(reserved.header(), &[]);
    bench.hear_reject(reject::INVALID_PDU_FIELD, reserved.header());
    bench.no_event();
    // A rejected command does not count as received: its number can be used.
    bench.cmd_sn = reserved.cmd_sn;
    bench.read(0x11, 0);
}

#[test]
fn a_gap_on_the_only_connection_ends_it() {
    let mut bench = window(8, 1);
    bench.cmd_sn += 1;
    let command = bench.command(0x10);
    assert_eq!(
        bench.try_send(command.header(), &[]),
        Err(Fatal::CommandGap { expected: 100, received: 101 })
    );
}

#[test]
fn a_ping_in_sequence_moves_both_ends_of_the_window() {
    let mut bench = window(8, 1);
    let ping = NopOut {
        initiator_task_tag: 0x20,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn: 100,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    };
    bench.send(ping.header(), b"abc");
    let heard = bench.hear();
    let echo = NopIn::read(&heard.header);
    assert_eq!((echo.exp_cmd_sn, echo.max_cmd_sn, echo.stat_sn), (101, 108, bench.exp_stat_sn));
    assert_eq!((echo.initiator_task_tag, echo.target_transfer_tag), (0x20, RESERVED_TAG));
    assert_eq!(heard.data, b"abc");
}

#[test]
fn acknowledging_a_status_not_yet_given_is_counted_and_otherwise_ignored() {
    let mut bench = window(8, 1);
    let mut command = bench.command(0x10);
    command.exp_stat_sn += 1000;
    bench.begin(command, &[]);
    assert_eq!(bench.connection.counters().status_from_the_future, 1);
}

#[test]
fn a_stale_task_names_nothing() {
    let mut bench = window(1, 1);
    let old = bench.read(0x10, 512);
    bench.good(old, 512);
    bench.hear_response(0x10, 0);
    let new = bench.read(0x10, 512);
    assert_eq!(old.slot(), new.slot());
    bench.connection.send(old, 0, bench.filled(0, 512));
    bench.connection.receive(old, 0, bench.filled(0, 512));
    bench.good(old, 0);
    bench.connection.abort(old);
    bench.silence();
    bench.no_event();
    assert_eq!((bench.share.used(), bench.connection.tasks_in_use()), (0, 1));
}

#[test]
fn a_window_that_opens_without_a_response_is_told() {
    let limits = Limits { commands: 2, ..Limits::default() };
    let mut bench = Bench::logged_in_with(&limits, "");
    let tasks = [0x10, 0x11].map(|tag| bench.read(tag, 4096));
    bench.silence();
    for task in tasks {
        bench.connection.abort(task);
    }
    let heard = bench.hear();
    assert_eq!(heard.header.opcode(), opcode::NOP_IN, "once, by the first of them");
    let told = NopIn::read(&heard.header);
    assert_eq!((told.initiator_task_tag, told.target_transfer_tag), (RESERVED_TAG, RESERVED_TAG));
    assert_eq!((told.stat_sn, told.data_segment), (bench.exp_stat_sn, 0), "it consumes no number");
    assert_eq!((told.exp_cmd_sn, told.max_cmd_sn), (102, 103));
    bench.silence();
    bench.connection.handle_timeout(bench.now).expect("no answer is waited for");
}
