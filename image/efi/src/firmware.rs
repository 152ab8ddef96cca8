//! What is asked of the firmware. Only what the least of them offer: no protocol is looked for but on handles that we were
//! given, a file is read in one piece of exactly its length, and page zero, which some hand out, is not taken.

use crate::open::Refusal;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::ptr;
use uefi_raw::protocol::file_system::{
    FileAttribute, FileInfo, FileMode, FileProtocolV1, SimpleFileSystemProtocol,
};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryDescriptor, MemoryType};
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};

/// The configuration's name on the disk that this file was loaded from.
const DOCUMENT: &[u8] = b"\\corbel.cfg";
/// The longest it may be; the appliance says the same (`image/appliance/src/config.rs`).
const LONGEST: usize = 64 * 1024;
/// Where tables of ACPI begin: of version 2 and above, and of version 1.
const ACPI: [Guid; 2] =
    [guid!("8868e871-e4f1-11d3-bc22-0080c73c8881"), guid!("eb9d2d30-2d88-11d3-9a16-0090273fc14d")];
const PAGE: u64 = 4096;
/// More descriptors than there were, for what the taking of a buffer for them adds.
const SPARE: usize = 16;

/// What memory is for: firmware may deny writing the one and executing the other.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Code,
    Data,
}

impl Kind {
    fn firmware(self) -> MemoryType {
        match self {
            Self::Code => MemoryType::LOADER_CODE,
            Self::Data => MemoryType::LOADER_DATA,
        }
    }
}

/// The firmware's memory map, after which there are no boot services.
pub(crate) struct Map {
    start: *const u8,
    length: usize,
    step: usize,
}

impl Map {
    /// Its descriptors.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MemoryDescriptor> + '_ {
        let count = self.length.checked_div(self.step).unwrap_or(0);
        (0..count).map(|index| {
            let place = self.start.wrapping_add(index * self.step).cast::<MemoryDescriptor>();
            // SAFETY: the firmware has written `length` bytes of descriptors there, each `step` bytes long, which are at
            // least those of the structure.
            unsafe { place.read_unaligned() }
        })
    }

    /// Whether nobody needs any of it once boot services have ended. Runtime services are never called, so what they have
    /// is not needed either.
    fn is_free(&self, (start, end): (u64, u64)) -> bool {
        let part = |range: MemoryDescriptor| {
            let last = range.phys_start.saturating_add(range.page_count.saturating_mul(PAGE));
            match range.ty {
                MemoryType::CONVENTIONAL
                | MemoryType::LOADER_CODE
                | MemoryType::LOADER_DATA
                | MemoryType::BOOT_SERVICES_CODE
                | MemoryType::BOOT_SERVICES_DATA
                | MemoryType::RUNTIME_SERVICES_CODE
                | MemoryType::RUNTIME_SERVICES_DATA => {
                    last.min(end).saturating_sub(range.phys_start.max(start))
                }
                _ => 0,
            }
        };
        self.iter().map(part).fold(0, u64::saturating_add) == end - start
    }
}

/// The firmware, as long as there are boot services.
pub(crate) struct Firmware {
    handle: Handle,
    table: *mut SystemTable,
    pub(crate) services: *mut BootServices,
}

/// Calls a service by its name: every function pointer that the least of firmware must have is there.
macro_rules! call {
    ($table:expr, $service:ident, $($argument:expr),*) => {{
        // SAFETY: the table is the firmware's, and has this service as long as boot services have not ended.
        let service = unsafe { (*$table).$service };
        // SAFETY: the arguments are as the UEFI specification has them; buffers live until the call is over.
        unsafe { service($($argument),*) }
    }};
}
pub(crate) use call;

impl Firmware {
    /// # Safety
    /// Handle and table must be those that the firmware has called this program with, and boot services must not have ended.
    pub(crate) unsafe fn new(handle: Handle, table: *mut SystemTable) -> Self {
        // SAFETY: the table is the firmware's own.
        let services = unsafe { (*table).boot_services };
        Self { handle, table, services }
    }

    /// Print a line.
    pub(crate) fn say(&self, line: fmt::Arguments<'_>) {
        // SAFETY: the table is the firmware's own.
        let console = unsafe { (*self.table).stdout };
        if console.is_null() {
            return;
        }
        let mut text = Text { units: [0; 160], length: 0 };
        let _ = text.write_fmt(line);
        let _ = text.write_str("\r\n");
        let _ = call!(console, output_string, console, text.units.as_ptr());
    }

    /// Take memory anywhere below 4 GiB, where a CPU without paging can reach it, but not in `place`, from a start to an end:
    /// what goes there is put over all that is there.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn find_room(&self, length: usize, kind: Kind, place: (u64, u64)) -> Result<*mut u8, Refusal> {
        let pages = length.div_ceil(PAGE as usize);
        let (start, end) = place;
        // Some firmware answers with the lowest that is free. What is not wanted stays taken, so that the next answer is
        // another: a page of the place at least, or page zero, a valid answer of some and a null pointer to Rust.
        for _ in 0..(end - start) / PAGE + 2 {
            let mut address = u64::from(u32::MAX);
            let (how, what) = (AllocateType::MAX_ADDRESS, kind.firmware());
            let status = call!(self.services, allocate_pages, how, what, pages, &raw mut address);
            if status != Status::SUCCESS {
                return Err(Refusal::Firmware("memory", status));
            }
            let last = address.saturating_add((pages as u64).saturating_mul(PAGE));
            if address != 0 && (last <= start || address >= end) {
                return Ok(address as *mut u8);
            }
        }
        Err(Refusal::Firmware("memory", Status::OUT_OF_RESOURCES))
    }

    /// Where the tables of ACPI begin; zero when the firmware does not say.
    pub(crate) fn root_pointer(&self) -> u64 {
        ACPI.iter().find_map(|guid| self.table(guid)).map_or(0, |table| table as u64)
    }

    /// The table of that name among those that the firmware has for us.
    pub(crate) fn table(&self, guid: &Guid) -> Option<*const u8> {
        // SAFETY: the table is the firmware's own, and changes in the firmware's calls only.
        let table = unsafe { &*self.table };
        let (count, entries) = (table.number_of_configuration_table_entries, table.configuration_table);
        if entries.is_null() {
            return None;
        }
        // SAFETY: the firmware has so many entries there, and changes them in its own calls only.
        let entries = unsafe { core::slice::from_raw_parts(entries, count) };
        let entry = entries.iter().find(|entry| entry.vendor_guid == *guid)?;
        (!entry.vendor_table.is_null()).then_some(entry.vendor_table.cast_const().cast())
    }

    /// The configuration on the disk that this file was loaded from, put beside `place`; nothing when there is none, or no
    /// file system.
    ///
    /// # Errors
    /// When it is there and cannot be read: then the appliance must not start as if it were not.
    pub(crate) fn document(&self, place: (u64, u64)) -> Result<&'static [u8], Refusal> {
        let Some(loaded) = self.protocol::<LoadedImageProtocol>(self.handle, &LoadedImageProtocol::GUID)
        else {
            return Ok(&[]);
        };
        // SAFETY: the firmware keeps it as long as this program runs.
        let device = unsafe { (*loaded).device_handle };
        let Some(system) = self.protocol::<SimpleFileSystemProtocol>(device, &SimpleFileSystemProtocol::GUID)
        else {
            return Ok(&[]);
        };
        let mut root: *mut FileProtocolV1 = ptr::null_mut();
        let status = call!(system, open_volume, system, &raw mut root);
        if status != Status::SUCCESS {
            return Err(Refusal::Firmware("the file system", status));
        }
        let mut name = [0; DOCUMENT.len() + 1];
        name.iter_mut().zip(DOCUMENT).for_each(|(unit, byte)| *unit = u16::from(*byte));
        let mut file: *mut FileProtocolV1 = ptr::null_mut();
        let (mode, attributes) = (FileMode::READ, FileAttribute::empty());
        match call!(root, open, root, &raw mut file, name.as_ptr(), mode, attributes) {
            Status::SUCCESS => self.read(file, place),
            Status::NOT_FOUND => Ok(&[]),
            status => Err(Refusal::Firmware("corbel.cfg", status)),
        }
    }

    /// All of a file, in one piece: some firmware takes no buffer that is longer than the file, and none takes one that is
    /// shorter to be the whole.
    fn read(&self, file: *mut FileProtocolV1, place: (u64, u64)) -> Result<&'static [u8], Refusal> {
        let refused = |status| Refusal::Firmware("corbel.cfg", status);
        // The structure, and behind it the name, for which some firmware wants room for 256 characters whatever it is.
        let mut info = MaybeUninit::<(FileInfo, [u16; 256])>::uninit();
        let mut size = size_of_val(&info);
        let status = call!(file, get_info, file, &FileInfo::ID, &raw mut size, info.as_mut_ptr().cast());
        if status != Status::SUCCESS {
            return Err(refused(status));
        }
        // SAFETY: the firmware has filled in the structure, which begins the buffer.
        let length = unsafe { (*info.as_ptr().cast::<FileInfo>()).file_size };
        let length =
            usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or(Refusal::TooLong)?;
        if length == 0 {
            return Ok(&[]);
        }
        let buffer = self.find_room(length, Kind::Data, place)?;
        let mut read = length;
        let status = call!(file, read, file, &raw mut read, buffer.cast());
        if status != Status::SUCCESS || read != length {
            return Err(refused(status));
        }
        // SAFETY: the firmware has written so many bytes of memory that is ours and never given back.
        Ok(unsafe { core::slice::from_raw_parts(buffer, length) })
    }

    pub(crate) fn protocol<P>(&self, handle: Handle, guid: &Guid) -> Option<*mut P> {
        let mut found = ptr::null_mut();
        let status = call!(self.services, handle_protocol, handle, guid, &raw mut found);
        (status == Status::SUCCESS && !found.is_null()).then_some(found.cast())
    }

    /// End boot services. Nothing may be asked of the firmware afterwards, and nothing is said by it.
    ///
    /// # Errors
    /// When somebody needs memory of `place` beyond that, or the firmware has no memory map.
    pub(crate) fn leave(&self, place: (u64, u64)) -> Result<Map, Refusal> {
        let (mut length, mut key, mut step, mut version) = (0, 0, 0, 0);
        let (to, of_key, of_step) = (&raw mut length, &raw mut key, &raw mut step);
        let _ = call!(self.services, get_memory_map, to, ptr::null_mut(), of_key, of_step, &raw mut version);
        let room = length + SPARE * step.max(size_of::<MemoryDescriptor>());
        let buffer = self.find_room(room, Kind::Data, place)?;
        let (map, key) = self.map(buffer, room, place)?;
        if self.exit(key) {
            return Ok(map);
        }
        // The first attempt may itself change the map; then a second one must do. Between them and behind them only memory
        // may be asked for (UEFI 2.10, 7.4.6): there is nobody left to say more to.
        if let Ok((map, key)) = self.map(buffer, room, place)
            && self.exit(key)
        {
            return Ok(map);
        }
        loop {
            // SAFETY: waiting for an interrupt touches nothing.
            unsafe { core::arch::asm!("hlt", options(nomem, nostack, preserves_flags)) };
        }
    }

    /// The memory map as it is, written to the `room` bytes at `buffer`, and its key.
    fn map(&self, buffer: *mut u8, room: usize, place: (u64, u64)) -> Result<(Map, usize), Refusal> {
        let (mut length, mut key, mut step, mut version) = (room, 0, 0, 0);
        let (to, of_key, of_step) = (&raw mut length, &raw mut key, &raw mut step);
        let status =
            call!(self.services, get_memory_map, to, buffer.cast(), of_key, of_step, &raw mut version);
        if status != Status::SUCCESS || step < size_of::<MemoryDescriptor>() {
            return Err(Refusal::Firmware("the memory map", status));
        }
        let map = Map { start: buffer, length, step };
        if !map.is_free(place) {
            return Err(Refusal::Occupied(place.0, place.1));
        }
        Ok((map, key))
    }

    /// Whether the firmware ends boot services.
    fn exit(&self, key: usize) -> bool {
        call!(self.services, exit_boot_services, self.handle, key) == Status::SUCCESS
    }
}

/// A line as the firmware's console takes it: UCS-2, ended by a zero. What does not fit is cut.
struct Text {
    units: [u16; 160],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length + 1 < self.units.len() {
                self.units[self.length] = u16::from(byte);
                self.length += 1;
            }
        }
        Ok(())
    }
}
