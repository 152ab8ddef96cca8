//! Sequence numbers across their wrap, and the command window at its edges, for every kind of PDU that has them.

use super::bench::{Bench, NORMAL};
use crate::wire::{
    DataIn, Header, LogoutRequest, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiResponse,
    TaskManagementRequest, TextRequest, opcode, reject,
};
use crate::{Event, Fatal, Limits, TaskManagementResponse};

/// A connection whose window has `commands` places and begins with this number, and whose next status has that one.
fn logged_in(commands: u16, cmd_sn: u32, stat_sn: u32) -> Bench {
    let mut bench = Bench::new(&Limits { commands, ..Limits::default() });
    bench.cmd_sn = cmd_sn;
    bench.exp_stat_sn = stat_sn.wrapping_sub(1);
    bench.log_in(NORMAL, "MaxRecvDataSegmentLength=512\0");
    assert_eq!(bench.exp_stat_sn, stat_sn);
    bench
}

/// Every request that has a CmdSN, with a number of its own and without the immediate bit.
fn requests(cmd_sn: u32, exp_stat_sn: u32) -> [(&'static str, Header); 5] {
    let tag = 0x20;
    let target_transfer_tag = RESERVED_TAG;
    let command = crate::wire::ScsiCommand {
        last: true,
        initiator_task_tag: tag,
        cmd_sn,
        exp_stat_sn,
        ..Default::default()
    };
    let ping =
        NopOut { initiator_task_tag: tag, target_transfer_tag, cmd_sn, exp_stat_sn, ..Default::default() };
    let function = TaskManagementRequest {
        function: 2,
        initiator_task_tag: tag,
        referenced_task_tag: RESERVED_TAG,
        cmd_sn,
        exp_stat_sn,
        ..Default::default()
    };
    let text = TextRequest {
        last: true,
        initiator_task_tag: tag,
        target_transfer_tag,
        cmd_sn,
        exp_stat_sn,
        ..Default::default()
    };
    let logout = LogoutRequest { initiator_task_tag: tag, cmd_sn, exp_stat_sn, ..Default::default() };
    [
        ("command", command.header()),
        ("ping", ping.header()),
        ("function", function.header()),
        ("text", text.header()),
        ("logout", logout.header()),
    ]
}

#[test]
fn each_edge_of_the_window_is_where_the_standard_has_it_for_every_request() {
    const WINDOW: u32 = 4;
    // In the middle of nothing, and with each edge right at a wrap: of the number, and of its sign.
    for first in [100_u32, 0xffff_fffc, 0xffff_fffd, 0xffff_ffff, 0, 0x7fff_fffe, 0x8000_0000] {
        for (ahead, proper) in [
            (0, Ok(true)),
            // Within the window, but others are missing, which on the only connection never come.
            (1, Err(())),
            (WINDOW - 1, Err(())),
            (WINDOW, Ok(false)),
            (0x7fff_ffff, Ok(false)),
            (0x8000_0000, Ok(false)),
            (0x8000_0001, Ok(false)),
            (u32::MAX, Ok(false)),
        ] {
            let number = first.wrapping_add(ahead);
            for (what, header) in requests(number, 7) {
                let mut bench = logged_in(WINDOW as u16, first, 7);
                let sent = bench.try_send(header, &[]);
                let heard = bench.try_hear().is_some() | bench.connection.poll_event().is_some();
                match proper {
                    Ok(taken) => assert_eq!((sent, heard), (Ok(()), taken), "{what} {first:#x} + {ahead:#x}"),
                    Err(()) => {
                        let gap = Fatal::CommandGap { expected: first, received: number };
                        assert_eq!(sent, Err(gap), "{what} {first:#x} + {ahead:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_but_immediate_requests_gets_through_a_closed_window() {
    for first in [100_u32, 0xffff_fffe, 0xffff_ffff] {
        let mut bench = logged_in(2, first, 7);
        let tasks = [bench.read(1, 0), bench.read(2, 0)];
        let next = first.wrapping_add(2);
        for (what, header) in requests(next, 7) {
            bench.send(header, &[]);
            assert!(bench.try_hear().is_none() && bench.connection.poll_event().is_none(), "{what}");
        }
        assert_eq!(bench.connection.counters().ignored, 5);
        // The same, immediate: each is taken, and uses up no number. The command and the function keep their tag.
        for (index, (what, mut header)) in requests(next, 7).into_iter().enumerate().take(4) {
            header.0[0] |= 0x40;
            header.0[19] = 0x30 + index as u8;
            bench.send(header, &[]);
            match bench.connection.poll_event() {
                Some(Event::Command(command)) => bench.good(command.task, 0),
                Some(Event::TaskManagement(request)) => bench
                    .connection
                    .task_management_response(request.task, TaskManagementResponse::FUNCTION_COMPLETE),
                _ => {}
            }
            let heard = bench.hear();
            assert_eq!(heard.header.initiator_task_tag(), 0x30 + index as u32, "{what}");
            let [exp_cmd_sn, max_cmd_sn] = [28, 32].map(|at| number(&heard.header, at));
            assert_eq!((exp_cmd_sn, max_cmd_sn), (next, next.wrapping_sub(1)), "{what}: still closed");
            bench.exp_stat_sn = bench.exp_stat_sn.wrapping_add(1);
        }
        // A place that is free again is one number more, and the one that was ignored is taken now.
        bench.good(tasks[0], 0);
        assert_eq!(bench.hear_response(1, 0).max_cmd_sn, next);
        bench.cmd_sn = next;
        bench.read(3, 0);
    }
}

fn number(header: &Header, at: usize) -> u32 {
    u32::from_be_bytes([0, 1, 2, 3].map(|n| header.0[at + n]))
}

#[test]
fn each_kind_of_answer_takes_the_next_status_number_across_the_wrap() {
    // Wherever the wrap falls among them.
    for first in (0..8).map(|n| 0_u32.wrapping_sub(n)) {
        let mut bench = logged_in(8, 0xffff_fffd, first);
        let mut due = first;
        let mut takes = |bench: &mut Bench, code: u8| {
            let heard = bench.hear();
            assert_eq!(heard.header.opcode(), code);
            assert_eq!(number(&heard.header, 24), due, "{code:#x}, from {first:#x}");
            due = due.wrapping_add(1);
            bench.exp_stat_sn = due;
        };
        let next = |bench: &mut Bench, index: usize| {
            let (_, header) = requests(bench.cmd_sn, bench.exp_stat_sn)[index];
            bench.cmd_sn = bench.cmd_sn.wrapping_add(1);
            bench.send(header, &[]);
        };
        next(&mut bench, 1);
        takes(&mut bench, opcode::NOP_IN);
        next(&mut bench, 3);
        takes(&mut bench, opcode::TEXT_RESPONSE);
        let task = bench.read(0x41, 512);
        bench.connection.send(task, 0, bench.filled(0, 512));
        bench.good(task, 512);
        takes(&mut bench, opcode::DATA_IN);
        let task = bench.read(0x42, 0);
        bench.good(task, 0);
        takes(&mut bench, opcode::SCSI_RESPONSE);
        let exp_stat_sn = bench.exp_stat_sn;
        let snack = crate::wire::SnackRequest { exp_stat_sn, ..Default::default() };
        bench.send(snack.header(), &[]);
        takes(&mut bench, opcode::REJECT);
        next(&mut bench, 2);
        let Some(Event::TaskManagement(request)) = bench.connection.poll_event() else {
            panic!("a function")
        };
        let done = TaskManagementResponse::FUNCTION_COMPLETE;
        bench.connection.task_management_response(request.task, done);
        takes(&mut bench, opcode::TASK_MANAGEMENT_RESPONSE);
        next(&mut bench, 4);
        assert!(matches!(bench.connection.poll_event(), Some(Event::Logout(_))));
        bench.connection.logout_response(crate::LogoutResponse::Closed);
        takes(&mut bench, opcode::LOGOUT_RESPONSE);
        assert_eq!(bench.connection.counters().status_from_the_future, 0);
    }
}

#[test]
fn r2ts_show_the_next_status_number_and_use_none_up() {
    let mut bench = logged_in(8, 1, u32::MAX);
    let task = bench.write(1, 1024);
    bench.connection.receive(task, 0, bench.buffer(1024));
    let heard = bench.hear();
    assert_eq!(heard.header.opcode(), opcode::READY_TO_TRANSFER);
    assert_eq!(ReadyToTransfer::read(&heard.header).stat_sn, u32::MAX);
    let ping = requests(bench.cmd_sn, bench.exp_stat_sn)[1].1;
    bench.send(ping, &[]);
    assert_eq!(number(&bench.hear().header, 24), u32::MAX);
}

/// No transfer is long enough for it, of 512 bytes in a PDU and 4 GiB in all; the numbers wrap all the same.
#[test]
fn data_numbers_wrap_and_are_counted() {
    let mut bench = logged_in(8, 1, 7);
    let task = bench.read(1, 2048);
    let index = bench.connection.tasks.find(task).unwrap();
    bench.connection.tasks[index].data_sn = 0xffff_fffe;
    bench.connection.send(task, 0, bench.filled(0, 2048));
    bench.connection.finish(task, crate::Outcome { status: 8, ..crate::Outcome::good(2048) });
    for (data_sn, buffer_offset) in [(0xffff_fffe, 0), (0xffff_ffff, 512), (0, 1024), (1, 1536)] {
        let data = DataIn::read(&bench.hear().header);
        assert_eq!((data.data_sn, data.buffer_offset), (data_sn, buffer_offset));
    }
    assert_eq!(ScsiResponse::read(&bench.hear().header).exp_data_sn, 2, "the next one");
    let task = bench.write(2, 2048);
    let index = bench.connection.tasks.find(task).unwrap();
    bench.connection.tasks[index].data_sn = 0xffff_ffff;
    for offset in [0, 1024] {
        bench.connection.receive(task, offset, bench.buffer(1024));
    }
    // One R2T for both places, or one each: their numbers go on from where they were.
    let mut due = 0xffff_ffff_u32;
    while let Some(heard) = bench.try_hear() {
        assert_eq!(ReadyToTransfer::read(&heard.header).r2t_sn, due);
        due = due.wrapping_add(1);
    }
    assert!(due <= 1, "at least one: {due:#x}");
}

#[test]
fn a_task_tag_is_free_with_the_answer_and_may_be_any_but_the_reserved_one() {
    let mut bench = logged_in(8, 0xffff_fff0, 7);
    for tag in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe] {
        for _ in 0..3 {
            // As a command, which keeps it until its answer, and then at once as something else.
            let task = bench.read(tag, 0);
            let again = bench.command(tag);
            bench.cmd_sn = again.cmd_sn;
            bench.send(again.header(), &[]);
            bench.hear_reject(reject::TASK_IN_PROGRESS, again.header());
            bench.good(task, 0);
            bench.hear_response(tag, 0);
            for index in [1, 3] {
                let (what, mut header) = requests(bench.cmd_sn, bench.exp_stat_sn)[index];
                header.0[16..20].copy_from_slice(&tag.to_be_bytes());
                bench.send(header, &[]);
                assert_eq!(bench.hear().header.initiator_task_tag(), tag, "{what}");
                bench.cmd_sn = bench.cmd_sn.wrapping_add(1);
                bench.exp_stat_sn = bench.exp_stat_sn.wrapping_add(1);
            }
        }
    }
    // It was taken 45 times, of all numbers across the wrap.
    assert_eq!(bench.cmd_sn, 0xffff_fff0_u32.wrapping_add(45));
}
