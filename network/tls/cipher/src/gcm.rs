//! AES-128-GCM and AES-256-GCM by a processor's own instructions (NIST SP 800-38D, nonces of 96 bits).
//!
//! The crates that have AES-GCM in Rust ask the operating system, or a feature fixed at compile time, whether the
//! instructions are there; on the bare machine they use a software AES that is twenty times slower, and their GHASH
//! wants AVX, which the kernel does not switch on. This module asks CPUID and needs no more than AES-NI, PCLMULQDQ
//! and SSE4.1, whose registers are those that all other code uses anyway. Where a processor has none of it,
//! [`Gcm::new`] answers `None` and the caller has a software one.
//!
//! Nothing here branches on, or indexes by, a secret.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod ghash;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod x86;

#[cfg(test)]
mod tests;

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes of a tag.
pub const TAG: usize = 16;
/// The longest data under one nonce that this implementation takes, in bytes; SP 800-38D allows 64 GiB.
pub const LONGEST: usize = 1 << 30;

/// The tag does not fit: somebody else made, or changed, the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

impl core::fmt::Display for Forged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the data was not made with this key")
    }
}

impl core::error::Error for Forged {}

/// Whether the processor has what this package needs.
#[must_use]
pub fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    return x86::Present::detect().is_some();
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    return false;
}

/// A key, ready for use; its schedule is wiped when it is dropped.
pub struct Gcm {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    sized: Sized,
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    never: core::convert::Infallible,
}

/// AES-128 has eleven round keys, AES-256 fifteen.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
enum Sized {
    Aes128(x86::Key<11>),
    Aes256(x86::Key<15>),
}

impl core::fmt::Debug for Gcm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Gcm")
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
impl Gcm {
    /// Prepare a key of 16 or 32 bytes. `None` when the processor lacks the instructions, or for another length.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        let present = x86::Present::detect()?;
        let sized = if let Ok(key) = key.try_into() {
            Sized::Aes128(x86::Key::aes128(present, key))
        } else {
            Sized::Aes256(x86::Key::aes256(present, key.try_into().ok()?))
        };
        Some(Self { sized })
    }

    /// Encrypt `data` where it lies and answer the tag. A nonce must never come twice with the same key.
    ///
    /// # Panics
    /// When `data` is longer than [`LONGEST`].
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> [u8; TAG] {
        assert!(data.len() <= LONGEST, "data is too long for one nonce");
        match &self.sized {
            Sized::Aes128(key) => key.seal(nonce, aad, data),
            Sized::Aes256(key) => key.seal(nonce, aad, data),
        }
    }

    /// Decrypt `data` where it lies.
    ///
    /// # Errors
    /// [`Forged`] when the tag does not fit; `data` is all zeros then, so that nothing forged can be used.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Forged> {
        let expected = if data.len() > LONGEST {
            None
        } else {
            Some(match &self.sized {
                Sized::Aes128(key) => key.open(nonce, aad, data),
                Sized::Aes256(key) => key.open(nonce, aad, data),
            })
        };
        if expected.is_some_and(|expected| same(&expected, tag)) {
            return Ok(());
        }
        data.fill(0);
        Err(Forged)
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
impl Gcm {
    /// No instructions are known for this processor.
    #[must_use]
    pub fn new(_key: &[u8]) -> Option<Self> {
        None
    }

    /// There is no such key.
    #[must_use]
    pub fn seal(&self, _nonce: &[u8; NONCE], _aad: &[u8], _data: &mut [u8]) -> [u8; TAG] {
        match self.never {}
    }

    /// There is no such key.
    ///
    /// # Errors
    /// None.
    pub fn open(
        &self,
        _nonce: &[u8; NONCE],
        _aad: &[u8],
        _data: &mut [u8],
        _tag: &[u8; TAG],
    ) -> Result<(), Forged> {
        match self.never {}
    }
}

/// Compare without telling by time where the first difference is.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
fn same(one: &[u8; TAG], other: &[u8; TAG]) -> bool {
    let difference = u128::from_ne_bytes(*one) ^ u128::from_ne_bytes(*other);
    core::hint::black_box(difference) == 0
}
