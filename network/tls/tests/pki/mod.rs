//! Authorities and certificates for tests, good and bad ones; nothing but Rust makes them.
#![allow(dead_code, unreachable_pub, reason = "tests inside and outside take what they need")]
#![allow(clippy::unwrap_used, reason = "only tests come here")]

use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePrivateKey as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, Error, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey, date_time_ymd,
};
use rsa::pkcs1::EncodeRsaPublicKey as _;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Noon of a day on which certificates of [`Leaf::new`] are valid: 2026-06-01, in seconds since 1970.
pub const NOW: u64 = 1_780_315_200;

/// Key pairs, each made of a number, except for RSA, which takes too long.
pub enum Key {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
    Rsa(Box<rsa::PrivateKey>),
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

pub const KINDS: [Kind; 4] = [Kind::P256, Kind::P384, Kind::Ed25519, Kind::Rsa];

/// A pair with what rcgen wants to borrow.
pub struct Pair {
    pub key: Key,
    public: Vec<u8>,
}

impl Pair {
    /// A pair that no other call gives; RSA is always the same.
    pub fn new(kind: Kind) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut secret = [7; 48];
        secret[8..16].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let key = match kind {
            Kind::P256 => Key::P256(p256::ecdsa::SigningKey::from_slice(&secret[..32]).unwrap()),
            Kind::P384 => Key::P384(p384::ecdsa::SigningKey::from_slice(&secret).unwrap()),
            Kind::Ed25519 => {
                Key::Ed25519(ed25519_dalek::SigningKey::from_bytes(secret[..32].try_into().unwrap()))
            }
            Kind::Rsa => {
                use rsa::pkcs8::DecodePrivateKey as _;
                let der = PrivateKeyDer::from_pem_slice(include_bytes!("../rsa2048.pem")).unwrap();
                Key::Rsa(Box::new(rsa::PrivateKey::from_pkcs8_der(der.secret_der()).unwrap()))
            }
        };
        let public = match &key {
            Key::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Key::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Key::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Key::Rsa(key) => key.to_public_key().to_pkcs1_der().unwrap().into_vec(),
        };
        Self { key, public }
    }

    /// The private key as PKCS#8.
    pub fn der(&self) -> Vec<u8> {
        match &self.key {
            Key::P256(key) => key.to_pkcs8_der().unwrap().as_bytes().to_vec(),
            Key::P384(key) => key.to_pkcs8_der().unwrap().as_bytes().to_vec(),
            Key::Ed25519(key) => {
                // Version 1, without the public half: OpenSSL 3.0 does not read version 2.
                let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
                der.extend(key.to_bytes());
                der
            }
            Key::Rsa(key) => key.to_pkcs8_der().unwrap().as_bytes().to_vec(),
        }
    }
}

impl PublicKeyData for Pair {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &self.key {
            Key::P256(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
            Key::P384(_) => &rcgen::PKCS_ECDSA_P384_SHA384,
            Key::Ed25519(_) => &rcgen::PKCS_ED25519,
            Key::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl SigningKey for Pair {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(match &self.key {
            Key::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(msg);
                signature.to_der().as_bytes().to_vec()
            }
            Key::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign(msg);
                signature.to_der().as_bytes().to_vec()
            }
            Key::Ed25519(key) => key.sign(msg).to_bytes().to_vec(),
            Key::Rsa(key) => key.pkcs1v15_sign::<sha2::Sha256>(msg).unwrap(),
        })
    }
}

/// A number that no other certificate has.
fn serial() -> SerialNumber {
    static NEXT: AtomicU64 = AtomicU64::new(1000);
    SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn name(words: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, words);
    name
}

/// Someone who makes certificates.
pub struct Authority {
    issuer: Issuer<'static, Pair>,
    /// Its own certificate.
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new(words: &str, kind: Kind) -> Self {
        let pair = Pair::new(kind);
        let params = Self::params(words);
        let der = params.self_signed(&pair).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, pair), der }
    }

    fn params(words: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(words);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        params.key_identifier_method = KeyIdMethod::PreSpecified(words.as_bytes().to_vec());
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
        params
    }

    /// An authority below this one, valid in the given years.
    pub fn below(&self, words: &str, years: (i32, i32)) -> Self {
        let pair = Pair::new(Kind::P256);
        let mut params = Self::params(words);
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let der = params.signed_by(&pair, &self.issuer).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, pair), der }
    }

    pub fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let pair = Pair::new(leaf.kind);
        Issued { der: self.certify(leaf, &pair), key: pair.der() }
    }

    /// A certificate for a key that somebody else has.
    pub fn certify(&self, leaf: &Leaf<'_>, key: &impl PublicKeyData) -> Vec<u8> {
        let is_uri = |name: &&str| name.contains("://");
        let names: Vec<String> =
            leaf.names.iter().filter(|name| !is_uri(name)).map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        for uri in leaf.names.iter().copied().filter(is_uri) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.distinguished_name = name(leaf.common_name);
        params.serial_number = Some(serial());
        params.extended_key_usages = leaf.purposes.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca =
            if leaf.authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) =
            (date_time_ymd(leaf.years.0, 1, 1), date_time_ymd(leaf.years.1, 1, 1));
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

/// The public half of a key on P-256, out of a request for a certificate (PKCS#10).
pub struct Requested(Vec<u8>);

impl Requested {
    /// Of a request in DER.
    pub fn of(request: &[u8]) -> Self {
        // SubjectPublicKeyInfo of P-256 up to the point, which is 65 bytes long.
        let before = b"\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
        let place = request.windows(before.len()).position(|part| part == before).unwrap() + before.len();
        Self(request[place..place + 65].to_vec())
    }
}

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// What a certificate is to say.
#[derive(Clone, Copy)]
pub struct Leaf<'a> {
    pub names: &'a [&'a str],
    pub common_name: &'a str,
    pub years: (i32, i32),
    pub purposes: &'a [ExtendedKeyUsagePurpose],
    pub kind: Kind,
    pub authority: bool,
}

const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];

impl<'a> Leaf<'a> {
    pub fn server(names: &'a [&'a str]) -> Self {
        let (common_name, years, kind) = ("a server", (2026, 2028), Kind::P256);
        Self { names, common_name, years, purposes: SERVER, kind, authority: false }
    }

    pub fn client() -> Self {
        Self { common_name: "a client", purposes: CLIENT, ..Self::server(&["client"]) }
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Issued {
    pub der: Vec<u8>,
    pub key: Vec<u8>,
}

impl Issued {
    pub fn identity(&self) -> network_tls::Identity {
        network_tls::Identity::from_der(vec![self.der.clone()], self.key.clone()).unwrap()
    }
}

/// A block of PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, three) in der.chunks(3).enumerate() {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", text.trim_end())
}

/// Randomness of the host.
#[derive(Debug)]
pub struct Host;

impl network_tls::Random for Host {
    fn fill(&self, out: &mut [u8]) -> Result<(), network_tls::NoEntropy> {
        use std::io::Read as _;
        let source = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(out));
        source.map_err(|_| network_tls::NoEntropy)
    }
}

/// Algorithms with it, made once.
pub fn crypto() -> &'static network_tls::Crypto {
    static CRYPTO: std::sync::OnceLock<network_tls::Crypto> = std::sync::OnceLock::new();
    CRYPTO.get_or_init(|| network_tls::Crypto::new(Box::new(Host)).unwrap())
}
