//! The multiple APIC description table (ACPI 6.5, section 5.2.12).

use super::table::{Table, number};
use alloc::vec::Vec;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoApic {
    /// Physical address of its registers.
    pub(crate) address: u64,
    /// The global number of its first input.
    pub(crate) first: u32,
}

/// What the kernel needs of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Madt {
    /// Whether the machine has the parts of a PC of old: two 8259s, and with these the timer chip.
    pub(crate) is_pc: bool,
    /// All I/O APICs.
    pub(crate) io_apics: Vec<IoApic>,
    /// Interrupts of a PC that arrive under another global number: the PC's, and that.
    pub(crate) overrides: Vec<(u8, u32)>,
}

const PC_COMPATIBLE: u64 = 1;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
/// More than any machine has.
const MOST: usize = 16;

impl Madt {
    /// Read the entries as far as they make sense.
    pub(super) fn parse(table: &Table) -> Self {
        let is_pc = table.number::<4>(40).is_some_and(|flags| flags & PC_COMPATIBLE != 0);
        let mut madt = Self { is_pc, io_apics: Vec::new(), overrides: Vec::new() };
        let mut rest = table.bytes.get(44..).unwrap_or_default();
        while let [kind, length, ..] = *rest {
            let Some(entry) = rest.get(..usize::from(length)).filter(|entry| entry.len() >= 2) else { break };
            if kind == IO_APIC
                && let (Some(address), Some(first)) = (number::<4>(entry, 4), number::<4>(entry, 8))
                && madt.io_apics.len() < MOST
            {
                madt.io_apics.push(IoApic { address, first: first as u32 });
            }
            if let (OVERRIDE, Some(global)) = (kind, number::<4>(entry, 4))
                && madt.overrides.len() < MOST
            {
                madt.overrides.push((entry[3], global as u32));
            }
            rest = &rest[entry.len()..];
        }
        madt
    }

    /// The global number of a PC's interrupt.
    pub(crate) fn global(&self, interrupt: u16) -> u32 {
        let mut overrides = self.overrides.iter();
        overrides
            .find(|(from, _)| u16::from(*from) == interrupt)
            .map_or(u32::from(interrupt), |(_, global)| *global)
    }
}
