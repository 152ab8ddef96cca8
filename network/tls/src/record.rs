//! Records under the keys of a connection (RFC 8446, section 5).

use crate::provider::aead;
use network_tls_cipher::Cipher;
use network_tls_cipher::gcm::{Forged, TAG};
use rustls::ConnectionTrafficSecrets;

/// Bytes of a record's header.
pub(crate) const HEADER: usize = 5;
/// The most bytes a record carries.
pub(crate) const LONGEST_PLAIN: usize = 1 << 14;
/// The most bytes after a record's header.
pub(crate) const LONGEST_SEALED: usize = LONGEST_PLAIN + 256;
/// What a record costs: its header, the byte that says what it carries, and the tag.
pub(crate) const OVERHEAD: usize = HEADER + 1 + TAG;

/// What a record carries.
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

/// One direction of a connection: its key, and how many records it has seen.
pub(crate) struct Half {
    cipher: Cipher,
    iv: [u8; 12],
    sequence: u64,
    limit: u64,
}

impl Half {
    /// Keys as rustls gives them out; `None` for a cipher that is not ours.
    pub(crate) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        let (cipher, iv, limit) = aead::from_secrets(secrets)?;
        Some(Self { cipher, iv, sequence, limit })
    }

    /// How many more records this key may seal.
    pub(crate) fn records_left(&self) -> u64 {
        self.limit.saturating_sub(self.sequence)
    }

    /// Pretend that the cipher allows fewer records.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, records: u64) {
        self.limit = records;
    }

    fn next_nonce(&mut self) -> Option<[u8; 12]> {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence = self.sequence.checked_add(1)?;
        Some(nonce)
    }

    /// Make a record of `record`, where the bytes to carry already lie behind a gap for the header and before one of
    /// `OVERHEAD - HEADER` bytes. `None` when that is not possible, which no caller sees: the key is replaced before.
    pub(crate) fn seal(&mut self, carries: u8, record: &mut [u8]) -> Option<()> {
        let length = u16::try_from(record.len().checked_sub(HEADER)?).ok()?.to_be_bytes();
        let header = [DATA, 3, 3, length[0], length[1]];
        let nonce = self.next_nonce()?;
        record[..HEADER].copy_from_slice(&header);
        let (data, tag) = record[HEADER..].split_last_chunk_mut::<TAG>()?;
        *data.last_mut()? = carries;
        *tag = self.cipher.seal(&nonce, &header, data)?;
        Some(())
    }

    /// Open a whole record where it lies; answers what it carries and how many bytes after its header.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Forged> {
        let (header, sealed) = record.split_first_chunk_mut::<HEADER>().ok_or(Forged)?;
        let nonce = self.next_nonce().ok_or(Forged)?;
        let length = self.cipher.open(&nonce, &*header, sealed)?;
        // Behind the byte that says what it carries may be any number of zeros.
        let last = sealed[..length].iter().rposition(|byte| *byte != 0);
        Ok(last
            .map_or(Opened { carries: 0, length: 0 }, |last| Opened { carries: sealed[last], length: last }))
    }
}

/// What a record carried. Nothing but padding is kind 0, which does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) carries: u8,
    pub(crate) length: usize,
}
