//! What is handed to the image, and the step to it: `hvm_start_info` of version 1 in memory below 4 GiB, and the way from
//! the firmware's long mode to 32-bit protected mode without paging, as PVH has it (Xen, `public/arch-x86/hvm/start_info.h`
//! and `docs/misc/pvh.pandoc`).

use crate::channels;
use crate::firmware::Map;
use crate::image;
use core::convert::Infallible;
use uefi_raw::table::boot::{MemoryDescriptor, MemoryType};

const MAGIC: u32 = 0x336e_c578;
const PAGE: u64 = 4096;
/// Ranges of memory that the image takes. What is beyond them is left out: that is memory it does not know of.
const MOST: usize = 128;
/// What the image is told that a module is: its command line.
type Name = [u8; 11];
/// The configuration on the disk that this file was loaded from, that of a volume labelled `cidata`, and the SMBIOS table.
pub(crate) const DOCUMENT: &Name = b"corbel.cfg\0";
pub(crate) const CIDATA: &Name = b"cidata\0\0\0\0\0";
pub(crate) const SMBIOS: &Name = b"smbios\0\0\0\0\0";
/// Modules at most.
const MODULES: usize = 2 + channels::MOST_VOLUMES;

/// Kinds of memory in the image's map: those of E820.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;
const ACPI_STORAGE: u32 = 4;
const UNUSABLE: u32 = 5;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    root_pointer: u64,
    memory: u64,
    ranges: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Module {
    start: u64,
    length: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    length: u64,
    kind: u32,
    reserved: u32,
}

/// A piece of the image: where it is, where it belongs, and how long it is. One of no length ends a list of them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Move {
    from: u32,
    to: u32,
    length: u32,
}

/// All of it, as it lies in memory; the code of the step behind it.
#[repr(C)]
struct Page {
    info: StartInfo,
    modules: [Module; MODULES],
    names: [Name; MODULES],
    memory: [Range; MOST],
    moves: [Move; image::MOST + 1],
}

/// Bytes of the code of the step: `leave.s` sees to it.
const CODE: usize = 256;

/// Bytes of memory that are needed for it.
pub(crate) const SIZE: usize = size_of::<Page>() + CODE;

core::arch::global_asm!(include_str!("leave.s"), options(att_syntax));

unsafe extern "C" {
    static leave: u8;
}

/// What is handed over.
pub(crate) struct Handover {
    /// All of the memory, and what lies at its start.
    place: *mut u8,
    page: &'static mut Page,
    entry: u64,
    moves: usize,
}

impl Handover {
    /// In `place`, memory below 4 GiB of [`SIZE`] bytes that is ours, for an image that is entered at `entry`.
    pub(crate) fn new(place: *mut u8, entry: u64) -> Self {
        // SAFETY: the memory is ours and long enough.
        unsafe { place.write_bytes(0, SIZE) };
        // SAFETY: it begins with a page, is zeroed, which is valid for all that is in it, and is nobody else's.
        let page = unsafe { &mut *place.cast::<Page>() };
        page.info.magic = MAGIC;
        page.info.version = 1;
        Self { place, page, entry, moves: 0 }
    }

    /// A piece of the image that is to be put where it belongs when nothing else is needed any more. All of it lies below
    /// 4 GiB, and there are as many as an image has segments.
    pub(crate) fn push(&mut self, from: u64, to: u64, length: usize) {
        if length == 0 {
            return;
        }
        self.page.moves[self.moves] = Move { from: from as u32, to: to as u32, length: length as u32 };
        self.moves += 1;
    }

    /// Where the tables of ACPI begin.
    pub(crate) fn set_root_pointer(&mut self, address: u64) {
        self.page.info.root_pointer = address;
    }

    /// A file for the image, unless it is empty; there are [`MODULES`] at most.
    pub(crate) fn add_module(&mut self, name: &Name, contents: &'static [u8]) {
        let index = self.page.info.modules as usize;
        let (Some(module), Some(line)) = (self.page.modules.get_mut(index), self.page.names.get_mut(index))
        else {
            return;
        };
        if contents.is_empty() {
            return;
        }
        *line = *name;
        module.start = contents.as_ptr() as u64;
        module.length = contents.len() as u64;
        module.command_line = (&raw const *line) as u64;
        self.page.info.modules += 1;
        self.page.info.module_list = (&raw const self.page.modules) as u64;
    }

    /// The memory: what lies side by side and is of one kind is one range.
    pub(crate) fn set_memory(&mut self, map: Map) {
        let mut count: usize = 0;
        for descriptor in map.iter() {
            let range = translate(&descriptor);
            let before = count.checked_sub(1).and_then(|last| self.page.memory.get_mut(last));
            match before {
                // Of what reaches to the end of all addresses the sum may not be one.
                Some(last)
                    if last.kind == range.kind
                        && last.start.checked_add(last.length) == Some(range.start) =>
                {
                    last.length = last.length.saturating_add(range.length);
                }
                _ => {
                    if let Some(slot) = self.page.memory.get_mut(count) {
                        *slot = range;
                        count += 1;
                    }
                }
            }
        }
        self.page.info.memory = (&raw const self.page.memory) as u64;
        self.page.info.ranges = count as u32;
    }

    /// Go. There is no way back.
    pub(crate) fn go(self) -> ! {
        let moves = (&raw const self.page.moves) as u64;
        let code = self.place.wrapping_add(size_of::<Page>());
        // SAFETY: behind the page there is room for so many bytes, and so many are at the symbol. They run wherever they
        // are put.
        unsafe { code.copy_from_nonoverlapping(&raw const leave, CODE) };
        // SAFETY: the code was just put there, into memory that may be executed; it takes these three.
        let step: extern "sysv64" fn(u64, u64, u64) -> Infallible = unsafe { core::mem::transmute(code) };
        match step(self.place as u64, self.entry, moves) {}
    }
}

/// What the image may think of a range.
fn translate(descriptor: &MemoryDescriptor) -> Range {
    let kind = match descriptor.ty {
        MemoryType::CONVENTIONAL
        | MemoryType::LOADER_CODE
        | MemoryType::LOADER_DATA
        | MemoryType::BOOT_SERVICES_CODE
        | MemoryType::BOOT_SERVICES_DATA => RAM,
        MemoryType::ACPI_RECLAIM => ACPI,
        MemoryType::ACPI_NON_VOLATILE => ACPI_STORAGE,
        MemoryType::UNUSABLE => UNUSABLE,
        _ => RESERVED,
    };
    let length = descriptor.page_count.saturating_mul(PAGE);
    Range { start: descriptor.phys_start, length, kind, reserved: 0 }
}
