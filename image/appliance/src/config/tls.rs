//! TLS to storage services, and of the management API: the keys `tls.…` and `api.tls.…`.
//!
//! A certificate or key is the base64 of its DER: what stands between the lines BEGIN and END of a PEM file, without its
//! white space. Nothing of a value is ever repeated in a message: it may be the private key, under whatever name.

use super::{Error, Keys, conflict};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use network_tls::{Anchors, Dates, Identity};

/// Whom to believe, and who we are: to storage services whose URIs are `nbds://`, or to callers of the API.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that are believed, in DER; they were looked at.
    pub anchors: Vec<Vec<u8>>,
    /// Our own certificate, those between it and its authority, and its private key; they were looked at.
    pub identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    /// What happens to the dates of certificates.
    pub dates: Dates,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (anchors, own) = (self.anchors.len(), self.identity.is_some());
        write!(f, "Tls of {anchors} authorities, own certificate: {own}, {:?}", self.dates)
    }
}

pub(super) fn all(keys: &mut Keys<'_>, prefix: &str) -> Result<Option<Tls>, Error> {
    let key_of = |name: &str| format!("{prefix}.{name}");
    let anchors = keys.take_unseen(&key_of("anchors"), |_, value| {
        let list = certificates(value)?;
        Anchors::from_der(list.clone()).map_err(|error| error.to_string())?;
        Ok(list)
    })?;
    let chain = keys.take_unseen(&key_of("certificate"), |_, value| certificates(value))?;
    let key = keys.take_secret(&key_of("key"), base64)?;
    let dates = keys.take_unseen(&key_of("dates"), |_, value| match value {
        "checked" => Ok(Dates::MustBeChecked),
        "if-known" => Ok(Dates::CheckedWhenTimeIsKnown),
        _ => Err("expected checked or if-known".to_string()),
    })?;
    let missing = |name: &str, beside: &str| missing(&key_of(name), &key_of(beside));
    let Some(anchors) = anchors else {
        let others = [("certificate", chain.is_some()), ("key", key.is_some()), ("dates", dates.is_some())];
        return match others.iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((other, _)) => Err(missing("anchors", other)),
        };
    };
    let identity = match (chain, key) {
        (None, None) => None,
        (Some(_), None) => return Err(missing("key", "certificate")),
        (None, Some(_)) => return Err(missing("certificate", "key")),
        (Some(chain), Some(key)) => {
            Identity::from_der(chain.clone(), key.clone())
                .map_err(|error| conflict(&key_of("key"), error.to_string()))?;
            Some((chain, key))
        }
    };
    let dates = dates.ok_or_else(|| missing("dates", "anchors"))?;
    Ok(Some(Tls { anchors, identity, dates }))
}

pub(super) fn missing(key: &str, beside: &str) -> Error {
    conflict(key, format!("missing beside {beside}"))
}

fn certificates(value: &str) -> Result<Vec<Vec<u8>>, String> {
    value.split(',').map(base64).collect()
}

/// What a PEM file has of it: the standard alphabet, padded.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, String> {
    network_tls::der(text).ok_or_else(|| {
        "expected the base64 between the lines BEGIN and END of a PEM file, in one piece; several with commas between"
            .to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648 section 10.
        let vectors =
            [("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")];
        for (text, bytes) in vectors {
            assert_eq!(base64(text).as_deref(), Ok(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64("+/+/").as_deref(), Ok(&[0xfb, 0xff, 0xbf][..]));
        for text in [
            "",
            "=",
            "====",
            "Zg",
            "Zg=",
            "Z===",
            "Zh==",
            "Zm9=",
            "Zm 9",
            "-----BEGIN",
            "Zg==Zg==",
            "Zm9v_-==",
        ] {
            assert!(base64(text).is_err(), "{text:?}");
        }
    }
}
