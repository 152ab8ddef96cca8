//! Reads: Data-In, status in the last one, residuals.

use super::bench::{Bench, Heard, pattern};
use crate::wire::{DataIn, opcode};
use crate::{Limits, Outcome};

impl Bench {
    /// A Data-In with the right bytes for its offset.
    fn hear_data(&mut self) -> DataIn {
        let Heard { header, data } = self.hear();
        assert_eq!(header.opcode(), opcode::DATA_IN);
        let read = DataIn::read(&header);
        assert_eq!(data, pattern(read.buffer_offset as usize, data.len()));
        if read.has_status {
            assert_eq!(read.stat_sn, self.exp_stat_sn);
            self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
        }
        read
    }
}

#[test]
fn a_read_is_answered_by_one_data_in_that_carries_the_status() {
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 4096);
    bench.connection.send(task, 0, bench.filled(0, 4096));
    bench.good(task, 4096);
    let data = bench.hear_data();
    assert!(data.last && data.has_status && !data.overflow && !data.underflow);
    assert_eq!((data.status, data.residual_count, data.data_sn, data.buffer_offset), (0, 0, 0, 0));
    assert_eq!(data.exp_cmd_sn, 101);
    assert_eq!(data.max_cmd_sn, 101 + 127, "the slot is free with its response");
    bench.silence();
    assert_eq!(bench.share.used(), 0, "the buffer came back");
    assert_eq!(bench.connection.tasks_in_use(), 0);
}

#[test]
fn data_is_cut_at_the_initiators_segment_and_at_bursts_and_keeps_its_offsets() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=8192\0MaxBurstLength=16384\0");
    let task = bench.read(0x10, 40_960);
    bench.connection.send(task, 0, bench.filled(0, 40_960));
    bench.good(task, 40_960);
    let heard: Vec<_> = (0..5).map(|_| bench.hear_data()).collect();
    let view: Vec<_> =
        heard.iter().map(|d| (d.data_sn, d.buffer_offset, d.data_segment, d.last, d.has_status)).collect();
    assert_eq!(
        view,
        [
            (0, 0, 8192, false, false),
            (1, 8192, 8192, true, false),
            (2, 16_384, 8192, false, false),
            (3, 24_576, 8192, true, false),
            (4, 32_768, 8192, true, true),
        ]
    );
    bench.silence();
}

#[test]
fn pieces_given_out_of_order_are_sent_in_order() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=262144\0");
    let task = bench.read(0x10, 12_288);
    bench.connection.send(task, 8192, bench.filled(8192, 4096));
    bench.silence();
    bench.connection.send(task, 0, bench.filled(0, 4096));
    assert_eq!(bench.hear_data().buffer_offset, 0);
    bench.silence();
    bench.connection.send(task, 4096, bench.filled(4096, 4096));
    bench.good(task, 12_288);
    assert_eq!(bench.hear_data().buffer_offset, 4096);
    let last = bench.hear_data();
    assert_eq!((last.buffer_offset, last.data_sn, last.has_status), (8192, 2, true));
}

#[test]
fn a_status_that_comes_after_the_data_travels_alone_and_counts_the_data_pdus() {
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 4096);
    bench.connection.send(task, 0, bench.filled(0, 4096));
    assert!(!bench.hear_data().has_status);
    bench.good(task, 4096);
    let response = bench.hear_response(0x10, 0);
    assert_eq!((response.exp_data_sn, response.residual_count), (1, 0));
}

#[test]
fn a_check_condition_never_travels_in_a_data_in() {
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 8192);
    bench.connection.send(task, 0, bench.filled(0, 4096));
    let sense = [0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0];
    bench
        .connection
        .finish(task, Outcome { status: 2, sense: &sense, transferred: 4096, bidirectional_read: 0 });
    assert!(!bench.hear_data().has_status);
    let heard = bench.hear();
    let response = crate::wire::ScsiResponse::read(&heard.header);
    assert_eq!((response.status, response.underflow, response.residual_count), (2, true, 4096));
    assert_eq!(heard.data[..2], [0, 18]);
    assert_eq!(heard.data[2..], sense);
}

#[test]
fn residuals_are_counted_against_the_expected_length() {
    // Expected, given by the command, sent in the end, overflow, underflow, count.
    for (expected, transferred, sent, overflow, underflow, count) in [
        (4096_u32, 4096_u64, 4096_u32, false, false, 0),
        (4096, 512, 512, false, true, 3584),
        (512, 4096, 512, true, false, 3584),
        (10_000, 4096, 4096, false, true, 5904),
        (100, 4096, 100, true, false, 3996),
        (4096, 0, 0, false, true, 4096),
        (512, 1 << 40, 512, true, false, u32::MAX),
    ] {
        let mut bench = Bench::logged_in("");
        let task = bench.read(0x10, expected);
        if transferred > 0 {
            let length = transferred.min(4096) as usize;
            bench.connection.send(task, 0, bench.filled(0, length));
        }
        bench.good(task, transferred);
        let (overflows, underflows, counted, length) = if sent > 0 {
            let data = bench.hear_data();
            assert!(data.has_status);
            (data.overflow, data.underflow, data.residual_count, data.data_segment)
        } else {
            let response = bench.hear_response(0x10, 0);
            (response.overflow, response.underflow, response.residual_count, 0)
        };
        assert_eq!((overflows, underflows, counted, length), (overflow, underflow, count, sent));
        bench.silence();
    }
}

#[test]
fn a_command_without_direction_that_has_data_overflows() {
    let mut bench = Bench::logged_in("");
    let command = bench.command(0x10);
    let task = bench.begin(command, &[]).task;
    bench.connection.send(task, 0, bench.filled(0, 512));
    bench.good(task, 512);
    let response = bench.hear_response(0x10, 0);
    assert_eq!((response.overflow, response.underflow, response.residual_count), (true, false, 512));
    assert_eq!(bench.share.used(), 0);
}

#[test]
fn odd_lengths_are_padded_and_digested_with_their_padding() {
    for keys in
        ["", "HeaderDigest=CRC32C\0", "DataDigest=CRC32C\0", "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"]
    {
        let mut bench = Bench::logged_in(keys);
        for (tag, length) in [1_u32, 2, 3, 4, 5, 511].into_iter().enumerate() {
            let task = bench.read(tag as u32, length);
            bench.connection.send(task, 0, bench.filled(0, length as usize));
            bench.good(task, u64::from(length));
            assert_eq!(bench.hear_data().data_segment, length);
        }
    }
}

#[test]
fn a_buffer_being_sent_outlives_the_abort_of_its_task_and_no_longer() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=1024\0");
    let task = bench.read(0x10, 8192);
    bench.connection.send(task, 0, bench.filled(0, 4096));
    bench.connection.send(task, 4096, bench.filled(4096, 4096));
    let some = bench.connection.poll_transmit().map(<[u8]>::len);
    assert_eq!(some, Some(48));
    bench.connection.transmitted(40);
    bench.connection.abort(task);
    assert_eq!(bench.share.used(), 4096, "the one whose bytes are announced");
    bench.connection.transmitted(8);
    let rest = bench.connection.poll_transmit().map(<[u8]>::to_vec);
    assert_eq!(rest, Some(pattern(0, 1024)));
    bench.connection.transmitted(1024);
    assert_eq!(bench.share.used(), 0);
    bench.silence();
    let task = bench.read(0x10, 512);
    bench.connection.send(task, 0, bench.filled(0, 512));
    bench.good(task, 512);
    assert!(bench.hear_data().has_status);
}

#[test]
fn many_reads_at_once_each_get_their_own_bytes() {
    let limits = Limits { commands: 32, ..Limits::default() };
    let mut bench = Bench::logged_in_with(&limits, "MaxRecvDataSegmentLength=2048\0");
    let tasks: Vec<_> = (0..32).map(|tag| bench.read(tag, 4096)).collect();
    for &task in tasks.iter().rev() {
        bench.connection.send(task, 0, bench.filled(0, 4096));
        bench.good(task, 4096);
    }
    let mut ended = Vec::new();
    while let Some(Heard { header, data }) = bench.try_hear() {
        let read = DataIn::read(&header);
        assert_eq!(data, pattern(read.buffer_offset as usize, 2048));
        if read.has_status {
            ended.push(read.initiator_task_tag);
        }
    }
    assert_eq!(ended, (0..32).rev().collect::<Vec<_>>());
    assert_eq!(bench.share.used(), 0);
}

#[test]
fn a_bidirectional_command_has_two_residuals() {
    let mut bench = Bench::logged_in("");
    let mut command = bench.write_command(0x10, 512);
    command.read = true;
    let header = command.header().with_additional_headers(8).with_data_segment(0);
    let mut bytes = header.0.to_vec();
    bytes.extend([0, 5, 2, 0, 0, 0, 4, 0]);
    bench.feed(&bytes).unwrap();
    let command = bench.taken();
    assert_eq!(command.bidirectional_read_length, 1024);
    bench
        .connection
        .finish(command.task, Outcome { status: 0, sense: &[], transferred: 500, bidirectional_read: 2000 });
    let response = bench.hear_response(0x10, 0);
    assert_eq!((response.underflow, response.residual_count), (true, 12));
    assert_eq!((response.bidirectional_overflow, response.bidirectional_residual_count), (true, 976));
}
