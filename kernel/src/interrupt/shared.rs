//! Interrupt lines of PCI: by level, and shared by whoever hangs on them.
//!
//! A handler can do nothing about the device that keeps the line up, so it leaves the interrupt unacknowledged: the local APIC
//! holds back what comes on that vector until [`acknowledge`], which comes before the machine idles, when the drivers have
//! looked at their devices. A line that is still up then is raised at once: nothing is lost, however many share it.

use super::{APIC, Line, TICKING, ioapic};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Bits of the vectors that are raised by level, for the handlers.
pub(super) static LEVEL: AtomicU64 = AtomicU64::new(0);
/// Those of them that have been raised and not acknowledged.
pub(super) static RAISED: AtomicU64 = AtomicU64::new(0);

/// A line of PCI in use.
struct Shared {
    number: u8,
    line: Line,
    users: usize,
}

static SHARED: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NoVector,
    NoLine,
}

/// The vector of the line that firmware calls `number`, for one more.
pub(crate) fn share(number: u8) -> Result<Line, Refused> {
    let mut shared = SHARED.lock();
    if let Some(found) = shared.iter_mut().find(|shared| shared.number == number) {
        found.users += 1;
        return Ok(found.line);
    }
    let line = Line::take().ok_or(Refused::NoVector)?;
    LEVEL.fetch_or(1 << line.bit(), Ordering::Relaxed);
    if !ioapic::route_pci(number, line) {
        line.forget();
        return Err(Refused::NoLine);
    }
    // Firmware may have noted another line than the device has, so until this one is heard it is not relied on.
    TICKING.fetch_or(1 << line.bit(), Ordering::Relaxed);
    shared.push(Shared { number, line, users: 1 });
    Ok(line)
}

/// Whether that global interrupt is such a line.
pub(super) fn has(global: u32) -> bool {
    SHARED.lock().iter().any(|shared| ioapic::of_line(shared.number).0 == global)
}

/// Somebody needs `line` no longer. Answers whether others still do; the last one's is masked, for nobody would bring it
/// down.
pub(super) fn leave(line: Line) -> bool {
    let mut shared = SHARED.lock();
    let Some(place) = shared.iter().position(|shared| shared.line == line) else { return false };
    shared[place].users -= 1;
    if shared[place].users == 0 {
        ioapic::mask_pci(shared.swap_remove(place).number);
        return false;
    }
    true
}

/// Let the lines be heard again that have been raised.
pub(super) fn acknowledge() {
    // A load is cheaper than a locked write, and mostly there is none.
    if RAISED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let raised = RAISED.swap(0, Ordering::Relaxed);
    TICKING.fetch_and(!raised, Ordering::Relaxed);
    // The local APIC takes the highest first; all others have been acknowledged by their handlers.
    if let Some(apic) = APIC.get() {
        (0..raised.count_ones()).for_each(|_| apic.end());
    }
}
