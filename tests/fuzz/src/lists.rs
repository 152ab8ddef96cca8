//! Parameter lists of commands that change what a unit is like or who may use it, by two initiators.

use storage_block::Pool;
use storage_scsi::Traits;
use storage_scsi::testing::{Bench, geometry};

/// CDBs that a step of a script may mean, without their place and count.
const CDBS: &[&[u8]] = &[
    &[0x28],
    &[0x2a],
    &[0x00],
    &[0x88],
    &[0x8a],
    &[0x2e, 2],
    &[0x2f, 2],
    &[0x35],
    &[0x41],
    &[0x93, 9],
    &[0x42],
    &[0x89],
    &[0x8b],
    &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
    &[0x12, 1, 0x83, 0, 255],
    &[0x1a, 0, 0x3f, 0, 255],
    &[0x15, 0x10, 0, 0, 24],
    &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
    &[0x16],
    &[0x17],
    &[0x5e, 0, 0, 0, 0, 0, 0, 1, 0],
    &[0x5f, 6, 5, 0, 0, 0, 0, 0, 24],
    &[0x5f, 1, 5, 0, 0, 0, 0, 0, 24],
    &[0x5f, 3, 5, 0, 0, 0, 0, 0, 24],
    &[0x03, 0, 0, 0, 252],
    &[0x1b, 0, 0, 0, 1],
    &[0x1e, 0, 0, 0, 1],
];

/// One of the CDBs, about `count` blocks from `place` on, or a CDB of that operation code.
pub(crate) fn cdb(kind: u8, place: u8, count: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    let Some(known) = CDBS.get(usize::from(kind)) else {
        cdb[0] = kind;
        cdb[1] = place;
        return cdb;
    };
    cdb[..known.len()].copy_from_slice(known);
    // Those of which nothing but the operation code and a byte of options is given are about blocks.
    if known.len() <= 2 {
        match known[0] >> 5 {
            1 | 2 => (cdb[5], cdb[8]) = (place, count),
            4 => (cdb[9], cdb[13]) = (place, count),
            _ => {}
        }
    }
    cdb
}

/// A disk of 128 KiB with as little memory as commands can do with, so that many inputs get their own.
pub(crate) fn bench() -> Bench {
    Bench::with(geometry(256, 512), Traits::default(), &Pool::new(&[(4096, 8)]))
}

/// Commands of two initiators in turn: a byte for whose it is, one for the length of its list in eights of bytes, a CDB of
/// sixteen and the list.
pub(crate) fn lists(input: &[u8]) {
    let mut bench = bench();
    let size = bench.disk.bytes.len();
    let mut rest = input;
    for _ in 0..16 {
        let Some(([who, eights], behind)) = rest.split_first_chunk() else { return };
        let Some((cdb, behind)) = behind.split_first_chunk::<16>() else { return };
        let (list, behind) = behind.split_at((usize::from(*eights) * 8).min(behind.len()));
        rest = behind;
        let room = if list.is_empty() { 512 } else { 0 };
        let (outcome, answer) = bench.run_as(bench.nexuses[usize::from(who & 1)], cdb, list, room);
        assert!(answer.len() <= room as usize, "no more than there is room for");
        assert!(outcome.sense.len() <= 252 && outcome.wanted_out < 1 << 40);
        assert!(bench.disk.pending.is_empty() && bench.disk.bytes.len() == size);
    }
}
