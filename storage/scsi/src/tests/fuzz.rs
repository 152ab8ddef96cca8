//! Random commands against a model of the disk.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{AccessState, Attribute, NoSpace, Traits};
use storage_block::{Error, Geometry, Operation, Pool};

/// A generator of numbers that are random enough (xorshift), the same for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

const BLOCKS: u64 = 64;
const BLOCK: usize = 512;
const WRITE_SAME: u8 = 0x93;

fn pool(random: &mut Random) -> Pool {
    let classes: [&[(usize, usize)]; 4] =
        [&[(4096, 32), (65536, 8)], &[(512, 2)], &[(1024, 3)], &[(512, 4), (4096, 2)]];
    Pool::new(classes[random.below(4) as usize])
}

fn shape(random: &mut Random) -> Geometry {
    let mut shape = geometry(BLOCKS, BLOCK as u32);
    (shape.flush, shape.fua) = (random.below(4) != 0, random.below(2) != 0);
    // What reads back from a trim is undefined, so the model needs zeroes.
    (shape.write_zeroes, shape.trim) = (random.below(4) != 0, false);
    shape.max_transfer = 512 << random.below(8);
    (shape.fast_zero, shape.status) = (random.below(2) == 0, random.below(2) == 0);
    shape
}

/// A command that means something, its Data-Out, and what it does to a disk and answers, when it is done.
type Effect = Box<dyn Fn(&mut [u8]) -> Result<Vec<u8>, u16>>;

fn meaningful(random: &mut Random) -> (Vec<u8>, Vec<u8>, Effect) {
    let lba = random.below(BLOCKS);
    let count = 1 + random.below(BLOCKS - lba).min(20);
    let range = lba as usize * BLOCK..(lba + count) as usize * BLOCK;
    let length = range.len();
    let (seed, fua) = (random.byte(), (random.below(4) == 0) as u8 * 8);
    let data = pattern(length, seed);
    let sent = data.clone();
    match random.below(10) {
        0..=2 => (
            cdb16(0x88, fua, lba, count as u32).to_vec(),
            vec![],
            Box::new(move |disk| Ok(disk[range.clone()].to_vec())),
        ),
        3..=4 => (
            cdb10(0x2a, fua, lba as u32, count as u16).to_vec(),
            data,
            Box::new(move |disk| {
                disk[range.clone()].copy_from_slice(&sent);
                Ok(vec![])
            }),
        ),
        5 => (
            cdb12(0xae, 2, lba as u32, count as u32).to_vec(),
            data,
            Box::new(move |disk| {
                disk[range.clone()].copy_from_slice(&sent);
                Ok(vec![])
            }),
        ),
        6 => {
            let block = if seed < 128 { vec![0; BLOCK] } else { pattern(BLOCK, seed) };
            let sent = block.clone();
            (
                cdb16(0x93, 0, lba, count as u32).to_vec(),
                block,
                Box::new(move |disk| {
                    disk[range.clone()].chunks_mut(BLOCK).for_each(|place| place.copy_from_slice(&sent));
                    Ok(vec![])
                }),
            )
        }
        7 => (
            cdb16(0x8b, fua, lba, count as u32).to_vec(),
            data,
            Box::new(move |disk| {
                disk[range.clone()].iter_mut().zip(&sent).for_each(|(byte, bits)| *byte |= bits);
                Ok(vec![])
            }),
        ),
        8 => {
            // Either the zeroes of the start, or what is never there.
            let compare = if seed < 128 { vec![0; length] } else { vec![0x99; length] };
            let (old, both) = (compare.clone(), [compare, data].concat());
            (
                compare_and_write(fua, lba, count as u8).to_vec(),
                both,
                Box::new(move |disk| {
                    if disk[range.clone()] != old {
                        return Err(crate::code::MISCOMPARE_DURING_VERIFY);
                    }
                    disk[range.clone()].copy_from_slice(&sent);
                    Ok(vec![])
                }),
            )
        }
        _ => (cdb10(0x35, 0, 0, 0).to_vec(), vec![], Box::new(|_| Ok(vec![]))),
    }
}

/// Do something that can be done next, chosen at random. False when there is nothing.
fn stir(bench: &mut Bench, random: &mut Random) -> bool {
    bench.step_all();
    let asking: Vec<_> = (0..bench.slots.len()).filter(|i| !bench.slots[*i].receives.is_empty()).collect();
    let pending = bench.disk.pending.len();
    if asking.is_empty() && pending == 0 {
        return false;
    }
    if pending == 0 || (!asking.is_empty() && random.below(2) == 0) {
        bench.give(asking[random.below(asking.len() as u64) as usize]);
    } else {
        bench.complete(random.below(pending as u64) as usize);
    }
    true
}

/// Many commands at once, in whatever order the backend and the initiator like. Each takes effect as if it had run alone
/// when it came: overlapping ones are kept in order, and others do not matter to each other.
#[test]
fn commands_take_effect_in_the_order_in_which_they_came() {
    for seed in 1..60 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let pool = pool(&mut random);
        let shape = shape(&mut random);
        let mut bench = Bench::with(shape, Traits::default(), &pool);
        bench.disk.keeps = random.below(2) == 0;
        let mut model = bench.disk.bytes.clone();
        let mut expected = Vec::new();
        let ordered = seed % 2 == 0;
        for _ in 0..200 {
            if bench.slots.len() < 40 && random.below(3) != 0 {
                let (cdb, data, effect) = meaningful(&mut random);
                let fills = cdb[0] == WRITE_SAME;
                if fills && ordered {
                    continue;
                }
                let nexus = bench.nexuses[random.below(2) as usize];
                let is_ordered = ordered && random.below(16) == 0;
                let attribute = if is_ordered { Attribute::Ordered } else { Attribute::Simple };
                let index = bench.start_with(nexus, [0; 8], &cdb, &data, 65536, attribute);
                // It has its range when its block is here.
                if fills {
                    bench.step(index);
                    bench.give(index);
                    bench.step(index);
                }
                expected.push((cdb, effect(&mut model)));
            }
            if random.below(20) == 0 {
                let zeroes = Operation::WriteZeroes { fua: false, no_hole: true, fast: true };
                let at = random.below(BLOCKS) * BLOCK as u64;
                bench.disk.faults.push((zeroes, at, Error::NotSupported));
            }
            stir(&mut bench, &mut random);
        }
        while stir(&mut bench, &mut random) {}
        bench.run_all();
        for (slot, (cdb, expected)) in bench.slots.iter().zip(expected) {
            let outcome = slot.outcome.expect("an end");
            match expected {
                Ok(data) => {
                    good(&outcome);
                    assert!(slot.data_in == data, "seed {seed}: {cdb:02x?}");
                }
                Err(code) => assert_eq!(sense(&outcome).1, code, "seed {seed}: {cdb:02x?}"),
            }
        }
        assert!(bench.disk.bytes == model, "seed {seed}");
        assert_eq!(bench.data.used() + bench.control.used(), 0);
    }
}

/// CDBs of noise and of commands with single bytes changed, lists of noise, aborts, errors, resets, nexuses that come
/// and go: everything comes to an end, with its buffers back and its place free.
#[test]
fn noise_comes_to_an_end() {
    for seed in 1..200 {
        let mut random = Random(0xd1b5_4a32_d192_ed03_u64.wrapping_mul(seed));
        let pool = pool(&mut random);
        let shape = shape(&mut random);
        let no_space = if random.below(2) == 0 { NoSpace::Temporary } else { NoSpace::Final };
        let access = if random.below(16) == 0 { AccessState::Standby } else { AccessState::Optimized };
        let (removable, read_only, keeps) =
            (random.below(2) == 0, random.below(8) == 0, random.below(2) == 0);
        let traits = Traits { removable, read_only, no_space, keeps, access };
        let mut bench = Bench::with(shape, traits, &pool);
        bench.disk.keeps = random.below(2) == 0;
        for _ in 0..120 {
            let (mut cdb, mut data, _) = meaningful(&mut random);
            if random.below(2) == 0 {
                let rows = crate::opcode::COMMANDS;
                let row = &rows[random.below(rows.len() as u64) as usize];
                cdb = row.usage.iter().map(|bits| bits & random.byte() & random.byte()).collect();
                cdb[0] = row.opcode;
                if let Some(action) = row.action {
                    cdb[1] = action as u8;
                }
                data = (0..random.below(600)).map(|_| random.byte() & random.byte()).collect();
            }
            for _ in 0..random.below(3) {
                let at = random.below(cdb.len() as u64) as usize;
                cdb[at] = random.byte();
            }
            let nexus = bench.nexuses[random.below(2) as usize];
            let lun = if random.below(16) == 0 { random.next().to_be_bytes() } else { [0; 8] };
            if bench.slots.iter().filter(|slot| slot.outcome.is_none()).count() < 30 {
                bench.start(nexus, lun, &cdb, &data, random.below(70_000) as u32);
            }
            let started = bench.slots.len() as u64;
            match random.below(12) {
                0 => {
                    let slot = &mut bench.slots[random.below(started) as usize];
                    if slot.outcome.is_none() {
                        slot.command.abort();
                        slot.receives.clear();
                    }
                }
                1 => {
                    let errors =
                        [Error::Io, Error::NoSpace, Error::Lost, Error::NoMemory, Error::NotPermitted];
                    let error = errors[random.below(5) as usize];
                    let at = random.below(BLOCKS) * BLOCK as u64;
                    let operation = [Operation::Read, Operation::Write { fua: false }, Operation::Flush]
                        [random.below(3) as usize];
                    bench.disk.faults.push((operation, at, error));
                }
                2 if random.below(4) == 0 => bench.target.target_reset(),
                3 if random.below(4) == 0 => bench.target.detach(nexus),
                4 if random.below(8) == 0 => {
                    bench.target.unit_mut(bench.unit).expect("it").backend_lost(random.below(2) == 0);
                }
                5 if random.below(16) == 0 => {
                    let unit = bench.target.unit_mut(bench.unit).expect("it");
                    unit.replaced();
                    if random.below(2) == 0 {
                        unit.accept_replacement();
                        unit.set_geometry(shape).expect("a shape");
                    }
                }
                _ => {}
            }
            stir(&mut bench, &mut random);
        }
        bench.run_all();
        assert_eq!(bench.data.used() + bench.control.used(), 0, "seed {seed}");
        assert_eq!(bench.target.unit(bench.unit).expect("it").tasks.len(), 0, "seed {seed}");
    }
}
