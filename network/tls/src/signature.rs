//! Signatures beside TLS, by the key of a certificate, in the form that HTTP message signatures have (RFC 9421, section
//! 3.3): those of ECDSA are two numbers of fixed length, and not the DER of TLS.

use crate::config::{Identity, SetupError};
use crate::leaf::Pin;
use crate::provider::{Crypto, Random, sign, verify};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use der::asn1::AnyRef;
use der::{Decode, SliceReader, Tag};
use rustls::SignatureScheme;
use rustls::pki_types::{AlgorithmIdentifier, alg_id};

/// The names of the registry of HTTP Signature Algorithms (RFC 9421, section 6.2.2).
const ECDSA_P256: &str = "ecdsa-p256-sha256";
const ECDSA_P384: &str = "ecdsa-p384-sha384";
const ED25519: &str = "ed25519";
const RSA_PSS: &str = "rsa-pss-sha512";

/// What each kind of key signs by.
const KINDS: [(AlgorithmIdentifier, &str); 4] = [
    (alg_id::ECDSA_P256, ECDSA_P256),
    (alg_id::ECDSA_P384, ECDSA_P384),
    (alg_id::ED25519, ED25519),
    (alg_id::RSA_ENCRYPTION, RSA_PSS),
];

/// A public key, as it stands in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    algorithm: &'static str,
    key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Of a SubjectPublicKeyInfo in DER. `None` for one that is damaged or of another kind.
    #[must_use]
    pub fn parse(spki: &'a [u8]) -> Option<Self> {
        let outer = AnyRef::from_der(spki).ok()?;
        let mut fields = SliceReader::new(outer.value()).ok()?;
        let id = AnyRef::decode(&mut fields).ok()?;
        let bits = AnyRef::decode(&mut fields).ok()?;
        let (_, algorithm) = KINDS.iter().find(|(known, _)| known.as_ref() == id.value())?;
        // The first byte says how many bits of the last are none.
        match bits.value() {
            [0, key @ ..] if bits.header().tag() == Tag::BitString => Some(Self { algorithm, key }),
            _ => None,
        }
    }

    /// What it signs by, as the registry calls it.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// Whether `signature` is one of `message` by this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let found = match self.algorithm {
            ECDSA_P256 => verify::p256_fixed(self.key, message, signature),
            ECDSA_P384 => verify::p384_fixed(self.key, message, signature),
            ED25519 => verify::ED25519.verify_signature(self.key, message, signature).ok(),
            _ => verify::PSS_SHA512.verify_signature(self.key, message, signature).ok(),
        };
        found.is_some()
    }
}

/// The private key of an identity, for signatures beside TLS.
pub struct Signer {
    key: sign::Key,
    algorithm: &'static str,
    pin: Pin,
    random: &'static dyn Random,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer by {} {}", self.algorithm, self.pin)
    }
}

impl Signer {
    /// With the key of `identity`.
    ///
    /// # Errors
    /// [`SetupError::Material`] when it is no key that we sign with.
    pub fn new(crypto: &Crypto, identity: &Identity) -> Result<Self, SetupError> {
        let material = |words: &str| SetupError::Material(words.to_string());
        let key = sign::Key::parse(identity.key()).map_err(material)?;
        let algorithm = match &key {
            sign::Key::P256(_) => ECDSA_P256,
            sign::Key::P384(_) => ECDSA_P384,
            sign::Key::Ed25519(_) => ED25519,
            sign::Key::Rsa(_) => RSA_PSS,
        };
        let spki = key.public().ok_or_else(|| material("the private key has no public half"))?;
        Ok(Self { key, algorithm, pin: Pin::of(&spki), random: crypto.random })
    }

    /// What it signs by, as the registry calls it.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// What the public half is called.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// Sign `message`.
    ///
    /// # Errors
    /// [`SetupError::NoEntropy`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SetupError> {
        let signature = match self.key.sign_fixed(message) {
            Some(signature) => Some(signature),
            None => self.key.sign(SignatureScheme::RSA_PSS_SHA512, message, self.random),
        };
        signature.ok_or(SetupError::NoEntropy)
    }
}
