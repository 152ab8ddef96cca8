//! ACPI: the few tables that say how this machine is put together and how it is ended.
//!
//! Firmware wrote them, so every offset is checked before it is used, sums are checked, and what does not hold is as if
//! it were not there. There is no interpreter: of the byte code only the object `_S5_` and the device for events of two
//! monitors are read, and which devices there are of a few kinds, by looking for them.

mod event;
mod fadt;
mod madt;
mod named;
mod sleep;
mod table;
mod wdat;

use crate::memory::{self, ranges::Range};
use alloc::vec::Vec;
use table::Table;

pub(crate) use event::Event;
pub(crate) use fadt::{Fadt, Register, Space};
pub(crate) use madt::{IoApic, Madt, Override};
pub(crate) use named::Named;
pub(crate) use wdat::{Entry, Wdat};

/// Tables that are looked at.
const MOST: usize = 64;

/// One window of PCI Express configuration space (MCFG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ecam {
    /// Physical address of bus zero's registers.
    pub(crate) base: u64,
    /// The first and the last bus that it covers.
    pub(crate) buses: (u8, u8),
}

/// What the tables say. Empty on a machine without them.
#[derive(Debug, Default)]
pub(crate) struct Acpi {
    /// There are any tables at all.
    pub(crate) is_there: bool,
    /// Fixed hardware: timer, power, reset.
    pub(crate) fadt: Option<Fadt>,
    /// Interrupt controllers.
    pub(crate) madt: Option<Madt>,
    /// Configuration space of PCI segment 0.
    pub(crate) ecam: Option<Ecam>,
    /// Physical address of the high precision event timers' registers.
    pub(crate) event_timer: Option<u64>,
    /// A watchdog.
    pub(crate) watchdog: Option<Wdat>,
    /// What to write for soft off, for the first and the second control register.
    pub(crate) soft_off: Option<(u8, u8)>,
    /// Where a machine with reduced hardware says that its power button was pressed.
    pub(crate) event: Option<Event>,
    /// Devices that the byte code names.
    pub(crate) named: Named,
    /// Some of the byte code could not be read: what it names is not known.
    pub(crate) is_unread: bool,
}

impl Acpi {
    /// Read the tables that `rsdp` leads to or, when it is zero, that a search finds.
    pub(crate) fn read(rsdp: u64) -> Self {
        let mut acpi = Self::default();
        let root = if rsdp == 0 { search() } else { Root::read(rsdp) };
        let Some(root) = root else { return acpi };
        acpi.is_there = true;
        let mut definitions = Vec::new();
        for address in root.tables().into_iter().take(MOST) {
            let Some(signature) = table::signature(address) else { continue };
            match &signature {
                b"FACP" => acpi.fadt = Table::read(address).and_then(|table| Fadt::parse(&table)),
                b"APIC" => acpi.madt = Table::read(address).map(|table| Madt::parse(&table)),
                b"MCFG" => acpi.ecam = Table::read(address).and_then(|table| ecam(&table)),
                b"HPET" => acpi.event_timer = Table::read(address).and_then(|table| event_timer(&table)),
                b"WDAT" => acpi.watchdog = Table::read(address).and_then(|table| Wdat::parse(&table)),
                b"SSDT" => definitions.push(address),
                _ => {}
            }
        }
        let dsdt = acpi.fadt.as_ref().map(|fadt| fadt.dsdt).filter(|&address| address != 0);
        acpi.is_unread = dsdt.is_none();
        definitions.extend(dsdt);
        // The DSDT came last and is the likeliest.
        for address in definitions.into_iter().rev() {
            let Some(table) = Table::read(address) else {
                acpi.is_unread = true;
                continue;
            };
            acpi.soft_off = acpi.soft_off.or_else(|| sleep::soft_off(table.body()));
            acpi.event = acpi.event.or_else(|| Event::find(table.body()));
            acpi.named.add(table.body());
        }
        acpi
    }
}

/// The root: where the list of tables is, and how wide its entries are.
struct Root {
    list: u64,
    wide: bool,
}

impl Root {
    fn read(address: u64) -> Option<Self> {
        let old = memory::copy_physical(Range::with_length(address, 20))?;
        let new = || memory::copy_physical(Range::with_length(address, 36)).unwrap_or_default();
        Self::parse(&old, new)
    }

    /// From the first 20 bytes and, when these say that there are more, 36.
    fn parse(old: &[u8], new: impl FnOnce() -> Vec<u8>) -> Option<Self> {
        if !old.starts_with(b"RSD PTR ") || table::sum(old) != 0 {
            return None;
        }
        if old[15] >= 2 {
            let new = new();
            if new.len() == 36 && table::sum(&new) == 0 {
                let list = table::number::<8>(&new, 24)?;
                if list != 0 {
                    return Some(Self { list, wide: true });
                }
            }
        }
        Some(Self { list: table::number::<4>(old, 16)?, wide: false })
    }

    fn tables(&self) -> Vec<u64> {
        let Some(list) = Table::read(self.list) else { return Vec::new() };
        let body = list.body();
        match (self.wide, list.is(b"XSDT"), list.is(b"RSDT")) {
            (true, true, _) => {
                body.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect()
            }
            (false, _, true) => {
                body.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry).into()).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Look where a PC's firmware puts the root: the first KiB of the extended BIOS data, and 0xe0000 to 0xfffff.
fn search() -> Option<Root> {
    let segment = memory::copy_physical(Range::with_length(0x40e, 2))?;
    let data = table::number::<2>(&segment, 0)? << 4;
    let places = [Range::with_length(data, 1024), Range { start: 0xe_0000, end: 0x10_0000 }];
    places.into_iter().filter(|place| place.start >= 0x400).find_map(search_in)
}

fn search_in(place: Range) -> Option<Root> {
    let start = memory::map_tables(place).ok()?;
    (0..place.length()).step_by(16).find_map(|offset| {
        // SAFETY: `map_tables` maps the whole place for reading; places and steps are multiples of eight.
        let word = unsafe { ((start + offset) as *const u64).read_volatile() };
        if word.to_le_bytes() == *b"RSD PTR " { Root::read(place.start + offset) } else { None }
    })
}

/// The entry of segment 0 that begins at bus 0.
fn ecam(table: &Table) -> Option<Ecam> {
    let (entries, _) = table.bytes.get(44..)?.as_chunks::<16>();
    entries.iter().find_map(|entry| {
        let base = table::number::<8>(entry, 0)?;
        let (segment, first, last) = (table::number::<2>(entry, 8)?, entry[10], entry[11]);
        // Where a bus takes a MiB, the last of 256 must still be an address.
        let possible = base != 0 && base.is_multiple_of(1 << 20) && base.checked_add(1 << 28).is_some();
        (segment == 0 && first <= last && possible).then_some(Ecam { base, buses: (first, last) })
    })
}

/// Where the HPET table says that the registers are (IA-PC HPET specification, section 3.2.4): in memory, always.
fn event_timer(table: &Table) -> Option<u64> {
    let address = table.number::<8>(44)?;
    (table.number::<1>(40)? == 0 && address != 0 && address.is_multiple_of(8)).then_some(address)
}

#[cfg(test)]
mod tests;
