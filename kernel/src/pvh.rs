//! What a PVH loader leaves for us: `hvm_start_info` and what it points to.
//!
//! The loader may have put these anywhere in memory that its own map calls free, so they are copied before any memory
//! is given away. Layouts: Xen, `public/arch-x86/hvm/start_info.h`.

use crate::memory::ranges::{Range, Ranges};

const MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`; every other type is someone else's.
const TYPE_RAM: u32 = 1;
/// More entries than any firmware is known to give.
const MOST_ENTRIES: u32 = 128;
const MOST_MODULES: u32 = 16;
/// The longest command line, its final NUL not counted.
const LONGEST_COMMAND_LINE: u64 = 64 * 1024;

/// Reads physical memory while the boot tables map it.
pub(crate) trait Physical {
    /// Fill `bytes` from physical `address`; `false` when that cannot be read.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// A little-endian word; `None` when it cannot be read.
    fn u32(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes).then(|| u32::from_le_bytes(bytes))
    }

    /// A little-endian double word; `None` when it cannot be read.
    fn u64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

/// A copy of what the loader said.
#[derive(Debug)]
pub(crate) struct StartInfo {
    /// RAM as the memory map has it, neither sorted nor checked for overlaps.
    pub(crate) ram: Ranges,
    /// Everything that must not be given away: what the map calls something else than RAM, the loader's own data,
    /// modules.
    pub(crate) reserved: Ranges,
    /// Where the command line lies, without its NUL; empty when there is none.
    pub(crate) command_line: Range,
    /// The ACPI root pointer; zero when the loader does not say.
    pub(crate) rsdp: u64,
}

impl StartInfo {
    /// Read what `address` points to.
    ///
    /// # Errors
    /// A sentence for the panic message: without a memory map there is nothing to boot on.
    pub(crate) fn read(memory: &impl Physical, address: u64) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "the loader's start_info lies where it cannot be read";
        let word = |offset| memory.u32(address + offset).ok_or(UNREADABLE);
        let double = |offset| memory.u64(address + offset).ok_or(UNREADABLE);
        if word(0)? != MAGIC {
            return Err("the loader's start_info has no magic: this image boots by PVH only");
        }
        if word(4)? < 1 {
            return Err("the loader's start_info is of version 0, without a memory map");
        }
        let mut info = Self {
            ram: Ranges::new(),
            reserved: Ranges::new(),
            command_line: Range::EMPTY,
            rsdp: double(32)?,
        };
        info.reserved.push(Range::with_length(address, 56));
        info.read_modules(memory, double(16)?, word(12)?)?;
        info.read_command_line(memory, double(24)?)?;
        info.read_memory_map(memory, double(40)?, word(48)?)?;
        Ok(info)
    }

    fn read_modules(&mut self, memory: &impl Physical, list: u64, count: u32) -> Result<(), &'static str> {
        if count > MOST_MODULES {
            return Err("the loader passes more modules than can be kept safe");
        }
        self.reserved.push(Range::with_length(list, u64::from(count) * 32));
        for index in 0..u64::from(count) {
            let entry = list.saturating_add(index * 32);
            let (Some(start), Some(length)) = (memory.u64(entry), memory.u64(entry.saturating_add(8))) else {
                return Err("the loader's list of modules cannot be read");
            };
            self.reserved.push(Range::with_length(start, length));
        }
        Ok(())
    }

    fn read_command_line(&mut self, memory: &impl Physical, start: u64) -> Result<(), &'static str> {
        if start == 0 {
            return Ok(());
        }
        let mut length = 0;
        let mut byte = [0];
        loop {
            if !memory.read(start.saturating_add(length), &mut byte) {
                return Err("the command line lies where it cannot be read");
            }
            if byte[0] == 0 {
                break;
            }
            length += 1;
            if length > LONGEST_COMMAND_LINE {
                return Err("the command line is longer than 64 KiB");
            }
        }
        self.command_line = Range::with_length(start, length);
        self.reserved.push(self.command_line);
        Ok(())
    }

    fn read_memory_map(&mut self, memory: &impl Physical, map: u64, count: u32) -> Result<(), &'static str> {
        if count > MOST_ENTRIES {
            return Err("the loader's memory map has more than 128 entries");
        }
        self.reserved.push(Range::with_length(map, u64::from(count) * 24));
        for index in 0..u64::from(count) {
            let entry = map.saturating_add(index * 24);
            let start = memory.u64(entry);
            let length = memory.u64(entry.saturating_add(8));
            let kind = memory.u32(entry.saturating_add(16));
            let (Some(start), Some(length), Some(kind)) = (start, length, kind) else {
                return Err("the loader's memory map cannot be read");
            };
            let range = Range::with_length(start, length);
            if kind == TYPE_RAM { self.ram.push(range) } else { self.reserved.push(range) };
        }
        if self.ram.overflowed() || self.reserved.overflowed() {
            return Err("the loader's memory map has too many entries");
        }
        Ok(())
    }
}
