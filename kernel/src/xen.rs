//! Xen, as a guest of its own kinds (HVM and PVH) has it: calls, the page it shares with us, events, an end.
//!
//! Names and numbers are those of Xen's public headers. Calls go through the page that `hyperv.rs` has for that: the
//! hypervisor fills it, whatever CPU this is. Elsewhere than on Xen all of this is one question to CPUID.

pub(crate) mod console;

use crate::hypervisor::Hypervisor;
use crate::interrupt::Line;
use crate::power::Request;
use crate::{cpu, hyperv, memory, power};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use kernel_io::xen::{Event, Parameter};
use kernel_io::{Error, Interrupt, Xen};

/// Calls.
const MEMORY: u64 = 12;
const CONSOLE: u64 = 18;
const SCHEDULE: u64 = 29;
const EVENT_CHANNEL: u64 = 32;
const HVM: u64 = 34;

/// Of memory: put a page of the hypervisor's where one of ours was; the kinds of its pages.
const ADD_TO_PHYSMAP: u64 = 7;
const SHARED_INFO: u32 = 0;
const GRANT_TABLE: u32 = 1;
/// Of the hypervisor's own console: text for its log.
const WRITE: u64 = 0;
/// Of the scheduler.
const YIELD: u64 = 0;
const SHUTDOWN: u64 = 2;
/// Of event channels.
const CLOSE: u64 = 3;
const SEND: u64 = 4;
const ALLOCATE_UNBOUND: u64 = 6;
/// Of the machine.
const SET_PARAMETER: u64 = 0;
const GET_PARAMETER: u64 = 1;
const SET_UPCALL_VECTOR: u64 = 23;

/// Parameters that are not drivers' business: how events come, and the console.
const CALLBACK: u32 = 0;
const CONSOLE_PAGE: u32 = 17;
const CONSOLE_PORT: u32 = 18;
/// Of the first: by interrupt line 1, by a vector.
const BY_LINE: u64 = 1;
const BY_VECTOR: u64 = 2 << 56;

/// We ourselves.
const SELF: u16 = 0x7ff0;

/// Where things are in the page that is shared: for this CPU whether events wait, which words of them to look at, and the time; all
/// events, and which of them are not told; and the time of day.
const UPCALL_PENDING: u64 = 0;
const PENDING_WORDS: u64 = 8;
pub(crate) const TIME: u64 = 32;
const PENDING: u64 = 2048;
const MASKED: u64 = 2560;
pub(crate) const WALL_CLOCK: u64 = 3072;
/// Words of events.
const WORDS: u64 = 64;

/// The page that is shared; zero where there is none.
static SHARED: AtomicU64 = AtomicU64::new(0);

/// Why the machine is ended (`sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Reason {
    Off = 0,
    Reboot = 1,
}

/// Whether this is Xen.
pub(crate) fn is_there() -> bool {
    Hypervisor::of_machine() == Some(Hypervisor::Xen)
}

/// Share a page with Xen, if this is it, and let it have the console where there is no other, and end the machine.
pub(crate) fn start() {
    if !prepare() {
        return;
    }
    let Some(page) = memory::allocate_pages(4096) else { return };
    // SAFETY: the page is RAM that is nobody else's, is never freed, and is accessed by volatile reads and writes only.
    if unsafe { add_to_physmap(SHARED_INFO, 0, page) } < 0 {
        return;
    }
    SHARED.store(page, Ordering::Relaxed);
    power::ask_hypervisor_by(|request| {
        end(match request {
            Request::Off => Reason::Off,
            Request::Reset => Reason::Reboot,
        });
    });
    let (ring, port) = (get(CONSOLE_PAGE), get(CONSOLE_PORT));
    if let (Some(ring), Some(port)) = (ring, port) {
        console::attach(ring, port as u32);
        crate::console::catch_up();
    }
}

/// Have the page of calls filled, if this is Xen; answers whether it is.
fn prepare() -> bool {
    let Some(leaf) = Hypervisor::Xen.leaf(2) else { return false };
    // SAFETY: Xen has announced the register; it fills the page in the image that is for nothing else.
    unsafe { cpu::write_msr(leaf.ebx, hyperv::hypercall_page_address()) };
    true
}

/// Say something by Xen's own log, if this is Xen: the last words of a machine without a console.
pub(crate) fn say(text: &[u8]) {
    if prepare() {
        // SAFETY: Xen reads the text.
        unsafe { call3(CONSOLE, WRITE, text.len() as u64, text.as_ptr() as u64) };
    }
}

/// The page that is shared, by its address.
pub(crate) fn shared() -> Option<u64> {
    match SHARED.load(Ordering::Relaxed) {
        0 => None,
        page => Some(page),
    }
}

/// Have the machine started again, if this is Xen: that works in any state, before [`start`] as well. A crash would be another reason,
/// but domains that have crashed stay off unless somebody has said otherwise, and appliances are to come back.
pub(crate) fn restart() {
    if prepare() {
        end(Reason::Reboot);
    }
}

fn end(reason: Reason) {
    let reason = reason as u32;
    // SAFETY: whoever calls has had the page of calls filled; Xen reads the word and ends the machine.
    unsafe { call(SCHEDULE, SHUTDOWN, &raw const reason as u64) };
}

/// Make a call; answers what Xen says, where less than zero stands for an error.
///
/// # Safety
/// The page of calls must have been filled, and what the call does with its arguments must be sound.
unsafe fn call(number: u64, first: u64, second: u64) -> i64 {
    // SAFETY: the caller vouches for it; no call looks at more arguments than it takes.
    unsafe { call3(number, first, second, 0) }
}

/// The same with a third argument.
///
/// # Safety
/// As for [`call`].
unsafe fn call3(number: u64, first: u64, second: u64, third: u64) -> i64 {
    let result: i64;
    // SAFETY: the hypervisor has filled the page, with 32 bytes for each call, that keep all registers but the named. The caller
    // vouches for the call itself.
    unsafe {
        asm!("call {target}", target = in(reg) hyperv::hypercall_page_start() + number * 32,
             inout("rax") number => result, inout("rdi") first => _, inout("rsi") second => _,
             inout("rdx") third => _, out("r10") _, out("r8") _, out("r9") _, out("rcx") _, out("r11") _);
    };
    result
}

/// Put a page of the hypervisor's where ours at `address` was, whose memory goes back to it.
///
/// # Safety
/// It must be RAM that is nobody else's, of whose contents nobody expects anything.
unsafe fn add_to_physmap(space: u32, index: u64, address: u64) -> i64 {
    let request: [u64; 3] = [u64::from(SELF) | u64::from(space) << 32, index, address >> 12];
    // SAFETY: Xen reads the request; the caller vouches for the page.
    unsafe { call(MEMORY, ADD_TO_PHYSMAP, request.as_ptr() as u64) }
}

/// A parameter of the machine.
fn get(index: u32) -> Option<u64> {
    let mut request = [u64::from(SELF) | u64::from(index) << 32, 0];
    // SAFETY: Xen reads the request, and writes the value into it.
    let result = unsafe { call(HVM, GET_PARAMETER, request.as_mut_ptr().expose_provenance() as u64) };
    // SAFETY: the word is ours. Volatile, for the call is not seen to write it.
    let value = unsafe { (&raw const request[1]).read_volatile() };
    (result >= 0 && value != 0).then_some(value)
}

fn set(index: u32, value: u64) -> i64 {
    let request = [u64::from(SELF) | u64::from(index) << 32, value];
    // SAFETY: Xen reads the request; the one parameter that is set says how events come, which has a handler.
    unsafe { call(HVM, SET_PARAMETER, request.as_ptr() as u64) }
}

/// Tell whoever is at the other end of a port.
fn notify(port: u32) -> i64 {
    // SAFETY: Xen reads the port.
    unsafe { call(EVENT_CHANNEL, SEND, &raw const port as u64) }
}

/// A word of the page that is shared.
fn word(page: u64, offset: u64) -> *mut u64 {
    (page + offset) as *mut u64
}

/// Xen, for drivers; made where the page is shared.
pub(crate) struct Guest;

/// Xen, for drivers, if this is it.
pub(crate) fn guest() -> Option<&'static Guest> {
    shared().map(|_| &Guest)
}

// SAFETY: an event raises a vector with a handler that sets its bit; calls read what they are given, and write to no memory but that of
// their requests.
unsafe impl Xen for Guest {
    fn start_events(&self, interrupt: &Interrupt) -> Result<(), Error> {
        let line = Line::of_bit(interrupt.bit).ok_or(Error::NotThere)?;
        let page = shared().ok_or(Error::NotThere)?;
        let vector = u64::from(line.vector());
        // For CPU 0.
        let request = vector << 32;
        // SAFETY: Xen reads the request; the vector has a handler.
        let told = unsafe { call(HVM, SET_UPCALL_VECTOR, &raw const request as u64) };
        // Where the local APIC raises it the parameter only says that there are drivers for events, which the tools want to know.
        let callback = if told < 0 { BY_VECTOR | vector } else { BY_LINE };
        if told < 0 {
            // Such a vector is raised as long as the byte says that something is pending.
            // SAFETY: the page is ours and Xen's for ever, and Xen expects the byte to be cleared.
            unsafe { line.raised_by_byte(page + UPCALL_PENDING) };
        }
        if set(CALLBACK, callback) < 0 && told < 0 {
            return Err(Error::NotThere);
        }
        for index in 0..WORDS {
            // Whoever reads the console has nothing to tell us.
            let is_here = |port: &u32| u64::from(port / 64) == index;
            let masked = console::port().filter(is_here).map_or(0, |port| 1 << (port % 64));
            // SAFETY: the words are in the page, which is ours and Xen's, and aligned.
            unsafe { word(page, MASKED + 8 * index).write_volatile(masked) };
            // SAFETY: as above. An event of the time before would hide the next.
            unsafe { word(page, PENDING + 8 * index).write_volatile(0) };
        }
        self.clear_events();
        Ok(())
    }

    fn clear_events(&self) {
        let Some(page) = shared() else { return };
        // Xen sets an event, then the bit of its word, then this: so it is cleared first, and an event that comes meanwhile raises the
        // interrupt again.
        // SAFETY: the byte is in the page, which is ours and Xen's.
        unsafe { ((page + UPCALL_PENDING) as *mut u8).write_volatile(0) };
        fence(Ordering::SeqCst);
        // SAFETY: the word is in the page and aligned; whoever else accesses it is the hypervisor.
        let words = unsafe { AtomicU64::from_ptr(word(page, PENDING_WORDS)) }.swap(0, Ordering::SeqCst);
        for index in (0..WORDS).filter(|index| words >> index & 1 != 0) {
            // SAFETY: as for the masks. What is set before is overwritten, and seen by whoever looks after this.
            unsafe { word(page, PENDING + 8 * index).write_volatile(0) };
        }
        fence(Ordering::SeqCst);
    }

    fn event(&self, event: Event) -> Result<u32, i32> {
        // Two domains, and the port that is answered.
        let mut request = [u32::from(SELF), 0];
        let operation = match event {
            Event::Open(domain) => {
                request[0] |= u32::from(domain) << 16;
                ALLOCATE_UNBOUND
            }
            Event::Close(port) => {
                request[0] = port;
                CLOSE
            }
            Event::Notify(port) => {
                request[0] = port;
                SEND
            }
        };
        let address = request.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: Xen reads the request, and writes the port into it where it answers one.
        let result = unsafe { call(EVENT_CHANNEL, operation, address) };
        // SAFETY: the word is ours. Volatile, for the call is not seen to write it.
        let port = unsafe { (&raw const request[1]).read_volatile() };
        if result < 0 { Err(result as i32) } else { Ok(port) }
    }

    fn parameter(&self, parameter: Parameter) -> Option<u64> {
        get(parameter as u32)
    }

    unsafe fn map_grants(&self, pages: u64, frames: usize) -> Result<(), Error> {
        for index in 0..frames as u64 {
            // SAFETY: the caller vouches for the pages.
            if unsafe { add_to_physmap(GRANT_TABLE, index, pages + index * 4096) } < 0 {
                return Err(Error::OutOfMemory);
            }
        }
        Ok(())
    }

    fn rest(&self) {
        // SAFETY: nothing is read or written.
        unsafe { call(SCHEDULE, YIELD, 0) };
    }
}
