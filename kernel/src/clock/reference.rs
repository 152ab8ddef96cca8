//! Counters of known rate, to measure others by.

use crate::acpi::{Acpi, Register, Space};
use crate::cpu::{self, port};
use crate::hypervisor::Hypervisor;
use crate::interrupt::Apic;
use crate::memory::{self, ranges::Range};
use crate::promised::Promised;

/// A counter that counts up and wraps.
pub(crate) enum Reference<'a> {
    /// The ACPI timer behind a port.
    AcpiPort {
        /// The port.
        port: u16,
        /// How many bits it has.
        bits: u32,
    },
    /// The ACPI timer in memory.
    AcpiMemory {
        /// Where it is mapped.
        address: u64,
        /// How many bits it has.
        bits: u32,
    },
    /// The main counter of the high precision event timers.
    EventTimer {
        /// Where their registers are mapped.
        address: u64,
        /// Counts in a second.
        rate: u64,
    },
    /// Channel 0 of the PC's timer chip.
    Chip,
    /// The local APIC's timer, where its rate is part of the hypervisor's interface.
    Apic(&'a Apic),
}

/// In a second.
const NANOSECONDS: u64 = 1_000_000_000;
/// Registers of the high precision event timers (IA-PC HPET specification, section 2.3).
const HPET_PERIOD: u64 = 0x04;
const HPET_CONFIGURATION: u64 = 0x10;
const HPET_COUNTER: u64 = 0xf0;
const HPET_ENABLE: u32 = 1;
/// The longest period that the specification allows, in femtoseconds, of which so many make a second.
const LONGEST_PERIOD: u32 = 100_000_000;
const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
const CHIP_COMMAND: u16 = 0x43;
const CHIP_CHANNEL: u16 = 0x40;

/// How fast the local APIC's timer counts where the hypervisor's interface fixes that: with QEMU and KVM one tick is a
/// nanosecond.
pub(super) fn stated_timer_rate() -> Option<u64> {
    Hypervisor::of_machine()?.may_be_qemu().then_some(NANOSECONDS)
}

/// Give channel 0 of the timer chip a mode, and what to count down from.
fn set_chip(mode: u8, count: [u8; 2]) {
    // SAFETY: the timer chip of a PC, on a machine that says that it has it; nobody else uses it, and its
    // interrupt goes nowhere.
    let write = |port, value| unsafe { port::write8(port, value) };
    write(CHIP_COMMAND, mode);
    count.into_iter().for_each(|byte| write(CHIP_CHANNEL, byte));
}

impl<'a> Reference<'a> {
    /// All that this machine may have, the best first. That one is named here does not mean that it counts.
    pub(super) fn candidates(acpi: &Acpi, promised: Promised, apic: &'a Apic) -> impl Iterator<Item = Self> {
        let timer = acpi.fadt.as_ref().and_then(|fadt| fadt.timer);
        let acpi_timer = timer.and_then(|(register, bits)| Self::acpi(register, bits));
        // It is switched on for this, which nobody needs beside the ACPI timer.
        let event_timer = acpi.event_timer.filter(|_| acpi_timer.is_none()).and_then(Self::event_timer);
        let chip = Self::chip(promised);
        let apic_timer = stated_timer_rate().is_some().then_some(Self::Apic(apic));
        [acpi_timer, event_timer, chip, apic_timer].into_iter().flatten()
    }

    fn acpi(register: Register, bits: u32) -> Option<Self> {
        match register.space {
            Space::Port => Some(Self::AcpiPort { port: u16::try_from(register.address).ok()?, bits }),
            Space::Memory => {
                let address = memory::map_device(Range::with_length(register.address, 4)).ok()?;
                (address % 4 == 0).then_some(Self::AcpiMemory { address, bits })
            }
        }
    }

    fn event_timer(physical: u64) -> Option<Self> {
        let address = memory::map_device(Range::with_length(physical, 1024)).ok()?;
        let register = |offset| (address + offset) as *mut u32;
        // SAFETY: the registers are mapped and aligned; reading the period has no effect.
        let rate = rate_of(unsafe { register(HPET_PERIOD).read_volatile() })?;
        // SAFETY: as above.
        let configuration = unsafe { register(HPET_CONFIGURATION).read_volatile() };
        if configuration & HPET_ENABLE == 0 {
            // SAFETY: as above; the counter begins to count, and no timer was asked for.
            unsafe { register(HPET_CONFIGURATION).write_volatile(configuration | HPET_ENABLE) };
        }
        Some(Self::EventTimer { address, rate })
    }

    pub(crate) fn chip(promised: Promised) -> Option<Self> {
        // Channel 0, both bytes, mode 2, from 65536 down.
        promised.timer_chip.then(|| set_chip(0x34, [0, 0]))?;
        Some(Self::Chip)
    }

    /// Let the PC's timer chip come to rest: until it is told otherwise it makes a square wave, of which a hypervisor keeps
    /// every edge, 36 in a second, though the interrupt goes nowhere.
    pub(crate) fn rest(promised: Promised) {
        if promised.timer_chip {
            // Channel 0, both bytes, mode 0: down to zero once, and that is soon.
            set_chip(0x30, [1, 0]);
        }
    }

    /// What it is called in the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AcpiPort { .. } | Self::AcpiMemory { .. } => "the ACPI timer",
            Self::EventTimer { .. } => "the HPET",
            Self::Chip => "the timer chip",
            Self::Apic(_) => "the APIC timer",
        }
    }

    /// Counts in a second.
    pub(super) fn rate(&self) -> u64 {
        match self {
            Self::AcpiPort { .. } | Self::AcpiMemory { .. } => 3_579_545,
            Self::EventTimer { rate, .. } => *rate,
            Self::Chip => 1_193_182,
            Self::Apic(_) => NANOSECONDS,
        }
    }

    /// The values it has.
    pub(super) fn mask(&self) -> u64 {
        match self {
            Self::AcpiPort { bits, .. } | Self::AcpiMemory { bits, .. } => (1 << bits) - 1,
            Self::Chip => 0xffff,
            Self::Apic(_) | Self::EventTimer { .. } => 0xffff_ffff,
        }
    }

    /// The counter of the CPU before, its own value, and the counter of the CPU after.
    pub(super) fn sample(&self) -> (u64, u64, u64) {
        let before = cpu::tsc();
        match self {
            Self::AcpiPort { port, .. } => {
                // SAFETY: reading the ACPI timer has no effect.
                let value = unsafe { port::read32(*port) };
                (before, u64::from(value) & self.mask(), cpu::tsc())
            }
            Self::AcpiMemory { address, .. } => {
                // SAFETY: the register is mapped and aligned; reading it has no effect.
                let value = unsafe { (*address as *const u32).read_volatile() };
                (before, u64::from(value) & self.mask(), cpu::tsc())
            }
            Self::EventTimer { address, .. } => {
                // SAFETY: the register is mapped and aligned; reading the counter has no effect.
                let value = unsafe { ((address + HPET_COUNTER) as *const u32).read_volatile() };
                (before, value.into(), cpu::tsc())
            }
            Self::Chip => {
                // SAFETY: the command keeps the count of channel 0 for the two reads after it.
                unsafe { port::write8(CHIP_COMMAND, 0) };
                let after = cpu::tsc();
                // SAFETY: as above.
                let low = unsafe { port::read8(CHIP_CHANNEL) };
                // SAFETY: as above.
                let high = unsafe { port::read8(CHIP_CHANNEL) };
                let value = u16::from_le_bytes([low, high]);
                (before, u64::from(0u16.wrapping_sub(value)), after)
            }
            Self::Apic(apic) => {
                let value = u32::MAX - apic.count();
                (before, u64::from(value), cpu::tsc())
            }
        }
    }
}

/// Counts in a second, of one that takes so many femtoseconds each.
fn rate_of(period: u32) -> Option<u64> {
    (1..=LONGEST_PERIOD).contains(&period).then(|| FEMTOSECONDS / u64::from(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_that_cannot_be_is_no_rate() {
        assert_eq!(rate_of(69_841_279), Some(14_318_179));
        assert_eq!(rate_of(10_000_000), Some(100_000_000), "QEMU's");
        assert_eq!((rate_of(0), rate_of(u32::MAX), rate_of(LONGEST_PERIOD + 1)), (None, None, None));
    }
}
