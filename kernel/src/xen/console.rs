//! The console of a guest of Xen's: a ring of text in a page that whoever reads the console has as well (`io/console.h`).
//!
//! It is written to where there is no serial port, without a lock, in a panic as well. Whoever does not read is waited for once and for a
//! moment; what he leaves no room for is lost.

use super::{SCHEDULE, YIELD, call, notify};
use crate::cpu;
use crate::memory::{self, ranges::Range};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Where text to go out is in the page, and how much; how far it was read, and written.
const OUT: u64 = 1024;
const LENGTH: u32 = 2048;
const CONSUMED: u64 = 3080;
const PRODUCED: u64 = 3084;
/// Ticks of the time stamp counter that a reader gets: 250 ms on the fastest CPU, for xenconsoled leaves a ring alone up to 200 ms after
/// 30 notifications.
const PATIENCE: u64 = 1_500_000_000;

/// The page, or zero; the port by which its reader is told.
static PAGE: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);
/// Whether the reader took nothing the last time.
static STALLED: AtomicBool = AtomicBool::new(false);

/// A ring of text.
#[derive(Clone, Copy)]
struct Ring(u64);

impl Ring {
    fn index(self, offset: u64) -> u32 {
        // SAFETY: the index lies in the page, which is mapped and aligned.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    fn set_index(self, offset: u64, value: u32) {
        // SAFETY: as above; whoever has the page as well expects it to change.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) };
    }

    /// Put as much of `text` into it as there is room for; answers how much that is: nothing, where an index makes no sense.
    fn put(self, text: &[u8]) -> usize {
        let (consumed, produced) = (self.index(CONSUMED), self.index(PRODUCED));
        let room = LENGTH.saturating_sub(produced.wrapping_sub(consumed));
        let count = text.len().min(room as usize);
        fence(Ordering::SeqCst);
        for (at, byte) in (0..).map(|at: u32| produced.wrapping_add(at) % LENGTH).zip(&text[..count]) {
            // SAFETY: the place is in the ring, by the remainder, and the ring in the page.
            unsafe { ((self.0 + OUT + u64::from(at)) as *mut u8).write_volatile(*byte) };
        }
        fence(Ordering::Release);
        self.set_index(PRODUCED, produced.wrapping_add(count as u32));
        count
    }
}

/// Write to the ring in page `number` from now on.
pub(super) fn attach(number: u64, port: u32) {
    let Ok(page) = memory::map_memory(Range::with_length(number.saturating_mul(4096), 4096)) else { return };
    PORT.store(port, Ordering::Relaxed);
    PAGE.store(page, Ordering::Relaxed);
}

/// Whether there is one.
pub(crate) fn is_present() -> bool {
    PAGE.load(Ordering::Relaxed) != 0
}

/// The port by which its reader would tell us something.
pub(super) fn port() -> Option<u32> {
    is_present().then(|| PORT.load(Ordering::Relaxed))
}

/// Write text; line ends become CR LF.
pub(crate) fn write(text: &[u8]) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.split_last() {
            Some((b'\n', rest)) => {
                put(rest);
                put(b"\r\n");
            }
            _ => put(line),
        }
    }
    notify(PORT.load(Ordering::Relaxed));
}

fn put(mut text: &[u8]) {
    let ring = Ring(PAGE.load(Ordering::Relaxed));
    let (start, mut is_first) = (cpu::tsc(), true);
    loop {
        let count = ring.put(text);
        text = &text[count..];
        if text.is_empty() {
            STALLED.store(false, Ordering::Relaxed);
            return;
        }
        if STALLED.load(Ordering::Relaxed) || cpu::tsc().wrapping_sub(start) > PATIENCE {
            STALLED.store(true, Ordering::Relaxed);
            return;
        }
        // Once for each filling: each of them counts.
        if count > 0 || is_first {
            notify(PORT.load(Ordering::Relaxed));
        }
        is_first = false;
        // SAFETY: nothing is read or written; the ring's port is Xen's, so this is Xen.
        unsafe { call(SCHEDULE, YIELD, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_round_the_ring_and_a_reader_that_lies_gets_none() {
        let page: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
        let ring = Ring(page.as_ptr().expose_provenance() as u64);
        let start = u32::MAX - 1000;
        ring.set_index(CONSUMED, start);
        ring.set_index(PRODUCED, start);
        assert_eq!((ring.put(&[b'a'; 2000]), ring.put(&[b'b'; 100]), ring.put(b"c")), (2000, 48, 0));
        let byte = |at: u32| {
            let place = OUT as usize + (start.wrapping_add(at) % LENGTH) as usize;
            page[place / 8].load(Ordering::Relaxed).to_le_bytes()[place % 8]
        };
        assert_eq!((byte(0), byte(1999), byte(2000), byte(2047)), (b'a', b'a', b'b', b'b'));
        ring.set_index(CONSUMED, start.wrapping_add(40));
        assert_eq!(ring.put(&[b'c'; 50]), 40);
        for lie in [start.wrapping_add(2089), start.wrapping_add(39), start.wrapping_sub(9000)] {
            ring.set_index(CONSUMED, lie);
            assert_eq!(ring.put(b"d"), 0, "{lie}");
        }
    }
}
