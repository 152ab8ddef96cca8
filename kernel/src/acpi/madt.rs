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

/// What an interrupt of the old bus has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// Its number there.
    pub(crate) source: u8,
    /// Its global number.
    pub(crate) global: u32,
    /// Whether it is said to be active high.
    pub(crate) is_high: bool,
}

/// What the kernel needs of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Madt {
    /// Whether the machine has the parts of a PC of old: two 8259s, and with these the timer chip.
    pub(crate) is_pc: bool,
    /// All I/O APICs.
    pub(crate) io_apics: Vec<IoApic>,
    /// Interrupts of the old bus that are not what they were.
    pub(crate) overrides: Vec<Override>,
}

const PC_COMPATIBLE: u64 = 1;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
/// In an override's flags: how it is active, and that it is so high.
const POLARITY: u64 = 3;
const HIGH: u64 = 1;
/// More of either than any machine has.
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
            if kind == OVERRIDE
                && let (Some(source), Some(global)) = (number::<1>(entry, 3), number::<4>(entry, 4))
                && let Some(flags) = number::<2>(entry, 8)
                && madt.overrides.len() < MOST
            {
                let is_high = flags & POLARITY == HIGH;
                madt.overrides.push(Override { source: source as u8, global: global as u32, is_high });
            }
            rest = &rest[entry.len()..];
        }
        madt
    }

    /// The global number of a PC's interrupt.
    pub(crate) fn global(&self, interrupt: u16) -> u32 {
        let found = self.overrides.iter().find(|other| u16::from(other.source) == interrupt);
        found.map_or(u32::from(interrupt), |other| other.global)
    }
}
