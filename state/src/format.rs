//! What stands on the disk. All numbers are little-endian; all checksums are CRC32C.
//!
//! ```text
//!   block 0        label: magic, version, blocks of a half, identity
//!   half 0, 1      head block: magic, nonce, blocks of the snapshot; then records
//!   record         magic, length, nonce of its half, place in its half, checksum; then changes
//! ```

use crate::checksum::crc32c;

/// Bytes of a block: what is written at once begins and ends with one. A record is never written into a block that holds
/// another, so nothing that was acknowledged is ever written over.
pub const BLOCK: usize = 4096;
/// The longest key.
pub const MAX_KEY: usize = 64;
/// The longest value: the reservations of a disk with 64 registrants of the longest names.
pub const MAX_VALUE: usize = 20 << 10;
/// The most bytes that one request reads or writes.
pub const MAX_REQUEST: usize = 24 << 10;
/// The smallest disk, in blocks.
pub const LEAST_BLOCKS: u64 = 1 + 2 * LEAST_HALF as u64;

/// The blocks of each half: on the smallest disk, and at most. What is behind them is for what may come later.
const LEAST_HALF: u32 = 32;
const MOST_HALF: u32 = 256;
/// What the first sector of a block has to itself: less than it is never written.
const SECTOR: usize = 512;
/// Bytes of a record before its changes.
pub(crate) const HEADER: usize = 28;
/// The most blocks of a record.
pub(crate) const RECORD_BLOCKS: usize = MAX_REQUEST / BLOCK;

const LABEL: &[u8; 8] = b"CRBSTATE";
const HEAD: &[u8; 8] = b"CRBHALF\0";
const RECORD: u32 = u32::from_le_bytes(*b"CRBR");
const VERSION: u32 = 1;

/// What a disk says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Blocks of a half.
    pub(crate) half: u32,
    pub(crate) identity: [u8; 16],
}

/// What stands in block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Blank,
    /// A disk of ours.
    Label(Label),
    /// One of ours of another version.
    Version(u32),
    /// Anything else.
    Foreign,
}

impl Label {
    /// That of a disk of so many blocks; `None` if it is too small.
    pub(crate) fn new(blocks: u64, identity: [u8; 16]) -> Option<Self> {
        let half = (blocks.saturating_sub(1) / 2).min(MOST_HALF.into()) as u32;
        (half >= LEAST_HALF).then_some(Self { half, identity })
    }

    /// Blocks of a disk that are in use.
    pub(crate) fn blocks(&self) -> u64 {
        1 + 2 * u64::from(self.half)
    }

    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(LABEL);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.half.to_le_bytes());
        block[16..32].copy_from_slice(&self.identity);
        seal(block);
    }

    pub(crate) fn decode(block: &[u8]) -> Found {
        if block.iter().all(|byte| *byte == 0) {
            return Found::Blank;
        }
        if !block.starts_with(LABEL) || !is_sealed(block) {
            return Found::Foreign;
        }
        let (version, half) = (word(block, 8), word(block, 12));
        let mut identity = [0; 16];
        identity.copy_from_slice(&block[16..32]);
        match version {
            VERSION if (LEAST_HALF..=MOST_HALF).contains(&half) => Found::Label(Self { half, identity }),
            VERSION => Found::Foreign,
            _ => Found::Version(version),
        }
    }
}

/// What a half says of itself, once its snapshot is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Ascends with each snapshot: the half with the higher one counts.
    pub(crate) epoch: u64,
    /// Differs for each snapshot that was ever begun, so that what an older one has left is none of its own.
    pub(crate) nonce: u64,
    /// Blocks of the snapshot, the head among them.
    pub(crate) blocks: u32,
}

impl Head {
    pub(crate) fn encode(&self, identity: &[u8; 16], block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(HEAD);
        block[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        block[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        block[24..28].copy_from_slice(&self.blocks.to_le_bytes());
        block[32..48].copy_from_slice(identity);
        seal(block);
    }

    /// The head of a half of so many blocks; `Ok(None)` where there is none.
    ///
    /// # Errors
    /// Where there is something else.
    pub(crate) fn decode(block: &[u8], label: &Label) -> Result<Option<Self>, ()> {
        if block[..SECTOR].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let head = Self { epoch: long(block, 8), nonce: long(block, 16), blocks: word(block, 24) };
        let is_ours = block.starts_with(HEAD) && is_sealed(block) && block[32..48] == label.identity;
        let is_possible = (1..=label.half).contains(&head.blocks) && head.epoch < u64::MAX;
        if is_ours && is_possible { Ok(Some(head)) } else { Err(()) }
    }
}

/// Write a record's header, with its changes behind it in `bytes`, and zeroes behind those.
pub(crate) fn seal_record(bytes: &mut [u8], length: usize, nonce: u64, place: u32) {
    bytes[length..].fill(0);
    bytes[..4].copy_from_slice(&RECORD.to_le_bytes());
    bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
    bytes[16..20].copy_from_slice(&place.to_le_bytes());
    bytes[20..24].fill(0);
    let checksum = crc32c(&[&bytes[..HEADER - 4], &bytes[HEADER..length]]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// What the beginning of some blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A record, and how many blocks it takes.
    Record(&'a [u8], usize),
    /// Perhaps one of so many blocks, which are not all here.
    Cut,
    /// No record of this half and place, or not all of it.
    Nothing,
    /// One that is not as it was written: its first sector is there, and wrong.
    Damaged,
}

/// The place in its half of the record of this nonce that begins here, whole or not.
pub(crate) fn place(bytes: &[u8], nonce: u64) -> Option<u32> {
    let begins = bytes.len() >= HEADER && word(bytes, 0) == RECORD && long(bytes, 8) == nonce;
    begins.then(|| word(bytes, 16))
}

pub(crate) fn record(bytes: &[u8], nonce: u64, wanted: u32) -> Piece<'_> {
    if place(bytes, nonce) != Some(wanted) {
        return Piece::Nothing;
    }
    let length = word(bytes, 4) as usize;
    if !(HEADER..=MAX_REQUEST).contains(&length) {
        return Piece::Damaged;
    }
    let Some(record) = bytes.get(..length) else { return Piece::Cut };
    if crc32c(&[&record[..HEADER - 4], &record[HEADER..]]) == word(record, HEADER - 4) {
        return Piece::Record(&record[HEADER..], length.div_ceil(BLOCK));
    }
    // A sector is written or it is not: of more than one some may be missing.
    if length <= SECTOR { Piece::Damaged } else { Piece::Nothing }
}

/// Put the checksum of the first sector at its end.
fn seal(block: &mut [u8]) {
    let checksum = crc32c(&[&block[..SECTOR - 4]]);
    block[SECTOR - 4..SECTOR].copy_from_slice(&checksum.to_le_bytes());
}

fn is_sealed(block: &[u8]) -> bool {
    crc32c(&[&block[..SECTOR - 4]]) == word(block, SECTOR - 4)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at + 4)) << 32 | u64::from(word(bytes, at))
}
