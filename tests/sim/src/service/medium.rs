//! What a service stores, and what of it is on stable storage.

use crate::history::SECTOR;
use storage_nbd::testing::{Disk, Medium as Stores};

/// The disk of a service, with a cache of its own: a failed flush may make it forget that something was dirty, as an
/// operating system does.
#[derive(Clone)]
pub(crate) struct Medium {
    /// What a read finds. What this calls durable is not used.
    disk: Disk,
    durable: Vec<u8>,
    /// Sectors that are taken for clean although they are not on stable storage.
    forgotten: Vec<bool>,
    /// There is no cache: what is written is durable at once.
    is_cacheless: bool,
    /// Writes of data that were executed, for the history: where, and what.
    pub(crate) written: Vec<(usize, Vec<u8>)>,
}

impl Medium {
    pub(crate) fn new(size: usize, is_cacheless: bool) -> Self {
        Self {
            disk: Disk::new(size),
            durable: vec![0; size],
            forgotten: vec![false; size / SECTOR],
            is_cacheless,
            written: Vec::new(),
        }
    }

    pub(crate) fn is_cacheless(&self) -> bool {
        self.is_cacheless
    }

    /// What a read finds.
    pub(crate) fn content(&self) -> &[u8] {
        self.disk.content()
    }

    /// What a crash leaves.
    pub(crate) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// A range was changed.
    fn changed(&mut self, offset: u64, length: u64, fua: bool) {
        let range = offset as usize..(offset + length) as usize;
        self.forgotten[range.start / SECTOR..range.end.div_ceil(SECTOR)].fill(false);
        if fua || self.is_cacheless {
            self.durable[range.clone()].copy_from_slice(&self.disk.content()[range]);
        }
    }

    /// Take all that is dirty for clean.
    pub(crate) fn forget(&mut self) {
        let sectors = self.durable.chunks(SECTOR).zip(self.disk.content().chunks(SECTOR));
        for (forgotten, (old, new)) in self.forgotten.iter_mut().zip(sectors) {
            *forgotten |= old != new;
        }
    }

    /// Lose all that is not on stable storage.
    pub(crate) fn crash(&mut self) {
        self.forgotten.fill(true);
        self.evict();
    }

    /// Lose what is taken for clean and is not on stable storage.
    pub(crate) fn evict(&mut self) {
        for sector in 0..self.durable.len() / SECTOR {
            if !core::mem::take(&mut self.forgotten[sector]) {
                continue;
            }
            let (place, range) = (sector * SECTOR, sector * SECTOR..(sector + 1) * SECTOR);
            if self.disk.content()[range.clone()] != self.durable[range.clone()] {
                let written = self.disk.write(place as u64, &self.durable[range], false);
                debug_assert_eq!(written, Ok(()), "the sector is there");
            }
        }
    }

    /// Become larger.
    pub(crate) fn grow(&mut self, size: usize) {
        self.disk.resize(size);
        self.durable.resize(size, 0);
        self.forgotten.resize(size / SECTOR, false);
    }
}

impl Stores for Medium {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&mut self, offset: u64, target: &mut [u8]) -> Result<(), u32> {
        self.disk.read(offset, target)
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), u32> {
        self.disk.write(offset, data, fua)?;
        self.changed(offset, data.len() as u64, fua);
        self.written.push((offset as usize / SECTOR, data.to_vec()));
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, no_hole: bool, fua: bool) -> Result<(), u32> {
        self.disk.zero(offset, length, no_hole, fua)?;
        self.changed(offset, length, fua);
        Ok(())
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), u32> {
        self.disk.trim(offset, length, fua)?;
        self.changed(offset, length, fua);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), u32> {
        let sectors = self.durable.chunks_mut(SECTOR).zip(self.disk.content().chunks(SECTOR));
        for (forgotten, (old, new)) in self.forgotten.iter().zip(sectors) {
            if !forgotten {
                old.copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn status(
        &mut self,
        offset: u64,
        length: u64,
        extents: &mut Vec<storage_block::Extent>,
    ) -> Result<(), u32> {
        self.disk.status(offset, length, extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(medium: &mut Medium, sector: usize, byte: u8, fua: bool) {
        medium.write((sector * SECTOR) as u64, &[byte; SECTOR], fua).expect("inside");
    }

    #[test]
    fn a_crash_leaves_what_was_flushed() {
        let mut medium = Medium::new(4 * SECTOR, false);
        put(&mut medium, 0, 1, false);
        medium.flush().expect("it can");
        put(&mut medium, 0, 2, false);
        put(&mut medium, 1, 3, true);
        medium.crash();
        assert_eq!((medium.content()[0], medium.content()[SECTOR]), (1, 3));
    }

    #[test]
    fn without_a_cache_a_crash_leaves_everything() {
        let mut medium = Medium::new(4 * SECTOR, true);
        put(&mut medium, 0, 1, false);
        medium.crash();
        assert_eq!(medium.content()[0], 1);
    }

    #[test]
    fn what_was_dirty_when_a_flush_failed_is_not_made_durable_by_the_next() {
        let mut medium = Medium::new(4 * SECTOR, false);
        put(&mut medium, 0, 1, false);
        put(&mut medium, 1, 1, false);
        medium.forget();
        put(&mut medium, 1, 2, false);
        medium.flush().expect("it can");
        assert_eq!(medium.content()[0], 1, "it is still there to be read");
        assert_eq!((medium.durable()[0], medium.durable()[SECTOR]), (0, 2));
        medium.crash();
        assert_eq!(medium.content()[0], 0);
    }
}
