//! The cases, by the value of `selftest=` on the command line.

extern crate alloc;

use alloc::vec::Vec;
use core::hint::black_box;
use kernel::Machine;
use kernel::power::{self, Exit};
use log::info;

/// Run the case that the command line names.
pub(crate) fn run(machine: Machine) -> ! {
    // From a disk there is no command line: there the file beside it says which.
    let file = machine.modules().first().and_then(kernel::Module::read).unwrap_or_default();
    let line = alloc::format!("{} {}", machine.command_line(), alloc::string::String::from_utf8_lossy(&file));
    let case = line.split_ascii_whitespace().find_map(|item| item.strip_prefix("selftest="));
    match case.unwrap_or_default() {
        "boot" => power::exit(Exit::Success),
        "off" => power::off(),
        "reset" => power::reset(),
        "panic" => panic!("on purpose: {line}"),
        "panic-in-panic" => panic!("{}", Trap),
        "stack-overflow" => {
            info!("{}", recurse(1));
        }
        "write-text" => write_text(),
        "write-constant" => write_constant(),
        "execute-data" => execute_data(),
        "execute-stack" => execute_stack(),
        "execute-heap" => execute_heap(),
        "null" => read_null(),
        "write-image-by-ram" => write_image_by_ram(),
        "divide" => divide(),
        "invalid" => invalid(),
        "double-fault" => double_fault(),
        "wait-for-nmi" => {
            info!("waiting");
            loop {
                machine.idle(None);
            }
        }
        "clock" => clock(&machine),
        "idle" => idle(&machine),
        "memory" => memory(&machine),
        "place" => {
            info!("run at {:#x}, moved by {:#x}", run as *const () as u64, kernel::memory::moved());
            panic!("on purpose");
        }
        "entropy" => entropy(&machine),
        "fw-cfg" => fw_cfg(&machine),
        other => panic!("no case {other:?}"),
    }
    // A case that comes back was not stopped by what should have stopped it.
    info!("came back");
    power::exit(Exit::Failure)
}

/// A function deep enough to leave any stack, and that cannot become a loop.
#[inline(never)]
#[expect(unconditional_recursion, reason = "it is meant to run out of stack")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[(depth % 64) as usize]
}

/// Panics when it is printed.
struct Trap;

impl core::fmt::Display for Trap {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("on purpose, in a panic")
    }
}

fn write_text() {
    let code = run as *const () as *mut u8;
    // SAFETY: none; the page must not be writable, and the test is that this faults.
    unsafe { code.write_volatile(0xc3) };
}

fn write_constant() {
    static CONSTANT: u64 = 7;
    let constant = (&raw const CONSTANT).cast_mut();
    // SAFETY: none; as above.
    unsafe { constant.write_volatile(8) };
}

fn execute_data() {
    static mut DATA: [u8; 16] = [0xc3; 16];
    call((&raw const DATA).cast());
}

fn execute_stack() {
    let code = black_box([0xc3u8; 16]);
    call((&raw const code).cast());
}

fn execute_heap() {
    let code = black_box(Vec::from([0xc3u8; 16]));
    call(code.as_ptr().cast());
}

/// The pages of the image must not be writable at their physical addresses either.
fn write_image_by_ram() {
    let code = (run as *const () as u64 - 0xffff_ffff_8000_0000 - kernel::memory::moved()) as *mut u8;
    // SAFETY: none; the test is that this faults.
    unsafe { code.write_volatile(0xc3) };
}

fn call(code: *const ()) {
    // SAFETY: none; the bytes are a return instruction, and the test is that they are not executed.
    let function: extern "C" fn() = unsafe { core::mem::transmute(code) };
    function();
}

fn read_null() {
    let null = black_box(core::ptr::null::<u64>());
    // SAFETY: none; the test is that this faults.
    let value = unsafe { null.read_volatile() };
    info!("{value}");
}

fn divide() {
    // SAFETY: none; the division faults.
    unsafe { core::arch::asm!("xor edx, edx", "mov eax, 1", "div edx", out("eax") _, out("edx") _) };
}

fn invalid() {
    // SAFETY: none; the instruction faults.
    unsafe { core::arch::asm!("ud2") };
}

/// With a stack pointer that cannot be pushed to, an exception without a stack of its own cannot be delivered.
fn double_fault() {
    // SAFETY: none; nothing comes back from this.
    unsafe { core::arch::asm!("mov rsp, 0x900000000000", "ud2", options(noreturn)) };
}

/// Print marks that are half a second apart by our clock; the test compares them with its own.
fn clock(machine: &Machine) {
    let start = machine.now();
    for tick in 0..=6 {
        let deadline = start + tick * 500_000;
        while machine.now() < deadline {
            machine.idle(Some(deadline));
        }
        let late = machine.now() - deadline;
        info!("tick {tick} late {late}");
    }
    power::exit(Exit::Success);
}

/// Idle for five seconds, waking ten times; the test looks at what the process took.
fn idle(machine: &Machine) {
    info!("idle from here");
    let start = machine.now();
    for tick in 1..=10 {
        let deadline = start + tick * 500_000;
        while machine.now() < deadline {
            machine.idle(Some(deadline));
        }
    }
    info!("idle to here");
    loop {
        machine.idle(None);
    }
}

/// Take all memory in blocks, write to all of it, give it back, and see that it is whole again.
fn memory(machine: &Machine) {
    let before = machine.free_memory();
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity((before / 1024).min(1 << 16));
    for size in [1 << 20, 64 << 10, 4 << 10, 512] {
        loop {
            let mut block = Vec::new();
            if block.try_reserve_exact(size).is_err() || blocks.len() == blocks.capacity() {
                break;
            }
            block.resize(size, blocks.len() as u8);
            blocks.push(block);
        }
    }
    let left = machine.free_memory();
    let intact =
        blocks.iter().enumerate().all(|(index, block)| block.iter().all(|byte| *byte == index as u8));
    let count = blocks.len();
    drop(blocks);
    info!("{count} blocks, {left} bytes left, intact: {intact}");
    assert!(intact, "blocks overlap");
    assert!(left < 64 << 10 || count == 1 << 16, "memory is left that cannot be had");
    assert_eq!(machine.free_memory(), before, "memory was lost");
    kernel::memory::check_rights();
    info!("memory {} stack {}", machine.memory(), kernel::memory::stack::high_water());
    power::exit(Exit::Success);
}

fn entropy(machine: &Machine) {
    let mut bytes = [0; 16];
    match machine.random(&mut bytes) {
        Ok(()) => info!("random {:032x}", u128::from_le_bytes(bytes)),
        Err(error) => info!("{error}"),
    }
    power::exit(Exit::Success);
}

fn fw_cfg(machine: &Machine) {
    match machine.fw_cfg("opt/corbel/config") {
        Ok(Some(file)) => info!("file of {} bytes: {:?}", file.len(), file.get(..20).unwrap_or(&file)),
        Ok(None) => info!("no file"),
        Err(error) => info!("{error}"),
    }
    power::exit(Exit::Success);
}
