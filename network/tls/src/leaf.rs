//! What the appliance itself wants of a certificate: whose key, until when, and the URIs that it names its holder by.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use der::asn1::{AnyRef, GeneralizedTime, ObjectIdentifier, UtcTime};
use der::{Decode, Reader, SliceReader, Tag, TagNumber};
use sha2::{Digest, Sha256};

/// subjectAltName (RFC 5280, section 4.2.1.6).
pub(crate) const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// The choice of a GeneralName that is a URI.
const URI: Tag = Tag::ContextSpecific { constructed: false, number: TagNumber(6) };
/// The wrapping of a certificate's extensions.
const EXTENSIONS: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber(3) };
/// The wrapping of a certificate's version.
const VERSION: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };

/// The SHA-256 of a SubjectPublicKeyInfo: the name of a key that needs no authority.
///
/// It is written as 64 hexadecimal digits, as `openssl pkey -pubout -outform der | sha256sum` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a key, of its SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// This text is no [`Pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPin;

impl fmt::Display for NoPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected the SHA-256 of a public key as 64 hexadecimal digits")
    }
}

impl core::error::Error for NoPin {}

impl FromStr for Pin {
    type Err = NoPin;

    fn from_str(text: &str) -> Result<Self, NoPin> {
        let mut pin = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(NoPin) };
        if pairs.len() != pin.len() {
            return Err(NoPin);
        }
        for (byte, [high, low]) in pin.iter_mut().zip(pairs) {
            let digit = |digit: &u8| char::from(*digit).to_digit(16).ok_or(NoPin);
            *byte = u8::try_from(digit(high)? << 4 | digit(low)?).map_err(|_| NoPin)?;
        }
        Ok(Self(pin))
    }
}

/// A certificate's own words (RFC 5280, section 4.1), of one in DER. Whether they are true is for whoever verifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Its key.
    pub pin: Pin,
    /// The same whole: SubjectPublicKeyInfo in DER.
    pub spki: &'a [u8],
    /// When it begins to be valid, in seconds since 1970.
    pub not_before: u64,
    /// When it ceases to be.
    pub not_after: u64,
    /// What is in its subjectAltName, if it has one.
    names: Option<&'a [u8]>,
}

impl<'a> Leaf<'a> {
    /// Look at a certificate.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn parse(certificate: &'a [u8]) -> Result<Self, String> {
        Self::read(certificate).map_err(|error| format!("not a certificate of X.509: {error}"))
    }

    fn read(certificate: &'a [u8]) -> der::Result<Self> {
        // `Certificate`, and in it `TBSCertificate`.
        let outer = AnyRef::from_der(certificate)?;
        let mut outer = SliceReader::new(outer.value())?;
        let inner = AnyRef::decode(&mut outer)?;
        let mut fields = SliceReader::new(inner.value())?;
        if Tag::peek(&fields)? == VERSION {
            AnyRef::decode(&mut fields)?;
        }
        for _ in ["serialNumber", "signature", "issuer"] {
            AnyRef::decode(&mut fields)?;
        }
        let validity = AnyRef::decode(&mut fields)?;
        let mut validity = SliceReader::new(validity.value())?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let _subject = AnyRef::decode(&mut fields)?;
        let spki = fields.tlv_bytes()?;
        let mut names = None;
        while !fields.is_finished() {
            let field = AnyRef::decode(&mut fields)?;
            if field.header().tag() == EXTENSIONS {
                names = alternative_names(AnyRef::from_der(field.value())?.value())?;
            }
        }
        Ok(Self { pin: Pin::of(spki), spki, not_before, not_after, names })
    }

    /// The one URI in its subjectAltName, as SPIFFE demands of an X.509-SVID (section 2).
    ///
    /// # Errors
    /// Why there is none: no name at all, no URI, more than one, or one that is not printable ASCII.
    pub fn uri(&self) -> Result<&'a str, &'static str> {
        let names = self.names.ok_or("the certificate has no subjectAltName")?;
        let mut found = None;
        let mut names = SliceReader::new(names).map_err(|_| DAMAGED)?;
        while !names.is_finished() {
            let name = AnyRef::decode(&mut names).map_err(|_| DAMAGED)?;
            if name.header().tag() == URI && found.replace(name.value()).is_some() {
                return Err("the certificate has more than one URI in its subjectAltName");
            }
        }
        let uri = found.ok_or("the certificate has no URI in its subjectAltName")?;
        let uri =
            core::str::from_utf8(uri).ok().filter(|uri| uri.bytes().all(|byte| byte.is_ascii_graphic()));
        uri.ok_or("the URI in the certificate's subjectAltName is none")
    }
}

const DAMAGED: &str = "the certificate's subjectAltName is damaged";

/// The value of subjectAltName among the extensions.
fn alternative_names(extensions: &[u8]) -> der::Result<Option<&[u8]>> {
    let mut extensions = SliceReader::new(extensions)?;
    while !extensions.is_finished() {
        let extension = AnyRef::decode(&mut extensions)?;
        let mut fields = SliceReader::new(extension.value())?;
        let id = ObjectIdentifier::decode(&mut fields)?;
        let mut value = AnyRef::decode(&mut fields)?;
        if value.header().tag() == Tag::Boolean {
            value = AnyRef::decode(&mut fields)?;
        }
        if id == SUBJECT_ALT_NAME {
            return Ok(Some(AnyRef::from_der(value.value())?.value()));
        }
    }
    Ok(None)
}

fn time(reader: &mut SliceReader<'_>) -> der::Result<u64> {
    let time = match Tag::peek(reader)? {
        Tag::UtcTime => UtcTime::decode(reader)?.to_unix_duration(),
        _ => GeneralizedTime::decode(reader)?.to_unix_duration(),
    };
    Ok(time.as_secs())
}
