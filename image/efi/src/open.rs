//! The way through the door, on one page.

use crate::firmware::{Firmware, Kind};
use crate::handover::{self, Handover};
use crate::image::Image;
use core::fmt;
use image_channels::Fault;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Handle, Status};

/// Why the image cannot be started.
pub(crate) enum Refusal {
    /// The file holds no image: what `image/pack` lays into it is not there, or not whole.
    NoImage,
    /// Firmware says no to something that it has to do.
    Firmware(&'static str, Status),
    /// Memory that the image needs is in use, and will be when boot services have ended.
    Occupied(u64, u64),
    /// The configuration is longer than may be.
    TooLong,
    /// A volume labelled `cidata` cannot be understood.
    Volume(Fault),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoImage => f.write_str("there is no image in this file"),
            Self::Firmware(what, status) => write!(f, "{what}: the firmware says {:#x}", status.0),
            Self::Occupied(start, end) => {
                write!(f, "the firmware keeps memory that the image needs, {start:#x} to {end:#x}")
            }
            Self::TooLong => f.write_str("corbel.cfg is longer than 64 KiB"),
            Self::Volume(fault) => write!(f, "cidata: {fault}"),
        }
    }
}

/// What firmware calls.
#[unsafe(export_name = "efi_main")]
extern "efiapi" fn main(handle: Handle, table: *mut SystemTable) -> Status {
    // SAFETY: firmware calls this once, with its own table and our handle, before boot services have ended.
    let firmware = unsafe { Firmware::new(handle, table) };
    match open(&firmware) {
        Ok(never) => match never {},
        Err(refusal) => {
            firmware.say(format_args!("corbel: {refusal}"));
            Status::LOAD_ERROR
        }
    }
}

/// From the firmware to the image.
fn open(firmware: &Firmware) -> Result<core::convert::Infallible, Refusal> {
    let image = Image::find()?;
    // Where the image goes the firmware itself may lie, or this file: so all that is needed on the way is put beside it,
    // and the image gets there at the very last.
    let place = image.place();
    let staged = firmware.find_room(image.bytes(), Kind::Data, place)?;
    let document = firmware.document(place)?;
    let page = firmware.find_room(handover::SIZE, Kind::Code, place)?;
    let mut handover = Handover::new(page, image.entry());
    handover.add_module(handover::DOCUMENT, document);
    // To look at all disks firmware has to have come to all of them first, those behind USB too.
    if !image_channels::has_item(document, image_channels::NO_VOLUMES) {
        firmware.volumes(place, |document| handover.add_module(handover::CIDATA, document))?;
    }
    handover.add_module(handover::SMBIOS, firmware.smbios(place)?);
    image.stage(staged, |from, to, length| handover.push(from, to, length));
    handover.set_root_pointer(firmware.root_pointer());
    let map = firmware.leave(place)?;
    handover.set_memory(map);
    handover.go()
}
