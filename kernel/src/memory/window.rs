//! The window: where registers of devices, and tables that firmware left, become visible, wherever they lie physically.
//!
//! Devices lie anywhere in 52 bits of physical address (64-bit BARs do), so they get addresses of the kernel's choice.
//! A mapping stays for ever; who asks for the same again gets the same.

use super::paging::{self, Access, Tables};
use super::ranges::{PAGE, Range};
use super::{HeapFrames, is_ram, touches_ram};
use crate::cpu;
use alloc::vec::Vec;
use spin::Mutex;

/// Where it begins.
const START: u64 = 0xffff_c000_0000_0000;
/// The most that is mapped at once: no device we know needs more, and a wrong BAR must not eat the heap.
const LONGEST: u64 = 256 << 20;
/// What a large page covers.
const LARGE: u64 = 2 << 20;
/// Mappings in all.
const MOST: usize = 1024;

/// Why something cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// It is empty, too long, or beyond what the CPU can address.
    BadRange,
    /// It is RAM of ours; a device's registers are never there.
    IsRam,
    /// Memory for page tables is short.
    OutOfMemory,
}

struct Mapping {
    physical: Range,
    address: u64,
    access: Access,
}

struct Window {
    next: u64,
    mappings: Vec<Mapping>,
}

static WINDOW: Mutex<Window> = Mutex::new(Window { next: START, mappings: Vec::new() });

/// Map the registers at `range`; answers where they can be accessed.
///
/// # Errors
/// See [`Error`].
pub(crate) fn map_device(range: Range) -> Result<u64, Error> {
    if touches_ram(range) {
        return Err(Error::IsRam);
    }
    map(range, Access::Device)
}

/// Map memory at `range` that is none of ours but somebody else has as well, a hypervisor for example: cached, as he has it. Answers where.
///
/// # Errors
/// See [`Error`].
pub(crate) fn map_memory(range: Range) -> Result<u64, Error> {
    if touches_ram(range) {
        return Err(Error::IsRam);
    }
    map(range, Access::ReadWrite)
}

/// Map what firmware left at `range` for reading; answers where. In RAM of ours it is where it is.
///
/// # Errors
/// See [`Error`].
pub(crate) fn map_tables(range: Range) -> Result<u64, Error> {
    if is_ram(range) { Ok(range.start) } else { map(range, Access::ReadOnly) }
}

/// One past the last physical address that the CPU has.
fn physical_end() -> u64 {
    match cpu::cpuid(0x8000_0008).eax & 0xff {
        bits @ 32..=52 => 1 << bits,
        _ => 1 << 36,
    }
}

fn map(range: Range, access: Access) -> Result<u64, Error> {
    if range.is_empty() || range.length() > LONGEST || range.end > physical_end() {
        return Err(Error::BadRange);
    }
    let pages = range.grown_to_pages();
    let offset = range.start - pages.start;
    let mut window = WINDOW.lock();
    let known =
        window.mappings.iter().find(|mapping| mapping.access == access && mapping.physical.contains(pages));
    if let Some(known) = known {
        return Ok(known.address + (pages.start - known.physical.start) + offset);
    }
    if window.mappings.len() >= MOST {
        return Err(Error::OutOfMemory);
    }
    // A page stays free between two mappings. Long ones keep their offset inside 2 MiB, so that they take large pages.
    let free = window.next + PAGE;
    let address =
        if pages.length() < LARGE { free } else { free.next_multiple_of(LARGE) + pages.start % LARGE };
    window.next = address + pages.length();
    // SAFETY: CR3 points to the tables made at boot, whose frames are RAM mapped at their physical addresses; the
    // window's lock makes this the only change to them.
    let mut tables = unsafe { Tables::at(cpu::cr3(), HeapFrames) };
    tables.map(address, pages, access).map_err(|error| match error {
        paging::Error::OutOfMemory => Error::OutOfMemory,
        paging::Error::Occupied => unreachable!("the window gives out each address once"),
    })?;
    window.mappings.push(Mapping { physical: pages, address, access });
    Ok(address + offset)
}
