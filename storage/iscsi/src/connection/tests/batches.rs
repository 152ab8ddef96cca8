//! Many small PDUs at once, both ways.

use super::bench::{Bench, pattern};
use crate::wire::{Digests, NopOut, opcode};
use crate::{Event, Outcome};

impl Bench {
    /// What the target says into so much room.
    fn filled_room(&mut self, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; room];
        let filled = self.connection.fill(&mut bytes);
        bytes.truncate(filled);
        bytes
    }
}

#[test]
fn commands_that_stand_one_behind_the_other_are_taken_at_once() {
    let mut bench = Bench::logged_in("");
    let mut bytes = Vec::new();
    for tag in 0..40 {
        let command = bench.read_command(tag, 4096);
        bytes.extend(command.header().0);
    }
    let partial = bench.read_command(40, 512).header().0;
    bytes.extend(&partial[..20]);
    assert_eq!(bench.connection.take(bench.now, &bytes), Ok(40 * 48), "a part of one waits for the rest");
    for tag in 0..40 {
        let command = bench.taken();
        assert_eq!(command.expected_data_transfer_length, 4096, "{tag}");
    }
    bench.no_event();
    assert_eq!(bench.connection.take(bench.now, &bytes[40 * 48..]), Ok(20));
    assert_eq!(bench.connection.take(bench.now, &partial[20..]), Ok(28));
    assert_eq!(bench.taken().expected_data_transfer_length, 512);
}

#[test]
fn what_could_end_a_command_waits_until_that_command_is_known_above() {
    let mut bench = Bench::logged_in("");
    let read = bench.read_command(1, 512).header().0;
    let write = bench.write_command(2, 512);
    let next = bench.read_command(3, 512).header().0;
    let mut bytes = [read, crate::wire::ScsiCommand { data_segment: 512, ..write }.header().0].concat();
    bytes.extend(pattern(0, 512));
    bytes.extend(next);
    assert_eq!(bench.connection.take(bench.now, &bytes), Ok(48), "data has no place yet");
    bench.taken();
    assert_eq!(bench.connection.take(bench.now, &bytes[48..]), Ok(48));
    let task = bench.taken().task;
    bench.connection.receive(task, 0, bench.share.take(512).expect("room"));
    assert_eq!(
        bench.connection.take(bench.now, &bytes[96..]),
        Ok(512 + 48),
        "data, and the command behind it"
    );
    assert!(matches!(bench.connection.poll_event(), Some(Event::Received { offset: 0, .. })));
    bench.taken();
    let ping = NopOut {
        immediate: true,
        initiator_task_tag: 9,
        target_transfer_tag: u32::MAX,
        ..Default::default()
    };
    let bytes = [bench.read_command(4, 512).header().0, ping.header().0].concat();
    assert_eq!(bench.connection.take(bench.now, &bytes), Ok(48));
}

#[test]
fn answers_of_many_commands_leave_together_and_in_pieces_of_any_size() {
    for room in [7, 48, 100, 4096, 1 << 20] {
        let mut bench = Bench::logged_in("");
        let tasks = [0x10, 0x11, 0x12].map(|tag| bench.read(tag, 512));
        for task in tasks {
            bench.connection.send(task, 0, bench.filled(0, 512));
            bench.good(task, 512);
        }
        assert!(bench.connection.wants_to_transmit());
        let mut bytes = Vec::new();
        while bench.connection.wants_to_transmit() {
            bytes.extend(bench.filled_room(room));
        }
        assert_eq!(bytes.len(), 3 * (48 + 512));
        let mut rest = &bytes[..];
        for _ in tasks {
            let pdu = Digests::default().read(rest).expect("no digests").expect("whole");
            assert_eq!((pdu.header.opcode(), pdu.data), (opcode::DATA_IN, &pattern(0, 512)[..]));
            rest = &rest[pdu.length..];
        }
        assert_eq!(bench.share.used(), 0, "all buffers came back");
    }
}

#[test]
fn what_is_filled_in_as_a_whole_is_what_is_polled_in_parts() {
    let answers: [(u32, u32, u64, u8); 7] = [
        // Bytes expected, bytes sent, bytes transferred, status.
        (4096, 4096, 4096, 0),
        (513, 513, 513, 0),
        (512, 512, 600, 0),
        (4096, 511, 511, 0),
        (20000, 20000, 20000, 0),
        (4096, 0, 0, 0),
        (512, 512, 512, 8),
    ];
    let keys = [
        "",
        "HeaderDigest=CRC32C\0",
        "DataDigest=CRC32C\0",
        "MaxRecvDataSegmentLength=8192\0",
        "MaxBurstLength=8192\0FirstBurstLength=4096\0",
    ];
    for keys in keys {
        let said = |room: Option<usize>| {
            let mut bench = Bench::logged_in(keys);
            for (tag, &(expected, sent, transferred, status)) in (0..).zip(&answers) {
                let task = bench.read(tag, expected);
                for begin in (0..sent).step_by(16384) {
                    let length = (sent - begin).min(16384) as usize;
                    bench.connection.send(task, begin, bench.filled(begin as usize, length));
                }
                bench.connection.finish(task, Outcome { status, ..Outcome::good(transferred) });
            }
            let mut bytes = Vec::new();
            while bench.connection.wants_to_transmit() {
                match room {
                    Some(room) => bytes.extend(bench.filled_room(room)),
                    None => {
                        let Some(some) = bench.connection.poll_transmit() else { break };
                        let count = some.len();
                        bytes.extend(some);
                        bench.connection.transmitted(count);
                    }
                }
            }
            assert_eq!(bench.share.used(), 0, "all buffers came back");
            assert_eq!(bench.connection.tasks_in_use(), 0);
            (bytes, bench.connection.counters().sent)
        };
        let polled = said(None);
        for room in [1, 47, 48, 4143, 4144, 1 << 20] {
            assert!(said(Some(room)) == polled, "{keys:?}, room for {room}");
        }
    }
}
