//! Whatever comes: nothing panics, nothing grows, and how bytes are cut changes nothing.

use super::bench::{Bench, LUN, NORMAL, pattern};
use crate::wire::{
    DataOut, Header, LogoutRequest, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, SnackRequest,
    TaskManagementRequest, TextRequest, opcode, reject,
};
use crate::{
    Admission, Connection, Event, Fatal, Limits, LogoutResponse, Outcome, TargetRecord, Task,
    TaskManagementResponse,
};
use kernel_runtime::Instant;
use std::num::NonZeroU16;
use std::time::Duration;
use storage_block::{Pool, Share};

/// A small generator, so that a failing seed is a bug report.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// A layer above that does something at every event, not always what is asked for.
struct Above {
    share: Share,
    running: Vec<(Task, bool, u32)>,
    closed: bool,
}

impl Above {
    fn drain(&mut self, connection: &mut Connection, dice: &mut Dice) {
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Login if dice.one_in(20) => {
                    connection.admit(Admission::Refuse(crate::Status::NOT_FOUND));
                }
                Event::Login => {
                    connection.admit(Admission::Accept { tsih: NonZeroU16::MIN, portal_group_tag: 1 });
                }
                Event::LoggedIn => {}
                Event::SendTargets => connection.answer_send_targets(
                    (0..40).map(|_| TargetRecord { name: "iqn.2001-04.com.example:disk", portals: &[] }),
                ),
                Event::Command(command) => {
                    let length = command.expected_data_transfer_length;
                    self.running.push((command.task, command.write, length));
                }
                Event::Received { task, offset, buffer } => {
                    assert!(!buffer.is_empty() || connection.parameters().max_burst_length() > 0);
                    if dice.one_in(3) {
                        connection.send(task, offset, buffer);
                    }
                }
                Event::TaskManagement(management) => {
                    if dice.one_in(2) {
                        for (task, ..) in self.running.drain(..) {
                            connection.abort(task);
                        }
                    }
                    connection
                        .task_management_response(management.task, TaskManagementResponse::FUNCTION_COMPLETE);
                }
                Event::Dropped(task) => self.running.retain(|(other, ..)| *other != task),
                Event::Logout(_) => connection.logout_response(LogoutResponse::Closed),
                Event::Close => self.closed = true,
            }
        }
        self.act(connection, dice);
    }

    fn act(&mut self, connection: &mut Connection, dice: &mut Dice) {
        if self.running.is_empty() {
            return;
        }
        let index = dice.below(self.running.len());
        let (task, write, length) = self.running[index];
        let offset = dice.below(length.clamp(1, 20_000) as usize) as u32;
        match dice.below(5) {
            0 | 1 if write => {
                if let Some(buffer) = self.share.take(1 + dice.below(8192)) {
                    connection.receive(task, offset & !511, buffer);
                }
            }
            0 | 1 => {
                if let Some(buffer) = self.share.take(1 + dice.below(8192)) {
                    connection.send(task, offset & !511, buffer);
                }
            }
            2 => {
                self.running.swap_remove(index);
                let sense = [0x70; 30];
                let status = if dice.one_in(2) { 0 } else { 2 };
                let sense = if status == 0 { &[][..] } else { &sense };
                let transferred = dice.roll() >> (32 + dice.below(30));
                connection.finish(task, Outcome { status, sense, transferred, bidirectional_read: 0 });
            }
            3 if dice.one_in(4) => {
                self.running.swap_remove(index);
                connection.abort(task);
            }
            _ => {}
        }
    }
}

/// A PDU that is nearly right.
fn nearly(dice: &mut Dice, cmd_sn: &mut u32, transfer: u32) -> (Header, Vec<u8>) {
    let tag = dice.below(12) as u32;
    let length = [0, 1, 512, 4096, 8192][dice.below(5)];
    let last = !dice.one_in(3);
    let immediate = dice.one_in(8);
    let number = *cmd_sn;
    let data = pattern(0, length);
    let header = match dice.below(8) {
        0..=2 => ScsiCommand {
            immediate,
            last,
            read: dice.one_in(2),
            write: dice.one_in(2),
            lun: LUN,
            initiator_task_tag: tag,
            expected_data_transfer_length: [0, 512, 4096, 100_000][dice.below(4)],
            cmd_sn: number,
            ..Default::default()
        }
        .header(),
        3 | 4 => {
            let transfer =
                if dice.one_in(2) { RESERVED_TAG } else { transfer.wrapping_sub(dice.below(3) as u32) };
            let header = DataOut {
                last,
                initiator_task_tag: tag,
                target_transfer_tag: transfer,
                data_sn: dice.below(3) as u32,
                buffer_offset: dice.below(3) as u32 * length as u32,
                ..Default::default()
            };
            return (header.header(), data);
        }
        5 => NopOut {
            immediate,
            initiator_task_tag: tag,
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: number,
            ..Default::default()
        }
        .header(),
        6 => TaskManagementRequest {
            immediate,
            function: dice.below(14) as u8,
            initiator_task_tag: tag + 100,
            referenced_task_tag: dice.below(12) as u32,
            cmd_sn: number,
            ref_cmd_sn: number.wrapping_sub(dice.below(6) as u32).wrapping_add(2),
            ..Default::default()
        }
        .header(),
        _ if dice.one_in(40) => {
            LogoutRequest { immediate, reason: dice.below(4) as u8, cmd_sn: number, ..Default::default() }
                .header()
        }
        _ => {
            let text = TextRequest {
                immediate,
                last,
                to_be_continued: dice.one_in(3),
                initiator_task_tag: tag,
                target_transfer_tag: if dice.one_in(2) { RESERVED_TAG } else { transfer },
                cmd_sn: number,
                ..Default::default()
            };
            return (text.header(), b"SendTargets=All\0X=1\0"[..dice.below(21)].to_vec());
        }
    };
    if !immediate {
        *cmd_sn = number.wrapping_add(1);
    }
    (header, data)
}

/// How much memory a connection's lists have taken.
fn taken(connection: &Connection) -> ([usize; 3], [usize; 3], [usize; 2]) {
    let own = [connection.events.capacity(), connection.swallowed.capacity()];
    (connection.tasks.capacity(), connection.outgoing.capacity(), own)
}

#[test]
fn mutated_pdus_never_panic_and_never_keep_a_buffer() {
    for seed in 1..400_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let limits = Limits { commands: 8, immediate: 2, buffers: 16, ..Limits::default() };
        let mut bench = Bench::logged_in_with(
            &limits,
            ["", "DataDigest=CRC32C\0", "InitialR2T=No\0FirstBurstLength=8192\0"][seed as usize % 3],
        );
        let mut above =
            Above { share: Pool::new(&[(8192, 16)]).share(1 << 20), running: Vec::new(), closed: false };
        let mut transfer = 0;
        let taken_at_start = taken(&bench.connection);
        for step in 0..200 {
            let mut cmd_sn = bench.cmd_sn;
            let (header, data) = nearly(&mut dice, &mut cmd_sn, transfer);
            bench.cmd_sn = cmd_sn;
            let mut bytes = bench.bytes(header, &data);
            if dice.one_in(6) {
                let at = dice.below(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
            bench.chunk = 1 + dice.below(5000);
            if bench.feed(&bytes).is_err() || above.closed {
                break;
            }
            for _ in 0..4 {
                above.drain(&mut bench.connection, &mut dice);
                if bench.feed(&[]).is_err() {
                    break;
                }
                while let Some(heard) = bench.try_hear() {
                    if heard.header.opcode() == opcode::READY_TO_TRANSFER {
                        transfer = ReadyToTransfer::read(&heard.header).target_transfer_tag;
                    }
                }
            }
            let now = Instant::ZERO + Duration::from_secs(step);
            bench.now = now;
            if bench.connection.handle_timeout(now).is_err() {
                break;
            }
        }
        for (task, ..) in above.running.drain(..) {
            bench.connection.abort(task);
        }
        while bench.connection.poll_event().is_some() || bench.try_hear().is_some() {}
        assert_eq!(above.share.used(), 0, "no buffer is left without a task, seed {seed}");
        assert_eq!(taken(&bench.connection), taken_at_start, "nothing has grown, seed {seed}");
        bench.connection.reset(Instant::ZERO);
        assert_eq!(bench.connection.tasks_in_use(), 0, "seed {seed}");
    }
}

#[test]
fn random_bytes_never_panic() {
    for seed in 1..2000_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bench = if seed % 2 == 0 { Bench::logged_in("") } else { Bench::new(&Limits::default()) };
        let mut bytes: Vec<u8> = (0..600).map(|_| dice.roll() as u8).collect();
        // Mostly a code and a length that get somewhere.
        bytes[0] = [0, 1, 2, 3, 4, 5, 6, 0x10, 0x43, 0x3f][dice.below(10)];
        bytes[4..6].fill(0);
        let _ = bench.feed(&bytes);
        let mut above =
            Above { share: Pool::new(&[(8192, 4)]).share(1 << 20), running: Vec::new(), closed: false };
        for _ in 0..10 {
            above.drain(&mut bench.connection, &mut dice);
            let _ = bench.feed(&[]);
            while bench.try_hear().is_some() {}
        }
    }
}

/// Operation code, task tag and data of a PDU.
type Said = (u8, u32, Vec<u8>);

/// What is heard and what happens when the same script is fed in pieces of `chunk` bytes.
fn play(chunk: usize) -> (Vec<Said>, Vec<String>) {
    let mut bench = Bench::new(&Limits::default());
    bench.chunk = chunk;
    bench.log_in(NORMAL, "HeaderDigest=CRC32C\0DataDigest=CRC32C\0InitialR2T=No\0");
    let mut heard = Vec::new();
    let mut happened = Vec::new();
    let write = ScsiCommand { last: false, ..bench.write_command(1, 20_000) };
    let read = bench.read_command(2, 5000);
    let nop = NopOut {
        initiator_task_tag: 3,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn: bench.cmd_sn,
        ..Default::default()
    };
    let unsolicited = DataOut {
        last: true,
        initiator_task_tag: 1,
        target_transfer_tag: RESERVED_TAG,
        buffer_offset: 3000,
        ..Default::default()
    };
    let mut script = bench.bytes(write.header(), &pattern(0, 3000));
    script.extend(bench.bytes(read.header(), &[]));
    script.extend(bench.bytes(unsolicited.header(), &pattern(3000, 1001)));
    script.extend(bench.bytes(nop.header(), b"ping"));
    script.extend(bench.bytes(SnackRequest::default().header(), &[]));
    bench.feed(&script).unwrap();
    loop {
        let mut idle = true;
        while let Some(event) = bench.connection.poll_event() {
            idle = false;
            happened.push(format!("{event:?}"));
            if let Event::Command(command) = event {
                if command.write {
                    for offset in [0, 3500] {
                        bench.connection.receive(command.task, offset, bench.buffer(3500));
                    }
                } else {
                    bench.connection.send(command.task, 0, bench.filled(0, 5000));
                    bench.good(command.task, 5000);
                }
            }
            bench.resume();
        }
        while let Some(pdu) = bench.try_hear() {
            idle = false;
            if pdu.header.opcode() == opcode::READY_TO_TRANSFER {
                let r2t = ReadyToTransfer::read(&pdu.header);
                let data = DataOut {
                    last: true,
                    initiator_task_tag: r2t.initiator_task_tag,
                    target_transfer_tag: r2t.target_transfer_tag,
                    buffer_offset: r2t.buffer_offset,
                    ..Default::default()
                };
                let length = r2t.desired_data_transfer_length as usize;
                bench.send(data.header(), &pattern(r2t.buffer_offset as usize, length));
            }
            heard.push((pdu.header.opcode(), pdu.header.initiator_task_tag(), pdu.data));
        }
        if idle {
            heard.sort();
            return (heard, happened);
        }
    }
}

#[test]
fn feeding_byte_by_byte_is_the_same_as_feeding_at_once() {
    let whole = play(usize::MAX);
    assert!(whole.0.len() >= 4 && whole.1.len() >= 4);
    for chunk in [1, 2, 3, 47, 48, 49, 1000] {
        assert_eq!(play(chunk), whole, "{chunk}");
    }
}

#[test]
fn every_header_bit_flipped_under_a_digest_ends_the_connection() {
    let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0");
    let command = bench.command(1);
    let bytes = bench.bytes(command.header(), &[]);
    for bit in 0..52 * 8 {
        // The lengths decide how much is read before the digest is looked at.
        if (4 * 8..8 * 8).contains(&bit) {
            continue;
        }
        let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0");
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(bench.feed(&wrong), Err(Fatal::HeaderDigest), "bit {bit}");
    }
    assert_eq!(bench.feed(&bytes), Ok(()));
}

#[test]
fn a_missing_digest_ends_the_connection() {
    let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0");
    bench.digests.header = false;
    let (first, second) = (bench.command(1), bench.command(2));
    let mut bytes = bench.bytes(first.header(), &[]);
    bytes.extend(bench.bytes(second.header(), &[]));
    assert_eq!(bench.feed(&bytes), Err(Fatal::HeaderDigest));
}

#[test]
fn operation_codes_of_targets_end_the_connection_and_unknown_ones_are_rejected() {
    for code in 0x20..0x40 {
        let mut bench = Bench::logged_in("");
        let mut header = NopOut::default().header();
        header.0[0] = code;
        assert_eq!(bench.try_send(header, &[]), Err(Fatal::UnexpectedPdu { opcode: code }));
    }
    let mut bench = Bench::logged_in("");
    for code in (0x07..0x20).filter(|&code| code != opcode::SNACK_REQUEST) {
        let mut header = NopOut::default().header();
        header.0[0] = code;
        bench.send(header, &[1; 100]);
        bench.hear_reject(reject::COMMAND_NOT_SUPPORTED, header.with_data_segment(100));
    }
}

#[test]
fn a_snack_is_rejected_whatever_it_asks_for() {
    let mut bench = Bench::logged_in("");
    for (beg_run, run_length) in [(0, 0), (0xffff_ffff, 0xffff_ffff), (1, 0xffff_ffff)] {
        let snack = SnackRequest { kind: 1, beg_run, run_length, ..Default::default() };
        bench.send(snack.header(), &[]);
        bench.hear_reject(reject::SNACK_REJECT, snack.header());
    }
}

#[test]
fn additional_headers_are_bounded_and_known_or_rejected() {
    let mut bench = Bench::logged_in("");
    let header = bench.command(1).header().with_additional_headers(4);
    bench.feed(&[&header.0[..], &[0, 1, 0x3e, 0]].concat()).unwrap();
    bench.hear_reject(reject::INVALID_PDU_FIELD, header);
    let mut bench = Bench::logged_in("");
    let header = bench.command(1).header().with_additional_headers(20);
    let mut extended = header.0.to_vec();
    extended.extend([0, 17, 1, 0]);
    extended.extend([0xaa; 16]);
    bench.feed(&extended).unwrap();
    assert_eq!(bench.taken().extended_cdb, 16);
    let nop = NopOut::default().header().with_additional_headers(1020);
    let mut bytes = nop.0.to_vec();
    bytes.extend([0; 1020]);
    bench.feed(&bytes).unwrap();
    bench.hear_reject(reject::INVALID_PDU_FIELD, nop);
    let mut bench = Bench::logged_in("");
    let header = bench.command(1).header().with_additional_headers(1020);
    let mut bytes = header.0.to_vec();
    bytes.extend([0xff; 1020]);
    assert_eq!(bench.feed(&bytes), Err(Fatal::AdditionalHeader));
}

#[test]
fn a_data_segment_is_read_up_to_what_we_declared() {
    for (length, fits) in [(262_143_u32, true), (262_144, true), (262_145, false), (0xff_ffff, false)] {
        let mut bench = Bench::logged_in("InitialR2T=No\0FirstBurstLength=262144\0");
        let header = bench.write_command(1, 1 << 20).header().with_data_segment(length);
        let expected = if fits { Ok(()) } else { Err(Fatal::DataSegmentTooLong { length }) };
        assert_eq!(bench.feed(&header.0), expected);
    }
}

#[test]
fn saying_that_more_was_received_than_there_was_space_for_is_an_error_and_not_a_panic() {
    let mut bench = Bench::logged_in("");
    assert_eq!(bench.connection.received(Instant::ZERO, 49), Err(Fatal::Overrun));
}
