//! SHA-256 and SHA-384, and HMAC and HKDF over them.

use alloc::boxed::Box;
use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::hash::{self, Context, HashAlgorithm, Output};
use rustls::crypto::hmac as keyed;
use rustls::crypto::tls13::HkdfUsingHmac;
use sha2::digest::Digest;
use sha2::{Sha256, Sha384};

pub(super) static SHA256: Sha<Sha256> = Sha::new(HashAlgorithm::SHA256);
pub(super) static SHA384: Sha<Sha384> = Sha::new(HashAlgorithm::SHA384);
pub(super) static HKDF_SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA256);
pub(super) static HKDF_SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA384);
static HMAC_SHA256: HmacSha256 = HmacSha256;
static HMAC_SHA384: HmacSha384 = HmacSha384;

/// A hash function for rustls.
pub(super) struct Sha<D> {
    algorithm: HashAlgorithm,
    digest: core::marker::PhantomData<fn() -> D>,
}

impl<D> Sha<D> {
    const fn new(algorithm: HashAlgorithm) -> Self {
        Self { algorithm, digest: core::marker::PhantomData }
    }
}

impl<D: Digest + Clone + Send + Sync + 'static> hash::Hash for Sha<D> {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Running(D::new()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        Output::new(&D::digest(data))
    }

    fn output_len(&self) -> usize {
        <D as Digest>::output_size()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }
}

struct Running<D>(D);

impl<D: Digest + Clone + Send + Sync + 'static> Context for Running<D> {
    fn fork_finish(&self) -> Output {
        Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Running(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> Output {
        Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

macro_rules! hmac {
    ($algorithm:ident, $key:ident, $digest:ty) => {
        struct $algorithm;

        impl keyed::Hmac for $algorithm {
            fn with_key(&self, key: &[u8]) -> Box<dyn keyed::Key> {
                // HMAC takes keys of any length; one that it refused would only make a handshake fail.
                Box::new($key(Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))))
            }

            fn hash_output_len(&self) -> usize {
                <$digest as Digest>::output_size()
            }
        }

        struct $key(Hmac<$digest>);

        impl keyed::Key for $key {
            fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> keyed::Tag {
                let mut running = self.0.clone();
                running.update(first);
                middle.iter().for_each(|piece| running.update(piece));
                running.update(last);
                keyed::Tag::new(&running.finalize().into_bytes())
            }

            fn tag_len(&self) -> usize {
                <$digest as Digest>::output_size()
            }
        }
    };
}

hmac!(HmacSha256, KeySha256, Sha256);
hmac!(HmacSha384, KeySha384, Sha384);
