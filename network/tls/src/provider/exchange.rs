//! Key exchange: X25519 (RFC 7748), and secp256r1 for peers that are bound to NIST's curves.

use super::Random;
use alloc::boxed::Box;
use alloc::vec::Vec;
use p256::elliptic_curve::sec1::ToSec1Point;
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::{Zeroize, Zeroizing};

/// How often a number that is no key is thrown away; that it happens once has a chance of one in 2^32.
const TRIES: usize = 4;

/// The groups in the order of preference.
pub(super) fn groups(random: &'static dyn Random) -> Vec<&'static dyn SupportedKxGroup> {
    [Box::leak(Box::new(X25519(random))) as &dyn SupportedKxGroup, Box::leak(Box::new(P256(random)))].into()
}

#[derive(Debug)]
struct X25519(&'static dyn Random);

#[derive(Debug)]
struct P256(&'static dyn Random);

fn draw(random: &dyn Random) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut secret = Zeroizing::new([0; 32]);
    random.fill(&mut secret[..]).map_err(|_| Error::from(GetRandomFailed))?;
    Ok(secret)
}

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = draw(self.0)?;
        let public = x25519(*secret, X25519_BASEPOINT_BYTES);
        Ok(Box::new(OverX25519 { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct OverX25519 {
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl ActiveKeyExchange for OverX25519 {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let peer = peer_pub_key.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let mut shared = x25519(*self.secret, peer);
        // A peer that sends a point of small order would choose the secret (RFC 8446, section 7.4.2).
        if shared.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let secret = SharedSecret::from(&shared[..]);
        shared.zeroize();
        Ok(secret)
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl SupportedKxGroup for P256 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        for _ in 0..TRIES {
            if let Ok(secret) = p256::SecretKey::from_slice(&draw(self.0)?[..]) {
                let public = secret.public_key().to_sec1_point(false).as_bytes().into();
                return Ok(Box::new(OverP256 { secret, public }));
            }
        }
        Err(GetRandomFailed.into())
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

struct OverP256 {
    secret: p256::SecretKey,
    public: Box<[u8]>,
}

impl ActiveKeyExchange for OverP256 {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        // TLS 1.3 has uncompressed points only (RFC 8446, section 4.2.8.2).
        let uncompressed = peer_pub_key.first() == Some(&4);
        let peer = p256::PublicKey::from_sec1_bytes(peer_pub_key).ok().filter(|_| uncompressed);
        let peer = peer.ok_or(PeerMisbehaved::InvalidKeyShare)?;
        let shared = p256::ecdh::diffie_hellman(self.secret.to_nonzero_scalar(), peer.as_affine());
        Ok(SharedSecret::from(&shared.raw_secret_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}
