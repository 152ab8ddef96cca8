//! CRC32C, the digest of headers and data (13.1).
//!
//! Slicing-by-8: eight table look-ups per eight bytes, no dependence between them. Where the target has the
//! SSE4.2 instruction at compile time it is used instead; a machine that finds it at run time hands its own
//! [`Checksum`] to [`crate::Limits::crc32c`].

/// A function with the contract of [`crc32c`], so that a machine can use its own instruction.
pub type Checksum = fn(u32, &[u8]) -> u32;

/// The reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]` is the remainder of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ (POLYNOMIAL & (remainder & 1).wrapping_neg());
            bit += 1;
        }
        tables[0][byte] = remainder;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let shorter = tables[slice - 1][byte];
            tables[slice][byte] = (shorter >> 8) ^ tables[0][(shorter & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// Go on with the digest of what came before, zero at the beginning, over `bytes`.
///
/// The result of the last call, little-endian, is what stands on the wire.
pub fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
    return by_instruction(before, bytes);
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2")))]
    by_table(before, bytes)
}

#[cfg_attr(
    all(target_arch = "x86_64", target_feature = "sse4.2"),
    allow(dead_code, reason = "the portable way")
)]
pub(super) fn by_table(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = !before;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).to_le_bytes();
        crc = TABLES[7][a as usize]
            ^ TABLES[6][b as usize]
            ^ TABLES[5][c as usize]
            ^ TABLES[4][d as usize]
            ^ TABLES[3][chunk[4] as usize]
            ^ TABLES[2][chunk[5] as usize]
            ^ TABLES[1][chunk[6] as usize]
            ^ TABLES[0][chunk[7] as usize];
    }
    for &byte in chunks.remainder() {
        crc = (crc >> 8) ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    !crc
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
fn by_instruction(before: u32, bytes: &[u8]) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let mut crc = u64::from(!before);
    for word in words {
        crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
    }
    !rest.iter().fold(crc as u32, |crc, &byte| _mm_crc32_u8(crc, byte))
}
