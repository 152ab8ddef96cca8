//! A secret that two know and neither says: what proves that a message is from the other.

use alloc::string::String;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A token, of at least 128 bits of randomness in text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Take the text of one: 22 to 128 printable characters of ASCII, which is what 128 random bits take in base64.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (22..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(Zeroizing::new(text.into())))
    }

    /// What the token is called where it must not be told: its SHA-256.
    #[must_use]
    pub fn name(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    fn mac(&self, purpose: &str, message: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(message);
        Some(mac)
    }

    /// HMAC-SHA256 (RFC 2104) with the token as its key, over what the message is for, a byte of zero, and the message.
    #[must_use]
    pub fn proof(&self, purpose: &str, message: &[u8]) -> [u8; 32] {
        self.mac(purpose, message).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
    }

    /// Whether it is that, in constant time.
    #[must_use]
    pub fn accepts(&self, purpose: &str, message: &[u8], proof: &[u8]) -> bool {
        self.mac(purpose, message).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}
