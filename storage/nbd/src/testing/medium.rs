//! Where the bytes are.

use crate::wire::{error, state};
use alloc::vec;
use alloc::vec::Vec;
use storage_block::Extent;

/// What a service stores its export on. Ranges were checked against [`Medium::size`]; errors are those of
/// [`crate::wire::error`].
pub trait Medium {
    /// Bytes.
    fn size(&self) -> u64;
    /// Fill `target` from `offset` on.
    fn read(&mut self, offset: u64, target: &mut [u8]) -> Result<(), u32>;
    /// Write `data` from `offset` on; with `fua` it is durable afterwards.
    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), u32>;
    /// The range reads as zeroes afterwards; with `no_hole` it stays allocated.
    fn zero(&mut self, offset: u64, length: u64, no_hole: bool, fua: bool) -> Result<(), u32>;
    /// The content is of no more use.
    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), u32>;
    /// Make durable what was written.
    fn flush(&mut self) -> Result<(), u32>;
    /// The range will be read soon.
    fn cache(&mut self, _offset: u64, _length: u64) -> Result<(), u32> {
        Ok(())
    }
    /// Append what is known of the range from its beginning on, at least one extent.
    fn status(&mut self, offset: u64, length: u64, extents: &mut Vec<Extent>) -> Result<(), u32>;
}

/// Bytes in a unit of allocation.
const UNIT: usize = 512;

/// A medium in memory.
#[derive(Clone, Debug)]
pub struct Disk {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// The state of each unit, as `base:allocation` has it.
    states: Vec<u8>,
    durable_states: Vec<u8>,
}

const HOLE: u8 = state::HOLE as u8;
const ZERO: u8 = state::ZERO as u8;

impl Disk {
    /// A disk of zeroes of which nothing is allocated.
    pub fn new(size: usize) -> Self {
        let states = vec![HOLE | ZERO; size.div_ceil(UNIT)];
        Self { content: vec![0; size], durable: vec![0; size], durable_states: states.clone(), states }
    }

    /// What a read finds.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What a crash leaves.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Lose the cache.
    pub fn crash(&mut self) {
        self.content.copy_from_slice(&self.durable);
        self.states.copy_from_slice(&self.durable_states);
    }

    /// Become larger or smaller.
    pub fn resize(&mut self, size: usize) {
        self.content.resize(size, 0);
        self.durable.resize(size, 0);
        self.states.resize(size.div_ceil(UNIT), HOLE | ZERO);
        self.durable_states.resize(size.div_ceil(UNIT), HOLE | ZERO);
    }

    /// Change a range, which is in this state afterwards; units that are only touched count as data.
    fn change(
        &mut self,
        offset: u64,
        length: u64,
        state: u8,
        fua: bool,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), u32> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size()).ok_or(error::EINVAL)?;
        let (start, end) = (offset as usize, end as usize);
        change(&mut self.content[start..end]);
        let touched = start / UNIT..end.div_ceil(UNIT);
        let (whole_from, whole_to) = (start.div_ceil(UNIT), end / UNIT);
        let is_last = |unit: usize| end == self.content.len() && unit + 1 == touched.end;
        for unit in touched.clone() {
            let is_whole = unit >= whole_from && (unit < whole_to || is_last(unit));
            self.states[unit] = if is_whole { state } else { 0 };
        }
        if fua {
            self.durable[start..end].copy_from_slice(&self.content[start..end]);
            self.durable_states[touched.clone()].copy_from_slice(&self.states[touched]);
        }
        Ok(())
    }
}

impl Medium for Disk {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read(&mut self, offset: u64, target: &mut [u8]) -> Result<(), u32> {
        let start = usize::try_from(offset).map_err(|_| error::EINVAL)?;
        let source = self.content.get(start..).and_then(|rest| rest.get(..target.len()));
        target.copy_from_slice(source.ok_or(error::EINVAL)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), u32> {
        self.change(offset, data.len() as u64, 0, fua, |range| range.copy_from_slice(data))
    }

    fn zero(&mut self, offset: u64, length: u64, no_hole: bool, fua: bool) -> Result<(), u32> {
        let state = if no_hole { ZERO } else { HOLE | ZERO };
        self.change(offset, length, state, fua, |range| range.fill(0))
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), u32> {
        // What is trimmed may read as anything; this is the least welcome of what is allowed.
        self.change(offset, length, HOLE, fua, |range| range.fill(0xdd))
    }

    fn flush(&mut self) -> Result<(), u32> {
        self.durable.copy_from_slice(&self.content);
        self.durable_states.copy_from_slice(&self.states);
        Ok(())
    }

    fn status(&mut self, offset: u64, length: u64, extents: &mut Vec<Extent>) -> Result<(), u32> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size()).ok_or(error::EINVAL)?;
        let mut at = offset;
        while at < end {
            let unit = at as usize / UNIT;
            let state = self.states[unit];
            let same = self.states[unit..].iter().take_while(|other| **other == state).count();
            let next = ((unit + same) * UNIT).min(end as usize) as u64;
            extents.push(Extent { length: next - at, hole: state & HOLE != 0, zero: state & ZERO != 0 });
            at = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(disk: &mut Disk) -> Vec<(u64, bool, bool)> {
        let mut extents = Vec::new();
        disk.status(0, disk.size(), &mut extents).expect("the whole disk");
        extents.iter().map(|extent| (extent.length, extent.hole, extent.zero)).collect()
    }

    #[test]
    fn what_is_allocated_follows_what_is_done() {
        let mut disk = Disk::new(8192);
        assert_eq!(states(&mut disk), [(8192, true, true)]);
        disk.write(512, &[1; 1000], false).expect("inside");
        assert_eq!(states(&mut disk), [(512, true, true), (1024, false, false), (6656, true, true)]);
        disk.zero(0, 1100, true, true).expect("inside");
        assert_eq!(states(&mut disk), [(1024, false, true), (512, false, false), (6656, true, true)]);
        disk.trim(4096, 4096, false).expect("inside");
        assert_eq!(states(&mut disk)[2..], [(2560, true, true), (4096, true, false)]);
        disk.crash();
        assert_eq!(states(&mut disk)[2..], [(6656, true, true)]);
        assert_eq!(disk.status(8192, 1, &mut Vec::new()), Err(error::EINVAL));
    }
}
