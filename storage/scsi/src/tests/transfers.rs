//! Data in and out: streaming, residuals, comparing, filling, giving back.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Traits, code};
use storage_block::{Error, Geometry, Operation, Pool};

/// Pools from roomy to the least that can work: one buffer of a block, two for what compares.
fn pools() -> Vec<Pool> {
    vec![
        Pool::new(&[(4096, 32), (65536, 8), (262_144, 8)]),
        Pool::new(&[(4096, 2)]),
        Pool::new(&[(512, 2)]),
        Pool::new(&[(512, 3), (1536, 1)]),
    ]
}

#[test]
fn any_pool_carries_any_length() {
    let data = pattern(700 * 512, 1);
    let mut pools = pools();
    pools.push(Pool::new(&[(512, 1)]));
    pools.push(Pool::new(&[(1000, 1)]));
    for pool in &pools {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), pool);
        good(&bench.run(&cdb10(0x2a, 0, 100, 700), &data, 0).0);
        assert_eq!(bench.run(&cdb10(0x28, 0, 100, 700), &[], 700 * 512).1, data, "{pool:?}");
    }
}

#[test]
fn a_long_write_is_on_its_way_below_before_it_is_here() {
    let mut bench = Bench::with(geometry(4096, 512), Traits::default(), &Pool::new(&[(65536, 8)]));
    let nexus = bench.nexuses[0];
    let data = pattern(1 << 20, 2);
    let write = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 0, 2048), &data, 0);
    bench.step_all();
    assert_eq!(bench.slots[write].receives.len(), 4, "four segments are asked for");
    bench.give(write);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 1, "the first is being written");
    bench.complete(0);
    bench.step_all();
    assert_eq!(bench.slots[write].receives.len(), 4, "and the fifth is asked for");
    bench.run_all();
    good(&bench.slots[write].outcome.expect("an end"));
    assert_eq!(bench.disk.bytes[..1 << 20], data);
}

#[test]
fn segments_respect_the_pool_and_leave_the_backend_to_its_driver() {
    for (max_transfer, largest, expected) in
        [(1 << 25, 1 << 20, 1 << 18), (65536, 1 << 20, 1 << 18), (1 << 25, 5000, 4608), (1000, 4096, 4096)]
    {
        let shape = Geometry { max_transfer, ..geometry(4096, 512) };
        let mut bench = Bench::with(shape, Traits::default(), &Pool::new(&[(largest, 4)]));
        good(&bench.run(&cdb10(0x28, 0, 0, 2048), &[], 1 << 20).0);
        let longest = bench.disk.log.iter().map(|(_, _, length)| *length).max();
        assert_eq!(longest, Some(expected));
    }
}

#[test]
fn reads_give_what_fits_and_tell_what_there_was() {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.bytes.copy_from_slice(&pattern(512_000, 4));
    // Room, what is sent; two blocks are asked for.
    for (room, sent) in [(0, 0), (200, 200), (512, 512), (1000, 1000), (1024, 1024), (10_000, 1024)] {
        let (outcome, data) = bench.run(&cdb10(0x28, 0, 5, 2), &[], room);
        good(&outcome);
        assert_eq!(outcome.wanted_in, 1024);
        assert_eq!(data, bench.disk.bytes[5 * 512..][..sent]);
    }
}

#[test]
fn writes_take_what_they_need_or_what_there_is() {
    let commands: [fn(u16) -> Vec<u8>; 4] = [
        |blocks| cdb10(0x2a, 0, 0, blocks).to_vec(),
        |blocks| cdb12(0xaa, 0, 0, blocks.into()).to_vec(),
        |blocks| cdb16(0x8a, 0, 0, blocks.into()).to_vec(),
        |blocks| cdb10(0x2e, 2, 0, blocks).to_vec(),
    ];
    for cdb in commands {
        let mut bench = Bench::new(geometry(1000, 512));
        // Blocks, Data-Out bytes offered, bytes written: the transport tells the difference as an overflow or underflow.
        let table = [
            (1, 0, 0),
            (2, 512, 512),
            (1, 200, 200),
            (700, 699 * 512 + 1, 699 * 512 + 1),
            (1, 1024, 512),
            (1, 10_000, 512),
            (0, 512, 0),
        ];
        for (blocks, offered, expected) in table {
            bench.disk.bytes.fill(b'a');
            let (outcome, _) = bench.run(&cdb(blocks), &vec![b'b'; offered], 0);
            good(&outcome);
            assert_eq!(outcome.wanted_out, u64::from(blocks) * 512);
            let written = bench.disk.bytes.iter().position(|byte| *byte != b'b').unwrap_or(512_000);
            assert_eq!(written, expected);
            assert!(bench.disk.bytes[written..].iter().all(|byte| *byte == b'a'));
        }
    }
}

#[test]
fn what_compares_or_combines_refuses_too_little_data() {
    let mut bench = Bench::new(geometry(1000, 512));
    for cdb in [&cdb10(0x2f, 2, 0, 2)[..], &cdb10(0x2f, 6, 0, 2), &cdb16(0x8b, 0, 0, 2)] {
        let (outcome, _) = bench.run(cdb, &[0; 500], 0);
        assert_eq!(sense(&outcome), (5, code::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT));
        assert!(outcome.wanted_out >= 512, "an overflow of the difference");
    }
}

#[test]
fn a_read_error_tells_the_block_and_keeps_what_was_good() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(1024, 4)]));
    bench.disk.faults.push((Operation::Read, 20 * 512, Error::Io));
    let (outcome, data) = bench.run(&cdb10(0x28, 0, 16, 16), &[], 8192);
    assert_eq!(sense(&outcome), (3, code::UNRECOVERED_READ_ERROR));
    assert_eq!(information(&outcome), Some(20));
    assert_eq!((data.len(), outcome.wanted_in), (2048, 2048));
}

#[test]
fn of_several_failures_the_first_block_s_is_told() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(1024, 4)]));
    bench.disk.faults.push((Operation::Read, 18 * 512, Error::Io));
    bench.disk.faults.push((Operation::Read, 22 * 512, Error::NoSpace));
    // The bench completes the last request first.
    let (outcome, data) = bench.run(&cdb10(0x28, 0, 16, 16), &[], 8192);
    assert_eq!(sense(&outcome), (3, code::UNRECOVERED_READ_ERROR));
    assert_eq!(information(&outcome), Some(18));
    assert_eq!(data.len(), 1024);
}

#[test]
fn a_failed_write_waits_for_the_data_it_has_asked_for_and_writes_none_of_it() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 4)]));
    let nexus = bench.nexuses[0];
    bench.disk.faults.push((Operation::Write { fua: false }, 0, Error::Io));
    let write = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 0, 8), &[1; 4096], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    bench.complete(0);
    bench.step_all();
    assert!(bench.slots[write].outcome.is_none(), "three segments are still to come");
    bench.run_all();
    let outcome = bench.slots[write].outcome.expect("an end");
    assert_eq!(sense(&outcome), (3, code::WRITE_ERROR));
    assert_eq!(outcome.wanted_out, 2048);
    assert!(bench.disk.log.is_empty());
}

#[test]
fn verify_reads_and_really_compares() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        bench.disk.bytes.copy_from_slice(&pattern(512_000, 6));
        for flags in [0x02, 0x12] {
            let mut data = bench.disk.bytes[512..][..20 * 512].to_vec();
            for cdb in
                [&cdb10(0x2f, flags, 1, 20)[..], &cdb12(0xaf, flags, 1, 20), &cdb16(0x8f, flags, 1, 20)]
            {
                let (outcome, _) = bench.run(cdb, &data, 0);
                good(&outcome);
                assert_eq!(outcome.wanted_out, 20 * 512);
                data[7777] ^= 0x10;
                let (outcome, _) = bench.run(cdb, &data, 0);
                assert_eq!(sense(&outcome), (14, code::MISCOMPARE_DURING_VERIFY));
                assert_eq!(information(&outcome), Some(7777));
                data[7777] ^= 0x10;
            }
        }
        let (outcome, _) = bench.run(&cdb10(0x2f, 0, 1, 20), &[0; 512], 0);
        good(&outcome);
        assert_eq!(outcome.wanted_out, 0, "without BYTCHK there is nothing to send");
        bench.disk.faults.push((Operation::Read, 512, Error::Io));
        assert_eq!(sense(&bench.run(&cdb10(0x2f, 0, 1, 1), &[], 0).0), (3, code::UNRECOVERED_READ_ERROR));
    }
}

#[test]
fn verify_compares_every_block_with_the_one_sent() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        let block = pattern(512, 8);
        for place in bench.disk.bytes.chunks_mut(512) {
            place.copy_from_slice(&block);
        }
        let (outcome, _) = bench.run(&cdb16(0x8f, 6, 3, 30), &block, 0);
        good(&outcome);
        assert_eq!(outcome.wanted_out, 512);
        bench.disk.bytes[20 * 512 + 3] ^= 1;
        let (outcome, _) = bench.run(&cdb16(0x8f, 6, 3, 30), &block, 0);
        assert_eq!(sense(&outcome), (14, code::MISCOMPARE_DURING_VERIFY));
        assert_eq!(information(&outcome), Some(17 * 512 + 3));
    }
}

#[test]
fn write_and_verify_writes_durably_and_compares_with_what_it_reads_back() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        let data = pattern(40 * 512, 5);
        for (flags, at) in [(0, 10), (2, 100)] {
            let (outcome, _) = bench.run(&cdb12(0xae, flags, at, 40), &data, 0);
            good(&outcome);
            assert_eq!(bench.disk.durable[at as usize * 512..][..data.len()], data);
            let reads = bench.disk.log.iter().filter(|(operation, ..)| *operation == Operation::Read);
            assert_eq!(reads.map(|(_, _, length)| length).sum::<u64>(), 40 * 512);
            bench.disk.log.clear();
        }
    }
}

#[test]
fn what_is_written_need_not_come_back() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        bench.disk.keeps = true;
        let data = pattern(40 * 512, 5);
        for cdb in [cdb12(0xae, 0, 10, 40), cdb12(0xae, 2, 100, 40)] {
            good(&bench.run(&cdb, &data, 0).0);
            good(&bench.run(&cdb, &data[..19 * 512 + 7], 0).0);
            bench.disk.faults.push((Operation::Read, u64::from(cdb[5]) * 512, Error::Io));
            assert_eq!(sense(&bench.run(&cdb, &data, 0).0), (3, code::UNRECOVERED_READ_ERROR));
        }
        good(&bench.run(&cdb16(0x8b, 8, 2, 33), &pattern(33 * 512, 1), 0).0);
        good(&bench.run(&cdb10(0x41, 0, 200, 300), &[7; 512], 0).0);
        let swap = [bench.disk.bytes[..2048].to_vec(), vec![9; 2048]].concat();
        good(&bench.run(&compare_and_write(0, 0, 4), &swap, 0).0);
        assert_eq!(bench.disk.bytes[..2048], [9; 2048]);
    }
}

#[test]
fn what_is_read_back_is_compared_with_what_was_sent() {
    for keeps in [false, true] {
        let mut bench = Bench::new(geometry(1000, 512));
        bench.disk.keeps = keeps;
        let nexus = bench.nexuses[0];
        let data = pattern(4 * 512, 5);
        let write = bench.start(nexus, [0; 8], &cdb12(0xae, 2, 0, 4), &data, 0);
        bench.step_all();
        bench.give(write);
        bench.step_all();
        bench.complete(0);
        bench.disk.bytes[1000] ^= 1;
        bench.run_all();
        let outcome = bench.slots[write].outcome.expect("an end");
        assert_eq!(
            (sense(&outcome), information(&outcome)),
            ((14, code::MISCOMPARE_DURING_VERIFY), Some(1000))
        );
    }
}

#[test]
fn or_write_sets_bits() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        bench.disk.bytes.fill(0xa0);
        let (outcome, _) = bench.run(&cdb16(0x8b, 0, 2, 33), &[0x0b; 33 * 512], 0);
        good(&outcome);
        let set = bench.disk.bytes.iter().enumerate().filter(|(_, byte)| **byte == 0xab);
        assert_eq!(set.map(|(at, _)| at).collect::<Vec<_>>(), (1024..35 * 512).collect::<Vec<_>>());
    }
}

#[test]
fn compare_and_write_writes_all_or_nothing() {
    for pool in pools() {
        let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &pool);
        for (blocks, fua) in [(1, 0), (255, 0), (16, 0x08)] {
            let length = usize::from(blocks) * 512;
            bench.disk.bytes.copy_from_slice(&pattern(512_000, blocks));
            let mut data = bench.disk.bytes[512..][..length].to_vec();
            data.resize(2 * length, b'n');
            let (outcome, _) = bench.run(&compare_and_write(fua, 1, blocks), &data, 0);
            good(&outcome);
            assert_eq!(outcome.wanted_out, 2 * length as u64);
            assert_eq!(bench.disk.bytes[512..][..length], vec![b'n'; length]);
            if fua != 0 {
                assert_eq!(bench.disk.durable[512..][..length], vec![b'n'; length]);
            }
            let before = bench.disk.bytes.clone();
            data[..length].fill(b'n');
            data[length - 1] = b'x';
            let (outcome, _) = bench.run(&compare_and_write(fua, 1, blocks), &data, 0);
            assert_eq!(sense(&outcome), (14, code::MISCOMPARE_DURING_VERIFY));
            assert_eq!(information(&outcome), Some(length as u32 - 1));
            assert_eq!(bench.disk.bytes, before);
        }
    }
}

#[test]
fn pre_fetch_is_a_hint_that_cannot_fail() {
    let mut bench = Bench::new(geometry(1000, 512));
    bench.disk.faults.push((Operation::Cache, 512, Error::Io));
    good(&bench.run(&cdb10(0x34, 0, 1, 10), &[], 0).0);
    good(&bench.run(&cdb16(0x90, 0, 1, 10), &[], 0).0);
    good(&bench.run(&cdb10(0x34, 2, 1, 10), &[], 0).0);
    good(&bench.run(&cdb16(0x90, 0, 900, 0), &[], 0).0);
    assert_eq!(bench.disk.log, [(Operation::Cache, 512, 5120), (Operation::Cache, 460_800, 51200)]);
    let mut bench = Bench::new(Geometry { cache: false, ..geometry(1000, 512) });
    good(&bench.run(&cdb10(0x34, 0, 1, 10), &[], 0).0);
    assert!(bench.disk.log.is_empty());
}

#[test]
fn an_aborted_command_ends_when_the_backend_lets_go_of_it_and_not_before() {
    let mut bench = Bench::with(geometry(1000, 512), Traits::default(), &Pool::new(&[(512, 4)]));
    let nexus = bench.nexuses[0];
    let write = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 0, 8), &[1; 4096], 0);
    bench.step_all();
    bench.give(write);
    bench.step_all();
    assert_eq!(bench.disk.pending.len(), 1);
    let blocked = bench.start(nexus, [0; 8], &cdb10(0x2a, 0, 0, 1), &[2; 512], 0);
    bench.step_all();
    assert_eq!(bench.slots[blocked].waits, "blocked");
    bench.slots[write].command.abort();
    let late = core::mem::take(&mut bench.slots[write].receives);
    bench.step_all();
    assert!(bench.slots[write].outcome.is_none() && !bench.slots[write].command.is_quiet());
    assert_eq!(bench.slots[blocked].waits, "blocked", "the write below can still land");
    bench.complete(0);
    assert!(bench.slots[write].command.is_quiet());
    for (offset, buffer) in late {
        bench.slots[write].command.received(offset, buffer);
    }
    bench.run_all();
    assert_eq!(bench.slots[write].outcome.map(|outcome| outcome.status), Some(Status::TaskAborted));
    good(&bench.slots[blocked].outcome.expect("an end"));
    assert_eq!(bench.disk.bytes[..1024], [[2; 512], [0; 512]].concat());
    assert_eq!(bench.data.used(), 0);
}

#[test]
fn commands_that_were_started_on_a_unit_that_is_gone_come_to_an_end() {
    let mut bench = Bench::new(geometry(1000, 512));
    let nexus = bench.nexuses[0];
    let read = bench.start(nexus, [0; 8], &cdb10(0x28, 0, 0, 8), &[], 4096);
    let list = bench.start(nexus, [0; 8], &unmap(24), &unmap_list(&[(0, 1)]), 0);
    bench.step_all();
    assert!(bench.target.remove_unit(bench.unit));
    assert!(!bench.target.remove_unit(bench.unit));
    bench.step_all();
    assert!(bench.slots[read].outcome.is_none(), "a request is still below");
    bench.run_all();
    for index in [read, list] {
        let outcome = bench.slots[index].outcome.expect("an end");
        assert_eq!(sense(&outcome), (5, code::LOGICAL_UNIT_NOT_SUPPORTED));
    }
}

#[test]
fn a_command_is_small_enough_to_have_thousands_of() {
    assert!(size_of::<crate::Command>() <= 1024, "{}", size_of::<crate::Command>());
}
