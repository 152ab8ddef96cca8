//! virtio over PCI (virtio 1.2 section 4.1): modern devices, and transitional ones by their modern side; others by [`legacy`].

use super::device::{Bus, PciRegisters};
use super::hal::Machine;
use super::{Device, legacy};
use crate::pci::{Capability, DeviceFunction, NO_VECTOR, Pci, Vectors};
use crate::{Error, Location};
use core::mem::ManuallyDrop;
use kernel_io::{Irq, Mmio};
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};

/// PCI's capability whose contents are the vendor's.
const VENDOR: u8 = 0x09;
/// VIRTIO_PCI_CAP_COMMON_CFG, NOTIFY_CFG, ISR_CFG and DEVICE_CFG (section 4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
/// Bytes of the common configuration that are used.
const COMMON_BYTES: u32 = 0x38;
/// No structure of a device is longer: doorbells may take a page each.
const LONGEST: u32 = 16 << 20;

/// One of virtio's structures, mapped.
struct Structure {
    registers: Mmio,
    capability: Capability,
}

/// How a device is heard: by messages, one for its queues and one for its configuration, or by its line.
pub(super) struct Interrupts {
    queues: Irq,
    messages: Option<(Vectors, Irq)>,
}

impl Interrupts {
    /// Messages where the device has MSI-X, which VirtualBox's have not, else the line. The device answers at nothing now.
    pub(super) fn find(
        pci: &mut Pci,
        at: DeviceFunction,
        capabilities: &[Capability],
    ) -> Result<Self, Error> {
        match pci.vectors(at, capabilities, 2) {
            Ok(vectors) => Ok(Self { queues: Irq::allocate()?, messages: Some((vectors, Irq::allocate()?)) }),
            Err(Error::NoInterrupt) => Ok(Self { queues: pci.line(at)?, messages: None }),
            Err(error) => Err(error),
        }
    }

    /// Let the device, whose registers must be enabled, raise them. Answers the vectors for changes of the configuration and
    /// for queues; `None` for the line.
    pub(super) fn connect(&self, pci: &mut Pci, at: DeviceFunction) -> Option<(u16, u16)> {
        let Some((vectors, configuration)) = &self.messages else {
            pci.enable_line(at);
            return None;
        };
        let count = pci.use_vectors(at, vectors, &[self.queues.message(), configuration.message()]);
        Some((if count > 1 { 1 } else { NO_VECTOR }, 0))
    }

    /// The device that is heard by them.
    pub(super) fn device(self, at: DeviceFunction, bus: Bus) -> Device {
        Device::new(
            bus,
            Location::Pci(at),
            self.queues,
            self.messages.map(|(_, configuration)| configuration),
        )
    }
}

/// Open the device at `at`: map its structures, give it interrupts, and reset it before it reaches memory.
pub(crate) fn open(pci: &mut Pci, at: DeviceFunction) -> Result<Device, Error> {
    let capabilities = pci.capabilities(at)?;
    // Finding out how long registers are means moving them, which is cheap only as long as they are nowhere.
    pci.disable(at);
    // The package looks at these again and believes them, so everything it will look at is checked here. It reads four
    // words of whatever calls itself a structure, of whichever type.
    let structures = capabilities.iter().filter(|it| it.id == VENDOR && it.header.to_le_bytes()[0] >= 16);
    if structures.into_iter().any(|it| it.offset.checked_add(15).is_none()) {
        return Err(Error::Layout("a capability beyond its space"));
    }
    let Some(common) = structure(pci, at, &capabilities, COMMON, COMMON_BYTES)? else {
        return legacy::open(pci, at, &capabilities);
    };
    let notify = structure(pci, at, &capabilities, NOTIFY, 2)?;
    let isr = structure(pci, at, &capabilities, ISR, 1)?;
    let device = structure(pci, at, &capabilities, DEVICE, 1)?;
    let (Some(notify), Some(_)) = (notify, isr) else {
        return Err(Error::Unsupported("a virtio device with some of its structures"));
    };
    let multiplier = notify.capability.word(pci, at, 16).ok_or(Error::Layout("a short capability"))?;
    let interrupts = Interrupts::find(pci, at, &capabilities)?;
    // The package does its own accesses, which in a host test have nothing to access.
    common.registers.pointer().ok_or(kernel_io::Error::Unmappable)?;
    let transport = ManuallyDrop::new(PciTransport::new::<Machine, _>(&mut pci.root, at).map_err(refusal)?);
    pci.enable_registers(at);
    let vectors = interrupts.connect(pci, at);
    let (common, doorbells) = (common.registers, notify.registers);
    let device = device.map(|structure| structure.registers);
    let registers = PciRegisters { common, doorbells, device, multiplier, vectors };
    let mut device = interrupts.device(at, Bus::Pci { transport, registers });
    device.reset()?;
    pci.enable_memory(at);
    Ok(device)
}

/// The first structure of a type, as the package chooses it; `None` when there is none.
fn structure(
    pci: &mut Pci,
    at: DeviceFunction,
    capabilities: &[Capability],
    kind: u8,
    least: u32,
) -> Result<Option<Structure>, Error> {
    // The header's low byte is the capability's length, the high byte its type.
    let needed = if kind == NOTIFY { 20 } else { 16 };
    let fits = |capability: &&Capability| {
        let [length, of_kind] = capability.header.to_le_bytes();
        capability.id == VENDOR && of_kind == kind && length >= needed
    };
    let Some(&capability) = capabilities.iter().find(fits) else { return Ok(None) };
    let word =
        |offset| capability.word(pci, at, offset).ok_or(Error::Layout("a capability beyond its space"));
    let (bar, offset, length) = (word(4)? as u8, word(8)?, word(12)?);
    word(needed - 4)?;
    if length < least || length > LONGEST || offset.checked_add(length).is_none() {
        return Err(Error::Layout("a structure of impossible size"));
    }
    if !offset.is_multiple_of(4) && kind != ISR {
        return Err(Error::Layout("a structure that is not aligned"));
    }
    let registers = pci.map(at, bar, offset, length as usize)?;
    Ok(Some(Structure { registers, capability }))
}

fn refusal(error: VirtioPciError) -> Error {
    match error {
        VirtioPciError::BarNotAllocated(_) => Error::NoAddress,
        VirtioPciError::MissingCommonConfig
        | VirtioPciError::MissingNotifyConfig
        | VirtioPciError::MissingIsrConfig => {
            Error::Unsupported("a virtio device with some of its structures")
        }
        _ => Error::Layout("the virtio package refuses it"),
    }
}
