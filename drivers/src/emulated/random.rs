//! What a test takes for chance, or a fuzzer decides.

use alloc::vec;
use alloc::vec::Vec;

/// Numbers that nobody expects, and that are the same each time.
pub struct Random(Source);

enum Source {
    /// SplitMix64: a test that fails names its seed.
    Seed(u64),
    Told(vec::IntoIter<u8>),
}

impl Random {
    /// As many as are asked for.
    pub fn new(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }

    /// Those that the bytes say, and zeros behind their end.
    pub fn told(bytes: &[u8]) -> Self {
        Self(Source::Told(Vec::from(bytes).into_iter()))
    }

    /// Whether nothing comes any more that was told.
    pub fn is_over(&self) -> bool {
        matches!(&self.0, Source::Told(bytes) if bytes.len() == 0)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.number(8)
    }

    /// A number below `limit`. No more bytes are used up for it than it needs, so that a fuzzer sees what each does.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number(8 - limit.leading_zeros() as usize / 8) % limit
    }

    /// Less than `limit` bytes, of any kind.
    pub fn bytes(&mut self, limit: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.below(limit) as usize];
        match &mut self.0 {
            Source::Seed(_) => bytes.fill_with(|| self.any() as u8),
            // Who tells all of a long frame tells little else.
            Source::Told(told) => bytes.iter_mut().zip(told.take(16)).for_each(|(byte, told)| *byte = told),
        }
        bytes
    }

    fn number(&mut self, bytes: usize) -> u64 {
        match &mut self.0 {
            Source::Seed(seed) => {
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Source::Told(told) => told.take(bytes).fold(0, |number, byte| number << 8 | u64::from(byte)),
        }
    }
}
