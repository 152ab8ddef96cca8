//! AES in counter mode and GHASH, side by side: while the rounds of eight blocks run, eight others are hashed.

use super::ghash::{self, Product};
use super::{NONCE, TAG};
use core::arch::x86_64::{
    __cpuid, __m128i, _mm_add_epi32, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128,
    _mm_loadu_si128, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi8, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_storeu_si128, _mm_xor_si128,
};
use zeroize::Zeroize;

/// Bytes of a block.
const BLOCK: usize = 16;
/// Blocks that are worked on at once: enough to keep two AES units busy, and few enough for sixteen registers.
const WIDE: usize = 8;

/// Proof that the processor has AES-NI, PCLMULQDQ, SSSE3 and SSE4.1: there is no other way to get one.
#[derive(Clone, Copy)]
pub(crate) struct Present(());

impl Present {
    /// Ask the processor.
    pub(crate) fn detect() -> Option<Self> {
        const PCLMULQDQ: u32 = 1 << 1;
        const SSSE3: u32 = 1 << 9;
        const SSE41: u32 = 1 << 19;
        const AES: u32 = 1 << 25;
        const ALL: u32 = PCLMULQDQ | SSSE3 | SSE41 | AES;
        (__cpuid(1).ecx & ALL == ALL).then_some(Self(()))
    }
}

/// Round keys and powers of the hash key; `N` is one more than the rounds.
pub(crate) struct Key<const N: usize> {
    rounds: [__m128i; N],
    powers: [__m128i; WIDE],
    present: Present,
}

impl<const N: usize> Drop for Key<N> {
    fn drop(&mut self) {
        self.rounds.zeroize();
        self.powers.zeroize();
    }
}

/// Which of the two is hashed: what comes out when sealing, what went in when opening.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Seal,
    Open,
}

impl Key<11> {
    /// AES-128 (FIPS 197, section 5.2).
    pub(crate) fn aes128(present: Present, key: &[u8; 16]) -> Self {
        let Present(()) = present;
        // SAFETY: `Present` proves that the instructions are there.
        unsafe { Self::expand(key, present) }
    }
}

impl Key<15> {
    /// AES-256.
    pub(crate) fn aes256(present: Present, key: &[u8; 32]) -> Self {
        let Present(()) = present;
        // SAFETY: `Present` proves that the instructions are there.
        unsafe { Self::expand(key, present) }
    }
}

impl Key<11> {
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn expand(key: &[u8; 16], present: Present) -> Self {
        Self::schedule(expand128(key), present)
    }
}

impl Key<15> {
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn expand(key: &[u8; 32], present: Present) -> Self {
        Self::schedule(expand256(key), present)
    }
}

impl<const N: usize> Key<N> {
    /// Encrypt where the data lies; answers the tag.
    pub(crate) fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        let Present(()) = self.present;
        // SAFETY: `Present` proves that the instructions are there.
        unsafe { self.run(Way::Seal, nonce, aad, data) }
    }

    /// Decrypt where the data lies; answers the tag it should have come with.
    pub(crate) fn open(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        let Present(()) = self.present;
        // SAFETY: `Present` proves that the instructions are there.
        unsafe { self.run(Way::Open, nonce, aad, data) }
    }

    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn schedule(rounds: [__m128i; N], present: Present) -> Self {
        let mut key = Self { rounds, powers: [_mm_setzero_si128(); WIDE], present };
        key.powers = ghash::powers(turn(key.encrypt(_mm_setzero_si128())));
        key
    }

    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn run(&self, way: Way, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        let mut start = [0; BLOCK];
        start[..NONCE].copy_from_slice(nonce);
        start[BLOCK - 1] = 1;
        // The counter is kept with its bytes turned round, where adding to it is one instruction.
        let start = turn(load(&start));
        let mut counter = add(start, 1);
        let mut sum = self.hash(_mm_setzero_si128(), aad);
        let (bits_aad, bits_data) = (aad.len() as u64 * 8, data.len() as u64 * 8);

        let (wide, rest) = data.as_chunks_mut::<{ BLOCK * WIDE }>();
        sum = match way {
            Way::Seal => self.seal_wide(sum, &mut counter, wide),
            Way::Open => self.open_wide(sum, &mut counter, wide),
        };
        let (blocks, tail) = rest.as_chunks_mut::<BLOCK>();
        for block in blocks {
            let before = load(block);
            let after = _mm_xor_si128(before, self.encrypt(turn(counter)));
            store(block, after);
            counter = add(counter, 1);
            let hashed = if way == Way::Seal { after } else { before };
            sum = ghash::multiply(_mm_xor_si128(sum, turn(hashed)), self.powers[0]);
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            let mut out = [0; BLOCK];
            store(&mut out, _mm_xor_si128(load(&block), self.encrypt(turn(counter))));
            if way == Way::Seal {
                block[..tail.len()].copy_from_slice(&out[..tail.len()]);
            }
            tail.copy_from_slice(&out[..tail.len()]);
            sum = ghash::multiply(_mm_xor_si128(sum, turn(load(&block))), self.powers[0]);
        }
        // Turned round, the length of the data is the lower half.
        let lengths = _mm_set_epi64x(bits_aad.cast_signed(), bits_data.cast_signed());
        sum = ghash::multiply(_mm_xor_si128(sum, lengths), self.powers[0]);
        let mut tag = [0; TAG];
        store(&mut tag, _mm_xor_si128(turn(sum), self.encrypt(turn(start))));
        tag
    }

    /// Whole groups: each group's ciphertext is hashed while the next is encrypted.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn seal_wide(&self, mut sum: __m128i, counter: &mut __m128i, groups: &mut [[u8; 128]]) -> __m128i {
        let Some((first, others)) = groups.split_first_mut() else { return sum };
        let mut done = [_mm_setzero_si128(); WIDE];
        let mut states = self.counters(counter);
        for round in 1..N - 1 {
            self.round(&mut states, round);
        }
        self.finish(&states, first, &mut done);
        for group in others {
            done[0] = _mm_xor_si128(done[0], sum);
            let (states, product) = self.rounds_and_hash(counter, &done);
            self.finish(&states, group, &mut done);
            sum = product.reduce();
        }
        done[0] = _mm_xor_si128(done[0], sum);
        let mut product = Product::zero();
        for (block, power) in done.iter().zip(self.powers.iter().rev()) {
            product.add(*block, *power);
        }
        product.reduce()
    }

    /// Whole groups: each group's ciphertext is hashed while its own key stream is made.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn open_wide(&self, mut sum: __m128i, counter: &mut __m128i, groups: &mut [[u8; 128]]) -> __m128i {
        let mut scratch = [_mm_setzero_si128(); WIDE];
        for group in groups {
            let mut hashed = [_mm_setzero_si128(); WIDE];
            for (to, block) in hashed.iter_mut().zip(group.as_chunks().0) {
                *to = turn(load(block));
            }
            hashed[0] = _mm_xor_si128(hashed[0], sum);
            let (states, product) = self.rounds_and_hash(counter, &hashed);
            self.finish(&states, group, &mut scratch);
            sum = product.reduce();
        }
        sum
    }

    /// All rounds but the last on eight counters, and eight blocks times eight powers between them.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    #[inline]
    fn rounds_and_hash(&self, counter: &mut __m128i, hashed: &[__m128i; WIDE]) -> ([__m128i; WIDE], Product) {
        let mut states = self.counters(counter);
        let mut product = Product::zero();
        for round in 1..N - 1 {
            self.round(&mut states, round);
            if round <= WIDE {
                product.add(hashed[round - 1], self.powers[WIDE - round]);
            }
        }
        (states, product)
    }

    /// Eight counters with the first round key added.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    #[inline]
    fn counters(&self, counter: &mut __m128i) -> [__m128i; WIDE] {
        let mut states = [_mm_setzero_si128(); WIDE];
        for state in &mut states {
            *state = _mm_xor_si128(turn(*counter), self.rounds[0]);
            *counter = add(*counter, 1);
        }
        states
    }

    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    #[inline]
    fn round(&self, states: &mut [__m128i; WIDE], round: usize) {
        for state in states {
            *state = _mm_aesenc_si128(*state, self.rounds[round]);
        }
    }

    /// The last round, onto the data; `out` is what was stored, turned round for hashing.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    #[inline]
    fn finish(&self, states: &[__m128i; WIDE], group: &mut [u8; 128], out: &mut [__m128i; WIDE]) {
        for ((state, block), out) in states.iter().zip(group.as_chunks_mut().0).zip(out) {
            let stream = _mm_aesenclast_si128(*state, self.rounds[N - 1]);
            let stored = _mm_xor_si128(stream, load(block));
            store(block, stored);
            *out = turn(stored);
        }
    }

    /// One block.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    #[inline]
    fn encrypt(&self, block: __m128i) -> __m128i {
        let mut state = _mm_xor_si128(block, self.rounds[0]);
        for key in &self.rounds[1..N - 1] {
            state = _mm_aesenc_si128(state, *key);
        }
        _mm_aesenclast_si128(state, self.rounds[N - 1])
    }

    /// Hash bytes that are filled up with zeros to whole blocks.
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn hash(&self, mut sum: __m128i, bytes: &[u8]) -> __m128i {
        for piece in bytes.chunks(BLOCK) {
            let mut block = [0; BLOCK];
            block[..piece.len()].copy_from_slice(piece);
            sum = ghash::multiply(_mm_xor_si128(sum, turn(load(&block))), self.powers[0]);
        }
        sum
    }
}

#[inline]
fn load(bytes: &[u8; BLOCK]) -> __m128i {
    // SAFETY: the reference is good for sixteen bytes, and the instruction takes any address.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
fn store(bytes: &mut [u8; BLOCK], value: __m128i) {
    // SAFETY: the reference is good for sixteen bytes, and the instruction takes any address.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}

/// Turn the order of the bytes round.
#[target_feature(enable = "ssse3")]
#[inline]
fn turn(value: __m128i) -> __m128i {
    _mm_shuffle_epi8(value, _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f))
}

/// Count on in the last 32 bits of a block that is turned round; they wrap, as SP 800-38D has it.
#[target_feature(enable = "ssse3")]
#[inline]
fn add(counter: __m128i, more: i32) -> __m128i {
    _mm_add_epi32(counter, _mm_set_epi32(0, 0, 0, more))
}

/// Each word exclusive-or all words before it, as both key schedules ask.
#[target_feature(enable = "aes")]
#[inline]
fn spread(key: __m128i) -> __m128i {
    let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    _mm_xor_si128(key, _mm_slli_si128::<8>(key))
}

#[target_feature(enable = "aes")]
fn expand128(key: &[u8; 16]) -> [__m128i; 11] {
    let mut rounds = [load(key); 11];
    macro_rules! next {
        ($($index:literal: $constant:literal),+) => {$(
            let assist = _mm_aeskeygenassist_si128::<$constant>(rounds[$index - 1]);
            rounds[$index] = _mm_xor_si128(spread(rounds[$index - 1]), _mm_shuffle_epi32::<0xff>(assist));
        )+};
    }
    next!(1: 0x01, 2: 0x02, 3: 0x04, 4: 0x08, 5: 0x10, 6: 0x20, 7: 0x40, 8: 0x80, 9: 0x1b, 10: 0x36);
    rounds
}

#[target_feature(enable = "aes")]
fn expand256(key: &[u8; 32]) -> [__m128i; 15] {
    let halves = key.as_chunks::<BLOCK>().0;
    let mut rounds = [load(&halves[0]); 15];
    rounds[1] = load(&halves[1]);
    macro_rules! next {
        ($($index:literal: $constant:literal),+) => {$(
            let assist = _mm_aeskeygenassist_si128::<$constant>(rounds[$index - 1]);
            rounds[$index] = _mm_xor_si128(spread(rounds[$index - 2]), _mm_shuffle_epi32::<0xff>(assist));
            // Between, the substituted word without rotation and without a constant.
            let assist = _mm_aeskeygenassist_si128::<0>(rounds[$index]);
            rounds[$index + 1] = _mm_xor_si128(spread(rounds[$index - 1]), _mm_shuffle_epi32::<0xaa>(assist));
        )+};
    }
    // The last of them has no successor.
    next!(2: 0x01, 4: 0x02, 6: 0x04, 8: 0x08, 10: 0x10, 12: 0x20);
    let assist = _mm_aeskeygenassist_si128::<0x40>(rounds[13]);
    rounds[14] = _mm_xor_si128(spread(rounds[12]), _mm_shuffle_epi32::<0xff>(assist));
    rounds
}
