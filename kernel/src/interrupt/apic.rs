//! The local APIC: the CPU's own interrupt controller and timer.

use super::{ACKNOWLEDGE, SPURIOUS, timer_vector};
use crate::cpu;
use crate::memory::{self, ranges::Range};
use core::sync::atomic::{Ordering, fence};
use spin::Once;

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: u32 = 0x800;
/// The x2APIC's register of acknowledgement.
pub(super) const X2APIC_EOI: u32 = X2APIC + EOI / 16;

const ENABLED: u64 = 1 << 11;
const X2APIC_ENABLED: u64 = 1 << 10;

/// Registers, by their offset in memory; the x2APIC has them at a sixteenth of it.
const ID: u32 = 0x20;
const VERSION: u32 = 0x30;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_THERMAL: u32 = 0x330;
const LVT_PERFORMANCE: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_ONE: u32 = 0b1011;
const SOFTWARE_ENABLED: u32 = 1 << 8;

/// The one of the CPU that we run on.
pub(crate) static APIC: Once<Apic> = Once::new();

/// How its registers are reached.
#[derive(Clone, Copy)]
enum Access {
    Memory(u64),
    Msr,
}

/// A local APIC that is switched on.
pub(crate) struct Apic {
    access: Access,
    /// Whether its timer can wait for a value of the time stamp counter.
    tsc_deadline: bool,
}

impl Apic {
    /// Switch the CPU's local APIC on, everything masked.
    pub(crate) fn init() -> &'static Self {
        let features = cpu::cpuid(1);
        assert!(features.edx & 1 << 9 != 0, "the CPU has no local APIC");
        // SAFETY: every CPU with a local APIC has this register.
        let base = unsafe { cpu::read_msr(IA32_APIC_BASE) };
        let access = if features.ecx & 1 << 21 != 0 {
            // SAFETY: the CPU says that it can do x2APIC; nothing holds a mapping of the memory registers.
            unsafe { cpu::write_msr(IA32_APIC_BASE, base | ENABLED | X2APIC_ENABLED) };
            Access::Msr
        } else {
            // SAFETY: switching it on, where it is, disturbs nobody.
            unsafe { cpu::write_msr(IA32_APIC_BASE, base | ENABLED) };
            let registers = Range::with_length(base & 0x000f_ffff_ffff_f000, 4096);
            match memory::map_device(registers) {
                Ok(address) => {
                    ACKNOWLEDGE.store(address + u64::from(EOI), Ordering::Relaxed);
                    Access::Memory(address)
                }
                Err(error) => panic!("the local APIC at {registers} cannot be mapped: {error:?}"),
            }
        };
        let apic = Self { access, tsc_deadline: features.ecx & 1 << 24 != 0 };
        apic.reset();
        APIC.call_once(|| apic)
    }

    fn reset(&self) {
        // Masked first of all, the 8259 behind LINT0 is not heard, whatever firmware left it at.
        self.write(LVT_LINT0, MASKED);
        self.write(SPURIOUS_VECTOR, SOFTWARE_ENABLED | u32::from(SPURIOUS));
        self.write(LVT_LINT1, DELIVER_NMI);
        self.write(LVT_ERROR, MASKED | u32::from(SPURIOUS));
        let entries = self.read(VERSION) >> 16 & 0xff;
        if entries >= 4 {
            self.write(LVT_PERFORMANCE, MASKED | u32::from(SPURIOUS));
        }
        if entries >= 5 {
            self.write(LVT_THERMAL, MASKED | u32::from(SPURIOUS));
        }
        self.write(DIVIDE, DIVIDE_BY_ONE);
        self.mask_timer(false);
        self.write(EOI, 0);
        // Last, for it makes QEMU's translator look again whether an interrupt is due. It remembers a tick of the 8259
        // from before LINT0 was masked, and would deliver it, as vector -1, when interrupts are let in.
        self.write(TASK_PRIORITY, 0);
    }

    fn read(&self, register: u32) -> u32 {
        match self.access {
            // SAFETY: the page of registers is mapped as a device; the offset is one of the constants above.
            Access::Memory(base) => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
            // SAFETY: the x2APIC is on, so its registers are MSRs.
            Access::Msr => (unsafe { cpu::read_msr(X2APIC + register / 16) }) as u32,
        }
    }

    fn write(&self, register: u32, value: u32) {
        match self.access {
            // SAFETY: as in `read`; what is written masks, acknowledges, or raises vectors that have handlers.
            Access::Memory(base) => unsafe {
                ((base + u64::from(register)) as *mut u32).write_volatile(value);
            },
            // SAFETY: as above.
            Access::Msr => unsafe { cpu::write_msr(X2APIC + register / 16, u64::from(value)) },
        }
    }

    /// Acknowledge the highest interrupt that is not.
    pub(crate) fn end(&self) {
        self.write(EOI, 0);
    }

    /// Its number, which messages of devices are addressed to.
    pub(crate) fn id(&self) -> u32 {
        match self.access {
            Access::Memory(_) => self.read(ID) >> 24,
            Access::Msr => self.read(ID),
        }
    }

    /// Whether the timer waits for a value of the time stamp counter.
    pub(crate) fn has_tsc_deadline(&self) -> bool {
        self.tsc_deadline
    }

    /// Interrupt when the time stamp counter reaches `deadline`; zero for never.
    pub(crate) fn arm_tsc(&self, deadline: u64) {
        // SAFETY: only called with `has_tsc_deadline`, where the register exists.
        unsafe { cpu::write_msr(IA32_TSC_DEADLINE, deadline) };
    }

    /// Interrupt after `count` ticks of the APIC's own clock; zero for never.
    pub(crate) fn arm_count(&self, count: u32) {
        self.write(INITIAL_COUNT, count);
    }

    /// Ticks left of the count; it stands still at zero.
    pub(crate) fn count(&self) -> u32 {
        self.read(CURRENT_COUNT)
    }

    /// Count without interrupting, whatever the mode, to measure how fast it counts; or interrupt again.
    pub(crate) fn mask_timer(&self, masked: bool) {
        let mode = match (masked, self.tsc_deadline) {
            (true, _) => MASKED,
            (false, true) => TSC_DEADLINE,
            (false, false) => 0,
        };
        self.write(LVT_TIMER, mode | u32::from(timer_vector()));
        // The mode must have arrived before a deadline is written, which takes another way (SDM volume 3, 10.5.4.1).
        fence(Ordering::SeqCst);
    }
}
