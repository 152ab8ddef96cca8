//! The power button of machines with reduced hardware: a bit of a register that a Generic Event Device reads.
//!
//! Such a device is described by byte code: an interrupt, and a method that reads a register and says what has happened
//! (ACPI 6.5, section 5.6.9). Without an interpreter it is known of those monitors only whose code is known: by the name of
//! the region that the register lies in, which stands there in the same form always (section 20.2.5.2):
//! `ExtOpPrefix OpRegionOp NameSeg SystemMemory address length`.

/// A register that tells of events; reading it takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its physical address.
    pub(crate) address: u64,
    /// Its width in bytes: one or four.
    pub(crate) width: u8,
    /// The bit of the power button.
    pub(crate) button: u32,
    /// The global number of the interrupt that tells of an event, at a rising edge.
    pub(crate) interrupt: Option<u32>,
}

/// What the region begins with, the width of the register, the bit: of QEMU's microvm and of Cloud Hypervisor.
const KNOWN: [(&[u8; 7], u8, u32); 2] = [(b"\x5b\x80EREG\0", 4, 1 << 1), (b"\x5b\x80GDST\0", 1, 1 << 3)];
/// What a Generic Event Device is called.
const HARDWARE_ID: &[u8] = b"ACPI0013\0";
/// An extended interrupt descriptor of one interrupt: tag, length, flags, count (section 6.4.3.6).
const DESCRIPTOR: [u8; 3] = [0x89, 6, 0];
/// How far behind the name of the device its interrupt is looked for.
const NEAR: usize = 64;

impl Event {
    /// The device in a definition block's byte code.
    pub(super) fn find(code: &[u8]) -> Option<Self> {
        let device = behind(code, HARDWARE_ID)?;
        KNOWN.iter().find_map(|(region, width, button)| {
            let address = integer(behind(code, *region)?)?;
            (address != 0 && address.is_multiple_of(u64::from(*width))).then_some(Self {
                address,
                width: *width,
                button: *button,
                interrupt: interrupt(device),
            })
        })
    }
}

/// What stands behind the first `pattern`.
fn behind<'a>(code: &'a [u8], pattern: &[u8]) -> Option<&'a [u8]> {
    let place = code.windows(pattern.len()).position(|window| window == pattern)?;
    code.get(place + pattern.len()..)
}

/// An integer constant (section 20.2.3).
fn integer(code: &[u8]) -> Option<u64> {
    let bytes = match code.first()? {
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        0x0e => 8,
        _ => return None,
    };
    let mut whole = [0; 8];
    whole[..bytes].copy_from_slice(code.get(1..=bytes)?);
    Some(u64::from_le_bytes(whole))
}

fn interrupt(device: &[u8]) -> Option<u32> {
    let descriptor = behind(device.get(..NEAR).unwrap_or(device), &DESCRIPTOR)?;
    match descriptor {
        [_flags, 1, number @ ..] => Some(u32::from_le_bytes(*number.first_chunk::<4>()?)),
        _ => None,
    }
}
