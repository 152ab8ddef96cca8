//! Who we are, whom we believe, and what a connection is made of.

use crate::dates::{AnyDate, AnyDateClient, Dates, Moment};
use crate::leaf::Pin;
use crate::pinned::Pinned;
use crate::provider::{Crypto, NoEntropy};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig as RustlsServer};

/// The most certificates in one list of ours, and the most text they may come in, in bytes.
const MOST_CERTIFICATES: usize = 64;
const MOST_TEXT: usize = 1 << 20;

/// No connection, or no configuration, can be made of what was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The source of randomness has too little.
    NoEntropy,
    /// Dates must be checked, and nobody knows the time.
    NoTime,
    /// This is neither a DNS name nor an IP address.
    Name(String),
    /// A certificate, a key or their combination is not usable, and why.
    Material(String),
    /// A buffer is smaller than a record; it has to have so many bytes.
    Buffer(usize),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntropy => NoEntropy.fmt(f),
            Self::NoTime => f.write_str(
                "certificates' dates must be checked, but this machine does not know the time: give it a clock, or \
                 configure that dates are checked only when the time is known",
            ),
            Self::Name(name) => write!(f, "{name:?} is neither a DNS name nor an IP address"),
            Self::Material(why) => f.write_str(why),
            Self::Buffer(least) => write!(f, "a buffer for TLS has at least {least} bytes"),
        }
    }
}

impl core::error::Error for SetupError {}

impl From<NoEntropy> for SetupError {
    fn from(_: NoEntropy) -> Self {
        Self::NoEntropy
    }
}

fn material(why: impl fmt::Display) -> SetupError {
    SetupError::Material(why.to_string())
}

fn certificates(pem: &str, whose: &str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    if pem.len() > MOST_TEXT {
        return Err(material(format!("{whose}: more than {MOST_TEXT} bytes of text")));
    }
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    list.map_err(|error| material(format!("{whose}: not PEM: {error}")))
}

/// The authorities that are believed.
///
/// Their own dates are not looked at: whoever is listed here is believed until the list changes.
#[derive(Clone, Debug)]
pub struct Anchors(Arc<RootCertStore>);

impl Anchors {
    /// Of certificates in DER.
    ///
    /// # Errors
    /// [`SetupError::Material`] when there is none, more than 64, or one that is no certificate.
    pub fn from_der(list: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, SetupError> {
        Self::new(list.into_iter().map(CertificateDer::from).collect())
    }

    /// Of the CERTIFICATE blocks of a PEM text; whatever is around them is ignored.
    ///
    /// # Errors
    /// As [`Anchors::from_der`], and for text that is no PEM.
    pub fn from_pem(text: &str) -> Result<Self, SetupError> {
        Self::new(certificates(text, "authorities")?)
    }

    fn new(list: Vec<CertificateDer<'static>>) -> Result<Self, SetupError> {
        if list.is_empty() || list.len() > MOST_CERTIFICATES {
            return Err(material(format!(
                "authorities: {} certificates instead of 1 to {MOST_CERTIFICATES}",
                list.len()
            )));
        }
        let mut store = RootCertStore::empty();
        for (index, certificate) in list.into_iter().enumerate() {
            store
                .add(certificate)
                .map_err(|error| material(format!("authorities: certificate {}: {error}", index + 1)))?;
        }
        Ok(Self(Arc::new(store)))
    }
}

/// A certificate of our own, those between it and the authority, and its private key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {} certificates", self.chain.len())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Of DER: our own certificate first; the key as PKCS#8, SEC1 or PKCS#1, not encrypted.
    ///
    /// # Errors
    /// [`SetupError::Material`] when there is no certificate, or the key is in none of these shapes.
    pub fn from_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, SetupError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self::new(chain, key.try_into().map_err(|why| material(format!("private key: {why}")))?)
    }

    /// Of PEM texts, which may be one and the same.
    ///
    /// # Errors
    /// As [`Identity::from_der`], and for an encrypted key: there is nobody to ask for the passphrase.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, SetupError> {
        if key.len() > MOST_TEXT {
            return Err(material(format!("private key: more than {MOST_TEXT} bytes of text")));
        }
        if key.contains("BEGIN ENCRYPTED PRIVATE KEY") || key.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(material("private key: it is encrypted, and nobody here knows the passphrase"));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| material(format!("private key: {error}")))?;
        Self::new(certificates(chain, "our certificate")?, key)
    }

    pub(crate) const fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, SetupError> {
        if chain.is_empty() || chain.len() > MOST_CERTIFICATES {
            let count = chain.len();
            let why = format!("our certificate: {count} certificates instead of 1 to {MOST_CERTIFICATES}");
            return Err(material(why));
        }
        Ok(Self { chain, key })
    }
}

/// What all client connections with the same peers and the same identity share.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    rustls: Arc<rustls::ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
    crypto: Crypto,
    dates: Dates,
}

impl ClientConfig {
    /// Believe servers that `anchors` vouch for, and show `identity` to those that ask.
    ///
    /// # Errors
    /// [`SetupError::Material`], also when key and certificate do not belong together.
    pub fn new(
        crypto: &Crypto,
        anchors: &Anchors,
        identity: Option<Identity>,
        dates: Dates,
    ) -> Result<Self, SetupError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(anchors.0.clone(), crypto.provider.clone())
                .build()
                .map_err(material)?;
        Self::verified_by(crypto, verifier, identity, dates)
    }

    /// Believe servers that have one of the keys of `pins`, whatever their certificates say, and show them `identity`.
    ///
    /// # Errors
    /// [`SetupError::Material`], also when key and certificate do not belong together.
    pub fn pinned(crypto: &Crypto, pins: &[Pin], identity: Identity) -> Result<Self, SetupError> {
        let verifier = Arc::new(pinned(crypto, pins));
        Self::verified_by(crypto, verifier, Some(identity), Dates::CheckedWhenTimeIsKnown)
    }

    fn verified_by(
        crypto: &Crypto,
        verifier: Arc<dyn ServerCertVerifier>,
        identity: Option<Identity>,
        dates: Dates,
    ) -> Result<Self, SetupError> {
        let builder = rustls::ClientConfig::builder_with_details(crypto.provider.clone(), never())
            .with_protocol_versions(&[&TLS13])
            .map_err(material)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut rustls = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain, identity.key).map_err(own_material)?
            }
        };
        rustls.resumption = Resumption::disabled();
        rustls.enable_secret_extraction = true;
        Ok(Self { rustls: Arc::new(rustls), verifier, crypto: crypto.clone(), dates })
    }

    /// The configuration of one connection, at one time.
    pub(crate) fn at(&self, now: Option<u64>) -> Result<Arc<rustls::ClientConfig>, SetupError> {
        ready(&self.crypto, self.dates, now)?;
        let mut config = (*self.rustls).clone();
        config.time_provider = Arc::new(Moment(now));
        if now.is_none() {
            config.dangerous().set_certificate_verifier(Arc::new(AnyDate(self.verifier.clone())));
        }
        Ok(Arc::new(config))
    }
}

/// Which clients a server talks to.
#[derive(Clone, Debug)]
pub enum Clients {
    /// All; none is asked who it is.
    Anybody,
    /// Those with a certificate by one of these; others are refused.
    Known(Anchors),
    /// All; those that show a certificate show one by these.
    KnownOrAnonymous(Anchors),
    /// Those that have one of these keys, whatever their certificates say; others are refused.
    Pinned(Vec<Pin>),
}

fn pinned(crypto: &Crypto, pins: &[Pin]) -> Pinned {
    Pinned { pins: pins.to_vec(), algorithms: crypto.provider.signature_verification_algorithms }
}

/// What all server connections with the same identity share.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    rustls: Arc<RustlsServer>,
    /// The same for connections whose time is not known; only where clients are asked who they are.
    any_date: Option<Arc<RustlsServer>>,
    crypto: Crypto,
    dates: Dates,
}

impl ServerConfig {
    /// Show `identity`, and talk to `clients`, to whose certificates `dates` applies.
    ///
    /// # Errors
    /// [`SetupError::Material`], also when key and certificate do not belong together.
    pub fn new(
        crypto: &Crypto,
        identity: Identity,
        clients: &Clients,
        dates: Dates,
    ) -> Result<Self, SetupError> {
        let known = |anchors: &Anchors| {
            WebPkiClientVerifier::builder_with_provider(anchors.0.clone(), crypto.provider.clone())
        };
        let verifier: Option<Arc<dyn ClientCertVerifier>> = match clients {
            Clients::Anybody => None,
            Clients::Known(anchors) => Some(known(anchors).build().map_err(material)?),
            Clients::KnownOrAnonymous(anchors) => {
                Some(known(anchors).allow_unauthenticated().build().map_err(material)?)
            }
            Clients::Pinned(pins) => Some(Arc::new(pinned(crypto, pins))),
        };
        // A key that is known has no dates.
        let dates = if matches!(clients, Clients::Pinned(_)) { Dates::CheckedWhenTimeIsKnown } else { dates };
        let any_date = match &verifier {
            None => None,
            Some(verifier) => {
                let verifier = Arc::new(AnyDateClient(verifier.clone()));
                Some(Self::build(crypto, identity.clone(), Some(verifier))?)
            }
        };
        let rustls = Self::build(crypto, identity, verifier)?;
        Ok(Self { rustls, any_date, crypto: crypto.clone(), dates })
    }

    fn build(
        crypto: &Crypto,
        identity: Identity,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<RustlsServer>, SetupError> {
        let builder = RustlsServer::builder_with_details(crypto.provider.clone(), never())
            .with_protocol_versions(&[&TLS13])
            .map_err(material)?;
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_single_cert(identity.chain, identity.key).map_err(own_material)?;
        // Without resumption a ticket is of no use to anybody.
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// The configuration of one connection, at one time.
    pub(crate) fn at(&self, now: Option<u64>) -> Result<Arc<RustlsServer>, SetupError> {
        let asks = self.any_date.is_some();
        ready(&self.crypto, if asks { self.dates } else { Dates::CheckedWhenTimeIsKnown }, now)?;
        let config = self.any_date.as_ref().filter(|_| now.is_none()).unwrap_or(&self.rustls);
        let mut config = (**config).clone();
        config.time_provider = Arc::new(Moment(now));
        Ok(Arc::new(config))
    }
}

/// The time of a configuration that no connection has used yet.
fn never() -> Arc<Moment> {
    Arc::new(Moment(None))
}

fn own_material(error: rustls::Error) -> SetupError {
    material(match error {
        rustls::Error::InconsistentKeys(_) => {
            "the private key does not belong to our certificate".to_string()
        }
        rustls::Error::General(words) => words,
        other => format!("our certificate: {other}"),
    })
}

/// What must be there before a connection begins.
fn ready(crypto: &Crypto, dates: Dates, now: Option<u64>) -> Result<(), SetupError> {
    if now.is_none() && dates == Dates::MustBeChecked {
        return Err(SetupError::NoTime);
    }
    crypto.random.fill(&mut [0; 32])?;
    Ok(())
}
