//! Reading a disk: whose it is, which half counts, and all records in it.

use crate::format::{BLOCK, Found, Head, Label, MAX_REQUEST, Piece, place, record};
use crate::store::{Error, Half, Request, Store};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mount {
    ReadingLabel,
    /// Block 0 is blank: looking whether all is that will be written, from this block on.
    Searching(u64),
    Labelling,
    FlushingLabel,
    ReadingHead(u32, Option<(u32, Head)>),
    /// From this block of the half on.
    ReadingRecords(Half, Head),
    /// The log seems to end where the store's half does: looking whether it does, from this block of the half on.
    Looking(Half),
    /// What was read may be in a cache and nowhere else.
    Flushing,
}

/// Blocks that are read at once.
const READ: u64 = (MAX_REQUEST / BLOCK) as u64;

impl Mount {
    pub(crate) fn new() -> Self {
        Self::ReadingLabel
    }

    pub(crate) fn request<'a>(&self, label: &Label, buffer: &'a mut [u8]) -> Request<'a> {
        let start = |half: u32| 1 + u64::from(half) * u64::from(label.half);
        let (block, blocks) = match *self {
            Self::FlushingLabel | Self::Flushing => return Request::Flush,
            Self::Labelling => return Request::Write { block: 0, bytes: &buffer[..BLOCK] },
            Self::ReadingLabel => (0, 1),
            Self::Searching(block) => (block, READ.min(label.blocks() - block)),
            Self::ReadingHead(half, _) => (start(half), 1),
            Self::ReadingRecords(half, _) | Self::Looking(half) => {
                let left = label.half - half.end;
                (start(half.index) + u64::from(half.end), READ.min(left.into()))
            }
        };
        Request::Read { block, into: &mut buffer[..blocks as usize * BLOCK] }
    }

    /// The request has been carried out. `None` when the store has all that the disk has.
    pub(crate) fn next(
        self,
        store: &mut Store,
        blocks: u64,
        buffer: &mut [u8],
    ) -> Result<Option<Self>, Error> {
        match self {
            Self::ReadingLabel => Self::labelled(store, blocks, &buffer[..BLOCK]).map(Some),
            Self::Searching(block) => {
                let end = store.label.blocks();
                let read = READ.min(end - block);
                if buffer[..read as usize * BLOCK].iter().any(|byte| *byte != 0) {
                    return Err(Error::Foreign);
                }
                if block + read < end {
                    return Ok(Some(Self::Searching(block + read)));
                }
                store.label.encode(&mut buffer[..BLOCK]);
                Ok(Some(Self::Labelling))
            }
            Self::Labelling => Ok(Some(Self::FlushingLabel)),
            Self::FlushingLabel | Self::Flushing => Ok(None),
            Self::ReadingHead(index, best) => Self::headed(store, index, best, &buffer[..BLOCK]),
            Self::ReadingRecords(half, head) => Self::read(store, half, head, buffer),
            Self::Looking(half) => Self::look(store, half, buffer).map(Some),
        }
    }

    fn labelled(store: &mut Store, blocks: u64, block: &[u8]) -> Result<Self, Error> {
        match Label::decode(block) {
            // Made for this disk when the store was; of no half if it is too small.
            Found::Blank if store.label.half == 0 => Err(Error::TooSmall),
            Found::Blank => Ok(Self::Searching(1)),
            Found::Label(label) if label.blocks() > blocks => Err(Error::TooSmall),
            Found::Label(label) => {
                store.label = label;
                Ok(Self::ReadingHead(0, None))
            }
            Found::Version(version) => Err(Error::Version(version)),
            Found::Foreign => Err(Error::Foreign),
        }
    }

    fn headed(
        store: &mut Store,
        index: u32,
        best: Option<(u32, Head)>,
        block: &[u8],
    ) -> Result<Option<Self>, Error> {
        // A sector is written or it is not: a head is one sector, so what is neither head nor zeroes is damage, and which
        // half it spoke for nobody knows.
        let head = Head::decode(block, &store.label).map_err(|()| Error::Corrupt)?;
        let newer = head.filter(|head| best.is_none_or(|(_, best)| best.epoch < head.epoch));
        let best = newer.map(|head| (index, head)).or(best);
        if index == 0 {
            return Ok(Some(Self::ReadingHead(1, best)));
        }
        // Without a head nothing was ever kept: the first change makes the first snapshot.
        let Some((index, head)) = best else { return Ok(Some(Self::Flushing)) };
        store.epoch = head.epoch;
        let half = Half { index, nonce: head.nonce, end: 1, place: 0 };
        Ok(Some(Self::records_from(store, half, head)))
    }

    /// Go on with the records at `half`'s end, if there can be any.
    fn records_from(store: &mut Store, half: Half, head: Head) -> Self {
        store.half = Some(half);
        if half.end < store.label.half { Self::ReadingRecords(half, head) } else { Self::Flushing }
    }

    fn read(store: &mut Store, mut half: Half, head: Head, buffer: &[u8]) -> Result<Option<Self>, Error> {
        let read = READ.min((store.label.half - half.end).into()) as usize * BLOCK;
        let mut rest = &buffer[..read];
        loop {
            match record(rest, half.nonce, half.place) {
                Piece::Record(changes, blocks) => {
                    if !store.apply(changes) {
                        return Err(Error::Full);
                    }
                    half.end += blocks as u32;
                    half.place += 1;
                    rest = rest.get(blocks * BLOCK..).unwrap_or_default();
                    if rest.is_empty() {
                        return Ok(Some(Self::records_from(store, half, head)));
                    }
                }
                // It begins in what was read and ends behind it: read from its beginning.
                Piece::Cut if rest.len() < read => return Ok(Some(Self::records_from(store, half, head))),
                // All of the snapshot was durable before its head was written.
                Piece::Cut | Piece::Nothing if half.end < head.blocks => return Err(Error::Corrupt),
                Piece::Damaged => return Err(Error::Corrupt),
                Piece::Cut | Piece::Nothing => {
                    store.half = Some(half);
                    return Ok(Some(Self::Looking(half)));
                }
            }
        }
    }

    /// What was being written when the power failed is the last of its half, since each record is durable before the next
    /// is written: behind it there is none, whatever of it was lost and in whatever order.
    fn look(store: &Store, mut half: Half, buffer: &[u8]) -> Result<Self, Error> {
        let read = READ.min((store.label.half - half.end).into()) as usize;
        let mut blocks = buffer[..read * BLOCK].chunks_exact(BLOCK);
        if blocks.any(|block| place(block, half.nonce).is_some_and(|place| place != half.place)) {
            return Err(Error::Corrupt);
        }
        half.end += read as u32;
        Ok(if half.end < store.label.half { Self::Looking(half) } else { Self::Flushing })
    }
}
