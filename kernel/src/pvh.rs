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
/// The longest command line, also of a module, its final NUL not counted.
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

/// A file that the loader has put into memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Where it lies.
    pub(crate) contents: Range,
    /// Where its own command line lies, without its NUL; empty when there is none.
    pub(crate) command_line: Range,
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
    modules: [Module; MOST_MODULES as usize],
    module_count: usize,
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
            modules: [Module { contents: Range::EMPTY, command_line: Range::EMPTY }; MOST_MODULES as usize],
            module_count: 0,
        };
        info.reserved.push(Range::with_length(address, 56));
        info.read_modules(memory, double(16)?, word(12)?)?;
        info.command_line = info.read_command_line(memory, double(24)?)?;
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
            let word = |offset| memory.u64(entry.saturating_add(offset));
            let (Some(start), Some(length), Some(line)) = (word(0), word(8), word(16)) else {
                return Err("the loader's list of modules cannot be read");
            };
            let contents = Range::with_length(start, length);
            self.reserved.push(contents);
            let command_line = self.read_command_line(memory, line)?;
            if let Some(slot) = self.modules.get_mut(self.module_count) {
                *slot = Module { contents, command_line };
                self.module_count += 1;
            }
        }
        Ok(())
    }

    /// The loader's files, in its order.
    pub(crate) fn modules(&self) -> &[Module] {
        &self.modules[..self.module_count]
    }

    fn read_command_line(&mut self, memory: &impl Physical, start: u64) -> Result<Range, &'static str> {
        if start == 0 {
            return Ok(Range::EMPTY);
        }
        let mut length = 0;
        let mut byte = [0];
        loop {
            if !memory.read(start.saturating_add(length), &mut byte) {
                return Err("a command line lies where it cannot be read");
            }
            if byte[0] == 0 {
                break;
            }
            length += 1;
            if length > LONGEST_COMMAND_LINE {
                return Err("a command line is longer than 64 KiB");
            }
        }
        let line = Range::with_length(start, length);
        self.reserved.push(line);
        Ok(line)
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
            let list = if kind == TYPE_RAM { &mut self.ram } else { &mut self.reserved };
            list.push(range);
        }
        if self.ram.overflowed() || self.reserved.overflowed() {
            return Err("the loader's memory map has too many entries");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory with these bytes at these addresses, and nothing elsewhere.
    struct Pieces(Vec<(u64, Vec<u8>)>);

    impl Physical for Pieces {
        fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
            let piece = self.0.iter().find_map(|(start, piece)| {
                let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
                piece.get(offset..offset.checked_add(bytes.len())?)
            });
            piece.map(|piece| bytes.copy_from_slice(piece)).is_some()
        }
    }

    const INFO: u64 = 0x6000;
    const MAP: u64 = 0x7000;
    const LINE: u64 = 0x2_0000;
    const MODULES: u64 = 0x9000;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A machine of 64 MiB as firmware describes it, with a command line and a module.
    fn machine() -> Pieces {
        let info = words(&[u64::from(MAGIC) | 1 << 32, 1 << 32, MODULES, LINE, 0xf_5000, MAP, 3]);
        let map = words(&[0, 0x9_fc00, 1, 0xf_0000, 0x1_0000, 2, 0x10_0000, 0x3f0_0000, 1]);
        let modules = words(&[0x300_0000, 0x1234, LINE + 4, 0]);
        Pieces(vec![(INFO, info), (MAP, map), (LINE, b"a=b c=d\0".to_vec()), (MODULES, modules)])
    }

    fn read(change: impl FnOnce(&mut Pieces)) -> Result<StartInfo, &'static str> {
        let mut machine = machine();
        change(&mut machine);
        StartInfo::read(&machine, INFO)
    }

    fn set(pieces: &mut Pieces, piece: usize, offset: usize, bytes: &[u8]) {
        pieces.0[piece].1[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn everything_the_loader_left_is_found_and_kept_safe() {
        let info = read(|_| {}).unwrap();
        assert_eq!(info.rsdp, 0xf_5000);
        assert_eq!(info.command_line, Range::with_length(LINE, 7));
        let [module] = info.modules() else { panic!("{:?}", info.modules()) };
        assert_eq!(module.contents, Range::with_length(0x300_0000, 0x1234));
        assert_eq!(module.command_line, Range::with_length(LINE + 4, 3));
        let usable = Ranges::usable(&info.ram, &info.reserved);
        let keeps = |address| usable.iter().any(|range| (range.start..range.end).contains(&address));
        for taken in [INFO, MAP, LINE, MODULES, 0x300_0000, 0x300_1233, 0xf_5000] {
            assert!(!keeps(taken), "{taken:#x}");
        }
        assert!(keeps(0x1000) && keeps(0x10_0000) && keeps(0x300_2000));
    }

    #[test]
    fn a_loader_that_does_not_speak_the_protocol_is_told_so() {
        assert!(read(|pieces| set(pieces, 0, 0, &[0])).unwrap_err().contains("magic"));
        assert!(read(|pieces| set(pieces, 0, 4, &[0])).unwrap_err().contains("version 0"));
        assert!(StartInfo::read(&machine(), 0x5000).is_err());
    }

    #[test]
    fn counts_and_lengths_are_bounded() {
        assert!(read(|pieces| set(pieces, 0, 12, &[17])).unwrap_err().contains("modules"));
        assert!(read(|pieces| set(pieces, 0, 48, &[0xff; 4])).unwrap_err().contains("128"));
        assert!(read(|pieces| set(pieces, 0, 40, &[0xff; 8])).unwrap_err().contains("cannot be read"));
        assert!(read(|pieces| set(pieces, 0, 16, &[0xff; 8])).unwrap_err().contains("cannot be read"));
        assert!(read(|pieces| pieces.0[2].1 = vec![b'x'; 70_000]).unwrap_err().contains("64 KiB"));
        assert!(read(|pieces| pieces.0[2].1 = vec![b'x'; 10]).unwrap_err().contains("cannot be read"));
        assert!(read(|pieces| set(pieces, 1, 8, &[0xff; 8])).is_ok());
    }

    #[test]
    fn every_cut_of_the_information_is_an_error() {
        for piece in [0, 1, 3] {
            let whole = machine().0[piece].1.len();
            let needed = if piece == 3 {
                24
            } else if piece == 0 {
                52
            } else {
                whole - 4
            };
            for length in 0..needed {
                assert!(read(|pieces| pieces.0[piece].1.truncate(length)).is_err(), "{piece} {length}");
            }
        }
    }
}
