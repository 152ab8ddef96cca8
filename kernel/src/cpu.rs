//! Instructions that Rust has no word for.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

/// Output of CPUID for `leaf`, zeros above the highest leaf of its range.
pub(crate) fn cpuid(leaf: u32) -> CpuidResult {
    let range = leaf & 0xffff_0000;
    let highest = __cpuid(range).eax;
    if leaf <= highest && highest & 0xffff_0000 == range {
        __cpuid_count(leaf, 0)
    } else {
        CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    }
}

/// Whether a hypervisor says so; only then do its leaves mean anything.
pub(crate) fn has_hypervisor() -> bool {
    cpuid(1).ecx & 1 << 31 != 0
}

/// Output of CPUID for a leaf of a hypervisor's, which knows itself which it has.
pub(crate) fn leaf(number: u32) -> CpuidResult {
    __cpuid(number)
}

/// The time stamp counter. The fence keeps earlier loads from happening after it.
pub(crate) fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC and LFENCE touch no memory and exist on every x86-64.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    };
    u64::from(high) << 32 | u64::from(low)
}

/// The time stamp counter, wherever the CPU is with the instructions around.
pub(crate) fn cycles() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC touches no memory and exists on every x86-64.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Read a model specific register.
///
/// # Safety
/// The CPU must have the register, or this faults.
pub(crate) unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register; reading has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Write a model specific register.
///
/// # Safety
/// The CPU must have the register and take the value, and what the value brings about must be sound.
pub(crate) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller vouches for register and value.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    };
}

/// Port input and output, one function each per width.
#[cfg(not(test))]
pub(crate) mod port {
    use core::arch::asm;

    macro_rules! width {
        ($read:ident, $write:ident, $type:ty, $register:tt) => {
            /// Read from an I/O port.
            ///
            /// # Safety
            /// Reading the port must have no effect that breaks someone's assumptions.
            pub(crate) unsafe fn $read(port: u16) -> $type {
                let value: $type;
                // SAFETY: the caller vouches for the port; port input does not touch memory.
                unsafe {
                    asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                         options(nomem, nostack, preserves_flags));
                };
                value
            }

            /// Write to an I/O port.
            ///
            /// # Safety
            /// What the device behind the port does on this must be sound.
            pub(crate) unsafe fn $write(port: u16, value: $type) {
                // SAFETY: the caller vouches for port and value. Not `nomem`: a device may start to read memory.
                unsafe {
                    asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                         options(nostack, preserves_flags));
                };
            }
        };
    }

    width!(read8, write8, u8, "al");
    width!(read16, write16, u16, "ax");
    width!(read32, write32, u32, "eax");

    /// Read `bytes.len()` times from a byte port.
    ///
    /// # Safety
    /// As for [`read8`].
    pub(crate) unsafe fn read_string(port: u16, bytes: &mut [u8]) {
        // SAFETY: RDI and RCX span exactly `bytes`; the direction flag is clear by the calling convention.
        unsafe {
            asm!("rep insb", in("dx") port, inout("rdi") bytes.as_mut_ptr() => _, inout("rcx") bytes.len() => _,
                 options(nostack, preserves_flags));
        };
    }
}

/// The same in a test, where nothing answers, and is written down which were touched.
#[cfg(test)]
#[path = "recorded.rs"]
pub(crate) mod port;

/// The page fault address.
pub(crate) fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The physical address of the top page table.
pub(crate) fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value & 0x000f_ffff_ffff_f000
}

/// Change to other page tables.
///
/// # Safety
/// `root` must be the physical address of tables that map, with the rights they need, the running code, its stack and
/// everything anyone holds a reference to.
pub(crate) unsafe fn set_cr3(root: u64) {
    // SAFETY: the caller vouches for the tables.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Set bits of CR4.
///
/// # Safety
/// The CPU must know the bits, and what they turn on must not break running code.
pub(crate) unsafe fn set_cr4_bits(bits: u64) {
    // SAFETY: the caller vouches for the bits.
    unsafe {
        asm!("mov {old}, cr4", "or {old}, {bits}", "mov cr4, {old}", old = out(reg) _, bits = in(reg) bits,
             options(nostack));
    };
}

#[cfg(target_feature = "sse2")]
/// Let code use AVX: the CPU keeps the state of x87, SSE and AVX.
///
/// # Safety
/// The CPU must have XSAVE and AVX, and nothing that interrupts other code may change a vector register.
pub(crate) unsafe fn enable_avx() {
    const OSXSAVE: u64 = 1 << 18;
    const X87_SSE_AVX: u32 = 0b111;
    // SAFETY: the caller vouches for XSAVE.
    unsafe { set_cr4_bits(OSXSAVE) };
    // SAFETY: XCR0 is there now, and the caller vouches that the CPU has the three states.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") X87_SSE_AVX, in("edx") 0, options(nomem, nostack, preserves_flags));
    };
}

/// Tell the CPU that this is a waiting loop.
pub(crate) fn relax() {
    core::hint::spin_loop();
}
