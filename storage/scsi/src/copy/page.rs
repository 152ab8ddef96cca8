//! The third-party copy page of INQUIRY (SPC-4 section 7.8.17).

use crate::command::Call;
use crate::copy::list::{
    BLOCK_TO_BLOCK, IDENTIFICATION, MAX_CSCDS, MAX_DESCRIPTORS, MAX_SEGMENT_LENGTH, THIS_UNIT,
};
use crate::copy::operations::{MAX_RUNNING, MAX_RUNNING_OF_ONE, MAX_SEGMENTS};
use crate::copy::report::granularity;
use crate::copy::rod::{MAX_BYTES, OPTIMAL_BYTES};
use crate::copy::tokens::{DEFAULT_TIMEOUT, MAX_RANGES, MAX_TIMEOUT, POINT_IN_TIME, ZEROES};
use crate::field::Answer;
use crate::opcode::COMMANDS;
use crate::unit::LogicalUnit;

/// EXTENDED COPY and RECEIVE COPY RESULTS: the commands of third-party copy.
const OPCODES: [u8; 2] = [0x83, 0x84];

/// The page's descriptors, in ascending order of their types.
pub(crate) fn third_party_copy(_: &Call<'_>, unit: &LogicalUnit, answer: &mut Answer<'_>) {
    let block = unit.geometry().map_or(512, |geometry| u64::from(geometry.block_size));
    // Block device ROD token limits: what Windows reads, and only if it comes first.
    descriptor(0x0000, answer, |answer| {
        answer.put(&[0; 6]);
        answer.put_u16(MAX_RANGES as u16);
        answer.put_u32(MAX_TIMEOUT);
        answer.put_u32(DEFAULT_TIMEOUT);
        answer.put_u64(MAX_BYTES / block);
        answer.put_u64(OPTIMAL_BYTES / block);
    });
    descriptor(0x0001, answer, |answer| {
        let at = answer.length();
        answer.put_u8(0);
        for opcode in OPCODES {
            let actions = || COMMANDS.iter().filter(|row| row.opcode == opcode).filter_map(|row| row.action);
            answer.put(&[opcode, actions().count() as u8]);
            actions().for_each(|action| answer.put_u8(action as u8));
        }
        let length = answer.length() - at - 1;
        answer.set(at, &[length as u8]);
    });
    descriptor(0x0004, answer, |answer| {
        answer.put_u32(0);
        answer.put_u16(MAX_CSCDS as u16);
        answer.put_u16(MAX_SEGMENTS as u16);
        answer.put_u32(MAX_DESCRIPTORS as u32);
        // No inline data, and what is reserved.
        answer.put(&[0; 16]);
    });
    descriptor(0x0008, answer, |answer| answer.put(&[2, BLOCK_TO_BLOCK, IDENTIFICATION]));
    descriptor(0x000c, answer, |answer| {
        answer.put_u16(2);
        answer.put_u16(THIS_UNIT);
    });
    // ROD token features: none of other copy managers' tokens; lifetimes; then those of block devices, in bytes.
    descriptor(0x0106, answer, |answer| {
        answer.put(&[0; 12]);
        answer.put_u32(0);
        answer.put_u32(u32::MAX);
        answer.put_u32(MAX_TIMEOUT);
        answer.put(&[0; 18]);
        answer.put_u16(48);
        answer.put(&[0, 0, 0, 44, 0, 0, 0, 0]);
        for bytes in [MAX_BYTES, OPTIMAL_BYTES, MAX_BYTES, OPTIMAL_BYTES, 0] {
            answer.put_u64(bytes);
        }
    });
    // Supported ROD types: to make tokens of and to write by, and only that.
    descriptor(0x0108, answer, |answer| {
        const TOKEN_IN: u8 = 0x02;
        const TOKEN_OUT: u8 = 0x01;
        answer.put_u16(0);
        answer.put_u16(128);
        for (kind, flags) in [(POINT_IN_TIME, TOKEN_IN | TOKEN_OUT), (ZEROES, TOKEN_IN)] {
            answer.put_u32(kind);
            answer.put(&[flags, 0, 0, 0]);
            answer.put(&[0; 56]);
        }
    });
    // General copy operations.
    descriptor(0x8001, answer, |answer| {
        answer.put_u32(MAX_RUNNING as u32);
        answer.put_u32(MAX_RUNNING_OF_ONE as u32);
        answer.put_u32(MAX_SEGMENT_LENGTH);
        answer.put(&[granularity(unit), 0]);
        answer.put(&[0; 18]);
    });
}

/// A descriptor of this type, padded to a multiple of four bytes.
fn descriptor(kind: u16, answer: &mut Answer<'_>, body: impl FnOnce(&mut Answer<'_>)) {
    answer.put_u16(kind);
    let at = answer.length();
    answer.put_u16(0);
    body(answer);
    answer.pad_to(answer.length().next_multiple_of(4));
    answer.close_u16(at);
}
