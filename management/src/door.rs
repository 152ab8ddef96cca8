//! The door of the API: whom the appliance talks to on the service network, and who it says it is.
//!
//! Callers prove in the handshake of TLS 1.3 that they have the key of a certificate that one of the configured
//! authorities made; the one URI in it (a SPIFFE ID) says which of the provider's services they are. Without TLS nobody is
//! asked, and only an operator who says so has it that way.

use crate::keys::Keys;
use crate::policy::{Principal, Service};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;
use kernel_runtime::{Clock, Day, Instant};
use management_api::CertificateView;
use network_tls::{
    Anchors, Buffers, Clients, Connection, Crypto, Dates, Identity, Leaf, ServerConfig, SetupError,
};

/// The longest SPIFFE ID that is looked at, in bytes: the standard asks for as much of everybody.
const LONGEST_ID: usize = 2048;
/// How often at most a refused caller is a line of the log.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// What TLS of the API is made of, whatever key and certificate it has.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The algorithms.
    pub crypto: Crypto,
    /// The authorities by which callers are believed.
    pub anchors: Anchors,
    /// The trust domain that callers are of (SPIFFE-ID section 2.1).
    pub trust_domain: String,
    /// Whether requests that change something have to be signed (RFC 9421).
    pub signatures: bool,
    /// What happens to the dates of certificates.
    pub dates: Dates,
    /// The time of day; `None` where nobody knows it.
    pub day: Option<Day>,
    /// The memory of each connection.
    pub buffers: Buffers,
}

impl Lock {
    /// The time of day in seconds since 1970, where it is known.
    pub(crate) fn time(&self, clock: &Clock) -> Option<u64> {
        self.day.as_ref().map(|day| day.at(clock.now()))
    }
}

/// The certificate that the appliance shows.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) config: ServerConfig,
    /// When the certificate begins and ceases to be valid, in seconds since 1970.
    pub(crate) valid: (u64, u64),
    /// Whether it is one that an authority made; before it has one, whoever comes is a stranger.
    pub(crate) enrolled: bool,
}

impl Shown {
    /// A chain and its key, for callers that the lock knows.
    pub(crate) fn new(lock: &Lock, chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, SetupError> {
        let own = chain.first().ok_or_else(|| SetupError::Material("there is no certificate".into()))?;
        let leaf = Leaf::parse(own).map_err(SetupError::Material)?;
        let valid = (leaf.not_before, leaf.not_after);
        let clients = Clients::Known(lock.anchors.clone());
        let config = ServerConfig::new(&lock.crypto, Identity::from_der(chain, key)?, &clients, lock.dates)?;
        Ok(Self { config, valid, enrolled: true })
    }
}

/// Whoever has been let in.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    /// The public key with which it proved that, as SubjectPublicKeyInfo; empty of one that has proved nothing.
    pub(crate) key: Vec<u8>,
}

impl Caller {
    /// One without a key.
    pub(crate) const fn unproved(principal: Principal) -> Self {
        Self { principal, key: Vec::new() }
    }
}

const DAY: u64 = 24 * 60 * 60;

/// How it is with the certificate that is shown.
fn view(shown: &Shown, now: Option<u64>) -> CertificateView {
    let (not_before, not_after) = shown.valid;
    let due = not_before.saturating_add(not_after.saturating_sub(not_before) / 3 * 2);
    CertificateView {
        enrolled: shown.enrolled,
        not_before,
        not_after,
        days_left: now.map(|now| not_after.saturating_sub(now) / DAY),
        rotation_due: now.map(|now| now >= due),
    }
}

struct Inner {
    lock: Lock,
    shown: RefCell<Shown>,
    /// Where keys are made here.
    keys: Option<Keys>,
    admitted: Cell<u64>,
    refused: Cell<u64>,
    /// When a refusal was last a line of the log, and how many were not since.
    told: Cell<(Option<Instant>, u64)>,
}

/// The door. Clones are the same.
#[derive(Clone)]
pub struct Door(Option<Rc<Inner>>);

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Door with a lock" } else { "Door that is open" })
    }
}

impl Door {
    /// A door without a lock: the API in clear, where nobody is asked who it is.
    pub const OPEN: Self = Self(None);

    /// A door with a lock, and a certificate and key that the operator has given.
    ///
    /// # Errors
    /// [`SetupError::Material`] when certificate and key are of no use.
    pub fn locked(lock: Lock, chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, SetupError> {
        let shown = Shown::new(&lock, chain, key)?;
        Ok(Self::new(lock, shown, None))
    }

    pub(crate) fn with_keys(lock: Lock, shown: Shown, keys: Keys) -> Self {
        Self::new(lock, shown, Some(keys))
    }

    fn new(lock: Lock, shown: Shown, keys: Option<Keys>) -> Self {
        Self(Some(Rc::new(Inner {
            lock,
            shown: RefCell::new(shown),
            keys,
            admitted: Cell::new(0),
            refused: Cell::new(0),
            told: Cell::new((None, 0)),
        })))
    }

    /// The lock, if there is one.
    pub(crate) fn lock(&self) -> Option<&Lock> {
        self.0.as_ref().map(|inner| &inner.lock)
    }

    /// Whether there is a lock.
    pub(crate) const fn is_locked(&self) -> bool {
        self.0.is_some()
    }

    /// How callers are told apart, in a word.
    pub(crate) fn authentication(&self) -> &'static str {
        if self.0.is_some() { "mutual-tls" } else { "none" }
    }

    /// Begin the handshake with a peer. `None` where there is no lock.
    pub(crate) fn greet(&self, clock: &Clock) -> Option<Result<Connection, SetupError>> {
        let inner = self.0.as_ref()?;
        let config = inner.shown.borrow().config.clone();
        Some(Connection::server(&config, inner.lock.time(clock), inner.lock.buffers))
    }

    /// Who it is whose certificate the handshake has accepted.
    pub(crate) fn identify(&self, certificate: Option<&[u8]>) -> Caller {
        let Some(inner) = &self.0 else { return Caller::unproved(Principal::Anonymous) };
        inner.admitted.update(|count| count.saturating_add(1));
        let Some(certificate) = certificate else {
            // The handshake lets nobody in without one once there is anybody to tell apart.
            return Caller::unproved(Principal::Stranger);
        };
        identify(certificate, &inner.lock.trust_domain)
            .unwrap_or_else(|why| Caller::unproved(Principal::Unknown(why)))
    }

    /// Somebody was not let in, or is not who it should be.
    pub(crate) fn refused(&self, peer: Option<SocketAddrV4>, why: &str, now: Instant) {
        let Some(inner) = &self.0 else { return };
        inner.refused.update(|count| count.saturating_add(1));
        let (told, missed) = inner.told.get();
        if told.is_some_and(|told| now.since(told) < LOG_PAUSE) {
            inner.told.set((told, missed + 1));
            return;
        }
        inner.told.set((Some(now), 0));
        let peer = peer.map_or_else(|| "a peer".to_string(), |peer| peer.to_string());
        let others =
            if missed > 0 { format!("; {missed} others since the last line") } else { String::new() };
        log::warn!("API: {peer} is refused: {why}{others}");
    }

    /// The lock and the keys, where keys are made here.
    pub(crate) fn keys(&self) -> Option<(&Lock, &Keys)> {
        let inner = self.0.as_ref()?;
        Some((&inner.lock, inner.keys.as_ref()?))
    }

    /// Show this from the next connection on; those that are there go on.
    pub(crate) fn show(&self, shown: Shown) {
        if let Some(inner) = &self.0 {
            *inner.shown.borrow_mut() = shown;
        }
    }

    /// Whether an authority made the certificate that is shown.
    pub(crate) fn is_enrolled(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.shown.borrow().enrolled)
    }

    /// Whether callers can be let in: with a certificate that is not over, as far as the time is known.
    pub(crate) fn is_ready(&self, clock: &Clock) -> bool {
        self.0.as_ref().is_none_or(|inner| {
            let shown = inner.shown.borrow();
            shown.enrolled && inner.lock.time(clock).is_none_or(|now| now <= shown.valid.1)
        })
    }

    /// The certificate that is shown, for whoever asks how it is with it. `None` where there is no lock.
    pub(crate) fn certificate(&self, clock: &Clock) -> Option<CertificateView> {
        let inner = self.0.as_ref()?;
        let shown = inner.shown.borrow();
        Some(view(&shown, inner.lock.time(clock)))
    }

    /// The time of day in seconds since 1970, where it is known.
    pub(crate) fn time(&self, clock: &Clock) -> Option<u64> {
        self.0.as_ref()?.lock.time(clock)
    }

    /// Add the figures for Prometheus to `text`.
    pub(crate) fn figures(&self, text: &mut String, clock: &Clock) {
        let Some(inner) = &self.0 else { return };
        let (admitted, refused) = (inner.admitted.get(), inner.refused.get());
        let view = view(&inner.shown.borrow(), inner.lock.time(clock));
        text.push_str(&format!(
            "# TYPE corbel_api_handshakes_total counter\n\
             corbel_api_handshakes_total{{outcome=\"admitted\"}} {admitted}\n\
             corbel_api_handshakes_total{{outcome=\"refused\"}} {refused}\n\
             # TYPE corbel_api_certificate_not_after_seconds gauge\n\
             corbel_api_certificate_not_after_seconds {}\n",
            view.not_after
        ));
        if let Some(due) = view.rotation_due {
            let due = u8::from(due);
            text.push_str(&format!(
                "# TYPE corbel_api_certificate_rotation_due gauge\ncorbel_api_certificate_rotation_due {due}\n"
            ));
        }
    }
}

/// Which service a certificate is for.
fn identify(certificate: &[u8], trust_domain: &str) -> Result<Caller, &'static str> {
    let leaf = Leaf::parse(certificate).map_err(|_| "the certificate cannot be read")?;
    let id = leaf.uri()?;
    if id.len() > LONGEST_ID {
        return Err("the certificate's URI is longer than 2048 bytes");
    }
    let rest = id.strip_prefix("spiffe://").ok_or("the certificate's URI is no SPIFFE ID")?;
    let (domain, path) = rest.split_once('/').ok_or("the certificate's SPIFFE ID has no path")?;
    if domain != trust_domain {
        return Err("the certificate is of another trust domain");
    }
    let service = Service::ALL.into_iter().find(|service| path.strip_prefix("svc/") == Some(service.name()));
    let service =
        service.ok_or("the certificate's SPIFFE ID names none of svc/vm, svc/net and svc/storage")?;
    Ok(Caller { principal: Principal::Service(service, leaf.pin), key: leaf.spki.to_vec() })
}
