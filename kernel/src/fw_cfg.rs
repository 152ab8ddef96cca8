//! QEMU's firmware configuration device: named files that the one who starts the machine gives it.

use crate::cpu::port;
use crate::promised::Promised;
use alloc::vec;
use alloc::vec::Vec;

/// Its ports, first and last; the later ones are its DMA interface.
pub(crate) const PORTS: (u16, u16) = (0x510, 0x51b);
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const SIGNATURE: u16 = 0;
const DIRECTORY: u16 = 0x19;
/// The longest file that is read.
pub const LONGEST: usize = 64 * 1024;
/// More files than QEMU can have.
const MOST_FILES: u32 = 4096;

/// Why a file cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is longer than [`LONGEST`].
    TooLong,
    /// The directory makes no sense.
    BadDirectory,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the file is longer than 64 KiB",
            Self::BadDirectory => "the directory of fw_cfg makes no sense",
        })
    }
}

impl core::error::Error for Error {}

/// The device: select an item, then read its bytes.
trait Device {
    fn select(&mut self, item: u16);
    fn read(&mut self, bytes: &mut [u8]);
}

/// Behind its I/O ports.
struct Ports;

impl Device for Ports {
    fn select(&mut self, item: u16) {
        // SAFETY: the device's port, on a machine that says that it has it, or is QEMU's or KVM's: there nothing else is there.
        unsafe { port::write16(SELECTOR, item) };
    }

    fn read(&mut self, bytes: &mut [u8]) {
        // SAFETY: as above; reading goes on to the item's next byte.
        unsafe { port::read_string(DATA, bytes) };
    }
}

/// The file called `name`, such as `opt/corbel/config`; `None` without the device or the file.
///
/// # Errors
/// See [`Error`].
pub fn read(name: &str) -> Result<Option<Vec<u8>>, Error> {
    read_if(Promised::machine(), name)
}

/// The same on a machine that promises this.
pub(crate) fn read_if(promised: Promised, name: &str) -> Result<Option<Vec<u8>>, Error> {
    if promised.fw_cfg { find(&mut Ports, name) } else { Ok(None) }
}

fn find(device: &mut impl Device, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut signature = [0; 4];
    device.select(SIGNATURE);
    device.read(&mut signature);
    if signature != *b"QEMU" {
        return Ok(None);
    }
    let mut count = [0; 4];
    device.select(DIRECTORY);
    device.read(&mut count);
    let count = u32::from_be_bytes(count);
    if count > MOST_FILES {
        return Err(Error::BadDirectory);
    }
    for _ in 0..count {
        let mut entry = [0; 64];
        device.read(&mut entry);
        let [a, b, c, d, high, low, ..] = entry;
        let called = entry[8..].split(|byte| *byte == 0).next().unwrap_or_default();
        if called != name.as_bytes() {
            continue;
        }
        let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Error::TooLong)?;
        if size > LONGEST {
            return Err(Error::TooLong);
        }
        let mut contents = vec![0; size];
        device.select(u16::from_be_bytes([high, low]));
        device.read(&mut contents);
        return Ok(Some(contents));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with the items given.
    struct Items(Vec<(u16, Vec<u8>)>, Vec<u8>);

    impl Device for Items {
        fn select(&mut self, item: u16) {
            let found = self.0.iter().find(|(number, _)| *number == item);
            self.1 = found.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        }

        fn read(&mut self, bytes: &mut [u8]) {
            // Beyond an item's end the device reads as zero, as QEMU's does.
            for byte in bytes {
                *byte = if self.1.is_empty() { 0 } else { self.1.remove(0) };
            }
        }
    }

    fn device(files: &[(&str, u32, &[u8])]) -> Items {
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        let mut items = vec![(SIGNATURE, b"QEMU".to_vec())];
        for (index, (name, size, contents)) in files.iter().enumerate() {
            let item = 0x20 + index as u16;
            directory.extend(size.to_be_bytes());
            directory.extend(item.to_be_bytes());
            directory.extend([0; 2]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(56, 0);
            directory.extend(padded);
            items.push((item, contents.to_vec()));
        }
        items.push((DIRECTORY, directory));
        Items(items, Vec::new())
    }

    #[test]
    fn a_file_is_found_by_its_whole_name() {
        let files: &[(&str, u32, &[u8])] =
            &[("opt/corbel/config.old", 3, b"old"), ("opt/corbel/config", 5, b"a=b\n\n")];
        assert_eq!(find(&mut device(files), "opt/corbel/config"), Ok(Some(b"a=b\n\n".to_vec())));
        assert_eq!(find(&mut device(files), "opt/corbel"), Ok(None));
    }

    #[test]
    fn without_the_device_there_are_no_files() {
        assert_eq!(find(&mut Items(Vec::new(), Vec::new()), "opt/corbel/config"), Ok(None));
        let ones = Items(vec![(SIGNATURE, vec![0xff; 4])], Vec::new());
        assert_eq!(find(&mut { ones }, "opt/corbel/config"), Ok(None));
    }

    #[test]
    fn a_file_that_is_too_long_or_a_wild_directory_is_an_error() {
        let long: &[(&str, u32, &[u8])] = &[("a", LONGEST as u32 + 1, b"")];
        assert_eq!(find(&mut device(long), "a"), Err(Error::TooLong));
        let mut wild = device(&[]);
        wild.0[1].1 = vec![0xff; 4];
        assert_eq!(find(&mut wild, "a"), Err(Error::BadDirectory));
    }
}
