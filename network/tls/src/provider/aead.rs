//! The three cipher suites of TLS 1.3 (RFC 8446, section B.4), and the cipher that rustls uses during a handshake and
//! the record layer afterwards.

use super::hash::{HKDF_SHA256, HKDF_SHA384, SHA256, SHA384};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use alloc::boxed::Box;
use alloc::vec::Vec;
use chacha20poly1305::ChaCha20Poly1305;
use network_tls_gcm::Gcm;
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};

/// Bytes of a tag, in all three.
pub(crate) const TAG: usize = 16;

/// Records that may be sealed by one AES-GCM key (RFC 8446, section 5.5).
pub(crate) const GCM_RECORDS: u64 = 1 << 24;

static AES_128: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &SHA256,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HKDF_SHA256,
    aead_alg: &Kind::Aes128,
    quic: None,
};

static AES_256: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
        hash_provider: &SHA384,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HKDF_SHA384,
    aead_alg: &Kind::Aes256,
    quic: None,
};

static CHACHA20: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        hash_provider: &SHA256,
        confidentiality_limit: u64::MAX,
    },
    hkdf_provider: &HKDF_SHA256,
    aead_alg: &Kind::ChaCha20,
    quic: None,
};

/// The suites in the order in which a client offers and a server chooses them.
pub(super) fn suites(aes_first: bool) -> Vec<SupportedCipherSuite> {
    let [aes_128, aes_256, chacha20] = [&AES_128, &AES_256, &CHACHA20].map(SupportedCipherSuite::Tls13);
    if aes_first { [aes_128, aes_256, chacha20].into() } else { [chacha20, aes_128, aes_256].into() }
}

/// Which of the ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Aes128,
    Aes256,
    ChaCha20,
}

/// A cipher with its key.
pub(crate) enum Aead {
    /// AES of either length, by instructions.
    Instructions(Box<Gcm>),
    /// AES-128 without.
    Aes128(Box<Aes128Gcm>),
    /// AES-256 without.
    Aes256(Box<Aes256Gcm>),
    /// ChaCha20-Poly1305.
    ChaCha20(Box<ChaCha20Poly1305>),
}

/// Data does not belong to the tag, or is too long to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forged;

impl Aead {
    fn new(kind: Kind, key: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::ChaCha20 => Self::ChaCha20(Box::new(ChaCha20Poly1305::new_from_slice(key).ok()?)),
            Kind::Aes128 | Kind::Aes256 if network_tls_gcm::available() => {
                Self::Instructions(Box::new(Gcm::new(key)?))
            }
            Kind::Aes128 => Self::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?)),
            Kind::Aes256 => Self::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?)),
        })
    }

    /// What rustls knows about a direction after the handshake.
    pub(crate) fn from_secrets(secrets: ConnectionTrafficSecrets) -> Option<(Self, [u8; 12])> {
        let (kind, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Kind::Aes128, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Kind::Aes256, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Kind::ChaCha20, key, iv),
            _ => return None,
        };
        Some((Self::new(kind, key.as_ref())?, iv.as_ref().try_into().ok()?))
    }

    /// Records this cipher may seal before its key is replaced.
    pub(crate) fn record_limit(&self) -> u64 {
        if matches!(self, Self::ChaCha20(_)) { u64::MAX } else { GCM_RECORDS }
    }

    /// Encrypt where the data lies. `None` when it is longer than the cipher allows, which no record is.
    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Option<[u8; TAG]> {
        let nonce_of = (*nonce).into();
        match self {
            Self::Instructions(gcm) => Some(gcm.seal(nonce, aad, data)),
            Self::Aes128(key) => key.encrypt_inout_detached(&nonce_of, aad, data.into()).ok().map(Into::into),
            Self::Aes256(key) => key.encrypt_inout_detached(&nonce_of, aad, data.into()).ok().map(Into::into),
            Self::ChaCha20(key) => {
                key.encrypt_inout_detached(&nonce_of, aad, data.into()).ok().map(Into::into)
            }
        }
    }

    /// Decrypt where the data lies; the tag is what follows it. Answers how long the data is without the tag.
    pub(crate) fn open(&self, nonce: &[u8; 12], aad: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let nonce_of = (*nonce).into();
        let (data, tag) = sealed.split_last_chunk_mut::<TAG>().ok_or(Forged)?;
        let length = data.len();
        let opened = match self {
            Self::Instructions(gcm) => gcm.open(nonce, aad, data, tag).is_ok(),
            Self::Aes128(key) => {
                key.decrypt_inout_detached(&nonce_of, aad, data.into(), &(*tag).into()).is_ok()
            }
            Self::Aes256(key) => {
                key.decrypt_inout_detached(&nonce_of, aad, data.into(), &(*tag).into()).is_ok()
            }
            Self::ChaCha20(key) => {
                key.decrypt_inout_detached(&nonce_of, aad, data.into(), &(*tag).into()).is_ok()
            }
        };
        if opened { Ok(length) } else { Err(Forged) }
    }
}

/// One direction while rustls does the handshake. Without a cipher, keys of a wrong length were handed over, and
/// nothing is sealed or opened.
struct Handshaking {
    aead: Option<Aead>,
    iv: Iv,
}

impl Handshaking {
    fn boxed(kind: Kind, key: &AeadKey, iv: Iv) -> Box<Self> {
        Box::new(Self { aead: Aead::new(kind, key.as_ref()), iv })
    }
}

impl Tls13AeadAlgorithm for Kind {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Handshaking::boxed(*self, &key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Handshaking::boxed(*self, &key, iv)
    }

    fn key_len(&self) -> usize {
        if *self == Self::Aes128 { 16 } else { 32 }
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(match self {
            Self::Aes128 => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            Self::Aes256 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Self::ChaCha20 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        })
    }
}

impl MessageEncrypter for Handshaking {
    fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(msg.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&msg.payload);
        payload.extend_from_slice(&[msg.typ.into()]);
        let aead = self.aead.as_ref().ok_or(Error::EncryptError)?;
        let tag = aead
            .seal(&Nonce::new(&self.iv, seq).0, &make_tls13_aad(length), payload.as_mut())
            .ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + TAG
    }
}

impl MessageDecrypter for Handshaking {
    fn decrypt<'a>(
        &mut self,
        mut msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let aad = make_tls13_aad(msg.payload.len());
        let aead = self.aead.as_ref().ok_or(Error::DecryptError)?;
        let length = aead
            .open(&Nonce::new(&self.iv, seq).0, &aad, &mut msg.payload)
            .map_err(|Forged| Error::DecryptError)?;
        msg.payload.truncate(length);
        msg.into_tls13_unpadded_message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_instructions_seal_software_opens_and_the_other_way_round() {
        let nonce = [3; 12];
        for length in [0, 1, 15, 16, 17, 127, 128, 129, 16_385] {
            let plain: alloc::vec::Vec<u8> = (0..length).map(|index| index as u8).collect();
            let pairs = [
                (Kind::Aes128, Aead::Aes128(Box::new(Aes128Gcm::new_from_slice(&[9; 16]).unwrap()))),
                (Kind::Aes256, Aead::Aes256(Box::new(Aes256Gcm::new_from_slice(&[9; 32]).unwrap()))),
            ];
            for (kind, software) in pairs {
                let found = Aead::new(kind, &[9; 32][..kind.key_len()]).unwrap();
                for (one, other) in [(&found, &software), (&software, &found)] {
                    let mut data = plain.clone();
                    let tag = one.seal(&nonce, b"aad", &mut data).unwrap();
                    data.extend(tag);
                    assert_eq!(other.open(&nonce, b"aad", &mut data), Ok(length));
                    assert_eq!(data[..length], plain[..]);
                    assert_eq!(other.open(&nonce, b"add", &mut data), Err(Forged));
                }
            }
        }
    }

    #[test]
    fn what_is_shorter_than_a_tag_is_forged() {
        for kind in [Kind::Aes128, Kind::Aes256, Kind::ChaCha20] {
            let aead = Aead::new(kind, &[1; 32][..kind.key_len()]).unwrap();
            for length in 0..TAG {
                assert_eq!(aead.open(&[0; 12], b"", &mut [0; TAG][..length]), Err(Forged));
            }
            assert!(Aead::new(kind, &[1; 31]).is_none());
        }
    }
}
