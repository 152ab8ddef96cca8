//! The image in this file: the section `.image`, which `image/pack` has added, holds it as an ELF.
//!
//! Section: PE/COFF, 3 and 4; ELF64: System V ABI, 4 and 5.

use crate::open::Refusal;

/// The section's name.
const NAME: &[u8; 8] = b".image\0\0";
/// So much of this file is looked at for its headers.
const HEADERS: usize = 1024;
/// Kind of a segment that is loaded.
const LOAD: u64 = 1;
/// Bytes of an ELF64's header, and of one for a segment.
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// More segments than any image has.
pub(crate) const MOST: usize = 8;

/// A part of the image, and where it goes.
#[derive(Clone, Copy)]
struct Segment {
    bytes: &'static [u8],
    address: u64,
    memory: u64,
}

/// The image.
pub(crate) struct Image {
    segments: [Option<Segment>; MOST],
    entry: u64,
}

impl Image {
    /// Find it and look whether it is one that can be put somewhere.
    ///
    /// # Errors
    /// [`Refusal::NoImage`].
    pub(crate) fn find() -> Result<Self, Refusal> {
        section().and_then(Self::parse).ok_or(Refusal::NoImage)
    }

    fn parse(file: &'static [u8]) -> Option<Self> {
        if !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let headers = usize::try_from(number::<8>(file, 32)?).ok()?;
        let count = usize::try_from(number::<2>(file, 56)?).ok()?;
        if headers < FILE_HEADER || count > MOST {
            return None;
        }
        let mut segments = [None; MOST];
        for (index, slot) in segments.iter_mut().enumerate().take(count) {
            let header = file.get(headers.checked_add(index * PROGRAM_HEADER)?..)?;
            if number::<4>(header, 0)? != LOAD {
                continue;
            }
            let start = usize::try_from(number::<8>(header, 8)?).ok()?;
            let length = usize::try_from(number::<8>(header, 32)?).ok()?;
            let (address, memory) = (number::<8>(header, 24)?, number::<8>(header, 40)?);
            let bytes = file.get(start..start.checked_add(length)?)?;
            // Below 4 GiB, where the entry can reach it.
            if memory < length as u64 || address.checked_add(memory)? > 1 << 32 {
                return None;
            }
            *slot = Some(Segment { bytes, address, memory });
        }
        let image = Self { segments, entry: number::<8>(file, 24)? };
        let (start, end) = image.place();
        (start..end).contains(&image.entry).then_some(image)
    }

    /// Its first address and one past its last, to whole pages.
    pub(crate) fn place(&self) -> (u64, u64) {
        let segments = || self.segments.iter().flatten();
        let start = segments().map(|segment| segment.address).min().unwrap_or(0);
        let end = segments().map(|segment| segment.address + segment.memory).max().unwrap_or(0);
        (start & !4095, end.next_multiple_of(4096))
    }

    /// Where it is entered.
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }

    /// How many bytes have to be put there. What it has as zeroed data it clears itself.
    pub(crate) fn bytes(&self) -> usize {
        self.segments.iter().flatten().map(|segment| segment.bytes.len()).sum()
    }

    /// Put these bytes to `room`, which must be ours and as long, and tell of each piece where it now is, where it belongs,
    /// and how long it is.
    pub(crate) fn stage(&self, room: *mut u8, mut tell: impl FnMut(u64, u64, usize)) {
        let mut to = room;
        for segment in self.segments.iter().flatten() {
            let length = segment.bytes.len();
            // SAFETY: the room has as many bytes as all segments together, and is nobody else's.
            unsafe { to.copy_from_nonoverlapping(segment.bytes.as_ptr(), length) };
            tell(to as u64, segment.address, length);
            to = to.wrapping_add(length);
        }
    }
}

/// The section of this file, as firmware has loaded it.
fn section() -> Option<&'static [u8]> {
    unsafe extern "C" {
        static __ImageBase: u8;
    }
    let base = &raw const __ImageBase;
    // SAFETY: the linker's symbol is where firmware has loaded this file; its headers are there, and the first section
    // behind them: more than a page in all. Nobody writes there.
    let headers = unsafe { core::slice::from_raw_parts(base, HEADERS) };
    let signature = usize::try_from(number::<4>(headers, 0x3c)?).ok()?;
    let sections = usize::try_from(number::<2>(headers, signature.checked_add(6)?)?).ok()?;
    let optional = usize::try_from(number::<2>(headers, signature.checked_add(20)?)?).ok()?;
    let table = headers.get(signature.checked_add(24)?.checked_add(optional)?..)?;
    let header = table.as_chunks::<40>().0.iter().take(sections).find(|header| header.starts_with(NAME))?;
    let length = usize::try_from(number::<4>(header, 8)?).ok()?;
    let address = usize::try_from(number::<4>(header, 12)?).ok()?;
    // SAFETY: firmware has loaded all of a section's virtual size at its address in the file's memory.
    Some(unsafe { core::slice::from_raw_parts(base.wrapping_add(address), length) })
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut whole = [0; 8];
    whole.get_mut(..N)?.copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(whole))
}
