//! Task management: which task is meant, what is answered by the engine, what leaves first.

use super::bench::{Bench, LUN};
use crate::wire::{
    DataOut, ReadyToTransfer, TaskManagementRequest, TaskManagementResponse as Response, opcode, reject,
};
use crate::{Event, Function, Limits, Referenced, Task, TaskManagement, TaskManagementResponse};

fn request(bench: &Bench, function: u8, referenced: u32, ref_cmd_sn: u32) -> TaskManagementRequest {
    TaskManagementRequest {
        immediate: true,
        function,
        lun: LUN,
        initiator_task_tag: 0x80,
        referenced_task_tag: referenced,
        cmd_sn: bench.cmd_sn,
        exp_stat_sn: bench.exp_stat_sn,
        ref_cmd_sn,
        ..Default::default()
    }
}

fn taken(bench: &mut Bench) -> TaskManagement {
    match bench.connection.poll_event() {
        Some(Event::TaskManagement(management)) => management,
        other => panic!("a task management function was to come: {other:?}"),
    }
}

fn ask(bench: &mut Bench, function: u8, referenced: u32, ref_cmd_sn: u32) -> TaskManagement {
    bench.send(request(bench, function, referenced, ref_cmd_sn).header(), &[]);
    taken(bench)
}

fn answer(bench: &mut Bench, task: Task, response: TaskManagementResponse) {
    bench.connection.task_management_response(task, response);
    hear(bench, response.0);
}

fn hear(bench: &mut Bench, response: u8) {
    let heard = bench.hear();
    assert_eq!(heard.header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE, "{heard:?}");
    let heard = Response::read(&heard.header);
    assert_eq!((heard.response, heard.initiator_task_tag), (response, 0x80));
    assert_eq!(heard.stat_sn, bench.exp_stat_sn);
    bench.exp_stat_sn += 1;
}

#[test]
fn the_task_of_an_abort_is_found_by_its_tag_and_number() {
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 4096);
    let abort = ask(&mut bench, 1, 0x10, 100);
    assert_eq!(
        (abort.function, abort.referenced, abort.lun),
        (Function::AbortTask, Referenced::Task(task), LUN)
    );
    bench.silence();
    bench.connection.abort(task);
    answer(&mut bench, abort.task, TaskManagementResponse::FUNCTION_COMPLETE);
    bench.silence();
    assert_eq!(bench.connection.tasks_in_use(), 0);
}

#[test]
fn what_an_abort_can_mean_instead_is_told_apart() {
    let mut bench = Bench::logged_in("");
    let gone = bench.read(0x10, 0);
    bench.good(gone, 0);
    bench.hear_response(0x10, 0);
    bench.read(0x11, 0);
    let answered = bench.read(0x12, 4096);
    bench.good(answered, 0);
    for (tag, number, referenced) in [
        (0x12, 102, Referenced::Answered),
        (0x10, 100, Referenced::Past),
        (0x11, 100, Referenced::Past),
        (0x77, 99, Referenced::Past),
        (0x77, 5000, Referenced::Unknown),
        (0xffff_ffff, 103, Referenced::Unknown),
    ] {
        let asked = ask(&mut bench, 1, tag, number);
        assert_eq!(asked.referenced, referenced, "{tag:#x} {number}");
        bench.connection.task_management_response(asked.task, TaskManagementResponse::TASK_DOES_NOT_EXIST);
        if referenced == Referenced::Answered {
            bench.hear_response(0x12, 0);
        }
        hear(&mut bench, 1);
    }
}

#[test]
fn a_response_given_before_leaves_before() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=512\0");
    let task = bench.read(0x10, 1024);
    bench.connection.send(task, 0, bench.filled(0, 1024));
    bench.good(task, 1024);
    let abort = ask(&mut bench, 1, 0x10, 100);
    assert_eq!(abort.referenced, Referenced::Answered);
    bench.connection.task_management_response(abort.task, TaskManagementResponse::FUNCTION_COMPLETE);
    assert_eq!(bench.hear().header.opcode(), opcode::DATA_IN);
    assert_eq!(bench.hear().header.opcode(), opcode::DATA_IN);
    bench.exp_stat_sn += 1;
    hear(&mut bench, 0);
}

#[test]
fn a_task_aborted_before_it_arrived_is_dropped_when_it_arrives() {
    let mut bench = Bench::logged_in("");
    let early = bench.command(0x10);
    let abort = ask(&mut bench, 1, 0x10, early.cmd_sn);
    assert_eq!(abort.referenced, Referenced::NotArrived);
    answer(&mut bench, abort.task, TaskManagementResponse::FUNCTION_COMPLETE);
    bench.send(early.header(), &[]);
    bench.no_event();
    bench.silence();
    let task = bench.read(0x11, 0);
    bench.good(task, 0);
    assert_eq!(bench.hear_response(0x11, 0).exp_cmd_sn, 102);
}

#[test]
fn asking_for_a_task_that_has_not_arrived_does_not_drop_it() {
    let mut bench = Bench::logged_in("iSCSIProtocolLevel=2\0");
    let early = bench.command(0x10);
    let query = ask(&mut bench, 9, 0x10, early.cmd_sn);
    assert_eq!((query.function, query.referenced), (Function::QueryTask, Referenced::NotArrived));
    answer(&mut bench, query.task, TaskManagementResponse::FUNCTION_COMPLETE);
    bench.begin(early, &[]);
}

#[test]
fn every_function_is_told_and_the_others_are_answered() {
    let mut bench = Bench::logged_in("iSCSIProtocolLevel=2\0");
    for (code, function) in [
        (2, Function::AbortTaskSet),
        (3, Function::ClearAca),
        (4, Function::ClearTaskSet),
        (5, Function::LogicalUnitReset),
        (6, Function::TargetWarmReset),
        (7, Function::TargetColdReset),
        (10, Function::QueryTaskSet),
        (11, Function::NexusReset),
        (12, Function::QueryAsyncEvent),
    ] {
        let asked = ask(&mut bench, code, 0xffff_ffff, 0);
        assert_eq!((asked.function, asked.referenced), (function, Referenced::Nothing));
        answer(&mut bench, asked.task, TaskManagementResponse::NOT_SUPPORTED);
    }
    for (code, response) in [(8, 4), (0, 5), (13, 5), (127, 5)] {
        bench.send(request(&bench, code, 0x10, 100).header(), &[]);
        bench.no_event();
        hear(&mut bench, response);
    }
}

#[test]
fn functions_of_rfc_7144_are_there_only_where_it_was_agreed_upon() {
    for keys in ["", "iSCSIProtocolLevel=1\0"] {
        let mut bench = Bench::logged_in(keys);
        for code in 9..=12 {
            bench.send(request(&bench, code, 0x10, 100).header(), &[]);
            bench.no_event();
            hear(&mut bench, 5);
        }
    }
}

#[test]
fn an_answer_to_a_query_carries_what_it_tells() {
    let mut bench = Bench::logged_in("iSCSIProtocolLevel=2\0");
    let asked = ask(&mut bench, 12, 0xffff_ffff, 0);
    let succeeded = TaskManagementResponse::FUNCTION_SUCCEEDED;
    bench.connection.task_management_response_with(asked.task, succeeded, [0x16, 0x29, 0x07]);
    let heard = bench.hear().header;
    assert_eq!(heard.0[..3], [0x22, 0x80, 7]);
    assert_eq!(heard.0[8..12], [0x16, 0x29, 0x07, 0]);
}

#[test]
fn a_reset_ends_writes_that_wait_for_data_that_never_comes() {
    let mut bench = Bench::logged_in("InitialR2T=No\0MaxOutstandingR2T=8\0");
    let solicited = bench.write(0x10, 8192);
    bench.connection.receive(solicited, 0, bench.buffer(8192));
    let r2t = ReadyToTransfer::read(&bench.hear().header);
    let mut command = bench.write_command(0x11, 8192);
    command.last = false;
    let unsolicited = bench.begin(command, &[]).task;
    bench.connection.finish(unsolicited, crate::Outcome::good(0));
    let reset = ask(&mut bench, 5, 0xffff_ffff, 0);
    let running: Vec<_> = bench.connection.tasks().collect();
    assert_eq!(running, [(solicited, LUN)], "the other is answered already");
    bench.connection.abort(solicited);
    bench.connection.abort(unsolicited);
    answer(&mut bench, reset.task, TaskManagementResponse::FUNCTION_COMPLETE);
    assert_eq!((bench.connection.tasks_in_use(), bench.share.used()), (0, 0));
    // What the initiator sends all the same is swallowed.
    let late = DataOut {
        last: true,
        initiator_task_tag: 0x10,
        target_transfer_tag: r2t.target_transfer_tag,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    };
    bench.send(late.header(), &[0; 8192]);
    bench.silence();
}

#[test]
fn management_requests_share_the_immediate_slots() {
    let limits = Limits { immediate: 3, ..Limits::default() };
    let mut bench = Bench::logged_in_with(&limits, "");
    let mut asked = Vec::new();
    for tag in 0..3 {
        bench.send(
            TaskManagementRequest { initiator_task_tag: tag, ..request(&bench, 5, 0, 0) }.header(),
            &[],
        );
        asked.push(taken(&mut bench));
    }
    let fourth = request(&bench, 5, 0, 0);
    bench.send(fourth.header(), &[]);
    bench.hear_reject(reject::IMMEDIATE_COMMAND, fourth.header());
    for management in asked {
        bench.connection.task_management_response(management.task, TaskManagementResponse::FUNCTION_COMPLETE);
        assert_eq!(bench.hear().header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
        bench.exp_stat_sn += 1;
    }
    ask(&mut bench, 5, 0, 0);
}

#[test]
fn a_management_request_in_sequence_holds_its_slot_of_the_window() {
    let limits = Limits { commands: 1, ..Limits::default() };
    let mut bench = Bench::logged_in_with(&limits, "");
    let mut reset = request(&bench, 5, 0, 0);
    reset.immediate = false;
    bench.send(reset.header(), &[]);
    let management = taken(&mut bench);
    bench.connection.task_management_response(management.task, TaskManagementResponse::FUNCTION_COMPLETE);
    let response = Response::read(&bench.hear().header);
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (101, 101));
}

#[test]
fn a_management_request_with_a_tag_in_use_is_rejected() {
    let mut bench = Bench::logged_in("");
    bench.read(0x80, 0);
    let clash = request(&bench, 1, 0x80, 100);
    bench.send(clash.header(), &[]);
    bench.hear_reject(reject::TASK_IN_PROGRESS, clash.header());
}

#[test]
fn an_answered_write_that_waits_for_its_data_is_ended_by_the_function_that_means_it() {
    for (function, referenced) in [
        (1, Referenced::NotArrived),
        (2, Referenced::Nothing),
        (5, Referenced::Nothing),
        (7, Referenced::Nothing),
    ] {
        let mut bench = Bench::logged_in("InitialR2T=No\0");
        let mut command = bench.write_command(0x10, 8192);
        command.last = false;
        let task = bench.begin(command, &[]).task;
        bench.good(task, 0);
        bench.silence();
        let asked = ask(&mut bench, function, 0x10, 100);
        assert_eq!(asked.referenced, referenced);
        assert_eq!(bench.connection.tasks_in_use(), 1, "the request alone");
        answer(&mut bench, asked.task, TaskManagementResponse::FUNCTION_COMPLETE);
        let again = bench.write(0x10, 0);
        bench.good(again, 0);
        bench.hear_response(0x10, 0);
    }
}

#[test]
fn an_abort_of_a_management_request_is_refused() {
    let mut bench = Bench::logged_in("iSCSIProtocolLevel=2\0");
    let waits = TaskManagementRequest { initiator_task_tag: 0x40, ..request(&bench, 5, 0xffff_ffff, 0) };
    bench.send(waits.header(), &[]);
    let waits = taken(&mut bench);
    // ABORT TASK and QUERY TASK, by the number that the request would have as an immediate one, and of itself.
    for (function, referenced) in [(1, 0x40), (9, 0x40), (1, 0x80)] {
        let asked = request(&bench, function, referenced, bench.cmd_sn);
        bench.send(asked.header(), &[]);
        bench.no_event();
        hear(&mut bench, TaskManagementResponse::REJECTED.0);
    }
    bench.connection.task_management_response(waits.task, TaskManagementResponse::FUNCTION_COMPLETE);
    assert_eq!(Response::read(&bench.hear().header).initiator_task_tag, 0x40, "and it goes on");
}
