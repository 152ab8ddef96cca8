//! The heap: one linked-list allocator for each piece of RAM that the memory map calls free.
//!
//! What is large comes from a reserve in the first and largest piece as long as that lasts, one after the other. The
//! lists keep their notes in what is free, just behind what was given out last; large buffers that nobody uses yet would
//! leave one on every few pages, and each page that is touched is taken from the host, at boot and for good. To its
//! list the reserve is one block; what is given back of it goes to the list, and so does what is left of it once
//! anything finds no room elsewhere. So all of it is used before memory is short.
//!
//! Interrupt handlers do not allocate, and nothing runs while the lock is held, so it is never contended; it is there
//! because the language asks for one.

use super::ranges::Range;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use linked_list_allocator::Heap;
use spin::Mutex;

/// Pieces of RAM that are used; more than these are the firmware's crumbs.
const ZONES: usize = 8;
/// A piece smaller than this is not worth a zone.
const SMALLEST: u64 = 64 * 1024;

/// What is large.
const LARGE: usize = 8 * 1024;
/// Large blocks begin and end at multiples of this, so that what lies between two of them can go to a list.
const GRAIN: usize = 64;
/// Of the largest piece, the part that is not in the reserve, as a divisor.
const SMALL_PART: usize = 8;

/// The allocator of the program and of the kernel.
pub(crate) struct Zones {
    pieces: Mutex<Pieces>,
    /// Blocks given out since the start.
    allocations: AtomicU64,
}

struct Pieces {
    heaps: [Heap; ZONES],
    /// What was not yet given out of a block of the first heap.
    reserve: Range,
}

/// The heap.
#[cfg_attr(target_os = "none", global_allocator)]
pub(crate) static HEAP: Zones = Zones::new();

impl Zones {
    const fn new() -> Self {
        let pieces = Pieces { heaps: [const { Heap::empty() }; ZONES], reserve: Range::EMPTY };
        Self { pieces: Mutex::new(pieces), allocations: AtomicU64::new(0) }
    }

    /// How many blocks were given out since the start.
    pub(crate) fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Give the heap a piece of RAM; `false` when it is too small or has come too late to be used.
    ///
    /// # Safety
    /// The range must be mapped readable and writable at its own address, stay so for ever, and be nobody else's.
    pub(crate) unsafe fn add(&self, range: Range) -> bool {
        let mut pieces = self.pieces.lock();
        let Some(place) = pieces.heaps.iter().position(|zone| zone.size() == 0) else { return false };
        if range.length() < SMALLEST {
            return false;
        }
        let Ok(size) = usize::try_from(range.length()) else { return false };
        // SAFETY: the caller gives the memory away; the zone is empty, so this is its only initialisation.
        unsafe { pieces.heaps[place].init(range.start as *mut u8, size) };
        if place == 0 {
            pieces.set_aside(size - size / SMALL_PART);
        }
        true
    }

    /// Bytes given to the heap, and bytes of these that are free.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let pieces = self.pieces.lock();
        let free: usize = pieces.heaps.iter().map(Heap::free).sum();
        (pieces.heaps.iter().map(Heap::size).sum(), free + pieces.reserve.length() as usize)
    }
}

impl Pieces {
    /// Take so many bytes of the first heap for the reserve.
    fn set_aside(&mut self, length: usize) {
        let Ok(layout) = Layout::from_size_align(length / GRAIN * GRAIN, GRAIN) else { return };
        if layout.size() >= LARGE
            && let Ok(block) = self.heaps[0].allocate_first_fit(layout)
        {
            self.reserve = Range::with_length(block.as_ptr() as u64, layout.size() as u64);
        }
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() >= LARGE
            && let Some(block) = self.cut(layout)
        {
            return Some(block);
        }
        self.first_fit(layout).or_else(|| {
            let left = core::mem::replace(&mut self.reserve, Range::EMPTY);
            // SAFETY: it is what was not given out of the block, and belongs to nobody from here on.
            unsafe { self.give_back(left) };
            self.first_fit(layout)
        })
    }

    fn first_fit(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let mut heaps = self.heaps.iter_mut().filter(|heap| heap.size() != 0);
        heaps.find_map(|heap| heap.allocate_first_fit(layout).ok())
    }

    /// Take the first bytes of the reserve that are aligned; those before them go to the list.
    fn cut(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let start = self.reserve.start.checked_next_multiple_of(layout.align() as u64)?;
        let end = start.checked_add(layout.size() as u64)?;
        if end > self.reserve.end {
            return None;
        }
        let before = Range { start: self.reserve.start, end: start };
        self.reserve.start = end;
        // SAFETY: nobody has these bytes, and they are no longer in the reserve.
        unsafe { self.give_back(before) };
        NonNull::new(start as *mut u8)
    }

    /// # Safety
    /// `range` must be a part of the block that the reserve is made of, in whole grains, and nobody else's any more.
    unsafe fn give_back(&mut self, range: Range) {
        if let Some(start) = NonNull::new(range.start as *mut u8)
            && let Ok(layout) = Layout::from_size_align(range.length() as usize, GRAIN)
            && !range.is_empty()
        {
            // SAFETY: the list keeps no notes on what it has given out, so a part of a block, in whole grains, is to it a
            // block; the caller vouches that it is nobody's.
            unsafe { self.heaps[0].deallocate(start, layout) };
        }
    }
}

/// How a block is asked for and given back: a large one in whole grains.
fn in_grains(layout: Layout) -> Layout {
    if layout.size() < LARGE {
        return layout;
    }
    let size = layout.size().checked_next_multiple_of(GRAIN);
    size.and_then(|size| Layout::from_size_align(size, layout.align().max(GRAIN)).ok()).unwrap_or(layout)
}

// SAFETY: memory comes from `Heap`s that own disjoint ranges and keep the rules; a block returns to the one heap whose
// range contains it. The lock makes the calls exclusive, and nothing in here panics or allocates.
unsafe impl GlobalAlloc for Zones {
    // Not into each of a thousand places that allocate and free: that is a fifth of the image.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let block = self.pieces.lock().allocate(in_grains(layout));
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut pieces = self.pieces.lock();
        let zone = pieces.heaps.iter_mut().find(|zone| (zone.bottom()..zone.top()).contains(&block));
        if let (Some(zone), Some(block)) = (zone, NonNull::new(block)) {
            // SAFETY: the caller vouches that `block` was allocated here with this layout, and by its address it was
            // allocated from this zone, or cut from a block that was; a part of a block is a block to the list.
            unsafe { zone.deallocate(block, in_grains(layout)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    /// A heap of one piece; the memory is never given back.
    fn zones() -> (Zones, Range) {
        let zones = Zones::new();
        let memory = vec![0u64; SIZE / 8].leak();
        let range = Range::with_length(memory.as_mut_ptr() as u64, SIZE as u64);
        // SAFETY: the memory is leaked, and nobody else has it.
        assert!(unsafe { zones.add(range) });
        (zones, range)
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    fn take(zones: &Zones, layout: Layout) -> *mut u8 {
        // SAFETY: no layout here is empty.
        unsafe { zones.alloc(layout) }
    }

    fn give(zones: &Zones, layout: Layout, block: *mut u8) {
        // SAFETY: every block here goes back once, with the layout it was taken with.
        unsafe { zones.dealloc(block, layout) };
    }

    /// Take blocks until there is no room, all of them filled with their number.
    fn take_all(zones: &Zones, layout: Layout) -> Vec<*mut u8> {
        let mut blocks = Vec::new();
        loop {
            let block = take(zones, layout);
            if block.is_null() {
                return blocks;
            }
            // SAFETY: the block has as many bytes.
            unsafe { block.write_bytes(blocks.len() as u8, layout.size()) };
            blocks.push(block);
        }
    }

    fn give_all(zones: &Zones, layout: Layout, blocks: &[*mut u8]) {
        for (number, &block) in blocks.iter().enumerate() {
            // SAFETY: the block was taken with this layout, and so has as many bytes; all were written.
            let bytes = unsafe { core::slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == number as u8), "block {number} is somebody else's, too");
            give(zones, layout, block);
        }
    }

    #[test]
    fn all_memory_is_given_out_whatever_is_asked_for_and_comes_back() {
        let (zones, _) = zones();
        let free = zones.sizes().1;
        for layout in [(64, 8), (20_000, 1), (17_001, 4096), (16_384, 64), (5_000, 16), (200_000, 8)] {
            let layout = self::layout(layout.0, layout.1);
            let blocks = take_all(&zones, layout);
            let each = layout.size().next_multiple_of(layout.align().max(8)) + 2 * GRAIN;
            assert!(blocks.len() >= (SIZE - SIZE / SMALL_PART) / each, "{layout:?}: {}", blocks.len());
            give_all(&zones, layout, &blocks);
            assert_eq!(zones.sizes().1, free, "{layout:?}");
        }
        // One block as large as nearly all shows that nothing has stayed in pieces.
        assert_eq!(take_all(&zones, layout(SIZE - 4096, 8)).len(), 1);
    }

    #[test]
    fn small_and_large_blocks_share_what_there_is_and_never_each_others() {
        let (zones, range) = zones();
        let free = zones.sizes().1;
        for round in 0..50 {
            let (small, large) =
                (layout(100 + round * 37, 8), layout(LARGE + round * 1_111, 4096 >> (round % 7)));
            let first = [large, small, large].map(|layout| take(&zones, layout));
            assert!(first.iter().all(|block| (range.start..range.end).contains(&(*block as u64))));
            let rest = take_all(&zones, small);
            give(&zones, large, first[0]);
            let more = take_all(&zones, small);
            assert!(more.len() * small.size() * 2 > large.size(), "{round}");
            give_all(&zones, small, &rest);
            give_all(&zones, small, &more);
            give(&zones, small, first[1]);
            give(&zones, large, first[2]);
            assert_eq!(zones.sizes().1, free);
        }
    }

    #[test]
    fn large_buffers_that_nobody_uses_are_not_touched() {
        let (zones, range) = zones();
        let layout = layout(65_600, 8);
        let blocks = [(); 12].map(|()| take(&zones, layout));
        assert!(blocks.iter().all(|block| !block.is_null()));
        let last = blocks.iter().map(|block| *block as u64).max().unwrap() - range.start;
        // SAFETY: all of it is the leaked memory; what lies in it are the zeros it was made of, and notes.
        let bytes = unsafe { core::slice::from_raw_parts(range.start as *const u8, last as usize) };
        // The list was begun at the very start.
        assert!(bytes[2 * GRAIN..].iter().all(|byte| *byte == 0));
    }
}
