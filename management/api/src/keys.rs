//! The appliance's key and certificate.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How it is with a certificate of the appliance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CertificateView {
    /// Whether an authority made it; one that the appliance signed itself lets nobody do anything but enrol it.
    pub enrolled: bool,
    /// When it begins to be valid, in seconds since 1970.
    pub not_before: u64,
    /// When it ceases to be.
    pub not_after: u64,
    /// Whole days until then, none when that is past; absent, as the next, where the time is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_left: Option<u64>,
    /// Whether two thirds of its life are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_due: Option<bool>,
}

/// The appliance's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeysView {
    /// The certificate in use.
    pub certificate: CertificateView,
    /// The key that waits for its certificate, if there is one: the SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// What an authority makes a certificate of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CertificateRequestView {
    /// PKCS#10 (RFC 2986) in PEM.
    pub request: String,
    /// The SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
    pub key: String,
    /// That it is of the appliance that was given the join token: HMAC-SHA256 with the token as key, over
    /// `corbel-enrol-request`, a byte of zero and the request in DER; in hexadecimal. Only before it is enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// The body of `POST /v1/enrol`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The certificate of the requested key, then those between it and its authority: base64 of DER, up to 6.
    pub certificates: Vec<String>,
    /// That it is of whoever gave the join token: HMAC-SHA256 with the token as key, over `corbel-enrol-certificate`, a byte
    /// of zero and the certificates in DER one behind the other; in hexadecimal.
    pub proof: String,
}

/// The body of `PUT /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CertificateDocument {
    /// The certificate of the key that waits, then those between it and its authority: base64 of DER, up to 6.
    pub certificates: Vec<String>,
}
