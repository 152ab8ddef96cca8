//! Ending the machine.

use crate::cpu::{self, port};

/// How the program ended. QEMU's `isa-debug-exit` at port 0xf4 turns code `c` into the process's exit status
/// `2c + 1`; elsewhere the code is lost and the machine resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was told to end and all went well: exit status 33.
    Success = 0x10,
    /// It could not do what it was started for, and said why: exit status 35.
    Failure = 0x11,
    /// A panic: exit status 65.
    Panic = 0x20,
    /// A page fault: exit status 67.
    PageFault = 0x21,
    /// A stack has overflown into its guard page: exit status 69.
    StackOverflow = 0x22,
    /// A double fault: exit status 71.
    DoubleFault = 0x23,
    /// A machine check: exit status 73.
    MachineCheck = 0x24,
    /// An interrupt that cannot be masked: exit status 75.
    Nmi = 0x25,
    /// Any other exception: exit status 77.
    Exception = 0x26,
    /// A fault or panic while another was being reported: exit status 79.
    PanicInPanic = 0x27,
}

/// End the machine with a code where something takes it, else by a reset.
pub fn exit(exit: Exit) -> ! {
    // SAFETY: QEMU's test device, if there, ends the process on this; no PC has anything else at this port.
    unsafe { port::write8(0xf4, exit as u8) };
    reset()
}

/// Reset the machine.
pub fn reset() -> ! {
    cpu::halt()
}
