//! Tests of whole commands against a disk in memory.

mod answers;
mod attentions;
mod basics;
mod copies;
mod copy_lists;
mod copy_places;
mod durability;
mod errors;
mod fuzz;
mod identities;
mod keeping;
mod order;
mod plain;
mod ports;
mod provisioning;
mod refusals;
mod registrations;
mod removal;
mod reservation_model;
mod straight;
mod tokens;
mod transfers;

use crate::{Outcome, Status};

/// Sense key and code of an outcome with fixed format sense data.
fn sense(outcome: &Outcome) -> (u8, u16) {
    assert_eq!(outcome.status, Status::CheckCondition, "{outcome:02x?}");
    assert_eq!(outcome.sense[0] & 0x7f, 0x70);
    (outcome.sense[2] & 15, u16::from_be_bytes([outcome.sense[12], outcome.sense[13]]))
}

/// The INFORMATION field, where it is valid.
fn information(outcome: &Outcome) -> Option<u32> {
    let field = outcome.sense[3..7].try_into().expect("four bytes");
    (outcome.sense[0] & 0x80 != 0).then(|| u32::from_be_bytes(field))
}

#[track_caller]
fn good(outcome: &Outcome) {
    assert_eq!(outcome.status, Status::Good, "{outcome:02x?}");
}

/// A CDB of ten bytes: opcode, second byte, LBA, number of blocks.
fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A CDB of twelve bytes.
fn cdb12(opcode: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A CDB of sixteen bytes.
fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[opcode, flags]);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// COMPARE AND WRITE.
fn compare_and_write(flags: u8, lba: u64, blocks: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x89, flags, lba, 0);
    cdb[13] = blocks;
    cdb
}

/// An UNMAP parameter list.
fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let bytes = (ranges.len() * 16) as u16;
    let mut list = Vec::new();
    list.extend((bytes + 6).to_be_bytes());
    list.extend(bytes.to_be_bytes());
    list.extend([0; 4]);
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap(length: usize) -> [u8; 10] {
    cdb10(0x42, 0, 0, length as u16)
}

/// Bytes that differ from block to block.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8) ^ ((index >> 8) as u8).wrapping_mul(31) ^ seed).collect()
}
