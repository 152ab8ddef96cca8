//! virtio over memory-mapped registers (virtio 1.2 section 4.2): where such devices are, and opening one.

use super::Device;
use super::device::Bus;
use crate::Error;
use crate::Location;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::mem::ManuallyDrop;
use kernel_io::{Irq, Mmio, MmioSlot, Trigger};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

/// The parameter by which a monitor says where devices are; it is the Linux kernel's.
const PARAMETER: &str = "virtio_mmio.device=";
/// Registers before the configuration.
const HEADER_BYTES: u64 = 0x100;
/// The most that is mapped of a device.
const MOST_BYTES: u64 = 0x10000;
/// More than a monitor has.
const MOST_SLOTS: usize = 64;
/// "virt", in the first register of a slot, and the register that says what is in it (section 4.2.2).
const MAGIC: u32 = 0x7472_6976;
const DEVICE_ID: usize = 8;

/// QEMU's microvm: its slots, where it names them neither in tables nor on the command line.
const MICROVM_FIRST: u64 = 0xfeb0_0000;
const MICROVM_SLOT: u64 = 0x200;
const MICROVM_SLOTS: u64 = 24;
/// Where its slots' lines begin: on the second interrupt controller, or on the first where there is only one.
const MICROVM_LINES: [u32; 2] = [24, 16];

/// A place where a device may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) address: u64,
    pub(crate) length: u64,
    /// The lines it may be connected to; the first that exists is right.
    pub(crate) lines: [u32; 2],
}

impl Slot {
    fn of(named: &MmioSlot) -> Self {
        Self { address: named.address, length: named.length.min(MOST_BYTES), lines: [named.gsi; 2] }
    }
}

/// The slots that the command line names, in its order: `virtio_mmio.device=SIZE@ADDRESS:LINE[:ID]`. Sizes may end in
/// K, M or G; numbers may be hexadecimal. An item that cannot be understood is left out.
pub(crate) fn on_command_line(command_line: &str) -> Vec<Slot> {
    let items = command_line.split_ascii_whitespace().filter_map(|item| item.strip_prefix(PARAMETER));
    let slots = items.filter_map(|item| {
        let slot = parse(item);
        if slot.is_none() {
            log::warn!("{PARAMETER}{item} is not understood");
        }
        slot
    });
    slots.take(MOST_SLOTS).collect()
}

fn parse(item: &str) -> Option<Slot> {
    let (length, place) = item.split_once('@')?;
    let (address, line) = place.split_once(':')?;
    // Linux allows an identifier behind the line.
    let line = line.split(':').next()?;
    let (address, line) = (number(address)?, u32::try_from(number(line)?).ok()?);
    let length = size(length)?;
    let aligned = address.is_multiple_of(4) && address.checked_add(length).is_some();
    (aligned && length >= HEADER_BYTES).then_some(Slot {
        address,
        length: length.min(MOST_BYTES),
        lines: [line; 2],
    })
}

fn size(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        _ => return number(text),
    };
    number(&text[..text.len() - 1])?.checked_mul(1 << unit)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The slots that tables name, from the highest down, as QEMU fills them, so that this order is that of its command line. Where
/// there are no tables, those of QEMU's microvm if this may be one: `is_bare` says that it has no PCI.
pub(crate) fn of_machine(is_bare: bool) -> Vec<Slot> {
    let Some(named) = kernel_io::mmio_slots() else { return if is_bare { of_microvm() } else { Vec::new() } };
    let mut slots: Vec<Slot> = named.iter().take(MOST_SLOTS).map(Slot::of).collect();
    slots.sort_unstable_by_key(|slot| Reverse(slot.address));
    slots
}

fn of_microvm() -> Vec<Slot> {
    let slot = |index: u64| Slot {
        address: MICROVM_FIRST + index * MICROVM_SLOT,
        length: MICROVM_SLOT,
        lines: MICROVM_LINES.map(|first| first + index as u32),
    };
    (0..MICROVM_SLOTS).rev().map(slot).collect()
}

/// Open the device in `slot`, if it is one of those `wanted`.
pub(crate) fn open(slot: &Slot, wanted: &[DeviceType]) -> Option<Result<Device, Error>> {
    let registers = Mmio::map(slot.address, slot.length as usize).ok()?;
    let kind = DeviceType::try_from(registers.read32(DEVICE_ID)).ok()?;
    (registers.read32(0) == MAGIC && wanted.contains(&kind)).then(|| open_registers(slot, registers))
}

fn open_registers(slot: &Slot, registers: Mmio) -> Result<Device, Error> {
    let pointer = registers.pointer().ok_or(kernel_io::Error::Unmappable)?;
    // SAFETY: the platform has mapped the registers, all `length` bytes of them, for ever. The only other handle on them
    // is ours, which is used for the doorbell only.
    let transport = unsafe { MmioTransport::new(pointer.cast::<VirtIOHeader>(), registers.len()) };
    let transport = transport.map_err(|_| Error::Layout("not a version of virtio-mmio"))?;
    let transport = ManuallyDrop::new(transport);
    let irq = Irq::allocate()?;
    let [first, second] = slot.lines;
    irq.connect(first, Trigger::Edge).or_else(|_| irq.connect(second, Trigger::Edge))?;
    Ok(Device::new(Bus::Mmio { transport, registers }, Location::Mmio(slot.address), irq, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn slot(address: u64, length: u64, line: u32) -> Slot {
        Slot { address, length, lines: [line; 2] }
    }

    #[test]
    fn slots_are_read_as_monitors_write_them() {
        let line = "console=ttyS0 virtio_mmio.device=512@0xfeb00e00:12 x=y virtio_mmio.device=4K@0xc0001000:5 \
                    virtio_mmio.device=0x200@3221229568:0x6:3";
        let expected =
            vec![slot(0xfeb0_0e00, 512, 12), slot(0xc000_1000, 4096, 5), slot(0xc000_1000, 512, 6)];
        assert_eq!(on_command_line(line), expected);
    }

    #[test]
    fn what_is_no_slot_is_left_out() {
        let items = [
            "",
            "512",
            "512@",
            "512@0x1000",
            "512@0x1000:",
            "@0x1000:5",
            "K@0x1000:5",
            "512@0x1001:5",
            "16@0x1000:5",
            "512@0xffffffffffffff00:5",
            "99999999999G@0x1000:5",
            "512@0x1000:99999999999",
            "-1@0x1000:5",
            "512@0xg:5",
            "512@0x1000:x:1",
            "é@0x1000:5",
        ];
        for item in items {
            assert_eq!(on_command_line(&alloc::format!("{PARAMETER}{item}")), vec![], "{item}");
        }
        assert_eq!(on_command_line("xvirtio_mmio.device=512@0x1000:5"), vec![]);
    }

    #[test]
    fn an_enormous_slot_is_mapped_in_part_and_a_flood_of_slots_ends() {
        assert_eq!(on_command_line("virtio_mmio.device=1G@0x1000:5"), vec![slot(0x1000, MOST_BYTES, 5)]);
        let flood = "virtio_mmio.device=512@0x1000:5 ".repeat(1000);
        assert_eq!(on_command_line(&flood).len(), MOST_SLOTS);
    }

    #[test]
    fn what_tables_name_is_bounded_as_what_the_command_line_names() {
        let named = |length| MmioSlot { address: 0xc000_1000, length, gsi: 5 };
        assert_eq!(Slot::of(&named(4096)), slot(0xc000_1000, 4096, 5));
        assert_eq!(Slot::of(&named(1 << 30)), slot(0xc000_1000, MOST_BYTES, 5));
        // Of a machine with tables nothing is looked at that these do not name.
        assert_eq!(of_machine(true), vec![]);
    }

    #[test]
    fn microvm_is_searched_from_the_highest_slot_down() {
        let slots = of_microvm();
        assert_eq!(slots.len(), 24);
        assert_eq!(slots[0], Slot { address: 0xfeb0_2e00, length: 512, lines: [47, 39] });
        assert_eq!(slots[23].address, 0xfeb0_0000);
    }
}
