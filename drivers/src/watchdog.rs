//! The watchdog of Intel's 6300ESB (datasheet section 16), which QEMU has as `i6300esb`: a machine that no longer feeds it is
//! reset, or whatever else its owner has chosen.
//!
//! Its time is in two stages, of which only the end of the second one does anything here. Registers of its own are written
//! behind a sequence of two others, lest a program that runs wild feeds it.

#[cfg(test)]
mod tests;

use crate::Error;
use crate::pci::{DeviceFunction, DeviceFunctionInfo, Pci};
use kernel_io::Mmio;

/// Its registers: the preload of either stage, and what starts both anew.
const TIMER_1: usize = 0x00;
const TIMER_2: usize = 0x04;
const RELOAD: usize = 0x0c;
const LENGTH: usize = 16;
/// What is written to [`RELOAD`] before any register takes a write, and what it takes then.
const UNLOCK: [u16; 2] = [0x80, 0x86];
const START_ANEW: u16 = 1 << 8;
/// In configuration space: no interrupt at the end of the first stage, a tick of about a millisecond, a reset at the end of
/// the second.
const CONFIGURATION: u8 = 0x60;
const RESETS: u16 = 0b11;
/// And whether it is on.
const LOCK: u8 = 0x68;
const ENABLED: u8 = 1 << 1;
/// Ticks of 32,768 times 30 ns in half a second.
const HALF_A_SECOND: u32 = 508;
/// The longest time, in seconds: a stage counts with 20 bits.
pub const LONGEST: u16 = 2000;

/// A watchdog that was found, and not touched.
#[derive(Debug)]
pub struct Asleep(DeviceFunction);

impl Asleep {
    pub(crate) fn new(at: DeviceFunction) -> Self {
        Self(at)
    }

    /// Switch it on, as told at [`Watchdog::start`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(self, seconds: u16) -> Result<Watchdog, Error> {
        let mut buses = Pci::find().ok_or(Error::NoAddress)?;
        Watchdog::start(&mut buses, self.0, seconds)
    }
}

/// A watchdog that is on.
#[derive(Debug)]
pub struct Watchdog {
    registers: Mmio,
}

/// Whether a function is one.
pub(crate) fn is_one(info: &DeviceFunctionInfo) -> bool {
    (info.vendor_id, info.device_id) == (0x8086, 0x25ab)
}

impl Watchdog {
    /// Switch it on: from now on it wants to be fed every so many seconds, [`LONGEST`] at most.
    pub(crate) fn start(buses: &mut Pci, at: DeviceFunction, seconds: u16) -> Result<Self, Error> {
        let registers = buses.map(at, 0, 0, LENGTH)?;
        buses.enable_registers(at);
        buses.write_byte(at, LOCK, 0);
        buses.write_half(at, CONFIGURATION, RESETS);
        let mut watchdog = Self { registers };
        for stage in [TIMER_1, TIMER_2] {
            watchdog.unlock();
            watchdog.registers.write32(stage, u32::from(seconds.clamp(1, LONGEST)) * HALF_A_SECOND);
        }
        watchdog.feed();
        buses.write_byte(at, LOCK, ENABLED);
        // One that was locked while it was off stays off until the next reset.
        if buses.read_byte(at, LOCK) & ENABLED == 0 {
            return Err(Error::Unsupported("a watchdog that is locked"));
        }
        log::info!("pci {at}: watchdog i6300esb, {seconds} s");
        Ok(watchdog)
    }

    /// All is well: its time begins anew.
    pub fn feed(&mut self) {
        self.unlock();
        self.registers.write16(RELOAD, START_ANEW);
    }

    fn unlock(&mut self) {
        UNLOCK.into_iter().for_each(|word| self.registers.write16(RELOAD, word));
    }
}
