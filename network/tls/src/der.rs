//! Certificates and keys as people hand them over.

use alloc::vec;
use alloc::vec::Vec;
use base64ct::{Base64, Encoding};

/// The bytes of a certificate or key whose base64 this is, as it stands between the lines BEGIN and END of a PEM file, without
/// its white space (RFC 7468 section 3). `None` if it is none, or none of any bytes.
pub fn der(base64: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; base64.len() / 4 * 3];
    let length = Base64::decode(base64, &mut bytes).ok()?.len();
    bytes.truncate(length);
    (length > 0).then_some(bytes)
}
