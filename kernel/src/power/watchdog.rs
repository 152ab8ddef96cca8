//! The watchdog that ACPI describes (WDAT): Hyper-V's machines of the second generation have one, and boards with a TCO timer
//! whose firmware says so. A driver for it is none of any chip's: the table says what to write where.

use super::Place;
use crate::acpi::{Acpi, Entry, Wdat};
use crate::cpu::port;
use alloc::vec::Vec;
use spin::Once;

/// Actions.
const RESET: u8 = 0x01;
const SET_COUNTDOWN: u8 = 0x06;
const IS_RUNNING: u8 = 0x08;
const SET_RUNNING: u8 = 0x09;
const SET_REBOOT: u8 = 0x11;

static TABLE: Once<Wdat> = Once::new();

/// Note what the table says. Nothing is done before a program wants a watchdog.
pub(super) fn init(acpi: &Acpi) {
    if let Some(table) = &acpi.watchdog {
        TABLE.call_once(|| table.clone());
    }
}

/// A watchdog that is on.
#[derive(Debug)]
pub struct TableWatchdog(Vec<(Entry, Place)>);

impl TableWatchdog {
    /// Switch it on: from now on it wants to be fed every so many seconds, or as many as it can count. `None` where no table
    /// tells of one, or it does not go on.
    pub fn start(seconds: u16) -> Option<Self> {
        let table = TABLE.get()?;
        let places = table.entries.iter().map(|entry| Some((*entry, Place::of(entry.register)?)));
        let watchdog = Self(places.collect::<Option<_>>()?);
        watchdog.act(SET_REBOOT, 0);
        watchdog.act(SET_COUNTDOWN, count(table, seconds));
        watchdog.act(SET_RUNNING, 0);
        watchdog.feed();
        if watchdog.act(IS_RUNNING, 0) == Some(false) {
            log::warn!("the watchdog of the ACPI table is not on");
            return None;
        }
        log::info!("watchdog of the ACPI table, {seconds} s");
        Some(watchdog)
    }

    /// All is well: its time begins anew.
    pub fn feed(&self) {
        self.act(RESET, 0);
    }

    /// Do all that belongs to an action. Answers whether what was read is what is asked for, if anything was read.
    fn act(&self, action: u8, count: u32) -> Option<bool> {
        let mut answer = None;
        for (entry, place) in self.0.iter().filter(|(entry, _)| entry.action == action) {
            if entry.instruction & Entry::WRITES == 0 {
                answer = Some(entry.holds(place.read(entry.width)));
            } else {
                let before =
                    if entry.instruction & Entry::PRESERVES == 0 { 0 } else { place.read(entry.width) };
                place.write(entry.width, entry.written(before, count));
            }
        }
        answer
    }
}

/// What to count from for so many seconds.
fn count(table: &Wdat, seconds: u16) -> u32 {
    let (least, most) = table.counts;
    let wanted = u64::from(seconds) * 1000 / u64::from(table.period);
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(least, most)
}

impl Entry {
    fn holds(&self, read: u32) -> bool {
        read >> self.shift & self.mask == self.value
    }

    fn written(&self, before: u32, count: u32) -> u32 {
        let what = if self.instruction & Self::TAKES_COUNT == 0 { self.value } else { count };
        before & !(self.mask << self.shift) | (what & self.mask) << self.shift
    }
}

impl Place {
    fn read(self, width: u8) -> u32 {
        match (self, width) {
            // SAFETY: firmware names this register for its watchdog, with this width, and says to read it.
            (Self::Port(port), 1) => u32::from(unsafe { port::read8(port) }),
            // SAFETY: as above.
            (Self::Port(port), 2) => u32::from(unsafe { port::read16(port) }),
            // SAFETY: as above.
            (Self::Port(port), _) => unsafe { port::read32(port) },
            // SAFETY: as above; it is mapped, and aligned, which was checked when the table was read.
            (Self::Mapped(address), 1) => u32::from(unsafe { (address as *const u8).read_volatile() }),
            // SAFETY: as above.
            (Self::Mapped(address), 2) => u32::from(unsafe { (address as *const u16).read_volatile() }),
            // SAFETY: as above.
            (Self::Mapped(address), _) => unsafe { (address as *const u32).read_volatile() },
        }
    }

    fn write(self, width: u8, value: u32) {
        match (self, width) {
            // SAFETY: firmware names this register for its watchdog, with this width, and says to write this to it.
            (Self::Port(port), 1) => unsafe { port::write8(port, value as u8) },
            // SAFETY: as above.
            (Self::Port(port), 2) => unsafe { port::write16(port, value as u16) },
            // SAFETY: as above.
            (Self::Port(port), _) => unsafe { port::write32(port, value) },
            // SAFETY: as above; it is mapped, aligned and no RAM.
            (Self::Mapped(address), 1) => unsafe { (address as *mut u8).write_volatile(value as u8) },
            // SAFETY: as above.
            (Self::Mapped(address), 2) => unsafe { (address as *mut u16).write_volatile(value as u16) },
            // SAFETY: as above.
            (Self::Mapped(address), _) => unsafe { (address as *mut u32).write_volatile(value) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::{Register, Space};

    const ENTRY: Entry = Entry {
        action: RESET,
        instruction: Entry::WRITES,
        register: Register { space: Space::Port, address: 0x660 },
        width: 2,
        shift: 0,
        value: 1,
        mask: 0x3ff,
    };

    #[test]
    fn a_field_is_written_and_what_is_around_it_stays_where_that_is_asked_for() {
        assert_eq!(ENTRY.written(0, 7), 1);
        let count = Entry { instruction: Entry::WRITES | Entry::TAKES_COUNT, ..ENTRY };
        assert_eq!(count.written(0, 0x7ff), 0x3ff);
        let bit = Entry { shift: 11, mask: 1, value: 0, ..ENTRY };
        assert_eq!(bit.written(0xffff, 0), 0xf7ff);
        assert!(bit.holds(0xf7ff) && !bit.holds(0x0800));
    }

    #[test]
    fn it_counts_from_what_it_can() {
        let table = Wdat { period: 600, counts: (4, 1023), entries: Vec::new() };
        assert_eq!([0, 60, 2000].map(|seconds| count(&table, seconds)), [4, 100, 1023]);
    }
}
