//! The stacks: one for the program and one for each fault that must not trust it, each above a page that is not mapped.

use super::ranges::PAGE;
use core::cell::UnsafeCell;
use core::fmt;

/// Bytes of the program's stack.
const MAIN: usize = 128 * 1024;
/// Bytes of a fault's stack: enough to format a register dump.
const FAULT: usize = 12 * 1024;

#[repr(C, align(4096))]
struct Guarded<const SIZE: usize> {
    guard: [u8; PAGE as usize],
    stack: [u8; SIZE],
}

/// All stacks, in `.bss`; the entry code finds the program's by [`TOP`].
#[repr(C)]
pub(crate) struct Stacks {
    faults: [Guarded<FAULT>; 4],
    main: Guarded<MAIN>,
}

/// Wraps the stacks so that they can be a static: nothing but the CPU, through its stack pointer, writes to them.
#[repr(transparent)]
pub(crate) struct Shared(UnsafeCell<Stacks>);

// SAFETY: no code makes a reference to the contents; only addresses are taken, and `painted` reads volatile.
unsafe impl Sync for Shared {}

/// The stacks.
pub(crate) static STACKS: Shared = Shared(UnsafeCell::new(Stacks {
    faults: [const { Guarded { guard: [0; PAGE as usize], stack: [0; FAULT] } }; 4],
    main: Guarded { guard: [0; PAGE as usize], stack: [0; MAIN] },
}));

/// Offset of the program stack's upper end in [`STACKS`].
pub(crate) const TOP: usize = size_of::<Stacks>();

/// One of the stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// Of the fault that strikes while another is delivered (#DF).
    DoubleFault,
    /// Of the interrupt that cannot be held off.
    Nmi,
    /// Of #MC.
    MachineCheck,
    /// Of #PF: the program's stack may be what is missing.
    PageFault,
    /// Of the program.
    Main,
}

impl Stack {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::DoubleFault, Self::Nmi, Self::MachineCheck, Self::PageFault, Self::Main];

    /// The address of its guard page.
    pub(crate) fn guard(self) -> u64 {
        let fault = size_of::<Guarded<FAULT>>() as u64;
        (&raw const STACKS) as u64 + self as u64 * fault
    }

    /// Its lowest address.
    pub(crate) fn bottom(self) -> u64 {
        self.guard() + PAGE
    }

    /// One past its highest address.
    pub(crate) fn top(self) -> u64 {
        self.bottom() + if self == Self::Main { MAIN } else { FAULT } as u64
    }

    /// The stack that contains `address`, if any.
    pub(crate) fn of(address: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|stack| (stack.bottom()..stack.top()).contains(&address))
    }

    /// The stack whose guard page contains `address`, if any.
    pub(crate) fn guarding(address: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|stack| (stack.guard()..stack.bottom()).contains(&address))
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DoubleFault => "double fault stack",
            Self::Nmi => "NMI stack",
            Self::MachineCheck => "machine check stack",
            Self::PageFault => "page fault stack",
            Self::Main => "program's stack",
        })
    }
}

/// Bytes of the program's stack that have been in use at some time. The stack begins as zeros (it is in `.bss`), so
/// the lowest word that is not zero is how deep it went.
pub fn high_water() -> usize {
    let (bottom, top) = (Stack::Main.bottom(), Stack::Main.top());
    let untouched = (bottom..top).step_by(8).take_while(|&address| {
        // SAFETY: the address lies in the program's stack, which is mapped and aligned; a volatile read of what the
        // CPU writes there, below the stack pointer, sees some value and has no other effect.
        unsafe { (address as *const u64).read_volatile() == 0 }
    });
    MAIN - untouched.count() * 8
}

const _: () = assert!(size_of::<Guarded<FAULT>>().is_multiple_of(PAGE as usize));
const _: () = assert!(TOP.is_multiple_of(16));
