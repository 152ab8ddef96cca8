//! Ending the machine: off, by reset, or with a code for those who test it.
//!
//! | way | off | reset |
//! |---|---|---|
//! | full ACPI (q35, pc) | sleep type of `_S5_` to the PM1 control registers | the FADT's reset register |
//! | reduced ACPI (microvm, Cloud Hypervisor) | the same to the sleep control register | the same |
//! | a hypervisor that takes requests ([`ask_hypervisor_by`]) | a call of it | the same |
//! | none (pc, microvm with `acpi=off`, Firecracker) | a reset | the keyboard controller where there is one, a triple fault |
//!
//! The ways are tried in the order of the table; each gets a moment to work. Registers are looked up and mapped at boot,
//! so that ending the machine needs neither memory nor locks and works in a panic. Which of a PC's chips there are
//! is for `promised.rs` to say.
//!
//! That the machine is *asked* to end is another matter ([`ask`], [`Watch`]): the program decides what to do first.

mod button;
mod keyboard;
mod watchdog;

use crate::acpi::{Acpi, Register, Space};
use crate::cpu::{self, port};
use crate::hypervisor::Hypervisor;
use crate::interrupt;
use crate::memory::{self, ranges::Range};
use crate::promised::Promised;
use crate::xen;
use core::sync::atomic::{AtomicU8, Ordering};
use spin::Once;

pub use button::Watch;
pub use watchdog::TableWatchdog;

/// What a machine can be asked to do by whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// To switch itself off.
    Off = 1,
    /// To start anew.
    Reset = 2,
}

/// The latest request; zero for none.
static ASKED: AtomicU8 = AtomicU8::new(0);
/// What carries a request to the hypervisor.
static HYPERVISOR: Once<fn(Request)> = Once::new();

/// The machine is asked to end, by whatever hears of it: a button, or what a hypervisor has instead of one. May be called
/// by any driver at any time; [`Watch::asked`] tells the program at its next turn. The latest request counts.
pub fn ask(request: Request) {
    ASKED.store(request as u8, Ordering::Relaxed);
}

/// What was asked for, if anything was.
fn asked() -> Option<Request> {
    match ASKED.load(Ordering::Relaxed) {
        0 => None,
        2 => Some(Request::Reset),
        _ => Some(Request::Off),
    }
}

/// Where ACPI has no way let `call` do it: a hypercall that ends the machine, or returns when it has not. It is called with
/// the machine in any state, in a panic as well: it may not take memory or wait for a lock. The first one counts.
pub fn ask_hypervisor_by(call: fn(Request)) {
    HYPERVISOR.call_once(|| call);
}

/// How the program ended. QEMU's `isa-debug-exit` at port 0xf4 turns code `c` into the process's exit status
/// `2c + 1`. Elsewhere the code is lost: after the first two the machine is switched off, for another start would go
/// no better; after the others it is reset.
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

impl Exit {
    /// The exit status of QEMU with `-device isa-debug-exit,iobase=0xf4,iosize=4`.
    pub const fn status(self) -> i32 {
        (self as i32) * 2 + 1
    }
}

/// SLP_EN in the PM1 control register; the type lies three bits below.
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u32 = 10;
/// The same in the sleep control register.
const REDUCED_SLEEP_ENABLE: u8 = 1 << 5;
const REDUCED_SLEEP_TYPE: u32 = 2;
/// SCI_EN in the PM1 control register: ACPI mode is on.
const ACPI_MODE: u16 = 1;
/// Ticks of the time stamp counter that a way gets: some 20 ms, on whatever CPU.
const MOMENT: u64 = if cfg!(test) { 1000 } else { 60_000_000 };

/// A register that can be written without further preparation.
#[derive(Clone, Copy, Debug)]
enum Place {
    Port(u16),
    Mapped(u64),
}

impl Place {
    fn of(register: Register) -> Option<Self> {
        match register.space {
            Space::Port => u16::try_from(register.address).ok().map(Self::Port),
            Space::Memory => {
                memory::map_device(Range::with_length(register.address, 4)).ok().map(Self::Mapped)
            }
        }
    }

    fn write8(self, value: u8) {
        match self {
            // SAFETY: firmware says that this is the register, and writing it ends the machine, which is what is wanted.
            Self::Port(port) => unsafe { port::write8(port, value) },
            // SAFETY: as above; the register is mapped.
            Self::Mapped(address) => unsafe { (address as *mut u8).write_volatile(value) },
        }
    }
}

/// A PM1 control register: always a port, 16 bits wide.
#[derive(Clone, Copy, Debug)]
struct Control(u16);

impl Control {
    fn read(self) -> u16 {
        // SAFETY: reading a control register has no effect.
        unsafe { port::read16(self.0) }
    }

    fn write(self, value: u16) {
        // SAFETY: firmware says that this is the register; the sleep type written is the one it gives for off.
        unsafe { port::write16(self.0, value) };
    }
}

/// What was found at boot.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    controls: [Option<Control>; 2],
    enable: Option<(u16, u8)>,
    sleep: Option<Place>,
    types: Option<(u8, u8)>,
    reset: Option<(Place, u8)>,
    /// There is a keyboard controller.
    has_keyboard: bool,
}

static WAYS: Once<Ways> = Once::new();

/// Note how this machine is ended.
pub(crate) fn init(acpi: &Acpi, promised: Promised) {
    WAYS.call_once(|| Ways::of(acpi, promised));
    button::init(acpi);
    watchdog::init(acpi);
}

impl Ways {
    pub(crate) fn of(acpi: &Acpi, promised: Promised) -> Self {
        let mut ways = Self { types: acpi.soft_off, has_keyboard: promised.keyboard, ..Self::default() };
        if let Some(fadt) = &acpi.fadt {
            let control = |register: Option<Register>| match register?.space {
                Space::Port => u16::try_from(register?.address).ok().map(Control),
                Space::Memory => None,
            };
            ways.controls = [control(fadt.control.0), control(fadt.control.1)];
            ways.enable = fadt.enable;
            ways.sleep = fadt.sleep.and_then(Place::of);
            ways.reset = fadt.reset.and_then(|(register, value)| Some((Place::of(register)?, value)));
        }
        ways
    }

    /// Switch the machine off as ACPI has it. It comes back where that does nothing.
    pub(crate) fn off(&self) {
        let Some((first, second)) = self.types else { return };
        if let Some(sleep) = self.sleep {
            sleep.write8(reduced_sleep(first));
            wait(MOMENT);
        }
        switch_acpi_on(self);
        for (control, kind) in self.controls.iter().zip([first, second]) {
            if let Some(control) = control {
                control.write(sleep(control.read(), kind));
            }
        }
        wait(MOMENT);
    }

    /// Reset it as ACPI has it.
    pub(crate) fn reset(&self) {
        if let Some((place, value)) = self.reset {
            place.write8(value);
            wait(MOMENT);
        }
    }

    /// The last that is there before the CPU itself.
    pub(crate) fn reset_by_keyboard(&self) {
        if !self.has_keyboard {
            return;
        }
        for _ in 0..1000 {
            // SAFETY: the machine says that it has a keyboard controller; reading its status has no effect.
            if unsafe { port::read8(0x64) } & 2 == 0 {
                break;
            }
            cpu::relax();
        }
        // SAFETY: as above: "pulse the reset line".
        unsafe { port::write8(0x64, 0xfe) };
        wait(MOMENT);
    }
}

/// Switch the machine off. Where it cannot be, it is reset: whoever runs it decides what a reset means.
pub fn off() -> ! {
    if let Some(ways) = WAYS.get() {
        ways.off();
    }
    call_hypervisor(Request::Off);
    reset()
}

fn call_hypervisor(request: Request) {
    if let Some(call) = HYPERVISOR.get() {
        call(request);
        wait(MOMENT);
    }
}

/// What the sleep control register is given for soft off by sleep type `kind` (ACPI 6.5, section 4.8.3.7).
const fn reduced_sleep(kind: u8) -> u8 {
    kind << REDUCED_SLEEP_TYPE | REDUCED_SLEEP_ENABLE
}

/// What a PM1 control register that reads `value` is given for it (section 4.8.3.2.1).
const fn sleep(value: u16, kind: u8) -> u16 {
    value & !(SLEEP_ENABLE | 7 << SLEEP_TYPE) | (kind as u16) << SLEEP_TYPE | SLEEP_ENABLE
}

/// Firmware may still have the power hardware to itself; ask it for that, and give it time.
fn switch_acpi_on(ways: &Ways) {
    let (Some(control), Some((port, value))) = (ways.controls[0], ways.enable) else { return };
    if control.read() & ACPI_MODE != 0 {
        return;
    }
    // SAFETY: firmware says that this port takes this request.
    unsafe { port::write8(port, value) };
    for _ in 0..100 {
        if control.read() & ACPI_MODE != 0 {
            return;
        }
        wait(MOMENT / 100);
    }
}

/// As [`switch_acpi_on`], while the machine goes on: only then does firmware leave its button to us.
fn switch_acpi_on_for_good() {
    if let Some(ways) = WAYS.get() {
        switch_acpi_on(ways);
    }
}

/// Reset the machine.
pub fn reset() -> ! {
    let ways = WAYS.get();
    if let Some(ways) = ways {
        ways.reset();
    }
    call_hypervisor(Request::Reset);
    if let Some(ways) = ways {
        ways.reset_by_keyboard();
    }
    interrupt::triple_fault()
}

/// End the machine with a code where something takes it, else as [`Exit`] says.
pub fn exit(exit: Exit) -> ! {
    say(exit, Hypervisor::of_machine());
    match exit {
        Exit::Success | Exit::Failure => off(),
        _ => {
            xen::restart();
            reset()
        }
    }
}

/// Tell the code to QEMU's test device, which ends the process if it is there.
pub(crate) fn say(exit: Exit, hypervisor: Option<Hypervisor>) {
    if hypervisor.is_some_and(Hypervisor::may_be_qemu) {
        // SAFETY: the device's port; nothing else is there on a machine of QEMU's or KVM's.
        unsafe { port::write8(0xf4, exit as u8) };
    }
}

/// Let the counter run so far. It needs no clock: this works before there is one.
fn wait(ticks: u64) {
    let start = cpu::tsc();
    while cpu::tsc().wrapping_sub(start) < ticks {
        cpu::relax();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_and_the_latest_counts() {
        assert_eq!(asked(), None);
        ask(Request::Off);
        assert_eq!((asked(), asked()), (Some(Request::Off), Some(Request::Off)));
        ask(Request::Reset);
        assert_eq!(asked(), Some(Request::Reset));
    }

    #[test]
    fn sleep_types_are_written_where_the_standard_has_them() {
        // Cloud Hypervisor's port 0x600 takes nothing else for off.
        assert_eq!(reduced_sleep(5), 0x34);
        assert_eq!(sleep(0x0001, 0), 0x2001);
        assert_eq!(sleep(0x1c01, 5), 0x3401, "what was there of a sleep type is replaced");
    }

    #[test]
    fn every_end_has_a_status_of_its_own() {
        let all = [
            (Exit::Success, 33),
            (Exit::Failure, 35),
            (Exit::Panic, 65),
            (Exit::PageFault, 67),
            (Exit::StackOverflow, 69),
            (Exit::DoubleFault, 71),
            (Exit::MachineCheck, 73),
            (Exit::Nmi, 75),
            (Exit::Exception, 77),
            (Exit::PanicInPanic, 79),
        ];
        for (exit, status) in all {
            assert_eq!(exit.status(), status, "{exit:?}");
        }
    }
}
