//! What a driver may hold of the machine: registers, ports, memory that a device reaches, interrupts.
//!
//! - [`Mmio`] and [`Ports`] are registers, bounds-checked.
//! - [`Shared`] is memory that driver and device use at the same time (rings): single accesses only, no references.
//! - [`Buffer`] is memory that one of them owns at a time: bytes while it is the driver's; [`Buffer::lend`] turns it
//!   into a [`Lent`], which has an address and nothing else, until the device is done with it.
//! - [`Irq`] is a bit that an interrupt sets. The handler does nothing else; who idles looks at the bit.
//! - [`Synic`] is Hyper-V's way to be told, and to tell; [`xen::Guest`] is Xen's.
//!
//! On the bare machine the handles stand on a [`Platform`], which the kernel [`install`]s once. On a developer's
//! machine they stand on [`emulated`], a machine inside the test that punishes what real hardware lets pass.
//!
//! Registers are not memory in the language's sense, and a platform never maps RAM as registers; so using them is safe.
//! What a device does to RAM on a driver's command is bounded by what was lent to it.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod error;
mod platform;
mod synic;
pub mod xen;

#[cfg(target_os = "none")]
mod bare;
#[cfg(not(target_os = "none"))]
pub mod emulated;

#[cfg(target_os = "none")]
use bare as backing;
#[cfg(not(target_os = "none"))]
use emulated as backing;

pub use backing::dma::{Buffer, Lent, Shared};
pub use backing::irq::Irq;
pub use backing::registers::{Mmio, Ports};
pub use backing::{delay, ecam, microseconds, mmio_slots};
pub use error::Error;
pub use platform::{Ecam, Interrupt, Message, MmioSlot, Platform, Trigger, Width, Xen, install};
pub use synic::{MESSAGE, Synic};

/// Bytes of a page; DMA memory begins at a multiple of it.
pub const PAGE: usize = 4096;

/// Which way the data in a lent [`Buffer`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// How long somebody may still wait, by the clock. What is done between two looks takes its part: a device that keeps its driver
/// busy makes it wait no longer.
#[derive(Debug)]
pub struct Patience {
    left: u64,
    last: u64,
    /// What the time from one look to the next counts for at most: when the whole machine was stopped, its devices may have been
    /// as well, and one look is not enough.
    most: u64,
}

impl Patience {
    /// So many microseconds from now on.
    pub fn new(microseconds: u32) -> Self {
        let left = u64::from(microseconds);
        Self { left, last: self::microseconds(), most: (left / 8).max(1000) }
    }

    /// Whether they are over.
    pub fn is_over(&mut self) -> bool {
        let now = microseconds();
        self.left = self.left.saturating_sub(now.saturating_sub(self.last).min(self.most));
        self.last = now;
        self.left == 0
    }
}

/// Wait until `done`, at most `microseconds`, in which asking is contained; answers whether it came true.
pub fn wait(microseconds: u32, mut done: impl FnMut() -> bool) -> bool {
    const STEP: u32 = 10;
    // Miri takes its time for each.
    let step = if cfg!(miri) { STEP.max(microseconds / 64) } else { STEP };
    let mut patience = Patience::new(microseconds);
    while !patience.is_over() {
        if done() {
            return true;
        }
        delay(step);
    }
    done()
}

/// How far apart buffers of `length` bytes lie that are cut from one piece of memory, and so what each costs.
///
/// Large ones take an odd number of pages: buffers at power-of-two distances share sets of caches, and under an
/// emulator that finds pages by their low bits they share one slot, which makes copying ten times slower.
pub fn buffer_stride(length: usize) -> usize {
    const CACHE_LINE: usize = 64;
    if length < PAGE {
        return length.max(1).next_multiple_of(CACHE_LINE);
    }
    (length.div_ceil(PAGE) | 1) * PAGE
}

/// The most that is asked for in one contiguous piece when many buffers are made.
const PIECE: usize = 512 * 1024;

/// How many buffers of that stride are cut from one piece.
fn per_piece(stride: usize) -> usize {
    (PIECE / stride).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_lie_at_powers_of_two() {
        assert_eq!(buffer_stride(1526), 1536);
        assert_eq!(buffer_stride(64 * 1024), 17 * PAGE);
        assert_eq!(buffer_stride(64 * 1024 + 26), 17 * PAGE);
        assert_eq!(buffer_stride(32 * 1024), 9 * PAGE);
        assert_eq!(buffer_stride(4096), PAGE);
        assert_eq!(per_piece(17 * PAGE), 7);
        assert_eq!(per_piece(2 << 20), 1);
    }

    #[test]
    fn a_wait_ends_whatever_happens() {
        let before = emulated::microseconds();
        assert!(!wait(100, || false));
        assert_eq!(emulated::microseconds() - before, 100);
        assert!(wait(0, || true));
        // What is done meanwhile takes time as well.
        let before = emulated::microseconds();
        let done = || {
            delay(40);
            false
        };
        assert!(!wait(100, done));
        assert!(emulated::microseconds() - before < 160);
    }

    #[test]
    fn a_machine_that_was_stopped_has_not_waited() {
        let mut asked = 0;
        let stopped = || {
            asked += 1;
            // For an hour.
            delay(if asked == 1 { 3_600_000_000 } else { 990 });
            asked == if cfg!(miri) { 10 } else { 100 }
        };
        assert!(wait(1_000_000, stopped));
    }
}
