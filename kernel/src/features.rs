//! What the CPU must have, and what it is told to forbid itself.

use crate::cpu;

const SMEP: (u32, u64) = (1 << 7, 1 << 20);
const SMAP: (u32, u64) = (1 << 20, 1 << 21);
const UMIP: (u32, u64) = (1 << 2, 1 << 11);
const MCE: (u32, u64) = (1 << 7, 1 << 6);

/// # Panics
/// When the CPU cannot forbid the execution of data.
pub(crate) fn require() {
    assert!(cpu::cpuid(0x8000_0001).edx & 1 << 20 != 0, "the CPU has no NX: data could be executed");
}

/// Switch on what the CPU has to keep the kernel from running or reading what belongs to user mode, and user mode from
/// looking at the kernel's tables. There is no user mode; an attacker who makes one up finds it of no use. And let it
/// report machine checks, which otherwise shut it down without a word.
pub(crate) fn protect() {
    let (basic, leaf) = (cpu::cpuid(1), cpu::cpuid(7));
    let mut bits = 0;
    for (has, (feature, bit)) in [(leaf.ebx, SMEP), (leaf.ebx, SMAP), (leaf.ecx, UMIP), (basic.edx, MCE)] {
        if has & feature != 0 {
            bits |= bit;
        }
    }
    // SAFETY: the CPU has all of them, no page is marked for user mode, and #MC has a handler.
    unsafe { cpu::set_cr4_bits(bits) };
}
