//! The fixed ACPI description table (ACPI 6.5, section 5.2.9).

use super::table::Table;

/// Which space a register lies in. Others exist; no hypervisor puts a power register there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Port,
}

/// Where a register is (the "generic address structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    /// The space.
    pub(crate) space: Space,
    /// The address in it.
    pub(crate) address: u64,
}

impl Register {
    const fn port(number: u64) -> Option<Self> {
        if number == 0 || number > 0xffff { None } else { Some(Self { space: Space::Port, address: number }) }
    }

    pub(super) fn generic(table: &Table, offset: usize) -> Option<Self> {
        let address = table.number::<8>(offset + 4)?;
        match table.number::<1>(offset)? {
            0 if address != 0 => Some(Self { space: Space::Memory, address }),
            1 => Self::port(address),
            _ => None,
        }
    }
}

/// What the kernel needs of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fadt {
    /// The definition block; zero when there is none.
    pub(crate) dsdt: u64,
    /// The power management timer, and how many bits it counts with.
    pub(crate) timer: Option<(Register, u32)>,
    /// The two control registers that sleep types are written to; the second is rare.
    pub(crate) control: (Option<Register>, Option<Register>),
    /// Port and value that switch ACPI mode on.
    pub(crate) enable: Option<(u16, u8)>,
    /// Where a machine with reduced hardware takes sleep types.
    pub(crate) sleep: Option<Register>,
    /// Where what is written to reset the machine.
    pub(crate) reset: Option<(Register, u8)>,
    /// The hardware is reduced to what its tables describe: none of the fixed kind, and no PC's chips.
    pub(crate) is_reduced: bool,
    /// There is a keyboard controller.
    pub(crate) keyboard: bool,
    /// There is a PC's clock with a battery; the number of its register of the century, or zero.
    pub(crate) battery_clock: Option<u8>,
    /// The power button of the fixed kind.
    pub(crate) button: Option<Button>,
}

/// A power button of the fixed kind (section 4.8.3.2.1): a bit of the PM1 event registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Button {
    /// The two blocks of event registers, each of a status register and the enable register behind it, as ports; the second
    /// is rare.
    pub(crate) blocks: (Option<Register>, Option<Register>),
    /// Bytes of a status register.
    pub(crate) width: u16,
    /// The interrupt that the button raises, as a PC's number.
    pub(crate) interrupt: u16,
}

/// Of the PC's architecture flags (section 5.2.9.3), the others of the feature flags.
const KEYBOARD: u64 = 1 << 1;
const NO_BATTERY_CLOCK: u64 = 1 << 5;
const NO_FIXED_BUTTON: u64 = 1 << 4;
const TIMER_IS_32_BITS: u64 = 1 << 8;
const RESET_SUPPORTED: u64 = 1 << 10;
const HARDWARE_REDUCED: u64 = 1 << 20;

impl Fadt {
    /// Read the fields; `None` for a table too short to be one.
    pub(super) fn parse(table: &Table) -> Option<Self> {
        let flags = table.number::<4>(112)?;
        let reduced = flags & HARDWARE_REDUCED != 0;
        // The wide fields came later and win where they are filled in.
        let either = |wide, narrow| {
            let fixed = || Register::port(table.number::<4>(narrow)?);
            Register::generic(table, wide).or_else(fixed).filter(|_| !reduced)
        };
        let dsdt =
            table.number::<8>(140).filter(|&address| address != 0).or_else(|| table.number::<4>(40))?;
        let bits = if flags & TIMER_IS_32_BITS != 0 { 32 } else { 24 };
        let enable = match (table.number::<4>(48)?, table.number::<1>(52)?) {
            (port @ 1..=0xffff, value) if value != 0 => Some((port as u16, value as u8)),
            _ => None,
        };
        let blocks = (either(148, 56), either(160, 60));
        let button = (flags & NO_FIXED_BUTTON == 0 && blocks.0.is_some()).then_some(Button {
            blocks,
            // A status and an enable register of two bytes are the least; some leave the length out.
            width: (table.number::<1>(88)? as u16 / 2).clamp(2, 16),
            interrupt: table.number::<2>(46)? as u16,
        });
        let reset = Register::generic(table, 116).filter(|_| flags & RESET_SUPPORTED != 0);
        Some(Self {
            dsdt,
            timer: either(208, 76).map(|register| (register, bits)),
            control: (either(172, 64), either(184, 68)),
            enable: enable.filter(|_| !reduced),
            sleep: Register::generic(table, 244).filter(|_| reduced),
            reset: reset.zip(table.number::<1>(128).map(|value| value as u8)),
            is_reduced: reduced,
            keyboard: table.number::<2>(109)? & KEYBOARD != 0,
            battery_clock: (!reduced && table.number::<2>(109)? & NO_BATTERY_CLOCK == 0)
                .then_some(table.number::<1>(108)? as u8),
            button,
        })
    }
}
