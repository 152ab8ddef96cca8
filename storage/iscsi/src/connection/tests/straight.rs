//! Data-In whose bytes somebody else has.

use super::bench::{Bench, Heard};
use crate::wire::{DataIn, Digests, Header};
use crate::{Passage, Task};

/// Room for anything.
const ROOMY: usize = 1 << 20;

impl Bench {
    /// The header of bytes that go in this way, if they do, with how many they are.
    fn pass(
        &mut self,
        task: Task,
        offset: u32,
        length: u32,
        room: usize,
        ends: Option<u64>,
    ) -> Option<DataIn> {
        let Passage { header, length, padding } = self.connection.pass(task, offset, length, room, ends)?;
        let mut bytes = header.to_vec();
        bytes.extend(vec![1; length as usize]);
        bytes.extend(vec![0; padding]);
        assert!(bytes.len() <= room);
        let pdu = Digests::default().read(&bytes).expect("no digests").expect("all of it");
        assert_eq!((pdu.length, pdu.data.len()), (bytes.len(), length as usize));
        let read = DataIn::read(&Header(header));
        if read.has_status {
            assert_eq!(read.stat_sn, self.exp_stat_sn);
            self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
        }
        Some(read)
    }
}

#[test]
fn a_whole_read_goes_behind_one_header_that_carries_its_status() {
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 8192);
    let data = bench.pass(task, 0, 4095, ROOMY, Some(4095)).expect("nothing stands before it");
    assert!(data.last && data.has_status && data.underflow && !data.overflow);
    assert_eq!((data.residual_count, data.data_sn, data.buffer_offset), (4097, 0, 0));
    assert_eq!((data.initiator_task_tag, data.max_cmd_sn), (0x10, 101 + 127));
    bench.silence();
    assert_eq!(bench.connection.tasks_in_use(), 0);
    assert!(bench.pass(task, 0, 4096, ROOMY, Some(4096)).is_none(), "it is over");
    let task = bench.read(0x11, 512);
    assert!(bench.pass(task, 0, 512, ROOMY, Some(512)).is_some());
}

#[test]
fn a_read_goes_on_by_either_way_where_the_other_has_left_it() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=262144\0");
    let task = bench.read(0x10, 16_384);
    assert!(bench.pass(task, 4096, 4096, ROOMY, None).is_none(), "bytes before it are missing");
    let first = bench.pass(task, 0, 4096, ROOMY, None).expect("it is next");
    assert_eq!((first.buffer_offset, first.data_sn, first.last, first.has_status), (0, 0, true, false));
    bench.connection.send(task, 4096, bench.filled(4096, 4096));
    assert!(bench.pass(task, 8192, 4096, ROOMY, None).is_none(), "something is to be said first");
    let Heard { header, .. } = bench.hear();
    let second = DataIn::read(&header);
    assert_eq!((second.buffer_offset, second.data_sn), (4096, 1));
    let third = bench.pass(task, 8192, 4096, ROOMY, None).expect("it is next");
    assert_eq!((third.buffer_offset, third.data_sn), (8192, 2));
    let last = bench.pass(task, 12_288, 4096, ROOMY, Some(16_384)).expect("it is next");
    assert_eq!((last.data_sn, last.has_status, last.residual_count), (3, true, 0));
    bench.silence();
}

#[test]
fn what_is_too_long_for_a_segment_a_burst_or_the_room_is_cut_at_a_page_and_has_no_status() {
    for (keys, room, expected) in [
        ("MaxRecvDataSegmentLength=16384\0", ROOMY, Some(16_384)),
        ("MaxRecvDataSegmentLength=262144\0MaxBurstLength=8192\0", ROOMY, Some(8192)),
        ("MaxRecvDataSegmentLength=262144\0", 48 + 20_479, Some(16_384)),
        ("MaxRecvDataSegmentLength=262144\0", 48 + 4095, None),
        ("MaxRecvDataSegmentLength=512\0", ROOMY, None),
        ("", 47, None),
        ("", 0, None),
    ] {
        let mut bench = Bench::logged_in(keys);
        let task = bench.read(0x10, 65_536);
        let data = bench.pass(task, 0, 65_536, room, Some(65_536));
        assert_eq!(data.map(|data| data.data_segment), expected, "{keys} {room}");
        assert!(data.is_none_or(|data| !data.has_status));
        assert_eq!(bench.connection.tasks_in_use(), 1);
    }
}

#[test]
fn with_digests_for_more_than_was_asked_or_behind_other_words_nothing_goes_this_way() {
    for keys in ["HeaderDigest=CRC32C\0", "DataDigest=CRC32C\0"] {
        let mut bench = Bench::logged_in(keys);
        let task = bench.read(0x10, 4096);
        assert!(bench.pass(task, 0, 4096, ROOMY, Some(4096)).is_none());
    }
    let mut bench = Bench::logged_in("");
    let task = bench.read(0x10, 4096);
    assert!(bench.pass(task, 0, 8192, ROOMY, Some(8192)).is_none());
    let written = bench.write(0x11, 4096);
    assert!(bench.pass(written, 0, 4096, ROOMY, Some(4096)).is_none());
    bench.good(written, 0);
    assert!(bench.pass(task, 0, 4096, ROOMY, Some(4096)).is_none(), "a response waits");
    bench.hear_response(0x11, 0);
    assert!(bench.pass(task, 0, 4096, ROOMY, Some(4096)).is_some());
    let task = bench.read(0x12, 4096);
    bench.connection.abort(task);
    assert!(bench.pass(task, 0, 4096, ROOMY, Some(4096)).is_none());
}
