//! KVM's clock: a page that the hypervisor keeps, with a time and the counter's rate.

use super::pvclock::Clock;
use crate::cpu;
use crate::hypervisor::Hypervisor;
use crate::memory;

/// CPUID 0x4000_0001, EAX: the clock by the newer of its registers.
const FEATURE: u32 = 1 << 3;
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
const ENABLE: u64 = 1;
/// Where in our page the wall clock is put.
const WALL_CLOCK: u64 = 2048;

/// Ask KVM for the page, and have the clock that it keeps there; `None` when there is no such thing, or it stays empty.
pub(super) fn enable() -> Option<Clock> {
    if Hypervisor::Kvm.leaf(1)?.eax & FEATURE == 0 {
        return None;
    }
    let page = memory::allocate_pages(4096)?;
    // SAFETY: KVM has announced the register. The page is ours, is never freed, and is accessed by volatile reads only.
    unsafe { cpu::write_msr(MSR_SYSTEM_TIME, page | ENABLE) };
    // SAFETY: both places lie in the page, aligned, with nothing else there; KVM writes whole words.
    unsafe { Clock::new(page, page + WALL_CLOCK, Some(renew)) }
}

/// KVM writes the time of day at its clock's zero, by the host's clock of this moment, each time it is asked.
fn renew(wall_clock: u64) {
    // SAFETY: KVM has announced the register with the one of the clock itself. This part of the page is ours, is never freed, holds
    // nothing else, and is accessed by volatile reads only.
    unsafe { cpu::write_msr(MSR_WALL_CLOCK, wall_clock) };
}
