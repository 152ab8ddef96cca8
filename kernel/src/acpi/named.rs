//! Devices that byte code names, found by their identifiers: by these a machine says that it has them.
//!
//! An identifier stands there as text, or as the integer that EISA makes of it (ACPI 6.5, section 19.3.4). What a device uses
//! stands behind it, as descriptors of constants (section 6.4.3).

use super::table::number;
use alloc::vec::Vec;
use kernel_io::MmioSlot;

/// Which of a few kinds of devices there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// A keyboard controller (PNP0303).
    pub(crate) keyboard: bool,
    /// A bridge from the CPU to PCI or PCI Express (PNP0A03, PNP0A08).
    pub(crate) host_bridge: bool,
    /// QEMU's firmware configuration (QEMU0002).
    pub(crate) fw_cfg: bool,
    /// virtio's devices with registers in memory (LNRO0005).
    pub(crate) slots: Vec<MmioSlot>,
}

/// What an integer constant of four bytes begins with, and those of the identifiers.
const INTEGER: u8 = 0x0c;
const KEYBOARD: [u8; 4] = [0x41, 0xd0, 0x03, 0x03];
const PCI: [u8; 4] = [0x41, 0xd0, 0x0a, 0x03];
const PCI_EXPRESS: [u8; 4] = [0x41, 0xd0, 0x0a, 0x08];
/// How far behind its identifier a device's descriptors are looked for.
const NEAR: usize = 128;
/// Descriptors: tag and length of a place in memory by 32 bits, and of an interrupt.
const MEMORY: [u8; 3] = [0x86, 9, 0];
const INTERRUPT: [u8; 3] = [0x89, 6, 0];
/// Registers of a virtio device before its configuration.
const LEAST: u64 = 0x100;
/// More than a machine has.
const MOST: usize = 64;

impl Named {
    /// What a definition block's byte code names as well.
    pub(super) fn add(&mut self, code: &[u8]) {
        // Each byte is looked at once: a block has some ten thousand.
        for (at, first) in code.iter().enumerate() {
            match first {
                b'P' | b'Q' | b'L' => self.add_text(&code[at..]),
                &INTEGER => match code.get(at + 1..at + 5) {
                    Some(integer) if integer == PCI || integer == PCI_EXPRESS => self.host_bridge = true,
                    Some(integer) if integer == KEYBOARD => self.keyboard = true,
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn add_text(&mut self, code: &[u8]) {
        let Some((name, rest)) = code.split_first_chunk::<9>() else { return };
        match name {
            b"QEMU0002\0" => self.fw_cfg = true,
            b"LNRO0005\0" if self.slots.len() < MOST => self.slots.extend(slot(rest)),
            _ if name.starts_with(b"PNP0A03\0") || name.starts_with(b"PNP0A08\0") => self.host_bridge = true,
            _ if name.starts_with(b"PNP0303\0") => self.keyboard = true,
            _ => {}
        }
    }
}

/// What the device uses that `code` stands behind the identifier of; `None` where that makes no sense.
fn slot(code: &[u8]) -> Option<MmioSlot> {
    let code = &code[..code.len().min(NEAR)];
    let memory = behind(code, MEMORY)?;
    // Behind a byte that says whether it can be written.
    let (address, length) = (number::<4>(memory, 1)?, number::<4>(memory, 5)?);
    let interrupt = behind(memory, INTERRUPT)?;
    // Behind flags, and how many there are.
    let gsi = number::<4>(interrupt, 2).filter(|_| interrupt.get(1) == Some(&1))? as u32;
    let makes_sense = address != 0 && address.is_multiple_of(4) && length >= LEAST;
    makes_sense.then_some(MmioSlot { address, length, gsi })
}

/// What stands behind the first descriptor that begins so.
fn behind(code: &[u8], descriptor: [u8; 3]) -> Option<&[u8]> {
    let at = code.windows(3).position(|bytes| bytes == descriptor)?;
    code.get(at + 3..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(code: &[u8]) -> Named {
        let mut named = Named::default();
        named.add(code);
        named
    }

    /// A device as QEMU's microvm and Firecracker name it.
    fn device(address: u32, length: u32, gsi: u32) -> Vec<u8> {
        let mut code =
            b"\x08_HID\x0dLNRO0005\0\x08_UID\x0a\x17\x08_CRS\x11\x1a\x0a\x17\x86\x09\0\x01".to_vec();
        code.extend(address.to_le_bytes());
        code.extend(length.to_le_bytes());
        code.extend(b"\x89\x06\0\x03\x01");
        code.extend(gsi.to_le_bytes());
        code.extend(b"\x79\0");
        code
    }

    #[test]
    fn devices_are_found_by_their_identifiers_however_those_are_written() {
        let bridge = Named { host_bridge: true, ..Named::default() };
        for code in [
            &b"_HID\x0c\x41\xd0\x0a\x03"[..],
            b"_HID\x0c\x41\xd0\x0a\x08",
            b"\x0dPNP0A03\0 ",
            b"\x0dPNP0A08\0 ",
        ] {
            assert_eq!(named(code), bridge, "{code:x?}");
        }
        assert_eq!(named(b"_HID\x0c\x41\xd0\x03\x03"), Named { keyboard: true, ..Named::default() });
        assert_eq!(named(b"_HID\x0dQEMU0002\0"), Named { fw_cfg: true, ..Named::default() });
        for code in
            [&b""[..], b"\x0c\x41\xd0\x05\x01", b"\x0c\x41\xd0", b"PNP0A05\0 ", b"QEMU0001\0", b"LNRO0005"]
        {
            assert_eq!(named(code), Named::default(), "{code:x?}");
        }
    }

    #[test]
    fn devices_in_memory_are_found_with_where_they_are() {
        let code = [device(0xfeb0_2e00, 512, 47), device(0xc000_1000, 4096, 5)].concat();
        let slot = |address, length, gsi| MmioSlot { address, length, gsi };
        assert_eq!(named(&code).slots, [slot(0xfeb0_2e00, 512, 47), slot(0xc000_1000, 4096, 5)]);
        // What cannot be is left out, and every place to be cut off at.
        for wrong in [device(0, 512, 5), device(0x1002, 512, 5), device(0x1000, 64, 5)] {
            assert_eq!(named(&wrong).slots, []);
        }
        let whole = device(0x1000, 512, 5);
        let needed = whole.len() - 2;
        assert!((0..needed).all(|length| named(&whole[..length]).slots.is_empty()));
        assert_eq!(named(&whole.repeat(1000)).slots.len(), MOST);
    }
}
