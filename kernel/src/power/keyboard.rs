//! Ctrl, Alt and Del on the keyboard: Firecracker has these in the place of a power button, and no other keys.

use crate::cpu::port;
use core::sync::atomic::{AtomicU32, Ordering};

/// The keyboard controller: what it has to say, and whether it has.
const DATA: u16 = 0x60;
const STATUS: u16 = 0x64;
const FULL: u8 = 1;
/// More than its buffer holds.
const MOST: usize = 32;
/// In front of keys that the first keyboards did not have.
const EXTENDED: u8 = 0xe0;
/// The three, as keys that go down, in the second set of scan codes, which Firecracker speaks, and in the first.
const ENDS: [u32; 2] = [0x14_1171, 0x1d_3853];

/// The interrupt that it raises, as a PC's number.
pub(super) const INTERRUPT: u16 = 1;

/// The last three keys.
static KEYS: AtomicU32 = AtomicU32::new(0);

/// Whether the three have been pressed since the last time.
pub(super) fn is_pressed() -> bool {
    let mut pressed = false;
    for _ in 0..MOST {
        // SAFETY: tables say that there is a keyboard controller; reading its status has no effect.
        let status = unsafe { port::read8(STATUS) };
        // All ones are nobody's answer.
        if status & FULL == 0 || status == u8::MAX {
            break;
        }
        // SAFETY: as above; this takes a key, and nobody else is here to want it.
        let key = unsafe { port::read8(DATA) };
        let keys = behind(KEYS.load(Ordering::Relaxed), key);
        KEYS.store(keys, Ordering::Relaxed);
        pressed |= ENDS.contains(&keys);
    }
    pressed
}

/// The last three keys when `key` has come behind those before.
const fn behind(keys: u32, key: u8) -> u32 {
    if key == EXTENDED { keys } else { (keys << 8 | key as u32) & 0xff_ffff }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(keys: &[u8]) -> bool {
        ENDS.contains(&keys.iter().fold(0, |keys, key| behind(keys, *key)))
    }

    #[test]
    fn the_three_in_order_and_nothing_else_end_the_machine() {
        assert!(ends(&[0x14, 0x11, 0xe0, 0x71]), "as Firecracker sends them");
        assert!(ends(&[0x1d, 0x38, 0xe0, 0x53]) && ends(&[0x1c, 0x1d, 0x38, 0x53]));
        assert!(!ends(&[0x14, 0x11]) && !ends(&[0x11, 0x14, 0xe0, 0x71]) && !ends(&[0x14, 0x11, 0x1c, 0x71]));
        assert!(!ends(&[0x14, 0x11, 0xe0, 0x71, 0x1c]));
    }
}
