//! Keys that are made here, and what is written about them: a certificate signed by itself, or a request for one.

use crate::config::{Identity, SetupError};
use crate::leaf::Pin;
use crate::provider::{Crypto, sign};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use rustls::SignatureScheme;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// What kind of key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256, which every authority certifies.
    P256,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// What stands before the 32 secret bytes in a PKCS#8 document of version 1 without the public half (RFC 5958; RFC 5915
    /// and RFC 8410).
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => {
                b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\
                  \x03\x01\x07\x04\x27\x30\x25\x02\x01\x01\x04\x20"
            }
            Self::Ed25519 => b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
        }
    }

    /// The AlgorithmIdentifier of its signatures: ecdsa-with-SHA256 (RFC 5758), id-Ed25519 (RFC 8410).
    const fn signature(self) -> &'static [u8] {
        match self {
            Self::P256 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            Self::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
        }
    }

    const fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::Ed25519 => SignatureScheme::ED25519,
        }
    }
}

/// A name that a certificate is asked for, for its subjectAltName.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A URI, such as a SPIFFE ID.
    Uri(&'a str),
    /// An address of IPv4.
    Address(Ipv4Addr),
}

/// A private key on P-256 or of Ed25519. It is wiped when it is dropped.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    key: sign::Key,
    algorithm: Algorithm,
    spki: Vec<u8>,
    crypto: Crypto,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey of {:?} {}", self.algorithm, self.pin())
    }
}

/// Some 32 bytes are no scalar of P-256: one in 2^32.
const TRIES: usize = 4;

impl PrivateKey {
    /// Make one.
    ///
    /// # Errors
    /// [`SetupError::NoEntropy`].
    pub fn generate(crypto: &Crypto, algorithm: Algorithm) -> Result<Self, SetupError> {
        for _ in 0..TRIES {
            let mut secret = Zeroizing::new([0; 32]);
            crypto.random.fill(&mut *secret)?;
            let pkcs8 = Zeroizing::new([algorithm.prefix(), &*secret].concat());
            if let Ok(key) = Self::from_pkcs8(crypto, pkcs8) {
                return Ok(key);
            }
        }
        Err(SetupError::NoEntropy)
    }

    /// Take one that was made before, as PKCS#8 in DER.
    ///
    /// # Errors
    /// [`SetupError::Material`] when it is no key of these two kinds.
    pub fn from_pkcs8(crypto: &Crypto, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, SetupError> {
        let material = |words: &str| SetupError::Material(words.to_string());
        let key = sign::Key::parse(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice())));
        let key = key.map_err(material)?;
        let algorithm = match &key {
            sign::Key::P256(_) => Algorithm::P256,
            sign::Key::Ed25519(_) => Algorithm::Ed25519,
            _ => return Err(material("the private key is neither on P-256 nor of Ed25519")),
        };
        let spki = key.public().ok_or_else(|| material("the private key has no public half"))?;
        Ok(Self { pkcs8, key, algorithm, spki, crypto: crypto.clone() })
    }

    /// The key as PKCS#8 in DER, to be kept where nobody else reads it.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// What the public half is called.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of(&self.spki)
    }

    /// This key with a certificate that it signs itself, for peers that know the key or come to enrol it. It is valid at any
    /// time (RFC 5280, section 4.1.2.5, for the end that is none).
    ///
    /// # Errors
    /// [`SetupError::NoEntropy`].
    pub fn self_signed(&self, common_name: &str) -> Result<Identity, SetupError> {
        let subject = subject(common_name);
        let mut serial = self.pin().0;
        // Positive, not zero, and without a zero in front.
        serial[0] = serial[0] & 0x3f | 0x40;
        let validity = tlv(0x30, &[&tlv(0x17, &[b"700101000000Z"]), &tlv(0x18, &[b"99991231235959Z"])]);
        let version_3 = tlv(0xa0, &[b"\x02\x01\x02"]);
        let serial = tlv(0x02, &[&serial[..16]]);
        let signature = self.algorithm.signature();
        let inner = tlv(0x30, &[&version_3, &serial, signature, &subject, &validity, &subject, &self.spki]);
        let certificate = self.signed(&inner)?;
        Identity::from_der(alloc::vec![certificate], self.pkcs8.to_vec())
    }

    /// Ask for a certificate: PKCS#10 in DER (RFC 2986), with the names as a request for extensions (RFC 2985, section
    /// 5.4.2).
    ///
    /// # Errors
    /// [`SetupError::NoEntropy`].
    pub fn request(&self, common_name: &str, names: &[Name<'_>]) -> Result<Vec<u8>, SetupError> {
        let mut list = Vec::new();
        for name in names {
            list.extend(match name {
                Name::Uri(uri) => tlv(0x86, &[uri.as_bytes()]),
                Name::Address(address) => tlv(0x87, &[&address.octets()]),
            });
        }
        let extension = tlv(0x30, &[b"\x06\x03\x55\x1d\x11", &tlv(0x04, &[&tlv(0x30, &[&list])])]);
        let extension_request = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
        let wanted = tlv(0x30, &[extension_request, &tlv(0x31, &[&tlv(0x30, &[&extension])])]);
        let attributes = tlv(0xa0, &[if names.is_empty() { b"" } else { wanted.as_slice() }]);
        let inner = tlv(0x30, &[b"\x02\x01\x00", &subject(common_name), &self.spki, &attributes]);
        self.signed(&inner)
    }

    /// A SEQUENCE of what is signed, the algorithm, and the signature.
    fn signed(&self, inner: &[u8]) -> Result<Vec<u8>, SetupError> {
        let signature = self.key.sign(self.algorithm.scheme(), inner, self.crypto.random);
        let signature = signature.ok_or(SetupError::NoEntropy)?;
        Ok(tlv(0x30, &[inner, self.algorithm.signature(), &tlv(0x03, &[b"\0", &signature])]))
    }
}

/// A distinguished name of nothing but a common name.
fn subject(common_name: &str) -> Vec<u8> {
    let attribute = tlv(0x30, &[b"\x06\x03\x55\x04\x03", &tlv(0x0c, &[common_name.as_bytes()])]);
    tlv(0x30, &[&tlv(0x31, &[&attribute])])
}

/// A value of DER of less than 64 KiB.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 4);
    out.push(tag);
    match u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ ..0x80] => out.push(short),
        [0, long] => out.extend([0x81, long]),
        long => {
            out.push(0x82);
            out.extend(long);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A certificate as PEM, the label given (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> alloc::string::String {
    use base64ct::{Base64, Encoding};
    let text = Base64::encode_string(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(core::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
