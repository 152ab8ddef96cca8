//! Keys that are made here: the first, for whose certificate whoever knows the join token sees to it, and those after it.
//!
//! The appliance dials nobody for this, as it dials nobody for anything on the service network but storage services: it
//! shows a request (PKCS#10) and takes the certificate. Before it has one, its door shows a certificate signed by itself,
//! lets in anybody, and offers nothing but these two calls. The token, which both ends were given, is never said: each end
//! proves that it knows it. A key is on the state disk before its request is shown, and a certificate before it is used.

use crate::documents;
use crate::door::{Door, Lock, Shown};
use crate::problem::{Kind, Problem};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use kernel_runtime::Clock;
use management_api::{CertificateDocument, CertificateRequestView, EnrolRequest, KeysView};
use management_http::json::Bounds;
use management_http::{Request, Response};
use network_tls::{
    Algorithm, Clients, Leaf, Name, Pin, PrivateKey, ServerConfig, SetupError, Token, der, pem,
};
use serde::de::DeserializeOwned;
use state::{Change, Records};

/// The records: the key in use and its certificates, the key that waits for one, and the token that was used.
const KEY: &[u8] = b"identity/key";
const CHAIN: &[u8] = b"identity/chain";
const WAITING: &[u8] = b"identity/waiting";
const SPENT: &[u8] = b"identity/spent";

/// What proofs are for.
const FOR_REQUEST: &str = "corbel-enrol-request";
const FOR_CERTIFICATE: &str = "corbel-enrol-certificate";

/// The most certificates of a chain, and the most bytes of all.
const CHAIN_MAX: usize = 6;
const CHAIN_BYTES: usize = 16 << 10;
/// The bounds of a request with a chain: one certificate may take all of it, in base64.
const BOUNDS: Bounds = Bounds { string: CHAIN_BYTES.div_ceil(3) * 4, ..Bounds::REQUEST };

/// What a request asks of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// What the first certificate is to be made of.
    Request,
    /// The first certificate.
    Enrol(EnrolRequest),
    /// How it is with the keys.
    Show,
    /// A new key.
    Rotate,
    /// Its certificate.
    Install(CertificateDocument),
}

/// How the appliance comes by its certificate, and what it asks for.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// What whoever enrols it has to know.
    pub token: Option<Token>,
    /// The appliance's name, which the certificate is asked to have as its common name and in a SPIFFE ID.
    pub name: String,
    /// Its address on the service network, where it is known beforehand.
    pub address: Option<Ipv4Addr>,
}

/// Keys on the state disk.
pub(crate) struct Keys {
    records: Records,
    enrolment: Enrolment,
    waiting: RefCell<Option<PrivateKey>>,
}

impl Door {
    /// A door with a lock, whose key is made here and kept in `records`.
    ///
    /// # Errors
    /// In words, when there is neither a certificate nor a token to get one by, or what was kept is of no use.
    pub fn enrolled(lock: Lock, records: Records, enrolment: Enrolment) -> Result<Self, String> {
        let load = |der: Vec<u8>| PrivateKey::from_pkcs8(&lock.crypto, der.into());
        let words = |error: SetupError| error.to_string();
        let waiting = records.get(WAITING).map(load).transpose().map_err(words)?;
        let kept = records.get(KEY).zip(records.get(CHAIN));
        let (shown, waiting) = if let Some((key, chain)) = kept {
            (Shown::new(&lock, split(&chain), key).map_err(words)?, waiting)
        } else {
            if enrolment.token.is_none() {
                return Err("missing: this appliance has no certificate yet, and is to be enrolled".into());
            }
            let key = match waiting {
                Some(key) => key,
                None => PrivateKey::generate(&lock.crypto, Algorithm::P256).map_err(words)?,
            };
            log::warn!("API: to be enrolled: its key is {}", key.pin());
            (unenrolled(&lock, &key, &enrolment.name).map_err(words)?, Some(key))
        };
        let keys = Keys { records, enrolment, waiting: RefCell::new(waiting) };
        Ok(Self::with_keys(lock, shown, keys))
    }

    /// Do what is demanded of the keys.
    pub(crate) async fn perform(&self, demand: Demand, clock: &Clock) -> Result<Response, Problem> {
        let Some((lock, keys)) = self.keys() else {
            let detail = "The key of this appliance is given by its configuration.";
            return Err(Problem::new(Kind::KeyState, detail));
        };
        match demand {
            Demand::Show => {}
            Demand::Request => {
                let token = self.joining(keys)?;
                return keys.request(lock, Some(token)).await;
            }
            Demand::Rotate => return keys.request(lock, None).await,
            Demand::Enrol(EnrolRequest { certificates, proof }) => {
                let token = self.joining(keys)?;
                let chain = chain(&certificates)?;
                let proof = proof.parse::<Pin>().map_err(|_| invalid("proof: 64 hexadecimal digits"))?;
                if !token.accepts(FOR_CERTIFICATE, &chain.concat(), &proof.0) {
                    return Err(Problem::new(Kind::Forbidden, "The proof is not made with the join token."));
                }
                let spent = token.name();
                let shown = keys.install(lock, chain, Some(&spent), clock).await?;
                self.show(shown);
                log::warn!("API: enrolled; from here on callers have to prove who they are");
            }
            Demand::Install(CertificateDocument { certificates }) => {
                let shown = keys.install(lock, chain(&certificates)?, None, clock).await?;
                self.show(shown);
                log::info!("API: new connections are shown a new certificate");
            }
        }
        let waiting = keys.waiting().map(|pin| pin.to_string());
        let certificate = self.certificate(clock).ok_or_else(unkept)?;
        Ok(Response::json(200, agent_protocol::encode(&KeysView { certificate, waiting })))
    }

    /// The token, while the appliance is to be enrolled.
    fn joining<'a>(&self, keys: &'a Keys) -> Result<&'a Token, Problem> {
        let token = keys.enrolment.token.as_ref().filter(|_| !self.is_enrolled());
        token.ok_or_else(|| Problem::new(Kind::KeyState, "This appliance is enrolled."))
    }
}

/// What is shown by a key that has no certificate yet.
fn unenrolled(lock: &Lock, key: &PrivateKey, name: &str) -> Result<Shown, SetupError> {
    let identity = key.self_signed(name)?;
    let config = ServerConfig::new(&lock.crypto, identity, &Clients::Anybody, lock.dates)?;
    Ok(Shown { config, valid: (0, u64::MAX), enrolled: false })
}

impl Keys {
    /// What the key is called that waits for its certificate.
    pub(crate) fn waiting(&self) -> Option<Pin> {
        self.waiting.borrow().as_ref().map(PrivateKey::pin)
    }

    /// The request for the key that waits, or for one that is made now; it is kept before.
    async fn request(&self, lock: &Lock, token: Option<&Token>) -> Result<Response, Problem> {
        let here = |error: SetupError| Problem::new(Kind::NoState, error.to_string());
        if self.waiting.borrow().is_none() {
            let key = PrivateKey::generate(&lock.crypto, Algorithm::P256).map_err(here)?;
            *self.waiting.borrow_mut() = Some(key);
        }
        let (pkcs8, view) = {
            let waiting = self.waiting.borrow();
            let key = waiting.as_ref().ok_or_else(unkept)?;
            let Enrolment { name, address, .. } = &self.enrolment;
            let id = format!("spiffe://{}/appliance/{name}", lock.trust_domain);
            let mut names = vec![Name::Uri(&id)];
            names.extend(address.map(Name::Address));
            let request = key.request(name, &names).map_err(here)?;
            let proof = token.map(|token| Pin(token.proof(FOR_REQUEST, &request)).to_string());
            let request = pem("CERTIFICATE REQUEST", &request);
            let view = CertificateRequestView { request, key: key.pin().to_string(), proof };
            (zeroize::Zeroizing::new(key.pkcs8().to_vec()), view)
        };
        if self.records.get(WAITING).as_deref() != Some(&**pkcs8) {
            let kept = self.records.keep(&[Change::Put(WAITING, &pkcs8)]).await;
            kept.map_err(|error| Problem::new(Kind::NoState, format!("The state disk: {error}.")))?;
        }
        Ok(Response::json(200, agent_protocol::encode(&view)))
    }

    /// Take the certificate of the key that waits, and `spent` as the name of a token that is of no use any more.
    async fn install(
        &self,
        lock: &Lock,
        chain: Vec<Vec<u8>>,
        spent: Option<&[u8]>,
        clock: &Clock,
    ) -> Result<Shown, Problem> {
        let (key, pin) = {
            let waiting = self.waiting.borrow();
            let none = || Problem::new(Kind::KeyState, "No key waits for a certificate; ask for one first.");
            let key = waiting.as_ref().ok_or_else(none)?;
            (zeroize::Zeroizing::new(key.pkcs8().to_vec()), key.pin())
        };
        let leaf = chain.first().map(|own| Leaf::parse(own)).transpose().map_err(|why| invalid(&why))?;
        let leaf = leaf.ok_or_else(|| invalid("certificates: none"))?;
        if leaf.pin != pin {
            return Err(invalid("certificates: the first is not of the key that waits"));
        }
        if lock.time(clock).is_some_and(|now| now > leaf.not_after) {
            return Err(invalid("certificates: the first is not valid any more"));
        }
        let packed = pack(&chain);
        let shown = Shown::new(lock, chain, key.to_vec()).map_err(|error| invalid(&error.to_string()))?;
        let mut changes = vec![Change::Put(KEY, &key), Change::Put(CHAIN, &packed), Change::Delete(WAITING)];
        changes.extend(spent.map(|spent| Change::Put(SPENT, spent)));
        let kept = self.records.keep(&changes).await;
        kept.map_err(|error| Problem::new(Kind::NoState, format!("The state disk: {error}.")))?;
        // Another one may have been asked for meanwhile.
        if self.waiting() == Some(pin) {
            *self.waiting.borrow_mut() = None;
        }
        Ok(shown)
    }
}

fn invalid(why: &str) -> Problem {
    Problem::new(Kind::InvalidField, why)
}

fn unkept() -> Problem {
    Problem::new(Kind::NoState, "There is no key.")
}

/// The body of a request with a chain.
pub(crate) fn document<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Problem> {
    documents::parse_within(request, &BOUNDS)
}

/// The certificates of a document.
fn chain(texts: &[String]) -> Result<Vec<Vec<u8>>, Problem> {
    if !(1..=CHAIN_MAX).contains(&texts.len()) {
        return Err(invalid("certificates: from 1 to 6"));
    }
    let list: Option<Vec<Vec<u8>>> = texts.iter().map(|text| der(text)).collect();
    let list = list.ok_or_else(|| invalid("certificates: base64 of DER"))?;
    if list.iter().map(Vec::len).sum::<usize>() > CHAIN_BYTES {
        return Err(invalid("certificates: 16 KiB at most"));
    }
    Ok(list)
}

/// A chain as one record: each certificate behind its length.
fn pack(chain: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::new();
    for certificate in chain {
        packed.extend(u16::try_from(certificate.len()).unwrap_or(u16::MAX).to_be_bytes());
        packed.extend_from_slice(certificate);
    }
    packed
}

/// The other way; what is damaged is found out when it is looked at.
fn split(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = packed.split_first_chunk::<2>() {
        let (certificate, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        chain.push(certificate.to_vec());
        packed = rest;
    }
    chain
}
