//! Signatures that are believed, in certificates and in handshakes.
//!
//! ECDSA on P-256 and P-384, Ed25519, RSA of 2048 to 8192 bits with either padding; SHA-1 and what is older not.

use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest, Sha256, Sha384, Sha512};

pub(crate) type Algorithm = &'static dyn SignatureVerificationAlgorithm;

const P256_SHA256: Algorithm = &Verify::P256(Sha::Sha256);
const P256_SHA384: Algorithm = &Verify::P256(Sha::Sha384);
const P384_SHA256: Algorithm = &Verify::P384(Sha::Sha256);
const P384_SHA384: Algorithm = &Verify::P384(Sha::Sha384);
pub(crate) const ED25519: Algorithm = &Verify::Ed25519;
const PKCS1_SHA256: Algorithm = &Verify::Pkcs1(Sha::Sha256);
const PKCS1_SHA384: Algorithm = &Verify::Pkcs1(Sha::Sha384);
const PKCS1_SHA512: Algorithm = &Verify::Pkcs1(Sha::Sha512);
const PSS_SHA256: Algorithm = &Verify::Pss(Sha::Sha256);
const PSS_SHA384: Algorithm = &Verify::Pss(Sha::Sha384);
pub(crate) const PSS_SHA512: Algorithm = &Verify::Pss(Sha::Sha512);

/// Bits of an RSA key that is believed; more would only cost time.
const RSA_BITS: core::ops::RangeInclusive<u32> = 2048..=8192;

pub(super) const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        P256_SHA256,
        P256_SHA384,
        P384_SHA256,
        P384_SHA384,
        ED25519,
        PKCS1_SHA256,
        PKCS1_SHA384,
        PKCS1_SHA512,
        PSS_SHA256,
        PSS_SHA384,
        PSS_SHA512,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[P256_SHA256, P384_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[P384_SHA384, P256_SHA384]),
        (SignatureScheme::ED25519, &[ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[PSS_SHA256]),
        (SignatureScheme::RSA_PSS_SHA384, &[PSS_SHA384]),
        (SignatureScheme::RSA_PSS_SHA512, &[PSS_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[PKCS1_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[PKCS1_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[PKCS1_SHA512]),
    ],
};

#[derive(Clone, Copy, Debug)]
enum Sha {
    Sha256,
    Sha384,
    Sha512,
}

/// A kind of key and of signature.
#[derive(Debug)]
enum Verify {
    P256(Sha),
    P384(Sha),
    Ed25519,
    Pkcs1(Sha),
    Pss(Sha),
}

impl SignatureVerificationAlgorithm for Verify {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let fits = match self {
            Self::P256(Sha::Sha384) => p256(key, &Sha384::digest(message), signature),
            Self::P256(_) => p256(key, &Sha256::digest(message), signature),
            Self::P384(Sha::Sha256) => p384(key, &Sha256::digest(message), signature),
            Self::P384(_) => p384(key, &Sha384::digest(message), signature),
            Self::Ed25519 => ed25519(key, message, signature),
            Self::Pkcs1(sha) => rsa_pkcs1(*sha, key, message, signature),
            Self::Pss(sha) => rsa_pss(*sha, key, message, signature),
        };
        fits.ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self {
            Self::P256(_) => alg_id::ECDSA_P256,
            Self::P384(_) => alg_id::ECDSA_P384,
            Self::Ed25519 => alg_id::ED25519,
            Self::Pkcs1(_) | Self::Pss(_) => alg_id::RSA_ENCRYPTION,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self {
            Self::P256(Sha::Sha384) | Self::P384(Sha::Sha384) => alg_id::ECDSA_SHA384,
            Self::P256(_) | Self::P384(_) => alg_id::ECDSA_SHA256,
            Self::Ed25519 => alg_id::ED25519,
            Self::Pkcs1(Sha::Sha256) => alg_id::RSA_PKCS1_SHA256,
            Self::Pkcs1(Sha::Sha384) => alg_id::RSA_PKCS1_SHA384,
            Self::Pkcs1(Sha::Sha512) => alg_id::RSA_PKCS1_SHA512,
            Self::Pss(Sha::Sha256) => alg_id::RSA_PSS_SHA256,
            Self::Pss(Sha::Sha384) => alg_id::RSA_PSS_SHA384,
            Self::Pss(Sha::Sha512) => alg_id::RSA_PSS_SHA512,
        }
    }
}

fn p256(key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
    key.verify_prehash(hash, &signature).ok()
}

fn p384(key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    use p384::ecdsa::signature::hazmat::PrehashVerifier;
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
    key.verify_prehash(hash, &signature).ok()
}

/// With a signature of two numbers of 32 bytes (RFC 9421, section 3.3.4).
pub(crate) fn p256_fixed(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
    p256(key, &Sha256::digest(message), signature.to_der().as_bytes())
}

/// With a signature of two numbers of 48 bytes (RFC 9421, section 3.3.5).
pub(crate) fn p384_fixed(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let signature = p384::ecdsa::Signature::from_slice(signature).ok()?;
    p384(key, &Sha384::digest(message), signature.to_der().as_bytes())
}

fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature.try_into().ok()?)).ok()
}

fn rsa_key(key: &[u8]) -> Option<rsa::PublicKey> {
    let key = rsa::PublicKey::from_pkcs1_der(key).ok()?;
    RSA_BITS.contains(&key.n().bit_width()).then_some(key)
}

fn rsa_pkcs1(sha: Sha, key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = rsa_key(key)?;
    match sha {
        Sha::Sha256 => key.pkcs1v15_verify::<Sha256>(message, signature),
        Sha::Sha384 => key.pkcs1v15_verify::<Sha384>(message, signature),
        Sha::Sha512 => key.pkcs1v15_verify::<Sha512>(message, signature),
    }
    .ok()
}

fn rsa_pss(sha: Sha, key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = rsa_key(key)?;
    // The salt is as long as the hash (RFC 8446, section 4.2.3).
    match sha {
        Sha::Sha256 => key.pss_verify::<Sha256>(message, signature),
        Sha::Sha384 => key.pss_verify::<Sha384>(message, signature),
        Sha::Sha512 => key.pss_verify::<Sha512>(message, signature),
    }
    .ok()
}
