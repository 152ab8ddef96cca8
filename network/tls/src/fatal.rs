//! Why a connection ends.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::Deref;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::{CertificateError, Error};

/// The connection is over. What [`Connection::poll_transmit`](crate::Connection::poll_transmit) still has is the alert
/// that tells the peer; send it if that costs no waiting, and close.
///
/// The words of each are for a log. None contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The peer's certificate is not accepted, and why. It will not be by trying again: an operator must look.
    Certificate(Distrust),
    /// The peer ended the connection by the alert of this name (RFC 8446, section 6.2). When it is
    /// `CertificateRequired`, `BadCertificate` or `UnknownCA`, it does not like our certificate. In TLS 1.3 a client
    /// hears so only after it believes to be connected.
    Refused(String),
    /// The two have no version, suite or signature in common.
    Incompatible(String),
    /// The peer does not keep to the protocol, or does not speak TLS.
    Protocol(String),
    /// A record was not made with the key of this connection: it was changed on the way.
    Forged,
    /// A message of the handshake is longer than the buffer for what comes in.
    TooLong,
    /// The stream ended without the peer's farewell: what is missing may have been cut off by anybody.
    Truncated,
    /// The fault is here, not with the peer.
    Here(String),
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust {
    name: &'static str,
    words: String,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Deref for Distrust {
    type Target = str;

    /// In words.
    fn deref(&self) -> &str {
        &self.words
    }
}

impl Fatal {
    /// What kind of end it is, for counters: one of `no-certificate`, `expired`, `not-yet-valid`, `unknown-authority`,
    /// `certificate` (bad for another reason), `incompatible`, `not-tls`, `refused-by-peer`, `left` and `here`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Certificate(why) => why.name,
            Self::Refused(_) => "refused-by-peer",
            Self::Incompatible(_) => "incompatible",
            Self::Protocol(_) | Self::Forged | Self::TooLong => "not-tls",
            Self::Truncated => "left",
            Self::Here(_) => "here",
        }
    }

    /// Whether trying again can only help after somebody has changed a certificate, a key or a setting.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::Certificate(_) | Self::Refused(_) | Self::Incompatible(_))
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(why) => write!(f, "the peer's certificate is not accepted: {why}"),
            Self::Refused(alert) => write!(f, "the peer refuses: {alert}"),
            Self::Incompatible(why) => write!(f, "no way of TLS 1.3 in common: {why}"),
            Self::Protocol(why) => write!(f, "the peer does not keep to TLS: {why}"),
            Self::Forged => f.write_str("a record was changed on the way"),
            Self::TooLong => f.write_str("a message of the handshake is longer than its buffer"),
            Self::Truncated => f.write_str("the stream ended before the peer said farewell"),
            Self::Here(why) => write!(f, "TLS cannot go on here: {why}"),
        }
    }
}

impl core::error::Error for Fatal {}

impl From<Error> for Fatal {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => Self::Certificate(certificate(&why)),
            Error::NoCertificatesPresented => {
                Self::Certificate(Distrust { name: "no-certificate", words: "it sent none".into() })
            }
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            Error::PeerIncompatible(why) => Self::Incompatible(format!("{why:?}")),
            Error::DecryptError => Self::Forged,
            Error::InvalidMessage(why) => Self::Protocol(format!("{why:?}")),
            Error::PeerMisbehaved(why) => Self::Protocol(format!("{why:?}")),
            Error::PeerSentOversizedRecord => Self::Protocol("a record is too long".into()),
            error @ (Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. }) => {
                Self::Protocol(error.to_string())
            }
            other => Self::Here(other.to_string()),
        }
    }
}

fn certificate(why: &CertificateError) -> Distrust {
    let name = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not-yet-valid",
        CertificateError::UnknownIssuer => "unknown-authority",
        _ => "certificate",
    };
    Distrust { name, words: words(why) }
}

/// rustls's words, or ours where its own are none, and what usually helps.
fn words(why: &CertificateError) -> String {
    match why {
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => format!(
            "not valid for name {}: it has no subjectAltName, and a common name alone does not count",
            name(expected)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("not valid for name {}: it is for {}", name(expected), presented.join(", "))
        }
        CertificateError::UnknownIssuer => "none of the configured authorities made it".into(),
        // What `pinned` says of a key.
        CertificateError::ApplicationVerificationFailure => "its key is not one that is believed here".into(),
        CertificateError::Other(_) => format!(
            "{why}; a certificate that is itself an authority's cannot be a server's or a client's: give it a \
             certificate of its own"
        ),
        other => other.to_string(),
    }
}

fn name(name: &ServerName<'_>) -> String {
    match name {
        ServerName::DnsName(name) => name.as_ref().into(),
        ServerName::IpAddress(IpAddr::V4(address)) => Ipv4Addr::from(*address.as_ref()).to_string(),
        ServerName::IpAddress(IpAddr::V6(address)) => Ipv6Addr::from(*address.as_ref()).to_string(),
        other => format!("{other:?}"),
    }
}
