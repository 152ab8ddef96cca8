//! The three ciphers of TLS 1.3's records (RFC 8446, section B.4), each with a key.
//!
//! AES-GCM goes by a processor's instructions where it has them, found at run time; otherwise, and for
//! ChaCha20-Poly1305, the RustCrypto crates do it. This is a package of its own because it is all of TLS that is built
//! for speed, and because [`gcm`] needs `unsafe`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod gcm;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use alloc::boxed::Box;
use chacha20poly1305::ChaCha20Poly1305;
use gcm::{Forged, Gcm, NONCE, TAG};

/// Which of the ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AES-128-GCM.
    Aes128,
    /// AES-256-GCM.
    Aes256,
    /// ChaCha20-Poly1305.
    ChaCha20,
}

impl Kind {
    /// Bytes of a key.
    #[must_use]
    pub fn key_length(self) -> usize {
        if self == Self::Aes128 { 16 } else { 32 }
    }
}

/// A cipher with its key, which is wiped when it is dropped.
pub struct Cipher(Keyed);

enum Keyed {
    /// AES of either length, by instructions.
    Instructions(Box<Gcm>),
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
    ChaCha20(Box<ChaCha20Poly1305>),
}

impl core::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self.0 {
            Keyed::Instructions(_) => "AES by instructions",
            Keyed::Aes128(_) | Keyed::Aes256(_) => "AES",
            Keyed::ChaCha20(_) => "ChaCha20",
        })
    }
}

impl Cipher {
    /// Prepare a key; `None` when it has not the length that the cipher wants.
    #[must_use]
    pub fn new(kind: Kind, key: &[u8]) -> Option<Self> {
        if key.len() != kind.key_length() {
            return None;
        }
        match kind {
            Kind::Aes128 | Kind::Aes256 if gcm::available() => {
                Some(Self(Keyed::Instructions(Box::new(Gcm::new(key)?))))
            }
            _ => Self::software(kind, key),
        }
    }

    /// The same without instructions.
    fn software(kind: Kind, key: &[u8]) -> Option<Self> {
        Some(Self(match kind {
            Kind::Aes128 => Keyed::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?)),
            Kind::Aes256 => Keyed::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?)),
            Kind::ChaCha20 => Keyed::ChaCha20(Box::new(ChaCha20Poly1305::new_from_slice(key).ok()?)),
        }))
    }

    /// Encrypt where the data lies. A nonce must never come twice with the same key. `None` when the data is longer
    /// than the cipher allows, which no record is.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], data: &mut [u8]) -> Option<[u8; TAG]> {
        let theirs = (*nonce).into();
        match &self.0 {
            Keyed::Instructions(gcm) => (data.len() <= gcm::LONGEST).then(|| gcm.seal(nonce, aad, data)),
            Keyed::Aes128(key) => key.encrypt_inout_detached(&theirs, aad, data.into()).ok().map(Into::into),
            Keyed::Aes256(key) => key.encrypt_inout_detached(&theirs, aad, data.into()).ok().map(Into::into),
            Keyed::ChaCha20(key) => {
                key.encrypt_inout_detached(&theirs, aad, data.into()).ok().map(Into::into)
            }
        }
    }

    /// Decrypt where the data lies; its tag is what follows it. Answers how long the data is without the tag.
    ///
    /// # Errors
    /// [`Forged`] when the tag does not fit, or is not there.
    pub fn open(&self, nonce: &[u8; NONCE], aad: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let theirs = (*nonce).into();
        let (data, tag) = sealed.split_last_chunk_mut::<TAG>().ok_or(Forged)?;
        let length = data.len();
        let opened = match &self.0 {
            Keyed::Instructions(gcm) => gcm.open(nonce, aad, data, tag).is_ok(),
            Keyed::Aes128(key) => {
                key.decrypt_inout_detached(&theirs, aad, data.into(), &(*tag).into()).is_ok()
            }
            Keyed::Aes256(key) => {
                key.decrypt_inout_detached(&theirs, aad, data.into(), &(*tag).into()).is_ok()
            }
            Keyed::ChaCha20(key) => {
                key.decrypt_inout_detached(&theirs, aad, data.into(), &(*tag).into()).is_ok()
            }
        };
        if opened { Ok(length) } else { Err(Forged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn what_instructions_seal_software_opens_and_the_other_way_round() {
        let nonce = [3; 12];
        for length in [0, 1, 15, 16, 17, 127, 128, 129, 16_385] {
            let plain: Vec<u8> = (0..length).map(|index| index as u8).collect();
            for kind in [Kind::Aes128, Kind::Aes256, Kind::ChaCha20] {
                let key = &[9; 32][..kind.key_length()];
                let (found, software) =
                    (Cipher::new(kind, key).unwrap(), Cipher::software(kind, key).unwrap());
                for (one, other) in [(&found, &software), (&software, &found)] {
                    let mut data = plain.clone();
                    let tag = one.seal(&nonce, b"aad", &mut data).unwrap();
                    data.extend(tag);
                    assert_eq!(other.open(&nonce, b"aad", &mut data), Ok(length));
                    assert_eq!(data[..length], plain[..]);
                    assert_eq!(other.open(&nonce, b"add", &mut data), Err(Forged));
                }
            }
        }
    }

    #[test]
    fn what_is_shorter_than_a_tag_is_forged() {
        for kind in [Kind::Aes128, Kind::Aes256, Kind::ChaCha20] {
            let cipher = Cipher::new(kind, &[1; 32][..kind.key_length()]).unwrap();
            for length in 0..TAG {
                assert_eq!(cipher.open(&[0; 12], b"", &mut [0; TAG][..length]), Err(Forged));
            }
            assert!(Cipher::new(kind, &[1; 31]).is_none());
            assert!(Cipher::software(kind, &[1; 31]).is_none());
        }
    }
}
