//! The disk: one image for machines whose firmware starts from a disk.
//!
//! ```text
//!   sector 0      protective MBR, and in it the first instructions of the BIOS door
//!   1 .. 33       GPT
//!   2048          partition 1, BIOS boot: the rest of that door, and the packed image
//!   10240         partition 2, ESP: EFI/BOOT/BOOTX64.EFI, the UEFI door with the image in it; corbel.cfg
//!   the last 33   GPT again
//! ```

use crate::elf;
use crate::fat::{self, Content, Entry, Layout, SECTOR};
use crate::gpt::{self, Partition};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// The partitions, by their first sectors and how many they have, and the disk's sectors.
const BIOS: (u32, u32) = (2048, 8192);
const ESP: (u32, u32) = (10240, 65536);
const SECTORS: u32 = 77824;

/// Where the BIOS door wants to be told what: in its first sector how many sectors the rest has, and the first of them; in
/// the rest, a row of four bytes each.
const REST_SECTORS: usize = 426;
const REST: usize = 432;
const OPERANDS: usize = 516;

/// The BIOS door, and the image as it puts it into memory.
pub(crate) struct Bios {
    door: Vec<u8>,
    image: Vec<u8>,
}

impl Bios {
    /// `door`, all of it as it lies in memory, for `image`, an ELF.
    ///
    /// # Errors
    /// A sentence, when one of them is not what it should be.
    pub(crate) fn new(door: &[u8], image: &[u8]) -> Result<Self, String> {
        let mut door = door.to_vec();
        let segments = elf::segments(image)?;
        let loaded = || segments.iter().filter(|segment| segment.kind == elf::LOAD);
        let with_bytes: Vec<_> = loaded().filter(|segment| !segment.bytes.is_empty()).collect();
        let [only] = with_bytes.as_slice() else {
            return Err("the image is not in one piece".into());
        };
        let start = loaded().map(|segment| segment.address).min().unwrap_or(0);
        let end = loaded().map(|segment| segment.address + segment.memory).max().unwrap_or(0);
        let sectors = |bytes: usize| bytes.div_ceil(SECTOR);
        let rest = sectors(door.len()).saturating_sub(1);
        let first = BIOS.0 as usize + rest;
        // All sectors are read whole, and nothing is to be written that is not the image's.
        let last = only.address + sectors(only.bytes.len()) * SECTOR;
        if rest == 0 || rest + sectors(only.bytes.len()) > BIOS.1 as usize || last > end {
            return Err("the door or the image has another size than there is room for".into());
        }
        let table = Layout::new(ESP.1 as usize).table;
        let operands = [
            first,
            sectors(only.bytes.len()),
            only.address,
            elf::entry(image)?,
            start,
            end,
            ESP.0 as usize,
            table,
        ];
        let places = (0..).map(|index| OPERANDS + index * 4);
        for (at, value) in places.zip(operands).chain([(REST_SECTORS, rest), (REST, BIOS.0 as usize)]) {
            let value = u32::try_from(value).map_err(|_| "the image lies beyond 4 GiB")?;
            // How many sectors the rest has is two bytes; the two behind them are where it goes.
            let width = if at == REST_SECTORS { 2 } else { 4 };
            let bytes = door.get_mut(at..at + width).ok_or("it is too short")?;
            bytes.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        Ok(Self { door, image: only.bytes.to_vec() })
    }
}

/// What is on a disk: everything else is zero.
pub(crate) struct Disk(Vec<(u32, Vec<u8>)>);

/// A disk with both doors, `efi` and `bios`, and `document` as its `corbel.cfg`.
///
/// # Errors
/// A sentence, when something does not fit.
pub(crate) fn disk(efi: &[u8], bios: Bios, document: &[u8]) -> Result<Disk, String> {
    let partitions = [
        Partition { kind: gpt::BIOS_BOOT, first: BIOS.0, sectors: BIOS.1, name: "corbel-bios" },
        Partition { kind: gpt::ESP, first: ESP.0, sectors: ESP.1, name: "corbel-esp" },
    ];
    let (begin, end) = gpt::table(SECTORS, &partitions, &bios.door[..gpt::PROGRAM])?;
    let mut behind = bios.door[SECTOR..].to_vec();
    behind.resize(behind.len().next_multiple_of(SECTOR), 0);
    behind.extend(bios.image);
    let boot = [Entry { name: b"BOOTX64 EFI", content: Content::File(efi) }];
    let folder = [Entry { name: b"BOOT       ", content: Content::Folder(&boot) }];
    let root = [
        Entry { name: b"CORBEL  CFG", content: Content::File(document) },
        Entry { name: b"EFI        ", content: Content::Folder(&folder) },
    ];
    let esp = fat::volume(ESP.1 as usize, ESP.0, b"CORBEL     ", &root)?;
    let last = SECTORS - (end.len() / SECTOR) as u32;
    Ok(Disk(vec![(0, begin), (BIOS.0, behind), (ESP.0, esp), (last, end)]))
}

impl Disk {
    /// Write it. What is zero takes no room where the file system knows holes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        for (sector, bytes) in &self.0 {
            file.seek(SeekFrom::Start(u64::from(*sector) * SECTOR as u64))?;
            file.write_all(bytes)?;
        }
        file.set_len(u64::from(SECTORS) * SECTOR as u64)
    }
}
