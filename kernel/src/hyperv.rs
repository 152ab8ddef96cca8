//! Hyper-V, as the Hypervisor Top Level Functional Specification has it: what it offers, its calls, and its interrupts.
//!
//! Calls go through a page that the hypervisor fills. It lies in the image's code: mapped once, for execution and not for
//! writing, as all of it is; only the hypervisor writes there.

use crate::interrupt::Line;
use crate::power::{self, Request};
use crate::{cpu, hypervisor, memory, xen};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel_io::MESSAGE;
use spin::Once;

/// The interface's name in leaf 0x4000_0001.
const INTERFACE: u32 = u32::from_le_bytes(*b"Hv#1");
/// Leaf 0x4000_0003, EAX: registers that we may use.
pub(crate) const ACCESS_REFERENCE_COUNTER: u32 = 1 << 1;
const ACCESS_SYNIC: u32 = 1 << 2;
const ACCESS_TIMERS: u32 = 1 << 3;
const ACCESS_HYPERCALLS: u32 = 1 << 5;
const ACCESS_RESET: u32 = 1 << 7;
pub(crate) const ACCESS_REFERENCE_TSC: u32 = 1 << 9;
const ACCESS_FREQUENCIES: u32 = 1 << 11;
/// EBX: calls that we may make.
const POST_MESSAGES: u32 = 1 << 4;
const SIGNAL_EVENTS: u32 = 1 << 5;
/// EDX: the registers of frequencies are there.
const FREQUENCIES: u32 = 1 << 8;

const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const RESET: u32 = 0x4000_0003;
const TSC_FREQUENCY: u32 = 0x4000_0022;
const APIC_FREQUENCY: u32 = 0x4000_0023;
const SCONTROL: u32 = 0x4000_0080;
const SIEFP: u32 = 0x4000_0082;
const SIMP: u32 = 0x4000_0083;
const EOM: u32 = 0x4000_0084;
const SINT0: u32 = 0x4000_0090;
const SINTS: u32 = 16;
const STIMER0_CONFIG: u32 = 0x4000_00b0;
const STIMERS: u32 = 4;

/// We are an open-source system of a kind that nobody has registered.
const OURSELVES: u64 = 1 << 63 | 0x7f << 56;
/// Of the registers that hold the address of a page: it is used. The bits up to the address are to be kept.
const ENABLE: u64 = 1;
const KEPT: u64 = 0xffe;
/// Of a source of interrupts.
const MASKED: u64 = 1 << 16;
/// The source that VMBus has.
const VMBUS: u32 = 2;

/// Bytes in front of a message that is posted.
const HEADER: usize = 16;
const POST_MESSAGE: u64 = 0x5c;
const SIGNAL_EVENT: u64 = 0x5d;
/// The input is in registers.
const FAST: u64 = 1 << 16;

// Until the hypervisor has filled it, it is full of breakpoints.
global_asm!(
    ".section .hypercall, \"ax\", @progbits",
    ".balign 4096",
    ".global hypercall_page",
    "hypercall_page:",
    ".fill 4096, 1, 0xcc",
    ".text"
);

unsafe extern "C" {
    fn hypercall_page();
}

/// Where the page of calls is, for execution.
pub(crate) fn hypercall_page_start() -> u64 {
    hypercall_page as *const () as u64
}

/// Its physical address, by which a hypervisor fills it.
pub(crate) fn hypercall_page_address() -> u64 {
    memory::physical(hypercall_page_start())
}

/// A page for the input of calls, by its address; zero before calls can be made.
static INPUT: AtomicU64 = AtomicU64::new(0);

/// What the hypervisor lets this partition do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    access: u32,
    calls: u32,
    more: u32,
}

impl Features {
    /// Ask, the first time; `None` when it is not Hyper-V and does not pass for it.
    pub(crate) fn read() -> Option<Self> {
        static FEATURES: Once<Option<Features>> = Once::new();
        *FEATURES.call_once(|| {
            if hypervisor::first_leaf(1)?.eax != INTERFACE {
                return None;
            }
            let leaf = hypervisor::first_leaf(3)?;
            Some(Self { access: leaf.eax, calls: leaf.ebx, more: leaf.edx })
        })
    }

    /// Whether all these registers may be used.
    pub(crate) fn has(self, access: u32) -> bool {
        self.access & access == access
    }

    /// The rates of the time stamp counter and of the local APIC's timer, in hertz.
    pub(crate) fn rates(self) -> Option<(u64, u64)> {
        let stated = self.has(ACCESS_FREQUENCIES) && self.more & FREQUENCIES != 0;
        // SAFETY: the hypervisor says that the registers are there; reading them has no effect.
        let rate = |register| unsafe { cpu::read_msr(register) };
        stated.then(|| (rate(TSC_FREQUENCY), rate(APIC_FREQUENCY)))
    }
}

/// Let a register name a page that the hypervisor uses; its other bits stay.
///
/// # Safety
/// The register must be there and hold a page's address; the page must be one that the hypervisor may write to, for ever.
pub(crate) unsafe fn set_page(register: u32, page: u64) {
    // SAFETY: the caller vouches for the register.
    let kept = unsafe { cpu::read_msr(register) } & KEPT;
    // SAFETY: and for the page.
    unsafe { cpu::write_msr(register, page | kept | ENABLE) };
}

/// Let the hypervisor reset the machine where ACPI has no way, if it offers that. It has none to switch it off.
pub(crate) fn start() {
    if Features::read().is_some_and(|features| features.has(ACCESS_RESET)) {
        power::ask_hypervisor_by(|request| {
            if request == Request::Reset {
                // SAFETY: the hypervisor says that the register is there; it takes the request, and the machine ends.
                unsafe { cpu::write_msr(RESET, 1) };
            }
        });
    }
}

/// The features, if there is a synthetic interrupt controller and we may post and signal: it is of no use without.
pub(crate) fn synic() -> Option<Features> {
    // Xen passes for Hyper-V where it is told to; it has no VMBus, and the page of calls is in use.
    if xen::is_there() {
        return None;
    }
    let calls = POST_MESSAGES | SIGNAL_EVENTS;
    let is_usable = |features: &Features| {
        features.has(ACCESS_SYNIC | ACCESS_HYPERCALLS) && features.calls & calls == calls
    };
    Features::read().filter(is_usable)
}

/// Start the synthetic interrupt controller, and calls, which are of use with it only: messages and events go to the
/// pages at these addresses, and raise `line`. `false` when there is none, or nothing can be done with it.
///
/// # Safety
/// The pages must be RAM that is nobody else's, for ever.
pub(crate) unsafe fn start_synic(line: Line, messages: u64, events: u64) -> bool {
    let Some(features) = synic() else { return false };
    let Some(input) = memory::allocate_pages(MESSAGE + HEADER) else { return false };
    let page = hypercall_page_address();
    let registers = Registers(features);
    registers.silence();
    registers.write(GUEST_OS_ID, OURSELVES);
    for (register, page) in [(HYPERCALL, page), (SIMP, messages), (SIEFP, events)] {
        // SAFETY: the hypervisor says that the registers are there. The page of calls is in the image and for nothing
        // else; the caller vouches for the others.
        unsafe { set_page(register, page) };
    }
    registers.write(SCONTROL, registers.read(SCONTROL) | ENABLE);
    registers.write(SINT0 + VMBUS, line.vector().into());
    // Firmware may have locked the page of calls where it was.
    let ready = registers.read(HYPERCALL) & !KEPT == page | ENABLE;
    if ready {
        INPUT.store(input, Ordering::Relaxed);
    }
    ready
}

/// The registers of a controller that is there, and of hypercalls.
struct Registers(Features);

impl Registers {
    fn read(&self, register: u32) -> u64 {
        // SAFETY: who has made `self` has seen that the hypervisor has them; reading has no effect.
        unsafe { cpu::read_msr(register) }
    }

    fn write(&self, register: u32, value: u64) {
        // SAFETY: as above. What is written, above and below, names us, masks and stops what firmware has left, or lets a
        // vector be raised that has a handler; none of it names memory.
        unsafe { cpu::write_msr(register, value) };
    }

    /// Mask all sources of interrupts, and stop the timers.
    fn silence(&self) {
        (SINT0..SINT0 + SINTS).for_each(|source| self.write(source, self.read(source) | MASKED));
        if self.0.has(ACCESS_TIMERS) {
            (0..STIMERS).for_each(|timer| self.write(STIMER0_CONFIG + 2 * timer, 0));
        }
    }
}

/// Tell the controller that the slot of messages is free.
pub(crate) fn end_of_message() {
    if INPUT.load(Ordering::Relaxed) != 0 {
        // SAFETY: the controller has been started; what the register brings about is that a message is delivered.
        unsafe { cpu::write_msr(EOM, 0) };
    }
}

/// Post a message of VMBus's (HvCallPostMessage).
///
/// # Errors
/// The hypervisor's status.
pub(crate) fn post_message(connection: u32, message: &[u8]) -> Result<(), u16> {
    const VMBUS_MESSAGE: u32 = 1;
    let message = &message[..message.len().min(MESSAGE)];
    let input = INPUT.load(Ordering::Relaxed);
    if input == 0 {
        return Err(u16::MAX);
    }
    let header = [connection, 0, VMBUS_MESSAGE, message.len() as u32];
    // SAFETY: the page is ours, and nobody else writes to it; header and message fit.
    unsafe { (input as *mut [u32; 4]).write_volatile(header) };
    for (offset, byte) in (HEADER as u64..).zip(message) {
        // SAFETY: as above.
        unsafe { ((input + offset) as *mut u8).write_volatile(*byte) };
    }
    call(POST_MESSAGE, input)
}

/// Signal the event of a connection (HvCallSignalEvent).
///
/// # Errors
/// The hypervisor's status.
pub(crate) fn signal_event(connection: u32) -> Result<(), u16> {
    call(SIGNAL_EVENT | FAST, connection.into())
}

fn call(control: u64, input: u64) -> Result<(), u16> {
    if INPUT.load(Ordering::Relaxed) == 0 {
        return Err(u16::MAX);
    }
    let result: u64;
    // SAFETY: the hypervisor has filled the page; the two calls that are made read their input, which is in a register or in
    // the page whose address that is, and write nothing. They may change the registers that are named, and no others.
    unsafe {
        asm!("call {page}", page = sym hypercall_page, out("rax") result, inout("rcx") control => _,
             inout("rdx") input => _, inout("r8") 0_u64 => _, out("r9") _, out("r10") _, out("r11") _);
    };
    match result as u16 {
        0 => Ok(()),
        status => Err(status),
    }
}
