//! Page tables of four levels: building them, and proving that nothing in them is writable and executable.

use super::ranges::{PAGE, Range};

/// A 2 MiB page.
const LARGE: u64 = 2 << 20;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
/// Together they select "uncacheable" in the page attribute table as the CPU resets it.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE_BIT: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What may be done with a page. There is no way to say writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    Execute,
    /// Read and write, each access as the program makes it: registers of devices.
    Device,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadOnly => PRESENT | NO_EXECUTE,
            Self::ReadWrite => PRESENT | WRITABLE | NO_EXECUTE,
            Self::Execute => PRESENT,
            Self::Device => PRESENT | WRITABLE | UNCACHED | NO_EXECUTE,
        }
    }
}

/// Why something cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// No memory for another table.
    OutOfMemory,
    /// Something else is mapped there.
    Occupied,
}

/// Where tables live and come from.
pub(crate) trait Frames {
    /// The physical address of a page for a table, zeroed.
    fn take(&mut self) -> Option<u64>;

    /// Where the page at physical address `frame` can be accessed.
    fn pointer(&self, frame: u64) -> *mut u64;
}

/// A set of tables under one root.
pub(crate) struct Tables<F> {
    root: u64,
    frames: F,
}

impl<F: Frames> Tables<F> {
    /// Empty tables; `None` without memory.
    pub(crate) fn new(mut frames: F) -> Option<Self> {
        let root = frames.take()?;
        Some(Self { root, frames })
    }

    /// The tables under `root`.
    ///
    /// # Safety
    /// `root` must be the top of well-formed tables, all of whose frames `frames` can point to, and nobody else may
    /// change them as long as this value lives.
    pub(crate) unsafe fn at(root: u64, frames: F) -> Self {
        Self { root, frames }
    }

    /// The physical address of the top table.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// The frames, to go on using them elsewhere.
    pub(crate) fn into_frames(self) -> F {
        self.frames
    }

    /// Where an entry lies.
    fn entry(&self, table: u64, index: u64) -> *mut u64 {
        debug_assert!(index < 512);
        self.frames.pointer(table).wrapping_add((index & 511) as usize)
    }

    fn read(&self, table: u64, index: u64) -> u64 {
        // SAFETY: `table` came out of these tables or from `frames`, so a whole page can be accessed there, and the entry
        // lies in it. Volatile, for the CPU walks them too.
        unsafe { self.entry(table, index).read_volatile() }
    }

    fn write(&mut self, table: u64, index: u64, entry: u64) {
        // SAFETY: as in `read`; `&mut self` is the only access to these tables.
        unsafe { self.entry(table, index).write_volatile(entry) };
    }

    /// Map the pages of `physical` from `address` on. All of it must be multiples of the page size, and not mapped yet.
    /// On an error some of it may have been mapped.
    pub(crate) fn map(&mut self, address: u64, physical: Range, access: Access) -> Result<(), Error> {
        assert!((address | physical.start | physical.end) & (PAGE - 1) == 0, "whole pages are mapped");
        let (mut address, mut left) = (address, physical);
        while !left.is_empty() {
            let large = (address | left.start) & (LARGE - 1) == 0 && left.length() >= LARGE;
            let step = if large { LARGE } else { PAGE };
            let level = if large { 2 } else { 1 };
            let table = self.table(address, level)?;
            let index = index(address, level);
            if self.read(table, index) & PRESENT != 0 {
                return Err(Error::Occupied);
            }
            let size = if large { LARGE_BIT } else { 0 };
            self.write(table, index, left.start | size | access.bits());
            address = address.wrapping_add(step);
            left.start += step;
        }
        Ok(())
    }

    /// The table of `level` that has the entry for `address`; it and those above it are made when missing.
    fn table(&mut self, address: u64, level: u32) -> Result<u64, Error> {
        let mut table = self.root;
        for upper in (level + 1..=4).rev() {
            let entry = self.read(table, index(address, upper));
            table = if entry & PRESENT == 0 {
                let new = self.frames.take().ok_or(Error::OutOfMemory)?;
                // The rights are decided by the last level alone.
                self.write(table, index(address, upper), new | PRESENT | WRITABLE);
                new
            } else if upper <= 3 && entry & LARGE_BIT != 0 {
                return Err(Error::Occupied);
            } else {
                entry & ADDRESS
            };
        }
        Ok(table)
    }

    /// Call `visit` with address, length and rights of every page that is mapped.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(Page)) {
        self.walk_table(
            self.root,
            4,
            0,
            Page { address: 0, length: 0, writable: true, executable: true },
            visit,
        );
    }

    fn walk_table(&self, table: u64, level: u32, base: u64, above: Page, visit: &mut impl FnMut(Page)) {
        for index in 0..512 {
            let entry = self.read(table, index);
            if entry & PRESENT == 0 {
                continue;
            }
            let length = 1 << (12 + 9 * (level - 1));
            let address = canonical(base + index * length);
            let page = Page {
                address,
                length,
                writable: above.writable && entry & WRITABLE != 0,
                executable: above.executable && entry & NO_EXECUTE == 0,
            };
            if level == 1 || level <= 3 && entry & LARGE_BIT != 0 {
                visit(page);
            } else {
                self.walk_table(entry & ADDRESS, level - 1, base + index * length, page, visit);
            }
        }
    }
}

/// A mapped page as the CPU sees it: a right that one level denies is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Where it begins.
    pub(crate) address: u64,
    /// 4 KiB, 2 MiB or 1 GiB.
    pub(crate) length: u64,
    /// Whether it can be written.
    pub(crate) writable: bool,
    /// Whether code in it can run.
    pub(crate) executable: bool,
}

const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & 511
}

const fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;

    /// Memory of which page `n` has the physical address `n * PAGE`.
    struct Arena {
        pages: Vec<Box<UnsafeCell<[u64; 512]>>>,
        limit: usize,
    }

    impl Frames for Arena {
        fn take(&mut self) -> Option<u64> {
            (self.pages.len() < self.limit).then(|| {
                self.pages.push(Box::new(UnsafeCell::new([0; 512])));
                (self.pages.len() as u64 - 1) * PAGE
            })
        }

        fn pointer(&self, frame: u64) -> *mut u64 {
            self.pages[(frame / PAGE) as usize].get().cast()
        }
    }

    fn tables(limit: usize) -> Tables<Arena> {
        Tables::new(Arena { pages: Vec::new(), limit }).unwrap()
    }

    fn pages(tables: &Tables<Arena>) -> Vec<Page> {
        let mut pages = Vec::new();
        tables.walk(&mut |page| pages.push(page));
        pages
    }

    #[test]
    fn what_is_mapped_is_found_again_with_its_rights() {
        let mut tables = tables(16);
        let physical = Range { start: 0x5000, end: 0x6000 };
        tables.map(0xffff_ffff_8010_0000, physical, Access::Execute).unwrap();
        tables.map(0x5000, physical, Access::ReadWrite).unwrap();
        tables.map(0x8000, physical, Access::ReadOnly).unwrap();
        assert_eq!(
            pages(&tables),
            [
                Page { address: 0x5000, length: PAGE, writable: true, executable: false },
                Page { address: 0x8000, length: PAGE, writable: false, executable: false },
                Page { address: 0xffff_ffff_8010_0000, length: PAGE, writable: false, executable: true },
            ]
        );
    }

    #[test]
    fn large_pages_are_used_where_both_sides_are_aligned() {
        let mut tables = tables(16);
        let physical = Range { start: LARGE - PAGE, end: 2 * LARGE + PAGE };
        tables.map(LARGE - PAGE, physical, Access::ReadWrite).unwrap();
        let lengths: Vec<_> = pages(&tables).iter().map(|page| page.length).collect();
        assert_eq!(lengths, [PAGE, LARGE, PAGE]);
        tables.map(1 << 40, Range { start: PAGE, end: PAGE + LARGE }, Access::ReadOnly).unwrap();
        assert_eq!(pages(&tables).len(), 3 + 512);
    }

    #[test]
    fn nothing_is_mapped_over_something_else() {
        let mut tables = tables(16);
        tables.map(0, Range { start: 0, end: LARGE }, Access::ReadWrite).unwrap();
        let page = Range { start: PAGE, end: 2 * PAGE };
        assert_eq!(tables.map(PAGE, page, Access::Execute), Err(Error::Occupied));
        tables.map(1 << 30, page, Access::ReadOnly).unwrap();
        assert_eq!(tables.map(1 << 30, page, Access::ReadOnly), Err(Error::Occupied));
        let large = Range { start: 0, end: LARGE };
        assert_eq!(tables.map(1 << 30, large, Access::ReadOnly), Err(Error::Occupied));
    }

    #[test]
    fn running_out_of_tables_is_an_error() {
        let mut tables = tables(3);
        let page = Range { start: PAGE, end: 2 * PAGE };
        assert_eq!(tables.map(0, page, Access::ReadWrite), Err(Error::OutOfMemory));
    }

    #[test]
    fn no_access_is_writable_and_executable() {
        for access in [Access::ReadOnly, Access::ReadWrite, Access::Execute, Access::Device] {
            assert!(access.bits() & WRITABLE == 0 || access.bits() & NO_EXECUTE != 0, "{access:?}");
        }
    }
}
