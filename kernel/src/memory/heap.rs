//! The heap: one linked-list allocator for each piece of RAM that the memory map calls free.
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

/// The allocator of the program and of the kernel.
pub(crate) struct Zones {
    heaps: Mutex<[Heap; ZONES]>,
    /// Blocks given out since the start.
    allocations: AtomicU64,
}

/// The heap.
#[cfg_attr(target_os = "none", global_allocator)]
pub(crate) static HEAP: Zones = Zones::new();

impl Zones {
    const fn new() -> Self {
        Self { heaps: Mutex::new([const { Heap::empty() }; ZONES]), allocations: AtomicU64::new(0) }
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
        let mut zones = self.heaps.lock();
        let Some(zone) = zones.iter_mut().find(|zone| zone.size() == 0) else { return false };
        if range.length() < SMALLEST {
            return false;
        }
        let Ok(size) = usize::try_from(range.length()) else { return false };
        // SAFETY: the caller gives the memory away; the zone is empty, so this is its only initialisation.
        unsafe { zone.init(range.start as *mut u8, size) };
        true
    }

    /// Bytes given to the heap, and bytes of these that are free.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let zones = self.heaps.lock();
        (zones.iter().map(Heap::size).sum(), zones.iter().map(Heap::free).sum())
    }
}

// SAFETY: memory comes from `Heap`s that own disjoint ranges and keep the rules; a block returns to the one heap whose
// range contains it. The lock makes the calls exclusive, and nothing in here panics or allocates.
unsafe impl GlobalAlloc for Zones {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let mut zones = self.heaps.lock();
        let block = zones
            .iter_mut()
            .filter(|zone| zone.size() != 0)
            .find_map(|zone| zone.allocate_first_fit(layout).ok());
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut zones = self.heaps.lock();
        let zone = zones.iter_mut().find(|zone| (zone.bottom()..zone.top()).contains(&block));
        if let (Some(zone), Some(block)) = (zone, NonNull::new(block)) {
            // SAFETY: the caller vouches that `block` was allocated here with this layout, and by its address it was
            // allocated from this zone.
            unsafe { zone.deallocate(block, layout) };
        }
    }
}
