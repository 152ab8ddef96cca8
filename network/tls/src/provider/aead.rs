//! The three cipher suites of TLS 1.3 (RFC 8446, section B.4), and the cipher that rustls uses during a handshake and
//! the record layer afterwards.

use super::hash::{HKDF_SHA256, HKDF_SHA384, SHA256, SHA384};
use alloc::boxed::Box;
use alloc::vec::Vec;
use network_tls_cipher::gcm::{Forged, TAG};
use network_tls_cipher::{Cipher, Kind};
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

/// Records that may be sealed by one AES-GCM key (RFC 8446, section 5.5).
pub(crate) const GCM_RECORDS: u64 = 1 << 24;

static AES_128: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &SHA256,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HKDF_SHA256,
    aead_alg: &Suite(Kind::Aes128),
    quic: None,
};

static AES_256: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
        hash_provider: &SHA384,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HKDF_SHA384,
    aead_alg: &Suite(Kind::Aes256),
    quic: None,
};

static CHACHA20: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        hash_provider: &SHA256,
        confidentiality_limit: u64::MAX,
    },
    hkdf_provider: &HKDF_SHA256,
    aead_alg: &Suite(Kind::ChaCha20),
    quic: None,
};

/// The suites in the order in which a client offers and a server chooses them.
pub(super) fn suites(aes_first: bool) -> Vec<SupportedCipherSuite> {
    let [aes_128, aes_256, chacha20] = [&AES_128, &AES_256, &CHACHA20].map(SupportedCipherSuite::Tls13);
    if aes_first { [aes_128, aes_256, chacha20].into() } else { [chacha20, aes_128, aes_256].into() }
}

/// What rustls knows about a direction after the handshake: a cipher, the start of its nonces, and how many records its
/// key may seal.
pub(crate) fn from_secrets(secrets: ConnectionTrafficSecrets) -> Option<(Cipher, [u8; 12], u64)> {
    let (kind, key, iv, limit) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Kind::Aes128, key, iv, GCM_RECORDS),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Kind::Aes256, key, iv, GCM_RECORDS),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Kind::ChaCha20, key, iv, u64::MAX),
        _ => return None,
    };
    // rustls keeps all keys in 32 bytes and shows as many as the cipher has.
    Some((Cipher::new(kind, key.as_ref())?, iv.as_ref().try_into().ok()?, limit))
}

/// One direction while rustls does the handshake. Without a cipher, keys of a wrong length were handed over, and
/// nothing is sealed or opened.
struct Handshaking {
    aead: Option<Cipher>,
    iv: Iv,
}

impl Handshaking {
    fn boxed(kind: Kind, key: &AeadKey, iv: Iv) -> Box<Self> {
        Box::new(Self { aead: Cipher::new(kind, key.as_ref()), iv })
    }
}

/// A cipher as rustls asks for it.
struct Suite(Kind);

impl Tls13AeadAlgorithm for Suite {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Handshaking::boxed(self.0, &key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Handshaking::boxed(self.0, &key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_length()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(match self.0 {
            Kind::Aes128 => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            Kind::Aes256 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Kind::ChaCha20 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
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
