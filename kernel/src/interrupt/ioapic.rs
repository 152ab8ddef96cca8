//! The I/O APIC: interrupts of devices that have a wire and send no messages (virtio-mmio, NICs of old).

use super::{APIC, Line, shared};
use crate::acpi::{IoApic, Madt, Override};
use crate::memory::{self, ranges::Range};
use crate::promised::Promised;
use alloc::vec::Vec;
use spin::Mutex;

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
/// An input that is active low; one that is active for as long as it is.
const LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;

/// Where they are on a machine without tables: the first at the place it has had since 1997, and the second of
/// QEMU's microvm.
const CUSTOMARY: [IoApic; 2] =
    [IoApic { address: 0xfec0_0000, first: 0 }, IoApic { address: 0xfec1_0000, first: 24 }];

struct Controller {
    registers: u64,
    first: u32,
    inputs: u32,
}

static CONTROLLERS: Mutex<Vec<Controller>> = Mutex::new(Vec::new());
/// Where lines of the old bus go that do not go to the input of their number.
static OVERRIDES: Mutex<Vec<Override>> = Mutex::new(Vec::new());

/// Where they are, or may be.
pub(crate) fn places(madt: Option<&Madt>, promised: Promised) -> &[IoApic] {
    match madt {
        Some(madt) => &madt.io_apics,
        None if promised.customary => &CUSTOMARY,
        None => &[],
    }
}

/// Find the controllers and mask all that they have.
pub(crate) fn find(madt: Option<&Madt>, promised: Promised) {
    if let Some(madt) = madt {
        OVERRIDES.lock().clone_from(&madt.overrides);
    }
    let mut controllers = CONTROLLERS.lock();
    for place in places(madt, promised) {
        let range = Range::with_length(place.address, 0x20);
        let Ok(registers) = memory::map_device(range) else {
            log::warn!("the I/O APIC at {range} cannot be mapped");
            continue;
        };
        let mut controller = Controller { registers, first: place.first, inputs: 0 };
        let version = controller.read(VERSION);
        // Where nothing answers, all bits are set.
        if version == u32::MAX || version == 0 {
            continue;
        }
        controller.inputs = (version >> 16 & 0xff) + 1;
        (0..controller.inputs).for_each(|input| controller.set(input, MASKED, 0));
        controllers.push(controller);
    }
}

/// Let global interrupt `number` raise `line`, once for each rising edge; `false` when no controller has it.
pub(crate) fn route(number: u32, line: Line) -> bool {
    // One that is PCI's already stays that.
    if shared::has(number) {
        return false;
    }
    // Fixed delivery, physical destination, active high, edge.
    set(number, u32::from(line.vector()))
}

/// Whether a controller has the PCI interrupt line that firmware calls `number`, and nobody hears it.
pub(super) fn is_free(number: u8) -> bool {
    let (global, _) = of_line(number);
    let controllers = CONTROLLERS.lock();
    find_input(&controllers, global)
        .is_some_and(|(controller, input)| controller.read(REDIRECTION + 2 * input) & MASKED != 0)
}

/// Let the PCI interrupt line that firmware calls `number` raise `line`, for as long as it is up. It is active low, as PCI's
/// lines are, unless the machine says that there it is not.
pub(super) fn route_pci(number: u8, line: Line) {
    let (global, polarity) = of_line(number);
    set(global, u32::from(line.vector()) | LEVEL | polarity);
}

/// Do not hear that line any more.
pub(super) fn mask_pci(number: u8) {
    set(of_line(number).0, MASKED);
}

/// The global interrupt of a line, and how it is active.
pub(super) fn of_line(number: u8) -> (u32, u32) {
    let overrides = OVERRIDES.lock();
    match overrides.iter().find(|other| other.source == number) {
        Some(found) => (found.global, if found.is_high { 0 } else { LOW }),
        None => (number.into(), LOW),
    }
}

/// Set the entry of global interrupt `number`; `false` when no controller has it.
fn set(number: u32, entry: u32) -> bool {
    let Some(apic) = APIC.get() else { return false };
    let controllers = CONTROLLERS.lock();
    let Some((controller, input)) = find_input(&controllers, number) else { return false };
    controller.set(input, entry, apic.id() << 24);
    true
}

/// The controller that has global interrupt `number`, and as which of its inputs.
fn find_input(controllers: &[Controller], number: u32) -> Option<(&Controller, u32)> {
    controllers.iter().find_map(|controller| {
        let input = number.checked_sub(controller.first)?;
        (input < controller.inputs).then_some((controller, input))
    })
}

impl Controller {
    /// Choose a register; the lock of the list keeps the choice until it is accessed.
    fn data(&self, register: u32) -> *mut u32 {
        // SAFETY: the choosing register lies in the mapped page.
        unsafe { (self.registers as *mut u32).write_volatile(register) };
        (self.registers + 0x10) as *mut u32
    }

    fn read(&self, register: u32) -> u32 {
        let data = self.data(register);
        // SAFETY: the data register lies in the mapped page.
        unsafe { data.read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        let data = self.data(register);
        // SAFETY: as in `read`; what is written masks an input or names a vector that has a handler.
        unsafe { data.write_volatile(value) };
    }

    /// Set an input's entry; it is masked while it is half written.
    fn set(&self, input: u32, low: u32, high: u32) {
        let register = REDIRECTION + 2 * input;
        self.write(register, MASKED);
        self.write(register + 1, high);
        self.write(register, low);
    }
}
