//! Secrets, and the hashes that prove one without showing it.
//!
//! What is hashed is one short message that lies in memory, so the compression functions are used as they are, and one
//! padding serves three of them: a quarter of the code that four streaming hashes would be.

use alloc::boxed::Box;
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Fewest bytes of a secret: 96 bits, below which RFC 7143 (9.2.1) would have IPsec beside it.
pub const MIN_SECRET: usize = 12;
/// Most bytes of a secret.
pub const MAX_SECRET: usize = 255;
/// Most bytes of a challenge (12.1.3).
pub(crate) const MAX_CHALLENGE: usize = 1024;
/// Most bytes of a response, which is a hash.
pub(crate) const MAX_HASH: usize = 32;

/// Bytes of the message with its padding.
const MESSAGE: usize = (1 + MAX_SECRET + MAX_CHALLENGE + SPONGE).next_multiple_of(8);
/// Bytes that SHA3-256 takes at a time.
const SPONGE: usize = 136;

/// A hash that CHAP may be done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hash {
    Md5,
    Sha1,
    Sha256,
    Sha3,
}

/// The hashes, with the numbers that IANA gives them for CHAP, what people call them, and the bytes they have.
const TABLE: [(Hash, u8, &str, usize); 4] = [
    (Hash::Md5, 5, "md5", 16),
    (Hash::Sha1, 6, "sha1", 20),
    (Hash::Sha256, 7, "sha-256", 32),
    (Hash::Sha3, 8, "sha3-256", 32),
];

impl Hash {
    /// The number of CHAP_A.
    pub(crate) const fn number(self) -> u8 {
        TABLE[self as usize].1
    }

    /// Bytes of the hash.
    pub(crate) const fn length(self) -> usize {
        TABLE[self as usize].3
    }

    /// The response to a challenge (RFC 1994 section 4.1): the hash of identifier, secret and challenge. All but the
    /// first [`Self::length`] bytes are zero. Of a challenge that is too long only the beginning counts.
    pub(crate) fn respond(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> [u8; MAX_HASH] {
        let mut message = Zeroizing::new([0; MESSAGE]);
        message[0] = identifier;
        let secret = &secret[..secret.len().min(MAX_SECRET)];
        let challenge = &challenge[..challenge.len().min(MAX_CHALLENGE)];
        let (middle, end) = (1 + secret.len(), 1 + secret.len() + challenge.len());
        message[1..middle].copy_from_slice(secret);
        message[middle..end].copy_from_slice(challenge);
        self.of(&mut message, end)
    }

    /// The hash of the message's first `length` bytes, behind which all are zero.
    fn of(self, message: &mut [u8; MESSAGE], length: usize) -> [u8; MAX_HASH] {
        if self == Self::Sha3 {
            return sponge(message, length);
        }
        // FIPS 180-4, 5.1.1; RFC 1321, 3.1 and 3.2, which has the length the other way round.
        message[length] = 0x80;
        let end = (length + 9).next_multiple_of(64);
        let bits = (length as u64) << 3;
        let bits = if self == Self::Md5 { bits.to_le_bytes() } else { bits.to_be_bytes() };
        message[end - 8..end].copy_from_slice(&bits);
        let blocks = message[..end].as_chunks().0;
        let mut state = match self {
            Self::Sha256 => SHA256,
            _ => SHA1,
        };
        match (self, &mut state) {
            (Self::Md5, [a, b, c, d, ..]) => {
                let mut words = [*a, *b, *c, *d];
                md5::block_api::compress(&mut words, blocks);
                [*a, *b, *c, *d] = words;
            }
            (Self::Sha1, [a, b, c, d, e, ..]) => {
                let mut words = [*a, *b, *c, *d, *e];
                sha1::block_api::compress(&mut words, blocks);
                [*a, *b, *c, *d, *e] = words;
            }
            (_, state) => sha2::block_api::compress256(state, blocks),
        }
        let mut hash = [0; MAX_HASH];
        for (place, word) in hash[..self.length()].as_chunks_mut().0.iter_mut().zip(state) {
            *place = if self == Self::Md5 { word.to_le_bytes() } else { word.to_be_bytes() };
        }
        hash
    }
}

/// Where SHA-1 begins (FIPS 180-4, 5.3.1), and MD5 with the first four of its words.
const SHA1: [u32; 8] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];
/// Where SHA-256 begins (5.3.3).
const SHA256: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// SHA3-256 (FIPS 202, 6.1).
fn sponge(message: &mut [u8; MESSAGE], length: usize) -> [u8; MAX_HASH] {
    let end = (length + 1).next_multiple_of(SPONGE);
    message[length] |= 0x06;
    message[end - 1] |= 0x80;
    let mut state = [0_u64; 25];
    for block in message[..end].chunks_exact(SPONGE) {
        for (lane, word) in state.iter_mut().zip(block.as_chunks().0) {
            *lane ^= u64::from_le_bytes(*word);
        }
        keccak::Keccak::new().with_f1600(|f1600| f1600(&mut state));
    }
    let mut hash = [0; MAX_HASH];
    for (place, lane) in hash.as_chunks_mut().0.iter_mut().zip(state) {
        *place = lane.to_le_bytes();
    }
    hash
}

/// The algorithms that may be used; each is chosen in the order in which the initiator names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Algorithms(u8);

impl Algorithms {
    /// MD5, SHA-1, SHA-256 and SHA3-256.
    pub const ALL: Self = Self(0b1111);

    /// Read a list of names with commas between: `md5`, `sha1`, `sha-256`, `sha3-256`. `None` for any other name.
    pub fn parse(list: &str) -> Option<Self> {
        list.split(',').try_fold(Self(0), |Self(mask), name| {
            let row = TABLE.iter().find(|row| row.2 == name)?;
            Some(Self(mask | 1 << row.0 as u8))
        })
    }

    /// The first number of a CHAP_A that may be used.
    pub(crate) fn choose(self, offered: &str) -> Option<Hash> {
        offered.split(',').find_map(|offer| {
            let number = crate::binary::number(offer)?;
            let row = TABLE.iter().find(|row| row.1 == number)?;
            (self.0 & 1 << row.0 as u8 != 0).then_some(row.0)
        })
    }
}

impl Default for Algorithms {
    fn default() -> Self {
        Self::ALL
    }
}

/// A secret. Nothing shows it, and it is wiped when it is not needed any more.
#[derive(Clone)]
pub struct Secret(Zeroizing<Box<[u8]>>);

/// The text is too short or too long for a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotASecret;

impl fmt::Display for NotASecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret has 12 to 255 bytes")
    }
}

impl Secret {
    /// A secret of these bytes.
    ///
    /// # Errors
    /// When there are fewer than [`MIN_SECRET`] or more than [`MAX_SECRET`].
    pub fn new(text: &str) -> Result<Self, NotASecret> {
        let is_one = (MIN_SECRET..=MAX_SECRET).contains(&text.len());
        if is_one { Ok(Self(Zeroizing::new(text.as_bytes().into()))) } else { Err(NotASecret) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn hash(hash: Hash, message: &[u8]) -> Vec<u8> {
        let mut padded = [0; MESSAGE];
        padded[..message.len()].copy_from_slice(message);
        hash.of(&mut padded, message.len())[..hash.length()].to_vec()
    }

    /// The first line of each is of RFC 1321 (A.5), FIPS 180-4's and FIPS 202's examples; the second the hash of the hashes
    /// of messages of 0 to 399 bytes, the third a response, both made by OpenSSL.
    #[test]
    fn hashes_are_the_known_ones_at_every_length_around_every_block() {
        for (algorithm, abc, many, response) in [
            (
                Hash::Md5,
                "900150983cd24fb0d6963f7d28e17f72",
                "023ddd0e481725ebfadfc72d28d2ce6d",
                "99ea25f6daeea9269ed97e38b7d1d283",
            ),
            (
                Hash::Sha1,
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                "45effe12c48cb3702970faf8fca90054420d5c20",
                "6fbd84461f079a653ac29f683f505958cf377c67",
            ),
            (
                Hash::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "986170629f38c704cea9d282396ae2b468ba43a2f0c65ea9e4cf15b0eb82bf8e",
                "ff1ded0d80948d9109bccb456a4784886fe79f655187da8bc549df53ab222ca6",
            ),
            (
                Hash::Sha3,
                "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
                "5eefab126ce48533807af6b61182c942965c9bc93d44e3966ea46484e3f059aa",
                "9300024eb2ac74ed9d5fc61780f7d935ba3a12b1e87e3730a4f8f2ed5cad0de2",
            ),
        ] {
            assert_eq!(hex(&hash(algorithm, b"abc")), abc, "{algorithm:?}");
            let mut all = Vec::new();
            let mut chunk = Vec::new();
            for length in 0..400_usize {
                chunk.clear();
                chunk.extend((0..length).map(|at| (at * 7 + length) as u8));
                all.extend(hash(algorithm, &chunk));
            }
            assert_eq!(hex(&long(algorithm, &all)), many, "{algorithm:?}");
            let challenge: Vec<u8> = (1..=16).collect();
            let made = algorithm.respond(0x37, b"a secret of 12+", &challenge);
            assert_eq!(hex(&made[..algorithm.length()]), response, "{algorithm:?}");
            assert!(made[algorithm.length()..].iter().all(|&byte| byte == 0));
        }
    }

    /// A hash over more than a message, by what the crates make of it themselves.
    fn long(algorithm: Hash, bytes: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        match algorithm {
            Hash::Md5 => md5::Md5::digest(bytes).to_vec(),
            Hash::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Hash::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Hash::Sha3 => {
                let (mut state, mut padded) = ([0_u64; 25], bytes.to_vec());
                padded.push(6);
                padded.resize(padded.len().next_multiple_of(SPONGE), 0);
                *padded.last_mut().unwrap() |= 0x80;
                for block in padded.chunks_exact(SPONGE) {
                    for (lane, word) in state.iter_mut().zip(block.as_chunks().0) {
                        *lane ^= u64::from_le_bytes(*word);
                    }
                    keccak::Keccak::new().with_f1600(|f1600| f1600(&mut state));
                }
                state.iter().flat_map(|lane| lane.to_le_bytes()).take(32).collect()
            }
        }
    }

    #[test]
    fn the_longest_secret_and_challenge_have_room_and_more_is_cut_off() {
        for algorithm in [Hash::Md5, Hash::Sha1, Hash::Sha256, Hash::Sha3] {
            let (secret, challenge) = ([1; MAX_SECRET], [2; MAX_CHALLENGE]);
            let whole = algorithm.respond(3, &secret, &challenge);
            assert_eq!(whole, algorithm.respond(3, &[1; MAX_SECRET + 1], &[2; MAX_CHALLENGE + 1]));
            assert_ne!(whole, algorithm.respond(3, &secret, &challenge[1..]));
        }
    }

    #[test]
    fn an_algorithm_is_chosen_in_the_order_of_the_initiator_among_those_allowed() {
        let some = Algorithms::parse("sha-256,md5").unwrap();
        for (offered, chosen) in [
            ("5,6,7,8", Some(5)),
            ("8,7,6,5", Some(7)),
            ("6,0x7", Some(7)),
            ("6,8", None),
            ("", None),
            ("5 ", None),
            ("+5", None),
            ("261", None),
            ("1,2,3,99,x,,5", Some(5)),
        ] {
            assert_eq!(some.choose(offered).map(Hash::number), chosen, "{offered}");
        }
        assert_eq!(Algorithms::ALL.choose("8").map(Hash::number), Some(8));
        assert_eq!(Algorithms::parse("md5,sha1,sha-256,sha3-256"), Some(Algorithms::ALL));
        assert!(["", "sha256", "md5,", "MD5"].iter().all(|list| Algorithms::parse(list).is_none()));
    }

    #[test]
    fn a_secret_has_96_bits_and_is_not_shown() {
        assert!(Secret::new(&"x".repeat(11)).is_err() && Secret::new(&"x".repeat(256)).is_err());
        let secret = Secret::new("x marks the spot").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret, Secret::new("x marks the spot").unwrap());
        assert_ne!(secret, Secret::new("x marks the spot.").unwrap());
    }
}
