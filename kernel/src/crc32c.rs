//! CRC32C by the instruction that SSE4.2 has for it.
//!
//! The instruction takes eight bytes each cycle, but its answer only comes after three: long runs are cut into three
//! lanes that do not wait for each other. What a lane begins with is carried past the bytes of the next one by a table:
//! the remainder is linear, so four look-ups, one for each of its bytes, are all it takes.

#![cfg_attr(
    not(target_feature = "sse2"),
    allow(dead_code, reason = "a build without vector registers has none of it")
)]

#[cfg(target_feature = "sse2")]
use crate::cpu;

/// CPUID leaf 1, ECX.
const CPUID_SSE42: u32 = 1 << 20;

/// Bytes of a lane: three of them and their joining are worth it, and a frame of an Ethernet has one such run at least.
const LANE: usize = 256;

/// The reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `PAST[k][b]` is the remainder of byte `k` of a remainder being `b`, and [`LANE`] zero bytes after it.
static PAST: [[u32; 256]; 4] = past();

const fn past() -> [[u32; 256]; 4] {
    let mut past = [[0; 256]; 4];
    let mut bit = 0;
    while bit < 32 {
        let mut remainder: u32 = 1 << bit;
        let mut shift = 0;
        while shift < 8 * LANE {
            remainder = (remainder >> 1) ^ (POLYNOMIAL & (remainder & 1).wrapping_neg());
            shift += 1;
        }
        let (table, mask) = (&mut past[bit / 8], 1 << (bit % 8));
        let mut byte = 0;
        while byte < 256 {
            if byte & mask != 0 {
                table[byte] ^= remainder;
            }
            byte += 1;
        }
        bit += 1;
    }
    past
}

/// Go on with the CRC32C of what came before, zero at the beginning, over the bytes.
pub type Checksum = fn(u32, &[u8]) -> u32;

/// The CRC32C of this CPU; none where it has no instruction for it, and in a build that uses none of that family.
#[cfg(target_feature = "sse2")]
pub fn by_instruction() -> Option<Checksum> {
    (cpu::cpuid(1).ecx & CPUID_SSE42 != 0).then_some(crc32c as Checksum)
}

/// None: this build uses none of the instructions that the one for it came with.
#[cfg(not(target_feature = "sse2"))]
pub fn by_instruction() -> Option<Checksum> {
    None
}

#[cfg(target_feature = "sse2")]
/// Only [`by_instruction`] gives this out, and only where the CPU has SSE4.2.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    // SAFETY: this function has no caller but those that have it from `by_instruction`, which has seen in CPUID that the
    // CPU has SSE4.2; a CPU does not lose it. The instruction works on general registers: no state has to be switched on
    // for it, and interrupts keep those registers.
    unsafe { sse42(before, bytes) }
}

#[cfg(target_feature = "sse2")]
#[target_feature(enable = "sse4.2")]
fn sse42(before: u32, bytes: &[u8]) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let mut crc = !before;
    let (runs, rest) = bytes.as_chunks::<{ 3 * LANE }>();
    for run in runs {
        let (words, _) = run.as_chunks::<8>();
        let (first, others) = words.split_at(LANE / 8);
        let (second, third) = others.split_at(LANE / 8);
        let (mut a, mut b, mut c) = (u64::from(crc), 0, 0);
        for ((first, second), third) in first.iter().zip(second).zip(third) {
            a = _mm_crc32_u64(a, u64::from_le_bytes(*first));
            b = _mm_crc32_u64(b, u64::from_le_bytes(*second));
            c = _mm_crc32_u64(c, u64::from_le_bytes(*third));
        }
        crc = carried(carried(a as u32) ^ b as u32) ^ c as u32;
    }
    let (words, rest) = rest.as_chunks::<8>();
    let mut wide = u64::from(crc);
    for word in words {
        wide = _mm_crc32_u64(wide, u64::from_le_bytes(*word));
    }
    !rest.iter().fold(wide as u32, |crc, &byte| _mm_crc32_u8(crc, byte))
}

/// The remainder, [`LANE`] zero bytes further.
fn carried(remainder: u32) -> u32 {
    let [a, b, c, d] = remainder.to_le_bytes().map(usize::from);
    PAST[0][a] ^ PAST[1][b] ^ PAST[2][c] ^ PAST[3][d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the polynomial says, a bit at a time.
    fn by_definition(before: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!before, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
        })
    }

    /// Numbers without an order, the same at each run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the processor by CPUID")]
    fn the_digests_of_rfc_7143_come_out() {
        let Some(crc32c) = by_instruction() else { return };
        let ascending: [u8; 32] = core::array::from_fn(|index| index as u8);
        assert_eq!(crc32c(0, &[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(0, &[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(crc32c(0, &ascending).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[]), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the processor by CPUID")]
    fn any_length_at_any_address_in_any_parts_is_as_by_definition() {
        let Some(crc32c) = by_instruction() else { return };
        let mut number = numbers();
        let bytes: std::vec::Vec<u8> = (0..5 * 3 * LANE + 64).map(|_| number(256) as u8).collect();
        for round in 0..3000 {
            let begin = number(64);
            // Short ones as often as long ones, and the lengths around whole runs.
            let most = [40, 3 * LANE - 8, 5 * 3 * LANE][round % 3];
            let length = most.min(number(most) + if round % 2 == 0 { most / 2 } else { 0 });
            let bytes = &bytes[begin..begin + length];
            let before = number(1 << 32) as u32;
            let whole = by_definition(before, bytes);
            assert_eq!(crc32c(before, bytes), whole, "{length} bytes at {begin}");
            let mut rest = bytes;
            let mut digest = before;
            while !rest.is_empty() {
                let (part, more) = rest.split_at(1 + number(rest.len()));
                digest = crc32c(digest, part);
                rest = more;
            }
            assert_eq!(digest, whole, "{length} bytes at {begin} in parts");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the processor by CPUID")]
    fn every_length_around_a_run_is_as_by_definition() {
        let Some(crc32c) = by_instruction() else { return };
        let bytes: std::vec::Vec<u8> = (0..2 * 3 * LANE + 9).map(|index| (index * 7 % 251) as u8).collect();
        for length in 0..bytes.len() {
            assert_eq!(crc32c(0, &bytes[..length]), by_definition(0, &bytes[..length]), "{length} bytes");
        }
    }
}
