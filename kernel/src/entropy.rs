//! Randomness: sources are mixed into one pool, and nothing comes out before enough went in.
//!
//! The pool is a SHA-256 state of 32 bytes. Every input is hashed into it; every output is a hash of it and a counter,
//! after which the pool is replaced by a hash of itself, so what was given out cannot be worked out from what the
//! memory holds later. No source is believed alone to be good: a processor's generator is checked for what broken ones
//! were seen to do (a constant, all ones, all zeros), and [`fill`] refuses until sources that passed are worth 256
//! bits. What a source is worth: RDSEED or RDRAND 256 bits, a virtio-rng device what its driver says, the jitter of the
//! time stamp counter at most 128.

use crate::cpu;
use core::arch::asm;
use core::hint::black_box;
use sha2::{Digest, Sha256};
use spin::Mutex;

/// What must have come in before anything goes out, in bits.
const ENOUGH: u32 = 256;
/// What the jitter of the counter counts for, at most.
const JITTER_BITS: u32 = 128;
/// Differences that are taken of the counter.
const JITTER_SAMPLES: usize = 256;
/// Words taken of a processor's generator.
const WORDS: usize = 16;
/// How often an instruction may say that it has nothing, for each word. Intel's manual asks for ten.
const TRIES: usize = 16;

static POOL: Mutex<Pool> = Mutex::new(Pool { state: [0; 32], bits: 0 });

/// [`fill`] has nothing to give: too little randomness came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy {
    /// Bits that came in, of the 256 it takes.
    pub bits: u32,
}

impl core::fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "only {} of {ENOUGH} bits of randomness: the machine needs RDRAND or a virtio-rng device",
            self.bits
        )
    }
}

impl core::error::Error for NoEntropy {}

struct Pool {
    state: [u8; 32],
    bits: u32,
}

impl Pool {
    fn add(&mut self, source: &[u8], bytes: &[u8], bits: u32) {
        let hash = Sha256::new().chain_update(b"in").chain_update(self.state).chain_update(source);
        self.state = hash.chain_update(bytes).finalize().into();
        self.bits = self.bits.saturating_add(bits);
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        if self.bits < ENOUGH {
            return Err(NoEntropy { bits: self.bits });
        }
        for (counter, piece) in out.chunks_mut(32).enumerate() {
            let hash = Sha256::new().chain_update(b"out").chain_update(self.state);
            let block = hash.chain_update((counter as u64).to_le_bytes()).finalize();
            piece.copy_from_slice(&block[..piece.len()]);
        }
        self.state = Sha256::new().chain_update(b"next").chain_update(self.state).finalize().into();
        Ok(())
    }
}

/// Mix in what a device gave, of which `bits` are believed to be random. Bytes that are all alike are believed nothing.
pub fn add(bytes: &[u8], bits: u32) {
    let alike = bytes.windows(2).all(|pair| pair[0] == pair[1]);
    let most = u32::try_from(bytes.len().saturating_mul(8)).unwrap_or(u32::MAX);
    POOL.lock().add(b"device", bytes, if alike { 0 } else { bits.min(most) });
}

/// Fill `out` with randomness fit for secrets.
///
/// # Errors
/// [`NoEntropy`] as long as the sources are not worth 256 bits; `out` is untouched then.
pub fn fill(out: &mut [u8]) -> Result<(), NoEntropy> {
    POOL.lock().fill(out)
}

/// What the boot has found, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Whether RDSEED gave words that look random; `None` when there is none.
    pub(crate) rdseed: Option<bool>,
    /// The same for RDRAND.
    pub(crate) rdrand: Option<bool>,
    /// Bits that the counter's jitter counts for.
    pub(crate) jitter: u32,
}

/// Mix in what the processor has.
pub(crate) fn init() -> Sources {
    let mut sources = Sources::default();
    let mut pool = POOL.lock();
    pool.add(b"time", &cpu::tsc().to_le_bytes(), 0);
    if cpu::cpuid(7).ebx & 1 << 18 != 0 {
        sources.rdseed = Some(pool.add_words(b"rdseed", rdseed));
    }
    if cpu::cpuid(1).ecx & 1 << 30 != 0 {
        sources.rdrand = Some(pool.add_words(b"rdrand", rdrand));
    }
    sources.jitter = pool.add_jitter();
    sources
}

impl Pool {
    /// Mix in words of an instruction; they count when all came and none looks wrong.
    fn add_words(&mut self, source: &[u8], instruction: fn() -> Option<u64>) -> bool {
        let mut words = [0; WORDS];
        let complete = words.iter_mut().all(|word| match (0..TRIES).find_map(|_| instruction()) {
            Some(value) => {
                *word = value;
                true
            }
            None => false,
        });
        let good = complete && look_random(&words);
        self.add(source, words.map(u64::to_le_bytes).as_flattened(), if good { ENOUGH } else { 0 });
        good
    }

    /// Mix in how long the same few instructions take, again and again; answers the bits it counted.
    fn add_jitter(&mut self) -> u32 {
        let mut last = cpu::tsc();
        let mut counts = [0u16; 256];
        let mut scratch = 0u64;
        let mut hash = Sha256::new();
        for round in 0..JITTER_SAMPLES as u64 {
            for step in 0..16 {
                scratch = black_box(scratch.rotate_left(7) ^ (round * 31 + step));
            }
            let now = cpu::tsc();
            let difference = now.wrapping_sub(last);
            last = now;
            hash.update(difference.to_le_bytes());
            counts[(difference & 0xff) as usize] += 1;
        }
        let bits = jitter_bits(&counts);
        self.add(b"jitter", &hash.finalize(), bits);
        bits
    }
}

/// Whether words are neither all zeros nor all ones, nor repeat.
fn look_random(words: &[u64]) -> bool {
    words
        .iter()
        .enumerate()
        .all(|(index, word)| *word != 0 && *word != u64::MAX && !words[..index].contains(word))
}

/// Bits in the differences, by how often the most frequent one came: of that estimate an eighth, and never much.
fn jitter_bits(counts: &[u16; 256]) -> u32 {
    let total: u32 = counts.iter().map(|count| u32::from(*count)).sum();
    let most = counts.iter().copied().max().map_or(0, u32::from);
    // The whole part of log2(total / most): bits of min-entropy in one difference.
    let each = total.checked_div(most).and_then(u32::checked_ilog2).unwrap_or(0);
    (total / 8 * each).min(JITTER_BITS)
}

macro_rules! instruction {
    ($name:ident, $mnemonic:literal) => {
        fn $name() -> Option<u64> {
            let (value, carry): (u64, u8);
            // SAFETY: called only where CPUID has the instruction; it changes nothing but its register and the flags.
            unsafe {
                asm!(concat!($mnemonic, " {}"), "setc {}", out(reg) value, out(reg_byte) carry, options(nomem, nostack));
            }
            (carry != 0).then_some(value)
        }
    };
}

instruction!(rdrand, "rdrand");
instruction!(rdseed, "rdseed");

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Pool = Pool { state: [0; 32], bits: 0 };

    #[test]
    fn nothing_comes_out_before_enough_went_in() {
        let mut pool = EMPTY;
        let mut out = [0; 40];
        pool.add(b"a", b"some", 255);
        assert_eq!(pool.fill(&mut out), Err(NoEntropy { bits: 255 }));
        assert_eq!(out, [0; 40]);
        pool.add(b"a", b"more", 1);
        assert_eq!(pool.fill(&mut out), Ok(()));
        assert_ne!(out, [0; 40]);
    }

    #[test]
    fn what_comes_out_never_comes_again_and_depends_on_all_that_went_in() {
        let fill = |input: &[u8]| {
            let mut pool = EMPTY;
            pool.add(b"a", input, ENOUGH);
            let (mut first, mut second) = ([0; 64], [0; 64]);
            pool.fill(&mut first).unwrap();
            pool.fill(&mut second).unwrap();
            assert_ne!(first, second);
            assert_ne!(first[..32], first[32..]);
            first
        };
        assert_eq!(fill(b"one"), fill(b"one"));
        assert_ne!(fill(b"one"), fill(b"two"));
    }

    #[test]
    fn a_generator_that_is_stuck_counts_for_nothing() {
        let stuck: [fn() -> Option<u64>; 4] = [|| None, || Some(0), || Some(u64::MAX), || Some(0x1234_5678)];
        for instruction in stuck {
            let mut pool = EMPTY;
            assert!(!pool.add_words(b"stuck", instruction));
            assert_eq!(pool.bits, 0);
        }
        assert!(look_random(&[1, 2, 3]));
        assert!(!look_random(&[1, 2, 1]));
    }

    #[test]
    fn jitter_is_worth_what_it_varies() {
        let mut counts = [4; 256];
        assert_eq!(jitter_bits(&counts), JITTER_BITS);
        counts = [0; 256];
        assert_eq!(jitter_bits(&counts), 0);
        counts[7] = 1024;
        assert_eq!(jitter_bits(&counts), 0);
        counts[8] = 1024;
        assert_eq!(jitter_bits(&counts), JITTER_BITS);
        counts[7] = 900;
        counts[8] = 124;
        assert_eq!(jitter_bits(&counts), 0);
    }
}
