//! Writes: immediate, unsolicited, solicited, mixed; and all the ways to get them wrong.

use super::bench::{Bench, Heard, pattern};
use crate::wire::{DataOut, RESERVED_TAG, ReadyToTransfer, opcode, reject};
use crate::{Command, Event, Limits, Outcome, Task};

const UNEXPECTED: [u8; 2] = [0x0c, 0x0c];
const AMOUNT: [u8; 2] = [0x0c, 0x0d];
const CRC: [u8; 2] = [0x47, 0x05];

impl Bench {
    fn hear_r2t(&mut self) -> ReadyToTransfer {
        let Heard { header, data } = self.hear();
        assert_eq!(header.opcode(), opcode::READY_TO_TRANSFER, "{header:?}");
        assert!(data.is_empty());
        let r2t = ReadyToTransfer::read(&header);
        assert_ne!(r2t.target_transfer_tag, RESERVED_TAG);
        assert_eq!(r2t.stat_sn, self.exp_stat_sn, "the next number, not consumed");
        r2t
    }

    fn data_out(&mut self, tag: u32, transfer: u32, data_sn: u32, offset: u32, length: usize, last: bool) {
        let data = DataOut {
            last,
            initiator_task_tag: tag,
            target_transfer_tag: transfer,
            exp_stat_sn: self.exp_stat_sn,
            data_sn,
            buffer_offset: offset,
            ..Default::default()
        };
        self.send(data.header(), &pattern(offset as usize, length));
    }

    /// Answer an R2T in PDUs of at most `segment` bytes.
    fn answer(&mut self, r2t: &ReadyToTransfer, segment: usize) {
        let mut done = 0;
        let whole = r2t.desired_data_transfer_length as usize;
        let mut data_sn = 0;
        while done < whole {
            let length = segment.min(whole - done);
            let last = done + length == whole;
            let offset = r2t.buffer_offset + done as u32;
            self.data_out(r2t.initiator_task_tag, r2t.target_transfer_tag, data_sn, offset, length, last);
            data_sn += 1;
            done += length;
        }
    }

    /// A write command of `length` bytes with so many of them immediate; no event is taken.
    fn write_with(&mut self, tag: u32, length: u32, immediate: usize, last: bool) {
        let mut command = self.write_command(tag, length);
        command.last = last;
        self.send(command.header(), &pattern(0, immediate));
    }

    fn place(&mut self, task: Task, offset: u32, length: usize) {
        let buffer = self.buffer(length);
        self.connection.receive(task, offset, buffer);
    }

    fn dropped(&mut self, task: Task) {
        assert!(matches!(self.connection.poll_event(), Some(Event::Dropped(dropped)) if dropped == task));
    }
}

const WIDE: &str = "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0MaxBurstLength=1048576\0\
    MaxOutstandingR2T=8\0";

#[test]
fn immediate_data_waits_for_its_place_and_goes_straight_there() {
    let mut bench = Bench::logged_in(WIDE);
    bench.write_with(0x10, 4096, 4096, true);
    assert_eq!(bench.unread(), 4096, "the event comes with the header");
    let Command { task, write, read, expected_data_transfer_length, .. } = bench.taken();
    assert!(write && !read);
    assert_eq!(expected_data_transfer_length, 4096);
    assert!(bench.connection.space().is_empty(), "no place, no reading");
    assert_eq!(bench.connection.starved(), Some(task));
    bench.place(task, 0, 4096);
    assert_eq!(bench.connection.starved(), None);
    bench.resume();
    assert_eq!(bench.filled_place(), (0, 4096));
    bench.silence();
    bench.good(task, 4096);
    let response = bench.hear_response(0x10, 0);
    assert_eq!((response.residual_count, response.exp_data_sn), (0, 0));
}

#[test]
fn solicited_data_is_asked_for_where_places_are_and_no_more_than_a_burst() {
    let mut bench = Bench::logged_in("MaxBurstLength=8192\0MaxOutstandingR2T=2\0");
    let task = bench.write(0x10, 40_960);
    bench.silence();
    bench.place(task, 0, 4096);
    bench.place(task, 4096, 16_384);
    let (first, second) = (bench.hear_r2t(), bench.hear_r2t());
    bench.silence();
    assert_eq!((first.buffer_offset, first.desired_data_transfer_length, first.r2t_sn), (0, 8192, 0));
    assert_eq!((second.buffer_offset, second.desired_data_transfer_length, second.r2t_sn), (8192, 8192, 1));
    assert_ne!(first.target_transfer_tag, second.target_transfer_tag);
    bench.answer(&first, 3000);
    assert_eq!(bench.filled_place(), (0, 4096));
    bench.resume();
    let third = bench.hear_r2t();
    assert_eq!((third.buffer_offset, third.desired_data_transfer_length, third.r2t_sn), (16_384, 4096, 2));
    bench.answer(&second, 8192);
    bench.answer(&third, 4096);
    assert_eq!(bench.filled_place(), (4096, 16_384));
    bench.place(task, 20_480, 20_480);
    for _ in 0..3 {
        let r2t = bench.hear_r2t();
        bench.answer(&r2t, 4096);
    }
    assert_eq!(bench.filled_place(), (20_480, 20_480));
    bench.good(task, 40_960);
    assert_eq!(bench.hear_response(0x10, 0).exp_data_sn, 6, "so many R2Ts");
}

#[test]
fn transfer_tags_wrap_and_pass_over_the_reserved_one() {
    let mut bench = Bench::logged_in("MaxBurstLength=8192\0");
    bench.connection.next_transfer_tag = 0xffff_fffd;
    bench.connection.transfer_tags_given = 0xffff_fffd;
    let task = bench.write(0x10, 40_960);
    bench.place(task, 0, 40_960);
    for tag in [0xffff_fffd, 0xffff_fffe, 0, 1, 2] {
        let r2t = bench.hear_r2t();
        assert_eq!(r2t.target_transfer_tag, tag);
        bench.answer(&r2t, 8192);
    }
    assert_eq!(bench.filled_place(), (0, 40_960));
    bench.good(task, 40_960);
    bench.hear_response(0x10, 0);
}

#[test]
fn immediate_unsolicited_and_solicited_data_follow_each_other_in_one_write() {
    for chunk in [usize::MAX, 7, 1] {
        let mut bench = Bench::logged_in("InitialR2T=No\0FirstBurstLength=8192\0MaxBurstLength=8192\0");
        bench.chunk = chunk;
        bench.write_with(0x10, 20_000, 2000, false);
        let task = bench.taken().task;
        bench.place(task, 0, 20_000);
        bench.resume();
        bench.silence();
        bench.data_out(0x10, RESERVED_TAG, 0, 2000, 4000, false);
        bench.silence();
        bench.data_out(0x10, RESERVED_TAG, 1, 6000, 2192, true);
        let r2t = bench.hear_r2t();
        assert_eq!((r2t.buffer_offset, r2t.desired_data_transfer_length), (8192, 8192));
        bench.answer(&r2t, 1500);
        let r2t = bench.hear_r2t();
        assert_eq!((r2t.buffer_offset, r2t.desired_data_transfer_length), (16_384, 3616));
        bench.answer(&r2t, 3616);
        assert_eq!(bench.filled_place(), (0, 20_000));
        bench.good(task, 20_000);
        bench.hear_response(0x10, 0);
        assert_eq!(bench.share.used(), 0);
    }
}

#[test]
fn a_short_first_burst_is_continued_by_soliciting_the_rest() {
    let mut bench = Bench::logged_in(WIDE);
    bench.write_with(0x10, 8192, 512, true);
    let task = bench.taken().task;
    bench.place(task, 0, 8192);
    bench.resume();
    let r2t = bench.hear_r2t();
    assert_eq!((r2t.buffer_offset, r2t.desired_data_transfer_length), (512, 7680));
    bench.answer(&r2t, 7680);
    assert_eq!(bench.filled_place(), (0, 8192));
}

#[test]
fn one_segment_may_fill_several_places() {
    for keys in [WIDE, &format!("{WIDE}DataDigest=CRC32C\0HeaderDigest=CRC32C\0")] {
        let mut bench = Bench::logged_in(keys);
        bench.write_with(0x10, 10_001, 10_001, true);
        let task = bench.taken().task;
        for offset in [0, 4000, 8000] {
            bench.place(task, offset, 4000);
        }
        bench.resume();
        bench.resume();
        assert_eq!(bench.filled_place(), (0, 4000));
        bench.resume();
        assert_eq!(bench.filled_place(), (4000, 4000));
        bench.resume();
        assert_eq!(bench.filled_place(), (8000, 2001), "cut to what the initiator has");
        bench.resume();
        bench.good(task, 10_001);
        bench.hear_response(0x10, 0);
    }
}

#[test]
fn a_place_beyond_the_expected_length_comes_back_empty() {
    let mut bench = Bench::logged_in(WIDE);
    let task = bench.write(0x10, 512);
    bench.place(task, 512, 512);
    assert_eq!(bench.filled_place(), (512, 0));
    let read = bench.read(0x11, 512);
    bench.place(read, 0, 512);
    assert_eq!(bench.filled_place(), (0, 0));
    bench.silence();
}

#[test]
fn what_is_not_wanted_is_swallowed_without_a_place() {
    let mut bench = Bench::logged_in(WIDE);
    bench.write_with(0x10, 8192, 8192, true);
    let task = bench.taken().task;
    bench.connection.want(task, 512);
    bench.place(task, 0, 512);
    bench.resume();
    assert_eq!(bench.filled_place(), (0, 512));
    bench.resume();
    assert_eq!(bench.unread(), 0, "the rest does not hold up the connection");
    bench.good(task, 512);
    let response = bench.hear_response(0x10, 0);
    assert_eq!((response.underflow, response.residual_count), (true, 7680));
}

#[test]
fn data_of_a_command_that_ended_is_swallowed_and_its_response_waits_for_it() {
    let mut bench = Bench::logged_in(WIDE);
    bench.write_with(0x10, 40_960, 4096, false);
    let task = bench.taken().task;
    bench.connection.finish(task, Outcome { status: 8, sense: &[], transferred: 0, bidirectional_read: 0 });
    bench.resume();
    assert_eq!(bench.unread(), 0);
    bench.silence();
    bench.data_out(0x10, RESERVED_TAG, 0, 4096, 8192, false);
    bench.silence();
    bench.data_out(0x10, RESERVED_TAG, 1, 12_288, 8192, true);
    assert_eq!(bench.hear_response(0x10, 8).residual_count, 40_960);
}

#[test]
fn a_response_waits_for_outstanding_r2ts() {
    let mut bench = Bench::logged_in(WIDE);
    let task = bench.write(0x10, 8192);
    bench.place(task, 0, 8192);
    let r2t = bench.hear_r2t();
    bench.good(task, 0);
    assert_eq!(bench.share.used(), 0, "places come back with the end");
    bench.silence();
    bench.answer(&r2t, 4096);
    assert_eq!(bench.hear_response(0x10, 0).residual_count, 8192);
}

#[test]
fn late_data_of_an_aborted_task_is_swallowed_and_its_slot_is_free_at_once() {
    let limits = Limits { commands: 2, ..Limits::default() };
    let mut bench = Bench::logged_in_with(&limits, WIDE);
    bench.write_with(0x10, 16_384, 0, true);
    let task = bench.taken().task;
    bench.place(task, 0, 16_384);
    let r2t = bench.hear_r2t();
    bench.data_out(0x10, r2t.target_transfer_tag, 0, 0, 4096, false);
    bench.connection.abort(task);
    assert_eq!(bench.connection.tasks_in_use(), 0);
    assert_eq!(bench.share.used(), 0);
    bench.write_with(0x11, 16_384, 4096, false);
    let task = bench.taken().task;
    bench.connection.abort(task);
    bench.resume();
    bench.data_out(0x10, r2t.target_transfer_tag, 1, 4096, 12_288, true);
    bench.data_out(0x11, RESERVED_TAG, 0, 4096, 512, false);
    bench.data_out(0x11, RESERVED_TAG, 1, 4608, 512, true);
    bench.silence();
    assert_eq!(bench.connection.counters().late_data, 3);
    let header = DataOut {
        last: true,
        initiator_task_tag: 0x11,
        target_transfer_tag: RESERVED_TAG,
        exp_stat_sn: bench.exp_stat_sn,
        ..Default::default()
    };
    bench.send(header.header(), &[0; 512]);
    bench.hear_reject(reject::INVALID_PDU_FIELD, header.header().with_data_segment(512));
}

#[test]
fn data_for_tags_that_never_were_is_rejected() {
    let mut bench = Bench::logged_in(WIDE);
    let task = bench.write(0x10, 4096);
    bench.place(task, 0, 4096);
    let r2t = bench.hear_r2t();
    for (tag, transfer) in [(0x10, 77), (0x77, 77), (0x77, RESERVED_TAG), (RESERVED_TAG, RESERVED_TAG)] {
        let data = DataOut {
            last: true,
            initiator_task_tag: tag,
            target_transfer_tag: transfer,
            exp_stat_sn: bench.exp_stat_sn,
            ..Default::default()
        };
        bench.send(data.header(), &pattern(0, 512));
        bench.hear_reject(reject::INVALID_PDU_FIELD, data.header().with_data_segment(512));
    }
    bench.answer(&r2t, 4096);
    assert_eq!(bench.filled_place(), (0, 4096), "the command does not mind");
}

#[test]
fn data_that_was_not_agreed_upon_ends_its_command() {
    // InitialR2T=Yes and a command that announces more.
    let mut bench = Bench::logged_in("InitialR2T=Yes\0");
    bench.write_with(0x10, 8192, 0, false);
    bench.no_event();
    bench.silence();
    bench.data_out(0x10, RESERVED_TAG, 0, 0, 512, true);
    bench.hear_condition(0x10, UNEXPECTED);

    // Unsolicited data after a command that announced none.
    let task = bench.write(0x11, 8192);
    bench.data_out(0x11, RESERVED_TAG, 0, 0, 512, true);
    bench.dropped(task);
    bench.hear_condition(0x11, UNEXPECTED);

    // Immediate data although there is to be none, and with a read.
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    bench.write_with(0x10, 8192, 512, true);
    bench.no_event();
    bench.hear_condition(0x10, UNEXPECTED);
    let mut bench = Bench::logged_in(WIDE);
    let read = bench.read_command(0x11, 512);
    bench.send(read.header(), &[0; 512]);
    bench.no_event();
    bench.hear_condition(0x11, UNEXPECTED);
    assert_eq!(bench.connection.tasks_in_use(), 0);
}

#[test]
fn more_immediate_data_than_the_first_burst_or_the_command_has_ends_it() {
    for (length, immediate) in [(262_144, 4097), (512, 513)] {
        let mut bench = Bench::logged_in("FirstBurstLength=4096\0");
        bench.write_with(0x10, length, immediate, true);
        bench.no_event();
        bench.hear_condition(0x10, AMOUNT);
        bench.silence();
    }
}

#[test]
fn wrong_numbers_offsets_and_lengths_of_solicited_data_end_the_command_when_the_last_has_come() {
    // DataSN, offset, length and F of the first and the second PDU for 8,192 bytes.
    type Pdu = (u32, u32, usize, bool);
    let wrong: &[([Pdu; 2], [u8; 2])] = &[
        ([(0, 0, 4096, false), (0, 4096, 4096, true)], CRC),
        ([(0, 0, 4096, false), (27, 4096, 4096, true)], CRC),
        ([(0xffff_ffff, 0, 4096, false), (0, 4096, 4096, true)], CRC),
        ([(1, 0, 4096, false), (0, 4096, 4096, true)], CRC),
        ([(0, 0, 4096, false), (1, 0, 4096, true)], CRC),
        ([(0, 0, 4096, false), (1, 4097, 4095, true)], CRC),
        ([(0, 0, 4096, false), (1, 4096, 4097, true)], AMOUNT),
        ([(0, 0, 4096, false), (1, 4096, 4000, true)], AMOUNT),
        ([(0, 0, 8192, false), (1, 8192, 0, true)], AMOUNT),
        ([(0, 0xffff_f000, 4096, false), (1, 4096, 4096, true)], CRC),
    ];
    for (pdus, code) in wrong {
        let mut bench = Bench::logged_in(WIDE);
        let task = bench.write(0x10, 8192);
        bench.place(task, 0, 8192);
        let r2t = bench.hear_r2t();
        for &(data_sn, offset, length, last) in pdus {
            let data = DataOut {
                last,
                initiator_task_tag: 0x10,
                target_transfer_tag: r2t.target_transfer_tag,
                exp_stat_sn: bench.exp_stat_sn,
                data_sn,
                buffer_offset: offset,
                ..Default::default()
            };
            bench.send(data.header(), &vec![0; length]);
            while let Some(event) = bench.connection.poll_event() {
                assert!(matches!(event, Event::Dropped(dropped) if dropped == task), "{event:?}");
            }
            bench.resume();
        }
        bench.hear_condition(0x10, *code);
        bench.silence();
        assert_eq!((bench.connection.tasks_in_use(), bench.share.used()), (0, 0));
        let task = bench.read(0x11, 0);
        bench.good(task, 0);
        bench.hear_response(0x11, 0);
    }
}

#[test]
fn wrong_unsolicited_data_ends_the_command_when_the_last_has_come() {
    for (data_sn, offset, length, code) in
        [(1, 0, 512, CRC), (0, 512, 512, CRC), (0, 0, 8193, AMOUNT), (0, 0, 70_000, AMOUNT)]
    {
        let mut bench = Bench::logged_in("InitialR2T=No\0FirstBurstLength=8192\0");
        bench.write_with(0x10, 65_536, 0, false);
        let task = bench.taken().task;
        bench.place(task, 0, 65_536);
        bench.data_out(0x10, RESERVED_TAG, data_sn, offset, length, false);
        bench.dropped(task);
        bench.resume();
        bench.silence();
        bench.data_out(0x10, RESERVED_TAG, 1, 8192, 0, true);
        bench.hear_condition(0x10, code);
        assert_eq!(bench.share.used(), 0);
    }
}

#[test]
fn a_data_digest_error_is_rejected_and_ends_the_command_with_its_data_unused() {
    for (immediate, bad) in [(4096, 0), (0, 4096)] {
        let mut bench = Bench::logged_in(&format!("{WIDE}DataDigest=CRC32C\0"));
        let mut command = bench.write_command(0x10, 4096);
        command.last = true;
        let mut bytes = bench.bytes(command.header(), &pattern(0, immediate));
        if immediate > 0 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bench.feed(&bytes).unwrap();
        let task = bench.taken().task;
        bench.place(task, 0, 4096);
        bench.resume();
        let mut header = command.header().with_data_segment(immediate as u32);
        if bad > 0 {
            let r2t = bench.hear_r2t();
            let data = DataOut {
                last: true,
                initiator_task_tag: 0x10,
                target_transfer_tag: r2t.target_transfer_tag,
                exp_stat_sn: bench.exp_stat_sn,
                ..Default::default()
            };
            let mut bytes = bench.bytes(data.header(), &pattern(0, bad));
            bytes[48 + 100] ^= 0x10;
            bench.feed(&bytes).unwrap();
            header = data.header().with_data_segment(bad as u32);
        }
        bench.hear_reject(reject::DATA_DIGEST_ERROR, header);
        bench.dropped(task);
        bench.hear_condition(0x10, CRC);
        bench.no_event();
        assert_eq!((bench.connection.tasks_in_use(), bench.share.used()), (0, 0));
        assert_eq!(bench.connection.counters().data_digest_errors, 1);
    }
}

#[test]
fn padding_may_be_anything_as_long_as_the_digest_knows_it() {
    let mut bench = Bench::logged_in(WIDE);
    let command = bench.write_command(0x10, 5);
    let mut bytes = bench.bytes(command.header(), &pattern(0, 5));
    let length = bytes.len();
    bytes[length - 3..].fill(0xee);
    bench.feed(&bytes).unwrap();
    let task = bench.taken().task;
    bench.place(task, 0, 5);
    bench.resume();
    assert_eq!(bench.filled_place(), (0, 5));
    bench.resume();
    bench.good(task, 5);
    bench.hear_response(0x10, 0);
}

#[test]
fn writes_of_several_commands_may_be_interleaved() {
    let mut bench = Bench::logged_in(WIDE);
    let tasks: Vec<_> = (0..4).map(|tag| bench.write(tag, 8192)).collect();
    for &task in &tasks {
        bench.place(task, 0, 8192);
    }
    let r2ts: Vec<_> = tasks.iter().map(|_| bench.hear_r2t()).collect();
    for half in [0, 1] {
        for r2t in r2ts.iter().rev() {
            let (tag, transfer) = (r2t.initiator_task_tag, r2t.target_transfer_tag);
            bench.data_out(tag, transfer, half, half * 4096, 4096, half == 1);
            if half == 1 {
                assert_eq!(bench.filled_place(), (0, 8192));
            }
        }
    }
    for (tag, &task) in tasks.iter().enumerate() {
        bench.good(task, 8192);
        bench.hear_response(tag as u32, 0);
    }
}

#[test]
fn a_last_bit_that_never_comes_is_not_waited_for() {
    // Immediate data is all there can be.
    let mut bench = Bench::logged_in(WIDE);
    bench.write_with(0x10, 512, 512, false);
    let task = bench.taken().task;
    bench.place(task, 0, 512);
    bench.resume();
    assert_eq!(bench.filled_place(), (0, 512));
    bench.good(task, 512);
    bench.hear_response(0x10, 0);
    // A write of nothing.
    bench.write_with(0x11, 0, 0, false);
    let task = bench.taken().task;
    bench.good(task, 0);
    bench.hear_response(0x11, 0);
    // Unsolicited data to the end of the first burst, and an idle end behind it.
    let mut bench = Bench::logged_in("InitialR2T=No\0FirstBurstLength=1024\0");
    bench.write_with(0x10, 2048, 0, false);
    let task = bench.taken().task;
    bench.place(task, 0, 2048);
    bench.data_out(0x10, RESERVED_TAG, 0, 0, 1024, false);
    let r2t = bench.hear_r2t();
    assert_eq!((r2t.buffer_offset, r2t.desired_data_transfer_length), (1024, 1024));
    bench.data_out(0x10, RESERVED_TAG, 1, 1024, 0, true);
    bench.answer(&r2t, 1024);
    assert_eq!(bench.filled_place(), (0, 2048));
    bench.good(task, 2048);
    bench.hear_response(0x10, 0);
}
