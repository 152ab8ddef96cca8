//! Memory: what there is, how it is mapped, the heap, and the registers of devices.
//!
//! | addresses | what | rights |
//! |---|---|---|
//! | 0 .. 64 KiB | nothing: null pointers and their neighbours fault | none |
//! | RAM, at its physical address | heap, page tables, DMA buffers | read, write |
//! | 0xffff_c000_0000_0000 and up | registers of devices and firmware tables, mapped when asked for | device, or read |
//! | 0xffff_ffff_8010_0000 and up | the image: code; constants; data and stacks | execute; read; read, write |
//!
//! The image is moved up from there by what [`moved`] says, and mapped there only: its physical pages are not among the RAM. A
//! page that is not mapped lies under each stack. Nothing is ever writable and executable; [`check_rights`] walks the live
//! tables and proves it.

#[cfg(target_feature = "sse2")]
pub(crate) mod copy;
#[cfg(not(target_feature = "sse2"))]
#[path = "words.rs"]
pub(crate) mod copy;
mod heap;
mod paging;
pub(crate) mod ranges;
pub mod stack;
mod window;
#[cfg(all(test, target_feature = "sse2"))]
mod words;

use crate::pvh::{Physical, StartInfo};
use crate::{cpu, entry};
use alloc::vec::Vec;
use core::arch::asm;
use core::ops;
use paging::{Access, Frames, Tables};
use ranges::{PAGE, Range, Ranges};
use spin::Once;
use stack::Stack;

pub(crate) use heap::HEAP;
pub(crate) use window::{Error as WindowError, map_device, map_memory, map_tables};

/// Where the image is linked: this much above its load address.
const BASE: u64 = 0xffff_ffff_8000_0000;
/// Its load address (`link.ld`).
const LOAD: u64 = 1 << 20;
/// Nothing below this is used: null pointers, and what firmware left in the first pages.
const LOWEST: u64 = 64 * 1024;
/// What the entry code maps for the time until the tables are made here.
const BOOT_MAPPED: u64 = 4 << 30;
/// RAM beyond this much is left alone: tables for it would cost memory and the appliance has no use for it.
const MOST: u64 = 64 << 30;

/// The sections of the image, by the addresses that they are linked at; page-aligned.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The first address.
    pub(crate) start: u64,
    /// Code.
    pub(crate) text: ops::Range<u64>,
    /// Constants.
    pub(crate) rodata: ops::Range<u64>,
    /// Data, zeroed data and stacks.
    pub(crate) data: ops::Range<u64>,
}

impl Image {
    /// How far its addresses are above the physical ones.
    fn base(&self) -> u64 {
        self.start - LOAD
    }

    fn physical(&self) -> Range {
        Range { start: LOAD, end: self.data.end - self.base() }
    }
}

/// The RAM that is mapped at its physical address, sorted.
static RAM: Once<Ranges> = Once::new();

/// The first 4 GiB at their physical addresses, as the entry code maps them.
pub(crate) struct BootMapping;

impl Physical for BootMapping {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let range = Range::with_length(address, bytes.len() as u64);
        if address == 0 || range.length() != bytes.len() as u64 || range.end > BOOT_MAPPED {
            return false;
        }
        for (offset, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: the boot tables map the address, as checked; a volatile read of a byte that firmware or loader left
            // there makes no reference and has no effect, whatever memory it is.
            *byte = unsafe { ((address + offset as u64) as *const u8).read_volatile() };
        }
        true
    }
}

/// Gives out the first pages of a piece of RAM, for tables.
struct Bump(Range);

impl Frames for Bump {
    fn take(&mut self) -> Option<u64> {
        let page = Range { start: self.0.start, end: self.0.start + PAGE };
        if !self.0.contains(page) {
            return None;
        }
        self.0.start = page.end;
        // SAFETY: the page is RAM that is nobody's yet, and the boot tables map it at its address.
        unsafe { (page.start as *mut u8).write_bytes(0, PAGE as usize) };
        Some(page.start)
    }

    fn pointer(&self, frame: u64) -> *mut u64 {
        frame as *mut u64
    }
}

/// Map what the loader's memory map calls RAM, leave the boot tables for those, and open the heap.
///
/// # Panics
/// When the map leaves too little.
pub(crate) fn init(info: &StartInfo) {
    let image = entry::image();
    let ram = usable(info, &image);
    let below = |range: &Range| range.end <= BOOT_MAPPED;
    let Some(first) = ram.iter().filter(below).max_by_key(|range| range.length()) else {
        panic!("the memory map has no RAM below 4 GiB besides the image: {:?}", info.ram);
    };
    let (root, left) = match build(&image, &ram, first) {
        Ok(tables) => (tables.root(), tables.into_frames().0),
        Err(error) => panic!("too little memory for page tables ({error:?}): {ram:?}"),
    };
    // SAFETY: the new tables map the image, and with it the running code and the stack in use, at the addresses it
    // runs at, and all RAM at the same addresses as the boot tables did. No reference to anything else is alive.
    unsafe { cpu::set_cr3(root) };
    let mut zones: [Range; 8] = [Range::EMPTY; 8];
    let mut pieces: Ranges = Ranges::new();
    ram.iter().for_each(|range| pieces.push(if range == first { left } else { range }));
    for range in pieces.iter() {
        // Largest first, so that small pieces do not cost time while large ones have room.
        let place = zones.iter().position(|zone| zone.length() < range.length());
        if let Some(place) = place {
            zones[place..].rotate_right(1);
            zones[place] = range;
        }
    }
    for zone in zones.into_iter().filter(|zone| !zone.is_empty()) {
        // SAFETY: the zone is RAM by the loader's map, outside of everything reserved and of the page tables, mapped at
        // its own address by the new tables, and given to nobody else.
        unsafe { HEAP.add(zone) };
    }
    RAM.call_once(|| ram);
}

/// The RAM that may be given away, capped to what is of use.
fn usable(info: &StartInfo, image: &Image) -> Ranges {
    let mut reserved = info.reserved.clone();
    reserved.push(Range { start: 0, end: LOWEST });
    reserved.push(image.physical());
    reserved.push(Range { start: 1 << 46, end: u64::MAX });
    let all = Ranges::usable(&info.ram, &reserved);
    let mut capped = Ranges::new();
    let mut budget = MOST;
    for range in all.iter() {
        let piece = Range::with_length(range.start, range.length().min(budget));
        budget -= piece.length();
        capped.push(piece);
    }
    if all.overflowed() || reserved.overflowed() {
        panic!("the loader's memory map is too fragmented: {all:?}");
    }
    capped
}

fn build(image: &Image, ram: &Ranges, first: Range) -> Result<Tables<Bump>, paging::Error> {
    let mut tables = Tables::new(Bump(first)).ok_or(paging::Error::OutOfMemory)?;
    let mut map = |linked: &ops::Range<u64>, access| {
        let base = image.base();
        tables.map(linked.start, Range { start: linked.start - base, end: linked.end - base }, access)
    };
    map(&image.text, Access::Execute)?;
    map(&image.rodata, Access::ReadOnly)?;
    let mut start = image.data.start;
    // The stacks lie in the data, by ascending address; leave the page under each out.
    for stack in Stack::ALL {
        map(&(start..stack.guard()), Access::ReadWrite)?;
        start = stack.bottom();
    }
    map(&(start..image.data.end), Access::ReadWrite)?;
    for range in ram.iter() {
        tables.map(range.start, range, Access::ReadWrite)?;
    }
    Ok(tables)
}

/// Table frames from the heap, for what is mapped later.
pub(crate) struct HeapFrames;

impl Frames for HeapFrames {
    fn take(&mut self) -> Option<u64> {
        allocate_pages(PAGE as usize)
    }

    fn pointer(&self, frame: u64) -> *mut u64 {
        frame as *mut u64
    }
}

/// Zeroed pages from the heap for `length` bytes, by their address, which is their physical address as well; `None`
/// when memory is short.
pub(crate) fn allocate_pages(length: usize) -> Option<u64> {
    let layout = pages(length)?;
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc::alloc::alloc_zeroed(layout) };
    (!block.is_null()).then_some(block as u64)
}

/// The same with whatever is in them. To the language they are initialised, with bytes of which nothing is known: who
/// reads before he writes sees what was left there, by the firmware or by whoever had them before.
pub(crate) fn allocate_stale_pages(length: usize) -> Option<u64> {
    let layout = pages(length)?;
    // SAFETY: the layout's size is not zero.
    let block = unsafe { alloc::alloc::alloc(layout) };
    take_as_written(block);
    (!block.is_null()).then_some(block as u64)
}

/// `length` bytes with whatever is in them, for who writes before he reads: megabytes that nobody uses yet are neither
/// filled nor, on the host, taken.
pub fn stale_bytes(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    take_as_written(bytes.as_mut_ptr());
    // SAFETY: there is room for as many, and they are taken as written.
    unsafe { bytes.set_len(length) };
    bytes
}

/// Make the bytes of a new block initialised ones to the language, with values of which nothing is known.
fn take_as_written(block: *mut u8) {
    // SAFETY: this does nothing. The compiler takes it for what may write through the pointer, and so has to take the
    // bytes for written, which those of a new block are not in the language's eyes; RAM always holds some.
    unsafe { asm!("/* {} */", in(reg) block, options(nostack, preserves_flags)) };
}

/// Give pages back.
///
/// # Safety
/// `address` and `length` must be those of an [`allocate_pages`] or [`allocate_stale_pages`], and nobody, no device either,
/// may use them any more.
pub(crate) unsafe fn free_pages(address: u64, length: usize) {
    if let Some(layout) = pages(length) {
        // SAFETY: the same length gives the layout of the allocation.
        unsafe { alloc::alloc::dealloc(address as *mut u8, layout) };
    }
}

fn pages(length: usize) -> Option<core::alloc::Layout> {
    let size = length.max(1).checked_next_multiple_of(PAGE as usize)?;
    core::alloc::Layout::from_size_align(size, PAGE as usize).ok()
}

/// Copy physical memory that firmware or loader left: tables, text.
///
/// # Errors
/// `None` when it cannot be mapped or memory is short.
pub(crate) fn copy_physical(range: Range) -> Option<Vec<u8>> {
    let length = usize::try_from(range.length()).ok()?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).ok()?;
    let start = map_tables(range).ok()?;
    // SAFETY: `map_tables` maps all of the range for reading, and the vector has room for as much. Nobody writes there:
    // firmware and loader have run.
    unsafe { core::ptr::copy_nonoverlapping(start as *const u8, bytes.as_mut_ptr(), length) };
    // SAFETY: the bytes were just written.
    unsafe { bytes.set_len(length) };
    Some(bytes)
}

/// How far above where it is linked the image runs: a number of 2 MiB that what unpacked it has drawn. Less than a GiB.
pub fn moved() -> u64 {
    entry::image().base() - BASE
}

/// The physical address of what lies in the image.
pub(crate) fn physical(address: u64) -> u64 {
    // As in `entry`: the compiler must not make one constant of an address and a distance, for the image is moved.
    core::hint::black_box(address).wrapping_sub(entry::image().base())
}

/// Whether all of `range` is RAM that is mapped at its physical address.
pub(crate) fn is_ram(range: Range) -> bool {
    RAM.get().is_some_and(|ram| ram.iter().any(|piece| piece.contains(range)))
}

/// Whether any of `range` is such RAM, or part of the image.
pub(crate) fn touches_ram(range: Range) -> bool {
    entry::image().physical().overlaps(range)
        || RAM.get().is_some_and(|ram| ram.iter().any(|piece| piece.overlaps(range)))
}

/// Bytes of RAM that the machine lets us use, the image included.
pub fn total() -> u64 {
    RAM.get().map_or(0, Ranges::total) + entry::image().physical().length()
}

/// Bytes of the heap that are free.
pub fn free() -> usize {
    HEAP.sizes().1
}

/// What [`check_rights`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Bytes that can be executed.
    pub executable: u64,
    /// Bytes that can be written.
    pub writable: u64,
    /// Bytes that can only be read.
    pub read_only: u64,
}

/// Walk the page tables that the CPU uses.
///
/// # Panics
/// When a page is writable and executable, when the first page is mapped, or when a page under a stack is.
pub fn check_rights() -> Rights {
    // SAFETY: CR3 points to the tables made in `build`, whose frames are RAM, mapped at their physical addresses. They
    // are changed by `window` only, which does not run meanwhile.
    let tables = unsafe { Tables::at(cpu::cr3(), HeapFrames) };
    let mut rights = Rights::default();
    tables.walk(&mut |page| {
        let address = page.address;
        assert!(!(page.writable && page.executable), "the page at {address:#x} is writable and executable");
        assert!(address >= LOWEST || address >= 1 << 63, "the page at {address:#x} must not be mapped");
        assert!(Stack::guarding(address).is_none(), "the guard page at {address:#x} is mapped");
        match (page.executable, page.writable) {
            (true, _) => rights.executable += page.length,
            (_, true) => rights.writable += page.length,
            _ => rights.read_only += page.length,
        }
    });
    rights
}
