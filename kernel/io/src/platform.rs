//! What the kernel has to offer so that the handles work.

use crate::Error;
use crate::xen::{Event, Parameter};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

/// The machine as drivers need it. The kernel implements it; it is used through the handles only.
///
/// # Safety
/// Drivers and handles rely on what each method promises: memory that is given is given to nobody else, registers that
/// are mapped are never RAM, and an interrupt does nothing but set its bit.
pub unsafe trait Platform: Sync {
    /// `length` bytes with whatever is in them, physically contiguous, beginning at a multiple of [`crate::PAGE`], and
    /// mapped so that the pointer's address is the physical address. To the language they are initialised. `None` when
    /// memory is short.
    fn allocate(&self, length: usize) -> Option<NonNull<u8>>;

    /// Take memory back.
    ///
    /// # Safety
    /// `memory` and `length` must be those of an [`Platform::allocate`], and nobody, no device either, may use the
    /// memory any more.
    unsafe fn free(&self, memory: NonNull<u8>, length: usize);

    /// Map `length` bytes of registers at `physical`, uncached, for ever. `physical` need not be aligned. The same range
    /// may be asked for again.
    ///
    /// # Errors
    /// [`Error::Unmappable`] when the range is or touches RAM, is empty or absurd; [`Error::OutOfMemory`].
    fn map(&self, physical: u64, length: usize) -> Result<NonNull<u8>, Error>;

    /// The same for memory that is none of the machine's own but that a hypervisor has as well: cached, as it has it.
    ///
    /// # Errors
    /// As for [`Platform::map`].
    fn map_memory(&self, physical: u64, length: usize) -> Result<NonNull<u8>, Error>;

    /// A vector, and the bit its handler sets.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    fn allocate_interrupt(&self) -> Result<Interrupt, Error>;

    /// A vector for the PCI interrupt line that firmware calls `line`, by level. Functions that share the line share the vector
    /// and its bit, and each has one of its own. After it was raised it is raised again only when the machine idles with its bit
    /// cleared: until then its devices can be served. Until it is known that the line is that of the function, it is looked at
    /// as if it had none.
    ///
    /// # Errors
    /// [`Error::NoVector`]; [`Error::NoLine`] when no controller has that line, or it is in use in another way.
    fn allocate_line(&self, line: u8) -> Result<Interrupt, Error>;

    /// The device of `interrupt`, which has a line, has had a cause to raise it, and the driver has taken that.
    fn claim_interrupt(&self, interrupt: &Interrupt);

    /// See whether the line of `interrupt` is that of its device: silent before `raise`, which has the device raise it, and
    /// heard after. If so it is known from then on. For initialisation only, when no other device on it raises it.
    fn try_interrupt(&self, interrupt: &Interrupt, raise: &mut dyn FnMut());

    /// What stands for an interrupt of a device that can raise none that is heard: its bit is set when the machine has idled,
    /// which it then does for a millisecond at most, if it was taken since the last time.
    ///
    /// # Errors
    /// [`Error::NoVector`].
    fn allocate_tick(&self) -> Result<Interrupt, Error>;

    /// Nobody will take `interrupt` any more: its bit keeps nobody from idling. The vector is given to nobody else, for a
    /// device may still raise it.
    fn abandon_interrupt(&self, interrupt: &Interrupt);

    /// Let the interrupt controllers' input `gsi` (ACPI's global system interrupt) raise `interrupt` from now on.
    ///
    /// # Errors
    /// [`Error::NoLine`] when no controller has that input.
    fn connect(&self, interrupt: &Interrupt, gsi: u32, trigger: Trigger) -> Result<(), Error>;

    /// Whether a driver may have these ports.
    ///
    /// # Errors
    /// [`Error::PortsTaken`] when some of them are the kernel's own: interrupt controllers, timers, its console;
    /// [`Error::NotThere`] for the ports of PCI's configuration space where nothing says that the machine has them.
    fn claim_ports(&self, first: u16, count: u16) -> Result<(), Error>;

    /// Read a port; narrower values are zero-extended.
    ///
    /// # Safety
    /// The port must have been claimed.
    unsafe fn read_port(&self, port: u16, width: Width) -> u32;

    /// Write a port.
    ///
    /// # Safety
    /// The port must have been claimed.
    unsafe fn write_port(&self, port: u16, width: Width, value: u32);

    /// Where PCI configuration space is mapped into memory (ACPI's MCFG, segment 0), if it is.
    fn ecam(&self) -> Option<Ecam>;

    /// The places of virtio devices with registers in memory that tables name; `None` where there are no tables, and the
    /// machine may be QEMU's microvm, which has a place for them.
    fn mmio_slots(&self) -> Option<&'static [MmioSlot]>;

    /// Let so much time pass, busily. For initialisation only.
    fn delay(&self, microseconds: u32);

    /// The time in microseconds, since a moment that stays the same.
    fn microseconds(&self) -> u64;

    /// Whether there is Hyper-V's synthetic interrupt controller, and we may use it for messages and events.
    fn has_synic(&self) -> bool;

    /// Start Hyper-V's synthetic interrupt controller, whatever firmware has left of it: the hypervisor puts messages and
    /// event flags into the pages at these addresses from now on, and raises `interrupt` for those of VMBus.
    ///
    /// # Errors
    /// [`Error::NotThere`] where there is no such controller, or it is not for us.
    ///
    /// # Safety
    /// The pages must be RAM that is nobody else's, for ever.
    unsafe fn start_synic(&self, interrupt: &Interrupt, messages: u64, events: u64) -> Result<(), Error>;

    /// Tell the controller that a message has been taken out of its slot, and another may be put there.
    fn end_of_message(&self);

    /// Post a message of at most [`crate::MESSAGE`] bytes to a connection of VMBus's.
    ///
    /// # Errors
    /// The hypervisor's status.
    fn post_message(&self, connection: u32, message: &[u8]) -> Result<(), u16>;

    /// Signal the event of a connection.
    ///
    /// # Errors
    /// The hypervisor's status.
    fn signal_event(&self, connection: u32) -> Result<(), u16>;

    /// Xen, if the machine is a guest of it.
    fn xen(&self) -> Option<&'static dyn Xen>;
}

/// Xen, as the kernel speaks to it.
///
/// # Safety
/// As for [`Platform`]: an event does nothing but set the bit of its interrupt, and no call changes memory that it was not given.
pub unsafe trait Xen: Sync {
    /// Let each event from now on raise `interrupt`. Those before are forgotten.
    ///
    /// # Errors
    /// [`Error::NotThere`] where Xen does not do that.
    fn start_events(&self, interrupt: &Interrupt) -> Result<(), Error>;

    /// All events that have come have been seen; the next raises the interrupt again.
    fn clear_events(&self);

    /// Do something about event channels.
    ///
    /// # Errors
    /// Xen's, negative.
    fn event(&self, event: Event) -> Result<u32, i32>;

    /// A parameter of the machine.
    fn parameter(&self, parameter: Parameter) -> Option<u64>;

    /// Let the grant table's first `frames` pages be where these pages of memory were.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when Xen has not as many.
    ///
    /// # Safety
    /// The pages must be RAM that is nobody else's, for ever, and of whose contents nobody expects anything.
    unsafe fn map_grants(&self, pages: u64, frames: usize) -> Result<(), Error>;

    /// Let others have the CPU for now.
    fn rest(&self);
}

/// An interrupt as the platform gives it.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// The word of which the handler sets `bit`. Only [`crate::Irq::take`] clears it: who idles looks at the word and
    /// leaves the bits to their drivers, which need them to know whom to ask.
    pub word: &'static AtomicU64,
    /// The word of which taking it sets the same bits: who idles does not sleep while a bit is set in both, and clears it here
    /// then. So it is woken once for what nobody takes.
    pub awaited: &'static AtomicU64,
    /// Which bit, 0 to 63.
    pub bit: u8,
    /// The bit of the line that it shares with others, as a mask; zero where there is none.
    pub shared: u64,
    /// What a device writes where to raise it (MSI and MSI-X).
    pub message: Message,
}

/// A message-signalled interrupt: a device raises it by writing `data` to `address` (PCI 3.0 section 6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// How an input of an interrupt controller says that something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By rising. A device that keeps its line up raises no second interrupt until it has been acknowledged.
    Edge,
}

/// Bits of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

/// PCI configuration space in memory: 4 KiB a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of bus 0's first function, even when bus 0 is not decoded.
    pub address: u64,
    /// The first bus that is decoded.
    pub first_bus: u8,
    /// The last one.
    pub last_bus: u8,
}

/// Where a virtio device with registers in memory is, as a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioSlot {
    /// Physical address of its registers, a multiple of four.
    pub address: u64,
    /// How many bytes they are, 256 at least.
    pub length: u64,
    /// The global number of its interrupt, which rises.
    pub gsi: u32,
}

static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();

/// Say what machine this is, before the first driver. Only the first call counts.
pub fn install(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
}

/// The machine.
///
/// # Panics
/// When nobody has installed one.
#[cfg(target_os = "none")]
pub(crate) fn platform() -> &'static dyn Platform {
    match PLATFORM.get() {
        Some(platform) => *platform,
        None => panic!("kernel_io::install comes before the first driver"),
    }
}
