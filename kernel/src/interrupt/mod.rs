//! Interrupts: a bit is set, and that is all a handler does.
//!
//! They are let in only while the machine idles ([`wait`]), so no code is ever interrupted in the middle of something.
//! The handlers are assembly of a few instructions that touch no vector register, for the program's code uses those.

mod apic;
mod exception;
mod ioapic;
mod shared;
mod tables;

use crate::clock;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

pub(crate) use apic::{APIC, Apic};
#[cfg(test)]
pub(crate) use ioapic::places as io_apic_places;
pub(crate) use ioapic::{find as find_io_apics, route};
pub(crate) use shared::{Refused, claim, share, try_out};
pub(crate) use tables::triple_fault;

/// The first vector of a device. Those below are exceptions and those of the 8259, should one speak after all.
const FIRST: u8 = 0x40;
/// Vectors for devices and the timer: one bit each.
const COUNT: u8 = 64;
/// One past the last of them.
const END: u8 = FIRST + COUNT;
/// What the local APIC delivers when an interrupt vanished; it takes no acknowledgement.
const SPURIOUS: u8 = 0xff;
/// Bytes from one stub to the next.
const STRIDE: u64 = 16;

/// One bit for each interrupt that came since its driver last looked.
pub(crate) static PENDING: AtomicU64 = AtomicU64::new(0);
/// Where the handlers write their acknowledgement; zero for the x2APIC, whose register is an MSR.
static ACKNOWLEDGE: AtomicU64 = AtomicU64::new(0);
/// The bit of the vector that is raised as long as a byte says so, past the local APIC, and the byte. No vector has the first.
static BY_BYTE: AtomicU64 = AtomicU64::new(u64::MAX);
static BYTE: AtomicU64 = AtomicU64::new(0);
/// Those that somebody has looked at since the machine was last kept awake for them.
pub(crate) static AWAITED: AtomicU64 = AtomicU64::new(0);
/// Vectors given out, from the lowest.
static TAKEN: AtomicU64 = AtomicU64::new(1 << TIMER);
/// Bits that somebody takes, as long as there is somebody.
static WATCHED: AtomicU64 = AtomicU64::new(0);
/// Those of them that no interrupt sets, or perhaps none, and that are set when the machine has idled.
static TICKING: AtomicU64 = AtomicU64::new(0);
/// How long the machine idles at most while there are such, in microseconds.
const TICK: u64 = 1000;
/// The timer's bit.
pub(crate) const TIMER: u8 = 0;

/// Load the tables, with a handler for every vector.
pub(crate) fn init() {
    tables::init(|vector| match vector {
        0..32 => exception::handler(vector),
        FIRST..END => {
            (stubs as *const () as u64).next_multiple_of(STRIDE) + u64::from(vector - FIRST) * STRIDE
        }
        SPURIOUS => spurious as *const () as u64,
        _ => stray as *const () as u64,
    });
}

/// A vector of an interrupt's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    bit: u8,
}

impl Line {
    /// The next free one; `None` when all are taken.
    pub(crate) fn take() -> Option<Self> {
        let free = (!TAKEN.load(Ordering::Relaxed)).trailing_zeros();
        if free >= u32::from(COUNT) {
            return None;
        }
        TAKEN.fetch_or(1 << free, Ordering::Relaxed);
        WATCHED.fetch_or(1 << free, Ordering::Relaxed);
        AWAITED.fetch_or(1 << free, Ordering::Relaxed);
        Some(Self { bit: free as u8 })
    }

    /// One whose bit is set when the machine has idled, if somebody has looked at it since the last time.
    pub(crate) fn take_tick() -> Option<Self> {
        let line = Self::take()?;
        TICKING.fetch_or(1 << line.bit, Ordering::Relaxed);
        Some(line)
    }

    /// The vector.
    pub(crate) fn vector(self) -> u8 {
        FIRST + self.bit
    }

    /// Its bit in [`PENDING`].
    pub(crate) fn bit(self) -> u8 {
        self.bit
    }

    /// Nobody takes its bit any more, so it must not keep the machine awake. The vector is not given out again: its
    /// device may not have heard of it.
    pub(crate) fn abandon(self) {
        shared::leave(self);
        self.forget();
    }

    fn forget(self) {
        WATCHED.fetch_and(!(1 << self.bit), Ordering::Relaxed);
        TICKING.fetch_and(!(1 << self.bit), Ordering::Relaxed);
    }

    /// It is raised as long as the byte at `address` is not zero, past the local APIC, so its handler clears that.
    ///
    /// # Safety
    /// The byte must be there to be written to for ever, and whoever raises the interrupt must bear that.
    pub(crate) unsafe fn raised_by_byte(self, address: u64) {
        BYTE.store(address, Ordering::Relaxed);
        BY_BYTE.store(self.bit.into(), Ordering::Release);
    }

    /// The one given out with this bit.
    pub(crate) fn of_bit(bit: u8) -> Option<Self> {
        let taken = bit < COUNT && bit != TIMER && TAKEN.load(Ordering::Relaxed) >> bit & 1 != 0;
        taken.then_some(Self { bit })
    }
}

/// The vector of the timer.
pub(crate) const fn timer_vector() -> u8 {
    FIRST + TIMER
}

/// Where a device writes a vector to raise an interrupt by a message; `None` when messages do not reach this CPU.
pub(crate) fn message_address() -> Option<u64> {
    let id = APIC.get()?.id();
    // Eight bits of the address name the CPU.
    (id < 0xff).then(|| 0xfee0_0000 | u64::from(id) << 12)
}

/// Until when the machine may idle from `now` on that wants to until `deadline`.
pub(crate) fn limit(deadline: Option<u64>, now: impl FnOnce() -> u64) -> Option<u64> {
    if ticking() == 0 {
        return deadline;
    }
    let tick = now().saturating_add(TICK);
    Some(deadline.map_or(tick, |deadline| deadline.min(tick)))
}

/// Those that tick and are looked at.
fn ticking() -> u64 {
    TICKING.load(Ordering::Relaxed) & AWAITED.load(Ordering::Relaxed)
}

/// The machine has idled: devices that cannot say so may have something.
pub(crate) fn tick() {
    let ticking = ticking();
    if ticking != 0 {
        PENDING.fetch_or(ticking, Ordering::Release);
    }
}

/// Wait for an interrupt, unless the bit of a device is set already; once for each time that its driver looks at it, so that
/// one whom nobody looks at keeps nobody awake. The bits stay set for the drivers; the timer's is nobody's and is cleared.
pub(crate) fn wait() {
    if is_due() {
        return;
    }
    shared::acknowledge();
    // SAFETY: with interrupts on the CPU may enter our stubs, which keep all registers, write to PENDING and acknowledge.
    // STI lets none in before HLT has begun, so one that waits already ends the HLT: no wake-up is lost.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Whether the timer has fired since the last [`wait`] began.
pub(crate) fn timer_has_fired() -> bool {
    PENDING.load(Ordering::Relaxed) & 1 << TIMER != 0
}

/// Let interrupts in for a moment, until `done`; at most so many microseconds.
fn listen(microseconds: u64, done: impl Fn() -> bool) -> bool {
    const STEP: u64 = 10;
    for _ in 0..microseconds / STEP {
        // SAFETY: as in `wait`; what waits is let in behind the NOP.
        unsafe { asm!("sti", "nop", "cli") };
        if done() {
            return true;
        }
        clock::spin(STEP);
    }
    false
}

/// Whether a driver has an interrupt to take.
fn is_due() -> bool {
    let pending = PENDING.fetch_and(!(1 << TIMER), Ordering::Acquire) & WATCHED.load(Ordering::Relaxed);
    let due = pending & AWAITED.load(Ordering::Relaxed);
    if due != 0 {
        AWAITED.fetch_and(!due, Ordering::Relaxed);
    }
    due != 0
}

/// Sixty-four entries of 16 bytes: the number of the bit, and on to the common part.
#[unsafe(naked)]
unsafe extern "C" fn stubs() {
    naked_asm!(
        ".balign 16",
        ".set bit, 0",
        ".rept {count}",
        ".balign 16",
        ".byte 0x6a, bit", // push bit
        "jmp {common}",
        ".set bit, bit + 1",
        ".endr",
        count = const COUNT,
        common = sym common,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "push rax",
        "mov rax, [rsp + 8]",
        "lock bts qword ptr [rip + {pending}], rax",
        "bt qword ptr [rip + {level}], rax",
        "jc 2f",
        "cmp rax, qword ptr [rip + {by_byte}]",
        "je 3f",
        "pop rax",
        "add rsp, 8",
        "jmp {acknowledge}",
        // Else it would be raised again before the next instruction. The local APIC has not seen it.
        "3:",
        "mov rax, qword ptr [rip + {byte}]",
        "mov byte ptr [rax], 0",
        "pop rax",
        "add rsp, 8",
        "iretq",
        // A line that is still up: `shared` acknowledges it.
        "2:",
        "lock bts qword ptr [rip + {raised}], rax",
        "pop rax",
        "add rsp, 8",
        "iretq",
        pending = sym PENDING,
        level = sym shared::LEVEL,
        by_byte = sym BY_BYTE,
        byte = sym BYTE,
        raised = sym shared::RAISED,
        acknowledge = sym stray,
    )
}

/// An interrupt nobody has asked for, and the end of every other one: acknowledge and return.
#[unsafe(naked)]
unsafe extern "C" fn stray() {
    naked_asm!(
        "push rax",
        "mov rax, [rip + {acknowledge}]",
        "test rax, rax",
        "jz 2f",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        "2:",
        "push rcx",
        "push rdx",
        "mov ecx, {register}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        acknowledge = sym ACKNOWLEDGE,
        register = const apic::X2APIC_EOI,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn spurious() {
    naked_asm!("iretq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_keeps_the_machine_awake_until_it_is_taken_or_its_driver_is_gone() {
        let (first, second) = (Line::take().unwrap(), Line::take().unwrap());
        PENDING.fetch_or(1 << TIMER, Ordering::Relaxed);
        assert!(!is_due(), "the timer's is nobody's");
        PENDING.fetch_or(1 << first.bit() | 1 << second.bit(), Ordering::Relaxed);
        first.abandon();
        assert!(
            is_due() && PENDING.load(Ordering::Relaxed) & 1 << second.bit() != 0,
            "it stays for its driver"
        );
        assert!(!is_due(), "but nobody looks at it");
        look(second);
        assert!(!is_due());
        PENDING.fetch_or(1 << second.bit(), Ordering::Relaxed);
        assert!(is_due() && !is_due());
        look(second);
        assert_ne!(Line::take().unwrap(), first, "a device may still raise it");

        // Before anybody ticks, and after.
        assert_eq!((limit(None, || 7), limit(Some(9_000), || 7)), (None, Some(9_000)));
        tick();
        assert!(!is_due());
        let ticking = Line::take_tick().unwrap();
        assert!(!is_due(), "it has not idled yet");
        assert_eq!(limit(None, || 7), Some(1007));
        assert_eq!((limit(Some(9_000), || 7), limit(Some(100), || 7)), (Some(1007), Some(100)));
        tick();
        assert!(is_due(), "it is to be looked at");
        // One that nobody looks at keeps nobody awake.
        tick();
        assert_eq!((is_due(), limit(None, || 7)), (false, None));
        look(ticking);
        assert_eq!((is_due(), limit(None, || 7)), (false, Some(1007)));
        tick();
        assert!(is_due());
        look(ticking);
        ticking.abandon();
        tick();
        assert_eq!((is_due(), limit(None, || 7)), (false, None));
    }

    /// As who has the handle on it does.
    fn look(line: Line) {
        AWAITED.fetch_or(1 << line.bit(), Ordering::Relaxed);
        PENDING.fetch_and(!(1 << line.bit()), Ordering::Relaxed);
    }

    /// As the CPU does when the vector of `bit` is raised.
    fn raise(bit: u8) {
        let stub = (stubs as *const () as u64).next_multiple_of(STRIDE) + u64::from(bit) * STRIDE;
        // SAFETY: the stub returns behind the jump with the flags and the stack as they were, and keeps all registers but those named.
        unsafe {
            asm!("mov {stack}, rsp", "mov {segment:e}, ss", "push {segment}", "push {stack}", "pushfq", "mov {segment:e}, cs",
                 "push {segment}", "lea {stack}, [rip + 2f]", "push {stack}", "jmp {stub}", "2:",
                 stack = out(reg) _, segment = out(reg) _, stub = in(reg) stub);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "runs the handlers")]
    fn a_byte_that_raises_a_vector_is_cleared_by_its_handler_and_by_no_other() {
        // Nobody takes so many vectors.
        let (other, bit) = (COUNT - 2, COUNT - 1);
        let (byte, acknowledged) = (AtomicU64::new(0x101), AtomicU64::new(1));
        ACKNOWLEDGE.store(acknowledged.as_ptr().expose_provenance() as u64, Ordering::Relaxed);
        // SAFETY: the byte is there as long as something here is raised.
        unsafe { Line { bit }.raised_by_byte(byte.as_ptr().expose_provenance() as u64) };
        let is_pending = |bit| PENDING.load(Ordering::Relaxed) >> bit & 1 != 0;
        raise(other);
        assert!(is_pending(other) && !is_pending(bit));
        assert_eq!((byte.load(Ordering::Relaxed), acknowledged.swap(1, Ordering::Relaxed)), (0x101, 0));
        raise(bit);
        assert!(is_pending(bit));
        assert_eq!((byte.load(Ordering::Relaxed), acknowledged.load(Ordering::Relaxed)), (0x100, 1));
        BY_BYTE.store(u64::MAX, Ordering::Relaxed);
        PENDING.fetch_and(!(1 << bit | 1 << other), Ordering::Relaxed);
    }
}
