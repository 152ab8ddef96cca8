//! What the disk is made of: a file that lasts, and before it a cache that dies with the process.
//!
//! With [`Cache::Volatile`] a write is answered from memory and reaches the file at the next FLUSH, or at once with
//! FUA: to kill the process is to cut the power of a disk. With [`Cache::None`] every write goes to the file and only
//! the host's page cache stands before the platter: that survives the process, not the host.

use crate::session::Extent;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Granule of the cache, in bytes.
const PAGE: u64 = 4096;
/// Dirty pages above which the cache is written back, without making it durable: 64 MiB.
const MAX_DIRTY: usize = 16 << 10;
/// A range of zeroes at least so long goes past the cache.
const LONG_ZEROES: u64 = 1 << 20;

/// Where a write may stay until the next FLUSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Nowhere in this process.
    None,
    /// In this process. Every write has this chance, in percent, to be in the file at once all the same, so that a
    /// loss takes some and leaves others, as real caches do.
    Volatile {
        /// From 0 to 100.
        spill: u8,
    },
}

type Page = Box<[u8; PAGE as usize]>;

/// One disk.
#[derive(Debug)]
pub struct Medium {
    file: File,
    size: u64,
    cache: Cache,
    dirty: BTreeMap<u64, Page>,
    /// State of the generator behind `spill`.
    seed: u64,
}

impl Medium {
    /// Opens `path`; makes it `size` bytes long if that is given and it was not there.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: &Path, size: Option<u64>, cache: Cache) -> io::Result<Self> {
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(size.is_some()).open(path)?;
        if let (true, Some(size)) = (is_new, size) {
            file.set_len(size)?;
            file.sync_all()?;
        }
        let size = file.metadata()?.len();
        let seed = u64::from(std::process::id()) << 32 | 0x9e37_79b9;
        Ok(Self { file, size, cache, dirty: BTreeMap::new(), seed })
    }

    /// Bytes on it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether there are writes that a loss would take.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Pages that only the cache has.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Becomes larger or smaller, at once and durably.
    ///
    /// # Errors
    /// Those of the file.
    pub fn resize(&mut self, size: u64) -> io::Result<()> {
        self.dirty.retain(|page, _| page * PAGE < size);
        self.file.set_len(size)?;
        self.file.sync_all()?;
        self.size = size;
        Ok(())
    }

    /// Fills `into` with what stands at `offset`. The range must be inside.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)?;
        let end = offset + into.len() as u64;
        for (page, bytes) in self.dirty.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            into[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    /// Writes `data` at `offset`; with `durable` it is on the platter before this returns. The range must be inside.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let Cache::Volatile { spill } = self.cache else {
            self.file.write_all_at(data, offset)?;
            return if durable { self.file.sync_data() } else { Ok(()) };
        };
        let end = offset + data.len() as u64;
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let start = page * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            let is_whole = part.len() as u64 == PAGE;
            // What is written durably needs a place in the cache only where the cache would hide it.
            if durable && !self.dirty.contains_key(&page) {
                continue;
            }
            if !is_whole && !self.dirty.contains_key(&page) {
                let old = self.page_of_file(page)?;
                self.dirty.insert(page, old);
            }
            let bytes = self.dirty.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
        }
        if durable || self.spills(spill) {
            self.file.write_all_at(data, offset)?;
        }
        if durable {
            self.file.sync_data()?;
        } else if self.dirty.len() > MAX_DIRTY {
            // The pages stay dirty until a sync has covered them; they are only many no more.
            self.write_back()?;
            self.file.sync_data()?;
            self.dirty.clear();
        }
        Ok(())
    }

    /// Makes a range read as zeroes; unless `keep`, the file may forget the room.
    ///
    /// # Errors
    /// Those of the file.
    pub fn zero(&mut self, offset: u64, length: u64, keep: bool, durable: bool) -> io::Result<()> {
        if length < LONG_ZEROES && self.cache != Cache::None {
            return self.write(offset, &vec![0; length as usize], durable);
        }
        let end = offset + length;
        // Whole pages leave the cache; of the first and the last, what is inside.
        self.dirty.retain(|page, _| page * PAGE < offset || (page + 1) * PAGE > end);
        for (page, bytes) in self.dirty.range_mut(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            bytes[(from - start) as usize..(to - start) as usize].fill(0);
        }
        let how = if keep {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        };
        match fallocate(&self.file, how, offset, length) {
            Ok(()) => {}
            // Not every file system can.
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeroes(offset, length)?,
            Err(error) => return Err(error.into()),
        }
        if durable { self.file.sync_data() } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroes = vec![0; length.min(1 << 20) as usize];
        let mut at = offset;
        while at < offset + length {
            let step = (offset + length - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    /// Everything that was written is on the platter when this returns. If it fails, what the cache holds is still
    /// there for the next attempt.
    ///
    /// # Errors
    /// Those of the file. Without a cache a failure is final: the host may have forgotten what it could not write.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_back()?;
        self.file.sync_data()?;
        self.dirty.clear();
        Ok(())
    }

    fn write_back(&self) -> io::Result<()> {
        self.dirty.iter().try_for_each(|(page, bytes)| {
            let length = PAGE.min(self.size.saturating_sub(page * PAGE)) as usize;
            self.file.write_all_at(&bytes[..length], page * PAGE)
        })
    }

    /// The states of a range. A hole is what the file system says is one and the cache does not contradict.
    ///
    /// # Errors
    /// Those of the file, for instance when its file system cannot tell.
    pub fn extents(&self, offset: u64, length: u64) -> io::Result<Vec<Extent>> {
        let end = offset + length;
        let next = |from: SeekFrom| match seek(&self.file, from) {
            Ok(at) => Ok(at.min(end)),
            Err(rustix::io::Errno::NXIO) => Ok(end),
            Err(error) => Err(io::Error::from(error)),
        };
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end {
            let data = next(SeekFrom::Data(at))?;
            let (mut stop, mut is_hole) =
                if data > at { (data, true) } else { (next(SeekFrom::Hole(at))?, false) };
            if is_hole && let Some((page, _)) = self.dirty.range(at / PAGE..stop.div_ceil(PAGE)).next() {
                is_hole = page * PAGE > at;
                stop = stop.min(if is_hole { page * PAGE } else { (page + 1) * PAGE });
            }
            match extents.last_mut() {
                Some(last) if last.is_hole() == is_hole => last.length += stop - at,
                _ => extents.push(Extent::new(stop - at, is_hole)),
            }
            at = stop;
        }
        Ok(extents)
    }

    /// Forgets what only the cache holds, and tells how many pages that were.
    pub fn lose(&mut self) -> usize {
        std::mem::take(&mut self.dirty).len()
    }

    /// Writes past the cache, for a write that is torn by the end of the process.
    ///
    /// # Errors
    /// Those of the file.
    pub fn tear(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        self.file.sync_data()
    }

    fn page_of_file(&self, page: u64) -> io::Result<Page> {
        let mut bytes = Box::new([0; PAGE as usize]);
        let length = PAGE.min(self.size - page * PAGE) as usize;
        self.file.read_exact_at(&mut bytes[..length], page * PAGE)?;
        Ok(bytes)
    }

    fn spills(&mut self, percent: u8) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % 100 < u64::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    const VOLATILE: Cache = Cache::Volatile { spill: 0 };

    fn content(medium: &Medium) -> Vec<u8> {
        let mut bytes = vec![0xee; medium.size() as usize];
        medium.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_loss_takes_what_was_not_flushed_and_nothing_else() {
        let folder = Folder::new();
        let path = folder.file("disk");
        let mut medium = Medium::open(&path, Some(64 << 10), VOLATILE).unwrap();
        medium.write(100, &[1; 9000], false).unwrap();
        medium.flush().unwrap();
        medium.write(4096, &[2; 4096], false).unwrap();
        medium.write(20_000, &[3; 100], true).unwrap();
        medium.write(5000, &[4; 10], true).unwrap();
        let seen = content(&medium);
        assert_eq!((seen[4096], seen[5000], seen[20_000], seen[99], seen[100]), (2, 4, 3, 0, 1));
        assert_eq!(medium.lose(), 1);
        let seen = content(&medium);
        assert_eq!((seen[4096], seen[5000], seen[20_000], seen[9099], seen[9100]), (1, 4, 3, 1, 0));
    }

    #[test]
    fn without_a_cache_there_is_nothing_to_lose() {
        let folder = Folder::new();
        let mut medium = Medium::open(&folder.file("disk"), Some(8192), Cache::None).unwrap();
        medium.write(1, &[7; 8000], false).unwrap();
        assert_eq!(medium.lose(), 0);
        assert_eq!(content(&medium)[8000], 7);
    }

    #[test]
    fn some_of_what_was_not_flushed_may_survive() {
        let folder = Folder::new();
        let mut medium =
            Medium::open(&folder.file("disk"), Some(1 << 20), Cache::Volatile { spill: 50 }).unwrap();
        for page in 0..256 {
            medium.write(page * PAGE, &[1; PAGE as usize], false).unwrap();
        }
        assert_eq!(medium.lose(), 256);
        let left = content(&medium).chunks(PAGE as usize).filter(|page| page[0] == 1).count();
        assert!((50..206).contains(&left), "{left}");
    }

    #[test]
    fn zeroes_long_and_short_are_seen_at_once_and_reach_no_further() {
        let folder = Folder::new();
        for (cache, length) in
            [(VOLATILE, 5000), (VOLATILE, 2 << 20), (Cache::None, 5000), (Cache::None, 2 << 20)]
        {
            let mut medium = Medium::open(&folder.file("disk"), Some(4 << 20), cache).unwrap();
            medium.write(0, &vec![9; 4 << 20], false).unwrap();
            medium.zero(1000, length, length == 5000, false).unwrap();
            let seen = content(&medium);
            let zeroes = seen.iter().filter(|byte| **byte == 0).count() as u64;
            assert_eq!((seen[999], seen[1000], zeroes), (9, 0, length), "{cache:?}");
            medium.flush().unwrap();
            assert_eq!(content(&medium), seen);
        }
    }

    #[test]
    fn a_hole_is_one_where_neither_file_nor_cache_has_anything() {
        let folder = Folder::new();
        let mut medium = Medium::open(&folder.file("disk"), Some(1 << 20), VOLATILE).unwrap();
        medium.write(64 << 10, &[1; 64 << 10], true).unwrap();
        medium.write(256 << 10, &[1; 4096], false).unwrap();
        let extents = medium.extents(0, 1 << 20).unwrap();
        let seen: Vec<_> = extents.iter().map(|extent| (extent.length >> 10, extent.is_hole())).collect();
        assert_eq!(seen, [(64, true), (64, false), (128, true), (4, false), (764, true)]);
    }

    #[test]
    fn a_smaller_disk_has_no_dirty_end_and_a_larger_one_reads_zero() {
        let folder = Folder::new();
        let mut medium = Medium::open(&folder.file("disk"), Some(16 << 10), VOLATILE).unwrap();
        medium.write(8192, &[5; 8192], false).unwrap();
        medium.resize(8192).unwrap();
        assert!(!medium.is_dirty());
        medium.resize(16 << 10).unwrap();
        assert_eq!(content(&medium)[8192..], [0; 8192]);
    }
}
