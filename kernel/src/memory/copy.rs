//! Copying and filling memory: what the compiler calls for every copy whose length it does not know, so the payload of
//! every I/O passes here several times.
//!
//! | length | how |
//! |---|---|
//! | up to 128 | everything is loaded, then everything is stored: overlaps do not matter, and there is no loop |
//! | more, with AVX | 512 bytes a round to an aligned destination; the end was loaded before, and is stored last |
//! | more, with ERMS only | `rep movsb`, which then is as wide as the CPU can do it |
//! | more, with neither | 64 bytes a round |
//!
//! Which it is, is found out once at boot. Handlers of interrupts touch no vector register, and AVX's upper halves are
//! clean whenever other code runs.

use crate::cpu;
use crate::hypervisor::Hypervisor;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU8, Ordering};

/// How long copies are made.
static MANNER: AtomicU8 = AtomicU8::new(PLAIN);
const PLAIN: u8 = 0;
const AVX: u8 = 1;
const ERMS: u8 = 2;

/// CPUID leaf 1, ECX, and leaf 7, EBX.
const CPUID_XSAVE: u32 = 1 << 26;
const CPUID_AVX: u32 = 1 << 28;
const CPUID_ERMS: u32 = 1 << 9;

/// Let the CPU copy as it does best. Answers the name of it.
pub(crate) fn choose() -> &'static str {
    let has = |bits| cpu::cpuid(1).ecx & bits == bits;
    let (manner, name) = if has(CPUID_XSAVE | CPUID_AVX) {
        // SAFETY: the CPU has both; no handler that returns touches a vector register.
        unsafe { cpu::enable_avx() };
        (AVX, "AVX")
    // The string instructions of QEMU's translator go byte by byte, whatever it says of them.
    } else if cpu::cpuid(7).ebx & CPUID_ERMS != 0 && Hypervisor::of_machine() != Some(Hypervisor::Tcg) {
        (ERMS, "ERMS")
    } else {
        (PLAIN, "SSE2")
    };
    MANNER.store(manner, Ordering::Relaxed);
    name
}

/// C's `memcpy`. It is right for ranges that overlap, too, when the destination is not above the source.
///
/// # Safety
/// `length` bytes can be read at `source` and written at `to`.
#[unsafe(naked)]
#[cfg_attr(target_os = "none", unsafe(export_name = "memcpy"))]
pub(crate) unsafe extern "C" fn copy(to: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 5f",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // 33 to 64, 65 to 128.
        "2:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "cmp rdx, 64",
        "ja 3f",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        "3:",
        "cmp rdx, 128",
        "ja {long}",
        "movups xmm4, [rsi + 32]",
        "movups xmm5, [rsi + 48]",
        "movups xmm6, [rsi + rdx - 64]",
        "movups xmm7, [rsi + rdx - 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm4",
        "movups [rdi + 48], xmm5",
        "movups [rdi + rdx - 64], xmm6",
        "movups [rdi + rdx - 48], xmm7",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        // 8 to 15, 4 to 7, 1 to 3, none.
        "5:",
        "cmp edx, 8",
        "jb 6f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "6:",
        "cmp edx, 4",
        "jb 7f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "7:",
        "sub edx, 1",
        "jb 9f",
        "movzx ecx, byte ptr [rsi]",
        "je 8f",
        "movzx r8d, word ptr [rsi + rdx - 1]",
        "mov [rdi + rdx - 1], r8w",
        "8:",
        "mov [rdi], cl",
        "9:",
        "ret",
        long = sym copy_long,
    )
}

/// 256 bytes from so far behind RDI + RSI to so far behind RDI, where it is aligned; YMM0 to YMM7 are free.
macro_rules! copy_256 {
    ($at:literal) => {
        concat!(
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7\n",
            "vmovdqu ymm\\i, [rdi + rsi + ",
            $at,
            " + 32 * \\i]\n",
            ".endr\n",
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7\n",
            "vmovdqa [rdi + ",
            $at,
            " + 32 * \\i], ymm\\i\n",
            ".endr\n",
        )
    };
}

/// More than 128 bytes, upwards; RAX is the destination, and XMM0 to XMM3 are free.
#[unsafe(naked)]
unsafe extern "C" fn copy_long() {
    naked_asm!(
        "cmp byte ptr [rip + {manner}], {avx}",
        "jne 5f",
        // The first 32 bytes and the last 128.
        "vmovdqu ymm11, [rsi]",
        "vmovdqu ymm12, [rsi + rdx - 128]",
        "vmovdqu ymm13, [rsi + rdx - 96]",
        "vmovdqu ymm14, [rsi + rdx - 64]",
        "vmovdqu ymm15, [rsi + rdx - 32]",
        "lea r8, [rdi + rdx - 128]",
        "sub rsi, rdi",
        "add rdi, 32",
        "and rdi, -32",
        "lea rcx, [r8 - 384]",
        "cmp rdi, rcx",
        "ja 8f",
        "2:",
        copy_256!("0"),
        copy_256!("256"),
        "add rdi, 512",
        "cmp rdi, rcx",
        "jbe 2b",
        // At most 511 and the last 128 are left: 256 if there are as many, then 128.
        "8:",
        "add rcx, 256",
        "cmp rdi, rcx",
        "ja 3f",
        copy_256!("0"),
        "add rdi, 256",
        "3:",
        "cmp rdi, r8",
        "jae 4f",
        "vmovdqu ymm0, [rdi + rsi]",
        "vmovdqu ymm1, [rdi + rsi + 32]",
        "vmovdqu ymm2, [rdi + rsi + 64]",
        "vmovdqu ymm3, [rdi + rsi + 96]",
        "vmovdqa [rdi], ymm0",
        "vmovdqa [rdi + 32], ymm1",
        "vmovdqa [rdi + 64], ymm2",
        "vmovdqa [rdi + 96], ymm3",
        "4:",
        "vmovdqu [rax], ymm11",
        "vmovdqu [r8], ymm12",
        "vmovdqu [r8 + 32], ymm13",
        "vmovdqu [r8 + 64], ymm14",
        "vmovdqu [r8 + 96], ymm15",
        "vzeroupper",
        "ret",
        "5:",
        "cmp byte ptr [rip + {manner}], {erms}",
        "jne 6f",
        "mov rcx, rdx",
        "rep movsb",
        "ret",
        // The last 64 bytes.
        "6:",
        "movups xmm12, [rsi + rdx - 64]",
        "movups xmm13, [rsi + rdx - 48]",
        "movups xmm14, [rsi + rdx - 32]",
        "movups xmm15, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 64]",
        "sub rsi, rdi",
        "7:",
        "movups xmm0, [rdi + rsi]",
        "movups xmm1, [rdi + rsi + 16]",
        "movups xmm2, [rdi + rsi + 32]",
        "movups xmm3, [rdi + rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 7b",
        "movups [r8], xmm12",
        "movups [r8 + 16], xmm13",
        "movups [r8 + 32], xmm14",
        "movups [r8 + 48], xmm15",
        "ret",
        manner = sym MANNER,
        avx = const AVX,
        erms = const ERMS,
    )
}

/// C's `memmove`.
///
/// # Safety
/// As for [`copy`]; the ranges may overlap.
#[unsafe(naked)]
#[cfg_attr(target_os = "none", unsafe(export_name = "memmove"))]
pub(crate) unsafe extern "C" fn shift(to: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        // Only a destination within the source needs another way, and only when it is long.
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {copy}",
        "cmp rdx, 128",
        "jbe {copy}",
        // Downwards; the first 64 bytes are loaded before anything is stored.
        "movups xmm12, [rsi]",
        "movups xmm13, [rsi + 16]",
        "movups xmm14, [rsi + 32]",
        "movups xmm15, [rsi + 48]",
        "mov rax, rdi",
        "lea r8, [rdi + 64]",
        "sub rsi, rdi",
        "add rdi, rdx",
        "2:",
        "sub rdi, 64",
        "movups xmm0, [rdi + rsi]",
        "movups xmm1, [rdi + rsi + 16]",
        "movups xmm2, [rdi + rsi + 32]",
        "movups xmm3, [rdi + rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "cmp rdi, r8",
        "ja 2b",
        "movups [rax], xmm12",
        "movups [rax + 16], xmm13",
        "movups [rax + 32], xmm14",
        "movups [rax + 48], xmm15",
        "ret",
        copy = sym copy,
    )
}

/// C's `memset`.
///
/// # Safety
/// `length` bytes can be written at `to`.
#[unsafe(naked)]
#[cfg_attr(target_os = "none", unsafe(export_name = "memset"))]
pub(crate) unsafe extern "C" fn fill(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "movabs rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 5f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "movups [rdi], xmm0",
        "lea r8, [rdi + rdx - 16]",
        "cmp rdx, 32",
        "jbe 4f",
        "movups [rdi + 16], xmm0",
        "movups [r8 - 16], xmm0",
        "cmp rdx, 64",
        "jbe 4f",
        // To the last 64 bytes, the first half of which is done already where they are all there is.
        "movups [r8 - 48], xmm0",
        "movups [r8 - 32], xmm0",
        "sub r8, 48",
        "2:",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm0",
        "movups [rdi + 32], xmm0",
        "movups [rdi + 48], xmm0",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 2b",
        "add r8, 48",
        "4:",
        "movups [r8], xmm0",
        "ret",
        "5:",
        "cmp edx, 8",
        "jb 6f",
        "mov [rdi], rsi",
        "mov [rdi + rdx - 8], rsi",
        "ret",
        "6:",
        "cmp edx, 4",
        "jb 7f",
        "mov [rdi], esi",
        "mov [rdi + rdx - 4], esi",
        "ret",
        "7:",
        "test edx, edx",
        "je 8f",
        "mov [rdi], sil",
        "mov [rdi + rdx - 1], sil",
        "shr edx, 1",
        "mov [rdi + rdx], sil",
        "8:",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What is copied how is the whole process's.
    static TURN: Mutex<()> = Mutex::new(());

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 % 251) as u8 + 1).collect()
    }

    fn lengths() -> impl Iterator<Item = usize> {
        (0..700).chain([1023, 1024, 1025, 4096, 4097, 65536, 65549])
    }

    fn manners() -> impl Iterator<Item = u8> {
        let mut manners = vec![PLAIN, ERMS];
        if std::is_x86_feature_detected!("avx") {
            manners.push(AVX);
        }
        manners.into_iter()
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn every_length_is_copied_wherever_it_lies_and_nothing_beside_it() {
        let _turn = TURN.lock();
        for manner in manners() {
            MANNER.store(manner, Ordering::Relaxed);
            for length in lengths() {
                for (from, to) in [(0, 0), (1, 31), (12, 5), (33, 16)] {
                    let source = pattern(from + length);
                    let mut target = vec![0; to + length + 40];
                    // SAFETY: both ranges lie in their vectors.
                    let answer = unsafe { copy(target[to..].as_mut_ptr(), source[from..].as_ptr(), length) };
                    assert_eq!(answer.cast_const(), target[to..].as_ptr());
                    assert!(target[to..to + length] == source[from..], "{manner} {length} {from} {to}");
                    let beside = target[..to].iter().chain(&target[to + length..]);
                    assert!(beside.copied().all(|byte| byte == 0), "{manner} {length} {from} {to}");
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn ranges_that_overlap_are_moved_either_way() {
        let _turn = TURN.lock();
        for manner in manners() {
            MANNER.store(manner, Ordering::Relaxed);
            for length in lengths() {
                for distance in [1, 2, 7, 16, 31, 33, 64, 127, 129, 255, 300] {
                    for (from, to) in [(0, distance), (distance, 0), (40, 40)] {
                        let mut bytes = pattern(length + distance + 40);
                        let mut expected = bytes.clone();
                        expected.copy_within(from..from + length, to);
                        let range = bytes.as_mut_ptr();
                        let [source, target] = [from, to].map(|at| range.wrapping_add(at));
                        // SAFETY: both ranges lie in the vector.
                        unsafe { shift(target, source, length) };
                        assert!(bytes == expected, "{manner} {length} {from} {to}");
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn every_length_is_filled_and_nothing_beside_it() {
        for length in lengths() {
            for to in [0, 1, 9, 31] {
                let mut bytes = vec![1; to + length + 40];
                let mut expected = bytes.clone();
                expected[to..to + length].fill(0xa5);
                // SAFETY: the range lies in the vector.
                let answer = unsafe { fill(bytes[to..].as_mut_ptr(), 0x7a5, length) };
                assert_eq!(answer.cast_const(), bytes[to..].as_ptr());
                assert!(bytes == expected, "{length} {to}");
            }
        }
    }
}
