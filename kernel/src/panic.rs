//! The end of a program that went wrong: say what is known, and end the machine.

use crate::console::{self, print_line};
use crate::memory::{self, stack::Stack};
use crate::power::{self, Exit};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Return addresses that are printed.
const DEPTH: usize = 24;

static PANICKING: AtomicBool = AtomicBool::new(false);

/// End the machine, unless reporting an end is what has failed: then end it without a word.
pub(crate) fn end(exit: Exit, report: impl FnOnce()) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        power::exit(Exit::PanicInPanic);
    }
    // So that there is room for the report.
    console::last_words();
    report();
    console::last_words();
    power::exit(exit)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    end(Exit::Panic, || {
        match info.location() {
            Some(place) => print_line!("PANIC at {}:{}: {}", place.file(), place.line(), info.message()),
            None => print_line!("PANIC: {}", info.message()),
        }
        backtrace(frame_pointer());
    })
}

fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: reading a register has no effect.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Print where code was, by the address at which it is linked: that is what `addr2line` wants, whatever this boot's are.
pub(crate) fn place(address: u64) {
    print_line!("  at {:#x}", address.wrapping_sub(memory::moved()));
}

/// Print the return addresses of the chain of frames that begins at `frame`. The image keeps frame pointers; the
/// chain is followed as long as it goes upwards inside one stack.
pub(crate) fn backtrace(mut frame: u64) {
    let Some(stack) = Stack::of(frame) else {
        print_line!("  (no frame to start a backtrace from: {frame:#x})");
        return;
    };
    for _ in 0..DEPTH {
        if !frame.is_multiple_of(8) || frame < stack.bottom() || frame > stack.top() - 16 {
            return;
        }
        // SAFETY: both words lie in a stack, which is mapped, and are aligned. What they hold is only printed or checked.
        let word = |address: u64| unsafe { (address as *const u64).read_volatile() };
        let (next, address) = (word(frame), word(frame + 8));
        if address == 0 {
            return;
        }
        place(address);
        if next <= frame {
            return;
        }
        frame = next;
    }
}
