//! Private keys: P-256, P-384, Ed25519, RSA of 2048 to 4096 bits; from PKCS#8, SEC1 or PKCS#1.

use super::{NoEntropy, Random};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use p256::ecdsa::signature::Signer as _;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts as _;
use rustls::crypto::KeyProvider;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use sha2::{Sha256, Sha384, Sha512};

/// Bits of an RSA key of ours. With more, a handshake on a slow machine takes seconds.
const RSA_BITS: core::ops::RangeInclusive<u32> = 2048..=4096;

const RSA_SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PSS_SHA384, SignatureScheme::RSA_PSS_SHA512];

/// Makes keys of their encodings.
#[derive(Debug)]
pub(super) struct Keys(pub(super) &'static dyn Random);

impl KeyProvider for Keys {
    fn load_private_key(&self, key_der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = Key::parse(&key_der).map_err(|words| Error::General(words.into()))?;
        let public =
            key.public().ok_or_else(|| Error::General("the private key has no public half".into()))?;
        Ok(Arc::new(Loaded { key: Arc::new(key), public, random: self.0 }))
    }
}

/// A private key.
pub(crate) enum Key {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
    Rsa(rsa::PrivateKey),
}

impl Key {
    /// Of one of the encodings.
    pub(crate) fn parse(der: &PrivateKeyDer<'_>) -> Result<Self, &'static str> {
        const NONE: &str =
            "the private key is none of ECDSA P-256, ECDSA P-384, Ed25519 and RSA, or is damaged";
        let found = match der {
            PrivateKeyDer::Pkcs8(der) => Self::pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(der) => Self::sec1(der.secret_sec1_der()),
            PrivateKeyDer::Pkcs1(der) => {
                rsa::PrivateKey::from_pkcs1_der(der.secret_pkcs1_der()).ok().map(Self::Rsa)
            }
            _ => None,
        };
        match found.ok_or(NONE)? {
            Self::Rsa(key) if !RSA_BITS.contains(&key.n().bit_width()) => {
                Err("an RSA key of ours has 2048 to 4096 bits")
            }
            key => Ok(key),
        }
    }

    fn pkcs8(der: &[u8]) -> Option<Self> {
        p256::ecdsa::SigningKey::from_pkcs8_der(der)
            .map(Self::P256)
            .or_else(|_| p384::ecdsa::SigningKey::from_pkcs8_der(der).map(Self::P384))
            .or_else(|_| ed25519_dalek::SigningKey::from_pkcs8_der(der).map(Self::Ed25519))
            .or_else(|_| rsa::PrivateKey::from_pkcs8_der(der).map(Self::Rsa))
            .ok()
    }

    fn sec1(der: &[u8]) -> Option<Self> {
        let p256 = || p256::SecretKey::from_sec1_der(der).ok().map(|key| Self::P256(key.into()));
        let p384 = || p384::SecretKey::from_sec1_der(der).ok().map(|key| Self::P384(key.into()));
        p256().or_else(p384)
    }

    /// SubjectPublicKeyInfo, by which rustls sees whether key and certificate belong together.
    pub(crate) fn public(&self) -> Option<Vec<u8>> {
        let document = match self {
            Self::P256(key) => key.verifying_key().to_public_key_der().ok()?,
            Self::P384(key) => key.verifying_key().to_public_key_der().ok()?,
            Self::Ed25519(key) => key.verifying_key().to_public_key_der().ok()?,
            Self::Rsa(key) => key.to_public_key().to_public_key_der().ok()?,
        };
        Some(document.into_vec())
    }

    fn schemes(&self) -> &'static [SignatureScheme] {
        match self {
            Self::P256(_) => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Self::P384(_) => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            Self::Ed25519(_) => &[SignatureScheme::ED25519],
            Self::Rsa(_) => &RSA_SCHEMES,
        }
    }

    /// A signature of fixed length, as HTTP has it (RFC 9421, section 3.3); `None` of an RSA key.
    pub(crate) fn sign_fixed(&self, message: &[u8]) -> Option<Vec<u8>> {
        Some(match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).ok()?;
                signature.to_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).ok()?;
                signature.to_bytes().to_vec()
            }
            Self::Ed25519(key) => key.try_sign(message).ok()?.to_bytes().into(),
            Self::Rsa(_) => return None,
        })
    }

    /// `None` for a scheme of another kind of key, or without randomness.
    pub(crate) fn sign(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        random: &dyn Random,
    ) -> Option<Vec<u8>> {
        Some(match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).ok()?;
                signature.to_der().as_bytes().into()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).ok()?;
                signature.to_der().as_bytes().into()
            }
            Self::Ed25519(key) => key.try_sign(message).ok()?.to_bytes().into(),
            Self::Rsa(key) => {
                let random = &mut Salt(random);
                match scheme {
                    SignatureScheme::RSA_PSS_SHA256 => key.pss_sign_with_rng::<Sha256, _>(random, message),
                    SignatureScheme::RSA_PSS_SHA384 => key.pss_sign_with_rng::<Sha384, _>(random, message),
                    SignatureScheme::RSA_PSS_SHA512 => key.pss_sign_with_rng::<Sha512, _>(random, message),
                    _ => return None,
                }
                .ok()?
            }
        })
    }
}

/// A key that rustls may ask for signers. Its private half is in no message and in no log.
struct Loaded {
    key: Arc<Key>,
    public: Vec<u8>,
    random: &'static dyn Random,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key for {:?}", self.key.schemes())
    }
}

impl SigningKey for Loaded {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.key.schemes().iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(Chosen { key: self.key.clone(), scheme, random: self.random }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.public.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match *self.key {
            Key::P256(_) | Key::P384(_) => SignatureAlgorithm::ECDSA,
            Key::Ed25519(_) => SignatureAlgorithm::ED25519,
            Key::Rsa(_) => SignatureAlgorithm::RSA,
        }
    }
}

struct Chosen {
    key: Arc<Key>,
    scheme: SignatureScheme,
    random: &'static dyn Random,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer for {:?}", self.scheme)
    }
}

impl Signer for Chosen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.key.sign(self.scheme, message, self.random);
        signed.ok_or_else(|| Error::General(String::from("our private key could not sign")))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// Our randomness in the shape that the RSA crate asks for, for salts and blinding.
struct Salt<'a>(&'a dyn Random);

impl TryRng for Salt<'_> {
    type Error = NoEntropy;

    fn try_next_u32(&mut self) -> Result<u32, NoEntropy> {
        let mut word = [0; 4];
        self.0.fill(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoEntropy> {
        let mut word = [0; 8];
        self.0.fill(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.fill(dst)
    }
}

impl TryCryptoRng for Salt<'_> {}
