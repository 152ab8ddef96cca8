//! The document that comes by VMware's guestinfo: as it is, or in base64, for a value of a VMX file is one line.

use super::{Channel, Error, LONGEST};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

/// The variable, and the one that says how its value is encoded.
const NOTE: &str = "guestinfo.corbel.config";
const ENCODING: &str = "guestinfo.corbel.config.encoding";
/// Names of base64, as cloud-init has them.
const BASE64: [&[u8]; 2] = [b"base64", b"b64"];
/// The longest value: base64 makes four bytes of three, and may be in lines.
const LONGEST_NOTE: usize = LONGEST / 2 * 3;
/// The longest name of an encoding.
const LONGEST_NAME: usize = 64;

/// What is noted for us, read by `read`, which takes a variable and how long it may be; `None` where nothing is.
///
/// # Errors
/// A value that cannot be read, or is encoded in another way.
pub fn document<E: Display>(
    read: impl Fn(&str, usize) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Vec<u8>>, Error> {
    let get = |key: &str, longest| read(key, longest).map_err(|error| refused(key, error.to_string()));
    let Some(mut value) = get(NOTE, LONGEST_NOTE)? else { return Ok(None) };
    match get(ENCODING, LONGEST_NAME)?.as_deref().map(<[u8]>::trim_ascii) {
        None | Some(b"") => Ok(Some(value)),
        Some(name) if BASE64.contains(&name) => {
            value.retain(|byte| !byte.is_ascii_whitespace());
            let text = String::from_utf8(value).ok();
            let document = text.and_then(|text| network_tls::der(&text));
            document.map(Some).ok_or_else(|| refused(NOTE, "is no base64, as its encoding says".to_string()))
        }
        Some(_) => Err(refused(ENCODING, "expected base64, or nothing".to_string())),
    }
}

fn refused(key: &str, reason: String) -> Error {
    Error { channel: Some(Channel::GuestInfo), key: key.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: Option<&[u8]>, encoding: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let read = |key: &str, longest: usize| {
            let found = match key {
                NOTE => value,
                ENCODING => encoding,
                _ => panic!("{key}"),
            };
            match found {
                Some(found) if found.len() > longest => Err("the value is too long"),
                found => Ok(found.map(<[u8]>::to_vec)),
            }
        };
        document(read).map_err(|error| error.to_string())
    }

    #[test]
    fn a_note_is_the_document_as_it_is_or_in_base64() {
        let plain = b"api=80 log=info".to_vec();
        assert_eq!(told(None, None), Ok(None));
        assert_eq!(told(None, Some(b"base64")), Ok(None));
        assert_eq!(told(Some(&plain), None), Ok(Some(plain.clone())));
        assert_eq!(told(Some(&plain), Some(b"")), Ok(Some(plain.clone())));
        for text in [&b"YXBpPTgwIGxvZz1pbmZv"[..], b"YXBpPTgw\r\nIGxvZz1p\nbmZv\n"] {
            for name in [&b"base64"[..], b"b64", b" base64\n"] {
                assert_eq!(told(Some(text), Some(name)), Ok(Some(plain.clone())));
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_variable_that_says_it() {
        let refused = |value: &[u8], encoding| told(Some(value), encoding).unwrap_err();
        assert_eq!(
            refused(b"x", Some(b"gzip+base64")),
            "configuration: guestinfo.corbel.config: guestinfo.corbel.config.encoding: expected base64, or nothing"
        );
        for value in [&b"api=80"[..], b"YXBpPTgw=", b"\xff\xff\xff\xff"] {
            assert!(refused(value, Some(b"base64")).ends_with("is no base64, as its encoding says"));
        }
        assert!(refused(&[b'a'; LONGEST_NOTE + 1], None).ends_with("too long"));
    }
}
