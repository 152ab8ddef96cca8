//! What happens to a certificate's dates when nobody knows what time it is.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// What to do where the time is not known, as on a machine whose clock was not read. The operator says it; there is
/// no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    /// Without the time there is no connection: [`SetupError::NoTime`](crate::SetupError::NoTime).
    MustBeChecked,
    /// With the time the dates are checked. Without, they are not: a certificate that expired, and one whose key was
    /// stolen after it expired, is as good as a fresh one. Everything else is checked all the same: who made it, for
    /// whom, for what, and that there is one moment at which the whole chain was valid.
    CheckedWhenTimeIsKnown,
}

/// How often a moment is looked for: once for each certificate of a chain, which rustls bounds by itself.
const TRIES: usize = 8;

/// The time of one connection.
#[derive(Debug)]
pub(crate) struct Moment(pub(crate) Option<u64>);

impl TimeProvider for Moment {
    /// The beginning of time where it is not known: it is never compared with a date, see [`at_some_moment`].
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0.unwrap_or(0)))
    }
}

fn unix(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Check at a moment at which the chain is valid, if there is one: each certificate that is not valid yet tells when it
/// will be, so the moment only moves forward; one that is over by then has no moment in common with the others.
fn at_some_moment<T>(mut check: impl FnMut(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    let mut moment = unix(0);
    for _ in 0..TRIES {
        match check(moment) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                if not_before > moment =>
            {
                moment = not_before;
            }
            outcome => return outcome,
        }
    }
    Err(CertificateError::NotValidYet.into())
}

/// Checks a server as rustls does, but for the dates.
#[derive(Debug)]
pub(crate) struct AnyDate<V: ?Sized>(pub(crate) Arc<V>);

impl<V: ServerCertVerifier + ?Sized> ServerCertVerifier for AnyDate<V> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        at_some_moment(|moment| {
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, moment)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The same for clients.
#[derive(Debug)]
pub(crate) struct AnyDateClient(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyDateClient {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        at_some_moment(|moment| self.0.verify_client_cert(end_entity, intermediates, moment))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
