//! GHASH by carry-less multiplication.
//!
//! Computed as POLYVAL (RFC 8452, appendix A), which is GHASH with the bytes of each block turned round and the key
//! multiplied by x: there, the lowest bit of a register is the lowest power, and a product is reduced by two more
//! multiplications. Eight blocks are multiplied by eight powers of the key and reduced once.

use core::arch::x86_64::{
    __m128i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_srli_si128, _mm_unpackhi_epi64, _mm_xor_si128,
};

/// A product of 256 bits that is not reduced yet, and the sum of several; the middle belongs half to each side.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    low: __m128i,
    middle: __m128i,
    high: __m128i,
}

impl Product {
    /// Nothing summed up yet.
    #[target_feature(enable = "pclmulqdq,sse4.1")]
    #[inline]
    pub(crate) fn zero() -> Self {
        let zero = _mm_setzero_si128();
        Self { low: zero, middle: zero, high: zero }
    }

    /// Add a * b.
    #[target_feature(enable = "pclmulqdq,sse4.1")]
    #[inline]
    pub(crate) fn add(&mut self, a: __m128i, b: __m128i) {
        self.low = _mm_xor_si128(self.low, _mm_clmulepi64_si128::<0x00>(a, b));
        self.high = _mm_xor_si128(self.high, _mm_clmulepi64_si128::<0x11>(a, b));
        let middle = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b));
        self.middle = _mm_xor_si128(self.middle, middle);
    }

    /// Modulo x^128 + x^127 + x^126 + x^121 + 1, times x^-128.
    #[target_feature(enable = "pclmulqdq,sse4.1")]
    #[inline]
    pub(crate) fn reduce(self) -> __m128i {
        let low = _mm_xor_si128(self.low, _mm_slli_si128::<8>(self.middle));
        let high = _mm_xor_si128(self.high, _mm_srli_si128::<8>(self.middle));
        _mm_xor_si128(high, fold(fold(low)))
    }
}

/// Cancel the lower 64 bits: the lowest word times the polynomial is added, and what was above moves down.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn fold(value: __m128i) -> __m128i {
    let polynomial = _mm_set_epi64x(0xc200_0000_0000_0000_u64.cast_signed(), 0);
    let turned = _mm_shuffle_epi32::<0b01_00_11_10>(value);
    _mm_xor_si128(turned, _mm_clmulepi64_si128::<0x10>(value, polynomial))
}

/// The product of two, reduced.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
pub(crate) fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let mut product = Product::zero();
    product.add(a, b);
    product.reduce()
}

/// The powers 1 to 8 of the hash key; `h` is AES of the zero block with its bytes turned round.
#[target_feature(enable = "pclmulqdq,sse4.1")]
pub(crate) fn powers(h: __m128i) -> [__m128i; 8] {
    let first = times_x(h);
    let mut powers = [first; 8];
    for index in 1..8 {
        powers[index] = multiply(powers[index - 1], first);
    }
    powers
}

/// Multiply by x, as RFC 8452 calls mulX_POLYVAL.
#[target_feature(enable = "pclmulqdq,sse4.1")]
fn times_x(value: __m128i) -> __m128i {
    let low = _mm_cvtsi128_si64(value).cast_unsigned();
    let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(value, value)).cast_unsigned();
    // All ones when the highest power leaves, without asking by a branch.
    let carry = 0_u64.wrapping_sub(high >> 63);
    let high = (high << 1 | low >> 63) ^ (carry & 0xc200_0000_0000_0000);
    let low = (low << 1) ^ (carry & 1);
    _mm_set_epi64x(high.cast_signed(), low.cast_signed())
}
