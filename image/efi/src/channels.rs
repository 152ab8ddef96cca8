//! What the firmware can show of the configuration beside `corbel.cfg`: volumes labelled `cidata` on whichever disks and CDs
//! it has drivers for, and the SMBIOS table. Both go on as modules; what they mean is the image's business.

use crate::firmware::{Firmware, Kind, call};
use crate::open::Refusal;
use core::ffi::c_void;
use core::ptr;
use image_channels::smbios::{self, Table};
use image_channels::volume::{self, Found, Medium};
use uefi_raw::protocol::block::{BlockIoMedia, BlockIoProtocol};
use uefi_raw::{Guid, Handle, Status, guid};

/// Volumes of that label that are read.
pub(crate) const MOST_VOLUMES: usize = 4;
/// `ByProtocol` of `EFI_LOCATE_SEARCH_TYPE`.
const BY_PROTOCOL: i32 = 2;
/// What a PCI function is (PCI Code and ID Assignment, base classes): one that stores, or a bus such as USB behind which there
/// is one.
const STORAGE: u8 = 0x01;
const SERIAL_BUS: u8 = 0x0c;
/// Where that is said in its configuration space.
const CLASS: u32 = 0x0b;
/// The longest block of a disk.
const LONGEST_BLOCK: usize = 4096;
/// Where an entry point of SMBIOS is: of 64 bits, and of 32.
const SMBIOS: [Guid; 2] =
    [guid!("f2fd1544-9794-4a2c-992e-e5bbcf20e394"), guid!("eb9d2d31-2d88-11d3-9a16-0090273fc14d")];

/// The beginning of `EFI_PCI_IO_PROTOCOL` (UEFI 2.10, 14.4), up to what is called.
#[repr(C)]
struct PciIo {
    before: [*const c_void; 6],
    read: unsafe extern "efiapi" fn(
        this: *const Self,
        width: u32,
        offset: u32,
        count: usize,
        buffer: *mut c_void,
    ) -> Status,
}

impl PciIo {
    const GUID: Guid = guid!("4cf5b200-68b8-4ca5-9eec-b23e3f50029a");
}

/// A disk by the firmware's driver, which takes whole blocks and a buffer of its alignment.
struct Disk {
    protocol: *mut BlockIoProtocol,
    media: BlockIoMedia,
    /// Room for two blocks, or for what is read at once and what lies before and behind it in its blocks.
    bounce: *mut u8,
}

/// Bytes of that room.
const BOUNCE: usize = volume::WINDOW + 2 * LONGEST_BLOCK;

impl Medium for Disk {
    fn size(&self) -> u64 {
        self.media.last_block.saturating_add(1).saturating_mul(self.media.block_size.into())
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        let block = u64::from(self.media.block_size);
        let (first, inside) = (offset / block, (offset % block) as usize);
        let length = (inside + into.len()).next_multiple_of(block as usize);
        if length > BOUNCE {
            return false;
        }
        let (protocol, media) = (self.protocol, self.media.media_id);
        let status = call!(protocol, read_blocks, protocol, media, first, length, self.bounce.cast());
        if status != Status::SUCCESS {
            return false;
        }
        // SAFETY: the firmware has written so many bytes, of memory that is ours and has as many.
        let blocks = unsafe { core::slice::from_raw_parts(self.bounce, length) };
        into.copy_from_slice(&blocks[inside..inside + into.len()]);
        true
    }
}

impl Firmware {
    /// Show `take` the documents of volumes labelled `cidata`, put beside `place`.
    ///
    /// # Errors
    /// When one is there and cannot be read: then the appliance must not start as if it were not.
    pub(crate) fn volumes(
        &self,
        place: (u64, u64),
        mut take: impl FnMut(&'static [u8]),
    ) -> Result<(), Refusal> {
        self.connect(place)?;
        let mut bounce = None;
        let mut room: Option<*mut u8> = None;
        let mut left = MOST_VOLUMES;
        for handle in self.find(&BlockIoProtocol::GUID, place)? {
            let Some(protocol) = self.protocol::<BlockIoProtocol>(*handle, &BlockIoProtocol::GUID) else {
                continue;
            };
            // SAFETY: the protocol is the firmware's, and has this as long as boot services have not ended.
            let media = unsafe { (*protocol).media };
            if media.is_null() {
                continue;
            }
            // SAFETY: as above; the firmware changes it in its own calls only.
            let media = unsafe { media.read() };
            // Partitions are found on the disk that they are on.
            let is_disk = bool::from(media.media_present) && !bool::from(media.logical_partition);
            if !is_disk || !matches!(media.block_size, 512 | 1024 | 2048 | 4096) || left == 0 {
                continue;
            }
            let bounce = match bounce {
                Some(bounce) => bounce,
                None => *bounce.insert(self.find_room(BOUNCE, Kind::Data, place)?),
            };
            let into = match room {
                Some(room) => room,
                None => *room.insert(self.find_room(image_channels::LONGEST, Kind::Data, place)?),
            };
            // SAFETY: the memory is ours, has so many bytes, and nobody else is shown them before the document is in them.
            let into = unsafe { core::slice::from_raw_parts_mut(into, image_channels::LONGEST) };
            into.fill(0);
            match volume::read(&mut Disk { protocol, media, bounce }, into) {
                Ok(Found::Document(length)) => {
                    room = None;
                    left -= 1;
                    take(&into[..length]);
                }
                Ok(Found::Nothing | Found::ForOthers) => {}
                // It is somebody else's, as far as anybody can know; the image says the same of those that it has a driver for.
                Ok(Found::Unreadable) => self.say(format_args!(
                    "corbel: a disk of {} blocks cannot be read, and has not shown the label cidata",
                    media.last_block.saturating_add(1)
                )),
                Err(fault) => return Err(Refusal::Volume(fault)),
            }
        }
        Ok(())
    }

    /// Have drivers come to what may be a disk, or lead to one: firmware that knows what to start from need not have looked at
    /// anything else. Where it cannot, nothing comes of it.
    fn connect(&self, place: (u64, u64)) -> Result<(), Refusal> {
        for handle in self.find(&PciIo::GUID, place)? {
            let Some(function) = self.protocol::<PciIo>(*handle, &PciIo::GUID) else { continue };
            let mut class = 0_u8;
            let status = call!(function, read, function, 0, CLASS, 1, (&raw mut class).cast());
            if status == Status::SUCCESS && matches!(class, STORAGE | SERIAL_BUS) {
                let all = true.into();
                let _ = call!(self.services, connect_controller, *handle, ptr::null(), ptr::null(), all);
            }
        }
        Ok(())
    }

    /// All handles that have the protocol, put beside `place`.
    ///
    /// # Errors
    /// When memory is short, or the firmware has some and does not show them.
    fn find(&self, guid: &Guid, place: (u64, u64)) -> Result<&'static [Handle], Refusal> {
        let locate = |size: &mut usize, to: *mut Handle| {
            let key = ptr::null_mut();
            call!(self.services, locate_handle, BY_PROTOCOL, guid, key, ptr::from_mut(size), to)
        };
        let mut size = 0;
        // Firmware that cannot be asked for the protocol has nobody with it.
        if locate(&mut size, ptr::null_mut()) != Status::BUFFER_TOO_SMALL || size == 0 {
            return Ok(&[]);
        }
        let room = self.find_room(size, Kind::Data, place)?.cast::<Handle>();
        let mut filled = size;
        let status = locate(&mut filled, room);
        if status != Status::SUCCESS || filled > size {
            return Err(Refusal::Firmware("the disks", status));
        }
        // SAFETY: the firmware has written so many bytes of handles to memory that is ours, whole pages and never given back.
        Ok(unsafe { core::slice::from_raw_parts(room, filled / size_of::<Handle>()) })
    }

    /// A copy of the SMBIOS table, put beside `place`: the image's memory may be where the firmware has it. Empty when there
    /// is none.
    ///
    /// # Errors
    /// When memory is short.
    pub(crate) fn smbios(&self, place: (u64, u64)) -> Result<&'static [u8], Refusal> {
        let entry = SMBIOS.iter().find_map(|guid| self.table(guid));
        let Some(entry) = entry else { return Ok(&[]) };
        let mut bytes = [0; smbios::LONGEST_ENTRY];
        // SAFETY: the firmware says that an entry point is there; all memory of its is mapped, and the next bytes as well, for
        // it lies in a page at a multiple of sixteen.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(entry, smbios::LONGEST_ENTRY) };
        let Some(Table { address, length }) = Table::of(&bytes) else { return Ok(&[]) };
        let copy = self.find_room(length as usize, Kind::Data, place)?;
        // SAFETY: the firmware's own entry point, whose sums are right, says that its table is there; the copy has room for
        // as many bytes and is ours.
        unsafe { copy.copy_from_nonoverlapping(address as *const u8, length as usize) };
        // SAFETY: so many bytes were just written there, and the memory is never given back.
        Ok(unsafe { core::slice::from_raw_parts(copy, length as usize) })
    }
}
