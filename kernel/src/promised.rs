//! What the machine's tables and its hypervisor say that there is. What none of them says is not touched: where one machine has
//! a chip another has nothing, or something that minds.
//!
//! | what | where it is touched |
//! |---|---|
//! | the timer chip | where the MADT says that there are the chips of a PC of old, and the hardware is not reduced; QEMU's microvm says both and has it |
//! | configuration space by ports | where byte code names a host bridge, and the MCFG does not say better |
//! | the keyboard controller | where byte code names it, or the FADT |
//! | fw_cfg | where byte code names it; under QEMU's translator and KVM, which have it on machines without tables as well |
//! | the customary places of I/O APICs | where there are no tables |
//! | microvm's place for virtio devices | the same, under QEMU's translator and KVM |
//! | QEMU's exit port and its debug console | under QEMU's translator and KVM |
//!
//! A machine without tables is a PC of old under QEMU's translator and KVM, and where there is no hypervisor. Others have tables, or
//! need none, as Xen.
//!
//! Two things are looked for on any machine, and answer where they are: the first serial port, by its scratch register, and the
//! root of the tables.

use crate::acpi::Acpi;
use crate::hypervisor::Hypervisor;
use spin::Once;

/// What is there beside what tables give addresses of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promised {
    /// The timer chip.
    pub(crate) timer_chip: bool,
    /// Configuration space of PCI by ports.
    pub(crate) pci_ports: bool,
    /// The keyboard controller, which can reset the machine.
    pub(crate) keyboard: bool,
    /// QEMU's firmware configuration.
    pub(crate) fw_cfg: bool,
    /// I/O APICs at their customary places.
    pub(crate) customary: bool,
    /// The machine may be QEMU's microvm without tables.
    pub(crate) microvm: bool,
}

static PROMISED: Once<Promised> = Once::new();

impl Promised {
    /// Note what there is.
    pub(crate) fn init(acpi: &Acpi) -> Self {
        *PROMISED.call_once(|| Self::of(acpi, Hypervisor::of_machine()))
    }

    /// What there is; nothing, before that is known.
    pub(crate) fn machine() -> Self {
        PROMISED.get().copied().unwrap_or_default()
    }

    fn of(acpi: &Acpi, hypervisor: Option<Hypervisor>) -> Self {
        let qemu = hypervisor.is_some_and(Hypervisor::may_be_qemu);
        let untold = !acpi.is_there && (qemu || hypervisor.is_none());
        let reduced = acpi.fadt.as_ref().is_some_and(|fadt| fadt.is_reduced);
        let chips = acpi.madt.as_ref().is_some_and(|madt| madt.is_pc);
        let keyboard = acpi.fadt.as_ref().is_some_and(|fadt| fadt.keyboard && !reduced);
        // What could not be read may name a bridge, but on hardware that leaves nothing unsaid.
        let bridge = acpi.named.host_bridge || acpi.is_there && acpi.is_unread && !reduced;
        Self {
            timer_chip: untold || chips && (!reduced || qemu),
            pci_ports: untold || bridge,
            keyboard: untold || acpi.named.keyboard || keyboard,
            fw_cfg: qemu || acpi.named.fw_cfg,
            customary: untold,
            microvm: untold && qemu,
        }
    }
}

#[cfg(test)]
mod tests;
