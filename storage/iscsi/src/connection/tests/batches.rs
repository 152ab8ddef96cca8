//! Many small PDUs at once, both ways.

use super::bench::{Bench, Heard, pattern};
use crate::wire::{Digests, NopIn, NopOut, RESERVED_TAG, ScsiCommand, TaskManagementRequest, opcode};
use crate::{Event, Limits, Outcome};

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
    let mut bytes = [read, ScsiCommand { data_segment: 512, ..write }.header().0].concat();
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

fn ping(bench: &Bench, tag: u32) -> NopOut {
    NopOut {
        immediate: true,
        initiator_task_tag: tag,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn: bench.cmd_sn,
        ..Default::default()
    }
}

/// Take what may be taken behind commands that wait, when so much of it is there and when all is. Answers how much that
/// was, and what was heard.
fn taken_behind(bench: &mut Bench, bytes: &[u8], there: usize) -> (usize, Vec<Heard>) {
    let (mut taken, mut heard) = (0, Vec::new());
    for end in [there, bytes.len()] {
        while taken < end {
            let some = bench.connection.take_behind(bench.now, &bytes[taken..end]).expect("legal");
            heard.extend(std::iter::from_fn(|| bench.try_hear()));
            taken += some;
            if some == 0 {
                break;
            }
        }
    }
    (taken, heard)
}

#[test]
fn pings_are_taken_behind_commands_that_wait_however_they_are_cut() {
    for keys in ["", "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"] {
        let mut split = 0;
        loop {
            let mut bench = Bench::logged_in(keys);
            let first = bench.read_command(1, 512).header();
            let first = bench.bytes(first, &[]);
            assert_eq!(bench.connection.take(bench.now, &first), Ok(first.len()));
            let command = bench.write_command(2, 512).header();
            let mut bytes = bench.bytes(command, &[]);
            // With padding, and wanting no answer, and in sequence.
            bytes.extend(bench.bytes(ping(&bench, 3).header(), b"a ping"));
            bytes.extend(bench.bytes(ping(&bench, RESERVED_TAG).header(), b"nobody's"));
            let in_sequence = NopOut { immediate: false, ..ping(&bench, 4) };
            bench.cmd_sn += 1;
            bytes.extend(bench.bytes(in_sequence.header(), &[]));
            if split > bytes.len() {
                break;
            }
            let (taken, heard) = taken_behind(&mut bench, &bytes, split);
            assert_eq!(taken, bytes.len(), "{split}");
            let heard: Vec<_> = heard
                .iter()
                .map(|Heard { header, data }| (header.opcode(), header.initiator_task_tag(), &data[..]))
                .collect();
            assert_eq!(heard, [(opcode::NOP_IN, 3, &b"a ping"[..]), (opcode::NOP_IN, 4, &[])]);
            assert_eq!([512, 512].map(|_| bench.taken().expected_data_transfer_length), [512, 512]);
            bench.no_event();
            split += 1;
        }
    }
}

/// What says something else, as it stands on the wire.
type Other = fn(&mut Bench) -> Vec<u8>;

#[test]
fn nothing_else_is_taken_behind_commands_that_wait() {
    let abort = |bench: &mut Bench| {
        let request = TaskManagementRequest {
            immediate: true,
            function: 2,
            initiator_task_tag: 9,
            referenced_task_tag: RESERVED_TAG,
            cmd_sn: bench.cmd_sn,
            ..Default::default()
        };
        request.header().0.to_vec()
    };
    let immediate =
        |bench: &mut Bench| bench.write_command(9, 512).header().with_data_segment(512).0.to_vec();
    let additional = |bench: &mut Bench| {
        let mut header = bench.read_command(9, 512).header();
        header.0[4] = 1;
        [&header.0[..], &[0, 1, 0x3f, 0]].concat()
    };
    let others: [Other; 3] = [abort, immediate, additional];
    for other in others {
        for split in 0..=48 {
            let mut bench = Bench::logged_in("");
            let read = bench.read_command(1, 512).header().0;
            assert_eq!(bench.connection.take(bench.now, &read), Ok(48));
            let mut bytes = other(&mut bench);
            bytes.extend(ping(&bench, 3).header().0);
            let (taken, heard) = taken_behind(&mut bench, &bytes, split);
            // Before its length is there a header may be one without data.
            assert!(taken < 8 && heard.is_empty(), "{taken} of {split}: {heard:?}");
            bench.taken();
            bench.no_event();
            // Then it is taken, and what it is about is known above.
            let more = bench.connection.take(bench.now, &bytes[taken..]);
            assert!(more.is_ok_and(|more| more + taken >= 48), "{more:?}");
        }
    }
}

#[test]
fn as_many_commands_as_the_window_has_room_for_are_taken_on_the_way_to_a_ping() {
    let mut bench = Bench::logged_in_with(&Limits { commands: 8, ..Limits::default() }, "");
    let mut bytes = Vec::new();
    // Two of them lie beyond the window: as if they had never come.
    for tag in 0..10 {
        bytes.extend(bench.read_command(tag, 512).header().0);
    }
    bytes.extend(ping(&bench, 20).header().0);
    assert_eq!(bench.connection.take(bench.now, &bytes[..48]), Ok(48));
    let (taken, heard) = taken_behind(&mut bench, &bytes[48..], 0);
    assert_eq!((taken, heard.len()), (10 * 48, 1));
    let echo = NopIn::read(&heard[0].header);
    assert_eq!(echo.initiator_task_tag, 20);
    assert_eq!(echo.exp_cmd_sn, echo.max_cmd_sn.wrapping_add(1), "the window is closed");
    for _ in 0..8 {
        bench.taken();
    }
    bench.no_event();
    assert_eq!(bench.connection.counters().ignored, 2);
}

#[test]
fn pings_behind_commands_that_wait_are_answered_one_by_one() {
    let mut bench = Bench::logged_in("");
    let read = bench.read_command(1, 512).header().0;
    assert_eq!(bench.connection.take(bench.now, &read), Ok(48));
    let mut bytes = Vec::new();
    for tag in 2..200 {
        bytes.extend(bench.bytes(ping(&bench, tag).header(), b"ping"));
    }
    let (taken, heard) = taken_behind(&mut bench, &bytes, 0);
    assert_eq!((taken, heard.len()), (bytes.len(), 198));
    bench.taken();
}
