//! What this backend can do, how, and what it cannot and why.

use super::images::Section;
use agent_protocol::{Capability, Facility, Provision, Support, Text, Verb};

/// Why no machine moves to another host.
pub(super) const NO_MIGRATION: &str = "libvirt lets the source go on when its peer's answer is lost, \
    although the other copy may run; to drive its phases one by one, documents would have to pass between the agents";

/// Every verb, with what becomes of it here.
pub(super) fn all(section: &Section) -> Vec<Capability> {
    Verb::ALL.iter().map(|&verb| one(section, verb)).collect()
}

/// Every facility that is the hypervisor's, likewise.
pub(super) fn facilities() -> Vec<Provision> {
    Facility::ALL.iter().filter_map(|&facility| provision(facility)).collect()
}

fn provision(facility: Facility) -> Option<Provision> {
    use Support::{Emulated, Impossible, Native};
    let (support, by) = match facility {
        Facility::List => (Emulated, "kept by the agent, as each domain was last seen"),
        Facility::Events => (
            Native,
            "virConnectDomainEventCallbackRegisterAny; a restart is not told, since libvirt does not tell whose it was",
        ),
        Facility::Stats => (Native, "virConnectGetAllDomainStats"),
        Facility::Console => (
            Impossible,
            "the agent does not listen to serial ports of domains; on the host, `virsh ttyconsole` names their other end",
        ),
        // Of the host, whatever its hypervisor.
        Facility::NetworkApply => return None,
    };
    Some(Provision { facility, support, by: Text::new(by) })
}

fn one(section: &Section, verb: Verb) -> Capability {
    use Support::{Emulated, Impossible, Native};
    let portal = section.portal.is_some();
    let networks = !section.networks.is_empty();
    let (support, by) = match verb {
        Verb::Create => (Emulated, "kept by the agent; virDomainDefineXMLFlags when it is started"),
        Verb::Start => (Native, "virDomainDefineXMLFlags, then virDomainCreateWithFlags"),
        Verb::Stop => (Native, "virDomainShutdownFlags by ACPI, then the domain is awaited"),
        Verb::ForceStop => (Native, "virDomainDestroyFlags, after 2 s SIGKILL where the agent may"),
        Verb::Reboot => {
            (Emulated, "virDomainShutdownFlags by ACPI, the domain is awaited, then virDomainCreateWithFlags")
        }
        Verb::Reset => (Native, "virDomainReset"),
        Verb::Pause => (Native, "virDomainSuspend"),
        Verb::Resume => (Native, "virDomainResume"),
        Verb::Save => (Native, "virDomainManagedSave"),
        Verb::Restore => (Native, "virDomainCreateWithFlags of a domain with saved memory"),
        Verb::Snapshot => (
            Native,
            "virDomainSnapshotCreateXML, where all disks of the image are qcow2, none of the appliance is attached, and no \
             processor was plugged in since its start",
        ),
        Verb::Revert => {
            (Native, "virDomainRevertToSnapshot, where size, disks and interfaces are as they were")
        }
        Verb::Resize => (
            Native,
            "while it runs virDomainSetVcpusFlags and virDomainSetMemoryFlags within its image's maximum; otherwise at \
             the next start",
        ),
        Verb::VolumeAttach | Verb::VolumeDetach | Verb::VolumeResize if !portal => {
            (Impossible, "the operator's file names no portal for disks")
        }
        Verb::VolumeAttach => (Native, "virDomainAttachDeviceFlags of QEMU's own iSCSI initiator"),
        Verb::VolumeDetach => (Native, "virDomainDetachDeviceAlias, then the guest is awaited"),
        Verb::VolumeResize => (Native, "virDomainBlockResize once the target has grown"),
        Verb::NicAttach | Verb::NicDetach | Verb::NicUpdate if !networks => {
            (Impossible, "the operator's file names no network")
        }
        Verb::NicAttach => (Native, "virDomainAttachDeviceFlags"),
        Verb::NicDetach => (Native, "virDomainDetachDeviceAlias, then the guest is awaited"),
        Verb::NicUpdate => (Native, "virDomainUpdateDeviceFlags"),
        Verb::MigratePrepare | Verb::MigrateStart | Verb::MigrateCancel => (Impossible, NO_MIGRATION),
        Verb::Terminate => (
            Native,
            "virDomainDestroyFlags, after 2 s SIGKILL where the agent may; then virDomainUndefineFlags with all traces",
        ),
        Verb::Describe => {
            (Native, "virDomainGetState, virDomainGetXMLDesc, and a question that its hypervisor must answer")
        }
    };
    Capability { verb, support, by: Text::new(by) }
}
