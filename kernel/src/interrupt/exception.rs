//! Exceptions: every one is the end. There is no paging to disk, no user mode and no debugger to return from.

use crate::console::print_line;
use crate::cpu;
use crate::memory::{self, stack::Stack};
use crate::panic;
use crate::power::Exit;
use core::arch::naked_asm;

/// Exceptions that push an error code.
const WITH_ERROR: u32 = 0x6022_7d00;
/// Bytes from one stub to the next.
const STRIDE: u64 = 16;

/// What the stubs leave on the stack: the registers, and what the CPU pushed.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Where exception `vector` (below 32) enters.
pub(super) fn handler(vector: u8) -> u64 {
    (stubs as *const () as u64).next_multiple_of(STRIDE) + u64::from(vector) * STRIDE
}

/// Thirty-two entries of 16 bytes: an error code where the CPU pushes none, the vector, and on to the common part.
#[unsafe(naked)]
unsafe extern "C" fn stubs() {
    naked_asm!(
        ".balign 16",
        ".set vector, 0",
        ".rept 32",
        ".balign 16",
        ".if (({with_error} >> vector) & 1) == 0",
        "push 0",
        ".endif",
        ".byte 0x6a, vector", // push vector; the assembler would take the name for an address
        "jmp {common}",
        ".set vector, vector + 1",
        ".endr",
        with_error = const WITH_ERROR,
        common = sym common,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym report,
    )
}

extern "C" fn report(frame: &Frame) -> ! {
    let exit = exit_of(frame);
    panic::end(exit, || {
        describe(frame, exit);
        dump(frame);
        panic::place(frame.rip);
        panic::backtrace(frame.rbp);
    })
}

fn exit_of(frame: &Frame) -> Exit {
    match frame.vector {
        2 => Exit::Nmi,
        8 => Exit::DoubleFault,
        14 if Stack::guarding(cpu::cr2()).is_some() => Exit::StackOverflow,
        14 => Exit::PageFault,
        18 => Exit::MachineCheck,
        _ => Exit::Exception,
    }
}

fn describe(frame: &Frame, exit: Exit) {
    let (rip, address) = (frame.rip, cpu::cr2());
    match exit {
        Exit::StackOverflow => {
            if let Some(stack) = Stack::guarding(address) {
                print_line!("FAULT: the {stack} has overflown: {address:#x}, by code at {rip:#x}");
            }
        }
        Exit::PageFault => {
            let what = match (frame.error & 1 << 4 != 0, frame.error & 1 << 1 != 0) {
                (true, _) => "execution of",
                (false, true) => "write to",
                (false, false) => "read from",
            };
            let why =
                if frame.error & 1 == 0 { "nothing is mapped there" } else { "its page does not allow that" };
            print_line!("FAULT: {what} {address:#x}, by code at {rip:#x}: {why}");
        }
        _ => {
            print_line!("FAULT: {} (error code {:#x}), by code at {rip:#x}", name(frame.vector), frame.error);
        }
    }
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "division by zero",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound exceeded",
        6 => "invalid instruction",
        7 => "no floating point unit",
        8 => "double fault",
        10 => "invalid task segment",
        11 => "segment not present",
        12 => "stack segment fault",
        13 => "general protection fault",
        16 => "x87 floating point exception",
        17 => "misaligned access",
        18 => "machine check",
        19 => "SIMD floating point exception",
        21 => "control protection exception",
        _ => "unknown exception",
    }
}

fn dump(frame: &Frame) {
    print_line!(
        "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx
    );
    print_line!(
        "  rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}",
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.rsp
    );
    print_line!(
        "  r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}",
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11
    );
    print_line!(
        "  r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}",
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15
    );
    let (cr2, cr3, moved) = (cpu::cr2(), cpu::cr3(), memory::moved());
    print_line!(
        "  cs:rip {:x}:{:016x}  ss {:x}  rflags {:x}  cr2 {cr2:x}  cr3 {cr3:x}  moved {moved:x}",
        frame.cs,
        frame.rip,
        frame.ss,
        frame.rflags
    );
}
