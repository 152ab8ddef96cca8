//! Copying and filling memory without vector registers: what [`super::copy`] is for a build that may not touch them.
//!
//! Such a build is for hypervisors that carry out a kernel's instructions one by one and know none of those registers. By
//! string instructions, eight bytes at a time and then the rest, a copy is two instructions for them whatever its length.

use core::arch::naked_asm;

/// There is no choice. Answers the name of how it is done.
#[cfg(not(target_feature = "sse2"))]
pub(crate) fn choose() -> &'static str {
    "string instructions"
}

/// C's `memcpy`. It is right for ranges that overlap, too, when the destination is not above the source.
///
/// # Safety
/// `length` bytes can be read at `source` and written at `to`.
#[unsafe(naked)]
#[cfg_attr(not(target_feature = "sse2"), unsafe(export_name = "memcpy"))]
pub(crate) unsafe extern "C" fn copy(to: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret",
    )
}

/// C's `memmove`.
///
/// # Safety
/// As for [`copy`]; the ranges may overlap.
#[unsafe(naked)]
#[cfg_attr(not(target_feature = "sse2"), unsafe(export_name = "memmove"))]
pub(crate) unsafe extern "C" fn shift(to: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {copy}",
        // A destination within the source: downwards, the bytes beyond whole words first.
        "mov rax, rdi",
        "lea rsi, [rsi + rdx - 1]",
        "lea rdi, [rdi + rdx - 1]",
        "mov ecx, edx",
        "and ecx, 7",
        "std",
        "rep movsb",
        "sub rsi, 7",
        "sub rdi, 7",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "cld",
        "ret",
        copy = sym copy,
    )
}

/// C's `memset`.
///
/// # Safety
/// `length` bytes can be written at `to`.
#[unsafe(naked)]
#[cfg_attr(not(target_feature = "sse2"), unsafe(export_name = "memset"))]
pub(crate) unsafe extern "C" fn fill(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "movabs rcx, 0x0101010101010101",
        "imul rax, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 % 251) as u8 + 1).collect()
    }

    fn lengths() -> impl Iterator<Item = usize> {
        (0..80).chain([127, 4096, 4099])
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn every_length_is_copied_wherever_it_lies_and_nothing_beside_it() {
        for length in lengths() {
            for (from, to) in [(0, 0), (1, 31), (12, 5)] {
                let source = pattern(from + length);
                let mut target = vec![0; to + length + 40];
                // SAFETY: both ranges lie in their vectors.
                let answer = unsafe { copy(target[to..].as_mut_ptr(), source[from..].as_ptr(), length) };
                assert_eq!(answer.cast_const(), target[to..].as_ptr());
                assert!(target[to..to + length] == source[from..], "{length} {from} {to}");
                let beside = target[..to].iter().chain(&target[to + length..]);
                assert!(beside.copied().all(|byte| byte == 0), "{length} {from} {to}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn ranges_that_overlap_are_moved_either_way() {
        for length in lengths() {
            for distance in [1, 2, 7, 8, 9, 16, 31, 64, 300] {
                for (from, to) in [(0, distance), (distance, 0), (40, 40)] {
                    let mut bytes = pattern(length + distance + 40);
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + length, to);
                    let range = bytes.as_mut_ptr();
                    let [source, target] = [from, to].map(|at| range.wrapping_add(at));
                    // SAFETY: both ranges lie in the vector.
                    let answer = unsafe { shift(target, source, length) };
                    assert_eq!(answer, target);
                    assert!(bytes == expected, "{length} {from} {to}");
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "written in assembly")]
    fn every_length_is_filled_and_nothing_beside_it() {
        for length in lengths() {
            for to in [0, 1, 9] {
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
