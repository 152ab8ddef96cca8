//! The I/O APIC: interrupts of devices that have a wire and send no messages (virtio-mmio).

use super::{APIC, Line};
use crate::acpi::{IoApic, Madt};
use crate::memory::{self, ranges::Range};
use alloc::vec::Vec;
use spin::Mutex;

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;

/// Where they are on a machine that does not say: the first at the place it has had since 1997, and the second of
/// QEMU's microvm.
const CUSTOMARY: [IoApic; 2] =
    [IoApic { address: 0xfec0_0000, first: 0 }, IoApic { address: 0xfec1_0000, first: 24 }];

struct Controller {
    registers: u64,
    first: u32,
    inputs: u32,
}

static CONTROLLERS: Mutex<Vec<Controller>> = Mutex::new(Vec::new());

/// Find the controllers and mask all that they have.
pub(crate) fn find(madt: Option<&Madt>) {
    let described = madt.map_or(&CUSTOMARY[..], |madt| &madt.io_apics);
    let mut controllers = CONTROLLERS.lock();
    for place in described {
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
    let Some(apic) = APIC.get() else { return false };
    let controllers = CONTROLLERS.lock();
    let Some((controller, input)) = controllers.iter().find_map(|controller| {
        let input = number.checked_sub(controller.first)?;
        (input < controller.inputs).then_some((controller, input))
    }) else {
        return false;
    };
    // Fixed delivery, physical destination, active high, edge.
    controller.set(input, u32::from(line.vector()), apic.id() << 24);
    true
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
