//! The cryptography under rustls, and the randomness under the cryptography.
//!
//! Everything but AES-GCM on processors that have instructions for it comes from the RustCrypto crates.

pub(crate) mod aead;
mod exchange;
mod hash;
pub(crate) mod sign;
pub(crate) mod verify;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, SupportedKxGroup};

/// A source of randomness fit for secrets: on the bare machine the kernel's pool, on a host the operating system.
pub trait Random: Debug + Send + Sync {
    /// Fill all of `out`.
    ///
    /// # Errors
    /// [`NoEntropy`] when it has too little; what is in `out` is not used then.
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy>;
}

impl<R: Random + ?Sized> Random for Arc<R> {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        (**self).fill(out)
    }
}

/// There is no randomness to make secrets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl core::fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("there is too little randomness to make secrets of")
    }
}

impl core::error::Error for NoEntropy {}

/// Algorithms over one source of randomness. Made once, at start, and shared by all configurations.
#[derive(Clone, Debug)]
pub struct Crypto {
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) random: &'static dyn Random,
}

impl Crypto {
    /// Take a source of randomness. rustls keeps algorithms by references that live for ever, so the source is never
    /// given back: make one for the process, not one per connection.
    ///
    /// AES-GCM is preferred where the processor has instructions for it, ChaCha20-Poly1305 where it has not.
    ///
    /// # Errors
    /// [`NoEntropy`] when the source has nothing to give.
    pub fn new(random: Box<dyn Random>) -> Result<Self, NoEntropy> {
        Self::with_preference(random, network_tls_cipher::gcm::available())
    }

    /// The same, told whether AES comes first: for machines where asking is no answer, and for tests.
    ///
    /// # Errors
    /// As [`Crypto::new`].
    pub fn with_preference(random: Box<dyn Random>, aes_first: bool) -> Result<Self, NoEntropy> {
        random.fill(&mut [0; 32])?;
        let random: &'static dyn Random = Box::leak(random);
        let groups: Vec<&'static dyn SupportedKxGroup> = exchange::groups(random);
        let provider = CryptoProvider {
            cipher_suites: aead::suites(aes_first),
            kx_groups: groups,
            signature_verification_algorithms: verify::ALGORITHMS,
            secure_random: Box::leak(Box::new(Secure(random))),
            key_provider: Box::leak(Box::new(sign::Keys(random))),
        };
        Ok(Self { provider: Arc::new(provider), random })
    }
}

#[derive(Debug)]
struct Secure(&'static dyn Random);

impl SecureRandom for Secure {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.fill(buf).map_err(|NoEntropy| GetRandomFailed)
    }
}
