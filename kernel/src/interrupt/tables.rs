//! The CPU's own tables: segments, the task segment with the fault stacks, and the interrupt descriptors.

use crate::memory::stack::Stack;
use core::arch::asm;
use core::cell::UnsafeCell;

/// Selector of the code segment; the entry code runs in it already.
const CODE: u16 = 8;
const DATA: u16 = 16;
const TASK: u16 = 24;

/// Places in the interrupt stack table, from one.
const STACKS: [(Stack, usize); 4] =
    [(Stack::DoubleFault, 1), (Stack::Nmi, 2), (Stack::MachineCheck, 3), (Stack::PageFault, 4)];

/// The task state segment of long mode: all that is left of it is stack pointers.
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privileged: [u64; 3],
    reserved_too: u64,
    interrupt: [u64; 7],
    reserved_as_well: u64,
    reserved_at_the_end: u16,
    io_map: u16,
}

/// An interrupt gate.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

#[repr(C)]
struct Tables {
    interrupts: [Gate; 256],
    task: TaskState,
    segments: [u64; 5],
}

struct Shared(UnsafeCell<Tables>);

// SAFETY: written by `init` alone, once, before it is loaded; after that only the CPU uses it.
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    interrupts: [Gate([0; 2]); 256],
    task: TaskState {
        reserved: 0,
        privileged: [0; 3],
        reserved_too: 0,
        interrupt: [0; 7],
        reserved_as_well: 0,
        reserved_at_the_end: 0,
        // Beyond the limit: there is no map of I/O ports.
        io_map: size_of::<TaskState>() as u16,
    },
    segments: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0],
}));

/// What LGDT and LIDT take.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fill the tables and give them to the CPU. `handler` says where each vector goes.
pub(super) fn init(handler: impl Fn(u8) -> u64) {
    // SAFETY: this runs once, at boot, with interrupts off and before the tables are loaded: nobody else reads or writes
    // them now.
    let tables = unsafe { &mut *TABLES.0.get() };
    for (stack, place) in STACKS {
        tables.task.interrupt[place - 1] = stack.top();
    }
    for vector in 0..=255 {
        tables.interrupts[usize::from(vector)] = gate(handler(vector), stack_of(vector));
    }
    let base = &raw const tables.task as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    // An available 64-bit task segment; its base is spread over two entries.
    tables.segments[3] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    tables.segments[4] = base >> 32;
    let segments =
        Pointer { limit: size_of::<[u64; 5]>() as u16 - 1, base: &raw const tables.segments as u64 };
    let interrupts =
        Pointer { limit: size_of::<[Gate; 256]>() as u16 - 1, base: &raw const tables.interrupts as u64 };
    // SAFETY: the code and data entries are those that are loaded already, so the segments stay what they are; the task
    // segment and the gates were filled above, are writable (LTR marks the segment busy) and live for ever.
    unsafe {
        asm!(
            "lgdt [{segments}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            "lidt [{interrupts}]",
            segments = in(reg) &raw const segments,
            interrupts = in(reg) &raw const interrupts,
            code = in(reg) u64::from(CODE),
            data = in(reg) u32::from(DATA),
            task = in(reg) TASK,
            scratch = out(reg) _,
        );
    }
}

fn stack_of(vector: u8) -> usize {
    let stack = match vector {
        2 => Stack::Nmi,
        8 => Stack::DoubleFault,
        14 => Stack::PageFault,
        18 => Stack::MachineCheck,
        _ => Stack::Main,
    };
    STACKS.into_iter().find(|(of, _)| *of == stack).map_or(0, |(_, place)| place)
}

fn gate(handler: u64, stack: usize) -> Gate {
    // Present, interrupt gate: it clears the interrupt flag.
    let low = handler & 0xffff | u64::from(CODE) << 16 | (stack as u64) << 32 | 0x8e << 40;
    Gate([low | (handler >> 16 & 0xffff) << 48, handler >> 32])
}

/// Leave no interrupt table: the next exception shuts the CPU down, on which a PC resets.
pub(crate) fn triple_fault() -> ! {
    let nothing = Pointer { limit: 0, base: 0 };
    // SAFETY: there is no way on from here; the shutdown is what is wanted.
    unsafe { asm!("lidt [{}]", "int3", "2: hlt", "jmp 2b", in(reg) &raw const nothing, options(noreturn)) };
}
