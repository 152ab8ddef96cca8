//! What challenges to initiators are made of.

use crate::shared::Shared;
use alloc::sync::Arc;
use network_tls::{NoEntropy, Random};
use storage_iscsi::chap::{Nonce, RANDOM};

/// Randomness fit for secrets, and the key that marks challenges as ours.
pub(crate) struct Challenger {
    random: Arc<dyn Random>,
    key: [u8; 16],
}

impl Challenger {
    pub(crate) fn new(random: Arc<dyn Random>) -> Result<Self, NoEntropy> {
        let mut key = [0; 16];
        random.fill(&mut key)?;
        Ok(Self { random, key })
    }
}

impl Shared {
    /// What the next attempt to log in is made of; none while there is no randomness.
    pub(crate) fn nonce(&self) -> Option<Nonce> {
        let Challenger { random, key } = self.challenger.get()?;
        let mut fresh = [0; RANDOM];
        random.fill(&mut fresh).ok()?;
        Some(Nonce::new(&fresh, *key))
    }
}
