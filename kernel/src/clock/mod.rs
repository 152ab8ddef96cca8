//! Time: microseconds since the start, that never go back, and the timer that ends idling.
//!
//! The time stamp counter is the clock; what differs between machines is how its rate is known. In this order:
//!
//! | source | where it is found |
//! |---|---|
//! | KVM's clock page | KVM, and whoever speaks its interface (Firecracker, Cloud Hypervisor) |
//! | Xen's clock page | Xen |
//! | Hyper-V's reference clock | Hyper-V, and whoever passes for it |
//! | CPUID leaf 0x15 | CPUs and hypervisors that state the crystal's rate |
//! | CPUID leaf 0x4000_0010 | VMware, and hypervisors that took it over |
//! | the ACPI timer, 3.579545 MHz | q35 and pc under translation; everything with fixed ACPI hardware |
//! | the high precision event timers' counter | where there is a table of them and no ACPI timer |
//! | the PC's timer chip, 1.193182 MHz | microvm under translation; machines that say they have it (`promised.rs`) |
//! | the local APIC's timer, 1 GHz | QEMU and KVM without any of these: there the rate is part of the interface |
//!
//! Without any of them the boot ends: an appliance whose timeouts are guesses loses data.

mod calibrate;
pub mod day;
mod hyperv;
mod kvm;
mod pvclock;
mod reference;

#[cfg(test)]
pub(crate) use reference::Reference;

use crate::acpi::Acpi;
use crate::hyperv::Features;
use crate::hypervisor::Hypervisor;
use crate::interrupt::{self, Apic};
use crate::promised::Promised;
use crate::{cpu, xen};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// Binary places of the factor from counter ticks to microseconds.
const PLACES: u32 = 48;

static CLOCK: Once<Clock> = Once::new();
/// The latest time given out, lest a counter that jumps be seen.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// When the timer is set to fire; zero once it has.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// The clock of the machine.
struct Clock {
    /// The counter at time zero.
    start: u64,
    /// Its rate, in hertz.
    rate: u64,
    /// Microseconds for one tick, shifted.
    factor: u64,
    /// The hypervisor's own, which knows better when the machine moves to another host, and the time on it at zero.
    page: Option<(Page, u64)>,
    /// Ticks of the local APIC in a second; zero when its timer waits for the counter itself.
    timer_rate: u64,
}

/// A clock that a hypervisor keeps.
enum Page {
    /// KVM's or Xen's.
    Pv(pvclock::Clock),
    HyperV(hyperv::Page),
}

impl Page {
    /// Microseconds since a moment of the hypervisor's choice.
    fn micros(&self) -> u64 {
        match self {
            Self::Pv(clock) => clock.micros(),
            Self::HyperV(page) => page.micros(),
        }
    }

    /// The time of day in seconds since 1970, where it is among what the hypervisor keeps.
    fn wall_clock(&self) -> Option<u64> {
        match self {
            Self::Pv(clock) => clock.wall_clock(),
            Self::HyperV(_) => None,
        }
    }
}

/// How the rate of the counter became known: for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// What told it.
    pub(crate) source: &'static str,
    /// Ticks in a second.
    pub(crate) rate: u64,
    /// Ticks of the local APIC in a second; zero when it does not matter.
    pub(crate) timer_rate: u64,
}

/// Start the clock; `start` is the counter at the first instruction.
///
/// # Panics
/// When nothing tells the counter's rate.
pub(crate) fn init(start: u64, acpi: &Acpi, promised: Promised, apic: &Apic) -> Origin {
    let (page, told, apic_rate) = of_hypervisor();
    let told = told.or_else(told_by_cpuid);
    let (source, rate, mut timer_rate) = match told {
        Some((source, rate)) => (source, rate, 0),
        None => calibrate::against_reference(acpi, promised, apic),
    };
    reference::Reference::rest(promised);
    if apic.has_tsc_deadline() {
        timer_rate = 0;
    } else if let Some(stated) = reference::stated_timer_rate() {
        timer_rate = stated;
    } else if let Some(stated) = apic_rate {
        timer_rate = stated;
    } else if timer_rate == 0 {
        timer_rate = calibrate::timer(apic, rate);
    }
    // What the counter says passed between start and now, taken off the page's time, is the page's time at zero.
    let factor = factor(rate);
    let zero = |page: &Page| page.micros().saturating_sub(scale(cpu::tsc().saturating_sub(start), factor));
    let page = page.map(|page| {
        let zero = zero(&page);
        (page, zero)
    });
    day::init(acpi);
    CLOCK.call_once(|| Clock { start, rate, factor, page, timer_rate });
    Origin { source, rate, timer_rate }
}

/// What a hypervisor of a known interface has: its clock; the counter's rate, and who tells it; the rate of the local APIC's
/// timer.
type Told = (Option<Page>, Option<(&'static str, u64)>, Option<u64>);

fn of_hypervisor() -> Told {
    let kvm = kvm::enable().map(|clock| (clock, "KVM's clock page"));
    if let Some((clock, source)) = kvm.or_else(|| Some((of_xen()?, "Xen's clock page"))) {
        let rate = clock.rate();
        return (Some(Page::Pv(clock)), Some((source, rate)), None);
    }
    let Some(features) = Features::read() else { return (None, None, None) };
    let sane = |rate: &u64| (1_000_000..1 << 40).contains(rate);
    let page = hyperv::Page::enable(features);
    let (tsc, apic) = features.rates().unzip();
    let rate = page.as_ref().and_then(hyperv::Page::rate).or(tsc).filter(sane);
    (page.map(Page::HyperV), rate.map(|rate| ("Hyper-V's clock", rate)), apic.filter(sane))
}

/// The clock in the page that is shared with Xen.
fn of_xen() -> Option<pvclock::Clock> {
    let page = xen::shared()?;
    // SAFETY: both places lie in the page, aligned, which is never freed, and nobody but Xen writes there.
    unsafe { pvclock::Clock::new(page + xen::TIME, page + xen::WALL_CLOCK, None) }
}

fn told_by_cpuid() -> Option<(&'static str, u64)> {
    let ratio = cpu::cpuid(0x15);
    let sane = |rate: &u64| (1_000_000..1 << 40).contains(rate);
    let crystal = (ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0)
        .then(|| u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax))
        .filter(sane);
    let stated = || {
        let (hypervisor, _) = Hypervisor::find()?;
        Some(u64::from(hypervisor.leaf(0x10)?.eax) * 1000).filter(sane)
    };
    crystal.map(|rate| ("CPUID 0x15", rate)).or_else(|| stated().map(|rate| ("CPUID 0x40000010", rate)))
}

fn factor(rate: u64) -> u64 {
    ((1_000_000u128 << PLACES) / u128::from(rate.max(1))) as u64
}

fn scale(ticks: u64, factor: u64) -> u64 {
    ((u128::from(ticks) * u128::from(factor)) >> PLACES) as u64
}

/// Ticks of the counter in a second; zero before the clock runs.
pub(crate) fn rate() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.rate)
}

/// Microseconds since the first instruction; zero before the clock runs.
pub(crate) fn micros() -> u64 {
    let Some(clock) = CLOCK.get() else { return 0 };
    let now = match &clock.page {
        Some((page, zero)) => page.micros().saturating_sub(*zero),
        None => scale(cpu::tsc().saturating_sub(clock.start), clock.factor),
    };
    LATEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Let the timer interrupt when `micros` is reached, or some time before; `None` for when it likes.
/// `false` when it has been reached already.
pub(crate) fn arm(apic: &Apic, deadline: Option<u64>) -> bool {
    let Some(clock) = CLOCK.get() else { return false };
    if interrupt::timer_has_fired() {
        ARMED.store(0, Ordering::Relaxed);
    }
    // What is set already may fire in vain; that costs less than a register of the APIC each time.
    let Some(deadline) = deadline else { return true };
    let now = micros();
    if deadline <= now {
        return false;
    }
    let armed = ARMED.load(Ordering::Relaxed);
    if armed > now && armed <= deadline {
        return true;
    }
    ARMED.store(deadline, Ordering::Relaxed);
    let left = deadline - now;
    if apic.has_tsc_deadline() {
        let ticks = left.saturating_mul(clock.rate) / 1_000_000;
        apic.arm_tsc(cpu::tsc().saturating_add(ticks).max(1));
    } else {
        let ticks = left.saturating_mul(clock.timer_rate).div_ceil(1_000_000);
        apic.arm_count(u32::try_from(ticks).unwrap_or(u32::MAX));
    }
    true
}

/// Wait without idling; only for the few microseconds a device takes.
pub(crate) fn spin(micros_to_wait: u64) {
    let end = micros().saturating_add(micros_to_wait);
    while micros() < end {
        cpu::relax();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_ticks_is_a_day() {
        for rate in [1_000_000, 1_193_182, 2_596_130_000, 3_000_000_000, 5_200_000_123] {
            let day = scale(rate * 86_400, factor(rate));
            let error = day.abs_diff(86_400_000_000);
            assert!(error < 2, "{rate} Hz: {error} us off in a day");
        }
    }

    #[test]
    fn a_counter_that_has_run_for_a_century_does_not_overflow() {
        let rate = 5_000_000_000;
        let century = 100 * 365 * 86_400;
        assert!((scale(rate * century, factor(rate)) / 1_000_000).abs_diff(century) <= 1);
    }
}
