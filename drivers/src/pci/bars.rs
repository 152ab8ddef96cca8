//! Where a function's registers lie, and a place for them when firmware gave none.

use super::{DeviceFunction, Pci};
use crate::Error;
use alloc::vec::Vec;
use core::ops::Range;
use kernel_io::{Mmio, Ports};
use virtio_drivers::transport::pci::bus::{BarInfo, MemoryBarType};

/// Where addresses are given out when firmware assigned none (QEMU's qboot, monitors that boot directly): above all
/// RAM that a PC has below 4 GiB and any ECAM, below the interrupt controllers.
const WINDOW: Range<u64> = 0xe000_0000..0xfe00_0000;
/// And where ports are, behind the bridges below only: on their boards all ports from 0xd00 on go to PCI, but for those that a
/// register of the chipset places, which firmware and monitors put below this (power management at 0x600 or 0xb000, hotplug at
/// 0xae00). It is where SeaBIOS begins as well.
const PORT_WINDOW: Range<u64> = 0xc000..0x1_0000;
/// The host bridges of these boards: i440FX and Q35.
const KNOWN_BRIDGES: [u32; 2] = [0x1237_8086, 0x29c0_8086];
/// A BAR has no more ports (PCI 3.0 section 6.2.5.1).
const MOST_PORTS: u64 = 256;
/// A function's base address registers.
const BARS: u8 = 6;
/// No device here needs larger registers.
const LARGEST: u64 = 64 << 20;

impl Pci {
    /// Map `length` bytes from `offset` in the function's base address register `bar`.
    ///
    /// # Errors
    /// When the function has no such registers, or they can be given no address.
    pub(crate) fn map(
        &mut self,
        at: DeviceFunction,
        bar: u8,
        offset: u32,
        length: usize,
    ) -> Result<Mmio, Error> {
        let (address, size) = self.bar(at, bar)?;
        let (offset, bytes) = (u64::from(offset), length as u64);
        if length == 0 || offset > size || bytes > size - offset {
            return Err(Error::Layout("registers beyond the end of their BAR"));
        }
        Ok(Mmio::map(address + offset, length)?)
    }

    /// Take the ports of the function's base address register `bar`, at least and at most so many; answers how many.
    ///
    /// # Errors
    /// When the function has no ports there or too few, or they can be given no address.
    pub(crate) fn ports(
        &mut self,
        at: DeviceFunction,
        bar: u8,
        (least, most): (u16, u16),
    ) -> Result<(Ports, u16), Error> {
        let info = self.root.bar_info(at, bar).map_err(|_| Error::Layout("a BAR of no known type"))?;
        let Some(BarInfo::IO { address, size }) = info else {
            return Err(Error::Layout("no ports behind a BAR"));
        };
        // The upper half of such a register may not be there.
        let size = u64::from(size as u16);
        let count = size.min(most.into()) as u16;
        if count < least {
            return Err(Error::Layout("a BAR with too few ports"));
        }
        let mut first = u16::try_from(address).map_err(|_| Error::Layout("ports beyond the last"))?;
        if first == 0 {
            if !size.is_power_of_two() || size > MOST_PORTS {
                return Err(Error::Layout("a BAR of impossible size"));
            }
            let host = self.read(DeviceFunction { bus: 0, device: 0, function: 0 }, 0);
            if !KNOWN_BRIDGES.contains(&host) {
                return Err(Error::NoAddress);
            }
            first = self.allocate(at, size, true)? as u16;
            self.root.set_bar_32(at, bar, first.into());
        }
        Ok((Ports::claim(first, count)?, count))
    }

    /// Address and size of a memory BAR, after giving it an address if it has none.
    fn bar(&mut self, at: DeviceFunction, bar: u8) -> Result<(u64, u64), Error> {
        if bar >= BARS {
            return Err(Error::Layout("a BAR that does not exist"));
        }
        let info = self.root.bar_info(at, bar).map_err(|_| Error::Layout("a BAR of no known type"))?;
        let Some(BarInfo::Memory { address, size, address_type, .. }) = info else {
            return Err(Error::Layout("no memory behind a BAR"));
        };
        if !size.is_power_of_two() || address.checked_add(size).is_none() {
            return Err(Error::Layout("a BAR of impossible size"));
        }
        if address != 0 {
            return Ok((address, size));
        }
        let address = self.allocate(at, size, false)?;
        if address_type == MemoryBarType::Width64 {
            self.root.set_bar_64(at, bar, address);
        } else {
            self.root.set_bar_32(at, bar, address as u32);
        }
        Ok((address, size))
    }

    fn allocate(&mut self, at: DeviceFunction, size: u64, ports: bool) -> Result<u64, Error> {
        // Behind a bridge the bridge would have to be told as well.
        if at.bus != 0 || size > LARGEST {
            return Err(Error::NoAddress);
        }
        let mut allocators = match self.allocators.take() {
            Some(allocators) => allocators,
            None => self.untaken(),
        };
        let address = allocators[usize::from(ports)].take(size);
        self.allocators = Some(allocators);
        address.ok_or(Error::NoAddress)
    }

    /// What functions have left of both windows.
    fn untaken(&mut self) -> [Allocator; 2] {
        let mut allocators = [WINDOW, PORT_WINDOW].map(|window| Allocator { window, taken: Vec::new() });
        for function in self.functions() {
            for bar in 0..BARS {
                let (address, size, ports) = match self.root.bar_info(function.at, bar) {
                    Ok(Some(BarInfo::Memory { address, size, .. })) => (address, size, false),
                    Ok(Some(BarInfo::IO { address, size })) => (address.into(), u64::from(size as u16), true),
                    _ => continue,
                };
                let (allocator, end) = (&mut allocators[usize::from(ports)], address.saturating_add(size));
                if address < allocator.window.end && end > allocator.window.start {
                    allocator.taken.push(address..end);
                }
            }
        }
        allocators
    }
}

/// Gives out addresses in a window.
pub(super) struct Allocator {
    window: Range<u64>,
    taken: Vec<Range<u64>>,
}

impl Allocator {
    /// An aligned place for `size` bytes, a power of two.
    fn take(&mut self, size: u64) -> Option<u64> {
        let mut start = self.window.start.checked_next_multiple_of(size)?;
        loop {
            let end = start.checked_add(size).filter(|end| *end <= self.window.end)?;
            let overlaps = |range: &&Range<u64>| start < range.end && range.start < end;
            let Some(obstacle) = self.taken.iter().find(overlaps) else {
                self.taken.push(start..end);
                return Some(start);
            };
            // Where a function says that it ends may be the end of all addresses.
            start = obstacle.end.checked_next_multiple_of(size)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_aligned_and_do_not_overlap() {
        let taken = alloc::vec![0xe000_1000..0xe000_2000, 0xfd00_0000..0xfe00_0000];
        let mut allocator = Allocator { window: WINDOW, taken };
        assert_eq!(allocator.take(0x1000), Some(0xe000_0000));
        assert_eq!(allocator.take(0x4000), Some(0xe000_4000));
        assert_eq!(allocator.take(0x1000), Some(0xe000_2000));
        assert_eq!(allocator.take(0x2000_0000), None);
        let mut everything = Allocator { window: WINDOW, taken: alloc::vec![0xe000_0000..u64::MAX] };
        assert_eq!(everything.take(0x1000), None);
        assert_eq!(everything.take(1 << 63), None);
    }
}
