//! The counter that the profile goes by: the CPU's own where there is one that may be read, as a call of the clock for
//! every change of stage would cost more than the stage.

use std::sync::OnceLock;
use std::time::Instant;

/// The counter now.
#[cfg(target_arch = "x86_64")]
pub(super) fn cycles() -> u64 {
    // SAFETY: RDTSC touches no memory and exists on every x86-64; Linux lets processes read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter now, in nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn cycles() -> u64 {
    start().0.elapsed().as_nanos() as u64
}

/// The clock and the counter at one moment, the first time this is asked.
pub(super) fn start() -> (Instant, u64) {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    *START.get_or_init(|| {
        let now = Instant::now();
        (now, if cfg!(target_arch = "x86_64") { cycles() } else { 0 })
    })
}

/// By how much it grows in a second, measured since [`start`]; zero in its first millisecond.
pub(super) fn hertz() -> u64 {
    let (clock, counter) = start();
    let nanos = clock.elapsed().as_nanos().max(1);
    let ticks = u128::from(cycles().wrapping_sub(counter));
    if nanos < 1_000_000 { 0 } else { u64::try_from(ticks * 1_000_000_000 / nanos).unwrap_or(0) }
}
